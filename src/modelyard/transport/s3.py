"""What speaking the protocol of S3 takes: signed headers, and the few elements of its
answers that are read. Clients send the requests themselves.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from modelyard.transport.aws_signature import sign_v4

_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """An access key, with a session token if it is temporary."""

    access_key: str
    secret_key: str
    session_token: str = ""
    region: str = "us-east-1"


def signed_headers(
    method: str,
    url: str,
    credentials: S3Credentials,
    *,
    now: float,
    body: bytes = b"",
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a signed request, without `host`, which clients send
    themselves. `now` is in seconds since 1970; `extra` headers are signed too."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    signed = {
        "host": urlsplit(url).netloc,
        "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
        "x-amz-date": moment.strftime("%Y%m%dT%H%M%SZ"),
        **(extra or {}),
    }
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    authorization = sign_v4(
        method,
        url,
        signed,
        [body],
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        region=credentials.region,
        service="s3",
        moment=moment,
    )
    headers = {name: value for name, value in signed.items() if name != "host"}
    return {**headers, "authorization": authorization}


def encoded_path(bucket: str, key: str = "") -> str:
    """Return the path of an object, or of the bucket without a key."""
    return f"/{bucket}/{quote(key, safe='/' + _UNRESERVED)}" if key else f"/{bucket}"


def encoded_query(query: Mapping[str, str]) -> str:
    """Return a query in the one spelling that the signature allows."""
    return "&".join(
        f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}"
        for name, value in query.items()
    )


# The answers are flat, and read without a parser of XML: those of hostile servers
# could make one expand entities.


def elements(text: str, name: str) -> list[str]:
    """Return the contents of all elements of a name."""
    after = text.split(f"<{name}>")[1:]
    return [part.partition(f"</{name}>")[0] for part in after]


def element_text(text: str, name: str) -> str:
    """Return the content of the first element of a name; empty without one."""
    return next(iter(elements(text, name)), "").strip()


def error_code(body: bytes) -> str:
    """Return the code in an error of S3; empty if there is none."""
    return element_text(body.decode("utf-8", "replace"), "Code")[:100]
