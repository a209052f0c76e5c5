"""Recovery after crashes: settles the ledger rows and the reservations of dead
processes."""

import asyncio

from modelyard.runtime.ledger import Ledger
from modelyard.runtime.limits import settled_amounts
from modelyard.storage.counters import NO_USAGE, Counters
from modelyard.storage.database import StorageUnavailableError

# Calls of other processes wait for this, also if the database does not answer.
_SETTLE_TIMEOUT_SECONDS = 60.0


class Recovery:
    """Settles what dead processes have left."""

    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self._ledger = ledger
        self._counters = counters
        self._is_done = False
        self._running = asyncio.Lock()

    async def wait_until_recovered(self) -> None:
        """Wait until the recovery has succeeded once. Before that, usage is unknown.
        Raises StorageUnavailableError."""
        if not self._is_done:
            await self.run()
        # The recovery did not complete: usage is still unknown.
        if not self._is_done:
            raise StorageUnavailableError(
                "Usage records of an earlier process are not recovered yet; try again later"
            )

    async def run(self) -> None:
        """Recover the remaining records. Of simultaneous calls one does the work and the
        others wait for it."""
        # Another call does the work; waiting for its lock is enough.
        if self._running.locked():
            async with self._running:
                return
        async with self._running:
            self._is_done |= await self._ledger.recover(self._settle_in_time)

    async def _settle_in_time(self, owner: str) -> None:
        """Settle one process's reservations. Raises TimeoutError, because calls of
        other processes wait for this."""
        await asyncio.wait_for(self._settle(owner), _SETTLE_TIMEOUT_SECONDS)

    async def _settle(self, owner: str) -> None:
        """Replace a dead process's reservations by the usage in its ledger rows."""
        # Each reservation has the id of its attempt.
        for name in await self._counters.reservations_of(owner):
            # An attempt without a row used nothing.
            took = await self._ledger.usage.call_usage(name)
            amounts = (
                NO_USAGE
                if took is None
                else settled_amounts(
                    tokens=took.tokens, nanos=took.nanos, is_served=took.is_served
                )
            )
            await self._counters.settle_for(owner, name, amounts)
