"""What a node, a step and a run cost; beside graphon, the engine that the same files come from, in the same run."""

import asyncio
import gc
import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from tools.show.proof import ROOT, free_port

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, Settings
from modelyard.plugins.environment import Environments, choose, uv_path
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.dsl import App, AppMapping, loads
from modelyard.workflow.engine import Command, GraphEngine, Status, Step
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.single_run import new_run_id, pool_for, run

_MODEL = {"provider": "openai", "name": "m", "mode": "chat", "completion_params": {}}


def _document(nodes: dict[str, Any], edges: list[tuple[str, str]], mode: str = "workflow") -> str:
    start = {"type": "start", "variables": [{"variable": "q", "label": "q", "type": "text-input", "required": False}]}
    every = {"start": start, **nodes}
    graph = {
        "nodes": [
            {"id": name, "type": "custom", "position": {"x": place * 300, "y": 200}, "width": 244, "height": 54,
             "data": {"title": name, "desc": "", "selected": False, **data}}
            for place, (name, data) in enumerate(every.items())
        ],
        "edges": [
            {"id": f"{source}-{target}", "source": source, "target": target, "sourceHandle": "source", "targetHandle": "target",
             "type": "custom", "data": {"isInIteration": False}}
            for source, target in edges
        ],
    }  # fmt: skip
    app = {"name": "bench", "mode": mode, "icon": "x", "icon_background": "#fff", "description": ""}
    workflow = {"graph": graph, "features": {}, "environment_variables": [], "conversation_variables": []}
    return yaml.dump({"kind": "app", "version": "0.6.0", "app": app, "workflow": workflow}, sort_keys=False)


def _template(*selectors: list[str]) -> dict[str, Any]:
    chosen = [{"variable": f"v{place}", "value_selector": one} for place, one in enumerate(selectors)]
    return {"type": "template-transform", "template": "{{ v0 }} and more", "variables": chosen}


def _end(*selector: str) -> dict[str, Any]:
    return {"type": "end", "outputs": [{"variable": "r", "value_selector": list(selector), "value_type": "string"}]}


def files() -> dict[str, str]:
    chain: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    before, output = "start", "q"
    for place in range(100):
        chain[f"t{place}"] = _template([before, output])
        edges.append((before, f"t{place}"))
        before, output = f"t{place}", "output"
    chain["end"] = _end(before, output)
    edges.append((before, "end"))
    wide: dict[str, Any] = {f"t{place}": _template(["start", "q"]) for place in range(100)}
    wide["end"] = _end("t0", "output")
    across = [("start", f"t{place}") for place in range(100)] + [(f"t{place}", "end") for place in range(100)]
    ladder: dict[str, Any] = {}
    steps: list[tuple[str, str]] = []
    before = "start"
    for place in range(18):
        selector = [before, "q" if before == "start" else "output"]
        for side in "ab":
            ladder[f"{side}{place}"] = _template(selector)
            steps += [(before, f"{side}{place}"), (f"{side}{place}", f"j{place}")]
        ladder[f"j{place}"] = _template([f"a{place}", "output"])
        before = f"j{place}"
    ladder["end"] = _end(before, "output")
    steps.append((before, "end"))
    return {
        "chain": _document(chain, edges), "parallel": _document(wide, across), "diamonds": _document(ladder, steps)
    }  # fmt: skip


def _median(values: list[float]) -> float:
    return statistics.median(values)


async def _cpu(app: App, services: Services, times: int = 15) -> tuple[float, float]:
    """(ms of CPU, ms) of a run."""
    cpu, wall = [], []
    for turn in range(times + 2):
        gc.collect()
        began, spent = time.perf_counter(), time.process_time()
        outcome = await run(app, services=services, inputs={"q": "hi"})
        if turn >= 2:
            cpu.append((time.process_time() - spent) * 1000)
            wall.append((time.perf_counter() - began) * 1000)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    return _median(cpu), _median(wall)


def _load(text: str, times: int = 9) -> float:
    seen: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        loads(text).graph()
        seen.append((time.perf_counter() - began) * 1000)
    return _median(seen)


@asynccontextmanager
async def _slow_server(seconds: float) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", free_port())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _http(yard: Modelyard, port: int) -> float:
    nodes: dict[str, Any] = {
        f"h{place}": {"type": "http-request", "method": "get", "url": f"http://127.0.0.1:{port}/{place}"}
        for place in range(20)
    }
    nodes["end"] = _end("h0", "body")
    edges = [("start", f"h{place}") for place in range(20)] + [(f"h{place}", "end") for place in range(20)]
    app = loads(_document(nodes, edges))
    seen: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        outcome = await run(app, services=yard.services.workflows.services(app), inputs={})
        seen.append(time.perf_counter() - began)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    return _median(seen)


async def _code(yard: Modelyard, language: str, code: str) -> tuple[float, float]:
    node = {"type": "code", "code_language": language, "code": code, "variables": [{"variable": "a", "value_selector": ["start", "q"]}],
            "outputs": {"r": {"type": "string"}}}  # fmt: skip
    app = loads(_document({"c": node, "end": _end("c", "r")}, [("start", "c"), ("c", "end")]))
    services = yard.services.workflows.services(app)
    seen: list[float] = []
    for _ in range(60):
        began = time.perf_counter()
        outcome = await run(app, services=services, inputs={"q": "hi"})
        seen.append((time.perf_counter() - began) * 1000)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    seen = sorted(seen[10:])
    return _median(seen), seen[int(len(seen) * 0.95)]


def _talking() -> App:
    llm = {"type": "llm", "model": _MODEL, "prompt_template": [{"role": "user", "text": "talk"}]}
    text = _document(
        {"llm": llm, "answer": {"type": "answer", "answer": "{{#llm.text#}}"}}, [("start", "llm"), ("llm", "answer")],
        mode="advanced-chat",
    )  # fmt: skip
    return loads(text, mapping=AppMapping(models={"*": "scripted/model"}))


async def _stop(yard: Modelyard) -> float:
    """Ms from the command to the end, while a model talks; the worst of ten."""
    app = _talking()
    worst = 0.0
    for _ in range(10):
        chunks = asyncio.Event()

        def emit(event: Any, chunks: asyncio.Event = chunks) -> None:
            if type(event).__name__ == "NodeRunStreamChunk":
                chunks.set()

        context = RunContext(run_id="r", services=yard.services.workflows.services(app), now=time.time)
        engine = GraphEngine(app.graph(), pool_for(app, "", {}, {"query": "x", "files": []}), context, emit)
        task = asyncio.ensure_future(engine.execute())
        await chunks.wait()
        began = time.perf_counter()
        engine.command(Command.STOP)
        outcome = await task
        worst = max(worst, (time.perf_counter() - began) * 1000)
        assert outcome.status is Status.STOPPED
    return worst


async def _steps(yard: Modelyard, writers: int = 20, each: int = 150) -> float:
    """Durable steps a second: each is safe before the next begins."""
    journal = yard.runs.journal
    records = [
        RunRecord(tenant="default", id=new_run_id(), app="bench", created_at=time.time()) for _ in range(writers)
    ]
    for one in records:
        await journal.create(one)

    async def write(record: RunRecord) -> None:
        for place in range(each):
            step = Step(key=f"n{place}", node_id=f"n{place}", outputs={"text": "x" * 200})
            await journal.append(record, [(place + 1, step)], [])

    began = time.perf_counter()
    await asyncio.gather(*(write(one) for one in records))
    return writers * each / (time.perf_counter() - began)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _idle(yard: Modelyard, model: ScriptedModel, count: int = 500) -> float:
    """Kilobytes of a run that waits for its model."""
    app = _talking()
    model.answers[:], model.delay = [("talk", "later")], 60.0
    services = yard.services.workflows.services(app)

    async def begin() -> asyncio.Task[Any]:
        context = RunContext(run_id=new_run_id(), services=services, now=time.time)
        pool = pool_for(app, "", {}, {"query": "x", "files": []})
        return asyncio.ensure_future(GraphEngine(app.graph(), pool, context, lambda event: None).execute())

    warm = [await begin() for _ in range(50)]
    await asyncio.sleep(0.2)
    gc.collect()
    before = _rss()
    tasks = [await begin() for _ in range(count)]
    await asyncio.sleep(1.0)
    gc.collect()
    taken = (_rss() - before) / count / 1024
    for task in [*warm, *tasks]:
        task.cancel()
    await asyncio.gather(*warm, *tasks, return_exceptions=True)
    return taken


def graphon(texts: dict[str, str]) -> dict[str, Any] | str:
    """The peer's figures; why there are none, where it cannot be had."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = asyncio.run(Environments(folder / "none", os.environ).pythons())
        python = choose(found, ">=3.12")
        if python is None:
            return "needs Python 3.12, which is not here"
        target = folder / "env"
        locked = str(ROOT / "requirements" / "clients" / "graphon.txt")
        subprocess.run([uv_path(), "venv", "-q", "-p", str(python.path), str(target)], check=True)
        command = [
            uv_path(),
            "pip",
            "install",
            "-q",
            "-p",
            str(target / "bin" / "python"),
            "--require-hashes",
            "-r",
            locked,
        ]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            return f"cannot be installed: {installed.stderr[-200:]}"
        paths = []
        for one, text in texts.items():
            (folder / f"{one}.yml").write_text(text, "utf-8")
            paths.append(str(folder / f"{one}.yml"))
        script = str(ROOT / "bench" / "graphon_peer.py")
        done = subprocess.run(
            [str(target / "bin" / "python"), script, *paths], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"broke: {done.stderr[-300:]}"
        size = sum(one.stat().st_size for one in target.rglob("*") if one.is_file()) >> 20
        return {**json.loads(done.stdout.splitlines()[-1]), "megabytes": size}


async def _ours(texts: dict[str, str]) -> dict[str, Any]:
    model = ScriptedModel(answers=[("talk", "word " * 100_000)], delay=0.02)
    definition, builder = scripted_models(model)
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        async with _slow_server(0.5) as port:
            settings = Settings(home=home, egress=EgressSettings(private=[f"127.0.0.1:{port}"]))
            async with Modelyard(
                settings, definitions=[definition], builders={"scripted": builder}, environ={}
            ) as yard:
                for name, text in texts.items():
                    app = loads(text)
                    seen[f"{name}_cpu_ms"], seen[f"{name}_ms"] = await _cpu(app, yard.services.workflows.services(app))
                seen["load_ms"] = _load(texts["chain"])
                seen["http_s"] = await _http(yard, port)
                for language, code in (
                    ("python3", "def main(a):\n    return {'r': a}"), ("javascript", "function main({a}) { return {r: a} }"),
                ):  # fmt: skip
                    seen[f"{language}_ms"], seen[f"{language}_p95_ms"] = await _code(yard, language, code)
                seen["stop_ms"] = await _stop(yard)
                seen["steps_s"] = await _steps(yard)
                seen["idle_kb"] = await _idle(yard, model)
    return seen


def measure() -> dict[str, Any]:
    texts = files()
    seen = asyncio.run(_ours(texts))
    return {**{name: round(value, 2) for name, value in seen.items()}, "graphon": graphon(texts)}
