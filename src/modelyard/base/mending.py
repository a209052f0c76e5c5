"""JSON that is nearly JSON, as models write it: mended where that takes little, never at any price.

The mender reads back and forth: on a hostile text its time grows with the square of the length, and a tool call of
61 kB kept a process busy for over a minute. Every character that it looks at is counted here, and a text that takes too
many is left as it is. On an event loop only short texts are mended; callers hand long ones to `apart`, where others go
on meanwhile.
"""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from modelyard.base import computing

MOST_CHARACTERS = 64 << 10
MOST_ON_A_LOOP = 4 << 10
_LOOKS_BEFORE_THE_CLOCK = 20_000
"""What is done in a hundredth of a second needs no clock: it comes out the same on every machine."""
_MOST_SECONDS = 0.2
"""Of a processor's time, off the loop. Sixty kilobytes that a model cut off in the middle take three quarters of it."""

P = ParamSpec("P")
T = TypeVar("T")


class NotMendedError(ValueError):
    """The text is too long, too deep or too broken."""


def mended(text: str) -> Any:
    """What a nearly-JSON text means. Raises NotMendedError, ImportError where the mender is not installed."""
    most = MOST_ON_A_LOOP if is_on_a_loop() else MOST_CHARACTERS
    if len(text) > most:
        raise NotMendedError(f"{len(text):,} characters that are no JSON; at most {most:,} are mended")
    try:
        return _parser()(text, None, False, try_valid_json_suffix=True).parse()
    except NotMendedError:
        raise
    except (ValueError, RecursionError, IndexError) as error:
        raise NotMendedError(f"it is no JSON and cannot be mended: {str(error)[:200]}") from error


async def apart(size: int, work: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
    """What reads a text of `size` characters and may mend it: in a thread where that may take long."""
    if size <= MOST_ON_A_LOOP:
        return work(*given, **more)
    return await computing.apart(work, *given, **more)


def is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Budget:
    """How much may still be read: so many characters, and after them as many as the time allows off a loop."""

    __slots__ = ("_is_on_a_loop", "_left", "_until")

    def __init__(self) -> None:
        self._left = _LOOKS_BEFORE_THE_CLOCK
        self._is_on_a_loop = is_on_a_loop()
        self._until = time.thread_time() + _MOST_SECONDS

    def spend(self, looks: int) -> None:
        self._left -= looks
        if self._left < 0:
            if self._is_on_a_loop or time.thread_time() > self._until:
                raise NotMendedError("it is too broken to be mended")
            self._left += 1_000


class _Counted(str):
    """A text that counts how much of it is read, and stops whoever reads too much."""

    __slots__ = ("budget",)
    budget: _Budget

    def _spend(self, looks: int) -> None:
        self.budget.spend(looks)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = str.__getitem__(self, key)
        self._spend(1 + len(found) // 32)
        return found

    def __iter__(self) -> Any:
        self._spend(len(self))
        return str.__iter__(self)

    def find(self, *given: Any) -> int:
        found = str.find(self, *given)
        start = given[1] if len(given) > 1 else 0
        self._spend(1 + ((found if found >= 0 else len(self)) - start) // 32)
        return found


@cache
def _parser() -> Any:
    from json_repair.json_parser import JSONParser

    base: Any = JSONParser

    class Parser(base):
        def __init__(self, text: str, *given: Any, **more: Any) -> None:
            self._budget = _Budget()
            super().__init__(text, *given, **more)

        @property
        def json_str(self) -> str:
            return self._text

        @json_str.setter
        def json_str(self, text: Any) -> None:
            self._budget.spend(len(text) // 32)  # it was written anew
            self._text = _Counted(text)
            self._text.budget = self._budget

    return Parser
