"""The runs that go on in this process: begun, executed to their end or pause, and written down."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.tenancy.caller import Caller, set_current_caller
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, GraphEngine, Outcome, Status
from modelyard.workflow.events import AnyEvent, GraphRunStarted, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.journal import DatabaseJournal, History, RunRecord
from modelyard.workflow.live_run import JournalRecorder, LiveRun
from modelyard.workflow.node import Limits, RunContext, Services
from modelyard.workflow.output_guard import CheckOutput, OutputGuard
from modelyard.workflow.single_run import executed, final_event
from modelyard.workflow.variables import VariablePool, to_object

logger = logging.getLogger("modelyard.workflow")

CheckFor = Callable[[App, RunRecord], CheckOutput | None]
ServicesFor = Callable[[App, RunRecord], Services]
OnEnd = Callable[[RunRecord, VariablePool, str, Sequence[AnyEvent]], Awaitable[None]]
"""Is told of a run that ended or paused: its record, what the pool held, the text that was shown, its events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """All that a run needs to begin, or to go on."""

    app: App
    record: RunRecord
    pool: VariablePool
    caller: Caller
    history: History
    is_resumed: bool = False


class LiveRuns:
    """Owns the tasks of runs, by the runs' ids."""

    def __init__(
        self, journal: DatabaseJournal, services: ServicesFor, limits: Limits, now: Callable[[], float]
    ) -> None:
        self._journal = journal
        self._services = services
        self._limits = limits
        self._now = now
        self._live: dict[str, LiveRun] = {}
        self.listeners: list[OnEnd] = []
        self.check_for: CheckFor | None = None
        """Who looks at what a run says, if anybody."""

    def __len__(self) -> int:
        return len(self._live)

    def find(self, run_id: str) -> LiveRun | None:
        return self._live.get(run_id)

    def begin(self, beginning: Beginning) -> None:
        """Let a run go on in a task of its own."""
        record = beginning.record
        live = LiveRun(record, self._journal, beginning.history)
        self._live[record.id] = live

        async def run() -> None:
            # The task inherits the caller of whoever started or resumed the run, who may be another one.
            set_current_caller(beginning.caller)
            await self._run(live, beginning)

        live.task = asyncio.ensure_future(run())

    async def leave(self) -> None:
        """Let go of all: they go on elsewhere."""
        lives = list(self._live.values())
        for live in lives:
            live.is_leaving = True
            live.command(Command.STOP)
        await asyncio.gather(*(live.task for live in lives if live.task is not None), return_exceptions=True)

    async def _run(self, live: LiveRun, beginning: Beginning) -> None:
        record, pool = live.record, beginning.pool
        context = self._context(beginning)
        guard = self._guard(live, beginning.app)

        def emit(event: AnyEvent) -> None:
            if guard is None or guard.hear(event):
                live.push(event)

        recorder = JournalRecorder(live, beginning.history, is_resumed=beginning.is_resumed)
        live.engine = GraphEngine(beginning.app.graph(record.root), pool, context, emit, recorder=recorder)
        live.begin_writing()
        began = time.monotonic()
        try:
            live.push(self._started(beginning))
            outcome = await executed(live.engine, self._limits.seconds)
            if live.is_leaving:
                return
            if guard is not None and (instead := await guard.finish()) is not None:
                outcome = Outcome(status=Status.SUCCEEDED, outputs={"answer": instead})
            elapsed = record.elapsed + time.monotonic() - began
            await self._ended(live, pool, context, outcome, elapsed)
        except ModelyardError as error:
            logger.error("a run is left for later", extra={"fields": {"run": record.id, "error": str(error)}})
        finally:
            if guard is not None:
                await guard.finish()
            await live.leave_writing()
            live.is_over = True
            self._live.pop(record.id, None)
            live.wake()

    def _context(self, beginning: Beginning) -> RunContext:
        record = beginning.record
        return RunContext(
            run_id=record.id, services=self._services(beginning.app, record), limits=self._limits,
            tenant=record.tenant, user=record.user, app=record.app, depth=record.depth, now=self._now,
        )  # fmt: skip

    def _guard(self, live: LiveRun, app: App) -> OutputGuard | None:
        if self.check_for is None:
            return None
        check = self.check_for(app, live.record)
        return OutputGuard(live, check) if check is not None else None

    def _started(self, beginning: Beginning) -> GraphRunStarted:
        record = beginning.record
        shown = {**record.inputs, **{f"sys.{name}": value for name, value in record.system.items()}}
        reason = "resumption" if beginning.is_resumed else "initial"
        return GraphRunStarted(at=self._now(), inputs=to_object(shown), reason=reason)

    async def _ended(
        self, live: LiveRun, pool: VariablePool, context: RunContext, outcome: Outcome, elapsed: float
    ) -> None:
        await live.finish_writing()
        live.record = msgspec.structs.replace(
            live.record,
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
        await self._tell(live.record, pool, await live.all_events())
        # Whoever sees the end may ask at once what came of the run: it is written down first.
        last = final_event(outcome, context)
        await self._journal.settle(live.record, [(live.last + 1, last)])
        live.push(last)

    async def _tell(self, record: RunRecord, pool: VariablePool, events: Sequence[AnyEvent]) -> None:
        """Tell the listeners. Raises ModelyardError where what one of them writes down is lost."""
        text = _said(events)
        for listener in self.listeners:
            try:
                await listener(record, pool, text, events)
            except ModelyardError:
                raise  # what it writes down is lost: the run is taken up again
            except Exception:  # a fault of ours: whoever waits for the run is told of its end all the same
                logger.exception("a run's end was not heard", extra={"fields": {"run": record.id}})


def _said(events: Sequence[AnyEvent]) -> str:
    """What was said, as it stands in the end."""
    said: list[str] = []
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            said.append(event.chunk)
        elif isinstance(event, TextReplaced):
            said = [event.text]
    return "".join(said)
