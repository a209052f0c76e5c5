"""The servers of the gateway benchmark: nginx, Modelyard, and the gateways that it is
compared with, each ready to be measured.

Peers are installed when they are first needed, into a folder of this machine's user
(MODELYARD_BENCH_CACHE, by default ~/.cache/modelyard-bench). A peer that cannot be
installed raises an error, and the benchmark's table says that it is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.show.proof import ROOT, free_port

from bench.native import CACHE
from bench.processes import running_server

_PORTKEY = "1.15.2"
# Pinned: its package accepts any later version of these two.
_PORTKEY_OVERRIDES = {"hono": "4.9.7", "@hono/node-server": "1.3.3"}
_LITELLM = "1.106.2"
_TENSORZERO = "2026.6.0"
_UPSTREAM_KEYS = ("sk-upstream-a", "sk-upstream-b", "sk-upstream-c")


@dataclass(frozen=True)
class Setting:
    """What every server is started with."""

    upstream: int
    """Port of the simulated provider."""
    models: Collection[str]
    """The models that callers use."""
    cores: Collection[int] = (0,)
    """The processors on which the server may run."""

    @property
    def url(self) -> str:
        """The provider's base URL."""
        return f"http://127.0.0.1:{self.upstream}/v1"


@dataclass(frozen=True)
class Server:
    """A running server, and how it is called."""

    pid: int
    port: int
    ready_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    chat_path: str = "/v1/chat/completions"
    messages_path: str | None = None
    """The path of Anthropic's Messages; None if there is none for this provider."""
    prefix: str = ""
    """What callers write before a model's name."""
    warm_up_seconds: float = 1.0
    """Time under load until compiled code and lazily imported modules are in place."""


Start = Callable[[Setting], AbstractContextManager[Server]]


# ------------------------------------------------------------------------------- nginx

_NGINX = """
worker_processes 1; daemon off; master_process off;
pid {folder}/pid; error_log {folder}/error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000; keepalive_timeout 600s; client_body_buffer_size 256k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream provider {{
    server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer {key}";
      proxy_read_timeout 600s;
    }}
  }}
}}
"""
"""Keep-alive on both sides and no buffering, so that streamed chunks pass at once."""


def nginx_binary() -> str | None:
    """Return the path of an installed nginx, or None."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def nginx(setting: Setting) -> Generator[Server]:
    """Run nginx as a reverse proxy that replaces the key and does nothing else."""
    binary, port = nginx_binary() or _download_nginx(), free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-nginx-") as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            _NGINX.format(
                folder=folder,
                upstream=setting.upstream,
                port=port,
                key=_UPSTREAM_KEYS[0],
            )
        )
        log = f"{folder}/error.log"
        command = [binary, "-c", str(config), "-p", folder, "-e", log]
        with running_server(command, port, cores=setting.cores) as (pid, _, seconds):
            yield Server(pid, port, seconds)


def _download_nginx() -> str:
    """Unpack Debian's package of nginx without installing it; return the path of the
    binary."""
    folder = CACHE / "nginx"
    binary = folder / "root/usr/sbin/nginx"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        download = "apt-get download nginx"
        # A machine may not have the lists of packages yet.
        script = f"{download} || (apt-get update && {download})"
        _install(["sh", "-c", script], folder)
        package = next(folder.glob("nginx_*.deb"))
        _install(["dpkg", "-x", package.name, "root"], folder)
    return str(binary)


# --------------------------------------------------------------------------- Modelyard


def _settings(setting: Setting, **extra_settings: Any) -> dict[str, Any]:
    """Return the content of modelyard.yaml: everything on that a call can pay for."""
    prices = {"context_size": 32768, "input_price": 0.25, "output_price": 2.0}
    provider = {
        "name": "bench",
        "base_url": setting.url,
        "models": [{"name": name, **prices} for name in setting.models],
        "credentials": [
            {"name": key[-1], "values": {"api_key": key}} for key in _UPSTREAM_KEYS
        ],
    }
    return {
        "log_level": "warning",
        "local": {"enabled": False},
        "api_keys": ["operator-of-the-bench"],
        "providers": [provider],
        # Never reached, but each call has to check and settle all three of them.
        "limits": {
            "requests": {"unit": "requests", "amount": 1_000_000_000, "per": "key"},
            "tokens": {"unit": "tokens", "amount": 1_000_000_000_000, "per": "key"},
            "spend": {"unit": "cost", "amount": 1_000_000, "window": "month"},
        },
        **extra_settings,
    }


@contextmanager
def modelyard(
    setting: Setting,
    *,
    command: Sequence[str] = ("-m", "modelyard"),
    **extra_settings: Any,
) -> Generator[Server]:
    """Run Modelyard with all features on. `extra_settings` are further fields of its
    settings; `command` is what the interpreter runs."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as home:
        document = json.dumps(_settings(setting, **extra_settings))
        (Path(home) / "modelyard.yaml").write_text(document)
        environ = {"MODELYARD_HOME": home}
        # Created in the same home before the server starts.
        headers = {"authorization": f"Bearer {_create_key(environ)}"}
        serve = [sys.executable, *command, "serve", "--port", str(port)]
        with running_server(
            serve, port, cores=setting.cores, environ=environ
        ) as running:
            pid, _, seconds = running
            _refuses_unknown_keys(port)
            yield Server(
                pid,
                port,
                seconds,
                headers,
                messages_path="/v1/messages",
                prefix="bench/",
                warm_up_seconds=2,
            )


def _create_key(environ: Mapping[str, str]) -> str:
    """Create a key with a role and a list of models, and return it."""
    command = ["-m", "modelyard", "keys", "create", "bench", "--json"]
    restrictions = ["--role", "developer", "--model", "bench/*"]
    completed = subprocess.run(
        [sys.executable, *command, *restrictions],
        env={**os.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(completed.stdout)["key"]


def _refuses_unknown_keys(port: int) -> None:
    """Raise RuntimeError unless a call with an unknown key is refused: without its
    checks the server would be measured too cheap."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        b"{}",
        {"authorization": "Bearer sk-unknown", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            raise RuntimeError("Modelyard accepts calls without a valid API key")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise RuntimeError(
                f"An unknown key is answered with {error.code}"
            ) from None


@contextmanager
def modelyard_on_servers(setting: Setting) -> Generator[Server]:
    """Run Modelyard on PostgreSQL, with its limits counted in Valkey. The processor
    time of these two is not counted."""
    from tools.show.servers import Postgres, Valkey

    with (
        tempfile.TemporaryDirectory(prefix="modelyard-stores-") as folder,
        Postgres(Path(folder) / "postgres") as postgres,
        Valkey(Path(folder) / "valkey") as valkey,
        modelyard(setting, database=postgres.url, shared=valkey.url) as server,
    ):
        yield server


# ------------------------------------------------------------------------------- peers


def _install(command: list[str], folder: Path) -> None:
    """Run a command of an installation. Raises RuntimeError with the end of its output
    if it fails."""
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{command[0]}: {error.stderr.strip()[-300:]}") from None


def _python_environment(name: str, requirement: str) -> Path:
    """Return the folder of a virtual environment with this package; make it if it is
    missing or has another version."""
    folder = CACHE / name
    marker = folder / f"installed-{requirement.partition('==')[2]}"
    if not marker.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(folder)], CACHE)
        python = str(folder / "bin/python")
        _install([python, "-m", "pip", "install", "--quiet", requirement], CACHE)
        # Without compiled code LiteLLM appears a quarter slower than it is.
        subprocess.run([python, "-m", "compileall", "-q", str(folder)], check=False)
        marker.touch()
    return folder


@contextmanager
def tensorzero(setting: Setting) -> Generator[Server]:
    """Run TensorZero's gateway without its observability database."""
    environment = _python_environment("tensorzero", f"tensorzero=={_TENSORZERO}")
    with tempfile.TemporaryDirectory(prefix="modelyard-tensorzero-") as folder:
        config, port_file = Path(folder) / "tensorzero.toml", Path(folder) / "port"
        config.write_text(_tensorzero_config(setting))
        program = ROOT / "bench" / "tensorzero_peer.py"
        python = str(environment / "bin/python")
        command = [python, str(program), str(config), str(port_file)]
        with running_server(command, port_file, cores=setting.cores) as running:
            yield Server(
                *running,
                headers={"authorization": "Bearer sk-bench"},
                chat_path="/openai/v1/chat/completions",
                prefix="tensorzero::model_name::",
            )


def _tensorzero_config(setting: Setting) -> str:
    """Return a configuration in which each model has one provider."""
    tables = [
        f'[models."{name}"]\nrouting = ["openai"]\n'
        f'[models."{name}".providers.openai]\ntype = "openai"\n'
        f'model_name = "up-{name}"\napi_base = "{setting.url}/"\n'
        'api_key_location = "none"\n'
        for name in setting.models
    ]
    head = "[gateway]\nobservability.enabled = false\ndebug = false\n"
    return head + "".join(tables)


@contextmanager
def portkey(setting: Setting) -> Generator[Server]:
    """Run Portkey's gateway, which is configured by headers of each request."""
    folder, port = CACHE / f"portkey-{_PORTKEY}", free_port()
    program = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = {
            "private": True,
            "dependencies": {"@portkey-ai/gateway": _PORTKEY},
            "overrides": _PORTKEY_OVERRIDES,
        }
        (folder / "package.json").write_text(json.dumps(package))
        _install(["npm", "install", "--silent", "--ignore-scripts"], folder)
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": setting.url,
        "authorization": "Bearer sk-bench",
    }
    with running_server(
        ["node", str(program), "--headless", f"--port={port}"],
        port,
        cores=setting.cores,
        environ={"NODE_ENV": "production"},
    ) as running:
        # Node compiles what is called often for many seconds.
        yield Server(*running, headers=headers, warm_up_seconds=15)


@contextmanager
def litellm(setting: Setting) -> Generator[Server]:
    """Run LiteLLM's proxy: one worker, three deployments of each model, and a key."""
    environment = _python_environment("litellm", f"litellm[proxy]=={_LITELLM}")
    port = free_port()
    # Neither its price table nor its telemetry may use the network during the run.
    environ = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Otherwise Anthropic's Messages become OpenAI's Responses.
        "LITELLM_USE_CHAT_COMPLETIONS_URL_FOR_ANTHROPIC_MESSAGES": "True",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
    }
    with tempfile.TemporaryDirectory(prefix="modelyard-litellm-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(_litellm_config(setting)))
        program = str(environment / "bin/litellm")
        address = ["--host", "127.0.0.1", "--port", str(port)]
        with running_server(
            [program, "--config", str(config), *address],
            port,
            cores=setting.cores,
            environ=environ,
            seconds=240,
        ) as running:
            yield Server(
                *running,
                headers={"authorization": "Bearer sk-bench"},
                messages_path="/v1/messages",
                warm_up_seconds=6,
            )


def _litellm_config(setting: Setting) -> dict[str, Any]:
    """Return a configuration in which each model has a deployment per upstream key."""
    deployments = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/up-{name}",
                "api_base": setting.url,
                "api_key": key,
            },
        }
        for name in setting.models
        for key in _UPSTREAM_KEYS
    ]
    return {
        "model_list": deployments,
        "general_settings": {"master_key": "sk-bench"},
        "litellm_settings": {"request_timeout": 600, "telemetry": False},
        "router_settings": {"routing_strategy": "simple-shuffle"},
    }


REFERENCE, PRODUCT = "nginx", "Modelyard"
PRODUCT_ON_SERVERS = "Modelyard on PostgreSQL and Valkey"
SERVERS: Mapping[str, Start] = {
    REFERENCE: nginx,
    PRODUCT: modelyard,
    PRODUCT_ON_SERVERS: modelyard_on_servers,
    "TensorZero": tensorzero,
    "Portkey": portkey,
    "LiteLLM": litellm,
}
"""Every server by the name that it has in the table."""
