"""A minimal relay, the lower bound for a gateway in Python: uvicorn and Modelyard's
HTTP client, which forward bytes without reading them.

python -m bench.relay UPSTREAM_URL PORT_FILE
"""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from modelyard.transport.http import HttpClient

URL = f"{sys.argv[1]}/chat/completions"
client: HttpClient | None = None


async def relay(scope: Any, receive: Any, send: Any) -> None:
    """Forward a chat request to the upstream and stream its response back (an ASGI
    application)."""
    global client
    # Created on the first request, because the client needs the running event loop.
    client = client or HttpClient()
    body = (await receive())["body"]
    response = await client.send(
        "POST", URL, headers={"content-type": "application/json"}, body=[body]
    )
    content_type = response.headers["content-type"].encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", content_type)],
        }
    )
    async for chunk in response.chunks():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    response.close()
    await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    """Serve on a free port and write the port into the file."""
    # The socket listens before the port is written, so that the first connection is not
    # refused.
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    Path(sys.argv[2]).write_text(str(listening.getsockname()[1]))
    config = uvicorn.Config(
        relay, http="httptools", lifespan="off", access_log=False, log_level="error"
    )
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(main())
