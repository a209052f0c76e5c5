"""A provider as fast as Python gets: answers every chat with the same bytes. Its own CPU is not what is measured.

python -m bench.upstream PORT_FILE
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httptools
import uvloop

from modelyard.testing import chat_answer, chat_events

CHUNKS = 200
_BODY = chat_answer("Hello there, this is an answer of about the usual length for a short question.").body
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY
_EVENTS = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in chat_events([f"word{n} " for n in range(CHUNKS)]))
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _EVENTS + b"0\r\n\r\n"
)


class Provider(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._transport.write(_STREAM if b'"stream":true' in self._body.replace(b" ", b"") else _WHOLE)
        self._body = b""


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    Path(sys.argv[1]).write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
