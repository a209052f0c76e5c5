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
        time.sleep(1.5)  # until the other server has read the new tenants
        load = _Load(ports, keys)
        try:
            api_keys = [_rotate(environ, number) for number in range(_ROTATIONS)]
        finally:
            time.sleep(1.0)
            load.stop()
        statuses = Counter(_chat(port, key)[0] for key in api_keys for port in ports)
        verified = modelyard("secrets", "verify", environ=environ)
        key_lines = (folder / "master.key").read_text().splitlines()
        read_statuses = {
            ask(ports[0], "GET", "/admin/v1/credentials", None, key)[0] for key in keys
        }
    # The key file has one line for each master key: the first one and one for each
    # rotation.
    proof.line("rotations", _ROTATIONS, len(key_lines) == _ROTATIONS + 1)
    _report_load(proof, load)
    proof.line(
        "API keys created between rotations, on both servers",
        dict(statuses),
        statuses.keys() == {200},
    )
    _report_leaked_ids(proof, load, key_lines)
    proof.line(
        "every secret is readable", verified.strip() or "yes", read_statuses == {200}
    )
    proof.figures["rotations"] = _ROTATIONS
    return proof


def _rotate(environ: dict[str, str], number: int) -> str:
    """Rotate the master key, then create an API key, which has to work on both servers
    at once, and return it."""
    modelyard("secrets", "rotate", environ=environ)
    return modelyard(
        "keys", "create", f"n{number}", "--tenant", "tenant-0", environ=environ
    ).strip()


def _report_load(proof: Proof, load: _Load) -> None:
    """Report the calls that were sent during the rotations."""
    calls = sum(load.statuses.values())
    failed_calls = calls - load.statuses[200]
    proof.line("calls meanwhile", calls, calls > 100)
    # Status 503 may occur in the count but is reported as a failure by the next line.
    proof.line("responses", dict(load.statuses), load.statuses.keys() <= {200, 503})
    proof.line("calls that failed", failed_calls, failed_calls == 0)
    proof.figures |= {"calls": calls, "failed": failed_calls}


def _report_leaked_ids(proof: Proof, load: _Load, key_lines: list[str]) -> None:
    """Report master key ids that an error response revealed."""
    ids = [line.partition(":")[0] for line in key_lines]
    leaked_ids = [
        key_id for key_id in ids if any(key_id.encode() in body for body in load.bodies)
    ]
    proof.line("key ids sent to callers", leaked_ids or "none", not leaked_ids)
