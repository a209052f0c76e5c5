"""100,000 requests through the real server: what its memory grows by after the first, and what is left of them.

MODELYARD_REQUESTS says how many.
"""

import os
import tempfile
import time
import urllib.request
from pathlib import Path

from bench.gateway import load, memory_mb, started

from tools.show.proof import Proof, free_port
from tools.show.truth_log import home_with, kill, ready, zygote

_WARM_UP = 20_000


def _count(pid: int, what: str) -> int:
    return len(list(Path(f"/proc/{pid}/{what}").iterdir()))


def _gauge(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def prove() -> Proof:
    proof, port = Proof(), free_port()
    wanted = int(os.environ.get("MODELYARD_REQUESTS", "100000"))
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder, started("bench.upstream") as (_, upstream):
        limits = {
            "rpm": {"unit": "requests", "amount": 1_000_000_000, "per": "key"},
            "spend": {"unit": "cost", "amount": 1_000_000, "window": "month"},
        }
        environ = home_with(Path(folder), f"http://127.0.0.1:{upstream}/v1", limits=limits)
        with zygote(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            ready(port)
            load(port, 16, min(_WARM_UP, wanted), "gpt-5-mini", stream=False)
            load(port, 16, 200, "gpt-5-mini", stream=True)
            time.sleep(1.0)
            threads, before, tasks = _count(server, "task"), memory_mb(server), _gauge(port, "modelyard_tasks")
            load(port, 16, int(wanted * 0.95), "gpt-5-mini", stream=False)
            load(port, 16, int(wanted * 0.05), "gpt-5-mini", stream=True)
            time.sleep(1.0)
            after, threads_after, files_after = memory_mb(server), _count(server, "task"), _count(server, "fd")
            tasks_after, in_flight = _gauge(port, "modelyard_tasks"), _gauge(port, "modelyard_in_flight")
            grown = after - before
            time.sleep(1.0)
            kill(server, 15)
    proof.line("requests, a twentieth of them streams", wanted, True)
    proof.line("resident memory before, after", f"{before:.1f} MB, {after:.1f} MB", grown < 5)
    proof.line("threads before, after", f"{threads}, {threads_after}", threads_after <= threads)
    proof.line("tasks before, after", f"{tasks:.0f}, {tasks_after:.0f}", tasks_after <= tasks)
    proof.line("calls in flight after", f"{in_flight:.0f}", in_flight == 0)
    proof.line("descriptors after", files_after, files_after < 64)
    proof.figures |= {"requests": wanted, "grown_mb": round(grown, 2), "mb": round(after, 1), "threads": threads_after}
    return proof
