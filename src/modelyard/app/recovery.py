"""Take over what processes that are gone have left: their rows, and what they had reserved of limits."""

import asyncio

from modelyard.runtime.ledger import Ledger
from modelyard.runtime.limits import taken
from modelyard.storage.counters import NOTHING, Counters
from modelyard.storage.database import StorageUnavailableError

_SECONDS_FOR_ONE = 60.0


class Recovery:
    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self._ledger = ledger
        self._counters = counters
        self._is_done = False
        self._running = asyncio.Lock()

    async def first(self) -> None:
        """Wait until it was done once: before that, nobody knows what was used. Raises StorageUnavailableError."""
        if not self._is_done:
            await self.run()
        if not self._is_done:
            raise StorageUnavailableError("what an earlier process left cannot be taken over yet")

    async def run(self) -> None:
        """Take over what lies there now; of those who come at once, one does it and the others have waited for it."""
        if self._running.locked():
            async with self._running:
                return
        async with self._running:
            self._is_done |= await self._ledger.recover(self._settle_in_time)

    async def _settle_in_time(self, owner: str) -> None:
        """Raises TimeoutError: others' calls wait for this."""
        await asyncio.wait_for(self._settle(owner), _SECONDS_FOR_ONE)

    async def _settle(self, owner: str) -> None:
        """Put in the place of what a process had reserved what its calls took, which their rows say by now."""
        for name in await self._counters.held_by(owner):
            took = await self._ledger.usage.took(name)
            amounts = NOTHING if took is None else taken(tokens=took.tokens, nanos=took.nanos, is_served=took.is_served)
            await self._counters.settle_for(owner, name, amounts)
