"""What routes of the admin API share: whose things a call is about."""

import time
from collections.abc import Iterable

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.http import Request, encode
from modelyard.models.types import ModelType
from modelyard.workflow.apps import Apps, FoundApp


def tenant_of(request: Request) -> str:
    """Whose things are meant. Raises NotFoundError for a tenant that is not the caller's."""
    named = request.query("tenant")
    if named is None or named == request.tenant:
        return request.tenant
    if not request.caller.is_operator:
        raise NotFoundError(f"tenant {named!r} does not exist", code="tenant_not_found")
    return named


def app_of(request: Request, apps: Apps) -> FoundApp:
    """The app that the path names by `id`. Raises NotFoundError."""
    return apps.find(tenant_of(request), request.names["id"])


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


def model_type(text: str) -> ModelType:
    """Raises InvokeBadRequestError."""
    if text not in {*ModelType}:
        raise InvokeBadRequestError(f"'type' is one of {', '.join(ModelType)}, not {text!r}", param="type")
    return ModelType(text)


def longest_rest(seconds: Iterable[float]) -> float:
    """Of rests; one that waits for its probe's end is as a day: JSON knows no infinity."""
    return round(min(max(seconds, default=0.0), _DAY), 1)
