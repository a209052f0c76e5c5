"""Server CPU per call with all features on (authentication, balancing over three
credentials, limits, ledger, metrics), compared with a bare relay, nginx, Portkey's
gateway and LiteLLM's proxy in one run.

The server has one core; the simulated provider and the callers share the other. Peers
are downloaded into a folder that is kept (MODELYARD_PEERS, by default in the temporary
folder). Peers that cannot be installed are left out, and the table says so.
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

from bench.gateway import cpu_seconds, start_process
from bench.upstream import CHUNKS

ROUNDS = 3
_FOLDER = Path(
    os.environ.get("MODELYARD_PEERS", Path(tempfile.gettempdir()) / "modelyard-peers")
)


@dataclass(frozen=True)
class Peer:
    """A running server under measurement: its process, port, model name and request
    headers."""

    name: str
    pid: int
    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ready_seconds: float = 0.0
    slow: float = 1.0
    """Slowdown relative to the fastest peer. Slow peers get fewer requests, so that a
    run ends in reasonable time."""


def process_tree(pid: int) -> list[int]:
    """Return the pid of a process and the pids of all its descendants."""
    pids = [pid]
    # A process may exit while /proc is read.
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            pids += [
                descendant
                for child in children
                for descendant in process_tree(int(child))
            ]
    return pids


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants."""
    return sum(cpu_seconds(member) for member in process_tree(pid))


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process and its descendants in MiB."""
    pages = sum(
        int(Path(f"/proc/{member}/statm").read_text().split()[1])
        for member in process_tree(pid)
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def pin(pid: int, core: int) -> None:
    """Pin all threads of a process and its descendants to one core, if the machine has
    at least two."""
    if (os.cpu_count() or 1) > 1:
        for member in process_tree(pid):
            for task in Path(f"/proc/{member}/task").iterdir():
                with suppress(OSError):
                    os.sched_setaffinity(int(task.name), {core})


def load(peer: Peer, connections: int, requests: int, *, stream: bool) -> float:
    """Send the requests and return the seconds that they took."""
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
    completed = subprocess.run(
        [*command, "stream" if stream else "whole"],
        check=True,
        capture_output=True,
        text=True,
        env=environ,
        cwd=ROOT,
    )
    return json.loads(completed.stdout)["seconds"]


def cost(
    peer: Peer, connections: int, requests: int, *, stream: bool
) -> tuple[float, float]:
    """Return (µs of the server's CPU for one request, requests per second)."""
    cpu_before = tree_cpu_seconds(peer.pid)
    seconds = load(peer, connections, requests, stream=stream)
    return (
        tree_cpu_seconds(peer.pid) - cpu_before
    ) / requests * 1e6, requests / seconds


# ---------------------------------------------------------------------- who is measured


@contextmanager
def process(
    command: list[str],
    port: int,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 90,
) -> Generator[tuple[int, float]]:
    """Run a server and yield its (pid, seconds until it accepted connections).

    Raises RuntimeError with the end of its log if it exits or does not listen within
    `seconds`.
    """
    import socket

    started_at = time.monotonic()
    log = tempfile.TemporaryFile()  # noqa: SIM115
    # A session of its own, so that killpg also reaches the server's worker processes.
    server = subprocess.Popen(
        command,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        # The server is ready when its port accepts a connection.
        while True:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=0.5),
            ):
                break
            if server.poll() is not None or time.monotonic() - started_at > seconds:
                log.seek(0)
                raise RuntimeError(
                    f"{command[0]} did not start: {log.read()[-800:].decode(errors='replace')}"
                )
            time.sleep(0.02)
        yield server.pid, time.monotonic() - started_at
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        # The server did not exit on SIGTERM within 15 seconds.
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()


@contextmanager
def modelyard(url: str) -> Generator[Peer]:
    """Run Modelyard with all features on."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as home:
        settings = {
            "log_level": "warning",
            "local": {"enabled": False},
            "api_keys": ["operator-of-the-bench"],
            "providers": [
                {
                    "name": "openai",
                    "base_url": url,
                    "credentials": [
                        {"name": name, "values": {"api_key": f"sk-{name}-bench"}}
                        for name in ("a", "b", "c")
                    ],
                }
            ],
            # The limits are never reached, but each call has to check and settle all
            # three.
            "limits": {
                "requests": {"unit": "requests", "amount": 1_000_000_000, "per": "key"},
                "tokens": {"unit": "tokens", "amount": 1_000_000_000_000, "per": "key"},
                "spend": {"unit": "cost", "amount": 1_000_000, "window": "month"},
            },
        }
        (Path(home) / "modelyard.yaml").write_text(json.dumps(settings))
        environ = {"MODELYARD_HOME": home}
        # The key is created before the server starts, in the same home folder.
        created_key = subprocess.run(
            [sys.executable, "-m", "modelyard", "keys", "create", "bench", "--json"],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        key = json.loads(created_key.stdout)["key"]
        command = [sys.executable, "-m", "modelyard", "serve", "--port", str(port)]
        with process(command, port, environ=environ) as (pid, seconds):
            yield Peer(
                "modelyard, all on",
                pid,
                port,
                "openai/gpt-5-mini",
                {"authorization": f"Bearer {key}"},
                seconds,
            )


@contextmanager
def relay(url: str) -> Generator[Peer]:
    """Run the bare relay, the lower bound for a gateway in Python."""
    with start_process("bench.relay", url) as (pid, port):
        yield Peer("bare relay, nothing on", pid, port, "gpt-5-mini")


@contextmanager
def nginx(url: str) -> Generator[Peer]:
    """Run nginx as a reverse proxy; it is downloaded if it is not installed."""
    binary = shutil.which("nginx") or _download_nginx()
    port, upstream = free_port(), url.split("/")[2]
    with tempfile.TemporaryDirectory(prefix="modelyard-nginx-") as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 100000000;"
            f" client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
            f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
            # Keep-alive on both sides and no buffering, so that streamed chunks pass at
            # once.
            f" upstream up {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}"
            f" server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;"
            ' proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        with process(
            [binary, "-c", str(config), "-p", folder, "-e", f"{folder}/error.log"], port
        ) as (pid, seconds):
            yield Peer(
                "nginx, nothing on", pid, port, "gpt-5-mini", ready_seconds=seconds
            )


def _download_nginx() -> str:
    """Download nginx's Debian package, unpack it without installing it and return the
    path of the binary."""
    folder = _FOLDER / "nginx"
    binary = folder / "root/usr/sbin/nginx"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            "apt-get download nginx || (apt-get update && apt-get download nginx)",
            shell=True,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        subprocess.run("dpkg -x nginx_*.deb root", shell=True, cwd=folder, check=True)
    return str(binary)


@contextmanager
def portkey(url: str) -> Generator[Peer]:
    """Run Portkey's gateway; it is installed by npm if it is missing."""
    folder, port = _FOLDER / "portkey", free_port()
    server = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not server.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "npm",
                "install",
                "--silent",
                "--ignore-scripts",
                "@portkey-ai/gateway@1.15.2",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": url,
        "authorization": "Bearer sk-bench",
    }
    with process(
        ["node", str(server), f"--port={port}", "--headless"], port, cwd=folder
    ) as (pid, seconds):
        yield Peer(
            "Portkey gateway 1.15.2", pid, port, "gpt-5-mini", headers, seconds, 8
        )


@contextmanager
def litellm(url: str) -> Generator[Peer]:
    """Run LiteLLM's proxy with one worker; it is installed by pip if it is missing."""
    folder, port = _FOLDER / "litellm", free_port()
    if not (folder / "bin/litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [
            str(folder / "bin/pip"),
            "install",
            "--quiet",
            "litellm[proxy]==1.106.2",
        ]
        subprocess.run(install, check=True, capture_output=True)
    config = folder / "config.yaml"
    params = {"model": "openai/gpt-5-mini", "api_base": url, "api_key": "sk-bench"}
    listed = [{"model_name": "gpt-5-mini", "litellm_params": params}]
    config.write_text(
        json.dumps(
            {"model_list": listed, "general_settings": {"master_key": "sk-bench"}}
        )
    )
    # Use the bundled price table and send no telemetry: neither may use the network
    # during the run.
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [
        str(folder / "bin/litellm"),
        "--config",
        str(config),
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    with process(command, port, environ=environ, cwd=folder) as (pid, seconds):
        # Give LiteLLM time to finish its initialisation after the port accepts
        # connections.
        time.sleep(3)
        yield Peer(
            "LiteLLM proxy 1.106.2",
            pid,
            port,
            "gpt-5-mini",
            {"authorization": "Bearer sk-bench"},
            seconds,
            40,
        )


PEERS: tuple[Callable[[str], Any], ...] = (modelyard, relay, nginx, portkey, litellm)


# ---------------------------------------------------------------------------- the table


def measure(
    peers: tuple[Callable[[str], Any], ...] = PEERS, *, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Return the medians of interleaved rounds, with one row for each peer."""
    with start_process("bench.upstream") as (upstream_pid, upstream):
        url = f"http://127.0.0.1:{upstream}/v1"
        # The callers inherit this process's core; the measured server gets core 0
        # alone.
        pin(os.getpid(), 1)
        pin(upstream_pid, 1)
        rows = [_line(make, url, rounds) for make in peers]
        # Release this process again, so that later measurements are not restricted to
        # one core.
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return rows


def _line(make: Callable[[str], Any], url: str, rounds: int) -> dict[str, Any]:
    """Return the row of one peer; if it cannot run, the row holds the reason as
    `left_out`."""
    try:
        with make(url) as peer:
            return _measure_peer(peer, rounds)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return {"system": make.__name__, "left_out": str(error)[:200]}


def _measure_peer(peer: Peer, rounds: int) -> dict[str, Any]:
    """Measure one running peer and return its row."""
    pin(peer.pid, 0)
    idle = memory_mb(peer.pid)
    samples: dict[str, list[float]] = {}
    request_count = int(8000 / peer.slow)
    # Warm-up, and a check whether streaming works, before anything is counted.
    load(peer, 32, max(50, request_count // 10), stream=False)
    streams = _can_stream(peer, max(10, request_count // 200))
    # Very slow peers are measured in one round only.
    for _ in range(rounds if peer.slow < 10 else 1):
        complete_us, rate = cost(peer, 32, request_count, stream=False)
        alone, _ = cost(peer, 1, max(100, request_count // 4), stream=False)
        for name, value in (("whole", complete_us), ("rate", rate), ("alone", alone)):
            samples.setdefault(name, []).append(value)
        if streams:
            streamed, _ = cost(peer, 50, max(50, int(600 / peer.slow)), stream=True)
            # The cost of a chunk is what a stream costs beyond a complete answer, per
            # chunk.
            samples.setdefault("event", []).append((streamed - complete_us) / CHUNKS)
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
    """Return whether the peer's streams work in this environment."""
    try:
        load(peer, 32, requests, stream=True)
    except subprocess.CalledProcessError:
        return False
    return True


def slow_streams(count: int = 1000) -> dict[str, Any]:
    """Return the memory per stream in kB while `count` slow streams run at the same
    time."""
    from tools.show.truth_log import TruthfulUpstream

    with (
        TruthfulUpstream(events=14, gap=1.0) as upstream,
        modelyard(upstream.url) as peer,
    ):
        # Eight calls warm the server up; they are subtracted from the counts below.
        load(peer, 8, 8, stream=False)
        mb_before = memory_mb(peer.pid)
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
        running = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdout=subprocess.PIPE
        )
        # At one event per second a stream takes 14 seconds; after 9 all of them are
        # open.
        time.sleep(9)
        during, served = memory_mb(peer.pid), len(upstream.served)
        running.communicate(timeout=120)
        complete = sum(request.is_complete for request in upstream.served)
    return {
        "streams": count,
        "at_once": served - 8,
        "complete": complete - 8,
        "kb_each": round((during - mb_before) * 1024 / count, 1),
        "mb": round(during, 1),
    }
