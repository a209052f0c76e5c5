"""Schemas of functions in the dialect of the target.

Every vendor wants an object at the top, without alternatives; OpenAI also its properties,
and the element type of every list. Google's JSON schema lacks some keywords; they are
rewritten or, as a last resort, told in the description.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_object
from modelyard.models.messages import PromptMessageTool
from modelyard.models.types import JSON
from modelyard.providers.adaptation.draft import Draft
from modelyard.wire import gemini

# Code that walks a schema recursively must not exhaust the stack.
_MAX_DEPTH = 64
# Most vendors refuse these at the top level of a schema.
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
# Keywords whose value is a schema, a list of schemas, or schemas by name.
_SCHEMA_KEYS = ("items", "additionalProperties", "not", "contains", "propertyNames")
# Keys whose value is a list of schemas.
_LIST_KEYS = ("anyOf", "oneOf", "allOf", "prefixItems")
# Keys whose value has a schema for each name.
_MAP_KEYS = ("properties", "$defs", "definitions", "patternProperties")
# Source: `responseJsonSchema` in Google's reference of generateContent.
_GOOGLE_KEYS = frozenset(
    {
        "$id",
        "$defs",
        "$ref",
        "$anchor",
        "definitions",
        "type",
        "format",
        "enum",
        "title",
        "description",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "default",
        "anyOf",
        "oneOf",
        "properties",
        "additionalProperties",
        "required",
        "propertyOrdering",
        "nullable",
        "minProperties",
        "maxProperties",
    }
)


def adapt_schemas(draft: Draft) -> None:
    """Rewrite the schemas of functions that the target would refuse."""
    tools = [_accepted_tool(tool, draft) for tool in draft.request.tools]
    if tools != draft.request.tools:
        draft.change(tools=tools)


def _accepted_tool(tool: PromptMessageTool, draft: Draft) -> PromptMessageTool:
    """Return a function with a schema that the target takes."""
    # The caller wrote it for this format; only alternatives at the top are refused.
    if draft.is_same_format and tool.parameters.keys().isdisjoint(_ALTERNATIVES):
        return tool
    return _adapted(tool, draft.target.format)


def _adapted(tool: PromptMessageTool, target_format: str) -> PromptMessageTool:
    """Return a tool whose schema the target accepts."""
    if tool.type != "function" or not tool.parameters:
        return tool
    # The schema came in Google's own dialect and is sent as it came.
    if target_format == gemini.FORMAT and "parameters" in tool.extra.get(
        gemini.FORMAT, {}
    ):
        return tool
    schema = with_object_on_top(tool.parameters)
    schema = _complete(
        schema,
        is_google=target_format == gemini.FORMAT,
        depth=0,
    )
    if schema == tool.parameters:
        return tool
    return msgspec.structs.replace(tool, parameters=schema)


def with_object_on_top(schema: JSON) -> JSON:
    """Return a schema of an object without alternatives on its top level.

    Their properties are joined. What all alternatives require stays required.
    """
    joined = dict(schema)
    for keyword in _ALTERNATIVES:
        branches = list(_objects(joined.pop(keyword, None)))
        _join(
            joined,
            [_resolved(branch, schema) for branch in branches],
            keyword,
        )
    joined["type"] = "object"
    properties: Any = joined.get("properties")
    joined["properties"] = properties if is_object(properties) else {}
    return joined


def _resolved(branch: JSON, root: JSON) -> JSON:
    """Return a branch, or what its reference to a definition of the schema means."""
    reference: Any = branch.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return branch
    definition: Any = root
    for step in reference[2:].split("/"):
        definition = definition.get(step) if is_object(definition) else None
    return dict(definition) if is_object(definition) else branch


def _join(joined: JSON, branches: list[JSON], keyword: str) -> None:
    """Join the properties of some branches into a schema."""
    if not branches:
        return
    properties: JSON = joined.get("properties") or {}
    for branch in branches:
        # In this order, so that the schema's own properties and earlier ones win.
        properties = {**(branch.get("properties") or {}), **properties}
    # All parts of `allOf` hold; of alternatives only what every one demands.
    combine = set[str].union if keyword == "allOf" else set[str].intersection
    required = combine(*[_required(branch) for branch in branches]) | _required(joined)
    joined["properties"] = properties
    if required:
        joined["required"] = [name for name in properties if name in required]


def _required(schema: JSON) -> set[str]:
    """Return the names of the properties that a schema demands."""
    return {str(name) for name in schema.get("required") or ()}


def _complete(schema: Any, *, is_google: bool, depth: int) -> Any:
    """Return a schema at any depth with what the target requires."""
    if isinstance(schema, bool):
        # Neither dialect has the short forms for "anything" and "nothing".
        return {} if schema else {"not": {}}
    if not is_object(schema) or depth > _MAX_DEPTH:
        return schema
    complete: JSON = {
        keyword: _complete_keyword(
            keyword,
            value,
            is_google=is_google,
            depth=depth + 1,
        )
        for keyword, value in schema.items()
    }
    # OpenAI and Google refuse a list whose elements are not described.
    if _is_list(complete) and "items" not in complete:
        complete["items"] = {}
    return _in_google_dialect(complete) if is_google else complete


def _complete_keyword(keyword: str, value: Any, *, is_google: bool, depth: int) -> Any:
    """Return the value of a keyword with its inner schemas completed."""
    if keyword in _MAP_KEYS and is_object(value):
        return {
            name: _complete(inner, is_google=is_google, depth=depth)
            for name, inner in value.items()
        }
    # Alternatives are schemas of their own.
    if keyword in _LIST_KEYS and is_array(value):
        return [_complete(each, is_google=is_google, depth=depth) for each in value]
    # `additionalProperties: false` is valid as it is.
    if keyword == "items" or (keyword in _SCHEMA_KEYS and is_object(value)):
        return _complete(value, is_google=is_google, depth=depth)
    return value


def _is_list(schema: JSON) -> bool:
    """Return whether a schema describes a list."""
    schema_type: Any = schema.get("type")
    is_one_of_several = isinstance(schema_type, list) and "array" in schema_type
    return schema_type == "array" or is_one_of_several


def _in_google_dialect(schema: JSON) -> JSON:
    """Return a schema with Google's keywords alone."""
    dialect = dict(schema)
    # One allowed value is a list of one.
    if "const" in dialect:
        dialect["enum"] = [dialect.pop("const")]
    # A limit that is a little too wide is better than none.
    for exclusive, inclusive in (
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ):
        if isinstance(limit := dialect.get(exclusive), int | float):
            dialect.setdefault(inclusive, limit)
    for branch in _objects(dialect.pop("allOf", None)):
        dialect = {
            **branch,
            **dialect,
            **_joined_properties(branch, dialect),
        }
    return _with_told_keywords(dialect)


def _with_told_keywords(dialect: JSON) -> JSON:
    """Return a schema without the keywords that Google refuses; its description tells
    the model what they demand."""
    lost = [key for key in dialect if key not in _GOOGLE_KEYS and key[0] != "$"]
    told = {key: value for key, value in dialect.items() if key in _GOOGLE_KEYS}
    if lost:
        note = ", ".join(f"{key}: {dialect[key]}" for key in lost)
        told["description"] = f"{dialect.get('description') or ''} ({note})".strip()
    return told


def _objects(values: Any) -> Iterable[JSON]:
    """Yield the objects of a list."""
    for item in values if is_array(values) else ():
        # Anything else is no schema, and nothing can be joined with it.
        if is_object(item):
            yield dict(item)


def _joined_properties(first: JSON, second: JSON) -> JSON:
    """Return the properties and the required names of two schemas."""
    joined: JSON = {}
    for keyword in ("properties", "$defs"):
        if keyword in first and keyword in second:
            joined[keyword] = {**first[keyword], **second[keyword]}
    if "required" in first and "required" in second:
        joined["required"] = list(
            dict.fromkeys([*first["required"], *second["required"]])
        )
    return joined
