"""What the gateway costs: its own CPU for each call and each streamed chunk, beside a bare relay's."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.upstream import CHUNKS

_TICK = os.sysconf("SC_CLK_TCK")
ROUNDS = 3


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used, by the operating system's account."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextmanager
def started(module: str, *arguments: str, environ: dict[str, str] | None = None) -> Generator[tuple[int, int]]:
    """(pid, port) of a process that writes its port into a file."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(port_file)], env={**os.environ, **(environ or {})}
        )
        try:
            while not (port_file.exists() and port_file.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(f"{module} ended with status {process.returncode}")
                time.sleep(0.02)
            time.sleep(0.2)
            yield process.pid, int(port_file.read_text())
        finally:
            process.terminate()
            process.wait(15)


def load(port: int, connections: int, requests: int, model: str, stream: bool) -> float:
    command = [sys.executable, "-m", "bench.load", "127.0.0.1", str(port), str(connections), str(requests), model]
    done = subprocess.run([*command, "stream" if stream else "whole"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["seconds"]


def cost(pid: int, port: int, connections: int, requests: int, model: str, stream: bool) -> float:
    """µs of the process's CPU for one request."""
    load(port, connections, max(50, requests // 10), model, stream)
    before = cpu_seconds(pid)
    load(port, connections, requests, model, stream)
    return (cpu_seconds(pid) - before) / requests * 1e6


def measure() -> list[dict[str, Any]]:
    """Medians of interleaved rounds. A chunk's cost is a stream's, less a whole answer's, by its number of chunks."""
    samples: dict[tuple[str, int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as home, started("bench.upstream") as (_, upstream):
        url = f"http://127.0.0.1:{upstream}/v1"
        environ = {
            "MODELYARD_HOME": home,
            "OPENAI_API_KEY": "sk-bench",
            "OPENAI_BASE_URL": url,
            "MODELYARD_LOG_LEVEL": "warning",
        }
        with (
            started("bench.relay", url) as relay,
            started("bench.serve", environ=environ) as gateway,
        ):
            for _ in range(ROUNDS):
                for connections, requests in ((1, 3000), (64, 6000)):
                    for name, (pid, port) in (("relay", relay), ("gateway", gateway)):
                        for stream in (False, True):
                            count = requests // 15 if stream else requests
                            got = cost(pid, port, connections, count, "gpt-5-mini", stream)
                            samples.setdefault((name, connections, stream), []).append(got)
            megabytes = memory_mb(gateway[0])
    return [_line(name, connections, samples, megabytes) for name in ("relay", "gateway") for connections in (1, 64)]


def _line(name: str, connections: int, samples: dict[tuple[str, int, bool], list[float]], mb: float) -> dict[str, Any]:
    whole = statistics.median(samples[name, connections, False])
    stream = statistics.median(samples[name, connections, True])
    return {
        "system": name,
        "connections": connections,
        "cpu_us_per_request": round(whole, 1),
        "cpu_us_per_chunk": round((stream - whole) / CHUNKS, 2),
        "memory_mb": round(mb, 1) if name == "gateway" else None,
    }
