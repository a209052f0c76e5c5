"""The end of the server: streams of every format that last longer than the grace are told of it in their own words,
their rows are settled, a second signal ends everything at once, and nothing that was started is left."""

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

from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer, chat_events, stream_answer
from tools.show.proof import Proof, answers, free_port
from tools.show.truth_log import rows_of

KEY = "key-of-the-owner"
MODEL = "deepseek/deepseek-chat"
SAID = "shutting down"
_ASKED = [{"role": "user", "content": "Tell a long story."}]
_LLM = {"provider": "openai", "name": "gpt-5-mini", "mode": "chat", "completion_params": {}}


@dataclass(frozen=True)
class Form:
    """A way to ask for a stream, and how its last event reads where the server ends."""

    path: str
    body: Mapping[str, Any]
    last: Callable[[bytes], Any]
    """What of all that came must say why; falsy where it is in no form of that format's."""
    app: str = ""
    """Whose key is shown; the owner's where empty."""


def _event(data: bytes) -> Any:
    """The last event's document."""
    event = data.rstrip().split(b"\n\n")[-1]
    line = next((line for line in event.split(b"\n") if line.startswith(b"data: ")), b"data: null")
    return json.loads(line.removeprefix(b"data: "))


def _named(data: bytes, name: bytes) -> Any:
    event = data.rstrip().split(b"\n\n")[-1]
    return _event(data) if event.startswith(b"event: " + name) else {}


_CHAT = {"model": MODEL, "messages": _ASKED, "stream": True}
_GOOGLE = {"contents": [{"role": "user", "parts": [{"text": "Tell a long story."}]}]}
_RUN = {"inputs": {}, "user": "ada", "response_mode": "streaming"}
FORMS: dict[str, Form] = {
    "chat": Form("/v1/chat/completions", _CHAT, lambda data: _event(data)["error"]["message"]),
    "completions": Form(
        "/v1/completions", {"model": MODEL, "prompt": "Tell.", "stream": True},
        lambda data: _event(data)["error"]["message"],
    ),
    "responses": Form(
        "/v1/responses", {"model": MODEL, "input": "Tell.", "stream": True},
        lambda data: json.dumps(_event(data)),
    ),
    "messages": Form(
        "/v1/messages", {**_CHAT, "max_tokens": 4000},
        lambda data: _event(data)["type"] == "error" and _named(data, b"error")["error"]["message"],
    ),
    "google events": Form(
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", _GOOGLE,
        lambda data: _event(data)["error"]["status"] and _event(data)["error"]["message"],
    ),
    "google list": Form(
        f"/v1beta/models/{MODEL}:streamGenerateContent", _GOOGLE,
        lambda data: json.loads(data)[-1]["error"]["message"],
    ),
    "cohere": Form("/v2/chat", _CHAT, lambda data: _event(data)["message"]),
    "service chat": Form(
        "/v1/chat-messages", {**_RUN, "query": "Tell."},
        lambda data: _event(data)["event"] == "error" and _event(data)["message"], app="chat",
    ),
    "service workflow": Form(
        "/v1/workflows/run", _RUN,
        lambda data: _event(data)["event"] == "error" and _event(data)["message"], app="workflow",
    ),
    "service ag-ui": Form(
        "/v1/ag-ui",
        {"threadId": "t", "runId": "r", "messages": [{"id": "1", "role": "user", "content": "Tell."}], "tools": [],
         "context": [], "state": {}, "forwardedProps": {}},
        lambda data: _event(data)["type"] == "RUN_ERROR" and _event(data)["message"], app="chat",
    ),
}  # fmt: skip


def apps() -> dict[str, str]:
    def flow(mode: str, last: dict[str, Any]) -> str:
        nodes = {
            "start": {"type": "start"},
            "llm": {"type": "llm", "model": _LLM, "prompt_template": [{"role": "user", "text": "Tell."}]},
            "last": last,
        }
        graph = {
            "nodes": [{"id": name, "data": {"title": name, **data}} for name, data in nodes.items()],
            "edges": [{"source": "start", "target": "llm"}, {"source": "llm", "target": "last"}],
        }
        app = {"name": mode, "mode": mode}
        return yaml.dump({"kind": "app", "version": "0.6.0", "app": app, "workflow": {"graph": graph, "features": {}}})

    outputs = [{"variable": "r", "value_selector": ["llm", "text"]}]
    return {
        "chat": flow("advanced-chat", {"type": "answer", "answer": "{{#llm.text#}}"}),
        "workflow": flow("workflow", {"type": "end", "outputs": outputs}),
    }


def storyteller(words: int, gap: float) -> Callable[[UpstreamRequest], Answer]:
    """A model that streams so many words; asked for a whole answer, it thinks for as long."""

    def answer(request: UpstreamRequest) -> Answer:
        if request.json.get("stream"):
            return stream_answer(chat_events(["word "] * words), gap=gap)
        whole = chat_answer("word " * words)
        return Answer(status=200, headers=whole.headers, body=whole.body, delay=words * gap)

    return answer


@dataclass
class World:
    """A server with the played model and apps."""

    process: "subprocess.Popen[bytes]"
    port: int
    home: Path
    keys: dict[str, str] = field(default_factory=lambda: {"": KEY})

    def post(self, path: str, body: Any, key: str = KEY, *, seconds: float = 60.0) -> Any:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)

    def rows(self) -> list[Any]:
        return rows_of(str(self.home / "modelyard.db"))

    def descendants(self) -> list[int]:
        """Every process that the server started, and what those did."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children = [int(one) for one in (task / "children").read_text().split()]
                    found += children
                    todo += children
        return found


@contextmanager
def world(upstream: Upstream, *arguments: str, grace: float, with_apps: bool = True) -> Generator[World]:
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        home, port = Path(folder), free_port()
        document = {
            "api_keys": [KEY], "retries": 0, "log_level": "error", "grace_seconds": grace, "local": {"enabled": False},
            "plugins": {"debug_port": 0}, "workflows": {"models": {"*": MODEL}},
            "providers": [
                {"name": "deepseek", "base_url": upstream.url, "credentials": [{"values": {"api_key": "k"}}]}
            ],
        }  # fmt: skip
        (home / "modelyard.yaml").write_text(yaml.dump(document), "utf-8")
        environ = {**os.environ, "MODELYARD_HOME": folder, "MODELYARD_PORT": str(port)}
        command = [sys.executable, "-m", "modelyard", "serve", *arguments]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        one = World(process, port, home)
        heard = 1.5 if "--workers" in arguments else 0.0  # another worker hears of an app, and of its key, in a second
        try:
            until = time.monotonic() + 60
            while not answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.05)
            for name, text in apps().items() if with_apps else ():
                made = one.post("/admin/v1/apps", {"file": text, "name": name})
                time.sleep(heard)
                one.keys[name] = one.post(f"/admin/v1/apps/{made['id']}/keys", {})["key"]
            time.sleep(heard)
            yield one
        finally:
            with suppress(ProcessLookupError):
                process.kill() if process.poll() is None else None
            process.wait(30)


@dataclass
class Reader:
    """Reads one stream to its end in a thread."""

    world: World
    form: Form
    data: bytes = b""
    status: int = 0
    is_whole: bool = False
    """Whether the answer ended as HTTP says that answers end."""

    def __post_init__(self) -> None:
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        body = json.dumps(self.form.body).encode()
        head = (
            f"POST {self.form.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.world.keys[self.form.app]}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        raw = b""
        with socket.create_connection(("127.0.0.1", self.world.port), timeout=120) as client, suppress(OSError):
            client.sendall(head.encode() + body)
            while piece := client.recv(1 << 16):
                raw += piece
                if raw.count(b"word") > 3:
                    self.begun.set()
        self.begun.set()
        start, _, rest = raw.partition(b"\r\n\r\n")
        self.status = int(start.split()[1]) if start else 0
        is_chunked = b"transfer-encoding: chunked" in start
        self.is_whole = rest.endswith(b"0\r\n\r\n") if is_chunked else bool(start)
        self.data = _unchunked(rest) if is_chunked else rest

    def said(self) -> str:
        """Why it ended, read as the format's callers do; empty where it did not say."""
        try:
            return str(self.form.last(self.data) or "")
        except (ValueError, LookupError, TypeError):
            return ""


def _unchunked(data: bytes) -> bytes:
    found = b""
    while match := re.match(rb"([0-9a-f]+)\r\n", data):
        size = int(match[1], 16)
        found += data[match.end() : match.end() + size]
        data = data[match.end() + size + 2 :]
    return found


def exit_code(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


# ------------------------------------------------------------------------------------------------ official clients


def _by_openai(port: int, kind: str) -> Any:
    import openai

    with openai.OpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
        asked: dict[str, Any] = {
            "chat": lambda: client.chat.completions.create(model=MODEL, messages=_ASKED, stream=True),  # type: ignore[arg-type]
            "responses": lambda: client.responses.create(model=MODEL, input="Tell.", stream=True),
            "completions": lambda: client.completions.create(model=MODEL, prompt="Tell.", stream=True),
        }
        for _ in asked[kind]():
            pass


def _by_anthropic(port: int) -> Any:
    import anthropic

    with (
        anthropic.Anthropic(auth_token=KEY, base_url=f"http://127.0.0.1:{port}", max_retries=0) as client,
        client.messages.stream(model=MODEL, max_tokens=4000, messages=_ASKED) as stream,  # type: ignore[arg-type]
    ):
        for _ in stream:
            pass


def _by_google(port: int) -> Any:
    from google import genai

    client = genai.Client(api_key=KEY, http_options={"base_url": f"http://127.0.0.1:{port}"})  # type: ignore[arg-type]
    for _ in client.models.generate_content_stream(model=MODEL, contents="Tell a long story."):
        pass


_CLIENTS: dict[str, Callable[[int], Any]] = {
    "openai, chat": lambda port: _by_openai(port, "chat"),
    "openai, responses": lambda port: _by_openai(port, "responses"),
    "openai, completions": lambda port: _by_openai(port, "completions"),
    "anthropic": _by_anthropic,
    "google": _by_google,
}


def _raised(call: Callable[[int], Any], port: int, into: dict[str, str], name: str) -> None:
    try:
        call(port)
        into[name] = "nothing"
    except Exception as error:  # noqa: BLE001  whatever the client makes of it
        into[name] = f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------------------------------------ the proof


def prove() -> Proof:
    proof = Proof()
    with Upstream(storyteller(6000, 0.02)) as upstream:
        _formats(proof, upstream)
        _official(proof, upstream)
        _second_signal(proof, upstream)
        _workers(proof, upstream)
    with Upstream(storyteller(40, 0.02)) as upstream:
        _within(proof, upstream)
    return proof


def _formats(proof: Proof, upstream: Upstream) -> None:
    with world(upstream, grace=1.0) as server:
        readers = {name: Reader(server, form) for name, form in FORMS.items()}
        whole = Reader(server, Form("/v1/messages", {**_CHAT, "stream": False, "max_tokens": 9}, _event))
        for reader in readers.values():
            reader.begun.wait(30)
        begun = time.monotonic()
        server.process.terminate()
        code = exit_code(server.process, 30)
        took = time.monotonic() - begun
        for name, reader in readers.items():
            reader.thread.join(10)
            proof.line(f"stream cut: {name}", reader.said()[:70] or reader.data[-70:], SAID in reader.said())
        whole.thread.join(10)
        proof.line("whole answer cut", whole.status, whole.status == 503 and SAID.encode() in whole.data)
        proof.line("ended after", f"{took:.1f} s with exit code {code}", took < 8 and code == -signal.SIGTERM)
        settled = sum(row["status"] == "cancelled" for row in server.rows())
        proof.line(
            "rows settled, of calls served", f"{settled} of {len(upstream.requests)}", settled == len(upstream.requests)
        )
        proof.figures["end_s"] = round(took, 1)


def _official(proof: Proof, upstream: Upstream) -> None:
    raised: dict[str, str] = {}
    with world(upstream, grace=1.0, with_apps=False) as server:
        threads = [
            threading.Thread(target=_raised, args=(call, server.port, raised, name), daemon=True)
            for name, call in _CLIENTS.items()
        ]
        before = len(upstream.requests)
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while len(upstream.requests) < before + len(threads) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        server.process.terminate()
        exit_code(server.process, 30)
        for thread in threads:
            thread.join(20)
    for name in _CLIENTS:
        proof.line(f"what the official client raises: {name}", raised.get(name, "")[:80], SAID in raised.get(name, ""))


def _second_signal(proof: Proof, upstream: Upstream) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with world(upstream, grace=60.0, with_apps=False) as server:
            reader = Reader(server, FORMS["chat"])
            reader.begun.wait(30)
            started = server.descendants()
            server.process.send_signal(number)
            time.sleep(0.7)
            is_up = server.process.poll() is None
            begun = time.monotonic()
            server.process.send_signal(number)
            code = exit_code(server.process, 10)
            took = time.monotonic() - begun
            ok = is_up and code == 128 + number and took < 2 and all_gone(started)
            proof.line(f"second {number.name}", f"exit code {code} after {took:.2f} s", ok)


def _workers(proof: Proof, upstream: Upstream) -> None:
    with world(upstream, "--workers", "2", grace=1.0) as server:
        readers = [Reader(server, FORMS[name]) for name in ("chat", "messages", "service chat") for _ in range(3)]
        for reader in readers:
            reader.begun.wait(30)
        started = server.descendants()
        server.process.terminate()
        code = exit_code(server.process, 30)
        for reader in readers:
            reader.thread.join(10)
        said = sum(SAID in reader.said() for reader in readers)
        proof.line("two workers: streams told", f"{said} of {len(readers)}", said == len(readers))
        proof.line("two workers: left running", code, code == 0 and all_gone(started))
    with world(upstream, "--workers", "2", grace=60.0, with_apps=False) as server:
        reader = Reader(server, FORMS["chat"])
        reader.begun.wait(30)
        started = server.descendants()
        server.process.terminate()
        time.sleep(0.7)
        is_up = server.process.poll() is None
        server.process.terminate()
        code = exit_code(server.process, 10)
        proof.line("two workers: second signal", code, is_up and code == 143 and all_gone(started))


def _within(proof: Proof, upstream: Upstream) -> None:
    with world(upstream, grace=20.0) as server:
        readers = [Reader(server, form) for form in FORMS.values()]
        for reader in readers:
            reader.begun.wait(30)
        server.process.terminate()
        exit_code(server.process, 30)
        for reader in readers:
            reader.thread.join(10)
        whole = sum(reader.is_whole and SAID.encode() not in reader.data for reader in readers)
        proof.line("streams that end within the grace", f"{whole} of {len(readers)} whole", whole == len(readers))
        ok = sum(row["status"] == "ok" for row in server.rows())
        proof.line("their rows, of calls served", f"{ok} of {len(upstream.requests)}", ok == len(upstream.requests))
