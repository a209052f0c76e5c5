"""Repair of almost-valid JSON as models write it, within a bounded amount of work.

The repair parser looks back and forth: on hostile input its time grows with the square
of the length, and one tool call of 61 kB occupied a process for over a minute. Every
character it reads is therefore counted here, and a text that needs too many is
rejected. On an event loop only short texts are repaired; callers pass long ones through
`run_in_thread_if_large`.
"""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from modelyard.base import cpu_work

# Repairing backtracks; its time may grow faster than the text.
MAX_CHARACTERS = 64 << 10
MAX_CHARACTERS_ON_LOOP = 4 << 10
_UNTIMED_READS = 20_000
"""Character reads without a time check, about a hundredth of a second. Up to here the
result is the same on every machine."""
_MAX_SECONDS = 0.2
"""CPU seconds allowed off the event loop. Sixty kilobytes that a model truncated take
about three quarters of it."""

P = ParamSpec("P")
T = TypeVar("T")


class RepairError(ValueError):
    """The text is too long, too deep or too damaged to be repaired."""


def repair_json(text: str) -> Any:
    """Parse almost-valid JSON.

    Raises RepairError if it cannot be repaired, ImportError if the repair package is
    not installed.
    """
    # The shorter limit applies where a repair would block the event loop.
    max_characters = MAX_CHARACTERS_ON_LOOP if is_on_a_loop() else MAX_CHARACTERS
    if len(text) > max_characters:
        raise RepairError(
            f"Invalid JSON of {len(text):,} characters; at most {max_characters:,} can"
            " be repaired"
        )
    try:
        return _parser()(text, None, False, try_valid_json_suffix=True).parse()
    except RepairError:
        raise
    except (ValueError, RecursionError, IndexError) as error:
        # The repair parser raises any of these on input that it cannot handle.
        raise RepairError(
            f"Invalid JSON that cannot be repaired: {str(error)[:200]}"
        ) from error


async def run_in_thread_if_large(
    size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run `work` on a text of `size` characters, in a thread if it could take long.

    `work` reads the text and may repair it as JSON. A short text is processed at once
    on the event loop. Returns the result of `work` and passes its exceptions on.
    """
    if size <= MAX_CHARACTERS_ON_LOOP:
        return work(*args, **kwargs)
    return await cpu_work.run_in_thread(work, *args, **kwargs)


def is_on_a_loop() -> bool:
    """Return whether an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Budget:
    """Work left for one repair: a fixed number of reads, then, off an event loop, as
    many as the time limit allows."""

    __slots__ = ("_is_on_a_loop", "_remaining_reads", "_until")

    def __init__(self) -> None:
        self._remaining_reads = _UNTIMED_READS
        self._is_on_a_loop = is_on_a_loop()
        self._until = time.thread_time() + _MAX_SECONDS

    def spend(self, read_count: int) -> None:
        """Charge `read_count` character reads. Raises RepairError if the budget is
        exhausted."""
        self._remaining_reads -= read_count
        # The clock is read only once per thousand reads: reading it is expensive.
        if self._remaining_reads < 0:
            if self._is_on_a_loop or time.thread_time() > self._until:
                raise RepairError("Invalid JSON with too many errors to be repaired")
            self._remaining_reads += 1_000


class _CountingString(str):
    """A string that charges every read to a budget and so aborts excessive parsing."""

    __slots__ = ("budget",)
    budget: _Budget

    def _spend(self, read_count: int) -> None:
        """Count characters that were read, so that a long text cannot block the
        thread."""
        self.budget.spend(read_count)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        """Return characters like `str`, and count them."""
        characters = str.__getitem__(self, key)
        # A slice is copied by compiled code, so it is cheaper per character than a
        # single read.
        self._spend(1 + len(characters) // 32)
        return characters

    def __iter__(self) -> Any:
        self._spend(len(self))
        return str.__iter__(self)

    def find(self, *args: Any) -> int:
        """Return the index of a substring like `str.find`, charging the characters
        searched."""
        index = str.find(self, *args)
        start = args[1] if len(args) > 1 else 0
        self._spend(1 + ((index if index >= 0 else len(self)) - start) // 32)
        return index


@cache
def _parser() -> Any:
    """Return the repair parser's class, with a limit on the characters it reads.

    The class is built once, on first use, since it derives from one in the optional
    `json_repair` package. Raises ImportError if that package is not installed. An
    instance raises RepairError once its budget is spent.
    """
    from json_repair.json_parser import JSONParser

    base: Any = JSONParser

    class Parser(base):
        """The repair parser with a read budget."""

        def __init__(self, text: str, *args: Any, **kwargs: Any) -> None:
            self._budget = _Budget()
            # The package has no types.
            super().__init__(  # pyright: ignore[reportUnknownMemberType]
                text, *args, **kwargs
            )

        # The base class stores and replaces its text in `json_str`; the property wraps
        # each version in a counting string.
        @property
        def json_str(self) -> str:
            """Return the text that is being parsed."""
            return self._text

        @json_str.setter
        def json_str(self, text: Any) -> None:
            """Replace the text that is being parsed, charging the copy."""
            self._budget.spend(len(text) // 32)
            self._text = _CountingString(text)
            self._text.budget = self._budget

    return Parser
