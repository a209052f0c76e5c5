"""The least a gateway in Python could do: uvicorn and our HTTP client, bytes passed on unread.

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
    global client
    client = client or HttpClient()
    body = (await receive())["body"]
    response = await client.send("POST", URL, headers={"content-type": "application/json"}, body=[body])
    kind = response.headers["content-type"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    async for piece in response.pieces():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    response.close()
    await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    Path(sys.argv[2]).write_text(str(listening.getsockname()[1]))
    config = uvicorn.Config(relay, http="httptools", lifespan="off", access_log=False, log_level="error")
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(main())
