"""The HTTP client for upstream calls: HTTP/1.1, pooled, streaming, on httptools.

Why our own: the client decides what a gateway costs. A call through httpx takes about 1,300 µs of CPU at 32
connections, through aiohttp 90, through a thin protocol on httptools 34 (docs/design/0003-http-client.md). It does what
the data path needs and no more: keep-alive, back-pressure, separate time limits for connecting, for the first byte and
between bytes, bounded bodies, proxies, and an abort that reaches the socket at once. It follows no redirects and asks
for no compression; what comes compressed all the same is unpacked within the same bounds.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache

from modelyard.base.errors import InvokeConnectionError, InvokeServerUnavailableError, InvokeTimeoutError
from modelyard.transport.connecting import connected, proxy_refusal, tls_context
from modelyard.transport.connection import Connection
from modelyard.transport.headers import dump_head
from modelyard.transport.origins import Guard, check_addresses, parse_url
from modelyard.transport.proxies import NO_PROXIES, Network, Proxies, Way
from modelyard.transport.unpacking import BombError, UnpackError, Unpacking, is_plain

_MAX_BODY = 256 * 1024 * 1024
_UNPACKED_AT_ONCE = 1 << 20
"""Bytes after which other tasks get their turn."""
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Asked twice, they leave behind what they leave behind once (RFC 9110, 9.2.2)."""
_KEEP_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_KEEP_MARGIN = 1.0


class AnswerTooLargeError(InvokeServerUnavailableError):
    """More came than was to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. `connect` holds for all that precedes a request: the name, every address of it, a proxy, TLS.
    `between_bytes` is what catches a server that stalls in the middle of a stream."""

    connect: float = 10.0
    first_byte: float = 120.0
    between_bytes: float = 60.0


class Response:
    """An answer whose head has come. Leaving it unread and closed drops the connection."""

    __slots__ = ("_answer", "_client", "_connection", "_is_closed", "_is_coded", "_timeouts", "headers", "status")

    def __init__(self, connection: Connection, client: "HttpClient", timeouts: Timeouts) -> None:
        self._connection = connection
        self._answer = answer = connection.answer
        self._client = client
        self._timeouts = timeouts
        self._is_closed = False
        self._is_coded = answer.has_header("content-encoding")
        self.status = answer.status
        self.headers = answer.headers

    def pieces(self, *, most: int = _MAX_BODY) -> AsyncGenerator[bytes, None]:
        """The body as it comes in, unpacked. Raises AnswerTooLargeError beyond `most` bytes, another InvokeError where
        it breaks off, stalls, or is coded as nobody asked for."""
        if not self._is_coded or is_plain(coding := self.headers.get("content-encoding", "")):
            return self._plain(most)
        return self._unpacked(coding, most)

    async def _plain(self, most: int) -> AsyncGenerator[bytes, None]:
        answer, total = self._answer, 0
        while True:
            if answer.has_pieces:
                piece = answer.take()
                total += len(piece)
                if total > most:
                    shown = self._connection.way.shown
                    raise AnswerTooLargeError(f"{shown} sent more than {most:,} bytes in one answer")
                yield piece
            elif answer.error:
                raise answer.error
            elif answer.is_complete:
                return
            else:
                await answer.wait(self._timeouts.between_bytes, "sent nothing more")

    async def _unpacked(self, coding: str, most: int) -> AsyncGenerator[bytes, None]:
        shown, total, turn = self._connection.way.shown, 0, _UNPACKED_AT_ONCE
        unpacking: Unpacking | None = None
        try:
            async with aclosing(self._plain(most)) as packed_pieces:
                async for packed in packed_pieces:
                    unpacking = unpacking or Unpacking(coding)
                    for piece in unpacking.feed(packed):
                        total += len(piece)
                        if total > most:
                            raise AnswerTooLargeError(f"{shown} sent more than {most:,} bytes in one answer, unpacked")
                        yield piece
                        if total > turn:
                            turn = total + _UNPACKED_AT_ONCE
                            await asyncio.sleep(0)
            if unpacking is not None:
                unpacking.finish()
        except BombError as error:
            raise AnswerTooLargeError(f"{shown} {error}") from error
        except UnpackError as error:
            raise InvokeServerUnavailableError(f"{shown} {error}") from error

    async def read(self, *, most: int = _MAX_BODY) -> bytes:
        """The whole body; closes the answer."""
        try:
            return b"".join([piece async for piece in self.pieces(most=most)])
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back, or cut it where the answer was not read to its end."""
        if not self._is_closed:
            self._is_closed = True
            self._client._release(self._connection)  # pyright: ignore[reportPrivateUsage]  two halves of one thing


@dataclass(frozen=True, slots=True)
class _Head:
    """What is known of a request before its body."""

    way: Way
    lines: bytes
    """Up to the length of the body."""
    wants_length: bool
    """Whether a body's length is said even of an empty one."""
    is_bodiless: bool
    """Whether the answer has no body."""
    may_repeat: bool


class HttpClient:
    """A pool of connections that is itself one place to send requests to."""

    def __init__(
        self,
        *,
        max_connections: int = 4096,
        keep_idle: int = 100,
        idle_seconds: float = 30.0,
        guard: Guard = check_addresses,
        verify: bool = True,
        network: Network | None = None,
        is_direct: bool = False,
    ) -> None:
        """`network`: proxies and certificates; without it there are none but the system's. `is_direct`: never by a
        proxy, since the guard must see the address that is connected to."""
        self._guard = guard
        self._verify = verify
        self._network = network or Network()
        self._is_direct = is_direct
        self._idle: dict[object, deque[tuple[Connection, float]]] = {}
        self._free = asyncio.Semaphore(max_connections)
        self._keep_idle = keep_idle
        self._idle_seconds = idle_seconds
        self._open: set[Connection] = set()

    @property
    def connections(self) -> int:
        """How many are open, in use or not."""
        return len(self._open)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Loading the certificates takes 20 ms: not before the first https call.
        return tls_context(self._network.ca_file, verify=self._verify)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Sequence[bytes] = (),
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Send a request and wait for the head of its answer.

        Raises InvokeConnectionError, InvokeTimeoutError or InvokeServerUnavailableError; ConfigError for an address
        that cannot or must not be called. Cancelling aborts the connection.
        """
        limits = timeouts or Timeouts()
        proxies = NO_PROXIES if self._is_direct else self._network.proxies
        head = _known_head(method, url, tuple(headers.items()), proxies)
        length = sum([len(piece) for piece in body])
        has_length = length or head.wants_length
        lines = b"%bcontent-length: %d\r\n\r\n" % (head.lines, length) if has_length else head.lines + b"\r\n"
        await self._take_slot(limits)
        try:
            connection = await self._exchange(head, lines, body, limits)
        except BaseException:
            self._free.release()
            raise
        return Response(connection, self, limits)

    async def _take_slot(self, limits: Timeouts) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            await asyncio.wait_for(self._free.acquire(), limits.connect)
        except TimeoutError:
            raise InvokeServerUnavailableError("all upstream connections are in use") from None

    async def _exchange(self, head: _Head, lines: bytes, body: Sequence[bytes], limits: Timeouts) -> Connection:
        """A connection on which the answer's head has come."""
        kept = self._take_idle(head.way)
        if kept is not None:
            await self._ask(kept, head, lines, body, limits)
            error = kept.answer.error
            if error is None or kept.answer.is_head_complete:
                return kept
            self._drop(kept)
            # Closed while it was idle, or by somebody who has read the request and will not say (RFC 9112, 9.3.1): a
            # fresh one will tell, where asking twice does no harm. It is asked once.
            if not (head.may_repeat and kept.was_closed_unheard):
                raise error
        fresh = await self._connect(head.way, limits)
        await self._ask(fresh, head, lines, body, limits)
        error = fresh.answer.error
        if error is not None and not fresh.answer.is_head_complete:
            self._drop(fresh)
            raise error
        return fresh

    async def _ask(
        self, connection: Connection, head: _Head, lines: bytes, body: Sequence[bytes], limits: Timeouts
    ) -> None:
        """Send the request and wait for the answer's head, or for its `error`."""
        answer = connection.answer
        connection.begin(is_bodiless=head.is_bodiless)
        try:
            await connection.write(lines, body)
            while not (answer.is_head_complete or answer.error):
                await answer.wait(limits.first_byte, "sent no answer")
            if answer.status == 407 and head.way.proxy is not None:
                raise proxy_refusal(head.way.proxy, head.way.origin, 407)
        except BaseException:
            self._drop(connection)
            raise

    def _take_idle(self, way: Way) -> Connection | None:
        idle = self._idle.get(way.key)
        while idle:
            connection, until = idle.pop()
            is_fresh = until > asyncio.get_running_loop().time()
            if is_fresh and connection.is_usable and connection.is_quiet:
                return connection
            self._drop(connection)
        return None

    async def _connect(self, way: Way, limits: Timeouts) -> Connection:
        try:
            async with asyncio.timeout(limits.connect):
                connection = await connected(way, self._guard, lambda: self._tls, limits.connect)
        except TimeoutError:
            raise InvokeTimeoutError(f"{way.shown} did not connect within {limits.connect:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise InvokeConnectionError(f"{way.shown} cannot be reached: {error}") from error
        self._open.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        self._free.release()
        idle = self._idle.setdefault(connection.way.key, deque())
        seconds = self._idle_seconds
        if connection.answer.has_header("keep-alive"):
            seconds = min(seconds, kept_seconds(connection.answer.headers["keep-alive"]))
        if seconds > 0 and connection.is_usable and len(idle) < self._keep_idle:
            idle.append((connection, asyncio.get_running_loop().time() + seconds))
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close() if connection.answer.is_complete else connection.abort()

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        for connection in list(self._open):
            with suppress(RuntimeError):
                connection.abort()  # a close of TLS waits for the other side, and the loop may not
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)


def kept_seconds(line: str) -> float:
    """For how long a connection serves whose server says `Keep-Alive: timeout=…`: a little less, since a request that
    is under way when the time is over is lost. As long as one likes where it says nothing of time."""
    said = _KEEP_TIMEOUT.search(line)
    if said is None:
        return float("inf")
    seconds = float(said[1])
    return seconds - min(_KEEP_MARGIN, seconds / 4)


@lru_cache(1024)  # a server asks the same few addresses with the same few keys
def _known_head(method: str, url: str, headers: tuple[tuple[str, str], ...], proxies: Proxies) -> _Head:
    """Where a request goes and by which way, and its head up to the length of its body."""
    origin, target = parse_url(url)
    way = proxies.way_to(origin)
    if way.is_relayed and way.proxy is not None:
        target = f"http://{origin.authority}{target}"
        if way.proxy.authorization:
            headers = (*headers, ("proxy-authorization", way.proxy.authorization))
    has_key = any(name.lower() == "idempotency-key" for name, _ in headers)
    return _Head(
        way=way,
        lines=dump_head(method, target, origin.authority, headers),
        wants_length=method in ("POST", "PUT", "PATCH"),
        is_bodiless=method == "HEAD",
        may_repeat=method in _REPEATABLE or has_key,
    )
