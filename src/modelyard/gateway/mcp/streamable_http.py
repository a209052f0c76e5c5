"""POST /mcp: a tenant's tools, apps and datasets for MCP clients, over the Streamable
HTTP transport.

The server is stateless in all protocol revisions, so any process can answer any
request. `?tools=a,b` offers only those tools.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_mapping
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.keep_alive import SSE_COMMENT
from modelyard.tools.entities import ToolContext
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.server import McpServer, ServerCatalog

FindCatalog = Callable[[str, Sequence[str]], Awaitable[ServerCatalog]]
"""(tenant, tool names; empty for all) → the catalog for its clients."""


@dataclass(frozen=True, slots=True)
class Route:
    """POST /mcp: answer one JSON-RPC message, as JSON or as an event stream."""

    server: McpServer
    offer: FindCatalog

    async def __call__(self, request: Request) -> Reply | StreamReply:
        """Answer a message of an MCP client: a response, or a stream of messages."""
        data = await request.body()
        try:
            message: Any = decode_body(data)
        except BodyError:
            # JSON-RPC requires an error with a null id if the request cannot be parsed.
            return json_reply(
                protocol.error_of(
                    None, protocol.PARSE_ERROR, "Request body is not valid JSON"
                ),
                status=400,
            )
        headers = {
            name: value
            for name in ("mcp-protocol-version", "mcp-method", "mcp-name")
            if (value := request.header(name.encode())) is not None
        }
        tool_names = [
            tool_name.strip()
            for tool_name in (request.query("tools") or "").split(",")
            if tool_name.strip()
        ]
        caller = request.caller
        context = ToolContext(
            tenant=caller.tenant, user=caller.user or "", app="mcp", key=request.id
        )

        async def offer() -> ServerCatalog:
            """Return the catalog. Called only by the methods that need it."""
            return await self.offer(caller.tenant, tool_names)

        # The status of a stream is sent before its first event, so what the headers
        # alone refuse is found before.
        refused = self.server.refusal(message, headers)
        # Progress notifications need a stream; all other answers are one JSON document.
        if refused is None and _wants_stream(message, request):
            return sse_reply(
                self._stream(message, offer, context, headers),
                partial(_error_event, message),
                keep_alive=SSE_COMMENT,
            )
        answered = await request.cancel_on_disconnect(
            self.server.answer(message, offer, context, headers=headers)
        )
        # Notifications have no answer; the transport requires 202 for them.
        if answered is None:
            return Reply(b"", status=202)
        version = headers.get("mcp-protocol-version")
        return json_reply(answered, status=protocol.status_of(answered, version))

    async def _stream(
        self,
        message: Any,
        offer: Callable[[], Awaitable[ServerCatalog]],
        context: ToolContext,
        headers: Mapping[str, str],
    ) -> AsyncGenerator[bytes, None]:
        """Yield the progress notifications of a tool call, then its answer."""
        queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

        async def notify(notification: Mapping[str, Any]) -> None:
            """Queue a notification for the client."""
            queue.put_nowait(notification)

        async def work() -> None:
            """Run the call and queue its answer; None marks the end."""
            try:
                answered = await self.server.answer(
                    message, offer, context, headers=headers, notify=notify
                )
                if answered is not None:
                    queue.put_nowait(answered)
            finally:
                # Also after an error, so that the loop below always ends.
                queue.put_nowait(None)

        task = asyncio.ensure_future(work())
        try:
            while (event := await queue.get()) is not None:
                yield b"event: message\ndata: " + encode(dict(event)) + b"\n\n"
        finally:
            # The client disconnected, or the call has ended: in both cases the task
            # must not stay.
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _error_event(message: Mapping[str, Any], error: ModelyardError) -> bytes:
    """Return the last event of a stream that failed: a JSON-RPC internal error."""
    document = protocol.error_of(
        message.get("id"), protocol.INTERNAL_ERROR, error.public_text
    )
    return b"event: message\ndata: " + encode(document) + b"\n\n"


def _wants_stream(message: Any, request: Request) -> bool:
    """Return whether the client requests progress and accepts an event stream."""
    if (
        not is_mapping(message)
        or message.get("method") != "tools/call"
        or "id" not in message
    ):
        return False
    params = message.get("params")
    meta = params.get("_meta") if is_mapping(params) else None
    has_token = is_mapping(meta) and meta.get("progressToken") is not None
    return has_token and "text/event-stream" in (request.header(b"accept") or "")
