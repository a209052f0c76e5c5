"""Connections of sandboxed programs: a program asks for one over a control socket and
receives one end of a socket pair, whose other end a connector serves.

The kernel refuses programs every socket of their own, with and without network access.
So nothing can be connected to but what the connector connects to.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

logger = logging.getLogger("modelyard.sandbox")

MAX_OPEN_CONNECTIONS = 32
"""Of one program at once; each takes two descriptors of the server."""
_GRANTED, _DENIED = b"+", b"-"


class Connector(Protocol):
    """Serves the connections of one program as an HTTP proxy."""

    async def serve(self, connection: socket.socket) -> None:
        """Serve one end of a socket pair until it ends, and close it. May be cancelled
        at any time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAccess:
    """Whether a program may use the network, and how."""

    connector: Connector | None = None
    """Of this one program; None for no network."""
    refusal: str = "Programs have no network access here"
    """The error of a program that tries without a connector."""
    authorities: str = ""
    """Certificates in PEM that TLS clients of the program trust in addition."""


NO_NETWORK = NetworkAccess()


@asynccontextmanager
async def program_channel(connector: Connector) -> AsyncGenerator[int]:
    """Yield the descriptor by which a program asks for connections. Leaving the context
    ends all of them."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(False)
    broker = _Broker(near, connector)
    listening = asyncio.ensure_future(broker.listen())
    try:
        yield far.fileno()
    finally:
        far.close()
        listening.cancel()
        # Waited for, so that nothing of a program outlives its run.
        await asyncio.gather(listening, return_exceptions=True)
        await broker.end_connections()
        near.close()


@dataclass(slots=True, eq=False)
class _Broker:
    """Hands connections to one program."""

    control: socket.socket
    connector: Connector
    open: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    async def listen(self) -> None:
        """Grant a connection for each byte that the program sends, until it exits."""
        loop = asyncio.get_running_loop()
        try:
            while requests := await loop.sock_recv(self.control, 64):
                for _ in requests:
                    self._grant()
        except OSError:
            # The program does not read what it asks for, so it is given nothing more.
            return

    def _grant(self) -> None:
        """Send the program one end of a new connection, or a refusal if it has too many.
        Raises OSError if the program does not read."""
        if len(self.open) >= MAX_OPEN_CONNECTIONS:
            self.control.send(_DENIED)
            return
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with far:
            try:
                socket.send_fds(self.control, [_GRANTED], [far.fileno()])
            except OSError:
                near.close()
                raise
        near.setblocking(False)
        task = asyncio.ensure_future(self.connector.serve(near))
        self.open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Forget a connection. Its errors are the connector's to report; any other is a
        fault of ours."""
        self.open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a program's connection failed", exc_info=error)

    async def end_connections(self) -> None:
        """Cancel all connections and wait until they are closed."""
        connections = list(self.open)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
