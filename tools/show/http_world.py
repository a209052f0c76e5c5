"""Servers for the HTTP client's cases, mostly third-party code: h11 parses requests
strictly, trustme issues certificates, and proxy.py runs as a separate process. All of
them listen on loopback."""

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
from modelyard.transport.proxies import NetworkConfig, proxies_from

USER, PASSWORD = "gustav", "s3cret word/9"
"""The password contains characters that must be percent-encoded in a URL."""
ENCODED_CREDENTIALS = "gustav:s3cret%20word%2F9"
NAMES = ("localhost", "tls.test", "127.0.0.1", "::1")
PATIENT = Timeouts(connect=20, first_byte=20, between_bytes=20)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as parsed by h11."""

    connection: int
    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return all values of a header. h11 has lower-case names."""
        return [value for header_name, value in self.headers if header_name == name]


@dataclass(frozen=True)
class Reply:
    """The bytes of a response, sent chunk by chunk. `closes` closes the connection
    afterwards."""

    pieces: Sequence[bytes]
    closes: bool = False


Script = Callable[[ReceivedRequest], bytes | Reply]


def answer(body: bytes = b"", *lines: str, status: str = "200 OK") -> bytes:
    """Return a complete response with a Content-Length."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


HANG_UP = Reply((), closes=True)


class Server:
    """A server that replies by script and records the requests, and the errors that h11
    finds in them."""

    def __init__(
        self,
        script: Script,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.seen: list[ReceivedRequest] = []
        self.broken: list[str] = []
        self.opened = 0
        self.writers: list[asyncio.StreamWriter] = []
        self._conversations: set[asyncio.Task[None]] = set()
        self._script = script
        self._context = context
        self._host = host

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(
            self._converse, self._host, 0, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        # Stop accepting first, then abort what is open and wait for the handlers.
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        if self._conversations:
            await asyncio.wait(self._conversations)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the URL of a path on this server."""
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    async def close_all(self) -> None:
        """Close all open connections and wait until they are closed."""
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection until the client or the script ends it."""
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
                for chunk in reply.pieces:
                    writer.write(chunk)
                    await writer.drain()
                    # Let the client read, so that chunks are received separately.
                    await asyncio.sleep(0)
                if reply.closes:
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _request(
        self, reader: asyncio.StreamReader, number: int
    ) -> ReceivedRequest | None:
        """Return the next request; None at the end of the connection or if h11 rejects
        the request."""
        # A new parser for each request: the script decides about reuse of the
        # connection, not h11.
        parser = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        while (event := await self._next_event(parser, reader)) is not None:
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                request = _received_request(number, head, body)
                self.seen.append(request)
                return request
        return None

    async def _next_event(
        self, parser: h11.Connection, reader: asyncio.StreamReader
    ) -> object | None:
        """Return the next event of a request; None at the end of the connection or if
        h11 rejects the request."""
        try:
            while (event := parser.next_event()) is h11.NEED_DATA:
                received = await reader.read(65_536)
                if not received:
                    return None
                parser.receive_data(received)
        except h11.RemoteProtocolError as error:
            self.broken.append(str(error))
            return None
        return event


def _received_request(number: int, head: h11.Request, body: bytes) -> ReceivedRequest:
    """Return the record of a complete request. `number` is that of the connection."""
    headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
    return ReceivedRequest(
        number, head.method.decode(), head.target.decode(), headers, body
    )


@dataclass
class ExternalServices:
    """Resources that all cases share: certificates and the ports of the proxies."""

    folder: Path
    plain_proxy: int
    """Port of a proxy.py without a password."""
    strict_proxy: int
    """Port of a proxy.py that requires a user name and password."""
    tls_proxy: int
    """Port of a proxy.py that is itself reached over TLS."""
    authority: trustme.CA
    context: ssl.SSLContext

    @property
    def ca_file(self) -> str:
        """The path of the CA certificate."""
        return str(self.folder / "ca.pem")


@contextmanager
def external_services(folder: Path) -> Generator[ExternalServices]:
    """Issue certificates and start the three proxies; stop them at the end."""
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
        for name, extra_arguments in kinds.items():
            command = [
                # Port 0: the proxy chooses a free port and writes it to the port file.
                sys.executable,
                "-m",
                "proxy",
                "--hostname",
                "127.0.0.1",
                "--port",
                "0",
                "--num-workers",
                "1",
                "--num-acceptors",
                "1",
                "--log-level",
                "CRITICAL",
                "--port-file",
                str(folder / name),
                *extra_arguments,
                "--data-dir",
                str(folder / f"{name}-data"),
            ]
            processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        ports = [
            _port(folder / name, process)
            for name, process in zip(kinds, processes, strict=True)
        ]
        yield ExternalServices(folder, ports[0], ports[1], ports[2], authority, context)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(15)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """Return the port that a proxy wrote to a file, once it accepts connections. Raises
    RuntimeError after 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and (text := file.read_text().strip()):
            # The file appears before the port accepts connections.
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", int(text)), timeout=1),
            ):
                return int(text)
        time.sleep(0.05)
    raise RuntimeError("proxy.py did not start")


@dataclass
class World:
    """The tools of one case. Everything that it opens is closed when the case ends."""

    others: ExternalServices
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    servers: list[Server] = field(default_factory=list)

    async def server(
        self, script: Script | bytes, *, tls: bool = False, host: str = "127.0.0.1"
    ) -> Server:
        """Start a server with a script, or with fixed bytes as reply."""

        def scripted_reply(request: ReceivedRequest) -> bytes | Reply:
            """Return the script's reply, or the fixed bytes."""
            return script(request) if callable(script) else script

        server = Server(scripted_reply, self.others.context if tls else None, host)
        self.servers.append(server)
        return await self.stack.enter_async_context(server)

    def client(
        self,
        *,
        trusts: bool = False,
        environ: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> HttpClient:
        """Return a client. `trusts` makes it trust the test CA; `environ` contains its
        proxy variables."""
        network = NetworkConfig(
            proxies_from(environ or {}), self.others.ca_file if trusts else ""
        )
        client = HttpClient(network=network, **kwargs)
        self.stack.push_async_callback(client.aclose)
        return client

    def names(self, addresses_by_name: Mapping[str, Sequence[str]]) -> None:
        """Resolve the names as given, until the case ends."""
        loop: Any = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def look_up(host: Any, port: Any, **kwargs: Any) -> Any:
            """Resolve a scripted name; pass all others to the real resolver."""
            if host not in addresses_by_name:
                return await real(host, port, **kwargs)
            # A scripted name is not a numeric address, so a numeric-only look-up must
            # fail.
            if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no address")
            families = [
                socket.AF_INET6 if ":" in address else socket.AF_INET
                for address in addresses_by_name[host]
            ]
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, port))
                for family, address in zip(
                    families, addresses_by_name[host], strict=True
                )
            ]

        loop.getaddrinfo = look_up
        self.stack.callback(setattr, loop, "getaddrinfo", real)

    def silent_port(self, port: int, host: str) -> None:
        """Create a port on which connection attempts are dropped: its backlog is full
        and never emptied."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        self.stack.callback(listener.close)
        # With a backlog of 0 a few pending connections fill the queue.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((host, port))
            self.stack.callback(filler.close)


async def fetch_body(
    client: HttpClient, url: str, method: str = "GET", **kwargs: Any
) -> bytes:
    """Send a request and return the response body."""
    response = await client.send(
        method, url, headers=kwargs.pop("headers", {}), timeouts=PATIENT, **kwargs
    )
    return await response.read()


async def run_case(
    external: ExternalServices, run: Callable[[World], Awaitable[object]]
) -> object:
    """Run a case and return its result; a description if h11 rejected one of its
    requests."""
    world = World(external)
    async with world.stack:
        result = await run(world)
        # A malformed request fails the case, whatever its result.
        broken = [problem for server in world.servers for problem in server.broken]
        return f"h11 refuses the request: {broken[0]}" if broken else result
