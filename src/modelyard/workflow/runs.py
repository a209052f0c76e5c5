"""Durable runs: started, watched, stopped, and resumed if their process died."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from modelyard.base.schemas import is_large
from modelyard.storage.database import StorageUnavailableError
from modelyard.tenancy.caller import Caller, current_api_key, current_reader
from modelyard.workflow.carrier import Carrier, Engine
from modelyard.workflow.carriers.embedded import EmbeddedCarrier
from modelyard.workflow.carriers.queued import QueuedCarrier
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunFailed,
    GraphRunSucceeded,
    NodeRunStreamChunk,
)
from modelyard.workflow.idle_runs import IdleRuns
from modelyard.workflow.journal import DatabaseJournal, History, RunRecord
from modelyard.workflow.live_runs import (
    CheckFor,
    LiveRuns,
    OnEnd,
    RunStart,
    ServicesFor,
)
from modelyard.workflow.node import Limits
from modelyard.workflow.nodes.start import storable_inputs
from modelyard.workflow.run_maintenance import RunMaintenance
from modelyard.workflow.run_reader import POLL_SECONDS, RunReader
from modelyard.workflow.single_run import pool_for
from modelyard.workflow.storable import storable_text
from modelyard.workflow.variables import (
    CONVERSATION,
    ENVIRONMENT,
    SYSTEM,
    VariablePool,
    WorkflowError,
)

logger = logging.getLogger("modelyard.workflow")

# A run that kills its process at the same node each time would restart it forever.
_MAX_FRUITLESS_STARTS = 20

FindApp = Callable[[RunRecord], Awaitable[App]]
CallerOf = Callable[[RunRecord], Caller]
"""Returns the caller whose limits a run uses. Raises WorkflowError if its API key is
not valid any more."""


class TooManyRunsError(WorkflowError):
    """This process executes its maximum number of runs."""

    code = "too_many_requests"
    retry_after = 1.0


class Runs:
    """All runs of this process, and access to those of other processes."""

    def __init__(
        self,
        journal: DatabaseJournal,
        find_app: FindApp,
        services: ServicesFor,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        max_runs: int = 1000,
        engine: Engine | None = None,
    ) -> None:
        """Without `engine`, this process executes the runs that it accepts."""
        self.journal = journal
        self._find_app = find_app
        self._limits = limits or Limits()
        self._now = clock
        self._most = max_runs
        self._live = LiveRuns(journal, services, self._limits, clock)
        # Reader and background tasks share the active runs.
        self._reader = RunReader(journal, self._live)
        self._carrier = self._build_carrier(engine)
        self._upkeep = RunMaintenance(journal, self._live, self._carrier, self.resume)
        self._idle = IdleRuns(journal, clock)
        self._starting: dict[str, asyncio.Future[RunRecord]] = {}
        self._caller_of: CallerOf = lambda run: Caller(
            tenant=run.tenant, key=f"app:{run.app}" if run.app else ""
        )

    def _build_carrier(self, engine: Engine | None) -> Carrier:
        """Return what decides which process executes a run."""
        if engine is None:
            return EmbeddedCarrier(self.journal, self._live, self._continue)
        return QueuedCarrier(
            self.journal,
            self._live,
            self._continue,
            engine=engine,
            # Looked up when needed: the maintenance needs the carrier.
            expire=lambda: self._upkeep.expire(),
            may_be_silent=lambda: self._upkeep.may_be_silent,
        )

    @property
    def problem(self) -> str:
        """Why no run is executed at present; empty if nothing is wrong."""
        return self._carrier.problem

    def identify_callers(self, caller_of: CallerOf) -> None:
        """Set how a run's caller is found. It is needed again if another process
        resumes the run."""
        self._caller_of = caller_of

    def check_output(self, check_for: CheckFor) -> None:
        """Set the check for the response text of runs."""
        self._live.check_for = check_for

    def on_end(self, listener: OnEnd) -> None:
        """Call a listener when a run ends or pauses."""
        self._live.listeners.append(listener)

    @property
    def count(self) -> int:
        """Number of active runs in this process."""
        return len(self._live)

    # Starting and resuming

    async def start(self, app: App, record: RunRecord) -> RunRecord:
        """Start a run. If a run with this id exists, in any process, it is returned
        instead.

        Raises InputError, WorkflowError or StorageUnavailableError if nothing was
        started.
        """
        # Simultaneous calls with the same id share one start.
        going = self._starting.get(record.id)
        if going is None:
            going = self._starting[record.id] = asyncio.ensure_future(
                self._start(app, record)
            )
            going.add_done_callback(lambda _: self._starting.pop(record.id, None))
        # The caller may disconnect, but a half-recorded start must be completed.
        return await asyncio.shield(going)

    async def _start(self, app: App, record: RunRecord) -> RunRecord:
        """Check the limits, record the run and start its task."""
        # Refused with a retry hint where there is no queue.
        if len(self._live) >= self._most and not self._carrier.has_queue:
            raise TooManyRunsError(
                f"Concurrent run limit ({self._most}) reached; try again later"
            )
        # Apps that call each other in a cycle end here.
        if record.depth >= self._limits.depth:
            raise WorkflowError(
                f"Workflow call depth limit ({self._limits.depth}) exceeded"
            )
        # Inputs are validated before anything is stored.
        record = _storable_start(record)
        pool = await _build_pool_async(app, record)
        record = msgspec.structs.replace(
            record,
            root=record.root or app.roots[0],
            # Stored for whoever resumes the run, when there is no request any more.
            api_key=current_api_key(record.tenant),
            reader=current_reader(record.tenant),
        )
        caller = self._caller_of(record)
        start = RunStart(
            app=app, record=record, pool=pool, caller=caller, history=History()
        )
        if not await self._carrier.accept(start):
            return await self._existing_run(record)
        return record

    async def _existing_run(self, record: RunRecord) -> RunRecord:
        """Return the existing run. If this process owns it but does not execute it,
        start it.

        This happens if the database stored the run but its reply was lost.
        """
        existing = await self.find(record.tenant, record.id)
        is_executed = self._live.find(existing.id) is not None
        is_left = existing.status is Status.RUNNING and not is_executed
        # A run of another process is executed there.
        if is_left and await self.journal.is_mine(existing.id):
            await self._continue(existing)
        return existing

    async def record_answer(self, record: RunRecord, text: str) -> RunRecord:
        """Record a run that ends at once with a fixed answer; no node is executed."""
        current_time = self._now()
        # The record is complete from the start.
        finished = msgspec.structs.replace(
            record,
            status=Status.SUCCEEDED,
            outputs={"answer": text},
            finished_at=current_time,
            root=record.root or "none",
        )
        events: list[tuple[int, AnyEvent]] = [
            (
                1,
                NodeRunStreamChunk(
                    id="",
                    node_id="",
                    node_type="answer",
                    at=current_time,
                    selector=["sys", "answer"],
                    chunk=text,
                ),
            ),
            (2, GraphRunSucceeded(at=current_time, outputs=finished.outputs)),
        ]
        await self.journal.create(finished)
        # Listeners store the conversation's message, before clients can see the end of
        # the run.
        for listener in self._live.listeners:
            await listener(
                finished, VariablePool(), text, [event for _, event in events]
            )
        await self.journal.settle(finished, events)
        return finished

    async def resume(self, tenant: str, run_id: str) -> bool:
        """Resume a paused run. Returns False if it is not paused or another process was
        faster."""
        record = await self.find(tenant, run_id)
        # Two conditions: the state was read, and the journal confirms it atomically.
        if record.status is not Status.PAUSED:
            return False
        return await self._carrier.resume(record)

    async def resume_soon(self, tenant: str, run_id: str) -> None:
        """Resume a run as soon as its other branches have paused too; give up after a
        while."""
        for _ in range(100):
            if (
                await self.resume(tenant, run_id)
                or (await self.find(tenant, run_id)).status.is_over
            ):
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _continue(self, record: RunRecord) -> None:
        """Continue a run from its recorded steps. If that is not possible, it is
        recorded as failed. Raises StorageUnavailableError."""
        try:
            # The app may have been deleted and the key revoked since the run started.
            app = await self._find_app(record)
            history = await self.journal.history(record)
            _check_fruitless_starts(history)
            pool = await _build_pool_async(app, record)
            caller = self._caller_of(record)
        # The run can be continued later.
        except StorageUnavailableError:
            raise
        # A run that can never be resumed must not be tried again by every process.
        except Exception as error:
            logger.exception(
                "run cannot be resumed", extra={"fields": {"run": record.id}}
            )
            await self._record_failure(record, f"The run cannot be resumed: {error}")
            return
        # The reasons of the pause no longer apply.
        record = msgspec.structs.replace(record, status=Status.RUNNING, reasons=[])
        self._live.begin(
            RunStart(
                app=app,
                record=record,
                pool=pool,
                caller=caller,
                history=history,
                is_resumed=True,
            )
        )

    async def _record_failure(self, record: RunRecord, message: str) -> None:
        """Record that a run that no process executes has failed."""
        message, current_time = storable_text(message), self._now()
        failed = msgspec.structs.replace(
            record, status=Status.FAILED, error=message, finished_at=current_time
        )
        # The final event continues the numbers of the stored events.
        last_number = await self.journal.last_event_number(record)
        event = GraphRunFailed(at=current_time, error=message)
        await self.journal.settle(failed, [(last_number + 1, event)])

    # Watching

    async def find(self, tenant: str, run_id: str) -> RunRecord:
        """Return a run. Raises NotFoundError if the tenant has no run with this id."""
        return await self._reader.find(tenant, run_id)

    def watch(
        self, tenant: str, run_id: str, *, after: int = 0
    ) -> AsyncGenerator[tuple[int, AnyEvent], None]:
        """Yield (number, event) of all events after a number, until the run ends or
        pauses."""
        return self._reader.watch(tenant, run_id, after=after)

    async def wait_until_ended(self, tenant: str, run_id: str) -> RunRecord:
        """Wait until the run has ended or paused, and return it."""
        return await self._reader.wait_until_ended(tenant, run_id)

    # Commands

    async def stop(
        self, tenant: str, run_id: str, reason: str = "User requested stop"
    ) -> bool:
        """Stop a run in whichever process it is. Returns False if it is not active."""
        return await self._command(tenant, run_id, Command.STOP, reason)

    async def pause(self, tenant: str, run_id: str) -> bool:
        """Pause a run. Returns False if it is not active."""
        return await self._command(tenant, run_id, Command.PAUSE, "Paused on request")

    async def _command(
        self, tenant: str, run_id: str, command: Command, reason: str
    ) -> bool:
        """Send a command to a run: directly, or through the journal to another process."""
        live_run = self._live.find(run_id)
        # The tenant is checked, because ids can be guessed.
        if live_run is not None and live_run.record.tenant == tenant:
            live_run.command(command, reason)
            return True
        if await self._idle.command(tenant, run_id, command, reason):
            return True
        return await self.journal.command(tenant, run_id, command.value)

    # Maintenance

    def start_maintenance(self) -> None:
        """Start the background tasks on the running event loop."""
        self._upkeep.start()

    async def recover(self) -> int:
        """Resume the runs of dead processes; return their number."""
        return await self._upkeep.recover()

    def leave(self) -> None:
        """Prepare for the end of the process: where there may be others, start no more
        nodes, and let them go on with a run as soon as its running nodes have ended.

        Without others, runs have the time that is left to reach their own end.
        """
        self._carrier.leave()
        if self.journal.is_shared or self._carrier.has_queue:
            self._live.leave_all()

    async def aclose(self) -> None:
        """Leave all runs to other processes or to the next start."""
        # Maintenance ends first: it could resume runs that are being released.
        await self._upkeep.aclose()
        self._carrier.leave()
        await self._live.release_all()
        await self._carrier.aclose()


def _storable_start(record: RunRecord) -> RunRecord:
    """Return the record of a new run with values that can be stored. Raises InputError
    for values that cannot."""
    return msgspec.structs.replace(
        record,
        user=storable_text(record.user),
        inputs=storable_inputs(record.inputs),
        system=storable_inputs(record.system, SYSTEM),
        environment=storable_inputs(record.environment, ENVIRONMENT),
        variables=storable_inputs(record.variables, CONVERSATION),
    )


def _check_fruitless_starts(history: History) -> None:
    """Raise WorkflowError if the run was interrupted again and again at the same node:
    it might be what ends the processes."""
    if history.fruitless_starts >= _MAX_FRUITLESS_STARTS:
        raise WorkflowError(
            f"It was started {history.fruitless_starts} times and interrupted each time"
            " before a node ended"
        )


async def _build_pool_async(app: App, record: RunRecord) -> VariablePool:
    """Return the run's variables; large inputs are validated off the event loop."""
    # Only the validation of large inputs is worth a thread.
    if is_large(record.inputs):
        return await asyncio.to_thread(_build_pool, app, record)
    return _build_pool(app, record)


def _build_pool(app: App, record: RunRecord) -> VariablePool:
    """Return the variable pool with which the run starts."""
    return pool_for(
        app,
        record.root,
        record.inputs,
        record.system,
        environment=record.environment,
        conversation=record.variables,
    )
