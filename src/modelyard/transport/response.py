"""The response being received on a connection: head, framing, and the body bytes not
yet read.

httptools parses; what it tolerates although RFC 9112 forbids it is rejected here.
Anything that two parsers could interpret differently is refused: duplicate lengths,
transfer codings other than `chunked` alone, folded lines.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import httptools

from modelyard.base.errors import (
    InvokeConnectionError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
)
from modelyard.base.fields import content_length
from modelyard.transport.headers import Headers

_HIGH_WATER = 256 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""Limit for a head including interim responses, and for other non-body bytes: trailers,
chunk extensions."""
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TEXT = bytes(byte for byte in range(256) if byte == 9 or 32 <= byte != 127)
"""The bytes that may occur in a line of a head (RFC 9110, 5.5)."""
_FRAMING_HEADERS = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"keep-alive",
        b"proxy-connection",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that change how a response is read, or its connection used again."""
_LINE_COST = 4
"""Added per header line, since empty lines would otherwise cost nothing."""
_INTERIM_COST = 64


_SMALL_HEAD = 8192
"""Larger heads are left to the parser, which counts their lines too."""
_HARMLESS, _LENGTH, _OTHER = range(3)
_UNKNOWN = -(1 << 40)
_MAX_DIGITS = 9
"""Digits of a length that fits into one read, with room to spare."""


@lru_cache(1024)  # servers send the same few names
def _kind_of(name: bytes) -> int:
    """Return whether a header, by its name as sent, has the length of the body, is
    harmless, or has to be looked at by the parser."""
    lower = name.lower()
    if lower == b"content-length":
        return _LENGTH
    is_harmless = _TOKEN.fullmatch(name) and lower not in _FRAMING_HEADERS
    return _HARMLESS if is_harmless else _OTHER


def _body_size(lines: Sequence[bytes]) -> int:
    """Return the length that the lines of a head state; a negative number if it is not
    stated once, or another line has to be looked at by the parser."""
    length = b""
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        kind = _kind_of(name)
        # A second length is the parser's to judge (RFC 9112, 6.3).
        if kind is _LENGTH and not length:
            length = value.strip(b" \t")
        elif kind is not _HARMLESS or not colon:
            return _UNKNOWN
    size = content_length(length, _MAX_DIGITS)
    return _UNKNOWN if size is None else size


class StrayError(Exception):
    """Bytes arrived that belong to no response."""


class IncomingResponse:
    """A response: started by `begin`, filled by `feed`, awaited by `wait`, read by
    `take`.

    One object per connection, reused for successive responses: a parser and its
    callbacks form a reference cycle, which would need the garbage collector after every
    call.
    """

    __slots__ = (
        "_buffered",
        "_first_lines",
        "_header_bytes",
        "_is_begun",
        "_is_bodiless",
        "_is_paused",
        "_keep_alive",
        "_loop",
        "_not_body",
        "_parser",
        "_pieces",
        "_raw_head",
        "_repeated_lines",
        "_shown",
        "_transport",
        "_waiter",
        "error",
        "has_bytes",
        "is_complete",
        "is_head_complete",
        "is_plain",
        "status",
    )

    def __init__(self, peer_name: str, loop: asyncio.AbstractEventLoop) -> None:
        """`peer_name` identifies the server in messages."""
        self._shown = peer_name
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.begin(None, is_bodiless=False)
        # Any byte that arrives before a request counts as stray.
        self._is_begun = False

    # Called by the connection.

    def begin(self, transport: Any, *, is_bodiless: bool) -> None:
        """Prepare for the next response, received over `transport`."""
        self._is_begun = True
        # Created with the first byte that it is needed for.
        self._parser: Any = None
        self._raw_head = b""
        self.is_plain = False
        """Whether the response arrived at once, with nothing special in its head."""
        self._transport = transport
        self._is_bodiless = is_bodiless
        self.status = 0
        self.is_complete = False
        self.is_head_complete = False
        self.has_bytes = False
        self.error: Exception | None = None
        self._first_lines: dict[bytes, bytes] = {}
        self._repeated_lines: dict[bytes, list[bytes]] | None = None
        self._header_bytes = 0
        self._not_body = 0
        self._keep_alive = False
        # A deque would take ten times the memory of an empty list, on each connection.
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._is_paused = False

    def feed(self, data: bytes) -> None:
        """Parse received bytes.

        Raises StrayError for bytes that belong to no response, or the stored `error` if
        the response is unacceptable.
        """
        if not self._is_begun or self.is_complete:
            self.has_bytes = True
            raise StrayError
        if self._parser is None:
            if not self.has_bytes and self._take_whole(data):
                return
            self.has_bytes = True
            self._parser = httptools.HttpResponseParser(self)
        self._not_body += len(data)  # a piece of body sets it back
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise self._reject(
                "switched to another protocol, which was not requested"
            ) from None
        except httptools.HttpParserError as error:
            # A parse error after a complete response means extra bytes, not a bad
            # response.
            if self.is_complete:
                raise StrayError from error
            raise self._reject(f"does not speak HTTP: {error}") from error
        # Chunk extensions and trailers are unbounded in the protocol.
        if self._not_body > MAX_HEADER_BYTES and not self.is_complete:
            raise self._reject(f"sent more than {MAX_HEADER_BYTES:,} bytes of headers")

    def _take_whole(self, data: bytes) -> bool:
        """Take a plain response that has arrived at once; return False if it has to be
        parsed.

        The usual answer is read in a few steps, without a parser and its callbacks. What
        is accepted here, the parser accepts too.
        """
        # Such a response ends with its head, whatever length that states.
        if self._is_bodiless or self.error is not None:
            return False
        head_size = data.find(b"\r\n\r\n")
        if not 0 < head_size < _SMALL_HEAD or data[:13] != b"HTTP/1.1 200 ":
            return False
        head = data[:head_size]
        lines = head.split(b"\r\n")
        # Nothing but text between the lines' ends.
        if head.translate(None, _TEXT) != b"\r\n" * (len(lines) - 1):
            return False
        # Less is not complete yet, and more belongs to no response.
        if len(data) != head_size + 4 + _body_size(lines):
            return False
        self.has_bytes = True
        self.status = 200
        self._raw_head = head
        self._keep_alive = self.is_plain = True
        self.is_head_complete = self.is_complete = True
        if len(data) > head_size + 4:
            self._pieces.append(data[head_size + 4 :])
            self._buffered = len(data)
        if self._waiter is not None:
            self._wake()
        return True

    def end(self, reason: Exception | None) -> None:
        """Handle the end of the connection: closed by the peer, or broken."""
        self._transport = None
        if not self.is_complete and self.error is None:
            # Without any length, the end of the connection is the end of the body (RFC
            # 9112, 6.3).
            until_close = (
                b"content-length" not in self._first_lines
                and b"transfer-encoding" not in self._first_lines
            )
            if self.is_head_complete and until_close and reason is None:
                self.is_complete = True
            else:
                self.error = self._disconnect_error(reason)
        self._wake()

    def refuse(self, reason: str) -> None:
        """Reject the response; `reason` continues a sentence about the server."""
        self._reject(reason)

    @property
    def is_reusable(self) -> bool:
        """Return whether the connection can be reused: the response was read completely
        and permits keep-alive."""
        return (
            self.is_complete
            and self._keep_alive
            and not self._pieces
            and self.error is None
        )

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header line. Raises an InvokeServerUnavailableError if the head is
        too large."""
        self._header_bytes += len(name) + len(value) + _LINE_COST
        if self._header_bytes > MAX_HEADER_BYTES:
            raise self._reject(f"sent more than {MAX_HEADER_BYTES:,} bytes of headers")
        # A trailer, or a line of a response after ours, is not a header (RFC 9110,
        # 6.5.1).
        if self.is_head_complete and not self.is_plain:
            return
        key = name.lower()
        # Most fields occur once; repeated ones get a list, so that their order is
        # preserved. They are decoded when somebody asks for them.
        if key not in self._first_lines:
            self._first_lines[key] = value
            return
        repeated = self._repeated_lines
        if repeated is None:
            repeated = self._repeated_lines = {}
        repeated.setdefault(key, [self._first_lines[key]]).append(value)

    def on_headers_complete(self) -> None:
        """Check the head and its framing; an interim response is discarded."""
        # Another response in the same bytes, without a request.
        if self.is_complete:
            raise StrayError
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self._pass_over_interim()
            return
        version = self._parser.get_http_version()
        # HTTP/1.1 without a transfer coding needs no further checks.
        if version != "1.1" or b"transfer-encoding" in self._first_lines:
            self._check_framing(version)
        self._keep_alive = self._parser.should_keep_alive()
        self.is_head_complete = True
        # The response to HEAD has no body; the parser would wait for it.
        if self._is_bodiless:
            self.is_complete = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        """Buffer body bytes, and pause reading if the reader falls behind."""
        if self.is_complete:
            raise StrayError
        # Body bytes prove progress, so the limit for other bytes starts again.
        self._not_body = 0
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
        if self._waiter is not None:
            self._wake()

    def on_message_complete(self) -> None:
        """Mark the response as complete."""
        # The parser ends interim responses with this call, too.
        if self.is_head_complete:
            self.is_complete = True
            self._wake()

    def _pass_over_interim(self) -> None:
        """Discard an interim response such as 100 Continue or 103 Early Hints (RFC
        9110, 15.2)."""
        if self.status < 100:
            raise self._reject(f"sent the invalid status {self.status:03d}")
        # Counts towards the limit, so that endless interim responses are refused.
        self._header_bytes += _INTERIM_COST
        self._first_lines.clear()
        self._repeated_lines = None

    def _check_framing(self, version: str) -> None:
        """Check the HTTP version and the transfer coding of a head.

        Raises InvokeServerUnavailableError for versions other than 1.0 and 1.1, for a
        coding other than `chunked`, and for chunks in HTTP/1.0.
        """
        if version not in ("1.1", "1.0"):
            raise self._reject(f"speaks HTTP/{version}, not HTTP/1.1")
        if b"transfer-encoding" not in self._first_lines:
            return
        coding = self.headers["transfer-encoding"].lower()
        if coding != "chunked":
            raise self._reject(
                f"sent the transfer encoding {coding[:100]!r} instead of 'chunked'"
            )
        # HTTP/1.0 has no chunks, so the framing of such a response is unclear (RFC 9112,
        # 6.1).
        if version == "1.0":
            raise self._reject(
                "sent a chunked response in HTTP/1.0, which does not support it"
            )

    # Called by the reader.

    @property
    def headers(self) -> Headers:
        """Return the response headers."""
        first_lines = self._lines()
        first = {_text(name): _text(value) for name, value in first_lines.items()}
        if self._repeated_lines is None:
            return Headers(first)
        repeated = {
            _text(name): [_text(value) for value in values]
            for name, values in self._repeated_lines.items()
        }
        return Headers(first, repeated)

    def has_header(self, name: bytes) -> bool:
        """Return whether a header field is present, by its lower-case name. Cheaper
        than `headers`."""
        return name in self._lines()

    def first_line(self, name: bytes) -> bytes:
        """Return the first line of a header field, by its lower-case name; empty if it
        is missing. Cheaper than `headers`."""
        return self._lines().get(name, b"")

    def _lines(self) -> dict[bytes, bytes]:
        """Return the first line of each header field, by its lower-case name."""
        if self._raw_head:
            head, self._raw_head = self._raw_head, b""
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                self.on_header(name, value.strip(b" \t"))
        return self._first_lines

    @property
    def first_lines(self) -> Mapping[bytes, bytes]:
        """Return the first line of each header field, by lower-case name. Cheaper than
        `headers`."""
        return self._lines()

    @property
    def has_chunks(self) -> bool:
        """Return whether body bytes are waiting to be read."""
        return bool(self._pieces)

    async def wait(self, seconds: float, failure: str) -> None:
        """Wait until the response changes. Raises InvokeTimeoutError after `seconds`;
        `failure` completes its message."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(
            seconds, _expire, waiter, self._shown, failure, seconds
        )
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def take_plain(self, limit: int) -> bytes | None:
        """Return and remove the body of a plain response; None if the response is not
        plain, was taken before, has no body, or one of `limit` bytes or more."""
        pieces = self._pieces
        if not self.is_plain or not pieces or len(pieces[0]) >= limit:
            return None
        self._buffered = 0
        # A plain response is one piece.
        return pieces.pop()

    def take(self) -> bytes:
        """Return and remove all body bytes received so far."""
        if len(self._pieces) == 1:
            body = self._pieces.pop()
        else:
            body = b"".join(self._pieces)
            self._pieces.clear()
        self._buffered = 0
        # The buffer is empty now, so the peer may continue.
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        return body

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _disconnect_error(self, reason: Exception | None) -> InvokeConnectionError:
        """Return the error for a connection that ended before its response.

        `reason` is the exception of a broken connection; None if the peer closed it.
        """
        when = (
            "before its response was complete"
            if self.has_bytes
            else "without a response"
        )
        detail = f": {reason}" if reason else ""
        return InvokeConnectionError(
            f"{self._shown} closed the connection {when}{detail}"
        )

    def _reject(self, reason: str) -> InvokeServerUnavailableError:
        """Record and return an error, to be raised by the caller: that stops the parser
        and `feed`."""
        error = InvokeServerUnavailableError(f"{self._shown} {reason}")
        # The first error is the cause of later ones, so it is the one that is stored.
        self.error = self.error or error
        self._wake()
        return error


def _text(value: bytes) -> str:
    """Return a header's name or value as text, without trailing blanks (RFC 9110, 5.5)."""
    # Latin-1 accepts every byte, whose meaning beyond ASCII is not defined.
    return value.decode("latin-1").rstrip(" \t")


def _expire(
    waiter: asyncio.Future[None], peer_name: str, failure: str, seconds: float
) -> None:
    """Fail a waiter with InvokeTimeoutError, unless it is done already.

    `peer_name`, `failure` and `seconds` make up the message.
    """
    if not waiter.done():
        waiter.set_exception(
            InvokeTimeoutError(f"{peer_name} {failure} within {seconds:g} s")
        )
