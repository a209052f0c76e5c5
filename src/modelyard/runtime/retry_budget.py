"""How many repeats a provider is sent: a share of what it is sent anyway, so that one that is down is not kept down."""

from modelyard.base.clock import Clock

_SHARE = 0.2
_FREE = 5.0
_WINDOW = 10.0


class RetryBudget:
    """For each provider, a pot that calls fill and repeats empty; both count less as they grow old."""

    def __init__(self, clock: Clock, *, share: float = _SHARE, free: float = _FREE, window: float = _WINDOW) -> None:
        self._clock = clock
        self._share = share
        self._free = free
        self._window = window
        self._pots: dict[str, tuple[float, float, float]] = {}

    def _now(self, provider: str) -> tuple[float, float, float]:
        """(calls, repeats, moment), as they count at this moment."""
        now = self._clock.monotonic()
        calls, repeats, moment = self._pots.get(provider, (0.0, 0.0, now))
        left = max(0.0, 1.0 - (now - moment) / self._window)
        return calls * left, repeats * left, now

    def called(self, provider: str) -> None:
        calls, repeats, now = self._now(provider)
        self._pots[provider] = calls + 1, repeats, now

    def may_repeat(self, provider: str) -> bool:
        """Whether there is room for one more repeat; takes it."""
        calls, repeats, now = self._now(provider)
        if repeats + 1 > self._free + self._share * calls:
            return False
        self._pots[provider] = calls, repeats + 1, now
        return True
