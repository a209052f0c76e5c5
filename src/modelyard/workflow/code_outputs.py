"""Validates what code returns against the declared outputs and the limits."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_mapping
from modelyard.workflow.node import CodeLimits, NodeError

# The largest integer that databases and most languages can hold.
_MAX_NUMBER = 2**63 - 1


class OutputError(NodeError):
    """The code's result does not match the declared outputs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_type="OutputValidationError")


class OutputDeclaration(msgspec.Struct, kw_only=True):
    """Declared type of an output; `children` are the fields of an object."""

    type: str = "string"
    children: "dict[str, OutputDeclaration] | None" = None


class OutputValidator:
    """Validates results of code nodes against limits. The sentences of its errors are
    Dify's, which people look up."""

    def __init__(self, limits: CodeLimits) -> None:
        self._limits = limits

    def validated(
        self,
        result: Any,
        declared: Mapping[str, OutputDeclaration],
        *,
        path: str = "",
        depth: int = 1,
    ) -> dict[str, Any]:
        """Return the declared outputs of the code's result. Raises OutputError.

        Without a declaration every field is accepted. `path` is the position of a
        nested object in error messages.
        """
        # Limits the recursion for declared objects.
        if depth > self._limits.depth:
            raise self._too_deep(path)
        if not is_mapping(result):
            where = f"Output {path}" if path else "Result"
            raise OutputError(f"{where} is not an object, got {type(result)} instead.")
        # Apps without declared outputs accept everything that the program returns.
        if not declared:
            return {
                str(name): self._any(value, f"{path}{name}", depth)
                for name, value in result.items()
            }
        outputs: dict[str, Any] = {}
        prefix = f"{path}." if path else ""
        for name, declaration in declared.items():
            if name not in result:
                raise OutputError(f"Output {prefix}{name} is missing.")
            outputs[name] = self._value(
                result[name], declaration, f"{prefix}{name}", depth
            )
        # All declared fields are present, so the result has undeclared ones.
        if len(outputs) != len(result):
            raise OutputError("Not all output parameters are validated.")
        return outputs

    def _value(
        self, value: Any, declared: OutputDeclaration, where: str, depth: int
    ) -> Any:
        """Return the value if it has the declared type. None is accepted for every type,
        as in Dify. Raises OutputError."""
        if value is None:
            return None
        match declared.type:
            case "string" | "secret":
                return self._string(value, where)
            case "number" | "integer" | "float":
                return self._number(value, where)
            case "boolean":
                return _boolean(value, where)
            case "object":
                return self._object(value, declared, where, depth)
            case "array[object]":
                elements = self._array(value, where, "objects")
                return [
                    self._object_in(element, declared, where, index, depth)
                    for index, element in enumerate(elements)
                ]
            # The other types are arrays of texts, numbers, files and the like.
            case _:
                return self._list(value, declared.type, where)

    def _list(self, value: Any, declared_type: str, where: str) -> list[Any]:
        """Return a list of texts, numbers or booleans. Raises OutputError."""
        match declared_type:
            case "array[string]":
                elements = self._array(value, where, "texts")
                return _checked_elements(elements, where, self._string)
            case "array[number]":
                elements = self._array(value, where, "numbers")
                return _checked_elements(elements, where, self._number)
            case "array[boolean]":
                elements = self._array(value, where, "numbers")
                return _checked_elements(elements, where, _boolean)
            case _:
                raise OutputError(
                    f"Output type {declared_type} of {where} is not supported."
                )

    def _object(
        self, value: Any, declared: OutputDeclaration, where: str, depth: int
    ) -> dict[str, Any]:
        """Return the value if it is an object with the declared fields. Raises
        OutputError."""
        if not isinstance(value, Mapping):
            raise OutputError(
                f"Output {where} is not an object, got {type(value)} instead."
            )
        if declared.children:
            return self.validated(value, declared.children, path=where, depth=depth + 1)
        return self._any(value, where, depth)

    def _string(self, value: Any, where: str) -> str:
        """Return the text without NUL characters, which PostgreSQL cannot store. Raises
        OutputError."""
        if not isinstance(value, str):
            problem = f"must be a string, got {type(value).__name__} instead"
            raise OutputError(f"Output {where} {problem}")
        max_chars = self._limits.characters
        if len(value) > max_chars:
            problem = f"must be less than {max_chars} characters"
            raise OutputError(f"The length of output {where} {problem}")
        return value.replace("\0", "")

    def _number(self, value: Any, where: str) -> int | float:
        """Return the number; booleans become 0 or 1. Raises OutputError."""
        # A boolean is a number for Dify's validation.
        if isinstance(value, bool):
            return int(value)
        if not isinstance(value, int | float):
            raise OutputError(
                f"Output {where} must be a number, got {type(value).__name__} instead"
            )
        # NaN and infinity cannot be represented in JSON. An integer may be too long to
        # become a float, so the range comes first.
        if abs(value) > _MAX_NUMBER or not math.isfinite(value):
            raise OutputError(
                f"Output {where} is out of range, it must be between {-_MAX_NUMBER} and"
                f" {_MAX_NUMBER}."
            )
        decimals = self._limits.decimals
        if isinstance(value, float) and len(str(value).partition(".")[2]) > decimals:
            raise OutputError(
                f"Output {where} has too high precision, it must be less than {decimals}"
                f" digits."
            )
        return value

    def _array(self, value: Any, where: str, limit: str) -> list[Any]:
        """Return the list if it is not too long. `limit` is the limit that applies.
        Raises OutputError."""
        if not is_array(value):
            raise OutputError(
                f"Output {where} is not an array, got {type(value)} instead."
            )
        max_length = getattr(self._limits, limit)
        if len(value) > max_length:
            raise OutputError(
                f"The length of output variable {where} must be less than {max_length}"
                f" elements."
            )
        return value

    def _object_in(
        self,
        value: Any,
        declared: OutputDeclaration,
        where: str,
        index: int,
        depth: int,
    ) -> Any:
        """Return the element if it is an object or None. Raises OutputError."""
        if value is None:
            return None
        path = f"{where}[{index}]"
        if not isinstance(value, Mapping):
            raise OutputError(
                f"Output {path} is not an object, got {type(value)} instead at index"
                f" {index}."
            )
        if declared.children:
            return self.validated(value, declared.children, path=path, depth=depth + 1)
        return self._any(value, path, depth)

    def _any(self, value: Any, where: str, depth: int) -> Any:
        """Validate an undeclared value: any JSON value of limited depth and size. Raises
        OutputError."""
        # One level more than declared objects, as undeclared values nest inside them.
        if depth > self._limits.depth + 1:
            raise self._too_deep(where)
        # Booleans first: in Python they are integers too.
        match value:
            case None | bool():
                return value
            case str():
                return self._string(value, where)
            case int() | float():
                return self._number(value, where)
            case _ if is_array(value):
                return [
                    self._any(element, f"{where}[{index}]", depth + 1)
                    for index, element in enumerate(value)
                ]
            case _ if is_mapping(value):
                return {
                    str(name): self._any(element, f"{where}.{name}", depth + 1)
                    for name, element in value.items()
                }
            case _:
                raise OutputError(f"Output {where} is not a valid type.")

    def _too_deep(self, path: str) -> OutputError:
        """Return the error of a value that is nested too deeply."""
        return OutputError(
            f"Output {path}: Depth limit {self._limits.depth} reached, object too deep."
        )


def _boolean(value: Any, where: str) -> bool:
    """Return the value if it is a boolean. Raises OutputError."""
    if not isinstance(value, bool):
        raise OutputError(
            f"Output {where} is not a boolean, got {type(value)} instead."
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
