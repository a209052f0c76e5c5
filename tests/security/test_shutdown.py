"""Tests for server shutdown.

Interrupted requests get an error in their own format, and nothing is left behind.
"""

import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from tools.show.sigterm import (
    FORMS,
    SHUTDOWN_TEXT,
    Reader,
    RunningServer,
    StreamFormat,
    all_gone,
    exit_code,
    storyteller,
    world,
)

from modelyard.testing import Upstream

pytestmark = pytest.mark.proof("sigterm")


@pytest.fixture(scope="module")
def endless() -> Iterator[Upstream]:
    with Upstream(storyteller(6000, 0.02)) as upstream_server:
        yield upstream_server


def _started(server: RunningServer, *names: str) -> dict[str, Reader]:
    readers = {name: Reader(server, FORMS[name]) for name in names}
    for name, reader in readers.items():
        assert reader.begun.wait(60)
        assert not reader.status, (name, reader.data)
    return readers


def _joined(readers: dict[str, Reader]) -> dict[str, Reader]:
    for reader in readers.values():
        reader.thread.join(30)
    return readers


def test_streams_beyond_the_grace_period_end_with_an_error_in_their_format(
    endless: Upstream,
):
    requests_before = len(endless.requests)
    with world(endless, grace=0.5) as server:
        readers = _started(server, *FORMS)
        body = {
            **FORMS["messages"].body,
            "messages": [{"role": "user", "content": "Tell it all at once."}],
            "stream": False,
        }
        unstreamed_reader = Reader(
            server, StreamFormat("/v1/messages", body, lambda data: data.decode())
        )
        idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        with idle, slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
            )
            slow.sendall(b"authorization: Bearer key-of-the-owner\r\n\r\n{")
            # Counting the requests is not enough: an app may make more than one.
            assert _eventually(lambda: _has_asked(endless, b"Tell it all at once."))
            server.process.terminate()
            assert idle.recv(10) == b""  # no request was pending on it
            with pytest.raises(OSError):
                for _ in range(100):
                    socket.create_connection(
                        ("127.0.0.1", server.port), timeout=1
                    ).close()
                    time.sleep(0.02)
            assert b" 503 " in slow.recv(20)
        assert exit_code(server.process, 30) == -signal.SIGTERM
        texts = {
            name: reader.shutdown_message() for name, reader in _joined(readers).items()
        }
        assert {
            name: text for name, text in texts.items() if SHUTDOWN_TEXT not in text
        } == {}
        # HTTP framing was terminated properly too.
        assert all(reader.is_whole for reader in readers.values())
        unstreamed_reader.thread.join(30)
        assert unstreamed_reader.status == 503
        assert SHUTDOWN_TEXT in unstreamed_reader.shutdown_message()
        rows = server.rows()
        assert {row["status"] for row in rows} == {"cancelled"}
        assert len(rows) == len(endless.requests) - requests_before


def test_calls_that_end_within_the_grace_period_are_completed():
    with (
        Upstream(storyteller(30, 0.02)) as upstream,
        world(upstream, grace=30.0, with_apps=False) as server,
    ):
        readers = _started(server, "chat", "messages", "google events", "cohere")
        server.process.terminate()
        assert exit_code(server.process, 40) == -signal.SIGTERM
        for reader in _joined(readers).values():
            assert reader.is_whole
            assert SHUTDOWN_TEXT.encode() not in reader.data
            assert reader.data.count(b"word") >= 30
        assert {row["status"] for row in server.rows()} == {"ok"}


def _is_stopping(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def _has_asked(upstream: Upstream, text: bytes) -> bool:
    return any(text in request.body for request in upstream.requests)


def _eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_server_at_once(
    endless: Upstream, number: signal.Signals
):
    with world(endless, grace=300.0, with_apps=False) as server:
        readers = _started(server, "chat")
        started = server.descendants()
        server.process.send_signal(number)
        assert _eventually(lambda: _is_stopping(server.port))
        assert server.process.poll() is None
        server.process.send_signal(number)
        assert exit_code(server.process, 30) == 128 + number
        assert all_gone(started)
        assert not _joined(readers)["chat"].is_whole


def test_workers_send_the_error_too_and_none_is_left(endless: Upstream):
    with world(endless, "--workers", "2", grace=0.5, with_apps=False) as server:
        readers = {f"{index}": Reader(server, FORMS["chat"]) for index in range(4)}
        assert all(reader.begun.wait(60) for reader in readers.values())
        started = server.descendants()
        assert len(started) >= 2
        server.process.terminate()
        assert exit_code(server.process, 60) == 0
        assert all(
            SHUTDOWN_TEXT in reader.shutdown_message()
            for reader in _joined(readers).values()
        )
        assert all_gone(started)


def test_a_second_signal_ends_all_workers_at_once(endless: Upstream):
    with world(endless, "--workers", "2", grace=300.0, with_apps=False) as server:
        _started(server, "chat")
        started = server.descendants()
        server.process.send_signal(signal.SIGINT)
        assert _eventually(lambda: _is_stopping(server.port))
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert exit_code(server.process, 30) == 130
        assert all_gone(started)
