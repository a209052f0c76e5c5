"""Three clients of the service API from PyPI, each in its own environment, against a
server configured as a user would."""

import asyncio
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import LocalSettings, Settings
from modelyard.plugins.environment import Environments, choose, uv_path
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.dsl import AppMapping
from tools.show.proof import ROOT, Proof, free_port, weights_folder

CLIENTS = {
    "dify-client": ("calls_dify_client.py", (3, 11)),
    "dify-client-python": ("calls_dify_client_python.py", (3, 11)),
    "dify-sdk": ("calls_dify_sdk.py", (3, 12)),
}
MODEL = {
    "provider": "openai",
    "name": "gpt-4o-mini",
    "mode": "chat",
    "completion_params": {},
}


def apps() -> dict[str, dict[str, Any]]:
    """Return one app of each kind and a chat with a slow, long answer, by name."""
    chat = _chat_app()
    return {
        "chat": chat,
        "workflow": _workflow_app(),
        "completion": _completion_app(),
        "slow": {**chat, "app": {"name": "slow", "mode": "advanced-chat"}},
    }


def _flow(
    mode: str, nodes: dict[str, Any], edges: list[tuple[str, str]], **features: Any
) -> dict[str, Any]:
    """Return the document of a workflow or chatflow app."""
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    return {
        "kind": "app",
        "version": "0.6.0",
        "app": {"name": mode, "mode": mode},
        "workflow": {"graph": graph, "features": features},
    }


def _chat_app() -> dict[str, Any]:
    """Return a chatflow that calls the model with the last messages."""
    llm = {
        "type": "llm",
        "model": MODEL,
        "memory": {"window": {"enabled": True, "size": 4}},
        "prompt_template": [{"role": "system", "text": "Be short."}],
    }
    nodes = {
        "start": {"type": "start"},
        "llm": llm,
        "answer": {"type": "answer", "answer": "{{#llm.text#}}"},
    }
    return _flow(
        "advanced-chat",
        nodes,
        [("start", "llm"), ("llm", "answer")],
        suggested_questions_after_answer={"enabled": True},
    )


def _workflow_app() -> dict[str, Any]:
    """Return a workflow that joins a number and the text of a file."""
    variables = [
        {"variable": "n", "type": "number", "required": True},
        {"variable": "doc", "type": "file", "required": False},
    ]
    template_variables = [
        {"variable": "n", "value_selector": ["start", "n"]},
        {"variable": "t", "value_selector": ["read", "text"]},
    ]
    outputs = [{"variable": "r", "value_selector": ["text", "output"]}]
    nodes = {
        "start": {"type": "start", "variables": variables},
        "read": {"type": "document-extractor", "variable_selector": ["start", "doc"]},
        "text": {
            "type": "template-transform",
            "template": "{{ n }}:{{ t }}",
            "variables": template_variables,
        },
        "end": {"type": "end", "outputs": outputs},
    }
    edges = [("start", "read"), ("read", "text"), ("text", "end")]
    return _flow("workflow", nodes, edges)


def _completion_app() -> dict[str, Any]:
    """Return a completion app with one required input."""
    query = {"variable": "query", "label": "Query", "required": True}
    return {
        "app": {"name": "completion", "mode": "completion"},
        "kind": "app",
        "version": "0.6.0",
        "model_config": {
            "model": MODEL,
            "pre_prompt": "{{query}}",
            "user_input_form": [{"paragraph": query}],
        },
    }


@contextmanager
def serving(
    extra_apps: Mapping[str, str] | None = None,
    *,
    prepare: Callable[[Modelyard], Awaitable[None]] | None = None,
    environments: Path | None = None,
    model: Any = None,
    **changes: Any,
) -> Generator[dict[str, str]]:
    """Serve the apps in a thread and yield the base URL and the keys by app name.

    `extra_apps` are more app files by name; `prepare` is awaited before the server
    starts. `environments` is the shared folder of plugin environments; `model` replaces
    the scripted model; `changes` are settings.
    """
    port = free_port()
    server_info: dict[str, str] = {"base": f"http://127.0.0.1:{port}/v1"}
    ready, stop = threading.Event(), threading.Event()

    async def serve(home: str) -> None:
        """Run the server until `stop` is set."""
        yard = await _opened_yard(home, port, model or _scripted_model(), changes)
        await _add_apps(yard, extra_apps or {}, server_info)
        if prepare is not None:
            await prepare(yard)
        dataset_keys = yard.services.tenancy.dataset_keys
        server_info["datasets"] = await dataset_keys.create("default")
        await _serve_until(stop, ready, yard, port)

    with tempfile.TemporaryDirectory() as home:
        if environments is not None:
            environments.mkdir(parents=True, exist_ok=True)
            (Path(home) / "plugins").mkdir()
            # Building plugin environments takes long, so they are shared between runs
            # by a link.
            (Path(home) / "plugins" / "environments").symlink_to(environments)
        thread = threading.Thread(target=lambda: asyncio.run(serve(home)))
        thread.start()
        try:
            if not ready.wait(300):
                raise RuntimeError("the server did not start")
            yield server_info
        finally:
            stop.set()
            thread.join(30)


def _scripted_model() -> ScriptedModel:
    """Return a model with a long answer to one question, and with an answer to the
    prompt that asks for suggested questions."""
    long_answer = ("long story", " ".join(f"word{n}" for n in range(400)))
    suggestions = ("Read the exchange", '["One?", "Two?", "Three?"]')
    return ScriptedModel(answers=[long_answer, suggestions], delay=0.002)


async def _opened_yard(
    home: str, port: int, model: Any, changes: Mapping[str, Any]
) -> Modelyard:
    """Open a Modelyard whose only chat model is `model`; `changes` are settings."""
    definition, builder = scripted_models(model)
    settings = Settings(
        home=home,
        port=port,
        defaults={"llm": "scripted/model"},
        local=LocalSettings(weights=str(weights_folder())),
        **changes,
    )
    yard = Modelyard(
        settings, definitions=[definition], builders={"scripted": builder}, environ={}
    )
    await yard.open()
    return yard


async def _add_apps(
    yard: Modelyard, extra_apps: Mapping[str, str], server_info: dict[str, str]
) -> None:
    """Add all apps, and store a key of each by the app's name."""
    texts = {
        name: yaml.dump(document, allow_unicode=True)
        for name, document in apps().items()
    }
    mapping = AppMapping(models={"*": "scripted/model"})
    for name, text in {**texts, **extra_apps}.items():
        app_record, _, _ = await yard.apps.add(
            "default", text, mapping=mapping, name=name
        )
        # The key itself can be read only when it is created.
        server_info[name] = (await yard.apps.make_key(app_record))[1]


async def _serve_until(
    stop: threading.Event, ready: threading.Event, yard: Modelyard, port: int
) -> None:
    """Serve until another thread sets `stop`; sets `ready` once the server listens."""
    gateway: Any = gateway_for(yard.services, on_start=yard.services.upkeep.start)
    config = uvicorn.Config(
        gateway, host="127.0.0.1", port=port, log_config=None, ws="none", lifespan="on"
    )
    server = uvicorn.Server(config)
    # The server shares the loop with this function, which waits for the event.
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.05)
    server.should_exit = True
    await task


def environment(name: str, version: tuple[int, int], folder: Path) -> Path | None:
    """Create a virtual environment with only that client and return its Python.

    Returns None if there is no Python of at least that version.
    """
    pythons = asyncio.run(Environments(folder / "none", os.environ).pythons())
    python = choose(pythons, f">={version[0]}.{version[1]}")
    if python is None:
        return None
    uv = uv_path()
    venv_folder = folder / name
    subprocess.run(
        [uv, "venv", "-q", "-p", str(python.path), str(venv_folder)], check=True
    )
    locked = str(ROOT / "requirements" / "clients" / f"{name}.txt")
    # Hashes are required, so that a changed package on PyPI cannot slip in.
    subprocess.run(
        [
            uv,
            "pip",
            "install",
            "-q",
            "-p",
            str(venv_folder / "bin" / "python"),
            "--require-hashes",
            "-r",
            locked,
        ],
        check=True,
    )
    return venv_folder / "bin" / "python"


def run_client(
    name: str,
    server_info: dict[str, str],
    folder: Path,
    client: tuple[str, tuple[int, int]] | None = None,
) -> list[tuple[str, bool, str]] | str:
    """Run a client's script and return its checks, or the reason as a string if it
    could not run."""
    script, version = client or CLIENTS[name]
    python = environment(name, version, folder)
    if python is None:
        return f"needs Python {version[0]}.{version[1]} and uv, which are not here"
    path = ROOT / "tools" / "show" / "app_client_scripts" / script
    completed = subprocess.run(
        [str(python), str(path), json.dumps(server_info)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if completed.returncode:
        return f"broke: {completed.stderr[-900:]}"
    # The last line of the output holds the checks; clients may print other lines
    # before.
    return json.loads(completed.stdout.splitlines()[-1])


def prove() -> Proof:
    """Run the three clients of the service API."""
    return prove_clients(CLIENTS)


def prove_clients(clients: Mapping[str, tuple[str, tuple[int, int]]]) -> Proof:
    """Run the clients against one server and report each of their checks."""
    proof = Proof()
    with serving() as server_info, tempfile.TemporaryDirectory() as folder:
        for name, client in clients.items():
            results = run_client(name, server_info, Path(folder), client)
            if isinstance(results, str):
                proof.line(name, results, ok=False)
                continue
            for check_name, ok, detail in results:
                proof.line(f"{name}: {check_name}", detail, ok)
            proof.figures[name] = f"{sum(ok for _, ok, _ in results)} of {len(results)}"
    return proof
