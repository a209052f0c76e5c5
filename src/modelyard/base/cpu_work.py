"""CPU-bound work in a thread that leaves the event loop responsive."""

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SWITCH_INTERVAL_SECONDS = 0.0001
"""Seconds that the event loop waits for the interpreter lock while such a thread runs.
Set only during the work: each switch costs some microseconds, and a permanent setting
made a call on an idle server 8 % slower."""


# Shared by all event loops of the process, since the switch interval is a process-wide
# setting.
class _Running:
    count = 0
    usual = 0.0


async def run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run CPU-bound work in a thread, like `asyncio.to_thread`, without slowing the
    event loop.

    The loop releases the interpreter lock at each event. While a thread computes, it
    gets the lock back only after `sys.getswitchinterval()` seconds, and a single call
    goes through about a dozen events.
    """
    with _short_switch_interval():
        return await asyncio.to_thread(work, *args, **kwargs)


@contextmanager
def _short_switch_interval() -> Generator[None]:
    """Shorten the interpreter's thread switch interval while the block runs.

    The interval is a process-wide setting, so nested and concurrent blocks share it:
    the first one sets 0.1 ms (or leaves a shorter one), the last one restores the value
    found by the first.
    """
    # Event loops of several threads may get here at once. The worst outcome is that the
    # wrong one of the two intervals is in force for a moment.
    if _Running.count == 0:
        _Running.usual = sys.getswitchinterval()
        sys.setswitchinterval(min(_SWITCH_INTERVAL_SECONDS, _Running.usual))
    _Running.count += 1
    try:
        yield
    finally:
        _Running.count -= 1
        # The last computation restores the usual interval.
        if _Running.count == 0:
            sys.setswitchinterval(_Running.usual)
