"""What a provider call costs the HTTP client: CPU of this process at 32 connections, beside httpx on the same loop.

python -m bench.client [FILE]   FILE: another version of transport/http.py, measured in the same rounds
"""

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from bench.gateway import started

CONNECTIONS = 32
ROUNDS = 5
_CALLS = {"httpx": 640}
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello " * 20}]}).encode()
_HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-bench", "user-agent": "modelyard"}
Call = Callable[[], Awaitable[None]]


def measure(other: str = "") -> dict[str, dict[str, float]]:
    """µs of CPU for one call: the median and the least of interleaved rounds."""
    names = ["modelyard", *([other] if other else []), "httpx"]
    samples: dict[str, list[float]] = {name: [] for name in names}
    with started("bench.upstream") as (_, port):
        for _ in range(ROUNDS):
            for name in names:
                command = [sys.executable, "-m", "bench.client", "--one", name, str(port)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                samples[name].append(float(done.stdout))
    return {name: {"median": statistics.median(times), "least": min(times)} for name, times in samples.items()}


def _httpx(url: str) -> Call:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS))

    async def call() -> None:
        answer = await client.post(url, headers=_HEADERS, content=_BODY)
        assert answer.status_code == 200

    return call


def _ours(url: str, file: str = "") -> Call:
    module: Any = _loaded(file) if file else importlib.import_module("modelyard.transport.http")
    client = module.HttpClient()

    async def call() -> None:
        response = await client.send("POST", url, headers=_HEADERS, body=[_BODY])
        assert await response.read()

    return call


def _loaded(file: str) -> Any:
    spec: Any = importlib.util.spec_from_file_location("other_http", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_http"] = module
    spec.loader.exec_module(module)
    return module


async def _one(name: str, port: str) -> float:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    call = _httpx(url) if name == "httpx" else _ours(url, "" if name == "modelyard" else name)
    turns = _CALLS.get(name, 16_000) // CONNECTIONS

    async def caller(count: int) -> None:
        for _ in range(count):
            await call()

    await asyncio.gather(*(caller(5) for _ in range(CONNECTIONS)))
    before = time.process_time()
    await asyncio.gather(*(caller(turns) for _ in range(CONNECTIONS)))
    return (time.process_time() - before) / (turns * CONNECTIONS) * 1e6


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(uvloop.run(_one(sys.argv[2], sys.argv[3])))
        return
    for name, times in measure(*sys.argv[1:2]).items():
        print(f"{name:<30} {times['median']:8.1f} µs a call, {times['least']:.1f} at best")


if __name__ == "__main__":
    main()
