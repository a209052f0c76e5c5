"""Tests for the acceptance of connections while the event loop is busy."""

import asyncio
import socket
from contextlib import ExitStack

import uvloop

from modelyard.cli.serve import (
    _listeners,  # pyright: ignore[reportPrivateUsage]
)


def test_several_connections_are_accepted_in_one_turn_of_the_event_loop():
    accepted = 0

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal accepted
            accepted += 1
            transport.close()

    async def turns_to_accept(count: int) -> int:
        """Connect, and return the number of turns until all are accepted."""
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
            sockets = _listeners(listening)
            servers = [
                await loop.create_server(Accepted, sock=listener)
                for listener in sockets
            ]
            for _ in range(count):
                stack.enter_context(socket.create_connection(listening.getsockname()))
            turns = 0
            while accepted < count:
                turns += 1
                await asyncio.sleep(0)
            for server in servers:
                server.close()
            for listener in sockets:
                listener.close()
        return turns

    # The kernel may report a connection a little later, so not exactly an eighth.
    assert uvloop.run(turns_to_accept(64)) < 40
