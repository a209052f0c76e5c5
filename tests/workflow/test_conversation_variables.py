"""Variables of a conversation that several messages change at once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.workflow.conversation_variables import (
    RunValues,
    merge_run,
    merge_values,
)

_ITEMS = st.lists(st.integers(), max_size=5)


def left(run: str, start: Any, value: Any, *, is_paused: bool = False) -> RunValues:
    """What a run leaves of the variable `v`."""
    return RunValues(
        run=run, is_paused=is_paused, start={"v": start}, values={"v": value}, types={}
    )


def stored(value: Any) -> dict[str, dict[str, Any]]:
    return {"v": {"id": "1", "value": value, "value_type": "any", "updated_at": 1.0}}


def value_after(variables: dict[str, dict[str, Any]], *runs: RunValues) -> Any:
    for run in runs:
        variables = merge_run(variables, run, 2.0)
    return variables["v"]["value"]


@given(_ITEMS, _ITEMS, _ITEMS)
def test_what_both_append_is_kept(base: list[int], one: list[int], two: list[int]):
    runs = [left("one", base, base + one), left("two", base, base + two)]
    assert value_after(stored(base), *runs) == base + one + two


@given(st.integers(), st.integers(), st.integers())
def test_what_both_add_is_kept(base: int, one: int, two: int):
    runs = [left("one", base, base + one), left("two", base, base + two)]
    assert value_after(stored(base), *runs) == base + one + two


@given(_ITEMS, _ITEMS, st.lists(_ITEMS, max_size=3))
def test_a_run_counts_once_however_often_it_is_recorded(
    base: list[int], own: list[int], others: list[list[int]]
):
    run = left("own", base, base + own)
    once = merge_run(stored(base), run, 2.0)
    for number, items in enumerate(others):
        once = merge_run(once, left(f"other {number}", base, base + items), 2.0)
    assert merge_run(once, run, 3.0) == once


@given(_ITEMS, _ITEMS, _ITEMS, _ITEMS)
def test_after_a_pause_only_the_new_changes_are_added(
    base: list[int], before: list[int], other: list[int], after: list[int]
):
    runs = [
        left("own", base, base + before, is_paused=True),
        left("other", base, base + other),
        left("own", base, base + before + after),
    ]
    assert value_after(stored(base), *runs) == base + before + other + after


def test_a_run_that_changes_nothing_takes_nothing_back():
    variables = merge_run(stored("old"), left("one", "old", "new"), 2.0)
    variables = merge_run(variables, left("two", "old", "old"), 3.0)
    assert variables["v"]["value"] == "new"
    assert variables["v"]["updated_at"] == 2.0


@pytest.mark.parametrize(
    ("base", "own", "other", "expected"),
    [
        ("a", "b", "c", "b"),
        # One has removed an item, so the lists cannot be joined.
        ([1, 2], [2], [1, 2, 3], [2]),
        ([1], "text", [1, 2], "text"),
        # A truth value is no amount.
        (False, True, False, True),
        (1, 3, 5, 7),
        (None, [1], [2], [1]),
    ],
)
def test_of_other_changes_the_later_counts(
    base: Any, own: Any, other: Any, expected: Any
):
    assert merge_values(base, own, other) == expected


def test_a_new_variable_gets_an_id_and_its_type():
    run = RunValues(
        run="r", is_paused=False, start={}, values={"n": 1}, types={"n": "number"}
    )
    variable = merge_run({}, run, 2.0)["n"]
    assert (variable["value"], variable["value_type"]) == (1, "number")
    assert variable["id"]


def test_two_runs_that_start_without_a_stored_variable_lose_nothing():
    variables = merge_run({}, left("one", [], [1]), 2.0)
    assert value_after(variables, left("two", [], [2])) == [1, 2]
