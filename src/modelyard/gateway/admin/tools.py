"""/admin/tools and /admin/tool-providers: what models may be given, tried; APIs and MCP servers added and removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need, wrong
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.tools.api import Auth
from modelyard.tools.entities import ToolContext, ToolEntity, schema_of
from modelyard.tools.manager import ToolManager
from modelyard.tools.openapi import Api
from modelyard.tools.providers import ToolProviders


@dataclass(frozen=True, slots=True)
class ListRoute:
    manager: ToolManager

    async def __call__(self, request: Request) -> Reply:
        found = await self.manager.list(request.tenant, request.query("kind") or "")
        return json_reply({"data": [{**msgspec.to_builtins(one), "schema": _schema(one)} for one in found]})


def _schema(one: ToolEntity) -> Mapping[str, Any]:
    """What a tool may be told by whoever tries it: the model's parameters, and those of a form."""
    if one.schema is not None:
        return one.schema
    return schema_of([msgspec.structs.replace(each, form="llm") for each in one.parameters])


@dataclass(frozen=True, slots=True)
class CallRoute:
    """Try a tool: its text as a model would be told it, beside values and files."""

    manager: ToolManager

    async def __call__(self, request: Request) -> Reply:
        body = await request.json()
        tool = await self.manager.named(request.tenant, need(body, "tool", str))
        arguments = may(body, "arguments", dict) or {}
        context = ToolContext(
            tenant=request.tenant, user=request.caller.user or "", app="admin",
            credential=may(body, "credential", str) or "",
        )  # fmt: skip
        calling = self.manager.observe(tool, tool.name, msgspec.json.encode(arguments).decode(), context)
        found = await request.while_here(calling)
        return json_reply({
            "text": found.text, "error": found.error or None, "values": found.gathered.values,
            "variables": found.gathered.variables, "seconds": round(found.seconds, 6),
            "files": [{"mime_type": one.mime_type, "bytes": len(one.data)} for one in found.gathered.blobs],
        })  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProvidersRoute:
    providers: ToolProviders

    async def __call__(self, request: Request) -> Reply:
        tenant = request.tenant
        if request.method == "GET":
            return json_reply({"data": [_shown(known, one) for known, one in self.providers.all(tenant)]})
        body = await request.json()
        name, kind = need(body, "name", str), need(body, "type", str)
        if kind == "mcp":
            headers = may(body, "headers", dict) or {}
            row, listing = await self.providers.add_mcp(
                tenant, name, url=may(body, "url", str) or "", stdio=may(body, "stdio", str) or "",
                headers={str(key): str(value) for key, value in headers.items()},
            )  # fmt: skip
            more: Mapping[str, Any] = {"version": listing.version, "tools": [one["name"] for one in listing.tools]}
        elif kind == "api":
            auth = _auth(may(body, "auth", dict))
            row, api = await self.providers.add_api(
                tenant, name, _text(body.get("description")), url=may(body, "url", str) or "",
                server=may(body, "server", str) or "", auth=auth,
            )  # fmt: skip
            more = _api(api)
        elif kind == "extension":
            row = await self.providers.extensions.add(tenant, name, need(body, "url", str), may(body, "key", str) or "")
            more = {}
        else:
            raise InvokeBadRequestError(f"type {kind[:40]!r} is none; api, mcp and extension are", param="type")
        known, stored = self.providers.find(tenant, row)
        return json_reply({**_shown(known, stored), **more}, status=201)


@dataclass(frozen=True, slots=True)
class ProviderRoute:
    providers: ToolProviders

    async def __call__(self, request: Request) -> Reply:
        rest = request.path.rstrip("/").removeprefix("/admin/tool-providers/")
        name, _, verb = rest.partition("/")
        if request.method == "DELETE" and not verb:
            await self.providers.remove(request.tenant, name)
            return Reply(b"", status=204)
        more: dict[str, Any] = {}
        if request.method == "POST" and verb == "refresh":
            more = await self._refresh(request, name)
        known, stored = self.providers.find(request.tenant, name)
        if stored.type == "extension":
            return json_reply(_shown(known, stored))
        content = await self.providers.store.content(request.tenant, known.id, stored.type)
        offered = _api(content) if isinstance(content, Api) else {"tools": [one["name"] for one in content.tools]}
        return json_reply({**_shown(known, stored), **offered, **more})

    async def _refresh(self, request: Request, name: str) -> dict[str, Any]:
        """`accept`: true, or the digest of the changes that were shown. `confirm_origin`: one, or a list of them."""
        data = await request.body()
        body = read_json(data) if data else {}
        accept = body.get("accept") or False
        if not isinstance(accept, bool | str):
            raise wrong("accept", accept, "true, or the digest of the changes that were shown")
        confirmed = body.get("confirm_origin") or []
        origins = [confirmed] if isinstance(confirmed, str) else confirmed
        if not isinstance(origins, list) or not all(isinstance(one, str) for one in origins):
            raise wrong("confirm_origin", confirmed, "the address of a server, or a list of them")
        changes, is_accepted = await self.providers.refresh(
            request.tenant, name, accept=accept, confirm_origins=origins
        )
        return {"changes": changes, "accepted": is_accepted}


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
