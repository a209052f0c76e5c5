"""What the providers that tenants added offer, as sources of tools: operations of APIs, and tools of MCP servers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from modelyard.tenancy.directory import Known
from modelyard.tenancy.kinds import ToolProvider
from modelyard.tools.api import ApiTool, Tokens
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolInvokeError,
    ToolNotFoundError,
    plain_name,
)
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.clients import McpClients
from modelyard.tools.openapi import Api, Operation
from modelyard.tools.provider_store import McpListing, ProviderStore
from modelyard.transport.egress import Egress

_MOST_CACHED = 64
_MOST_DESCRIPTION = 2000


class ApiSource:
    """The operations of the APIs that tenants described."""

    def __init__(self, store: ProviderStore, egress: Egress, tokens: Tokens) -> None:
        self._store = store
        self._egress = egress
        self._tokens = tokens
        self._by_name: OrderedDict[tuple[str, str], tuple[Api, Mapping[str, Operation]]] = OrderedDict()
        """(tenant, provider) → what was read of it, and its operations by name."""

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        found: list[ToolEntity] = []
        for known, stored in self._store.all(tenant):
            if stored.type != "api":
                continue
            api = await self._store.api(tenant, known.id)
            found += [
                ToolEntity(
                    name=one.name, provider=known.name, kind="api", description=one.description, schema=one.schema
                )
                for one in api.operations
            ]
        return found

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        for known, stored in self._store.all(tenant):
            if stored.type != "api" or provider not in ("", known.name, known.id):
                continue
            api = await self._store.api(tenant, known.id)
            operation = self._named(tenant, known.id, api).get(name)
            if operation is not None:
                auth = self._store.secret(tenant, known.id, stored).auth
                return ApiTool(
                    operation, provider=known.name, server=api.server, auth=auth, egress=self._egress,
                    tokens=self._tokens, tenant=tenant, row=known.id, title=api.title,
                )  # fmt: skip
        raise ToolNotFoundError(f"there is not a tool named {name}")

    def _named(self, tenant: str, row: str, api: Api) -> Mapping[str, Operation]:
        """By name: a large API has thousands, and whoever lists its tools asks for each."""
        key = (tenant, row)
        known = self._by_name.get(key)
        if known is None or known[0] is not api:
            known = (api, {one.name: one for one in reversed(api.operations)})
            self._by_name[key] = known
            if len(self._by_name) > _MOST_CACHED:
                self._by_name.popitem(last=False)
        return known[1]


class McpSource:
    """The tools of the MCP servers that tenants added."""

    def __init__(self, store: ProviderStore, clients: McpClients) -> None:
        self._store = store
        self._clients = clients

    async def _each(self, tenant: str) -> list[tuple[Known, ToolProvider, McpListing]]:
        found: list[tuple[Known, ToolProvider, McpListing]] = []
        for known, stored in self._store.all(tenant):
            if stored.type == "mcp":
                found.append((known, stored, await self._store.listing(tenant, known.id)))
        return found

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        every = await self._each(tenant)
        return [mcp_entity(known.name, one) for known, _, listing in every for one in listing.tools]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        for known, stored, listing in await self._each(tenant):
            if provider not in ("", known.name, known.id):
                continue
            one = next((each for each in listing.tools if name in (each["name"], plain_name(str(each["name"])))), None)
            if one is not None:
                return McpTool(self._clients, tenant, known, stored, one)
        raise ToolNotFoundError(f"there is not a tool named {name}")


class McpTool(Tool):
    """A tool of a server; calling it asks the server."""

    def __init__(
        self, clients: McpClients, tenant: str, known: Known, stored: ToolProvider, listed_as: Mapping[str, Any]
    ) -> None:
        self._clients = clients
        self._tenant = tenant
        self._known = known
        self._stored = stored
        self._name = str(listed_as["name"])
        self.entity = mcp_entity(known.name, listed_as)

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        client = await self._clients.of(self._tenant, self._known.id, self._stored)
        result = await client.call(self._name, parameters)
        said = list(protocol.messages_of(result))
        if result.get("isError"):
            texts = [
                str(one["message"].get("text") or one["message"]) for one in said if one["type"] in ("text", "json")
            ]
            raise ToolInvokeError("\n".join(texts)[:4000] or "the server says that it failed")
        for one in said:
            yield one


def mcp_entity(provider: str, one: Mapping[str, Any]) -> ToolEntity:
    hints = one.get("annotations")
    is_safe = isinstance(hints, Mapping) and hints.get("readOnlyHint") is True
    return ToolEntity(
        name=plain_name(str(one["name"])), provider=provider, kind="mcp",
        label={"en_US": str(one.get("title") or one["name"])[:100]},
        description=str(one.get("description") or "")[:_MOST_DESCRIPTION],
        schema=protocol.plain_schema(one.get("inputSchema")), is_repeatable=is_safe, seconds=300.0,
    )  # fmt: skip
