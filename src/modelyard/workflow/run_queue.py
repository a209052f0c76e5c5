"""Queued runs: recorded as running, without an owner, until a process claims them.

Until when an engine should have given a queued run to some process is in the column that
holds the lease of a run with an owner.
"""

from collections.abc import Sequence

import msgspec

from modelyard.base.process_identity import has_exited
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.repository import Repository
from modelyard.workflow.run_record import RunRecord, parse_record

LEASE_SECONDS = 15.0
"""A run whose owner has not renewed its lease for this long may be taken over by
another process."""
QUEUED_SECONDS = 30.0
"""A queued run that nobody has claimed for this long is handed to the engine again."""


class RunQueue(Repository):
    """The runs without an owner. Methods may raise StorageUnavailableError."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        super().__init__(database, "run_queue")
        self._clock = clock

    @property
    def look_again_at(self) -> float:
        """When a run that is queued now should have been claimed, in seconds since 1970
        on the database's clock."""
        return self._clock() + QUEUED_SECONDS

    async def add_paused(self, run: RunRecord) -> RunRecord | None:
        """Queue a paused run, and return it in its new epoch. Returns None if it is not
        paused any more."""
        # The state is part of the condition: a run is resumed once.
        rows = await self._execute("add_paused", self.look_again_at, run.id)
        return in_epoch(run, rows)

    async def claim(
        self, tenant: str, run: str, owner: str, *, may_be_silent: bool = False
    ) -> RunRecord | None:
        """Take ownership of a run that is queued, or whose owner is gone. Returns None if
        there is none.

        With `may_be_silent`, a lease that has ended does not mean that the owner is gone.
        """
        await self._clock.synchronise()
        for row in await self._rows("running", tenant=tenant, id=run):
            if row["owner"] != owner and self._is_free(row, may_be_silent):
                return await self._claim(row, owner)
        return None

    async def claim_unowned(
        self, tenant: str, run: str, owner: str
    ) -> RunRecord | None:
        """Take ownership of a queued run. Returns None if it is not queued."""
        for row in await self._rows("running", tenant=tenant, id=run):
            if not row["owner"]:
                return await self._claim(row, owner)
        return None

    def _is_free(self, row: Row, may_be_silent: bool) -> bool:
        """Return whether nobody has the run of a row."""
        has_ended = row["lease_until"] < self._clock() and not may_be_silent
        # A process on this machine is known to be dead before its lease expires.
        return not row["owner"] or has_ended or bool(has_exited(row["owner"]))

    async def _claim(self, row: Row, owner: str) -> RunRecord | None:
        """Take ownership of a run as it was read. Returns None if it has changed."""
        read = (row["id"], row["owner"], row["epoch"], row["lease_until"])
        lease_until = self._clock() + LEASE_SECONDS
        rows = await self._execute("claim", owner, lease_until, *read)
        return in_epoch(parse_record(row), rows)

    async def overdue(
        self, owner: str, *, may_be_silent: bool, includes_nested: bool
    ) -> list[RunRecord]:
        """Return runs that somebody should execute and nobody does. They are queued, and
        returned to nobody else for a while.

        `includes_nested`: whether this process may execute runs that another run has
        started; these are never given to an engine.
        """
        await self._clock.synchronise()
        now = self._clock()
        rows = [
            row
            for row in await self._rows("overdue", owner=owner, now=now)
            if self._is_free(row, may_be_silent)
            and (includes_nested or not parse_record(row).depth)
        ]
        # All processes write in the same order: otherwise two transactions could
        # deadlock.
        rows.sort(key=lambda row: (row["created_at"], row["id"]))
        if not rows:
            return []

        def work(connection: Connection) -> list[RunRecord]:
            """Queue the runs; return those that no other process took first."""
            queued = [self._queue_again(connection, row) for row in rows]
            return [record for record in queued if record is not None]

        return await self._database.transact(work)

    def _queue_again(self, connection: Connection, row: Row) -> RunRecord | None:
        """Take a run from an owner that is gone, or give a queued one more time."""
        later, unchanged = self.look_again_at, (row["epoch"], row["lease_until"])
        if row["owner"]:
            read = (row["id"], row["owner"], *unchanged)
            rows = self._step(connection, "claim", "", later, *read)
        # The epoch stays: an engine that has the run already knows it by that.
        else:
            rows = self._step(connection, "look_later", later, row["id"], *unchanged)
        return in_epoch(parse_record(row), rows)


def in_epoch(run: RunRecord, rows: Sequence[Row]) -> RunRecord | None:
    """Return a run in the epoch that a claim has returned; None if it failed."""
    if not rows:
        return None
    return msgspec.structs.replace(run, epoch=rows[0]["epoch"])
