"""Arguments: read from whatever a model wrote, held against a schema, cast to what a parameter says. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.base import computing
from modelyard.base.bodies import BodyError, check_amount
from modelyard.base.mending import NotMendedError, mended
from modelyard.base.schemas import MOST_PAIRS, MOST_PAIRS_APART, SchemaError, TooMuchWorkError, compiled, is_large
from modelyard.tools.entities import ToolParameter, ToolParameterError

_TRUE = frozenset({"true", "yes", "y", "1", "on"})
_FALSE = frozenset({"false", "no", "n", "0", "off", ""})
_MOST_ARGUMENTS = 1 << 20


def read_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments as a model wrote them: JSON, in a fence, cut off, doubly encoded, or a bare value where there
    is only one parameter. Raises ToolParameterError."""
    text = text.strip()
    if len(text) > _MOST_ARGUMENTS:
        raise ToolParameterError(f"arguments of {len(text):,} characters; {_MOST_ARGUMENTS:,} are the most")
    if not text:
        return {}
    found = _decoded(text)
    if isinstance(found, str) and found.strip()[:1] in ("{", "["):
        found = _decoded(found)  # JSON inside a JSON string
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        found = found[0]
    if isinstance(found, dict):
        return found
    properties: Mapping[str, Any] = schema.get("properties") or {}
    wanted = [name for name in schema.get("required") or () if name in properties] or list(properties)
    if len(wanted) == 1 and found is not None:
        return {wanted[0]: found}
    if found is None or found == "":
        return {}
    raise ToolParameterError(f"arguments must be a JSON object with {', '.join(properties) or 'nothing'}")


def _decoded(text: str) -> Any:
    """JSON; what can be mended of it; else the text itself."""
    if text.startswith("```"):
        text = text[3:].removeprefix("json").strip().removesuffix("```").strip()
    try:
        check_amount(text)
        return json.loads(text, strict=False)
    except BodyError as error:
        raise ToolParameterError(f"the arguments: {error}") from error
    except (json.JSONDecodeError, RecursionError):
        pass
    if text[:1] not in ("{", "["):
        return text
    try:
        found = mended(text)
    except (ImportError, NotMendedError):
        return text
    return found if isinstance(found, dict | list) else text


async def fitted_apart(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """As `fitted`; large ones in a thread."""
    if is_large(arguments):
        return await computing.apart(fitted, arguments, schema, most=MOST_PAIRS_APART)
    return fitted(arguments, schema)


def fitted(arguments: Mapping[str, Any], schema: Mapping[str, Any], *, most: int = MOST_PAIRS) -> dict[str, Any]:
    """Arguments that satisfy a tool's schema: near misses are cast, unknown ones left out where the schema has no room
    for them. Defaults are the tool's own affair. Raises ToolParameterError that names the parameter."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        rule = properties.get(name)
        if rule is None:
            if (schema.get("additionalProperties") not in (False,) and not properties) or schema.get(
                "additionalProperties"
            ):
                found[name] = value
            continue
        if value is None and "null" not in _types(rule) and name not in (schema.get("required") or ()):
            continue
        found[name] = cast_to(value, rule)
    for name in schema.get("required") or ():
        if name not in found:
            raise ToolParameterError(f"parameter {name!r} is missing")
    try:
        mismatch = compiled(schema, is_lenient=True).mismatch(found, most=most)
    except TooMuchWorkError as error:
        raise ToolParameterError(f"the arguments: {error}") from error
    except SchemaError:
        return found  # a schema of others may be wrong in any way: the tool decides then
    if mismatch is not None:
        raise ToolParameterError(f"parameter {mismatch.where('.', 'the arguments')!r}: {mismatch.message}")
    return found


def _types(rule: Any) -> Sequence[str]:
    kind = rule.get("type") if isinstance(rule, Mapping) else None
    return kind if isinstance(kind, list) else [kind] if kind else []


def cast_to(value: Any, rule: Any) -> Any:
    """A value in the type that a schema names, where that loses nothing; else as it is."""
    kinds = _types(rule)
    if not kinds:
        return value
    for kind in kinds:
        match kind:
            case "string" if isinstance(value, str):
                return value
            case "boolean" if isinstance(value, bool):
                return value
            case "integer" if isinstance(value, int) and not isinstance(value, bool):
                return value
            case "number" if isinstance(value, int | float) and not isinstance(value, bool):
                return value
            case "array" if isinstance(value, list):
                items = rule.get("items")
                return [cast_to(one, items) for one in value] if isinstance(items, Mapping) else value
            case "object" if isinstance(value, dict):
                inner = rule.get("properties") or {}
                return {name: cast_to(one, inner.get(name)) for name, one in value.items()}
            case "null" if value is None:
                return value
            case _:
                pass
    for kind in kinds:
        found = _cast(value, kind)
        if found is not None:
            return found
    return value


def _cast(value: Any, kind: str) -> Any:
    match kind:
        case "string" if isinstance(value, bool):
            return "true" if value else "false"
        case "string" if isinstance(value, int | float):
            return str(value)
        case "string" if isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False)
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "integer" | "number" if isinstance(value, str):
            return _number(value, is_whole=kind == "integer")
        case "boolean" if isinstance(value, str | int):
            word = str(value).strip().lower()
            return True if word in _TRUE else False if word in _FALSE else None
        case "array" | "object" if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
            found = _decoded(value)
            return found if isinstance(found, list if kind == "array" else dict) else None
        case "array" if not isinstance(value, list | dict) and value is not None:
            return [value]
        case _:
            return None


def _number(text: str, *, is_whole: bool) -> int | float | None:
    text = text.strip().replace("_", "")
    try:
        if "." not in text and "e" not in text.lower():
            return int(text)
        found = float(text)
    except ValueError:
        return None
    if not math.isfinite(found):
        return None
    return int(found) if is_whole and found.is_integer() else None if is_whole else found


def cast_parameter(one: ToolParameter, value: Any) -> Any:  # noqa: C901  one case a kind
    """A form's value as the parameter says. Raises ToolParameterError."""
    if value is None or value == "":
        if one.default is not None:
            value = one.default
        elif one.required:
            raise ToolParameterError(f"tool parameter {one.name} not found in tool config")
        elif value is None:
            return None
    match one.type:
        case "string" | "secret-input" | "dynamic-select":
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        case "number":
            if isinstance(value, int | float) and not isinstance(value, bool):
                found: Any = value
            elif (found := _number(str(value), is_whole=False)) is None:
                raise ToolParameterError(f"parameter {one.name!r} must be a number, not {str(value)[:40]!r}")
            if (one.min is not None and found < one.min) or (one.max is not None and found > one.max):
                raise ToolParameterError(f"parameter {one.name!r} must lie between {one.min} and {one.max}")
            return found
        case "boolean" | "checkbox":
            return value if isinstance(value, bool) else str(value).strip().lower() in _TRUE
        case "select":
            known = [each.value for each in one.options]
            if known and str(value) not in known:
                raise ToolParameterError(
                    f"parameter {one.name!r} is one of {', '.join(known)}, not {str(value)[:40]!r}"
                )
            return str(value)
        case "array" | "object":
            found = cast_to(value, {"type": one.type})
            if not isinstance(found, list if one.type == "array" else dict):
                raise ToolParameterError(f"parameter {one.name!r} must be an {one.type}, not {str(value)[:40]!r}")
            return found
        case _:
            return value


def cast_all(parameters: Sequence[ToolParameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter's value; those that nobody knows are handed on as they are. Raises ToolParameterError."""
    found = {name: value for name, value in given.items() if name not in {one.name for one in parameters}}
    for one in parameters:
        value = cast_parameter(one, given.get(one.name))
        if value is not None:
            found[one.name] = value
    return found
