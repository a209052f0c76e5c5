"""list-operator: filter, take the nth, order, limit; in that order."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.workflow.conditions import ConditionError, compare
from modelyard.workflow.node import NodeContext, NodeData, NodeError, NodeResult, QuickNode
from modelyard.workflow.template import render
from modelyard.workflow.variables import MISSING, File, VariablePool, type_of

_TEXTS = ("name", "extension", "mime_type", "url", "related_id")


class FilterCondition(msgspec.Struct, kw_only=True):
    key: str = ""
    comparison_operator: str = "contains"
    value: Any = ""


class FilterBy(msgspec.Struct, kw_only=True):
    enabled: bool = False
    conditions: list[FilterCondition] = []


class OrderBy(msgspec.Struct, kw_only=True):
    enabled: bool = False
    key: str = ""
    value: str = "asc"


class Limit(msgspec.Struct, kw_only=True):
    enabled: bool = False
    size: int = -1


class ExtractBy(msgspec.Struct, kw_only=True):
    enabled: bool = False
    serial: str | int = "1"


class ListOperatorData(NodeData, kw_only=True):
    variable: list[str] = []
    filter_by: FilterBy = msgspec.field(default_factory=FilterBy)
    extract_by: ExtractBy = msgspec.field(default_factory=ExtractBy)
    order_by: OrderBy = msgspec.field(default_factory=OrderBy)
    limit: Limit = msgspec.field(default_factory=Limit)


class ListOperatorNode(QuickNode):
    type = "list-operator"
    Data = ListOperatorData

    def compute(self, context: NodeContext) -> NodeResult:
        data = self.data
        values = context.pool.get(data.variable)
        if values is MISSING:
            raise NodeError(f"Variable not found for selector: {list(data.variable)}", kind="InvalidKeyError")
        inputs = {"variable": values}
        if values is None or values == []:
            return NodeResult(inputs=inputs, outputs={"result": [], "first_record": None, "last_record": None})
        if not isinstance(values, list) or type_of(values) not in _KINDS:
            raise NodeError(
                f"Variable {list(data.variable)} is {type_of(values)}; it must be {', '.join(_KINDS)}",
                kind="InvalidFilterValueError", inputs=inputs,
            )  # fmt: skip
        try:
            result = _operated(data, values, context.pool)
        except ConditionError as error:
            raise NodeError(str(error), kind="InvalidConditionError", inputs=inputs) from error
        ends = {"first_record": result[0] if result else None, "last_record": result[-1] if result else None}
        return NodeResult(inputs=inputs, outputs={"result": result, **ends}, process_data={"variable": values})

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(self.data.variable)] if self.data.variable else []


_KINDS = ("array[string]", "array[number]", "array[boolean]", "array[file]", "array[any]")


def _operated(data: ListOperatorData, values: list[Any], pool: VariablePool) -> list[Any]:
    result = list(values)
    if data.filter_by.enabled:
        for condition in data.filter_by.conditions:
            test = _filter(condition, result, pool)
            result = [one for one in result if test(one)]
    if data.extract_by.enabled:
        result = _extracted(data.extract_by, result, pool)
    if data.order_by.enabled:
        result = _ordered(data.order_by, result)
    if data.limit.enabled and data.limit.size >= 0:
        result = result[: data.limit.size]
    return result


def _extracted(extract: ExtractBy, values: list[Any], pool: VariablePool) -> list[Any]:
    text = render(str(extract.serial), pool)
    try:
        nth = int(text)
    except ValueError:
        raise NodeError(f"{text!r} is no number to take from a list", kind="ValueError") from None
    if nth < 1:
        raise NodeError(f"Invalid serial index: must be >= 1, got {nth}", kind="ValueError")
    if nth > len(values):
        raise NodeError(f"Invalid serial index: must be <= {len(values)}, got {nth}", kind="InvalidKeyError")
    return [values[nth - 1]]


def _ordered(order: OrderBy, values: list[Any]) -> list[Any]:
    def key(value: Any) -> Any:
        return _attribute(value, order.key or "name") if isinstance(value, File) else value

    try:
        return sorted(values, key=key, reverse=order.value == "desc")
    except TypeError as error:
        raise NodeError(f"the list cannot be ordered: {error}", kind="InvalidConditionError") from error


def _attribute(file: File, name: str) -> Any:
    found = file.attribute(name)
    if found is MISSING:
        raise NodeError(f"Invalid key: files have no {name!r}", kind="InvalidKeyError")
    return found


def _filter(condition: FilterCondition, values: Sequence[Any], pool: VariablePool) -> Callable[[Any], bool]:
    operator, expected = condition.comparison_operator, condition.value
    if isinstance(expected, str):
        expected = render(expected, pool)
    first = next((one for one in values if one is not None), None)
    if isinstance(first, File):
        return _file_filter(condition.key or "name", operator, expected)
    if isinstance(first, bool):
        wanted = expected if isinstance(expected, bool) else str(expected).lower() in ("true", "1")
        return lambda value: compare(operator, value, wanted)
    if isinstance(first, int | float):
        wanted_number = _number(expected)
        return lambda value: compare(operator, float(value), wanted_number)
    return lambda value: _compare_text(operator, value, expected)


def _file_filter(key: str, operator: str, expected: Any) -> Callable[[Any], bool]:
    if key == "size":
        wanted = _number(expected)
        return lambda file: compare(operator, float(file.size), wanted)
    if key in ("type", "transfer_method"):
        options = expected if isinstance(expected, list) else [expected]
        return lambda file: (_attribute(file, key) in options) == (operator in ("in", "is", "contains"))
    if key in _TEXTS:
        return lambda file: _compare_text(operator, _attribute(file, key), expected)
    raise NodeError(f"Invalid key: files have no {key!r}", kind="InvalidKeyError")


def _compare_text(operator: str, value: Any, expected: Any) -> bool:
    if operator == "in":
        return value in expected
    if operator == "not in":
        return value not in expected
    if operator in ("is", "is not", "=", "≠"):
        return (value == expected) == (operator in ("is", "="))
    return compare(operator, value, expected)


def _number(expected: Any) -> float:
    try:
        return float(expected)
    except (TypeError, ValueError):
        raise NodeError(f"{expected!r} is no number to compare with", kind="InvalidFilterValueError") from None


NODES = {"list-operator": ListOperatorNode}
