"""Shut down the server with streams open in every format: streams longer than the grace
period end with an error in their own format, their ledger rows are settled, a second
signal ends everything at once, and no started process is left."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    stream_answer,
)
from tools.show.proof import Proof, free_port, is_healthy
from tools.show.truth_log import rows_of

KEY = "key-of-the-owner"
MODEL = "deepseek/deepseek-chat"
SHUTDOWN_TEXT = "shutting down"
_MESSAGES = [{"role": "user", "content": "Tell a long story."}]
_LLM = {
    "provider": "openai",
    "name": "gpt-5-mini",
    "mode": "chat",
    "completion_params": {},
}


@dataclass(frozen=True)
class StreamFormat:
    """A kind of streaming request, and how to read the server's shutdown error from its
    response."""

    path: str
    body: Mapping[str, Any]
    last: Callable[[bytes], Any]
    """Returns the error message from all received bytes; falsy or an exception if it is
    not in this format."""
    app: str = ""
    """Name of the app whose key is used; the owner's key if empty."""


def _event(data: bytes) -> Any:
    """Return the JSON document of the last event; None if it has no data line."""
    # Server-sent events are separated by an empty line.
    event = data.rstrip().split(b"\n\n")[-1]
    line = next(
        (line for line in event.split(b"\n") if line.startswith(b"data: ")),
        b"data: null",
    )
    return json.loads(line.removeprefix(b"data: "))


def _named_event(data: bytes, name: bytes) -> Any:
    """Return the document of the last event if it has this event name, else an empty
    object."""
    event = data.rstrip().split(b"\n\n")[-1]
    return _event(data) if event.startswith(b"event: " + name) else {}


_CHAT = {"model": MODEL, "messages": _MESSAGES, "stream": True}
_GOOGLE = {"contents": [{"role": "user", "parts": [{"text": "Tell a long story."}]}]}
_RUN = {"inputs": {}, "user": "ada", "response_mode": "streaming"}
# One entry for each streaming endpoint; each reads its error where clients of that API
# look for it.
FORMS: dict[str, StreamFormat] = {
    "chat": StreamFormat(
        "/v1/chat/completions", _CHAT, lambda data: _event(data)["error"]["message"]
    ),
    "completions": StreamFormat(
        "/v1/completions",
        {"model": MODEL, "prompt": "Tell.", "stream": True},
        lambda data: _event(data)["error"]["message"],
    ),
    "responses": StreamFormat(
        "/v1/responses",
        {"model": MODEL, "input": "Tell.", "stream": True},
        lambda data: json.dumps(_event(data)),
    ),
    "messages": StreamFormat(
        "/v1/messages",
        {**_CHAT, "max_tokens": 4000},
        lambda data: (
            _event(data)["type"] == "error"
            and _named_event(data, b"error")["error"]["message"]
        ),
    ),
    "google events": StreamFormat(
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        _GOOGLE,
        # Google's own clients read errors outside of events.
        lambda data: json.loads(data.rpartition(b"\n\n")[2])["error"]["message"],
    ),
    "google list": StreamFormat(
        f"/v1beta/models/{MODEL}:streamGenerateContent",
        _GOOGLE,
        lambda data: json.loads(data)[-1]["error"]["message"],
    ),
    "cohere": StreamFormat(
        "/v2/chat", _CHAT, lambda data: _event(data)["delta"]["error"]
    ),
    "service chat": StreamFormat(
        "/v1/chat-messages",
        {**_RUN, "query": "Tell."},
        lambda data: _event(data)["event"] == "error" and _event(data)["message"],
        app="chat",
    ),
    "service workflow": StreamFormat(
        "/v1/workflows/run",
        _RUN,
        lambda data: _event(data)["event"] == "error" and _event(data)["message"],
        app="workflow",
    ),
    "service ag-ui": StreamFormat(
        "/v1/ag-ui",
        {
            "threadId": "t",
            "runId": "r",
            "messages": [{"id": "1", "role": "user", "content": "Tell."}],
            "tools": [],
            "context": [],
            "state": {},
            "forwardedProps": {},
        },
        lambda data: _event(data)["type"] == "RUN_ERROR" and _event(data)["message"],
        app="chat",
    ),
}


def apps() -> dict[str, str]:
    """Return the DSL of a chat app and of a workflow app, each with one model call."""

    def flow(mode: str, last: dict[str, Any]) -> str:
        """Return the DSL of an app with a start node, a model node and this last node."""
        nodes = {
            "start": {"type": "start"},
            "llm": {
                "type": "llm",
                "model": _LLM,
                "prompt_template": [{"role": "user", "text": "Tell."}],
            },
            "last": last,
        }
        graph = {
            "nodes": [
                {"id": name, "data": {"title": name, **data}}
                for name, data in nodes.items()
            ],
            "edges": [
                {"source": "start", "target": "llm"},
                {"source": "llm", "target": "last"},
            ],
        }
        app = {"name": mode, "mode": mode}
        return yaml.dump(
            {
                "kind": "app",
                "version": "0.6.0",
                "app": app,
                "workflow": {"graph": graph, "features": {}},
            }
        )

    outputs = [{"variable": "r", "value_selector": ["llm", "text"]}]
    return {
        "chat": flow("advanced-chat", {"type": "answer", "answer": "{{#llm.text#}}"}),
        "workflow": flow("workflow", {"type": "end", "outputs": outputs}),
    }


def storyteller(word_count: int, gap: float) -> Callable[[UpstreamRequest], Answer]:
    """Return a model that streams so many words with `gap` seconds between them.

    A request without streaming takes as long as the stream would.
    """

    def answer(request: UpstreamRequest) -> Answer:
        """Respond to one request."""
        if request.json.get("stream"):
            return stream_answer(chat_events(["word "] * word_count), gap=gap)
        complete_answer = chat_answer("word " * word_count)
        return Answer(
            status=200,
            headers=complete_answer.headers,
            body=complete_answer.body,
            delay=word_count * gap,
        )

    return answer


@dataclass
class RunningServer:
    """A server whose model is the local upstream, with the keys of its apps."""

    process: "subprocess.Popen[bytes]"
    port: int
    home: Path
    keys: dict[str, str] = field(default_factory=lambda: {"": KEY})

    def post(
        self, path: str, body: Any, key: str = KEY, *, seconds: float = 60.0
    ) -> Any:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        url, data = f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)

    def rows(self) -> list[Any]:
        """Return the rows of the usage ledger."""
        return rows_of(str(self.home / "modelyard.db"))

    def descendants(self) -> list[int]:
        """Return the ids of all processes below the server process."""
        pids, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            # A process may exit while its children are read.
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children = [
                        int(pid_text)
                        for pid_text in (task / "children").read_text().split()
                    ]
                    pids += children
                    todo += children
        return pids


@contextmanager
def world(
    upstream: Upstream, *arguments: str, grace: float, with_apps: bool = True
) -> Generator[RunningServer]:
    """Run a server with this grace period in seconds; yields it once it is healthy and
    its apps exist."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        home, port = Path(folder), free_port()
        document = {
            "api_keys": [KEY],
            "retries": 0,
            "log_level": "error",
            "grace_seconds": grace,
            "local": {"enabled": False},
            "plugins": {"debug_port": 0},
            "workflows": {"models": {"*": MODEL}},
            "providers": [
                {
                    "name": "deepseek",
                    "base_url": upstream.url,
                    "credentials": [{"values": {"api_key": "k"}}],
                }
            ],
        }
        (home / "modelyard.yaml").write_text(yaml.dump(document), "utf-8")
        environ = {**os.environ, "MODELYARD_HOME": folder, "MODELYARD_PORT": str(port)}
        command = [sys.executable, "-m", "modelyard", "serve", *arguments]
        process = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        server = RunningServer(process, port, home)
        # With several workers, the others learn of a new app and key within a second.
        propagation_seconds = (
            1.5 if "--workers" in arguments else 0.0
        )  # another worker hears of an app, and of its key, in a second
        try:
            until = time.monotonic() + 60
            while not is_healthy(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.05)
            for name, text in apps().items() if with_apps else ():
                created_app = server.post(
                    "/admin/v1/apps", {"file": text, "name": name}
                )
                time.sleep(propagation_seconds)
                # Apps are called with keys of their own, not with the owner's key.
                server.keys[name] = server.post(
                    f"/admin/v1/apps/{created_app['id']}/keys", {}
                )["key"]
            time.sleep(propagation_seconds)
            yield server
        finally:
            with suppress(ProcessLookupError):
                process.kill() if process.poll() is None else None
            process.wait(30)


@dataclass
class Reader:
    """Reads one stream to its end in a thread."""

    world: RunningServer
    form: StreamFormat
    data: bytes = b""
    status: int = 0
    is_whole: bool = False
    """Whether the response ended as HTTP framing requires."""

    def __post_init__(self) -> None:
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        body = json.dumps(self.form.body).encode()
        # A raw socket instead of an HTTP client: what the framing looks like at the end
        # matters here.
        head = (
            f"POST {self.form.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.world.keys[self.form.app]}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        raw = b""
        with (
            socket.create_connection(
                ("127.0.0.1", self.world.port), timeout=120
            ) as client,
            suppress(OSError),
        ):
            client.sendall(head.encode() + body)
            while chunk := client.recv(1 << 16):
                raw += chunk
                # Enough words arrived to be sure that the stream is in progress.
                if raw.count(b"word") > 3:
                    self.begun.set()
        # A response that ended early must not leave the caller waiting for its start.
        self.begun.set()
        start, _, response_body = raw.partition(b"\r\n\r\n")
        self.status = int(start.split()[1]) if start else 0
        is_chunked = b"transfer-encoding: chunked" in start
        self.is_whole = (
            response_body.endswith(b"0\r\n\r\n") if is_chunked else bool(start)
        )
        self.data = _unchunked(response_body) if is_chunked else response_body

    def shutdown_message(self) -> str:
        """Return the reason for the end, read as clients of the format do; empty if the
        response gives none."""
        try:
            return str(self.form.last(self.data) or "")
        except (ValueError, LookupError, TypeError):
            return ""


def _unchunked(data: bytes) -> bytes:
    """Decode HTTP chunked transfer encoding; stops at the first incomplete chunk
    header."""
    decoded = b""
    while match := re.match(rb"([0-9a-f]+)\r\n", data):
        size = int(match[1], 16)
        # Skip the line break after the chunk as well.
        decoded += data[match.end() : match.end() + size]
        data = data[match.end() + size + 2 :]
    return decoded


def exit_code(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Wait for the process and return its exit code; None if it still runs after so
    many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def is_running(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def all_gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Wait until none of the processes runs; False if one still does after so many
    seconds."""
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


# Official clients


def _by_openai(port: int, format_name: str) -> Any:
    """Stream with the OpenAI client until it raises."""
    import openai

    with openai.OpenAI(
        api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0
    ) as client:
        call_by_format: dict[str, Any] = {
            "chat": lambda: client.chat.completions.create(
                model=MODEL, messages=_MESSAGES, stream=True
            ),  # type: ignore[arg-type]
            "responses": lambda: client.responses.create(
                model=MODEL, input="Tell.", stream=True
            ),
            "completions": lambda: client.completions.create(
                model=MODEL, prompt="Tell.", stream=True
            ),
        }
        # The entries are functions, so that only the chosen request is sent.
        for event in call_by_format[format_name]():
            _raise_if_failed(event)


def _raise_if_failed(event: Any) -> None:
    """Raise RuntimeError with the reason if an event ends a response that has failed.

    OpenAI's client raises only for the event `error`; this one it hands to its caller.
    """
    if getattr(event, "type", "") == "response.failed":
        raise RuntimeError(event.response.error.message)


def _by_anthropic(port: int) -> Any:
    """Stream with the Anthropic client until it raises."""
    import anthropic

    with (
        anthropic.Anthropic(
            auth_token=KEY, base_url=f"http://127.0.0.1:{port}", max_retries=0
        ) as client,
        client.messages.stream(
            model=MODEL, max_tokens=4000, messages=_MESSAGES
        ) as stream,  # type: ignore[arg-type]
    ):
        for _ in stream:
            pass


def _by_google(port: int) -> Any:
    """Stream with the Google client until it raises."""
    from google import genai

    client = genai.Client(
        api_key=KEY, http_options={"base_url": f"http://127.0.0.1:{port}"}
    )  # type: ignore[arg-type]
    for _ in client.models.generate_content_stream(
        model=MODEL, contents="Tell a long story."
    ):
        pass


_CLIENTS: dict[str, Callable[[int], Any]] = {
    "openai, chat": lambda port: _by_openai(port, "chat"),
    "openai, responses": lambda port: _by_openai(port, "responses"),
    "openai, completions": lambda port: _by_openai(port, "completions"),
    "anthropic": _by_anthropic,
    "google": _by_google,
}


def _record_error(
    call: Callable[[int], Any], port: int, into: dict[str, str], name: str
) -> None:
    """Call a client and store what it raised in `into`, as text."""
    try:
        call(port)
        into[name] = "nothing"
    except Exception as error:  # noqa: BLE001
        into[name] = f"{type(error).__name__}: {error}"


# The proof


def prove() -> Proof:
    """Check shutdowns with streams that outlast the grace period, then with streams
    that end within it."""
    proof = Proof()
    with Upstream(storyteller(6000, 0.02)) as upstream:
        _formats(proof, upstream)
        _official(proof, upstream)
        _second_signal(proof, upstream)
        _workers(proof, upstream)
    with Upstream(storyteller(40, 0.02)) as upstream:
        _check_within_grace(proof, upstream)
    return proof


def _formats(proof: Proof, upstream: Upstream) -> None:
    """One stream of every format and one complete response, all cut by the end of the
    grace period."""
    with world(upstream, grace=1.0) as server:
        readers = {
            name: Reader(server, stream_format) for name, stream_format in FORMS.items()
        }
        complete_reader = Reader(
            server,
            StreamFormat(
                "/v1/messages", {**_CHAT, "stream": False, "max_tokens": 9}, _event
            ),
        )
        # Send the signal only after every stream has started.
        for reader in readers.values():
            reader.begun.wait(30)
        started_at = time.monotonic()
        server.process.terminate()
        code = exit_code(server.process, 30)
        took = time.monotonic() - started_at
        for name, reader in readers.items():
            reader.thread.join(10)
            proof.line(
                f"stream interrupted: {name}",
                reader.shutdown_message()[:70] or reader.data[-70:],
                SHUTDOWN_TEXT in reader.shutdown_message(),
            )
        complete_reader.thread.join(10)
        # A response whose headers were not sent yet can still get a proper status.
        proof.line(
            "complete answer interrupted",
            complete_reader.status,
            complete_reader.status == 503
            and SHUTDOWN_TEXT.encode() in complete_reader.data,
        )
        proof.line(
            "ended after",
            f"{took:.1f} s with exit code {code}",
            took < 8 and code == -signal.SIGTERM,
        )
        # Every call must have a settled row, even though the process is ending.
        settled = sum(row["status"] == "cancelled" for row in server.rows())
        proof.line(
            "rows settled, of calls served",
            f"{settled} of {len(upstream.requests)}",
            settled == len(upstream.requests),
        )
        proof.figures["end_s"] = round(took, 1)


def _official(proof: Proof, upstream: Upstream) -> None:
    """Check what the official client libraries raise when their stream is cut."""
    raised: dict[str, str] = {}
    with world(upstream, grace=1.0, with_apps=False) as server:
        threads = [
            threading.Thread(
                target=_record_error,
                args=(call, server.port, raised, name),
                daemon=True,
            )
            for name, call in _CLIENTS.items()
        ]
        requests_before = len(upstream.requests)
        for thread in threads:
            thread.start()
        # Wait until the calls of all clients have reached the upstream.
        until = time.monotonic() + 60
        while (
            len(upstream.requests) < requests_before + len(threads)
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        time.sleep(0.5)
        server.process.terminate()
        exit_code(server.process, 30)
        for thread in threads:
            thread.join(20)
    for name in _CLIENTS:
        proof.line(
            f"what the official client raises: {name}",
            raised.get(name, "")[:80],
            SHUTDOWN_TEXT in raised.get(name, ""),
        )


def _second_signal(proof: Proof, upstream: Upstream) -> None:
    """Check that a second signal ends the server at once, despite a long grace period."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with world(upstream, grace=60.0, with_apps=False) as server:
            reader = Reader(server, FORMS["chat"])
            reader.begun.wait(30)
            started = server.descendants()
            server.process.send_signal(number)
            time.sleep(0.7)
            # The first signal alone must not end it while a stream is open.
            is_up = server.process.poll() is None
            started_at = time.monotonic()
            server.process.send_signal(number)
            code = exit_code(server.process, 10)
            took = time.monotonic() - started_at
            ok = is_up and code == 128 + number and took < 2 and all_gone(started)
            proof.line(
                f"second {number.name}", f"exit code {code} after {took:.2f} s", ok
            )


def _workers(proof: Proof, upstream: Upstream) -> None:
    """The same with two worker processes under one supervisor process."""
    with world(upstream, "--workers", "2", grace=1.0) as server:
        readers = [
            Reader(server, FORMS[name])
            for name in ("chat", "messages", "service chat")
            for _ in range(3)
        ]
        for reader in readers:
            reader.begun.wait(30)
        started = server.descendants()
        server.process.terminate()
        code = exit_code(server.process, 30)
        for reader in readers:
            reader.thread.join(10)
        informed_count = sum(
            SHUTDOWN_TEXT in reader.shutdown_message() for reader in readers
        )
        proof.line(
            "two workers: streams informed",
            f"{informed_count} of {len(readers)}",
            informed_count == len(readers),
        )
        proof.line(
            "two workers: processes still running",
            code,
            code == 0 and all_gone(started),
        )
    with world(upstream, "--workers", "2", grace=60.0, with_apps=False) as server:
        reader = Reader(server, FORMS["chat"])
        reader.begun.wait(30)
        started = server.descendants()
        server.process.terminate()
        time.sleep(0.7)
        is_up = server.process.poll() is None
        server.process.terminate()
        code = exit_code(server.process, 10)
        proof.line(
            "two workers: second signal",
            code,
            is_up and code == 143 and all_gone(started),
        )


def _check_within_grace(proof: Proof, upstream: Upstream) -> None:
    """Check that streams that end within the grace period period are complete and are settled
    as successful."""
    with world(upstream, grace=20.0) as server:
        readers = [Reader(server, stream_format) for stream_format in FORMS.values()]
        for reader in readers:
            reader.begun.wait(30)
        server.process.terminate()
        exit_code(server.process, 30)
        for reader in readers:
            reader.thread.join(10)
        complete_count = sum(
            reader.is_whole and SHUTDOWN_TEXT.encode() not in reader.data
            for reader in readers
        )
        proof.line(
            "streams that end within the grace period",
            f"{complete_count} of {len(readers)} complete",
            complete_count == len(readers),
        )
        ok = sum(row["status"] == "ok" for row in server.rows())
        proof.line(
            "their rows, of calls served",
            f"{ok} of {len(upstream.requests)}",
            ok == len(upstream.requests),
        )
