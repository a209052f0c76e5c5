"""List operator node: filters a list, extracts one element, sorts and limits it, in
this order."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array
from modelyard.workflow.conditions import ConditionError, compare
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    SyncNode,
)
from modelyard.workflow.template import render
from modelyard.workflow.variables import MISSING, File, VariablePool, type_of

_TEXT_ATTRIBUTES = ("name", "extension", "mime_type", "url", "related_id")


class FilterCondition(msgspec.Struct, kw_only=True):
    """A condition on each element; `key` names the attribute of a file."""

    key: str = ""
    comparison_operator: str = "contains"
    value: Any = ""


class FilterBy(msgspec.Struct, kw_only=True):
    """Conditions that every element of the result meets."""

    enabled: bool = False
    conditions: list[FilterCondition] = []


class OrderBy(msgspec.Struct, kw_only=True):
    """Sort order: `asc` or `desc`; `key` names the attribute of a file."""

    enabled: bool = False
    key: str = ""
    value: str = "asc"


class Limit(msgspec.Struct, kw_only=True):
    """Maximum length of the result; a negative size means no limit."""

    enabled: bool = False
    size: int = -1


class ExtractBy(msgspec.Struct, kw_only=True):
    """Extracts one element by its number, from 1. `serial` may contain selectors."""

    enabled: bool = False
    serial: str | int = "1"


class ListOperatorData(NodeData, kw_only=True):
    """Data of a list operator node in a DSL file."""

    variable: list[str] = []
    filter_by: FilterBy = msgspec.field(default_factory=FilterBy)
    extract_by: ExtractBy = msgspec.field(default_factory=ExtractBy)
    order_by: OrderBy = msgspec.field(default_factory=OrderBy)
    limit: Limit = msgspec.field(default_factory=Limit)


class ListOperatorNode(SyncNode):
    """Filters, extracts, sorts and limits a list."""

    type = "list-operator"
    Data = ListOperatorData

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the resulting list with its first and last element. Raises NodeError."""
        data = self.data
        values = context.pool.get(data.variable)
        if values is MISSING:
            raise NodeError(
                f"Variable not found for selector: {list(data.variable)}",
                error_type="InvalidKeyError",
            )
        inputs = {"variable": values}
        if values is None or values == []:
            return NodeResult(
                inputs=inputs,
                outputs={"result": [], "first_record": None, "last_record": None},
            )
        # Only elements of these types can be compared.
        if not is_array(values) or type_of(values) not in _LIST_TYPES:
            raise NodeError(
                f"Variable {list(data.variable)} is {type_of(values)}; it must be"
                f" {', '.join(_LIST_TYPES)}",
                error_type="InvalidFilterValueError",
                inputs=inputs,
            )
        try:
            result = _apply_operations(data, values, context.pool)
        except ConditionError as error:
            raise NodeError(
                str(error), error_type="InvalidConditionError", inputs=inputs
            ) from error
        # First and last element are outputs of their own.
        ends = {
            "first_record": result[0] if result else None,
            "last_record": result[-1] if result else None,
        }
        return NodeResult(
            inputs=inputs,
            outputs={"result": result, **ends},
            process_data={"variable": values},
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selector of the list."""
        return [tuple(self.data.variable)] if self.data.variable else []


_LIST_TYPES = (
    "array[string]",
    "array[number]",
    "array[boolean]",
    "array[file]",
    "array[any]",
)


def _apply_operations(
    data: ListOperatorData, values: list[Any], pool: VariablePool
) -> list[Any]:
    """Apply the enabled operations in order. Raises NodeError or ConditionError."""
    result = list(values)
    if data.filter_by.enabled:
        for condition in data.filter_by.conditions:
            # Values are rendered and converted once per condition, not once per
            # element.
            test = _filter(condition, result, pool)
            result = [element for element in result if test(element)]
    if data.extract_by.enabled:
        result = _extract(data.extract_by, result, pool)
    if data.order_by.enabled:
        result = _sort(data.order_by, result)
    if data.limit.enabled and data.limit.size >= 0:
        result = result[: data.limit.size]
    return result


def _extract(extract: ExtractBy, values: list[Any], pool: VariablePool) -> list[Any]:
    """Return the element with the configured number as a list. Raises NodeError."""
    # The number may come from a variable.
    text = render(str(extract.serial), pool)
    try:
        nth = int(text)
    except ValueError:
        raise NodeError(
            f"Invalid list position {text[:60]!r}; expected a number",
            error_type="ValueError",
        ) from None
    # Numbers count from 1, as in the editor.
    if nth < 1:
        raise NodeError(
            f"Invalid serial index: must be >= 1, got {nth}", error_type="ValueError"
        )
    if nth > len(values):
        raise NodeError(
            f"Invalid serial index: must be <= {len(values)}, got {nth}",
            error_type="InvalidKeyError",
        )
    return [values[nth - 1]]


def _sort(order: OrderBy, values: list[Any]) -> list[Any]:
    """Return the values in order. Raises NodeError if they cannot be compared."""

    def key(value: Any) -> Any:
        """Return the sort key: an attribute of a file, or the value itself."""
        return (
            _attribute(value, order.key or "name") if isinstance(value, File) else value
        )

    try:
        return sorted(values, key=key, reverse=order.value == "desc")
    except TypeError as error:
        raise NodeError(
            f"The list cannot be sorted: {error}", error_type="InvalidConditionError"
        ) from error


def _attribute(file: File, name: str) -> Any:
    """Return an attribute of a file. Raises NodeError if there is none with this name."""
    attribute = file.attribute(name)
    if attribute is MISSING:
        raise NodeError(
            f"Invalid key: files have no attribute {name!r}",
            error_type="InvalidKeyError",
        )
    return attribute


def _filter(
    condition: FilterCondition, values: Sequence[Any], pool: VariablePool
) -> Callable[[Any], bool]:
    """Return a test for elements; the first element that is not None determines the
    type."""
    operator, expected = condition.comparison_operator, condition.value
    # A value may contain selectors.
    if isinstance(expected, str):
        expected = render(expected, pool)
    first = next((element for element in values if element is not None), None)
    if isinstance(first, File):
        return _file_filter(condition.key or "name", operator, expected)
    # Booleans first: in Python they are integers too.
    if isinstance(first, bool):
        expected_flag = (
            expected
            if isinstance(expected, bool)
            else str(expected).lower() in ("true", "1")
        )
        return lambda value: compare(operator, value, expected_flag)
    if isinstance(first, int | float):
        expected_number = _number(expected)
        return lambda value: compare(operator, float(value), expected_number)
    return lambda value: _compare_text(operator, value, expected)


def _file_filter(key: str, operator: str, expected: Any) -> Callable[[Any], bool]:
    """Return a test for files. Raises NodeError for an unknown attribute."""
    # Each attribute type has its own comparison.
    if key == "size":
        expected_size = _number(expected)
        return lambda file: compare(operator, float(file.size), expected_size)
    if key in ("type", "transfer_method"):
        options = expected if is_array(expected) else [expected]
        return lambda file: (
            (_attribute(file, key) in options) == (operator in ("in", "is", "contains"))
        )
    if key in _TEXT_ATTRIBUTES:
        return lambda file: _compare_text(operator, _attribute(file, key), expected)
    raise NodeError(
        f"Invalid key: files have no attribute {key!r}", error_type="InvalidKeyError"
    )


def _compare_text(operator: str, value: Any, expected: Any) -> bool:
    """Compare texts; `in` and `not in` also accept a list."""
    if operator == "in":
        return value in expected
    if operator == "not in":
        return value not in expected
    if operator in ("is", "is not", "=", "≠"):
        return (value == expected) == (operator in ("is", "="))
    return compare(operator, value, expected)


def _number(expected: Any) -> float:
    """Return the expected value as a number. Raises NodeError."""
    try:
        return float(expected)
    except (TypeError, ValueError):
        raise NodeError(
            f"{expected!r} is not a number, so it cannot be compared",
            error_type="InvalidFilterValueError",
        ) from None


NODES = {"list-operator": ListOperatorNode}
