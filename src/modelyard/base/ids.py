"""Ids: a prefix that says what it names, then time-ordered characters."""

import os
import time
from itertools import count

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_START = int.from_bytes(os.urandom(8)) & ~0xFFFFFFFF
_turn = count(_START | 1)


def _base32(number: int, length: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (length - 1), -1, -5))


def new_id(prefix: str) -> str:
    """`prefix_` and 22 characters: milliseconds, then a count from a random start. Sorts by time; not secret."""
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 9)}{_base32(next(_turn) & (1 << 64) - 1, 13)}"
