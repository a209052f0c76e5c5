"""Helpers to write the route tables of the admin API."""

from collections.abc import Awaitable, Callable

from modelyard.gateway.http import Request
from modelyard.gateway.table import Answered, Auth, Body, Query, Row

PREFIX = "/admin/v1"
Handler = Callable[[Request], Awaitable[Answered]]
LIMIT = Query("limit", "Page size, 1 to 1,000.", "integer")
OFFSET = Query("offset", "Number of items to skip.", "integer")
SPAN = (
    Query("since", "Start, in Unix seconds. Default: thirty days ago.", "number"),
    Query("until", "End, in Unix seconds. Default: now.", "number"),
)
_TENANT = Query(
    "tenant", "Tenant to act on; another one only for the default tenant's owner."
)


def row(
    method: str,
    path: str,
    auth: Auth,
    handler: Handler,
    summary: str,
    answer: Body | None,
    *,
    request_body: Body | None = None,
    needs_body: bool = True,
    status: int = 200,
    errors: tuple[int, ...] = (),
    query: tuple[Query, ...] = (),
    changes_nothing: bool = False,
) -> Row:
    """Return the row of a route about a tenant's resources: the caller's own, or
    another that an operator names.

    `changes_nothing` marks a route that is read-only although its method is not GET.
    """
    return Row(
        method=method,
        path=f"{PREFIX}{path}",
        auth=auth,
        handler=handler,
        summary=summary,
        answer=answer,
        takes=request_body,
        needs_body=needs_body,
        status=status,
        errors=errors,
        # An operator may name another tenant in every route.
        query=(*query, _TENANT),
        changes_nothing=changes_nothing,
    )


def global_row(
    method: str,
    path: str,
    auth: Auth,
    handler: Handler,
    summary: str,
    answer: Body | None,
    *,
    request_body: Body | None = None,
    status: int = 200,
    changes_nothing: bool = False,
) -> Row:
    """Return the row of a route that is not about one tenant's resources, or is about
    tenants themselves."""
    return Row(
        method=method,
        path=f"{PREFIX}{path}",
        auth=auth,
        handler=handler,
        summary=summary,
        answer=answer,
        takes=request_body,
        status=status,
        changes_nothing=changes_nothing,
    )
