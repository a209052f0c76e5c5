"""What a call costs with everything on (authentication, balancing over three credentials, limits, ledger, metrics), in
the server's own CPU, beside a bare relay, nginx, Portkey's gateway and LiteLLM's proxy, in one run.

The server has one core, the played provider and the callers have the other. Peers are fetched into a folder that is
kept (MODELYARD_PEERS, else in the temporary folder); those that cannot be had are left out, and the table says so.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.show.proof import ROOT, free_port

from bench.gateway import cpu_seconds, started
from bench.upstream import CHUNKS

ROUNDS = 3
_FOLDER = Path(os.environ.get("MODELYARD_PEERS", Path(tempfile.gettempdir()) / "modelyard-peers"))


@dataclass(frozen=True)
class Peer:
    name: str
    pid: int
    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ready_seconds: float = 0.0
    slow: float = 1.0
    """How much slower than the fastest: it is asked less often, so that a run ends."""


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            found += [one for child in children for one in family(int(child))]
    return found


def cpu(pid: int) -> float:
    return sum(cpu_seconds(one) for one in family(pid))


def memory_mb(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def pin(pid: int, core: int) -> None:
    """Onto one core, where there are two."""
    if (os.cpu_count() or 1) > 1:
        for one in family(pid):
            for task in Path(f"/proc/{one}/task").iterdir():
                with suppress(OSError):
                    os.sched_setaffinity(int(task.name), {core})


def load(peer: Peer, connections: int, requests: int, *, stream: bool) -> float:
    """Seconds that the callers needed."""
    command = [
        sys.executable,
        "-m",
        "bench.load",
        "127.0.0.1",
        str(peer.port),
        str(connections),
        str(requests),
        peer.model,
    ]
    environ = {**os.environ, "BENCH_HEADERS": json.dumps(peer.headers)}
    done = subprocess.run(
        [*command, "stream" if stream else "whole"], check=True, capture_output=True, text=True, env=environ, cwd=ROOT
    )
    return json.loads(done.stdout)["seconds"]


def cost(peer: Peer, connections: int, requests: int, *, stream: bool) -> tuple[float, float]:
    """(µs of the server's CPU for one request, requests a second)."""
    before = cpu(peer.pid)
    seconds = load(peer, connections, requests, stream=stream)
    return (cpu(peer.pid) - before) / requests * 1e6, requests / seconds


# ------------------------------------------------------------------------------------------------ who is measured


@contextmanager
def process(
    command: list[str],
    port: int,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 90,
) -> Generator[tuple[int, float]]:
    """(pid, seconds until it listened)."""
    import socket

    begun = time.monotonic()
    log = tempfile.TemporaryFile()  # noqa: SIM115  closed below, after the process
    one = subprocess.Popen(
        command, env={**os.environ, **(environ or {})}, cwd=cwd, stdout=log, stderr=log, start_new_session=True
    )
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
                break
            if one.poll() is not None or time.monotonic() - begun > seconds:
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start: {log.read()[-800:].decode(errors='replace')}")
            time.sleep(0.02)
        yield one.pid, time.monotonic() - begun
    finally:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGTERM)
        try:
            one.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()
        log.close()


@contextmanager
def modelyard(url: str) -> Generator[Peer]:
    """With everything on."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as home:
        settings = {
            "log_level": "warning",
            "local": {"enabled": False},
            "api_keys": ["operator-of-the-bench"],
            "providers": [{
                "name": "openai", "base_url": url,
                "credentials": [{"name": name, "values": {"api_key": f"sk-{name}-bench"}} for name in ("a", "b", "c")],
            }],
            "limits": {
                "requests": {"unit": "requests", "amount": 1_000_000_000, "per": "key"},
                "tokens": {"unit": "tokens", "amount": 1_000_000_000_000, "per": "key"},
                "spend": {"unit": "cost", "amount": 1_000_000, "window": "month"},
            },
        }  # fmt: skip
        (Path(home) / "modelyard.yaml").write_text(json.dumps(settings))
        environ = {"MODELYARD_HOME": home}
        made = subprocess.run(
            [sys.executable, "-m", "modelyard", "keys", "create", "bench", "--json"],
            env={**os.environ, **environ}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        key = json.loads(made.stdout)["key"]
        command = [sys.executable, "-m", "modelyard", "serve", "--port", str(port)]
        with process(command, port, environ=environ) as (pid, seconds):
            yield Peer("modelyard, all on", pid, port, "openai/gpt-5-mini", {"authorization": f"Bearer {key}"}, seconds)


@contextmanager
def relay(url: str) -> Generator[Peer]:
    with started("bench.relay", url) as (pid, port):
        yield Peer("bare relay, nothing on", pid, port, "gpt-5-mini")


@contextmanager
def nginx(url: str) -> Generator[Peer]:
    binary = shutil.which("nginx") or _fetched_nginx()
    port, upstream = free_port(), url.split("/")[2]
    with tempfile.TemporaryDirectory(prefix="modelyard-nginx-") as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 100000000;"
            f" client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
            f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
            f" upstream up {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}"
            f" server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;"
            ' proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        with process([binary, "-c", str(config), "-p", folder, "-e", f"{folder}/error.log"], port) as (pid, seconds):
            yield Peer("nginx, nothing on", pid, port, "gpt-5-mini", ready_seconds=seconds)


def _fetched_nginx() -> str:
    folder = _FOLDER / "nginx"
    found = folder / "root/usr/sbin/nginx"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            "apt-get download nginx || (apt-get update && apt-get download nginx)",
            shell=True,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        subprocess.run("dpkg -x nginx_*.deb root", shell=True, cwd=folder, check=True)
    return str(found)


@contextmanager
def portkey(url: str) -> Generator[Peer]:
    folder, port = _FOLDER / "portkey", free_port()
    server = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not server.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--ignore-scripts", "@portkey-ai/gateway@1.15.2"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": url, "authorization": "Bearer sk-bench"}
    with process(["node", str(server), f"--port={port}", "--headless"], port, cwd=folder) as (pid, seconds):
        yield Peer("Portkey gateway 1.15.2", pid, port, "gpt-5-mini", headers, seconds, 8)


@contextmanager
def litellm(url: str) -> Generator[Peer]:
    folder, port = _FOLDER / "litellm", free_port()
    if not (folder / "bin/litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin/pip"), "install", "--quiet", "litellm[proxy]==1.106.2"]
        subprocess.run(install, check=True, capture_output=True)
    config = folder / "config.yaml"
    params = {"model": "openai/gpt-5-mini", "api_base": url, "api_key": "sk-bench"}
    listed = [{"model_name": "gpt-5-mini", "litellm_params": params}]
    config.write_text(json.dumps({"model_list": listed, "general_settings": {"master_key": "sk-bench"}}))
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [str(folder / "bin/litellm"), "--config", str(config), "--port", str(port), "--num_workers", "1"]
    with process(command, port, environ=environ, cwd=folder) as (pid, seconds):
        time.sleep(3)
        yield Peer("LiteLLM proxy 1.106.2", pid, port, "gpt-5-mini", {"authorization": "Bearer sk-bench"}, seconds, 40)


PEERS: tuple[Callable[[str], Any], ...] = (modelyard, relay, nginx, portkey, litellm)


# ------------------------------------------------------------------------------------------------ the table


def measure(peers: tuple[Callable[[str], Any], ...] = PEERS, *, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Medians of interleaved rounds, for each of the peers that can be had."""
    with started("bench.upstream") as (upstream_pid, upstream):
        url = f"http://127.0.0.1:{upstream}/v1"
        pin(os.getpid(), 1)
        pin(upstream_pid, 1)
        found = [_line(make, url, rounds) for make in peers]
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return found


def _line(make: Callable[[str], Any], url: str, rounds: int) -> dict[str, Any]:
    try:
        with make(url) as peer:
            return _measured(peer, rounds)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return {"system": make.__name__, "left_out": str(error)[:200]}


def _measured(peer: Peer, rounds: int) -> dict[str, Any]:
    pin(peer.pid, 0)
    idle = memory_mb(peer.pid)
    samples: dict[str, list[float]] = {}
    many = int(8000 / peer.slow)
    load(peer, 32, max(50, many // 10), stream=False)
    streams = _can_stream(peer, max(10, many // 200))
    for _ in range(rounds if peer.slow < 10 else 1):
        whole, rate = cost(peer, 32, many, stream=False)
        alone, _ = cost(peer, 1, max(100, many // 4), stream=False)
        for name, value in (("whole", whole), ("rate", rate), ("alone", alone)):
            samples.setdefault(name, []).append(value)
        if streams:
            streamed, _ = cost(peer, 50, max(50, int(600 / peer.slow)), stream=True)
            samples.setdefault("event", []).append((streamed - whole) / CHUNKS)
    median = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "system": peer.name,
        "cpu_us_32": round(median["whole"], 1),
        "cpu_us_1": round(median["alone"], 1),
        "requests_s": round(median["rate"]),
        "cpu_us_event": round(median["event"], 2) if "event" in median else None,
        "mb_idle": round(idle, 1),
        "mb_after": round(memory_mb(peer.pid), 1),
        "ready_s": round(peer.ready_seconds, 2),
    }


def _can_stream(peer: Peer, requests: int) -> bool:
    """Whether its streams work here at all."""
    try:
        load(peer, 32, requests, stream=True)
    except subprocess.CalledProcessError:
        return False
    return True


def slow_streams(count: int = 1000) -> dict[str, Any]:
    """kB that each of so many streams takes, while all run at once and slowly."""
    from tools.show.truth_log import TruthfulUpstream

    with TruthfulUpstream(events=14, gap=1.0) as upstream, modelyard(upstream.url) as peer:
        load(peer, 8, 8, stream=False)
        before = memory_mb(peer.pid)
        command = [
            sys.executable,
            "-m",
            "bench.load",
            "127.0.0.1",
            str(peer.port),
            str(count),
            str(count),
            peer.model,
            "stream",
        ]
        environ = {**os.environ, "BENCH_HEADERS": json.dumps(peer.headers)}
        running = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE)
        time.sleep(9)
        during, served = memory_mb(peer.pid), len(upstream.served)
        running.communicate(timeout=120)
        complete = sum(one.is_complete for one in upstream.served)
    return {
        "streams": count, "at_once": served - 8, "complete": complete - 8,
        "kb_each": round((during - before) * 1024 / count, 1), "mb": round(during, 1),
    }  # fmt: skip
