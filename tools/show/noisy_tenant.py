"""A tenant with a hundred times the callers of another: the quiet one hardly notices."""

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
from tools.show.truth_log import TruthfulUpstream, home_with, kill, ready, zygote

_QUIET, _NOISY = 2, 200
_SECONDS = 8.0
_LATENCY = 0.1


async def callers(port: int, key: str, count: int, seconds: float) -> dict[str, object]:
    """Closed loops: each calls again as soon as it is answered."""
    client = HttpClient(keep_idle=count, max_connections=count)
    times: list[float] = []
    errors: list[str] = []
    until = time.monotonic() + seconds
    body = {"model": "openai/gpt-5-mini", "user": "u", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}

    async def one() -> None:
        while time.monotonic() < until:
            begun = time.monotonic()
            try:
                response = await client.send(
                    "POST", f"http://127.0.0.1:{port}/v1/chat/completions", headers=headers,
                    body=[msgspec.json.encode(body)], timeouts=Timeouts(first_byte=30),
                )  # fmt: skip
                said = await response.read(most=1 << 20)
                if response.status != 200:
                    errors.append(said.decode()[:200])
                    await asyncio.sleep(0.05)
            except InvokeError as error:
                errors.append(str(error))
            times.append(time.monotonic() - begun)

    await asyncio.gather(*(one() for _ in range(count)))
    await client.aclose()
    times.sort()
    return {
        "calls": len(times),
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "errors": errors[:3],
    }


def _apart(port: int, key: str, count: int, seconds: float) -> "subprocess.Popen[str]":
    """In a process of its own."""
    code = "import asyncio, json, sys; from tools.show.noisy_tenant import callers; " + (
        "print(json.dumps(asyncio.run(callers(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))"
    )
    command = [sys.executable, "-c", code, str(port), key, str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _said(process: "subprocess.Popen[str]") -> dict[str, object]:
    out, _ = process.communicate(timeout=120)
    return json.loads(out)


def prove() -> Proof:
    proof, port = Proof(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder,
        TruthfulUpstream(latency=_LATENCY) as upstream,
    ):
        environ = home_with(Path(folder), upstream.url, queue={"capacity": 32, "waiting": 1000, "seconds": 30.0})
        keys: dict[str, str] = {}
        for tenant in ("quiet", "noisy"):
            modelyard("tenants", "add", tenant, environ=environ)
            made = modelyard("keys", "create", "k", "--tenant", tenant, "--role", "owner", "--json", environ=environ)
            keys[tenant] = json.loads(made)["key"]
        with zygote(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            ready(port)
            asyncio.run(_give_credentials(port, keys, upstream.url))
            alone = _said(_apart(port, keys["quiet"], _QUIET, _SECONDS))
            noise = _apart(port, keys["noisy"], _NOISY, _SECONDS + 3)
            time.sleep(1.5)
            beside = _said(_apart(port, keys["quiet"], _QUIET, _SECONDS))
            noisy = _said(noise)
            kill(server, 15)
    ratio = float(str(beside["p99"])) / float(str(alone["p99"]))
    for name, found in (("quiet alone", alone), ("quiet beside the noisy", beside), ("noisy", noisy)):
        p50, p99 = float(str(found["p50"])) * 1000, float(str(found["p99"])) * 1000
        proof.line(f"{name}: calls, p50, p99", f"{found['calls']}, {p50:.0f} ms, {p99:.0f} ms")
    proof.line("p99 beside the noisy one", f"{ratio:.2f} times", ratio <= 1.5)
    proof.line("errors that the quiet one saw", beside["errors"] or "none", not beside["errors"])
    proof.figures |= {"ratio": round(ratio, 3), "alone": alone, "beside": beside, "noisy": noisy}
    return proof


async def _give_credentials(port: int, keys: dict[str, str], url: str) -> None:
    """Each tenant has its own, through the admin API."""
    client = HttpClient()
    for tenant, key in keys.items():
        body = {"name": "main", "provider": "openai", "values": {"api_key": f"sk-{tenant}", "base_url": url}}
        response = await client.send(
            "POST", f"http://127.0.0.1:{port}/admin/v1/credentials",
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            body=[msgspec.json.encode(body)],
        )  # fmt: skip
        if response.status != 201:
            raise RuntimeError((await response.read()).decode())
        await response.read()
    await client.aclose()
