"""What is kept of runs, so that none is lost: a Protocol, and the one on our own database.

The Protocol asks little, so that a durable engine can carry it: a run is that engine's workflow, each step that ended
one of its recorded results, in the order in which they ended. What a run needs to go on is its record and its steps;
events are for people who watch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from modelyard.base.owners import is_gone, owner_name
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.workflow.app_documents import AppDocuments
from modelyard.workflow.engine import Status, Step
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.run_events import RunEvents, rows_of
from modelyard.workflow.run_forms import RunForms
from modelyard.workflow.run_record import History, RunRecord, dump_result, dump_start, parse_record

# A journal is asked in these words.
__all__ = ["LEASE_SECONDS", "DatabaseJournal", "History", "Journal", "RunRecord"]

LEASE_SECONDS = 15.0


class Journal(Protocol):
    """`owner` names a process. Every method may raise StorageUnavailableError."""

    owner: str

    async def create(self, run: RunRecord) -> bool:
        """A run begins here; False where one of that id has begun already."""
        ...

    async def is_mine(self, run: str) -> bool:
        """Whether a run that is not over was begun, or taken up, here."""
        ...

    async def append(
        self, run: RunRecord, steps: Sequence[tuple[int, Step]], events: Sequence[tuple[int, AnyEvent]],
        begun: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Done once all of it is safe, or none: it is one write."""
        ...

    async def settle(self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()) -> None:
        """It is over, or paused: it belongs to nobody."""
        ...

    async def find(self, tenant: str, run: str) -> RunRecord | None: ...

    async def history(self, run: RunRecord) -> History: ...

    async def resume(self, run: RunRecord) -> bool:
        """A paused run goes on here; False where somebody was quicker."""
        ...

    async def orphans(self) -> list[RunRecord]:
        """Runs whose process is gone; they go on here."""
        ...

    async def renew(self) -> None:
        """This process is there."""
        ...

    async def command(self, tenant: str, run: str, command: str) -> bool:
        """Want something of a run, whichever process has it; False where it does not run."""
        ...

    async def commands(self) -> list[tuple[str, str]]:
        """What is wanted of this process's runs: (run, command)."""
        ...

    async def events(self, run: str, after: int, most: int = 1000) -> list[tuple[int, AnyEvent]]: ...


class DatabaseJournal(Repository):
    """On SQLite or PostgreSQL. Writes of many runs share a commit."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "runs")
        self._now = now
        self._events = RunEvents(database)
        self.forms = RunForms(database, now)
        self.documents = AppDocuments(database, now)
        self.owner = owner_name()

    # a run's life

    async def create(self, run: RunRecord) -> bool:
        lease_until = self._now() + LEASE_SECONDS
        return bool(
            await self._do(
                "create", run.tenant, run.id, run.app, run.status.value, run.user, dump_start(run), self.owner,
                lease_until, run.created_at,
            )
        )  # fmt: skip

    async def append(
        self, run: RunRecord, steps: Sequence[tuple[int, Step]], events: Sequence[tuple[int, AnyEvent]],
        begun: Sequence[str] = (),
    ) -> None:  # fmt: skip
        step_rows = [(run.id, step.key, number, msgspec.json.encode(step).decode()) for number, step in steps]
        event_rows = rows_of(run.id, events)

        def work(connection: Connection) -> None:
            if begun:
                connection.execute_many(self._sql["begun"], [(run.id, key) for key in begun])
            if step_rows:
                connection.execute_many(self._sql["step"], step_rows)
            self._events.add(connection, event_rows)

        # It is kept until the database takes it: a full disk must not end a run.
        await self._database.transact(work, is_kept=True)

    async def settle(self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()) -> None:
        event_rows = rows_of(run.id, events)
        values = (run.status.value, dump_result(run), run.finished_at, run.id)

        def work(connection: Connection) -> None:
            self._events.add(connection, event_rows)
            self._step(connection, "settle", *values)

        await self._database.transact(work, is_kept=True)

    # whose it is

    async def is_mine(self, run: str) -> bool:
        return bool(await self._rows("mine", id=run, owner=self.owner))

    async def resume(self, run: RunRecord) -> bool:
        lease_until = self._now() + LEASE_SECONDS
        return bool(await self._do("own", self.owner, lease_until, run.id, Status.PAUSED.value))

    async def renew(self) -> None:
        await self._do("renew", self._now() + LEASE_SECONDS, self.owner)

    async def orphans(self) -> "list[RunRecord]":
        now = self._now()
        silent, others = await self._database.at_once(lambda it: self._left(it, now))
        rows = {row["id"]: row for row in silent}
        rows |= {row["id"]: row for row in others if is_gone(row["owner"])}
        # Whoever else recovers claims in the same order: two transactions that wait for each other get nowhere.
        in_order = sorted(rows.values(), key=lambda row: (row["created_at"], row["id"]))
        wanted = [row for row in in_order if row["owner"] != self.owner]
        if not wanted:
            return []

        def work(connection: Connection) -> "list[Row]":
            lease_until = now + LEASE_SECONDS
            return [row for row in wanted if self._is_claimed(connection, row, lease_until)]

        return [parse_record(row) for row in await self._database.transact(work)]

    def _left(self, connection: Connection, now: float) -> "tuple[list[Row], list[Row]]":
        """(runs whose owner has not been heard of, runs that any other process has)."""
        silent = connection.execute(self._sql["orphans"], {"now": now})
        others = connection.execute(self._sql["of_owner"], {"owner": self.owner})
        return silent, others

    def _is_claimed(self, connection: Connection, row: Row, lease_until: float) -> bool:
        """Whether an orphan goes on here; False where somebody was quicker."""
        values = (self.owner, lease_until, row["id"], row["owner"])
        return bool(connection.execute(self._sql["claim"], values))

    async def command(self, tenant: str, run: str, command: str) -> bool:
        return bool(await self._do("command", command, tenant, run))

    async def commands(self) -> "list[tuple[str, str]]":
        return [(row["id"], row["command"]) for row in await self._rows("commands", owner=self.owner)]

    # what is known of it

    async def find(self, tenant: str, run: str) -> RunRecord | None:
        rows = await self._rows("one", tenant=tenant, id=run)
        return parse_record(rows[0]) if rows else None

    async def list(
        self, tenant: str, app: str, *, status: str = "", before: float = 1e15, since: float = 0.0, most: int = 20,
        skip: int = 0,
    ) -> "tuple[list[RunRecord], int]":  # fmt: skip
        """(an app's runs, newest first; how many there are)."""
        where = {"tenant": tenant, "app": app, "status": status, "before": before, "since": since}

        def work(connection: Connection) -> "tuple[list[Row], int]":
            rows = connection.execute(self._sql["list"], {**where, "most": most, "skip": skip})
            counted = connection.execute(self._sql["count"], where)
            return rows, int(counted[0]["count"])

        rows, count = await self._database.at_once(work)
        return [parse_record(row) for row in rows], count

    async def history(self, run: RunRecord) -> History:
        rows = await self._rows("steps", run=run.id)
        said, last = await self._events.said(run.id)
        return History(
            steps=[msgspec.json.decode(row["body"], type=Step) for row in rows if row["body"]],
            begun=[str(row["key"]) for row in rows if not row["body"]],
            events=last,
            said=said,
        )

    async def events(self, run: str, after: int, most: int = 1000) -> "list[tuple[int, AnyEvent]]":
        return await self._events.after(run, after, most)

    # tidying

    async def forget(self, before: float) -> int:
        """Runs that ended before then, with all that was kept of them."""

        def work(connection: Connection) -> int:
            rows = self._step(connection, "forget_runs", before)
            self._forget(connection, [row["id"] for row in rows])
            return len(rows)

        return await self._database.transact(work)

    def _forget(self, connection: Connection, runs: "list[str]") -> None:
        for run in runs:
            self._step(connection, "forget_steps", run)
            self._events.forget(connection, run)
            self.forms.forget(connection, run)
