"""A provider's refusals as our errors: by status, code and type, never by words in a message."""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeError, kind_of_error
from modelyard.base.log import redaction

_LONGEST_WAIT = 24 * 3600.0


def error_of(status: int, headers: Mapping[str, str], body: bytes, *, provider: str) -> InvokeError:
    """The error that an answer with this status stands for."""
    said = _error_object(body)
    message = _message(said, body) or f"HTTP status {status} without a message"
    # AWS puts its word for it in a header.
    word = headers.get("x-amzn-errortype", "").partition(":")[0]
    kind = kind_of_error(status, said.get("code"), said.get("type"), said.get("status"), word)
    if 300 <= status < 400:
        message = f"the server redirects (HTTP status {status}), which is not followed; check the base URL"
    # Some providers repeat the key that they refuse.
    return kind(redaction.strike(message), provider=provider, retry_after=retry_after(headers))


def is_object(body: bytes) -> bool:
    """Whether an answer is a JSON object, as an API's errors are."""
    return bool(_error_object(body))


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    if isinstance(error, dict):
        return error
    return {**document, "message": error}


def _message(said: Mapping[str, Any], body: bytes) -> str:
    for key in ("message", "detail", "msg", "err_msg", "Message"):
        if isinstance(text := said.get(key), str) and text:
            return text[:1000]
    text = body[:300].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text  # a proxy's HTML page helps nobody


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait: `retry-after-ms`, or Retry-After in seconds or as a date. None where absent or no such thing."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, _LONGEST_WAIT)
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return min(seconds, _LONGEST_WAIT)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), _LONGEST_WAIT)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
