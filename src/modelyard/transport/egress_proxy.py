"""The egress proxy of plugins and code nodes: an HTTP proxy through which all their
connections go and that checks each one.

They can reach no other host: a plugin's network namespace contains none, and a code node
cannot create sockets. `CONNECT` serves TLS and any other TCP protocol; plain `http://`
requests are forwarded one per connection. The proxy resolves names itself, checks every
resolved address against the egress rules, and connects to an address that it has checked.
"""

import asyncio
import hmac
import logging
import math
import re
import socket
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modelyard.base.fields import content_length
from modelyard.transport.egress import (
    EgressError,
    EgressRefusedError,
    EgressRules,
    normal_url,
)
from modelyard.transport.origins import Origin

logger = logging.getLogger("modelyard.egress")

_MAX_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_CHUNK_BYTES = 64 * 1024
_MAX_CONNECTIONS = 256
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,60}\]|[A-Za-z0-9._-]{1,255}):(?P<port>[0-9]{1,5})"
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |$)")
_CONNECTION_LINE = re.compile(rb"(?i:connection|keep-alive|proxy-connection)[ \t]*:")
_HALF_CLOSED_SECONDS = 2.0
"""How long a response may go on after its client has closed the sending side."""
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "proxy-connection",
        "proxy-authorization",
        "keep-alive",
        "te",
        "upgrade",
    }
)
_RESOLVER_THREADS = ThreadPoolExecutor(8, thread_name_prefix="egress-names")
"""Separate threads: a name server that does not respond must not block the lookups of
other parts of the server."""
_SIGNED_PATHS = ("/files/",)
"""Paths of this server that plugins may reach: signed file addresses for downloads and
uploads."""


@dataclass(slots=True)
class TransferBudget:
    """How many bytes may still pass, in both directions and over all connections."""

    limit: int
    used: int = 0

    def take(self, count: int) -> bool:
        """Count bytes, and return whether they may pass."""
        self.used += count
        return self.used <= self.limit

    def check(self) -> None:
        """Raise EgressRefusedError if no more bytes may pass."""
        if self.used > self.limit:
            raise EgressRefusedError(
                f"More than {self.limit:,} bytes have been transferred, which is the limit"
            )


class _BadRequestError(Exception):
    """The received bytes are not a request that the proxy can forward."""


@dataclass(slots=True)
class _RequestHead:
    """The head of an HTTP/1 request: its request line and headers."""

    method: str
    target: str
    headers: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """Return all values of a header, in order. `name` must be in lower case."""
        return [
            value for header_name, value in self.headers if header_name.lower() == name
        ]

    @property
    def length(self) -> int | None:
        """The body's length in bytes; None if it is sent in chunks.

        Raises _BadRequestError if two HTTP parsers could disagree on it, which would
        permit request smuggling (RFC 9112, 6.3).
        """
        lengths, codings = (
            self.values("content-length"),
            self.values("transfer-encoding"),
        )
        if codings:
            if lengths or [coding.strip().lower() for coding in codings] != ["chunked"]:
                raise _BadRequestError("Conflicting lengths of the request body")
            return None
        if not lengths:
            return 0
        # Repeated equal lengths are allowed; a list, a sign or an excessive number is
        # not.
        text = lengths[0] if len(set(lengths)) == 1 else ""
        length = content_length(text.encode("latin-1", "replace"), 15)
        if length is None:
            raise _BadRequestError("Content-Length is not a number")
        return length


@dataclass(slots=True, eq=False)
class EgressProxy:
    """The egress proxy for one code node, or for the plugins of one tenant that share a
    network."""

    rules: Callable[[], EgressRules]
    server_url: Callable[[], str]
    """Returns this server's own origin, of which signed files may be reached; empty if
    they may not."""
    token: str = ""
    """The proxy password; empty if only the clients can reach the socket."""
    label: str = ""
    """The clients' label in log records."""
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Limits the lookups of names at once; shared by the proxies of a tenant."""
    budget: TransferBudget | None = None
    """None for no limit."""
    hosts: Sequence[str] | None = None
    """The hosts that they may connect to, as names or patterns such as
    `*.example.com`; None for any host. This server's signed files are not affected."""
    _server: asyncio.Server | None = None
    _connections: set["asyncio.Task[None]"] = field(
        default_factory=set["asyncio.Task[None]"]
    )

    async def start(self, listener: socket.socket) -> None:
        """Start to serve connections from a listening socket, which the proxy then
        owns."""
        listener.setblocking(False)
        # `readuntil` raises beyond `limit`, which bounds the size of a head.
        self._server = await asyncio.start_server(
            self._serve, sock=listener, limit=_MAX_HEAD_BYTES
        )

    async def serve(self, connection: socket.socket) -> None:
        """Serve one connected socket, which the proxy then owns, until it ends."""
        reader, writer = await asyncio.open_unix_connection(
            sock=connection, limit=_MAX_HEAD_BYTES
        )
        await self._serve(reader, writer)

    def close(self) -> None:
        """Stop listening and cancel all open connections, without waiting for them."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()

    # Handling of one connection

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection, then close it.

        Errors become responses: 400 for an invalid request, 403 for a destination that
        the egress rules refuse (also logged), and 502 if the upstream cannot be
        reached. Beyond 256 connections it is closed without a response.
        """
        task = asyncio.current_task()
        # Beyond the limit the connection is closed at once: clients must not exhaust
        # the server's descriptors.
        if task is None or len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._handle_request(reader, writer)
        except (
            _BadRequestError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            await _refuse(writer, 400, str(error) or "Invalid request")
        except EgressRefusedError as error:
            logger.warning(
                "connection refused by the egress rules",
                extra={"fields": {"client": self.label, "why": str(error)}},
            )
            await _refuse(writer, 403, str(error))
        except (EgressError, OSError, TimeoutError) as error:
            await _refuse(writer, 502, str(error) or "No response in time")
        except asyncio.CancelledError:
            # `close` has ended it. Nothing waits for this task but a callback of
            # asyncio, which would report the cancellation as an error.
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _handle_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read a request head, check the proxy password, and serve the request.

        `CONNECT` opens a tunnel; other methods are forwarded. A wrong password gets a
        407 response. Raises _BadRequestError, EgressError, OSError, or TimeoutError if
        the head takes more than 30 seconds.
        """
        # The time limit covers the head alone; a tunnel may stay open for as long as
        # both ends want.
        async with asyncio.timeout(_HEAD_SECONDS):
            head = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        # Compare in constant time, since the password is a secret.
        if self.token and not any(
            hmac.compare_digest(
                # As bytes: it refuses text that is not ASCII, which anybody may send.
                credentials.encode("latin-1"),
                self._expected_authorization.encode(),
            )
            for credentials in head.values("proxy-authorization")
        ):
            await _refuse(writer, 407, "Invalid proxy password")
            return
        if head.method == "CONNECT":
            up_reader, up_writer = await self._connect_checked(_authority(head.target))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._relay(reader, writer, up_reader, up_writer, None)
            return
        await self._forward(head, reader, writer)

    @property
    def _expected_authorization(self) -> str:
        return "Basic " + b64encode(f"plugin:{self.token}".encode()).decode()

    async def _forward(
        self,
        head: _RequestHead,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Forward one request for an http:// address and its response; the connection
        is closed afterwards."""
        url = normal_url(head.target)
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise _BadRequestError("Use CONNECT for https")
        origin = Origin("http", parts.hostname or "", parts.port or 80)
        length = head.length
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # This server may have a private address, which the egress rules refuse: it gets
        # its own, narrower check.
        if self._is_own_server(origin):
            if length is None or not _is_signed_path(parts.path):
                raise EgressRefusedError(
                    "Only signed file URLs of this server may be called"
                )
            up_reader, up_writer = await self._connect(origin, None)
        else:
            up_reader, up_writer = await self._connect_checked(origin)
        # Host is replaced because it must match the address that was checked.
        forwarded_headers = [
            pair
            for pair in head.headers
            if pair[0].lower() not in _HOP_BY_HOP and pair[0].lower() != "host"
        ]
        lines = [
            f"{head.method} {target} HTTP/1.1",
            f"Host: {origin.authority}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in forwarded_headers]
        up_writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        await self._exchange(head, reader, writer, up_reader, up_writer)

    async def _exchange(
        self,
        head: _RequestHead,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Copy a request's body and its response, until that is complete or either side
        has closed.

        The response tells the client that the connection ends with it, whatever the
        upstream says: a client that reused it would wait for a response for ever.
        """
        upload_task = asyncio.ensure_future(
            _pump(reader, up_writer, head.length, self.budget)
        )
        # An upstream may keep its connection open although it was asked to close it.
        leave_task = asyncio.ensure_future(_wait_until_closed(reader, upload_task))
        try:
            length = await _pass_response_heads(up_reader, writer, self.budget)
            # The answer to HEAD announces a body that does not come.
            if head.method == "HEAD":
                return
            response_task = asyncio.ensure_future(
                _pump(up_reader, writer, length, self.budget)
            )
            try:
                await asyncio.wait(
                    (response_task, leave_task), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                response_task.cancel()
        finally:
            upload_task.cancel()
            leave_task.cancel()
            up_writer.close()

    def _is_own_server(self, origin: Origin) -> bool:
        """Return whether an origin is this server's own http:// address.

        False if the configured URL has another scheme.
        """
        server_url = urlsplit(self.server_url())
        return server_url.scheme == "http" and (origin.host, origin.port) == (
            server_url.hostname,
            server_url.port or 80,
        )

    async def _connect_checked(
        self, origin: Origin
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Check an origin against the egress rules and connect to it.

        Raises EgressRefusedError before any connection is made, and OSError if the
        connection fails.
        """
        self._check_host(origin)
        rules = self.rules()
        if self.budget is not None:
            self.budget.check()
        rules.check_port(origin)
        async with asyncio.timeout(_CONNECT_SECONDS):
            # Few lookups at a time per tenant, so that one cannot use all resolver
            # threads.
            async with self.lookups:
                addresses = await _resolve(origin)
        # Every address must pass, not only the one that is used: otherwise DNS
        # rebinding could reach an internal host.
        rules.check(origin, addresses)
        return await self._connect(origin, addresses)

    def _check_host(self, origin: Origin) -> None:
        """Raise EgressRefusedError if the plugins' manifests or the tenant's grants do
        not include a host."""
        if self.hosts is None or _matches_any(origin.host, self.hosts):
            return
        # The reason names what has to be changed: the grant, or else the manifest.
        if not self.hosts:
            raise EgressRefusedError(
                "The plugin has no permission 'network'; an administrator can grant it"
            )
        raise EgressRefusedError(
            f"The plugin's manifest does not name the host {origin.host[:100]!r} under"
            f" resource.permission.network.hosts; it names {', '.join(self.hosts)}"
        )

    async def _connect(
        self, origin: Origin, addresses: Sequence[str] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an origin, trying its addresses in order.

        Without addresses the host is used as it is, unchecked. Each attempt may take 10
        seconds. Raises the last attempt's OSError or TimeoutError.
        """
        failed: OSError | TimeoutError | None = None
        # Try the addresses in order, as a browser would; only the last failure is
        # reported.
        for address in addresses or [origin.host]:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(
                        address, origin.port, limit=_CHUNK_BYTES
                    )
            except (OSError, TimeoutError) as error:
                failed = error
        raise failed or OSError(f"{origin.host} has no address")

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        length: int | None,
    ) -> None:
        """Copy bytes in both directions until both sides have closed.

        At most `length` bytes go upstream if it is not None: a second request in the
        same connection is not forwarded.
        """
        upload_task = asyncio.ensure_future(
            _pump(reader, up_writer, length, self.budget)
        )
        try:
            # The upstream's end of stream ends the exchange.
            await _pump(up_reader, writer, None, self.budget)
        finally:
            upload_task.cancel()
            up_writer.close()


def _matches_any(host: str, patterns: Sequence[str]) -> bool:
    """Return whether a host is one of the names, or below the domain of one of the
    patterns, such as `*.example.com`."""
    # A final dot makes a name absolute, and means the same host.
    name = host.lower().removesuffix(".")
    return any(
        name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
        for pattern in patterns
    )


def _is_signed_path(path: str) -> bool:
    """Return whether a path is below this server's signed file addresses.

    False for any path with `..`, `//`, `%` or a backslash.
    """
    # No path that another parser could normalise to a different one.
    return path.startswith(_SIGNED_PATHS) and not any(
        sequence in path for sequence in ("..", "//", "%", "\\")
    )


async def _resolve(origin: Origin) -> list[str]:
    """Return the distinct addresses of an origin's host, in the resolver's order.

    Raises EgressError if the name is invalid or has no address.
    """
    loop = asyncio.get_running_loop()
    try:
        address_infos = await loop.run_in_executor(
            _RESOLVER_THREADS,
            lambda: socket.getaddrinfo(
                origin.host, origin.port, type=socket.SOCK_STREAM
            ),
        )
    except (OSError, UnicodeError) as error:
        raise EgressError(
            f"Host {origin.host!r} cannot be resolved: {error}"
        ) from error
    return list(
        dict.fromkeys(str(address_info[4][0]) for address_info in address_infos)
    )


def _authority(target: str) -> Origin:
    """Return the host and port of a CONNECT request's target. Raises _BadRequestError."""
    match = _AUTHORITY.fullmatch(target)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise _BadRequestError("CONNECT requires host:port")
    port = int(match["port"])
    return Origin(
        "https" if port == 443 else "http", match["host"].strip("[]").lower(), port
    )


def _parse_head(data: bytes) -> _RequestHead:
    """Parse a request head. Raises _BadRequestError for anything that two HTTP parsers
    could interpret differently."""
    # Latin-1 maps every byte to one character, so that headers are forwarded byte by
    # byte.
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if (
        len(parts) != 3
        or parts[2] not in ("HTTP/1.1", "HTTP/1.0")
        or not _TOKEN.fullmatch(parts[0])
    ):
        raise _BadRequestError("Invalid request line")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if (
            not colon
            or not _TOKEN.fullmatch(name)
            or any(control_char in value for control_char in "\r\n\0")
        ):
            raise _BadRequestError("Invalid header")
        headers.append((name, value.strip(" \t")))
    return _RequestHead(parts[0], parts[1], headers)


async def _refuse(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    """Send an error response with a readable reason: the client's log then shows what
    would have to be allowed."""
    body = (message + "\n").encode()
    names = {
        400: "Bad Request",
        403: "Forbidden",
        407: "Proxy Authentication Required",
        502: "Bad Gateway",
    }
    # Client libraries often show only the status line, so the reason is put there too,
    # without line breaks.
    reason = (
        message.encode("ascii", "replace")
        .decode()
        .replace("\r", " ")
        .replace("\n", " ")[:300]
    )
    head = (
        f"HTTP/1.1 {status} {names[status]}: {reason}\r\ncontent-type:"
        " text/plain\r\nconnection: close\r\n"
    )
    extra_headers = (
        'proxy-authenticate: Basic realm="egress"\r\n' if status == 407 else ""
    )
    with suppress(OSError, RuntimeError):
        writer.write(
            f"{head}{extra_headers}content-length: {len(body)}\r\n\r\n".encode() + body
        )
        await writer.drain()


async def _wait_until_closed(
    reader: asyncio.StreamReader, upload_task: "asyncio.Task[None]"
) -> None:
    """Return a while after a client has closed its connection. What it sends after the
    body of its request is not read."""
    await asyncio.wait((upload_task,))
    while await reader.read(_CHUNK_BYTES):
        pass
    # A client may close its sending side alone and still read what comes.
    await asyncio.sleep(_HALF_CLOSED_SECONDS)


async def _pass_response_heads(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    budget: TransferBudget | None,
) -> int | None:
    """Copy the head of a response, and of the interim ones before it (RFC 9110, 15.2),
    with `Connection: close` in place of the upstream's own.

    Returns the length of the body in bytes; None if its end is not known from the head.
    Raises EgressError if there is no response.
    """
    while True:
        status, lines = await _read_response_head(source, budget)
        is_interim = status.startswith(b"1")
        kept = [line for line in lines if not _CONNECTION_LINE.match(line)]
        if not is_interim:
            kept.append(b"Connection: close")
        sink.write(b"\r\n".join(kept) + b"\r\n\r\n")
        await sink.drain()
        if not is_interim:
            has_body = status not in (b"204", b"304")
            return _announced_length(lines) if has_body else 0


async def _read_response_head(
    source: asyncio.StreamReader, budget: TransferBudget | None
) -> tuple[bytes, Sequence[bytes]]:
    """Return the status of a response, and its head's lines with the status line.

    Raises EgressError if there is no response.
    """
    try:
        data = await source.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise EgressError("The upstream sent no HTTP response") from error
    if budget is not None and not budget.take(len(data)):
        budget.check()
    lines = data[:-4].split(b"\r\n")
    status_line = _STATUS_LINE.match(lines[0])
    if status_line is None:
        raise EgressError("The upstream sent no HTTP response")
    return status_line[1], lines


def _announced_length(lines: Sequence[bytes]) -> int | None:
    """Return the length of a response's body by its header lines; None if they do not
    say it, or not clearly."""
    values: set[bytes] = set()
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"transfer-encoding":
            return None
        if name.lower() == b"content-length":
            values.add(value.strip(b" \t"))
    return content_length(values.pop(), 15) if len(values) == 1 else None


def _size_of_chunk(remaining: float) -> int:
    """Return how many bytes to read at once, of those that may still be read."""
    return int(min(_CHUNK_BYTES, remaining))


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    length: int | None,
    budget: TransferBudget | None,
) -> None:
    """Copy bytes from `source` to `sink` until the end of the stream.

    At most `length` bytes if it is not None; otherwise the end of the stream is passed
    on as a half-close. A broken connection ends the copying without an error, and an
    exhausted budget closes the sink.
    """
    remaining = math.inf if length is None else length
    with suppress(OSError):
        while remaining and (chunk := await source.read(_size_of_chunk(remaining))):
            if budget is not None and not budget.take(len(chunk)):
                # The rest of the message would never come, so nothing waits for it.
                sink.close()
                return
            remaining -= len(chunk)
            sink.write(chunk)
            await sink.drain()
        # Pass on a half-close, which some TCP protocols need. After a body of known
        # length the upstream must stay open.
        if length is None and sink.can_write_eof():
            sink.write_eof()
