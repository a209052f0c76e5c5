"""The journal of runs: a Protocol, and the implementation on Modelyard's own database.
No started run is lost.

The Protocol is small so that a durable workflow engine can implement it: a run is that
engine's workflow, and each finished step is one of its recorded results, in order. The
record and the steps are enough to resume a run; events are for clients that watch.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.process_identity import has_exited, owner_name
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.repository import Repository
from modelyard.storage.secrets import KeyRing
from modelyard.storage.signals import Signals
from modelyard.workflow.app_documents import AppDocuments
from modelyard.workflow.engine import Status, Step
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.run_events import RunEvents, rows_of
from modelyard.workflow.run_forms import RunForms
from modelyard.workflow.run_queue import LEASE_SECONDS, RunQueue, in_epoch
from modelyard.workflow.run_record import (
    History,
    RunRecord,
    dump_result,
    dump_start,
    parse_record,
)

# Names that users of a journal import from here.
__all__ = [
    "LEASE_SECONDS",
    "DatabaseJournal",
    "History",
    "Journal",
    "LeaseLostError",
    "RunRecord",
]

COMMANDS_TOPIC = "runs.commands"
"""Signalled when somebody has left a command for a run."""
RELEASED_TOPIC = "runs.released"
"""Signalled when a process leaves a run to the others."""
WATCHED_TOPIC = "runs.watched:"
"""Followed by the id of a run that another process watches: its owner should signal
what happens in it."""


def events_topic(run: str) -> str:
    """Return the topic that is signalled when a watched run has new events, or has
    ended."""
    return f"runs.events:{run}"


class LeaseLostError(ModelyardError):
    """Another process has taken over a run, or it has ended: what this process wanted
    to write about it is refused."""

    status = 409
    code = "lease_lost"

    def __init__(self, run: str) -> None:
        super().__init__(f"Run {run} has another owner by now")


class Journal(Protocol):
    """Durable record of runs. `owner` identifies this process. Every method may raise
    StorageUnavailableError.

    A run has one owner at a time. Each claim increases its epoch, and what a process
    writes about a run counts only while it is the owner in the epoch of its record: one
    that was frozen, or cut off from the database, may not know that it has lost the
    run.
    """

    owner: str

    async def create(self, run: RunRecord, *, is_queued: bool = False) -> bool:
        """Record a new run that this process owns, or that waits for one. Returns False
        if a run with this id exists."""
        ...

    async def is_mine(self, run: str) -> bool:
        """Return whether this process owns the run, that is, started or resumed it, and
        it has not ended."""
        ...

    async def append(
        self,
        run: RunRecord,
        steps: Sequence[tuple[int, Step]],
        events: Sequence[tuple[int, AnyEvent]],
        started_keys: Sequence[str] = (),
        *,
        is_watched: bool = False,
    ) -> None:
        """Store steps, events and the keys of started steps in one transaction: all or
        nothing. With none of them, confirm that this process owns the run. Raises
        LeaseLostError.

        `is_watched`: another process waits for the events of the run.
        """
        ...

    async def settle(
        self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()
    ) -> None:
        """Store the final or paused state of a run and release its ownership. Raises
        LeaseLostError."""
        ...

    async def find(self, tenant: str, run: str) -> RunRecord | None:
        """Return a tenant's run; None if there is none with this id."""
        ...

    async def history(self, run: RunRecord) -> History:
        """Return the recorded steps and the last event number of a run."""
        ...

    async def last_event_number(self, run: RunRecord) -> int:
        """Return the number of a run's last event, without reading any; 0 if it has
        none."""
        ...

    async def resume(self, run: RunRecord) -> RunRecord | None:
        """Take ownership of a paused run, and return it in its new epoch. Returns None
        if another process was faster."""
        ...

    async def orphans(self, *, may_be_silent: bool = False) -> list[RunRecord]:
        """Take ownership of runs whose process has exited or has not renewed their
        leases, and return them.

        With `may_be_silent`, owners may have had no chance to renew; then only those
        that have certainly exited lose their runs.
        """
        ...

    async def renew(self) -> Collection[tuple[str, int]]:
        """Renew the leases of this process's runs, and return them as (run, epoch)."""
        ...

    async def release(self, run: RunRecord) -> None:
        """End the lease of a run that this process leaves unfinished."""
        ...

    async def command(self, tenant: str, run: str, command: str) -> bool:
        """Leave a command for a run, whichever process owns it. Returns False if the
        run is not active."""
        ...

    async def commands(self) -> list[tuple[str, str]]:
        """Return the pending commands for this process's runs as (run id, command)."""
        ...

    async def events(
        self, run: str, last_number: int, limit: int = 1000
    ) -> list[tuple[int, AnyEvent]]:
        """Return the events with numbers above `after`, oldest first."""
        ...


class DatabaseJournal(Repository):
    """Journal on SQLite or PostgreSQL. Writes of many runs share a commit."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        keys: KeyRing | None = None,
    ) -> None:
        """`clock` is this server's. `keys` encrypt app files with secrets."""
        super().__init__(database, "runs")
        self._clock = DatabaseClock.of(database, clock)
        self._events = RunEvents(database)
        self.forms = RunForms(database, clock)
        self.queue = RunQueue(database, self._clock)
        self.documents = AppDocuments(database, clock, keys)
        self.owner = owner_name()

    @property
    def signals(self) -> Signals:
        """The signals of the processes that use the journal."""
        return self._database.signals

    async def note_watched(self, run: str) -> None:
        """Ask the owner of a run to signal its events for a while, because this process
        watches it. Raises StorageUnavailableError."""
        await self._database.transact(
            lambda connection: self.signals.send(connection, WATCHED_TOPIC + run)
        )

    @property
    def is_shared(self) -> bool:
        """Whether processes of other machines may use the journal too, so that it can
        be out of their reach."""
        return self._database.is_shared

    # Life cycle of a run

    async def create(self, run: RunRecord, *, is_queued: bool = False) -> bool:
        """See Journal.create."""
        # The lease starts with the record, so the run is protected from recovery at
        # once.
        lease_until = self._clock() + LEASE_SECONDS
        if is_queued:
            lease_until = self.queue.look_again_at
        return bool(
            await self._execute(
                "create",
                run.tenant,
                run.id,
                run.app,
                run.status.value,
                run.user,
                dump_start(run),
                "" if is_queued else self.owner,
                run.epoch,
                lease_until,
                run.created_at,
                run.created_from,
            )
        )

    async def append(
        self,
        run: RunRecord,
        steps: Sequence[tuple[int, Step]],
        events: Sequence[tuple[int, AnyEvent]],
        started_keys: Sequence[str] = (),
        *,
        is_watched: bool = False,
    ) -> None:
        """See Journal.append."""
        # Serialised before the transaction, which may be delayed or repeated.
        step_rows = [
            (run.id, step.key, number, msgspec.json.encode(step).decode())
            for number, step in steps
        ]
        event_rows = rows_of(run.id, events)

        begun_rows = [(run.id, key) for key in started_keys]
        is_signalled = is_watched and bool(event_rows)

        def work(connection: Connection) -> None:
            """Insert the started keys, the steps and the events."""
            # Within the transaction, so that nobody claims the run in between.
            if not self._step(connection, "held", run.id, self.owner, run.epoch):
                raise LeaseLostError(run.id)
            # A key without a body marks a step that had started when the process
            # crashed.
            self._add_all(connection, "begun", begun_rows)
            self._add_all(connection, "step", step_rows)
            self._events.add(connection, event_rows)
            # Committing a signal takes a lock of the whole database, so only those are
            # sent that somebody waits for.
            if is_signalled:
                self.signals.send(connection, events_topic(run.id))

        # The database retries this write until it succeeds: a full disk must not end a
        # run.
        await self._database.transact(work, is_retried=True)

    def _add_all(
        self, connection: Connection, name: str, rows: Sequence[Sequence[Any]]
    ) -> None:
        """Run a statement for each row within a transaction."""
        if rows:
            connection.execute_many(self._sql[name], rows)

    async def settle(
        self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()
    ) -> None:
        """See Journal.settle."""
        event_rows = rows_of(run.id, events)
        # The result is complete before the transaction, so a retry writes the same.
        result = (run.status.value, dump_result(run), run.finished_at)
        held = (run.id, self.owner, run.epoch)
        settled = (run.id, run.epoch, run.status.value)

        def work(connection: Connection) -> None:
            """Insert the last events and update the run in the same transaction."""
            if self._step(connection, "settle", *result, *held):
                self._events.add(connection, event_rows)
                self._database.signals.send(connection, events_topic(run.id))
            elif not self._step(connection, "settled", *settled):
                raise LeaseLostError(run.id)

        await self._database.transact(work, is_retried=True)

    # Ownership

    async def is_mine(self, run: str) -> bool:
        """See Journal.is_mine."""
        return bool(await self._rows("mine", id=run, owner=self.owner))

    async def resume(self, run: RunRecord) -> RunRecord | None:
        """See Journal.resume."""
        lease_until = self._clock() + LEASE_SECONDS
        # The state is part of the condition: only one process can resume a paused run.
        rows = await self._execute(
            "own",
            self.owner,
            lease_until,
            run.id,
            Status.PAUSED.value,
        )
        return in_epoch(run, rows)

    async def renew(self) -> Collection[tuple[str, int]]:
        """See Journal.renew."""
        await self._clock.synchronise()
        rows = await self._execute("renew", self._clock() + LEASE_SECONDS, self.owner)
        return {(row["id"], row["epoch"]) for row in rows}

    async def release(self, run: RunRecord) -> None:
        """See Journal.release."""

        def work(connection: Connection) -> None:
            """End the lease, and wake the processes that may claim the run."""
            self._step(connection, "release", run.id, self.owner, run.epoch)
            self._database.signals.send(connection, RELEASED_TOPIC)

        await self._database.transact(work)

    async def orphans(self, *, may_be_silent: bool = False) -> "list[RunRecord]":
        """See Journal.orphans."""
        await self._clock.synchronise()
        current_time = self._clock()
        rows = await self._rows("of_others", owner=self.owner)
        # A process on this machine is known to be dead before its lease expires.
        orphan_rows = [
            row
            for row in rows
            if (row["lease_until"] < current_time and not may_be_silent)
            or has_exited(row["owner"])
        ]
        # All processes claim in the same order: otherwise two transactions could
        # deadlock.
        orphan_rows.sort(key=lambda row: (row["created_at"], row["id"]))
        if not orphan_rows:
            return []

        def work(connection: Connection) -> "list[RunRecord]":
            """Claim the orphans one by one; return those that no other process took
            first."""
            lease_until = current_time + LEASE_SECONDS
            claimed = [self._claim(connection, row, lease_until) for row in orphan_rows]
            return [record for record in claimed if record is not None]

        return await self._database.transact(work)

    def _claim(
        self, connection: Connection, row: Row, lease_until: float
    ) -> RunRecord | None:
        """Take ownership of an orphan. Returns None if another process was faster, or
        the owner has renewed its lease since the row was read."""
        seen = (row["id"], row["owner"], row["epoch"], row["lease_until"])
        rows = self._step(connection, "claim", self.owner, lease_until, *seen)
        return in_epoch(parse_record(row), rows)

    async def command(self, tenant: str, run: str, command: str) -> bool:
        """See Journal.command."""

        def work(connection: Connection) -> bool:
            """Store the command, and wake the owner of the run."""
            is_active = bool(self._step(connection, "command", command, tenant, run))
            self._database.signals.send(connection, COMMANDS_TOPIC)
            return is_active

        return await self._database.transact(work)

    async def commands(self) -> "list[tuple[str, str]]":
        """See Journal.commands."""
        return [
            (row["id"], row["command"])
            for row in await self._rows("commands", owner=self.owner)
        ]

    # Queries

    async def find(self, tenant: str, run: str) -> RunRecord | None:
        """See Journal.find."""
        rows = await self._rows("one", tenant=tenant, id=run)
        return parse_record(rows[0]) if rows else None

    async def list(
        self,
        tenant: str,
        app: str,
        *,
        status: str = "",
        # Later than any run, so that one statement serves with and without this filter.
        created_before: float = 1e15,
        since: float = 0.0,
        limit: int = 20,
        skip: int = 0,
    ) -> "tuple[list[RunRecord], int]":
        """Return (a page of an app's runs, newest first; the number of all matching
        runs).

        `before` and `since` limit the creation time, in seconds since 1970.
        """
        # The filters are shared by the page and the count.
        where = {
            "tenant": tenant,
            "app": app,
            "status": status,
            "before": created_before,
            "since": since,
        }

        def work(connection: Connection) -> "tuple[list[Row], int]":
            """Read the page and the count in one snapshot."""
            rows = connection.execute(
                self._sql["list"], {**where, "most": limit, "skip": skip}
            )
            count_rows = connection.execute(self._sql["count"], where)
            return rows, int(count_rows[0]["count"])

        rows, count = await self._database.read_together(work)
        return [parse_record(row) for row in rows], count

    async def history(self, run: RunRecord) -> History:
        """See Journal.history."""
        rows = await self._rows("steps", run=run.id)
        progress = await self._events.progress(run.id)
        return History(
            # Rows with a body are finished steps; rows without one had only started.
            steps=[
                msgspec.json.decode(row["body"], type=Step)
                for row in rows
                if row["body"]
            ],
            begun=[str(row["key"]) for row in rows if not row["body"]],
            events=progress.last_number,
            said=progress.shown_text,
            seconds=progress.seconds,
            fruitless_starts=progress.fruitless_starts,
        )

    async def last_event_number(self, run: RunRecord) -> int:
        """See Journal.last_event_number."""
        return await self._events.last_number(run.id)

    async def events(
        self, run: str, last_number: int, limit: int = 1000
    ) -> "list[tuple[int, AnyEvent]]":
        """See Journal.events."""
        return await self._events.after(run, last_number, limit)

    # Retention

    async def delete_ended_before(self, cutoff: float) -> int:
        """Delete the runs that ended before `cutoff`, with their steps, events and
        forms. Returns their number."""

        def work(connection: Connection) -> int:
            """Delete the runs and what belongs to them in one transaction."""
            # The runs are deleted first; the statement returns their ids for the
            # details.
            rows = self._step(connection, "delete_old_runs", cutoff)
            self._delete_details(connection, [row["id"] for row in rows])
            return len(rows)

        return await self._database.transact(work)

    def _delete_details(self, connection: Connection, runs: "list[str]") -> None:
        """Delete the steps, events and forms of runs."""
        for run in runs:
            self._step(connection, "forget_steps", run)
            self._events.forget(connection, run)
            self.forms.forget(connection, run)
