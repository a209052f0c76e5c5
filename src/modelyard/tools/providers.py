"""Tool providers that tenants add: HTTP APIs by their description, MCP servers by their address.

What they offer is kept beside the resource, so that listing asks nobody. Programs are never a tenant's to name: a
server over stdio is one that an administrator registered, by its name.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base import computing
from modelyard.base.bodies import BodyError, check_amount
from modelyard.base.errors import ConfigError, InvokeBadRequestError, NotFoundError, suggestion
from modelyard.runtime.sealed_rows import SealedRows
from modelyard.runtime.tenancy import Directory, Known, ToolProvider
from modelyard.storage.kept import Kept
from modelyard.storage.resources import Resources
from modelyard.tools.api import ApiTool, Auth, Tokens
from modelyard.tools.changes import Changes, changes_of, origin_of, origins_of, with_server
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolError,
    ToolInvokeError,
    ToolNotFoundError,
    plain_name,
)
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.client import McpClient, StdioChannel, http_client, listed
from modelyard.tools.openapi import Api, DescriptionError, Operation, manifest_url, parse
from modelyard.transport.egress import Egress

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCOPE = "providers"
_MOST_CACHED = 64
_MOST_DESCRIPTION = 2000


class McpListing(msgspec.Struct, frozen=True, kw_only=True):
    """A server's tools, as they were when it was last asked."""

    version: str
    server: dict[str, Any] = {}
    instructions: str = ""
    tools: list[dict[str, Any]] = []


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored encrypted."""

    auth: Auth = Auth()
    headers: dict[str, str] = {}


class OriginChangedError(ToolError):
    """A description sends calls, and the secret that they carry, to another server than before."""

    code = "origin_changed"

    def __init__(self, name: str, origins: Sequence[str]) -> None:
        named = ", ".join(origins)
        super().__init__(
            f"calls of {name!r}, and its secret, would go to {named} from now on; nothing was sent there and nothing "
            "was changed. Confirm it with 'confirm_origin', or choose a server when the API is added"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioServer:
    """A program that an administrator registered."""

    command: str
    arguments: Sequence[str] = ()
    environ: Mapping[str, str] | None = None


class ToolProviders:
    def __init__(
        self, resources: Resources, directory: Directory, rows: SealedRows, kept: Kept, egress: Egress,
        stdio: Mapping[str, StdioServer] | None = None,
    ) -> None:  # fmt: skip
        self._resources = resources
        self._directory = directory
        self._rows = rows
        self._kept = kept
        self._egress = egress
        self._tokens = Tokens(egress)
        self.stdio = dict(stdio or {})
        self._read: OrderedDict[tuple[str, str], Api | McpListing] = OrderedDict()
        self._clients: dict[tuple[str, str], tuple[tuple[str, str, str], McpClient]] = {}
        """(tenant, row) → the address and the encrypted secret that the client was made with, and the client."""
        self._changes = 0
        """Grows with whatever makes stored descriptions stale: what was fetched before is not remembered after."""
        directory.on_change(self._changed)

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        tenants = {tenant for tenant, kind in touched if kind == ToolProvider.kind}
        if tenants:
            self._changes += 1
        for key in [one for one in self._read if one[0] in tenants]:
            del self._read[key]

    # what there is

    def all(self, tenant: str) -> list[tuple[Known, ToolProvider]]:
        return sorted(self._directory.of(tenant, ToolProvider), key=lambda one: one[0].name)

    def find(self, tenant: str, name: str) -> tuple[Known, ToolProvider]:
        """By id or name. Raises NotFoundError."""
        every = self.all(tenant)
        found = next((one for one in every if name in (one[0].id, one[0].name)), None)
        if found is None:
            hint = suggestion(name, [one.name for one, _ in every], label="there are")
            raise NotFoundError(f"tool provider {name[:80]!r} does not exist; {hint}", code="tool_provider_not_found")
        return found

    async def api(self, tenant: str, row: str) -> Api:
        """What an API's description says. Raises as `content`."""
        found = await self.content(tenant, row, "api")
        return found if isinstance(found, Api) else Api(title="")

    async def listing(self, tenant: str, row: str) -> McpListing:
        """A server's tools as they were accepted. Raises as `content`."""
        found = await self.content(tenant, row, "mcp")
        return found if isinstance(found, McpListing) else McpListing(version="")

    async def content(self, tenant: str, row: str, kind: str) -> Api | McpListing:
        """What a provider offers. Raises NotFoundError, StorageUnavailableError."""
        key = (tenant, row)
        if (known := self._read.get(key)) is not None:
            self._read.move_to_end(key)
            return known
        changes_before = self._changes
        data = await self._kept.get(tenant, _SCOPE, row)
        if data is None:
            raise NotFoundError("what the provider offers is gone", code="tool_provider_not_found")
        made: Api | McpListing = msgspec.json.decode(data, type=Api if kind == "api" else McpListing)
        if self._changes == changes_before:
            self._remember(key, made)
        return made

    def _remember(self, key: tuple[str, str], made: Api | McpListing) -> None:
        self._read[key] = made
        if len(self._read) > _MOST_CACHED:
            self._read.popitem(last=False)

    def secret(self, tenant: str, row: str, stored: ToolProvider) -> Secret:
        if not stored.secret:
            return Secret()
        return msgspec.convert(self._rows.read(tenant, ToolProvider.kind, row, stored.secret), Secret)

    # adding

    async def add_api(
        self, tenant: str, name: str, description: bytes | str = "", *, url: str = "", server: str = "",
        auth: Auth | None = None,
    ) -> tuple[str, Api]:  # fmt: skip
        """By its description, or by the address of one. One of the same name is replaced. Raises DescriptionError,
        EgressError, InvokeBadRequestError."""
        _check_name(name)
        if not description:
            description, url = await self._fetched(url)
        api = await computing.apart(parse, description, url=url)
        if server:
            api = with_server(api, server)
        chosen = auth or Auth()
        if chosen.type == "auto":
            chosen = _by_description(api, chosen)
        stored = ToolProvider(
            type="api", url=url, server=server.rstrip("/"), title=api.title, count=len(api.operations)
        )
        row = await self._keep(tenant, name, stored, Secret(auth=chosen), msgspec.json.encode(api))
        return row, api

    async def _fetched(self, url: str) -> tuple[bytes, str]:
        if not url:
            raise InvokeBadRequestError("give a description, or the address of one")
        for _ in range(2):
            answer = await self._egress.fetch("GET", url, most_bytes=20 << 20)
            if answer.status != 200:
                raise DescriptionError(f"{url[:200]} answers with status {answer.status}")
            if not (following := await computing.apart(manifest_url, answer.body)):
                return answer.body, answer.url
            url = following
        raise DescriptionError("the manifest leads to another manifest")

    async def add_mcp(
        self, tenant: str, name: str, *, url: str = "", stdio: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[str, McpListing]:
        """By its address, or by the name under which an administrator registered its program. Raises McpError,
        ConfigError."""
        _check_name(name)
        if bool(url) == bool(stdio):
            raise InvokeBadRequestError("an MCP server has an address, or is a registered program: give one of both")
        stored = ToolProvider(type="mcp", url=url, stdio=stdio)
        client = self._made(stored, Secret(headers=dict(headers or {})))
        try:
            listing = await _asked(client)
        finally:
            await client.aclose()
        title = str(listing.server.get("title") or listing.server.get("name") or name)[:100]
        stored = msgspec.structs.replace(stored, title=title, count=len(listing.tools))
        row = await self._keep(tenant, name, stored, Secret(headers=dict(headers or {})), msgspec.json.encode(listing))
        return row, listing

    async def refresh(
        self, tenant: str, name: str, *, accept: bool | str = False, confirm_origins: Sequence[str] = ()
    ) -> tuple[Changes, bool]:
        """(what a provider changed since its tools were accepted, whether that was taken now).

        An MCP server is asked anew, an API's description is read anew from where it came. The tools stay as they are
        until the changes are accepted: all with `accept` true, exactly those that were seen with their digest. Raises
        OriginChangedError where calls would go elsewhere and that is not confirmed; nothing is kept then.
        """
        known, stored = self.find(tenant, name)
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
        secret = self.secret(tenant, known.id, stored)
        await self._keep(tenant, known.name, changed, secret, msgspec.json.encode(content))
        return changes, True

    async def _described_anew(self, tenant: str, known: Known, stored: ToolProvider) -> tuple[Api, Changes]:
        if not stored.url:
            raise InvokeBadRequestError(f"{known.name!r} was given as a text: give it anew")
        description, url = await self._fetched(stored.url)
        after = await computing.apart(parse, description, url=url)
        if stored.server:
            after = with_server(after, stored.server)
        before = await self.api(tenant, known.id)
        was = origins_of(before)
        return after, changes_of(
            _operations(before), _operations(after), about_before=_about_api(before), about_after=_about_api(after),
            new_origins=[one for one in origins_of(after) if one not in was],
        )  # fmt: skip

    async def _listed_anew(self, tenant: str, known: Known, stored: ToolProvider) -> tuple[McpListing, Changes]:
        after = await _asked(await self.client(tenant, known.id, stored))
        before = await self.listing(tenant, known.id)
        return after, changes_of(
            {str(one["name"]): one for one in before.tools}, {str(one["name"]): one for one in after.tools},
            about_before={"instructions": before.instructions}, about_after={"instructions": after.instructions},
        )  # fmt: skip

    async def _keep(self, tenant: str, name: str, stored: ToolProvider, secret: Secret, content: bytes) -> str:
        known = next((one for one, _ in self.all(tenant) if one.name == name), None)
        document = msgspec.to_builtins(secret)
        row = await self._rows.keep(tenant, ToolProvider.kind, name, document, stored, id=known.id if known else "")
        await self._kept.put(tenant, _SCOPE, row, content)
        self._changes += 1
        self._read.pop((tenant, row), None)
        await self._drop_client(tenant, row)
        return row

    async def remove(self, tenant: str, name: str) -> None:
        known, _ = self.find(tenant, name)
        await self._resources.remove(tenant, ToolProvider.kind, known.id)
        await self._kept.remove(tenant, _SCOPE, known.id)
        await self._directory.refresh()
        await self._drop_client(tenant, known.id)

    # API extensions: what apps ask before and after a model

    async def add_extension(self, tenant: str, name: str, url: str, key: str = "") -> str:
        """An API that apps' moderation and data come from; it has to answer a ping. Raises ToolInvokeError,
        EgressError."""
        _check_name(name)
        secret = Secret(auth=Auth(type="bearer", value=key))
        told = await self._extension(url, secret, "ping", {})
        if told.get("result") != "pong":
            raise ToolInvokeError(f"{url[:200]} does not answer a ping with pong")
        return await self._keep(tenant, name, ToolProvider(type="extension", url=url), secret, b"{}")

    async def extend(self, tenant: str, name: str, point: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an extension says at a point. Where a tenant has only one, it stands for any name. Raises
        NotFoundError, ToolInvokeError, EgressError."""
        every = [(known, one) for known, one in self.all(tenant) if one.type == "extension"]
        found = next((one for one in every if name in (one[0].id, one[0].name)), None)
        found = found or (every[0] if len(every) == 1 else None)
        if found is None:
            raise NotFoundError(f"API extension {name[:80]!r} does not exist", code="extension_not_found")
        known, stored = found
        return await self._extension(stored.url, self.secret(tenant, known.id, stored), point, params)

    async def _extension(self, url: str, secret: Secret, point: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = [("content-type", "application/json")]
        if secret.auth.value:
            headers.append(("authorization", f"Bearer {secret.auth.value}"))
        body = msgspec.json.encode({"point": point, "params": dict(params)})
        answer = await self._egress.fetch("POST", url, headers=headers, body=body, read=60.0, most_bytes=4 << 20)
        if answer.status >= 300:
            raise ToolInvokeError(f"{url[:200]} answers with status {answer.status}")
        try:
            check_amount(answer.body)
            return msgspec.json.decode(answer.body, type=dict)
        except (BodyError, msgspec.MsgspecError) as error:
            raise ToolInvokeError(f"{url[:200]} answers with no JSON object") from error

    # clients

    def _made(self, stored: ToolProvider, secret: Secret) -> McpClient:
        if stored.stdio:
            program = self.stdio.get(stored.stdio)
            if program is None:
                hint = suggestion(stored.stdio, self.stdio, label="there are")
                raise ConfigError(f"no program is registered as {stored.stdio[:60]!r} under tools.mcp_stdio; {hint}")
            return McpClient(StdioChannel(program.command, program.arguments, program.environ))
        return http_client(self._egress, stored.url, list(secret.headers.items()))

    async def client(self, tenant: str, row: str, stored: ToolProvider) -> McpClient:
        """The client of a provider as it is stored now; what was changed elsewhere is called no more."""
        known = self._clients.get((tenant, row))
        if known is not None and known[0] == _place(stored):
            return known[1]
        await self._drop_client(tenant, row)
        made = self._made(stored, self.secret(tenant, row, stored))
        self._clients[tenant, row] = (_place(stored), made)
        return made

    async def _drop_client(self, tenant: str, row: str) -> None:
        if (known := self._clients.pop((tenant, row), None)) is not None:
            await known[1].aclose()

    async def aclose(self) -> None:
        clients, self._clients = [one for _, one in self._clients.values()], {}
        for one in clients:
            await one.aclose()

    # as sources

    def apis(self) -> _Apis:
        return _Apis(self, self._egress, self._tokens)

    def mcps(self) -> _Mcps:
        return _Mcps(self)


class _Apis:
    def __init__(self, providers: ToolProviders, egress: Egress, tokens: Tokens) -> None:
        self._providers = providers
        self._egress = egress
        self._tokens = tokens
        self._by_name: OrderedDict[tuple[str, str], tuple[Api, Mapping[str, Operation]]] = OrderedDict()
        """(tenant, provider) → what was read of it, and its operations by name."""

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        found: list[ToolEntity] = []
        for known, stored in self._providers.all(tenant):
            if stored.type != "api":
                continue
            api = await self._providers.api(tenant, known.id)
            found += [
                ToolEntity(
                    name=one.name, provider=known.name, kind="api", description=one.description, schema=one.schema
                )
                for one in api.operations
            ]
        return found

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        for known, stored in self._providers.all(tenant):
            if stored.type != "api" or provider not in ("", known.name, known.id):
                continue
            api = await self._providers.api(tenant, known.id)
            operation = self._named(tenant, known.id, api).get(name)
            if operation is not None:
                auth = self._providers.secret(tenant, known.id, stored).auth
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


class _Mcps:
    def __init__(self, providers: ToolProviders) -> None:
        self._providers = providers

    async def _each(self, tenant: str) -> list[tuple[Known, ToolProvider, McpListing]]:
        found: list[tuple[Known, ToolProvider, McpListing]] = []
        for known, stored in self._providers.all(tenant):
            if stored.type == "mcp":
                found.append((known, stored, await self._providers.listing(tenant, known.id)))
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
                return McpTool(self._providers, tenant, known, stored, one)
        raise ToolNotFoundError(f"there is not a tool named {name}")


class McpTool(Tool):
    def __init__(
        self, providers: ToolProviders, tenant: str, known: Known, stored: ToolProvider, listed_as: Mapping[str, Any]
    ) -> None:
        self._providers = providers
        self._tenant = tenant
        self._known = known
        self._stored = stored
        self._name = str(listed_as["name"])
        self.entity = mcp_entity(known.name, listed_as)

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        client = await self._providers.client(self._tenant, self._known.id, self._stored)
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


def _place(stored: ToolProvider) -> tuple[str, str, str]:
    return stored.url, stored.stdio, stored.secret


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


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvokeBadRequestError(
            f"{name[:60]!r} is no name of a tool provider: letters, digits, - and _, at most 64", param="name"
        )
