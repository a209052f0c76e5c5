"""Writes that are made together, at the end of a turn of the event loop.

A write to a socket wakes the process at its other end unless that one is awake. On a
busy machine the wake-up costs several times what the rest of the write does, a tenth of a
call. Of writes that follow each other, only the first ones have to wake anybody.
"""

import asyncio
from typing import Any

_FEW = 3
"""A turn with fewer writes gains nothing: calling back at its end costs as much."""
_IMMEDIATE_WRITES = 100
"""Writes that are made at once after such a turn, before the next try."""


class TurnWrites:
    """Collects what is written to the transports of one event loop.

    Whatever else is done with a transport in the same turn (another write, closing) must
    come after a `flush_for`. What waits for a transport that closes all the same is
    dropped, as a socket's buffer would be.
    """

    __slots__ = ("_immediate_writes", "_pending")

    def __init__(self) -> None:
        # A transport → what it is to send.
        self._pending: dict[Any, bytes] = {}
        self._immediate_writes = 0

    def write(self, transport: Any, data: bytes) -> None:
        """Write to a transport, at the latest when this turn ends."""
        if self._immediate_writes:
            self._immediate_writes -= 1
            transport.write(data)
            return
        pending = self._pending
        if not pending:
            asyncio.get_running_loop().call_soon(self._end_turn)
        earlier = pending.get(transport)
        pending[transport] = data if earlier is None else earlier + data

    def flush_for(self, transport: Any) -> None:
        """Make all writes now if one to this transport waits."""
        if transport in self._pending:
            self._flush()

    def _end_turn(self) -> None:
        """Make the writes of this turn, and look whether waiting was worth it."""
        if len(self._pending) < _FEW:
            self._immediate_writes = _IMMEDIATE_WRITES
        self._flush()

    def _flush(self) -> None:
        """Make all writes that wait."""
        pending, self._pending = self._pending, {}
        for transport, data in pending.items():
            # A closing transport reports an error to nobody.
            if not transport.is_closing():
                transport.write(data)
