"""Conditions and list operations as the app format describes them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.show.app_files.values import (
    MISSING,
    Pool,
    is_file,
    look_up,
    render,
    text_of,
)


class NodeFailure(Exception):
    """A node fails, as the file or the run makes it."""

    def __init__(self, message: str, error_type: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type


def holds(conditions: Sequence[Mapping[str, Any]], operator: str, pool: Pool) -> bool:
    """Return whether a group of conditions is true; an empty one is not."""
    is_all = operator != "or"
    for condition in conditions:
        if _holds_one(condition, pool) != is_all:
            return not is_all
    return is_all and bool(conditions)


def _holds_one(condition: Mapping[str, Any], pool: Pool) -> bool:
    """Return whether one condition is true. Raises NodeFailure for a missing variable."""
    actual = look_up(pool, condition.get("variable_selector"))
    if actual is MISSING:
        raise NodeFailure(f"Variable {condition.get('variable_selector')} not found")
    operator = str(condition["comparison_operator"])
    group: Any = condition.get("sub_variable_condition")
    if group and isinstance(actual, list) and all(map(is_file, actual)):
        return _files_hold(group, operator, actual)
    expected = condition.get("value")
    if isinstance(expected, str):
        expected = render(expected, pool)
    return compare(operator, actual, _as_type_of(actual, expected))


def _as_type_of(actual: Any, expected: Any) -> Any:
    """Return the expected value as a boolean if the actual one is one."""
    first = actual[0] if isinstance(actual, list) and actual else actual
    if isinstance(first, bool) and isinstance(expected, str):
        return bool(json.loads(expected.lower()))
    return expected


def compare(operator: str, actual: Any, expected: Any) -> bool:
    """Return the result of a comparison operator of the format."""
    if operator in _EMPTINESS:
        return _EMPTINESS[operator](actual)
    if operator in _ORDER:
        if actual is None:
            return False
        return _ORDER[operator](actual, float(expected))
    # These are false for a missing value, and their negations true.
    is_negated = operator.startswith("not ") or operator in ("is not", "≠")
    if not actual and operator in _CONTAINMENT:
        return is_negated
    if actual is None:
        return False
    return _MATCH[operator](actual, expected) != is_negated


_EMPTINESS: Mapping[str, Callable[[Any], bool]] = {
    "empty": lambda actual: not actual,
    "not empty": bool,
    "null": lambda actual: actual is None,
    "not null": lambda actual: actual is not None,
    "exists": lambda actual: actual is not None,
    "not exists": lambda actual: actual is None,
}
_ORDER: Mapping[str, Callable[[Any, float], bool]] = {
    ">": lambda actual, expected: actual > expected,
    "<": lambda actual, expected: actual < expected,
    "≥": lambda actual, expected: actual >= expected,
    "≤": lambda actual, expected: actual <= expected,
}
_CONTAINMENT = frozenset(
    {"contains", "not contains", "in", "not in", "start with", "end with"}
)


def _is_equal(actual: Any, expected: Any) -> bool:
    """Return whether a number equals the expected one; text compares as text."""
    if isinstance(actual, int | float) and not isinstance(actual, bool):
        return float(actual) == float(expected)
    return actual == expected


def _contains(actual: Any, expected: Any) -> bool:
    """Return whether a text or a list contains a value."""
    return (
        text_of(expected) in actual if isinstance(actual, str) else expected in actual
    )


_MATCH: Mapping[str, Callable[[Any, Any], bool]] = {
    "contains": _contains,
    "not contains": _contains,
    "start with": lambda actual, expected: actual.startswith(expected),
    "end with": lambda actual, expected: actual.endswith(expected),
    "is": _is_equal,
    "is not": _is_equal,
    "=": _is_equal,
    "≠": _is_equal,
    "in": lambda actual, expected: actual in expected,
    "not in": lambda actual, expected: actual in expected,
    "all of": lambda actual, expected: all(value in actual for value in expected),
}


def _files_hold(group: Mapping[str, Any], operator: str, files: Sequence[Any]) -> bool:
    """Return whether the files of a list fulfil conditions on their attributes."""
    is_all = str(group.get("logical_operator") or "and") != "or"
    results: list[bool] = []
    for condition in group["conditions"]:
        test = file_test(condition)
        matches = [test(file) for file in files]
        results.append(all(matches) if "not" in operator else any(matches))
    return all(results) if is_all else any(results)


def file_test(condition: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return a test of a file's attribute."""
    key = str(condition.get("key") or "name")
    operator, expected = str(condition["comparison_operator"]), condition.get("value")
    name = "filename" if key == "name" else key
    if key == "size":
        return lambda file: compare(operator, file[name], expected)
    if isinstance(expected, list) and operator in ("is", "contains"):
        operator = "in"
    return lambda file: compare(operator, file[name], expected)


def list_result(data: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the list of a list operator: filtered, then its nth element, then sorted,
    then cut. Raises NodeFailure."""
    values = look_up(pool, data.get("variable"))
    if values is MISSING:
        raise NodeFailure(f"Variable not found for selector: {data.get('variable')}")
    result = list(values or ())
    for name, operation in _LIST_OPERATIONS:
        settings: Any = data.get(name) or {}
        if settings.get("enabled"):
            result = operation(result, settings, pool)
    return result


def _filter(values: list[Any], settings: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the elements that fulfil all conditions."""
    for condition in settings.get("conditions") or ():
        values = _filtered(values, condition, pool)
    return values


def _extract(values: list[Any], settings: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the nth element, counted from 1. Raises NodeFailure if there is none."""
    nth = int(render(str(settings.get("serial") or "1"), pool))
    if values and not 1 <= nth <= len(values):
        raise NodeFailure(f"Invalid serial index: {nth}")
    return values[nth - 1 : nth]


def _order(values: list[Any], settings: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the elements in order, files by an attribute."""
    name = str(settings.get("key") or "name")
    key = "filename" if name == "name" else name
    return sorted(
        values,
        key=lambda value: value[key] if is_file(value) else value,
        reverse=settings.get("value") == "desc",
    )


def _limit(values: list[Any], settings: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the first elements."""
    size = int(settings.get("size") or 0)
    return values[:size] if size >= 0 else values


def _filtered(values: list[Any], condition: Mapping[str, Any], pool: Pool) -> list[Any]:
    """Return the elements that fulfil a condition."""
    expected = condition.get("value")
    if isinstance(expected, str):
        expected = render(expected, pool)
    if values and is_file(values[0]):
        test = file_test({**condition, "value": expected})
        return [value for value in values if test(value)]
    operator = str(condition["comparison_operator"])
    if values and isinstance(values[0], bool):
        expected = str(expected).lower() in ("true", "1")
    return [value for value in values if compare(operator, value, expected)]


_LIST_OPERATIONS = (
    ("filter_by", _filter),
    ("extract_by", _extract),
    ("order_by", _order),
    ("limit", _limit),
)
"""The operations of a list operator in their order."""
