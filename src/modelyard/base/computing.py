"""Work that computes, in a thread beside an event loop."""

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SECONDS = 0.0001
"""How long the loop waits for such a thread. Each change of hands costs some microseconds: always so often, a call on a
quiet server took 8 % more."""


class _Running:
    count = 0
    usual = 0.0


async def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, for what computes rather than waits: the loop hardly notices.

    A loop lets go of the interpreter at each event. Where a thread computes meanwhile, it gets it back after
    `sys.getswitchinterval()` seconds, and a call meets a dozen events.
    """
    with _changing_hands_often():
        return await asyncio.to_thread(work, *args, **kwargs)


@contextmanager
def _changing_hands_often() -> Generator[None]:
    # Loops of several threads may come here at once: at worst the interval is the wrong one of the two for a moment.
    if _Running.count == 0:
        _Running.usual = sys.getswitchinterval()
        sys.setswitchinterval(min(_SECONDS, _Running.usual))
    _Running.count += 1
    try:
        yield
    finally:
        _Running.count -= 1
        if _Running.count == 0:
            sys.setswitchinterval(_Running.usual)
