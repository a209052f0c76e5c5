"""Helpers for the requests of the admin API: tenant, app, paging and time range."""

import time
from collections.abc import Iterable

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import whole_number
from modelyard.gateway.http import Request, encode
from modelyard.models.types import ModelType
from modelyard.workflow.apps import AppRecord, Apps


def tenant_of(request: Request) -> str:
    """Return the tenant that the request is about: the caller's own, or the one in
    `?tenant=`.

    Raises NotFoundError for a tenant that the caller may not access.
    """
    requested_tenant = request.query("tenant")
    if requested_tenant is None or requested_tenant == request.tenant:
        return request.tenant
    # Other tenants must be indistinguishable from tenants that do not exist.
    if not request.caller.is_operator:
        raise NotFoundError(
            f"Tenant {requested_tenant!r} does not exist", code="tenant_not_found"
        )
    return requested_tenant


def app_of(request: Request, apps: Apps) -> AppRecord:
    """Return the app that the path names by `id`.

    Raises NotFoundError.
    """
    return apps.get_by_id_or_name(tenant_of(request), request.names["id"])


_MAX_PAGE_SIZE = 1000
_DAY = 86_400.0


def broken_stream(error: ModelyardError) -> bytes:
    """Return the last event of a stream that failed."""
    return b"data: " + encode({"error": {"message": error.public_text}}) + b"\n\n"


def page_size(request: Request, name: str, default: int) -> int:
    """Return a page size from the query, from 1 to 1,000.

    Raises InvokeBadRequestError.
    """
    text = request.query(name)
    if text is None:
        return default
    value = whole_number(text, maximum=_MAX_PAGE_SIZE)
    if not value:
        raise InvokeBadRequestError(
            f"{name!r} must be from 1 to {_MAX_PAGE_SIZE}", param=name
        )
    return value


def page_offset(request: Request) -> int:
    """Return the number of rows to skip.

    Raises InvokeBadRequestError.
    """
    value = whole_number(request.query("offset") or "0")
    if value is None:
        raise InvokeBadRequestError(
            "'offset' must be a whole number, 0 or more", param="offset"
        )
    return value


def time_range(request: Request) -> tuple[float, float]:
    """Return `since` and `until` in seconds since 1970; the last thirty days by
    default.

    Raises InvokeBadRequestError.
    """
    current_time = time.time()
    try:
        since = float(request.query("since") or current_time - 30 * _DAY)
        # One second more, so that the calls of this second are included.
        until = float(request.query("until") or current_time + 1)
    except ValueError:
        raise InvokeBadRequestError(
            "'since' and 'until' must be Unix times in seconds", param="since"
        ) from None
    return since, until


def model_type(text: str) -> ModelType:
    """Return the model type with this name.

    Raises InvokeBadRequestError.
    """
    if text not in {*ModelType}:
        raise InvokeBadRequestError(
            f"'type' must be one of {', '.join(ModelType)}, not {text!r}", param="type"
        )
    return ModelType(text)


def longest_cooldown(seconds: Iterable[float]) -> float:
    """Return the longest of some cooldowns in seconds.

    A deployment that waits for a probe has an infinite cooldown, which JSON cannot
    express; it is reported as one day.
    """
    return round(min(max(seconds, default=0.0), _DAY), 1)
