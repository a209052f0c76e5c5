"""The caller's side of a chat call that the protocol class answers without ASGI."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from modelyard.gateway.http import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DirectConnection(Protocol):
    """The parts of a connection that a direct response uses."""

    transport: Any
    cycle: Any

    def run_app(self, cycle: Any, app: App) -> None:
        """Run an ASGI application for a request."""
        ...

    def end_direct(self, cycle: Any) -> None:
        """The response to a request was written directly and is complete."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class DirectClient:
    """Writes one response to a connection. Implements
    `modelyard.gateway.direct.ClientConnection`."""

    __slots__ = ("_connection", "_cycle")

    def __init__(self, connection: DirectConnection, cycle: Any) -> None:
        self._connection = connection
        self._cycle = cycle

    def write(self, data: bytes) -> None:
        """Write a part of the response."""
        self._cycle.response_started = True
        self._connection.transport.write(data)

    def end_response(self) -> None:
        """The response is complete: the connection goes on with the next request."""
        self._connection.end_direct(self._cycle)

    def abort(self) -> None:
        """Close at once, so that the caller sees a truncated response."""
        self._connection.abort()

    def run(self, app: App) -> None:
        """Answer the request by an ASGI application instead."""
        self._connection.run_app(self._cycle, app)
