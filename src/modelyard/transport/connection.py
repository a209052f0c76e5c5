"""One socket, and the answer that is coming in on it.

httptools reads; what it lets pass and RFC 9112 does not is refused here. Nothing is taken that two readers could read
in two ways: a length said twice, a coding of the transfer that is not `chunked` alone, lines that are folded.
"""

import asyncio
import select
from collections import deque
from collections.abc import Sequence
from typing import Any

import httptools

from modelyard.base.errors import InvokeConnectionError, InvokeServerUnavailableError, InvokeTimeoutError
from modelyard.transport.headers import Headers
from modelyard.transport.proxies import Way

_HIGH_WATER = 256 * 1024
MOST_HEADER_BYTES = 64 * 1024
"""Of a head with the interim ones before it, and of what else is no body: trailers, extensions of chunks."""
_LINE_COST = 4
"""Of a header line beside its name and value; without it empty ones would be free."""
_INTERIM_COST = 64


class _StrayError(Exception):
    """Bytes that belong to no answer."""


class Connection(asyncio.Protocol):
    """Asked by `begin` and `write`, waited for by `wait`, read by `take`."""

    __slots__ = (
        "_buffered",
        "_first_lines",
        "_header_bytes",
        "_is_bodiless",
        "_is_lost",
        "_is_paused",
        "_keep_alive",
        "_loop",
        "_not_body",
        "_parser",
        "_pieces",
        "_poll",
        "_repeated_lines",
        "_waiter",
        "_writable",
        "error",
        "has_bytes",
        "is_complete",
        "is_head_complete",
        "is_spoiled",
        "status",
        "transport",
        "way",
    )

    def __init__(self, way: Way, loop: asyncio.AbstractEventLoop) -> None:
        self.way = way
        self.transport: Any = None  # uvloop's transports are no subclass of asyncio's
        self._loop = loop
        self._parser: Any = None
        self._poll: select.poll | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_lost = False
        self.is_spoiled = False
        self._is_bodiless = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.is_complete = False
        self.is_head_complete = False
        self.has_bytes = False
        self.error: Exception | None = None
        self._first_lines: dict[str, str] = {}
        self._repeated_lines: dict[str, list[str]] | None = None
        self._header_bytes = 0
        self._not_body = 0
        self._keep_alive = False
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._is_paused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.has_bytes = True
        if self._parser is None or self.is_complete:
            self._spoil()
            return
        self._not_body += len(data)  # a piece of body sets it back
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("switched to another protocol, which nobody asked for")
        except httptools.HttpParserError as error:
            if self.is_complete:
                self._spoil()
            else:
                self._break(f"does not speak HTTP: {error}")
        else:
            if self._not_body > MOST_HEADER_BYTES and not self.is_complete:
                self._break(f"sent more than {MOST_HEADER_BYTES:,} bytes of headers")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if not self.is_complete and self.error is None:
            until_close = "content-length" not in self._first_lines and "transfer-encoding" not in self._first_lines
            if self.is_head_complete and until_close and exc is None:
                self.is_complete = True
            else:
                self.error = self._lost(exc)
        self._wake()
        if self._writable and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + _LINE_COST
        if self._header_bytes > MOST_HEADER_BYTES:
            raise self._refused(f"sent more than {MOST_HEADER_BYTES:,} bytes of headers")
        if self.is_head_complete:  # a trailer, or of another answer behind ours: no header (RFC 9110, 6.5.1)
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").rstrip(" \t")
        if key not in self._first_lines:
            self._first_lines[key] = text
            return
        repeated = self._repeated_lines
        if repeated is None:
            repeated = self._repeated_lines = {}
        repeated.setdefault(key, [self._first_lines[key]]).append(text)

    def on_headers_complete(self) -> None:
        if self.is_complete:  # another answer in the same bytes, to nothing that we asked
            raise _StrayError
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self._pass_over_interim()
            return
        version = self._parser.get_http_version()
        if version != "1.1" or "transfer-encoding" in self._first_lines:
            self._check_framing(version)
        self._keep_alive = self._parser.should_keep_alive()
        self.is_head_complete = True
        if self._is_bodiless:  # the parser would wait for a body that an answer to HEAD has not
            self.is_complete = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self.is_complete:
            raise _StrayError
        self._not_body = 0
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER and not self._is_paused and self.transport:
            self._is_paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self.is_head_complete:
            self.is_complete = True
            self._wake()

    def _pass_over_interim(self) -> None:
        """100 Continue, 103 Early Hints and their like: the answer is still to come (RFC 9110, 15.2)."""
        if self.status < 100:
            raise self._refused(f"sent the status {self.status:03d}, which there is not")
        self._header_bytes += _INTERIM_COST
        self._first_lines.clear()
        self._repeated_lines = None

    def _check_framing(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            raise self._refused(f"speaks HTTP/{version}, not HTTP/1.1")
        if "transfer-encoding" not in self._first_lines:
            return
        coding = self.headers["transfer-encoding"].lower()
        if coding != "chunked":
            raise self._refused(f"coded its answer for the transfer as {coding[:100]!r}, not 'chunked' alone")
        if version == "1.0":  # which has no chunks: whoever sent them may mean something else (RFC 9112, 6.1)
            raise self._refused("sent chunks in HTTP/1.0, which has none")

    # our side

    @property
    def headers(self) -> Headers:
        return Headers(self._first_lines, self._repeated_lines)

    def has_header(self, name: str) -> bool:
        """Whether a field came, by its name in lower case. Cheaper than the headers."""
        return name in self._first_lines

    @property
    def is_usable(self) -> bool:
        """Fit for another request: everything was read, nobody hung up, nothing stray came in."""
        return (
            not self._is_lost
            and self.transport is not None
            and not self.transport.is_closing()
            and self.is_complete
            and self._keep_alive
            and not self._pieces
            and self.error is None
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
        return self._is_lost and not self.has_bytes

    def begin(self, *, is_bodiless: bool = False) -> None:
        self._reset()
        self._is_bodiless = is_bodiless
        self._parser = httptools.HttpResponseParser(self)
        if self.is_spoiled:
            self._fail(
                InvokeServerUnavailableError(f"{self.way.shown} does not speak HTTP: it spoke before it was asked")
            )
        elif self._is_lost:
            self._fail(self._lost(None))

    async def write(self, head: bytes, body: Sequence[bytes]) -> None:
        self.transport.writelines([head, *body]) if body else self.transport.write(head)
        if self._writable and not self._is_lost:
            await self._writable

    async def wait(self, seconds: float, what: str) -> None:
        """Until something changes. Raises InvokeTimeoutError after `seconds`."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, _expire, waiter, self.way.shown, what, seconds)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def take(self) -> bytes:
        """All bytes of the body that have come in and were not taken yet."""
        if len(self._pieces) == 1:
            taken = self._pieces.popleft()
        else:
            taken = b"".join(self._pieces)
            self._pieces.clear()
        self._buffered = 0
        if self._is_paused and self.transport and not self._is_lost:
            self._is_paused = False
            self.transport.resume_reading()
        return taken

    @property
    def has_pieces(self) -> bool:
        return bool(self._pieces)

    def abort(self) -> None:
        if self.transport:
            self.transport.abort()

    def close(self) -> None:
        if self.transport:
            self.transport.close()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _lost(self, reason: Exception | None) -> InvokeConnectionError:
        when = "before its answer was complete" if self.has_bytes else "without an answer"
        why = f": {reason}" if reason else ""
        return InvokeConnectionError(f"{self.way.shown} closed the connection {when}{why}")

    def _refused(self, what: str) -> Exception:
        """To be raised within the parser, which stops at it."""
        error = InvokeServerUnavailableError(f"{self.way.shown} {what}")
        self._fail(error)
        return error

    def _break(self, what: str) -> None:
        self._fail(InvokeServerUnavailableError(f"{self.way.shown} {what}"))
        self.abort()

    def _spoil(self) -> None:
        """Bytes that belong to no answer: what was asked is answered, and nothing more is asked here."""
        self.is_spoiled = True
        self._keep_alive = False
        self.abort()

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self._wake()


def _expire(waiter: asyncio.Future[None], shown: str, what: str, seconds: float) -> None:
    if not waiter.done():
        waiter.set_exception(InvokeTimeoutError(f"{shown} {what} within {seconds:g} s"))
