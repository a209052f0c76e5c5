"""Cost of a workflow node, a step and a run, compared with graphon on the same app
files in the same run.

graphon is the engine that these files come from.
"""

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


def _document(
    nodes: dict[str, Any], edges: list[tuple[str, str]], mode: str = "workflow"
) -> str:
    """Return the YAML document of an app with the nodes, a start node and the edges."""
    start = {
        "type": "start",
        "variables": [
            {"variable": "q", "label": "q", "type": "text-input", "required": False}
        ],
    }
    all_nodes = {"start": start, **nodes}
    graph = {
        "nodes": [
            # Both engines have to load the file, so it has the editor's layout fields
            # too.
            {
                "id": name,
                "type": "custom",
                "position": {"x": index * 300, "y": 200},
                "width": 244,
                "height": 54,
                "data": {"title": name, "desc": "", "selected": False, **data},
            }
            for index, (name, data) in enumerate(all_nodes.items())
        ],
        "edges": [
            {
                "id": f"{source}-{target}",
                "source": source,
                "target": target,
                "sourceHandle": "source",
                "targetHandle": "target",
                "type": "custom",
                "data": {"isInIteration": False},
            }
            for source, target in edges
        ],
    }
    app = {
        "name": "bench",
        "mode": mode,
        "icon": "x",
        "icon_background": "#fff",
        "description": "",
    }
    workflow = {
        "graph": graph,
        "features": {},
        "environment_variables": [],
        "conversation_variables": [],
    }
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "workflow": workflow},
        sort_keys=False,
    )


def _template(*selectors: list[str]) -> dict[str, Any]:
    """Return a template node that reads the selectors and renders the first of them."""
    variables = [
        {"variable": f"v{index}", "value_selector": selector}
        for index, selector in enumerate(selectors)
    ]
    return {
        "type": "template-transform",
        "template": "{{ v0 }} and more",
        "variables": variables,
    }


def _end(*selector: str) -> dict[str, Any]:
    """Return an end node with one output."""
    return {
        "type": "end",
        "outputs": [
            {"variable": "r", "value_selector": list(selector), "value_type": "string"}
        ],
    }


def files() -> dict[str, str]:
    """Return three app documents of about 100 template nodes: a chain, a wide fan-out,
    and a ladder of diamonds."""
    chain: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    previous, output = "start", "q"
    # Chain: each node reads the output of the previous one.
    for index in range(100):
        chain[f"t{index}"] = _template([previous, output])
        edges.append((previous, f"t{index}"))
        previous, output = f"t{index}", "output"
    chain["end"] = _end(previous, output)
    edges.append((previous, "end"))
    # Parallel: all nodes start at once and meet in the end node.
    wide: dict[str, Any] = {
        f"t{index}": _template(["start", "q"]) for index in range(100)
    }
    wide["end"] = _end("t0", "output")
    wide_edges = [("start", f"t{index}") for index in range(100)] + [
        (f"t{index}", "end") for index in range(100)
    ]
    # Diamonds: each of 18 levels splits into two branches and joins again, so that the
    # number of paths doubles per level.
    ladder: dict[str, Any] = {}
    steps: list[tuple[str, str]] = []
    previous = "start"
    for index in range(18):
        selector = [previous, "q" if previous == "start" else "output"]
        for side in "ab":
            ladder[f"{side}{index}"] = _template(selector)
            steps += [(previous, f"{side}{index}"), (f"{side}{index}", f"j{index}")]
        ladder[f"j{index}"] = _template([f"a{index}", "output"])
        previous = f"j{index}"
    ladder["end"] = _end(previous, "output")
    steps.append((previous, "end"))
    return {
        "chain": _document(chain, edges),
        "parallel": _document(wide, wide_edges),
        "diamonds": _document(ladder, steps),
    }


def _median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


async def _cpu(app: App, services: Services, times: int = 15) -> tuple[float, float]:
    """Return the medians (ms of CPU, ms of wall time) of a run."""
    cpu, wall = [], []
    # The first two rounds are warm-up.
    for round_index in range(times + 2):
        gc.collect()
        started_at, spent = time.perf_counter(), time.process_time()
        outcome = await run(app, services=services, inputs={"q": "hi"})
        if round_index >= 2:
            cpu.append((time.process_time() - spent) * 1000)
            wall.append((time.perf_counter() - started_at) * 1000)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    return _median(cpu), _median(wall)


def _load(text: str, times: int = 9) -> float:
    """Return the median milliseconds to parse a document and build its graph."""
    durations: list[float] = []
    for _ in range(times):
        started_at = time.perf_counter()
        loads(text).graph()
        durations.append((time.perf_counter() - started_at) * 1000)
    return _median(durations)


@asynccontextmanager
async def _slow_server(seconds: float) -> Any:
    """Serve HTTP on a free port, with a delay before each response; yield the port."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request after the delay and close the connection."""
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", free_port())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _http(yard: Modelyard, port: int) -> float:
    """Return the median seconds of a run with 20 parallel HTTP nodes.

    If they run in parallel, this is about the delay of a single request.
    """
    nodes: dict[str, Any] = {
        f"h{index}": {
            "type": "http-request",
            "method": "get",
            "url": f"http://127.0.0.1:{port}/{index}",
        }
        for index in range(20)
    }
    nodes["end"] = _end("h0", "body")
    edges = [("start", f"h{index}") for index in range(20)] + [
        (f"h{index}", "end") for index in range(20)
    ]
    app = loads(_document(nodes, edges))
    durations: list[float] = []
    for _ in range(3):
        started_at = time.perf_counter()
        outcome = await run(
            app, services=yard.services.workflows.services(app), inputs={}
        )
        durations.append(time.perf_counter() - started_at)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    return _median(durations)


async def _code(yard: Modelyard, language: str, code: str) -> tuple[float, float]:
    """Return the median and the 95th percentile in ms of a run with one code node."""
    node = {
        "type": "code",
        "code_language": language,
        "code": code,
        "variables": [{"variable": "a", "value_selector": ["start", "q"]}],
        "outputs": {"r": {"type": "string"}},
    }
    app = loads(
        _document({"c": node, "end": _end("c", "r")}, [("start", "c"), ("c", "end")])
    )
    services = yard.services.workflows.services(app)
    durations: list[float] = []
    for _ in range(60):
        started_at = time.perf_counter()
        outcome = await run(app, services=services, inputs={"q": "hi"})
        durations.append((time.perf_counter() - started_at) * 1000)
        assert outcome.status is Status.SUCCEEDED, outcome.error
    # The first ten runs are warm-up.
    durations = sorted(durations[10:])
    return _median(durations), durations[int(len(durations) * 0.95)]


def _talking() -> App:
    """Return an app with one model node whose text is streamed as the answer."""
    llm = {
        "type": "llm",
        "model": _MODEL,
        "prompt_template": [{"role": "user", "text": "talk"}],
    }
    text = _document(
        {"llm": llm, "answer": {"type": "answer", "answer": "{{#llm.text#}}"}},
        [("start", "llm"), ("llm", "answer")],
        mode="advanced-chat",
    )
    return loads(text, mapping=AppMapping(models={"*": "scripted/model"}))


async def _stop_ms(yard: Modelyard) -> float:
    """Return the worst of ten: milliseconds from the stop command to the end of a run
    whose model is streaming."""
    app = _talking()
    worst_ms = 0.0
    for _ in range(10):
        chunks = asyncio.Event()

        # The default argument binds this round's event object.
        def emit(event: Any, chunks: asyncio.Event = chunks) -> None:
            """Set the event on the first streamed chunk."""
            if type(event).__name__ == "NodeRunStreamChunk":
                chunks.set()

        context = RunContext(
            run_id="r", services=yard.services.workflows.services(app), now=time.time
        )
        engine = GraphEngine(
            app.graph(),
            pool_for(app, "", {}, {"query": "x", "files": []}),
            context,
            emit,
        )
        task = asyncio.ensure_future(engine.execute())
        # Stop in the middle of the stream: wait until the model has produced a chunk.
        await chunks.wait()
        started_at = time.perf_counter()
        engine.command(Command.STOP)
        outcome = await task
        worst_ms = max(worst_ms, (time.perf_counter() - started_at) * 1000)
        assert outcome.status is Status.STOPPED
    return worst_ms


async def _steps(yard: Modelyard, writers: int = 20, steps_per_run: int = 150) -> float:
    """Return the durable steps per second: each is committed before the run's next one
    starts."""
    journal = yard.runs.journal
    records = [
        RunRecord(
            tenant="default", id=new_run_id(), app="bench", created_at=time.time()
        )
        for _ in range(writers)
    ]
    for record in records:
        await journal.create(record)

    async def write(record: RunRecord) -> None:
        """Append the steps of one run to the journal, one after the other."""
        for index in range(steps_per_run):
            step = Step(
                key=f"n{index}", node_id=f"n{index}", outputs={"text": "x" * 200}
            )
            await journal.append(record, [(index + 1, step)], [])

    started_at = time.perf_counter()
    await asyncio.gather(*(write(record) for record in records))
    return writers * steps_per_run / (time.perf_counter() - started_at)


def _rss() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


async def _idle(yard: Modelyard, model: ScriptedModel, count: int = 500) -> float:
    """Return the kilobytes of memory of a run that waits for its model."""
    app = _talking()
    # The model answers after 60 seconds, so all runs wait during the measurement.
    model.answers[:], model.delay = [("talk", "later")], 60.0
    services = yard.services.workflows.services(app)

    async def start_run() -> asyncio.Task[Any]:
        """Start a run and return its task."""
        context = RunContext(run_id=new_run_id(), services=services, now=time.time)
        pool = pool_for(app, "", {}, {"query": "x", "files": []})
        return asyncio.ensure_future(
            GraphEngine(app.graph(), pool, context, lambda event: None).execute()
        )

    # The first runs allocate shared structures, so they start before the first reading.
    warm = [await start_run() for _ in range(50)]
    await asyncio.sleep(0.2)
    gc.collect()
    bytes_before = _rss()
    tasks = [await start_run() for _ in range(count)]
    await asyncio.sleep(1.0)
    gc.collect()
    kilobytes = (_rss() - bytes_before) / count / 1024
    for task in [*warm, *tasks]:
        task.cancel()
    await asyncio.gather(*warm, *tasks, return_exceptions=True)
    return kilobytes


def graphon(texts: dict[str, str]) -> dict[str, Any] | str:
    """Return graphon's figures, or the reason as a string if it cannot be installed or
    fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Look for installed interpreters, because graphon needs a newer Python than
        # Modelyard.
        pythons = asyncio.run(Environments(folder / "none", os.environ).pythons())
        python = choose(pythons, ">=3.12")
        if python is None:
            return "needs Python 3.12, which is not here"
        target = folder / "env"
        locked = str(ROOT / "requirements" / "clients" / "graphon.txt")
        subprocess.run(
            [uv_path(), "venv", "-q", "-p", str(python.path), str(target)], check=True
        )
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
        for app_name, text in texts.items():
            (folder / f"{app_name}.yml").write_text(text, "utf-8")
            paths.append(str(folder / f"{app_name}.yml"))
        script = str(ROOT / "bench" / "graphon_peer.py")
        # graphon runs in its own process and environment; its figures are the last line
        # of the output.
        completed = subprocess.run(
            [str(target / "bin" / "python"), script, *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            return f"broke: {completed.stderr[-300:]}"
        size = (
            sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            >> 20
        )
        return {**json.loads(completed.stdout.splitlines()[-1]), "megabytes": size}


async def _measure_modelyard(texts: dict[str, str]) -> dict[str, Any]:
    """Measure Modelyard on the app documents and return its figures."""
    model = ScriptedModel(answers=[("talk", "word " * 100_000)], delay=0.02)
    definition, builder = scripted_models(model)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        async with _slow_server(0.5) as port:
            # The egress filter refuses loopback addresses unless they are listed as
            # private exceptions.
            settings = Settings(
                home=home, egress=EgressSettings(private=[f"127.0.0.1:{port}"])
            )
            async with Modelyard(
                settings,
                definitions=[definition],
                builders={"scripted": builder},
                environ={},
            ) as yard:
                for name, text in texts.items():
                    app = loads(text)
                    figures[f"{name}_cpu_ms"], figures[f"{name}_ms"] = await _cpu(
                        app, yard.services.workflows.services(app)
                    )
                figures["load_ms"] = _load(texts["chain"])
                figures["http_s"] = await _http(yard, port)
                for language, code in (
                    ("python3", "def main(a):\n    return {'r': a}"),
                    ("javascript", "function main({a}) { return {r: a} }"),
                ):
                    (
                        figures[f"{language}_ms"],
                        figures[f"{language}_p95_ms"],
                    ) = await _code(yard, language, code)
                figures["stop_ms"] = await _stop_ms(yard)
                figures["steps_s"] = await _steps(yard)
                figures["idle_kb"] = await _idle(yard, model)
    return figures


def measure() -> dict[str, Any]:
    """Measure Modelyard and graphon on the same app documents."""
    texts = files()
    figures = asyncio.run(_measure_modelyard(texts))
    return {
        **{name: round(value, 2) for name, value in figures.items()},
        "graphon": graphon(texts),
    }
