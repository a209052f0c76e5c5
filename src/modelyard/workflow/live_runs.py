"""The runs that are active in this process: started, executed until they end or pause,
and recorded."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.storage.database import StorageUnavailableError
from modelyard.tenancy.caller import Caller, set_current_caller
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunFailed,
    GraphRunStarted,
    NodeRunStreamChunk,
    TextReplaced,
)
from modelyard.workflow.journal import (
    WATCHED_TOPIC,
    DatabaseJournal,
    History,
    LeaseLostError,
    RunRecord,
)
from modelyard.workflow.live_run import JournalRecorder, LiveRun
from modelyard.workflow.node import Limits, RunContext, Services
from modelyard.workflow.output_guard import CheckOutput, OutputGuard
from modelyard.workflow.single_run import execute_with_timeout, final_event
from modelyard.workflow.storable import storable_text
from modelyard.workflow.variables import VariablePool, to_object

logger = logging.getLogger("modelyard.workflow")

CheckFor = Callable[[App, RunRecord], CheckOutput | None]
ServicesFor = Callable[[App, RunRecord], Services]
OnEnd = Callable[[RunRecord, VariablePool, str, Sequence[AnyEvent]], Awaitable[None]]
"""Listener for a run that ended or paused: its record, its variable pool, the final
response text and its events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """Everything needed to start or resume a run."""

    app: App
    record: RunRecord
    pool: VariablePool
    caller: Caller
    history: History
    is_resumed: bool = False


class LiveRuns:
    """Owns the tasks of active runs, by run id."""

    def __init__(
        self,
        journal: DatabaseJournal,
        services: ServicesFor,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._services = services
        self._limits = limits
        self._now = clock
        self._live_runs: dict[str, LiveRun] = {}
        self._postponed: dict[str, RunRecord] = {}
        self._is_leaving = False
        journal.signals.observe(WATCHED_TOPIC, self._note_watched)
        self.listeners: list[OnEnd] = []
        self.check_for: CheckFor | None = None
        """Returns the output check of a run; None if nothing moderates output."""

    def __len__(self) -> int:
        return len(self._live_runs)

    def find(self, run_id: str) -> LiveRun | None:
        """Return the active run with this id; None if it is not active in this process."""
        return self._live_runs.get(run_id)

    def _note_watched(self, run_id: str) -> None:
        """Signal the events of a run that another process watches, if it is active
        here."""
        live_run = self._live_runs.get(run_id)
        if live_run is not None:
            live_run.note_watched()

    def begin(self, beginning: RunStart) -> None:
        """Start or resume a run in a task of its own."""
        record = beginning.record
        live_run = LiveRun(record, self._journal, beginning.history)
        # Registered before the task runs, so that readers find the run at once.
        self._live_runs[record.id] = live_run

        async def run() -> None:
            """Execute the run as its own caller."""
            # The task inherits the caller of the request that started or resumed the
            # run, who may be someone else.
            set_current_caller(beginning.caller)
            await self._run(live_run, beginning)

        live_run.task = asyncio.ensure_future(run())
        if self._is_leaving:
            self._leave(live_run)

    def leave_all(self) -> None:
        """Start no more nodes. A run is left to another process as soon as its running
        nodes have ended."""
        self._is_leaving = True
        for live_run in list(self._live_runs.values()):
            self._leave(live_run)

    @staticmethod
    def _leave(live_run: LiveRun) -> None:
        live_run.is_leaving = True
        # A pause lets the running nodes end; what they have done is not done again.
        live_run.command(Command.PAUSE)

    async def release_all(self) -> None:
        """Stop all runs without ending them, so that another process resumes them."""
        self.leave_all()
        lives = list(self._live_runs.values())
        # All runs are stopped first and awaited together, which is faster than one by
        # one.
        for live_run in lives:
            live_run.command(Command.STOP)
        await asyncio.gather(
            *(live_run.task for live_run in lives if live_run.task is not None),
            return_exceptions=True,
        )

    def note_renewed(self, held: Collection[tuple[str, int]], asked_at: float) -> None:
        """Stop the runs whose leases were not renewed, because another process has
        taken them over. `held`: the others, as (run, epoch), at a time of
        `time.monotonic`."""
        for live_run in list(self._live_runs.values()):
            record = live_run.record
            if (record.id, record.epoch) in held:
                live_run.note_confirmed(asked_at)
            # One that has started, or ended, since the question was asked is neither.
            elif live_run.is_running_since(asked_at):
                live_run.lose()

    async def _run(self, live_run: LiveRun, beginning: RunStart) -> None:
        """Execute a run until it ends, pauses or is left to another process, and record
        the outcome."""
        try:
            await self._execute(live_run, beginning)
        except LeaseLostError:
            live_run.is_lost = True
        except StorageUnavailableError as error:
            logger.error(
                "run resume postponed",
                extra={"fields": {"run": live_run.record.id, "error": str(error)}},
            )
            self.postpone(beginning.record)
        # What was executed cannot be recorded, and would fail again after a resumption.
        except Exception as error:
            logger.exception(
                "run cannot be recorded",
                extra={"fields": {"run": live_run.record.id}},
            )
            # A run that this process leaves is recorded by the one that resumes it.
            if not live_run.is_leaving and not live_run.is_lost:
                await self._fail(live_run, beginning, error)
        finally:
            # The writer must have ended before readers see that the run is over
            # here.
            await live_run.stop_writing()
            await self._let_go(live_run)
            live_run.is_over = True
            self._live_runs.pop(live_run.record.id, None)
            live_run.wake()

    async def _execute(self, live_run: LiveRun, beginning: RunStart) -> None:
        """Execute a run and record its outcome. Raises what keeps it from being
        recorded."""
        record, pool = live_run.record, beginning.pool
        context = self._context(beginning)
        guard = self._guard(live_run, beginning.app)

        def emit(event: AnyEvent) -> None:
            """Publish an event unless the output guard suppresses it."""
            if guard is None or guard.should_publish(event):
                live_run.push(event)

        recorder = JournalRecorder(
            live_run, beginning.history, is_resumed=beginning.is_resumed
        )
        # The time of earlier processes counts too.
        # After a pause the record has it, after a crash only the events do.
        used_seconds = max(record.elapsed, beginning.history.seconds)
        started = time.monotonic()
        try:
            # The recorder replays what earlier processes recorded.
            live_run.engine = GraphEngine(
                beginning.app.graph(record.root), pool, context, emit, recorder=recorder
            )
            # Nothing can be commanded before there is an engine.
            if live_run.is_leaving:
                live_run.command(Command.PAUSE)
            # The journal must be writing before the first event is pushed.
            live_run.begin_writing()
            live_run.push(self._started(beginning))
            outcome = await execute_with_timeout(
                live_run.engine, self._limits.seconds, used_seconds
            )
            # Another process resumes the run, or has done so: record no outcome.
            if live_run.is_leaving or live_run.is_lost:
                return
            # The last check may still replace the answer.
            if guard is not None and (instead := await guard.finish()) is not None:
                outcome = Outcome(status=Status.SUCCEEDED, outputs={"answer": instead})
            elapsed = used_seconds + time.monotonic() - started
            await self._finish(live_run, pool, context, outcome, elapsed)
        finally:
            if guard is not None:
                await guard.finish()

    async def _let_go(self, live_run: LiveRun) -> None:
        """Let other processes know that this one does not execute a run any more."""
        record = live_run.record
        fields = {"run": record.id}
        if live_run.is_lost:
            logger.warning(
                "run was taken over by another process", extra={"fields": fields}
            )
        elif live_run.is_leaving and not record.status.is_over:
            logger.info("run left to another process", extra={"fields": fields})
            # Else the lease expires by itself.
            with suppress(StorageUnavailableError):
                await self._journal.release(record)

    async def _fail(
        self, live_run: LiveRun, beginning: RunStart, error: Exception
    ) -> None:
        """Record a run as failed because its result could not be recorded."""
        message = storable_text(f"The run could not be stored: {error}")
        record = msgspec.structs.replace(
            beginning.record,
            status=Status.FAILED,
            error=message,
            finished_at=self._now(),
        )
        last = GraphRunFailed(
            at=self._now(), error=message, error_type=type(error).__name__
        )
        # As at any end, listeners come before the event that clients wait for.
        try:
            await self._call_listeners(record, beginning.pool, [])
        except ModelyardError:
            logger.exception(
                "run-end listener failed", extra={"fields": {"run": record.id}}
            )
        try:
            await self._journal.settle(record, [(live_run.last_event_number + 1, last)])
        except StorageUnavailableError:
            self.postpone(beginning.record)
            return
        except LeaseLostError:
            live_run.is_lost = True
            return
        live_run.record = record
        live_run.push(last)

    def postpone(self, record: RunRecord) -> None:
        """Remember a run of this process that could not be recorded or resumed because
        the storage is unavailable."""
        self._postponed[record.id] = record

    def take_postponed(self) -> Sequence[RunRecord]:
        """Return the postponed runs and forget them."""
        postponed, self._postponed = self._postponed, {}
        return list(postponed.values())

    def _context(self, beginning: RunStart) -> RunContext:
        """Return the context that all nodes of the run share."""
        record = beginning.record
        return RunContext(
            run_id=record.id,
            services=self._services(beginning.app, record),
            limits=self._limits,
            tenant=record.tenant,
            user=record.user,
            app=record.app,
            depth=record.depth,
            now=self._now,
        )

    def _guard(self, live_run: LiveRun, app: App) -> OutputGuard | None:
        """Return the guard that moderates the run's output; None if there is nothing to
        check."""
        if self.check_for is None:
            return None
        check = self.check_for(app, live_run.record)
        return OutputGuard(live_run, check) if check is not None else None

    def _started(self, beginning: RunStart) -> GraphRunStarted:
        """Return the start event with the inputs and the system variables."""
        record = beginning.record
        # System variables get their namespace, so that they cannot collide with inputs.
        run_inputs = {
            **record.inputs,
            **{f"sys.{name}": value for name, value in record.system.items()},
        }
        reason = "resumption" if beginning.is_resumed else "initial"
        return GraphRunStarted(
            at=self._now(), inputs=to_object(run_inputs), reason=reason
        )

    async def _finish(
        self,
        live_run: LiveRun,
        pool: VariablePool,
        context: RunContext,
        outcome: Outcome,
        elapsed: float,
    ) -> None:
        """Record the outcome, call the listeners, and publish the final event last."""
        # All steps must be stored before the run counts as ended.
        await live_run.finish_writing()
        live_run.record = msgspec.structs.replace(
            live_run.record,
            status=outcome.status,
            outputs=to_object(outcome.outputs),
            error=outcome.error,
            reasons=outcome.reasons,
            total_tokens=context.tokens,
            total_price=context.price,
            total_steps=context.steps,
            exceptions_count=context.exceptions,
            elapsed=elapsed,
            finished_at=self._now() if outcome.status.is_over else None,
        )
        # Listeners get all events, including those of earlier processes.
        await self._call_listeners(live_run.record, pool, await live_run.all_events())
        # A client that sees the final event may query the run at once, so it is stored
        # first.
        last = final_event(outcome, context)
        await self._journal.settle(
            live_run.record, [(live_run.last_event_number + 1, last)]
        )
        live_run.push(last)

    async def _call_listeners(
        self, record: RunRecord, pool: VariablePool, events: Sequence[AnyEvent]
    ) -> None:
        """Call the listeners. Raises ModelyardError if a listener could not store its
        result."""
        # The text is computed once for all listeners.
        text = _response_text(events)
        for listener in self.listeners:
            try:
                await listener(record, pool, text, events)
            except ModelyardError:
                # The listener's result is not stored: the run stays unfinished and is
                # resumed later.
                raise
            except Exception:
                # A bug in a listener must not keep the clients of the run waiting.
                logger.exception(
                    "run-end listener failed", extra={"fields": {"run": record.id}}
                )


def _response_text(events: Sequence[AnyEvent]) -> str:
    """Return the final response text: the streamed chunks, or the text that replaced
    them."""
    chunks: list[str] = []
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            chunks.append(event.chunk)
        elif isinstance(event, TextReplaced):
            # A replacement discards everything before it.
            chunks = [event.text]
    return "".join(chunks)
