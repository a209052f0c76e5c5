"""Tests for accepting several connections in a turn."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from modelyard.cli import accepting
from modelyard.cli.accepting import Acceptor


class Greeter(asyncio.Protocol):
    """Writes down its connection, and greets."""

    def __init__(self, transports: list[Any]) -> None:
        self._transports = transports

    def connection_made(self, transport: Any) -> None:
        self._transports.append(transport)
        transport.write(b"hello")


class Listening:
    """A listening socket that may fail instead of accepting."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.socket.setblocking(False)
        self.errors: list[OSError] = []
        self.accepted = 0
        self.free_places = 1000

    def fileno(self) -> int:
        return self.socket.fileno()

    def accept(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        connection = self.socket.accept()
        self.accepted += 1
        return connection

    def connect(self) -> socket.socket:
        """Return a client's end; the kernel has accepted it, nobody else."""
        client = socket.create_connection(self.socket.getsockname())
        client.setblocking(False)
        return client


def run(
    work: Callable[[Listening, Acceptor, list[Any]], Any], *, factory: Any = None
) -> None:
    async def main() -> None:
        listening, transports = Listening(), list[Any]()
        acceptor = Acceptor(
            listening,  # type: ignore[arg-type]
            lambda: Greeter(transports),
            lambda: listening.free_places,
            asyncio.get_running_loop(),
        )
        acceptor.start()
        try:
            await asyncio.wait_for(work(listening, acceptor, transports), 60)
        finally:
            acceptor.close()
            for transport in transports:
                transport.close()
            listening.socket.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop])
def test_a_turn_accepts_many_connections_but_not_all(factory: Any):
    async def work(
        listening: Listening, acceptor: Acceptor, transports: list[Any]
    ) -> None:
        del acceptor
        clients = [listening.connect() for _ in range(2 * accepting._PER_TURN)]
        accepted, counts = 0, list[int]()
        while len(transports) < len(clients):
            await asyncio.sleep(0)
            if listening.accepted != accepted:
                counts.append(listening.accepted - accepted)
                accepted = listening.accepted
        assert max(counts) == accepting._PER_TURN
        loop = asyncio.get_running_loop()
        for client in clients:
            assert await loop.sock_recv(client, 9) == b"hello"
            client.close()

    run(work, factory=factory)


@pytest.mark.parametrize(("free_places", "in_one_turn"), [(5, 5), (0, 1), (-3, 1)])
def test_a_full_server_accepts_few_connections_in_a_turn(
    free_places: int, in_one_turn: int
):
    """Those that it closes in their favour take a turn to give their files back."""

    async def work(
        listening: Listening, acceptor: Acceptor, transports: list[Any]
    ) -> None:
        del acceptor
        listening.free_places = free_places
        clients = [listening.connect() for _ in range(8)]
        accepted, counts = 0, list[int]()
        while len(transports) < len(clients):
            await asyncio.sleep(0)
            if listening.accepted != accepted:
                counts.append(listening.accepted - accepted)
                accepted = listening.accepted
        assert max(counts) == in_one_turn
        for client in clients:
            client.close()

    run(work)


def test_a_client_that_has_left_does_not_hold_up_the_others():
    async def work(
        listening: Listening, acceptor: Acceptor, transports: list[Any]
    ) -> None:
        del acceptor
        listening.errors = [OSError(errno.ECONNABORTED, "aborted")]
        with listening.connect():
            while not transports:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.01)

    run(work)


def test_without_room_nothing_is_accepted_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """And the event loop is not kept busy by the connections that wait."""
    monkeypatch.setattr(accepting, "_PAUSE_SECONDS", 0.05)

    async def work(
        listening: Listening, acceptor: Acceptor, transports: list[Any]
    ) -> None:
        del acceptor
        listening.errors = [OSError(errno.EMFILE, "too many open files")]
        with listening.connect():
            while not transports:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.01)

    run(work)
    assert "no connection can be accepted" in caplog.text


def test_a_closed_acceptor_accepts_nothing_more():
    async def work(
        listening: Listening, acceptor: Acceptor, transports: list[Any]
    ) -> None:
        listening.errors = [OSError(errno.EMFILE, "too many open files")]
        with listening.connect():
            while listening.errors:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.01)
            # It was pausing, and must not start again.
            acceptor.close()
            with listening.connect():
                await asyncio.sleep(0.05)
        assert not transports

    run(work)
