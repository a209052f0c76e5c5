"""Identifiers: a type prefix followed by time-ordered hexadecimal digits."""

import os
import time
import uuid
from itertools import count

# A counter with a random start makes ids of one process unique and those of several
# processes distinct.
_sequence = count(int.from_bytes(os.urandom(6)) << 16)


def _reset_after_fork() -> None:
    """Give a forked child its own counter, so that it does not repeat the parent's ids."""
    global _sequence
    _sequence = count(int.from_bytes(os.urandom(6)) << 16)


os.register_at_fork(after_in_child=_reset_after_fork)


def new_id(prefix: str) -> str:
    """Return `prefix_` and 27 hexadecimal digits: milliseconds, then a counter with a
    random start.

    Ids sort by creation time and are not secret.
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{next(_sequence):016x}"


def id_start(prefix: str) -> bytes:
    """Return the part of ids that is the same for all of one millisecond. `id_from` turns
    it into ids, for callers that need very many within a few milliseconds."""
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}".encode()


def id_from(start: bytes) -> bytes:
    """Return a new id of the time at which `id_start` was called."""
    return b"%b%016x" % (start, next(_sequence))


def new_uuid() -> str:
    """Return a UUID version 7 (RFC 9562) for callers that expect one. Sorts by time,
    then by a counter."""
    milliseconds, sequence = (
        time.time_ns() // 1_000_000,
        next(_sequence) & ((1 << 74) - 1),
    )
    # High half: 48 bits of time, version 7, the upper 12 bits of the counter.
    high = (
        (milliseconds & ((1 << 48) - 1)) << 80
        | 0x7 << 76
        | (sequence >> 62 & 0xFFF) << 64
    )
    return str(uuid.UUID(int=high | 0b10 << 62 | sequence & ((1 << 62) - 1)))
