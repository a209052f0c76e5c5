"""Three `modelyard serve` processes on one PostgreSQL, each with a home folder of its own,
behind a round robin: what was given to one is there for all.

Outputs are compared, not statuses: the text in an answer has to be that of the file, the
plugin, the setting or the message that another server took. Then each server is told to
stop in turn while streams and runs go on.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import yaml

from modelyard.plugins.package import package_folder
from modelyard.testing import Answer, Upstream, UpstreamRequest
from tools.show.odd_plugins import odd_plugin
from tools.show.proof import ROOT, Proof, free_port
from tools.show.round_robin import RoundRobin
from tools.show.servers import Postgres

_NODES = 3
_FILES = 20
"""Files that are uploaded, and runs with one of them each."""
_MESSAGES = 6
_STREAMS_AT_ONCE = 8
_RUNS_AT_ONCE = 3
_WITH_PLUGINS = True
"""Whether to install a plugin, whose environment each server builds."""
_WITH_SCHEDULE = True
"""Whether to wait for a minute to begin, in which a schedule is due."""
_PROMISED_SECONDS = 1.0
_PATIENCE_SECONDS = 90.0
_BOSS = "operator-key-of-the-proof"
_MASTER_KEY = "k:" + base64.b64encode(bytes(range(32))).decode()
_CHUNKS = 12
"""Pieces of a streamed answer, a tenth of a second apart."""
_STEP_SECONDS = 0.5
_STEPS = ("one", "two", "three")


# --------------------------------------------------------------- the world around them


class _Effects(ThreadingHTTPServer):
    """Counts what runs do outside: requests by path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EffectHandler)
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def of(self, prefix: str) -> dict[str, int]:
        """Return path → number of requests, of those with a prefix."""
        with self.lock:
            found = self.counts.items()
            return {path: count for path, count in found if path.startswith(prefix)}


class _EffectHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Count the request, and answer after the time that a step takes."""
        self.rfile.read(int(self.headers["content-length"] or 0))
        server: Any = self.server
        with server.lock:
            server.counts[self.path] += 1
        time.sleep(_STEP_SECONDS)
        answer = self.path.rpartition("/")[2].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the access log."""


def _model(request: UpstreamRequest) -> Answer:
    """Answer a chat call: with the number of messages that it had, streamed slowly."""
    if not request.path.endswith("/chat/completions"):
        return Answer(status=404)
    words = [f"{index} " for index in range(_CHUNKS)]
    if not request.json.get("stream"):
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _json({"id": "x", "object": "chat.completion", "choices": [choice]})
    events = [_chunk({"content": word}) for word in words]
    end = _chunk({}, "stop") + b"data: [DONE]\n\n"
    return Answer(
        headers={"content-type": "text/event-stream"}, pieces=[*events, end], gap=0.1
    )


def _json(document: Mapping[str, Any]) -> Answer:
    headers = {"content-type": "application/json"}
    return Answer(headers=headers, body=json.dumps(document).encode())


def _chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    document = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@dataclass
class _Node:
    """One server with a home folder of its own."""

    home: Path
    port: int
    process: "subprocess.Popen[bytes]"
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = _client(f"http://127.0.0.1:{self.port}")

    def is_ready(self) -> bool:
        """Return whether it takes requests."""
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.HTTPError:
            return False


def _client(url: str, key: str = _BOSS) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


class _World:
    """The servers, the balancer before them, and what is around."""

    def __init__(self, folder: Path, database: str, stack: ExitStack) -> None:
        self.folder = folder
        self._database = database
        self.effects = _Effects()
        threading.Thread(target=self.effects.serve_forever, daemon=True).start()
        stack.callback(self.effects.server_close)
        stack.callback(self.effects.shutdown)
        self.model = stack.enter_context(Upstream(_model))
        self.nodes: list[_Node] = []
        stack.callback(self._stop)
        for index in range(_NODES):
            self.nodes.append(self._started(folder / f"home-{index}", free_port()))
        self.balancer = stack.enter_context(
            RoundRobin([node.port for node in self.nodes])
        )
        self.all = stack.enter_context(_client(self.balancer.url))
        for node in self.nodes:
            assert _wait(node.is_ready), (node.home / "log").read_text()

    @property
    def effects_url(self) -> str:
        """The address at which effects are counted."""
        return f"http://127.0.0.1:{self.effects.server_port}"

    def _started(self, home: Path, port: int) -> _Node:
        """Start a server as an operator would: a settings file, and a command."""
        home.mkdir(exist_ok=True)
        (home / "modelyard.yaml").write_text(yaml.safe_dump(self._settings()))
        # Settings of this machine's own server must not be theirs.
        others = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MODELYARD_")
        }
        environ = {
            **others,
            "MODELYARD_HOME": str(home),
            "MODELYARD_MASTER_KEY": _MASTER_KEY,
            "MODELYARD_PORT": str(port),
        }
        command = [sys.executable, "-m", "modelyard", "serve"]
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        return _Node(home, port, process)

    def _settings(self) -> dict[str, Any]:
        """The file that all servers have: the seed of their settings."""
        host = self.effects_url.removeprefix("http://")
        provider = {
            "name": "played",
            "base_url": self.model.url,
            "credentials": [{"values": {"api_key": "sk-1"}}],
            "models": [{"model": "one", "model_type": "llm"}],
        }
        return {
            "database": self._database,
            "api_keys": [_BOSS],
            "providers": [provider],
            "local": {"enabled": False},
            "egress": {"private": [host]},
            "plugins": {"debug_port": 0},
            **_FILES_SETTING,
        }

    def restart(self, node: _Node) -> int:
        """Stop a server with SIGTERM and start it again. Returns its exit code."""
        node.process.send_signal(signal.SIGTERM)
        code = node.process.wait(60)
        node.process = self._started(node.home, node.port).process
        assert _wait(node.is_ready), (node.home / "log").read_text()[-4000:]
        return code

    def _stop(self) -> None:
        """End all servers."""
        for node in self.nodes:
            node.client.close()
            node.process.kill()
            node.process.wait(30)

    def add_app(self, node: _Node, text: str) -> tuple[str, str]:
        """Import an app at one server. Returns its id and a key of its API."""
        answer = node.client.post("/admin/v1/apps", json={"file": text})
        assert answer.status_code == 201, answer.text
        app = answer.json()["id"]
        key = node.client.post(f"/admin/v1/apps/{app}/keys", json={"name": "proof"})
        # Keys and apps of one server are known everywhere within this time.
        time.sleep(_PROMISED_SECONDS)
        return app, key.json()["key"]


_FILES_SETTING: dict[str, Any] = {}
"""What corrupts the product, to see the proof fail: local folders instead of the
database."""


def _wait(condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


# -------------------------------------------------------------------------------- apps


def _app(nodes: Mapping[str, Mapping[str, Any]], mode: str = "workflow") -> str:
    """Return the DSL of an app whose nodes follow each other."""
    names = list(nodes)
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": source, "target": target} for source, target in pairwise(names)
        ],
    }
    features = {
        "file_upload": {
            "enabled": True,
            "allowed_file_types": ["document"],
            "allowed_file_upload_methods": ["local_file"],
            "number_limits": 3,
        }
    }
    app = {"name": f"{mode} {'-'.join(names)}", "mode": mode}
    workflow = {"graph": graph, "features": features}
    return yaml.safe_dump({"kind": "app", "app": app, "workflow": workflow})


def _end(**outputs: list[str]) -> dict[str, Any]:
    listed = [
        {"variable": name, "value_selector": selector}
        for name, selector in outputs.items()
    ]
    return {"type": "end", "outputs": listed}


def _reading_app() -> str:
    reader = {"type": "document-extractor", "variable_selector": ["sys", "files"]}
    return _app({"start": {"type": "start"}, "x": reader, "end": _end(text=["x", "text"])})  # fmt: skip


def _acting_app(url: str) -> str:
    """A workflow with an effect in each step."""
    steps = {
        name: {
            "type": "http-request",
            "method": "post",
            "url": f"{url}/run/{{{{#sys.workflow_run_id#}}}}/{name}",
        }
        for name in _STEPS
    }
    end = _end(**{name: [name, "body"] for name in _STEPS})
    return _app({"start": {"type": "start"}, **steps, "end": end})


def _hooked_app(url: str, trigger: Mapping[str, Any], name: str) -> str:
    """A workflow that a trigger starts, with one effect."""
    act = {"type": "http-request", "method": "post", "url": f"{url}/{name}/act"}
    return _app({"when": trigger, "act": act, "end": _end(text=["act", "body"])})


# ------------------------------------------------------------------------- comparisons


def _files(world: _World, proof: Proof) -> None:
    """Upload through the balancer, and run and read at others."""
    _, key = world.add_app(world.nodes[0], _reading_app())
    right = 0
    with _client(world.balancer.url, key) as caller:
        for index in range(_FILES):
            text = f"What file {index} says."
            upload = {"file": (f"{index}.txt", text.encode(), "text/plain")}
            stored = caller.post("/v1/files/upload", files=upload, data={"user": "u"})
            if stored.status_code != 201:
                continue
            file = {"type": "document", "transfer_method": "local_file", "upload_file_id": stored.json()["id"]}  # fmt: skip
            body: dict[str, Any] = {"inputs": {}, "user": "u", "files": [file], "response_mode": "blocking"}  # fmt: skip
            run = caller.post("/v1/workflows/run", json=body)
            outputs = _path(run, "data", "outputs", "text")
            served = _read_everywhere(world, key, stored.json()["id"])
            right += outputs in (text, [text]) and served == {text}
    proof.line("runs with a file of another server", f"{right} of {_FILES} right", right == _FILES)  # fmt: skip


def _read_everywhere(world: _World, key: str, file: str) -> set[str]:
    """Return what the servers give out as a file's content."""
    headers = {"authorization": f"Bearer {key}"}
    path = f"/v1/files/{file}/preview?user=u"
    return {node.client.get(path, headers=headers).text for node in world.nodes}


def _path(answer: httpx.Response, *names: str) -> Any:
    """Return a value within a JSON answer; None if it is not there."""
    try:
        value = answer.json()
        for name in names:
            value = value[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value


def _plugins(world: _World, proof: Proof) -> None:
    """Install at one, upgrade at another, remove at a third; call at each."""
    if not _WITH_PLUGINS:
        return
    first, second, third = world.nodes
    for node, version in ((first, "0.0.1"), (second, "0.0.2")):
        installed = _installed(node, _package(world.folder, version))
        said = {_said(other) for other in world.nodes}
        expected = {f"said by {version}"}
        proof.line(f"plugin {version}: {installed}, called at each", said, said == expected)  # fmt: skip
    for plugin in third.client.get("/admin/v1/plugins").json()["data"]:
        third.client.delete(f"/admin/v1/plugins/{plugin['id']}")
    time.sleep(_PROMISED_SECONDS)
    left = [len(node.client.get("/admin/v1/plugins").json()["data"]) for node in world.nodes]  # fmt: skip
    proof.line("plugins a second after the removal", left, left == [0] * _NODES)


def _package(folder: Path, version: str) -> bytes:
    """Return a plugin whose tool says its version."""
    path = odd_plugin(folder / f"plugin-{version}", "fine")
    for name, old, new in (
        ("main.py", "'fine'", repr(f"said by {version}")),
        ("manifest.yaml", "version: 0.0.1\ntype", f"version: {version}\ntype"),
    ):
        text = (path / name).read_text()
        (path / name).write_text(text.replace(old, new))
    return package_folder(path).data


def _installed(node: _Node, package: bytes) -> str:
    """Install a package and return the status of the task at its end."""
    headers = {"content-type": "application/octet-stream"}
    answer = node.client.post("/admin/v1/plugins", content=package, headers=headers)
    path = f"/admin/v1/plugins/tasks/{_path(answer, 'id')}"
    _wait(lambda: _path(node.client.get(path), "status") not in (None, "running"), 300)
    return str(_path(node.client.get(path), "status"))


def _said(node: _Node) -> str:
    """Call the plugin's tool at a server and return its text."""
    body: dict[str, Any] = {"tool": "odd", "arguments": {}}
    answer = node.client.post("/admin/tools/call", json=body)
    return str(_path(answer, "text"))


def _settings(world: _World, proof: Proof) -> None:
    """Change settings and keys at one server, and look at each."""
    first, second, third = world.nodes
    text = second.client.get("/admin/v1/settings").json()["text"]
    changed = f"{text}\ndefaults: {{llm: played/one}}\nmax_body_mb: 1\n"
    second.client.put("/admin/v1/settings", json={"text": changed}).raise_for_status()
    time.sleep(_PROMISED_SECONDS)
    large = b"x" * (2 << 20)
    refused = [node.client.post("/v1/embeddings", content=large).status_code for node in world.nodes]  # fmt: skip
    answers = {_chat(node.client, "default") for node in world.nodes}
    expected = "".join(f"{index} " for index in range(_CHUNKS))
    is_right = refused == [413] * _NODES and answers == {expected}
    proof.line("a setting of one, a second later at each", refused, is_right)
    fixed = second.client.put("/admin/v1/settings", json={"text": f"{changed}retries: 9\n"})  # fmt: skip
    reason = str(_path(fixed, "error", "message"))[:60]
    proof.line("a setting that running servers cannot take over", reason, "start only" in reason)  # fmt: skip
    key = first.client.post("/admin/v1/keys", json={"name": "k"}).json()
    time.sleep(_PROMISED_SECONDS)
    held = [_status(node, key["key"]) for node in world.nodes]
    third.client.delete(f"/admin/v1/keys/{key['id']}")
    time.sleep(_PROMISED_SECONDS)
    revoked = [_status(node, key["key"]) for node in world.nodes]
    is_right = (held, revoked) == ([200] * _NODES, [401] * _NODES)
    proof.line("a key, and its revocation", f"{held}, {revoked}", is_right)


def _status(node: _Node, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return node.client.get("/v1/models", headers=headers).status_code


def _chat(client: httpx.Client, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json=body)
    choices: Any = _path(answer, "choices")
    return str(choices[0]["message"]["content"]) if choices else answer.text


def _conversations(world: _World, proof: Proof) -> None:
    """Continue one conversation through the balancer, and read it at each server."""
    reply = {"type": "answer", "answer": "You said {{#sys.query#}}"}
    _, key = world.add_app(world.nodes[1], _app({"start": {"type": "start"}, "answer": reply}, "advanced-chat"))  # fmt: skip
    queries, conversation = [f"message {index}" for index in range(_MESSAGES)], ""
    answers: list[Any] = []
    with _client(world.balancer.url, key) as caller:
        for query in queries:
            body: dict[str, Any] = {"query": query, "inputs": {}, "user": "u", "response_mode": "blocking", "conversation_id": conversation}  # fmt: skip
            answer = caller.post("/v1/chat-messages", json=body)
            conversation = _path(answer, "conversation_id") or conversation
            answers.append(_path(answer, "answer"))
    headers = {"authorization": f"Bearer {key}"}
    path = f"/v1/messages?user=u&conversation_id={conversation}"
    told = [_queries(node.client.get(path, headers=headers)) for node in world.nodes]
    is_right = told == [queries] * _NODES and answers == [f"You said {query}" for query in queries]  # fmt: skip
    proof.line("a conversation over all servers", [len(queries) for queries in told], is_right)  # fmt: skip


def _queries(answer: httpx.Response) -> list[str]:
    """Return what a list of messages was asked."""
    messages: list[Any] = _path(answer, "data") or []
    return [str(message["query"]) for message in messages]


def _knowledge(world: _World, proof: Proof) -> None:
    """Upload documents at one server, and ask and download at the others."""
    first = world.nodes[0].client
    dataset = first.post("/v1/datasets", json={"name": "hours", "indexing_technique": "economy"}).json()["id"]  # fmt: skip
    batches: list[str] = []
    documents: list[str] = []
    for index, word in enumerate(("lighthouse", "windmill", "harbour")):
        rule = {"indexing_technique": "economy", "process_rule": {"mode": "automatic"}}
        file = {"file": (f"{word}.txt", f"The {word} opens at {index + 7}.".encode(), "text/plain")}  # fmt: skip
        client = world.nodes[index].client
        added = client.post(f"/v1/datasets/{dataset}/document/create-by-file", data={"data": json.dumps(rule)}, files=file)  # fmt: skip
        batches.append(str(_path(added, "batch")))
        documents.append(str(_path(added, "document", "id")))
    _wait(lambda: all(_is_indexed(first, dataset, batch) for batch in batches))
    right = sum(
        _found(node, dataset, word) == f"The {word} opens at {hour}."
        for node in world.nodes
        for word, hour in (("lighthouse", 7), ("windmill", 8), ("harbour", 9))
    )
    proof.line("documents of three, asked at three", f"{right} of 9 right", right == 9)

    sources = [
        _source(node, f"/v1/datasets/{dataset}/documents/{document}/download")
        for node in world.nodes
        for document in documents
    ]
    expected = [f"The {word} opens at {hour}." for word, hour in (("lighthouse", 7), ("windmill", 8), ("harbour", 9))]  # fmt: skip
    proof.line("their files at three", f"{len(sources)} read", sources == expected * _NODES)  # fmt: skip


def _source(node: _Node, path: str) -> str:
    """Return the file of a document, by the address that the server has for it."""
    address = str(_path(node.client.get(path), "url"))
    return node.client.get(address[address.index("/files/") :]).text if "/files/" in address else address  # fmt: skip


def _is_indexed(client: httpx.Client, dataset: str, batch: str) -> bool:
    answer = client.get(f"/v1/datasets/{dataset}/documents/{batch}/indexing-status")
    listed: Any = _path(answer, "data") or []
    return bool(listed) and all(row["indexing_status"] == "completed" for row in listed)


def _found(node: _Node, dataset: str, query: str) -> str:
    body: dict[str, Any] = {"query": query, "retrieval_model": {"search_method": "keyword_search", "reranking_enable": False, "top_k": 1, "score_threshold_enabled": False}}  # fmt: skip
    answer = node.client.post(f"/v1/datasets/{dataset}/retrieve", json=body)
    records: Any = _path(answer, "records")
    return str(records[0]["segment"]["content"]) if records else answer.text


def _webhooks(world: _World, proof: Proof) -> None:
    """Deliver one event nine times at once over all servers."""
    trigger = {"type": "trigger-webhook", "method": "post", "content_type": "application/json"}  # fmt: skip
    app, _ = world.add_app(world.nodes[2], _hooked_app(world.effects_url, trigger, "hook"))  # fmt: skip
    triggers = world.all.get(f"/admin/v1/apps/{app}/triggers").json()["data"]
    path = "/triggers/" + triggers[0]["address"].partition("/triggers/")[2]

    def deliver(index: int) -> int:
        headers = {"idempotency-key": "one-event"}
        client = world.nodes[index % _NODES].client
        return client.post(path, json={}, headers=headers).status_code

    with ThreadPoolExecutor(9) as pool:
        statuses = list(pool.map(deliver, range(9)))
    _wait(lambda: bool(world.effects.of("/hook")))
    time.sleep(1.0)
    count = sum(world.effects.of("/hook").values())
    proof.line("effects of an event that came nine times", f"{count} ({Counter(statuses)})", count == 1)  # fmt: skip


@contextmanager
def _schedule(world: _World, proof: Proof) -> Generator[None]:
    """Import an app that is due each minute, and count its runs after the block."""
    if not _WITH_SCHEDULE:
        yield
        return
    # Far enough from the next minute that all servers know the app by then.
    _wait(lambda: time.time() % 60 < 50, 20)
    started = time.time()
    trigger = {"type": "trigger-schedule", "mode": "cron", "cron_expression": "* * * * *", "timezone": "UTC"}  # fmt: skip
    app, _ = world.add_app(world.nodes[0], _hooked_app(world.effects_url, trigger, "minute"))  # fmt: skip
    yield
    due = int(time.time() // 60 - started // 60)
    if not due:
        time.sleep(60 - time.time() % 60)
        due = 1
    # The switch off is at a distance from both minutes.
    time.sleep(max(0.0, 5.0 - time.time() % 60))
    count = sum(world.effects.of("/minute").values())
    world.all.delete(f"/admin/v1/apps/{app}")
    due = int(time.time() // 60 - started // 60)
    proof.line("runs of a schedule", f"{count} in {due} minutes", count == due)


# -------------------------------------------------------------------------- under load


class _Load:
    """Streams and runs through the balancer until it is told to end."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._key = world.add_app(world.nodes[0], _acting_app(world.effects_url))[1]
        self._is_over = threading.Event()
        self.streams: Counter[str] = Counter()
        """Outcome of a stream → how many had it."""
        self.runs: list[str] = []

    @contextmanager
    def running(self) -> Generator[None]:
        """Call until the block ends, and wait for the calls under way."""
        threads = [threading.Thread(target=self._stream) for _ in range(_STREAMS_AT_ONCE)]  # fmt: skip
        threads += [threading.Thread(target=self._start_runs) for _ in range(_RUNS_AT_ONCE)]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join(60)

    def _stream(self) -> None:
        """Read one stream after the other to its end."""
        expected = "".join(f"{index} " for index in range(_CHUNKS))
        while not self._is_over.is_set():
            try:
                text = "".join(_streamed(self._world.balancer.url))
            except httpx.HTTPError as error:
                text = type(error).__name__
            self.streams["whole" if text == expected else text] += 1

    def _start_runs(self) -> None:
        """Start one run after the other and note their ids."""
        while not self._is_over.is_set():
            run = _begun(self._world.balancer.url, self._key)
            if run:
                self.runs.append(run)
            time.sleep(0.3)

    def outcome(self, run: str) -> tuple[str, Any]:
        """Return the status and the outputs of a run, as any server has them."""
        headers = {"authorization": f"Bearer {self._key}"}
        answer = self._world.all.get(f"/v1/workflows/run/{run}", headers=headers)
        outputs: Any = _path(answer, "outputs")
        if isinstance(outputs, str):
            outputs = json.loads(outputs or "{}")
        return str(_path(answer, "status")), outputs


def _streamed(url: str) -> Iterator[str]:
    """Yield the pieces of a streamed answer; an error event raises HTTPError."""
    body = {"model": "played/one", "messages": [{"role": "user", "content": "hi"}], "stream": True}  # fmt: skip
    with (
        _client(url) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        if stream.status_code != 200:
            raise httpx.HTTPError(f"status {stream.status_code}")
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices")
                if choices is None:
                    raise httpx.HTTPError(line)
                yield choices[0]["delta"].get("content") or "" if choices else ""


def _begun(url: str, key: str) -> str:
    """Start a run and return its id, without waiting for its end: its server may hand it
    over meanwhile."""
    body: dict[str, Any] = {"inputs": {}, "user": "u", "response_mode": "streaming"}
    with (
        _client(url, key) as client,
        client.stream("POST", "/v1/workflows/run", json=body) as stream,
    ):
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                return str(json.loads(line[6:]).get("workflow_run_id") or "")
    return ""


def _restarts(world: _World, proof: Proof) -> None:
    """Stop each server in turn under load."""
    load = _Load(world)
    before = sum(world.balancer.served.values())
    codes: list[int] = []
    with load.running():
        for node in world.nodes:
            time.sleep(1.5)
            codes.append(world.restart(node))
    expected = {name: name for name in _STEPS}
    _wait(lambda: all(load.outcome(run)[0] == "succeeded" for run in load.runs))
    wrong = [run for run in load.runs if load.outcome(run) != ("succeeded", expected)]
    repeated = {
        path: count for path, count in world.effects.of("/run").items() if count != 1
    }
    effects = len(world.effects.of("/run"))
    broken = {text: count for text, count in load.streams.items() if text != "whole"}
    requests = sum(world.balancer.served.values()) - before
    # The signal itself, once everything has ended: what supervisors expect of it.
    is_right = set(codes) <= {0, -signal.SIGTERM}
    proof.line("exit codes after SIGTERM", codes, is_right)
    proof.line("broken streams", f"{broken} of {load.streams.total()}, {requests} requests", not broken)  # fmt: skip
    proof.line("runs with a wrong end", f"{len(wrong)} of {len(load.runs)}", not wrong)
    is_right = not repeated and effects == len(load.runs) * len(_STEPS)
    proof.line("effects that did not happen once", f"{len(repeated)} of {effects}", is_right)  # fmt: skip


def prove() -> Proof:
    """Give each thing to one server and look for it at all, then stop each in turn."""
    proof = Proof()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        world = _World(folder, postgres.url, stack)
        with _schedule(world, proof):
            for compare in (_files, _plugins, _conversations, _knowledge, _webhooks):
                compare(world, proof)
            _settings(world, proof)
            _restarts(world, proof)
        shares = [world.balancer.served[node.port] for node in world.nodes]
        proof.line("requests that each server had", shares, min(shares) > 0)
    return proof
