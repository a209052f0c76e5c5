"""Tests for the retry budget: how many retries one provider may receive."""

from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock


def _allowed(budget: RetryBudget, max_repeats: int = 1000) -> int:
    """Return how many retries the budget allows now, and use them up."""
    return next(
        (count for count in range(max_repeats) if not budget.try_retry("t", "p")),
        max_repeats,
    )


def test_a_fifth_of_the_calls_and_five_more_may_be_retried():
    budget = RetryBudget(FakeClock(), retry_ratio=0.2, free=5.0, window=10.0)
    for _ in range(100):
        budget.record_call("t", "p")
    assert _allowed(budget) == 25


def test_calls_lose_weight_within_the_window():
    clock = FakeClock()
    budget = RetryBudget(clock, retry_ratio=0.2, free=5.0, window=10.0)
    for _ in range(100):
        budget.record_call("t", "p")
    clock.advance(5.0)
    assert _allowed(budget) == 15  # 0.2 × half of 100 calls, plus 5
    clock.advance(10.0)
    assert _allowed(budget) == 5


def test_used_retries_are_replenished_over_time():
    clock = FakeClock()
    budget = RetryBudget(clock, retry_ratio=0.2, free=5.0, window=10.0)
    assert _allowed(budget) == 5
    assert _allowed(budget) == 0
    clock.advance(4.0)
    assert _allowed(budget) == 2  # two fifths of five
    clock.advance(20.0)
    assert _allowed(budget) == 5
