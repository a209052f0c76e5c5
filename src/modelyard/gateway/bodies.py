"""Memory budget for request bodies that are still being received, over all callers.
Performs no I/O."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


class BodyBudget:
    """Memory budget for incomplete request bodies.

    A caller may hold a multiple of what is still free, so there is always room for the
    next caller. Unauthenticated callers have a pool of their own and cannot exhaust
    that of the others.
    """

    def __init__(
        self, authenticated_bytes: int = 1 << 28, strangers: int = 1 << 26
    ) -> None:
        self._authenticated = _Pool(authenticated_bytes, 3)
        self._anonymous = _Pool(strangers, 1)

    @contextmanager
    def share(self, payer: tuple[str, bool]) -> "Generator[Share]":
        """Reserve memory for one body while it is being received.

        `payer` is the caller's name and whether it is authenticated.
        """
        who, is_authenticated = payer
        share = Share(self._authenticated if is_authenticated else self._anonymous, who)
        try:
            yield share
        finally:
            # The body is complete or has failed: return everything that it reserved.
            share.pool.release(who, share.held)

    @property
    def held(self) -> int:
        """Bytes that are reserved at the moment."""
        return self._authenticated.held + self._anonymous.held


class _Pool:
    """A memory pool in which each caller may hold `times` what is still free."""

    def __init__(self, total: int, times: int) -> None:
        self._total = total
        self._times = times
        self._by: dict[str, int] = {}
        self.held = 0

    def reserve(self, who: str, count: int) -> bool:
        """Reserve bytes for a caller, or return False if its share would be too large."""
        mine = self._by.get(who, 0) + count
        # The free amount is measured after this reservation, so the last bytes are
        # never given away.
        if mine > self._times * (self._total - self.held - count):
            return False
        self._by[who] = mine
        self.held += count
        return True

    def release(self, who: str, count: int) -> None:
        """Return bytes of a caller to the pool."""
        self.held -= count
        left = self._by.get(who, 0) - count
        if left > 0:
            self._by[who] = left
        else:
            # Drop callers without reservations, so that the table does not grow.
            self._by.pop(who, None)


@dataclass(slots=True)
class Share:
    """The reservation of one body."""

    pool: _Pool
    who: str
    held: int = 0

    def grow(self, count: int) -> bool:
        """Reserve `count` more bytes, or return False if there is no room."""
        if not self.pool.reserve(self.who, count):
            return False
        self.held += count
        return True
