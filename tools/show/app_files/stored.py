"""Runs of app files as a server has them: stored in the journal, released while they are
running, and taken up again by another process. They have to end as the engine's own runs
do."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.app import Modelyard
from modelyard.workflow.dsl import App
from modelyard.workflow.journal import LEASE_SECONDS, DatabaseJournal, RunRecord
from modelyard.workflow.node import Services
from modelyard.workflow.run_record import Status
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import new_run_id
from tools.show.app_files.inputs import attached_files, inputs_of
from tools.show.app_files.runs import Shown, Start, World, run_app, services_of
from tools.show.app_files.values import without_run_ids
from tools.show.app_files.world import Turn, WorldModel

_TENANT = "default"
_MAX_SECONDS = 120.0
_MODES = ("workflow",)
"""Chats are stored with their conversation, which the engine's own runs do not have."""


@dataclass(slots=True)
class _StoredRun:
    """A file whose run is stored."""

    name: str
    app: App
    start: Start
    shown: Shown
    """What the engine's own run has shown."""
    record: RunRecord


@dataclass(slots=True)
class StoredRuns:
    """The stored runs of a selection of files. They share a journal; each has a world of
    its own."""

    yard: Modelyard
    model: WorldModel
    _runs: dict[str, _StoredRun] = field(default_factory=dict[str, _StoredRun])

    async def add(self, name: str, app: App, read: Any, script: Any) -> None:
        """Run an app with the engine alone, and remember what its stored run has to
        show."""
        root = script.root or next(iter(read.roots()), "")
        inputs = inputs_of(read, root, script)
        start = Start(read, script, inputs, Turn(script.query, files=attached_files(script)))  # fmt: skip
        shown = await run_app(self.yard, self.model, app, start)
        record = RunRecord(
            tenant=_TENANT, id=new_run_id(), app="", root=root, inputs=dict(inputs)
        )
        self._runs[record.id] = _StoredRun(name, app, start, shown, record)

    def _process(self, *, ahead: float = 0.0) -> Runs:
        """Return what a process of the server has of runs. Its clock is ahead by some
        seconds, so that it takes over runs whose lease would expire then."""
        storage, workflows = self.yard.services.storage, self.yard.services.workflows
        journal = DatabaseJournal(
            storage.database, lambda: time.time() + ahead, storage.keys
        )
        # Owners are named by their process, which is the same one here.
        journal.owner = f"{journal.owner}:{ahead:g}"
        return Runs(journal, self._find_app, self._services, limits=workflows.limits)

    async def _find_app(self, record: RunRecord) -> App:
        return self._runs[record.id].app

    def _services(self, app: App, record: RunRecord) -> Services:
        """Return the doubles of a run. Called in the task of the run, in whose context
        the model keeps its script."""
        stored = self._runs[record.id]
        self.model.begin(stored.start.script)
        return services_of(
            self.yard, app, World(stored.start.script), stored.start, record
        )

    async def compare(self, *, is_interrupted: bool) -> Mapping[str, str]:
        """Run all files and return name → what differs. With `is_interrupted`, the
        first process leaves its runs to a second one while they are running."""
        process = self._process()
        try:
            for stored in self._runs.values():
                await process.start(stored.app, stored.record)
            if is_interrupted:
                await self._until_some_end()
                await process.aclose()
                process = self._process(ahead=2 * LEASE_SECONDS)
                await process.recover()
            ended = await self._ends(process)
        finally:
            await process.aclose()
        results = zip(self._runs.values(), ended, strict=True)
        differing = {stored.name: _difference(stored.shown, record) for stored, record in results}  # fmt: skip
        return {name: text for name, text in differing.items() if text}

    async def _until_some_end(self) -> None:
        """Wait until a quarter of the runs has ended; the others are at any node."""
        journal = self.yard.services.workflows.journal
        while True:
            records = [await journal.find(_TENANT, run_id) for run_id in self._runs]
            over = [record for record in records if record and record.status.is_over]
            if len(over) * 4 >= len(records):
                return
            await asyncio.sleep(0)

    async def _ends(self, process: Runs) -> Sequence[RunRecord]:
        """Return the records of the ended runs."""
        async with asyncio.timeout(_MAX_SECONDS):
            return [
                await process.wait_until_ended(_TENANT, run_id) for run_id in self._runs
            ]


def _difference(shown: Shown, record: RunRecord) -> str:
    """Return how a stored run differs from the engine's own; empty if it does not."""
    if record.status is not Status(shown.status):
        return f"{record.status.value} instead of {shown.status}: {record.error[:150]}"
    expected, outputs = _plain(shown.outputs), _plain(record.outputs)
    if outputs != expected:
        names = sorted(name for name in {*expected, *outputs} if expected.get(name) != outputs.get(name))  # fmt: skip
        return f"other outputs: {', '.join(names)}"
    return "" if record.error == shown.error else f"another error: {record.error[:150]}"


def _plain(outputs: Any) -> Any:
    """Return outputs as they are stored, without the ids of runs."""
    return without_run_ids(json.loads(json.dumps(outputs)))


def is_storable(mode: str, script: Any) -> bool:
    """Return whether a file's run is compared: one of an app without a conversation,
    which does not sleep."""
    return mode in _MODES and not script.seconds
