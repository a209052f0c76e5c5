"""Fair admission of sandboxed programs: tenants take turns, and none of them can occupy
all slots."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Slots:
    """Limits the programs that run concurrently to `capacity`.

    A tenant gets at most three quarters of the slots, and the last free one only if it
    has no program running: programs may use their full time limit, and the next tenant
    should not have to wait for that.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._share = max(1, self._capacity - max(1, self._capacity // 4))
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def acquire(self, tenant: str) -> AsyncGenerator[None]:
        """Hold a slot for the duration of the context; waits until one is available."""
        await self._acquire(tenant)
        try:
            yield
        finally:
            self._release(tenant)

    def _may_start(self, tenant: str) -> bool:
        """Return whether the tenant may take one of the free slots now."""
        free = self._capacity - self._running.total()
        running_count = self._running[tenant]
        return free > 0 and (
            running_count == 0 or (running_count < self._share and free > 1)
        )

    async def _acquire(self, tenant: str) -> None:
        """Take a slot, waiting in the tenant's line if necessary.

        A cancelled caller leaves the line, or returns the slot if it was just granted.
        """
        # A tenant with waiting programs must queue behind them.
        if tenant not in self._waiting and self._may_start(tenant):
            self._running[tenant] += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(waiter)
        try:
            await waiter
        except BaseException:
            # Cancelled at the moment when the slot was granted: return it.
            if waiter.done() and not waiter.cancelled():
                self._release(tenant)
            else:
                self._remove_waiter(tenant, waiter)
            raise

    def _release(self, tenant: str) -> None:
        """Return a slot and grant slots to all waiting programs that may start now."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        # One freed slot may admit several waiters, because the shares change with it.
        while (following := self._next_tenant()) is not None:
            self._running[following] += 1
            waiter = self._waiting[following][0]
            # Moved to the end, so that ties rotate among the tenants.
            self._waiting.move_to_end(following)
            self._remove_waiter(following, waiter)
            waiter.set_result(None)

    def _next_tenant(self) -> str | None:
        """Return the waiting tenant with the fewest running programs; ties go to the
        one admitted least recently."""
        for tenant, line in list(self._waiting.items()):
            while line and line[0].done():  # cancelled
                line.popleft()
            if not line:
                del self._waiting[tenant]
        free = [tenant for tenant in self._waiting if self._may_start(tenant)]
        return min(
            free,
            key=lambda tenant: self._running[tenant],
            default=None,
        )

    def _remove_waiter(self, tenant: str, waiter: asyncio.Future[None]) -> None:
        """Remove a waiter from its tenant's line, if it is still in it."""
        line = self._waiting.get(tenant)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self._waiting[tenant]
