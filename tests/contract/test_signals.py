"""Contract tests for signals between processes that share a database."""

import asyncio
import time
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest

from modelyard.storage.database import Database, Row
from modelyard.storage.signals import Signals
from modelyard.workflow.engine import Status
from modelyard.workflow.events import GraphRunStarted, GraphRunSucceeded
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.live_runs import LiveRuns
from modelyard.workflow.node import Limits, Services
from modelyard.workflow.run_reader import RunReader

_SOON = 20.0
"""A signal that comes later than this, on the busiest machine, has not come."""


class CountingDatabase(Database):
    """A database that counts its queries."""

    queries: Counter[str]

    async def fetch(
        self,
        statement: str,
        values: Mapping[str, Any] | Sequence[Any] = (),
        *,
        is_long: bool = False,
    ) -> list[Row]:
        self.queries[statement] += 1
        return await super().fetch(statement, values, is_long=is_long)


@pytest.fixture
def databases(postgres_url: str) -> Iterator[list[CountingDatabase]]:
    """Two connections to one PostgreSQL, one for each simulated process."""
    opened_databases = [CountingDatabase(postgres_url) for _ in range(2)]
    for database in opened_databases:
        database.queries = Counter()
    yield opened_databases
    for database in opened_databases:
        database.close()


@asynccontextmanager
async def listening(*databases: Database) -> AsyncGenerator[None]:
    """Receive signals during a block."""
    tasks = [asyncio.create_task(database.signals.run()) for database in databases]
    await until(lambda: all(database.signals.is_listening for database in databases))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def send(database: Database, topic: str) -> None:
    await database.transact(lambda connection: database.signals.send(connection, topic))


async def seconds_of(work: Awaitable[None]) -> float:
    started_at = time.monotonic()
    await work
    return time.monotonic() - started_at


def test_a_signal_ends_the_wait_of_its_topic_in_every_process(
    databases: list[CountingDatabase],
):
    async def work() -> None:
        here, there = (database.signals for database in databases)
        async with listening(*databases):
            with (
                here.listener("a") as same,
                there.listener("a") as other,
                there.listener("b") as another_topic,
            ):
                # A signal between a look and the wait ends that wait at once.
                await send(databases[0], "a")
                for listener in (same, other):
                    wait = listener.wait(_SOON, unheard_seconds=_SOON)
                    assert await seconds_of(wait) < _SOON
                await another_topic.wait(0.2, unheard_seconds=_SOON)
                # One signal ends one wait.
                assert await seconds_of(other.wait(0.2, unheard_seconds=_SOON)) >= 0.2

    asyncio.run(work())


def test_what_is_rolled_back_is_not_signalled(databases: list[CountingDatabase]):
    async def work() -> None:
        noticed: list[str] = []
        databases[1].signals.observe("run:", noticed.append)

        def fail(connection: Any) -> None:
            databases[0].signals.send(connection, "run:never")
            raise ValueError

        async with listening(databases[1]):
            with pytest.raises(ValueError):
                await databases[0].transact(fail)
            await send(databases[0], "run:1")
            await until(lambda: bool(noticed))
        assert noticed == ["1"]

    asyncio.run(work())


def test_a_lost_connection_is_noticed_and_made_again(
    databases: list[CountingDatabase],
):
    async def work() -> None:
        signals = databases[1].signals
        async with listening(databases[1]):
            with signals.listener("a") as listener:
                # Nobody may wait long on a connection that says nothing more.
                waiting = asyncio.create_task(
                    listener.wait(10 * _SOON, unheard_seconds=0.01)
                )
                await databases[0].fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'modelyard-signals'"
                    " AND datname = current_database()"
                )
                async with asyncio.timeout(_SOON):
                    await waiting
                await until(lambda: signals.is_listening)
                await send(databases[0], "a")
                wait = listener.wait(_SOON, unheard_seconds=_SOON)
                assert await seconds_of(wait) < _SOON

    asyncio.run(work())


def test_a_file_has_no_signals_and_its_waiters_poll(tmp_path: Any):
    async def work() -> None:
        database = Database(tmp_path / "x.db")
        try:
            await database.signals.run()
            await send(database, "a")
            with database.signals.listener("a") as listener:
                wait = listener.wait(10 * _SOON, unheard_seconds=0.01)
                assert await seconds_of(wait) < _SOON
        finally:
            database.close()

    asyncio.run(work())


def test_listeners_are_forgotten(tmp_path: Any):
    database = Database(tmp_path / "x.db")
    signals: Signals = database.signals
    with signals.listener("a"):
        with signals.listener("a"):
            pass
        assert "a" in signals._listeners
    assert signals._listeners == {}
    database.close()


# -------------------------------------------------------------------- watchers of runs


def record_of(run_id: str) -> RunRecord:
    return RunRecord(
        tenant="default",
        id=run_id,
        app="a",
        digest="d",
        root="start",
        created_at=time.time(),
    )


def reader_of(database: Database) -> RunReader:
    """Return the reader of a process that executes nothing itself."""
    journal = DatabaseJournal(database, time.time)
    live_runs = LiveRuns(
        journal, lambda app, record: Services(), Limits(), clock=time.time
    )
    return RunReader(journal, live_runs)


def all_have_seen(seen: Sequence[Sequence[int]], count: int) -> bool:
    return all(len(numbers) >= count for numbers in seen)


async def append_watched(
    journal: DatabaseJournal, run: RunRecord, count: int, seen: Sequence[Sequence[int]]
) -> None:
    """Write events, each when all watchers have seen the one before."""
    for number in range(1, count + 1):
        event = GraphRunStarted(at=float(number))
        await journal.append(run, [], [(number, event)], is_watched=True)
        await until(partial(all_have_seen, seen, number))


def test_many_watchers_of_a_run_elsewhere_share_few_queries(
    databases: list[CountingDatabase],
):
    """Each sees every event, and together they ask about as often as one."""
    owner, watcher = databases
    watcher_count, event_count = 40, 20

    async def watch(reader: RunReader, numbers: list[int]) -> None:
        async for number, _ in reader.watch("default", "run-1"):
            numbers.append(number)

    async def work() -> None:
        journal = DatabaseJournal(owner, time.time)
        run = record_of("run-1")
        await journal.create(run)
        watched: list[str] = []
        owner.signals.observe("runs.watched:", watched.append)
        async with listening(owner, watcher):
            reader = reader_of(watcher)
            seen: list[list[int]] = [[] for _ in range(watcher_count)]
            tasks = [asyncio.create_task(watch(reader, numbers)) for numbers in seen]
            await until(lambda: bool(watched))
            await append_watched(journal, run, event_count, seen)
            last = GraphRunSucceeded(at=1.0, outputs={})
            run = msgspec.structs.replace(run, status=Status.SUCCEEDED)
            await journal.settle(run, [(event_count + 1, last)])
            await asyncio.gather(*tasks)
        assert watched == ["run-1"]
        everything = list(range(1, event_count + 2))
        assert all(numbers == everything for numbers in seen)
        # By themselves, forty watchers would read each event forty times.
        reads = sum(
            watcher.queries[statement]
            for statement in watcher.queries
            if "FROM run_events" in statement
        )
        assert 0 < reads < watcher_count * event_count / 4

    asyncio.run(work())
