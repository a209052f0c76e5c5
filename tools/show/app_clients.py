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

    def flow(
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

    llm = {
        "type": "llm",
        "model": MODEL,
        "memory": {"window": {"enabled": True, "size": 4}},
        "prompt_template": [{"role": "system", "text": "Be short."}],
    }
    chat = flow(
        "advanced-chat",
        {
            "start": {"type": "start"},
            "llm": llm,
            "answer": {"type": "answer", "answer": "{{#llm.text#}}"},
        },
        [("start", "llm"), ("llm", "answer")],
        suggested_questions_after_answer={"enabled": True},
    )
    variables = [
        {"variable": "n", "type": "number", "required": True},
        {"variable": "doc", "type": "file", "required": False},
    ]
    template_variables = [
        {"variable": "n", "value_selector": ["start", "n"]},
        {"variable": "t", "value_selector": ["read", "text"]},
    ]
    workflow = flow(
        "workflow",
        {
            "start": {"type": "start", "variables": variables},
            "read": {
                "type": "document-extractor",
                "variable_selector": ["start", "doc"],
            },
            "text": {
                "type": "template-transform",
                "template": "{{ n }}:{{ t }}",
                "variables": template_variables,
            },
            "end": {
                "type": "end",
                "outputs": [{"variable": "r", "value_selector": ["text", "output"]}],
            },
        },
        [("start", "read"), ("read", "text"), ("text", "end")],
    )
    completion = {
        "app": {"name": "completion", "mode": "completion"},
        "kind": "app",
        "version": "0.6.0",
        "model_config": {
            "model": MODEL,
            "pre_prompt": "{{query}}",
            "user_input_form": [
                {"paragraph": {"variable": "query", "label": "Query", "required": True}}
            ],
        },
    }
    slow = {**chat, "app": {"name": "slow", "mode": "advanced-chat"}}
    return {"chat": chat, "workflow": workflow, "completion": completion, "slow": slow}


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
    long_answer = ("long story", " ".join(f"word{n}" for n in range(400)))
    # The second answer is for the prompt that asks for suggested questions.
    model = model or ScriptedModel(
        answers=[long_answer, ("Read the exchange", '["One?", "Two?", "Three?"]')],
        delay=0.002,
    )
    definition, builder = scripted_models(model)
    port = free_port()
    server_info: dict[str, str] = {"base": f"http://127.0.0.1:{port}/v1"}
    ready, stop = threading.Event(), threading.Event()

    async def serve(home: str) -> None:
        """Run the server until `stop` is set."""
        local = LocalSettings(weights=str(weights_folder()))
        settings = Settings(
            home=home,
            port=port,
            defaults={"llm": "scripted/model"},
            local=local,
            **changes,
        )
        yard = Modelyard(
            settings,
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        )
        await yard.open()
        texts = {
            name: yaml.dump(document, allow_unicode=True)
            for name, document in apps().items()
        }
        for name, text in {**texts, **(extra_apps or {})}.items():
            app_record, _, _ = await yard.apps.add(
                "default",
                text,
                mapping=AppMapping(models={"*": "scripted/model"}),
                name=name,
            )
            # The key itself can be read only when it is created.
            server_info[name] = (await yard.apps.make_key(app_record))[1]
        if prepare is not None:
            await prepare(yard)
        server_info["datasets"] = await yard.services.tenancy.dataset_keys.create(
            "default"
        )
        gateway: Any = gateway_for(yard.services, on_start=yard.services.upkeep.start)
        server = uvicorn.Server(
            uvicorn.Config(
                gateway,
                host="127.0.0.1",
                port=port,
                log_config=None,
                ws="none",
                lifespan="on",
            )
        )
        # The server shares the loop with this function, which waits for the stop event
        # of the other thread.
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.05)
        server.should_exit = True
        await task

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
