"""Reasoning effort as a token budget and back: a round trip never lowers the effort."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.reasoning import budget_of, effort_of


@given(st.integers(-5, 100_000))
def test_an_effort_covers_the_requested_budget_up_to_the_maximum(budget: int):
    effort = effort_of(budget)
    assert effort is None if budget < 0 else effort is not None
    if effort is not None:
        assert budget_of(effort) >= min(budget, 32_768)


@pytest.mark.parametrize(
    ("effort", "bounds", "tokens"),
    [
        ("none", {}, 0), ("none", {"min_budget": 1024}, 0), ("minimal", {}, 512), ("minimal", {"min_budget": 1024}, 1024),
        ("xhigh", {"max_budget": 31_000}, 31_000), ("heroic", {}, 8192), ("heroic", {"unknown": -1}, -1),
    ],
)  # fmt: skip
def test_budgets_respect_provider_bounds(
    effort: str, bounds: dict[str, int], tokens: int
):
    assert budget_of(effort, **bounds) == tokens
