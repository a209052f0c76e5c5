"""An event loop whose time is a manual clock: waiting advances the clock at once."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from modelyard.testing import FakeClock

T = TypeVar("T")
START = 1024.0
"""When the clock starts. A power of two, so that sums with eighths are exact."""


class _SkippingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, advances the clock to it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready files. Blocks only if no timer is set."""
        if timeout is None:
            return super().select(None)
        if timeout > 0:
            self._clock.advance(timeout)
        return super().select(0)


def run_virtually(work: Coroutine[Any, Any, T], clock: FakeClock) -> T:
    """Run a coroutine on an event loop that has the clock's time."""

    def make_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(_SkippingSelector(clock))
        loop.time = clock.monotonic
        return loop

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work)


async def settle_tasks() -> None:
    """Let every task go as far as it can without waiting."""
    for _ in range(10):
        await asyncio.sleep(0)
