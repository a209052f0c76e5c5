"""Tool providers that tenants add: HTTP APIs by their description, MCP servers by their address.

What they offer is kept beside the resource, so that listing asks nobody. Programs are never a tenant's to name: a
server over stdio is one that an administrator registered, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base import computing
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.kept import Kept
from modelyard.storage.resources import Resources
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import ToolProvider
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tools.api import Auth, Tokens
from modelyard.tools.changes import Changes, changes_of, origin_of, origins_of, with_server
from modelyard.tools.entities import ToolError
from modelyard.tools.extensions import ApiExtensions
from modelyard.tools.mcp.client import McpClient, listed
from modelyard.tools.mcp.clients import McpClients
from modelyard.tools.mcp.clients import StdioServer as StdioServer
from modelyard.tools.openapi import Api, DescriptionError, manifest_url, parse
from modelyard.tools.provider_store import McpListing, ProviderStore, Secret, check_name
from modelyard.tools.sources import ApiSource, McpSource
from modelyard.transport.egress import Egress


class OriginChangedError(ToolError):
    """A description sends calls, and the secret that they carry, to another server than before."""

    code = "origin_changed"

    def __init__(self, name: str, origins: Sequence[str]) -> None:
        named = ", ".join(origins)
        super().__init__(
            f"calls of {name!r}, and its secret, would go to {named} from now on; nothing was sent there and nothing "
            "was changed. Confirm it with 'confirm_origin', or choose a server when the API is added"
        )


class ToolProviders:
    """How providers are added, asked anew and removed; `store` is what is kept of them."""

    def __init__(
        self, resources: Resources, directory: Directory, rows: SealedRows, kept: Kept, egress: Egress,
        stdio: Mapping[str, StdioServer] | None = None,
    ) -> None:  # fmt: skip
        self.stdio = dict(stdio or {})
        self.store = ProviderStore(resources, directory, rows, kept)
        self.extensions = ApiExtensions(self.store, egress)
        self._clients = McpClients(self.store, egress, self.stdio)
        self._egress = egress
        self._tokens = Tokens(egress)

    # what there is

    def all(self, tenant: str) -> list[tuple[Known, ToolProvider]]:
        return self.store.all(tenant)

    def find(self, tenant: str, name: str) -> tuple[Known, ToolProvider]:
        """By id or name. Raises NotFoundError."""
        return self.store.find(tenant, name)

    async def client(self, tenant: str, row: str, stored: ToolProvider) -> McpClient:
        """The client of a provider as it is stored now; what was changed elsewhere is called no more."""
        return await self._clients.of(tenant, row, stored)

    def apis(self) -> ApiSource:
        """The tools of APIs, as a source."""
        return ApiSource(self.store, self._egress, self._tokens)

    def mcps(self) -> McpSource:
        """The tools of MCP servers, as a source."""
        return McpSource(self.store, self._clients)

    # adding

    async def add_api(
        self, tenant: str, name: str, description: bytes | str = "", *, url: str = "", server: str = "",
        auth: Auth | None = None,
    ) -> tuple[str, Api]:  # fmt: skip
        """By its description, or by the address of one. One of the same name is replaced. Raises DescriptionError,
        EgressError, InvokeBadRequestError."""
        check_name(name)
        if not description:
            description, url = await _fetched(self._egress, url)
        api = await computing.apart(parse, description, url=url)
        if server:
            api = with_server(api, server)
        chosen = auth or Auth()
        if chosen.type == "auto":
            chosen = _by_description(api, chosen)
        stored = ToolProvider(
            type="api", url=url, server=server.rstrip("/"), title=api.title, count=len(api.operations)
        )
        row = await self.store.keep(tenant, name, stored, Secret(auth=chosen), msgspec.json.encode(api))
        return row, api

    async def add_mcp(
        self, tenant: str, name: str, *, url: str = "", stdio: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[str, McpListing]:
        """By its address, or by the name under which an administrator registered its program. Raises McpError,
        ConfigError."""
        check_name(name)
        if bool(url) == bool(stdio):
            raise InvokeBadRequestError("an MCP server has an address, or is a registered program: give one of both")
        stored = ToolProvider(type="mcp", url=url, stdio=stdio)
        client = self._clients.made(stored, headers or {})
        try:
            listing = await _asked(client)
        finally:
            await client.aclose()
        title = str(listing.server.get("title") or listing.server.get("name") or name)[:100]
        stored = msgspec.structs.replace(stored, title=title, count=len(listing.tools))
        secret = Secret(headers=dict(headers or {}))
        row = await self.store.keep(tenant, name, stored, secret, msgspec.json.encode(listing))
        return row, listing

    async def refresh(
        self, tenant: str, name: str, *, accept: bool | str = False, confirm_origins: Sequence[str] = ()
    ) -> tuple[Changes, bool]:
        """(what a provider changed since its tools were accepted, whether that was taken now).

        An MCP server is asked anew, an API's description is read anew from where it came. The tools stay as they are
        until the changes are accepted: all with `accept` true, exactly those that were seen with their digest. Raises
        OriginChangedError where calls would go elsewhere and that is not confirmed; nothing is kept then.
        """
        known, stored = self.store.find(tenant, name)
        if stored.type == "extension":
            raise InvokeBadRequestError(f"{known.name!r} is an API extension: it has no tools")
        if stored.type == "api":
            content, changes = await self._described_anew(tenant, known, stored)
            count = len(content.operations)
        else:
            content, changes = await self._listed_anew(tenant, known, stored)
            count = len(content.tools)
        is_accepted = accept is True or (bool(accept) and accept == changes.digest)
        if changes.is_empty or not is_accepted:
            return changes, changes.is_empty
        confirmed = {origin_of(one) for one in confirm_origins}
        if any(one not in confirmed for one in changes.new_origins):
            raise OriginChangedError(known.name, changes.new_origins)
        changed = msgspec.structs.replace(stored, count=count)
        secret = self.store.secret(tenant, known.id, stored)
        await self.store.keep(tenant, known.name, changed, secret, msgspec.json.encode(content))
        return changes, True

    async def _described_anew(self, tenant: str, known: Known, stored: ToolProvider) -> tuple[Api, Changes]:
        if not stored.url:
            raise InvokeBadRequestError(f"{known.name!r} was given as a text: give it anew")
        description, url = await _fetched(self._egress, stored.url)
        after = await computing.apart(parse, description, url=url)
        if stored.server:
            after = with_server(after, stored.server)
        before = await self.store.api(tenant, known.id)
        was = origins_of(before)
        return after, changes_of(
            _operations(before), _operations(after), about_before=_about_api(before), about_after=_about_api(after),
            new_origins=[one for one in origins_of(after) if one not in was],
        )  # fmt: skip

    async def _listed_anew(self, tenant: str, known: Known, stored: ToolProvider) -> tuple[McpListing, Changes]:
        after = await _asked(await self._clients.of(tenant, known.id, stored))
        before = await self.store.listing(tenant, known.id)
        return after, changes_of(
            {str(one["name"]): one for one in before.tools}, {str(one["name"]): one for one in after.tools},
            about_before={"instructions": before.instructions}, about_after={"instructions": after.instructions},
        )  # fmt: skip

    async def remove(self, tenant: str, name: str) -> None:
        """Raises NotFoundError."""
        await self.store.remove(tenant, name)

    async def aclose(self) -> None:
        await self._clients.aclose()


async def _fetched(egress: Egress, url: str) -> tuple[bytes, str]:
    """A description, and where it came from. Raises DescriptionError, EgressError, InvokeBadRequestError."""
    if not url:
        raise InvokeBadRequestError("give a description, or the address of one")
    for _ in range(2):
        answer = await egress.fetch("GET", url, most_bytes=20 << 20)
        if answer.status != 200:
            raise DescriptionError(f"{url[:200]} answers with status {answer.status}")
        if not (following := await computing.apart(manifest_url, answer.body)):
            return answer.body, answer.url
        url = following
    raise DescriptionError("the manifest leads to another manifest")


def _operations(api: Api) -> dict[str, dict[str, Any]]:
    return {one.name: msgspec.to_builtins(one) for one in api.operations}


def _about_api(api: Api) -> dict[str, Any]:
    return {"title": api.title, "description": api.description, "server": api.server}


async def _asked(client: McpClient) -> McpListing:
    await client.connect()
    tools = [
        {name: one[name] for name in ("name", "title", "description", "inputSchema", "annotations") if name in one}
        async for one in listed(client)
    ]
    return McpListing(version=client.version, server=dict(client.server), instructions=client.instructions, tools=tools)


def _by_description(api: Api, given: Auth) -> Auth:
    """What the API asks for, with the value that was given."""
    wanted = next((one for operation in api.operations for one in operation.auth if one in api.schemes), None)
    if wanted is None:
        wanted = next(iter(api.schemes), None)
    if wanted is None:
        return Auth(type="bearer", value=given.value)
    return Auth.of(api.schemes[wanted], given.value, given.user)
