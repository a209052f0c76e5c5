"""The ledger's table: rows are inserted once, and read within one tenant."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from modelyard.runtime.usage_row import Columns, UsageRow, row_from, usage_booking
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.statements import insert_new
from modelyard.storage.usage_sums import UsageSums, is_answer

_NANO = Decimal(1_000_000_000)
# SQLite has one writer, so a large deletion would hold up every call.
_DELETE_BATCH_SIZE = 2_000
_MAX_ATTEMPTS = 64


# Without the garbage collector: there may be many thousands, and none refers to
# another.
class UsageSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The sums of a group of calls and attempts.

    A call belongs to the group of the attempt that decided how it ended; its other
    attempts count in their own groups.
    """

    key: tuple[str, ...]
    calls: int
    attempts: int
    failed: int
    """Calls that failed. Neither cancelled nor refused ones are among them."""
    cancelled: int = 0
    """Calls that their caller ended."""
    refused: int = 0
    """Calls that this server refused before any attempt."""
    failed_attempts: int = 0
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
    """The number of rows with an unknown price; the cost does not include them."""


class CallCounts(NamedTuple):
    """The calls of a time range, each counted once, whatever they are grouped by."""

    calls: int
    failed: int
    cancelled: int
    refused: int
    attempts: int
    failed_attempts: int


class UsageReport(NamedTuple):
    """Sums by groups, and the counts of all calls."""

    sums: list[UsageSummary]
    total: CallCounts
    """With calls of several tags counted once, unlike the sums by tag."""


class CallUsage(NamedTuple):
    """What a call used, according to its rows."""

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
    "session": "session",
    "project": "project",
    "tag": "tags",
}
"""Grouping name to column. The statement derives `hour` from the time."""
FILTERS = {
    "provider": "provider",
    "model": "model",
    "type": "model_type",
    "credential": "credential",
    "key": "api_key",
    "user": '"user"',
    "status": "status",
    "call": "invocation",
    "session": "session",
    "project": "project",
}
"""Filter name to column. The status `failed` stands for everything that was neither
served nor cancelled."""
SETTLED_SECONDS = 3600.0
"""Seconds after the end of a time range within which calls of the range have ended."""
_FAILED = "status NOT IN ('ok', 'cached', 'cancelled')"


class UsageTable:
    """Reads and writes the ledger's rows. Reads of many rows run on separate threads,
    so they block neither the event loop nor short reads."""

    def __init__(self, database: Database, sums: UsageSums) -> None:
        self._database = database
        self._sums = sums
        self._sql = database.statements("usage")

    def insert(self, connection: Connection, rows: Sequence[Columns]) -> None:
        """Insert rows. Those that exist already stay unchanged and are not added to the
        sums again."""
        new = {row["id"] for row in insert_new(connection, self._sql["add"], rows)}
        # A batch may contain the same row twice, after a crash during recovery.
        new_rows: dict[str, Columns] = {}
        for row in rows:
            if row[0] in new:
                new_rows.setdefault(row[0], row)
        self._sums.add(connection, [usage_booking(row) for row in new_rows.values()])

    # Reading. Each method raises StorageUnavailableError if the database cannot be
    # read.

    async def recent(
        self, tenant: str, *, limit: int = 50, since: float = 0.0
    ) -> list[UsageRow]:
        """Return the latest rows, newest first."""
        return await self._rows(
            "recent", {"tenant": tenant, "since": since, "most": limit}
        )

    async def of_invocation(self, tenant: str, invocation: str) -> list[UsageRow]:
        """Return all attempts of a call, the first one first; empty if the tenant has
        no such call."""
        return await self._rows(
            "invocation", {"tenant": tenant, "invocation": invocation}
        )

    async def _rows(
        self, name: str, values: Mapping[str, Any], *, is_long: bool = False
    ) -> list[UsageRow]:
        """Run a statement and return its rows."""

        def read(connection: Connection) -> list[UsageRow]:
            """Run the statement and convert its rows."""
            # Rows are converted on the reader thread: a thousand of them would block
            # the event loop for milliseconds.
            return _rows_from(connection.execute(self._sql[name], values))

        return await self._database.read_together(read, is_long=is_long)

    async def export(
        self, tenant: str, *, since: float, until: float, page: int = 1000
    ) -> AsyncGenerator[list[UsageRow], None]:
        """Yield all rows of a time range, oldest first, one page at a time; the last
        page may be empty."""
        # Keyset pagination by (time, id), because several rows may have the same time.
        after_time, after_id = since - 1, ""
        while True:
            values = {
                "tenant": tenant,
                "since": since,
                "until": until,
                "after": after_time,
                "after_id": after_id,
                "most": page,
            }
            rows = await self._rows("page", values, is_long=True)
            yield rows
            if len(rows) < page:
                return
            after_time, after_id = rows[-1].created_at, rows[-1].id

    async def summary(
        self, tenant: str, *, by: Sequence[str], since: float = 0.0, until: float = 1e12
    ) -> list[UsageSummary]:
        """Return the sums by some of GROUPINGS, most expensive first. Currencies are
        never added together."""
        return (await self.report(tenant, by=by, since=since, until=until)).sums

    async def report(
        self, tenant: str, *, by: Sequence[str], since: float = 0.0, until: float = 1e12
    ) -> UsageReport:
        """Return the sums by some of GROUPINGS with the counts of all calls, which are
        the same for all groupings. Calls without an attempt are included."""
        # Column names cannot be bound as parameters; GROUPINGS allows only known ones.
        statement = self.deciding("sums").replace(
            "{columns}", ", ".join(GROUPINGS[name] for name in by)
        )
        values = time_values(tenant, since, until)
        return await self._database.read_together(
            lambda connection: _report(connection.execute(statement, values), by),
            is_long=True,
        )

    def deciding(self, name: str) -> str:
        """Return a statement that tells apart the attempts which decided how their call
        ended. Its values are those of `time_values`."""
        return self._sql[name].replace("{superseded}", self._sql["superseded"])

    def attempts_of(self, count: int) -> str:
        """Return the statement for all attempts of some calls of a tenant. Its values
        are the tenant and the ids of the calls."""
        return self._sql["attempts_of"].replace("{ids}", ", ".join("?" * count))

    async def page(
        self,
        tenant: str,
        *,
        since: float,
        until: float,
        limit: int,
        skip: int = 0,
        **filters: str,
    ) -> tuple[list[UsageRow], int]:
        """Return a page of attempts, newest first, starting at `skip`, and their total
        number. `filters`: values for FILTERS.

        Raises ValueError for an unknown filter.
        """
        if unknown := filters.keys() - FILTERS.keys():
            raise ValueError(f"Unknown filter: {unknown}")
        clauses = "".join(f" AND {FILTERS[name]} = :{name}" for name in filters)
        if filters.get("status") == "failed":
            # The condition still uses the bound parameter, because SQLite refuses
            # unused named ones.
            clauses = clauses.replace(
                "status = :status", f"{_FAILED} AND :status <> ''"
            )
        counting = self._sql["count_attempts"].replace("{clauses}", clauses)
        listing = self._sql["attempts"].replace("{clauses}", clauses)
        values = {"tenant": tenant, "since": since, "until": until, **filters}

        def work(connection: Connection) -> tuple[list[UsageRow], int]:
            """Count and list in one transaction, so that both agree."""
            count: int = connection.execute(counting, values)[0]["count"]
            if skip >= count:
                return [], count
            return (
                _rows_from(
                    connection.execute(listing, {**values, "most": limit, "skip": skip})
                ),
                count,
            )

        return await self._database.read_together(work, is_long=True)

    async def percentiles(
        self, tenant: str, *, since: float, until: float
    ) -> list[dict[str, Any]]:
        """Return the percentiles of `latency` and `first_chunk` in seconds, by model,
        over successful attempts."""
        values = {"tenant": tenant, "since": since, "until": until}

        def work(connection: Connection) -> list[dict[str, Any]]:
            """Query both percentiles and join them by model."""
            latencies_by_model = {
                row["model"]: dict(row)
                for row in connection.execute(self._sql["latencies"], values)
            }
            for row in connection.execute(self._sql["first_chunks"], values):
                # A row may have been added between the two statements, so a model may
                # be missing.
                latencies = latencies_by_model.get(row["model"], {})
                latencies |= {
                    f"first_{name}": row[name] for name in ("p50", "p90", "p99")
                }
            return list(latencies_by_model.values())

        return await self._database.read_together(work, is_long=True)

    async def call_usage(self, name: str) -> CallUsage | None:
        """Return what a call used: by call id over all attempts, or by attempt id for
        one. None if there is no attempt."""
        # Looking rows up by primary key is fast; an attempt's id is the call's id and
        # its number.
        names = [name, *(f"{name}.{attempt}" for attempt in range(_MAX_ATTEMPTS))]
        rows = await self._database.fetch(
            self._sql["of_call"].replace("{places}", ", ".join("?" * len(names))), names
        )
        if not rows:
            return None
        is_served = any(is_answer(row["status"], row["first_chunk"]) for row in rows)
        return CallUsage(
            sum(int(row["tokens"]) for row in rows),
            sum(int(row["nanos"]) for row in rows),
            is_served,
        )

    # tidying

    async def delete_before(self, cutoff: float) -> None:
        """Delete rows older than `cutoff`, in small batches. What limits count remains
        in the sums."""
        if not self._sums.is_complete:
            # Rows that are not in the sums yet must not be deleted.
            return
        for row in await self._database.fetch(self._sql["tenants"]):
            while (
                until := await self._next_batch_end(row["tenant"], cutoff)
            ) is not None:
                values = row["tenant"], until
                # One transaction for each batch, so that other writers get their turn.
                await self._database.transact(
                    lambda connection, values=values: connection.execute(
                        self._sql["forget"], values
                    )
                )

    async def _next_batch_end(self, tenant: str, cutoff: float) -> float | None:
        """Return the time up to which the next batch is deleted; None if nothing is
        older than `cutoff`."""
        values = {"tenant": tenant, "before": cutoff, "most": _DELETE_BATCH_SIZE}
        return (await self._database.fetch(self._sql["oldest"], values))[0]["until"]


def _rows_from(rows: Iterable[Row]) -> list[UsageRow]:
    """Convert database rows."""
    return [row_from(tuple(dict(row).values())) for row in rows]


def time_values(tenant: str, since: float, until: float) -> dict[str, Any]:
    """Return the values of a statement about the calls of a time range."""
    # Attempts that decide about a call of the range may be made after its end.
    return {
        "tenant": tenant,
        "since": since,
        "until": until,
        "settled": until + SETTLED_SECONDS,
    }


def _report(rows: Iterable[Row], by: Sequence[str]) -> UsageReport:
    """Convert and sort the sums, most expensive first.

    The statement returns them nearly sorted already; sorting many unsorted ones would
    block the interpreter.
    """
    lines = _with_unserved([_summary(row, by) for row in rows])
    total = CallCounts(
        *(sum(getattr(line, name) for line in lines) for name in CallCounts._fields)
    )
    if "tag" in by:
        lines = _by_tag(lines, list(by).index("tag"))
    ordered = sorted(lines, key=lambda line: (-line.cost, -line.calls, line.key))
    return UsageReport(ordered, total)


def _with_unserved(lines: Sequence[UsageSummary]) -> list[UsageSummary]:
    """Return the sums with calls that cost nothing, and so have no currency, added to
    those of the same group."""
    merged = {(line.key, line.currency): line for line in lines if line.currency}
    currencies = {line.key: line.currency for line in merged.values()}
    for line in lines:
        if not line.currency:
            same = (line.key, currencies.get(line.key, "USD"))
            priced = msgspec.structs.replace(line, currency=same[1])
            merged[same] = _added(merged[same], priced) if same in merged else priced
    return list(merged.values())


def _by_tag(lines: Sequence[UsageSummary], place: int) -> list[UsageSummary]:
    """Return the sums by single tags. `place` is where the key has all tags of a call; a
    call with several tags counts for each."""
    sums: dict[tuple[str, ...], UsageSummary] = {}
    for line in lines:
        for tag in line.key[place].split(","):
            key = (*line.key[:place], tag, *line.key[place + 1 :])
            same = (*key, line.currency)
            tagged = msgspec.structs.replace(line, key=key)
            sums[same] = _added(sums[same], tagged) if same in sums else tagged
    return list(sums.values())


def _added(left: UsageSummary, right: UsageSummary) -> UsageSummary:
    """Return the sum of two groups of different calls with the same key."""
    added = {
        name: getattr(left, name) + getattr(right, name)
        for name in UsageSummary.__struct_fields__
        if name not in ("key", "currency")
    }
    return msgspec.structs.replace(left, **added)


def _summary(row: Row, by: Sequence[str]) -> UsageSummary:
    """Convert one row of sums."""
    columns = [GROUPINGS[name].strip('"') for name in by]
    return UsageSummary(
        key=tuple(
            str(row[column] if row[column] is not None else "") or "-"
            for column in columns
        ),
        calls=int(row["calls"]),
        attempts=int(row["attempts"]),
        failed=int(row["failed"]),
        cancelled=int(row["cancelled"]),
        refused=int(row["refused"]),
        failed_attempts=int(row["failed_attempts"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        reasoning_tokens=int(row["reasoning_tokens"]),
        characters=int(row["characters"]),
        seconds=float(row["seconds"]),
        searches=int(row["searches"]),
        # Adding 0 turns a negative zero into zero.
        cost=(Decimal(int(row["nanos"])) / _NANO).normalize() + 0,
        currency=row["currency"],
        unpriced=int(row["unpriced"]),
    )
