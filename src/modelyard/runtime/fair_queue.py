"""Admission queue for calls that have to wait for a slot.

Slots are given by priority, then fairly among tenants, so that a tenant that sends many
calls delays only its own.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from modelyard.base.errors import QueueFullError

# Only the order of turns is remembered for so many, a few bytes for each.
_MAX_TENANTS = 100_000


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for a slot."""

    tenant: str
    priority: int
    # Resolved when the call is admitted; fails with QueueFullError if the call is
    # evicted.
    turn: asyncio.Future[None]


@dataclass(slots=True)
class FairQueue:
    """A queue that runs at most `capacity` calls and lets at most `max_waiting` more
    wait.

    A single tenant gets at most seven eighths of the capacity. Calls that started
    together also end together, so a call of another tenant that arrives just after them
    would otherwise wait for all of them.
    """

    capacity: int
    max_waiting: int
    running: int = 0
    _by_tenant: dict[str, int] = field(default_factory=dict[str, int])
    _waiting: OrderedDict[str, deque[_Waiter]] = field(
        default_factory=OrderedDict[str, deque[_Waiter]]
    )
    # Tenant to the number of its last admission; the least recently served tenant goes
    # first.
    _last_turn: dict[str, int] = field(default_factory=dict[str, int])
    _turn: int = 0
    waiting: int = 0

    def try_enter(self, tenant: str) -> bool:
        """Admit a call without waiting; return False if it has to wait.

        If there is room, the calls that already wait belong to tenants at their own
        maximum, so no waiting call is overtaken.
        """
        if tenant in self._waiting or not self._has_room(tenant):
            return False
        self._start(tenant)
        return True

    def _has_room(self, tenant: str) -> bool:
        """Return whether both the server and the tenant are below their maximum."""
        capacity, by_tenant = self.capacity, self._by_tenant
        if self.running >= capacity:
            return False
        # Below a capacity of 8 nothing is held back: one tenant may use a small server
        # fully.
        return tenant not in by_tenant or by_tenant[tenant] < capacity - capacity // 8

    async def enter(self, tenant: str, *, priority: int = 0, seconds: float) -> None:
        """Wait until the call is admitted.

        Higher `priority` goes first. Raises QueueFullError if the queue is full, if the
        call is evicted, or if `seconds` pass. Every admitted call must be followed by
        `leave`.
        """
        if self.waiting >= self.max_waiting:
            self._evict_longest_queue(tenant, priority)
        waiter = _Waiter(tenant, priority, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(waiter)
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await waiter.turn
        except TimeoutError:
            # The slot may have been granted in the same event loop step as the timeout;
            # then the call simply proceeds.
            if not self._is_admitted(waiter):
                self._remove_waiter(waiter)
                raise _queue_full_error(
                    f"the call waited {seconds:g} s in the queue"
                ) from None
        except BaseException:
            # A cancelled caller that already holds a slot must return it, or the
            # capacity shrinks for good.
            if self._is_admitted(waiter):
                self.leave(tenant)
            else:
                self._remove_waiter(waiter)
            raise

    def leave(self, tenant: str) -> None:
        """Release the slot of a finished call and admit the next waiting ones.

        It must be called exactly once for each admitted call, with the same tenant.
        Raises KeyError if the tenant has no running call.
        """
        left = self._by_tenant[tenant] - 1
        self.running -= 1
        if left:
            self._by_tenant[tenant] = left
        else:
            del self._by_tenant[tenant]
        # A released slot may admit more than one call: a tenant that was at its maximum
        # may now be below it.
        while self.waiting and self._admit_next():
            pass

    def _start(self, tenant: str) -> None:
        """Count a call of a tenant as running, and as the latest to be served."""
        self.running += 1
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + 1
        self._record_turn(tenant)

    def _record_turn(self, tenant: str) -> None:
        """Record a tenant as the latest to be served."""
        self._turn += 1
        # Forgetting the order only makes the next turns less fair; an unbounded map
        # would fill the memory.
        if len(self._last_turn) > _MAX_TENANTS:
            self._last_turn.clear()
        self._last_turn[tenant] = self._turn

    def _admit_next(self) -> bool:
        """Admit one waiting call; return False if none can be admitted.

        The highest priority goes first, then the tenant with the fewest running calls,
        then the one served the longest ago.
        """
        free = [tenant for tenant in self._waiting if self._has_room(tenant)]
        if not free:
            return False
        next_tenant = min(
            free,
            key=lambda tenant: (
                -self._waiting[tenant][0].priority,
                self._by_tenant.get(tenant, 0),
                self._last_turn.get(tenant, 0),
            ),
        )
        waiter = self._waiting[next_tenant][0]
        self._remove_waiter(waiter)
        # A waiter whose caller was cancelled is dropped without using the slot.
        if not waiter.turn.done():
            self._start(waiter.tenant)
            waiter.turn.set_result(None)
        return True

    def _evict_longest_queue(self, tenant: str, priority: int) -> None:
        """Evict the newest call of the tenant with the longest queue, to make room for
        another tenant.

        Raises QueueFullError if that tenant holds hardly more than `tenant` does, or if
        its last call has a higher priority.
        """
        longest = max(
            self._waiting,
            key=lambda queued_tenant: len(self._waiting[queued_tenant]),
            default=None,
        )
        # Evict only if the other tenant waits for at least two calls more; otherwise
        # tenants would evict each other in turn.
        if (
            longest is None
            or len(self._waiting[longest]) <= len(self._waiting.get(tenant, ())) + 1
        ):
            raise _queue_full_error(f"{self.waiting} calls are already waiting")
        last = self._waiting[longest][-1]
        if last.priority > priority:
            raise _queue_full_error(f"{self.waiting} calls are already waiting")
        self._remove_waiter(last)
        if not last.turn.done():
            last.turn.set_exception(
                _queue_full_error(
                    "the queue is full and other tenants have fewer waiting calls"
                )
            )

    @staticmethod
    def _is_admitted(waiter: _Waiter) -> bool:
        """Return whether the waiter was admitted, as opposed to cancelled or evicted."""
        return (
            waiter.turn.done()
            and not waiter.turn.cancelled()
            and waiter.turn.exception() is None
        )

    def _remove_waiter(self, waiter: _Waiter) -> None:
        """Remove a waiter from its tenant's queue, if it is still there."""
        line = self._waiting.get(waiter.tenant)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        self.waiting -= 1
        if not line:
            del self._waiting[waiter.tenant]


def _queue_full_error(reason: str) -> QueueFullError:
    """Return the error that makes clients try again after a second."""
    return QueueFullError(f"The server is busy: {reason}", retry_after=1.0)
