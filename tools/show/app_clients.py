"""Three clients of the service API from PyPI, each in an environment of its own, against the server as a user starts it."""

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
MODEL = {"provider": "openai", "name": "gpt-4o-mini", "mode": "chat", "completion_params": {}}


def apps() -> dict[str, dict[str, Any]]:
    """One of each kind, and a chat that takes its time."""

    def flow(mode: str, nodes: dict[str, Any], edges: list[tuple[str, str]], **features: Any) -> dict[str, Any]:
        graph = {
            "nodes": [{"id": name, "data": {"title": name, **data}} for name, data in nodes.items()],
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
        {"start": {"type": "start"}, "llm": llm, "answer": {"type": "answer", "answer": "{{#llm.text#}}"}},
        [("start", "llm"), ("llm", "answer")],
        suggested_questions_after_answer={"enabled": True},
    )  # fmt: skip
    variables = [
        {"variable": "n", "type": "number", "required": True},
        {"variable": "doc", "type": "file", "required": False},
    ]
    chosen = [
        {"variable": "n", "value_selector": ["start", "n"]},
        {"variable": "t", "value_selector": ["read", "text"]},
    ]
    workflow = flow(
        "workflow",
        {
            "start": {"type": "start", "variables": variables},
            "read": {"type": "document-extractor", "variable_selector": ["start", "doc"]},
            "text": {"type": "template-transform", "template": "{{ n }}:{{ t }}", "variables": chosen},
            "end": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["text", "output"]}]},
        },
        [("start", "read"), ("read", "text"), ("text", "end")],
    )
    completion = {
        "app": {"name": "completion", "mode": "completion"}, "kind": "app", "version": "0.6.0",
        "model_config": {"model": MODEL, "pre_prompt": "{{query}}", "user_input_form": [
            {"paragraph": {"variable": "query", "label": "Query", "required": True}}]},
    }  # fmt: skip
    slow = {**chat, "app": {"name": "slow", "mode": "advanced-chat"}}
    return {"chat": chat, "workflow": workflow, "completion": completion, "slow": slow}


@contextmanager
def serving(
    more: Mapping[str, str] | None = None, *, prepare: Callable[[Modelyard], Awaitable[None]] | None = None,
    environments: Path | None = None, model: Any = None, **changes: Any,
) -> Generator[dict[str, str]]:  # fmt: skip
    """The server with the apps, and more by name, in a thread: base address and keys.

    `changes` are settings; `environments` is where plugins' environments are kept, which never change; `model` stands in for the usual one.
    """
    story = ("long story", " ".join(f"word{n}" for n in range(400)))
    model = model or ScriptedModel(answers=[story, ("Read the exchange", '["One?", "Two?", "Three?"]')], delay=0.002)
    definition, builder = scripted_models(model)
    port = free_port()
    told: dict[str, str] = {"base": f"http://127.0.0.1:{port}/v1"}
    ready, stop = threading.Event(), threading.Event()

    async def serve(home: str) -> None:
        local = LocalSettings(weights=str(weights_folder()))
        settings = Settings(home=home, port=port, defaults={"llm": "scripted/model"}, local=local, **changes)
        yard = Modelyard(settings, definitions=[definition], builders={"scripted": builder}, environ={})
        await yard.open()
        texts = {name: yaml.dump(document, allow_unicode=True) for name, document in apps().items()}
        for name, text in {**texts, **(more or {})}.items():
            found, _, _ = await yard.apps.add(
                "default", text, mapping=AppMapping(models={"*": "scripted/model"}), name=name
            )
            told[name] = (await yard.apps.make_key(found))[1]
        if prepare is not None:
            await prepare(yard)
        told["datasets"] = await yard.services.tenancy.dataset_keys.make("default")
        gateway: Any = gateway_for(yard.services, on_start=yard.services.upkeep.start)
        server = uvicorn.Server(
            uvicorn.Config(gateway, host="127.0.0.1", port=port, log_config=None, ws="none", lifespan="on")
        )
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
            (Path(home) / "plugins" / "environments").symlink_to(environments)
        thread = threading.Thread(target=lambda: asyncio.run(serve(home)))
        thread.start()
        try:
            if not ready.wait(300):
                raise RuntimeError("the server did not start")
            yield told
        finally:
            stop.set()
            thread.join(30)


def environment(name: str, version: tuple[int, int], folder: Path) -> Path | None:
    """A Python with that client alone; None where there is no Python of that version."""
    found = asyncio.run(Environments(folder / "none", os.environ).pythons())
    python = choose(found, f">={version[0]}.{version[1]}")
    if python is None:
        return None
    uv = uv_path()
    place = folder / name
    subprocess.run([uv, "venv", "-q", "-p", str(python.path), str(place)], check=True)
    locked = str(ROOT / "requirements" / "clients" / f"{name}.txt")
    subprocess.run(
        [uv, "pip", "install", "-q", "-p", str(place / "bin" / "python"), "--require-hashes", "-r", locked], check=True
    )
    return place / "bin" / "python"


def calls_of(
    name: str, told: dict[str, str], folder: Path, client: tuple[str, tuple[int, int]] | None = None
) -> list[tuple[str, bool, str]] | str:
    script, version = client or CLIENTS[name]
    python = environment(name, version, folder)
    if python is None:
        return f"needs Python {version[0]}.{version[1]} and uv, which are not here"
    path = ROOT / "tools" / "show" / "app_client_scripts" / script
    done = subprocess.run(
        [str(python), str(path), json.dumps(told)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        return f"broke: {done.stderr[-900:]}"
    return json.loads(done.stdout.splitlines()[-1])


def prove() -> Proof:
    return prove_clients(CLIENTS)


def prove_clients(clients: Mapping[str, tuple[str, tuple[int, int]]]) -> Proof:
    proof = Proof()
    with serving() as told, tempfile.TemporaryDirectory() as folder:
        for name, client in clients.items():
            seen = calls_of(name, told, Path(folder), client)
            if isinstance(seen, str):
                proof.line(name, seen, ok=False)
                continue
            for what, ok, more in seen:
                proof.line(f"{name}: {what}", more, ok)
            proof.figures[name] = f"{sum(ok for _, ok, _ in seen)} of {len(seen)}"
    return proof
