"""A run that goes on in this process, and the engine's view of what is kept of it."""

import asyncio
import contextlib
from collections.abc import Sequence

from modelyard.workflow.engine import Command, GraphEngine
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import History, Journal, RunRecord
from modelyard.workflow.recorder import Recorder, Step
from modelyard.workflow.variables import WorkflowError

_KEPT_EVENTS = 20_000


class LiveRun:
    """A run that goes on in this process: its events, and the writing of what happens to the journal."""

    def __init__(self, record: RunRecord, journal: Journal, history: History) -> None:
        self.record = record
        self.engine: GraphEngine | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_leaving = False
        """The process ends: the run is to go on elsewhere."""
        self.events: list[tuple[int, AnyEvent]] = []
        self.last = history.events
        self.is_over = False
        self._journal = journal
        self._waiters: set[asyncio.Future[None]] = set()
        self._steps: list[tuple[int, Step]] = []
        self._unwritten: list[tuple[int, AnyEvent]] = []
        self._begun: list[str] = []
        self._turn = len(history.steps)
        self._has_work = asyncio.Event()
        self._written: list[asyncio.Future[None]] = []
        self._is_ending = False
        self._writing: asyncio.Task[None] | None = None

    def command(self, command: Command, why: str = "") -> None:
        """Stop or pause it, once it has begun."""
        if self.engine is not None:
            self.engine.command(command, why)

    # events

    def push(self, event: AnyEvent) -> None:
        self.last += 1
        self.events.append((self.last, event))
        if len(self.events) > _KEPT_EVENTS:
            del self.events[: _KEPT_EVENTS // 4]
        self._unwritten.append((self.last, event))
        self._has_work.set()
        self.wake()

    @property
    def first(self) -> int:
        """The number of the first event that is here; those before it are in the journal."""
        return self.events[0][0] if self.events else self.last + 1

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for one in waiters:
            if not one.done():
                one.set_result(None)

    async def changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def all_events(self) -> list[AnyEvent]:
        """Those of the process before this one included."""
        if self.events and self.events[0][0] == 1:
            return [event for _, event in self.events]
        events: list[AnyEvent] = []
        last = 0
        while page := await self._journal.events(self.record.id, last, 5000):
            last = page[-1][0]
            events += [event for _, event in page]
        return events

    # what is written down

    def record_step(self, step: Step) -> None:
        self._turn += 1
        self._steps.append((self._turn, step))
        self._has_work.set()

    async def safe(self, begun: str = "") -> None:
        """Done once all that there is was written."""
        if begun:
            self._begun.append(begun)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._written.append(done)
        self._has_work.set()
        await done

    def begin_writing(self) -> None:
        """Write what happens from now on. Where that fails the run is stopped: it could not be kept."""
        self._writing = asyncio.ensure_future(self._write())
        self._writing.add_done_callback(self._stopped_writing)

    async def finish_writing(self) -> None:
        """Done once all that happened is written. Raises what hindered it."""
        self._end_writing()
        if self._writing is not None:
            await self._writing

    async def leave_writing(self) -> None:
        """Write no more; where the process ends, all that there is first."""
        self._end_writing()
        if self._writing is None:
            return
        if self.is_leaving:
            with contextlib.suppress(BaseException):
                await self._writing
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    def _end_writing(self) -> None:
        self._is_ending = True
        self._has_work.set()

    def _stopped_writing(self, writing: "asyncio.Task[None]") -> None:
        """What happens cannot be kept any more: the run must not go on."""
        if not writing.cancelled() and writing.exception() is not None:
            self.command(Command.STOP, "the run could not be kept")

    async def _write(self) -> None:
        """Writes what there is, for as long as the run goes on: one write at a time, with all that came meanwhile."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            steps, self._steps = self._steps, []
            events, self._unwritten = self._unwritten, []
            begun, self._begun = self._begun, []
            waiting, self._written = self._written, []
            try:
                if steps or events or begun:
                    await self._journal.append(self.record, steps, events, begun)
            except BaseException as error:
                for one in waiting:
                    if not one.done():
                        one.set_exception(WorkflowError(f"the run could not be kept: {error}"))
                raise
            for one in waiting:
                if not one.done():
                    one.set_result(None)
            if self._is_ending and not self._has_work.is_set():
                return


class JournalRecorder(Recorder):
    """The engine's view of what is kept."""

    def __init__(self, live: LiveRun, history: History, *, is_resumed: bool) -> None:
        self._live = live
        self._begun = set(history.begun)
        self._said = history.said if is_resumed else None
        self._by_path: dict[str, list[Step]] = {}
        for step in history.steps:
            self._by_path.setdefault(step.key[: len(step.key) - len(step.node_id)], []).append(step)

    def steps(self, path: str) -> Sequence[Step]:
        return self._by_path.get(path, ())

    def was_started(self, key: str) -> bool:
        return key in self._begun

    async def about_to(self, key: str) -> None:
        await self._live.safe(key)

    def record(self, step: Step) -> None:
        self._live.record_step(step)

    def said(self) -> str | None:
        return self._said
