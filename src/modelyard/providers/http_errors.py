"""A provider's refusals as our errors: by status, code and type, never by words in a message."""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.base.log import redaction

_BY_STATUS: dict[int, type[InvokeError]] = {
    401: InvokeAuthorizationError,
    402: InvokeAuthorizationError,  # this credential's money is spent
    403: InvokeAuthorizationError,
    407: InvokeAuthorizationError,
    408: InvokeServerUnavailableError,
    425: InvokeServerUnavailableError,
    429: InvokeRateLimitError,
}
_BY_CODE: dict[str, type[InvokeError]] = {"context_length_exceeded": ContextTooLongError}
_LONGEST_WAIT = 24 * 3600.0


def error_of(status: int, headers: Mapping[str, str], body: bytes, *, provider: str) -> InvokeError:
    """The error that an answer with this status stands for."""
    said = _error_object(body)
    message = _message(said, body) or f"HTTP status {status} without a message"
    kind = _BY_CODE.get(str(said.get("code"))) or _BY_STATUS.get(status)
    if kind is None:
        kind = InvokeBadRequestError if 400 <= status < 500 else InvokeServerUnavailableError
    if 300 <= status < 400:
        message = f"the server redirects (HTTP status {status}), which is not followed; check the base URL"
    # Some providers repeat the key that they refuse.
    return kind(redaction.strike(message), provider=provider, retry_after=retry_after(headers))


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {"message": error}


def _message(said: Mapping[str, Any], body: bytes) -> str:
    for key in ("message", "detail", "msg"):
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
