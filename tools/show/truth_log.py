"""An upstream that records what it served, callers that keep calling, and servers that
are killed in between.

The record of the upstream is the reference: it shares no code and no process with the
server that is measured.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from modelyard.base.errors import InvokeError
from modelyard.transport.http import HttpClient, Timeouts
from tools.show.proof import ROOT, free_port, is_healthy

PROMPT, EVENTS, GAP = 10, 40, 0.004


@dataclass
class ServedRequest:
    """One request as the upstream saw it."""

    user: str
    stream: bool
    sent: int = 0
    """Number of tokens sent: one for each event; a complete response has all of them.
    """
    unread: int = 0
    """Tokens of these that were still in kernel buffers when the server was killed, so
    nobody can bill them."""
    is_complete: bool = False
    closed_at: float | None = None


_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"


class TruthfulUpstream:
    """The recording upstream as a context manager; it runs in a separate thread."""

    def __init__(
        self, *, events: int = EVENTS, gap: float = GAP, latency: float = 0.0
    ) -> None:
        self.served: list[ServedRequest] = []
        self.events = events
        self.gap = gap
        self.latency = latency
        self._deaths = 0
        self._streams: dict[int, tuple[ServedRequest, asyncio.StreamWriter]] = {}
        """Open streams by the port from which the server calls."""

    def kill(self, server: int) -> None:
        """Kill a server between two events and record what it had not read by then.
        Later bytes are not counted."""
        killed = threading.Event()

        def stop_and_kill() -> None:
            """Runs in the event loop, so no event is sent while the buffers are read."""
            with suppress(ProcessLookupError, FileNotFoundError):
                # Stop the process first: otherwise it continues to read while its
                # buffers are measured.
                os.kill(server, signal.SIGSTOP)
                _until_stopped(server)
                self._note_unread()
                os.kill(server, signal.SIGKILL)
            # Streams compare this counter and end themselves, so nothing is sent to the
            # dead server.
            self._deaths += 1
            killed.set()

        self._loop.call_soon_threadsafe(stop_and_kill)
        killed.wait(60)
        kill(server)

    def _note_unread(self) -> None:
        """Store the number of unread tokens of every open stream."""
        waiting = _unread_bytes(self.port)
        for port, (request, writer) in self._streams.items():
            # Unread bytes are in the server's socket buffer or still in this process;
            # round up to complete events.
            left = waiting.get(port, 0) + writer.transport.get_write_buffer_size()
            request.unread = min(request.sent, -(-left // _EVENT_BYTES))

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), daemon=True
        )
        self._thread.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)

    @property
    def url(self) -> str:
        """The base URL of this upstream."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def _run(self) -> None:
        """Serve until the context manager is left, then cancel the open connections."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve the requests of one connection, one after the other."""
        with suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(
                    head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0
                )
                content = await reader.readexactly(length)
                if b"/chat/completions" not in head.partition(b"\r\n")[0]:
                    # It speaks this format alone.
                    writer.write(_NOT_FOUND)
                    continue
                body = json.loads(content)
                request = ServedRequest(body.get("user", ""), bool(body.get("stream")))
                self.served.append(request)
                if self.latency:
                    await asyncio.sleep(self.latency)
                await (
                    self._stream(request, reader, writer)
                    if request.stream
                    else self._send_complete(request, writer)
                )
        with suppress(RuntimeError, OSError):
            writer.close()

    async def _send_complete(
        self, request: ServedRequest, writer: asyncio.StreamWriter
    ) -> None:
        """Send a complete response."""
        usage = {
            "prompt_tokens": PROMPT,
            "completion_tokens": EVENTS,
            "total_tokens": PROMPT + EVENTS,
        }
        message = {"role": "assistant", "content": "word " * EVENTS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        ).encode()
        # Recorded before it is sent: the server may read it and die before this
        # continues.
        request.sent, request.is_complete = EVENTS, True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(body)
        )
        writer.write(body)
        await writer.drain()

    async def _stream(
        self,
        request: ServedRequest,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Send a stream, one token for each event, until it ends or the server has exited."""
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        deaths, port = self._deaths, writer.get_extra_info("peername")[1]
        self._streams[port] = request, writer
        try:
            for _ in range(self.events):
                await asyncio.sleep(self.gap)
                # No event may be counted that a dead server could not have read.
                if reader.at_eof() or writer.is_closing() or deaths != self._deaths:
                    raise ConnectionResetError
                writer.write(_TOKEN)
                request.sent += 1
                await writer.drain()
            writer.write(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
            usage = {
                "prompt_tokens": PROMPT,
                "completion_tokens": request.sent,
                "total_tokens": PROMPT + request.sent,
            }
            writer.write(_event([], usage=usage))
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            request.is_complete = True
            await writer.drain()
        except ConnectionError:
            request.closed_at = time.monotonic()
            raise
        finally:
            self._streams.pop(port, None)


def _event(choices: list[Any], **extra_fields: Any) -> bytes:
    """Return one event of a chat stream as an HTTP chunk."""
    event = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        **extra_fields,
    }
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


# All token events have the same size, so buffered bytes can be converted into tokens.
_TOKEN = _event([{"index": 0, "delta": {"content": " the"}}])
_EVENT_BYTES = len(_TOKEN)


def _until_stopped(pid: int) -> None:
    """Wait until the process is stopped, up to one second: the stop signal takes effect
    a moment later."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        if state in ("T", "Z", "X"):
            return
        time.sleep(0.0005)


def _unread_bytes(port: int) -> dict[int, int]:
    """Return the unread bytes of connections to this port of the machine, by the port
    of the peer.

    See `/proc/net/tcp` in proc(5).
    """
    unread_by_port: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        # Addresses and queue sizes are hexadecimal; the receive queue follows the
        # colon.
        _, local, remote, _, queues, *_ = line.split()
        if int(remote.partition(":")[2], 16) == port:
            unread_by_port[int(local.partition(":")[2], 16)] = int(
                queues.partition(":")[2], 16
            )
    return unread_by_port


# Servers to be killed


class ServerForker:
    """A process that has everything imported and forks servers: the code of `modelyard
    serve`, started ten times faster."""

    _CODE = """
import os, signal, sys
import modelyard.cli.serve, modelyard.app, uvloop, uvicorn.protocols.http.httptools_impl, uvicorn.lifespan.on
import modelyard.providers.http_provider, modelyard.providers.formats
from modelyard.cli import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main(line.split())
    print(pid, flush=True)
"""

    def __init__(self, environ: dict[str, str]) -> None:
        self._started: list[int] = []
        # Commands are lines on its standard input; it prints the process id of each
        # server.
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
            cwd=ROOT,
            text=True,
        )

    def start(self, *arguments: str) -> int:
        """Start a server with these arguments and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(arguments) + "\n")
        self._process.stdin.flush()
        self._started.append(int(self._process.stdout.readline()))
        return self._started[-1]

    def close(self) -> None:
        """End the process and kill all servers that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        for pid in self._started:
            kill(pid)


@contextmanager
def server_forker(environ: dict[str, str]) -> Generator[ServerForker]:
    """Yield a forking process with this environment; its servers are killed at the end."""
    server_forker = ServerForker(environ)
    try:
        yield server_forker
    finally:
        server_forker.close()


def wait_until_healthy(port: int, *, seconds: float = 120.0) -> bool:
    """Wait until the server is healthy; False if it is not within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if is_healthy(port):
            return True
        time.sleep(0.01)
    return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal and wait up to 30 s until the process has exited."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            # Signal 0 only checks the process; it raises ProcessLookupError once the
            # process is gone.
            os.kill(pid, 0)
            time.sleep(0.005)


# Callers


@dataclass
class Callers:
    """Keep calling, each call with a different user name, half of them streamed;
    failures are ignored."""

    port: int
    count: int = 16
    model: str = "openai/gpt-5-mini"
    prefix: str = "u"
    whole: dict[str, bool] = field(default_factory=dict[str, bool])
    """Names of the calls whose complete response arrived, and whether each was
    streamed."""
    asked: int = 0

    def __enter__(self) -> Self:
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._is_over.set()
        self._thread.join(30)

    async def _run(self) -> None:
        # A new connection for each call: on a reused one the client would retry by
        # itself if the server died, and one name would stand for two calls.
        client = HttpClient(keep_idle=0)
        await asyncio.gather(
            *(self._call(client, number) for number in range(self.count))
        )
        await client.aclose()

    async def _call(self, client: HttpClient, worker: int) -> None:
        call_number = 0
        while not self._is_over.is_set():
            call_number += 1
            self.asked += 1
            name = f"{self.prefix}{worker}-{call_number}"
            body = {
                "model": self.model,
                "stream": (call_number + worker) % 2 == 0,
                "user": name,
                "messages": [{"role": "user", "content": "Say forty words."}],
            }
            try:
                response = await client.send(
                    "POST",
                    f"http://127.0.0.1:{self.port}/v1/chat/completions",
                    headers={"content-type": "application/json"},
                    body=[msgspec.json.encode(body)],
                    timeouts=Timeouts(connect=5, first_byte=20, between_bytes=20),
                )
                response_body = await response.read(max_bytes=1 << 20)
                # A stream counts only if its end marker arrived.
                if response.status == 200 and (
                    not body["stream"] or response_body.endswith(b"data: [DONE]\n\n")
                ):
                    self.whole[name] = bool(body["stream"])
            except InvokeError:
                await asyncio.sleep(0.01)


# Comparing ledger and upstream


@dataclass
class LedgerComparison:
    """The ledger compared with the record of the upstream."""

    requests: int
    rows: int
    lost: int
    """Number of requests that the upstream served and for which the ledger has no row.
    """
    doubled: int
    wrong: int
    """Rows of calls whose complete response arrived, with other token counts than the
    upstream recorded."""
    killed_streams: int
    truth_tokens: int
    row_tokens: int
    unserved: int
    """Rows of calls that were about to be sent when the process ended."""

    @property
    def difference(self) -> float:
        """Relative difference of the token sums of killed streams."""
        return abs(self.row_tokens - self.truth_tokens) / max(1, self.truth_tokens)


def compare_ledger(
    served: list[ServedRequest], rows: list[Any], complete_calls: dict[str, bool]
) -> LedgerComparison:
    """Compare what the upstream served with the ledger's rows; calls are matched by
    their user name."""
    row_counts = Counter(row["user"] for row in rows)
    served_counts = Counter(request.user for request in served)
    # A call that was sent twice or has no row is counted as lost or doubled; only
    # unique pairs are compared.
    first_rows: dict[str, Any] = {}
    for row in rows:
        first_rows.setdefault(row["user"], row)
    pairs = [
        (request, first_rows[request.user])
        for request in served
        if request.user in first_rows and served_counts[request.user] == 1
    ]
    complete = [pair for pair in pairs if pair[0].user in complete_calls]
    killed = [
        (request, row)
        for request, row in pairs
        if request.user not in complete_calls and request.stream
    ]
    return LedgerComparison(
        requests=len(served),
        rows=len(rows),
        lost=(served_counts - row_counts).total(),
        doubled=sum(
            max(0, count - max(1, served_counts[user]))
            for user, count in row_counts.items()
        ),
        wrong=sum(not _is_recorded_exactly(*pair) for pair in complete),
        killed_streams=len(killed),
        # Of a killed stream only what the server had read can be in the ledger.
        truth_tokens=sum(request.sent - request.unread for request, _ in killed),
        row_tokens=sum(row["completion_tokens"] for _, row in killed),
        unserved=len(row_counts.keys() - served_counts.keys()),
    )


def _is_recorded_exactly(request: ServedRequest, row: Any) -> bool:
    """Return whether the row of a complete call has the status and tokens that the
    upstream served."""
    recorded = (row["status"], row["prompt_tokens"], row["completion_tokens"])
    return recorded == ("ok", PROMPT, request.sent)


def settings(url: str, **extra_settings: Any) -> str:
    """Return a settings file for a server whose only provider is this upstream."""
    document = {
        "retries": 0,
        "log_level": "error",
        "local": {"enabled": False},
        "providers": [
            {
                "name": "openai",
                "base_url": url,
                "credentials": [{"values": {"api_key": "sk-truth"}}],
            }
        ],
        **extra_settings,
    }
    return msgspec.yaml.encode(document).decode()


def rows_of(database: str) -> list[Any]:
    """Return the rows of the usage ledger in this database."""
    from modelyard.storage.database import Database

    connection = Database(database)
    try:
        return [dict(row) for row in connection.read("SELECT * FROM usage")]
    finally:
        connection.close()


def home_with(folder: Path, url: str, **extra_settings: Any) -> dict[str, str]:
    """Write a home folder with such settings and return the environment variables for
    it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modelyard.yaml").write_text(settings(url, **extra_settings), "utf-8")
    return {"MODELYARD_HOME": str(folder)}


__all__ = [
    "Callers",
    "LedgerComparison",
    "ServedRequest",
    "ServerForker",
    "TruthfulUpstream",
    "compare_ledger",
    "free_port",
    "home_with",
    "kill",
    "rows_of",
    "server_forker",
    "wait_until_healthy",
]
