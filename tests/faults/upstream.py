"""A mock provider that fails in every way that providers fail, in three wire formats.

The name of the model selects the fault: `cut_midstream`, `s429_retry_after` … Each
fault is a coroutine that writes to the socket. It uses bare sockets to send what no
HTTP library would.
"""

import asyncio
import gzip
import json
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

FORMATS = ("openai", "anthropic", "gemini")
_FOREVER = 30.0


@dataclass
class Exchange:
    """One request, and the connection for its response."""

    format: str
    stream: bool
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(
        self,
        status: int = 200,
        content_type: str = "",
        *,
        length: int | None = None,
        extra_headers: str = "",
    ) -> None:
        content_type = content_type or (
            "text/event-stream" if self.stream else "application/json"
        )
        framing = (
            f"content-length: {length}\r\n"
            if length is not None
            else "transfer-encoding: chunked\r\n"
        )
        await self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{extra_headers}{framing}\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def complete_response(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = "application/json",
        extra: str = "",
    ) -> None:
        await self.head(status, content_type, length=len(body), extra_headers=extra)
        await self.send(body)

    # the answer of a healthy provider

    @property
    def body(self) -> bytes:
        return json.dumps(answer(self.format)).encode()

    @property
    def events(self) -> list[bytes]:
        return events(self.format)


def answer(wire_format: str, prompt: Any = 5, completion: Any = 2) -> dict[str, Any]:
    match wire_format:
        case "openai":
            message = {"role": "assistant", "content": "hello there"}
            return {
                "id": "x", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 7},
            }  # fmt: skip
        case "anthropic":
            return {
                "id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "hello there"}],
                "usage": {"input_tokens": prompt, "output_tokens": completion},
            }  # fmt: skip
        case _:
            content = {"role": "model", "parts": [{"text": "hello there"}]}
            usage = {
                "promptTokenCount": prompt,
                "candidatesTokenCount": completion,
                "totalTokenCount": 7,
            }
            return {
                "candidates": [
                    {"content": content, "finishReason": "STOP", "index": 0}
                ],
                "usageMetadata": usage,
            }


def events(wire_format: str, prompt: Any = 5, completion: Any = 2) -> list[bytes]:
    """Return the events of a stream: the first has text, the last ones end it."""
    match wire_format:
        case "openai":
            return _openai_events(prompt, completion)
        case "anthropic":
            return _anthropic_events(prompt, completion)
        case _:
            content = {"role": "model", "parts": [{"text": "hello"}]}
            first = {"candidates": [{"content": content, "index": 0}]}
            return [_data(first), _data(answer("gemini", prompt, completion))]


def _openai_events(prompt: Any, completion: Any) -> list[bytes]:
    """Return the chunks of a chat completion with its usage."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [
        {"index": 0, "delta": {"role": "assistant", "content": "hello"}},
        {"index": 0, "delta": {"content": " there"}},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": 7,
    }
    chunks = [{**base, "choices": [choice]} for choice in choices]
    chunks.append({**base, "choices": [], "usage": usage})
    return [*(_data(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


def _anthropic_events(prompt: Any, completion: Any) -> list[bytes]:
    """Return the events of a message.

    The first three are joined, so that the first item has text.
    """
    message = {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": {"input_tokens": prompt, "output_tokens": 1},
    }
    start = {"type": "message_start", "message": message}
    block = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    first_text, second_text = (
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text},
        }
        for text in ("hello", " there")
    )
    stop = {"type": "content_block_stop", "index": 0}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": completion},
    }
    return [
        b"".join(_named(event) for event in (start, block, first_text)),
        *(
            _named(event)
            for event in (second_text, stop, end, {"type": "message_stop"})
        ),
    ]


def _data(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _named(event: Any) -> bytes:
    return b"event: " + event["type"].encode() + b"\n" + _data(event)


Fault = Callable[[Exchange], Awaitable[None]]


def _status(status: int, extra_headers: str = "", error_type: str = "") -> Fault:
    async def fault(exchange: Exchange) -> None:
        error_body = {
            "error": {
                "message": f"status {status}",
                "type": error_type or "error",
                "code": status,
            }
        }
        await exchange.complete_response(
            json.dumps(error_body).encode(), status, extra=extra_headers
        )

    return fault


async def healthy(exchange: Exchange) -> None:
    if not exchange.stream:
        await exchange.complete_response(exchange.body)
        return
    await exchange.head()
    for event in exchange.events:
        await exchange.chunk(event)
    await exchange.end()


async def reset(exchange: Exchange) -> None:
    _linger(exchange)
    exchange.writer.transport.abort()


def _linger(exchange: Exchange) -> None:
    """Make the socket be reset rather than closed."""
    import socket

    exchange.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )


async def slow_headers(exchange: Exchange) -> None:
    await asyncio.sleep(_FOREVER)


async def drip_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        await exchange.send(f"x-{number}: y\r\n".encode())
        await asyncio.sleep(0.05)


async def drip_body(exchange: Exchange) -> None:
    """Send only keep-alives: comments in a stream, spaces before JSON."""
    await exchange.head()
    while True:
        await exchange.chunk(b": still here\n\n" if exchange.stream else b" ")
        await asyncio.sleep(0.05)


async def silence_midstream(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(exchange.events[0] if exchange.stream else exchange.body[:20])
    await asyncio.sleep(_FOREVER)


async def cut_midstream(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(exchange.events[0] if exchange.stream else exchange.body[:20])
    _linger(exchange)
    exchange.writer.transport.abort()


async def end_midstream(exchange: Exchange) -> None:
    """End the HTTP body properly in the middle of the content."""
    await exchange.head()
    await exchange.chunk(exchange.events[0] if exchange.stream else exchange.body[:20])
    await exchange.end()


async def half_close(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(exchange.events[0] if exchange.stream else exchange.body[:20])
    exchange.writer.write_eof()
    await asyncio.sleep(1)


async def garbage_sse(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(b"data: {not json\n\ndata: \xff\xfe\n\n")
    await exchange.end()


async def truncated_json(exchange: Exchange) -> None:
    if exchange.stream:
        await exchange.head()
        await exchange.chunk(exchange.events[0][:-12] + b"\n\n")
        await exchange.end()
    else:
        await exchange.complete_response(exchange.body[:-10])


async def wrong_content_type(exchange: Exchange) -> None:
    """Send a valid answer with the type text/plain.

    It may be read or refused, but must not hang.
    """
    if not exchange.stream:
        await exchange.complete_response(exchange.body, content_type="text/plain")
        return
    await exchange.head(content_type="text/plain")
    for event in exchange.events:
        await exchange.chunk(event)
    await exchange.end()


async def html_with_200(exchange: Exchange) -> None:
    await exchange.complete_response(
        b"<html><body>Welcome to our captive portal</body></html>",
        content_type="text/html",
    )


async def oversized_line(exchange: Exchange) -> None:
    await exchange.head()
    with suppress(ConnectionError):
        await exchange.chunk(b"data: " if exchange.stream else b'{"x": "')
        for _ in range(400):
            await exchange.chunk(b"a" * 1_000_000)


@lru_cache(1)
def _bomb() -> bytes:
    """100 MB that compress to 0.1 MB.

    Built once, since building takes as long as a caller waits in these tests.
    """
    return gzip.compress(b" " * 100_000_000, compresslevel=9)


async def gzip_bomb(exchange: Exchange) -> None:
    body = await asyncio.to_thread(_bomb)
    await exchange.complete_response(
        body,
        content_type="text/event-stream" if exchange.stream else "",
        extra="content-encoding: gzip\r\n",
    )


def _usage(prompt: Any, completion: Any) -> Fault:
    async def fault(exchange: Exchange) -> None:
        if not exchange.stream:
            await exchange.complete_response(
                json.dumps(answer(exchange.format, prompt, completion)).encode()
            )
            return
        await exchange.head()
        for event in events(exchange.format, prompt, completion):
            await exchange.chunk(event)
        await exchange.end()

    return fault


async def content_length_too_long(exchange: Exchange) -> None:
    body = b"".join(exchange.events) if exchange.stream else exchange.body
    await exchange.head(length=len(body) + 100)
    await exchange.send(body)


async def content_length_too_short(exchange: Exchange) -> None:
    body = b"".join(exchange.events) if exchange.stream else exchange.body
    await exchange.head(length=len(body) - 20)
    await exchange.send(body)


async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"220 mail.example ESMTP\r\n")
    await asyncio.sleep(_FOREVER)


async def deep_json(exchange: Exchange) -> None:
    body = b"[" * 50_000
    if exchange.stream:
        await exchange.head()
        await exchange.chunk(b"data: " + body + b"\n\n")
        await exchange.end()
    else:
        await exchange.complete_response(body)


async def huge_headers(exchange: Exchange) -> None:
    with suppress(ConnectionError):
        await exchange.send(
            b"HTTP/1.1 200 OK\r\n"
            + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 900) for n in range(1000))
        )
        await exchange.send(b"\r\n")


async def error_in_stream(exchange: Exchange) -> None:
    """Start a stream, then send an error event."""
    error_body = {
        "type": "overloaded_error",
        "message": "overloaded",
        "code": 529,
        "status": "UNAVAILABLE",
    }
    if not exchange.stream:
        await exchange.complete_response(
            json.dumps({"type": "error", "error": error_body}).encode()
        )
        return
    await exchange.head()
    await exchange.chunk(
        b"event: error\n" + _data({"type": "error", "error": error_body})
    )
    await exchange.end()


FAULTS: dict[str, Fault] = {
    "healthy": healthy,
    "reset": reset,
    **{
        f"s{status}": _status(status)
        for status in (401, 403, 404, 408, 413, 422, 500, 502, 503, 529)
    },
    "s429": _status(429),
    "s429_retry_after": _status(429, "retry-after: 7\r\n"),
    "s302": _status(302, "location: http://127.0.0.1:1/\r\n"),
    "slow_headers": slow_headers,
    "drip_headers": drip_headers,
    "drip_body": drip_body,
    "silence_midstream": silence_midstream,
    "cut_midstream": cut_midstream,
    "end_midstream": end_midstream,
    "half_close": half_close,
    "garbage_sse": garbage_sse,
    "truncated_json": truncated_json,
    "wrong_content_type": wrong_content_type,
    "html_with_200": html_with_200,
    "oversized_line": oversized_line,
    "gzip_bomb": gzip_bomb,
    "nan_usage": _usage(float("nan"), float("inf")),
    "negative_usage": _usage(-5, -1_000_000),
    "huge_usage": _usage(10**30, 1e308),
    "content_length_too_long": content_length_too_long,
    "content_length_too_short": content_length_too_short,
    "no_http": no_http,
    "deep_json": deep_json,
    "huge_headers": huge_headers,
    "error_in_stream": error_in_stream,
}
"""Mode → fault. The mode `refused` is an address without a listener."""


class FaultyUpstream:
    """A server in a thread of its own, for a `with` block.

    `open` counts connections; `seen` has the models of the requests.
    """

    def __enter__(self) -> Self:
        _bomb()  # built before a caller waits
        self.seen: list[str] = []
        self.open = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), daemon=True
        )
        self._thread.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.open += 1
        try:
            while True:
                wire_format, model, stream = await _read_request(reader)
                self.seen.append(model)
                await FAULTS[model](Exchange(wire_format, stream, writer))
        except (
            asyncio.IncompleteReadError,
            ConnectionError,
            asyncio.CancelledError,
            RuntimeError,
        ):
            pass
        finally:
            self.open -= 1
            with suppress(Exception):
                writer.close()


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bool]:
    """Return (wire format, model, is stream) of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    path = head.split(" ", 2)[1]
    lines = [line.lower() for line in head.split("\r\n")[1:] if ": " in line]
    headers = dict(line.split(": ", 1) for line in lines)
    length = int(headers.get("content-length", 0))
    body = json.loads(await reader.readexactly(length) or b"{}")
    if ":" in path and "/messages" not in path:
        model = path.rpartition("/")[2].partition(":")[0]
        return "gemini", model, "streamGenerateContent" in path
    wire_format = "anthropic" if "/messages" in path else "openai"
    return wire_format, body["model"], bool(body.get("stream"))
