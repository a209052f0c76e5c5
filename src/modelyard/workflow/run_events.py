"""What happened in runs, for people who watch, and what they were shown."""

from collections.abc import Sequence

from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced, dump_event, parse_event

_READ_AT_ONCE = 5000

EventRow = tuple[str, int, str]
"""A run, the number of one of its events, and that event as text."""


def rows_of(run: str, events: Sequence[tuple[int, AnyEvent]]) -> list[EventRow]:
    """Events of one run as they are now, to be written whenever the database takes them."""
    return [(run, number, dump_event(event).decode()) for number, event in events]


class RunEvents(Repository):
    """The events of all runs, by run and number."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "run_events")

    def add(self, connection: Connection, rows: Sequence[EventRow]) -> None:
        """Within a transaction; those that are there already stay as they are."""
        if rows:
            insert(connection, self._sql["event"], rows)

    async def after(self, run: str, number: int, most: int) -> list[tuple[int, AnyEvent]]:
        """Those behind a number, in order. Raises StorageUnavailableError."""
        rows = await self._rows("events", run=run, after=number, most=most)
        return [(int(row["seq"]), parse_event(row["body"])) for row in rows]

    async def said(self, run: str) -> tuple[str, int]:
        """(the text that a run has shown, the number of its last event). Raises StorageUnavailableError."""
        pieces: list[str] = []
        last = 0
        while events := await self.after(run, last, _READ_AT_ONCE):
            last = events[-1][0]
            for _, event in events:
                if isinstance(event, TextReplaced):
                    pieces = [event.text]
                elif isinstance(event, NodeRunStreamChunk) and not event.in_iteration_id and not event.in_loop_id:
                    pieces.append(event.chunk)
        return "".join(pieces), last

    def forget(self, connection: Connection, run: str) -> None:
        self._step(connection, "forget_events", run)
