"""What a call through a gateway costs in processor time, compared with nginx and other
gateways in the same run.

All servers run at the same time and are loaded one after the other, in interleaved
rounds. The time is that of the server's whole process tree, as the kernel counts it in
nanoseconds, around a complete run of the load generator. Each figure is divided by
nginx's of the same round, so that ratios also hold on a machine whose speed changes.

The measured server has a processor to itself; the simulated provider and the load
generator share another one. A round with any error, with too few events in a stream or
without processor time is refused, not averaged.
"""

import json
import math
import os
import statistics
import subprocess
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import (
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tools.show.proof import free_port

from bench import peers
from bench.native import compiled
from bench.peers import PRODUCT, REFERENCE, Server, Setting
from bench.processes import (
    available_cores,
    cpu_nanoseconds,
    on_cores,
    running_server,
    tree_memory_mb,
)

ROUNDS = 5
SECONDS = 3.0
"""How long each server is loaded in each round of a scenario."""
_WARM_UP_SECONDS = 0.3
_WARM_UP_CONNECTIONS = 16
_EXTRA_EVENTS = 10
"""A translated stream has up to this many events more than the provider has chunks."""
_MISSING_EVENTS = 2
"""The first and the last chunk have no text; some formats have no event for them."""

# ----------------------------------------------------------------------- scenarios


@dataclass(frozen=True)
class Scenario:
    """A way to load the servers."""

    name: str
    label: str
    connections: int
    max_ratio: float
    """The goal: Modelyard's cost over nginx's."""
    chunks: int = 0
    """Chunks of a stream; 0 for complete answers."""
    delay_ms: int = 0
    """Between two chunks."""
    is_translated: bool = False
    """Whether the caller speaks Anthropic's format and the provider OpenAI's."""

    @property
    def unit(self) -> str:
        """What the cost is counted by."""
        return "event" if self.chunks else "call"

    @property
    def model(self) -> str:
        """The model's name, from which the simulated provider takes what to do."""
        return f"mock-n{self.chunks}-d{self.delay_ms}" if self.chunks else "mock"

    def path(self, server: Server) -> str | None:
        """Return the path of the call, or None if the server does not offer it."""
        return server.messages_path if self.is_translated else server.chat_path

    def body(self, server: Server) -> dict[str, Any]:
        """Return the request: about 500 bytes, a short question with instructions."""
        body: dict[str, Any] = {"model": server.prefix + self.model}
        messages = [{"role": "user", "content": _QUESTION}]
        if self.is_translated:
            return {
                **body,
                "max_tokens": 256,
                "system": _INSTRUCTIONS,
                "messages": messages,
                "stream": True,
            }
        body["messages"] = [{"role": "system", "content": _INSTRUCTIONS}, *messages]
        if self.chunks:
            usage = {"include_usage": True}
            return {**body, "stream": True, "stream_options": usage}
        return {**body, "temperature": 0.7, "max_tokens": 256}


_INSTRUCTIONS = (
    "You answer questions about building and architecture in short and plain sentences."
)
_QUESTION = "How did Roman masons keep the slope of an aqueduct even for miles? " * 4


def scenarios(chunks: int = 200) -> dict[str, Scenario]:
    """Return the scenarios by name, with streams of this many chunks."""
    streams = {"connections": 50, "chunks": chunks}
    return {
        scenario.name: scenario
        for scenario in (
            Scenario("chat32", "chat, 32 connections", 32, 3.0),
            Scenario("chat1", "chat, 1 connection", 1, 2.0),
            Scenario(
                "paced", "50 streams, paced", **streams, delay_ms=5, max_ratio=1.5
            ),
            Scenario("burst", "50 streams, in a burst", **streams, max_ratio=2.5),
            # nginx does not translate; its figure is that of the untranslated streams.
            Scenario(
                "translated",
                "50 streams, paced, Anthropic to OpenAI",
                **streams,
                delay_ms=5,
                is_translated=True,
                max_ratio=2.0,
            ),
        )
    }


def _table_order(pair: tuple[str, str]) -> tuple[int, int]:
    """Return the position of (server, scenario) in the table."""
    server, scenario = pair
    return list(scenarios()).index(scenario), list(peers.SERVERS).index(server)


_COMPARED_WITH = {"translated": "paced"}
"""The scenario whose figure of nginx is compared, if it is another one."""

# ----------------------------------------------------------------------- samples


class RefusedError(Exception):
    """A sample that must not be counted, with the reason."""


@dataclass(frozen=True)
class Sample:
    """The figures of a server in one round of a scenario."""

    cpu_us: float
    """Processor time by call or event, in microseconds."""
    per_second: float
    """Calls or events per second."""
    p50_us: float
    """Median time of a call or a complete stream."""
    p99_us: float


@dataclass
class Report:
    """The result of a run."""

    samples: dict[tuple[str, str], dict[int, Sample]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """(server, scenario) to round to sample."""
    refused: dict[tuple[str, str], list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """(server, scenario) to the reasons why rounds were refused. Without a reason and a
    sample the server does not offer the scenario."""
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """Servers that could not be measured, with the reason."""
    memory_mb: dict[str, float] = field(default_factory=dict[str, float])
    """Servers to their memory at the end."""
    ready_seconds: dict[str, float] = field(default_factory=dict[str, float])

    def ratios(self, server: str, scenario: str) -> list[float]:
        """Return the costs of a server over nginx's of the same rounds."""
        reference = self.samples.get(
            (REFERENCE, _COMPARED_WITH.get(scenario, scenario)), {}
        )
        samples = self.samples.get((server, scenario), {})
        rounds = sorted(samples.keys() & reference.keys())
        return [samples[number].cpu_us / reference[number].cpu_us for number in rounds]

    def figures(self) -> dict[str, Any]:
        """Return the medians of each server in each scenario, and what is missing, as
        values that JSON can hold."""
        pairs = sorted({*self.samples, *self.refused}, key=_table_order)
        return {
            "rows": [self._row(server, scenario) for server, scenario in pairs],
            "missing": self.missing,
            "memory_mb": self.memory_mb,
            "ready_seconds": self.ready_seconds,
        }

    def _row(self, server: str, scenario: str) -> dict[str, Any]:
        samples = list(self.samples.get((server, scenario), {}).values())
        row: dict[str, Any] = {
            "server": server,
            "scenario": scenario,
            "rounds": len(samples),
            "refused": self.refused.get((server, scenario), []),
        }
        if not samples:
            return row
        for name in ("cpu_us", "per_second", "p50_us", "p99_us"):
            values = [getattr(sample, name) for sample in samples]
            row[name] = round(statistics.median(values), 2)
        ratios = self.ratios(server, scenario)
        if ratios:
            row["ratio"] = round(statistics.median(ratios), 3)
            row["ratios"] = [round(ratio, 3) for ratio in ratios]
        return row


# ----------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Load:
    """The load generator, with the bodies of its requests in a folder."""

    program: str
    folder: Path

    def run(
        self,
        server: Server,
        scenario: Scenario,
        *,
        seconds: float,
        connections: int = 0,
        requests: int = 0,
    ) -> dict[str, Any]:
        """Load a server and return the generator's figures.

        `connections` and `requests` replace the scenario's connections and the limit in
        time. Raises RefusedError if the generator fails.
        """
        body = self.folder / f"{server.port}-{scenario.name}.json"
        body.write_text(json.dumps(scenario.body(server)))
        path = scenario.path(server)
        assert path is not None
        command = [self.program, "-p", str(server.port), "-P", path, "-b", str(body)]
        command += ["-c", str(connections or scenario.connections)]
        command += ["-d", str(seconds)]
        if requests:
            command += ["-n", str(requests)]
        for name, value in server.headers.items():
            command += ["-H", f"{name}: {value}"]
        completed = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + 120
        )
        if completed.returncode:
            raise RefusedError(completed.stderr.strip()[-200:])
        return json.loads(completed.stdout)


def sample(load: Load, server: Server, scenario: Scenario, seconds: float) -> Sample:
    """Load a server and return its figures. Raises RefusedError if they are wrong."""
    # Connections are open and caches filled before the clock starts.
    load.run(
        server,
        scenario,
        seconds=min(_WARM_UP_SECONDS, seconds),
        connections=min(scenario.connections, _WARM_UP_CONNECTIONS),
    )
    cpu_before = cpu_nanoseconds(server.pid)
    figures = load.run(server, scenario, seconds=seconds)
    cpu = cpu_nanoseconds(server.pid) - cpu_before
    _check(figures, scenario)
    if cpu <= 0:
        raise RefusedError(
            "the server used no processor time: another one answered, or the kernel "
            "does not count it (/proc/PID/schedstat)"
        )
    count = figures["events"] if scenario.chunks else figures["requests"]
    return Sample(
        cpu_us=cpu / 1000 / count,
        per_second=count / figures["seconds"],
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
    )


def _check(figures: Mapping[str, Any], scenario: Scenario) -> None:
    """Raise RefusedError if any request failed, or if streams have a wrong number of
    events."""
    for name in ("bad", "connection_errors", "unanswered"):
        if figures[name]:
            label = name.replace("_", " ")
            raise RefusedError(f"{label}: {figures[name]} of {figures['requests']}")
    if not figures["requests"]:
        raise RefusedError("no request was answered")
    events = figures["events"] / figures["requests"]
    min_events = scenario.chunks - _MISSING_EVENTS
    max_events = scenario.chunks + _EXTRA_EVENTS
    if scenario.chunks and not min_events <= events <= max_events:
        raise RefusedError(f"{events:.1f} events in a stream of {scenario.chunks}")


# ----------------------------------------------------------------------- the run


@contextmanager
def bound_cores(server_count: int = 1) -> Generator[list[int]]:
    """Divide the processors: yields those of the measured server; provider and load
    generator run on the next one. With a single processor all share it."""
    cores = available_cores()
    server_cores, other_cores = cores[:server_count], cores[server_count:]
    with on_cores(other_cores[:1] or cores):
        yield server_cores


@contextmanager
def upstream(
    cores: Collection[int] | None = None, *, milliseconds: int = 0
) -> Generator[int]:
    """Run the simulated provider, which sends complete answers after `milliseconds`, and
    yield its port."""
    port = free_port()
    command = [compiled("upstream"), str(port), str(milliseconds)]
    with running_server(command, port, cores=cores or available_cores()):
        yield port


_CANNOT_RUN = (
    RuntimeError,
    OSError,
    ImportError,
    subprocess.SubprocessError,
    RefusedError,
)
"""What is raised if a server cannot be installed, started or called."""


def measure(
    names: Sequence[str] = (),
    *,
    chosen: Iterable[Scenario] = (),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    warm_up: float = 1.0,
) -> Report:
    """Measure servers in scenarios and return the report.

    names: of `peers.SERVERS`; empty for all. chosen: empty for all scenarios.
    warm_up: a factor of the servers' warm-up times. Without a C compiler all servers
    are missing.
    """
    report, selected = Report(), list(chosen) or list(scenarios().values())
    names = list(names or peers.SERVERS)
    try:
        program, _ = compiled("load"), compiled("upstream")
    except RuntimeError as error:
        report.missing = dict.fromkeys(names, str(error))
        return report
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-load-") as folder,
        bound_cores() as cores,
        upstream() as port,
        ExitStack() as stack,
    ):
        load = Load(program, Path(folder))
        models = list(dict.fromkeys(["mock", *(item.model for item in selected)]))
        setting = Setting(port, models, cores)
        servers: dict[str, Server] = {}
        for name in names:
            try:
                server = stack.enter_context(peers.SERVERS[name](setting))
                _warm_up(load, server, warm_up)
            except _CANNOT_RUN as error:
                report.missing[name] = " ".join(str(error).split())[:300]
            else:
                servers[name] = server
                report.ready_seconds[name] = round(server.ready_seconds, 2)
        for number in range(rounds):
            for scenario in selected:
                _round(report, load, servers, scenario, number, seconds)
        for name, server in servers.items():
            report.memory_mb[name] = round(tree_memory_mb(server.pid), 1)
    return report


def _warm_up(load: Load, server: Server, factor: float) -> None:
    """Check that the provider's answer comes through, then load the server for a while.
    Raises RuntimeError or RefusedError if calls fail."""
    scenario = scenarios()["chat32"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{server.chat_path}",
        json.dumps(scenario.body(server)).encode(),
        {"content-type": "application/json", **server.headers},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = response.read()
    if b"Aqueducts carried water" not in answer:
        raise RuntimeError(
            f"It does not return the provider's answer: {answer[:200]!r}"
        )
    seconds = server.warm_up_seconds * factor
    figures = load.run(
        server, scenario, seconds=seconds, connections=_WARM_UP_CONNECTIONS
    )
    _check(figures, scenario)


def _round(
    report: Report,
    load: Load,
    servers: Mapping[str, Server],
    scenario: Scenario,
    number: int,
    seconds: float,
) -> None:
    """Measure every server that offers this scenario, each of them once."""
    for name, server in servers.items():
        if scenario.path(server) is None:
            # Not silently: a pair without samples and refusals is a line of the table.
            report.refused.setdefault((name, scenario.name), [])
            continue
        try:
            result = sample(load, server, scenario, seconds)
        except (RefusedError, subprocess.TimeoutExpired) as error:
            report.refused[name, scenario.name].append(str(error))
        else:
            report.samples[name, scenario.name][number] = result


def measure_selected() -> dict[str, Any]:
    """Return the figures of a run with the servers and rounds that the environment
    names; without it, of all servers.

    MODELYARD_BENCH_SERVERS: names of `peers.SERVERS`, separated by commas.
    MODELYARD_BENCH_ROUNDS: the number of rounds. Raises RuntimeError for an unknown
    name.
    """
    selected = os.environ.get("MODELYARD_BENCH_SERVERS", "")
    names = [name.strip() for name in selected.split(",") if name.strip()]
    for name in names:
        if name not in peers.SERVERS:
            raise RuntimeError(
                f"Unknown server {name!r}; expected some of {', '.join(peers.SERVERS)}"
            )
    rounds = int(os.environ.get("MODELYARD_BENCH_ROUNDS", str(ROUNDS)))
    return measure(names, rounds=rounds).figures()


# ----------------------------------------------------------------------- the table


def table(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, bool | None]]:
    """Yield the lines of the table: (label, text, whether a goal holds). The last is
    None if there is no goal for the line."""
    for name, reason in figures["missing"].items():
        is_needed = name in (REFERENCE, PRODUCT)
        yield name, f"missing: {reason}", False if is_needed else None
    for row in figures["rows"]:
        scenario = scenarios()[row["scenario"]]
        yield f"{scenario.label}: {row['server']}", *_line(row, scenario)


def _line(row: Mapping[str, Any], scenario: Scenario) -> tuple[str, bool | None]:
    """Return the text of a row, and whether its goal holds."""
    if not row["rounds"] and not row["refused"]:
        return "not offered", None
    parts = list[str]()
    if row["rounds"]:
        unit = scenario.unit
        parts.append(f"{row['cpu_us']:>8.1f} µs of CPU per {unit}")
        parts.append(f"{row['per_second']:>8.0f} {unit}s/s")
    if "ratio" in row:
        parts.insert(1, f"{row['ratio']:>6.2f} × {REFERENCE}")
    if row["refused"]:
        count = len(row["refused"])
        parts.append(f"{count} refused: {row['refused'][0]}")
    if row["server"] != PRODUCT:
        return ", ".join(parts), None
    parts.append(f"goal {scenario.max_ratio:g} ×")
    ratio = row.get("ratio", math.inf)
    return ", ".join(parts), ratio <= scenario.max_ratio and not row["refused"]


# ------------------------------------------------------------- streams and workers


def slow_streams(count: int = 1000) -> dict[str, Any]:
    """Return the memory of Modelyard for each of many slow streams at the same time."""
    scenario = Scenario("slow", "slow streams", count, 0, chunks=14, delay_ms=1000)
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-load-") as folder,
        bound_cores() as cores,
        upstream() as port,
        peers.modelyard(Setting(port, ["mock", scenario.model], cores)) as server,
    ):
        load = Load(compiled("load"), Path(folder))
        load.run(server, scenarios()["chat32"], seconds=1)
        before = tree_memory_mb(server.pid)
        with _peak_memory(server.pid) as peak:
            figures = load.run(server, scenario, seconds=60, requests=count)
    _check(figures, scenario)
    return {
        "streams": count,
        "complete": figures["requests"] - figures["bad"],
        "kb_each": round((peak[0] - before) * 1024 / count, 1),
        "mb": round(peak[0], 1),
    }


@contextmanager
def _peak_memory(pid: int) -> Generator[list[float]]:
    """Watch the memory of a process tree; yields a list whose only element is the most
    MiB that were seen, complete after the block."""
    ended, peak = Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.5):
            peak[0] = max(peak[0], tree_memory_mb(pid))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


_CORES_FOR_WORKERS = 4
"""Two for the workers, one each for the provider and the load generator."""


def worker_gain(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Return how many times the calls per second of one worker two workers serve.

    With fewer than four processors the workers would compete with provider and load
    generator for them, so nothing is measured: `gain` is None, and `reason` says why.
    """
    cores = available_cores()
    if len(cores) < _CORES_FOR_WORKERS:
        reason = f"needs {_CORES_FOR_WORKERS} processors, and has {len(cores)}"
        return {"gain": None, "reason": reason}
    scenario, gains = scenarios()["chat32"], list[float]()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-load-") as folder,
        upstream([cores[2]]) as port,
        peers.modelyard(Setting(port, ["mock"], cores[:1])) as single,
        peers.modelyard(Setting(port, ["mock"], cores[:2]), workers=2) as double,
        on_cores([cores[3]]),
    ):
        load = Load(compiled("load"), Path(folder))
        for _ in range(rounds):
            rates = [
                sample(load, server, scenario, seconds).per_second
                for server in (single, double)
            ]
            gains.append(rates[1] / rates[0])
    return {"gain": round(statistics.median(gains), 2), "gains": gains}
