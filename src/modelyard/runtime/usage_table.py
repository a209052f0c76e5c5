"""The ledger's table: rows go in once, and are read back within one tenant."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from modelyard.runtime.usage_row import Columns, UsageRow, booked, row_from
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.statements import insert_new
from modelyard.storage.usage_sums import UsageSums, is_answer

_NANO = Decimal(1_000_000_000)
_FORGOTTEN_AT_ONCE = 2_000
_MOST_ATTEMPTS = 64


class Spending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Many rows as one line."""

    key: tuple[str, ...]
    calls: int
    attempts: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    characters: int
    seconds: float
    searches: int
    cost: Decimal
    currency: str
    unpriced: int
    """Rows whose price nobody knows: the cost leaves them out."""


class Took(NamedTuple):
    """What a call took, by its rows."""

    tokens: int
    nanos: int
    is_served: bool


GROUPINGS = {
    "provider": "provider",
    "model": "model",
    "model_type": "model_type",
    "credential": "credential",
    "key": "api_key",
    "user": '"user"',
    "tenant": "tenant",
    "status": "status",
    "day": "day",
    "hour": "hour",
}
"""What sums may be made by → the column; `hour` is made of a time by the statement."""
FILTERS = {
    "provider": "provider",
    "model": "model",
    "type": "model_type",
    "credential": "credential",
    "key": "api_key",
    "user": '"user"',
    "status": "status",
    "call": "invocation",
}
"""What attempts may be picked by → the column. The status `failed` stands for all that did not go well."""


class UsageTable:
    """Reads that look at many rows have threads of their own: whatever is asked, the loop and short reads go on."""

    def __init__(self, database: Database, sums: UsageSums) -> None:
        self._database = database
        self._sums = sums
        self._sql = database.statements("usage")

    def insert(self, connection: Connection, rows: Sequence[Columns]) -> None:
        """Rows that are there already stay as they are, and are not counted again."""
        new = {row["id"] for row in insert_new(connection, self._sql["add"], rows)}
        fresh: dict[str, Columns] = {}
        for row in rows:
            if row[0] in new:
                fresh.setdefault(row[0], row)
        self._sums.add(connection, [booked(row) for row in fresh.values()])

    # reading: each raises StorageUnavailableError where the database cannot be asked

    async def recent(self, tenant: str, *, most: int = 50, since: float = 0.0) -> list[UsageRow]:
        """Newest first."""
        return await self._rows("recent", {"tenant": tenant, "since": since, "most": most})

    async def of_invocation(self, tenant: str, invocation: str) -> list[UsageRow]:
        """All attempts of a call, the first one first; none where the tenant has no such call."""
        return await self._rows("invocation", {"tenant": tenant, "invocation": invocation})

    async def _rows(self, name: str, values: Mapping[str, Any], *, is_long: bool = False) -> list[UsageRow]:
        # Rows are made in the reader's thread too: a thousand of them would hold the loop for milliseconds.
        return await self._database.at_once(lambda it: _rows_from(it.execute(self._sql[name], values)), is_long=is_long)

    async def export(
        self, tenant: str, *, since: float, until: float, page: int = 1000
    ) -> AsyncGenerator[list[UsageRow], None]:
        """All rows of a span of time, oldest first, a page at a time; the last page may be empty."""
        after, after_id = since - 1, ""
        while True:
            values = {
                "tenant": tenant, "since": since, "until": until, "after": after, "after_id": after_id, "most": page,
            }  # fmt: skip
            rows = await self._rows("page", values, is_long=True)
            yield rows
            if len(rows) < page:
                return
            after, after_id = rows[-1].created_at, rows[-1].id

    async def summary(
        self, tenant: str, *, by: Sequence[str], since: float = 0.0, until: float = 1e12
    ) -> list[Spending]:
        """Rows added up by some of GROUPINGS, dearest first; currencies stay apart."""
        statement = self._sql["sums"].replace("{columns}", ", ".join(GROUPINGS[name] for name in by))
        values = {"tenant": tenant, "since": since, "until": until}
        return await self._database.at_once(lambda it: _spendings(it.execute(statement, values), by), is_long=True)

    async def page(
        self, tenant: str, *, since: float, until: float, most: int, skip: int = 0, **wanted: str
    ) -> tuple[list[UsageRow], int]:
        """A tenant's attempts, newest first, from `skip` on, and how many there are. `wanted`: values of FILTERS.

        Raises ValueError for a filter that is none.
        """
        if unknown := wanted.keys() - FILTERS.keys():
            raise ValueError(f"no filter {unknown}")
        clauses = "".join(f" AND {FILTERS[name]} = :{name}" for name in wanted)
        if wanted.get("status") == "failed":
            clauses = clauses.replace("status = :status", "status NOT IN ('ok', 'cached') AND :status <> ''")
        counting = self._sql["count_attempts"].replace("{clauses}", clauses)
        listing = self._sql["attempts"].replace("{clauses}", clauses)
        values = {"tenant": tenant, "since": since, "until": until, **wanted}

        def work(connection: Connection) -> tuple[list[UsageRow], int]:
            count: int = connection.execute(counting, values)[0]["count"]
            if skip >= count:
                return [], count
            return _rows_from(connection.execute(listing, {**values, "most": most, "skip": skip})), count

        return await self._database.at_once(work, is_long=True)

    async def percentiles(self, tenant: str, *, since: float, until: float) -> list[dict[str, Any]]:
        """By model, of attempts that went well: `latency` and `first_chunk`, in seconds."""
        values = {"tenant": tenant, "since": since, "until": until}

        def work(connection: Connection) -> list[dict[str, Any]]:
            whole = {row["model"]: dict(row) for row in connection.execute(self._sql["latencies"], values)}
            for row in connection.execute(self._sql["first_chunks"], values):
                # A row may have come between the two.
                known = whole.get(row["model"], {})
                known |= {f"first_{name}": row[name] for name in ("p50", "p90", "p99")}
            return list(whole.values())

        return await self._database.at_once(work, is_long=True)

    async def took(self, name: str) -> Took | None:
        """What a call took by all of its attempts, or one of these by itself, by its name; None where none was made."""
        names = [name, *(f"{name}.{attempt}" for attempt in range(_MOST_ATTEMPTS))]
        rows = await self._database.fetch(self._sql["of_call"].replace("{places}", ", ".join("?" * len(names))), names)
        if not rows:
            return None
        is_served = any(is_answer(row["status"], row["first_chunk"]) for row in rows)
        return Took(sum(int(row["tokens"]) for row in rows), sum(int(row["nanos"]) for row in rows), is_served)

    # tidying

    async def forget(self, before: float) -> None:
        """Drop rows that are older than they are to be kept, a few at a time. What limits count stays in the sums."""
        if not self._sums.is_complete:
            return  # rows that are not in the sums yet are not dropped
        for row in await self._database.fetch(self._sql["tenants"]):
            while (until := await self._oldest(row["tenant"], before)) is not None:
                values = row["tenant"], until
                await self._database.transact(lambda it, values=values: it.execute(self._sql["forget"], values))

    async def _oldest(self, tenant: str, before: float) -> float | None:
        values = {"tenant": tenant, "before": before, "most": _FORGOTTEN_AT_ONCE}
        return (await self._database.fetch(self._sql["oldest"], values))[0]["until"]


def _rows_from(rows: Iterable[Row]) -> list[UsageRow]:
    return [row_from(tuple(dict(row).values())) for row in rows]


def _spendings(rows: Iterable[Row], by: Sequence[str]) -> list[Spending]:
    """Dearest first, as they come: sorting many that come in another order would hold the interpreter for long."""
    lines = [_spending(row, by) for row in rows]
    return sorted(lines, key=lambda line: (-line.cost, -line.calls, line.key))


def _spending(row: Row, by: Sequence[str]) -> Spending:
    columns = [GROUPINGS[name].strip('"') for name in by]
    return Spending(
        key=tuple(str(row[column] if row[column] is not None else "") or "-" for column in columns),
        calls=int(row["calls"]),
        attempts=int(row["attempts"]),
        failed=int(row["failed"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        reasoning_tokens=int(row["reasoning_tokens"]),
        characters=int(row["characters"]),
        seconds=float(row["seconds"]),
        searches=int(row["searches"]),
        cost=(Decimal(int(row["nanos"])) / _NANO).normalize() + 0,
        currency=row["currency"],
        unpriced=int(row["unpriced"]),
    )
