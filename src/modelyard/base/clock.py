"""Time as a dependency: tests of cooldowns, retries and deadlines take none."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only go forward: for durations and deadlines."""
        ...

    def time(self) -> float:
        """Seconds since 1970: for what is stored and shown."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
