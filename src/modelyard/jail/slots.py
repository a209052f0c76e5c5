"""Who may run a program now, and who next: in turn among tenants, and none of them takes all places."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Slots:
    """At most `capacity` programs at once.

    One tenant gets three quarters, and takes the last free place only where it has no other: a program may run until
    its time is over, and whoever comes next should not wait for that.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._share = max(1, self._capacity - max(1, self._capacity // 4))
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncGenerator[None]:
        """A place, for as long as this is open."""
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    def _has_room(self, tenant: str) -> bool:
        free = self._capacity - self._running.total()
        has = self._running[tenant]
        return free > 0 and (has == 0 or (has < self._share and free > 1))

    async def _enter(self, tenant: str) -> None:
        if tenant not in self._waiting and self._has_room(tenant):
            self._running[tenant] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave(tenant)  # its turn came just as it was given up
            else:
                self._forget(tenant, turn)
            raise

    def _leave(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        while (following := self._following()) is not None:
            self._running[following] += 1
            turn = self._waiting[following][0]
            self._waiting.move_to_end(following)
            self._forget(following, turn)
            turn.set_result(None)

    def _following(self) -> str | None:
        """Whoever has the fewest programs running; among those, whoever was let in longest ago."""
        for tenant, line in list(self._waiting.items()):
            while line and line[0].done():  # given up
                line.popleft()
            if not line:
                del self._waiting[tenant]
        free = [tenant for tenant in self._waiting if self._has_room(tenant)]
        return min(free, key=lambda tenant: self._running[tenant], default=None)

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant)
        if line is None or turn not in line:
            return
        line.remove(turn)
        if not line:
            del self._waiting[tenant]
