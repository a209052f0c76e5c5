"""code: Python or JavaScript that other people wrote, run in the jail, its result held to what the node declares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult, VariableSelector
from modelyard.workflow.variables import File, to_object

MOST_STRING, MOST_STRINGS, MOST_OBJECTS, MOST_NUMBERS, MOST_DEPTH, MOST_DECIMALS = 400_000, 30, 30, 1000, 5, 20
_MOST_NUMBER = 2**63 - 1


class OutputError(NodeError):
    """What the code returned is not what the node declares."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="OutputValidationError")


class Declared(msgspec.Struct, kw_only=True):
    type: str = "string"
    children: "dict[str, Declared] | None" = None


class CodeData(NodeData, kw_only=True):
    variables: list[VariableSelector] = []
    code_language: str = "python3"
    code: str = ""
    outputs: dict[str, Declared] = {}


class CodeNode(Node):
    type = "code"
    Data = CodeData

    async def run(self, context: NodeContext) -> NodeResult:
        data = self.data
        inputs = {one.variable: _input(context.value(one.value_selector)) for one in data.variables}
        if (sandbox := context.services.sandbox) is None:
            raise NodeError("there is no sandbox to run code in", kind="SandboxUnavailable", inputs=inputs)
        try:
            result = await sandbox.run_code(data.code_language, data.code, inputs)
            outputs = checked(result, data.outputs)
        except NodeError as error:
            error.inputs = error.inputs or inputs
            raise
        return NodeResult(inputs=inputs, outputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(one.value_selector) for one in self.data.variables if one.value_selector]


def _input(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(one, File) for one in value):
        return [one.to_object() for one in value]
    return to_object(value)


def checked(result: Any, declared: Mapping[str, Declared], *, path: str = "", depth: int = 1) -> dict[str, Any]:
    """The declared outputs of what the code returned. Raises OutputError."""
    if depth > MOST_DEPTH:
        raise OutputError(f"Depth limit {MOST_DEPTH} reached, object too deep.")
    if not isinstance(result, Mapping):
        where = f"Output {path}" if path else "Result"
        raise OutputError(f"{where} is not an object, got {type(result)} instead.")
    if not declared:
        return {str(name): _any(value, f"{path}{name}", depth) for name, value in result.items()}
    outputs: dict[str, Any] = {}
    for name, kind in declared.items():
        where = f"{path}.{name}" if path else name
        if name not in result:
            raise OutputError(f"Output {where} is missing.")
        outputs[name] = _typed(result[name], kind, where, depth)
    if len(outputs) != len(result):
        raise OutputError("Not all output parameters are validated.")
    return outputs


def _typed(value: Any, declared: Declared, where: str, depth: int) -> Any:  # noqa: C901  one case a type
    if value is None:
        return None
    match declared.type:
        case "string" | "secret":
            return _string(value, where)
        case "number" | "integer" | "float":
            return _number(value, where)
        case "boolean":
            if not isinstance(value, bool):
                raise OutputError(f"Output {where} is not a boolean, got {type(value)} instead.")
            return value
        case "object":
            if not isinstance(value, Mapping):
                raise OutputError(f"Output {where} is not an object, got {type(value)} instead.")
            if declared.children:
                return checked(value, declared.children, path=where, depth=depth + 1)
            return _any(value, where, depth)
        case "array[string]":
            return [
                _in_array(one, where, place, _string) for place, one in enumerate(_array(value, where, MOST_STRINGS))
            ]
        case "array[number]":
            return [
                _in_array(one, where, place, _number) for place, one in enumerate(_array(value, where, MOST_NUMBERS))
            ]
        case "array[boolean]":
            return [_boolean_in(one, where, place) for place, one in enumerate(_array(value, where, MOST_NUMBERS))]
        case "array[object]":
            return [
                _object_in(one, declared, where, place, depth)
                for place, one in enumerate(_array(value, where, MOST_OBJECTS))
            ]
        case _:
            raise OutputError(f"Output type {declared.type} of {where} is not supported.")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise OutputError(f"Output {where} must be a string, got {type(value).__name__} instead")
    if len(value) > MOST_STRING:
        raise OutputError(f"The length of output {where} must be less than {MOST_STRING} characters")
    return value.replace("\0", "")


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, int | float):
        raise OutputError(f"Output {where} must be a number, got {type(value).__name__} instead")
    if not math.isfinite(value) or abs(value) > _MOST_NUMBER:
        raise OutputError(f"Output {where} is out of range, it must be between {-_MOST_NUMBER} and {_MOST_NUMBER}.")
    if isinstance(value, float) and len(str(value).partition(".")[2]) > MOST_DECIMALS:
        raise OutputError(f"Output {where} has too high precision, it must be less than {MOST_DECIMALS} digits.")
    return value


def _array(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise OutputError(f"Output {where} is not an array, got {type(value)} instead.")
    if len(value) > most:
        raise OutputError(f"The length of output variable {where} must be less than {most} elements.")
    return value


def _in_array(value: Any, where: str, place: int, check: Any) -> Any:
    return None if value is None else check(value, f"{where}[{place}]")


def _boolean_in(value: Any, where: str, place: int) -> Any:
    if value is not None and not isinstance(value, bool):
        raise OutputError(f"Output {where}[{place}] is not a boolean, got {type(value)} instead.")
    return value


def _object_in(value: Any, declared: Declared, where: str, place: int, depth: int) -> Any:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise OutputError(f"Output {where}[{place}] is not an object, got {type(value)} instead at index {place}.")
    if declared.children:
        return checked(value, declared.children, path=f"{where}[{place}]", depth=depth + 1)
    return _any(value, f"{where}[{place}]", depth)


def _any(value: Any, where: str, depth: int) -> Any:
    """What was not declared: JSON, not too deep."""
    if depth > MOST_DEPTH + 1:
        raise OutputError(f"Depth limit {MOST_DEPTH} reached, object too deep.")
    match value:
        case None | bool():
            return value
        case str():
            return _string(value, where)
        case int() | float():
            return _number(value, where)
        case list():
            return [_any(one, f"{where}[{place}]", depth + 1) for place, one in enumerate(value)]
        case Mapping():
            return {str(name): _any(one, f"{where}.{name}", depth + 1) for name, one in value.items()}
        case _:
            raise OutputError(f"Output {where} is not a valid type.")


NODES = {"code": CodeNode}
