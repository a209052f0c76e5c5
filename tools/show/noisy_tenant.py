"""One tenant has a hundred times as many callers as another. The quiet tenant's latency
must hardly change."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from modelyard.base.errors import InvokeError
from modelyard.transport.http import HttpClient, Timeouts
from tools.show.proof import Proof, free_port, modelyard
from tools.show.truth_log import (
    TruthfulUpstream,
    home_with,
    kill,
    server_forker,
    wait_until_healthy,
)

_QUIET, _NOISY = 2, 200
_SECONDS = 8.0
_LATENCY = 0.1
_MAX_RATIO = 1.5
"""How much the p99 of the quiet tenant may grow."""


async def callers(port: int, key: str, count: int, seconds: float) -> dict[str, object]:
    """Run `count` callers for some seconds. Each sends its next request as soon as the
    previous one is answered.

    Returns the number of calls, p50 and p99 in seconds, and the first errors.
    """
    client = HttpClient(keep_idle=count, max_connections=count)
    times: list[float] = []
    errors: list[str] = []
    until = time.monotonic() + seconds
    body = {
        "model": "openai/gpt-5-mini",
        "user": "u",
        "messages": [{"role": "user", "content": "hi"}],
    }
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}

    async def caller() -> None:
        """Send requests one after another until the time is over."""
        while time.monotonic() < until:
            started_at = time.monotonic()
            try:
                response = await client.send(
                    "POST",
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    headers=headers,
                    body=[msgspec.json.encode(body)],
                    timeouts=Timeouts(first_byte=30),
                )
                response_body = await response.read(max_bytes=1 << 20)
                if response.status != 200:
                    errors.append(response_body.decode()[:200])
                    # A short pause after an error, so that refusals do not become a
                    # busy loop.
                    await asyncio.sleep(0.05)
            except InvokeError as error:
                errors.append(str(error))
            times.append(time.monotonic() - started_at)

    await asyncio.gather(*(caller() for _ in range(count)))
    await client.aclose()
    times.sort()
    return {
        "calls": len(times),
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "errors": errors[:3],
    }


def _start_callers(
    port: int, key: str, count: int, seconds: float
) -> "subprocess.Popen[str]":
    """Run `callers` in a separate process."""
    # A separate process, so that the noisy callers do not delay the measurement of the
    # quiet ones.
    code = (
        "import asyncio, json, sys; from tools.show.noisy_tenant import callers; "
        + (
            "print(json.dumps(asyncio.run(callers(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))"
        )
    )
    command = [sys.executable, "-c", code, str(port), key, str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _read_result(process: "subprocess.Popen[str]") -> dict[str, object]:
    """Wait for the process and return its result."""
    output, _ = process.communicate(timeout=120)
    return json.loads(output)


def prove() -> Proof:
    """Measure the quiet tenant alone and next to the noisy one."""
    proof, port = Proof(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        TruthfulUpstream(latency=_LATENCY) as upstream,
    ):
        # 32 requests may run at once, so the noisy tenant's 200 callers fill the queue.
        environ = home_with(
            Path(folder),
            upstream.url,
            queue={"capacity": 32, "waiting": 1000, "seconds": 30.0},
        )
        keys = {tenant: add_tenant(tenant, environ) for tenant in ("quiet", "noisy")}
        with server_forker(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            asyncio.run(give_credentials(port, keys, upstream.url))
            alone = _read_result(_start_callers(port, keys["quiet"], _QUIET, _SECONDS))
            # The noise starts earlier and lasts longer than the measurement.
            noise = _start_callers(port, keys["noisy"], _NOISY, _SECONDS + 3)
            time.sleep(1.5)
            under_load = _read_result(
                _start_callers(port, keys["quiet"], _QUIET, _SECONDS)
            )
            noisy = _read_result(noise)
            kill(server, 15)
    for name, result in (
        ("quiet alone", alone),
        ("quiet during the noise", under_load),
        ("noisy", noisy),
    ):
        p50, p99 = float(str(result["p50"])) * 1000, float(str(result["p99"])) * 1000
        proof.line(
            f"{name}: calls, p50, p99", f"{result['calls']}, {p50:.0f} ms, {p99:.0f} ms"
        )
    ratio = float(str(under_load["p99"])) / float(str(alone["p99"]))
    proof.line("p99 during the noise", f"{ratio:.2f} times", ratio <= _MAX_RATIO)
    proof.line(
        "errors of the quiet tenant",
        under_load["errors"] or "none",
        not under_load["errors"],
    )
    proof.figures |= {
        "ratio": round(ratio, 3),
        "alone": alone,
        "beside": under_load,
        "noisy": noisy,
    }
    return proof


def add_tenant(tenant: str, environ: dict[str, str]) -> str:
    """Add a tenant; return an owner's key."""
    modelyard("tenants", "add", tenant, environ=environ)
    options = ("--tenant", tenant, "--role", "owner", "--json")
    created = modelyard("keys", "create", "k", *options, environ=environ)
    return json.loads(created)["key"]


async def give_credentials(port: int, keys: dict[str, str], url: str) -> None:
    """Create a credential for each tenant through the admin API."""
    client = HttpClient()
    for tenant, key in keys.items():
        body = {
            "name": "main",
            "provider": "openai",
            "values": {"api_key": f"sk-{tenant}", "base_url": url},
        }
        response = await client.send(
            "POST",
            f"http://127.0.0.1:{port}/admin/v1/credentials",
            headers={
                "authorization": f"Bearer {key}",
                "content-type": "application/json",
            },
            body=[msgspec.json.encode(body)],
        )
        if response.status != 201:
            raise RuntimeError((await response.read()).decode())
        await response.read()
    await client.aclose()
