"""The HTTP client for upstream calls: HTTP/1.1 with pooling and streaming, based on
httptools.

Why not an existing client: it determines the gateway's overhead. A call through httpx
takes about 1,300 µs of CPU at 32 connections, through aiohttp 90, through this client
34 (docs/design/0003-http-client.md). It implements only what the data path needs:
keep-alive, back-pressure, separate timeouts for connecting, the first byte and between
bytes, bounded bodies, proxies, and immediate aborts. It follows no redirects and
requests no compression; compressed responses are still unpacked within the same bounds.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache

from modelyard.base.errors import (
    InvokeConnectionError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
)
from modelyard.transport.connect import connect_upstream, proxy_refusal, tls_context
from modelyard.transport.connection import Connection
from modelyard.transport.headers import dump_head
from modelyard.transport.idle_pool import IdlePool
from modelyard.transport.origins import Guard, check_addresses, parse_url
from modelyard.transport.proxies import NO_PROXIES, NetworkConfig, Proxies, Route
from modelyard.transport.slots import ConnectionSlots
from modelyard.transport.turn_writes import TurnWrites
from modelyard.transport.unpacking import BombError, Decompressor, UnpackError, is_plain

MAX_BODY = 256 * 1024 * 1024
_YIELD_BYTES = 1 << 20
"""Unpacked bytes after which other tasks get to run."""
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent methods: repeating them has the same effect as sending them once (RFC
9110, section 9.2.2)."""
_KEEP_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
# Seconds by which a connection is retired before the server's own timeout.
_KEEP_MARGIN = 1.0


class ResponseTooLargeError(InvokeServerUnavailableError):
    """The response exceeds the allowed size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts in seconds. `connect` covers everything before the request: resolution,
    all addresses, proxy and TLS.

    `between_bytes` detects a server that stalls in the middle of a stream.
    """

    connect: float = 10.0
    first_byte: float = 120.0
    between_bytes: float = 60.0


class Response:
    """A response whose head has arrived. Closing it before the body is read drops the
    connection."""

    __slots__ = (
        "_answer",
        "_client",
        "_connection",
        "_is_closed",
        "_is_coded",
        "_timeouts",
        "headers",
        "status",
    )

    def __init__(
        self, connection: Connection, client: "HttpClient", timeouts: Timeouts
    ) -> None:
        self._connection = connection
        self._answer = answer = connection.answer
        self._client = client
        self._timeouts = timeouts
        self._is_closed = False
        self._is_coded = answer.has_header(b"content-encoding")
        self.status = answer.status
        self.headers = answer.headers

    @property
    def header_lines(self) -> Iterable[tuple[bytes, bytes]]:
        """Return the first line of each header field, with lower-case names."""
        return self._answer.first_lines.items()

    def chunks(self, *, max_bytes: int = MAX_BODY) -> AsyncGenerator[bytes, None]:
        """Yield the unpacked body as it arrives.

        Raises ResponseTooLargeError beyond `max_bytes`, and another InvokeError if the
        body breaks off, stalls, or has an unsupported coding.
        """
        if not self._is_coded or is_plain(
            coding := self.headers.get("content-encoding", "")
        ):
            return self._plain(max_bytes)
        return self._unpacked(coding, max_bytes)

    async def _plain(self, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield the body as it was received.

        Raises ResponseTooLargeError beyond `max_bytes`, InvokeTimeoutError if the
        server stalls, and the error with which the response ended.
        """
        answer, total = self._answer, 0
        while True:
            # Buffered bytes are delivered before an error is raised.
            if answer.has_chunks:
                chunk = answer.take()
                total += len(chunk)
                if total > max_bytes:
                    peer_name = self._connection.way.description
                    raise ResponseTooLargeError(
                        f"{peer_name} sent a response larger than {max_bytes:,} bytes"
                    )
                yield chunk
            elif answer.error:
                raise answer.error
            elif answer.is_complete:
                return
            else:
                await answer.wait(self._timeouts.between_bytes, "sent nothing more")

    async def _unpacked(
        self, coding: str, max_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body decompressed from `coding`.

        `max_bytes` limits the packed and the unpacked size. Raises
        ResponseTooLargeError beyond it and for a decompression bomb,
        InvokeServerUnavailableError for an unsupported coding or damaged body, and what
        `_plain` raises.
        """
        peer_name, total, yield_threshold = (
            self._connection.way.description,
            0,
            _YIELD_BYTES,
        )
        unpacking: Decompressor | None = None
        try:
            # `aclosing` ends the inner generator promptly if this one is abandoned.
            async with aclosing(self._plain(max_bytes)) as packed_chunks:
                async for packed in packed_chunks:
                    unpacking = unpacking or Decompressor(coding)
                    for chunk in unpacking.feed(packed):
                        # The limit applies to the unpacked size; the packed size is
                        # checked by `_plain`.
                        total += len(chunk)
                        if total > max_bytes:
                            raise ResponseTooLargeError(
                                f"{peer_name} sent a response larger than"
                                f" {max_bytes:,} bytes after decompression"
                            )
                        yield chunk
                        if total > yield_threshold:
                            yield_threshold = total + _YIELD_BYTES
                            # Unpacking is CPU-bound: let other tasks run now and then.
                            await asyncio.sleep(0)
            if unpacking is not None:
                unpacking.finish()
        except (BombError, UnpackError) as error:
            raise decompression_error(peer_name, error) from error

    async def read(self, *, max_bytes: int = MAX_BODY) -> bytes:
        """Return the complete unpacked body and close the response.

        It is closed after an error, too. Raises ResponseTooLargeError beyond
        `max_bytes`, and another InvokeError if the body breaks off, stalls or cannot be
        decompressed.
        """
        try:
            return b"".join([chunk async for chunk in self.chunks(max_bytes=max_bytes)])
        finally:
            self.close()

    def close(self) -> None:
        """Return the connection to the pool, or drop it if the response was not read
        completely."""
        if not self._is_closed:
            self._is_closed = True
            self._client._release(self._connection)  # pyright: ignore[reportPrivateUsage]  two halves of one thing


def decompression_error(
    peer_name: str, error: BombError | UnpackError
) -> ResponseTooLargeError | InvokeServerUnavailableError:
    """Return the InvokeError for a body that cannot be decompressed."""
    message = f"{peer_name} {error}"
    if isinstance(error, BombError):
        return ResponseTooLargeError(message)
    return InvokeServerUnavailableError(message)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The part of a request that is independent of its body."""

    way: Route
    lines: bytes
    """Encoded head up to the content length."""
    wants_length: bool
    """Whether the content length is sent even for an empty body."""
    is_bodiless: bool
    """Whether the response has no body."""
    # Whether the request may be sent again after a lost connection.
    may_repeat: bool

    def encode(self, length: int) -> bytes:
        """Return the complete head of a request whose body has `length` bytes."""
        # Servers expect a length on POST, PUT and PATCH even without a body (RFC 9110,
        # section 8.6).
        if length or self.wants_length:
            return b"%bcontent-length: %d\r\n\r\n" % (self.lines, length)
        return self.lines + b"\r\n"


class HttpClient:
    """An HTTP client with a connection pool."""

    def __init__(
        self,
        *,
        max_connections: int = 4096,
        keep_idle: int = 1000,
        idle_seconds: float = 30.0,
        guard: Guard = check_addresses,
        verify: bool = True,
        network: NetworkConfig | None = None,
        is_direct: bool = False,
    ) -> None:
        """`network` has proxies and certificates; without it there are no proxies and
        only the system's certificates.

        Up to `keep_idle` connections to a server wait for their next request, at most
        `idle_seconds` each. With fewer than a busy server has calls in flight, its calls
        would connect anew and again.

        `is_direct` disables proxies, for guards that must see the destination's
        address.
        """
        self._guard = guard
        self._verify = verify
        self._network = network or NetworkConfig()
        self._is_direct = is_direct
        self._idle = IdlePool(keep_idle, self._drop)
        self._slots = ConnectionSlots(max_connections)
        self._writes = TurnWrites()
        self._idle_seconds = idle_seconds
        self._open: set[Connection] = set()

    @property
    def connections(self) -> int:
        """Return the number of open connections, in use or idle."""
        return len(self._open)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Loading certificates takes 20 ms, so it is deferred until the first https
        # call.
        return tls_context(self._network.ca_file, verify=self._verify)

    def head_of(self, method: str, url: str, headers: Mapping[str, str]) -> RequestHead:
        """Return the head of a request and the way to its server.

        Raises ConfigError for a URL or a header that cannot be sent.
        """
        proxies = NO_PROXIES if self._is_direct else self._network.proxies
        return _cached_head(method, url, tuple(headers.items()), proxies)

    def take_now(self, head: RequestHead) -> Connection | None:
        """Take an idle connection for a request; None if there is none.

        Every one that is taken must be given back by `finish`.
        """
        if not self._slots.try_take():
            return None
        connection = self._idle.take(head.way.key, Connection.can_send_now)
        if connection is None:
            self._slots.release()
        return connection

    async def take(self, head: RequestHead, limits: Timeouts) -> Connection:
        """Take a connection for a request: an idle one, or a new one.

        Every one that is taken must be given back by `finish`. Raises what `send` raises
        before anything was sent.
        """
        await self._take_slot(limits)
        try:
            pooled_connection = self._idle.take(head.way.key, _is_reusable)
            return pooled_connection or await self._connect(head.way, limits)
        except BaseException:
            self._slots.release()
            raise

    def start(
        self,
        connection: Connection,
        head: RequestHead,
        body: bytes,
        listener: Callable[[], None],
    ) -> None:
        """Send a request on a connection that was taken.

        `listener` is called whenever the response in `answer` has changed. The caller
        watches the time.
        """
        connection.begin(is_bodiless=head.is_bodiless)
        connection.listener = listener
        # One write: asyncio turns Nagle's algorithm off, so two would be two packets.
        self._writes.write(connection.transport, head.encode(len(body)) + body)

    def finish(self, connection: Connection) -> None:
        """Give a connection back that was taken: it is used again if the response was
        read completely, and otherwise closed."""
        connection.listener = None
        self._release(connection)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Sequence[bytes] = (),
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Send a request and wait for the head of its response.

        Raises InvokeConnectionError, InvokeTimeoutError or
        InvokeServerUnavailableError, and ConfigError for a URL that cannot or must not
        be called. Cancellation aborts the connection.
        """
        limits = timeouts or Timeouts()
        head = self.head_of(method, url, headers)
        lines = head.encode(sum([len(chunk) for chunk in body]))
        # The slot is held until the response is closed.
        await self._take_slot(limits)
        try:
            connection = await self._exchange(head, lines, body, limits)
        except BaseException:
            self._slots.release()
            raise
        return Response(connection, self, limits)

    async def _take_slot(self, limits: Timeouts) -> None:
        """Wait for permission to have one more connection in use.

        Raises InvokeServerUnavailableError if there is none within the connect timeout.
        """
        try:
            await self._slots.take(limits.connect)
        except TimeoutError:
            raise InvokeServerUnavailableError(
                "All upstream connections are in use"
            ) from None

    async def _exchange(
        self, head: RequestHead, lines: bytes, body: Sequence[bytes], limits: Timeouts
    ) -> Connection:
        """Send the request on a pooled or new connection and return it once the
        response head has arrived."""
        pooled_connection = self._idle.take(head.way.key, _is_reusable)
        if pooled_connection is not None:
            await self._send_on(pooled_connection, head, lines, body, limits)
            error = pooled_connection.answer.error
            # An error after the head belongs to the body: whoever reads that raises it.
            if error is None or pooled_connection.answer.is_head_complete:
                return pooled_connection
            self._drop(pooled_connection)
            # The connection was closed while idle, or by a server that may have
            # processed the request (RFC 9112, section 9.3.1). If a repeat is harmless,
            # it is sent once more on a new connection.
            if not (head.may_repeat and pooled_connection.was_closed_without_response):
                raise error
        new_connection = await self._connect(head.way, limits)
        await self._send_on(new_connection, head, lines, body, limits)
        error = new_connection.answer.error
        if error is not None and not new_connection.answer.is_head_complete:
            self._drop(new_connection)
            raise error
        return new_connection

    async def _send_on(
        self,
        connection: Connection,
        head: RequestHead,
        lines: bytes,
        body: Sequence[bytes],
        limits: Timeouts,
    ) -> None:
        """Send the request and wait for the response head, or for its `error`."""
        answer = connection.answer
        connection.begin(is_bodiless=head.is_bodiless)
        try:
            await connection.write(lines, body)
            while not (answer.is_head_complete or answer.error):
                await answer.wait(limits.first_byte, "sent no response")
            # The status comes from the proxy, so it must not be attributed to the
            # provider.
            if answer.status == 407 and head.way.proxy is not None:
                raise proxy_refusal(head.way.proxy, head.way.origin, 407)
        except BaseException:
            self._drop(connection)
            raise

    async def _connect(self, route: Route, limits: Timeouts) -> Connection:
        """Open a connection along a route and register it.

        Raises InvokeTimeoutError after the connect timeout, InvokeConnectionError if
        the host cannot be reached, and what the guard raises.
        """
        try:
            # One timeout for resolution, all addresses, proxy and TLS.
            async with asyncio.timeout(limits.connect):
                connection = await connect_upstream(
                    route, self._guard, lambda: self._tls, limits.connect
                )
        except TimeoutError:
            raise InvokeTimeoutError(
                f"Connection to {route.description} timed out after"
                f" {limits.connect:g} s"
            ) from None
        except (OSError, ssl.SSLError) as error:
            raise InvokeConnectionError(
                f"{route.description} cannot be reached: {error}"
            ) from error
        self._open.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        """Free the slot of a connection and return it to the pool.

        It is dropped instead if it cannot be reused or the pool of its route is full.
        """
        self._slots.release()
        seconds, answer = self._idle_seconds, connection.answer
        # The server's own keep-alive timeout takes precedence if it is shorter.
        if not answer.is_plain and answer.has_header(b"keep-alive"):
            seconds = min(seconds, keep_alive_seconds(answer.headers["keep-alive"]))
        if seconds > 0 and connection.is_usable:
            self._idle.put(connection, seconds)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        # A connection with an unread response cannot be closed gracefully.
        connection.close() if connection.answer.is_complete else connection.abort()

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        for connection in list(self._open):
            with suppress(RuntimeError):
                connection.abort()  # a close of TLS waits for the other side, and the loop may not
        self._open.clear()
        self._idle.clear()
        # `abort` only schedules the closing of a transport; the loop may end after
        # this.
        await asyncio.sleep(0)


def _is_reusable(connection: Connection) -> bool:
    """Return whether an idle connection may have another request."""
    return connection.is_usable and connection.is_quiet


def keep_alive_seconds(line: str) -> float:
    """Return how long a connection is usable according to a `Keep-Alive: timeout=…`
    header; infinity without a timeout.

    A margin is subtracted, since a request in transit when the timeout expires would be
    lost.
    """
    match = _KEEP_TIMEOUT.search(line)
    if match is None:
        return float("inf")
    seconds = float(match[1])
    # A quarter, since a whole second would leave nothing of a timeout of one second.
    return seconds - min(_KEEP_MARGIN, seconds / 4)


@lru_cache(1024)  # a server asks the same few addresses with the same few keys
def _cached_head(
    method: str, url: str, headers: tuple[tuple[str, str], ...], proxies: Proxies
) -> RequestHead:
    """Return the route and encoded head of a request, up to the content length. Cached."""
    origin, target = parse_url(url)
    route = proxies.route_to(origin)
    # An http proxy needs the absolute URL in the request line (RFC 9112, section
    # 3.2.2).
    if route.is_relayed and route.proxy is not None:
        target = f"http://{origin.authority}{target}"
        if route.proxy.authorization:
            headers = (*headers, ("proxy-authorization", route.proxy.authorization))
    # An idempotency key makes any method safe to repeat.
    has_key = any(name.lower() == "idempotency-key" for name, _ in headers)
    return RequestHead(
        way=route,
        lines=dump_head(method, target, origin.authority, headers),
        wants_length=method in ("POST", "PUT", "PATCH"),
        is_bodiless=method == "HEAD",
        may_repeat=method in _REPEATABLE or has_key,
    )
