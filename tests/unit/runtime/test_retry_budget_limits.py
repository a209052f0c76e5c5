"""Retry budgets in number: each tenant has its own, and old ones are dropped."""

from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock

MAX_BUDGETS = 4096


def _used_up(budget: RetryBudget, tenant: str, provider: str = "p") -> None:
    """Take all retries of a budget."""
    while budget.try_retry(tenant, provider):
        pass


def test_calls_and_retries_are_counted_for_each_tenant_and_provider():
    budget = RetryBudget(FakeClock(), retry_ratio=1.0, free=0.0)
    budget.record_call("acme", "p")
    assert not budget.try_retry("acme", "q")
    assert not budget.try_retry("globex", "p")
    assert budget.try_retry("acme", "p")
    assert not budget.try_retry("acme", "p")


def test_the_defaults_are_five_retries_and_a_fifth_of_the_calls_of_ten_seconds():
    clock = FakeClock()
    budget = RetryBudget(clock)
    for _ in range(50):
        budget.record_call("acme", "p")
    assert [budget.try_retry("acme", "p") for _ in range(16)] == [True] * 15 + [False]
    clock.advance(10.0)
    assert [budget.try_retry("acme", "p") for _ in range(6)] == [True] * 5 + [False]


def test_the_budget_that_was_unused_for_the_longest_time_is_dropped():
    budget = RetryBudget(FakeClock())
    _used_up(budget, "first")
    for number in range(MAX_BUDGETS - 1):
        budget.record_call(f"tenant-{number}", "p")
    assert not budget.try_retry("first", "p")
    budget.record_call("one more", "p")
    assert budget.try_retry("first", "p")


def test_a_budget_in_use_is_not_dropped():
    budget = RetryBudget(FakeClock(), retry_ratio=0.0)
    _used_up(budget, "first")
    for number in range(2 * MAX_BUDGETS):
        budget.record_call(f"tenant-{number}", "p")
        budget.record_call("first", "p")
    assert not budget.try_retry("first", "p")
