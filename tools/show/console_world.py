"""A server with sample data of every kind, so that each console page has content to
display."""

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

    def answers(request: UpstreamRequest) -> Answer:
        """Answer as a simulated provider. The model `broken` always fails."""
        if request.path.endswith("/models"):
            return json_answer({"object": "list", "data": [{"id": "fine"}]})
        if request.path.endswith("/embeddings"):
            count = len(request.json["input"])
            data = [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": [1.0, 0.5, float(index)],
                }
                for index in range(count)
            ]
            return json_answer(
                {
                    "object": "list",
                    "data": data,
                    "model": "m",
                    "usage": {"prompt_tokens": 3},
                }
            )
        body = request.json
        if body["model"] == "broken":
            return error_answer(500, f"down {extra_text}")
        text = f"An answer. {extra_text}"
        if body.get("stream"):
            # Short chunks of nine characters, so that the answer arrives as a stream of
            # several events.
            events = chat_events(
                [text[start : start + 9] for start in range(0, len(text), 9)],
                model=body["model"],
            )
            return Answer(headers={"content-type": "text/event-stream"}, pieces=events)
        return chat_answer(text, model=body["model"], prompt=100, completion=50)

    with (
        Upstream(answers) as upstream,
        tempfile.TemporaryDirectory(prefix="modelyard-world-") as folder,
    ):
        home = Path(folder) / "home"
        with server(
            _settings(upstream.url, extra_text), home=home, local=local
        ) as served:
            yield World(
                served,
                _create_sample_data(
                    served.origin,
                    extra_text,
                    plugin or ROOT / "examples" / "plugins" / "toolbox",
                ),
            )


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
    variables = [
        {
            "variable": "text",
            "label": f"Text {extra_text}",
            "type": "paragraph",
            "required": False,
        }
    ]
    model = {"provider": "", "name": "default", "mode": "chat", "completion_params": {}}
    nodes: dict[str, dict[str, Any]] = {
        "start": {
            "type": "start",
            "title": f"Start {extra_text}",
            "variables": variables,
        },
        "ask": {
            "type": "llm",
            "title": f"Ask {extra_text}",
            "model": model,
            "desc": extra_text,
            "prompt_template": [
                {"role": "user", "text": f"{extra_text} {{{{#start.text#}}}}"}
            ],
        },
        "end": {
            "type": "end",
            "title": "End",
            "outputs": [{"variable": "said", "value_selector": ["ask", "text"]}],
        },
    }
    graph = {
        "nodes": [
            {
                "id": name,
                "type": "custom",
                "data": data,
                "position": {"x": 300 * index, "y": 100},
            }
            for index, (name, data) in enumerate(nodes.items())
        ],
        "edges": [
            {"source": "start", "target": "ask"},
            {"source": "ask", "target": "end"},
        ],
    }
    flow = {
        "app": {
            "name": f"A workflow {extra_text}".strip(),
            "mode": "workflow",
            "description": extra_text,
        },
        "kind": "app",
        "version": "0.3.0",
        "workflow": {"graph": graph},
    }
    chat = {
        "app": {
            "name": f"A chat {extra_text}".strip(),
            "mode": "chat",
            "description": extra_text,
        },
        "kind": "app",
        "version": "0.3.0",
        "model_config": {
            "model": model,
            "pre_prompt": extra_text,
            "opening_statement": f"Hello {extra_text}",
            "user_input_form": [],
        },
    }
    return {
        "workflow": json.dumps(flow),
        "chat": json.dumps(chat),
        "waiting": json.dumps(_triggered_app(extra_text)),
    }


def _triggered_app(extra_text: str) -> JSON:
    """Return a workflow app that starts by triggers and whose nodes have forms from
    plugins and tools."""
    nodes: dict[str, dict[str, Any]] = {
        # One node for each kind of trigger.
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
        "agent": {
            "type": "agent",
            "title": f"Find out {extra_text}",
            "agent_strategy_provider_name": "",
            "agent_strategy_name": "function_calling",
            "agent_parameters": {
                "query": {"type": "constant", "value": extra_text or "What now?"},
                "model": {
                    "type": "constant",
                    "value": {"provider": "", "model": "default"},
                },
                "tools": {
                    "type": "constant",
                    "value": [{"provider_name": "time", "tool_name": "current_time"}],
                },
            },
        },
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
    graph = {
        "nodes": [
            # Place the nodes in columns of three.
            {
                "id": name,
                "type": "custom",
                "data": data,
                "position": {"x": 300 * (index // 3), "y": 150 * (index % 3)},
            }
            for index, (name, data) in enumerate(nodes.items())
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    return {
        "app": {
            "name": f"It begins by itself {extra_text}".strip(),
            "mode": "workflow",
            "description": extra_text,
        },
        "kind": "app",
        "version": "0.6.0",
        "workflow": {"graph": graph},
    }


def _create_sample_data(origin: str, extra_text: str, plugin: Path) -> dict[str, str]:
    """Create the sample resources through the HTTP API and return their ids by name."""
    ids: dict[str, str] = {}
    with httpx.Client(base_url=origin, timeout=60) as client:

        def post(path: str, body: Any) -> Any:
            """Send a POST request and return the response. Raises AssertionError if it
            is not successful."""
            answered = client.post(path, json=body)
            assert answered.status_code < 300, f"{path}: {answered.text[:500]}"
            return answered

        def with_extra_text(name: str) -> str:
            """Return the name with the extra text, at most 200 characters long."""
            return f"{name} {extra_text}".strip()[:200]

        # The route's first target always fails, so its calls show a failover.
        targets = [{"model": "cloud/broken"}]
        post(
            "/admin/v1/routes",
            {
                "name": with_extra_text("careful"),
                "targets": targets,
                "failover": ["cloud/fine"],
            },
        )
        post(
            "/admin/v1/limits",
            {
                "name": with_extra_text("plenty"),
                "unit": "cost",
                "amount": 100,
                "window": "month",
            },
        )
        post("/admin/v1/users", {"name": with_extra_text("Ada")})
        post("/admin/v1/tenants", {"name": "other"})
        definition = {
            "model": "own",
            "model_type": "llm",
            "label": {"en_US": with_extra_text("own")},
        }
        custom = {
            **definition,
            "model_properties": {"mode": "chat", "context_size": 1000},
        }
        post(
            "/admin/v1/models",
            {"name": with_extra_text("own"), "provider": "cloud", "definition": custom},
        )
        post(
            "/admin/v1/credentials",
            {
                "name": with_extra_text("second"),
                "provider": "cloud",
                "values": {"api_key": "sk-y"},
            },
        )
        ask = {
            "messages": [{"role": "user", "content": f"Say it. {extra_text}"}],
            "user": with_extra_text("Ada"),
        }
        # Traffic for the usage and request pages, including a failed call.
        for _ in range(3):
            client.post("/v1/chat/completions", json={**ask, "model": "cloud/fine"})
        client.post("/v1/chat/completions", json={**ask, "model": "cloud/broken"})
        answered = client.post(
            "/v1/chat/completions", json={**ask, "model": with_extra_text("careful")}
        )
        ids["call"] = answered.headers["x-request-id"]
        for name, text in apps(extra_text).items():
            ids[name] = post("/admin/v1/apps", {"file": text}).json()["id"]
        # Runs, annotations and a dataset for the pages of apps and knowledge.
        run_response = post(
            f"/admin/v1/apps/{ids['workflow']}/runs",
            {"inputs": {"text": f"in {extra_text}"}},
        )
        ids["run"] = run_response.headers["x-modelyard-run"]
        post(
            f"/admin/v1/apps/{ids['chat']}/runs",
            {"query": f"Who is there? {extra_text}"},
        )
        post(
            f"/admin/v1/apps/{ids['chat']}/annotations",
            {"question": f"When? {extra_text}", "answer": f"Now {extra_text}"},
        )
        ids["dataset"] = post(
            "/v1/datasets",
            {"name": with_extra_text("Rules")[:40], "indexing_technique": "economy"},
        ).json()["id"]
        document = {
            "name": with_extra_text("rules.md"),
            "text": f"The gate is closed at nine. {extra_text}",
            "indexing_technique": "economy",
            "process_rule": {"mode": "automatic"},
        }
        post(f"/v1/datasets/{ids['dataset']}/document/create-by-text", document)
        questions = [
            {
                "question": f"When is the gate closed? {extra_text}",
                "documents": [with_extra_text("rules.md")],
            }
        ]
        evaluation_response = post(
            f"/admin/v1/evaluations/{ids['dataset']}",
            {"questions": questions, "ways": ["full_text"]},
        )
        # The response is an event stream. Its last event contains the finished
        # evaluation.
        ids["evaluation"] = json.loads(evaluation_response.text.split("data: ")[-1])[
            "evaluation"
        ]["id"]
        package = package_folder(plugin).data
        task = client.post("/admin/v1/plugins?unsigned=true", content=package).json()
        # Plugin installation is asynchronous and may create a Python environment.
        until = time.monotonic() + 120
        while task.get("status") == "running" and time.monotonic() < until:
            time.sleep(0.2)
            task = client.get(f"/admin/v1/plugins/tasks/{task['id']}").json()
        assert task.get("status") == "success", task
    return ids
