"""What routes of the admin API share: where they are, and whose things a call is about."""

import time

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.http import Request, encode

PREFIX = "/admin/v1/"
QUESTIONS = ("/plan", "/check", "/test-node")
"""What is asked with a body, and changes nothing."""


def tenant_of(request: Request) -> str:
    """Whose things are meant. Raises NotFoundError for a tenant that is not the caller's."""
    named = request.query("tenant")
    if named is None or named == request.tenant:
        return request.tenant
    if not request.caller.is_operator:
        raise NotFoundError(f"tenant {named!r} does not exist", code="tenant_not_found")
    return named


_MOST = 1000
_DAY = 86_400.0


def broken_stream(error: ModelyardError) -> bytes:
    """The last event of a stream that breaks."""
    return b"data: " + encode({"error": {"message": str(error)}}) + b"\n\n"


def count_of(request: Request, name: str, default: int) -> int:
    """How many are wanted. Raises InvokeBadRequestError."""
    text = request.query(name)
    if text is None:
        return default
    value = whole_number(text, maximum=_MOST)
    if not value:
        raise InvokeBadRequestError(f"{name!r} must be from 1 to {_MOST}", param=name)
    return value


def offset_of(request: Request) -> int:
    """How many to skip. Raises InvokeBadRequestError."""
    value = whole_number(request.query("offset") or "0")
    if value is None:
        raise InvokeBadRequestError("'offset' must be a whole number, 0 or more", param="offset")
    return value


def span_of(request: Request) -> tuple[float, float]:
    """`since` and `until`: the last thirty days where nothing is said. Raises InvokeBadRequestError."""
    now = time.time()
    try:
        since = float(request.query("since") or now - 30 * _DAY)
        until = float(request.query("until") or now + 1)
    except ValueError:
        raise InvokeBadRequestError("'since' and 'until' are seconds since 1970", param="since") from None
    return since, until
