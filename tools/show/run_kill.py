"""Kill a workflow worker with SIGKILL 500 times in the middle of runs, while an outside
server counts the effects of the runs.

The worker runs one workflow after the other: requests with effects, one of them in a
loop of three, with templates and a condition between them. It is killed at random
moments; the next worker recovers the runs.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, Settings
from modelyard.workflow.dsl import loads
from modelyard.workflow.engine import Status
from tools.show.proof import Proof

KILLS = int(os.environ.get("RUN_KILLS", "500"))
STEPS = (
    "one",
    "two",
    "three",
    "each[0]/inner",
    "each[1]/inner",
    "each[2]/inner",
    "last",
)
"""Keys of the steps that have an effect outside."""


def app_text(url: str) -> str:
    """Return the DSL of the test workflow, which sends its requests to `url`."""
    graph = {
        "nodes": [
            {
                "id": name,
                "data": data,
                **({"parentId": "each"} if name == "inner" else {}),
            }
            for name, data in _nodes(url).items()
        ],
        "edges": [
            {"source": source, "target": target, "sourceHandle": handle}
            for source, target, handle in _EDGES
        ],
    }
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "effects", "mode": "workflow"},
            "workflow": {"graph": graph},
        }
    )


_EDGES = (
    ("start", "one", "source"),
    ("one", "text", "source"),
    ("text", "two", "source"),
    ("two", "if", "source"),
    ("if", "three", "yes"),
    ("three", "each", "source"),
    ("each", "last", "source"),
    ("last", "end", "source"),
)
"""(source, target, source handle) of each edge of the test workflow."""


def _nodes(url: str) -> dict[str, Any]:
    """Return the nodes of the test workflow by their ids."""
    return {
        "start": {
            "type": "start",
            "variables": [
                {"variable": "n", "type": "number"},
                {"variable": "items", "type": "array"},
            ],
        },
        "one": _post_node(url, "one"),
        # Uses the response of the step before, so a wrong recorded output is visible in
        # the run's result.
        "text": {
            "type": "template-transform",
            "template": "{{ b }}",
            "variables": [{"variable": "b", "value_selector": ["one", "body"]}],
        },
        "two": _post_node(url, "two"),
        "if": _condition_node(),
        "three": _post_node(url, "three"),
        # A loop of three iterations with one effect in each.
        "each": {
            "type": "iteration",
            "iterator_selector": ["start", "items"],
            "output_selector": ["inner", "body"],
            "start_node_id": "inner",
        },
        "inner": {
            **_post_node(url, "inner", "{{#each.index#}}"),
            "iteration_id": "each",
        },
        "last": _post_node(url, "last"),
        "end": _end_node(),
    }


def _post_node(url: str, name: str, suffix: str = "") -> dict[str, Any]:
    """Return an HTTP request node that reports its step's name to the counting
    server."""
    body = {
        "type": "json",
        "data": [{"type": "text", "value": '{"step": "' + name + suffix + '"}'}],
    }
    return {
        "type": "http-request",
        "title": name,
        "method": "post",
        "url": url + "/{{#sys.workflow_run_id#}}",
        "body": body,
    }


def _condition_node() -> dict[str, Any]:
    """Return the node that continues if the second request succeeded."""
    condition = {
        "variable_selector": ["two", "status_code"],
        "comparison_operator": "=",
        "value": "200",
    }
    case = {"case_id": "yes", "logical_operator": "and", "conditions": [condition]}
    return {"type": "if-else", "cases": [case]}


def _end_node() -> dict[str, Any]:
    """Return the node that outputs the result of each step."""
    bodies = [
        {"variable": name, "value_selector": [name, "body"]} for name in _OUTPUT_STEPS
    ]
    return {
        "type": "end",
        "outputs": [
            *bodies,
            {"variable": "text", "value_selector": ["text", "output"]},
            {"variable": "each", "value_selector": ["each", "output"]},
        ],
    }


_OUTPUT_STEPS = ("one", "two", "three", "last")
"""Steps whose response body is an output of the run."""


class Effects(ThreadingHTTPServer):
    """An HTTP server that records every request with the worker life in which it
    arrived."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.life = 0
        self.done: list[tuple[int, str, str, str]] = []
        """(worker life, run id, step, idempotency key) of each request."""
        self.lock = threading.Lock()

    def hold(self, number: int) -> None:
        """Called before each response is sent; subclasses may delay it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections: their client was killed."""

    @property
    def url(self) -> str:
        """The address of this server."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Record the request and respond with the step and a serial number."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server: Any = self.server
        # Record before responding, so that an effect counts even if the worker is
        # killed before it reads the response.
        with server.lock:
            server.done.append(
                (
                    server.life,
                    self.path[1:],
                    body["step"],
                    self.headers["idempotency-key"],
                )
            )
            number = len(server.done)
        server.hold(number)
        answer = f"{body['step']}#{number}".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *details: Any) -> None:
        """Suppress the access log."""
        ...


async def run_worker(home: str, url: str, write_fd: int, *, recover_only: bool) -> None:
    """Recover interrupted runs, then start one run after the other.

    Writes the id of each started run to the descriptor `write_fd`. With `until_done` it
    returns once the recovered runs end.
    """
    host = url.removeprefix("http://")
    settings = Settings(home=home, egress=EgressSettings(private=[host]))
    async with Modelyard(settings, environ={}) as yard:
        await yard.runs.recover()
        if recover_only:
            while yard.runs.count:
                await asyncio.sleep(0.01)
            return
        app_record = yard.apps.get_by_id_or_name("default", "effects")
        app = await yard.apps.published_app(app_record)
        while True:
            while yard.runs.count:
                await asyncio.sleep(0.001)
            run = await yard.services.workflows.chats.run(
                app_record, app, inputs={"n": 1, "items": ["a", "b", "c"]}, user="u"
            )
            os.write(write_fd, f"{run.id}\n".encode())


def fork_worker(
    home: str, url: str, write_fd: int, *, recover_only: bool = False
) -> int:
    """Fork a worker process and return its id."""
    return run_forked(
        lambda: run_worker(home, url, write_fd, recover_only=recover_only)
    )


def run_forked(make: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a coroutine in a forked process and return the process id."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(make())
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return pid


def prove() -> Proof:
    """Kill workers repeatedly, let a last one finish, and check every run."""
    proof = Proof()
    effects = Effects()
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_install(home, effects.url))
        reading, write_fd = os.pipe()
        started_at = time.monotonic()
        random.seed(7)
        ended_early = 0
        # Serve from a thread only now. A fork copies just the calling thread, so the
        # process should have no other threads that hold locks.
        threading.Thread(target=effects.serve_forever, daemon=True).start()
        for life in range(KILLS):
            effects.life = life
            pid = fork_worker(home, effects.url, write_fd)
            # The length of a worker's life is random, so kills hit every phase of a
            # run.
            time.sleep(random.uniform(0.1, 0.45))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            ended_early += not os.WIFSIGNALED(status)
        # The last worker is not killed: it finishes everything that was interrupted.
        effects.life = KILLS
        pid = fork_worker(home, effects.url, write_fd, recover_only=True)
        _, status = os.waitpid(pid, 0)
        os.close(write_fd)
        with os.fdopen(reading) as lines:
            started = lines.read().split()
        proof.figures |= {
            "kills": KILLS,
            "seconds": round(time.monotonic() - started_at, 1),
        }
        proof.line(
            "workers killed",
            f"{KILLS}, {ended_early} had exited before the kill",
            ended_early == 0,
        )
        asyncio.run(_judge(proof, home, effects, started))
    effects.shutdown()
    effects.server_close()
    return proof


async def _install(home: str, url: str) -> None:
    """Validate the workflow and store it as an app."""
    loads(app_text(url))
    async with Modelyard(Settings(home=home), environ={}) as yard:
        await yard.apps.add("default", app_text(url))


async def _judge(proof: Proof, home: str, effects: Effects, started: list[str]) -> None:
    """Check the stored runs, their recorded steps and events against the effects that
    the server counted."""
    async with Modelyard(Settings(home=home), environ={}) as yard:
        run_ids = await report_runs(proof, yard, "runs", started)
        _report_effects(proof, effects, run_ids)
        await _report_records(proof, yard, run_ids)


async def report_runs(
    proof: Proof, yard: Modelyard, label: str, started: list[str]
) -> list[str]:
    """Report how many stored runs are lost or did not succeed. Returns the ids of all
    stored runs; `started` has the ids that the workers reported."""
    rows = await yard.services.storage.database.fetch("SELECT id, status FROM runs")
    status = {row["id"]: row["status"] for row in rows}
    succeeded = {
        run_id
        for run_id, run_status in status.items()
        if run_status == Status.SUCCEEDED.value
    }
    lost = [run_id for run_id in started if run_id not in succeeded]
    failed_count = len(lost) + len(status) - len(succeeded)
    proof.line(label, f"{len(status)} stored, {len(started)} reported by their worker")
    proof.line("  lost, or did not succeed", failed_count, failed_count == 0)
    proof.figures |= {"runs": len(status), "lost": failed_count}
    return list(status)


def _report_effects(proof: Proof, effects: Effects, run_ids: list[str]) -> None:
    """Report steps without an effect, and repeated effects per kill."""
    lives_by_step: dict[tuple[str, str], list[int]] = defaultdict(list)
    keys_by_step: dict[tuple[str, str], set[str]] = defaultdict(set)
    for life, run, step, key in effects.done:
        lives_by_step[run, step].append(life)
        keys_by_step[run, step].add(key)
    expected_steps = itertools.product(run_ids, _EFFECT_NAMES)
    missing = [step for step in expected_steps if step not in lives_by_step]
    proof.line(
        "effects",
        f"{len(effects.done)} of {len(lives_by_step)} steps; {len(missing)} missing",
        not missing,
    )
    # A step may be repeated if the worker was killed between its effect and its
    # record; count that per kill.
    per_kill = Counter(
        life for lives in lives_by_step.values() for life in sorted(lives)[1:]
    )
    repeated = sum(per_kill.values())
    max_per_kill = max(per_kill.values(), default=0)
    proof.line(
        "  repeated",
        f"{repeated} in total, at most {max_per_kill} per kill",
        max_per_kill <= 1,
    )
    # A repeated request has to carry the same idempotency key, so that a real server
    # could ignore it.
    changed_keys = [step for step, keys in keys_by_step.items() if len(keys) > 1]
    proof.line(
        "  repeated with another idempotency key", len(changed_keys), not changed_keys
    )
    proof.figures |= {
        "effects": len(effects.done),
        "repeated": repeated,
        "most_a_kill": max_per_kill,
    }


_EFFECT_NAMES = ("inner0", "inner1", "inner2", "one", "two", "three", "last")
"""Names of the steps as the counting server records them."""


async def _report_records(proof: Proof, yard: Modelyard, run_ids: list[str]) -> None:
    """Report recorded outputs that differ from the run's result, and steps and ends
    that were recorded twice."""
    mismatches = doubled = 0
    for run in run_ids:
        record = await yard.runs.find("default", run)
        history = await yard.runs.journal.history(record)
        mismatches += _count_mismatches(record.outputs, history.steps)
        recorded_keys = [recorded_step.key for recorded_step in history.steps]
        doubled += len(recorded_keys) - len(set(recorded_keys))
        events = await yard.runs.journal.events(run, 0, 10_000)
        doubled += _count_doubled_ends([event for _, event in events])
    proof.line(
        "recorded steps that differ from the run's result", mismatches, mismatches == 0
    )
    proof.line("steps or ends recorded twice", doubled, doubled == 0)
    proof.figures |= {"wrong": mismatches, "doubled": doubled}


def _count_mismatches(outputs: Mapping[str, Any], steps: Iterable[Any]) -> int:
    """Return how many outputs of a run differ from the recorded bodies of its steps."""
    body_by_step = {step.key: step.outputs.get("body") for step in steps}
    expected = {name: body_by_step.get(name) for name in _OUTPUT_STEPS}
    expected["text"] = body_by_step.get("one")
    expected["each"] = [body_by_step.get(f"each[{index}]/inner") for index in range(3)]
    return sum(outputs.get(name) != value for name, value in expected.items())


def _count_doubled_ends(events: Sequence[Any]) -> int:
    """Return how often the end of a step is recorded again, plus 1 unless exactly one
    end of the run is recorded."""
    by_type = defaultdict[str, list[Any]](list)
    for event in events:
        by_type[type(event).__name__].append(event)
    ends_by_step = Counter(event.id for event in by_type["NodeRunSucceeded"])
    doubled = sum(count - 1 for count in ends_by_step.values())
    return doubled + (len(by_type["GraphRunSucceeded"]) != 1)
