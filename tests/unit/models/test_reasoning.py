"""An effort as tokens and tokens as an effort: there and back is no less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.reasoning import budget_of, effort_of


@given(st.integers(-5, 100_000))
def test_an_effort_is_worth_what_was_asked_for_up_to_the_most(budget: int):
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
def test_each_provider_has_its_bounds(effort: str, bounds: dict[str, int], tokens: int):
    assert budget_of(effort, **bounds) == tokens
