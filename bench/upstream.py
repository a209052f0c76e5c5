"""A simulated provider that answers each chat request with the same bytes, as fast as
Python can.

Its own CPU is not part of the measurements.

python -m bench.upstream [DELAY_MS] PORT_FILE

DELAY_MS is the time until each answer starts; 0 by default.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httptools
import uvloop

from modelyard.testing import chat_answer, chat_events

CHUNKS = 200
# Both responses are built once, at import: a request costs the provider a single write.
_BODY = chat_answer(
    "Hello there, this is an answer of about the usual length for a short question."
).body
_WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(_BODY)
    + _BODY
)
_EVENTS = b"".join(
    b"%x\r\n%b\r\n" % (len(event), event)
    for event in chat_events([f"word{n} " for n in range(CHUNKS)])
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + _EVENTS
    + b"0\r\n\r\n"
)


class Provider(asyncio.Protocol):
    """One connection of the provider."""

    delay_seconds = 0.0

    def connection_made(self, transport: Any) -> None:
        """Create the request parser."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        """Feed the request parser."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Collect the request body, which may arrive in several parts."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer with the stream or the complete response, depending on the request's
        `stream` field."""
        is_stream = b'"stream":true' in self._body.replace(b" ", b"")
        answer = _STREAM if is_stream else _WHOLE
        self._body = b""
        if self.delay_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_seconds, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def main() -> None:
    """Serve on a free port and write the port into the file named by the last
    argument."""
    *delays, port_file = sys.argv[1:]
    Provider.delay_seconds = float(delays[0]) / 1000 if delays else 0.0
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    Path(port_file).write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
