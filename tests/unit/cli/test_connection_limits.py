"""Tests for the order in which connections without a request are closed."""

import asyncio
from typing import Any

import pytest

from modelyard.base.settings import ConnectionSettings
from modelyard.cli.connection_limits import (
    ClientNetwork,
    ConnectionCapacity,
    ConnectionLimiter,
)


class Connection:
    """A connection that only knows whether it was closed."""

    origin: ClientNetwork

    def __init__(self) -> None:
        self.is_closed = False

    def end_head(self) -> None:
        pass

    def end_body(self) -> None:
        pass

    def is_body_slow(self, current_time: float) -> bool:
        del current_time
        return False

    def unread(self) -> int:
        return 0

    def abort(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("is_first_request", [True, False])
def test_a_request_that_is_answered_at_once_renews_its_connection(
    is_first_request: bool,
):
    """Another connection is the oldest then: in total, and of its address."""
    room = ConnectionCapacity(most=2, idle_per_address=100)
    limiter = ConnectionLimiter(ConnectionSettings(), room)

    async def work() -> None:
        limiter.open()
        older, younger, newest = Connection(), Connection(), Connection()
        for connection in (older, younger):
            limiter.register(connection, "127.0.0.1")
            if not is_first_request:
                limiter.start_response(connection)
                limiter.mark_idle(connection)
        limiter.renew_idle(older)
        waiting: Any = list(older.origin.waiting)
        assert waiting == [younger, older]
        limiter.renew_idle(younger)
        limiter.renew_idle(older)
        limiter.register(newest, "127.0.0.1")
        assert (older.is_closed, younger.is_closed) == (False, True)
        limiter.close()

    asyncio.run(work())
