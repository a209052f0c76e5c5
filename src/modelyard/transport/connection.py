"""One HTTP connection: its state, writing of requests, and dispatch of received bytes."""

import asyncio
import select
from collections.abc import Callable, Sequence
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.transport.proxies import Route
from modelyard.transport.response import IncomingResponse, StrayError


class Connection(asyncio.Protocol):
    """A connection to a server or proxy. Requests use `begin` and `write`; the response
    is in `answer`."""

    __slots__ = (
        "_is_lost",
        "_poll",
        "_writable",
        "answer",
        "is_spoiled",
        "listener",
        "loop",
        "transport",
        "way",
    )

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop) -> None:
        self.way = route
        self.answer = IncomingResponse(route.description, loop)
        self.transport: Any = (
            None  # uvloop's transports are not a subclass of asyncio's
        )
        self.loop = loop
        self._poll: select.poll | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_lost = False
        self.listener: Callable[[], None] | None = None
        """Called after each change of the response; None if somebody awaits it."""
        self.is_spoiled = False
        """Whether bytes arrived that belong to no response; then the connection is not
        reused."""

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed received bytes to the response; abort on invalid ones."""
        try:
            self.answer.feed(data)
        # The current response is complete all the same.
        except StrayError:
            self.is_spoiled = True
            self.abort()
        # The response has recorded the error for its reader.
        except InvokeServerUnavailableError:
            self.abort()
        if self.listener is not None:
            self.listener()

    def eof_received(self) -> bool:
        """Return False, so that the transport closes after the peer's end of file."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response and release a writer that is waiting."""
        self._is_lost = True
        self.answer.end(exc)
        if self.listener is not None:
            self.listener()
        if self._writable and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        """Make writers wait until the send buffer has drained."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """Release a waiting writer."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # Operations of the client.

    @property
    def is_usable(self) -> bool:
        """Return whether another request may be sent: everything was read, and the peer
        neither closed nor sent stray bytes."""
        return (
            self.answer.is_reusable
            and not self._is_lost
            and not self.is_spoiled
            and self.transport is not None
            and not self.transport.is_closing()
        )

    @property
    def is_writable(self) -> bool:
        """Return whether the send buffer has room."""
        return self._writable is None

    def can_send_now(self) -> bool:
        """Return whether a request may be sent at once on an idle connection, which was
        usable when it became idle: it still is, and its send buffer has room."""
        if (
            self._is_lost
            or self.is_spoiled
            or self._writable is not None
            or self.transport.is_closing()
        ):
            return False
        poll = self._poll
        return not poll.poll(0) if poll is not None else self.is_quiet

    @property
    def is_quiet(self) -> bool:
        """Return whether nothing is pending on the socket: neither its end, which the
        loop may not have processed yet, nor unexpected bytes.

        A request written afterwards was not seen by a peer that had closed before.
        """
        if self._poll is None:
            # `select.select` cannot watch descriptors above 1,023.
            self._poll = select.poll()
            # The poll object is created once per connection and reused for every
            # request.
            self._poll.register(
                self.transport.get_extra_info("socket").fileno(), select.POLLIN
            )
        return not self._poll.poll(0)

    @property
    def was_closed_without_response(self) -> bool:
        """Return whether the peer closed without sending any byte of a response."""
        return self._is_lost and not self.answer.has_bytes

    def begin(self, *, is_bodiless: bool = False) -> None:
        """Prepare for the response to the next request."""
        self.answer.begin(self.transport, is_bodiless=is_bodiless)
        # Bytes may have arrived, or the connection may have ended, while it was idle.
        if self.is_spoiled:
            self.answer.refuse("does not speak HTTP: it sent data before the request")
        elif self._is_lost:
            self.answer.end(None)

    async def write(self, head: bytes, body: Sequence[bytes]) -> None:
        """Write a request head and body in one operation, and wait while the send
        buffer is full."""
        self.transport.writelines([head, *body]) if body else self.transport.write(head)
        if self._writable and not self._is_lost:
            await self._writable

    def abort(self) -> None:
        """Close immediately and discard buffered data."""
        if self.transport:
            self.transport.abort()

    def close(self) -> None:
        """Close after buffered data is sent."""
        if self.transport:
            self.transport.close()
