"""A server with something of everything in it, so that every page of the console has something to show."""

import json
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelyard.models.types import JSON
from modelyard.plugins.package import package_folder
from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer, chat_events, error_answer, json_answer
from tools.show.browser import Served, server
from tools.show.proof import ROOT

PAGES = (
    "/", "/playground", "/providers", "/providers/cloud", "/models", "/models?tab=local", "/models?tab=defaults",
    "/models?tab=custom", "/routes", "/routes?tab=limits", "/routes?tab=dry-run", "/usage", "/requests",
    "/requests/{call}", "/keys", "/keys?tab=people", "/keys?tab=users", "/keys?tab=tenants", "/keys?tab=sessions",
    "/keys?tab=audit", "/plugins", "/workflows", "/workflows/{workflow}", "/workflows/{workflow}?run={run}",
    *(f"/workflows/{{waiting}}?node={node}" for node in ("when", "hook", "event", "agent", "tool")),
    "/apps/{waiting}?tab=publish",
    "/knowledge", "/knowledge/{dataset}", "/knowledge/{dataset}?tab=ask", "/knowledge/{dataset}?tab=test",
    "/knowledge/{dataset}?tab=evaluate&evaluation={evaluation}", "/apps",
    "/apps/{chat}", "/apps/{chat}?tab=publish", "/apps/{chat}?tab=setup", "/apps/{chat}?tab=talks",
    "/apps/{workflow}?tab=runs", "/apps/{chat}?tab=annotations", "/apps/{chat}?tab=feedback", "/settings",
    "/settings?tab=form", "/settings?tab=file", "/settings?tab=licences", "/nowhere",
)  # fmt: skip


@dataclass
class World:
    served: Served
    ids: dict[str, str]

    def paths(self, pages: Sequence[str] = PAGES) -> list[str]:
        return [page.format(**self.ids) for page in pages]


@contextmanager
def world(said: str = "", *, local: bool = False, plugin: Path | None = None) -> Generator[World]:
    """`said` goes into every name, text and answer; nothing where it is empty."""

    def answers(request: UpstreamRequest) -> Answer:
        if request.path.endswith("/models"):
            return json_answer({"object": "list", "data": [{"id": "fine"}]})
        if request.path.endswith("/embeddings"):
            count = len(request.json["input"])
            data = [{"object": "embedding", "index": at, "embedding": [1.0, 0.5, float(at)]} for at in range(count)]
            return json_answer({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3}})
        asked = request.json
        if asked["model"] == "broken":
            return error_answer(500, f"down {said}")
        text = f"An answer. {said}"
        if asked.get("stream"):
            events = chat_events([text[at : at + 9] for at in range(0, len(text), 9)], model=asked["model"])
            return Answer(headers={"content-type": "text/event-stream"}, pieces=events)
        return chat_answer(text, model=asked["model"], prompt=100, completion=50)

    with Upstream(answers) as upstream, tempfile.TemporaryDirectory(prefix="modelyard-world-") as folder:
        home = Path(folder) / "home"
        with server(_settings(upstream.url, said), home=home, local=local) as served:
            yield World(served, _fill(served.origin, said, plugin or ROOT / "examples" / "plugins" / "toolbox"))


def _settings(url: str, said: str) -> str:
    price = {"input": "10", "output": "20", "unit": "0.000001", "currency": "USD"}
    chat = {
        "model_type": "llm", "model_properties": {"mode": "chat", "context_size": 8000}, "pricing": price,
        "parameter_rules": [{"name": "temperature", "use_template": "temperature"}],
    }  # fmt: skip
    models: list[dict[str, Any]] = [
        {"model": name, "label": {"en_US": f"{name} {said}".strip()}, **chat} for name in ("fine", "broken")
    ]
    models.append({
        "model": "vectors", "model_type": "text-embedding", "label": {"en_US": "vectors"},
        "model_properties": {"context_size": 512},
    })  # fmt: skip
    credential = {"values": {"api_key": "sk-x"}, "name": f"first {said}".strip()}
    return json.dumps({
        "providers": [{"name": "cloud", "base_url": url, "models": models, "credentials": [credential]}],
        "defaults": {"llm": "cloud/fine", "text-embedding": "cloud/vectors"}, "retries": 0,
        "telemetry": {"record": True, "decisions": "all"}, "plugins": {"debug_port": 0},
    })  # fmt: skip


def apps(said: str = "") -> dict[str, str]:
    variables = [{"variable": "text", "label": f"Text {said}", "type": "paragraph", "required": False}]
    model = {"provider": "", "name": "default", "mode": "chat", "completion_params": {}}
    nodes: dict[str, dict[str, Any]] = {
        "start": {"type": "start", "title": f"Start {said}", "variables": variables},
        "ask": {
            "type": "llm", "title": f"Ask {said}", "model": model, "desc": said,
            "prompt_template": [{"role": "user", "text": f"{said} {{{{#start.text#}}}}"}],
        },
        "end": {"type": "end", "title": "End", "outputs": [{"variable": "said", "value_selector": ["ask", "text"]}]},
    }  # fmt: skip
    graph = {
        "nodes": [
            {"id": name, "type": "custom", "data": data, "position": {"x": 300 * at, "y": 100}}
            for at, (name, data) in enumerate(nodes.items())
        ],
        "edges": [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}],
    }
    flow = {
        "app": {"name": f"A workflow {said}".strip(), "mode": "workflow", "description": said}, "kind": "app",
        "version": "0.3.0", "workflow": {"graph": graph},
    }  # fmt: skip
    chat = {
        "app": {"name": f"A chat {said}".strip(), "mode": "chat", "description": said}, "kind": "app",
        "version": "0.3.0",
        "model_config": {
            "model": model, "pre_prompt": said, "opening_statement": f"Hello {said}", "user_input_form": [],
        },
    }  # fmt: skip
    return {"workflow": json.dumps(flow), "chat": json.dumps(chat), "waiting": json.dumps(_waiting(said))}


def _waiting(said: str) -> JSON:
    """An app that begins by itself, with nodes whose forms come from plugins and tools."""
    nodes: dict[str, dict[str, Any]] = {
        "when": {
            "type": "trigger-schedule", "title": f"On weekdays {said}", "mode": "visual", "frequency": "weekly",
            "visual_config": {"time": "9:00 AM", "weekdays": ["mon", "tue"]}, "timezone": "UTC",
        },
        "hook": {
            "type": "trigger-webhook", "title": f"When it is called {said}", "method": "post",
            "body": [{"name": "topic", "type": "string"}], "response_body": said,
        },
        "event": {
            "type": "trigger-plugin", "title": f"On a beat {said}", "provider_id": "acme/pulse/pulse",
            "event_name": "beat",
        },
        "agent": {
            "type": "agent", "title": f"Find out {said}", "agent_strategy_provider_name": "",
            "agent_strategy_name": "function_calling", "agent_parameters": {
                "query": {"type": "constant", "value": said or "What now?"},
                "model": {"type": "constant", "value": {"provider": "", "model": "default"}},
                "tools": {"type": "constant", "value": [{"provider_name": "time", "tool_name": "current_time"}]},
            },
        },
        "tool": {
            "type": "tool", "title": f"Sum it up {said}", "provider_id": "calculator", "provider_type": "builtin",
            "tool_name": "evaluate", "tool_parameters": {},
        },
        "end": {"type": "end", "title": "End", "outputs": [{"variable": "it", "value_selector": ["agent", "text"]}]},
    }  # fmt: skip
    edges = [("when", "agent"), ("hook", "agent"), ("event", "agent"), ("agent", "tool"), ("tool", "end")]
    graph = {
        "nodes": [
            {"id": name, "type": "custom", "data": data, "position": {"x": 300 * (at // 3), "y": 150 * (at % 3)}}
            for at, (name, data) in enumerate(nodes.items())
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    return {
        "app": {"name": f"It begins by itself {said}".strip(), "mode": "workflow", "description": said},
        "kind": "app", "version": "0.6.0", "workflow": {"graph": graph},
    }  # fmt: skip


def _fill(origin: str, said: str, plugin: Path) -> dict[str, str]:
    ids: dict[str, str] = {}
    with httpx.Client(base_url=origin, timeout=60) as client:

        def post(path: str, body: Any) -> Any:
            answered = client.post(path, json=body)
            assert answered.status_code < 300, f"{path}: {answered.text[:500]}"
            return answered

        def named(name: str) -> str:
            return f"{name} {said}".strip()[:200]

        targets = [{"model": "cloud/broken"}]
        post("/admin/v1/routes", {"name": named("careful"), "targets": targets, "failover": ["cloud/fine"]})
        post("/admin/v1/limits", {"name": named("plenty"), "unit": "cost", "amount": 100, "window": "month"})
        post("/admin/v1/users", {"name": named("Ada")})
        post("/admin/v1/tenants", {"name": "other"})
        definition = {"model": "own", "model_type": "llm", "label": {"en_US": named("own")}}
        custom = {**definition, "model_properties": {"mode": "chat", "context_size": 1000}}
        post("/admin/v1/models", {"name": named("own"), "provider": "cloud", "definition": custom})
        post("/admin/v1/credentials", {"name": named("second"), "provider": "cloud", "values": {"api_key": "sk-y"}})
        ask = {"messages": [{"role": "user", "content": f"Say it. {said}"}], "user": named("Ada")}
        for _ in range(3):
            client.post("/v1/chat/completions", json={**ask, "model": "cloud/fine"})
        client.post("/v1/chat/completions", json={**ask, "model": "cloud/broken"})
        answered = client.post("/v1/chat/completions", json={**ask, "model": named("careful")})
        ids["call"] = answered.headers["x-request-id"]
        for name, text in apps(said).items():
            ids[name] = post("/admin/v1/apps", {"file": text}).json()["id"]
        told = post(f"/admin/v1/apps/{ids['workflow']}/runs", {"inputs": {"text": f"in {said}"}})
        ids["run"] = told.headers["x-modelyard-run"]
        post(f"/admin/v1/apps/{ids['chat']}/runs", {"query": f"Who is there? {said}"})
        post(f"/admin/v1/apps/{ids['chat']}/annotations", {"question": f"When? {said}", "answer": f"Now {said}"})
        ids["dataset"] = post("/v1/datasets", {"name": named("Rules")[:40], "indexing_technique": "economy"}).json()[
            "id"
        ]
        document = {
            "name": named("rules.md"), "text": f"The gate is closed at nine. {said}", "indexing_technique": "economy",
            "process_rule": {"mode": "automatic"},
        }  # fmt: skip
        post(f"/v1/datasets/{ids['dataset']}/document/create-by-text", document)
        questions = [{"question": f"When is the gate closed? {said}", "documents": [named("rules.md")]}]
        asked = post(f"/admin/v1/evaluations/{ids['dataset']}", {"questions": questions, "ways": ["full_text"]})
        ids["evaluation"] = json.loads(asked.text.split("data: ")[-1])["evaluation"]["id"]
        package = package_folder(plugin).data
        task = client.post("/admin/v1/plugins?unsigned=true", content=package).json()
        until = time.monotonic() + 120
        while task.get("status") == "running" and time.monotonic() < until:
            time.sleep(0.2)
            task = client.get(f"/admin/v1/plugins/tasks/{task['id']}").json()
        assert task.get("status") == "success", task
    return ids
