"""Calls a chat endpoint over N kept connections, M times, and says how long it took.

python -m bench.load HOST PORT CONNECTIONS REQUESTS MODEL STREAM

BENCH_HEADERS holds further headers, as a JSON object.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import httptools
import uvloop


class Caller(asyncio.Protocol):
    """One connection: asks again as soon as it is answered."""

    def __init__(self, request: bytes, turns: list[int], done: asyncio.Future[None]) -> None:
        self._request = request
        self._turns = turns
        self._done = done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._next()

    def _next(self) -> None:
        if self._turns[0] > 0:
            self._turns[0] -= 1
            self._transport.write(self._request)
        elif not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(f"the connection was closed: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            if not self._done.done():
                self._done.set_exception(RuntimeError(f"status {self._parser.get_status_code()}"))
            return
        self._next()


async def main(host: str, port: str, connections: str, requests: str, model: str, stream: str) -> None:
    body = json.dumps({
        "model": model,
        "stream": stream == "stream",
        "messages": [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Hello " * 20}],
    }).encode()  # fmt: skip
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    for name, value in json.loads(os.environ.get("BENCH_HEADERS", "{}")).items():
        head += f"{name}: {value}\r\n"
    request = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    loop = asyncio.get_running_loop()
    turns, waiting = [int(requests)], [loop.create_future() for _ in range(int(connections))]
    begun = time.perf_counter()
    for done in waiting:
        await loop.create_connection(lambda done=done: Caller(request, turns, done), host, int(port))
    await asyncio.gather(*waiting)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:7]))
