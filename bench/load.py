"""Call a chat endpoint REQUESTS times over CONNECTIONS persistent connections and print
the seconds.

python -m bench.load HOST PORT CONNECTIONS REQUESTS MODEL STREAM

STREAM is `stream` for streamed answers, anything else for complete ones.
"""

import asyncio
import json
import sys
import time
from typing import Any

import httptools
import uvloop


class Caller(asyncio.Protocol):
    """One connection, which sends the next request as soon as the previous one is
    answered.

    `turns` is a one-element list: the number of requests left, shared by all
    connections.
    """

    def __init__(
        self, request: bytes, turns: list[int], finished: asyncio.Future[None]
    ) -> None:
        self._request = request
        self._turns = turns
        self._finished = finished

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._next()

    def _next(self) -> None:
        if self._turns[0] > 0:
            self._turns[0] -= 1
            self._transport.write(self._request)
        elif not self._finished.done():
            self._finished.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the run if the connection closes before all requests are answered."""
        if not self._finished.done():
            self._finished.set_exception(
                RuntimeError(f"the connection was closed: {exc}")
            )

    def data_received(self, data: bytes) -> None:
        """Feed the response parser."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Send the next request, or fail the run if the status is not 200."""
        if self._parser.get_status_code() != 200:
            if not self._finished.done():
                self._finished.set_exception(
                    RuntimeError(f"status {self._parser.get_status_code()}")
                )
            return
        self._next()


async def main(
    host: str, port: str, connections: str, requests: str, model: str, stream: str
) -> None:
    """Make all requests and print `{"seconds": ...}`."""
    # The request is built once and sent as the same bytes each time, so that the load
    # generator stays cheap.
    body = json.dumps(
        {
            "model": model,
            "stream": stream == "stream",
            "messages": [
                {"role": "system", "content": "You are helpful."},
                {"role": "user", "content": "Hello " * 20},
            ],
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    request = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    loop = asyncio.get_running_loop()
    turns, waiting = (
        [int(requests)],
        [loop.create_future() for _ in range(int(connections))],
    )
    started_at = time.perf_counter()
    for future in waiting:
        # `future=future` binds the current future; a plain closure would see the last
        # one.
        await loop.create_connection(
            lambda future=future: Caller(request, turns, future), host, int(port)
        )
    await asyncio.gather(*waiting)
    print(json.dumps({"seconds": time.perf_counter() - started_at}))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:7]))
