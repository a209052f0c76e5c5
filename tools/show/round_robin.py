"""A balancer in this process: each request goes to the next server in turn, as behind
nginx with `upstream { server …; }` and `proxy_next_upstream error`.

It speaks HTTP/1.1 with one request for each connection and knows no more than a proof
needs. A server that refuses the connection gets no requests until it accepts one again;
a request that was sent is never sent twice.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Self


class RoundRobin:
    """The balancer as a context manager, on a thread of its own."""

    def __init__(self, ports: Sequence[int]) -> None:
        """`ports` are those of the servers on loopback."""
        self.ports = list(ports)
        self.served: Counter[int] = Counter()
        """How many requests each port has got."""
        self.url = ""
        self._index = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        """Serve until the block ends."""
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """End the requests that are under way."""
        # Connections that were accepted already become tasks in the next turns.
        for _ in range(3):
            await asyncio.sleep(0.02)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass one request on, and its answer back."""
        upstream: asyncio.StreamWriter | None = None
        # The loop holds tasks only weakly.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            answers, upstream = await self._connect()
            upstream.write(_closing(head) + body)
            # Whatever comes is passed on at once: streams stay streams.
            while chunk := await answers.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client sees a connection that ends, as the proof has to.
            pass
        finally:
            self._tasks.discard(task)
            for stream in (upstream, writer):
                if stream is not None:
                    stream.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the next server that accepts. Raises ConnectionError if none
        does."""
        for _ in self.ports:
            port = self.ports[self._index % len(self.ports)]
            self._index += 1
            try:
                streams = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                continue
            self.served[port] += 1
            return streams
        raise ConnectionRefusedError("No server accepts connections")


def _length(head: bytes) -> int:
    """Return the length of the body that follows a head."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """Return a head that asks the server to close the connection after its answer."""
    lines = [
        line
        for line in head[:-4].split(b"\r\n")
        if not line.lower().startswith((b"connection:", b"expect:"))
    ]
    return b"\r\n".join([*lines, b"connection: close", b"", b""])
