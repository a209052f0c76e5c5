"""Maps a provider's error responses to exceptions: by status, code and type, never by
the text of a message."""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeError, error_class_for_status
from modelyard.base.json_types import is_object
from modelyard.base.log import redaction

# A longer wait is not useful to any caller, and no cooldown should last longer.
_MAX_WAIT_SECONDS = 24 * 3600.0


def error_of(
    status: int, headers: Mapping[str, str], body: bytes, *, provider: str
) -> InvokeError:
    """Return the exception for a provider's error response.

    Its class follows the error's own codes and types, then the status. A key that the
    provider repeats in its message is redacted. The wait that the headers ask for is
    kept in `retry_after`.
    """
    error_fields = _error_object(body)
    message = _message(error_fields, body) or f"HTTP status {status} without a message"
    # AWS names the error type in a header.
    aws_error_type = headers.get("x-amzn-errortype", "").partition(":")[0]
    error_class = error_class_for_status(
        status,
        error_fields.get("code"),
        error_fields.get("type"),
        error_fields.get("status"),
        aws_error_type,
    )
    # A redirect could lead to another host, with the key in its headers.
    if 300 <= status < 400:
        message = (
            f"The server sent a redirect (HTTP status {status}), which is not"
            " followed; check the base URL"
        )
    # Some providers repeat the rejected key in the message.
    return error_class(
        redaction.redact(message), provider=provider, retry_after=retry_after(headers)
    )


def is_object_body(body: bytes) -> bool:
    """Return whether a response body is a JSON object, as an API's errors are."""
    return bool(_error_object(body))


def _error_object(body: bytes) -> dict[str, Any]:
    """Return the object with an error's fields in a response body.

    It is the field `error`, or the document itself; an error that is a plain text
    becomes its `message`. Empty if the body is not a JSON object.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not is_object(document):
        return {}
    # The error may be nested, be the document itself, or be a plain text.
    error = document.get("error", document)
    if is_object(error):
        return error
    return {**document, "message": error}


def _message(error_fields: Mapping[str, Any], body: bytes) -> str:
    """Return an error's message, at most 1,000 characters; empty if there is none.

    Without a known field it is the start of the body, unless that is HTML.
    """
    # Vendors use different names for the message.
    for key in ("message", "detail", "msg", "err_msg", "Message"):
        if isinstance(text := error_fields.get(key), str) and text:
            return text[:1000]
    text = body[:300].decode("utf-8", "replace").strip()
    return (
        "" if text.startswith("<") else text
    )  # a proxy's HTML page is not a useful message


def retry_after(
    headers: Mapping[str, str], *, now_seconds: float | None = None
) -> float | None:
    """Return the seconds to wait, from `retry-after-ms` or Retry-After (seconds or a
    date); None if absent or invalid.

    `now_seconds` replaces the current time (Unix time) in tests.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, _MAX_WAIT_SECONDS)
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return min(seconds, _MAX_WAIT_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    # A date in the past means no wait.
    return min(
        max(0.0, moment - (time.time() if now_seconds is None else now_seconds)),
        _MAX_WAIT_SECONDS,
    )


def _number(text: str | None) -> float | None:
    """Return a non-negative finite number; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
