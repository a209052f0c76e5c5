"""Closing of HTTP connections: the last response, and a delay so that the client can
read it before the close."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from modelyard.cli.connection_limits import ConnectionLimiter, LimitedConnection
from modelyard.gateway.http import RefusedError, Reply

Refusal = Callable[[str, str, RefusedError], Reply]
"""(method, path, error) → reply, in the error format of the API that the path belongs
to."""

# What a connection waits for. Integers, because the state is compared on every read.
HEAD, BODY, WHOLE, OVER = range(4)
"""HEAD: a head or the remainder of one. BODY: the remainder of a body. WHOLE: nothing,
a request is complete. OVER: input is no longer parsed."""

# A client that still sends does not read; closing at once would make the kernel discard
# the reply together with what was not read (RFC 9112, 9.6).
_MAX_DROPPED = 1 << 23
_DROP_SECONDS = 0.02
"""Limits for input after the last response: bytes that are read at most, and seconds
between two reads."""


class EndableConnection(LimitedConnection, Protocol):
    """The parts of a connection that its ending uses."""

    door: ConnectionLimiter
    state: int
    url: bytes
    parser: Any
    cycle: Any
    """Cycle of the newest request, an `http_protocol._RequestCycle`; None if all requests are
    answered."""
    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop


class ConnectionEnding:
    """Ends one connection. Requests before the refused one are answered first."""

    __slots__ = ("_connection", "_dropped", "_refusal")

    def __init__(
        self, connection: EndableConnection, refusal: Refusal, dropped_bytes: int
    ) -> None:
        """`dropped_bytes`: how many bytes of the refused request have arrived."""
        self._connection = connection
        self._refusal = refusal
        self._dropped = dropped_bytes

    def refuse(self, error: RefusedError) -> None:
        """Refuse the current input. Earlier pipelined requests are answered first; then
        the connection closes."""
        connection = self._connection
        if connection.state == BODY:
            self.fail_body(error)
        elif connection.cycle is None or connection.cycle.response_complete:
            self.reply_and_close(error)
        # An earlier response is still being written: it becomes the last one.
        else:
            connection.state = OVER
            connection.door.start_response(connection)
            connection.cycle.close_after()

    def fail_body(self, error: RefusedError) -> None:
        """Answer the request whose body is arriving with an error, or abort if its
        response has started."""
        connection = self._connection
        connection.state = OVER
        connection.door.start_response(connection)
        if connection.cycle.response_started:
            # An error cannot be sent within a response; cutting it off at least shows
            # that it is incomplete.
            connection.transport.abort()
        else:
            connection.cycle.fail(error)

    def reply_and_close(self, error: RefusedError) -> None:
        """Answer input that did not become a request, and close."""
        connection = self._connection
        # Method and path are known only if the request line was parsed.
        method = (
            connection.parser.get_method().decode("ascii") if connection.url else ""
        )
        path = connection.url.partition(b"?")[0].decode("latin-1")
        reply = self._refusal(method, path, error)
        head = _head_of(reply)
        connection.transport.write(head if method == "HEAD" else head + reply.body)
        self.linger()

    def linger(self) -> None:
        """Close for writing, give the client some seconds to read, and discard what it
        still sends."""
        connection = self._connection
        connection.state = OVER
        if connection.transport.is_closing():
            return
        connection.door.start_closing(connection)
        self._dropped = 0
        connection.flow.resume_reading()
        # Sends FIN: the client sees the end of the response, and the socket stays open
        # for reading.
        connection.transport.write_eof()

    def discard(self, data: bytes) -> None:
        """Discard input after the last response.

        Reading is throttled, because a client that sends at full speed would occupy the
        event loop.
        """
        self._dropped += len(data)
        self._connection.flow.pause_reading()
        # Beyond the limit the connection stays paused until its time is over.
        if self._dropped < _MAX_DROPPED:
            self._connection.loop.call_later(_DROP_SECONDS, self._drop_more)

    def _drop_more(self) -> None:
        """Resume reading if the connection is still open."""
        if not self._connection.transport.is_closing():
            self._connection.flow.resume_reading()


class Lingering:
    """Transport for the response to an incomplete request.

    Closing at once could make the client lose the response while it is still sending
    (RFC 9112, 9.6), so `close` lingers.
    """

    def __init__(self, transport: asyncio.Transport, ending: ConnectionEnding) -> None:
        self._transport = transport
        self._ending = ending

    def write(self, data: bytes) -> None:
        """Write to the connection."""
        self._transport.write(data)

    def close(self) -> None:
        """Close with a delay."""
        self._ending.linger()

    def is_closing(self) -> bool:
        """Tell whether the connection is closing."""
        return self._transport.is_closing()


def _head_of(reply: Reply) -> bytes:
    """Return the status line and headers of a reply that closes the connection."""
    added_headers = (reply.headers or {}).items()
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"content-type: {reply.content_type.decode('latin-1')}",
        f"content-length: {len(reply.body)}",
        "connection: close",
    ]
    lines += (f"{name}: {value}" for name, value in added_headers)
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
