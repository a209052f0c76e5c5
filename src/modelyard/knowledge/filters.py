"""Conditions on documents' metadata: every operator of Dify's, with one meaning each. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import few
from modelyard.knowledge.entities import MOST_CONDITIONS, Condition, Conditions

BUILT_IN = {
    "document_name": "string", "uploader": "string", "upload_date": "time", "last_update_date": "time",
    "source": "string",
}  # fmt: skip

Test = Callable[[Any, Any], bool]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def moment(value: Any) -> float | None:
    """Seconds since 1970 of a number or a date as it is written."""
    number = _number(value)
    if number is not None:
        return number
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _listed(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [_text(one) for one in value]
    return [one.strip() for one in _text(value).split(",")]


def _compared(compare: Callable[[float, float], bool], read: Callable[[Any], float | None]) -> Test:
    def test(has: Any, wanted: Any) -> bool:
        mine, theirs = read(has), read(wanted)
        return mine is not None and theirs is not None and compare(mine, theirs)

    return test


def _is_empty(has: Any) -> bool:
    return has is None or has in ("", [])


TESTS: Mapping[str, Test] = {
    "contains": lambda has, wanted: _text(wanted) in _text(has),
    "not contains": lambda has, wanted: _text(wanted) not in _text(has),
    "start with": lambda has, wanted: _text(has).startswith(_text(wanted)),
    "end with": lambda has, wanted: _text(has).endswith(_text(wanted)),
    "is": lambda has, wanted: _text(has) == _text(wanted),
    "is not": lambda has, wanted: _text(has) != _text(wanted),
    "in": lambda has, wanted: _text(has) in _listed(wanted),
    "not in": lambda has, wanted: _text(has) not in _listed(wanted),
    "empty": lambda has, wanted: _is_empty(has),
    "not empty": lambda has, wanted: not _is_empty(has),
    "=": _compared(lambda mine, theirs: mine == theirs, _number),
    "≠": _compared(lambda mine, theirs: mine != theirs, _number),
    ">": _compared(lambda mine, theirs: mine > theirs, _number),
    "<": _compared(lambda mine, theirs: mine < theirs, _number),
    "≥": _compared(lambda mine, theirs: mine >= theirs, _number),
    "≤": _compared(lambda mine, theirs: mine <= theirs, _number),
    "before": _compared(lambda mine, theirs: mine < theirs, moment),
    "after": _compared(lambda mine, theirs: mine > theirs, moment),
}

_SAME = {"!=": "≠", ">=": "≥", "<=": "≤", "==": "="}


def check(conditions: Conditions) -> None:
    """Raises InvokeBadRequestError for an operator that there is not, and for too many conditions."""
    few(conditions.conditions, MOST_CONDITIONS, "metadata_filtering_conditions")
    for one in conditions.conditions:
        if _SAME.get(one.comparison_operator, one.comparison_operator) not in TESTS:
            raise InvokeBadRequestError(
                f"comparison_operator {one.comparison_operator!r} is none; there are {', '.join(TESTS)}",
                param="metadata_filtering_conditions",
            )


def fits(metadata: Mapping[str, Any], conditions: Conditions) -> bool:
    """Whether a document's metadata meets all of the conditions, or any of them, as they say."""

    def meets(one: Condition) -> bool:
        return TESTS[_SAME.get(one.comparison_operator, one.comparison_operator)](metadata.get(one.name), one.value)

    found = (meets(one) for one in conditions.conditions)
    return any(found) if conditions.logical_operator == "or" else all(found)
