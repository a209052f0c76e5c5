"""Runs that are kept: many at once, watched, stopped, and taken up again where a process died."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.schemas import is_large
from modelyard.tenancy.caller import Caller, current_api_key
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, Status
from modelyard.workflow.events import AnyEvent, GraphRunAborted, GraphRunFailed, GraphRunSucceeded, NodeRunStreamChunk
from modelyard.workflow.journal import DatabaseJournal, History, RunRecord
from modelyard.workflow.live_runs import Beginning, CheckFor, LiveRuns, OnEnd, ServicesFor
from modelyard.workflow.node import Limits
from modelyard.workflow.run_reader import POLL_SECONDS, RunReader
from modelyard.workflow.run_upkeep import RunUpkeep
from modelyard.workflow.single_run import pool_for
from modelyard.workflow.variables import VariablePool, WorkflowError

logger = logging.getLogger("modelyard.workflow")

FindApp = Callable[[RunRecord], Awaitable[App]]
CallerOf = Callable[[RunRecord], Caller]
"""On whose behalf a run calls models. Raises WorkflowError if its API key may not call any more."""


class TooManyRunsError(WorkflowError):
    """This process has as many runs as it may have."""

    code = "too_many_requests"
    retry_after = 1.0


class Runs:
    """All runs of this process, and the way to those of others."""

    def __init__(
        self,
        journal: DatabaseJournal,
        find_app: FindApp,
        services: ServicesFor,
        *,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
        most: int = 1000,
    ) -> None:
        self.journal = journal
        self._find_app = find_app
        self._limits = limits or Limits()
        self._now = now
        self._most = most
        self._live = LiveRuns(journal, services, self._limits, now)
        self._reader = RunReader(journal, self._live)
        self._upkeep = RunUpkeep(journal, self._live, self._go_on, self.resume)
        self._starting: dict[str, asyncio.Future[RunRecord]] = {}
        self._caller_of: CallerOf = lambda run: Caller(tenant=run.tenant, key=f"app:{run.app}" if run.app else "")

    def identify_callers(self, caller_of: CallerOf) -> None:
        """How to find the caller of a run, for those that are resumed in another process too."""
        self._caller_of = caller_of

    def check_output(self, check_for: CheckFor) -> None:
        """Have what runs say looked at while they say it."""
        self._live.check_for = check_for

    def on_end(self, listener: OnEnd) -> None:
        self._live.listeners.append(listener)

    @property
    def count(self) -> int:
        return len(self._live)

    # starting and going on

    async def start(self, app: App, record: RunRecord) -> RunRecord:
        """A run, once for its id: one that has begun already, wherever, is found instead.

        Raises InputError, WorkflowError, StorageUnavailableError before anything has begun.
        """
        going = self._starting.get(record.id)
        if going is None:
            going = self._starting[record.id] = asyncio.ensure_future(self._start(app, record))
            going.add_done_callback(lambda _: self._starting.pop(record.id, None))
        return await asyncio.shield(going)  # whoever asked may leave: what is half written down would never go on

    async def _start(self, app: App, record: RunRecord) -> RunRecord:
        if len(self._live) >= self._most:
            raise TooManyRunsError(f"{self._most} runs go on at once already; try again later")
        if record.depth >= self._limits.depth:
            raise WorkflowError(f"workflows call each other {record.depth} deep; {self._limits.depth} is the most")
        pool = await _pool_apart(app, record)
        record = msgspec.structs.replace(
            record, root=record.root or app.roots[0], api_key=current_api_key(record.tenant)
        )
        caller = self._caller_of(record)
        if not await self.journal.create(record):
            return await self._begun_already(record)
        self._live.begin(Beginning(app=app, record=record, pool=pool, caller=caller, history=History()))
        return record

    async def _begun_already(self, record: RunRecord) -> RunRecord:
        """Whose answer the database owed us when it was begun, it goes on here."""
        found = await self.find(record.tenant, record.id)
        if (
            found.status is Status.RUNNING
            and self._live.find(found.id) is None
            and await self.journal.is_mine(found.id)
        ):
            await self._go_on(found)
        return found

    async def tell(self, record: RunRecord, text: str) -> RunRecord:
        """A run that was over before it began: it says a text, and no node ran."""
        now = self._now()
        told = msgspec.structs.replace(
            record, status=Status.SUCCEEDED, outputs={"answer": text}, finished_at=now, root=record.root or "none"
        )
        events: list[tuple[int, AnyEvent]] = [
            (
                1,
                NodeRunStreamChunk(
                    id="", node_id="", node_type="answer", at=now, selector=["sys", "answer"], chunk=text
                ),
            ),
            (2, GraphRunSucceeded(at=now, outputs=told.outputs)),
        ]
        await self.journal.create(told)
        for listener in self._live.listeners:
            await listener(told, VariablePool(), text, [event for _, event in events])
        await self.journal.settle(told, events)
        return told

    async def resume(self, tenant: str, run_id: str) -> bool:
        """A paused run goes on; False where it does not wait."""
        record = await self.find(tenant, run_id)
        if record.status is not Status.PAUSED or not await self.journal.resume(record):
            return False
        await self._go_on(record)
        return True

    async def resume_soon(self, tenant: str, run_id: str) -> None:
        """A run goes on; where other branches of it still run, once they have paused."""
        for _ in range(100):
            if await self.resume(tenant, run_id) or (await self.find(tenant, run_id)).status.is_over:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _go_on(self, record: RunRecord) -> None:
        try:
            app = await self._find_app(record)
            history = await self.journal.history(record)
            pool = await _pool_apart(app, record)
            caller = self._caller_of(record)
        except ModelyardError as error:
            fields = {"run": record.id, "error": str(error)}
            logger.error("a run cannot go on", extra={"fields": fields})
            failed = msgspec.structs.replace(
                record, status=Status.FAILED, error=f"the run cannot go on: {error}", finished_at=self._now()
            )
            history = await self.journal.history(record)
            await self.journal.settle(
                failed, [(history.events + 1, GraphRunFailed(at=self._now(), error=failed.error))]
            )
            return
        record = msgspec.structs.replace(record, status=Status.RUNNING, reasons=[])
        self._live.begin(Beginning(app=app, record=record, pool=pool, caller=caller, history=history, is_resumed=True))

    # watching

    async def find(self, tenant: str, run_id: str) -> RunRecord:
        """Raises NotFoundError where this tenant has no such run."""
        return await self._reader.find(tenant, run_id)

    def watch(self, tenant: str, run_id: str, *, after: int = 0) -> AsyncGenerator[tuple[int, AnyEvent], None]:
        """(number, event) of all that happened after a number, and of all that happens until it ends or pauses."""
        return self._reader.watch(tenant, run_id, after=after)

    async def ended(self, tenant: str, run_id: str) -> RunRecord:
        """The run once it is over, or paused."""
        return await self._reader.ended(tenant, run_id)

    # commands

    async def stop(self, tenant: str, run_id: str, why: str = "User requested stop") -> bool:
        """Wherever it runs. False where it does not."""
        return await self._command(tenant, run_id, Command.STOP, why)

    async def pause(self, tenant: str, run_id: str) -> bool:
        return await self._command(tenant, run_id, Command.PAUSE, "paused on request")

    async def _command(self, tenant: str, run_id: str, command: Command, why: str) -> bool:
        live = self._live.find(run_id)
        if live is not None and live.record.tenant == tenant:
            live.command(command, why)
            return True
        record = await self.journal.find(tenant, run_id)
        if record is not None and record.status is Status.PAUSED and command is Command.STOP:
            return await self._stop_paused(record, why)
        return await self.journal.command(tenant, run_id, command.value)

    async def _stop_paused(self, record: RunRecord, why: str) -> bool:
        if not await self.journal.resume(record):
            return False
        history = await self.journal.history(record)
        stopped = msgspec.structs.replace(record, status=Status.STOPPED, error=why, finished_at=self._now())
        await self.journal.settle(stopped, [(history.events + 1, GraphRunAborted(at=self._now(), reason=why))])
        return True

    # upkeep

    def begin_upkeep(self) -> None:
        """Hear of commands, say that this process is there, take up what others left. On the running loop."""
        self._upkeep.begin()

    async def recover(self) -> int:
        """Take up runs whose process is gone; how many."""
        return await self._upkeep.recover()

    async def aclose(self) -> None:
        """Let go of all: they go on when a process starts again."""
        await self._upkeep.aclose()
        await self._live.leave()


async def _pool_apart(app: App, record: RunRecord) -> VariablePool:
    """Large inputs are held to their schemas off the loop."""
    if is_large(record.inputs):
        return await asyncio.to_thread(_pool, app, record)
    return _pool(app, record)


def _pool(app: App, record: RunRecord) -> VariablePool:
    return pool_for(
        app, record.root, record.inputs, record.system, environment=record.environment,
        conversation=record.variables,
    )  # fmt: skip
