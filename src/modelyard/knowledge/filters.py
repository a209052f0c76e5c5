"""Conditions on documents' metadata: all operators of Dify, each with one defined
meaning. Pure functions."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import limited_list
from modelyard.base.json_types import JsonValue
from modelyard.knowledge.entities import MAX_CONDITIONS, Condition, Conditions

BUILT_IN = {
    "document_name": "string",
    "uploader": "string",
    "upload_date": "time",
    "last_update_date": "time",
    "source": "string",
}

Operator = Callable[[Any, Any], bool]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _number(value: Any) -> float | None:
    """Return a value as a number; None if it is not one.

    Numeric strings count as numbers; booleans do not.
    """
    # bool is a subclass of int, but True is not the number 1 here.
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def is_numeric(text: str) -> bool:
    """Return whether a text counts as a number in conditions."""
    return _number(text) is not None


def to_timestamp(value: Any) -> float | None:
    """Return the Unix time in seconds of a number or an ISO date; None if it is
    neither."""
    number = _number(value)
    if number is not None:
        return number
    if not isinstance(value, str):
        return None
    try:
        parsed_time = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    # A time without zone is UTC.
    return (
        parsed_time if parsed_time.tzinfo else parsed_time.replace(tzinfo=UTC)
    ).timestamp()


def _to_list(value: JsonValue | tuple[Any, ...]) -> list[str]:
    """Return a list value as strings; any other value is split at commas."""
    if isinstance(value, list | tuple):
        return [_text(element) for element in value]
    return [element.strip() for element in _text(value).split(",")]


def _comparison(
    compare: Callable[[float, float], bool], read: Callable[[Any], float | None]
) -> Operator:
    """Return an operator that compares two values after `read` has converted them."""

    def test(actual: Any, expected: Any) -> bool:
        """Compare the metadata value with the expected one; False if either cannot be
        converted."""
        mine, expected_value = read(actual), read(expected)
        return (
            mine is not None
            and expected_value is not None
            and compare(mine, expected_value)
        )

    return test


def _is_empty(actual: Any) -> bool:
    return actual is None or actual in ("", [])


OPERATORS: Mapping[str, Operator] = {
    "contains": lambda actual, expected: _text(expected) in _text(actual),
    "not contains": lambda actual, expected: _text(expected) not in _text(actual),
    "start with": lambda actual, expected: _text(actual).startswith(_text(expected)),
    "end with": lambda actual, expected: _text(actual).endswith(_text(expected)),
    "is": lambda actual, expected: _text(actual) == _text(expected),
    "is not": lambda actual, expected: _text(actual) != _text(expected),
    "in": lambda actual, expected: _text(actual) in _to_list(expected),
    "not in": lambda actual, expected: _text(actual) not in _to_list(expected),
    "empty": lambda actual, expected: _is_empty(actual),
    "not empty": lambda actual, expected: not _is_empty(actual),
    "=": _comparison(lambda mine, expected: mine == expected, _number),
    "≠": _comparison(lambda mine, expected: mine != expected, _number),
    ">": _comparison(lambda mine, expected: mine > expected, _number),
    "<": _comparison(lambda mine, expected: mine < expected, _number),
    "≥": _comparison(lambda mine, expected: mine >= expected, _number),
    "≤": _comparison(lambda mine, expected: mine <= expected, _number),
    "before": _comparison(lambda mine, expected: mine < expected, to_timestamp),
    "after": _comparison(lambda mine, expected: mine > expected, to_timestamp),
}

# Alternative spellings from other clients.
_OPERATOR_ALIASES = {"!=": "≠", ">=": "≥", "<=": "≤", "==": "="}


def check(conditions: Conditions) -> None:
    """Raise InvokeBadRequestError for conditions that cannot be evaluated.

    That is so if an operator is unknown, or if there are too many conditions. The
    values of the conditions are not examined.
    """
    limited_list(conditions.conditions, MAX_CONDITIONS, "metadata_filtering_conditions")
    for condition in conditions.conditions:
        if (
            _OPERATOR_ALIASES.get(
                condition.comparison_operator, condition.comparison_operator
            )
            not in OPERATORS
        ):
            raise InvokeBadRequestError(
                f"Unknown comparison_operator {condition.comparison_operator!r};"
                f" expected one of {', '.join(OPERATORS)}",
                param="metadata_filtering_conditions",
            )


def text_of(value: object) -> str:
    """Return the text that stands for a metadata value in comparisons; empty for
    None."""
    return _text(value)


def operator_of(condition: Condition) -> Operator:
    """Return the function that tests a metadata value against the condition's value.

    The condition must have passed `check`.
    """
    name = condition.comparison_operator
    return OPERATORS[_OPERATOR_ALIASES.get(name, name)]


def exact_texts(condition: Condition) -> list[str] | None:
    """Return the texts of the only values that meet the condition; None if the operator
    is not one of equality."""
    if condition.comparison_operator == "is":
        return [_text(condition.value)]
    if condition.comparison_operator == "in":
        return _to_list(condition.value)
    return None


def matches(metadata: Mapping[str, Any], conditions: Conditions) -> bool:
    """Return whether a document's metadata meets all conditions, or any of them,
    depending on the logical operator."""

    def meets(condition: Condition) -> bool:
        """Return whether the metadata meets one condition."""
        return operator_of(condition)(metadata.get(condition.name), condition.value)

    results = (meets(condition) for condition in conditions.conditions)
    return any(results) if conditions.logical_operator == "or" else all(results)
