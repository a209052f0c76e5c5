"""/admin/tools and /admin/tool-providers: what models may be given, tried; APIs and MCP servers added and removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need, wrong
from modelyard.gateway.admin.plugin_shapes import BlobShown, ToolTried
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.models.types import JSON
from modelyard.tools.api import Auth
from modelyard.tools.entities import ToolContext, ToolEntity, schema_of
from modelyard.tools.manager import ToolManager
from modelyard.tools.openapi import Api
from modelyard.tools.providers import ToolProviders


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """What models may be given, and how it does when it is tried."""

    manager: ToolManager

    async def listed(self, request: Request) -> Reply:
        """All, or those of one `kind`, with what each may be told."""
        offered = await self.manager.list(request.tenant, request.query("kind") or "")
        return json_reply({"data": [msgspec.structs.replace(tool, schema=_schema(tool)) for tool in offered]})

    async def call(self, request: Request) -> Reply:
        """Try one: its text as a model would be told it, beside values and files. Raises InvokeBadRequestError,
        ToolNotFoundError."""
        body = await request.json()
        tool = await self.manager.named(request.tenant, need(body, "tool", str))
        arguments = may(body, "arguments", dict) or {}
        context = ToolContext(
            tenant=request.tenant, user=request.caller.user or "", app="admin",
            credential=may(body, "credential", str) or "",
        )  # fmt: skip
        calling = self.manager.observe(tool, tool.name, msgspec.json.encode(arguments).decode(), context)
        observed = await request.while_here(calling)
        files = [BlobShown(mime_type=blob.mime_type, bytes=len(blob.data)) for blob in observed.gathered.blobs]
        tried = ToolTried(
            text=observed.text, error=observed.error or None, values=observed.gathered.values,
            variables=observed.gathered.variables, seconds=round(observed.seconds, 6), files=files,
        )  # fmt: skip
        return json_reply(tried)


def _schema(one: ToolEntity) -> Mapping[str, Any]:
    """What a tool may be told by whoever tries it: the model's parameters, and those of a form."""
    if one.schema is not None:
        return one.schema
    return schema_of([msgspec.structs.replace(each, form="llm") for each in one.parameters])


@dataclass(frozen=True, slots=True)
class AddedProviders:
    """Tool providers that a tenant added: APIs, MCP servers, extensions."""

    providers: ToolProviders

    async def listed(self, request: Request) -> Reply:
        """By name."""
        return json_reply({"data": [_shown(known, stored) for known, stored in self.providers.all(request.tenant)]})

    async def add(self, request: Request) -> Reply:
        """What it offers is read at once. Raises InvokeBadRequestError, DescriptionError, ToolError."""
        tenant, body = request.tenant, await request.json()
        name, kind = need(body, "name", str), need(body, "type", str)
        adders = {"api": self._add_api, "mcp": self._add_mcp, "extension": self._add_extension}
        if kind not in adders:
            raise InvokeBadRequestError(f"type {kind[:40]!r} is none; api, mcp and extension are", param="type")
        row, offered = await adders[kind](tenant, name, body)
        known, stored = self.providers.find(tenant, row)
        return json_reply({**_shown(known, stored), **offered}, status=201)

    async def _add_api(self, tenant: str, name: str, body: JSON) -> tuple[str, JSON]:
        """(its row, what it offers)."""
        row, api = await self.providers.add_api(
            tenant, name, _text(body.get("description")), url=may(body, "url", str) or "",
            server=may(body, "server", str) or "", auth=_auth(may(body, "auth", dict)),
        )  # fmt: skip
        return row, _api(api)

    async def _add_mcp(self, tenant: str, name: str, body: JSON) -> tuple[str, JSON]:
        headers = may(body, "headers", dict) or {}
        row, listing = await self.providers.add_mcp(
            tenant, name, url=may(body, "url", str) or "", stdio=may(body, "stdio", str) or "",
            headers={str(key): str(value) for key, value in headers.items()},
        )  # fmt: skip
        return row, {"version": listing.version, "tools": [tool["name"] for tool in listing.tools]}

    async def _add_extension(self, tenant: str, name: str, body: JSON) -> tuple[str, JSON]:
        row = await self.providers.extensions.add(tenant, name, need(body, "url", str), may(body, "key", str) or "")
        return row, {}

    async def one(self, request: Request) -> Reply:
        """With what it offers. Raises NotFoundError."""
        return json_reply(await self._detail(request.tenant, request.names["id"]))

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        await self.providers.remove(request.tenant, request.names["id"])
        return Reply(b"", status=204)

    async def refresh(self, request: Request) -> Reply:
        """What changed at the provider, and whether that was taken.

        `accept`: true, or the digest of the changes that were shown. `confirm_origin`: one, or a list of them. Raises
        NotFoundError, InvokeBadRequestError, OriginChangedError.
        """
        accept, origins = _accepted(await request.body())
        name = request.names["id"]
        changes, is_accepted = await self.providers.refresh(
            request.tenant, name, accept=accept, confirm_origins=origins
        )
        detail = await self._detail(request.tenant, name)
        return json_reply({**detail, "changes": changes, "accepted": is_accepted})

    async def _detail(self, tenant: str, name: str) -> JSON:
        known, stored = self.providers.find(tenant, name)
        if stored.type == "extension":
            return _shown(known, stored)
        content = await self.providers.store.content(tenant, known.id, stored.type)
        offered = _api(content) if isinstance(content, Api) else {"tools": [tool["name"] for tool in content.tools]}
        return {**_shown(known, stored), **offered}


def _accepted(data: bytes) -> tuple[bool | str, list[str]]:
    """What is accepted of the changes, and to which servers calls may go. Raises InvokeBadRequestError."""
    body = read_json(data) if data else {}
    accept = body.get("accept") or False
    if not isinstance(accept, bool | str):
        raise wrong("accept", accept, "true, or the digest of the changes that were shown")
    confirmed = body.get("confirm_origin") or []
    origins = [confirmed] if isinstance(confirmed, str) else confirmed
    if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
        raise wrong("confirm_origin", confirmed, "the address of a server, or a list of them")
    return accept, origins


def _shown(known: Any, stored: Any) -> dict[str, Any]:
    return {
        "id": known.id, "name": known.name, "type": stored.type, "title": stored.title, "url": stored.url,
        "chosen_server": stored.server or None, "stdio": stored.stdio or None, "count": stored.count,
    }  # fmt: skip


def _api(api: Api) -> dict[str, Any]:
    return {
        "server": api.server, "tools": [one.name for one in api.operations], "left_out": api.left_out,
        "schemes": {name: one.type for name, one in api.schemes.items()},
    }  # fmt: skip


def _text(value: Any) -> str | bytes:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value)


def _auth(given: Any) -> Auth | None:
    if given is None:
        return None
    try:
        return msgspec.convert(given, Auth)
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(f"auth: {error}", param="auth") from error
