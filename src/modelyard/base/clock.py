"""Time as a dependency: tests of cooldowns, retries and deadlines take none."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only go forward: for durations and deadlines."""
        ...

    def time(self) -> float:
        """Seconds since 1970: for what is stored and shown."""
        ...

    async def sleep(self, seconds: float) -> None: ...


_NORMAL_STEP = 1.0
"""Seconds: what a time service corrects is less, and is followed at once."""
_DOUBT_SECONDS = 30.0
"""So long the wall clock must stay where it jumped to before it is believed."""


class SteadyTime:
    """The wall clock, without its jumps: one that lasts less than half a minute is never seen.

    What lies between is told by the seconds since the machine started. Whoever stores or compares times would lock
    somebody out, or forget what must be kept, for a clock that is a day ahead for a moment.
    """

    def __init__(self, wall: Callable[[], float], since_start: Callable[[], float]) -> None:
        self._wall = wall
        self._since_start = since_start
        self._offset = wall() - since_start()
        self._jump: tuple[float, float] | None = None  # when it was first seen, and the offset that it led to

    def __call__(self) -> float:
        now = self._since_start()
        offset = self._wall() - now
        if abs(offset - self._offset) <= _NORMAL_STEP:
            self._offset, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[1]) > _NORMAL_STEP:
            self._jump = now, offset
        elif now - self._jump[0] >= _DOUBT_SECONDS:
            self._offset, self._jump = offset, None
        return now + self._offset


def _since_start() -> float:
    """With the time that the machine slept, where the system tells it."""
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_steady_time = SteadyTime(time.time, _since_start)  # one for the process: a jump is seen by whoever looks first


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        """As SteadyTime tells it."""
        return _steady_time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
