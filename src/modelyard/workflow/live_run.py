"""A run that is active in this process, and the engine's recorder on its journal."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.workflow.engine import Command, GraphEngine
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import (
    LEASE_SECONDS,
    History,
    Journal,
    LeaseLostError,
    RunRecord,
)
from modelyard.workflow.recorder import Recorder, Step
from modelyard.workflow.variables import WorkflowError

_MAX_EVENTS_IN_MEMORY = 20_000
WATCHED_SECONDS = 15.0
"""How long after a request the events of a run are signalled to other processes."""
_CERTAIN_SECONDS = LEASE_SECONDS / 2
"""How long after a confirmation the run certainly still belongs to this process."""


@dataclass(frozen=True, slots=True)
class _WriteBatch:
    """What one transaction writes to the journal, and the callers that wait for it."""

    steps: Sequence[tuple[int, Step]]
    events: Sequence[tuple[int, AnyEvent]]
    started_keys: Sequence[str]
    waiters: Sequence[asyncio.Future[None]]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written, and nobody waits for a confirmation."""
        return not (self.steps or self.events or self.started_keys or self.waiters)

    def confirm(self) -> None:
        """Resolve the waiters: their data is stored."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Raise WorkflowError in all callers."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(
                    WorkflowError(f"The run could not be stored: {error}")
                )


class LiveRun:
    """A run that is active in this process: its events in memory, and the task that
    writes steps and events to the journal."""

    def __init__(self, record: RunRecord, journal: Journal, history: History) -> None:
        self.record = record
        self.engine: GraphEngine | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_leaving = False
        """Whether this process shuts down: the run is left unfinished for another
        process."""
        self.events: list[tuple[int, AnyEvent]] = []
        self.last_event_number = history.events
        self.is_over = False
        self.is_lost = False
        """Whether another process has taken over the run. Nothing more is written or
        started here."""
        self.written_number = history.events
        """Number of the last event in the journal."""
        self._watched_until = 0.0
        self._started_at = self._confirmed_at = time.monotonic()
        self._journal = journal
        self._waiters: set[asyncio.Future[None]] = set()
        self._steps: list[tuple[int, Step]] = []
        self._unwritten: list[tuple[int, AnyEvent]] = []
        # Keys of steps that are about to start; they are written before the step runs.
        self._started_keys: list[str] = []
        # Steps are numbered in the order in which they finish; a resumed run continues
        # the numbers.
        self._step_number = len(history.steps)
        self._has_work = asyncio.Event()
        # Futures of callers that wait for the next write.
        self._write_waiters: list[asyncio.Future[None]] = []
        self._is_ending = False
        self._writing: asyncio.Task[None] | None = None

    def command(self, command: Command, reason: str = "") -> None:
        """Stop or pause the run. Does nothing before the engine has started."""
        if self.engine is not None:
            self.engine.command(command, reason)

    def lose(self) -> None:
        """Stop at once, because another process has taken over the run."""
        self.is_lost = True
        self.command(Command.STOP, "Another process has taken over the run")

    def note_watched(self) -> None:
        """Another process watches the run from now on, for a while."""
        self._watched_until = time.monotonic() + WATCHED_SECONDS

    # Ownership

    @property
    def is_certain(self) -> bool:
        """Whether the run certainly belongs to this process, by the clock that nothing
        sets."""
        return time.monotonic() - self._confirmed_at < _CERTAIN_SECONDS

    def is_running_since(self, moment: float) -> bool:
        """Whether the run was active here at a time of `time.monotonic`, and has not
        begun to end since."""
        return self._started_at <= moment and not self._is_ending

    def note_confirmed(self, asked_at: float) -> None:
        """The run belonged to this process at a time of `time.monotonic`."""
        self._confirmed_at = max(self._confirmed_at, asked_at)

    async def confirm(self) -> None:
        """Wait until it is certain that the run belongs to this process. Raises
        WorkflowError if it does not."""
        # The process may be frozen again while it waits for the answer.
        while not self.is_certain:
            await self.flush()

    # Events

    def push(self, event: AnyEvent) -> None:
        """Number an event, keep it for readers in memory and queue it for the journal."""
        self.last_event_number += 1
        self.events.append((self.last_event_number, event))
        # Readers that lag behind the events in memory read the older ones from the
        # journal.
        if len(self.events) > _MAX_EVENTS_IN_MEMORY:
            # A quarter at once: to drop one from the front of a list moves all the
            # others.
            del self.events[: _MAX_EVENTS_IN_MEMORY // 4]
        self._unwritten.append((self.last_event_number, event))
        self._has_work.set()
        self.wake()

    @property
    def first_event_number(self) -> int:
        """Number of the first event in memory. Earlier events are in the journal."""
        return self.events[0][0] if self.events else self.last_event_number + 1

    def wake(self) -> None:
        """Resolve all waiters of `changed`."""
        # Swapped first: a waiter that runs may register again.
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Wait until there is a new event or the run has ended here."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def all_events(self) -> list[AnyEvent]:
        """Return all events of the run, including those that an earlier process
        recorded."""
        # All events are still in memory, including the first one.
        if self.events and self.events[0][0] == 1:
            return [event for _, event in self.events]
        events: list[AnyEvent] = []
        last = 0
        while page := await self._journal.events(
            self.record.id,
            last,
            5000,
        ):
            last = page[-1][0]
            events += [event for _, event in page]
        return events

    # Writing to the journal

    def record_step(self, step: Step) -> None:
        """Number a finished step and queue it for the journal."""
        self._step_number += 1
        self._steps.append((self._step_number, step))
        self._has_work.set()

    async def flush(self, started_key: str = "") -> None:
        """Wait until everything queued so far is stored.

        `started_key` is the key of a step that is about to start; it is stored too.
        Raises WorkflowError if the write fails.
        """
        # The key is written in the same transaction as everything queued before it.
        if started_key:
            self._started_keys.append(started_key)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._write_waiters.append(written)
        self._has_work.set()
        await written

    def begin_writing(self) -> None:
        """Start the writer task. If it fails, the run is stopped, because it could not
        be resumed."""
        self._writing = asyncio.ensure_future(self._write())
        self._writing.add_done_callback(self._stopped_writing)

    async def finish_writing(self) -> None:
        """Wait until everything is stored. Raises the error that stopped the writer."""
        self._end_writing()
        if self._writing is not None:
            await self._writing

    async def stop_writing(self) -> None:
        """Stop the writer. On shutdown, everything queued is stored first."""
        self._end_writing()
        if self._writing is None:
            return
        # On shutdown the queue is written even if the task fails.
        if self.is_leaving and not self.is_lost:
            with contextlib.suppress(BaseException):
                await self._writing
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    def _end_writing(self) -> None:
        self._is_ending = True
        self._has_work.set()

    def _stopped_writing(self, writing: "asyncio.Task[None]") -> None:
        """Stop the run if the writer failed: its progress could no longer be stored."""
        if not writing.cancelled() and writing.exception() is not None:
            self.command(Command.STOP, "The run could not be stored")

    async def _write(self) -> None:
        """Write queued steps and events until the run ends. What arrives during one
        write goes into the next."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            batch = self._take_queue()
            asked_at = time.monotonic()
            try:
                if not batch.is_empty:
                    await self._journal.append(
                        self.record,
                        batch.steps,
                        batch.events,
                        batch.started_keys,
                        is_watched=asked_at < self._watched_until,
                    )
            except BaseException as error:
                self.is_lost = self.is_lost or isinstance(error, LeaseLostError)
                # Callers of `flush` must learn that their step is not stored; the error
                # itself ends the task.
                batch.fail(error)
                raise
            # The transaction is complete: everything that these callers queued is
            # stored.
            self.note_confirmed(asked_at)
            if batch.events:
                self.written_number = batch.events[-1][0]
            batch.confirm()
            # Something may have been queued during the last write.
            if self._is_ending and not self._has_work.is_set():
                return

    def _take_queue(self) -> _WriteBatch:
        """Empty the queue: one transaction then serves everything that arrived during
        the previous one."""
        batch = _WriteBatch(
            self._steps, self._unwritten, self._started_keys, self._write_waiters
        )
        self._steps = []
        self._unwritten = []
        self._started_keys = []
        self._write_waiters = []
        return batch


class JournalRecorder(Recorder):
    """Recorder of a live run: reads the steps of earlier processes and records new
    ones."""

    def __init__(
        self, live_run: LiveRun, history: History, *, is_resumed: bool
    ) -> None:
        self._live = live_run
        self._begun = set(history.begun)
        self._said = history.said if is_resumed else None
        # Steps grouped by the path of their graph: the key without the node's own id.
        self._by_path: dict[str, list[Step]] = {}
        for step in history.steps:
            self._by_path.setdefault(
                step.key[: len(step.key) - len(step.node_id)], []
            ).append(step)

    def steps(self, path: str) -> Sequence[Step]:
        """Return the recorded steps of the graph at a path, in order."""
        return self._by_path.get(path, ())

    def was_started(self, key: str) -> bool:
        """Return whether an earlier process had started this step."""
        return key in self._begun

    async def mark_started(self, key: str) -> None:
        """Store that the step is about to start, before its effects can happen."""
        await self._live.flush(key)
        await self._live.confirm()

    async def confirm(self) -> None:
        """Wait until it is certain that the run still belongs to this process."""
        await self._live.confirm()

    def record(self, step: Step) -> None:
        """Queue a finished step for the journal."""
        self._live.record_step(step)

    def shown_text(self) -> str | None:
        """Return the text that clients have received before a resumption; None for a
        first start."""
        return self._said
