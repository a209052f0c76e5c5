"""/admin/v1/requests: one record for each call, with its attempts inside. Refused calls
are included."""

from dataclasses import dataclass

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.gateway.admin.requests import (
    page_offset,
    page_size,
    tenant_of,
    time_range,
)
from modelyard.gateway.admin.shapes import RequestListPage, RequestRow
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.runtime.request_table import (
    OUTCOMES,
    REQUEST_FILTERS,
    RequestPage,
    RequestRecord,
    RequestTable,
    record_values,
)
from modelyard.runtime.unserved_calls import NO_TENANT


@dataclass(frozen=True, slots=True)
class Requests:
    """Route for the records of a tenant's calls."""

    table: RequestTable

    async def list_records(self, request: Request) -> Reply:
        """List the calls that match the filters, newest first.

        Raises InvokeBadRequestError, NotFoundError.
        """
        since, until = time_range(request)
        filters = {
            name: value for name in REQUEST_FILTERS if (value := request.query(name))
        }
        page = await self.table.page(
            _tenant_of(request),
            since=since,
            until=until,
            limit=page_size(request, "limit", 100),
            skip=page_offset(request),
            outcome=_outcome(request),
            **filters,
        )
        # A page may hold a thousand calls, so it is serialised outside the event loop.
        return await run_in_thread(_page_reply, page)


def _tenant_of(request: Request) -> str:
    """Return the tenant whose calls are listed: that of the request, or none for the
    calls of callers who were not authenticated, which only an operator sees.

    Raises InvokeBadRequestError, NotFoundError.
    """
    text = request.query("unauthenticated") or "false"
    if text not in ("true", "false"):
        raise InvokeBadRequestError(
            f"'unauthenticated' must be true or false, not {text[:20]!r}",
            param="unauthenticated",
        )
    if text == "false":
        return tenant_of(request)
    if not request.caller.is_operator:
        raise NotFoundError(
            "Calls of unauthenticated callers are listed for operators only"
        )
    return NO_TENANT


def _outcome(request: Request) -> str:
    """Return the outcome to filter by, or an empty text. Raises
    InvokeBadRequestError."""
    outcome = request.query("outcome") or ""
    if outcome and outcome not in OUTCOMES:
        raise InvokeBadRequestError(
            f"'outcome' must be one of {', '.join(OUTCOMES)}, not {outcome[:20]!r}",
            param="outcome",
        )
    return outcome


def _page_reply(page: RequestPage) -> Reply:
    """Build the reply for a page of calls."""
    rows = [_row(record) for record in page.records]
    return json_reply(RequestListPage(data=rows, total=page.total, calls=page.calls))


def _row(record: RequestRecord) -> RequestRow:
    """Return the view of one call."""
    values = record_values(record)
    attempts, unserved = record.attempts, record.unserved
    first, last = (attempts[0], record.deciding) if attempts else (None, None)
    cost = record.cost
    # Attempts of a call are paid in one currency each; the deciding one is shown.
    return RequestRow(
        id=record.id,
        outcome=record.outcome,
        created_at=first.created_at
        if first
        else unserved.created_at
        if unserved
        else 0.0,
        provider=values["provider"],
        model=values["model"] or (unserved.asked if unserved else ""),
        type=values["model_type"],
        key=values["api_key"],
        user=values["user"],
        app=values["app"],
        session=values["session"],
        project=values["project"],
        tags=values["tags"],
        credential=values.get("credential", ""),
        status=values["status"],
        http_status=unserved.status if unserved else None,
        message=unserved.message if unserved else "",
        route=unserved.route if unserved else "",
        key_fingerprint=unserved.fingerprint if unserved else "",
        calls=unserved.calls if unserved else 1,
        is_counting=bool(unserved and unserved.is_counting),
        attempts=len(attempts),
        prompt_tokens=sum(attempt.prompt_tokens for attempt in attempts),
        completion_tokens=sum(attempt.completion_tokens for attempt in attempts),
        cost=None if cost is None else f"{cost:f}",
        currency=last.currency if last else "USD",
        latency=sum(attempt.latency for attempt in attempts),
    )
