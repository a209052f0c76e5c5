"""Conditions of branches, loops and filters: one value, one operator, what is expected. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.template import render
from modelyard.workflow.variables import MISSING, File, VariablePool, WorkflowError

OPERATORS = (
    "contains", "not contains", "start with", "end with", "is", "is not", "empty", "not empty", "in", "not in",
    "all of", "=", "≠", ">", "<", "≥", "≤", "null", "not null", "exists", "not exists",
)  # fmt: skip


class ConditionError(WorkflowError):
    """A condition cannot be answered for the value it was given."""


class SubCondition(msgspec.Struct, kw_only=True):
    key: str
    comparison_operator: str
    value: Any = ""


class SubConditions(msgspec.Struct, kw_only=True):
    logical_operator: str = "and"
    conditions: list[SubCondition] = []


class Condition(msgspec.Struct, kw_only=True):
    variable_selector: list[str] = []
    comparison_operator: str
    value: Any = None
    sub_variable_condition: SubConditions | None = None


def holds_all(conditions: Sequence[Condition], operator: str, pool: VariablePool) -> tuple[bool, list[dict[str, Any]]]:
    """Whether a group holds, and what each condition that was looked at compared. Stops as soon as it is known."""
    seen: list[dict[str, Any]] = []
    for one in conditions:
        result = holds(one, pool, seen)
        if result != (operator != "or"):
            return result, seen
    return operator != "or" if conditions else False, seen


def holds(condition: Condition, pool: VariablePool, seen: list[dict[str, Any]] | None = None) -> bool:
    """Raises ConditionError where the variable is missing or of a type that the operator cannot have."""
    actual = pool.get(condition.variable_selector)
    if actual is MISSING:
        raise ConditionError(f"Variable {list(condition.variable_selector)} not found")
    operator = condition.comparison_operator
    if (group := condition.sub_variable_condition) is not None and _is_files(actual):
        return _any_or_all(group, operator, actual, pool)
    expected = _expected(condition.value, actual, pool)
    if seen is not None:
        seen.append({"actual_value": _shown(actual), "expected_value": expected, "comparison_operator": operator})
    return compare(operator, actual, expected)


def _shown(value: Any) -> Any:
    return value.to_object() if isinstance(value, File) else value


def _expected(value: Any, actual: Any, pool: VariablePool) -> Any:
    if isinstance(value, str):
        value = render(value, pool)
    is_bool = isinstance(actual, bool) or (
        isinstance(actual, list) and bool(actual) and all(isinstance(one, bool) for one in actual)
    )
    if not is_bool or value is None:
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value.lower())
        except ValueError as error:
            raise ConditionError(f"{value!r} is no boolean") from error
    return [bool(one) for one in value] if isinstance(value, list) else bool(value)


def _is_files(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, File) for one in value)


def _any_or_all(group: SubConditions, operator: str, files: Sequence[File], pool: VariablePool) -> bool:
    if operator not in ("contains", "not contains", "all of"):
        raise ConditionError(f"{operator!r} does not go with conditions on files")
    results = [_of_files(one, files, pool) for one in group.conditions]
    return all(results) if group.logical_operator != "or" else any(results)


def _of_files(condition: SubCondition, files: Sequence[File], pool: VariablePool) -> bool:
    expected = render(condition.value, pool) if isinstance(condition.value, str) else condition.value
    if condition.key == "extension":
        expected = _dotted(expected)

    def one(file: File) -> bool:
        actual = file.attribute(condition.key)
        if actual is MISSING:
            raise ConditionError(f"files have no {condition.key!r}")
        if condition.key == "extension":
            actual = _dotted(actual)
        return compare(condition.comparison_operator, actual, expected)

    results = [one(file) for file in files]
    return all(results) if "not" in condition.comparison_operator else any(results)


def _dotted(value: Any) -> Any:
    if isinstance(value, list):
        return [_dotted(one) for one in value]
    return value if not isinstance(value, str) or not value or value.startswith(".") else f".{value}"


# ---------------------------------------------------------------------------------------------- operators


def compare(operator: str, actual: Any, expected: Any) -> bool:
    """Raises ConditionError for an operator that is none, or does not go with the value."""
    compared = _BY_OPERATOR.get(operator)
    if compared is None:
        raise ConditionError(f"{operator!r} is no comparison; there are {', '.join(OPERATORS)}")
    return compared(actual, expected)


def _contains(actual: Any, expected: Any) -> bool:
    if not actual:
        return False
    if isinstance(actual, str):
        return str(expected) in actual
    if isinstance(actual, list):
        return expected in actual
    raise ConditionError("Invalid actual value type: string or array")


def _starts(actual: Any, expected: Any) -> bool:
    return bool(actual) and _text(actual).startswith(str(expected))


def _ends(actual: Any, expected: Any) -> bool:
    return bool(actual) and _text(actual).endswith(str(expected))


def _text(actual: Any) -> str:
    if not isinstance(actual, str):
        raise ConditionError("Invalid actual value type: string")
    return actual


def _is(actual: Any, expected: Any) -> bool:
    if actual is None:
        return False
    if not isinstance(actual, str | bool):
        raise ConditionError("Invalid actual value type: string or boolean")
    return actual == expected


def _is_not(actual: Any, expected: Any) -> bool:
    return actual is not None and not _is(actual, expected)


def _equal(actual: Any, expected: Any) -> bool | None:
    """None where there is nothing to compare."""
    if actual is None:
        return None
    try:
        if isinstance(actual, bool):
            return actual == bool(expected)
        if isinstance(actual, int):
            return actual == int(expected)
        if isinstance(actual, float):
            return actual == float(expected)
    except (TypeError, ValueError) as error:
        raise ConditionError(f"{expected!r} is no number to compare with") from error
    raise ConditionError("Invalid actual value type: number or boolean")


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(actual: Any, expected: Any) -> bool:
        if actual is None:
            return False
        if isinstance(actual, bool) or not isinstance(actual, int | float):
            raise ConditionError("Invalid actual value type: number")
        try:
            return test(actual, float(expected))
        except (TypeError, ValueError) as error:
            raise ConditionError(f"{expected!r} is no number to compare with") from error

    return compared


def _in(actual: Any, expected: Any) -> bool:
    if not actual:
        return False
    return actual in _list(expected)


def _not_in(actual: Any, expected: Any) -> bool:
    if not actual:
        return True
    return actual not in _list(expected)


def _list(expected: Any) -> Sequence[Any]:
    if not isinstance(expected, list):
        raise ConditionError("Invalid expected value type: array")
    return expected


def _all_of(actual: Any, expected: Any) -> bool:
    if not actual:
        return False
    if not isinstance(actual, list):
        raise ConditionError("Invalid actual value type: array")
    return all(one in actual for one in _list(expected))


_BY_OPERATOR: Mapping[str, Callable[[Any, Any], bool]] = {
    "contains": _contains,
    "not contains": lambda actual, expected: not _contains(actual, expected),
    "start with": _starts,
    "end with": _ends,
    "is": _is,
    "is not": _is_not,
    "empty": lambda actual, expected: not actual,
    "not empty": lambda actual, expected: bool(actual),
    "in": _in,
    "not in": _not_in,
    "all of": _all_of,
    "=": lambda actual, expected: _equal(actual, expected) is True,
    "≠": lambda actual, expected: _equal(actual, expected) is False,
    ">": _ordered(lambda actual, expected: actual > expected),
    "<": _ordered(lambda actual, expected: actual < expected),
    "≥": _ordered(lambda actual, expected: actual >= expected),
    "≤": _ordered(lambda actual, expected: actual <= expected),
    "null": lambda actual, expected: actual is None,
    "not null": lambda actual, expected: actual is not None,
    "exists": lambda actual, expected: actual is not None,
    "not exists": lambda actual, expected: actual is None,
}
