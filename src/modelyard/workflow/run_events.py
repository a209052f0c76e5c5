"""Stored events of runs, and the response text that they add up to."""

from collections.abc import Sequence

from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunStreamChunk,
    TextReplaced,
    dump_event,
    parse_event,
)

_PAGE_SIZE = 5000

EventRow = tuple[str, int, str]
"""(run id, number of the event, event as JSON)."""


def rows_of(run: str, events: Sequence[tuple[int, AnyEvent]]) -> list[EventRow]:
    """Return events as rows. They are serialised now because the write may be delayed."""
    return [(run, number, dump_event(event).decode()) for number, event in events]


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

    async def shown_text(self, run: str) -> tuple[str, int]:
        """Return (response text of a run, number of its last event). Raises
        StorageUnavailableError."""
        chunks: list[str] = []
        last = 0
        # Events are read in pages, so that a long run does not fill the memory.
        while events := await self.after(run, last, _PAGE_SIZE):
            last = events[-1][0]
            for _, event in events:
                # Text inside a container is not part of the run's response.
                if isinstance(event, TextReplaced):
                    chunks = [event.text]
                elif (
                    isinstance(event, NodeRunStreamChunk)
                    and not event.in_iteration_id
                    and not event.in_loop_id
                ):
                    chunks.append(event.chunk)
        return "".join(chunks), last

    def forget(self, connection: Connection, run: str) -> None:
        """Delete the events of a run within a transaction."""
        self._step(connection, "forget_events", run)
