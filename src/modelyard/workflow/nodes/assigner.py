"""Variable assigner: writes conversation or loop variables. Version 1 writes one,
version 2 several in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import is_array
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    SyncNode,
    Update,
)
from modelyard.workflow.variables import (
    ARRAYS,
    MISSING,
    NAMESPACES,
    VariablePool,
    default_for_type,
    matches_type,
    to_object,
    type_of,
)

OPERATIONS = (
    "over-write",
    "clear",
    "set",
    "append",
    "extend",
    "+=",
    "-=",
    "*=",
    "/=",
    "remove-first",
    "remove-last",
)
_OPERATIONS_WITHOUT_OPERAND = ("clear", "remove-first", "remove-last")


class AssignerError(NodeError):
    """An assignment is not possible. `error_type` is Dify's name of the error."""

    pass


class Assignment(msgspec.Struct, kw_only=True):
    """One assignment of version 2."""

    variable_selector: list[str] = []
    input_type: str = "variable"
    operation: str = "over-write"
    value: Any = None


class AssignerData(NodeData, kw_only=True):
    """Data of an assigner node in a DSL file: `items` for version 2, the other fields
    for version 1."""

    items: list[Assignment] = []
    assigned_variable_selector: list[str] = []
    write_mode: str = "over-write"
    input_variable_selector: list[str] = []


class AssignerNode(SyncNode):
    """Writes variables in the order of its items."""

    type = "assigner"
    Data = AssignerData

    @property
    def items(self) -> Sequence[Assignment]:
        """The assignments; those of version 1 in the form of version 2."""
        data = self.data
        if data.items or not data.assigned_variable_selector:
            return data.items
        first_version = Assignment(
            variable_selector=data.assigned_variable_selector,
            operation=data.write_mode,
            value=data.input_variable_selector,
        )
        return [first_version]

    def compute(self, context: NodeContext) -> NodeResult:
        """Return the updates of all assignments. Raises AssignerError, and then nothing
        is written."""
        updates: list[Update] = []
        # A copy of the pool: later assignments see earlier ones, but the run sees them
        # only if all succeed.
        pool = context.pool.isolated_copy()
        inputs: dict[str, Any] = {}
        # Each assignment sees the variables as the earlier ones left them.
        for item in self.items:
            update = _assign(item, pool)
            if update is None:
                continue
            inputs[".".join(item.variable_selector)] = update.value
            pool.put(update.selector[0], update.selector[1], update.value)
            updates.append(update)
        # A variable that is written several times is reported once, with its last
        # value.
        last = {tuple(update.selector): update for update in updates}
        update_views = [
            {
                "name": update.selector[1],
                "selector": update.selector,
                "value_type": update.value_type,
                "new_value": to_object(update.value),
            }
            for update in last.values()
        ]
        return NodeResult(
            inputs=inputs,
            updates=list(last.values()),
            process_data={"updated_variables": update_views},
        )

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors from which values are read."""
        return [
            tuple(str(part) for part in assignment.value)
            for assignment in self.items
            if assignment.input_type == "variable"
            and is_array(assignment.value)
            and assignment.value
        ]

    def writes(self) -> Sequence[tuple[str, ...]]:
        """Return the variables that are written."""
        return [
            tuple(assignment.variable_selector[:2])
            for assignment in self.items
            if len(assignment.variable_selector) > 1
        ]


def _assign(item: Assignment, pool: VariablePool) -> Update | None:
    """Return the update of one assignment; None if there is nothing to write. Raises
    AssignerError."""
    selector = item.variable_selector
    name = ".".join(selector)
    # Only existing variables can be written; an assigner never creates one.
    current = pool.get(selector)
    if current is MISSING:
        raise AssignerError(
            f"Variable {name} not found", error_type="VariableNotFoundError"
        )
    # Of the reserved namespaces only conversation variables may be written.
    if selector[0] in NAMESPACES - {"conversation"}:
        raise AssignerError(
            f"Variable {name} is read-only", error_type="InvalidInputValueError"
        )
    # Inferred from the current value if the variable has no declared type.
    declared = pool.declared.get((selector[0], selector[1])) or type_of(current)
    operate = _OPERATIONS.get(item.operation)
    if operate is None:
        raise AssignerError(
            f"Unknown operation {item.operation!r}; expected one of {', '.join(OPERATIONS)}",
            error_type="OperationNotSupportedError",
        )
    operand = item.value
    if item.operation not in _OPERATIONS_WITHOUT_OPERAND:
        # `set` takes its value as a constant, even if the input type says variable.
        if item.input_type == "variable" and item.operation != "set":
            operand = _source_value(item, pool)
            # A source that is None leaves the variable unchanged.
            if operand is None:
                return None
        operand = _parsed(operand, declared)
    value = operate(current, operand, declared, name)
    return Update(selector=[*selector[:2]], value=value, value_type=declared)


def _source_value(item: Assignment, pool: VariablePool) -> Any:
    """Return the value of the variable that the assignment reads. Raises
    AssignerError."""
    selector = [str(part) for part in item.value or ()]
    value = pool.get(selector)
    if value is MISSING:
        problem = f"Variable {'.'.join(selector)} not found"
        raise AssignerError(problem, error_type="VariableNotFoundError")
    return value


def _parsed(value: Any, declared: str) -> Any:
    """Parse a constant that was entered as text if the variable holds an object or an
    array."""
    if isinstance(value, str) and (declared == "object" or declared in ARRAYS):
        try:
            return decode_body(value)
        except BodyError:
            return value
    return value


def _invalid_operand(
    name: str, operation: str, value: Any, declared: str
) -> AssignerError:
    """Return the error of an operand that does not match the operation."""
    return AssignerError(
        f"{operation} of {name} ({declared}) does not accept {type_of(value)} {str(value)[:80]!r}",
        error_type="InvalidInputValueError",
    )


def _over_write(current: Any, operand: Any, declared: str, name: str) -> Any:
    """Replace the value by one of the declared type."""
    if not matches_type(operand, declared):
        raise _invalid_operand(name, "over-write", operand, declared)
    return operand


def _set(current: Any, operand: Any, declared: str, name: str) -> Any:
    """Set a constant; numbers may be entered as text."""
    if declared in ("number", "integer", "float") and isinstance(operand, str):
        try:
            operand = float(operand) if "." in operand else int(operand)
        except ValueError:
            raise _invalid_operand(name, "set", operand, declared) from None
    if not matches_type(operand, declared):
        raise _invalid_operand(name, "set", operand, declared)
    return operand


def _append(current: Any, operand: Any, declared: str, name: str) -> Any:
    """Append one element to an array."""
    # The element type is the part in brackets.
    inner = declared.partition("[")[2].rstrip("]") or "any"
    if declared not in ARRAYS or not matches_type(operand, inner):
        raise _invalid_operand(name, "append", operand, declared)
    return [*(current or []), operand]


def _extend(current: Any, operand: Any, declared: str, name: str) -> Any:
    """Append all elements of a list to an array."""
    if (
        declared not in ARRAYS
        or not isinstance(operand, list)
        or not matches_type(operand, declared)
    ):
        raise _invalid_operand(name, "extend", operand, declared)
    return [*(current or []), *operand]


def _arithmetic(
    operate: Callable[[Any, Any], Any], symbol: str
) -> Callable[[Any, Any, str, str], Any]:
    """Return an operation on two numbers. Booleans do not count as numbers."""

    def operation(current: Any, operand: Any, declared: str, name: str) -> Any:
        """Calculate the new value. Raises AssignerError for operands that are not
        numbers and for division by zero."""
        # Booleans are integers in Python but must not be added.
        numbers = [
            number
            for number in (current, operand)
            if isinstance(number, int | float) and not isinstance(number, bool)
        ]
        if len(numbers) < 2:
            raise _invalid_operand(name, symbol, operand, declared)
        if symbol == "/=" and not operand:
            raise _invalid_operand(name, "division", operand, declared)
        return operate(current, operand)

    return operation


def _keep_slice(kept_range: slice) -> Callable[[Any, Any, str, str], Any]:
    """Return an operation that keeps only a slice of an array."""

    def operation(current: Any, operand: Any, declared: str, name: str) -> Any:
        """Return the slice of the current array."""
        if declared not in ARRAYS:
            raise _invalid_operand(name, "removing", current, declared)
        return list(current or [])[kept_range]

    return operation


_OPERATIONS: Mapping[str, Callable[[Any, Any, str, str], Any]] = {
    "over-write": _over_write,
    "clear": lambda current, operand, declared, name: default_for_type(declared),
    "set": _set,
    "append": _append,
    "extend": _extend,
    "+=": _arithmetic(lambda left, right: left + right, "+="),
    "-=": _arithmetic(lambda left, right: left - right, "-="),
    "*=": _arithmetic(lambda left, right: left * right, "*="),
    "/=": _arithmetic(lambda left, right: left / right, "/="),
    "remove-first": _keep_slice(slice(1, None)),
    "remove-last": _keep_slice(slice(None, -1)),
}

NODES = {"assigner": AssignerNode}
