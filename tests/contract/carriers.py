"""Runs one workflow durably in a process that can be killed.

Started as `python -m tests.contract.carriers CARRIER DATABASE ADDRESS EFFECTS
(begin|recover)`; prints the outcome. ADDRESS is that of a Temporal server.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from modelyard.sandbox.templates import render_in_process
from modelyard.storage.database import Database
from modelyard.transport.egress import EgressClient, EgressRules
from modelyard.workflow.carrier import Engine
from modelyard.workflow.carriers.dbos_engine import DbosEngine, DbosSetup
from modelyard.workflow.carriers.executors import Executors
from modelyard.workflow.carriers.temporal_engine import TemporalEngine, TemporalSetup
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.engine import Step
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import Services
from modelyard.workflow.runs import Runs

RUN = "11111111-2222-4333-8444-555555555555"
INPUTS = {"n": 1, "items": ["a", "b", "c"]}


class _Sandbox:
    def render_in_process(
        self, template: str, variables: Any, *, max_chars: int
    ) -> str | None:
        return render_in_process(template, variables, max_chars=max_chars)


def services(url: str) -> Services:
    rules = EgressRules(private=frozenset({url.removeprefix("http://")}))
    return Services(http=EgressClient(rules), sandbox=_Sandbox())  # type: ignore[arg-type]


def result_json(outcome: RunRecord, steps: Sequence[Step]) -> str:
    return json.dumps({
        "status": str(outcome.status), "outputs": outcome.outputs, "error": outcome.error,
        "steps": [step.key for step in steps],
    })  # fmt: skip


def engine_of(
    carrier: str, database: Database, where: str, address: str, owner: str
) -> Engine | None:
    """Return the engine of a process; None for the embedded carrier."""
    if carrier == "dbos":
        executors = Executors(database, time.time)
        return DbosEngine(DbosSetup(url=where, max_runs=10), executors, owner)
    if carrier == "temporal":
        return TemporalEngine(TemporalSetup(address=address, max_runs=10))
    return None


async def carried(
    carrier: str, where: str, address: str, url: str, app: App, mode: str
) -> str:
    """Take part in the runs of a database until the run has ended."""
    database = Database(where)
    journal = DatabaseJournal(database, time.time)

    async def find(record: RunRecord) -> App:
        del record
        return app

    engine = engine_of(carrier, database, where, address, journal.owner)
    runs = Runs(journal, find, lambda app, record: services(url), engine=engine)
    runs.start_maintenance()
    if mode == "begin":
        record = RunRecord(
            tenant="default",
            id=RUN,
            app="a",
            inputs=INPUTS,
            system=_system(),
            created_at=time.time(),
        )
        await runs.start(app, record)
        print("begun", flush=True)
    record = await runs.wait_until_ended("default", RUN)
    steps = (await journal.history(record)).steps
    await runs.aclose()
    await asyncio.to_thread(database.close)
    return result_json(record, steps)


def _system() -> dict[str, Any]:
    return {"workflow_run_id": RUN, "user_id": "u", "files": []}


async def main() -> None:
    from tools.show.run_kill import app_text

    carrier, where, address, url, mode = sys.argv[1:6]
    app = loads(app_text(url))
    print(await carried(carrier, where, address, url, app, mode), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        asyncio.run(main())
