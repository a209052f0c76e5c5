"""`@tool`: a Python function as a tool. Its signature is the schema, its docstring the description."""

from __future__ import annotations

import asyncio
import inspect
import re
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, overload

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolError,
    ToolInvokeError,
    ToolParameterError,
    json_message,
    text_message,
)

_ARGUMENT = re.compile(r"^\s*(?::param\s+)?(\w+)(?:\s*\([^)]*\))?\s*:\s+(.+)$")


class FunctionTool(Tool):
    """Called with what its signature says; a plain function runs in a thread, so that it may wait.

    A parameter of the type ToolContext is not the model's: it is handed in. What comes back may be text, anything that
    JSON can carry, a message or a list of them, or come piece by piece from a generator.
    """

    def __init__(self, function: Callable[..., Any], **about: Any) -> None:
        self.function = function
        name = about.pop("name", None) or function.__name__
        summary, described = _described(inspect.getdoc(function) or "")
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise TypeError(f"the types of tool {name!r} cannot be found: {error}") from error
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        self._context = ""
        for one in inspect.signature(function).parameters.values():
            if hints.get(one.name) is ToolContext:
                self._context = one.name
                continue
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                raise TypeError(f"tool {name!r} takes *{one.name}; models need named parameters")
            hint = hints.get(one.name, str if one.default is one.empty else type(one.default))
            if text := described.get(one.name):
                hint = typing.Annotated[hint, msgspec.Meta(description=text)]
            fields.append((one.name, hint) if one.default is one.empty else (one.name, hint, one.default))
        self._arguments = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True)
        try:
            schema = _inlined(msgspec.json.schema(self._arguments))
        except TypeError as error:
            raise TypeError(f"tool {name!r} takes what JSON cannot carry: {error}") from error
        description = about.pop("description", "") or summary
        fields_of: dict[str, Any] = {"kind": "function", "provider": "function", **about}
        self.entity = ToolEntity(name=name, description=description, schema=schema, **fields_of)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        try:
            read = msgspec.convert(dict(parameters), self._arguments, strict=False)
        except msgspec.ValidationError as error:
            raise ToolParameterError(str(error)) from error
        given = {name: getattr(read, name) for name in read.__struct_fields__}
        if self._context:
            given[self._context] = context
        try:
            if inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function):
                found = self.function(**given)
            else:
                found = await asyncio.to_thread(self.function, **given)
            if inspect.isawaitable(found):
                found = await found
            if isinstance(found, AsyncIterator):
                async for one in found:
                    yield _message(one)
            else:
                for one in _messages(found):
                    yield one
        except ToolError:
            raise
        except ModelyardError as error:
            raise ToolInvokeError(str(error)) from error
        except Exception as error:
            raise ToolInvokeError(f"{type(error).__name__}: {error}") from error


@overload
def tool(function: Callable[..., Any]) -> FunctionTool: ...
@overload
def tool(**about: Any) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(function: Any = None, **about: Any) -> Any:
    """A function as a tool: `@tool`, or `@tool(needs_approval=True, seconds=5)` with fields of ToolEntity.

    @tool
    def weather(city: str, days: int = 1) -> str:
        \"\"\"The weather of a city.

        city: as "Paris"
        \"\"\"
    """
    if function is not None:
        return FunctionTool(function)
    return lambda one: FunctionTool(one, **about)


def as_tool(given: Any) -> Tool:
    """A Tool as it is, a function as one. Raises TypeError."""
    if isinstance(given, Tool):
        return given
    if callable(given):
        return FunctionTool(given)
    raise TypeError(f"{type(given).__name__} is no tool; give a function, or a Tool")


def _described(text: str) -> tuple[str, dict[str, str]]:
    """(the description, what it says of parameters): `name: text` lines of any usual style."""
    summary: list[str] = []
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip().lower() in ("args:", "arguments:", "parameters:", "returns:", "raises:"):
            continue
        if match := _ARGUMENT.match(line):
            found[match[1]] = match[2].strip()
        else:
            summary.append(line)
    return "\n".join(summary).strip(), found


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with its own definitions in place; those that refer to themselves stay apart."""
    named = schema.get("$defs", {})
    root = named.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    found: dict[str, Any] = {"type": "object", "properties": root.get("properties", {})}
    found["required"] = root.get("required", [])
    for name, one in found["properties"].items():
        found["properties"][name] = _optional(one)
    others = {name: one for name, one in named.items() if one is not root}
    return {**found, "$defs": others} if others else found


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """`X | None = None` as an X that may be left out: simpler to read, for small models too."""
    kinds = schema.get("anyOf")
    if not isinstance(kinds, list) or schema.get("default", 0) is not None:
        return schema
    rest = [one for one in kinds if one != {"type": "null"}]
    if len(rest) != 1 or len(rest) == len(kinds):
        return schema
    more = {name: one for name, one in schema.items() if name not in ("anyOf", "default")}
    return {**rest[0], **more}


def _messages(found: Any) -> Iterator[Message]:
    if isinstance(found, Iterator):
        yield from (_message(one) for one in found)
    elif isinstance(found, list) and found and all(_is_message(one) for one in found):
        yield from found
    elif found is not None:
        yield _message(found)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and "message" in value


def _message(value: Any) -> Message:
    if _is_message(value):
        return value
    if isinstance(value, str):
        return text_message(value)
    if isinstance(value, bytes):
        return {"type": "blob", "message": {"blob": value}, "meta": {"mime_type": "application/octet-stream"}}
    try:
        found = msgspec.to_builtins(value)
    except (TypeError, ValueError):
        return text_message(str(value))
    return json_message(found) if isinstance(found, dict | list) else text_message(msgspec.json.encode(found).decode())
