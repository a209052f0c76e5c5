"""Stored events of runs, and what they add up to."""

from collections.abc import Sequence

from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunPaused,
    GraphRunStarted,
    NodeRunException,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    TextReplaced,
    dump_event,
    parse_event,
)

# Read in pages, since a run with loops can have a million events.
_PAGE_SIZE = 5000

EventRow = tuple[str, int, str]
"""(run id, number of the event, event as JSON)."""


def rows_of(run: str, events: Sequence[tuple[int, AnyEvent]]) -> list[EventRow]:
    """Return events as rows. They are serialised now because the write may be delayed."""
    return [(run, number, dump_event(event).decode()) for number, event in events]


class RunProgress:
    """What the events of a run add up to: its text, its time and its starts."""

    def __init__(self) -> None:
        self.last_number = 0
        self.fruitless_starts = 0
        """How often the run was started or resumed since a node last ended."""
        self._chunks: list[str] = []
        self._ended_parts = 0.0
        # The current part of the run reaches from its start to its last event.
        self._part_start = self._part_end = 0.0

    @property
    def shown_text(self) -> str:
        """The response text that clients have received."""
        return "".join(self._chunks)

    @property
    def seconds(self) -> float:
        """The time that the run was active, without the time between an interruption
        or a pause and the resumption."""
        return self._ended_parts + max(0.0, self._part_end - self._part_start)

    def add(self, number: int, event: AnyEvent) -> None:
        """Add the next event."""
        # A run that was paused in a queue has a pause before its first start.
        if not self.last_number:
            self._part_start = self._part_end = event.at
        self.last_number = number
        match event:
            case GraphRunStarted():
                self._ended_parts = self.seconds
                self._part_start = self._part_end = event.at
                self.fruitless_starts += 1
            case TextReplaced():
                self._chunks = [event.text]
            # Text inside a container is not part of the run's response.
            case NodeRunStreamChunk() if not (
                event.in_iteration_id or event.in_loop_id
            ):
                self._chunks.append(event.chunk)
            # The run has got further, so no single node keeps ending the processes.
            case NodeRunSucceeded() | NodeRunException() | GraphRunPaused():
                self.fruitless_starts = 0
            case _:
                pass
        # Clocks of several processes differ, and time must not run backwards.
        self._part_end = max(self._part_end, event.at)


class RunEvents(Repository):
    """The events of all runs, by run and number."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "run_events")

    def add(self, connection: Connection, rows: Sequence[EventRow]) -> None:
        """Insert events within a transaction; existing ones stay unchanged."""
        if rows:
            insert(connection, self._sql["event"], rows)

    async def after(
        self, run: str, number: int, limit: int
    ) -> list[tuple[int, AnyEvent]]:
        """Return the events after a number, in order. Raises StorageUnavailableError."""
        rows = await self._rows("events", run=run, after=number, most=limit)
        return [(int(row["seq"]), parse_event(row["body"])) for row in rows]

    async def progress(self, run: str) -> RunProgress:
        """Return what the stored events say about a run. Raises
        StorageUnavailableError."""
        progress = RunProgress()
        # Events are read in pages, so that a long run does not fill the memory.
        while events := await self.after(run, progress.last_number, _PAGE_SIZE):
            for number, event in events:
                progress.add(number, event)
        return progress

    async def last_number(self, run: str) -> int:
        """Return the number of a run's last event; 0 if it has none. Raises
        StorageUnavailableError."""
        rows = await self._rows("last_number", run=run)
        return int(rows[0]["last_number"])

    def forget(self, connection: Connection, run: str) -> None:
        """Delete the events of a run within a transaction."""
        self._step(connection, "forget_events", run)
