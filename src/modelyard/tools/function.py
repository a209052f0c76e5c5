"""`@tool`: a Python function as a tool. Its signature is the schema, its docstring the
description."""

from __future__ import annotations

import asyncio
import inspect
import re
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeGuard, overload

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array, is_mapping
from modelyard.base.struct_types import prepare_struct_types
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
    """A tool that calls a Python function. A plain function runs in a thread, so it may
    block.

    A parameter of the type ToolContext is not shown to the model; the context is passed
    in. The result may be text, any JSON value, a message, a list of messages, or a
    generator of these.
    """

    def __init__(self, function: Callable[..., Any], **entity_fields: Any) -> None:
        self.function = function
        name = entity_fields.pop("name", None) or function.__name__
        summary, descriptions = _parse_docstring(inspect.getdoc(function) or "")
        hints = _type_hints(function, name)
        fields: list[_Field] = []
        self._context = ""
        """Name of the parameter that receives the context; empty if there is none."""
        for parameter in inspect.signature(function).parameters.values():
            if hints.get(parameter.name) is ToolContext:
                self._context = parameter.name
            else:
                fields.append(_argument_field(name, parameter, hints, descriptions))
        # A struct type validates the arguments and generates their schema.
        self._arguments = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True)
        prepare_struct_types(self._arguments)
        try:
            schema = _inline_root(msgspec.json.schema(self._arguments))
        except TypeError as error:
            raise TypeError(
                f"Tool {name!r}: a parameter's type cannot be expressed in JSON: {error}"
            ) from error
        description = entity_fields.pop("description", "") or summary
        fields_of: dict[str, Any] = {
            "kind": "function",
            "provider": "function",
            **entity_fields,
        }
        self.entity = ToolEntity(
            name=name, description=description, schema=schema, **fields_of
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, so that a decorated one can still be used as
        such."""
        return self.function(*args, **kwargs)

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the function and yield its result as messages. Raises ToolParameterError
        or ToolInvokeError."""
        arguments = self._convert_arguments(parameters, context)
        try:
            result = await self._call(arguments)
            if _is_async_iterator(result):
                async for output in result:
                    yield _message(output)
            else:
                for output in _messages(result):
                    yield output
        # Its class says what went wrong, for example with the arguments.
        except ToolError:
            raise
        except ModelyardError as error:
            raise ToolInvokeError(str(error)) from error
        # The function may be third-party code, so every failure becomes a tool error.
        except Exception as error:
            raise ToolInvokeError(f"{type(error).__name__}: {error}") from error

    def _convert_arguments(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> dict[str, Any]:
        """Return the function's keyword arguments, converted to their types. Raises
        ToolParameterError."""
        try:
            # Not strict: models often send numbers as strings.
            read = msgspec.convert(dict(parameters), self._arguments, strict=False)
        except msgspec.ValidationError as error:
            raise ToolParameterError(str(error)) from error
        arguments = {name: getattr(read, name) for name in read.__struct_fields__}
        if self._context:
            arguments[self._context] = context
        return arguments

    async def _call(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function, in a thread if it is a plain one, and await its result if
        it is awaitable."""
        if _is_asynchronous(self.function):
            result = self.function(**arguments)
        else:
            result = await asyncio.to_thread(self.function, **arguments)
        # A plain function may also return a coroutine or an async generator.
        return await result if inspect.isawaitable(result) else result


@overload
def tool(function: Callable[..., Any]) -> FunctionTool:
    """Make a tool of a function."""
    ...


@overload
def tool(**entity_fields: Any) -> Callable[[Callable[..., Any]], FunctionTool]:
    """Return a decorator that makes a tool with the given fields of ToolEntity."""
    ...


def tool(function: Any = None, **entity_fields: Any) -> Any:
    """A function as a tool: `@tool`, or `@tool(needs_approval=True, seconds=5)` with
    fields of ToolEntity.

    @tool def weather(city: str, days: int = 1) -> str:
        \"\"\"The weather of a city.

        city: as "Paris"
        \"\"\"
    """
    if function is not None:
        return FunctionTool(function)

    def decorate(decorated: Callable[..., Any]) -> FunctionTool:
        """Return the decorated function as a tool."""
        return FunctionTool(decorated, **entity_fields)

    return decorate


def as_tool(candidate: Any) -> Tool:
    """Return a tool as it is, or a function as a tool. Raises TypeError for anything
    else."""
    if isinstance(candidate, Tool):
        return candidate
    if callable(candidate):
        return FunctionTool(candidate)
    raise TypeError(f"Expected a function or a Tool, not {type(candidate).__name__}")


_Field = tuple[str, Any] | tuple[str, Any, Any]
"""Field of a struct type: its name, its type, and its default if it has one."""


def _type_hints(function: Callable[..., Any], tool_name: str) -> dict[str, Any]:
    """Return the annotations of a function. Raises TypeError if one refers to an
    unknown name."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"Tool {tool_name!r}: unknown type in an annotation: {error}"
        ) from error


def _argument_field(
    tool_name: str,
    parameter: inspect.Parameter,
    hints: Mapping[str, Any],
    descriptions: Mapping[str, str],
) -> _Field:
    """Return a parameter as a field of the arguments' struct type. Raises TypeError for
    `*args` and `**kwargs`."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(
            f"Tool {tool_name!r} has a variadic parameter *{parameter.name}; models"
            " need named parameters"
        )
    has_default = parameter.default is not parameter.empty
    # Without an annotation, the type of the default is the best guess.
    default: object = parameter.default
    guessed_type = type(default) if has_default else str
    hint = hints.get(parameter.name, guessed_type)
    if description := descriptions.get(parameter.name):
        hint = typing.Annotated[hint, msgspec.Meta(description=description)]
    if has_default:
        return parameter.name, hint, parameter.default
    return parameter.name, hint


def _parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into the description and the parameters' descriptions, from
    `name: text` lines of any usual style."""
    summary: list[str] = []
    descriptions: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip().lower() in (
            "args:",
            "arguments:",
            "parameters:",
            "returns:",
            "raises:",
        ):
            continue
        if match := _ARGUMENT.match(line):
            descriptions[match[1]] = match[2].strip()
        else:
            summary.append(line)
    return "\n".join(summary).strip(), descriptions


def _inline_root(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an object's schema without its `$ref`; definitions that are used elsewhere
    stay in `$defs`."""
    definitions = schema.get("$defs", {})
    # msgspec puts even the top-level object into `$defs`.
    root = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    object_schema: dict[str, Any] = {
        "type": "object",
        "properties": root.get("properties", {}),
    }
    object_schema["required"] = root.get("required", [])
    for name, property_schema in object_schema["properties"].items():
        object_schema["properties"][name] = _optional(property_schema)
    remaining_definitions = {
        name: definition
        for name, definition in definitions.items()
        if definition is not root
    }
    return (
        {**object_schema, "$defs": remaining_definitions}
        if remaining_definitions
        else object_schema
    )


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of `X | None = None` as that of an optional X, which is easier
    for small models."""
    kinds = schema.get("anyOf")
    if not is_array(kinds) or schema.get("default", 0) is not None:
        return schema
    variants = [variant for variant in kinds if variant != {"type": "null"}]
    if len(variants) != 1 or len(variants) == len(kinds):
        return schema
    annotations = {
        name: value
        for name, value in schema.items()
        if name not in ("anyOf", "default")
    }
    return {**variants[0], **annotations}


def _is_async_iterator(result: object) -> TypeGuard[AsyncIterator[Any]]:
    """Return whether a result is streamed asynchronously."""
    return isinstance(result, AsyncIterator)


def _is_iterator(result: object) -> TypeGuard[Iterator[Any]]:
    """Return whether a result is streamed."""
    return isinstance(result, Iterator)


def _messages(result: Any) -> Iterator[Message]:
    """Yield the messages of a function's result; None yields none."""
    # A plain generator is read on the event loop, so it should not block.
    if _is_iterator(result):
        yield from (_message(output) for output in result)
    elif is_array(result) and result and all(_is_message(output) for output in result):
        yield from result
    elif result is not None:
        yield _message(result)


def _is_message(value: Any) -> bool:
    """Return whether a value is a message already."""
    return (
        is_mapping(value) and isinstance(value.get("type"), str) and "message" in value
    )


def _message(value: Any) -> Message:
    """Return a value as a message: text, binary data or JSON."""
    if _is_message(value):
        return value
    if isinstance(value, str):
        return text_message(value)
    if isinstance(value, bytes):
        return {
            "type": "blob",
            "message": {"blob": value},
            "meta": {"mime_type": "application/octet-stream"},
        }
    # Objects that are not JSON values themselves, such as dataclasses, are converted;
    # others become text.
    try:
        plain_value = msgspec.to_builtins(value)
    except (TypeError, ValueError):
        return text_message(str(value))
    return (
        json_message(plain_value)
        if isinstance(plain_value, dict | list)
        else text_message(msgspec.json.encode(plain_value).decode())
    )


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    """Return whether a call of the function does not block: its work is awaited."""
    is_coroutine = inspect.iscoroutinefunction(function)
    return is_coroutine or inspect.isasyncgenfunction(function)
