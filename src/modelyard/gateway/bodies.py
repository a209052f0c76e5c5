"""How much of unfinished bodies is held in memory, by all callers together. Pure: no network, no clock."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


class BodyBudget:
    """A caller may hold so many times what is still free: whoever comes next always finds some. Callers who are not
    known have a part of their own, so that they take nothing from those who are."""

    def __init__(self, known: int = 1 << 28, strangers: int = 1 << 26) -> None:
        self._known = _Pool(known, 3)
        self._strangers = _Pool(strangers, 1)

    @contextmanager
    def share(self, payer: tuple[str, bool]) -> "Generator[Share]":
        """What one body takes, for as long as it is not complete. `payer`: who, and whether they are known."""
        who, is_known = payer
        share = Share(self._known if is_known else self._strangers, who)
        try:
            yield share
        finally:
            share.pool.give(who, share.held)

    @property
    def held(self) -> int:
        return self._known.held + self._strangers.held


class _Pool:
    def __init__(self, total: int, times: int) -> None:
        self._total = total
        self._times = times
        self._by: dict[str, int] = {}
        self.held = 0

    def take(self, who: str, count: int) -> bool:
        mine = self._by.get(who, 0) + count
        if mine > self._times * (self._total - self.held - count):
            return False
        self._by[who] = mine
        self.held += count
        return True

    def give(self, who: str, count: int) -> None:
        self.held -= count
        left = self._by.get(who, 0) - count
        if left > 0:
            self._by[who] = left
        else:
            self._by.pop(who, None)


@dataclass(slots=True)
class Share:
    pool: _Pool
    who: str
    held: int = 0

    def grow(self, count: int) -> bool:
        """Whether there is room for so much more; then it is taken."""
        if not self.pool.take(self.who, count):
            return False
        self.held += count
        return True
