"""500 times kill -9 of a worker in the middle of runs. A server outside counts what the runs did to it.

The worker runs one workflow after the other: four requests that change something, one of them in a loop of three, with
templates and a condition between. It is killed at any moment; the next one takes up what it left.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, Settings
from modelyard.workflow.dsl import loads
from modelyard.workflow.engine import Status
from tools.show.proof import Proof

KILLS = int(os.environ.get("RUN_KILLS", "500"))
STEPS = ("one", "two", "three", "each[0]/inner", "each[1]/inner", "each[2]/inner", "last")
"""Those with effects."""


def app_text(url: str) -> str:
    def post(name: str, more: str = "") -> dict[str, Any]:
        body = {"type": "json", "data": [{"type": "text", "value": '{"step": "' + name + more + '"}'}]}
        return {
            "type": "http-request",
            "title": name,
            "method": "post",
            "url": url + "/{{#sys.workflow_run_id#}}",
            "body": body,
        }

    nodes: dict[str, Any] = {
        "start": {"type": "start", "variables": [{"variable": "n", "type": "number"}]},
        "one": post("one"),
        "text": {"type": "template-transform", "template": "{{ b }}", "variables": [{"variable": "b", "value_selector": ["one", "body"]}]},
        "two": post("two"),
        "if": {"type": "if-else", "cases": [{"case_id": "yes", "logical_operator": "and", "conditions": [
            {"variable_selector": ["two", "status_code"], "comparison_operator": "=", "value": "200"}]}]},
        "three": post("three"),
        "list": {"type": "parameter-list", "title": "list"},
        "each": {"type": "iteration", "iterator_selector": ["start", "items"], "output_selector": ["inner", "body"], "start_node_id": "inner"},
        "inner": {**post("inner", "{{#each.index#}}"), "iteration_id": "each"},
        "last": post("last"),
        "end": {"type": "end", "outputs": [
            {"variable": name, "value_selector": [name, "body"]} for name in ("one", "two", "three", "last")
        ] + [{"variable": "text", "value_selector": ["text", "output"]}, {"variable": "each", "value_selector": ["each", "output"]}]},
    }  # fmt: skip
    del nodes["list"]
    nodes["start"]["variables"].append({"variable": "items", "type": "array"})
    edges = [("start", "one"), ("one", "text"), ("text", "two"), ("two", "if"), ("if", "three", "yes"), ("three", "each"),
             ("each", "last"), ("last", "end")]  # fmt: skip
    graph = {
        "nodes": [{"id": name, "data": data, **({"parentId": "each"} if name == "inner" else {})} for name, data in nodes.items()],
        "edges": [{"source": one[0], "target": one[1], "sourceHandle": one[2] if len(one) > 2 else "source"} for one in edges],
    }  # fmt: skip
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": "effects", "mode": "workflow"},
            "workflow": {"graph": graph},
        }
    )


class Effects(ThreadingHTTPServer):
    """Counts what is done to it, in which life of the worker."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.life = 0
        self.done: list[tuple[int, str, str, str]] = []
        """(life, run, step, key)."""
        self.lock = threading.Lock()

    def hold(self, number: int) -> None:
        """Is asked before each answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked was killed."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server: Any = self.server
        with server.lock:
            server.done.append((server.life, self.path[1:], body["step"], self.headers["idempotency-key"]))
            number = len(server.done)
        server.hold(number)
        answer = f"{body['step']}#{number}".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *details: Any) -> None: ...


async def work(home: str, url: str, told: int, *, until_done: bool) -> None:
    """Take up what was left, then run one after the other."""
    host = url.removeprefix("http://")
    settings = Settings(home=home, egress=EgressSettings(private=[host]))
    async with Modelyard(settings, environ={}) as yard:
        await yard.runs.recover()
        if until_done:
            while yard.runs.count:
                await asyncio.sleep(0.01)
            return
        found = yard.apps.find("default", "effects")
        app = await yard.apps.app(found)
        while True:
            while yard.runs.count:
                await asyncio.sleep(0.001)
            run = await yard.services.workflows.chats.run(
                found, app, inputs={"n": 1, "items": ["a", "b", "c"]}, user="u"
            )
            os.write(told, f"{run.id}\n".encode())


def child(home: str, url: str, told: int, *, until_done: bool = False) -> int:
    return forked(lambda: work(home, url, told, until_done=until_done))


def forked(make: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Work in a process of its own; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(make())
        except BaseException as error:  # noqa: BLE001  said, and gone
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return pid


def prove() -> Proof:
    proof = Proof()
    effects = Effects()
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_install(home, effects.url))
        reading, told = os.pipe()
        began = time.monotonic()
        random.seed(7)
        ended_early = 0
        # Serve from a thread only once the children are forked off a quiet process: a fork copies one thread alone.
        threading.Thread(target=effects.serve_forever, daemon=True).start()
        for life in range(KILLS):
            effects.life = life
            pid = child(home, effects.url, told)
            time.sleep(random.uniform(0.1, 0.45))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            ended_early += not os.WIFSIGNALED(status)
        effects.life = KILLS
        pid = child(home, effects.url, told, until_done=True)
        _, status = os.waitpid(pid, 0)
        os.close(told)
        with os.fdopen(reading) as lines:
            started = lines.read().split()
        proof.figures |= {"kills": KILLS, "seconds": round(time.monotonic() - began, 1)}
        proof.line("workers killed", f"{KILLS}, {ended_early} had ended by themselves", ended_early == 0)
        asyncio.run(_judge(proof, home, effects, started))
    effects.shutdown()
    return proof


async def _install(home: str, url: str) -> None:
    loads(app_text(url))
    async with Modelyard(Settings(home=home), environ={}) as yard:
        await yard.apps.add("default", app_text(url))


async def _judge(proof: Proof, home: str, effects: Effects, started: list[str]) -> None:
    async with Modelyard(Settings(home=home), environ={}) as yard:
        rows = await yard.services.storage.database.fetch("SELECT id, status FROM runs")
        status = {row["id"]: row["status"] for row in rows}
        lost = [one for one in started if status.get(one) != Status.SUCCEEDED.value]
        unfinished = [one for one, said in status.items() if said != Status.SUCCEEDED.value]
        proof.line("runs", f"{len(status)} begun, {len(started)} told to their caller")
        proof.line("  lost, or not ended well", len(lost) + len(unfinished), not lost and not unfinished)
        by_step: dict[tuple[str, str], list[int]] = defaultdict(list)
        keys: dict[tuple[str, str], set[str]] = defaultdict(set)
        for life, run, step, key in effects.done:
            by_step[run, step].append(life)
            keys[run, step].add(key)
        names = {"inner0", "inner1", "inner2", "one", "two", "three", "last"}
        missing = [(run, name) for run in status for name in names if (run, name) not in by_step]
        repeats = {step: lives for step, lives in by_step.items() if len(lives) > 1}
        per_kill = Counter(life for lives in repeats.values() for life in sorted(lives)[1:])
        most = max(per_kill.values(), default=0)
        proof.line("effects", f"{len(effects.done)} of {len(by_step)} steps; {len(missing)} missing", not missing)
        proof.line("  repeated", f"{sum(per_kill.values())} in all, at most {most} a kill", most <= 1)
        several = [step for step, found in keys.items() if len(found) > 1]
        proof.line("  with another key when repeated", len(several), not several)
        wrong = doubled = 0
        for run in status:
            record = await yard.runs.find("default", run)
            history = await yard.runs.journal.history(record)
            keys_seen = [one.key for one in history.steps]
            doubled += len(keys_seen) - len(set(keys_seen))
            kept = {one.key: one.outputs.get("body") for one in history.steps}
            for name in ("one", "two", "three", "last"):
                wrong += record.outputs.get(name) != kept.get(name)
            wrong += record.outputs.get("text") != kept.get("one")
            wrong += record.outputs.get("each") != [kept.get(f"each[{n}]/inner") for n in range(3)]
            events = await yard.runs.journal.events(run, 0, 10_000)
            done = Counter(event.id for _, event in events if type(event).__name__ == "NodeRunSucceeded")  # type: ignore[union-attr]
            doubled += sum(count - 1 for count in done.values())
            doubled += sum(type(event).__name__ == "GraphRunSucceeded" for _, event in events) != 1
        proof.line("steps whose record is not what came of them", wrong, wrong == 0)
        proof.line("steps, or ends, that were recorded twice", doubled, doubled == 0)
        proof.figures |= {
            "runs": len(status), "lost": len(lost) + len(unfinished), "effects": len(effects.done),
            "repeated": sum(per_kill.values()), "most_a_kill": most, "wrong": wrong, "doubled": doubled,
        }  # fmt: skip
