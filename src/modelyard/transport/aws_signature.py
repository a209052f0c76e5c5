"""AWS signature version 4, for providers and for servers that speak the protocol of S3."""

import datetime
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit


def sign_v4(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Sequence[bytes],
    *,
    access_key: str,
    secret_key: str,
    region: str,
    service: str,
    moment: datetime.datetime,
) -> str:
    """Return the `authorization` header for these headers (AWS signature version 4).
    They must include host and x-amz-date.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    parts = urlsplit(url)
    path = parts.path or "/"
    # All services but S3 encode what is percent-encoded in the address once more.
    if service != "s3":
        path = quote(path, safe="/-_.~")
    digest = hashlib.sha256()
    for body_chunk in body:
        digest.update(body_chunk)
    names = sorted(headers)
    # The canonical query is sorted, and each name and value is percent-encoded exactly
    # once.
    query = "&".join(
        f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"
        for name, _, value in sorted(
            pair.partition("=") for pair in parts.query.split("&") if pair
        )
    )
    # Step 1 of the specification: the canonical request.
    canonical = "\n".join(
        [
            method,
            path,
            query,
            *(f"{name}:{' '.join(headers[name].split())}" for name in names),
            "",
            ";".join(names),
            digest.hexdigest(),
        ]
    )
    # Step 2: the string to sign. Its scope limits the signature to a day, a region and
    # a service.
    day = moment.strftime("%Y%m%d")
    scope = f"{day}/{region}/{service}/aws4_request"
    signed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment.strftime('%Y%m%dT%H%M%SZ')}\n{scope}\n{signed}"
    # Step 3: the signing key is derived from the secret by one HMAC per part of the
    # scope.
    key = f"AWS4{secret_key}".encode()
    for step in (day, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope},"
        f" SignedHeaders={';'.join(names)}, Signature={signature}"
    )
