"""A provider that writes down what it served, a caller that keeps calling, and servers that are killed between them.

What the provider wrote is the truth: it shares no code and no process with what is measured.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from modelyard.base.errors import InvokeError
from modelyard.transport.http import HttpClient, Timeouts
from tools.show.proof import ROOT, answers, free_port

PROMPT, EVENTS, GAP = 10, 40, 0.004


@dataclass
class Served:
    """One request as the provider saw it."""

    user: str
    stream: bool
    sent: int = 0
    """Tokens: one an event; a whole answer has all of them."""
    unread: int = 0
    """Those of them that still lay in the system's buffers when the server was killed: nobody can bill these."""
    is_complete: bool = False
    closed_at: float | None = None


class TruthfulUpstream:
    """In a thread of its own until it is left."""

    def __init__(self, *, events: int = EVENTS, gap: float = GAP, latency: float = 0.0) -> None:
        self.served: list[Served] = []
        self.events = events
        self.gap = gap
        self.latency = latency
        self._deaths = 0
        self._streams: dict[int, tuple[Served, asyncio.StreamWriter]] = {}
        """By the port that the server calls from."""

    def kill(self, server: int) -> None:
        """Kill a server between two events, and note what it had not read by then; what is sent into its grave after
        that is nobody's."""
        done = threading.Event()

        def now() -> None:
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(server, signal.SIGSTOP)
                _until_stopped(server)
                self._note_unread()
                os.kill(server, signal.SIGKILL)
            self._deaths += 1
            done.set()

        self._loop.call_soon_threadsafe(now)
        done.wait(10)
        kill(server)

    def _note_unread(self) -> None:
        waiting = _unread_bytes(self.port)
        for port, (one, writer) in self._streams.items():
            left = waiting.get(port, 0) + writer.transport.get_write_buffer_size()
            one.unread = min(one.sent, -(-left // _EVENT_BYTES))

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length))
                one = Served(body.get("user", ""), bool(body.get("stream")))
                self.served.append(one)
                if self.latency:
                    await asyncio.sleep(self.latency)
                await (self._stream(one, reader, writer) if one.stream else self._whole(one, writer))
        with suppress(RuntimeError, OSError):
            writer.close()

    async def _whole(self, one: Served, writer: asyncio.StreamWriter) -> None:
        usage = {"prompt_tokens": PROMPT, "completion_tokens": EVENTS, "total_tokens": PROMPT + EVENTS}
        message = {"role": "assistant", "content": "word " * EVENTS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({
            "id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage,
        }).encode()  # fmt: skip
        one.sent, one.is_complete = EVENTS, True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    async def _stream(self, one: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        deaths, port = self._deaths, writer.get_extra_info("peername")[1]
        self._streams[port] = one, writer
        try:
            for _ in range(self.events):
                await asyncio.sleep(self.gap)
                if reader.at_eof() or writer.is_closing() or deaths != self._deaths:
                    raise ConnectionResetError
                writer.write(_TOKEN)
                one.sent += 1
                await writer.drain()
            writer.write(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
            usage = {"prompt_tokens": PROMPT, "completion_tokens": one.sent, "total_tokens": PROMPT + one.sent}
            writer.write(_event([], usage=usage))
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            one.is_complete = True
            await writer.drain()
        except ConnectionError:
            one.closed_at = time.monotonic()
            raise
        finally:
            self._streams.pop(port, None)


def _event(choices: list[Any], **more: Any) -> bytes:
    """A chunk of HTTP with one event of a chat's stream."""
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_TOKEN = _event([{"index": 0, "delta": {"content": " the"}}])
_EVENT_BYTES = len(_TOKEN)


def _until_stopped(pid: int) -> None:
    """A signal that stops is heeded a moment later."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        if state in ("T", "Z", "X"):
            return
        time.sleep(0.0005)


def _unread_bytes(port: int) -> dict[int, int]:
    """Port → bytes that came for its owner and were not read, of all connections to a port of this machine. See proc(5)
    of `/proc/net/tcp`."""
    found: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if int(remote.partition(":")[2], 16) == port:
            found[int(local.partition(":")[2], 16)] = int(queues.partition(":")[2], 16)
    return found


# ------------------------------------------------------------------------------------------------ servers to be killed


class Zygote:
    """Has everything imported and forks servers: the same code as `modelyard serve`, started in a tenth of the time."""

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
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **environ}, cwd=ROOT, text=True,
        )  # fmt: skip

    def start(self, *arguments: str) -> int:
        """The process id of a new server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(arguments) + "\n")
        self._process.stdin.flush()
        self._started.append(int(self._process.stdout.readline()))
        return self._started[-1]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        for one in self._started:
            kill(one)


@contextmanager
def zygote(environ: dict[str, str]) -> Generator[Zygote]:
    one = Zygote(environ)
    try:
        yield one
    finally:
        one.close()


def ready(port: int, *, seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answers(port):
            return True
        time.sleep(0.01)
    return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """And wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.005)


# ------------------------------------------------------------------------------------------------ callers


@dataclass
class Callers:
    """Keep calling, each with a name of its own a call, half of them for streams; whatever becomes of it."""

    port: int
    count: int = 16
    model: str = "openai/gpt-5-mini"
    prefix: str = "u"
    whole: dict[str, bool] = field(default_factory=dict[str, bool])
    """Calls whose whole answer came."""
    asked: int = 0

    def __enter__(self) -> Self:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._is_over.set()
        self._thread.join(30)

    async def _run(self) -> None:
        # A connection for each call: on a kept one the client would ask again by itself where the server died on it,
        # and one name would stand for two calls.
        client = HttpClient(keep_idle=0)
        await asyncio.gather(*(self._call(client, number) for number in range(self.count)))
        await client.aclose()

    async def _call(self, client: HttpClient, worker: int) -> None:
        turn = 0
        while not self._is_over.is_set():
            turn += 1
            self.asked += 1
            name = f"{self.prefix}{worker}-{turn}"
            body = {
                "model": self.model, "stream": (turn + worker) % 2 == 0, "user": name,
                "messages": [{"role": "user", "content": "Say forty words."}],
            }  # fmt: skip
            try:
                response = await client.send(
                    "POST", f"http://127.0.0.1:{self.port}/v1/chat/completions",
                    headers={"content-type": "application/json"}, body=[msgspec.json.encode(body)],
                    timeouts=Timeouts(connect=5, first_byte=20, between_bytes=20),
                )  # fmt: skip
                said = await response.read(most=1 << 20)
                if response.status == 200 and (not body["stream"] or said.endswith(b"data: [DONE]\n\n")):
                    self.whole[name] = bool(body["stream"])
            except InvokeError:
                await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------ the account


@dataclass
class Account:
    """The ledger beside the truth."""

    requests: int
    rows: int
    lost: int
    """Requests that the provider served and the ledger has no row for."""
    doubled: int
    wrong: int
    """Rows of calls whose whole answer came, with other tokens than the provider counted."""
    killed_streams: int
    truth_tokens: int
    row_tokens: int
    unserved: int
    """Rows of calls that were about to be made when the process ended."""

    @property
    def difference(self) -> float:
        """Of the sums on killed streams, as a share."""
        return abs(self.row_tokens - self.truth_tokens) / max(1, self.truth_tokens)


def account(served: list[Served], rows: list[Any], whole: dict[str, bool]) -> Account:
    by_user: dict[str, list[Any]] = {}
    for row in rows:
        by_user.setdefault(row["user"], []).append(row)
    truth: dict[str, list[Served]] = {}
    for one in served:
        truth.setdefault(one.user, []).append(one)
    lost = sum(max(0, len(many) - len(by_user.get(user, ()))) for user, many in truth.items())
    doubled = sum(max(0, len(many) - max(1, len(truth.get(user, ())))) for user, many in by_user.items())
    wrong = killed = truth_tokens = row_tokens = 0
    for user, many in truth.items():
        found = by_user.get(user, [])
        if not found or len(many) != 1:
            continue
        if user in whole:
            row = found[0]
            ok = (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", PROMPT, many[0].sent)
            wrong += not ok
        elif many[0].stream:
            killed += 1
            truth_tokens += many[0].sent - many[0].unread
            row_tokens += found[0]["completion_tokens"]
    unserved = sum(1 for user in by_user if user not in truth)
    return Account(len(served), len(rows), lost, doubled, wrong, killed, truth_tokens, row_tokens, unserved)


def settings(url: str, **more: Any) -> str:
    """A settings file for a server whose only provider is that upstream."""
    document = {
        "retries": 0, "log_level": "error", "local": {"enabled": False},
        "providers": [{"name": "openai", "base_url": url, "credentials": [{"values": {"api_key": "sk-truth"}}]}],
        **more,
    }  # fmt: skip
    return msgspec.yaml.encode(document).decode()


def rows_of(database: str) -> list[Any]:
    from modelyard.storage.database import Database

    found = Database(database)
    try:
        return [dict(row) for row in found.read("SELECT * FROM usage")]
    finally:
        found.close()


def home_with(folder: Path, url: str, **more: Any) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modelyard.yaml").write_text(settings(url, **more), "utf-8")
    return {"MODELYARD_HOME": str(folder)}


__all__ = [
    "Account", "Callers", "Served", "TruthfulUpstream", "Zygote", "account", "free_port", "home_with", "kill", "ready",
    "rows_of", "zygote",
]  # fmt: skip
