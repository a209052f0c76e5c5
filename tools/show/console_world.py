"""A server with sample data of every kind, so that each console page has content to
display."""

import json
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from modelyard.models.types import JSON
from modelyard.plugins.package import package_folder
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    error_answer,
    json_answer,
)
from tools.show.browser import Served, server
from tools.show.proof import ROOT

PAGES = (
    "/",
    "/playground",
    "/providers",
    "/providers/cloud",
    "/models",
    "/models?tab=local",
    "/models?tab=defaults",
    "/models?tab=custom",
    "/routes",
    "/routes?tab=limits",
    "/routes?tab=dry-run",
    "/usage",
    "/requests",
    "/requests/{call}",
    "/keys",
    "/keys?tab=people",
    "/keys?tab=users",
    "/keys?tab=tenants",
    "/keys?tab=sessions",
    "/keys?tab=audit",
    "/plugins",
    "/workflows",
    "/workflows/{workflow}",
    "/workflows/{workflow}?run={run}",
    *(
        f"/workflows/{{waiting}}?node={node}"
        for node in ("when", "hook", "event", "agent", "tool")
    ),
    "/apps/{waiting}?tab=publish",
    "/knowledge",
    "/knowledge/{dataset}",
    "/knowledge/{dataset}?tab=ask",
    "/knowledge/{dataset}?tab=test",
    "/knowledge/{dataset}?tab=evaluate&evaluation={evaluation}",
    "/apps",
    "/apps/{chat}",
    "/apps/{chat}?tab=publish",
    "/apps/{chat}?tab=setup",
    "/apps/{chat}?tab=talks",
    "/apps/{workflow}?tab=runs",
    "/apps/{chat}?tab=annotations",
    "/apps/{chat}?tab=feedback",
    "/apps/{chat}?tab=statistics",
    "/apps/{chat}?tab=traces",
    "/settings",
    "/settings?tab=form",
    "/settings?tab=file",
    "/settings?tab=licences",
    "/nowhere",
)


@dataclass
class World:
    """A running server and the ids of its sample resources."""

    served: Served
    ids: dict[str, str]

    def paths(self, pages: Sequence[str] = PAGES) -> list[str]:
        """Return the page paths with their placeholders replaced by ids."""
        return [page.format(**self.ids) for page in pages]


@contextmanager
def world(
    extra_text: str = "", *, local: bool = False, plugin: Path | None = None
) -> Generator[World]:
    """Start a server with sample data. `extra_text` is added to every name, text and
    model answer."""

    def answer(request: UpstreamRequest) -> Answer:
        """Answer as a simulated provider."""
        return _provider_answer(request, extra_text)

    with (
        Upstream(answer) as upstream,
        tempfile.TemporaryDirectory(prefix="modelyard-world-") as folder,
    ):
        home = Path(folder) / "home"
        with server(
            _settings(upstream.url, extra_text), home=home, local=local
        ) as served:
            plugin_folder = plugin or ROOT / "examples" / "plugins" / "toolbox"
            ids = _create_sample_data(served.origin, extra_text, plugin_folder)
            yield World(served, ids)


def _provider_answer(request: UpstreamRequest, extra_text: str) -> Answer:
    """Answer as a simulated provider. The model `broken` always fails."""
    if request.path.endswith("/models"):
        return json_answer({"object": "list", "data": [{"id": "fine"}]})
    if request.path.endswith("/embeddings"):
        return _embeddings(len(request.json["input"]))
    body = request.json
    if body["model"] == "broken":
        return error_answer(500, f"down {extra_text}")
    text = f"An answer. {extra_text}"
    if not body.get("stream"):
        return chat_answer(text, model=body["model"], prompt=100, completion=50)
    # Short chunks of nine characters, so that the answer arrives as a stream of several
    # events.
    chunks = [text[start : start + 9] for start in range(0, len(text), 9)]
    return Answer(
        headers={"content-type": "text/event-stream"},
        pieces=chat_events(chunks, model=body["model"]),
    )


def _embeddings(count: int) -> Answer:
    """Answer with `count` different vectors."""
    data = [
        {"object": "embedding", "index": index, "embedding": [1.0, 0.5, float(index)]}
        for index in range(count)
    ]
    usage = {"prompt_tokens": 3}
    return json_answer({"object": "list", "data": data, "model": "m", "usage": usage})


def _settings(url: str, extra_text: str) -> str:
    price = {"input": "10", "output": "20", "unit": "0.000001", "currency": "USD"}
    chat = {
        "model_type": "llm",
        "model_properties": {"mode": "chat", "context_size": 8000},
        "pricing": price,
        "parameter_rules": [{"name": "temperature", "use_template": "temperature"}],
    }
    models: list[dict[str, Any]] = [
        {"model": name, "label": {"en_US": f"{name} {extra_text}".strip()}, **chat}
        for name in ("fine", "broken")
    ]
    models.append(
        {
            "model": "vectors",
            "model_type": "text-embedding",
            "label": {"en_US": "vectors"},
            "model_properties": {"context_size": 512},
        }
    )
    credential = {"values": {"api_key": "sk-x"}, "name": f"first {extra_text}".strip()}
    return json.dumps(
        {
            "providers": [
                {
                    "name": "cloud",
                    "base_url": url,
                    "models": models,
                    "credentials": [credential],
                }
            ],
            # Without retries the broken model fails at once.
            "defaults": {"llm": "cloud/fine", "text-embedding": "cloud/vectors"},
            "retries": 0,
            # Record all calls and decisions, so that the request pages have content.
            "telemetry": {"record": True, "decisions": "all"},
            "plugins": {"debug_port": 0},
        }
    )


def apps(extra_text: str = "") -> dict[str, str]:
    """Return three app files (a workflow, a chat app, and a workflow with triggers) by
    name."""
    return {
        "workflow": json.dumps(_workflow_app(extra_text)),
        "chat": json.dumps(_chat_app(extra_text)),
        "waiting": json.dumps(_triggered_app(extra_text)),
    }


_MODEL = {"provider": "", "name": "default", "mode": "chat", "completion_params": {}}


def _workflow_app(extra_text: str) -> JSON:
    """Return a workflow that sends its input to a model."""
    variable = {
        "variable": "text",
        "label": f"Text {extra_text}",
        "type": "paragraph",
        "required": False,
    }
    prompt = {"role": "user", "text": f"{extra_text} {{{{#start.text#}}}}"}
    nodes: dict[str, JSON] = {
        "start": {
            "type": "start",
            "title": f"Start {extra_text}",
            "variables": [variable],
        },
        "ask": {
            "type": "llm",
            "title": f"Ask {extra_text}",
            "model": _MODEL,
            "desc": extra_text,
            "prompt_template": [prompt],
        },
        "end": {
            "type": "end",
            "title": "End",
            "outputs": [{"variable": "said", "value_selector": ["ask", "text"]}],
        },
    }
    positions = [(300 * index, 100) for index in range(len(nodes))]
    graph = _graph(nodes, positions, [("start", "ask"), ("ask", "end")])
    app = {
        "name": f"A workflow {extra_text}".strip(),
        "mode": "workflow",
        "description": extra_text,
    }
    return {"app": app, "kind": "app", "version": "0.3.0", "workflow": {"graph": graph}}


def _graph(
    nodes: Mapping[str, JSON],
    positions: Sequence[tuple[int, int]],
    edges: Sequence[tuple[str, str]],
) -> JSON:
    """Return the graph of a workflow; `positions` has (x, y) of each node."""
    return {
        "nodes": [
            {"id": name, "type": "custom", "data": data, "position": {"x": x, "y": y}}
            for (name, data), (x, y) in zip(nodes.items(), positions, strict=True)
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }


def _chat_app(extra_text: str) -> JSON:
    """Return a chat app with an opening statement."""
    return {
        "app": {
            "name": f"A chat {extra_text}".strip(),
            "mode": "chat",
            "description": extra_text,
        },
        "kind": "app",
        "version": "0.3.0",
        "model_config": {
            "model": _MODEL,
            "pre_prompt": extra_text,
            "opening_statement": f"Hello {extra_text}",
            "user_input_form": [],
        },
    }


def _triggered_app(extra_text: str) -> JSON:
    """Return a workflow app that starts by triggers and whose nodes have forms from
    plugins and tools."""
    nodes: dict[str, JSON] = {
        **_triggers(extra_text),
        "agent": _agent_node(extra_text),
        "tool": {
            "type": "tool",
            "title": f"Sum it up {extra_text}",
            "provider_id": "calculator",
            "provider_type": "builtin",
            "tool_name": "evaluate",
            "tool_parameters": {},
        },
        "end": {
            "type": "end",
            "title": "End",
            "outputs": [{"variable": "it", "value_selector": ["agent", "text"]}],
        },
    }
    # The three triggers all lead to the agent.
    edges = [
        ("when", "agent"),
        ("hook", "agent"),
        ("event", "agent"),
        ("agent", "tool"),
        ("tool", "end"),
    ]
    # Place the nodes in columns of three.
    positions = [(300 * (index // 3), 150 * (index % 3)) for index in range(len(nodes))]
    app = {
        "name": f"It begins by itself {extra_text}".strip(),
        "mode": "workflow",
        "description": extra_text,
    }
    graph = _graph(nodes, positions, edges)
    return {"app": app, "kind": "app", "version": "0.6.0", "workflow": {"graph": graph}}


def _triggers(extra_text: str) -> dict[str, JSON]:
    """Return one node for each kind of trigger."""
    return {
        "when": {
            "type": "trigger-schedule",
            "title": f"On weekdays {extra_text}",
            "mode": "visual",
            "frequency": "weekly",
            "visual_config": {"time": "9:00 AM", "weekdays": ["mon", "tue"]},
            "timezone": "UTC",
        },
        "hook": {
            "type": "trigger-webhook",
            "title": f"When it is called {extra_text}",
            "method": "post",
            "body": [{"name": "topic", "type": "string"}],
            "response_body": extra_text,
        },
        "event": {
            "type": "trigger-plugin",
            "title": f"On a beat {extra_text}",
            "provider_id": "acme/pulse/pulse",
            "event_name": "beat",
        },
    }


def _agent_node(extra_text: str) -> JSON:
    """Return an agent node with one tool."""
    query, model = extra_text or "What now?", {"provider": "", "model": "default"}
    tool = {"provider_name": "time", "tool_name": "current_time"}
    return {
        "type": "agent",
        "title": f"Find out {extra_text}",
        "agent_strategy_provider_name": "",
        "agent_strategy_name": "function_calling",
        "agent_parameters": {
            "query": {"type": "constant", "value": query},
            "model": {"type": "constant", "value": model},
            "tools": {"type": "constant", "value": [tool]},
        },
    }


def _create_sample_data(origin: str, extra_text: str, plugin: Path) -> dict[str, str]:
    """Create the sample resources through the HTTP API and return their ids by name."""
    with httpx.Client(base_url=origin, timeout=60) as client:
        sample = _SampleData(client, extra_text)
        sample.create_resources()
        sample.create_traffic()
        sample.create_apps()
        sample.create_dataset()
        sample.install_plugin(plugin)
    return sample.ids


@dataclass
class _SampleData:
    """Creates the sample resources and stores their ids by name."""

    client: httpx.Client
    extra_text: str
    """Added to every name and text."""
    ids: dict[str, str] = field(default_factory=dict[str, str])

    def post(self, path: str, body: Any) -> Any:
        """Send a POST request and return the response. Raises AssertionError if it is
        not successful."""
        answered = self.client.post(path, json=body)
        assert answered.status_code < 300, f"{path}: {answered.text[:500]}"
        return answered

    def name(self, text: str) -> str:
        """Return the name with the extra text, at most 200 characters long."""
        return f"{text} {self.extra_text}".strip()[:200]

    def create_resources(self) -> None:
        """Create one resource for each page of settings."""
        # The route's first target always fails, so its calls show a failover.
        route = {
            "name": self.name("careful"),
            "targets": [{"model": "cloud/broken"}],
            "failover": ["cloud/fine"],
        }
        self.post("/admin/v1/routes", route)
        limit = {
            "name": self.name("plenty"),
            "unit": "cost",
            "amount": 100,
            "window": "month",
        }
        self.post("/admin/v1/limits", limit)
        self.post("/admin/v1/users", {"name": self.name("Ada")})
        self.post("/admin/v1/tenants", {"name": "other"})
        definition = {
            "model": "own",
            "model_type": "llm",
            "label": {"en_US": self.name("own")},
            "model_properties": {"mode": "chat", "context_size": 1000},
        }
        self.post(
            "/admin/v1/models",
            {"name": self.name("own"), "provider": "cloud", "definition": definition},
        )
        credential = {
            "name": self.name("second"),
            "provider": "cloud",
            "values": {"api_key": "sk-y"},
        }
        self.post("/admin/v1/credentials", credential)

    def create_traffic(self) -> None:
        """Make calls for the usage and request pages, including a failed one."""
        message = {"role": "user", "content": f"Say it. {self.extra_text}"}
        ask = {"messages": [message], "user": self.name("Ada")}
        path = "/v1/chat/completions"
        for _ in range(3):
            self.client.post(path, json={**ask, "model": "cloud/fine"})
        self.client.post(path, json={**ask, "model": "cloud/broken"})
        answered = self.client.post(path, json={**ask, "model": self.name("careful")})
        self.ids["call"] = answered.headers["x-request-id"]

    def create_apps(self) -> None:
        """Create apps with runs and an annotation."""
        for name, text in apps(self.extra_text).items():
            self.ids[name] = self.post("/admin/v1/apps", {"file": text}).json()["id"]
        run_response = self.post(
            f"/admin/v1/apps/{self.ids['workflow']}/runs",
            {"inputs": {"text": f"in {self.extra_text}"}},
        )
        self.ids["run"] = run_response.headers["x-modelyard-run"]
        chat_path = f"/admin/v1/apps/{self.ids['chat']}"
        self.post(f"{chat_path}/runs", {"query": f"Who is there? {self.extra_text}"})
        self.post(
            f"{chat_path}/annotations",
            {
                "question": f"When? {self.extra_text}",
                "answer": f"Now {self.extra_text}",
            },
        )

    def create_dataset(self) -> None:
        """Create a dataset with a document, and evaluate it."""
        settings = {
            "name": self.name("Rules")[:40],
            "indexing_technique": "economy",
        }
        dataset = self.post("/v1/datasets", settings).json()["id"]
        self.ids["dataset"] = dataset
        document = {
            "name": self.name("rules.md"),
            "text": f"The gate is closed at nine. {self.extra_text}",
            "indexing_technique": "economy",
            "process_rule": {"mode": "automatic"},
        }
        self.post(f"/v1/datasets/{dataset}/document/create-by-text", document)
        question = {
            "question": f"When is the gate closed? {self.extra_text}",
            "documents": [self.name("rules.md")],
        }
        evaluated = self.post(
            f"/admin/v1/evaluations/{dataset}",
            {"questions": [question], "ways": ["full_text"]},
        )
        # The response is an event stream. Its last event contains the finished
        # evaluation.
        last_event = json.loads(evaluated.text.split("data: ")[-1])
        self.ids["evaluation"] = last_event["evaluation"]["id"]

    def install_plugin(self, plugin: Path) -> None:
        """Install the plugin in a folder. Raises AssertionError if that fails."""
        task = self.client.post(
            "/admin/v1/plugins?unsigned=true", content=package_folder(plugin).data
        ).json()
        # Plugin installation is asynchronous and may create a Python environment.
        until = time.monotonic() + 120
        while task.get("status") == "running" and time.monotonic() < until:
            time.sleep(0.2)
            path = f"/admin/v1/plugins/tasks/{task['id']}"
            task = self.client.get(path).json()
        assert task.get("status") == "success", task
