"""A provider that fails in every way that providers fail, in three wire formats.

The model's name says how: `cut_midstream`, `429_retry_after` … Each fault is a coroutine that is given the socket.
Written on bare sockets, so that what no HTTP library would send can be sent.
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
    """One request, and where its answer goes."""

    format: str
    stream: bool
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, kind: str = "", *, length: int | None = None, more: str = "") -> None:
        kind = kind or ("text/event-stream" if self.stream else "application/json")
        framing = f"content-length: {length}\r\n" if length is not None else "transfer-encoding: chunked\r\n"
        await self.send(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}{framing}\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def whole(self, body: bytes, status: int = 200, kind: str = "application/json", more: str = "") -> None:
        await self.head(status, kind, length=len(body), more=more)
        await self.send(body)

    # what a healthy provider would say

    @property
    def body(self) -> bytes:
        return json.dumps(answer(self.format)).encode()

    @property
    def events(self) -> list[bytes]:
        return events(self.format)


def answer(form: str, prompt: Any = 5, completion: Any = 2) -> dict[str, Any]:
    match form:
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
            usage = {"promptTokenCount": prompt, "candidatesTokenCount": completion, "totalTokenCount": 7}
            return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


def events(form: str, prompt: Any = 5, completion: Any = 2) -> list[bytes]:
    """A stream: its first event says something, its last ones end it."""
    match form:
        case "openai":
            base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 7}
            first = {**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}}]}
            then = {**base, "choices": [{"index": 0, "delta": {"content": " there"}}]}
            last = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            tail = {**base, "choices": [], "usage": usage}
            return [*(_data(one) for one in (first, then, last, tail)), b"data: [DONE]\n\n"]
        case "anthropic":
            start = {
                "type": "message_start",
                "message": {
                    "id": "x", "type": "message", "role": "assistant", "model": "m", "content": [],
                    "usage": {"input_tokens": prompt, "output_tokens": 1},
                },
            }  # fmt: skip
            block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            said = [
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
                for text in ("hello", " there")
            ]
            stop = {"type": "content_block_stop", "index": 0}
            delta = {
                "type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": completion},
            }  # fmt: skip
            first = b"".join(_named(one) for one in (start, block, said[0]))
            return [first, *(_named(one) for one in (said[1], stop, delta, {"type": "message_stop"}))]
        case _:
            parts = [{"candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "index": 0}]}]
            return [_data(one) for one in (*parts, answer("gemini", prompt, completion))]


def _data(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _named(event: Any) -> bytes:
    return b"event: " + event["type"].encode() + b"\n" + _data(event)


Fault = Callable[[Exchange], Awaitable[None]]


def _status(status: int, more: str = "", kind: str = "") -> Fault:
    async def fault(one: Exchange) -> None:
        words = {"error": {"message": f"status {status}", "type": kind or "error", "code": status}}
        await one.whole(json.dumps(words).encode(), status, more=more)

    return fault


async def healthy(one: Exchange) -> None:
    if not one.stream:
        await one.whole(one.body)
        return
    await one.head()
    for event in one.events:
        await one.chunk(event)
    await one.end()


async def reset(one: Exchange) -> None:
    _linger(one)
    one.writer.transport.abort()


def _linger(one: Exchange) -> None:
    """Have the socket be reset rather than closed."""
    import socket

    one.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def slow_headers(one: Exchange) -> None:
    await asyncio.sleep(_FOREVER)


async def drip_headers(one: Exchange) -> None:
    await one.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        await one.send(f"x-{number}: y\r\n".encode())
        await asyncio.sleep(0.05)


async def drip_body(one: Exchange) -> None:
    """Keeps the connection alive and says nothing: comments in a stream, spaces before JSON."""
    await one.head()
    while True:
        await one.chunk(b": still here\n\n" if one.stream else b" ")
        await asyncio.sleep(0.05)


async def silence_midstream(one: Exchange) -> None:
    await one.head()
    await one.chunk(one.events[0] if one.stream else one.body[:20])
    await asyncio.sleep(_FOREVER)


async def cut_midstream(one: Exchange) -> None:
    await one.head()
    await one.chunk(one.events[0] if one.stream else one.body[:20])
    _linger(one)
    one.writer.transport.abort()


async def end_midstream(one: Exchange) -> None:
    """Ends as HTTP should, in the middle of what is said."""
    await one.head()
    await one.chunk(one.events[0] if one.stream else one.body[:20])
    await one.end()


async def half_close(one: Exchange) -> None:
    await one.head()
    await one.chunk(one.events[0] if one.stream else one.body[:20])
    one.writer.write_eof()
    await asyncio.sleep(1)


async def garbage_sse(one: Exchange) -> None:
    await one.head()
    await one.chunk(b"data: {not json\n\ndata: \xff\xfe\n\n")
    await one.end()


async def truncated_json(one: Exchange) -> None:
    if one.stream:
        await one.head()
        await one.chunk(one.events[0][:-12] + b"\n\n")
        await one.end()
    else:
        await one.whole(one.body[:-10])


async def wrong_content_type(one: Exchange) -> None:
    """Says text, sends an answer: to be read, or to be refused, and never to hang."""
    if not one.stream:
        await one.whole(one.body, kind="text/plain")
        return
    await one.head(kind="text/plain")
    for event in one.events:
        await one.chunk(event)
    await one.end()


async def html_with_200(one: Exchange) -> None:
    await one.whole(b"<html><body>Welcome to our captive portal</body></html>", kind="text/html")


async def oversized_line(one: Exchange) -> None:
    await one.head()
    with suppress(ConnectionError):
        await one.chunk(b"data: " if one.stream else b'{"x": "')
        for _ in range(400):
            await one.chunk(b"a" * 1_000_000)


@lru_cache(1)
def _bomb() -> bytes:
    """100 MB in a tenth of one; made once, since making it takes as long as a caller waits here."""
    return gzip.compress(b" " * 100_000_000, compresslevel=9)


async def gzip_bomb(one: Exchange) -> None:
    body = await asyncio.to_thread(_bomb)
    await one.whole(body, kind="text/event-stream" if one.stream else "", more="content-encoding: gzip\r\n")


def _usage(prompt: Any, completion: Any) -> Fault:
    async def fault(one: Exchange) -> None:
        if not one.stream:
            await one.whole(json.dumps(answer(one.format, prompt, completion)).encode())
            return
        await one.head()
        for event in events(one.format, prompt, completion):
            await one.chunk(event)
        await one.end()

    return fault


async def content_length_too_long(one: Exchange) -> None:
    body = b"".join(one.events) if one.stream else one.body
    await one.head(length=len(body) + 100)
    await one.send(body)


async def content_length_too_short(one: Exchange) -> None:
    body = b"".join(one.events) if one.stream else one.body
    await one.head(length=len(body) - 20)
    await one.send(body)


async def no_http(one: Exchange) -> None:
    await one.send(b"220 mail.example ESMTP\r\n")
    await asyncio.sleep(_FOREVER)


async def deep_json(one: Exchange) -> None:
    body = b"[" * 50_000
    if one.stream:
        await one.head()
        await one.chunk(b"data: " + body + b"\n\n")
        await one.end()
    else:
        await one.whole(body)


async def huge_headers(one: Exchange) -> None:
    with suppress(ConnectionError):
        await one.send(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 900) for n in range(1000)))
        await one.send(b"\r\n")


async def error_in_stream(one: Exchange) -> None:
    """Begins well, and then says in words that it failed."""
    words = {"type": "overloaded_error", "message": "overloaded", "code": 529, "status": "UNAVAILABLE"}
    if not one.stream:
        await one.whole(json.dumps({"type": "error", "error": words}).encode())
        return
    await one.head()
    await one.chunk(b"event: error\n" + _data({"type": "error", "error": words}))
    await one.end()


FAULTS: dict[str, Fault] = {
    "healthy": healthy,
    "reset": reset,
    **{f"s{status}": _status(status) for status in (401, 403, 404, 408, 413, 422, 500, 502, 503, 529)},
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
"""Mode → fault. `refused` is an address where nobody listens."""


class FaultyUpstream:
    """Runs in a thread of its own until it is left. `open` counts connections, `seen` requests by model."""

    def __enter__(self) -> Self:
        self.seen: list[str] = []
        self.open = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
                form = "anthropic" if "/messages" in path else "gemini" if ":" in path else "openai"
                model = path.rpartition("/")[2].partition(":")[0] if form == "gemini" else body["model"]
                stream = "streamGenerateContent" in path if form == "gemini" else bool(body.get("stream"))
                self.seen.append(model)
                await FAULTS[model](Exchange(form, stream, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError, RuntimeError):
            pass
        finally:
            self.open -= 1
            with suppress(Exception):
                writer.close()
