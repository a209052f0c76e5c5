"""Send 100,000 requests through the real server and measure memory growth and leftover
resources after a warm-up.

MODELYARD_REQUESTS sets the number of requests.
"""

import os
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import load, memory_mb, start_process

from tools.show.proof import Proof, free_port
from tools.show.truth_log import home_with, kill, server_forker, wait_until_healthy

_WARM_UP = 20_000
_REQUESTS = int(os.environ.get("MODELYARD_REQUESTS", "100000"))
_ROUNDS = 3
"""A leak grows with every round of requests; caches and pools grow until they are full,
which takes longer on a busy machine. So one round without growth is enough."""
_MAX_GROWN_MB = 5.0


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
            states = _measure_rounds(server, port)
            time.sleep(1.0)
            kill(server, 15)
    proof.line("requests a round, a twentieth of them streams", request_count, True)
    _report_growth(proof, states)
    proof.figures["requests"] = request_count * (len(states) - 1)
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


def _measure_rounds(server: int, port: int) -> list[_ServerState]:
    """Send rounds of requests until one leaves nothing behind; return the state before
    the first round and after each."""
    states = [_measure(server, port)]
    for _ in range(_ROUNDS):
        load(port, 16, int(_REQUESTS * 0.95), "gpt-5-mini", stream=False)
        load(port, 16, int(_REQUESTS * 0.05), "gpt-5-mini", stream=True)
        time.sleep(1.0)
        states.append(_measure(server, port))
        if _is_stable(states[-2], states[-1]):
            break
    return states


def _is_stable(before: _ServerState, after: _ServerState) -> bool:
    """Return whether a round of requests left no more memory and threads in use."""
    has_grown = after.megabytes - before.megabytes >= _MAX_GROWN_MB
    return not has_grown and after.threads <= before.threads


def _report_growth(proof: Proof, states: Sequence[_ServerState]) -> None:
    """Report what the server uses more after the last round than before it."""
    before, after = states[-2], states[-1]
    grown = after.megabytes - before.megabytes
    proof.line(
        "resident memory before, after each round",
        ", ".join(f"{state.megabytes:.1f} MB" for state in states),
        grown < _MAX_GROWN_MB,
    )
    proof.line(
        "threads before, after the last round",
        f"{before.threads}, {after.threads}",
        after.threads <= before.threads,
    )
    proof.line(
        "tasks before, after the last round",
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
