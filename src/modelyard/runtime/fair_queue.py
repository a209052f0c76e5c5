"""Who goes next where calls must wait: by priority, then in turn among tenants: a noisy one waits for itself."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from modelyard.base.errors import QueueFullError

_MOST_TENANTS = 100_000


@dataclass(slots=True, eq=False)
class _Waiter:
    tenant: str
    priority: int
    turn: asyncio.Future[None]


@dataclass(slots=True)
class FairQueue:
    """At most `capacity` at once, at most `most_waiting` behind them.

    One tenant alone gets seven eighths: calls that began together end together, and whoever came just after them would
    otherwise wait for all of them.
    """

    capacity: int
    most_waiting: int
    running: int = 0
    _by_tenant: dict[str, int] = field(default_factory=dict[str, int])
    _waiting: OrderedDict[str, deque[_Waiter]] = field(default_factory=OrderedDict[str, deque[_Waiter]])
    _last_turn: dict[str, int] = field(default_factory=dict[str, int])
    _turn: int = 0
    waiting: int = 0

    def try_enter(self, tenant: str) -> bool:
        """Go at once where there is room. Where there is, those who wait have their share already."""
        if tenant in self._waiting or not self._has_room(tenant):
            return False
        self._start(tenant)
        return True

    def _has_room(self, tenant: str) -> bool:
        share = self.capacity - self.capacity // 8
        return self.running < self.capacity and self._by_tenant.get(tenant, 0) < share

    async def enter(self, tenant: str, *, priority: int = 0, seconds: float) -> None:
        """Wait for a turn. Raises QueueFullError where the queue is full, or the wait is longer than `seconds`."""
        if self.waiting >= self.most_waiting:
            self._make_room(tenant, priority)
        waiter = _Waiter(tenant, priority, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(waiter)
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await waiter.turn
        except TimeoutError:
            if not self._has_turn(waiter):
                self._leave(waiter)
                raise _full(f"no turn came within {seconds:g} s") from None
        except BaseException:
            if self._has_turn(waiter):
                self.leave(tenant)
            else:
                self._leave(waiter)
            raise

    def leave(self, tenant: str) -> None:
        """A call is over: the next may go."""
        self.running -= 1
        left = self._by_tenant[tenant] - 1
        if left:
            self._by_tenant[tenant] = left
        else:
            del self._by_tenant[tenant]
        while self.waiting and self._next():
            pass

    def _start(self, tenant: str) -> None:
        self.running += 1
        self._turn += 1
        if len(self._last_turn) > _MOST_TENANTS:
            self._last_turn.clear()
        self._last_turn[tenant] = self._turn
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + 1

    def _next(self) -> bool:
        """The highest priority first; among equals, whoever has the fewest running; among those, who was served the
        longest ago."""
        free = [one for one in self._waiting if self._has_room(one)]
        if not free:
            return False
        chosen = min(
            free,
            key=lambda one: (-self._waiting[one][0].priority, self._by_tenant.get(one, 0), self._last_turn.get(one, 0)),
        )
        waiter = self._waiting[chosen][0]
        self._leave(waiter)
        if not waiter.turn.done():
            self._start(waiter.tenant)
            waiter.turn.set_result(None)
        return True

    def _make_room(self, tenant: str, priority: int) -> None:
        """In a full queue, the last of whoever holds most of it gives way to one who holds little."""
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=None)
        if longest is None or len(self._waiting[longest]) <= len(self._waiting.get(tenant, ())) + 1:
            raise _full(f"{self.waiting} calls wait already")
        last = self._waiting[longest][-1]
        if last.priority > priority:
            raise _full(f"{self.waiting} calls wait already")
        self._leave(last)
        if not last.turn.done():
            last.turn.set_exception(_full("others were given room"))

    @staticmethod
    def _has_turn(waiter: _Waiter) -> bool:
        return waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None

    def _leave(self, waiter: _Waiter) -> None:
        line = self._waiting.get(waiter.tenant)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        self.waiting -= 1
        if not line:
            del self._waiting[waiter.tenant]


def _full(why: str) -> QueueFullError:
    return QueueFullError(f"the server is busy: {why}", retry_after=1.0)
