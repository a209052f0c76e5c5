"""Running totals of usage, by tenant, key, user and credential, per model, in buckets
of a day and of ten seconds.

The initial level of a limit's counter is a primary key look-up, regardless of the
ledger's size. Ledger rows older than the totals are added in the background. Rationale:
docs/design/0016-usage-sums.md.
"""

import asyncio
import hashlib
import heapq
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, Row
from modelyard.storage.statements import insert

DAY, SHORT_BUCKET_SECONDS = 86_400, 10
"""Bucket lengths in seconds: for daily, monthly and total limits, and for limits per
minute and hour."""
SHORT_BUCKET_RETENTION_SECONDS = 3 * 3600.0
"""Retention of short buckets; longer than twice the longest window that uses them."""
# On a shared database the same total is spread over this many rows, to avoid lock
# contention.
_PARTS = 64
_MOMENTS_A_DAY = DAY // SHORT_BUCKET_SECONDS
_OLD_AMOUNTS = ("calls", "served", "attempts", "answers", "tokens", "nanos")
_ROWS_OF_SPAN = 200_000
# Short transactions, so that other writes get their turn in between.
_LINES_AT_ONCE = 2_000
_SORTED_AT_ONCE = 1_000
_HOLD_SECONDS = 60.0
_MAX_NAME_BYTES = 256
"""Bytes. Five names of this length fit into one index entry of PostgreSQL."""

Scope = Literal["tenant", "key", "user", "credential"]
_OF_APPS = {"key": "app", "user": "app_user"}
"""Scope → the scope with the usage of calls that an app made on behalf of an API key.
"""


class UsageTotal(NamedTuple):
    """Usage of one model in one bucket, or summed over several."""

    model: str
    bucket: int
    calls: int
    served: int
    """Calls that produced an answer."""
    tokens: int
    # Cost in billionths of the currency unit.
    nanos: int


class UsageQuery(NamedTuple):
    """The subject of a usage query."""

    tenant: str
    scope: Scope
    name: str = ""
    """A key id, a user name, or `provider/credential`; empty for the tenant itself."""
    api_key: str = ""
    """Restricts the usage of a user to this key."""
    is_apps: bool = False
    """Whether the key is an app, whose usage on behalf of API keys is included."""


class LedgerAmounts(NamedTuple):
    """The fields of a ledger row that the totals need."""

    id: str
    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str
    created_at: float
    asked: str
    """The model by which the call's limits identify it, as `provider/model`."""
    model: str
    credential: str
    """`provider/name`."""
    is_answer: bool
    """Whether the attempt produced an answer or the start of one."""
    tokens: int
    nanos: int
    app: str = ""
    """`app:ID` of the app that made the call on behalf of the API key; empty if there
    is none."""


_Key = tuple[str, str, str, int, int, str, str]
"""(tenant, scope, name, span, bucket, model, api_key)"""
_GroupKey = tuple[str, str, str, str, str, str, str, int]
"""(tenant, api_key, app, user, asked, model, credential, moment)"""
_Line = tuple[_Key, tuple[int, ...]]
"""A key with (calls, served, tokens, nanos)."""


class UsageSums:
    """Reads and writes the totals."""

    def __init__(self, database: Database, *, writer: str = "") -> None:
        """`writer` identifies the process, so that processes on one database rarely
        update the same row."""
        self._database = database
        self._sql = database.statements("usage_sums")
        self._writer = writer
        digest = hashlib.sha256(writer.encode()).digest()
        # Derived from the process name: stable for a process, and spread evenly.
        self._part = digest[0] % _PARTS if database.is_shared else 0
        self._is_complete = False
        self._summing = asyncio.Lock()

    # Writing.

    def add(self, connection: Connection, rows: Sequence[LedgerAmounts]) -> None:
        """Add rows that were just inserted, within the same transaction."""
        # Rows that differ only in their amounts are combined first: on a busy server
        # these are most rows.
        alike: dict[_GroupKey, list[int]] = {}
        for row in rows:
            served = row.is_answer and not self._was_answered(connection, row)
            group_key = (
                row.tenant,
                row.api_key,
                row.app,
                row.user,
                row.asked,
                row.model,
                row.credential,
                int(row.created_at // SHORT_BUCKET_SECONDS),
            )
            totals = alike.get(group_key)
            if totals is None:
                totals = alike[group_key] = [0, 0, 0, 0, 0, 0]
            # A retry is an additional attempt of the same call, so only the first one
            # counts as a call.
            totals[0] += row.attempt <= 1
            totals[1] += served
            totals[2] += row.tokens
            totals[3] += row.nanos
            totals[4] += 1
            totals[5] += row.is_answer
        sums: dict[_Key, list[int]] = {}
        for group_key, (
            calls,
            served,
            tokens,
            nanos,
            attempts,
            answers,
        ) in alike.items():
            _add_to_totals(
                sums,
                group_key,
                (calls, served, tokens, nanos),
                (attempts, answers, tokens, nanos),
            )
        # Sorted, so that all servers lock rows in the same order and cannot deadlock.
        self._put(
            connection, sorted((key, tuple(amounts)) for key, amounts in sums.items())
        )

    def _was_answered(self, connection: Connection, row: LedgerAmounts) -> bool:
        """Return whether an earlier attempt of the call produced an answer and was
        counted as served."""
        if row.attempt <= 1:
            return False
        earlier = connection.execute(
            self._sql["earlier"], (row.tenant, row.invocation, row.attempt)
        )
        return any(
            is_answer(attempt_row["status"], attempt_row["first_chunk"])
            for attempt_row in earlier
        )

    def _put(self, connection: Connection, lines: Sequence[_Line]) -> None:
        """Add amounts to the totals with these keys, as a step of a transaction.

        Totals that do not exist are created. They are kept in parts, each process
        adding to its own, so that processes rarely wait for each other's rows.
        """
        insert(
            connection,
            self._sql["add"],
            [(*key, self._part, *amounts) for key, amounts in lines],
        )

    # Queries.

    async def between(
        self, sought: UsageQuery, first: int, last: int
    ) -> list[UsageTotal]:
        """Return the usage by model between two days, inclusive (days since the epoch)."""
        return await self._used(
            sought, DAY, first, last, group="model", bucket="MAX(bucket)"
        )

    async def moments(
        self, sought: UsageQuery, since: float, until: float
    ) -> list[UsageTotal]:
        """Return recent usage by model in buckets of ten seconds, oldest first.

        `since` and `until` are Unix times; buckets older than three hours have been
        deleted.
        """
        usages = await self._used(
            sought,
            SHORT_BUCKET_SECONDS,
            int(since // SHORT_BUCKET_SECONDS),
            int(until // SHORT_BUCKET_SECONDS),
            group="model, bucket",
            bucket="bucket",
        )
        return sorted(usages, key=lambda usage: usage.bucket)

    async def _used(
        self,
        sought: UsageQuery,
        span: int,
        first: int,
        last: int,
        *,
        group: str,
        bucket: str,
    ) -> list[UsageTotal]:
        """Return the totals of a query's subject in buckets `first` to `last`.

        `span` is a bucket's length in seconds. `group` and `bucket` are SQL inserted
        into the statement, never a caller's text: what to group by, and which bucket to
        report.
        """
        # Limits identify calls without a key or user as '-'; the totals store them as
        # an empty name.
        name = indexable(sought.name)
        values = {
            "tenant": sought.tenant,
            "scope": sought.scope,
            "apps": _OF_APPS[sought.scope] if sought.is_apps else sought.scope,
            "name": name,
            "other": "" if name == "-" else name,
            "span": span,
            "first": first,
            "last": last,
            "api_key": indexable(sought.api_key),
        }
        statement = (
            self._sql["used"].replace("{group}", group).replace("{bucket}", bucket)
        )
        rows = await self._database.fetch(statement, values)
        return [
            UsageTotal(
                row["model"],
                *(
                    int(row[name])
                    for name in ("bucket", "calls", "served", "tokens", "nanos")
                ),
            )
            for row in rows
        ]

    # Ledger rows older than the totals.

    @property
    def is_complete(self) -> bool:
        """Return whether all ledger rows are known to be included."""
        return self._is_complete

    async def reaches(self, tenant: str, since: float) -> bool:
        """Return whether all of a tenant's rows since a point in time are included."""
        return self._is_complete or (await self._unsummed()).get(tenant, 0.0) <= since

    async def _unsummed(self) -> dict[str, float]:
        """Return tenant → the time before which its rows are not included yet."""
        rows = await self._database.fetch(self._sql["unsummed"])
        self._is_complete = not rows
        return {row["tenant"]: float(row["until"]) for row in rows}

    async def sum_next_span(self, current_time: float, tenant: str = "") -> bool:
        """Add one span of old rows, newest first, of the named tenant or of any; return
        whether there was one to add.

        A span that another process is adding is skipped. A killed process's work is
        continued by the next.
        """
        if self._is_complete:
            return False
        # One span at a time per process: the progress row is claimed for the process,
        # not for a task.
        async with self._summing:
            left = await self._unsummed()
            for name in [tenant] if tenant else left:
                if (
                    name in left
                    and (progress_row := await self._claim(name, current_time))
                    is not None
                ):
                    await self._sum_span(name, progress_row, current_time)
                    return True
        return False

    def release(self, connection: Connection, writer: str) -> None:
        """Release the claims of an exited process, so that others can continue its
        work."""
        connection.execute(self._sql["release"], (writer,))

    async def _claim(self, tenant: str, current_time: float) -> Row | None:
        """Claim the tenant's progress row for this process, or return None if another
        process holds it."""
        until = current_time + _HOLD_SECONDS
        # A claim expires, so that an unresponsive process does not block the work; one
        # too far in the future comes from a clock jump.
        values = (
            self._writer,
            until,
            tenant,
            self._writer,
            current_time,
            until + _HOLD_SECONDS,
        )
        rows = await self._database.transact(
            lambda connection: connection.execute(self._sql["hold"], values)
        )
        return rows[0] if rows else None

    async def _sum_span(
        self, tenant: str, progress_row: Row, current_time: float
    ) -> None:
        """Add the next span of a tenant's old ledger rows, in batches.

        The tenant's progress row is claimed by this process. An interrupted span is
        continued after the lines that were added already; it stops if another process
        has taken over. If no old rows are left, the tenant is recorded as complete.
        """
        since, until, added_count = (
            progress_row["since"],
            float(progress_row["until"]),
            int(progress_row["done"]),
        )
        # No span in progress: choose the next one, going backwards in time.
        if since is None:
            values = {"tenant": tenant, "until": until, "most": _ROWS_OF_SPAN}
            since = (
                await self._database.fetch(self._sql["chunk"], values, is_long=True)
            )[0]["since"]
            statement, extra_values = (
                ("summed", ()) if since is None else ("span", (since,))
            )
            await self._database.transact(
                lambda connection: connection.execute(
                    self._sql[statement], (*extra_values, tenant, self._writer)
                )
            )
            if since is None:
                return
        # Old rows do not change, so every process computes the same lines in the same
        # order and can resume by count.
        batches = await self._old_batches(tenant, since, until, added_count)
        # Each batch is released after it is written: releasing all at once would block
        # the event loop.
        while batches:
            batch = batches.popleft()
            # Each batch advances the stored count in the same transaction, so that
            # nothing is added twice.
            advance = partial(
                self._advance,
                tenant,
                since,
                added_count,
                batch,
                current_time + _HOLD_SECONDS,
            )
            if not await self._database.transact(advance):
                return
            added_count += len(batch)
        passed = tenant, self._writer, since, added_count
        await self._database.transact(
            lambda connection: connection.execute(self._sql["passed"], passed)
        )

    def _advance(
        self,
        tenant: str,
        since: float,
        first: int,
        lines: Sequence[_Line],
        until: float,
        connection: Connection,
    ) -> bool:
        """Add one batch of lines and record the progress, in the same transaction.

        Returns False, adding nothing, if another process has taken over or got ahead.
        `until` is the time to which the claim is extended.
        """
        values = first + len(lines), until, tenant, self._writer, since, first
        # The update fails if another process took over or already advanced.
        if not connection.execute(self._sql["advance"], values):
            return False
        self._put(connection, lines)
        return True

    async def _old_batches(
        self, tenant: str, since: float, until: float, added_count: int
    ) -> deque[list[_Line]]:
        """Return the batches of the span that are not included yet."""
        values = {"tenant": tenant, "since": since, "until": until}

        def work(connection: Connection) -> deque[list[_Line]]:
            """Compute the lines from one query on the long-running reader."""
            lines = _lines_of(tenant, connection.execute(self._sql["old"], values))
            offsets = range(added_count, len(lines), _LINES_AT_ONCE)
            return deque(lines[first : first + _LINES_AT_ONCE] for first in offsets)

        return await self._database.read_together(work, is_long=True)

    # Cleanup.

    async def forget_moments(self, current_time: float) -> None:
        """Delete short buckets that no window reaches any more, one bucket per
        transaction."""
        cutoff_bucket = int(
            (current_time - SHORT_BUCKET_RETENTION_SECONDS) // SHORT_BUCKET_SECONDS
        )
        # Small steps keep the writer available for others.
        while True:
            oldest = (await self._database.fetch(self._sql["oldest"]))[0]["bucket"]
            if oldest is None or oldest >= cutoff_bucket:
                return
            await self._database.transact(
                lambda connection, bucket=oldest: connection.execute(
                    self._sql["drop"], (bucket,)
                )
            )


def _lines_of(tenant: str, rows: Sequence[Row]) -> list[_Line]:
    """Return the totals for old ledger rows in a fixed order.

    The rows come grouped by day, and only totals per day result. Old rows have no app.
    """
    sums: dict[_Key, list[int]] = {}
    for row in rows:
        model, credential = (
            f"{row['provider']}/{row['model']}",
            f"{row['provider']}/{row['credential']}",
        )
        # Old rows are grouped by day; the day's first moment stands for it.
        moment = int(row["bucket"]) * _MOMENTS_A_DAY
        group_key = (
            tenant,
            row["api_key"],
            "",
            row["user"] or "",
            model,
            model,
            credential,
            moment,
        )
        calls, served, attempts, answers, tokens, nanos = (
            int(row[name]) for name in _OLD_AMOUNTS
        )
        _add_to_totals(
            sums,
            group_key,
            (calls, served, tokens, nanos),
            (attempts, answers, tokens, nanos),
            has_moments=False,
        )
    return _in_order([(key, tuple(amounts)) for key, amounts in sums.items()])


def _in_order(lines: Sequence[_Line]) -> list[_Line]:
    """Sort in small parts and merge: one large sort would hold the interpreter lock and
    stall the event loop."""
    parts = [
        sorted(lines[first : first + _SORTED_AT_ONCE])
        for first in range(0, len(lines), _SORTED_AT_ONCE)
    ]
    return list(heapq.merge(*parts))


def _add_to_totals(
    sums: dict[_Key, list[int]],
    group_key: _GroupKey,
    by_call: tuple[int, int, int, int],
    by_attempt: tuple[int, int, int, int],
    *,
    has_moments: bool = True,
) -> None:
    """Add the amounts to every total they count for: tenant, key, user, credential, and
    the app if there is one.

    Credentials are charged per attempt, everything else per call.
    """
    tenant, api_key, app, user, requested_model, model, credential = (
        indexable(text) for text in group_key[:7]
    )
    moment = group_key[7]
    # Old rows have no short buckets: no window reaches back that far.
    for span, bucket in (
        ((DAY, moment // _MOMENTS_A_DAY), (SHORT_BUCKET_SECONDS, moment))
        if has_moments
        else ((DAY, moment // _MOMENTS_A_DAY),)
    ):
        _increase(
            sums, (tenant, "tenant", "", span, bucket, requested_model, ""), by_call
        )
        _increase(
            sums, (tenant, "key", api_key, span, bucket, requested_model, ""), by_call
        )
        _increase(
            sums,
            (tenant, "user", user, span, bucket, requested_model, api_key),
            by_call,
        )
        _increase(
            sums,
            (tenant, "credential", credential, span, bucket, model, ""),
            by_attempt,
        )
        if app:
            _increase(
                sums,
                (tenant, _OF_APPS["key"], app, span, bucket, requested_model, ""),
                by_call,
            )
            _increase(
                sums,
                (tenant, _OF_APPS["user"], user, span, bucket, requested_model, app),
                by_call,
            )


def _increase(
    sums: dict[_Key, list[int]], key: _Key, amounts: tuple[int, int, int, int]
) -> None:
    """Add amounts to the totals under a key, in place, creating them if missing."""
    totals = sums.setdefault(key, [0] * len(amounts))
    for index, amount in enumerate(amounts):
        totals[index] += amount


def is_answer(status: str, first_chunk: float | None) -> bool:
    """Return whether a ledger row stands for an answer or the start of one."""
    return status in ("ok", "cached", "lost") or first_chunk is not None


def indexable(text: str) -> str:
    """Return a name that fits into an index: a long one is shortened to its beginning
    and a digest."""
    # A character has at most 4 bytes in UTF-8, so short names need no encoding.
    if len(text) <= _MAX_NAME_BYTES // 4:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_NAME_BYTES:
        return text
    # 65 bytes for `~` and 64 hexadecimal digits. The cut may halve a character.
    beginning = data[: _MAX_NAME_BYTES - 65].decode("utf-8", "ignore")
    return f"{beginning}~{hashlib.sha256(data).hexdigest()}"
