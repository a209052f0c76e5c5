"""`ToolManager`: finds tools by kind, provider and name for a tenant, and calls all of
them in the same way."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError, suggestion
from modelyard.base.json_repair import run_in_thread_if_large
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolCredentialsError,
    ToolEntity,
    ToolError,
    ToolInvokeError,
    ToolNotFoundError,
    ToolParameterError,
)
from modelyard.tools.observation import ToolOutputCollector
from modelyard.tools.values import cast_all, coerce_arguments_async, read_arguments

logger = logging.getLogger("modelyard.tools")

_MAX_CACHED = 256
# Larger results would fill the memory before they save many calls.
_MAX_CACHED_BYTES = 256 << 10


class ToolSource(Protocol):
    """A source of tools of one kind."""

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the tools of a tenant."""
        ...

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return a tool. Raises ToolNotFoundError."""
        ...


class Tools:
    """A source with a fixed set of tools, by provider."""

    def __init__(self, tools: Mapping[str, Sequence[Tool]] | None = None) -> None:
        self._tools: dict[str, dict[str, Tool]] = {}
        for provider, provider_tools in (tools or {}).items():
            for tool in provider_tools:
                self.add(tool, provider)

    def add(self, tool: Tool, provider: str = "") -> None:
        """Add a tool."""
        self._tools.setdefault(provider, {})[tool.name] = tool

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return all tools; every tenant has the same."""
        del tenant
        return [
            tool.entity
            for provider_tools in self._tools.values()
            for tool in provider_tools.values()
        ]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return a tool by provider and name. Raises ToolNotFoundError."""
        del tenant
        # The provider may be written as `author/plugin/provider`.
        provider_name = provider.rpartition("/")[2]
        provider_tools = self._tools.get(provider_name)
        # Plain functions have no provider; `function` is the name used where one is
        # required.
        if provider_tools is None and provider_name == "function":
            provider_tools = self._tools.get("")
        if provider_tools is not None and name in provider_tools:
            return provider_tools[name]
        raise ToolNotFoundError(f"Tool {name!r} not found")


class ToolRef(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to a tool, as apps and agents store it."""

    kind: str = "builtin"
    provider: str = ""
    name: str = ""
    credential: str = ""
    settings: dict[str, Any] = {}
    """The arguments that the model does not choose."""
    description: str = ""
    """Replaces the tool's own description for the model."""
    alias: str = ""
    """The name under which the model sees the tool."""
    needs_approval: bool = False


class BoundTool(Tool):
    """A tool as one agent uses it: possibly renamed, with some arguments fixed."""

    def __init__(self, tool: Tool, ref: ToolRef) -> None:
        self.tool = tool
        self.ref = ref
        entity = tool.entity
        schema = tool.schema
        fixed = {
            name: value
            for name, value in ref.settings.items()
            if value is not None and value != ""
        }
        # Fixed arguments are removed from the schema, so the model neither sees nor
        # sets them.
        if fixed and isinstance(schema.get("properties"), Mapping):
            properties = {
                name: property_schema
                for name, property_schema in schema["properties"].items()
                if name not in fixed
            }
            required = [
                name for name in schema.get("required") or () if name not in fixed
            ]
            schema = {**schema, "properties": properties, "required": required}
        self._fixed = fixed
        self.entity = msgspec.structs.replace(
            entity,
            name=ref.alias or entity.name,
            description=ref.description or entity.description,
            schema=schema,
            needs_approval=entity.needs_approval or ref.needs_approval,
        )

    def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the tool with the fixed arguments added."""
        # Fixed arguments win over anything the model sends under the same name.
        arguments = {**parameters, **self._fixed}
        credential = self.ref.credential or context.credential
        return self.tool.invoke(arguments, replace(context, credential=credential))


@dataclass(slots=True, kw_only=True)
class Observation:
    """The result of a tool call for a model. `text` is what the model receives, even
    after an error."""

    text: str = ""
    error: str = ""
    """Empty on success, else the error code: `tool_not_found`, `tool_parameters`,
    `tool_failed`, and so on."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    gathered: ToolOutputCollector = field(default_factory=ToolOutputCollector)
    seconds: float = 0.0


class ToolManager:
    """Finds, binds and calls tools."""

    def __init__(self) -> None:
        self.functions = Tools()
        """Python functions registered in this process, available to all tenants."""
        self._sources: dict[str, list[ToolSource]] = {"function": [self.functions]}
        self._cache: OrderedDict[bytes, tuple[float, list[Message]]] = OrderedDict()

    def add_source(self, kind: str, source: ToolSource) -> None:
        """Add a source of tools of a kind. Sources are searched in the order in which
        they were added."""
        self._sources.setdefault(kind, []).append(source)

    async def list(self, tenant: str, kind: str = "") -> list[ToolEntity]:
        """Return a tenant's tools of one kind, or of all kinds. Raises
        StorageUnavailableError."""
        kinds = [kind] if kind else list(self._sources)
        tools: list[ToolEntity] = []
        for source_kind in kinds:
            for source in self._sources.get(source_kind, ()):
                tools += await source.tools(tenant)
        return tools

    async def find(self, tenant: str, kind: str, provider: str, name: str) -> Tool:
        """Return a tool. Raises ToolNotFoundError with similar names,
        StorageUnavailableError."""
        # A built-in tool in one app may be a plugin or a function here, so all three
        # kinds are searched.
        kinds = (
            ["builtin", "plugin", "function"]
            if kind in ("builtin", "plugin", "")
            else [kind]
        )
        if not kind:
            kinds = [
                *kinds,
                *(
                    source_kind
                    for source_kind in self._sources
                    if source_kind not in kinds
                ),
            ]
        for source_kind in kinds:
            for source in self._sources.get(source_kind, ()):
                try:
                    return await source.find(tenant, provider, name)
                except (NotFoundError, ToolNotFoundError):
                    continue
        tool_names = [
            tool.name
            for source_kind in kinds
            for tool in await self.list(tenant, source_kind)
        ]
        raise ToolNotFoundError(
            f"Tool {name[:80]!r} not found"
            + (f" in provider {provider[:80]!r}" if provider else "")
            + f"; {suggestion(name, tool_names, label='available:')}"
        )

    async def get_by_name(self, tenant: str, name: str) -> Tool:
        """Return a tool by `name`, `provider/name` or `kind:provider/name`. Raises
        ToolNotFoundError or StorageUnavailableError."""
        kind, _, qualified_name = name.rpartition(":")
        provider, _, tool_name = qualified_name.rpartition("/")
        if provider or kind:
            return await self.find(tenant, kind, provider, tool_name)
        matches = [tool for tool in await self.list(tenant) if tool.name == tool_name]
        # The name is ambiguous only if several providers have it.
        if len(matches) > 1 and len({tool.provider for tool in matches}) > 1:
            candidates = ", ".join(f"{tool.provider}/{tool.name}" for tool in matches)
            raise ToolNotFoundError(
                f"Tool name {tool_name!r} is ambiguous; use one of {candidates}"
            )
        if not matches:
            return await self.find(tenant, "", "", tool_name)
        return await self.find(tenant, matches[0].kind, matches[0].provider, tool_name)

    async def bind_tool(self, tenant: str, ref: ToolRef) -> Tool:
        """Return the tool of a reference with its settings applied. Raises
        ToolNotFoundError or StorageUnavailableError."""
        return BoundTool(await self.find(tenant, ref.kind, ref.provider, ref.name), ref)

    # calling

    async def invoke(
        self,
        tool: Tool,
        parameters: Mapping[str, Any],
        context: ToolContext,
        *,
        is_form: bool = False,
    ) -> AsyncGenerator[Message, None]:
        """Call a tool and stream its messages, within its timeout, and from the cache
        if it allows that. Raises ToolError.

        `is_form` means that a person filled in the parameters, not a model.
        """
        entity = tool.entity
        # Form values are cast to the declared types; a model's arguments are repaired
        # and validated against the schema.
        if is_form and entity.parameters:
            arguments = cast_all(entity.parameters, parameters)
        else:
            arguments = await coerce_arguments_async(parameters, tool.schema)
        key = _cache_key(tool, arguments, context) if entity.cache_seconds else b""
        if (cached_messages := self._cached_messages(key)) is not None:
            for message in cached_messages:
                yield message
            return
        collected: list[Message] = []
        async with aclosing(
            self._invoke_with_timeout(tool, arguments, context)
        ) as messages:
            async for message in messages:
                if key:
                    collected.append(message)
                yield message
        # Reached only if the call has succeeded.
        if key:
            self._cache_messages(key, collected, entity.cache_seconds)

    def _cached_messages(self, key: bytes) -> Sequence[Message] | None:
        """Return the cached messages of a call; None if there are none, if they have
        expired, or if the key is empty."""
        if not key or (cached := self._cache.get(key)) is None:
            return None
        expires_at, messages = cached
        return messages if expires_at > time.monotonic() else None

    def _cache_messages(
        self, key: bytes, messages: list[Message], seconds: float
    ) -> None:
        """Cache the messages of a call, unless they are large."""
        if len(str(messages)) >= _MAX_CACHED_BYTES:
            return
        self._cache[key] = (time.monotonic() + seconds, messages)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)

    @staticmethod
    async def _invoke_with_timeout(
        tool: Tool, arguments: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the tool within its timeout. Only the tool's own time counts, not the
        time its caller takes between messages."""
        remaining_seconds = tool.entity.seconds
        try:
            async with aclosing(tool.invoke(arguments, context)) as messages:
                while True:
                    started_at = time.monotonic()
                    try:
                        async with asyncio.timeout(max(0.001, remaining_seconds)):
                            message = await anext(messages)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise ToolInvokeError(
                            f"Timed out after {tool.entity.seconds:g} s"
                        ) from None
                    remaining_seconds -= time.monotonic() - started_at
                    yield message
        except ToolError:
            raise
        except ModelyardError as error:
            raise ToolInvokeError(str(error)) from error
        # Tools may contain foreign code, so its ordinary failures become tool errors as
        # well.
        except (
            OSError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ) as error:
            raise ToolInvokeError(f"{type(error).__name__}: {error}") from error

    async def observe(
        self, tool: Tool | None, name: str, arguments_json: str, context: ToolContext
    ) -> Observation:
        """Call a tool as a model requested it. Raises nothing but cancellation: an
        error becomes the observation's text."""
        if tool is None:
            return Observation(
                text=f"Tool {name[:200]!r} not found",
                error=ToolNotFoundError.code,
            )
        observation = Observation()
        started_at = time.monotonic()
        try:
            # Models send malformed JSON, which is repaired; a long text is parsed off
            # the event loop.
            observation.arguments = await run_in_thread_if_large(
                len(arguments_json), read_arguments, arguments_json, tool.schema
            )
            async with aclosing(
                self.invoke(tool, observation.arguments, context)
            ) as messages:
                async for message in messages:
                    observation.gathered.add(message)
                    # Further output would not fit into the model's context anyway.
                    if observation.gathered.is_flooded:
                        break
            observation.text = (
                observation.gathered.text or "The tool returned no output."
            )
        except ModelyardError as error:
            observation.text, observation.error = error_for_model(error)
        observation.seconds = time.monotonic() - started_at
        return observation


def error_for_model(error: ModelyardError) -> tuple[str, str]:
    """Return (text for the model, error code) of an error."""
    # The prefix tells the model what it can do: correct its arguments, or report the
    # problem.
    match error:
        case ToolCredentialsError():
            return f"Please check your tool provider credentials: {error}", error.code
        case ToolNotFoundError():
            return str(error), error.code
        case ToolParameterError():
            return (
                f"tool parameters validation error: {error}, please check your tool parameters",
                error.code,
            )
        case ToolInvokeError():
            return f"tool invoke error: {error}", error.code
        case _:
            return f"unknown error: {error}", error.code


def _cache_key(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> bytes:
    """Return the cache key of a call; empty if the arguments cannot be encoded, in
    which case nothing is cached."""
    try:
        key_json = msgspec.json.encode(
            [
                context.tenant,
                context.credential,
                tool.entity.kind,
                tool.entity.provider,
                tool.name,
                dict(arguments),
            ],
            order="sorted",
        )
    except (TypeError, ValueError):
        return b""
    return hashlib.blake2b(key_json, digest_size=16).digest()
