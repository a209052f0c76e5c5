"""Tool arguments: parse a model's output, validate it against a schema, and coerce
values to parameter types. No I/O."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelyard.base import cpu_work
from modelyard.base.bounded_json import BodyError, check_value_count
from modelyard.base.json_repair import RepairError, repair_json
from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.base.schemas import (
    MAX_PAIRS,
    MAX_PAIRS_IN_THREAD,
    SchemaError,
    TooMuchWorkError,
    compile_schema,
    is_large,
)
from modelyard.tools.entities import ToolParameter, ToolParameterError

# Models write booleans as texts, in any of these ways.
_TRUE = frozenset({"true", "yes", "y", "1", "on"})
_FALSE = frozenset({"false", "no", "n", "0", "off", ""})
# Arguments are stored in logs, events and the journal of the run.
_MAX_ARGUMENT_CHARS = 1 << 20


def read_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the arguments of a tool call as a model wrote them.

    Accepts JSON, fenced JSON, truncated JSON, doubly encoded JSON, or a bare value if
    the tool has a single parameter. Raises ToolParameterError.
    """
    text = text.strip()
    if len(text) > _MAX_ARGUMENT_CHARS:
        raise ToolParameterError(
            f"Arguments too long: {len(text):,} characters, maximum"
            f" {_MAX_ARGUMENT_CHARS:,}"
        )
    if not text:
        return {}
    parsed = _unwrap(_decode(text))
    if is_object(parsed):
        return parsed
    return _assign_bare_value(parsed, schema)


def _unwrap(parsed: Any) -> Any:
    """Remove what models wrap arguments in: a JSON string, or a list of one object."""
    if isinstance(parsed, str) and parsed.strip()[:1] in ("{", "["):
        parsed = _decode(parsed)
    if is_array(parsed) and len(parsed) == 1 and is_object(parsed[0]):
        return parsed[0]
    return parsed


def _assign_bare_value(value: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a bare value as the argument of the only required parameter, or else of
    the only parameter. Raises ToolParameterError if there are several."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    target_names = [
        name for name in schema.get("required") or () if name in properties
    ] or list(properties)
    if len(target_names) == 1 and value is not None:
        return {target_names[0]: value}
    if value is None or value == "":
        return {}
    raise ToolParameterError(
        "Arguments must be a JSON object with the parameters"
        f" {', '.join(properties) or '(none)'}"
    )


def _decode(text: str) -> Any:
    """Decode JSON, repairing it if possible; return the text itself if it is not JSON."""
    if text.startswith("```"):
        text = text[3:].removeprefix("json").strip().removesuffix("```").strip()
    try:
        check_value_count(text)
        return json.loads(text, strict=False)
    except BodyError as error:
        raise ToolParameterError(f"Invalid arguments: {error}") from error
    except (json.JSONDecodeError, RecursionError):
        pass
    if text[:1] not in ("{", "["):
        # Only text that looks like an object or a list is worth repairing.
        return text
    try:
        repaired = repair_json(text)
    except (ImportError, RepairError):
        return text
    return repaired if is_object(repaired) or is_array(repaired) else text


async def coerce_arguments_async(
    arguments: Mapping[str, Any], schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Like `coerce_arguments`, but run in a thread for large arguments."""
    # Validating large arguments would block the event loop.
    if is_large(arguments):
        return await cpu_work.run_in_thread(
            coerce_arguments, arguments, schema, most=MAX_PAIRS_IN_THREAD
        )
    return coerce_arguments(arguments, schema)


def coerce_arguments(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], *, most: int = MAX_PAIRS
) -> dict[str, Any]:
    """Return arguments that satisfy a tool's schema.

    Near misses are coerced; unknown arguments are dropped unless the schema allows
    additional ones. Defaults are not filled in. `most` limits the comparisons of the
    validation. Raises ToolParameterError naming the parameter.
    """
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or ()
    allows_unknown = _allows_unknown(schema)
    coerced: dict[str, Any] = {}
    for name, value in arguments.items():
        rule = properties.get(name)
        if rule is None:
            if allows_unknown:
                coerced[name] = value
        # Models send null for optional parameters that they do not want to set.
        elif value is not None or "null" in _types(rule) or name in required:
            coerced[name] = coerce_value(value, rule)
    _validate(coerced, schema, max_pairs=most)
    return coerced


def _allows_unknown(schema: Mapping[str, Any]) -> bool:
    """Return whether arguments that are not among the properties are accepted: if the
    schema says so, or if it declares no properties at all."""
    additional = schema.get("additionalProperties")
    if additional:
        return True
    return not schema.get("properties") and additional not in (False,)


def _validate(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], *, max_pairs: int
) -> None:
    """Raise ToolParameterError if a required argument is missing, or if the arguments
    do not satisfy the schema or need too much work to be validated."""
    for name in schema.get("required") or ():
        if name not in arguments:
            raise ToolParameterError(f"Parameter {name!r} is missing")
    try:
        # Lenient: an unknown keyword in a third-party schema is ignored.
        mismatch = compile_schema(schema, is_lenient=True).mismatch(
            arguments, max_pairs=max_pairs
        )
    except TooMuchWorkError as error:
        raise ToolParameterError(f"Invalid arguments: {error}") from error
    except SchemaError:
        # A third-party schema may be invalid; then the tool itself decides.
        return
    if mismatch is not None:
        raise ToolParameterError(
            f"Parameter {mismatch.where('.', 'the arguments')!r}: {mismatch.message}"
        )


def _types(rule: Any) -> Sequence[str]:
    """Return the type names that a schema allows; empty if it does not say."""
    type_names = rule.get("type") if is_mapping(rule) else None
    if is_array(type_names):
        return type_names
    return [type_names] if type_names else []


def coerce_value(value: Any, rule: Any) -> Any:
    """Coerce a value to a type that the schema allows, if nothing is lost.

    A value that already has one of the types is kept, and its elements or fields are
    coerced. A value that cannot be coerced is returned unchanged, for the validation to
    refuse.
    """
    type_names = _types(rule)
    # A value that already has one of the types is kept; only its children are coerced.
    if any(_has_type(value, type_name) for type_name in type_names):
        return _coerce_children(value, rule)
    for type_name in type_names:
        converted = _convert(value, type_name)
        if converted is not None:
            return converted
    return value


def _has_type(value: Any, type_name: Any) -> bool:
    """Return whether a value has a JSON schema type. In Python a boolean is an integer,
    in JSON it is not."""
    match type_name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
        case _:
            return False


def _coerce_children(value: Any, rule: Mapping[str, Any]) -> Any:
    """Coerce the elements of a list, or the fields of an object."""
    if is_array(value):
        items = rule.get("items")
        if not is_mapping(items):
            return value
        return [coerce_value(element, items) for element in value]
    if is_object(value):
        properties: dict[str, Any] = rule.get("properties") or {}
        return {
            name: coerce_value(child, properties.get(name))
            for name, child in value.items()
        }
    return value


def _convert(value: Any, type_name: str) -> Any:
    """Return a value converted to a JSON schema type; None if that is not possible.

    Booleans may be words such as `yes`, lists and objects may be JSON text, and a
    single value becomes a list of one.
    """
    match type_name:
        case "string" if isinstance(value, bool):
            return "true" if value else "false"
        case "string" if isinstance(value, int | float):
            return str(value)
        case "string" if isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False)
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "integer" | "number" if isinstance(value, str):
            return _parse_number(value, is_integer=type_name == "integer")
        case "boolean" if isinstance(value, str | int):
            normalized = str(value).strip().lower()
            return (
                True if normalized in _TRUE else False if normalized in _FALSE else None
            )
        case "array" | "object" if isinstance(value, str) and value.strip()[:1] in (
            "[",
            "{",
        ):
            decoded = _decode(value)
            container: type[Any] = list if type_name == "array" else dict
            return decoded if isinstance(decoded, container) else None
        # A single value where a list is expected becomes a list of one.
        case "array" if not isinstance(value, list | dict) and value is not None:
            return [value]
        case _:
            return None


def _parse_number(text: str, *, is_integer: bool) -> int | float | None:
    """Return the number that a text states; None if it states none.

    Underscores between digits are ignored. With `is_integer`, a fraction counts as
    none.
    """
    # Underscores group digits, as in Python.
    text = text.strip().replace("_", "")
    try:
        if "." not in text and "e" not in text.lower():
            return int(text)
        number = float(text)
    except ValueError:
        return None
    # JSON cannot represent infinity and NaN.
    if not math.isfinite(number):
        return None
    if not is_integer:
        return number
    return int(number) if number.is_integer() else None


def cast_parameter(parameter: ToolParameter, value: Any) -> Any:
    """Coerce a form value to the parameter's type. Returns None for an optional
    parameter without a value.

    Raises ToolParameterError.
    """
    # An empty form field means that the default applies.
    if value is None or value == "":
        if parameter.default is not None:
            value = parameter.default
        elif parameter.required:
            raise ToolParameterError(
                f"tool parameter {parameter.name} not found in tool config"
            )
        elif value is None:
            return None
    cast = _CASTS.get(parameter.type)
    return value if cast is None else cast(parameter, value)


def _cast_text(parameter: ToolParameter, value: Any) -> str:
    """Return a text; other values as JSON."""
    del parameter
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cast_number(parameter: ToolParameter, value: Any) -> int | float:
    """Return a form value as a number within the parameter's limits.

    Raises ToolParameterError that names the parameter.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    else:
        number = _parse_number(str(value), is_integer=False)
    if number is None:
        raise _invalid_value(parameter, value, "a number")
    # Limits apply to the converted number, not to its text.
    is_too_low = parameter.min is not None and number < parameter.min
    is_too_high = parameter.max is not None and number > parameter.max
    if is_too_low or is_too_high:
        raise ToolParameterError(
            f"Parameter {parameter.name!r} must be {_range_text(parameter)}"
        )
    return number


def _range_text(parameter: ToolParameter) -> str:
    """Return the limits of a number parameter in words; it has at least one."""
    # A limit that does not exist is not mentioned.
    if parameter.min is None:
        return f"at most {parameter.max}"
    if parameter.max is None:
        return f"at least {parameter.min}"
    return f"between {parameter.min} and {parameter.max}"


def _cast_boolean(parameter: ToolParameter, value: Any) -> bool:
    """Return a boolean; models also send it as a text."""
    del parameter
    return value if isinstance(value, bool) else str(value).strip().lower() in _TRUE


def _cast_option(parameter: ToolParameter, value: Any) -> str:
    """Return a form value as text; raise ToolParameterError if it is not an option."""
    allowed_values = [option.value for option in parameter.options]
    if allowed_values and str(value) not in allowed_values:
        raise _invalid_value(parameter, value, f"one of {', '.join(allowed_values)}")
    return str(value)


def _cast_container(parameter: ToolParameter, value: Any) -> Any:
    """Return a form value as a list or an object, whichever the parameter's type is.

    Text is read as JSON. Raises ToolParameterError if the value is neither.
    """
    converted = coerce_value(value, {"type": parameter.type})
    container: type[Any] = list if parameter.type == "array" else dict
    if not isinstance(converted, container):
        raise _invalid_value(parameter, value, f"an {parameter.type}")
    return converted


def _invalid_value(
    parameter: ToolParameter, value: Any, expected: str
) -> ToolParameterError:
    """Return the error for a value that a parameter does not accept."""
    return ToolParameterError(
        f"Parameter {parameter.name!r} must be {expected}, not {str(value)[:40]!r}"
    )


_CASTS: Mapping[str, Callable[[ToolParameter, Any], Any]] = {
    "string": _cast_text,
    "secret-input": _cast_text,
    "dynamic-select": _cast_text,
    "number": _cast_number,
    "boolean": _cast_boolean,
    "checkbox": _cast_boolean,
    "select": _cast_option,
    "array": _cast_container,
    "object": _cast_container,
}
"""Parameter type → the function that coerces to it. Values of other types, such as
files, are passed through."""


def cast_all(
    parameters: Sequence[ToolParameter], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Coerce the values of all parameters of a form.

    Missing values get the parameter's default; optional parameters without one are left
    out. Values of undeclared parameters are passed through. Raises ToolParameterError.
    """
    # Values for undeclared parameters stay: plugins may read them.
    cast_values = {
        name: value
        for name, value in values.items()
        if name not in {parameter.name for parameter in parameters}
    }
    for parameter in parameters:
        value = cast_parameter(parameter, values.get(parameter.name))
        if value is not None:
            cast_values[parameter.name] = value
    return cast_values
