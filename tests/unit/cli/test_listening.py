"""The socket on which the server listens."""

import socket

import pytest

from modelyard.base.errors import ConfigError
from modelyard.cli.serve import _listen


def test_connections_send_at_once():
    with _listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address), listening.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_in_use_is_named():
    with _listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Cannot listen on 127.0.0.1:{port}"):
            _listen("127.0.0.1", port)
