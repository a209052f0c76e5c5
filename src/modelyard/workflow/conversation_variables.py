"""The variables of a conversation, which several messages may change at the same time.

A run gets the values at its start and changes its own copy. When it pauses or ends, what
it has changed is merged into what is stored by then, so that two messages at once lose
nothing.
"""

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.base.json_types import is_array, is_mapping

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_REMEMBERED_RUNS = 8
"""Runs per variable whose changes are certainly in it. A run that is recorded again
after a crash comes within a few."""
_RUN_FIELDS = ("ended", "paused")
"""Fields of a stored variable that are about runs: `ended` lists those whose changes are
in its value, `paused` has what each paused run had made of it."""

StoredVariables = Mapping[str, Mapping[str, Any]]
"""A variable's name → its id, value, type, description and times."""


class RunValues(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation's variables as a run leaves them."""

    run: str
    is_paused: bool
    start: Mapping[str, Any]
    """The values with which the run has started."""
    values: Mapping[str, Any]
    types: Mapping[str, str]


def merge_run(
    stored: StoredVariables, run: RunValues, current_time: float
) -> dict[str, dict[str, Any]]:
    """Return the stored variables with a run's changes. A repetition changes nothing."""
    variables = {name: dict(variable) for name, variable in stored.items()}
    for name in run.values:
        variable = variables.get(name) or _new_variable(run.start.get(name))
        variables[name] = _merged_variable(variable, run, name, current_time)
    return variables


def _new_variable(value: Any) -> dict[str, Any]:
    """Return a variable that is not stored yet, with the value at the run's start."""
    return {"id": str(uuid.uuid4()), "description": "", "value": value}


def _merged_variable(
    variable: dict[str, Any], run: RunValues, name: str, current_time: float
) -> dict[str, Any]:
    """Return one stored variable with a run's change."""
    value = _changed_value(variable, run, name)
    merged = {**variable, **_run_fields(variable, run, run.values[name])}
    # Only changed variables get a new time.
    if "updated_at" not in variable or value != variable.get("value"):
        value_type = run.types.get(name, "string")
        merged |= {"value": value, "value_type": value_type, "updated_at": current_time}
    return merged


def _changed_value(variable: Mapping[str, Any], run: RunValues, name: str) -> Any:
    """Return a variable's value with a run's change."""
    if run.run in _ended(variable):
        return variable.get("value")
    # After a pause, only what has changed since then is new.
    paused = _paused(variable)
    base = paused[run.run] if run.run in paused else run.start.get(name)
    return merge_values(base, run.values[name], variable.get("value"))


def merge_values(base: Any, own: Any, stored: Any) -> Any:
    """Return what two changes of the same value make together: `own` and `stored` have
    both come from `base`.

    Items that were appended to a list and amounts that were added to a number are kept
    from both sides. Of other values the later one counts.
    """
    if own == base:
        return stored
    if stored == base:
        return own
    if is_array(base) and is_array(own) and is_array(stored):
        if own[: len(base)] == base:
            return [*stored, *own[len(base) :]]
    elif _is_number(base) and _is_number(own) and _is_number(stored):
        return stored + (own - base)
    return own


def _is_number(value: Any) -> "TypeIs[float]":
    """Return whether a value is a number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _run_fields(
    variable: Mapping[str, Any], run: RunValues, value: Any
) -> dict[str, Any]:
    """Return what a variable remembers of runs, with this one."""
    paused, ended = dict(_paused(variable)), _ended(variable)
    paused.pop(run.run, None)
    if run.is_paused:
        paused[run.run] = value
    elif run.run not in ended:
        ended = [*ended, run.run][-_REMEMBERED_RUNS:]
    return dict(zip(_RUN_FIELDS, (ended, paused), strict=True))


def _ended(variable: Mapping[str, Any]) -> list[str]:
    """Return the runs that have written a variable and ended."""
    runs = variable.get("ended")
    return runs if is_array(runs) else []


def _paused(variable: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of paused runs."""
    values = variable.get("paused")
    return values if is_mapping(values) else {}
