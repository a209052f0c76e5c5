"""Tool sources for the providers that tenants add: operations of HTTP APIs and tools of
MCP servers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from modelyard.base.json_types import is_mapping
from modelyard.tenancy.directory import CachedResource
from modelyard.tenancy.resource_types import ToolProvider
from modelyard.tools.api import ApiTool, Tokens
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolInvokeError,
    ToolNotFoundError,
    model_safe_name,
)
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.clients import McpClients
from modelyard.tools.openapi import Api, Operation
from modelyard.tools.provider_store import McpListing, ProviderStore
from modelyard.transport.egress import EgressClient

_MAX_CACHED = 64
_MAX_DESCRIPTION_CHARS = 2000


class ApiSource:
    """A tool source: the operations of the APIs that a tenant added."""

    def __init__(
        self, store: ProviderStore, egress: EgressClient, tokens: Tokens
    ) -> None:
        self._store = store
        self._egress = egress
        self._tokens = tokens
        self._by_name: OrderedDict[
            tuple[str, str], tuple[Api, Mapping[str, Operation]]
        ] = OrderedDict()
        """(tenant, row id) → (API, its operations by name)."""

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the entities of all API operations of a tenant."""
        entities: list[ToolEntity] = []
        for resource, provider_record in self._store.all(tenant):
            if provider_record.type != "api":
                continue
            api = await self._store.api(tenant, resource.id)
            entities += [
                ToolEntity(
                    name=operation.name,
                    provider=resource.name,
                    kind="api",
                    description=operation.description,
                    schema=operation.schema,
                )
                for operation in api.operations
            ]
        return entities

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return an operation as a tool. An empty `provider` searches all APIs. Raises
        ToolNotFoundError."""
        for resource, provider_record in self._store.all(tenant):
            if provider_record.type != "api" or provider not in (
                "",
                resource.name,
                resource.id,
            ):
                continue
            api = await self._store.api(tenant, resource.id)
            operation = self._operations_by_name(tenant, resource.id, api).get(name)
            if operation is not None:
                auth = self._store.secret(tenant, resource.id, provider_record).auth
                return ApiTool(
                    operation,
                    provider=resource.name,
                    server=api.server,
                    auth=auth,
                    egress=self._egress,
                    tokens=self._tokens,
                    tenant=tenant,
                    row=resource.id,
                    title=api.title,
                )
        raise ToolNotFoundError(f"Tool {name!r} not found")

    def _operations_by_name(
        self, tenant: str, row: str, api: Api
    ) -> Mapping[str, Operation]:
        """Return the operations of an API by name, cached while the API object stays
        the same.

        Large APIs have thousands of operations, and callers look up each of them.
        """
        key = (tenant, row)
        cached = self._by_name.get(key)
        # An API that was reloaded is a new object, so identity tells whether the cache
        # is still valid.
        if cached is None or cached[0] is not api:
            # Reversed, so that the first operation wins if two share a name.
            cached = (
                api,
                {operation.name: operation for operation in reversed(api.operations)},
            )
            self._by_name[key] = cached
            if len(self._by_name) > _MAX_CACHED:
                self._by_name.popitem(last=False)
        return cached[1]


class McpSource:
    """A tool source: the tools of the MCP servers that a tenant added."""

    def __init__(self, store: ProviderStore, clients: McpClients) -> None:
        self._store = store
        self._clients = clients

    async def _mcp_providers(
        self, tenant: str
    ) -> list[tuple[CachedResource, ToolProvider, McpListing]]:
        """Return a tenant's MCP servers, each with its stored tool listing."""
        providers: list[tuple[CachedResource, ToolProvider, McpListing]] = []
        for resource, provider_record in self._store.all(tenant):
            if provider_record.type == "mcp":
                providers.append(
                    (
                        resource,
                        provider_record,
                        await self._store.listing(tenant, resource.id),
                    )
                )
        return providers

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the entities of all MCP tools of a tenant, from the stored listings."""
        providers = await self._mcp_providers(tenant)
        return [
            mcp_entity(resource.name, tool)
            for resource, _, listing in providers
            for tool in listing.tools
        ]

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return an MCP tool by its name or its model-safe name. Raises
        ToolNotFoundError."""
        for resource, provider_record, listing in await self._mcp_providers(tenant):
            if provider not in ("", resource.name, resource.id):
                continue
            # Models only see the safe name, while users may specify the server's own.
            tool = next(
                (
                    candidate
                    for candidate in listing.tools
                    if name
                    in (candidate["name"], model_safe_name(str(candidate["name"])))
                ),
                None,
            )
            if tool is not None:
                return McpTool(self._clients, tenant, resource, provider_record, tool)
        raise ToolNotFoundError(f"Tool {name!r} not found")


class McpTool(Tool):
    """One tool of an MCP server; calling it sends a request to the server."""

    def __init__(
        self,
        clients: McpClients,
        tenant: str,
        resource: CachedResource,
        provider_record: ToolProvider,
        listed_as: Mapping[str, Any],
    ) -> None:
        self._clients = clients
        self._tenant = tenant
        self._resource = resource
        self._provider_record = provider_record
        self._name = str(listed_as["name"])
        self.entity = mcp_entity(resource.name, listed_as)

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the tool on its server and yield the result as messages. Raises
        ToolInvokeError, McpError."""
        client = await self._clients.client_for(
            self._tenant, self._resource.id, self._provider_record
        )
        result = await client.call(self._name, parameters)
        messages = list(protocol.messages_of(result))
        # MCP reports a tool's failure inside a successful response.
        if result.get("isError"):
            texts = [
                str(message["message"].get("text") or message["message"])
                for message in messages
                if message["type"] in ("text", "json")
            ]
            raise ToolInvokeError(
                "\n".join(texts)[:4000] or "The tool failed without a message"
            )
        for message in messages:
            yield message


def mcp_entity(provider: str, listed_tool: Mapping[str, Any]) -> ToolEntity:
    """Build a tool entity from an entry of a server's `tools/list` result."""
    hints = listed_tool.get("annotations")
    # Only a tool that is declared read-only may be called again after a crash.
    is_safe = is_mapping(hints) and hints.get("readOnlyHint") is True
    return ToolEntity(
        name=model_safe_name(str(listed_tool["name"])),
        provider=provider,
        kind="mcp",
        label={"en_US": str(listed_tool.get("title") or listed_tool["name"])[:100]},
        description=str(listed_tool.get("description") or "")[:_MAX_DESCRIPTION_CHARS],
        schema=protocol.object_schema(listed_tool.get("inputSchema")),
        is_repeatable=is_safe,
        seconds=300.0,
    )
