"""Retry budget: retries are limited to a fraction of the calls, so that they do not
keep an overloaded provider down."""

from collections import OrderedDict

from modelyard.base.clock import Clock

# With 20 % of retries, an upstream that is down gets at most a fifth more calls than
# without any, besides the free retries.
_RETRY_RATIO = 0.2
# Retries that are always allowed, so that a tenant with few calls can retry at all.
_FREE_RETRIES = 5.0
# Long enough to see several calls, short enough to forget a past outage.
_WINDOW = 10.0
# A pot that is dropped is full again, which only allows more retries.
_MAX_BUDGETS = 4096


class RetryBudget:
    """A budget for each tenant at each provider. Calls add to it and retries use it up;
    both lose weight as they get older.

    One tenant's failures do not use up another's retries. The budgets unused for the
    longest are dropped first; a new one allows only a few retries.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        retry_ratio: float = _RETRY_RATIO,
        free: float = _FREE_RETRIES,
        window: float = _WINDOW,
    ) -> None:
        self._clock = clock
        self._share = retry_ratio
        self._free = free
        self._window = window
        self._pots: OrderedDict[tuple[str, str], tuple[float, float, float]] = (
            OrderedDict()
        )

    def _current_level(self, pot: tuple[str, str]) -> tuple[float, float, float]:
        """Return (calls, retries, current time) with the counts decayed to the present."""
        current_time = self._clock.monotonic()
        if pot not in self._pots:
            return 0.0, 0.0, current_time
        calls, repeats, moment = self._pots[pot]
        # Linear decay: after one window without calls nothing is left.
        left = 1.0 - (current_time - moment) / self._window
        if left < 0.0:
            left = 0.0
        return calls * left, repeats * left, current_time

    def _store_level(
        self, pot: tuple[str, str], level: tuple[float, float, float]
    ) -> None:
        """Store the level of a budget and drop the least recently used one beyond the
        maximum."""
        self._pots[pot] = level
        self._pots.move_to_end(pot)
        if len(self._pots) > _MAX_BUDGETS:
            self._pots.popitem(last=False)

    def record_call(self, tenant: str, provider: str) -> None:
        """Count a call."""
        pot = (tenant, provider)
        calls, repeats, current_time = self._current_level(pot)
        self._store_level(pot, (calls + 1, repeats, current_time))

    def try_retry(self, tenant: str, provider: str) -> bool:
        """Return whether one more retry is allowed; if so, it is counted."""
        calls, repeats, current_time = self._current_level((tenant, provider))
        if repeats + 1 > self._free + self._share * calls:
            return False
        self._store_level((tenant, provider), (calls, repeats + 1, current_time))
        return True
