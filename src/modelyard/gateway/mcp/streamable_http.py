"""POST /mcp: a tenant's tools, apps and datasets for clients that speak the Model Context Protocol.

Nothing is kept between requests, in any revision: any process answers any of them. `?tools=a,b` offers only those.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.tools.entities import ToolContext
from modelyard.tools.mcp import protocol
from modelyard.tools.mcp.server import McpServer, Offer

OfferOf = Callable[[str, Sequence[str]], Awaitable[Offer]]
"""(tenant, names of tools; none for all) → what its clients may see."""
_PING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Route:
    server: McpServer
    offer: OfferOf

    async def __call__(self, request: Request) -> Reply | StreamReply:
        data = await request.body()
        try:
            message: Any = decode_body(data)
        except BodyError:
            return json_reply(protocol.error_of(None, protocol.PARSE_ERROR, "the body is no JSON"), status=400)
        headers = {
            name: value
            for name in ("mcp-protocol-version", "mcp-method", "mcp-name")
            if (value := request.header(name.encode())) is not None
        }
        chosen = [one.strip() for one in (request.query("tools") or "").split(",") if one.strip()]
        caller = request.caller
        context = ToolContext(tenant=caller.tenant, user=caller.user or "", app="mcp", key=request.id)

        async def offer() -> Offer:
            return await self.offer(caller.tenant, chosen)

        if _wants_stream(message, request):
            return sse_reply(self._stream(message, offer, context, headers), partial(_last_words, message))
        answered = await request.while_here(self.server.answer(message, offer, context, headers=headers))
        if answered is None:
            return Reply(b"", status=202)
        is_modern = headers.get("mcp-protocol-version") == protocol.MODERN
        status = 200
        if "error" in answered and (is_modern or answered.get("id") is None):
            status = protocol.STATUS.get(answered["error"]["code"], 200)
        return json_reply(answered, status=status)

    async def _stream(
        self, message: Any, offer: Callable[[], Awaitable[Offer]], context: ToolContext, headers: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """Progress as it is made, then the answer."""
        queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

        async def notify(one: Mapping[str, Any]) -> None:
            queue.put_nowait(one)

        async def work() -> None:
            try:
                answered = await self.server.answer(message, offer, context, headers=headers, notify=notify)
                if answered is not None:
                    queue.put_nowait(answered)
            finally:
                queue.put_nowait(None)

        task = asyncio.ensure_future(work())
        try:
            while True:
                try:
                    async with asyncio.timeout(_PING_SECONDS):
                        one = await queue.get()
                except TimeoutError:
                    yield b": ping\n\n"
                    continue
                if one is None:
                    return
                yield b"event: message\ndata: " + encode(dict(one)) + b"\n\n"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _last_words(message: Mapping[str, Any], error: ModelyardError) -> bytes:
    document = protocol.error_of(message.get("id"), protocol.INTERNAL_ERROR, str(error))
    return b"event: message\ndata: " + encode(document) + b"\n\n"


def _wants_stream(message: Any, request: Request) -> bool:
    """Whether progress is asked for, and can be shown."""
    if not isinstance(message, Mapping) or message.get("method") != "tools/call" or "id" not in message:
        return False
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, Mapping) else None
    has_token = isinstance(meta, Mapping) and meta.get("progressToken") is not None
    return has_token and "text/event-stream" in (request.header(b"accept") or "")
