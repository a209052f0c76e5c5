"""Time as an injected dependency, so that tests of cooldowns, retries and deadlines
need no real waiting."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Source of time used by all components."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for durations and deadlines."""
        ...

    def time(self) -> float:
        """Return seconds since the Unix epoch, for stored and displayed timestamps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...


_NORMAL_STEP_SECONDS = 1.0
"""Seconds. Smaller offsets are normal time synchronisation and are applied immediately.
"""
_SETTLE_SECONDS = 30.0
"""Seconds that the wall clock must keep a changed offset before it is accepted."""


class SteadyTime:
    """The wall clock without short jumps: a jump that lasts less than half a minute is
    never visible.

    During a jump the time since boot is used to continue. Otherwise a clock that is a
    day ahead for a moment would lock users out or expire data that must be retained.
    """

    def __init__(
        self, wall: Callable[[], float], since_start: Callable[[], float]
    ) -> None:
        self._wall = wall
        self._since_start = since_start
        self._offset = wall() - since_start()
        self._jump: tuple[float, float] | None = None
        """Boot time at which a jump was first seen, and the offset after it."""

    def __call__(self) -> float:
        """Return the wall clock's time, without jumps that are undone within
        seconds."""
        boot_seconds = self._since_start()
        # The offset between wall clock and boot clock is constant unless the wall clock
        # is set.
        offset = self._wall() - boot_seconds
        change = offset - self._offset
        if -_NORMAL_STEP_SECONDS <= change <= _NORMAL_STEP_SECONDS:
            self._offset, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[1]) > _NORMAL_STEP_SECONDS:
            # A jump starts, or jumps again: the waiting period starts over.
            self._jump = boot_seconds, offset
        elif boot_seconds - self._jump[0] >= _SETTLE_SECONDS:
            # The new offset has been stable for long enough to be a real correction.
            self._offset, self._jump = offset, None
        return boot_seconds + self._offset


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_since_start = partial(time.clock_gettime, _BOOT_CLOCK)
"""Returns seconds since boot, including suspended time if the system reports it."""
# One instance for the process, so that all components see the same time during a jump.
_steady_time = SteadyTime(time.time, _since_start)


class SystemClock:
    """The clock of the running machine."""

    # The system's own function, without a call around it: a call reads it many times.
    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        """Return seconds since the Unix epoch, filtered through SteadyTime."""
        return _steady_time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)
