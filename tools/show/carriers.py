"""Runs carried by DBOS and by a Temporal server, executed by three `modelyard worker`
processes, while workers are killed, frozen and stopped, and the database and the Temporal
server are away.

A server outside counts the effects. A history checker compares it with each run's record:
a step may happen again only if its process was interrupted, under the same idempotency
key, and a run has one end. The contract of all carriers is a suite of tests, which is run
first.
"""

import asyncio
import base64
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import Settings, TemporalSettings, WorkflowSettings
from modelyard.workflow.engine import Status
from modelyard.workflow.events import GraphRunStarted
from modelyard.workflow.run_reader import FINAL_EVENTS
from modelyard.workflow.run_record import RunRecord
from modelyard.workflow.single_run import new_run_id
from tools.show.proof import ROOT, Proof, tests
from tools.show.servers import Postgres, Temporal

RUNS = int(os.environ.get("CARRIER_RUNS", "1000"))
"""Runs for each engine, begun while faults happen."""
_STEPS = {"one": 0.3, "two": 1.0, "three": 0.5}
"""The steps with an effect, and the seconds that each takes."""
_WORKERS = 3
_AT_ONCE = 20
"""Runs that a worker executes at once; all others wait in the engine."""
_STARTS_AT_ONCE = 10
_SHORT_FAULT_SECONDS = 5.0
_FROZEN_SECONDS = 22.0
_AWAY_SECONDS = 20.0
_MAX_SECONDS = 900.0
_MASTER_KEY = "k:" + base64.b64encode(bytes(range(32))).decode()


class _Effects(ThreadingHTTPServer):
    """Records each request as (run, step, idempotency key)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        """HOST:PORT of the server."""
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections: their client was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Record the request, and answer after the time that its step takes."""
        self.rfile.read(int(self.headers["content-length"] or 0))
        _, run, step = self.path.split("/")
        server: Any = self.server
        with server.lock:
            server.requests.append((run, step, self.headers["idempotency-key"]))
        time.sleep(_STEPS[step])
        self.send_response(200)
        self.send_header("content-length", str(len(step)))
        self.end_headers()
        self.wfile.write(step.encode())

    def log_message(self, *details: Any) -> None:
        """Suppress the access log."""


def _app_text(host: str) -> str:
    """Return the DSL of the workflow: the steps in a row."""
    nodes: list[dict[str, Any]] = [{"id": "start", "data": {"type": "start"}}]
    for name in _STEPS:
        url = f"http://{host}/{{{{#sys.workflow_run_id#}}}}/{name}"
        data = {"type": "http-request", "title": name, "method": "post", "url": url}
        nodes.append({"id": name, "data": data})
    outputs = [{"variable": name, "value_selector": [name, "body"]} for name in _STEPS]
    nodes.append({"id": "end", "data": {"type": "end", "outputs": outputs}})
    edges = [
        {"source": source["id"], "target": target["id"]}
        for source, target in itertools.pairwise(nodes)
    ]
    app = {"name": "effects", "mode": "workflow"}
    graph = {"nodes": nodes, "edges": edges}
    return yaml.safe_dump({"kind": "app", "app": app, "workflow": {"graph": graph}})


# ------------------------------------------------------------------------------ workers


@dataclass
class _World:
    """The servers, and what all processes have in common."""

    carrier: str
    folder: Path
    postgres: Postgres
    temporal: Temporal
    effects: _Effects

    def document(self) -> dict[str, Any]:
        """Return the settings file."""
        workflows = {
            "carrier": self.carrier,
            "at_once": _AT_ONCE,
            "temporal": {"address": self.temporal.address},
        }
        return {
            "database": self.postgres.url,
            "local": {"enabled": False},
            "egress": {"private": [self.effects.host]},
            "settings_source": "file",
            "grace_seconds": 5.0,
            "workflows": workflows,
        }

    def front(self) -> Settings:
        """Return the settings of a process that accepts runs and executes none."""
        workflows = WorkflowSettings(
            carrier=self.carrier,  # type: ignore[arg-type]
            execute=False,
            temporal=TemporalSettings(address=self.temporal.address),
        )
        return Settings(
            home=str(self.folder / "front"),
            database=self.postgres.url,
            master_key=_MASTER_KEY,
            workflows=workflows,
        )


class _Workers:
    """Three `modelyard worker` processes; who ends is replaced."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._numbers = itertools.count()
        self.processes = [self._started() for _ in range(_WORKERS)]

    def _started(self) -> "subprocess.Popen[bytes]":
        """Start a worker as an operator would: a settings file, and a command."""
        home = self._world.folder / f"worker-{next(self._numbers)}"
        home.mkdir()
        (home / "modelyard.yaml").write_text(yaml.safe_dump(self._world.document()))
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MODELYARD_")
        }
        environ |= {"MODELYARD_HOME": str(home), "MODELYARD_MASTER_KEY": _MASTER_KEY}
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "modelyard", "worker"],
                cwd=ROOT,
                env=environ | {"PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=log,
            )
        # Before that a signal ends a program that does not handle it yet.
        until = time.monotonic() + _MAX_SECONDS
        while "executes runs" not in (home / "log").read_text():
            assert process.poll() is None, (home / "log").read_text()[-4000:]
            assert time.monotonic() < until, "a worker did not start in time"
            time.sleep(0.1)
        return process

    def kill(self) -> None:
        """Kill a worker, and start another one."""
        index = random.randrange(_WORKERS)
        self.processes[index].kill()
        self.processes[index].wait(30)
        self.processes[index] = self._started()

    def stop(self) -> None:
        """Tell a worker to stop, and start another one. Its exit code must be 0."""
        index = random.randrange(_WORKERS)
        self.processes[index].send_signal(signal.SIGTERM)
        code = self.processes[index].wait(60)
        self.processes[index] = self._started()
        assert code == 0, f"a worker has ended with {code}"

    def freeze(self) -> None:
        """Stop a worker's processor for longer than a lease."""
        process = random.choice(self.processes)
        process.send_signal(signal.SIGSTOP)
        time.sleep(_FROZEN_SECONDS)
        process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill all workers."""
        for process in self.processes:
            process.kill()
            process.wait(30)


def _away(server: Postgres | Temporal) -> None:
    """Kill a server, and start it again after a while."""
    server.kill()
    time.sleep(_AWAY_SECONDS)
    server.start()


# ------------------------------------------------------------------------------ the proof


def prove(carriers: Sequence[str] = ("dbos", "temporal")) -> Proof:
    """Run the contract's tests, then runs with faults on each engine."""
    proof = Proof()
    summary, is_right = tests(
        "tests/contract/test_carried_runs.py",
        "tests/contract/test_carriers.py",
        "tests/contract/test_run_queue.py",
    )
    proof.line("the contract of all carriers", summary, is_right)
    for carrier in carriers:
        prove_engine(proof, carrier, RUNS)
    return proof


def prove_engine(
    proof: Proof, carrier: str, run_count: int, *, faults: Sequence[str] = ()
) -> None:
    """Execute runs on an engine while faults happen; all of them, if none are named."""
    effects = _Effects()
    threading.Thread(target=effects.serve_forever, daemon=True).start()
    with ExitStack() as stack:
        stack.callback(effects.server_close)
        stack.callback(effects.shutdown)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        temporal = Temporal(folder / "temporal")
        if carrier == "temporal":
            stack.enter_context(temporal)
        world = _World(carrier, folder, postgres, temporal, effects)
        workers = _Workers(world)
        stack.callback(workers.close)
        acts = _faults(world, workers, faults)
        records, resumed, ends = asyncio.run(_carry(world, run_count, acts))
        _judge(proof, carrier, effects, records, resumed, ends)


def _faults(
    world: _World, workers: _Workers, names: Sequence[str]
) -> list[Callable[[], None]]:
    """Return what is done to the processes, in this order."""
    acts: dict[str, Callable[[], None]] = {
        "kill": workers.kill,
        "stop": workers.stop,
        "freeze": workers.freeze,
        "database": lambda: _away(world.postgres),
    }
    if world.carrier == "temporal":
        acts["engine"] = lambda: _away(world.temporal)
    return [acts[name] for name in names or acts]


async def _carry(
    world: _World, run_count: int, faults: Sequence[Callable[[], None]]
) -> tuple[list[RunRecord], Counter[str], Counter[str]]:
    """Start runs, disturb them, and wait until all have ended. Returns their records, and
    by run how often it was resumed and how many ends it has."""
    async with Modelyard(world.front(), environ={}) as yard:
        yard.services.upkeep.start()
        # Nothing happens to these, so none of them may be taken over.
        calm = await _started(yard, world, run_count // 4, 0.0)
        for run in calm:
            await yard.runs.wait_until_ended("default", run)
        runs = calm + await _started(yard, world, run_count // 4, 0.0)
        disturbing = asyncio.create_task(asyncio.to_thread(_disturb, faults))
        # The other half is begun while processes and servers are gone.
        seconds = len(faults) * _SHORT_FAULT_SECONDS
        seconds += _AWAY_SECONDS * (len(faults) > 2) * (len(faults) - 2)
        runs += await _started(yard, world, run_count - len(runs), seconds)
        await disturbing
        records: list[RunRecord] = []
        resumed, ends = Counter[str](), Counter[str]()
        async with asyncio.timeout(_MAX_SECONDS):
            for run in runs:
                records.append(await yard.runs.wait_until_ended("default", run))
                for _, event in await yard.runs.journal.events(run, 0):
                    is_start = isinstance(event, GraphRunStarted)
                    resumed[run] += is_start
                    ends[run] += isinstance(event, FINAL_EVENTS)
                if run in calm and resumed[run] != 1:
                    ends["taken over without a reason"] += 1
        await yard.services.upkeep.stop()
        return records, resumed, ends


def _disturb(faults: Sequence[Callable[[], None]]) -> None:
    """Let the faults happen one after the other."""
    for act in faults:
        time.sleep(2.0)
        act()


async def _started(
    yard: Modelyard, world: _World, count: int, seconds: float
) -> list[str]:
    """Start runs within a time, several at once; return their ids."""
    app_record, app, _ = await yard.apps.add("default", _app_text(world.effects.host))
    chats = yard.services.workflows.chats
    places = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def start() -> str:
        """Start a run; try again while the database is away, as a client would."""
        await asyncio.sleep(random.uniform(0.0, seconds))
        async with places:
            # Who starts a run again under one id has one run.
            identity = new_run_id()
            while True:
                try:
                    record = await chats.run(
                        app_record, app, inputs={}, user="u", run_id=identity
                    )
                    return record.id
                except Exception:  # noqa: BLE001  whatever an outage leads to
                    await asyncio.sleep(1.0)

    return list(await asyncio.gather(*(start() for _ in range(count))))


def _judge(
    proof: Proof,
    carrier: str,
    effects: _Effects,
    records: Sequence[RunRecord],
    resumed: Counter[str],
    ends: Counter[str],
) -> None:
    """Compare each run's record with what the server outside has seen."""
    seen: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for run, step, key in effects.requests:
        seen[run].append((step, key))
    without_reason = "taken over without a reason"
    anomalies = Counter({without_reason: ends[without_reason]})
    for record in records:
        requests = seen[record.id]
        # Each takeover may repeat the step that was interrupted.
        repeats = len(requests) - len(_STEPS)
        anomalies["not succeeded"] += record.status is not Status.SUCCEEDED
        anomalies["outputs"] += record.outputs != {name: name for name in _STEPS}
        anomalies["ends"] += ends[record.id] != 1
        anomalies["effects"] += not 0 <= repeats <= max(0, resumed[record.id] - 1)
        anomalies["keys"] += len(set(requests)) != len(_STEPS)
    total = sum(len(requests) for requests in seen.values())
    repeated = total - len(records) * len(_STEPS)
    taken_over = sum(count > 1 for count in resumed.values())
    found = {name: count for name, count in anomalies.items() if count}
    proof.line(
        f"{carrier}: {len(records)} runs, {taken_over} of them taken over",
        f"{total} effects, {repeated} repeated under the same key;"
        f" anomalies: {found or 'none'}",
        not found,
    )
    proof.figures |= {
        f"{carrier}_runs": len(records),
        f"{carrier}_taken_over": taken_over,
        f"{carrier}_repeated": repeated,
        f"{carrier}_anomalies": sum(found.values()),
    }


if __name__ == "__main__":
    shown = Proof()
    prove_engine(shown, sys.argv[1], int(sys.argv[2]), faults=sys.argv[3:])
    print("\n".join(shown.table()), msgspec.json.encode(shown.figures).decode())
