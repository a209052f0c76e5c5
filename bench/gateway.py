"""CPU cost of the gateway per call and per streamed chunk, compared with a relay."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.upstream import CHUNKS

_TICK = os.sysconf("SC_CLK_TCK")
ROUNDS = 3


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, according to /proc."""
    # The command name in the stat file may contain spaces; it ends at the last
    # parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextmanager
def start_process(
    module: str, *arguments: str, environ: dict[str, str] | None = None
) -> Generator[tuple[int, int]]:
    """Run a Python module in a process and yield its (pid, port).

    The module writes its port into the file named by its last argument. Raises
    RuntimeError if the process exits before that.
    """
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(port_file)],
            env={**os.environ, **(environ or {})},
        )
        try:
            # The file exists shortly before its content is written, so wait for both.
            while not (port_file.exists() and port_file.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{module} ended with status {process.returncode}"
                    )
                time.sleep(0.02)
            # The port is written before the server accepts connections.
            time.sleep(0.2)
            yield process.pid, int(port_file.read_text())
        finally:
            process.terminate()
            process.wait(15)


def load(port: int, connections: int, requests: int, model: str, stream: bool) -> float:
    """Send requests from a separate process and return the seconds that they took."""
    command = [
        sys.executable,
        "-m",
        "bench.load",
        "127.0.0.1",
        str(port),
        str(connections),
        str(requests),
        model,
    ]
    completed = subprocess.run(
        [*command, "stream" if stream else "whole"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(completed.stdout)["seconds"]


def cost(
    pid: int, port: int, connections: int, requests: int, model: str, stream: bool
) -> float:
    """Return the µs of the server's CPU for one request."""
    # Warm-up with a tenth of the requests: connections, caches and compiled code.
    load(port, connections, max(50, requests // 10), model, stream)
    cpu_before = cpu_seconds(pid)
    load(port, connections, requests, model, stream)
    return (cpu_seconds(pid) - cpu_before) / requests * 1e6


def measure() -> list[dict[str, Any]]:
    """Return the medians of interleaved rounds for the relay and the gateway.

    The cost of a chunk is (cost of a stream - cost of a complete answer) / number of
    chunks.
    """
    with (
        tempfile.TemporaryDirectory() as home,
        start_process("bench.upstream") as (_, upstream),
    ):
        url = f"http://127.0.0.1:{upstream}/v1"
        environ = {
            "MODELYARD_HOME": home,
            "OPENAI_API_KEY": "sk-bench",
            "OPENAI_BASE_URL": url,
            "MODELYARD_LOG_LEVEL": "warning",
        }
        with (
            start_process("bench.relay", url) as relay,
            start_process("bench.serve", environ=environ) as gateway,
        ):
            samples = _sample_costs({"relay": relay, "gateway": gateway})
            megabytes = memory_mb(gateway[0])
    return [
        _line(name, connections, samples, megabytes)
        for name in ("relay", "gateway")
        for connections in (1, 64)
    ]


def _sample_costs(
    servers: dict[str, tuple[int, int]],
) -> dict[tuple[str, int, bool], list[float]]:
    """Measure every combination in each round.

    Returns (server, connections, is streaming) → microseconds per request, for each
    round. `servers` has (process id, port) by name.
    """
    samples: dict[tuple[str, int, bool], list[float]] = defaultdict(list)
    # One connection shows the latency path, 64 show the server under load.
    combinations = itertools.product(
        range(ROUNDS), ((1, 3000), (64, 6000)), servers.items(), (False, True)
    )
    for _, (connections, requests), (name, (pid, port)), stream in combinations:
        # A stream costs far more than a complete answer, so fewer of them are enough.
        count = requests // 15 if stream else requests
        microseconds = cost(pid, port, connections, count, "gpt-5-mini", stream)
        samples[name, connections, stream].append(microseconds)
    return samples


def _line(
    name: str,
    connections: int,
    samples: dict[tuple[str, int, bool], list[float]],
    mb: float,
) -> dict[str, Any]:
    """Return the row of one system at one number of connections."""
    complete_us = statistics.median(samples[name, connections, False])
    stream = statistics.median(samples[name, connections, True])
    return {
        "system": name,
        "connections": connections,
        "cpu_us_per_request": round(complete_us, 1),
        "cpu_us_per_chunk": round((stream - complete_us) / CHUNKS, 2),
        "memory_mb": round(mb, 1) if name == "gateway" else None,
    }
