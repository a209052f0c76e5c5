"""/admin/tools and /admin/tool-providers: list and try tools; add, refresh and remove
APIs, MCP servers and extensions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import invalid_field, optional_field, required_field
from modelyard.base.json_types import is_array
from modelyard.gateway.admin.plugin_shapes import BlobView, ToolCallResult
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.models.types import JSON
from modelyard.tools.api import Auth
from modelyard.tools.entities import ToolContext, ToolEntity, schema_of
from modelyard.tools.manager import BoundTool, ToolManager, ToolRef
from modelyard.tools.openapi import Api
from modelyard.tools.providers import ToolProviders


@dataclass(frozen=True, slots=True)
class ToolsRoute:
    """Routes that list the tools of a tenant and call one for a test."""

    manager: ToolManager

    async def listed(self, request: Request) -> Reply:
        """List all tools, or those of one `kind`, with the schema of their arguments."""
        offered = await self.manager.list(request.tenant, request.query("kind") or "")
        return json_reply(
            {
                "data": [
                    msgspec.structs.replace(tool, schema=_schema(tool))
                    for tool in offered
                ]
            }
        )

    async def call(self, request: Request) -> Reply:
        """Call a tool and return the text that a model would receive, with its values
        and files.

        Raises InvokeBadRequestError, ToolNotFoundError.
        """
        body = await request.json()
        tool = await self.manager.get_by_name(
            request.tenant, required_field(body, "tool", str)
        )
        arguments = dict(optional_field(body, "arguments", dict) or {})
        context = ToolContext(
            tenant=request.tenant,
            user=request.caller.user or "",
            app="admin",
            credential=optional_field(body, "credential", str) or "",
        )
        # A person fills in what the model does not see; unknown names are refused as
        # the model's are.
        hidden = {
            parameter.name
            for parameter in tool.entity.parameters
            if parameter.name not in (tool.schema.get("properties") or {})
        }
        form_values = {name: arguments.pop(name) for name in hidden & arguments.keys()}
        if form_values:
            tool = BoundTool(tool, ToolRef(name=tool.name, settings=form_values))
        # `observe` runs the tool like an agent does, so a failure is part of the
        # result.
        calling = self.manager.observe(
            tool, tool.name, msgspec.json.encode(arguments).decode(), context
        )
        observed = await request.cancel_on_disconnect(calling)
        files = [
            BlobView(mime_type=blob.mime_type, bytes=len(blob.data))
            for blob in observed.gathered.blobs
        ]
        result = ToolCallResult(
            text=observed.text,
            error=observed.error or None,
            values=observed.gathered.values,
            variables=observed.gathered.variables,
            seconds=round(observed.seconds, 6),
            files=files,
        )
        return json_reply(result)


def _schema(tool: ToolEntity) -> Mapping[str, Any]:
    """Return the JSON schema of all arguments of a tool: those of the model and those
    of its form."""
    if tool.schema is not None:
        return tool.schema
    # Form parameters are normally hidden from the schema; here a person fills them in.
    return schema_of(
        [
            msgspec.structs.replace(parameter, form="llm")
            for parameter in tool.parameters
        ]
    )


@dataclass(frozen=True, slots=True)
class ToolProvidersRoute:
    """Routes for the tool providers that a tenant added: APIs, MCP servers, extensions."""

    providers: ToolProviders

    async def listed(self, request: Request) -> Reply:
        """List the tool providers by name."""
        provider_views = [
            _provider_fields(resource, provider_record)
            for resource, provider_record in self.providers.all(request.tenant)
        ]
        return json_reply({"data": provider_views})

    async def add(self, request: Request) -> Reply:
        """Add a tool provider and load its tools.

        Raises InvokeBadRequestError, DescriptionError, ToolError.
        """
        tenant, body = request.tenant, await request.json()
        name, provider_type = (
            required_field(body, "name", str),
            required_field(body, "type", str),
        )
        # Each type needs other fields of the body.
        adders = {
            "api": self._add_api,
            "mcp": self._add_mcp,
            "extension": self._add_extension,
        }
        if provider_type not in adders:
            raise InvokeBadRequestError(
                f"Type {provider_type[:40]!r} is unknown; expected api, mcp or extension",
                param="type",
            )
        row, offered = await adders[provider_type](tenant, name, body)
        resource, provider_record = self.providers.find(tenant, row)
        return json_reply(
            {**_provider_fields(resource, provider_record), **offered}, status=201
        )

    async def _add_api(self, tenant: str, name: str, body: JSON) -> tuple[str, JSON]:
        """Add an API by its OpenAPI description. Returns its row id and its tools."""
        row, api = await self.providers.add_api(
            tenant,
            name,
            _text(body.get("description")),
            url=optional_field(body, "url", str) or "",
            server=optional_field(body, "server", str) or "",
            auth=_auth(optional_field(body, "auth", dict)),
        )
        return row, _api(api)

    async def _add_mcp(self, tenant: str, name: str, body: JSON) -> tuple[str, JSON]:
        """Add an MCP server, by URL or as a registered program. Returns its row id and
        its tools."""
        headers = optional_field(body, "headers", dict) or {}
        row, listing = await self.providers.add_mcp(
            tenant,
            name,
            url=optional_field(body, "url", str) or "",
            stdio=optional_field(body, "stdio", str) or "",
            headers={str(key): str(value) for key, value in headers.items()},
        )
        return row, {
            "version": listing.version,
            "tools": [tool["name"] for tool in listing.tools],
        }

    async def _add_extension(
        self, tenant: str, name: str, body: JSON
    ) -> tuple[str, JSON]:
        """Add an extension. Returns its row id; it has no tools."""
        row = await self.providers.extensions.add(
            tenant,
            name,
            required_field(body, "url", str),
            optional_field(body, "key", str) or "",
        )
        return row, {}

    async def get_provider(self, request: Request) -> Reply:
        """Return a tool provider with its tools.

        Raises NotFoundError.
        """
        return json_reply(await self._detail(request.tenant, request.names["id"]))

    async def remove(self, request: Request) -> Reply:
        """Remove a tool provider.

        Raises NotFoundError.
        """
        await self.providers.remove(request.tenant, request.names["id"])
        return Reply(b"", status=204)

    async def refresh(self, request: Request) -> Reply:
        """Reload the provider's description; return what changed and whether the
        changes were applied.

        `accept`: true, or the digest of the reviewed changes. `confirm_origin`: an
        origin or a list of them. Raises NotFoundError, InvokeBadRequestError,
        OriginChangedError.
        """
        accept, origins = _parse_refresh(await request.body())
        name = request.names["id"]
        # Changes apply only if they are accepted, and calls go to a new origin only if
        # it is confirmed.
        changes, is_accepted = await self.providers.refresh(
            request.tenant, name, accept=accept, confirm_origins=origins
        )
        detail = await self._detail(request.tenant, name)
        return json_reply({**detail, "changes": changes, "accepted": is_accepted})

    async def _detail(self, tenant: str, name: str) -> JSON:
        """Return the details of a tool provider.

        Raises NotFoundError.
        """
        resource, provider_record = self.providers.find(tenant, name)
        # Extensions have no tool list to load.
        if provider_record.type == "extension":
            return _provider_fields(resource, provider_record)
        content = await self.providers.store.content(
            tenant, resource.id, provider_record.type
        )
        offered = (
            _api(content)
            if isinstance(content, Api)
            else {"tools": [tool["name"] for tool in content.tools]}
        )
        return {**_provider_fields(resource, provider_record), **offered}


def _parse_refresh(data: bytes) -> tuple[bool | str, list[str]]:
    """Parse the body of a refresh: what is accepted, and which origins are confirmed.

    Raises InvokeBadRequestError.
    """
    # A refresh without a body only shows the changes.
    body = read_json(data) if data else {}
    accept = body.get("accept") or False
    if not isinstance(accept, bool | str):
        raise invalid_field(
            "accept", accept, "true, or the digest of the displayed changes"
        )
    confirmed = body.get("confirm_origin") or list[Any]()
    origins = [confirmed] if isinstance(confirmed, str) else confirmed
    if not is_array(origins) or not all(isinstance(origin, str) for origin in origins):
        raise invalid_field(
            "confirm_origin", confirmed, "the origin of a server, or a list of origins"
        )
    return accept, origins


def _provider_fields(resource: Any, provider_record: Any) -> dict[str, Any]:
    """Return the fields that all views of a tool provider share."""
    return {
        "id": resource.id,
        "name": resource.name,
        "type": provider_record.type,
        "title": provider_record.title,
        "url": provider_record.url,
        "chosen_server": provider_record.server or None,
        "stdio": provider_record.stdio or None,
        "count": provider_record.count,
    }


def _api(api: Api) -> dict[str, Any]:
    """Return the tools, the skipped operations and the authentication schemes of an
    API."""
    return {
        "server": api.server,
        "tools": [operation.name for operation in api.operations],
        "left_out": api.left_out,
        "schemes": {name: scheme.type for name, scheme in api.schemes.items()},
    }


def _text(value: Any) -> str | bytes:
    """Return an API description as text; a JSON object in the request is serialised
    again."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value)


def _auth(auth_body: Any) -> Auth | None:
    """Parse the authentication of an API.

    Raises InvokeBadRequestError.
    """
    if auth_body is None:
        return None
    try:
        return msgspec.convert(auth_body, Auth)
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(f"'auth': {error}", param="auth") from error
