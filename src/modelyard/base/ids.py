"""Ids: a prefix that says what it names, then time-ordered digits."""

import os
import time
import uuid
from itertools import count

_turn = count(int.from_bytes(os.urandom(6)) << 16)


def _start_anew() -> None:
    """Processes that were forked from one must not count on from the same number."""
    global _turn
    _turn = count(int.from_bytes(os.urandom(6)) << 16)


os.register_at_fork(after_in_child=_start_anew)


def new_id(prefix: str) -> str:
    """`prefix_` and 27 hexadecimal digits: milliseconds, a count from a random start. Sorts by time; no secret."""
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{next(_turn):016x}"


def new_uuid() -> str:
    """For what callers expect to be a UUID. Sorts by time (version 7), then by a count."""
    milliseconds, turn = time.time_ns() // 1_000_000, next(_turn) & ((1 << 74) - 1)
    high = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (turn >> 62 & 0xFFF) << 64
    return str(uuid.UUID(int=high | 0b10 << 62 | turn & ((1 << 62) - 1)))
