"""`ToolManager`: tools by kind, provider and name, for one tenant; and the one way in which each is called."""

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
from modelyard.base.mending import apart
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
from modelyard.tools.observation import Gathering
from modelyard.tools.values import cast_all, fitted_apart, read_arguments

logger = logging.getLogger("modelyard.tools")

_MOST_CACHED = 256
_MOST_CACHED_BYTES = 256 << 10


class ToolSource(Protocol):
    """Where tools of one kind come from."""

    async def tools(self, tenant: str) -> Sequence[ToolEntity]: ...

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Raises ToolNotFoundError."""
        ...


class Tools:
    """A source of tools that are simply there, by provider."""

    def __init__(self, tools: Mapping[str, Sequence[Tool]] | None = None) -> None:
        self._tools: dict[str, dict[str, Tool]] = {}
        for provider, some in (tools or {}).items():
            for one in some:
                self.add(one, provider)

    def add(self, tool: Tool, provider: str = "") -> None:
        self._tools.setdefault(provider, {})[tool.name] = tool

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        del tenant
        return [one.entity for some in self._tools.values() for one in some.values()]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        del tenant
        bare = provider.rpartition("/")[2]
        some = self._tools.get(bare)
        if some is None and bare == "function":  # what the provider of plain functions is called where one is needed
            some = self._tools.get("")
        if some is not None and name in some:
            return some[name]
        raise ToolNotFoundError(f"there is not a tool named {name}")


class ToolRef(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as apps and agents name it."""

    kind: str = "builtin"
    provider: str = ""
    name: str = ""
    credential: str = ""
    settings: dict[str, Any] = {}
    """What the model does not fill in."""
    description: str = ""
    """In the place of the tool's own, for the model."""
    alias: str = ""
    """The name that the model knows it by."""
    needs_approval: bool = False


class Bound(Tool):
    """A tool as one agent has it: under another name, with settings that are no longer the model's to choose."""

    def __init__(self, tool: Tool, ref: ToolRef) -> None:
        self.tool = tool
        self.ref = ref
        entity = tool.entity
        schema = tool.schema
        fixed = {name: value for name, value in ref.settings.items() if value is not None and value != ""}
        if fixed and isinstance(schema.get("properties"), Mapping):
            properties = {name: one for name, one in schema["properties"].items() if name not in fixed}
            required = [name for name in schema.get("required") or () if name not in fixed]
            schema = {**schema, "properties": properties, "required": required}
        self._fixed = fixed
        self.entity = msgspec.structs.replace(
            entity, name=ref.alias or entity.name, description=ref.description or entity.description, schema=schema,
            needs_approval=entity.needs_approval or ref.needs_approval,
        )  # fmt: skip

    def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        given = {**parameters, **self._fixed}
        return self.tool.invoke(given, replace(context, credential=self.ref.credential or context.credential))


@dataclass(slots=True, kw_only=True)
class Observation:
    """What came of a call: `text` is what the model is told, whatever happened."""

    text: str = ""
    error: str = ""
    """Empty where it worked; else in which way it did not: `tool_not_found`, `tool_parameters`, `tool_failed`, …"""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    gathered: Gathering = field(default_factory=Gathering)
    seconds: float = 0.0


class ToolManager:
    def __init__(self) -> None:
        self.functions = Tools()
        """Python functions of whoever runs this process; all tenants have them."""
        self._sources: dict[str, list[ToolSource]] = {"function": [self.functions]}
        self._cache: OrderedDict[bytes, tuple[float, list[Message]]] = OrderedDict()

    def add_source(self, kind: str, source: ToolSource) -> None:
        self._sources.setdefault(kind, []).append(source)

    async def list(self, tenant: str, kind: str = "") -> list[ToolEntity]:
        """A tenant's tools, of one kind or of all. Raises StorageUnavailableError."""
        kinds = [kind] if kind else list(self._sources)
        sources = [source for one in kinds for source in self._sources.get(one, ())]
        tools: list[ToolEntity] = []
        for source in sources:
            tools += await source.tools(tenant)
        return tools

    async def find(self, tenant: str, kind: str, provider: str, name: str) -> Tool:
        """Raises ToolNotFoundError with near names, StorageUnavailableError."""
        kinds = ["builtin", "plugin", "function"] if kind in ("builtin", "plugin", "") else [kind]
        if not kind:
            kinds = [*kinds, *(one for one in self._sources if one not in kinds)]
        for one in kinds:
            for source in self._sources.get(one, ()):
                try:
                    return await source.find(tenant, provider, name)
                except (NotFoundError, ToolNotFoundError):
                    continue
        known = [one.name for each in kinds for one in await self.list(tenant, each)]
        raise ToolNotFoundError(
            f"there is not a tool named {name[:80]}"
            + (f" of the provider {provider[:80]!r}" if provider else "")
            + f"; {suggestion(name, known, label='there are')}"
        )

    async def named(self, tenant: str, name: str) -> Tool:
        """By `name`, `provider/name` or `kind:provider/name`. Raises ToolNotFoundError, StorageUnavailableError."""
        kind, _, rest = name.rpartition(":")
        provider, _, bare = rest.rpartition("/")
        if provider or kind:
            return await self.find(tenant, kind, provider, bare)
        found = [one for one in await self.list(tenant) if one.name == bare]
        if len(found) > 1 and len({one.provider for one in found}) > 1:
            which = ", ".join(f"{one.provider}/{one.name}" for one in found)
            raise ToolNotFoundError(f"several tools are named {bare!r}: {which}")
        if not found:
            return await self.find(tenant, "", "", bare)
        return await self.find(tenant, found[0].kind, found[0].provider, bare)

    async def bind(self, tenant: str, ref: ToolRef) -> Tool:
        """Raises ToolNotFoundError, StorageUnavailableError."""
        return Bound(await self.find(tenant, ref.kind, ref.provider, ref.name), ref)

    # calling

    async def invoke(
        self, tool: Tool, parameters: Mapping[str, Any], context: ToolContext, *, is_form: bool = False
    ) -> AsyncGenerator[Message, None]:
        """A tool's messages, within its time, from the cache where it keeps them. `is_form` where people filled the
        parameters in, not a model. Raises ToolError."""
        entity = tool.entity
        if is_form and entity.parameters:
            given = cast_all(entity.parameters, parameters)
        else:
            given = await fitted_apart(parameters, tool.schema)
        key = _cache_key(tool, given, context) if entity.keeps else b""
        if key and (known := self._cache.get(key)) is not None and known[0] > time.monotonic():
            for one in known[1]:
                yield one
            return
        told: list[Message] = []
        async with aclosing(self._timed(tool, given, context)) as messages:
            async for one in messages:
                if key:
                    told.append(one)
                yield one
        if key and len(str(told)) < _MOST_CACHED_BYTES:
            self._cache[key] = (time.monotonic() + entity.keeps, told)
            if len(self._cache) > _MOST_CACHED:
                self._cache.popitem(last=False)

    @staticmethod
    async def _timed(tool: Tool, given: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        """The deadline counts while the tool works, not while its caller does."""
        left = tool.entity.seconds
        try:
            async with aclosing(tool.invoke(given, context)) as messages:
                while True:
                    began = time.monotonic()
                    try:
                        async with asyncio.timeout(max(0.001, left)):
                            one = await anext(messages)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise ToolInvokeError(f"it took longer than {tool.entity.seconds:g} s") from None
                    left -= time.monotonic() - began
                    yield one
        except ToolError:
            raise
        except ModelyardError as error:
            raise ToolInvokeError(str(error)) from error
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ToolInvokeError(f"{type(error).__name__}: {error}") from error

    async def observe(self, tool: Tool | None, name: str, written: str, context: ToolContext) -> Observation:
        """Call a tool as a model asked for it. Raises nothing but cancellation: what goes wrong is the observation."""
        if tool is None:
            return Observation(text=f"there is not a tool named {name[:200]}", error=ToolNotFoundError.code)
        found = Observation()
        began = time.monotonic()
        try:
            found.arguments = await apart(len(written), read_arguments, written, tool.schema)
            async with aclosing(self.invoke(tool, found.arguments, context)) as messages:
                async for one in messages:
                    found.gathered.take(one)
                    if found.gathered.is_flooded:
                        break
            found.text = found.gathered.text or "The tool said nothing."
        except ModelyardError as error:
            found.text, found.error = told_error(error)
        found.seconds = time.monotonic() - began
        return found


def told_error(error: ModelyardError) -> tuple[str, str]:
    """(what a model is told, in which way it failed)."""
    match error:
        case ToolCredentialsError():
            return f"Please check your tool provider credentials: {error}", error.code
        case ToolNotFoundError():
            return str(error), error.code
        case ToolParameterError():
            return f"tool parameters validation error: {error}, please check your tool parameters", error.code
        case ToolInvokeError():
            return f"tool invoke error: {error}", error.code
        case _:
            return f"unknown error: {error}", error.code


def _cache_key(tool: Tool, given: Mapping[str, Any], context: ToolContext) -> bytes:
    try:
        asked = msgspec.json.encode([
            context.tenant, context.credential, tool.entity.kind, tool.entity.provider, tool.name, dict(given),
        ], order="sorted")  # fmt: skip
    except (TypeError, ValueError):
        return b""
    return hashlib.blake2b(asked, digest_size=16).digest()
