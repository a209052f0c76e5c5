"""assigner: writes variables of the conversation or of a loop. Version 1 writes one, version 2 several, in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.workflow.node import NodeContext, NodeData, NodeError, NodeResult, QuickNode, Update
from modelyard.workflow.variables import ARRAYS, MISSING, PSEUDO, VariablePool, fits, to_object, type_of, zero_of

OPERATIONS = ("over-write", "clear", "set", "append", "extend", "+=", "-=", "*=", "/=", "remove-first", "remove-last")


class AssignerError(NodeError):
    pass


class Item(msgspec.Struct, kw_only=True):
    variable_selector: list[str] = []
    input_type: str = "variable"
    operation: str = "over-write"
    value: Any = None


class AssignerData(NodeData, kw_only=True):
    items: list[Item] = []
    assigned_variable_selector: list[str] = []
    write_mode: str = "over-write"
    input_variable_selector: list[str] = []


class AssignerNode(QuickNode):
    type = "assigner"
    Data = AssignerData

    @property
    def items(self) -> Sequence[Item]:
        data = self.data
        if data.items or not data.assigned_variable_selector:
            return data.items
        return [Item(
            variable_selector=data.assigned_variable_selector,
            operation=data.write_mode,
            value=data.input_variable_selector,
        )]  # fmt: skip

    def compute(self, context: NodeContext) -> NodeResult:
        updates: list[Update] = []
        pool = context.pool.apart()
        inputs: dict[str, Any] = {}
        for item in self.items:
            update = _assigned(item, pool)
            if update is None:
                continue
            inputs[".".join(item.variable_selector)] = update.value
            pool.put(update.selector[0], update.selector[1], update.value)
            updates.append(update)
        last = {tuple(one.selector): one for one in updates}
        shown = [
            {"name": one.selector[1], "selector": one.selector, "value_type": one.value_type,
             "new_value": to_object(one.value)}
            for one in last.values()
        ]  # fmt: skip
        return NodeResult(inputs=inputs, updates=list(last.values()), process_data={"updated_variables": shown})

    def references(self) -> Sequence[tuple[str, ...]]:
        return [
            tuple(str(part) for part in one.value)
            for one in self.items
            if one.input_type == "variable" and isinstance(one.value, list) and one.value
        ]

    def writes(self) -> Sequence[tuple[str, ...]]:
        return [tuple(one.variable_selector[:2]) for one in self.items if len(one.variable_selector) > 1]


def _assigned(item: Item, pool: VariablePool) -> Update | None:
    """The variable as it is then; None where there is nothing to write."""
    selector = item.variable_selector
    name = ".".join(selector)
    current = pool.get(selector)
    if current is MISSING:
        raise AssignerError(f"variable {name} not found", kind="VariableNotFoundError")
    if selector[0] in PSEUDO - {"conversation"}:
        raise AssignerError(f"variable {name} cannot be written", kind="InvalidInputValueError")
    declared = pool.declared.get((selector[0], selector[1])) or type_of(current)
    operate = _OPERATIONS.get(item.operation)
    if operate is None:
        raise AssignerError(
            f"operation {item.operation!r} is not known; there are {', '.join(OPERATIONS)}",
            kind="OperationNotSupportedError",
        )
    given = item.value
    if item.operation not in ("clear", "remove-first", "remove-last"):
        if item.input_type == "variable" and item.operation != "set":
            given = pool.get([str(part) for part in given or ()])
            if given is MISSING:
                raise AssignerError(
                    f"variable {'.'.join(str(part) for part in item.value or ())} not found",
                    kind="VariableNotFoundError",
                )
            if given is None:
                return None
        given = _parsed(given, declared)
    value = operate(current, given, declared, name)
    return Update(selector=[*selector[:2]], value=value, value_type=declared)


def _parsed(value: Any, declared: str) -> Any:
    """A constant as it was typed into a form."""
    if isinstance(value, str) and (declared == "object" or declared in ARRAYS):
        try:
            return decode_body(value)
        except BodyError:
            return value
    return value


def _wrong(name: str, operation: str, value: Any, declared: str) -> AssignerError:
    return AssignerError(
        f"{operation} of {name} ({declared}) does not take {type_of(value)} {str(value)[:80]!r}",
        kind="InvalidInputValueError",
    )


def _over_write(current: Any, given: Any, declared: str, name: str) -> Any:
    if not fits(given, declared):
        raise _wrong(name, "over-write", given, declared)
    return given


def _set(current: Any, given: Any, declared: str, name: str) -> Any:
    if declared in ("number", "integer", "float") and isinstance(given, str):
        try:
            given = float(given) if "." in given else int(given)
        except ValueError:
            raise _wrong(name, "set", given, declared) from None
    if not fits(given, declared):
        raise _wrong(name, "set", given, declared)
    return given


def _append(current: Any, given: Any, declared: str, name: str) -> Any:
    inner = declared.partition("[")[2].rstrip("]") or "any"
    if declared not in ARRAYS or not fits(given, inner):
        raise _wrong(name, "append", given, declared)
    return [*(current or []), given]


def _extend(current: Any, given: Any, declared: str, name: str) -> Any:
    if declared not in ARRAYS or not isinstance(given, list) or not fits(given, declared):
        raise _wrong(name, "extend", given, declared)
    return [*(current or []), *given]


def _arithmetic(operate: Callable[[Any, Any], Any], sign: str) -> Callable[[Any, Any, str, str], Any]:
    def operation(current: Any, given: Any, declared: str, name: str) -> Any:
        numbers = [one for one in (current, given) if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < 2:
            raise _wrong(name, sign, given, declared)
        if sign == "/=" and not given:
            raise _wrong(name, "division", given, declared)
        return operate(current, given)

    return operation


def _removed(place: slice) -> Callable[[Any, Any, str, str], Any]:
    def operation(current: Any, given: Any, declared: str, name: str) -> Any:
        if declared not in ARRAYS:
            raise _wrong(name, "removing", current, declared)
        return list(current or [])[place]

    return operation


_OPERATIONS: Mapping[str, Callable[[Any, Any, str, str], Any]] = {
    "over-write": _over_write,
    "clear": lambda current, given, declared, name: zero_of(declared),
    "set": _set,
    "append": _append,
    "extend": _extend,
    "+=": _arithmetic(lambda one, other: one + other, "+="),
    "-=": _arithmetic(lambda one, other: one - other, "-="),
    "*=": _arithmetic(lambda one, other: one * other, "*="),
    "/=": _arithmetic(lambda one, other: one / other, "/="),
    "remove-first": _removed(slice(1, None)),
    "remove-last": _removed(slice(None, -1)),
}

NODES = {"assigner": AssignerNode}
