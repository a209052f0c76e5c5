"""How a connection ends: what is said last, and that it is closed only when its caller could read it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from modelyard.cli.door import Connection, Door
from modelyard.gateway.http import RefusedError, Reply

Refusal = Callable[[str, str, RefusedError], Reply]
"""(method, path, why) → what is answered, in the words of those who ask there."""

# What a connection waits for. Numbers, since this is asked at every read.
HEAD, BODY, WHOLE, OVER = range(4)
"""A head, or its rest · the rest of a body · nothing, a request is complete · nothing any more: what comes is not
read."""

_MOST_DROPPED = 1 << 23
_DROP_SECONDS = 0.02
"""Of what still comes when the last was said: how much is read at most, and how long each read waits for the next."""


class Conversation(Connection, Protocol):
    """What an ending needs of the connection that ends."""

    door: Door
    state: int
    url: bytes
    parser: Any
    cycle: Any
    """The newest request's, an `http_protocol.Cycle`; None where all are answered."""
    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop


class Ending:
    """Of one connection. Requests before what is refused are answered first."""

    __slots__ = ("_connection", "_dropped", "_refusal")

    def __init__(self, connection: Conversation, refusal: Refusal, dropped: int) -> None:
        """`dropped`: bytes that came for what is refused."""
        self._connection = connection
        self._refusal = refusal
        self._dropped = dropped

    def refuse(self, error: RefusedError) -> None:
        """What came cannot be answered as a request. Those before it are answered first; then the connection ends."""
        connection = self._connection
        if connection.state == BODY:
            self.fail_body(error)
        elif connection.cycle is None or connection.cycle.response_complete:
            self.say(error)
        else:
            connection.state = OVER
            connection.door.answer(connection)
            connection.cycle.close_after()

    def fail_body(self, error: RefusedError) -> None:
        """The request whose body comes is answered with that, where no answer has begun."""
        connection = self._connection
        connection.state = OVER
        connection.door.answer(connection)
        if connection.cycle.response_started:
            connection.transport.abort()
        else:
            connection.cycle.fail(error)

    def say(self, error: RefusedError) -> None:
        """Answer what never became a request, and close."""
        connection = self._connection
        method = connection.parser.get_method().decode("ascii") if connection.url else ""
        path = connection.url.partition(b"?")[0].decode("latin-1")
        reply = self._refusal(method, path, error)
        head = _head_of(reply)
        connection.transport.write(head if method == "HEAD" else head + reply.body)
        self.linger()

    def linger(self) -> None:
        """Everything was said: the caller has some seconds to read it, and what it sends meanwhile is dropped."""
        connection = self._connection
        connection.state = OVER
        if connection.transport.is_closing():
            return
        connection.door.leave(connection)
        self._dropped = 0
        connection.flow.resume_reading()
        connection.transport.write_eof()

    def drop(self, data: bytes) -> None:
        """What comes after the last word. A little at a time: who sends as fast as it can would hold up everybody."""
        self._dropped += len(data)
        self._connection.flow.pause_reading()
        if self._dropped < _MOST_DROPPED:
            self._connection.loop.call_later(_DROP_SECONDS, self._drop_more)

    def _drop_more(self) -> None:
        if not self._connection.transport.is_closing():
            self._connection.flow.resume_reading()


class Lingering:
    """What an answer is written to whose request is not complete: closing it at once would take the answer from a
    caller who is still sending (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, ending: Ending) -> None:
        self._transport = transport
        self._ending = ending

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._ending.linger()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _head_of(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"content-type: {reply.content_type.decode('latin-1')}",
        f"content-length: {len(reply.body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in (reply.headers or {}).items()),
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
