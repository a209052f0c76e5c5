"""The MCP server: offers a tenant's tools to any MCP client. It stores nothing between
requests.

`answer` handles one message, from any transport; revisions with and without a handshake
are supported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.base.fields import whole_number
from modelyard.tools.entities import Tool, ToolContext, ToolError
from modelyard.tools.manager import ToolManager, error_for_model
from modelyard.tools.mcp import protocol
from modelyard.tools.observation import ToolOutputCollector

logger = logging.getLogger("modelyard.tools.mcp")

_PAGE = 100
Notify = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource that clients may read."""

    uri: str
    name: str
    description: str = ""
    mime_type: str = "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCatalog:
    """What the clients of a tenant may see. Built for each request, because it may have
    changed."""

    tools: Sequence[Tool] = ()
    resources: Sequence[Resource] = ()
    read: Callable[[str], Awaitable[str | None]] | None = None
    instructions: str = ""


class _RequestRefused(Exception):
    """A request that is refused with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class McpServer:
    """Handles MCP messages."""

    def __init__(self, manager: ToolManager) -> None:
        self._manager = manager

    async def answer(
        self,
        message: Any,
        offer: Callable[[], Awaitable[ServerCatalog]],
        context: ToolContext,
        *,
        headers: Mapping[str, str] | None = None,
        notify: Notify | None = None,
    ) -> dict[str, Any] | None:
        """Return the response to a message; None if it needs none. `headers` are those
        of an HTTP request, by lower-case name."""
        if not isinstance(message, Mapping) or message.get("jsonrpc") != "2.0":
            return protocol.error_of(
                None, protocol.INVALID_REQUEST, "a message is one JSON-RPC 2.0 object"
            )
        method, number = message.get("method"), message.get("id")
        if not isinstance(method, str):
            if "result" in message or "error" in message:
                # A response to a request that we never sent.
                return None
            return protocol.error_of(
                number, protocol.INVALID_REQUEST, "a message has a method"
            )
        # Notifications have no id and get no response.
        if "id" not in message:
            return None
        # In Python a boolean is an integer, but it is not a valid id.
        if (
            number is None
            or not isinstance(number, str | int)
            or isinstance(number, bool)
        ):
            return protocol.error_of(
                None, protocol.INVALID_REQUEST, "an id is a string or a number"
            )
        params = message.get("params")
        request_params: Mapping[str, Any] = (
            params if isinstance(params, Mapping) else {}
        )
        try:
            is_modern = self._check(method, request_params, headers)
            result = await self._dispatch(
                method, request_params, offer, context, notify, is_modern=is_modern
            )
        except _RequestRefused as error:
            return protocol.error_of(number, error.code, str(error), error.data)
        except ModelyardError as error:
            return protocol.error_of(number, protocol.INTERNAL_ERROR, str(error))
        # Internal details must not reach the client.
        except Exception:
            logger.exception("an MCP request failed")
            return protocol.error_of(number, protocol.INTERNAL_ERROR, "internal error")
        if is_modern:
            meta = {
                **(result.get("_meta") or {}),
                protocol.SERVER_META: protocol.info(),
            }
            result = {"resultType": "complete", **result, "_meta": meta}
        return protocol.result_of(number, result)

    @staticmethod
    def _check(
        method: str, params: Mapping[str, Any], headers: Mapping[str, str] | None
    ) -> bool:
        """Return whether the request uses the revision without a handshake. Raises
        _Refused if headers and message contradict each other."""
        meta = params.get("_meta")
        envelope: Mapping[str, Any] = meta if isinstance(meta, Mapping) else {}
        version = envelope.get(protocol.VERSION_META)
        header = headers.get("mcp-protocol-version") if headers is not None else None
        # Older clients send no version in the message and at most an older one in the
        # header.
        if version is None and header in (None, *protocol.HANDSHAKE):
            return False
        if headers is not None and version is None:
            if header == protocol.MODERN:
                raise _RequestRefused(
                    protocol.INVALID_PARAMS,
                    f"params._meta must name {protocol.VERSION_META}",
                )
            raise _RequestRefused(
                protocol.UNSUPPORTED_VERSION,
                "Unsupported protocol version",
                {
                    "supported": [protocol.MODERN, *protocol.HANDSHAKE],
                    "requested": header,
                },
            )
        if not isinstance(version, str):
            raise _RequestRefused(
                protocol.INVALID_PARAMS, f"{protocol.VERSION_META} must be a string"
            )
        if protocol.CAPABILITIES_META not in envelope:
            raise _RequestRefused(
                protocol.INVALID_PARAMS,
                f"params._meta must name {protocol.CAPABILITIES_META}",
            )
        # Proxies may act on the headers, so they must agree with the message.
        if headers is not None:
            if header != version:
                raise _RequestRefused(
                    protocol.HEADER_MISMATCH,
                    "mcp-protocol-version and the message name two revisions",
                )
            if headers.get("mcp-method") != method:
                raise _RequestRefused(
                    protocol.HEADER_MISMATCH,
                    "mcp-method and the message name two methods",
                )
            key = protocol.NAMED.get(method)
            if (
                key
                and key in params
                and protocol.read_header(headers.get("mcp-name")) != params[key]
            ):
                raise _RequestRefused(
                    protocol.HEADER_MISMATCH, f"mcp-name is not the message's {key}"
                )
        if version != protocol.MODERN:
            raise _RequestRefused(
                protocol.UNSUPPORTED_VERSION,
                "Unsupported protocol version",
                {"supported": [protocol.MODERN], "requested": version},
            )
        return True

    async def _dispatch(
        self,
        method: str,
        params: Mapping[str, Any],
        offer: Callable[[], Awaitable[ServerCatalog]],
        context: ToolContext,
        notify: Notify | None,
        *,
        is_modern: bool,
    ) -> dict[str, Any]:
        """Return the result of a method. Raises _Refused for an unknown one."""
        match method:
            case "initialize" if not is_modern:
                requested_version = str(params.get("protocolVersion"))
                # If the client's revision is unknown, the server answers with its own,
                # and the client decides.
                version = (
                    requested_version
                    if requested_version in protocol.HANDSHAKE
                    else protocol.HANDSHAKE[0]
                )
                return {
                    "protocolVersion": version,
                    "serverInfo": protocol.info(),
                    **self._server_info(await offer()),
                }
            case "server/discover" if is_modern:
                return {
                    "supportedVersions": [protocol.MODERN],
                    **self._server_info(await offer()),
                    "ttlMs": 0,
                    "cacheScope": "private",
                }
            case "ping" | "logging/setLevel" if not is_modern:
                return {}
            case "tools/list":
                tools = [_tool(tool) for tool in (await offer()).tools]
                return _page(tools, "tools", params, is_modern=is_modern)
            case "tools/call":
                return await self._call(params, await offer(), context, notify)
            case "resources/list":
                resources = (await offer()).resources
                listed = [
                    {
                        "uri": resource.uri,
                        "name": resource.name,
                        "description": resource.description,
                        "mimeType": resource.mime_type,
                    }
                    for resource in resources
                ]
                return _page(listed, "resources", params, is_modern=is_modern)
            case "resources/templates/list":
                return _page([], "resourceTemplates", params, is_modern=is_modern)
            case "resources/read":
                return await self._read(params, await offer(), is_modern=is_modern)
            case _:
                raise _RequestRefused(
                    protocol.METHOD_NOT_FOUND, f"there is no method {method[:80]!r}"
                )

    @staticmethod
    def _server_info(offer: ServerCatalog) -> dict[str, Any]:
        """Return the capabilities and instructions of the offer."""
        capabilities: dict[str, Any] = {"tools": {}}
        if offer.read is not None:
            capabilities["resources"] = {}
        return {
            "capabilities": capabilities,
            **({"instructions": offer.instructions} if offer.instructions else {}),
        }

    async def _call(
        self,
        params: Mapping[str, Any],
        offer: ServerCatalog,
        context: ToolContext,
        notify: Notify | None,
    ) -> dict[str, Any]:
        """Call a tool, with progress notifications if the client asked for them."""
        name, arguments = params.get("name"), params.get("arguments")
        tool = next(
            (candidate for candidate in offer.tools if candidate.name == name), None
        )
        if tool is None:
            raise _RequestRefused(
                protocol.INVALID_PARAMS, f"Unknown tool: {str(name)[:80]}"
            )
        if arguments is not None and not isinstance(arguments, Mapping):
            raise _RequestRefused(
                protocol.INVALID_PARAMS, "arguments must be an object"
            )
        gathered = ToolOutputCollector()
        meta = params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, Mapping) else None
        count = 0
        try:
            async with aclosing(
                self._manager.invoke(tool, dict(arguments or {}), context)
            ) as messages:
                async for message in messages:
                    gathered.add(message)
                    count += 1
                    if notify is not None and token is not None:
                        await notify(
                            {
                                "jsonrpc": "2.0",
                                "method": "notifications/progress",
                                "params": {"progressToken": token, "progress": count},
                            }
                        )
        # A failed tool is a regular result that the model reads, not a protocol error.
        except ToolError as error:
            text, _ = error_for_model(error)
            return {"content": [{"type": "text", "text": text}], "isError": True}
        content, structured = protocol.mcp_content(gathered)
        result: dict[str, Any] = {"content": content, "isError": False}
        return (
            {**result, "structuredContent": structured}
            if structured is not None
            else result
        )

    @staticmethod
    async def _read(
        params: Mapping[str, Any], offer: ServerCatalog, *, is_modern: bool
    ) -> dict[str, Any]:
        """Return the text of a resource."""
        uri = params.get("uri")
        resource = next(
            (candidate for candidate in offer.resources if candidate.uri == uri), None
        )
        text = (
            await offer.read(resource.uri)
            if resource is not None and offer.read is not None
            else None
        )
        if resource is None or text is None:
            # The revisions use different error codes for it.
            code = protocol.INVALID_PARAMS if is_modern else protocol.RESOURCE_NOT_FOUND
            raise _RequestRefused(
                code, f"Resource not found: {str(uri)[:200]}", {"uri": uri}
            )
        result: dict[str, Any] = {
            "contents": [
                {"uri": resource.uri, "mimeType": resource.mime_type, "text": text}
            ]
        }
        return {**result, "ttlMs": 0, "cacheScope": "private"} if is_modern else result


def _tool(tool: Tool) -> dict[str, Any]:
    """Return a tool's description in the protocol's format."""
    entity = tool.entity
    description: dict[str, Any] = {
        "name": tool.name,
        "description": entity.description,
        "inputSchema": protocol.object_schema(tool.schema),
        "annotations": {
            "readOnlyHint": entity.is_repeatable,
            "destructiveHint": not entity.is_repeatable,
        },
    }
    if title := entity.label.get("en_US"):
        description["title"] = title
    return description


def _page(
    values: Sequence[Any], key: str, params: Mapping[str, Any], *, is_modern: bool
) -> dict[str, Any]:
    """Return one page of a listing. The cursor is the index of its first element."""
    cursor = params.get("cursor")
    start = 0
    if cursor is not None:
        position = (
            whole_number(cursor, maximum=len(values))
            if isinstance(cursor, str)
            else None
        )
        if position is None:
            raise _RequestRefused(protocol.INVALID_PARAMS, "there is no such cursor")
        start = position
    page: dict[str, Any] = {key: list(values[start : start + _PAGE])}
    if start + _PAGE < len(values):
        page["nextCursor"] = str(start + _PAGE)
    # The modern revision requires cache information; nothing may be cached, since
    # listings differ by tenant.
    return {**page, "ttlMs": 0, "cacheScope": "private"} if is_modern else page


async def serve_lines(
    server: McpServer,
    offer: Callable[[], Awaitable[ServerCatalog]],
    context: ToolContext,
    reader: asyncio.StreamReader,
    write: Callable[[bytes], Awaitable[None]],
) -> None:
    """Serve one message per line, until the input ends. Requests run concurrently and
    can be cancelled."""
    running: dict[Any, asyncio.Task[None]] = {}

    async def send(message: Mapping[str, Any]) -> None:
        """Write a message."""
        await write(msgspec.json.encode(dict(message)) + b"\n")

    async def work(message: Any) -> None:
        """Handle one message and write its response."""
        answered = await server.answer(message, offer, context, notify=send)
        if answered is not None:
            await send(answered)

    try:
        while line := await reader.readline():
            if not line.strip():
                continue
            try:
                message = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                await send(
                    protocol.error_of(
                        None, protocol.PARSE_ERROR, "that line is no JSON"
                    )
                )
                continue
            if (
                isinstance(message, Mapping)
                and message.get("method") == "notifications/cancelled"
            ):
                cancel_params = message.get("params")
                task = (
                    running.pop(cancel_params.get("requestId"), None)
                    if isinstance(cancel_params, Mapping)
                    else None
                )
                if task is not None:
                    task.cancel()
                continue
            task = asyncio.ensure_future(work(message))
            number = message.get("id") if isinstance(message, Mapping) else None
            if isinstance(number, str | int):
                running[number] = task
                # The default argument binds the current id, because the variable
                # changes with the loop.
                task.add_done_callback(
                    lambda _, number=number: running.pop(number, None)
                )
        # Requests in progress are completed after the input has ended.
        if running:
            await asyncio.gather(*running.values(), return_exceptions=True)
    finally:
        for task in list(running.values()):
            task.cancel()
