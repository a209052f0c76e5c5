"""Tests for recorded runs: all events are written before the run ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from modelyard.storage.database import Database
from modelyard.testing.workflows import StubTools
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, GraphEngine, Status
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.variables import VariablePool
from tests.workflow.building import app_of

NODES = {
    "start": {"type": "start", "variables": []},
    "answer": {"type": "answer", "answer": "hello"},
}


class SlowJournal(DatabaseJournal):
    """A journal that writes events after all other ready tasks.

    `order` records the order of the writes.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database, time.time)
        self.order: list[str] = []

    async def append(self, *arguments: Any, **options: Any) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        await super().append(*arguments, **options)
        self.order.append("written")

    async def settle(self, *arguments: Any, **options: Any) -> None:
        self.order.append("settled")
        await super().settle(*arguments, **options)


def runs_of(journal: DatabaseJournal, app: App) -> Runs:
    async def find(record: RunRecord) -> App:
        del record
        return app

    def services(app: App, record: RunRecord) -> Services:
        del app, record
        return Services()

    return Runs(journal, find, services)


def test_a_run_ends_after_all_its_events_are_written(tmp_path: Path):
    database = Database(tmp_path / "runs.db")

    async def work() -> None:
        journal = SlowJournal(database)
        app = app_of(NODES, ["start > answer"], mode="advanced-chat")
        runs = runs_of(journal, app)
        record = RunRecord(
            tenant="default",
            id=new_run_id(),
            app="a",
            created_at=time.time(),
            system={"query": "q", "files": []},
        )
        await runs.start(app, record)
        assert (
            await runs.wait_until_ended("default", record.id)
        ).status is Status.SUCCEEDED
        assert journal.order[-1] == "settled"
        assert "written" in journal.order
        events = await journal.events(record.id, 0)
        assert [number for number, _ in events] == list(range(1, len(events) + 1))
        assert type(events[-1][1]).__name__ == "GraphRunSucceeded"
        await runs.aclose()
        assert runs.count == 0

    asyncio.run(work())
    database.close()


class LingeringTools(StubTools):
    """A tool that never answers, and needs time to end when it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.has_started = asyncio.Event()
        self.has_ended = False

    async def invoke(
        self, *arguments: Any, **options: Any
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        self.has_started.set()
        try:
            await asyncio.Event().wait()
        finally:
            # A second cancellation would interrupt this.
            await yield_often()
            self.has_ended = True
        yield {}


async def yield_often() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_run_is_stopped_once_all_its_nodes_have_ended():
    """Until then, a node could still write."""
    tool_data = {"type": "tool", "provider_id": "p", "tool_name": "t"}
    app = app_of({"start": {"type": "start"}, "tool": tool_data}, ["start > tool"])

    async def work() -> None:
        tools = LingeringTools()
        context = RunContext(run_id="r", services=Services(tools=tools))
        pool = VariablePool({"start": {}, "sys": {}})
        engine = GraphEngine(app.graph(), pool, context, lambda event: None)
        execution = asyncio.create_task(engine.execute())
        await tools.has_started.wait()
        engine.command(Command.STOP, "enough")
        outcome = await execution
        assert (outcome.status, tools.has_ended) == (Status.STOPPED, True)

    asyncio.run(work())
