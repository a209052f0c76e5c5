"""Runs on several servers of one PostgreSQL, while owners are frozen, killed, cut off from
the database or stopped, beside servers with a wrong clock and with the same host name in
process namespaces of their own.

A server outside counts the effects of each run. A node in flight may happen twice, under
one idempotency key; nothing else may, and a run has one end.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from modelyard.app import Modelyard
from modelyard.base.clock import SystemClock
from modelyard.base.settings import EgressSettings, Settings
from modelyard.workflow.run_reader import FINAL_EVENTS
from tools.show.proof import ROOT, Proof
from tools.show.servers import Postgres

_STEPS = {"one": 1.0, "two": 4.0, "three": 2.0, "four": 2.0}
"""The steps with an effect, and the seconds that each takes."""
_FROZEN_SECONDS = 22.0
_OUTAGES = (3.0, 20.0)
"""How long the database is away, in seconds. A lease lasts 15."""
_AHEAD_SECONDS = 60.0
_MAX_SECONDS = 120.0
"""Time for a run to end, whatever happens to its owners."""
_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class Effects(ThreadingHTTPServer):
    """An HTTP server that records when each step of each run was at work."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address of this server."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections: their client was killed."""

    def of(self, run: str) -> list[dict[str, Any]]:
        """Return the requests of a run so far."""
        with self.lock:
            return [request for request in self.requests if request["run"] == run]

    def wait_for(self, run: str, step: str) -> None:
        """Wait until a step of a run has begun."""
        _wait(lambda: any(request["step"] == step for request in self.of(run)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Record the request, and answer after the time that its step takes."""
        self.rfile.read(int(self.headers["content-length"] or 0))
        _, run, step = self.path.split("/")
        server: Any = self.server
        request = {"run": run, "step": step, "key": self.headers["idempotency-key"]}
        with server.lock:
            server.requests.append(request)
        time.sleep(_STEPS[step])
        answer = step.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *details: Any) -> None:
        """Suppress the access log."""


def _wait(condition: Callable[[], bool], seconds: float = _MAX_SECONDS) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


# ------------------------------------------------------------------------------ a worker


class _WrongClock(SystemClock):
    """A clock that is ahead of all others."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self._ahead = ahead

    def time(self) -> float:
        """Return the wrong time, in seconds since 1970."""
        return super().time() + self._ahead


async def _work(database: str, home: str, url: str, mode: str, ahead: float) -> None:
    """Take part in the runs of a database until SIGTERM; with the mode `start`, start one
    first and print its id."""
    host = url.removeprefix("http://")
    settings = Settings(
        home=home, database=database, egress=EgressSettings(private=[host])
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    clock = _WrongClock(ahead)
    async with Modelyard(settings, environ={}, clock=clock) as yard:
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        yard.runs.start_maintenance()
        if mode == "start":
            app_record = yard.apps.get_by_id_or_name("default", "effects")
            app = await yard.apps.published_app(app_record)
            chats = yard.services.workflows.chats
            run = await chats.run(app_record, app, inputs={}, user="u")
            print(run.id, flush=True)
        await ended.wait()
        # As the server does when it is told to stop.
        yard.runs.leave()
        while yard.runs.count:  # noqa: ASYNC110  what is watched has no event
            await asyncio.sleep(0.05)


class Workers:
    """Starts worker processes, and ends those that are left."""

    def __init__(self, database: str, folder: Path, url: str) -> None:
        self._database = database
        self._folder = folder
        self._url = url
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self, mode: str, *, ahead: float = 0.0, prefix: Sequence[str] = ()
    ) -> tuple[subprocess.Popen[str], str]:
        """Start a worker; return its process and the id of the run that it has started.
        `prefix` is a command that runs it."""
        home = self._folder / f"home-{len(self._processes)}"
        arguments = [self._database, str(home), self._url, mode, str(ahead)]
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tools.show.run_owners", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        run = process.stdout.readline().strip() if mode == "start" else ""
        return process, run

    def stop(self) -> None:
        """Kill all workers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()


@contextmanager
def _running(database: str, folder: Path, url: str) -> Generator[Workers]:
    """Yield workers that are ended with the block."""
    workers = Workers(database, folder, url)
    try:
        yield workers
    finally:
        workers.stop()


# ------------------------------------------------------------------------------ the proof


def _app_text(url: str) -> str:
    """Return the DSL of the workflow: the steps in a row."""
    names = ["start", *_STEPS, "end"]
    nodes: list[dict[str, Any]] = [{"id": "start", "data": {"type": "start"}}]
    for name in _STEPS:
        address = f"{url}/{{{{#sys.workflow_run_id#}}}}/{name}"
        data = {"type": "http-request", "title": name, "method": "post", "url": address}
        nodes.append({"id": name, "data": data})
    outputs = [{"variable": name, "value_selector": [name, "body"]} for name in _STEPS]
    nodes.append({"id": "end", "data": {"type": "end", "outputs": outputs}})
    edges = [{"source": source, "target": target} for source, target in pairwise(names)]
    app = {"name": "effects", "mode": "workflow"}
    graph = {"nodes": nodes, "edges": edges}
    return yaml.dump({"kind": "app", "app": app, "workflow": {"graph": graph}})


async def _install(database: str, home: str, url: str) -> None:
    """Store the workflow as an app."""
    async with Modelyard(Settings(home=home, database=database), environ={}) as yard:
        await yard.apps.add("default", _app_text(url))


def prove() -> Proof:
    """Disturb the owners of runs, and compare the effects with the records."""
    proof, effects = Proof(), Effects()
    threading.Thread(target=effects.serve_forever, daemon=True).start()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(effects.server_close)
        stack.callback(effects.shutdown)
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        asyncio.run(_install(postgres.url, str(folder / "home"), effects.url))
        workers = stack.enter_context(_running(postgres.url, folder, effects.url))
        runs = _disturb_owners(proof, workers, effects)
        for seconds in _OUTAGES:
            runs |= _take_the_database_away(workers, effects, postgres, seconds)
        asyncio.run(_judge(proof, postgres.url, folder, effects, runs))
    return proof


def _disturb_owners(
    proof: Proof, workers: Workers, effects: Effects
) -> dict[str, tuple[str, int]]:
    """Freeze, kill and stop owners; return each run with what happened to it and how many
    effects it may have."""
    workers.start("watch")
    workers.start("watch", ahead=_AHEAD_SECONDS)
    runs: dict[str, tuple[str, int]] = {}
    frozen, run = workers.start("start")
    runs[run] = (f"owner frozen for {_FROZEN_SECONDS:.0f} s", 5)
    killed, killed_run = workers.start("start")
    runs[killed_run] = ("owner killed", 5)
    stopped, stopped_run = workers.start("start")
    runs[stopped_run] = ("owner stopped by SIGTERM", 4)
    _, ahead_run = workers.start("start", ahead=_AHEAD_SECONDS)
    runs[ahead_run] = (f"owner's clock {_AHEAD_SECONDS:.0f} s ahead", 4)
    if os.geteuid() == 0 and shutil.which("unshare"):
        _, other_run = workers.start("start", prefix=_NAMESPACE)
        workers.start("watch", prefix=_NAMESPACE)
        runs[other_run] = ("one host name, process namespaces of their own", 4)
    else:
        proof.line("process namespaces", "not tried: this needs root and unshare")
    for each_run in (run, killed_run, stopped_run):
        effects.wait_for(each_run, "two")
    frozen.send_signal(signal.SIGSTOP)
    killed.kill()
    stopped.terminate()
    time.sleep(_FROZEN_SECONDS)
    frozen.send_signal(signal.SIGCONT)
    return runs


def _take_the_database_away(
    workers: Workers, effects: Effects, postgres: Postgres, seconds: float
) -> dict[str, tuple[str, int]]:
    """Stop the database while two servers execute runs."""
    runs = [workers.start("start")[1] for _ in range(2)]
    for run in runs:
        effects.wait_for(run, "two")
    postgres.kill()
    time.sleep(seconds)
    postgres.start()
    return dict.fromkeys(runs, (f"database away for {seconds:.0f} s", 5))


async def _judge(
    proof: Proof,
    database: str,
    folder: Path,
    effects: Effects,
    runs: dict[str, tuple[str, int]],
) -> None:
    """Compare each run's record with the effects that the server has seen."""
    settings = Settings(home=str(folder / "home"), database=database)
    figures = Counter[str]()
    async with Modelyard(settings, environ={}) as yard:
        for run, (label, max_effects) in runs.items():
            async with asyncio.timeout(_MAX_SECONDS):
                record = await yard.runs.wait_until_ended("default", run)
            events = await yard.runs.journal.events(run, 0)
            ends = sum(isinstance(event, FINAL_EVENTS) for _, event in events)
            seen = effects.of(run)
            problems = _problems(seen, record.outputs, ends, max_effects)
            figures["runs"] += 1
            figures["repeated"] += len(seen) - len(_STEPS)
            figures["anomalies"] += len(problems)
            proof.line(
                label,
                f"{len(seen)} effects, at most {max_effects}; {', '.join(problems) or 'right'}",
                not problems,
            )
    proof.figures |= figures


def _problems(
    seen: Sequence[dict[str, Any]], outputs: Any, ends: int, max_effects: int
) -> list[str]:
    """Return what is wrong with a run."""
    problems: list[str] = []
    keys: dict[str, set[str]] = defaultdict(set)
    for request in seen:
        keys[request["step"]].add(request["key"])
    if len(seen) > max_effects:
        steps = Counter(request["step"] for request in seen)
        problems.append(f"effects {dict(steps)}")
    if any(len(each_step) != 1 for each_step in keys.values()):
        problems.append("a step has several idempotency keys")
    if outputs != {name: name for name in _STEPS}:
        problems.append(f"outputs {json.dumps(outputs)[:80]}")
    if ends != 1:
        problems.append(f"{ends} ends")
    return problems


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:5], float(sys.argv[5])))  # type: ignore[misc]
