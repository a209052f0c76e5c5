"""The plugins' way out: an HTTP proxy of ours, through which all their connections go and where each is checked.

A plugin has a network of its own in which nothing answers but this. `CONNECT` is for TLS and whatever else speaks TCP;
plain `http://` addresses are passed on a request at a time. Names are resolved here, every address that a name stands
for is checked by the egress rules, and the connection is made to the address that was checked.
"""

import asyncio
import hmac
import logging
import re
import socket
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modelyard.transport.egress import EgressError, EgressRefusedError, EgressRules, normal_url
from modelyard.transport.origins import Origin

logger = logging.getLogger("modelyard.plugins")

_MOST_HEAD = 64 * 1024
_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_PIECE = 64 * 1024
_MOST_CONNECTIONS = 256
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,60}\]|[A-Za-z0-9._-]{1,255}):(?P<port>[0-9]{1,5})")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOP_BY_HOP = frozenset({"connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "upgrade"})
_NAMES = ThreadPoolExecutor(8, thread_name_prefix="plugin-names")
"""Threads of their own: names that nobody answers for hold up nobody else."""
_OURS = ("/files/",)
"""What plugins fetch from this server and send to it, by signed addresses; nothing else of it is theirs."""


class _BadRequestError(Exception):
    """What came is no request that can be passed on."""


@dataclass(slots=True)
class _Head:
    method: str
    target: str
    headers: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name]

    @property
    def length(self) -> int | None:
        """Of the body; None where it is sent in chunks. Raises _BadRequestError where two readers would differ."""
        lengths, codings = self.values("content-length"), self.values("transfer-encoding")
        if codings:
            if lengths or [one.strip().lower() for one in codings] != ["chunked"]:
                raise _BadRequestError("the length of the request's body is said in two ways")
            return None
        if not lengths:
            return 0
        if len(set(lengths)) != 1 or not lengths[0].isascii() or not lengths[0].isdigit() or len(lengths[0]) > 15:
            raise _BadRequestError("content-length is no number")
        return int(lengths[0])


@dataclass(slots=True, eq=False)
class WayOut:
    """For the plugins of one tenant that share a network."""

    rules: Callable[[], EgressRules]
    own: Callable[[], str]
    """This server's own origin, as plugins are told it."""
    token: str = ""
    """What has to be shown, where others of this machine reach the socket too."""
    who: str = ""
    """For the log."""
    _server: asyncio.Server | None = None
    _lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    _open: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    async def start(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_MOST_HEAD)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()

    # one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            await self._answer(reader, writer)
        except (_BadRequestError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await _refuse(writer, 400, str(error) or "this is no request")
        except EgressRefusedError as error:
            logger.warning(
                "a plugin's connection is refused", extra={"fields": {"plugin": self.who, "why": str(error)}}
            )
            await _refuse(writer, 403, str(error))
        except (EgressError, OSError, TimeoutError) as error:
            await _refuse(writer, 502, str(error) or "no answer came in time")
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_SECONDS):
            head = _parsed(await reader.readuntil(b"\r\n\r\n"))
        if self.token and not any(hmac.compare_digest(one, self._shown) for one in head.values("proxy-authorization")):
            await _refuse(writer, 407, "the proxy's password is wrong")
            return
        if head.method == "CONNECT":
            up_reader, up_writer = await self._connected(_authority(head.target))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _both(reader, writer, up_reader, up_writer, None)
            return
        await self._pass_on(head, reader, writer)

    @property
    def _shown(self) -> str:
        return "Basic " + b64encode(f"plugin:{self.token}".encode()).decode()

    async def _pass_on(self, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request for an http:// address, and its answer; the connection ends with it."""
        url = normal_url(head.target)
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise _BadRequestError("https goes through CONNECT")
        origin = Origin("http", parts.hostname or "", parts.port or 80)
        length = head.length
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if self._is_ours(origin):
            if length is None or not _is_plain(parts.path):
                raise EgressRefusedError("of this server, plugins reach signed addresses of files alone")
            up_reader, up_writer = await self._opened(origin, None)
        else:
            up_reader, up_writer = await self._connected(origin)
        kept = [pair for pair in head.headers if pair[0].lower() not in _HOP_BY_HOP and pair[0].lower() != "host"]
        lines = [f"{head.method} {target} HTTP/1.1", f"Host: {origin.authority}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in kept]
        up_writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        await _both(reader, writer, up_reader, up_writer, length)

    def _is_ours(self, origin: Origin) -> bool:
        own = urlsplit(self.own())
        return own.scheme == "http" and (origin.host, origin.port) == (own.hostname, own.port or 80)

    async def _connected(self, origin: Origin) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises EgressRefusedError, before anything is connected to, and OSError."""
        rules = self.rules()
        rules.check_port(origin)
        async with asyncio.timeout(_CONNECT_SECONDS):
            async with self._lookups:
                addresses = await _resolved(origin)
        rules.check(origin, addresses)
        return await self._opened(origin, addresses)

    async def _opened(
        self, origin: Origin, addresses: Sequence[str] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failed: OSError | TimeoutError | None = None
        for address in addresses or [origin.host]:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(address, origin.port, limit=_PIECE)
            except (OSError, TimeoutError) as error:
                failed = error
        raise failed or OSError(f"{origin.host} has no address")


def _is_plain(path: str) -> bool:
    return path.startswith(_OURS) and not any(one in path for one in ("..", "//", "%", "\\"))


async def _resolved(origin: Origin) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            _NAMES, lambda: socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError) as error:
        raise EgressError(f"host {origin.host!r} cannot be found: {error}") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _authority(target: str) -> Origin:
    """Host and port of a CONNECT. Raises _BadRequestError."""
    found = _AUTHORITY.fullmatch(target)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise _BadRequestError("CONNECT wants host:port")
    port = int(found["port"])
    return Origin("https" if port == 443 else "http", found["host"].strip("[]").lower(), port)


def _parsed(data: bytes) -> _Head:
    """Raises _BadRequestError for whatever two readers could read in two ways."""
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not _TOKEN.fullmatch(parts[0]):
        raise _BadRequestError("this is no request line")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, sign, value = line.partition(":")
        if not sign or not _TOKEN.fullmatch(name) or any(one in value for one in "\r\n\0"):
            raise _BadRequestError("this is no header")
        headers.append((name, value.strip(" \t")))
    return _Head(parts[0], parts[1], headers)


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    """In words: whoever reads a plugin's error sees what would have to be allowed."""
    body = (why + "\n").encode()
    names = {400: "Bad Request", 403: "Forbidden", 407: "Proxy Authentication Required", 502: "Bad Gateway"}
    reason = why.encode("ascii", "replace").decode().replace("\r", " ").replace("\n", " ")[:300]
    head = f"HTTP/1.1 {status} {names[status]}: {reason}\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    more = 'proxy-authenticate: Basic realm="plugins"\r\n' if status == 407 else ""
    with suppress(OSError, RuntimeError):
        writer.write(f"{head}{more}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()


async def _both(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, length: int | None,
) -> None:  # fmt: skip
    """Bytes in both directions until both ends are done; to the server no more than `length`, where it is known."""
    there = asyncio.ensure_future(_pump(reader, up_writer, length))
    try:
        await _pump(up_reader, writer, None)
    finally:
        there.cancel()
        up_writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, length: int | None) -> None:
    with suppress(OSError):
        while length is None or length > 0:
            piece = await source.read(_PIECE if length is None else min(_PIECE, length))
            if not piece:
                break
            length = None if length is None else length - len(piece)
            sink.write(piece)
            await sink.drain()
        if length is None and sink.can_write_eof():
            sink.write_eof()
