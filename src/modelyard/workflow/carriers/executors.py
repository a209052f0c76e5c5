"""Which processes execute runs for an engine that cannot see by itself that one of them
is gone."""

from collections.abc import Awaitable, Callable, Sequence

from modelyard.base.process_identity import has_exited
from modelyard.storage.database import Database
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.repository import Repository
from modelyard.workflow.run_queue import LEASE_SECONDS


class Executors(Repository):
    """The leases of processes, by the name under which they own runs. Methods may raise
    StorageUnavailableError."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "run_executors")
        self._clock = DatabaseClock.of(database, clock)

    async def renew(self, owner: str) -> None:
        """Renew the lease of this process."""
        await self._clock.synchronise()
        await self._execute("renew", owner, self._clock() + LEASE_SECONDS)

    async def end(self, owner: str) -> None:
        """End the lease of this process, so that others look at its work at once."""
        await self._execute("renew", owner, 0.0)

    async def recover(
        self,
        owner: str,
        give_back: Callable[[Sequence[str]], Awaitable[None]],
        *,
        may_be_silent: bool,
    ) -> None:
        """Call `give_back` with the processes that are gone, and forget them then.

        With `may_be_silent`, a lease that has ended does not mean that its process is
        gone. `owner`: this process.
        """
        rows = await self._rows("others", id=owner)
        now = self._clock()
        dead_rows = [
            row
            for row in rows
            if (row["lease_until"] < now and not may_be_silent) or has_exited(row["id"])
        ]
        if not dead_rows:
            return
        # First what they had, then who they were: a crash in between repeats the first.
        await give_back([row["id"] for row in dead_rows])
        for row in dead_rows:
            await self._execute("forget", row["id"], row["lease_until"])
