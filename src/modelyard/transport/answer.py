"""The answer that is coming in on a connection: its head, its framing, and what of its body waits to be taken.

httptools reads; what it lets pass and RFC 9112 does not is refused here. Nothing is taken that two readers could read
in two ways: a length said twice, a coding of the transfer that is not `chunked` alone, lines that are folded.
"""

import asyncio
from collections import deque
from typing import Any

import httptools

from modelyard.base.errors import InvokeConnectionError, InvokeServerUnavailableError, InvokeTimeoutError
from modelyard.transport.headers import Headers

_HIGH_WATER = 256 * 1024
MOST_HEADER_BYTES = 64 * 1024
"""Of a head with the interim ones before it, and of what else is no body: trailers, extensions of chunks."""
_LINE_COST = 4
"""Of a header line beside its name and value; without it empty ones would be free."""
_INTERIM_COST = 64


class StrayError(Exception):
    """Bytes that belong to no answer."""


class Answer:
    """Begun by `begin`, filled by `feed`, waited for by `wait`, read by `take`.

    One object a connection, which reads one answer after the other: a parser and its callbacks refer to each other, and
    would be left to the garbage collector after every call.
    """

    __slots__ = (
        "_buffered",
        "_first_lines",
        "_header_bytes",
        "_is_bodiless",
        "_is_paused",
        "_keep_alive",
        "_loop",
        "_not_body",
        "_parser",
        "_pieces",
        "_repeated_lines",
        "_shown",
        "_transport",
        "_waiter",
        "error",
        "has_bytes",
        "is_complete",
        "is_head_complete",
        "status",
    )

    def __init__(self, shown: str, loop: asyncio.AbstractEventLoop) -> None:
        """`shown`: who answers, for messages."""
        self._shown = shown
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.begin(None, is_bodiless=False)
        self._parser: Any = None  # nothing was asked: whatever comes now is astray

    # the connection's side

    def begin(self, transport: Any, *, is_bodiless: bool) -> None:
        """Expect the next one, which `transport` brings."""
        self._parser = httptools.HttpResponseParser(self)
        self._transport = transport
        self._is_bodiless = is_bodiless
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

    def feed(self, data: bytes) -> None:
        """Raises StrayError for bytes that belong to no answer, and `error` where they are no answer to take."""
        self.has_bytes = True
        if self._parser is None or self.is_complete:
            raise StrayError
        self._not_body += len(data)  # a piece of body sets it back
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise self._refused("switched to another protocol, which nobody asked for") from None
        except httptools.HttpParserError as error:
            if self.is_complete:
                raise StrayError from error
            raise self._refused(f"does not speak HTTP: {error}") from error
        if self._not_body > MOST_HEADER_BYTES and not self.is_complete:
            raise self._refused(f"sent more than {MOST_HEADER_BYTES:,} bytes of headers")

    def end(self, reason: Exception | None) -> None:
        """Nothing more comes: the other side hung up, or the connection broke."""
        self._transport = None
        if not self.is_complete and self.error is None:
            until_close = "content-length" not in self._first_lines and "transfer-encoding" not in self._first_lines
            if self.is_head_complete and until_close and reason is None:
                self.is_complete = True
            else:
                self.error = self._broken_off(reason)
        self._wake()

    def refuse(self, what: str) -> None:
        """Take nothing more of it, since the other side did `what`."""
        self._refused(what)

    @property
    def leaves_room(self) -> bool:
        """Whether another may follow it: it was read to its end, and says that the connection stays."""
        return self.is_complete and self._keep_alive and not self._pieces and self.error is None

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
            raise StrayError
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
            raise StrayError
        self._not_body = 0
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
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

    # the reader's side

    @property
    def headers(self) -> Headers:
        return Headers(self._first_lines, self._repeated_lines)

    def has_header(self, name: str) -> bool:
        """Whether a field came, by its name in lower case. Cheaper than the headers."""
        return name in self._first_lines

    @property
    def has_pieces(self) -> bool:
        return bool(self._pieces)

    async def wait(self, seconds: float, what: str) -> None:
        """Until something changes. Raises InvokeTimeoutError after `seconds`."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, _expire, waiter, self._shown, what, seconds)
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
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        return taken

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _broken_off(self, reason: Exception | None) -> InvokeConnectionError:
        when = "before its answer was complete" if self.has_bytes else "without an answer"
        why = f": {reason}" if reason else ""
        return InvokeConnectionError(f"{self._shown} closed the connection {when}{why}")

    def _refused(self, what: str) -> InvokeServerUnavailableError:
        """To be raised: the parser stops at it, and so does whoever feeds."""
        error = InvokeServerUnavailableError(f"{self._shown} {what}")
        self.error = self.error or error
        self._wake()
        return error


def _expire(waiter: asyncio.Future[None], shown: str, what: str, seconds: float) -> None:
    if not waiter.done():
        waiter.set_exception(InvokeTimeoutError(f"{shown} {what} within {seconds:g} s"))
