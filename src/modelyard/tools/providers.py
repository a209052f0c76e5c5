"""Tool providers that tenants add: HTTP APIs by their OpenAPI description, MCP servers
by their URL.

Their tools are stored with the resource, so listing needs no network call. Tenants
cannot specify programs: an MCP server over stdio must have been registered by an
administrator and is referred to by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base import cpu_work
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.resources import Resources
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import ToolProvider
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tools.api import Auth, Tokens
from modelyard.tools.definition_changes import (
    Changes,
    compare,
    origin_of,
    origins_of,
    with_server,
)
from modelyard.tools.entities import ToolError
from modelyard.tools.extensions import ApiExtensions
from modelyard.tools.mcp.client import McpClient, list_tools
from modelyard.tools.mcp.clients import McpClients
from modelyard.tools.mcp.clients import StdioServer as StdioServer
from modelyard.tools.openapi import Api, DescriptionError, manifest_url, parse
from modelyard.tools.provider_store import McpListing, ProviderStore, Secret, check_name
from modelyard.tools.sources import ApiSource, McpSource
from modelyard.transport.egress import EgressClient


class OriginChangedError(ToolError):
    """The new description would send calls, and the secret with them, to a different
    server than before."""

    code = "origin_changed"

    def __init__(self, name: str, origins: Sequence[str]) -> None:
        origin_list = ", ".join(origins)
        super().__init__(
            f"Calls of {name!r}, and its secret, would be sent to {origin_list} from"
            " now on. Nothing was sent there, and nothing was changed. Confirm with"
            " 'confirm_origin', or set a base URL when adding the API"
        )


class ToolProviders:
    """Adds, refreshes and removes tool providers. `store` holds what is stored about
    them."""

    def __init__(
        self,
        resources: Resources,
        directory: Directory,
        rows: SealedRows,
        scoped_store: ScopedStore,
        egress: EgressClient,
        stdio: Mapping[str, StdioServer] | None = None,
    ) -> None:
        self.stdio = dict(stdio or {})
        self.store = ProviderStore(resources, directory, rows, scoped_store)
        self.extensions = ApiExtensions(self.store, egress)
        self._clients = McpClients(self.store, egress, self.stdio)
        self._egress = egress
        self._tokens = Tokens(egress)

    # looking up

    def all(self, tenant: str) -> list[tuple[CachedResource, ToolProvider]]:
        """Return all tool providers of a tenant, sorted by name."""
        return self.store.all(tenant)

    def find(self, tenant: str, name: str) -> tuple[CachedResource, ToolProvider]:
        """Return a provider by id or name. Raises NotFoundError."""
        return self.store.find(tenant, name)

    async def client(
        self, tenant: str, row: str, provider_record: ToolProvider
    ) -> McpClient:
        """Return an MCP client for the provider as it is stored now."""
        return await self._clients.client_for(tenant, row, provider_record)

    def apis(self) -> ApiSource:
        """Return the tool source for APIs."""
        return ApiSource(self.store, self._egress, self._tokens)

    def mcps(self) -> McpSource:
        """Return the tool source for MCP servers."""
        return McpSource(self.store, self._clients)

    # adding

    async def add_api(
        self,
        tenant: str,
        name: str,
        description: bytes | str = "",
        *,
        url: str = "",
        server: str = "",
        auth: Auth | None = None,
    ) -> tuple[str, Api]:
        """Add an API by its description or the URL of one. Replaces a provider of the
        same name.

        Returns (row id, API). Raises DescriptionError, EgressError,
        InvokeBadRequestError.
        """
        check_name(name)
        if not description:
            description, url = await _fetch_description(self._egress, url)
        # Large descriptions take seconds to parse; a thread keeps the event loop free.
        api = await cpu_work.run_in_thread(parse, description, url=url)
        if server:
            api = with_server(api, server)
        effective_auth = auth or Auth()
        # `auto` means: take the scheme from the description.
        if effective_auth.type == "auto":
            effective_auth = _resolve_auth(api, effective_auth)
        provider_record = ToolProvider(
            type="api",
            url=url,
            server=server.rstrip("/"),
            title=api.title,
            count=len(api.operations),
        )
        row = await self.store.save(
            tenant,
            name,
            provider_record,
            Secret(auth=effective_auth),
            msgspec.json.encode(api),
        )
        return row, api

    async def add_mcp(
        self,
        tenant: str,
        name: str,
        *,
        url: str = "",
        stdio: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[str, McpListing]:
        """Add an MCP server by its URL, or by the name under which an administrator
        registered its program.

        Returns (row id, tool listing). Raises McpError, ConfigError,
        InvokeBadRequestError.
        """
        check_name(name)
        # Exactly one of the two must be present.
        if bool(url) == bool(stdio):
            raise InvokeBadRequestError(
                "An MCP server needs either a URL or the name of a registered program"
            )
        provider_record = ToolProvider(type="mcp", url=url, stdio=stdio)
        client = self._clients.new_client(provider_record, headers or {})
        # The client only serves to list the tools here; calls use a shared one.
        try:
            listing = await _list_remote(client)
        finally:
            await client.aclose()
        title = str(listing.server.get("title") or listing.server.get("name") or name)[
            :100
        ]
        provider_record = msgspec.structs.replace(
            provider_record, title=title, count=len(listing.tools)
        )
        secret = Secret(headers=dict(headers or {}))
        row = await self.store.save(
            tenant, name, provider_record, secret, msgspec.json.encode(listing)
        )
        return row, listing

    async def refresh(
        self,
        tenant: str,
        name: str,
        *,
        accept: bool | str = False,
        confirm_origins: Sequence[str] = (),
    ) -> tuple[Changes, bool]:
        """Return (changes since the tools were accepted, whether they are in effect
        now).

        An MCP server is listed again; an API description is fetched again. The tools
        stay as they are until the changes are accepted: with `accept` true all of them,
        with a digest exactly those that were reviewed. Raises OriginChangedError if
        calls would go to a new origin that is not in `confirm_origins`; nothing is
        stored then.
        """
        resource, provider_record = self.store.find(tenant, name)
        if provider_record.type == "extension":
            raise InvokeBadRequestError(
                f"{resource.name!r} is an API extension, which has no tools"
            )
        if provider_record.type == "api":
            content, changes = await self._refetch_description(
                tenant, resource, provider_record
            )
            count = len(content.operations)
        else:
            content, changes = await self._relist_tools(
                tenant, resource, provider_record
            )
            count = len(content.tools)
        # Comparing the digest ensures that what was reviewed is what is accepted, even
        # if the server changed again since.
        is_accepted = accept is True or (bool(accept) and accept == changes.digest)
        if changes.is_empty or not is_accepted:
            return changes, changes.is_empty
        # A new origin would receive the stored secret, so accepting the changes is not
        # enough.
        confirmed = {origin_of(origin) for origin in confirm_origins}
        if any(origin not in confirmed for origin in changes.new_origins):
            raise OriginChangedError(resource.name, changes.new_origins)
        changed = msgspec.structs.replace(provider_record, count=count)
        secret = self.store.secret(tenant, resource.id, provider_record)
        await self.store.save(
            tenant, resource.name, changed, secret, msgspec.json.encode(content)
        )
        return changes, True

    async def _refetch_description(
        self, tenant: str, resource: CachedResource, provider_record: ToolProvider
    ) -> tuple[Api, Changes]:
        """Fetch an API's description again, and compare it with the stored one.

        Nothing is stored. Raises InvokeBadRequestError if the description was supplied
        as text, EgressError or DescriptionError if it cannot be fetched or read.
        """
        if not provider_record.url:
            raise InvokeBadRequestError(
                f"The description of {resource.name!r} was supplied as text, so it"
                " cannot be fetched again; add the API again instead"
            )
        description, url = await _fetch_description(self._egress, provider_record.url)
        new_api = await cpu_work.run_in_thread(parse, description, url=url)
        # A server that the user chose takes precedence over the description's.
        if provider_record.server:
            new_api = with_server(new_api, provider_record.server)
        old_api = await self.store.api(tenant, resource.id)
        old_origins = origins_of(old_api)
        return new_api, compare(
            _operations_by_name(old_api),
            _operations_by_name(new_api),
            about_before=_api_fields(old_api),
            about_after=_api_fields(new_api),
            new_origins=[
                origin for origin in origins_of(new_api) if origin not in old_origins
            ],
        )

    async def _relist_tools(
        self, tenant: str, resource: CachedResource, provider_record: ToolProvider
    ) -> tuple[McpListing, Changes]:
        """List an MCP server's tools again, and compare them with the stored listing.

        Nothing is stored. Raises McpError if the server cannot be listed.
        """
        new_listing = await _list_remote(
            await self._clients.client_for(tenant, resource.id, provider_record)
        )
        old_listing = await self.store.listing(tenant, resource.id)
        return new_listing, compare(
            {str(tool["name"]): tool for tool in old_listing.tools},
            {str(tool["name"]): tool for tool in new_listing.tools},
            about_before={"instructions": old_listing.instructions},
            about_after={"instructions": new_listing.instructions},
        )

    async def remove(self, tenant: str, name: str) -> None:
        """Remove a provider. Raises NotFoundError."""
        await self.store.remove(tenant, name)

    async def aclose(self) -> None:
        """Close all MCP clients."""
        await self._clients.aclose()


async def _fetch_description(egress: EgressClient, url: str) -> tuple[bytes, str]:
    """Download a description. Returns (body, final URL).

    Raises DescriptionError, EgressError, InvokeBadRequestError.
    """
    if not url:
        raise InvokeBadRequestError("An API description or its URL is required")
    # A URL may lead to a plugin manifest, which leads to the description: two requests
    # at most.
    for _ in range(2):
        answer = await egress.fetch("GET", url, max_bytes=20 << 20)
        if answer.status != 200:
            raise DescriptionError(f"{url[:200]} returned status {answer.status}")
        if not (following := await cpu_work.run_in_thread(manifest_url, answer.body)):
            return answer.body, answer.url
        url = following
    raise DescriptionError(
        "The plugin manifest refers to another manifest; expected an API description"
    )


def _operations_by_name(api: Api) -> dict[str, dict[str, Any]]:
    """Return an API's operations as JSON values."""
    return {
        operation.name: msgspec.to_builtins(operation) for operation in api.operations
    }


def _api_fields(api: Api) -> dict[str, Any]:
    """Return the fields that describe an API."""
    return {"title": api.title, "description": api.description, "server": api.server}


async def _list_remote(client: McpClient) -> McpListing:
    """Connect to an MCP server and return its tools and instructions.

    Of each tool only the fields that are compared and shown are kept. Raises McpError.
    """
    await client.connect()
    # Only these fields are compared and shown; servers may add others at any time.
    tools = [
        {
            name: tool[name]
            for name in ("name", "title", "description", "inputSchema", "annotations")
            if name in tool
        }
        async for tool in list_tools(client)
    ]
    return McpListing(
        version=client.version,
        server=dict(client.server),
        instructions=client.instructions,
        tools=tools,
    )


def _resolve_auth(api: Api, auth: Auth) -> Auth:
    """Return the auth that the API's description requires, with the value that the user
    supplied."""
    # Prefer a scheme that an operation really uses; else the first that is defined.
    scheme_name = next(
        (
            name
            for operation in api.operations
            for name in operation.auth
            if name in api.schemes
        ),
        None,
    )
    if scheme_name is None:
        scheme_name = next(iter(api.schemes), None)
    if scheme_name is None:
        return Auth(type="bearer", value=auth.value)
    return Auth.of(api.schemes[scheme_name], auth.value, auth.user)
