"""CPU cost of an upstream call in the HTTP client at 32 connections, compared with
httpx on the same event loop.

python -m bench.client [FILE]

FILE is another version of transport/http.py, which is measured in the same rounds.
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

from bench.processes import start_process

CONNECTIONS = 32
ROUNDS = 5
# httpx is much slower, so it makes fewer calls; all others make 16,000.
_CALLS = {"httpx": 640}
_BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "Hello " * 20}]}
).encode()
_HEADERS = {
    "content-type": "application/json",
    "authorization": "Bearer sk-bench",
    "user-agent": "modelyard",
}
Call = Callable[[], Awaitable[None]]


def measure(client_file: str = "") -> dict[str, dict[str, float]]:
    """Return the µs of CPU for one call of each client: the median and the minimum of
    interleaved rounds.

    `client_file` is the path of another version of the client, or empty.
    """
    names = ["modelyard", *([client_file] if client_file else []), "httpx"]
    samples: dict[str, list[float]] = {name: [] for name in names}
    with start_process("bench.upstream") as (_, port):
        # Rounds are interleaved, so that a change of the machine's speed affects all
        # clients alike.
        for _ in range(ROUNDS):
            for name in names:
                # A process of its own for each sample: no client profits from another's
                # warm caches.
                command = [
                    sys.executable,
                    "-m",
                    "bench.client",
                    "--one",
                    name,
                    str(port),
                ]
                completed = subprocess.run(
                    command, check=True, capture_output=True, text=True
                )
                samples[name].append(float(completed.stdout))
    return {
        name: {"median": statistics.median(times), "least": min(times)}
        for name, times in samples.items()
    }


def _httpx(url: str) -> Call:
    """Return a call that posts the chat request with httpx."""
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS))

    async def call() -> None:
        """Post the request and check the status."""
        answer = await client.post(url, headers=_HEADERS, content=_BODY)
        assert answer.status_code == 200

    return call


def _modelyard(url: str, file: str = "") -> Call:
    """Return a call that posts the chat request with Modelyard's client, or with the
    version in `file`."""
    module: Any = (
        _load_module(file)
        if file
        else importlib.import_module("modelyard.transport.http")
    )
    client = module.HttpClient()

    async def call() -> None:
        """Post the request and read the complete response."""
        response = await client.send("POST", url, headers=_HEADERS, body=[_BODY])
        assert await response.read()

    return call


def _load_module(file: str) -> Any:
    """Import a Python file under the name `other_http`."""
    spec: Any = importlib.util.spec_from_file_location("other_http", file)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and msgspec look their module up in sys.modules while the module is
    # executed.
    sys.modules["other_http"] = module
    spec.loader.exec_module(module)
    return module


async def _measure_client(name: str, port: str) -> float:
    """Return the µs of CPU that one call costs the client called `name`.

    `name` is `httpx`, `modelyard` or the path of another version of the client.
    """
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    call = (
        _httpx(url)
        if name == "httpx"
        else _modelyard(url, "" if name == "modelyard" else name)
    )
    turns = _CALLS.get(name, 16_000) // CONNECTIONS

    async def caller(count: int) -> None:
        """Make `count` calls one after the other."""
        for _ in range(count):
            await call()

    # Warm-up: opens the connections, so that they are not part of the measurement.
    await asyncio.gather(*(caller(5) for _ in range(CONNECTIONS)))
    cpu_before = time.process_time()
    await asyncio.gather(*(caller(turns) for _ in range(CONNECTIONS)))
    return (time.process_time() - cpu_before) / (turns * CONNECTIONS) * 1e6


def main() -> None:
    """Print a line per client; with `--one NAME PORT`, measure a single client in this
    process."""
    if sys.argv[1:2] == ["--one"]:
        print(uvloop.run(_measure_client(sys.argv[2], sys.argv[3])))
        return
    for name, times in measure(*sys.argv[1:2]).items():
        print(
            f"{name:<30} {times['median']:8.1f} µs a call, {times['least']:.1f} at best"
        )


if __name__ == "__main__":
    main()
