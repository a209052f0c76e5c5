"""Run 50 plugins that crash at start and one that forks, leaks and spins; calls to a
healthy plugin must not suffer."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.processes import memory_mb

from modelyard.base.errors import InvokeError
from modelyard.transport.http import HttpClient
from tools.show.odd_plugins import odd_plugin
from tools.show.plugged import (
    EXAMPLES,
    PluginServer,
    eventually,
    percentile,
    server_with_plugins,
)
from tools.show.proof import ROOT, Proof

CRASHERS, SECONDS, AT_ONCE = 50, 25.0, 2
_SETTINGS = (
    "plugins: {debug_port: 0, memory_mb: 400, start_seconds: 10}\nlog_level: error\n"
)


def _storm(folder: Path) -> Sequence[Path]:
    """Write the crashing plugins and the one that exhausts resources."""
    crashing_plugins = [
        odd_plugin(folder, "crash", name=f"crash{index}") for index in range(CRASHERS)
    ]
    return [*crashing_plugins, odd_plugin(folder, "menace")]


class Callers:
    """Concurrent callers of a healthy plugin, each sending one call after the other
    with a lightweight client."""

    def __init__(self, served: PluginServer) -> None:
        self._url = f"{served.origin}/v1/chat/completions"
        self.times: list[float] = []
        """Durations in seconds of streamed responses, which take the plugin's own time
        per word."""
        self.plain_times: list[float] = []
        """Durations in seconds of responses that are not streamed: little but the
        overhead of the round trip."""
        self.errors: list[str] = []

    def run(self, seconds: float) -> None:
        """Call for so many seconds; the durations and errors are collected in the
        attributes."""
        asyncio.run(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        client = HttpClient()
        until = time.monotonic() + seconds
        # Streamed and plain calls run side by side, so both see the same load.
        kinds = [(self.times, b"true"), (self.plain_times, b"false")] * AT_ONCE
        await asyncio.gather(
            *(self._call(client, until, *call_arguments) for call_arguments in kinds)
        )
        await client.aclose()

    async def _call(
        self, client: HttpClient, until: float, times: list[float], stream: bytes
    ) -> None:
        body = (
            b'{"model":"mockgpt/mock-gpt-v1","messages":[{"role":"user","content":"hi"}],"stream":%b}'
            % stream
        )
        headers = {"content-type": "application/json"}
        while time.monotonic() < until:
            started_at = time.monotonic()
            response = await client.send(
                "POST", self._url, headers=headers, body=[body]
            )
            response_body = await response.read()
            times.append(time.monotonic() - started_at)
            # A stream that does not end with the end marker was cut short, even with
            # status 200.
            if response.status != 200 or (
                stream == b"true" and not response_body.endswith(b"[DONE]\n\n")
            ):
                self.errors.append(response_body.decode()[:200])
            await asyncio.sleep(
                0.02
            )  # the machine is not to be full: it is to be told who takes from whom


def call_repeatedly(origin: str, key: str, names: Sequence[str]) -> None:
    """Call the misbehaving plugins repeatedly until this process is killed."""

    async def work() -> None:
        """Call every plugin in turn, forever."""
        client = HttpClient()
        url = f"{origin}/plugin/default/dispatch/tool/invoke"
        while True:
            for name in names:
                data = {
                    "provider": name,
                    "tool": "odd",
                    "credentials": {},
                    "tool_parameters": {},
                }
                headers = {
                    "content-type": "application/json",
                    "x-api-key": key,
                    "x-plugin-id": f"odd/{name}",
                }
                body = json.dumps({"user_id": "u", "data": data}).encode()
                # These calls are expected to fail or to hang; only the load matters.
                with suppress(InvokeError, TimeoutError):
                    async with asyncio.timeout(3):
                        response = await client.send(
                            "POST", url, headers=headers, body=[body]
                        )
                        await response.read()
                await asyncio.sleep(0.02)

    asyncio.run(work())


@contextmanager
def _storm_running(served: PluginServer) -> Generator[None]:
    """Run separate processes that call the misbehaving plugins while the block runs."""
    key = (served.home / "plugin.key").read_text().strip()
    crashers = [f"crash{index}" for index in range(CRASHERS)]
    code = "import sys; from tools.show.plugin_storm import call_repeatedly; call_repeatedly(sys.argv[1], sys.argv[2], sys.argv[3:])"
    # The crashing plugins and the resource attack get separate callers, so a hanging
    # call does not delay the others.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, served.origin, key, *names],
            cwd=ROOT,
            start_new_session=True,
        )
        for names in (crashers, ["menace"])
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def prove() -> Proof:
    """Compare latency, errors and host memory with and without the misbehaving plugins."""
    proof = Proof()
    with server_with_plugins(
        EXAMPLES / "mockgpt", settings=_SETTINGS, make=_storm
    ) as served:
        # Warm up first: the first calls start the plugin.
        warm = Callers(served)
        warm.run(2.0)
        alone = Callers(served)
        alone.run(SECONDS / 2)
        memory_before = memory_mb(served.process.pid)
        with _storm_running(served):
            during_storm = Callers(served)
            during_storm.run(SECONDS)
            memory_during = memory_mb(served.process.pid)
        memory_after = memory_mb(served.process.pid)
        # After the storm, every process of the misbehaving plugins has to disappear.
        cleared = eventually(lambda: set(served.plugins().values()) <= {"mockgpt"}, 40)
        left = sorted(set(served.plugins().values()) - {"mockgpt"})
        is_running = Path(f"/proc/{served.process.pid}").exists()
    _report_latency(proof, alone, during_storm)
    grown = memory_after - memory_before
    proof.line(
        "host's memory before, during, after",
        f"{memory_before:.1f}, {memory_during:.1f}, {memory_after:.1f} MB",
        grown < 15,
    )
    proof.line(
        "misbehaving processes left",
        ", ".join(left) or "none",
        cleared is not None and not left,
    )
    proof.line("the host", "is running" if is_running else "exited", is_running)
    proof.figures |= {"grown_mb": round(grown, 1), "cores": os.cpu_count()}
    return proof


def _report_latency(proof: Proof, alone: Callers, during_storm: Callers) -> None:
    """Report the latency of streams and of complete answers, and the failed calls."""
    quiet, loud = percentile(alone.times, 0.99), percentile(during_storm.times, 0.99)
    proof.line("healthy streams alone: calls, p50, p99", _format_times(alone.times))
    proof.line("during the storm: calls, p50, p99", _format_times(during_storm.times))
    proof.line("p99 during the storm", f"{loud / quiet:.2f} times", loud <= 1.5 * quiet)
    proof.line(
        "complete answers alone: calls, p50, p99", _format_times(alone.plain_times)
    )
    proof.line(
        "during the storm: calls, p50, p99", _format_times(during_storm.plain_times)
    )
    errors = alone.errors + during_storm.errors
    proof.line("healthy calls that failed", len(errors), not errors)
    bare_quiet, bare_loud = (
        percentile(callers.plain_times, 0.99) for callers in (alone, during_storm)
    )
    proof.figures |= {
        "p99_alone_ms": round(quiet * 1000, 1),
        "p99_beside_ms": round(loud * 1000, 1),
        "ratio": round(loud / quiet, 2),
        "bare_p99_alone_ms": round(bare_quiet * 1000, 1),
        "bare_p99_beside_ms": round(bare_loud * 1000, 1),
    }


def _format_times(times: Sequence[float]) -> str:
    """Format the number of calls with their p50 and p99."""
    return f"{len(times)}, {percentile(times, 0.5) * 1000:.0f} ms, {percentile(times, 0.99) * 1000:.0f} ms"
