"""One socket: whether it may be asked, what is written to it, and who reads what comes."""

import asyncio
import select
from collections.abc import Sequence
from typing import Any

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.transport.answer import Answer, StrayError
from modelyard.transport.proxies import Way


class Connection(asyncio.Protocol):
    """Asked by `begin` and `write`; what comes is read from its `answer`."""

    __slots__ = ("_is_lost", "_loop", "_poll", "_writable", "answer", "is_spoiled", "transport", "way")

    def __init__(self, way: Way, loop: asyncio.AbstractEventLoop) -> None:
        self.way = way
        self.answer = Answer(way.shown, loop)
        self.transport: Any = None  # uvloop's transports are no subclass of asyncio's
        self._loop = loop
        self._poll: select.poll | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_lost = False
        self.is_spoiled = False
        """Whether bytes came that belong to no answer: nothing more is asked here."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self.answer.feed(data)
        except StrayError:  # what was asked is answered all the same
            self.is_spoiled = True
            self.abort()
        except InvokeServerUnavailableError:  # which is the answer's error too
            self.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self.answer.end(exc)
        if self._writable and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # our side

    @property
    def is_usable(self) -> bool:
        """Fit for another request: everything was read, nobody hung up, nothing stray came in."""
        return (
            not self._is_lost
            and not self.is_spoiled
            and self.transport is not None
            and not self.transport.is_closing()
            and self.answer.leaves_room
        )

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits at the socket: neither its end, which the loop may not have come to yet, nor bytes
        that nobody asked for. A request that is written after this was never seen by whoever closed before."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    @property
    def was_closed_unheard(self) -> bool:
        """Whether the other side hung up without a byte of an answer."""
        return self._is_lost and not self.answer.has_bytes

    def begin(self, *, is_bodiless: bool = False) -> None:
        """Be ready for an answer, to what is written next."""
        self.answer.begin(self.transport, is_bodiless=is_bodiless)
        if self.is_spoiled:
            self.answer.refuse("does not speak HTTP: it spoke before it was asked")
        elif self._is_lost:
            self.answer.end(None)

    async def write(self, head: bytes, body: Sequence[bytes]) -> None:
        self.transport.writelines([head, *body]) if body else self.transport.write(head)
        if self._writable and not self._is_lost:
            await self._writable

    def abort(self) -> None:
        if self.transport:
            self.transport.abort()

    def close(self) -> None:
        if self.transport:
            self.transport.close()
