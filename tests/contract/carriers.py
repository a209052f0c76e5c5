"""Runs one workflow durably in a process that can be killed.

Recorded by our own journal, or by DBOS, an existing durable execution engine. Started
as `python -m tests.contract.carriers KIND DATABASE EFFECTS (begin|recover)`; prints the
outcome.

DBOS shows that a run can be another engine's workflow, and each finished step one of
its recorded steps, with the same `Recorder` that the journal uses. It is an experiment:
events, watching and commands stay in our journal.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.sandbox.templates import render_in_process
from modelyard.storage.database import Database
from modelyard.transport.egress import EgressClient, EgressRules
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.engine import GraphEngine, Outcome, Step
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import execute_with_timeout, pool_for

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


def result_json(outcome: Outcome | RunRecord, steps: Sequence[Step]) -> str:
    return json.dumps({
        "status": str(outcome.status), "outputs": outcome.outputs, "error": outcome.error,
        "steps": [step.key for step in steps],
    })  # fmt: skip


# -------------------------------------------------------------------------- our journal


async def ours(where: str, url: str, app: App, mode: str) -> str:
    import time

    database = Database(where)
    journal = DatabaseJournal(database, time.time)

    async def find(record: RunRecord) -> App:
        return app

    runs = Runs(journal, find, lambda app, record: services(url))
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
    else:
        await runs.recover()
    record = await runs.wait_until_ended("default", RUN)
    steps = (await journal.history(record)).steps
    await runs.aclose()
    await asyncio.to_thread(database.close)
    return result_json(record, steps)


def _system() -> dict[str, Any]:
    return {"workflow_run_id": RUN, "user_id": "u", "files": []}


# --------------------------------------------------------------------------------- DBOS


class DbosRecorder:
    """A recorder that stores steps as DBOS steps.

    Steps that are already recorded are read back in order before anything runs.
    """

    def __init__(self, completed_steps: Sequence[Step]) -> None:
        self._before = completed_steps
        self._waiting: list[Step] = []
        self._lock = asyncio.Lock()

    def steps(self, path: str) -> Sequence[Step]:
        return [
            step
            for step in self._before
            if step.key[: len(step.key) - len(step.node_id)] == path
        ]

    def was_started(self, key: str) -> bool:
        return False

    async def mark_started(self, key: str) -> None:
        await self.safe()

    def record(self, step: Step) -> None:
        self._waiting.append(step)

    async def confirm(self) -> None:
        return None

    def shown_text(self) -> str | None:
        return "" if self._before else None

    async def safe(self) -> None:
        async with self._lock:
            while self._waiting:
                await kept(self._waiting.pop(0))


async def kept(step: Step) -> Step:
    """Record a step under its key, or return the step recorded before."""
    from dbos import DBOS

    async def give() -> str:
        return msgspec.json.encode(step).decode()

    return msgspec.json.decode(
        await DBOS.run_step_async({"name": step.key}, give), type=Step
    )


async def dbos(where: str, url: str, app: App, mode: str) -> str:
    from dbos import DBOS, DBOSClient, SetWorkflowID

    DBOS(
        config={
            "name": "modelyard",
            "system_database_url": where,
            "log_level": "ERROR",
            "application_version": "1",
        }
    )

    client = DBOSClient(system_database_url=where)

    @DBOS.workflow()
    async def carry(inputs: dict[str, Any]) -> str:
        # A separate client reads the steps: inside a workflow, the query would itself
        # be a recorded step, answered from the first run.
        recorded = await client.list_workflow_steps_async(RUN)
        recorded_steps = [
            msgspec.json.decode(str(recorded_step["output"]), type=Step)
            for recorded_step in recorded
            if recorded_step["output"]
        ]
        recorded_steps = [await kept(step) for step in recorded_steps]
        recorder = DbosRecorder(recorded_steps)
        context = RunContext(run_id=RUN, services=services(url))
        engine = GraphEngine(
            app.graph(),
            pool_for(app, "", inputs, _system()),
            context,
            lambda event: None,
            recorder=recorder,
        )
        outcome = await execute_with_timeout(engine, 60.0)
        await recorder.safe()
        return result_json(outcome, [*recorded_steps])

    DBOS.launch()
    if mode == "begin":
        with SetWorkflowID(RUN):
            handle = await DBOS.start_workflow_async(carry, INPUTS)
        print("begun", flush=True)
    else:
        handle = await DBOS.retrieve_workflow_async(RUN)
    result = json.loads(await handle.get_result())
    recorded = await DBOS.list_workflow_steps_async(RUN)
    result["steps"] = [
        msgspec.json.decode(str(recorded_step["output"]), type=Step).key
        for recorded_step in recorded
        if recorded_step["output"]
    ]
    DBOS.destroy()
    return json.dumps(result)


async def main() -> None:
    from tools.show.run_kill import app_text

    carrier, where, url, mode = sys.argv[1:5]
    app = loads(app_text(url))
    print(
        await (dbos if carrier == "dbos" else ours)(where, url, app, mode), flush=True
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        asyncio.run(main())
