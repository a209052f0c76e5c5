"""Contract tests: a run is started once per id, by however many processes."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from modelyard.storage.database import Database
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import Services
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import new_run_id

FILE = """
app: {name: once, mode: workflow}
workflow:
  graph:
    nodes:
    - {id: start, data: {type: start, title: s, variables: []}}
    - {id: end, data: {type: end, title: e, outputs: [{variable: it, value_selector: [env, word]}]}}
    edges: [{source: start, target: end}]
  environment_variables: [{name: word, value: done, value_type: string}]
"""


@pytest.fixture
def databases(database_url: str) -> Iterator[list[Database]]:
    """Three connections to one database, one for each simulated process."""
    opened_databases = [Database(database_url) for _ in range(3)]
    yield opened_databases
    for database in opened_databases:
        database.close()


def journal_of(database: Database) -> DatabaseJournal:
    """Return a journal that counts as that of a process of its own."""
    journal = DatabaseJournal(database, time.time)
    journal.owner = f"{journal.owner} {id(database)}"
    return journal


def runs_of(database: Database, app: App) -> Runs:
    async def find(record: RunRecord) -> App:
        del record
        return app

    def services(app: App, record: RunRecord) -> Services:
        del app, record
        return Services()

    return Runs(journal_of(database), find, services)


def test_the_journal_creates_a_run_once_and_knows_its_owner(databases: list[Database]):
    async def work() -> None:
        first, second, _ = map(journal_of, databases)
        record = RunRecord(
            tenant="default", id=new_run_id(), app="a", created_at=time.time()
        )
        assert await asyncio.gather(first.create(record), first.is_mine("nobody")) == [
            True,
            False,
        ]
        assert [await journal.create(record) for journal in (first, second, first)] == [
            False,
            False,
            False,
        ]
        assert [await journal.is_mine(record.id) for journal in (first, second)] == [
            True,
            False,
        ]

    asyncio.run(work())


def test_of_many_concurrent_starts_one_executes_the_run(databases: list[Database]):
    async def work() -> None:
        app = loads(FILE)
        all_runs = [runs_of(database, app) for database in databases]
        for _ in range(10):
            await _start_concurrently(app, all_runs)
        for runs in all_runs:
            await runs.aclose()

    asyncio.run(work())


async def _start_concurrently(app: App, all_runs: list[Runs]) -> None:
    """Start one run several times in each process.

    It is executed once, and a later start returns its result.
    """
    record = RunRecord(
        tenant="default", id=new_run_id(), app="a", digest="d", created_at=time.time()
    )
    started_runs = await asyncio.gather(
        *(runs.start(app, record) for runs in all_runs * 3)
    )
    assert {run.id for run in started_runs} == {record.id}
    ended = [await runs.wait_until_ended("default", record.id) for runs in all_runs]
    assert {run.status for run in ended} == {Status.SUCCEEDED}
    events: Any = await all_runs[0].journal.events(record.id, 0)
    event_types = [type(event).__name__ for _, event in events]
    assert event_types.count("GraphRunStarted") == 1, "started once"
    restarted_run = await all_runs[1].start(app, record)
    assert (restarted_run.status, restarted_run.outputs) == (
        Status.SUCCEEDED,
        {"it": "done"},
    ), "long after it ended too"


def test_a_run_whose_creation_was_not_confirmed_is_executed(
    databases: list[Database],
):
    async def work() -> None:
        app = loads(FILE)
        runs = runs_of(databases[0], app)
        record = RunRecord(
            tenant="default",
            id=new_run_id(),
            app="a",
            digest="d",
            root="start",
            created_at=time.time(),
        )
        # The row was created, but the confirmation was lost.
        assert await runs.journal.create(record)
        assert (await runs.start(app, record)).id == record.id
        assert (
            await runs.wait_until_ended("default", record.id)
        ).status is Status.SUCCEEDED
        await runs.aclose()

    asyncio.run(work())
