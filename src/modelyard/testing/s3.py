"""A double of S3: stores, lists and returns objects, and verifies the signature of each
request with its own reading of the specification.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
import re
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

    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(
        default_factory=dict[str, tuple[str, dict[int, bytes]]]
    )
    """Uploads that are not complete: id → (key, parts by number)."""
    metadata: dict[str, dict[str, str]] = field(
        default_factory=dict[str, dict[str, str]]
    )
    min_part_bytes: int = 5 << 20
    """Parts but the last one have to be at least this large."""
    ignores_ranges: bool = False

    def __call__(
        self,
        request: UpstreamRequest,
    ) -> Answer:
        """Answer like S3: an object, or a listing of the bucket."""
        self.requests.append(f"{request.method} {request.path}")
        if self.failures and (status := self.failures.pop(0)):
            return _error(status, "InternalError")
        if not _is_signed(request):
            return _error(403, "SignatureDoesNotMatch")
        parts = urlsplit(request.path)
        bucket, _, key = unquote(parts.path)[1:].partition("/")
        if bucket != self.bucket:
            return _error(404, "NoSuchBucket")
        query = {
            name: values[0]
            for name, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        if not key:
            return self._uploads() if "uploads" in query else self._listing(query)
        if {"uploads", "uploadId"} & query.keys():
            return self._multipart(request, key, query)
        return self._object(request, key)

    def _object(
        self,
        request: UpstreamRequest,
        key: str,
    ) -> Answer:
        """Answer PutObject, GetObject and DeleteObject."""
        if request.method == "PUT":
            return self._stored(request, key, request.body)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return Answer(status=204)
        data = self.objects.get(key)
        if data is None:
            return _error(404, "NoSuchKey")
        headers = self.metadata.get(key, {})
        byte_range = re.fullmatch(
            r"bytes=([0-9]+)-([0-9]*)", request.headers.get("range", "")
        )
        if byte_range is None or self.ignores_ranges:
            return Answer(headers=headers, body=data)
        start = int(byte_range[1])
        end = min(int(byte_range[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return Answer(status=416, headers={"content-range": f"bytes */{len(data)}"})
        return Answer(
            status=206,
            headers={**headers, "content-range": f"bytes {start}-{end}/{len(data)}"},
            body=data[start : end + 1],
        )

    def _stored(
        self,
        request: UpstreamRequest,
        key: str,
        data: bytes,
    ) -> Answer:
        """Store an object, unless the request wants that there is none."""
        if request.headers.get("if-none-match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        self.objects[key] = data
        self.metadata[key] = {
            name: value
            for name, value in request.headers.items()
            if name.startswith("x-amz-meta-")
        }
        return Answer(headers={"etag": _etag(data)})

    def _multipart(
        self,
        request: UpstreamRequest,
        key: str,
        query: dict[str, str],
    ) -> Answer:
        """Answer the calls of an upload in parts."""
        if "uploads" in query:
            upload_id = f"upload/{len(self.requests)}&"
            self.uploads[upload_id] = key, {}
            return _xml(
                "InitiateMultipartUploadResult",
                f"<UploadId>{escape(upload_id)}</UploadId>",
            )
        upload_id = query["uploadId"]
        if self.uploads.get(upload_id, ("",))[0] != key:
            return _error(404, "NoSuchUpload")
        parts = self.uploads[upload_id][1]
        if request.method == "PUT":
            parts[int(query["partNumber"])] = request.body
            return Answer(headers={"etag": _etag(request.body)})
        if request.method == "POST":
            return self._complete(request, key, parts, upload_id)
        del self.uploads[upload_id]
        return Answer(status=204)

    def _complete(
        self,
        request: UpstreamRequest,
        key: str,
        parts: dict[int, bytes],
        upload_id: str,
    ) -> Answer:
        listed = re.findall(
            r"<PartNumber>([0-9]+)</PartNumber><ETag>([^<]+)</ETag>",
            request.body.decode(),
        )
        sent = [(str(number), _etag(data)) for number, data in sorted(parts.items())]
        if listed != sent:
            return _error(400, "InvalidPart")
        data = [data for _, data in sorted(parts.items())]
        if any(len(part) < self.min_part_bytes for part in data[:-1]):
            return _error(400, "EntityTooSmall")
        answer = self._stored(request, key, b"".join(data))
        if answer.status >= 300:
            return answer
        del self.uploads[upload_id]
        return _xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key>")

    def _uploads(
        self,
    ) -> Answer:
        entries = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{escape(upload_id)}</UploadId>"
            "<Initiated>2026-11-30T12:00:00.000Z</Initiated></Upload>"
            for upload_id, (key, _) in self.uploads.items()
        )
        return _xml("ListMultipartUploadsResult", entries)

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


def _etag(
    data: bytes,
) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324  as S3 does


def _xml(
    name: str,
    body: str,
) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{body}</{name}>'
    return Answer(headers={"content-type": "application/xml"}, body=text.encode())


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
