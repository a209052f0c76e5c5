"""Code node: runs Python or JavaScript in the sandbox and validates its result against
the declared outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_mapping
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
    VariableSelector,
)
from modelyard.workflow.variables import File, to_object

# Dify's default limits, so that apps behave the same here.
(
    MAX_STRING_LENGTH,
    MAX_STRING_ARRAY_LENGTH,
    MAX_OBJECT_ARRAY_LENGTH,
    MAX_NUMBER_ARRAY_LENGTH,
    MAX_DEPTH,
    MAX_DECIMALS,
) = 400_000, 30, 30, 1000, 5, 20
_MAX_NUMBER = 2**63 - 1


class OutputError(NodeError):
    """The code's result does not match the declared outputs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_type="OutputValidationError")


class OutputDeclaration(msgspec.Struct, kw_only=True):
    """Declared type of an output; `children` are the fields of an object."""

    type: str = "string"
    children: "dict[str, OutputDeclaration] | None" = None


class CodeData(NodeData, kw_only=True):
    """Data of a code node in a DSL file."""

    variables: list[VariableSelector] = []
    code_language: str = "python3"
    code: str = ""
    outputs: dict[str, OutputDeclaration] = {}


class CodeNode(Node):
    """Runs the node's code with its variables as arguments."""

    type = "code"
    Data = CodeData

    async def run(self, context: NodeContext) -> NodeResult:
        """Run the code and return its validated outputs. Raises NodeError."""
        data = self.data
        inputs = {
            variable.variable: _input(context.value(variable.value_selector))
            for variable in data.variables
        }
        if (sandbox := context.services.sandbox) is None:
            raise NodeError(
                "Code nodes require a sandbox, which is not available",
                error_type="SandboxUnavailable",
                inputs=inputs,
            )
        try:
            result = await sandbox.run_code(data.code_language, data.code, inputs)
            outputs = validate_outputs(result, data.outputs)
        except NodeError as error:
            # The inputs are shown with the failed node.
            error.inputs = error.inputs or inputs
            raise
        return NodeResult(inputs=inputs, outputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors of the variables."""
        return [
            tuple(variable.value_selector)
            for variable in self.data.variables
            if variable.value_selector
        ]


def _input(value: Any) -> Any:
    """Return a variable's value as JSON for the program."""
    # Files keep their own object form; the program receives dictionaries.
    if is_array(value) and value and all(isinstance(file, File) for file in value):
        return [file.to_object() for file in value]
    return to_object(value)


def validate_outputs(
    result: Any,
    declared: Mapping[str, OutputDeclaration],
    *,
    path: str = "",
    depth: int = 1,
) -> dict[str, Any]:
    """Return the declared outputs of the code's result. Raises OutputError.

    Without a declaration every field is accepted. `path` is the position of a nested
    object in error messages.
    """
    # Limits the recursion for declared objects.
    if depth > MAX_DEPTH:
        raise OutputError(f"Depth limit {MAX_DEPTH} reached, object too deep.")
    if not is_mapping(result):
        where = f"Output {path}" if path else "Result"
        raise OutputError(f"{where} is not an object, got {type(result)} instead.")
    # Apps without declared outputs accept everything that the program returns.
    if not declared:
        return {
            str(name): _any(value, f"{path}{name}", depth)
            for name, value in result.items()
        }
    outputs: dict[str, Any] = {}
    prefix = f"{path}." if path else ""
    for name, declaration in declared.items():
        if name not in result:
            raise OutputError(f"Output {prefix}{name} is missing.")
        outputs[name] = _validate_value(
            result[name], declaration, f"{prefix}{name}", depth
        )
    # All declared fields are present, so the result has undeclared ones.
    if len(outputs) != len(result):
        raise OutputError("Not all output parameters are validated.")
    return outputs


def _validate_value(
    value: Any, declared: OutputDeclaration, where: str, depth: int
) -> Any:
    """Return the value if it has the declared type. None is accepted for every type, as
    in Dify. Raises OutputError."""
    if value is None:
        return None
    match declared.type:
        case "string" | "secret":
            return _string(value, where)
        case "number" | "integer" | "float":
            return _number(value, where)
        case "boolean":
            return _boolean(value, where)
        case "object":
            return _object(value, declared, where, depth)
        case "array[string]":
            elements = _array(value, where, MAX_STRING_ARRAY_LENGTH)
            return _checked_elements(elements, where, _string)
        case "array[number]":
            elements = _array(value, where, MAX_NUMBER_ARRAY_LENGTH)
            return _checked_elements(elements, where, _number)
        case "array[boolean]":
            elements = _array(value, where, MAX_NUMBER_ARRAY_LENGTH)
            return _checked_elements(elements, where, _boolean)
        case "array[object]":
            return [
                _object_in(element, declared, where, index, depth)
                for index, element in enumerate(
                    _array(value, where, MAX_OBJECT_ARRAY_LENGTH)
                )
            ]
        case _:
            raise OutputError(
                f"Output type {declared.type} of {where} is not supported."
            )


def _boolean(value: Any, where: str) -> bool:
    """Return the value if it is a boolean. Raises OutputError."""
    if not isinstance(value, bool):
        raise OutputError(
            f"Output {where} is not a boolean, got {type(value)} instead."
        )
    return value


def _object(
    value: Any, declared: OutputDeclaration, where: str, depth: int
) -> dict[str, Any]:
    """Return the value if it is an object with the declared fields. Raises
    OutputError."""
    if not isinstance(value, Mapping):
        raise OutputError(
            f"Output {where} is not an object, got {type(value)} instead."
        )
    if declared.children:
        return validate_outputs(value, declared.children, path=where, depth=depth + 1)
    return _any(value, where, depth)


def _string(value: Any, where: str) -> str:
    """Return the text without NUL characters, which PostgreSQL cannot store. Raises
    OutputError."""
    if not isinstance(value, str):
        raise OutputError(
            f"Output {where} must be a string, got {type(value).__name__} instead"
        )
    if len(value) > MAX_STRING_LENGTH:
        raise OutputError(
            f"The length of output {where} must be less than {MAX_STRING_LENGTH} characters"
        )
    return value.replace("\0", "")


def _number(value: Any, where: str) -> int | float:
    """Return the number; booleans become 0 or 1. Raises OutputError."""
    # A boolean is a number for Dify's validation.
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, int | float):
        raise OutputError(
            f"Output {where} must be a number, got {type(value).__name__} instead"
        )
    # NaN and infinity cannot be represented in JSON.
    if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
        raise OutputError(
            f"Output {where} is out of range, it must be between {-_MAX_NUMBER} and {_MAX_NUMBER}."
        )
    if isinstance(value, float) and len(str(value).partition(".")[2]) > MAX_DECIMALS:
        raise OutputError(
            f"Output {where} has too high precision, it must be less than {MAX_DECIMALS} digits."
        )
    return value


def _array(value: Any, where: str, max_length: int) -> list[Any]:
    """Return the list if it is not too long. Raises OutputError."""
    if not is_array(value):
        raise OutputError(f"Output {where} is not an array, got {type(value)} instead.")
    if len(value) > max_length:
        raise OutputError(
            f"The length of output variable {where} must be less than {max_length} elements."
        )
    return value


def _checked_elements(
    elements: Sequence[Any], where: str, check: Callable[[Any, str], Any]
) -> list[Any]:
    """Check the elements of an array; None is accepted. Raises OutputError."""
    return [
        None if element is None else check(element, f"{where}[{index}]")
        for index, element in enumerate(elements)
    ]


def _object_in(
    value: Any, declared: OutputDeclaration, where: str, index: int, depth: int
) -> Any:
    """Return the element if it is an object or None. Raises OutputError."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise OutputError(
            f"Output {where}[{index}] is not an object, got {type(value)} instead at index {index}."
        )
    if declared.children:
        return validate_outputs(
            value, declared.children, path=f"{where}[{index}]", depth=depth + 1
        )
    return _any(value, f"{where}[{index}]", depth)


def _any(value: Any, where: str, depth: int) -> Any:
    """Validate an undeclared value: any JSON value of limited depth and size. Raises
    OutputError."""
    # One level more than declared objects, as undeclared values nest inside them.
    if depth > MAX_DEPTH + 1:
        raise OutputError(f"Depth limit {MAX_DEPTH} reached, object too deep.")
    # Booleans first: in Python they are integers too.
    match value:
        case None | bool():
            return value
        case str():
            return _string(value, where)
        case int() | float():
            return _number(value, where)
        case _ if is_array(value):
            return [
                _any(element, f"{where}[{index}]", depth + 1)
                for index, element in enumerate(value)
            ]
        case _ if is_mapping(value):
            return {
                str(name): _any(element, f"{where}.{name}", depth + 1)
                for name, element in value.items()
            }
        case _:
            raise OutputError(f"Output {where} is not a valid type.")


NODES = {"code": CodeNode}
