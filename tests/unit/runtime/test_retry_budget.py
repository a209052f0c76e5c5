"""How many repeats a provider is sent."""

from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock


def _allowed(budget: RetryBudget, max_repeats: int = 1000) -> int:
    """How many repeats there is room for now; takes them."""
    return next(
        (count for count in range(max_repeats) if not budget.try_retry("t", "p")),
        max_repeats,
    )


def test_a_fifth_of_the_calls_and_five_more_may_be_repeated():
    budget = RetryBudget(FakeClock(), retry_ratio=0.2, free=5.0, window=10.0)
    for _ in range(100):
        budget.record_call("t", "p")
    assert _allowed(budget) == 25


def test_calls_count_for_less_as_they_grow_old_and_for_nothing_after_the_window():
    clock = FakeClock()
    budget = RetryBudget(clock, retry_ratio=0.2, free=5.0, window=10.0)
    for _ in range(100):
        budget.record_call("t", "p")
    clock.advance(5.0)
    assert _allowed(budget) == 15  # half of a hundred calls, and the five
    clock.advance(10.0)
    assert _allowed(budget) == 5


def test_repeats_that_are_used_up_come_back_with_time():
    clock = FakeClock()
    budget = RetryBudget(clock, retry_ratio=0.2, free=5.0, window=10.0)
    assert _allowed(budget) == 5
    assert _allowed(budget) == 0
    clock.advance(4.0)
    assert _allowed(budget) == 2  # two fifths of five
    clock.advance(20.0)
    assert _allowed(budget) == 5
