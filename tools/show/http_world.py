"""The other side of the HTTP client's cases, most of it written by others: requests are read by h11 as a strict server,
certificates are made by trustme, and the proxy is proxy.py in a process of its own. All of it listens on loopback."""

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import trustme

from modelyard.transport.http import HttpClient, Timeouts
from modelyard.transport.proxies import Network, proxies_from

USER, PASSWORD = "gustav", "s3cret word/9"
"""With signs that must be percent-encoded in an address."""
WRITTEN = "gustav:s3cret%20word%2F9"
NAMES = ("localhost", "tls.test", "127.0.0.1", "::1")
PATIENT = Timeouts(connect=20, first_byte=20, between_bytes=20)


@dataclass(frozen=True)
class Seen:
    """A request, as h11 read it."""

    connection: int
    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each == name]


@dataclass(frozen=True)
class Reply:
    """Bytes to answer with, piece by piece; then the connection is closed, or not."""

    pieces: Sequence[bytes]
    closes: bool = False


Script = Callable[[Seen], bytes | Reply]


def answer(body: bytes = b"", *lines: str, status: str = "200 OK") -> bytes:
    """A whole answer with a length."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


HANG_UP = Reply((), closes=True)


class Server:
    """Answers as scripted, and notes what it was asked and whether h11 found it proper."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.seen: list[Seen] = []
        self.broken: list[str] = []
        self.opened = 0
        self.writers: list[asyncio.StreamWriter] = []
        self._conversations: set[asyncio.Task[None]] = set()
        self._script = script
        self._context = context
        self._host = host

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._converse, self._host, 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        if self._conversations:
            await asyncio.wait(self._conversations)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    async def close_all(self) -> None:
        """Close what is open, and let that arrive."""
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        number = self.opened
        self.writers.append(writer)
        if (task := asyncio.current_task()) is not None:
            self._conversations.add(task)
        try:
            while (request := await self._request(reader, number)) is not None:
                reply = self._script(request)
                if isinstance(reply, bytes):
                    reply = Reply((reply,))
                for piece in reply.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if reply.closes:
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, number: int) -> Seen | None:
        """The next request; None at the end, and where h11 will not have it."""
        parser = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                self.broken.append(str(error))
                return None
            if event is h11.NEED_DATA:
                received = await reader.read(65_536)
                if not received:
                    return None
                parser.receive_data(received)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                lines = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
                seen = Seen(number, head.method.decode(), head.target.decode(), lines, body)
                self.seen.append(seen)
                return seen


@dataclass
class Others:
    """What lies outside of the loop: certificates and the proxies' ports."""

    folder: Path
    plain_proxy: int
    """proxy.py that wants no password."""
    strict_proxy: int
    """proxy.py that wants one."""
    tls_proxy: int
    """proxy.py that is itself reached over TLS."""
    authority: trustme.CA
    context: ssl.SSLContext

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")


@contextmanager
def others(folder: Path) -> Generator[Others]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert(*NAMES)
    chain, key = folder / "chain.pem", folder / "key.pem"
    key.write_bytes(certificate.private_key_pem.bytes())
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    kinds = {
        "plain": [],
        "strict": ["--basic-auth", f"{USER}:{PASSWORD}"],
        "tls": ["--cert-file", str(chain), "--key-file", str(key)],
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, more in kinds.items():
            command = [
                sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0", "--num-workers", "1",
                "--num-acceptors", "1", "--log-level", "CRITICAL", "--port-file", str(folder / name), *more,
                "--data-dir", str(folder / f"{name}-data"),
            ]  # fmt: skip
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        ports = [_port(folder / name, process) for name, process in zip(kinds, processes, strict=True)]
        yield Others(folder, ports[0], ports[1], ports[2], authority, context)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(15)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that a proxy has written down, once it answers there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and (text := file.read_text().strip()):
            with suppress(OSError), socket.create_connection(("127.0.0.1", int(text)), timeout=1):
                return int(text)
        time.sleep(0.05)
    raise RuntimeError("proxy.py did not start")


@dataclass
class World:
    """What one case has at hand. All that it opens is closed when the case ends."""

    others: Others
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    servers: list[Server] = field(default_factory=list)

    async def server(self, script: Script | bytes, *, tls: bool = False, host: str = "127.0.0.1") -> Server:
        def same(request: Seen) -> bytes | Reply:
            return script(request) if callable(script) else script

        server = Server(same, self.others.context if tls else None, host)
        self.servers.append(server)
        return await self.stack.enter_async_context(server)

    def client(self, *, trusts: bool = False, environ: Mapping[str, str] | None = None, **more: Any) -> HttpClient:
        network = Network(proxies_from(environ or {}), self.others.ca_file if trusts else "")
        client = HttpClient(network=network, **more)
        self.stack.push_async_callback(client.aclose)
        return client

    def names(self, known: Mapping[str, Sequence[str]]) -> None:
        """Have names looked up here, for as long as the case runs."""
        loop: Any = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def look_up(host: Any, port: Any, **more: Any) -> Any:
            if host not in known:
                return await real(host, port, **more)
            if more.get("flags", 0) & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no address")
            families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in known[host]]
            return [
                (family, socket.SOCK_STREAM, 6, "", (one, port))
                for family, one in zip(families, known[host], strict=True)
            ]

        loop.getaddrinfo = look_up
        self.stack.callback(setattr, loop, "getaddrinfo", real)

    def silent_port(self, port: int, host: str) -> None:
        """A place where attempts to connect are dropped: its queue is full, and nobody empties it."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        self.stack.callback(listener.close)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((host, port))
            self.stack.callback(filler.close)


async def fetched(client: HttpClient, url: str, method: str = "GET", **more: Any) -> bytes:
    response = await client.send(method, url, headers=more.pop("headers", {}), timeouts=PATIENT, **more)
    return await response.read()


async def in_world(outside: Others, run: Callable[[World], Awaitable[object]]) -> object:
    """What a case has seen; the error's kind and words where it ended with one of ours."""
    world = World(outside)
    async with world.stack:
        seen = await run(world)
        broken = [problem for server in world.servers for problem in server.broken]
        return f"h11 refuses the request: {broken[0]}" if broken else seen
