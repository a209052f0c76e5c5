"""A database that takes its time holds up nobody but whoever asks it: the loop goes on, whatever is called.

First every route of every API, with a key, with a cookie that is nobody's and with neither, beside a database whose
every statement takes a second and a half, SQLite and PostgreSQL. Two things are looked at: whether a statement is made
on the loop's own thread, which is seen without a clock, and how long the loop stood still, by a task that ticks. What
holds the loop holds it each time, and whatever else runs on the machine does not: a call that stood out is made again,
and the least counts. Then the real case: usage is asked for in a ledger of 600,000 rows, and strangers show cookies.
"""

import asyncio
import json
import os
import re
import secrets
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.cli.serve import settle_process
from modelyard.gateway.auth import SESSION_COOKIE
from modelyard.gateway.server import Gateway
from modelyard.storage import database as storage
from modelyard.storage.database import Connection, Engine, Row
from modelyard.testing import Upstream
from tools.show.fuzz import Case, make_world, start_cases, upstream_answer
from tools.show.proof import ROOT, Proof
from tools.show.restart import make
from tools.show.tenancy import World

STATEMENT_SECONDS = float(os.environ.get("MODELYARD_SHOW_SECONDS", "1.5"))
ROWS = int(os.environ.get("MODELYARD_SHOW_ROWS", "600000"))
ROUNDS = int(os.environ.get("MODELYARD_SHOW_ROUNDS", "3"))
_MOST_STALL = 0.05
_TICK_SECONDS = 0.005
_LOOK_SECONDS = 0.01
_AT_ONCE = 12
_OPENING = ("BEGIN", "SAVEPOINT", "RELEASE")
"""What says where work begins and ends takes no time: the statements between do, and so does the commit."""
_STAY_SECONDS = 80 * STATEMENT_SECONDS
"""So long a caller stays: streams without an end are left then."""
_MOST_SECONDS = 300 * STATEMENT_SECONDS
_UPKEEP_SECONDS = 4 * STATEMENT_SECONDS
_KEY, _STRANGER, _NOBODY = "with a key", "with a stranger's cookie", "with neither"


# ------------------------------------------------------------------------------------------------ watching a loop


@dataclass(frozen=True)
class Stall:
    """The loop stood still: for how long, in whose task, and where the code stood meanwhile."""

    seconds: float
    who: str
    where: str
    worked: float = 0.0
    """Of these seconds, those that the process was given a processor for: on a machine that others use, the rest is
    theirs."""


class Watch:
    """Of the loop that it is entered on: how long it stood still, and who held it. A task ticks; a thread looks, and
    where the tick is late it notes whose task runs and where."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self._ticked = time.monotonic()
        self._is_over = threading.Event()
        self._late: tuple[str, str] | None = None
        self.stalls: list[Stall] = []
        self.statements: list[Stall] = []
        """Those that were made on the loop."""

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        self._loop.set_task_factory(_named_as_the_parent)
        looker = threading.Thread(target=self._look, daemon=True)
        looker.start()
        ticking = asyncio.create_task(self._tick(), name="the tick")
        try:
            yield
        finally:
            ticking.cancel()
            self._is_over.set()
            looker.join()
            self._loop.set_task_factory(None)

    async def _tick(self) -> None:
        while True:
            self._late = None
            self._ticked, worked = time.monotonic(), time.process_time()
            await asyncio.sleep(_TICK_SECONDS)
            seconds = time.monotonic() - self._ticked - _TICK_SECONDS
            if seconds > _MOST_STALL / 2:
                who, where = self._late or ("nobody was seen", "")
                self.stalls.append(Stall(seconds, who, where, min(seconds, time.process_time() - worked)))

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            if self._late is None and time.monotonic() - self._ticked > _MOST_STALL / 2:
                self._late = self.now()

    def now(self) -> tuple[str, str]:
        """Whose task runs on the loop, and where."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]
        return (task.get_name() if task is not None else "no task"), _place(frame)

    def note_statement(self) -> None:
        """A statement begins: note it where it is on the loop."""
        if threading.get_ident() == self.thread:
            self.statements.append(Stall(0.0, *self.now()))

    def taken(self) -> list[Stall]:
        """What was seen since it was asked last: statements on the loop, then when it stood still."""
        seen = [*self.statements, *self.stalls]
        self.statements, self.stalls = [], []
        return seen


def _named_as_the_parent(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    """A task that a call begins is that call's."""
    parent = asyncio.current_task(loop)
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if parent is not None:
        task.set_name(parent.get_name())
    return task


def _place(frame: FrameType | None) -> str:
    """The product's innermost two lines, those of its storage left out where others asked for something of it."""
    source = ROOT / "src" / "modelyard"
    ours = [one for one in traceback.extract_stack(frame) if Path(one.filename).is_relative_to(source)]
    above = [one for one in ours if not Path(one.filename).is_relative_to(source / "storage")]
    lines = [f"{Path(one.filename).relative_to(source)}:{one.lineno}" for one in (above or ours)[-2:]]
    return " < ".join(reversed(lines))


# ------------------------------------------------------------------------------------------------ a slow database


@dataclass
class Pace:
    """How long statements take, and who is told of each."""

    seconds: float = 0.0
    on_statement: Callable[[], None] = lambda: None

    def take_time(self, statement: str) -> None:
        self.on_statement()
        if self.seconds and not statement.startswith(_OPENING):
            time.sleep(self.seconds)


class _SlowConnection:
    def __init__(self, connection: Connection, pace: Pace) -> None:
        self._connection = connection
        self._pace = pace

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        self._pace.take_time(statement)
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._pace.take_time(statement)
        self._connection.execute_many(statement, rows)

    def close(self) -> None:
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _SlowEngine:
    def __init__(self, engine: Engine, pace: Pace) -> None:
        self._engine = engine
        self._pace = pace

    def connect(self) -> Connection:
        return _SlowConnection(self._engine.connect(), self._pace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@contextmanager
def paced(pace: Pace) -> Generator[None]:
    """Databases that are opened meanwhile have this pace."""
    usual = storage.open_engine
    storage.open_engine = lambda where: _SlowEngine(usual(where), pace)  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        storage.open_engine = usual


# ------------------------------------------------------------------------------------------------ every route


def every_route(world: World) -> list[Case]:
    """A request of every route of every API, by whoever may ask it, with the ids of what is there; those that take
    something away last."""
    ids = sorted({id_ for many in world.ids.values() for id_ in many}, key=len, reverse=True)
    chosen: dict[tuple[str, str], Case] = {}
    for (_, method, _), cases in start_cases(world).items():
        for case in cases:
            route = method, _pattern(case.path, ids)
            if route not in chosen or _says(case) > _says(chosen[route]):
                chosen[route] = case
    return sorted(chosen.values(), key=lambda case: case.method == "DELETE")


def _pattern(path: str, ids: Sequence[str]) -> str:
    """A path without its query and without the ids in it."""
    bare = path.partition("?")[0].rstrip("/")
    for id_ in ids:
        bare = bare.replace(id_, "ID")
    return re.sub(r"(?<=/)(ID/?)+$", "ID", bare)


def _says(case: Case) -> tuple[bool, bool]:
    """Whether somebody who may ask does, and whether they send something."""
    return bool(case.key), case.body is not None or case.raw is not None


@dataclass
class Call:
    """A route, as somebody asks it."""

    case: Case
    how: str
    is_first: bool = True
    first: float = 0.0
    stall: float = 0.0
    """The least of the tries."""
    where: str = ""
    is_on_loop: bool = False
    """Whether a statement was made on the loop."""
    status: int = 0

    @property
    def name(self) -> str:
        return f"{self.case.method} {self.case.path.partition('?')[0]} {self.how}"

    @property
    def is_fine(self) -> bool:
        return self.stall < _MOST_STALL and not self.is_on_loop

    def seen(self, stalls: Sequence[Stall]) -> None:
        mine = max((one for one in stalls if one.who == self.name), key=lambda one: one.seconds, default=None)
        seconds = mine.seconds if mine is not None else 0.0
        if self.is_first:
            self.first = self.stall = seconds
        self.stall = min(self.stall, seconds)
        self.is_first = False
        self.is_on_loop |= any(one.who == self.name and one.seconds == 0 for one in stalls)
        if mine is not None:
            self.where = mine.where


def every_call(world: World) -> Iterator[Call]:
    routes = every_route(world)
    for case in routes:
        if case.key:
            yield Call(case, _KEY)
    for case in routes:
        yield Call(replace(case, key=""), _STRANGER)
        yield Call(replace(case, key=""), _NOBODY)


def _headers(world: World, call: Call, data: bytes) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in call.case.headers}
    headers = [(b"host", b"127.0.0.1"), (b"content-length", str(len(data)).encode()), *call.case.headers]
    if b"content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    if call.how == _KEY:
        headers.append((b"authorization", f"Bearer {world.keys[call.case.key]}".encode()))
    if call.how == _STRANGER:
        headers.append((b"cookie", f"{SESSION_COOKIE}={secrets.token_urlsafe(32)}".encode()))
        headers.append((b"sec-fetch-site", b"same-origin"))
    return headers


async def ask(gateway: Gateway, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], data: bytes) -> int:
    """The answer's status; 0 where there was none. The caller leaves after a while."""
    target, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": urllib.parse.unquote(target), "query_string": query.encode(),
        "headers": headers, "client": ("127.0.0.1", 5), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": data, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(_STAY_SECONDS)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    with suppress(Exception):  # a stream that breaks is cut, as the server does it; the log has said why
        await asyncio.wait_for(gateway(scope, receive, send), _MOST_SECONDS)
    return statuses[0] if statuses else 0


async def _made(world: World, call: Call) -> None:
    data = call.case.raw if call.case.raw is not None else b""
    if call.case.body is not None:
        data = json.dumps(call.case.body).encode()
    headers = _headers(world, call, data)
    call.status = await ask(world.gateway, call.case.method, call.case.path, headers, data)


async def _made_together(world: World, calls: Sequence[Call], watch: Watch) -> None:
    """So many at once; each is charged with what its own tasks did."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Call) -> None:
        async with places:
            await asyncio.create_task(_made_as(world, call))

    await asyncio.gather(*(one(call) for call in calls))
    stalls = watch.taken()
    for call in calls:
        call.seen(stalls)


async def _made_as(world: World, call: Call) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name(call.name)
    await _made(world, call)


@dataclass
class Outcome:
    calls: list[Call]
    upkeep: list[Stall]
    """What the server did to the loop by itself."""


async def slow_database(url: str) -> Outcome:
    """Every call beside a slow database; `url` empty is SQLite in a folder of its own."""
    pace = Pace()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-", ignore_cleanup_errors=True) as home,
        paced(pace),
        Upstream(upstream_answer) as upstream,
    ):
        world = await make_world(home, upstream.url, database=url)
        watch = Watch()
        async with watch.watching():
            try:
                pace.seconds, pace.on_statement = STATEMENT_SECONDS, watch.note_statement
                return await _every_call_made(world, watch)
            finally:
                pace.seconds, pace.on_statement = 0.0, lambda: None
                await world.yard.aclose()


async def _every_call_made(world: World, watch: Watch) -> Outcome:
    upkeep = await _upkeep(world.yard, watch)
    calls = list(every_call(world))
    await _made_together(world, calls, watch)
    for _ in range(2):
        again = [call for call in calls if not call.is_fine and not call.is_on_loop]
        await _made_together(world, again, watch)
    return Outcome(calls, upkeep)


async def _upkeep(yard: Modelyard, watch: Watch) -> list[Stall]:
    watch.taken()
    yard.services.upkeep.start()
    await asyncio.sleep(_UPKEEP_SECONDS)
    await yard.services.upkeep.stop()
    return watch.taken()


def _say(proof: Proof, engine: str, outcome: Outcome) -> None:
    held = sorted((call for call in outcome.calls if not call.is_fine), key=lambda call: -call.stall)
    for how in (_KEY, _STRANGER, _NOBODY):
        those = [call for call in outcome.calls if call.how == how]
        worst = max(those, key=lambda call: call.stall)
        on_loop = sum(call.is_on_loop for call in those)
        seen = f"{len(those)} routes, longest stall {worst.stall * 1000:.0f} ms, {on_loop} with a statement on the loop"
        proof.line(f"{engine}, {how}", seen, all(call.is_fine for call in those))
    for call in held:
        note = "a statement on the loop" if call.is_on_loop else f"{call.stall * 1000:.0f} ms"
        proof.line(f"  {call.name}", f"{note}: {call.where}", False)
    on_loop = [one for one in outcome.upkeep if one.seconds == 0]
    longest = max((one.seconds for one in outcome.upkeep), default=0.0)
    seen = f"longest stall {longest * 1000:.0f} ms, {len(on_loop)} statements on the loop"
    proof.line(f"{engine}, the server by itself", seen, longest < _MOST_STALL and not on_loop)
    for where in sorted({one.where for one in outcome.upkeep if one.seconds == 0 or one.seconds >= _MOST_STALL}):
        proof.line("  the server by itself", where, False)
    firsts = [call for call in outcome.calls if call.is_fine and call.first >= _MOST_STALL]
    for call in firsts:  # what a first use reads or imports, or the machine: never again
        proof.line(f"  {call.name}, once", f"{call.first * 1000:.0f} ms: {call.where}")
    for call in outcome.calls:
        if call.status == 0:
            proof.line(f"  {call.name}", f"no answer within {_MOST_SECONDS:.0f} s", False)
    statuses = Counter(call.status for call in outcome.calls)
    proof.line(f"{engine}, answers", dict(sorted(statuses.items())), statuses[0] == 0 and statuses[200] > 0)
    proof.figures[engine] = {
        "calls": len(outcome.calls), "held": len(held), "longest_ms": round(max(c.stall for c in outcome.calls) * 1000),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ a large ledger


@dataclass
class Asked:
    """A way to ask for usage: what was seen of the loop meanwhile, each time."""

    path: str
    times: list[Sequence[Stall]] = field(default_factory=list[Sequence[Stall]])
    statuses: set[int] = field(default_factory=set[int])

    @property
    def longest(self) -> float:
        """Of the time when the loop stood still least, as for every other call."""
        return min(max((one.worked for one in stalls), default=0.0) for stalls in self.times)

    @property
    def is_on_loop(self) -> bool:
        return any(one.seconds == 0 for stalls in self.times for one in stalls)


_READS = (
    "/admin/v1/usage?since=0", "/admin/v1/usage?since=0&by=day,user", "/admin/v1/usage/rows?since=0",
    "/admin/v1/usage/rows?since=0&format=csv", "/admin/v1/calls?since=0&limit=1000&offset=1000",
    "/admin/v1/latency?since=0",
)  # fmt: skip


async def large_ledger() -> tuple[list[Asked], int]:
    """Each way to ask, and how many cookies strangers showed meanwhile."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-", ignore_cleanup_errors=True) as home:
        settings = Settings(home=home)
        made = await asyncio.to_thread(make, Path(home), settings.database_url, ROWS)
        _, key = made.keys["k1"]
        pace = Pace()
        with paced(pace):
            yard = Modelyard(settings, environ={})
        gateway = gateway_for(yard.services)
        settle_process()
        watch = Watch()
        pace.on_statement = watch.note_statement
        try:
            async with watch.watching():
                yard.services.upkeep.start()
                return await _asked_in_every_way(gateway, key, watch)
        finally:
            await yard.aclose()


async def _asked_in_every_way(gateway: Gateway, key: str, watch: Watch) -> tuple[list[Asked], int]:
    shown: Counter[str] = Counter()
    strangers = asyncio.create_task(_strangers(gateway, shown))
    bearer = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key}".encode())]
    ways = [Asked(path) for path in _READS]
    for _ in range(ROUNDS):
        for way in ways:
            watch.taken()
            way.statuses.add(await ask(gateway, "GET", way.path, bearer, b""))
            way.times.append(watch.taken())
    strangers.cancel()
    with suppress(asyncio.CancelledError):
        await strangers
    return ways, shown["cookies"]


async def _strangers(gateway: Gateway, shown: Counter[str]) -> None:
    while True:
        cookie = f"{SESSION_COOKIE}={secrets.token_urlsafe(32)}".encode()
        headers = [(b"host", b"127.0.0.1"), (b"cookie", cookie), (b"sec-fetch-site", b"same-origin")]
        await ask(gateway, "GET", "/admin/v1/usage", headers, b"")
        shown["cookies"] += 1
        await asyncio.sleep(0.02)


def _say_of_ledger(proof: Proof, ways: Sequence[Asked], strangers: int) -> None:
    for way in ways:
        is_fine = way.longest < _MOST_STALL and not way.is_on_loop and way.statuses == {200}
        note = ", a statement on the loop" if way.is_on_loop else ""
        seen = f"longest stall {way.longest * 1000:.0f} ms, answered {sorted(way.statuses)}{note}"
        proof.line(f"{ROWS:,} rows: GET {way.path}", seen, is_fine)
    proof.line("strangers' cookies meanwhile", strangers, strangers >= 10 * ROUNDS)
    longest = max(way.longest for way in ways)
    proof.figures["ledger"] = {"rows": ROWS, "longest_ms": round(longest * 1000), "strangers": strangers}


def prove() -> Proof:
    from tools.show.servers import Postgres

    proof = Proof()
    _say(proof, "SQLite", asyncio.run(slow_database("")))
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-pg-", ignore_cleanup_errors=True) as folder,
        Postgres(Path(folder) / "data") as server,
    ):
        _say(proof, "PostgreSQL", asyncio.run(slow_database(server.url)))
    _say_of_ledger(proof, *asyncio.run(large_ledger()))
    return proof
