"""50 plugins that crash at start and one that forks, leaks and spins, beside healthy ones that must not notice."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.gateway import memory_mb

from modelyard.base.errors import InvokeError
from modelyard.transport.http import HttpClient
from tools.show.odd_plugins import odd_plugin
from tools.show.plugged import EXAMPLES, Served, eventually, percentile, plugged
from tools.show.proof import ROOT, Proof

CRASHERS, SECONDS, AT_ONCE = 50, 25.0, 2
_SETTINGS = "plugins: {debug_port: 0, memory_mb: 400, start_seconds: 10}\nlog_level: error\n"


def _storm(folder: Path) -> Sequence[Path]:
    bad = [odd_plugin(folder, "crash", name=f"crash{place}") for place in range(CRASHERS)]
    return [*bad, odd_plugin(folder, "menace")]


class Callers:
    """Healthy calls, one after the other from each of a few callers, with a client that takes little itself."""

    def __init__(self, served: Served) -> None:
        self._url = f"{served.origin}/v1/chat/completions"
        self.times: list[float] = []
        """Of answers that stream, word by word."""
        self.bare: list[float] = []
        """Of answers that come at once: what is left is the way there and back."""
        self.errors: list[str] = []

    def run(self, seconds: float) -> None:
        asyncio.run(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        client = HttpClient()
        until = time.monotonic() + seconds
        kinds = [(self.times, b"true"), (self.bare, b"false")] * AT_ONCE
        await asyncio.gather(*(self._call(client, until, *kind) for kind in kinds))
        await client.aclose()

    async def _call(self, client: HttpClient, until: float, times: list[float], stream: bytes) -> None:
        body = b'{"model":"mockgpt/mock-gpt-v1","messages":[{"role":"user","content":"hi"}],"stream":%b}' % stream
        headers = {"content-type": "application/json"}
        while time.monotonic() < until:
            begun = time.monotonic()
            response = await client.send("POST", self._url, headers=headers, body=[body])
            said = await response.read()
            times.append(time.monotonic() - begun)
            if response.status != 200 or (stream == b"true" and not said.endswith(b"[DONE]\n\n")):
                self.errors.append(said.decode()[:200])
            await asyncio.sleep(0.02)  # the machine is not to be full: it is to be told who takes from whom


def bother(origin: str, key: str, names: Sequence[str]) -> None:
    """Call the bad ones, again and again, until somebody ends this process."""

    async def work() -> None:
        client = HttpClient()
        url = f"{origin}/plugin/default/dispatch/tool/invoke"
        while True:
            for name in names:
                data = {"provider": name, "tool": "odd", "credentials": {}, "tool_parameters": {}}
                headers = {"content-type": "application/json", "x-api-key": key, "x-plugin-id": f"odd/{name}"}
                body = json.dumps({"user_id": "u", "data": data}).encode()
                with suppress(InvokeError, TimeoutError):
                    async with asyncio.timeout(3):
                        response = await client.send("POST", url, headers=headers, body=[body])
                        await response.read()
                await asyncio.sleep(0.02)

    asyncio.run(work())


@contextmanager
def _bothered(served: Served) -> Generator[None]:
    """While processes of their own call the bad plugins."""
    key = (served.home / "plugin.key").read_text().strip()
    crashers = [f"crash{place}" for place in range(CRASHERS)]
    code = "import sys; from tools.show.plugin_storm import bother; bother(sys.argv[1], sys.argv[2], sys.argv[3:])"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, served.origin, key, *names], cwd=ROOT, start_new_session=True)
        for names in (crashers, ["menace"])
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def prove() -> Proof:
    proof = Proof()
    with plugged(EXAMPLES / "mockgpt", settings=_SETTINGS, make=_storm) as served:
        warm = Callers(served)
        warm.run(2.0)
        alone = Callers(served)
        alone.run(SECONDS / 2)
        before = memory_mb(served.process.pid)
        with _bothered(served):
            beside = Callers(served)
            beside.run(SECONDS)
            middle = memory_mb(served.process.pid)
        after = memory_mb(served.process.pid)
        cleared = eventually(lambda: set(served.plugins().values()) <= {"mockgpt"}, 40)
        left = sorted(set(served.plugins().values()) - {"mockgpt"})
        pid = served.process.pid
        still = Path(f"/proc/{pid}").exists()
    quiet, loud = percentile(alone.times, 0.99), percentile(beside.times, 0.99)
    proof.line("healthy streams alone: calls, p50, p99", _said(alone.times))
    proof.line("beside the storm: calls, p50, p99", _said(beside.times))
    proof.line("p99 beside the storm", f"{loud / quiet:.2f} times", loud <= 1.5 * quiet)
    proof.line("answers at once, alone: calls, p50, p99", _said(alone.bare))
    proof.line("beside the storm: calls, p50, p99", _said(beside.bare))
    proof.line("healthy calls that failed", len(alone.errors) + len(beside.errors), not (alone.errors + beside.errors))
    seen = f"{before:.1f}, {middle:.1f}, {after:.1f} MB"
    proof.line("host's memory before, during, after", seen, after - before < 15)
    proof.line("bad processes left", ", ".join(left) or "none", cleared is not None and not left)
    proof.line("the host", "lives" if still else "died", still)
    proof.figures |= {
        "p99_alone_ms": round(quiet * 1000, 1), "p99_beside_ms": round(loud * 1000, 1), "ratio": round(loud / quiet, 2),
        "bare_p99_alone_ms": round(percentile(alone.bare, 0.99) * 1000, 1),
        "bare_p99_beside_ms": round(percentile(beside.bare, 0.99) * 1000, 1),
        "grown_mb": round(after - before, 1), "cores": os.cpu_count(),
    }  # fmt: skip
    return proof


def _said(times: Sequence[float]) -> str:
    return f"{len(times)}, {percentile(times, 0.5) * 1000:.0f} ms, {percentile(times, 0.99) * 1000:.0f} ms"
