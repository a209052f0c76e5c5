"""Tool arguments: parse a model's output, validate it against a schema, and coerce
values to parameter types. No I/O."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.base import cpu_work
from modelyard.base.bounded_json import BodyError, check_value_count
from modelyard.base.json_repair import RepairError, repair_json
from modelyard.base.schemas import (
    MAX_PAIRS,
    MAX_PAIRS_IN_THREAD,
    SchemaError,
    TooMuchWorkError,
    compile_schema,
    is_large,
)
from modelyard.tools.entities import ToolParameter, ToolParameterError

_TRUE = frozenset({"true", "yes", "y", "1", "on"})
_FALSE = frozenset({"false", "no", "n", "0", "off", ""})
_MAX_ARGUMENT_CHARS = 1 << 20


def read_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the arguments of a tool call as a model wrote them.

    Accepts JSON, fenced JSON, truncated JSON, doubly encoded JSON, or a bare value if
    the tool has a single parameter. Raises ToolParameterError.
    """
    text = text.strip()
    if len(text) > _MAX_ARGUMENT_CHARS:
        raise ToolParameterError(
            f"arguments of {len(text):,} characters; {_MAX_ARGUMENT_CHARS:,} are the"
            " most"
        )
    if not text:
        return {}
    parsed = _decode(text)
    if isinstance(parsed, str) and parsed.strip()[:1] in ("{", "["):
        parsed = _decode(parsed)  # JSON inside a JSON string
    # Some models wrap the object in a list.
    if isinstance(parsed, list) and len(parsed) == 1 and isinstance(parsed[0], dict):
        parsed = parsed[0]
    if isinstance(parsed, dict):
        return parsed
    properties: Mapping[str, Any] = schema.get("properties") or {}
    # A bare value goes to the only required parameter, or else to the only parameter.
    target_names = [
        name for name in schema.get("required") or () if name in properties
    ] or list(properties)
    if len(target_names) == 1 and parsed is not None:
        return {target_names[0]: parsed}
    if parsed is None or parsed == "":
        return {}
    raise ToolParameterError(
        f"arguments must be a JSON object with {', '.join(properties) or 'nothing'}"
    )


def _decode(text: str) -> Any:
    """Decode JSON, repairing it if possible; return the text itself if it is not JSON."""
    if text.startswith("```"):
        text = text[3:].removeprefix("json").strip().removesuffix("```").strip()
    try:
        check_value_count(text)
        return json.loads(text, strict=False)
    except BodyError as error:
        raise ToolParameterError(f"the arguments: {error}") from error
    except (json.JSONDecodeError, RecursionError):
        pass
    if text[:1] not in ("{", "["):
        # Only text that looks like an object or a list is worth repairing.
        return text
    try:
        repaired = repair_json(text)
    except (ImportError, RepairError):
        return text
    return repaired if isinstance(repaired, dict | list) else text


async def coerce_arguments_async(
    arguments: Mapping[str, Any], schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Like `fitted`, but run in a thread for large arguments."""
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
    coerced: dict[str, Any] = {}
    for name, value in arguments.items():
        rule = properties.get(name)
        if rule is None:
            # Unknown arguments: allowed if the schema says so, or if it declares no
            # properties at all.
            if (
                schema.get("additionalProperties") not in (False,) and not properties
            ) or schema.get("additionalProperties"):
                coerced[name] = value
            continue
        # Models send null for optional parameters that they do not want to set.
        if (
            value is None
            and "null" not in _types(rule)
            and name not in (schema.get("required") or ())
        ):
            continue
        coerced[name] = coerce_value(value, rule)
    for name in schema.get("required") or ():
        if name not in coerced:
            raise ToolParameterError(f"parameter {name!r} is missing")
    try:
        # Lenient: an unknown keyword in a third-party schema is ignored.
        mismatch = compile_schema(schema, is_lenient=True).mismatch(
            coerced, max_pairs=most
        )
    except TooMuchWorkError as error:
        raise ToolParameterError(f"the arguments: {error}") from error
    except SchemaError:
        return (
            coerced  # a schema of others may be wrong in any way: the tool decides then
        )
    if mismatch is not None:
        raise ToolParameterError(
            f"parameter {mismatch.where('.', 'the arguments')!r}: {mismatch.message}"
        )
    return coerced


def _types(rule: Any) -> Sequence[str]:
    type_names = rule.get("type") if isinstance(rule, Mapping) else None
    return (
        type_names
        if isinstance(type_names, list)
        else [type_names]
        if type_names
        else []
    )


def coerce_value(value: Any, rule: Any) -> Any:
    """Coerce a value to a type that the schema allows if nothing is lost; otherwise
    return it unchanged."""
    kinds = _types(rule)
    if not kinds:
        return value
    # First pass: if the value already has one of the types, keep it and only coerce its
    # children.
    for type_name in kinds:
        match type_name:
            case "string" if isinstance(value, str):
                return value
            case "boolean" if isinstance(value, bool):
                return value
            case "integer" if isinstance(value, int) and not isinstance(value, bool):
                return value
            case "number" if isinstance(value, int | float) and not isinstance(
                value, bool
            ):
                return value
            case "array" if isinstance(value, list):
                items = rule.get("items")
                return (
                    [coerce_value(element, items) for element in value]
                    if isinstance(items, Mapping)
                    else value
                )
            case "object" if isinstance(value, dict):
                inner = rule.get("properties") or {}
                return {
                    name: coerce_value(child, inner.get(name))
                    for name, child in value.items()
                }
            case "null" if value is None:
                return value
            case _:
                pass
    # Second pass: convert to the first type for which that works.
    for type_name in kinds:
        converted = _convert(value, type_name)
        if converted is not None:
            return converted
    return value


def _convert(value: Any, type_name: str) -> Any:
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
            return (
                decoded
                if isinstance(decoded, list if type_name == "array" else dict)
                else None
            )
        # A single value where a list is expected becomes a list of one.
        case "array" if not isinstance(value, list | dict) and value is not None:
            return [value]
        case _:
            return None


def _parse_number(text: str, *, is_integer: bool) -> int | float | None:
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
    return (
        int(number)
        if is_integer and number.is_integer()
        else None
        if is_integer
        else number
    )


def cast_parameter(parameter: ToolParameter, value: Any) -> Any:  # noqa: C901
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
    match parameter.type:
        case "string" | "secret-input" | "dynamic-select":
            return (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False)
            )
        case "number":
            if isinstance(value, int | float) and not isinstance(value, bool):
                converted: Any = value
            elif (converted := _parse_number(str(value), is_integer=False)) is None:
                raise ToolParameterError(
                    f"parameter {parameter.name!r} must be a number, not"
                    f" {str(value)[:40]!r}"
                )
            # Limits apply to the converted number, not to its text.
            if (parameter.min is not None and converted < parameter.min) or (
                parameter.max is not None and converted > parameter.max
            ):
                raise ToolParameterError(
                    f"parameter {parameter.name!r} must lie between {parameter.min} and"
                    f" {parameter.max}"
                )
            return converted
        case "boolean" | "checkbox":
            return (
                value
                if isinstance(value, bool)
                else str(value).strip().lower() in _TRUE
            )
        case "select":
            allowed_values = [option.value for option in parameter.options]
            if allowed_values and str(value) not in allowed_values:
                raise ToolParameterError(
                    f"parameter {parameter.name!r} is one of"
                    f" {', '.join(allowed_values)}, not {str(value)[:40]!r}"
                )
            return str(value)
        case "array" | "object":
            converted = coerce_value(value, {"type": parameter.type})
            if not isinstance(converted, list if parameter.type == "array" else dict):
                raise ToolParameterError(
                    f"parameter {parameter.name!r} must be an {parameter.type}, not"
                    f" {str(value)[:40]!r}"
                )
            return converted
        case _:
            return value


def cast_all(
    parameters: Sequence[ToolParameter], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Coerce the values of all parameters; unknown values are passed through. Raises
    ToolParameterError."""
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
