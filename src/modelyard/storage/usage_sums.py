"""What was used, added up as it is written: by tenant, key, user and credential, each with its models, a day and ten
seconds at a time.

Where a limit's counter starts is a look-up by the primary key, however many rows the ledger has. Rows from before there
were sums are added in the background. Why so: docs/design/0016-usage-sums.md.
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

DAY, MOMENT = 86_400, 10
"""Seconds that buckets last: for limits a day, a month and in all; for limits a minute and an hour."""
KEPT_SECONDS = 3 * 3600.0
"""Short buckets are kept for so long: longer than two of the longest window that needs them."""
_PARTS = 64
_MOMENTS_A_DAY = DAY // MOMENT
_OLD_AMOUNTS = ("calls", "served", "attempts", "answers", "tokens", "nanos")
_ROWS_OF_SPAN = 200_000
_LINES_AT_ONCE = 2_000
_SORTED_AT_ONCE = 1_000
_HOLD_SECONDS = 60.0
_LONGEST_NAME = 256
"""Bytes: five such names fit into one entry of PostgreSQL's index."""

Scope = Literal["tenant", "key", "user", "credential"]
_OF_APPS = {"key": "app", "user": "app_user"}
"""Scope → where the same is kept of calls that an app made on behalf of an API key."""


class Used(NamedTuple):
    """What was used of one model in one bucket, or in several together."""

    model: str
    bucket: int
    calls: int
    served: int
    """Calls that brought an answer."""
    tokens: int
    nanos: int


class Sought(NamedTuple):
    """Whose use is looked up."""

    tenant: str
    scope: Scope
    name: str = ""
    """A key's id, a user's name, `provider/credential`; empty for a tenant's own."""
    api_key: str = ""
    """Of a user's use, that with this key alone."""
    is_apps: bool = False
    """The key is an app: what it used on behalf of API keys belongs to it too."""


class Booked(NamedTuple):
    """What of a ledger's row matters here."""

    id: str
    invocation: str
    attempt: int
    tenant: str
    api_key: str
    user: str
    created_at: float
    asked: str
    """The model that the call's limits knew it by, as `provider/model`."""
    model: str
    credential: str
    """`provider/name`."""
    is_answer: bool
    """Whether it brought an answer, or the beginning of one."""
    tokens: int
    nanos: int
    app: str = ""
    """`app:ID` of the app that made the call on behalf of the API key; empty where none did."""


_Key = tuple[str, str, str, int, int, str, str]  # tenant, scope, name, span, bucket, model, api_key
_Alike = tuple[str, str, str, str, str, str, str, int]  # tenant, api_key, app, user, asked, model, credential, moment
_Line = tuple[_Key, tuple[int, ...]]  # calls, served, tokens, nanos


class UsageSums:
    def __init__(self, database: Database, *, writer: str = "") -> None:
        """`writer` names the process: several that write to one database should seldom add to the same row."""
        self._database = database
        self._sql = database.statements("usage_sums")
        self._writer = writer
        digest = hashlib.sha256(writer.encode()).digest()
        self._part = digest[0] % _PARTS if database.is_shared else 0
        self._is_complete = False
        self._summing = asyncio.Lock()

    # writing

    def add(self, connection: Connection, rows: Sequence[Booked]) -> None:
        """Add rows that were just inserted, in the transaction that inserted them."""
        # First what differs in nothing but its amounts: most of a busy server's rows.
        alike: dict[_Alike, list[int]] = {}
        for row in rows:
            served = row.is_answer and not self._was_answered(connection, row)
            what = (
                row.tenant, row.api_key, row.app, row.user, row.asked, row.model, row.credential,
                int(row.created_at // MOMENT),
            )  # fmt: skip
            known = alike.get(what)
            if known is None:
                known = alike[what] = [0, 0, 0, 0, 0, 0]
            known[0] += row.attempt <= 1
            known[1] += served
            known[2] += row.tokens
            known[3] += row.nanos
            known[4] += 1
            known[5] += row.is_answer
        sums: dict[_Key, list[int]] = {}
        for what, (calls, served, tokens, nanos, attempts, answers) in alike.items():
            _spread(sums, what, (calls, served, tokens, nanos), (attempts, answers, tokens, nanos))
        # In one order, as other servers do: nobody waits for a row of somebody who waits for theirs.
        self._put(connection, sorted((key, tuple(amounts)) for key, amounts in sums.items()))

    def _was_answered(self, connection: Connection, row: Booked) -> bool:
        """Whether an earlier attempt of the call brought an answer, so that it is counted already."""
        if row.attempt <= 1:
            return False
        earlier = connection.execute(self._sql["earlier"], (row.tenant, row.invocation, row.attempt))
        return any(is_answer(one["status"], one["first_chunk"]) for one in earlier)

    def _put(self, connection: Connection, lines: Sequence[_Line]) -> None:
        insert(connection, self._sql["add"], [(*key, self._part, *amounts) for key, amounts in lines])

    # reading

    async def between(self, sought: Sought, first: int, last: int) -> list[Used]:
        """What was used from one day to another (days since 1970), by model."""
        return await self._used(sought, DAY, first, last, group="model", bucket="MAX(bucket)")

    async def moments(self, sought: Sought, since: float, until: float) -> list[Used]:
        """What was used lately, by model, ten seconds at a time, in their order."""
        found = await self._used(
            sought, MOMENT, int(since // MOMENT), int(until // MOMENT), group="model, bucket", bucket="bucket"
        )
        return sorted(found, key=lambda one: one.bucket)

    async def _used(self, sought: Sought, span: int, first: int, last: int, *, group: str, bucket: str) -> list[Used]:
        # Limits know calls without a key or user as those of '-'.
        name = indexable(sought.name)
        values = {
            "tenant": sought.tenant, "scope": sought.scope,
            "apps": _OF_APPS[sought.scope] if sought.is_apps else sought.scope,
            "name": name, "other": "" if name == "-" else name,
            "span": span, "first": first, "last": last, "api_key": indexable(sought.api_key),
        }  # fmt: skip
        statement = self._sql["used"].replace("{group}", group).replace("{bucket}", bucket)
        rows = await self._database.fetch(statement, values)
        return [
            Used(row["model"], *(int(row[name]) for name in ("bucket", "calls", "served", "tokens", "nanos")))
            for row in rows
        ]

    # rows from before there were sums

    @property
    def is_complete(self) -> bool:
        """Whether every row is known to be in the sums."""
        return self._is_complete

    async def reaches(self, tenant: str, since: float) -> bool:
        """Whether all of a tenant's rows from a moment on are in the sums."""
        return self._is_complete or (await self._left()).get(tenant, 0.0) <= since

    async def _left(self) -> dict[str, float]:
        """Tenant → until when its rows are not in the sums yet."""
        rows = await self._database.fetch(self._sql["unsummed"])
        self._is_complete = not rows
        return {row["tenant"]: float(row["until"]) for row in rows}

    async def sum_more(self, now: float, tenant: str = "") -> bool:
        """Add a span of the rows from before there were sums, newest first, this tenant's where one is named; whether
        there was one that nobody else adds. A process that is killed in the middle is gone on from by the next."""
        if self._is_complete:
            return False
        async with self._summing:
            left = await self._left()
            for name in [tenant] if tenant else left:
                if name in left and (held := await self._held(name, now)) is not None:
                    await self._sum_span(name, held, now)
                    return True
        return False

    def release(self, connection: Connection, writer: str) -> None:
        """Let others go on with what a process that is gone was adding."""
        connection.execute(self._sql["release"], (writer,))

    async def _held(self, tenant: str, now: float) -> Row | None:
        """How far the tenant's rows are added, where it is for this process to go on."""
        until = now + _HOLD_SECONDS
        values = self._writer, until, tenant, self._writer, now, until + _HOLD_SECONDS
        rows = await self._database.transact(lambda it: it.execute(self._sql["hold"], values))
        return rows[0] if rows else None

    async def _sum_span(self, tenant: str, held: Row, now: float) -> None:
        since, until, done = held["since"], float(held["until"]), int(held["done"])
        if since is None:
            values = {"tenant": tenant, "until": until, "most": _ROWS_OF_SPAN}
            since = (await self._database.fetch(self._sql["chunk"], values, is_long=True))[0]["since"]
            statement, given = ("summed", ()) if since is None else ("span", (since,))
            await self._database.transact(lambda it: it.execute(self._sql[statement], (*given, tenant, self._writer)))
            if since is None:
                return
        # The same lines in the same order, whoever adds them up: these rows do not change.
        batches = await self._old_batches(tenant, since, until, done)
        while batches:  # each is let go of when it is in: all at once would hold the loop
            some = batches.popleft()
            advance = partial(self._advance, tenant, since, done, some, now + _HOLD_SECONDS)
            if not await self._database.transact(advance):
                return
            done += len(some)
        passed = tenant, self._writer, since, done
        await self._database.transact(lambda it: it.execute(self._sql["passed"], passed))

    def _advance(
        self, tenant: str, since: float, first: int, lines: Sequence[_Line], until: float, connection: Connection
    ) -> bool:
        values = first + len(lines), until, tenant, self._writer, since, first
        if not connection.execute(self._sql["advance"], values):
            return False
        self._put(connection, lines)
        return True

    async def _old_batches(self, tenant: str, since: float, until: float, done: int) -> deque[list[_Line]]:
        """Those that are not in yet."""
        values = {"tenant": tenant, "since": since, "until": until}

        def work(connection: Connection) -> deque[list[_Line]]:
            lines = _lines_of(tenant, connection.execute(self._sql["old"], values))
            places = range(done, len(lines), _LINES_AT_ONCE)
            return deque(lines[first : first + _LINES_AT_ONCE] for first in places)

        return await self._database.at_once(work, is_long=True)

    # tidying

    async def forget_moments(self, now: float) -> None:
        """Drop short buckets that no window reaches any more, a few rows at a time."""
        before = int((now - KEPT_SECONDS) // MOMENT)
        while True:
            oldest = (await self._database.fetch(self._sql["oldest"]))[0]["bucket"]
            if oldest is None or oldest >= before:
                return
            await self._database.transact(lambda it, bucket=oldest: it.execute(self._sql["drop"], (bucket,)))


def _lines_of(tenant: str, rows: Sequence[Row]) -> list[_Line]:
    sums: dict[_Key, list[int]] = {}
    for row in rows:
        model, credential = f"{row['provider']}/{row['model']}", f"{row['provider']}/{row['credential']}"
        moment = int(row["bucket"]) * _MOMENTS_A_DAY
        what = tenant, row["api_key"], "", row["user"] or "", model, model, credential, moment
        calls, served, attempts, answers, tokens, nanos = (int(row[name]) for name in _OLD_AMOUNTS)
        _spread(sums, what, (calls, served, tokens, nanos), (attempts, answers, tokens, nanos), has_moments=False)
    return _in_order([(key, tuple(amounts)) for key, amounts in sums.items()])


def _in_order(lines: Sequence[_Line]) -> list[_Line]:
    """Sorted a few at a time: sorting all at once would hold the interpreter, and with it the loop, for long."""
    parts = [sorted(lines[first : first + _SORTED_AT_ONCE]) for first in range(0, len(lines), _SORTED_AT_ONCE)]
    return list(heapq.merge(*parts))


def _spread(
    sums: dict[_Key, list[int]],
    what: _Alike,
    by_call: tuple[int, int, int, int],
    by_attempt: tuple[int, int, int, int],
    *,
    has_moments: bool = True,
) -> None:
    """Add the amounts to those of all whom they are counted for."""
    tenant, api_key, app, user, asked, model, credential = (indexable(text) for text in what[:7])
    moment = what[7]
    for span, bucket in (
        ((DAY, moment // _MOMENTS_A_DAY), (MOMENT, moment)) if has_moments else ((DAY, moment // _MOMENTS_A_DAY),)
    ):
        _increase(sums, (tenant, "tenant", "", span, bucket, asked, ""), by_call)
        _increase(sums, (tenant, "key", api_key, span, bucket, asked, ""), by_call)
        _increase(sums, (tenant, "user", user, span, bucket, asked, api_key), by_call)
        _increase(sums, (tenant, "credential", credential, span, bucket, model, ""), by_attempt)
        if app:
            _increase(sums, (tenant, _OF_APPS["key"], app, span, bucket, asked, ""), by_call)
            _increase(sums, (tenant, _OF_APPS["user"], user, span, bucket, asked, app), by_call)


def _increase(sums: dict[_Key, list[int]], key: _Key, amounts: tuple[int, int, int, int]) -> None:
    known = sums.get(key)
    if known is None:
        sums[key] = list(amounts)
    else:
        for place, amount in enumerate(amounts):
            known[place] += amount


def is_answer(status: str, first_chunk: float | None) -> bool:
    """Whether a row stands for an answer, or the beginning of one."""
    return status in ("ok", "cached", "lost") or first_chunk is not None


def indexable(text: str) -> str:
    """A name that an index takes: of a long one its beginning and a digest."""
    if len(text) <= _LONGEST_NAME // 4:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= _LONGEST_NAME:
        return text
    beginning = data[: _LONGEST_NAME - 65].decode("utf-8", "ignore")
    return f"{beginning}~{hashlib.sha256(data).hexdigest()}"
