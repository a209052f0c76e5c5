"""A slow database must delay only the caller that uses it; the event loop must keep
running, whatever is called.

First, every route of every API is called with a key, with an invalid session cookie and
with neither, while every database statement takes 1.5 seconds (SQLite and PostgreSQL).
Two things are checked: whether a statement runs on the event loop's own thread, which
needs no clock, and how long the loop stood still, measured by a ticking task. Code that
blocks the loop blocks it every time, other load on the machine does not: a call that
stands out is repeated, and its smallest stall counts.

Then a realistic case: usage queries on a ledger of 600,000 rows, while strangers send
invalid cookies.
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
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.cli.serve import tune_process
from modelyard.gateway.auth import SESSION_COOKIE
from modelyard.gateway.server import Gateway
from modelyard.storage import database as storage
from modelyard.storage.database import Connection, Engine, Row
from modelyard.testing import Upstream
from tools.show.fuzz import Case, make_world, start_cases, upstream_answer
from tools.show.proof import ROOT, Proof
from tools.show.restart import create_ledger
from tools.show.tenancy import TenantWorld

STATEMENT_SECONDS = float(os.environ.get("MODELYARD_SHOW_SECONDS", "1.5"))
ROWS = int(os.environ.get("MODELYARD_SHOW_ROWS", "600000"))
ROUNDS = int(os.environ.get("MODELYARD_SHOW_ROUNDS", "3"))
_MAX_STALL_SECONDS = 0.05
_TICK_SECONDS = 0.005
_CHECK_INTERVAL_SECONDS = 0.01
_MAX_CONCURRENT_CALLS = 12
_TRANSACTION_STATEMENTS = ("BEGIN", "SAVEPOINT", "RELEASE")
"""Transaction control takes no time in the simulation: only the statements between and
the commit do."""
_STAY_SECONDS = 80 * STATEMENT_SECONDS
"""How long a caller stays connected: endless streams are left after this time."""
_MAX_CALL_SECONDS = 300 * STATEMENT_SECONDS
_UPKEEP_SECONDS = 4 * STATEMENT_SECONDS
_KEY, _STRANGER, _NOBODY = "with a key", "with a stranger's cookie", "with neither"


# ---------------------------------------------------------------------- watching a loop


@dataclass(frozen=True)
class Stall:
    """A period in which the event loop stood still: its duration, the responsible task
    and the code location."""

    seconds: float
    who: str
    where: str
    worked: float = 0.0
    """The part of these seconds in which this process had a CPU. On a shared machine
    the remainder is due to other processes."""


class LoopMonitor:
    """Observe the event loop on which it is created: how long it stands still, and
    which task is responsible.

    A task ticks. A thread checks the ticks and, if one is late, records the running
    task and its code location.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Set in the loop's own thread, since the constructor runs there.
        self.thread = threading.get_ident()
        self._ticked = time.monotonic()
        self._is_over = threading.Event()
        self._late: tuple[str, str] | None = None
        self.stalls: list[Stall] = []
        self.statements: list[Stall] = []
        """Statements that ran on the event loop's thread."""

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        """Observe the loop inside the `async with` block."""
        # Child tasks of a call must count for that call.
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
        """Sleep repeatedly and record a stall if a wake-up is late."""
        while True:
            self._late = None
            self._ticked, worked = time.monotonic(), time.process_time()
            await asyncio.sleep(_TICK_SECONDS)
            # What exceeds the requested sleep is the time in which the loop did not run
            # the tick.
            seconds = time.monotonic() - self._ticked - _TICK_SECONDS
            if seconds > _MAX_STALL_SECONDS / 2:
                who, where = self._late or ("nobody was seen", "")
                # The stall cannot contain more CPU time than the process used.
                self.stalls.append(
                    Stall(
                        seconds, who, where, min(seconds, time.process_time() - worked)
                    )
                )

    def _look(self) -> None:
        """Thread: record the running task while a tick is late."""
        while not self._is_over.wait(_CHECK_INTERVAL_SECONDS):
            # Only the first look at a late tick counts: it shows the code that blocked.
            if (
                self._late is None
                and time.monotonic() - self._ticked > _MAX_STALL_SECONDS / 2
            ):
                self._late = self.now()

    def now(self) -> tuple[str, str]:
        """Return the name of the task that runs on the loop, and its code location."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]
        return (task.get_name() if task is not None else "no task"), _code_location(
            frame
        )

    def note_statement(self) -> None:
        """Record a statement if it starts on the event loop's thread."""
        # No clock is needed: a statement on this thread is wrong however fast it is.
        if threading.get_ident() == self.thread:
            self.statements.append(Stall(0.0, *self.now()))

    def drain_stalls(self) -> list[Stall]:
        """Return and reset the recorded statements on the loop and stalls."""
        recorded_stalls = [*self.statements, *self.stalls]
        self.statements, self.stalls = [], []
        return recorded_stalls


def _named_as_the_parent(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> "asyncio.Task[Any]":
    """Task factory: give a new task the name of its parent, so that it counts for the
    same call."""
    parent = asyncio.current_task(loop)
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if parent is not None:
        task.set_name(parent.get_name())
    return task


def _code_location(frame: FrameType | None) -> str:
    """Return the product's two innermost source lines. Lines of the storage layer are
    left out if another layer called it."""
    source = ROOT / "src" / "modelyard"
    # Frames of libraries and the standard library do not identify the caller.
    own_frames = [
        frame_summary
        for frame_summary in traceback.extract_stack(frame)
        if Path(frame_summary.filename).is_relative_to(source)
    ]
    calling_frames = [
        frame_summary
        for frame_summary in own_frames
        if not Path(frame_summary.filename).is_relative_to(source / "storage")
    ]
    lines = [
        f"{Path(frame_summary.filename).relative_to(source)}:{frame_summary.lineno}"
        for frame_summary in (calling_frames or own_frames)[-2:]
    ]
    return " < ".join(reversed(lines))


# ---------------------------------------------------------------------- a slow database


@dataclass
class Pace:
    """The duration of each statement, and a callback for it."""

    seconds: float = 0.0
    on_statement: Callable[[], None] = lambda: None

    def take_time(self, statement: str) -> None:
        """Call the callback, then sleep unless the statement is transaction control."""
        self.on_statement()
        if self.seconds and not statement.startswith(_TRANSACTION_STATEMENTS):
            time.sleep(self.seconds)


class _SlowConnection:
    """A database connection whose statements take time."""

    def __init__(self, connection: Connection, pace: Pace) -> None:
        self._connection = connection
        self._pace = pace

    def execute(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """Execute a statement after the delay."""
        self._pace.take_time(statement)
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement for many rows after the delay."""
        self._pace.take_time(statement)
        self._connection.execute_many(statement, rows)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _SlowEngine:
    """A database engine that returns slow connections."""

    def __init__(self, engine: Engine, pace: Pace) -> None:
        self._engine = engine
        self._pace = pace

    def connect(self) -> Connection:
        """Return a slow connection."""
        return _SlowConnection(self._engine.connect(), self._pace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@contextmanager
def slow_databases(pace: Pace) -> Generator[None]:
    """Make all databases that are opened inside the block slow."""
    usual = storage.open_engine
    storage.open_engine = lambda where: _SlowEngine(usual(where), pace)  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        storage.open_engine = usual


# -------------------------------------------------------------------------- every route


def every_route(world: TenantWorld) -> list[Case]:
    """Return one request for every route of every API, by an authorised caller and with
    existing ids. Deletions come last."""
    # Longer ids first, or an id that contains another would be replaced only in part.
    ids = sorted(
        {id_ for id_list in world.ids.values() for id_ in id_list},
        key=len,
        reverse=True,
    )
    case_by_route: dict[tuple[str, str], Case] = {}
    for (_, method, _), cases in start_cases(world).items():
        for case in cases:
            route = method, _pattern(case.path, ids)
            # Prefer an authenticated request with a body: it runs the most code.
            if route not in case_by_route or _request_rank(case) > _request_rank(
                case_by_route[route]
            ):
                case_by_route[route] = case
    # Deletions last, so that the other routes find their resources.
    return sorted(case_by_route.values(), key=lambda case: case.method == "DELETE")


def _pattern(path: str, ids: Sequence[str]) -> str:
    """Return a path without its query, with all ids replaced by `ID`."""
    pattern = path.partition("?")[0].rstrip("/")
    for id_ in ids:
        pattern = pattern.replace(id_, "ID")
    return re.sub(r"(?<=/)(ID/?)+$", "ID", pattern)


def _request_rank(case: Case) -> tuple[bool, bool]:
    """Return a sort key: whether the request is authenticated, and whether it has a
    body."""
    return bool(case.key), case.body is not None or case.raw is not None


@dataclass
class Call:
    """A route, called by one kind of caller."""

    case: Case
    how: str
    is_first: bool = True
    first: float = 0.0
    stall: float = 0.0
    """The smallest stall of all attempts, in seconds."""
    where: str = ""
    is_on_loop: bool = False
    """Whether a statement ran on the event loop."""
    status: int = 0

    @property
    def name(self) -> str:
        """The method, path and kind of caller. Also the name of the call's tasks."""
        return f"{self.case.method} {self.case.path.partition('?')[0]} {self.how}"

    @property
    def is_fine(self) -> bool:
        """Whether the call blocked the loop for no longer than the limit and without a
        statement on it."""
        return self.stall < _MAX_STALL_SECONDS and not self.is_on_loop

    def record_stalls(self, stalls: Sequence[Stall]) -> None:
        """Update the call with the stalls that its own tasks caused."""
        mine = max(
            (stall for stall in stalls if stall.who == self.name),
            key=lambda stall: stall.seconds,
            default=None,
        )
        seconds = mine.seconds if mine is not None else 0.0
        # Keep the first value separately: one-time imports and caches are reported, but
        # do not fail.
        if self.is_first:
            self.first = self.stall = seconds
        self.stall = min(self.stall, seconds)
        self.is_first = False
        self.is_on_loop |= any(
            stall.who == self.name and stall.seconds == 0 for stall in stalls
        )
        if mine is not None:
            self.where = mine.where


def every_call(world: TenantWorld) -> Iterator[Call]:
    """Yield every route with a key, then with an invalid cookie and with neither."""
    routes = every_route(world)
    for case in routes:
        if case.key:
            yield Call(case, _KEY)
    for case in routes:
        yield Call(replace(case, key=""), _STRANGER)
        yield Call(replace(case, key=""), _NOBODY)


def _headers(world: TenantWorld, call: Call, data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of a call for its kind of caller."""
    names = {name for name, _ in call.case.headers}
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-length", str(len(data)).encode()),
        *call.case.headers,
    ]
    if b"content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    if call.how == _KEY:
        headers.append(
            (b"authorization", f"Bearer {world.keys[call.case.key]}".encode())
        )
    if call.how == _STRANGER:
        headers.append(
            (b"cookie", f"{SESSION_COOKIE}={secrets.token_urlsafe(32)}".encode())
        )
        # Browsers send this header with requests from the console itself.
        headers.append((b"sec-fetch-site", b"same-origin"))
    return headers


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]],
    data: bytes,
) -> int:
    """Send a request through ASGI and return the status; 0 if there was no response.
    The caller disconnects after a while."""
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": urllib.parse.unquote(target),
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
    }
    messages = iter([{"type": "http.request", "body": data, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> Any:
        """ASGI receive: the body once, then a disconnect after a while."""
        # Streams do not end by themselves, so the client disconnects.
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.sleep(_STAY_SECONDS)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """ASGI send: record the status."""
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    with suppress(
        Exception
    ):  # a stream that breaks is cut, as the server does it; the log has said why
        await asyncio.wait_for(gateway(scope, receive, send), _MAX_CALL_SECONDS)
    return statuses[0] if statuses else 0


async def _send_call(world: TenantWorld, call: Call) -> None:
    """Send a call's request and store its status."""
    data = call.case.raw if call.case.raw is not None else b""
    if call.case.body is not None:
        data = json.dumps(call.case.body).encode()
    headers = _headers(world, call, data)
    call.status = await ask(
        world.gateway, call.case.method, call.case.path, headers, data
    )


async def _run_concurrently(
    world: TenantWorld, calls: Sequence[Call], watch: LoopMonitor
) -> None:
    """Run the calls with limited concurrency. Each is charged with the stalls of its
    own tasks."""
    # Limit the concurrency, so that the calls do not slow each other down too much.
    slots = asyncio.Semaphore(_MAX_CONCURRENT_CALLS)

    async def run_call(call: Call) -> None:
        """Run one call as soon as a slot is free."""
        async with slots:
            # A separate task for each call, so that it can have the call's name.
            await asyncio.create_task(_run_named(world, call))

    await asyncio.gather(*(run_call(call) for call in calls))
    stalls = watch.drain_stalls()
    for call in calls:
        call.record_stalls(stalls)


async def _run_named(world: TenantWorld, call: Call) -> None:
    """Run a call in a task that has the call's name."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(call.name)
    await _send_call(world, call)


@dataclass
class Outcome:
    """The calls and their stalls, and those of background work."""

    calls: list[Call]
    upkeep: list[Stall]
    """Stalls caused by the server's own background tasks."""


async def slow_database(url: str) -> Outcome:
    """Run every call on a slow database. An empty `url` means SQLite in a temporary
    folder."""
    pace = Pace()
    with (
        tempfile.TemporaryDirectory(
            prefix="modelyard-show-", ignore_cleanup_errors=True
        ) as home,
        slow_databases(pace),
        Upstream(upstream_answer) as upstream,
    ):
        world = await make_world(home, upstream.url, database=url)
        watch = LoopMonitor()
        async with watch.watching():
            try:
                # Set the pace only now: building the world on a slow database would
                # take too long.
                pace.seconds, pace.on_statement = (
                    STATEMENT_SECONDS,
                    watch.note_statement,
                )
                return await _every_call_made(world, watch)
            finally:
                # Reset the pace, so that closing does not take minutes.
                pace.seconds, pace.on_statement = 0.0, lambda: None
                await world.yard.aclose()


async def _every_call_made(world: TenantWorld, watch: LoopMonitor) -> Outcome:
    """Run the background tasks, then all calls, and repeat the suspicious ones twice."""
    upkeep = await _upkeep(world.yard, watch)
    calls = list(every_call(world))
    await _run_concurrently(world, calls, watch)
    for _ in range(2):
        # A statement on the loop is certain and needs no repetition; a stall may be due
        # to other load.
        retried_calls = [
            call for call in calls if not call.is_fine and not call.is_on_loop
        ]
        await _run_concurrently(world, retried_calls, watch)
    return Outcome(calls, upkeep)


async def _upkeep(yard: Modelyard, watch: LoopMonitor) -> list[Stall]:
    """Run only the background tasks for a while and return their stalls."""
    # Discard what was recorded during the preparation.
    watch.drain_stalls()
    yard.services.upkeep.start()
    await asyncio.sleep(_UPKEEP_SECONDS)
    await yard.services.upkeep.stop()
    return watch.drain_stalls()


def _report(proof: Proof, engine: str, outcome: Outcome) -> None:
    """Report the stalls on one database engine."""
    _report_callers(proof, engine, outcome.calls)
    _report_background(proof, engine, outcome.upkeep)
    for call in outcome.calls:
        # A first use reads or imports something, once; or the machine was busy.
        if call.is_fine and call.first >= _MAX_STALL_SECONDS:
            summary = f"{call.first * 1000:.0f} ms: {call.where}"
            proof.line(f"  {call.name}, once", summary)
    for call in outcome.calls:
        if call.status == 0:
            summary = f"no response within {_MAX_CALL_SECONDS:.0f} s"
            proof.line(f"  {call.name}", summary, False)
    statuses = Counter(call.status for call in outcome.calls)
    proof.line(
        f"{engine}, responses",
        dict(sorted(statuses.items())),
        statuses[0] == 0 and statuses[200] > 0,
    )
    proof.figures[engine] = {
        "calls": len(outcome.calls),
        "held": sum(not call.is_fine for call in outcome.calls),
        "longest_ms": round(max(call.stall for call in outcome.calls) * 1000),
    }


def _report_callers(proof: Proof, engine: str, calls: Sequence[Call]) -> None:
    """Report the longest stall of each type of caller, then each call that stalled."""
    for caller_kind in (_KEY, _STRANGER, _NOBODY):
        matching_calls = [call for call in calls if call.how == caller_kind]
        _report_stalls(proof, f"{engine}, {caller_kind}", matching_calls)
    failing_calls = [call for call in calls if not call.is_fine]
    for call in sorted(failing_calls, key=lambda call: -call.stall):
        stall = f"{call.stall * 1000:.0f} ms"
        note = "a statement on the loop" if call.is_on_loop else stall
        proof.line(f"  {call.name}", f"{note}: {call.where}", False)


def _report_stalls(proof: Proof, label: str, calls: Sequence[Call]) -> None:
    """Report the longest stall of some calls, and their statements on the loop."""
    longest = max(call.stall for call in calls)
    on_loop = sum(call.is_on_loop for call in calls)
    figures = (
        f"{len(calls)} routes, longest stall {longest * 1000:.0f} ms,"
        f" {on_loop} with a statement on the loop"
    )
    proof.line(label, figures, all(call.is_fine for call in calls))


def _report_background(proof: Proof, engine: str, stalls: Sequence[Stall]) -> None:
    """Report the stalls of the server's own background tasks. A stall of 0 seconds is a
    statement on the loop."""
    on_loop = [stall for stall in stalls if stall.seconds == 0]
    longest = max((stall.seconds for stall in stalls), default=0.0)
    proof.line(
        f"{engine}, background tasks",
        f"longest stall {longest * 1000:.0f} ms, {len(on_loop)} statements on the loop",
        longest < _MAX_STALL_SECONDS and not on_loop,
    )
    locations = {
        stall.where
        for stall in stalls
        if stall.seconds == 0 or stall.seconds >= _MAX_STALL_SECONDS
    }
    for location in sorted(locations):
        proof.line("  background tasks", location, False)


# ----------------------------------------------------------------------- a large ledger


@dataclass
class UsageQuery:
    """A usage query and the stalls during each of its runs."""

    path: str
    times: list[Sequence[Stall]] = field(default_factory=list[Sequence[Stall]])
    statuses: set[int] = field(default_factory=set[int])

    @property
    def longest(self) -> float:
        """The longest stall in the best run, in seconds, as for all other calls."""
        # Count only CPU time of this process, so that other load on the machine does
        # not matter.
        return min(
            max((stall.worked for stall in stalls), default=0.0)
            for stalls in self.times
        )

    @property
    def is_on_loop(self) -> bool:
        """Whether a statement ran on the event loop in any run."""
        return any(stall.seconds == 0 for stalls in self.times for stall in stalls)


_READS = (
    "/admin/v1/usage?since=0",
    "/admin/v1/usage?since=0&by=day,user",
    "/admin/v1/usage/rows?since=0",
    "/admin/v1/usage/rows?since=0&format=csv",
    "/admin/v1/calls?since=0&limit=1000&offset=1000",
    "/admin/v1/requests?since=0&limit=1000&offset=1000",
    "/admin/v1/latency?since=0",
)


async def large_ledger() -> tuple[list[UsageQuery], int]:
    """Run each usage query on a large ledger. Return the queries and the number of
    invalid cookies sent meanwhile."""
    with tempfile.TemporaryDirectory(
        prefix="modelyard-show-", ignore_cleanup_errors=True
    ) as home:
        settings = Settings(home=home)
        # Filling the table takes long and must not block this loop.
        ledger = await asyncio.to_thread(
            create_ledger, Path(home), settings.database_url, ROWS
        )
        _, key = ledger.keys["k1"]
        pace = Pace()
        # Statements are not delayed here, but each one reports the thread on which it
        # runs.
        with slow_databases(pace):
            yard = Modelyard(settings, environ={})
        gateway = gateway_for(yard.services)
        tune_process()
        watch = LoopMonitor()
        pace.on_statement = watch.note_statement
        try:
            async with watch.watching():
                yard.services.upkeep.start()
                return await _run_usage_queries(gateway, key, watch)
        finally:
            await yard.aclose()


async def _run_usage_queries(
    gateway: Gateway, key: str, watch: LoopMonitor
) -> tuple[list[UsageQuery], int]:
    """Run all queries for several rounds while strangers send invalid cookies."""
    stranger_counts: Counter[str] = Counter()
    strangers = asyncio.create_task(_strangers(gateway, stranger_counts))
    bearer = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key}".encode())]
    queries = [UsageQuery(path) for path in _READS]
    for _ in range(ROUNDS):
        for query in queries:
            watch.drain_stalls()
            query.statuses.add(await ask(gateway, "GET", query.path, bearer, b""))
            query.times.append(watch.drain_stalls())
    strangers.cancel()
    with suppress(asyncio.CancelledError):
        await strangers
    return queries, stranger_counts["cookies"]


async def _strangers(gateway: Gateway, stranger_counts: Counter[str]) -> None:
    """Send requests with invalid session cookies until cancelled."""
    while True:
        cookie = f"{SESSION_COOKIE}={secrets.token_urlsafe(32)}".encode()
        headers = [
            (b"host", b"127.0.0.1"),
            (b"cookie", cookie),
            (b"sec-fetch-site", b"same-origin"),
        ]
        await ask(gateway, "GET", "/admin/v1/usage", headers, b"")
        stranger_counts["cookies"] += 1
        await asyncio.sleep(0.02)


def _report_ledger(proof: Proof, queries: Sequence[UsageQuery], strangers: int) -> None:
    """Report the usage queries on the large ledger."""
    for query in queries:
        is_fine = (
            query.longest < _MAX_STALL_SECONDS
            and not query.is_on_loop
            and query.statuses == {200}
        )
        note = ", a statement on the loop" if query.is_on_loop else ""
        summary = f"longest stall {query.longest * 1000:.0f} ms, answered {sorted(query.statuses)}{note}"
        proof.line(f"{ROWS:,} rows: GET {query.path}", summary, is_fine)
    # The strangers must have sent enough requests for the result to mean anything.
    proof.line(
        "concurrent requests with invalid cookies", strangers, strangers >= 10 * ROUNDS
    )
    longest = max(query.longest for query in queries)
    proof.figures["ledger"] = {
        "rows": ROWS,
        "longest_ms": round(longest * 1000),
        "strangers": strangers,
    }


def prove() -> Proof:
    """Run the slow-database cases on SQLite and PostgreSQL, then the large ledger."""
    from tools.show.servers import Postgres

    proof = Proof()
    _report(proof, "SQLite", asyncio.run(slow_database("")))
    with (
        tempfile.TemporaryDirectory(
            prefix="modelyard-pg-", ignore_cleanup_errors=True
        ) as folder,
        Postgres(Path(folder) / "data") as server,
    ):
        _report(proof, "PostgreSQL", asyncio.run(slow_database(server.url)))
    _report_ledger(proof, *asyncio.run(large_ledger()))
    return proof
