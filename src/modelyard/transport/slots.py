"""A limit on the number of connections in use, with a queue of those who wait."""

import asyncio
from collections import deque


class ConnectionSlots:
    """Permissions to have a connection in use, of which there is a fixed number.

    Unlike `asyncio.Semaphore`, a free one can be taken without an event loop's step.
    """

    __slots__ = ("_free", "_waiters")

    def __init__(self, limit: int) -> None:
        """`limit` is the number of connections that may be in use at the same time."""
        self._free = limit
        self._waiters: deque[asyncio.Future[None]] = deque()

    def try_take(self) -> bool:
        """Take a slot if one is free and nobody waits for it; return whether it was."""
        if self._free <= 0 or self._waiters:
            return False
        self._free -= 1
        return True

    async def take(self, seconds: float) -> None:
        """Wait for a slot. Raises TimeoutError after `seconds`."""
        if self.try_take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except BaseException:
            # The slot may have been granted in the same step as the cancellation; then
            # it goes to the next one.
            if waiter.done() and not waiter.cancelled():
                self.release()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Return a slot; the one who has waited longest gets it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
