"""The server: tools of a tenant for any client that speaks MCP. It keeps nothing between requests.

`answer` takes one message and gives one, by whichever transport it came; both kinds of revisions are served.
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
from modelyard.tools.manager import ToolManager, told_error
from modelyard.tools.mcp import protocol
from modelyard.tools.observation import Gathering

logger = logging.getLogger("modelyard.tools.mcp")

_PAGE = 100
Notify = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    uri: str
    name: str
    description: str = ""
    mime_type: str = "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a tenant's clients may see. Made anew for each request: it may have changed."""

    tools: Sequence[Tool] = ()
    resources: Sequence[Resource] = ()
    read: Callable[[str], Awaitable[str | None]] | None = None
    instructions: str = ""


class _Refused(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class McpServer:
    def __init__(self, manager: ToolManager) -> None:
        self._manager = manager

    async def answer(
        self, message: Any, offer: Callable[[], Awaitable[Offer]], context: ToolContext, *,
        headers: Mapping[str, str] | None = None, notify: Notify | None = None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """The response; None for what wants none. `headers` are an HTTP request's, by lower-case name."""
        if not isinstance(message, Mapping) or message.get("jsonrpc") != "2.0":
            return protocol.error_of(None, protocol.INVALID_REQUEST, "a message is one JSON-RPC 2.0 object")
        method, number = message.get("method"), message.get("id")
        if not isinstance(method, str):
            if "result" in message or "error" in message:
                return None  # an answer to what we never asked
            return protocol.error_of(number, protocol.INVALID_REQUEST, "a message has a method")
        if "id" not in message:
            return None
        if number is None or not isinstance(number, str | int) or isinstance(number, bool):
            return protocol.error_of(None, protocol.INVALID_REQUEST, "an id is a string or a number")
        params = message.get("params")
        given: Mapping[str, Any] = params if isinstance(params, Mapping) else {}
        try:
            is_modern = self._check(method, given, headers)
            result = await self._done(method, given, offer, context, notify, is_modern=is_modern)
        except _Refused as error:
            return protocol.error_of(number, error.code, str(error), error.data)
        except ModelyardError as error:
            return protocol.error_of(number, protocol.INTERNAL_ERROR, str(error))
        except Exception:
            logger.exception("an MCP request failed")
            return protocol.error_of(number, protocol.INTERNAL_ERROR, "internal error")
        if is_modern:
            meta = {**(result.get("_meta") or {}), protocol.SERVER_META: protocol.info()}
            result = {"resultType": "complete", **result, "_meta": meta}
        return protocol.result_of(number, result)

    @staticmethod
    def _check(method: str, given: Mapping[str, Any], headers: Mapping[str, str] | None) -> bool:
        """Whether the request is of the revision without a handshake. Raises _Refused where it contradicts itself."""
        meta = given.get("_meta")
        envelope: Mapping[str, Any] = meta if isinstance(meta, Mapping) else {}
        version = envelope.get(protocol.VERSION_META)
        header = headers.get("mcp-protocol-version") if headers is not None else None
        if version is None and header in (None, *protocol.HANDSHAKE):
            return False
        if headers is not None and version is None:
            if header == protocol.MODERN:
                raise _Refused(protocol.INVALID_PARAMS, f"params._meta must name {protocol.VERSION_META}")
            raise _Refused(
                protocol.UNSUPPORTED_VERSION, "Unsupported protocol version",
                {"supported": [protocol.MODERN, *protocol.HANDSHAKE], "requested": header},
            )  # fmt: skip
        if not isinstance(version, str):
            raise _Refused(protocol.INVALID_PARAMS, f"{protocol.VERSION_META} must be a string")
        if protocol.CAPABILITIES_META not in envelope:
            raise _Refused(protocol.INVALID_PARAMS, f"params._meta must name {protocol.CAPABILITIES_META}")
        if headers is not None:
            if header != version:
                raise _Refused(protocol.HEADER_MISMATCH, "mcp-protocol-version and the message name two revisions")
            if headers.get("mcp-method") != method:
                raise _Refused(protocol.HEADER_MISMATCH, "mcp-method and the message name two methods")
            key = protocol.NAMED.get(method)
            if key and key in given and protocol.read_header(headers.get("mcp-name")) != given[key]:
                raise _Refused(protocol.HEADER_MISMATCH, f"mcp-name is not the message's {key}")
        if version != protocol.MODERN:
            raise _Refused(
                protocol.UNSUPPORTED_VERSION, "Unsupported protocol version",
                {"supported": [protocol.MODERN], "requested": version},
            )  # fmt: skip
        return True

    async def _done(
        self, method: str, given: Mapping[str, Any], offer: Callable[[], Awaitable[Offer]], context: ToolContext,
        notify: Notify | None, *, is_modern: bool,
    ) -> dict[str, Any]:  # fmt: skip
        match method:
            case "initialize" if not is_modern:
                wanted = str(given.get("protocolVersion"))
                version = wanted if wanted in protocol.HANDSHAKE else protocol.HANDSHAKE[0]
                return {"protocolVersion": version, "serverInfo": protocol.info(), **self._about(await offer())}
            case "server/discover" if is_modern:
                return {
                    "supportedVersions": [protocol.MODERN], **self._about(await offer()), "ttlMs": 0,
                    "cacheScope": "private",
                }  # fmt: skip
            case "ping" | "logging/setLevel" if not is_modern:
                return {}
            case "tools/list":
                shown = [_tool(one) for one in (await offer()).tools]
                return _page(shown, "tools", given, is_modern=is_modern)
            case "tools/call":
                return await self._call(given, await offer(), context, notify)
            case "resources/list":
                found = (await offer()).resources
                listed = [
                    {"uri": one.uri, "name": one.name, "description": one.description, "mimeType": one.mime_type}
                    for one in found
                ]
                return _page(listed, "resources", given, is_modern=is_modern)
            case "resources/templates/list":
                return _page([], "resourceTemplates", given, is_modern=is_modern)
            case "resources/read":
                return await self._read(given, await offer(), is_modern=is_modern)
            case _:
                raise _Refused(protocol.METHOD_NOT_FOUND, f"there is no method {method[:80]!r}")

    @staticmethod
    def _about(offer: Offer) -> dict[str, Any]:
        capabilities: dict[str, Any] = {"tools": {}}
        if offer.read is not None:
            capabilities["resources"] = {}
        return {"capabilities": capabilities, **({"instructions": offer.instructions} if offer.instructions else {})}

    async def _call(
        self, given: Mapping[str, Any], offer: Offer, context: ToolContext, notify: Notify | None
    ) -> dict[str, Any]:
        name, arguments = given.get("name"), given.get("arguments")
        tool = next((one for one in offer.tools if one.name == name), None)
        if tool is None:
            raise _Refused(protocol.INVALID_PARAMS, f"Unknown tool: {str(name)[:80]}")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise _Refused(protocol.INVALID_PARAMS, "arguments must be an object")
        gathered = Gathering()
        meta = given.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, Mapping) else None
        count = 0
        try:
            async with aclosing(self._manager.invoke(tool, dict(arguments or {}), context)) as messages:
                async for one in messages:
                    gathered.take(one)
                    count += 1
                    if notify is not None and token is not None:
                        await notify({
                            "jsonrpc": "2.0", "method": "notifications/progress",
                            "params": {"progressToken": token, "progress": count},
                        })  # fmt: skip
        except ToolError as error:
            text, _ = told_error(error)
            return {"content": [{"type": "text", "text": text}], "isError": True}
        content, structured = protocol.content_of(gathered)
        found: dict[str, Any] = {"content": content, "isError": False}
        return {**found, "structuredContent": structured} if structured is not None else found

    @staticmethod
    async def _read(given: Mapping[str, Any], offer: Offer, *, is_modern: bool) -> dict[str, Any]:
        uri = given.get("uri")
        known = next((one for one in offer.resources if one.uri == uri), None)
        text = await offer.read(known.uri) if known is not None and offer.read is not None else None
        if known is None or text is None:
            code = protocol.INVALID_PARAMS if is_modern else protocol.RESOURCE_NOT_FOUND
            raise _Refused(code, f"Resource not found: {str(uri)[:200]}", {"uri": uri})
        found: dict[str, Any] = {"contents": [{"uri": known.uri, "mimeType": known.mime_type, "text": text}]}
        return {**found, "ttlMs": 0, "cacheScope": "private"} if is_modern else found


def _tool(one: Tool) -> dict[str, Any]:
    entity = one.entity
    shown: dict[str, Any] = {
        "name": one.name, "description": entity.description, "inputSchema": protocol.plain_schema(one.schema),
        "annotations": {"readOnlyHint": entity.is_repeatable, "destructiveHint": not entity.is_repeatable},
    }  # fmt: skip
    if title := entity.label.get("en_US"):
        shown["title"] = title
    return shown


def _page(values: Sequence[Any], key: str, given: Mapping[str, Any], *, is_modern: bool) -> dict[str, Any]:
    cursor = given.get("cursor")
    begin = 0
    if cursor is not None:
        position = whole_number(cursor, maximum=len(values)) if isinstance(cursor, str) else None
        if position is None:
            raise _Refused(protocol.INVALID_PARAMS, "there is no such cursor")
        begin = position
    found: dict[str, Any] = {key: list(values[begin : begin + _PAGE])}
    if begin + _PAGE < len(values):
        found["nextCursor"] = str(begin + _PAGE)
    return {**found, "ttlMs": 0, "cacheScope": "private"} if is_modern else found


async def serve_lines(
    server: McpServer, offer: Callable[[], Awaitable[Offer]], context: ToolContext, reader: asyncio.StreamReader,
    write: Callable[[bytes], Awaitable[None]],
) -> None:  # fmt: skip
    """Over stdio: a line a message, until the input ends. Requests run side by side; what is cancelled is stopped."""
    running: dict[Any, asyncio.Task[None]] = {}

    async def send(message: Mapping[str, Any]) -> None:
        await write(msgspec.json.encode(dict(message)) + b"\n")

    async def work(message: Any) -> None:
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
                await send(protocol.error_of(None, protocol.PARSE_ERROR, "that line is no JSON"))
                continue
            if isinstance(message, Mapping) and message.get("method") == "notifications/cancelled":
                named = message.get("params")
                task = running.pop(named.get("requestId"), None) if isinstance(named, Mapping) else None
                if task is not None:
                    task.cancel()
                continue
            task = asyncio.ensure_future(work(message))
            number = message.get("id") if isinstance(message, Mapping) else None
            if isinstance(number, str | int):
                running[number] = task
                task.add_done_callback(lambda _, number=number: running.pop(number, None))
        if running:
            await asyncio.gather(*running.values(), return_exceptions=True)
    finally:
        for task in list(running.values()):
            task.cancel()
