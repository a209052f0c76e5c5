"""How many repeats a provider is sent: a share of what it is sent anyway, so that one that is down is not kept down."""

from collections import OrderedDict

from modelyard.base.clock import Clock

_SHARE = 0.2
_FREE = 5.0
_WINDOW = 10.0
_MOST_POTS = 4096


class RetryBudget:
    """For each tenant at each provider, a pot that calls fill and repeats empty; both count less as they grow old.

    One tenant's failures use up nobody else's repeats. Pots that nobody used for longest go first: one that is made
    anew allows a few repeats, and no more.
    """

    def __init__(self, clock: Clock, *, share: float = _SHARE, free: float = _FREE, window: float = _WINDOW) -> None:
        self._clock = clock
        self._share = share
        self._free = free
        self._window = window
        self._pots: OrderedDict[tuple[str, str], tuple[float, float, float]] = OrderedDict()

    def _now(self, pot: tuple[str, str]) -> tuple[float, float, float]:
        """(calls, repeats, moment), as they count at this moment."""
        now = self._clock.monotonic()
        calls, repeats, moment = self._pots.get(pot, (0.0, 0.0, now))
        left = max(0.0, 1.0 - (now - moment) / self._window)
        return calls * left, repeats * left, now

    def _keep(self, pot: tuple[str, str], level: tuple[float, float, float]) -> None:
        self._pots[pot] = level
        self._pots.move_to_end(pot)
        if len(self._pots) > _MOST_POTS:
            self._pots.popitem(last=False)

    def called(self, tenant: str, provider: str) -> None:
        calls, repeats, now = self._now((tenant, provider))
        self._keep((tenant, provider), (calls + 1, repeats, now))

    def may_repeat(self, tenant: str, provider: str) -> bool:
        """Whether there is room for one more repeat; takes it."""
        calls, repeats, now = self._now((tenant, provider))
        if repeats + 1 > self._free + self._share * calls:
            return False
        self._keep((tenant, provider), (calls, repeats + 1, now))
        return True
