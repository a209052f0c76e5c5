"""A double of S3: lists and returns objects, and verifies the signature of each request
with its own reading of the specification.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from modelyard.testing import Answer, UpstreamRequest

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG"


@dataclass(slots=True)
class PlayedS3:
    """The handler of an `Upstream`: one bucket with objects by key."""

    bucket: str
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    requests: list[str] = field(default_factory=list[str])
    failures: list[int] = field(default_factory=list[int])
    """Statuses of the next answers, instead of the right ones; 0 for a right one."""

    def __call__(
        self,
        request: UpstreamRequest,
    ) -> Answer:
        """Answer like S3: an object, or a listing of the bucket."""
        self.requests.append(request.path)
        if self.failures and (status := self.failures.pop(0)):
            return _error(status, "InternalError")
        if not _is_signed(request):
            return _error(403, "SignatureDoesNotMatch")
        parts = urlsplit(request.path)
        bucket, _, key = unquote(parts.path)[1:].partition("/")
        if bucket != self.bucket:
            return _error(404, "NoSuchBucket")
        if not key:
            query = parse_qs(parts.query, keep_blank_values=True)
            return self._listing({name: values[0] for name, values in query.items()})
        data = self.objects.get(key)
        return _error(404, "NoSuchKey") if data is None else Answer(body=data)

    def _listing(
        self,
        query: dict[str, str],
    ) -> Answer:
        """Return a page of the objects in the order of their keys."""
        if (query.get("list-type"), query.get("encoding-type")) != ("2", "url"):
            return _error(400, "InvalidArgument")
        count = int(query["max-keys"])
        keys = sorted(
            key
            for key in self.objects
            if key.startswith(query["prefix"]) and key > query["start-after"]
        )
        contents = "".join(
            f"<Contents><Key>{escape(quote(key, safe='/-_.~').replace('%20', '+'))}</Key>"
            "<LastModified>2026-11-30T12:00:00.000Z</LastModified>"
            f"<ETag>&quot;{hashlib.md5(self.objects[key]).hexdigest()}&quot;</ETag>"  # noqa: S324  as S3 does
            f"<Size>{len(self.objects[key])}</Size><StorageClass>STANDARD</StorageClass>"
            "</Contents>"
            for key in keys[:count]
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult'
            ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.bucket}</Name><Prefix>{escape(query['prefix'])}</Prefix>"
            f"<KeyCount>{len(keys[:count])}</KeyCount><MaxKeys>{count}</MaxKeys>"
            f"<EncodingType>url</EncodingType>"
            f"<IsTruncated>{'true' if len(keys) > count else 'false'}</IsTruncated>"
            f"{contents}</ListBucketResult>"
        )
        return Answer(headers={"content-type": "application/xml"}, body=body.encode())


def _error(
    status: int,
    code: str,
) -> Answer:
    """Return an error as S3 writes it."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(
        status=status, headers={"content-type": "application/xml"}, body=body.encode()
    )


def _is_signed(request: UpstreamRequest) -> bool:
    """Return whether the request has a valid signature, version 4."""
    scheme, _, fields_text = request.headers.get("authorization", "").partition(" ")
    if scheme != "AWS4-HMAC-SHA256":
        return False
    fields = dict(part.strip().split("=", 1) for part in fields_text.split(","))
    access_key, day, region, service, _ = fields["Credential"].split("/")
    names = fields["SignedHeaders"].split(";")
    parts = urlsplit(request.path)
    canonical = "\n".join(
        [
            request.method,
            # S3 takes the path as it was sent.
            parts.path,
            "&".join(sorted(parts.query.split("&"))) if parts.query else "",
            *(f"{name}:{request.headers[name]}" for name in names),
            "",
            fields["SignedHeaders"],
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            request.headers["x-amz-date"],
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{SECRET_KEY}".encode()
    for step in (day, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    return (access_key, service, fields["Signature"]) == (ACCESS_KEY, "s3", expected)
