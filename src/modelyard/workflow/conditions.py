"""Conditions of branches, loops and filters: a value, an operator and an expected
value. Pure functions."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array
from modelyard.workflow.template import render
from modelyard.workflow.variables import MISSING, File, VariablePool, WorkflowError

OPERATORS = (
    "contains",
    "not contains",
    "start with",
    "end with",
    "is",
    "is not",
    "empty",
    "not empty",
    "in",
    "not in",
    "all of",
    "=",
    "≠",
    ">",
    "<",
    "≥",
    "≤",
    "null",
    "not null",
    "exists",
    "not exists",
)


class ConditionError(WorkflowError):
    """A condition cannot be evaluated for its value."""


class SubCondition(msgspec.Struct, kw_only=True):
    """A condition on one attribute of a file."""

    key: str
    comparison_operator: str
    value: Any = ""


class SubConditions(msgspec.Struct, kw_only=True):
    """Conditions on files, joined by `and` or `or`."""

    logical_operator: str = "and"
    conditions: list[SubCondition] = []


class Condition(msgspec.Struct, kw_only=True):
    """A condition on a variable."""

    variable_selector: list[str] = []
    comparison_operator: str
    value: Any = None
    sub_variable_condition: SubConditions | None = None


def evaluate_group(
    conditions: Sequence[Condition], operator: str, pool: VariablePool
) -> tuple[bool, list[dict[str, Any]]]:
    """Evaluate a group of conditions until the result is certain. Returns the result
    and the comparisons."""
    comparisons: list[dict[str, Any]] = []
    for condition in conditions:
        result = evaluate(condition, pool, comparisons)
        # `and` ends at the first false condition, `or` at the first true one.
        if result != (operator != "or"):
            return result, comparisons
    # An empty group is false, as in Dify.
    return operator != "or" if conditions else False, comparisons


def evaluate(
    condition: Condition,
    pool: VariablePool,
    comparisons: list[dict[str, Any]] | None = None,
) -> bool:
    """Evaluate one condition on a variable of the pool.

    The comparison that was made is appended to `comparisons`, for the log. Raises
    ConditionError if the variable is missing, the operator is unknown, or it does not
    support the value's type.
    """
    actual = pool.get(condition.variable_selector)
    if actual is MISSING:
        raise ConditionError(f"Variable {list(condition.variable_selector)} not found")
    operator = condition.comparison_operator
    # A list of files is compared by the files' attributes.
    if (group := condition.sub_variable_condition) is not None and _is_files(actual):
        return _evaluate_file_group(group, operator, actual, pool)
    expected = _expected(condition.value, actual, pool)
    if comparisons is not None:
        comparisons.append(
            {
                "actual_value": _log_value(actual),
                "expected_value": expected,
                "comparison_operator": operator,
            }
        )
    return compare(operator, actual, expected)


def _log_value(value: Any) -> Any:
    """Return a value for the log."""
    return value.to_object() if isinstance(value, File) else value


def _expected(value: Any, actual: Any, pool: VariablePool) -> Any:
    """Return the expected value: templates rendered, and converted to a boolean if the
    actual value is one."""
    if isinstance(value, str):
        value = render(value, pool)
    is_bool = isinstance(actual, bool) or (
        is_array(actual)
        and bool(actual)
        and all(isinstance(element, bool) for element in actual)
    )
    if not is_bool or value is None:
        return value
    if isinstance(value, str):
        # Forms send booleans as text.
        try:
            value = json.loads(value.lower())
        except ValueError as error:
            raise ConditionError(f"{value!r} is not a boolean") from error
    return [bool(element) for element in value] if is_array(value) else bool(value)


def _is_files(value: Any) -> bool:
    """Return whether a value is a list of files, with at least one."""
    return (
        is_array(value)
        and bool(value)
        and all(isinstance(element, File) for element in value)
    )


def _evaluate_file_group(
    group: SubConditions, operator: str, files: Sequence[File], pool: VariablePool
) -> bool:
    """Return whether a list of files meets conditions on the files' attributes.

    The conditions are joined by `and` unless the group says `or`. Raises ConditionError
    for an operator other than `contains`, `not contains` and `all of`.
    """
    if operator not in ("contains", "not contains", "all of"):
        raise ConditionError(
            f"Operator {operator!r} is not supported for files; expected contains, not"
            " contains or all of"
        )
    results = [
        _evaluate_files(sub_condition, files, pool)
        for sub_condition in group.conditions
    ]
    return all(results) if group.logical_operator != "or" else any(results)


def _evaluate_files(
    condition: SubCondition, files: Sequence[File], pool: VariablePool
) -> bool:
    """Evaluate one condition on a list of files."""
    expected = (
        render(condition.value, pool)
        if isinstance(condition.value, str)
        else condition.value
    )
    # Extensions may be written with or without a dot.
    if condition.key == "extension":
        expected = _with_dot(expected)

    def file_matches(file: File) -> bool:
        """Return whether one file meets the condition."""
        actual = file.attribute(condition.key)
        if actual is MISSING:
            raise ConditionError(f"Files have no attribute {condition.key!r}")
        if condition.key == "extension":
            actual = _with_dot(actual)
        return compare(condition.comparison_operator, actual, expected)

    results = [file_matches(file) for file in files]
    # Negated operators must be true for all files, the others for at least one.
    return all(results) if "not" in condition.comparison_operator else any(results)


def _with_dot(value: Any) -> Any:
    """Return a file extension, or a list of them, each with a leading dot.

    Empty texts and other values are returned unchanged.
    """
    if is_array(value):
        return [_with_dot(extension) for extension in value]
    return (
        value
        if not isinstance(value, str) or not value or value.startswith(".")
        else f".{value}"
    )


# ----------------------------------------------------------------------------------------------
# Operators


def compare(operator: str, actual: Any, expected: Any) -> bool:
    """Compare two values by an operator, one of OPERATORS.

    Raises ConditionError for an unknown operator, or one that does not support the
    value. A missing value gives False for most operators.
    """
    compared = _BY_OPERATOR.get(operator)
    if compared is None:
        raise ConditionError(
            f"Unknown comparison_operator {operator!r}; expected one of"
            f" {', '.join(OPERATORS)}"
        )
    return compared(actual, expected)


def _contains(actual: Any, expected: Any) -> bool:
    """Return whether a text contains a text, or a list an element.

    An empty value contains nothing. Raises ConditionError for any other value.
    """
    if not actual:
        return False
    if isinstance(actual, str):
        return str(expected) in actual
    if isinstance(actual, list):
        return expected in actual
    raise ConditionError("Invalid actual value type: string or array")


def _starts_with(actual: Any, expected: Any) -> bool:
    """Return whether a text starts with another."""
    return bool(actual) and _require_text(actual).startswith(str(expected))


def _ends_with(actual: Any, expected: Any) -> bool:
    """Return whether a text ends with another."""
    return bool(actual) and _require_text(actual).endswith(str(expected))


def _require_text(actual: Any) -> str:
    """Return the value. Raises ConditionError if it is not a text."""
    if not isinstance(actual, str):
        raise ConditionError("Invalid actual value type: string")
    return actual


def _is(actual: Any, expected: Any) -> bool:
    """Return whether a text or a boolean equals the expected value.

    A missing value equals nothing. Raises ConditionError for another type.
    """
    if actual is None:
        return False
    if not isinstance(actual, str | bool):
        raise ConditionError("Invalid actual value type: string or boolean")
    return actual == expected


def _is_not(actual: Any, expected: Any) -> bool:
    """Return whether a value differs from another."""
    # False for nothing, as in Dify: branches of imported apps rely on it.
    return actual is not None and not _is(actual, expected)


def _equal(actual: Any, expected: Any) -> bool | None:
    """Compare two numbers or booleans; None if there is no actual value."""
    if actual is None:
        return None
    try:
        # bool comes first, since it is a subclass of int.
        if isinstance(actual, bool):
            return actual == bool(expected)
        if isinstance(actual, int):
            return actual == _number(expected)
        if isinstance(actual, float):
            return actual == float(expected)
    except (TypeError, ValueError) as error:
        raise ConditionError(
            f"{expected!r} is not a number, so it cannot be compared"
        ) from error
    raise ConditionError("Invalid actual value type: number or boolean")


def _number(value: Any) -> int | float:
    """Return a number that may be written as text. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        return value if isinstance(value, int | float) else int(value)
    try:
        return int(value)
    except ValueError:
        return float(value)


def _number_comparison(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return an operator that compares numbers. A missing value never matches."""

    def compared(actual: Any, expected: Any) -> bool:
        """Compare two numbers. Raises ConditionError if either is not a number."""
        if actual is None:
            return False
        if isinstance(actual, bool) or not isinstance(actual, int | float):
            raise ConditionError("Invalid actual value type: number")
        try:
            return test(actual, float(expected))
        except (TypeError, ValueError) as error:
            raise ConditionError(
                f"{expected!r} is not a number, so it cannot be compared"
            ) from error

    return compared


def _in(actual: Any, expected: Any) -> bool:
    """Return whether a value is in a list."""
    if not actual:
        return False
    return actual in _require_list(expected)


def _not_in(actual: Any, expected: Any) -> bool:
    """Return whether a value is not in a list."""
    if not actual:
        return True
    return actual not in _require_list(expected)


def _require_list(expected: Any) -> Sequence[Any]:
    """Return the list. Raises ConditionError if the value is none."""
    if not is_array(expected):
        raise ConditionError("Invalid expected value type: array")
    return expected


def _all_of(actual: Any, expected: Any) -> bool:
    """Return whether a list contains all expected elements.

    An empty value contains none. Raises ConditionError if either is not a list.
    """
    if not actual:
        return False
    if not isinstance(actual, list):
        raise ConditionError("Invalid actual value type: array")
    return all(element in actual for element in _require_list(expected))


_BY_OPERATOR: Mapping[str, Callable[[Any, Any], bool]] = {
    "contains": _contains,
    "not contains": lambda actual, expected: not _contains(actual, expected),
    "start with": _starts_with,
    "end with": _ends_with,
    "is": _is,
    "is not": _is_not,
    "empty": lambda actual, expected: not actual,
    "not empty": lambda actual, expected: bool(actual),
    "in": _in,
    "not in": _not_in,
    "all of": _all_of,
    "=": lambda actual, expected: _equal(actual, expected) is True,
    "≠": lambda actual, expected: _equal(actual, expected) is False,
    ">": _number_comparison(lambda actual, expected: actual > expected),
    "<": _number_comparison(lambda actual, expected: actual < expected),
    "≥": _number_comparison(lambda actual, expected: actual >= expected),
    "≤": _number_comparison(lambda actual, expected: actual <= expected),
    "null": lambda actual, expected: actual is None,
    "not null": lambda actual, expected: actual is not None,
    "exists": lambda actual, expected: actual is not None,
    "not exists": lambda actual, expected: actual is None,
}
