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
from modelyard.base.json_types import EMPTY_OBJECT, is_mapping
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
        """Handle one MCP message and return its JSON-RPC response.

        Returns None for a notification or a response; failures give a JSON-RPC error.
        `offer` is called for the tools and resources that this client may see;
        `headers` are those of an HTTP request, by lower-case name; progress
        notifications go to `notify`.
        """
        if not is_mapping(message) or message.get("jsonrpc") != "2.0":
            return _invalid_request(None, "Expected one JSON-RPC 2.0 object")
        if _is_response_or_notification(message):
            return None
        method, number = message.get("method"), message.get("id")
        if not isinstance(method, str):
            return _invalid_request(number, "'method' must be a string")
        if not _is_request_id(number):
            return _invalid_request(None, "'id' must be a string or a number")
        params = message.get("params")
        request_params: Mapping[str, Any] = params if is_mapping(params) else {}
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
            logger.exception("MCP request failed")
            return protocol.error_of(number, protocol.INTERNAL_ERROR, "Internal error")
        return protocol.result_of(
            number, _with_server_info(result) if is_modern else result
        )

    def refusal(
        self, message: Any, headers: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Return the JSON-RPC error for a message that its headers contradict, or whose
        revision is not supported; None if it may be handled."""
        if not is_mapping(message) or not isinstance(message.get("method"), str):
            return None
        params = message.get("params")
        try:
            self._check(
                message["method"], params if is_mapping(params) else {}, headers
            )
        except _RequestRefused as error:
            return protocol.error_of(
                message.get("id"), error.code, str(error), error.data
            )
        return None

    @staticmethod
    def _check(
        method: str, params: Mapping[str, Any], headers: Mapping[str, str] | None
    ) -> bool:
        """Return whether the request uses the revision without a handshake. Raises
        _RequestRefused if headers and message contradict each other."""
        meta = params.get("_meta")
        envelope: Mapping[str, Any] = meta if is_mapping(meta) else {}
        version = envelope.get(protocol.VERSION_META)
        header = headers.get("mcp-protocol-version") if headers is not None else None
        # Older clients send no version in the message and at most an older one in the
        # header.
        if version is None and header in (None, *protocol.HANDSHAKE):
            return False
        if headers is not None and version is None:
            if header == protocol.MODERN:
                raise _invalid_params(
                    f"params._meta must contain {protocol.VERSION_META}"
                )
            raise _unsupported_version(
                header, supported=[protocol.MODERN, *protocol.HANDSHAKE]
            )
        if not isinstance(version, str):
            raise _invalid_params(f"{protocol.VERSION_META} must be a string")
        if protocol.CAPABILITIES_META not in envelope:
            raise _invalid_params(
                f"params._meta must contain {protocol.CAPABILITIES_META}"
            )
        if headers is not None:
            _check_headers(headers, version, method, params)
        if version != protocol.MODERN:
            raise _unsupported_version(version, supported=[protocol.MODERN])
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
        """Return the result of a method. Raises _RequestRefused for an unknown one."""
        match method:
            case "initialize" if not is_modern:
                version = str(params.get("protocolVersion"))
                # If the client's revision is unknown, the server answers with its own,
                # and the client decides.
                if version not in protocol.HANDSHAKE:
                    version = protocol.HANDSHAKE[0]
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
                resources = [_resource(item) for item in (await offer()).resources]
                return _page(resources, "resources", params, is_modern=is_modern)
            case "resources/templates/list":
                return _page([], "resourceTemplates", params, is_modern=is_modern)
            case "resources/read":
                return await self._read(params, await offer(), is_modern=is_modern)
            case _:
                raise _RequestRefused(
                    protocol.METHOD_NOT_FOUND, f"Method not found: {method[:80]!r}"
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
            raise _invalid_params(f"Unknown tool: {str(name)[:80]}")
        if arguments is not None and not is_mapping(arguments):
            raise _invalid_params("'arguments' must be an object")
        meta = params.get("_meta")
        token = meta.get("progressToken") if is_mapping(meta) else None
        try:
            gathered = await self._collect_output(
                tool,
                dict(arguments or EMPTY_OBJECT),
                context,
                notify=notify if token is not None else None,
                progress_token=token,
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

    async def _collect_output(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        context: ToolContext,
        *,
        notify: Notify | None,
        progress_token: Any,
    ) -> ToolOutputCollector:
        """Call a tool and collect its messages; for each one, a progress notification
        is sent through `notify`. Raises ToolError."""
        gathered = ToolOutputCollector()
        count = 0
        async with aclosing(self._manager.invoke(tool, arguments, context)) as messages:
            async for message in messages:
                gathered.add(message)
                count += 1
                if notify is not None:
                    # Clients wait longer for a call that reports progress.
                    progress = {"progressToken": progress_token, "progress": count}
                    await notify(
                        {
                            "jsonrpc": "2.0",
                            "method": "notifications/progress",
                            "params": progress,
                        }
                    )
        return gathered

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


def _is_response_or_notification(message: Mapping[str, Any]) -> bool:
    """Return whether a message needs no response. Responses are ignored, because the
    server sends no requests; notifications have no id."""
    if isinstance(message.get("method"), str):
        return "id" not in message
    return "result" in message or "error" in message


def _is_request_id(value: Any) -> bool:
    """Return whether a value can be the id of a request: a string or an integer."""
    # In Python a boolean is an integer.
    return isinstance(value, str | int) and not isinstance(value, bool)


def _with_server_info(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with the fields that the modern revision adds to each."""
    own_meta: Mapping[str, Any] = result.get("_meta") or {}
    meta = {**own_meta, protocol.SERVER_META: protocol.info()}
    return {"resultType": "complete", **result, "_meta": meta}


def _invalid_request(request_id: Any, reason: str) -> dict[str, Any]:
    """Return the response to a message that is not a JSON-RPC request."""
    return protocol.error_of(
        request_id, protocol.INVALID_REQUEST, f"Invalid request: {reason}"
    )


def _invalid_params(reason: str) -> _RequestRefused:
    """Return the error for arguments that a method does not take."""
    return _RequestRefused(protocol.INVALID_PARAMS, reason)


def _unsupported_version(
    requested: str | None, *, supported: list[str]
) -> _RequestRefused:
    """Return the JSON-RPC error for a protocol revision that is not supported.

    Its data are MCP's `supported` and `requested`.
    """
    return _RequestRefused(
        protocol.UNSUPPORTED_VERSION,
        "Unsupported protocol version",
        {"supported": supported, "requested": requested},
    )


def _check_headers(
    headers: Mapping[str, str], version: str, method: str, params: Mapping[str, Any]
) -> None:
    """Raise _RequestRefused unless the headers agree with the message, because proxies
    may act on them."""
    if headers.get("mcp-protocol-version") != version:
        reason = f"mcp-protocol-version does not match {protocol.VERSION_META}"
    elif headers.get("mcp-method") != method:
        reason = "mcp-method does not match the message's method"
    else:
        key = protocol.NAMED.get(method)
        if not key or key not in params:
            return
        if protocol.read_header(headers.get("mcp-name")) == params[key]:
            return
        reason = f"mcp-name does not match params.{key}"
    raise _RequestRefused(protocol.HEADER_MISMATCH, reason)


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


def _resource(resource: Resource) -> dict[str, Any]:
    """Return a resource's description in the protocol's format."""
    return {
        "uri": resource.uri,
        "name": resource.name,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }


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
            raise _invalid_params(f"Unknown cursor: {str(cursor)[:40]!r}")
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
    await _LineServer(server, offer, context, write).serve(reader)


class _LineServer:
    """Serves one client that sends one message per line."""

    def __init__(
        self,
        server: McpServer,
        offer: Callable[[], Awaitable[ServerCatalog]],
        context: ToolContext,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._server = server
        self._offer = offer
        self._context = context
        self._write = write
        self._running: dict[Any, asyncio.Task[None]] = {}
        """Request id → the task that handles the request."""
        self._tasks: set[asyncio.Task[None]] = set()
        """All tasks, also those of messages without an id: the event loop itself holds
        tasks only weakly."""

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve until the input ends. Requests in progress are completed then."""
        try:
            while line := await reader.readline():
                if line.strip():
                    await self._handle_line(line)
            if self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def _handle_line(self, line: bytes) -> None:
        """Start a task for the message in a line, or cancel the one that it names.

        A request whose id another one in progress has is answered with an error.
        """
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            await self._send(
                protocol.error_of(
                    None, protocol.PARSE_ERROR, "Parse error: the line is not JSON"
                )
            )
            return
        fields: Mapping[str, Any] = message if is_mapping(message) else {}
        if fields.get("method") == "notifications/cancelled":
            self._cancel(fields.get("params"))
            return
        number = fields.get("id")
        is_request = _is_request_id(number) and not _is_response_or_notification(fields)
        # Its answer could not be told from that of the first, nor could it be cancelled.
        if is_request and number in self._running:
            reason = f"a request with the id {number!r} is in progress"
            await self._send(_invalid_request(number, reason))
            return
        task = asyncio.ensure_future(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if is_request:
            self._running[number] = task
            task.add_done_callback(lambda _: self._running.pop(number, None))

    def _cancel(self, params: Any) -> None:
        """Cancel the request that a notification names, if it is running."""
        if not is_mapping(params):
            return
        request_id = params.get("requestId")
        # A list, for example, cannot be looked up in a dict.
        if _is_request_id(request_id) and request_id in self._running:
            self._running[request_id].cancel()

    async def _answer(self, message: Any) -> None:
        """Handle one message and write its response."""
        response = await self._server.answer(
            message, self._offer, self._context, notify=self._send
        )
        if response is not None:
            await self._send(response)

    async def _send(self, message: Mapping[str, Any]) -> None:
        """Write a message as one line, as the transport `stdio` requires."""
        await self._write(msgspec.json.encode(dict(message)) + b"\n")
