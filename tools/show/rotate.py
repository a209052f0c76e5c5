"""Rotate master keys while servers are under load: no call fails, new API keys work at
once, no secret is lost."""

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tools.show.proof import Proof, free_port, modelyard, running, serve_command
from tools.show.truth_log import TruthfulUpstream

_ROTATIONS = 5
_CALLERS = 6
_OWNER = "owner-key-0123456789"
_SETTINGS = """
api_keys: ["{owner}"]
shared: database
local: {{enabled: false}}
plugins: {{debug_port: 0}}
providers:
  - {{name: own, base_url: "{url}", models: [{{name: m, input_price: 1, output_price: 1}}]}}
"""


def ask(port: int, method: str, path: str, body: Any, key: str) -> tuple[int, bytes]:
    """Send a JSON request and return (status, body), for error statuses too."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _chat(port: int, key: str) -> tuple[int, bytes]:
    body = {"model": "own/m", "messages": [{"role": "user", "content": "hi"}]}
    return ask(port, "POST", "/v1/chat/completions", body, key)


class _Load:
    """Callers in threads that send requests until they are stopped."""

    def __init__(self, ports: list[int], keys: list[str]) -> None:
        self.statuses: Counter[int] = Counter()
        self.bodies: list[bytes] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(
                target=self._call, args=(ports[n % len(ports)], keys[n % len(keys)])
            )
            for n in range(_CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, port: int, key: str) -> None:
        while not self._over.is_set():
            status, body = _chat(port, key)
            with self._lock:
                self.statuses[status] += 1
                if status != 200:
                    self.bodies.append(body)

    def stop(self) -> None:
        """Stop all callers and wait for their last calls."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def _tenant(port: int, name: str) -> str:
    """Create a tenant with an admin key and a credential of its own; return the key."""
    ask(port, "POST", "/admin/v1/tenants", {"name": name}, _OWNER)
    key_response = ask(
        port,
        "POST",
        f"/admin/v1/keys?tenant={name}",
        {"name": "k", "role": "admin"},
        _OWNER,
    )
    key: str = json.loads(key_response[1])["key"]
    credential = {"name": "own", "provider": "own", "values": {"api_key": f"sk-{name}"}}
    ask(port, "POST", "/admin/v1/credentials", credential, key)
    return key


def prove() -> Proof:
    """Rotate several times under load with two servers on one database, then check
    every key and secret."""
    proof = Proof()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-show-"))
        )
        upstream = stack.enter_context(TruthfulUpstream())
        (folder / "modelyard.yaml").write_text(
            _SETTINGS.format(owner=_OWNER, url=upstream.url)
        )
        environ = {"MODELYARD_HOME": str(folder)}
        ports = [free_port() for _ in range(2)]
        for port in ports:
            stack.enter_context(running(serve_command(), port, environ=environ))
        keys = [_tenant(ports[0], f"tenant-{number}") for number in range(3)]
        time.sleep(1.5)  # until the other server has heard of them
        load = _Load(ports, keys)
        api_keys: list[str] = []
        try:
            for number in range(_ROTATIONS):
                modelyard("secrets", "rotate", environ=environ)
                # A key created right after a rotation has to work on both servers.
                api_keys.append(
                    modelyard(
                        "keys",
                        "create",
                        f"n{number}",
                        "--tenant",
                        "tenant-0",
                        environ=environ,
                    ).strip()
                )
        finally:
            time.sleep(1.0)
            load.stop()
        new = Counter(_chat(port, key)[0] for key in api_keys for port in ports)
        verified = modelyard("secrets", "verify", environ=environ)
        # The key file has one line for each master key: the first one and one for each
        # rotation.
        ids = [
            line.partition(":")[0]
            for line in (folder / "master.key").read_text().splitlines()
        ]
        rows = [
            ask(ports[0], "GET", "/admin/v1/credentials", None, key)[0] for key in keys
        ]
    # Error responses must not reveal the ids of master keys.
    leaked_ids = [
        name for name in ids if any(name.encode() in body for body in load.bodies)
    ]
    calls = sum(load.statuses.values())
    proof.line("rotations", _ROTATIONS, len(ids) == _ROTATIONS + 1)
    proof.line("calls meanwhile", calls, calls > 100)
    # Status 503 may occur in the count but is reported as a failure by the next line.
    proof.line("answers", dict(load.statuses), load.statuses.keys() <= {200, 503})
    proof.line(
        "calls that failed", calls - load.statuses[200], calls == load.statuses[200]
    )
    proof.line(
        "API keys made between rotations, at both servers",
        dict(new),
        new.keys() == {200},
    )
    proof.line("key ids told to callers", leaked_ids or "none", not leaked_ids)
    proof.line(
        "every secret is readable", verified.strip() or "yes", set(rows) == {200}
    )
    proof.figures |= {
        "rotations": _ROTATIONS,
        "calls": calls,
        "failed": calls - load.statuses[200],
    }
    return proof
