"""How the admin API's rows are written."""

from collections.abc import Awaitable, Callable

from modelyard.gateway.http import Request
from modelyard.gateway.table import Answered, Auth, Body, Query, Row

PREFIX = "/admin/v1"
Handler = Callable[[Request], Awaitable[Answered]]
LIMIT = Query("limit", "How many, 1 to 1,000.", "integer")
OFFSET = Query("offset", "From this one on.", "integer")
SPAN = (
    Query("since", "Seconds since 1970; thirty days ago where nothing is said.", "number"),
    Query("until", "Seconds since 1970; now where nothing is said.", "number"),
)
_TENANT = Query("tenant", "Another tenant's, for the default tenant's owner.")


def row(
    method: str, path: str, auth: Auth, handler: Handler, summary: str, answer: Body | None, *,
    takes: Body | None = None, needs_body: bool = True, status: int = 200, errors: tuple[int, ...] = (),
    query: tuple[Query, ...] = (), asks: bool = False,
) -> Row:  # fmt: skip
    """A row about a tenant's things: the caller's own, or those of the one that an operator names.

    `asks`: it changes nothing, though it is no GET.
    """
    return Row(
        method=method, path=f"{PREFIX}{path}", auth=auth, handler=handler, summary=summary, answer=answer, takes=takes,
        needs_body=needs_body, status=status, errors=errors, query=(*query, _TENANT), changes_nothing=asks,
    )  # fmt: skip


def row_for_all(
    method: str, path: str, auth: Auth, handler: Handler, summary: str, answer: Body | None, *,
    takes: Body | None = None, status: int = 200, asks: bool = False,
) -> Row:  # fmt: skip
    """A row about what is no tenant's, or is a tenant itself."""
    return Row(
        method=method, path=f"{PREFIX}{path}", auth=auth, handler=handler, summary=summary, answer=answer, takes=takes,
        status=status, changes_nothing=asks,
    )  # fmt: skip
