"""The calls of a tenant as one list: each call is one record with its attempts inside,
whether it was served, failed, was cancelled, or was refused before any attempt."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from modelyard.runtime.unserved_calls import UnservedCall, UnservedCalls
from modelyard.runtime.usage_row import UsageRow, row_from
from modelyard.runtime.usage_table import UsageTable, time_values
from modelyard.storage.database import Connection, Database

OUTCOMES = ("served", "failed", "cancelled", "refused")
_OUTCOME_CLAUSES = {
    "served": (" AND status IN ('ok', 'cached')", " AND 1 = 0"),
    "failed": (
        " AND status NOT IN ('ok', 'cached', 'cancelled')",
        " AND outcome = 'failed'",
    ),
    "cancelled": (" AND status = 'cancelled'", " AND outcome = 'cancelled'"),
    "refused": (" AND 1 = 0", " AND outcome = 'refused'"),
}
"""Outcome → conditions on a call with attempts and on one without."""
REQUEST_FILTERS = {
    "id": ("invocation", "id"),
    "provider": ("provider", "provider"),
    "model": ("model", "CASE WHEN model = '' THEN asked ELSE model END"),
    "type": ("model_type", "model_type"),
    "credential": ("credential", "''"),
    "key": ("api_key", "api_key"),
    "user": ('"user"', '"user"'),
    "status": ("status", "code"),
    "session": ("session", "session"),
    "project": ("project", "project"),
}
"""Filter name → column of the attempts and expression for calls without one."""


class RequestRecord(NamedTuple):
    """One call."""

    id: str
    outcome: str
    """One of OUTCOMES."""
    attempts: Sequence[UsageRow]
    """In their order; empty for a call that ended before any was made."""
    unserved: UnservedCall | None
    """How a call without attempts ended."""

    @property
    def deciding(self) -> UsageRow | None:
        """The attempt that decided how the call ended: the last one that was served, or
        else the last one."""
        served = [row for row in self.attempts if row.status in ("ok", "cached")]
        rows = served or self.attempts
        return rows[-1] if rows else None

    @property
    def cost(self) -> Decimal | None:
        """The cost of all attempts; None if one of them has no known price."""
        prices = [row.total_price for row in self.attempts]
        known = [price for price in prices if price is not None]
        return sum(known, Decimal(0)) if len(known) == len(prices) else None


class RequestPage(NamedTuple):
    """A page of records."""

    records: list[RequestRecord]
    total: int
    """The number of records that match."""
    calls: int
    """The number of calls they stand for: a record of a flood stands for many."""


class RequestTable:
    """Reads the records of calls."""

    def __init__(
        self, database: Database, usage: UsageTable, unserved: UnservedCalls
    ) -> None:
        self._database = database
        self._usage = usage
        self.unserved = unserved

    async def page(
        self,
        tenant: str,
        *,
        since: float,
        until: float,
        limit: int,
        skip: int = 0,
        outcome: str = "",
        **filters: str,
    ) -> RequestPage:
        """Return a page of records, newest first, starting at `skip`.

        `outcome` is one of OUTCOMES, or empty for all; `filters` are values for
        REQUEST_FILTERS. Raises ValueError for others, and StorageUnavailableError.
        """
        clauses = _clauses(outcome, filters)
        counting, listing = (
            _with_clauses(self._usage.deciding(name), clauses)
            for name in ("count_requests", "requests")
        )
        values = {**time_values(tenant, since, until), **filters}

        def work(connection: Connection) -> RequestPage:
            """Count and list in one transaction, so that both agree."""
            count = connection.execute(counting, values)[0]
            total, calls = int(count["records"]), int(count["calls"])
            if skip >= total:
                return RequestPage([], total, calls)
            rows = connection.execute(listing, {**values, "most": limit, "skip": skip})
            ids = [(row["id"], bool(row["is_unserved"])) for row in rows]
            return RequestPage(self._records(connection, tenant, ids), total, calls)

        return await self._database.read_together(work, is_long=True)

    def _records(
        self,
        connection: Connection,
        tenant: str,
        ids: Sequence[tuple[str, bool]],
    ) -> list[RequestRecord]:
        """Return the records of a page, in its order."""
        attempts = self._attempts(
            connection, tenant, [name for name, is_unserved in ids if not is_unserved]
        )
        unserved_ids = [name for name, is_unserved in ids if is_unserved]
        unserved = {
            call.id: call
            for call in self.unserved.read(connection, tenant, unserved_ids)
        }
        return [
            unserved_record(unserved[name])
            if is_unserved
            else attempted_record(name, attempts[name])
            for name, is_unserved in ids
        ]

    def _attempts(
        self, connection: Connection, tenant: str, ids: Sequence[str]
    ) -> dict[str, list[UsageRow]]:
        """Return the attempts of several calls, by the id of the call."""
        attempts: dict[str, list[UsageRow]] = defaultdict(list)
        if not ids:
            return attempts
        statement = self._usage.attempts_of(len(ids))
        for row in connection.execute(statement, (tenant, *ids)):
            attempt = row_from(tuple(dict(row).values()))
            attempts[attempt.invocation].append(attempt)
        return attempts


def attempted_record(request_id: str, attempts: Sequence[UsageRow]) -> RequestRecord:
    """Return the record of a call with attempts."""
    statuses = {row.status for row in attempts}
    record = RequestRecord(request_id, "failed", attempts, None)
    if statuses & {"ok", "cached"}:
        return record._replace(outcome="served")
    is_cancelled = attempts[-1].status == "cancelled"
    return record._replace(outcome="cancelled") if is_cancelled else record


def unserved_record(call: UnservedCall) -> RequestRecord:
    """Return the record of a call that ended before any attempt."""
    return RequestRecord(call.id, call.outcome, (), call)


def _clauses(outcome: str, filters: Iterable[str]) -> tuple[str, str]:
    """Return the conditions on calls with attempts and on those without.

    Values are bound as parameters of the filters' names. Raises ValueError for an
    unknown outcome or filter.
    """
    if outcome and outcome not in OUTCOMES:
        raise ValueError(f"Unknown outcome: {outcome}")
    attempted, unserved = _OUTCOME_CLAUSES[outcome] if outcome else ("", "")
    for name in filters:
        if name not in REQUEST_FILTERS:
            raise ValueError(f"Unknown filter: {name}")
        of_attempts, of_unserved = REQUEST_FILTERS[name]
        attempted += f" AND {of_attempts} = :{name}"
        unserved += f" AND {of_unserved} = :{name}"
    return attempted, unserved


def _with_clauses(statement: str, clauses: tuple[str, str]) -> str:
    """Return a statement with the conditions inserted."""
    attempted, unserved = clauses
    return statement.replace("{clauses}", attempted).replace(
        "{unserved_clauses}", unserved
    )


def record_values(record: RequestRecord) -> dict[str, Any]:
    """Return what a record says about its call, whether it had attempts or not: model,
    key, user, status, and what it belongs to."""
    row, unserved = record.deciding, record.unserved
    names = ("provider", "model", "model_type", "api_key", "user", "app")
    names = (*names, "session", "project", "tags")
    values = {name: getattr(row or unserved, name) for name in names}
    if row is not None:
        return {**values, "status": row.status, "credential": row.credential}
    return {**values, "status": "" if unserved is None else unserved.code}
