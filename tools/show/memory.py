"""Send 100,000 requests through the real server and measure memory growth and leftover
resources after a warm-up.

MODELYARD_REQUESTS sets the number of requests.
"""

import os
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.processes import load, memory_mb, start_process

from tools.show.proof import Proof, free_port
from tools.show.truth_log import home_with, kill, server_forker, wait_until_healthy

_WARM_UP = 20_000
_REQUESTS = int(os.environ.get("MODELYARD_REQUESTS", "100000"))


def count_entries(pid: int, proc_entry: str) -> int:
    """Return the number of entries in a folder of /proc, such as `task` (threads) or
    `fd` (file descriptors)."""
    return len(list(Path(f"/proc/{pid}/{proc_entry}").iterdir()))


def gauge(port: int, name: str, *, key: str = "") -> float:
    """Return the value of a gauge from the server's metrics. `key`: an API key, if the
    server requires one."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
    if key:
        request.add_header("authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def prove() -> Proof:
    """Load the server and compare memory, threads, tasks and descriptors before and
    after."""
    proof, port, request_count = Proof(), free_port(), _REQUESTS
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        start_process("bench.upstream") as (_, upstream),
    ):
        # Limits are configured so that their counters are part of the measurement, but
        # they are never reached.
        limits = {
            "rpm": {"unit": "requests", "amount": 1_000_000_000, "per": "key"},
            "spend": {"unit": "cost", "amount": 1_000_000, "window": "month"},
        }
        environ = home_with(
            Path(folder), f"http://127.0.0.1:{upstream}/v1", limits=limits
        )
        with server_forker(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            # Caches and pools must be filled before the first measurement.
            load(port, 16, min(_WARM_UP, request_count), "gpt-5-mini", stream=False)
            load(port, 16, 200, "gpt-5-mini", stream=True)
            # Give the server time to finish the writes of the last requests.
            time.sleep(1.0)
            before = _measure(server, port)
            load(port, 16, int(request_count * 0.95), "gpt-5-mini", stream=False)
            load(port, 16, int(request_count * 0.05), "gpt-5-mini", stream=True)
            time.sleep(1.0)
            after = _measure(server, port)
            time.sleep(1.0)
            kill(server, 15)
    proof.line("requests, a twentieth of them streams", request_count, True)
    _report_growth(proof, before, after)
    proof.figures["requests"] = request_count
    return proof


@dataclass(frozen=True, slots=True)
class _ServerState:
    """What the server uses at one moment."""

    megabytes: float
    threads: int
    descriptors: int
    tasks: float
    in_flight: float
    """Calls that have not ended."""


def _measure(server: int, port: int) -> _ServerState:
    """Measure the server process and read its metrics."""
    threads, megabytes = count_entries(server, "task"), memory_mb(server)
    return _ServerState(
        megabytes=megabytes,
        threads=threads,
        descriptors=count_entries(server, "fd"),
        tasks=gauge(port, "modelyard_tasks"),
        in_flight=gauge(port, "modelyard_in_flight"),
    )


def _report_growth(proof: Proof, before: _ServerState, after: _ServerState) -> None:
    """Report what the server uses more after the load than before it."""
    grown = after.megabytes - before.megabytes
    # 5 MB is the accepted growth; a real leak would be proportional to the requests.
    proof.line(
        "resident memory before, after",
        f"{before.megabytes:.1f} MB, {after.megabytes:.1f} MB",
        grown < 5,
    )
    proof.line(
        "threads before, after",
        f"{before.threads}, {after.threads}",
        after.threads <= before.threads,
    )
    proof.line(
        "tasks before, after",
        f"{before.tasks:.0f}, {after.tasks:.0f}",
        after.tasks <= before.tasks,
    )
    proof.line("calls in flight after", f"{after.in_flight:.0f}", after.in_flight == 0)
    proof.line("descriptors after", after.descriptors, after.descriptors < 64)
    proof.figures |= {
        "grown_mb": round(grown, 2),
        "mb": round(after.megabytes, 1),
        "threads": after.threads,
    }
