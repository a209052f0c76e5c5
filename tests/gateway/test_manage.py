"""Tests for the admin API beyond tenants and keys.

Providers, models, plans, calls, plugins, runs of apps, settings and notifications.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.base.settings import (
    LocalSettings,
    PluginSettings,
    ProviderSettings,
    TelemetrySettings,
)
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    error_answer,
    json_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
ADMIN = "/admin/v1"


def provider(request: UpstreamRequest) -> Answer:
    if request.key == "sk-wrong":
        return error_answer(401, "Incorrect API key provided", code="invalid_api_key")
    if request.path.endswith("/models"):
        return json_answer({"object": "list", "data": [{"id": "one"}, {"id": "two"}]})
    if request.json["model"] == "down":
        return error_answer(500, "down")
    return chat_answer(f"said {request.json['messages'][-1]['content']}")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(provider) as provider_upstream:
        yield provider_upstream


@pytest.fixture
def client(start_gateway: Start, upstream: Upstream) -> Iterator[httpx.Client]:
    recording = TelemetrySettings(record=True)
    gateway = start_gateway(
        upstream, telemetry=recording, plugins=PluginSettings(debug_port=0)
    )
    with httpx.Client(base_url=gateway.origin, timeout=30) as http_client:
        yield http_client


def got(client: httpx.Client, path: str, **query: Any) -> Any:
    answered = client.get(f"{ADMIN}/{path}", params=query)
    assert answered.status_code == 200, answered.text
    return answered.json()


def refused(answered: httpx.Response, status: int, expected_text: str) -> None:
    assert answered.status_code == status, answered.text
    assert expected_text in answered.json()["error"]["message"], answered.text


def chat(client: httpx.Client, model: str, text: str = "hi") -> httpx.Response:
    return client.post(
        "/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": text}]},
    )


def test_every_route_of_the_admin_api_is_described_and_every_description_answers(
    start_gateway: Start,
):
    gateway = start_gateway()
    with httpx.Client(base_url=gateway.origin, timeout=30) as client:
        described = client.get("/admin/openapi.json")
        assert described.content == client.get("/docs/admin/openapi.json").content
        document = described.json()
        for path, verbs in document["paths"].items():
            for verb in verbs:
                if path.endswith(("/live", "/weights/{id}/pull")):
                    continue
                body = b"{}" if verb != "get" else None
                answered = client.request(
                    verb, re.sub(r"\{\w+\}", "nobody", path), content=body
                )
                excerpt = answered.text[:200]
                assert answered.status_code < 500, (verb, path, excerpt)
                assert "unknown_url" not in excerpt, (verb, path, excerpt)


def test_the_api_documentation_page_loads_nothing_external(
    client: httpx.Client,
):
    page = client.get("/docs/admin")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "/admin/v1/apps/{id}/runs" in page.text
    assert "http://" not in page.text
    assert client.get("/docs/style.css").headers["content-type"].startswith("text/css")


def test_providers_list_their_forms_and_credentials(client: httpx.Client):
    providers = {
        listed_provider["id"]: listed_provider
        for listed_provider in got(client, "providers")["data"]
    }
    assert providers["openai"]["is_ready"] is True
    assert [
        credential["is_stored"] for credential in providers["openai"]["credentials"]
    ] == [False]
    assert providers["anthropic"]["is_ready"] is False
    assert providers["anthropic"]["source"] == "catalogue"
    anthropic_provider = got(client, "providers/anthropic")
    assert "api_key" in {
        credential_form["variable"] for credential_form in anthropic_provider["forms"]
    }
    assert anthropic_provider["help"]["url"]["en_US"].startswith("https://")
    assert all(model["is_ready"] is False for model in anthropic_provider["offered"])
    refused(client.get(f"{ADMIN}/providers/opnai"), 404, "openai")
    refused(client.post(f"{ADMIN}/providers"), 405, "takes GET")


def test_credentials_are_checked_before_they_are_stored(
    client: httpx.Client, upstream: Upstream
):
    values = {"api_key": "sk-fine", "base_url": upstream.url}
    passed_check = client.post(
        f"{ADMIN}/providers/openai_api_compatible/check", json={"values": values}
    )
    assert passed_check.json() == {
        "works": True,
        "models": ["one", "two"],
        "message": "",
    }
    failed_check = client.post(
        f"{ADMIN}/providers/openai_api_compatible/check",
        json={"values": {**values, "api_key": "sk-wrong"}},
    )
    assert failed_check.json()["works"] is False
    assert "Incorrect API key" in failed_check.json()["message"]
    refused(
        client.post(f"{ADMIN}/providers/openai/check", json={"values": {}}),
        400,
        "api_key",
    )
    refused(
        client.post(f"{ADMIN}/providers/openai/check", json={}),
        400,
        "'values' is required",
    )
    assert got(client, "credentials")["data"] == []


def test_the_catalogue_is_filtered_by_type_and_readiness(client: httpx.Client):
    all_models, ready = (
        got(client, "catalogue")["data"],
        got(client, "catalogue", ready="true")["data"],
    )
    assert len(all_models) > len(ready) > 0
    assert {"echo", "openai"} <= {model["provider"] for model in ready}
    assert "anthropic" not in {model["provider"] for model in ready}
    speech = got(client, "catalogue", type="tts")["data"]
    assert {model["type"] for model in speech} == {"tts"}
    priced = next(model for model in all_models if model["id"] == "openai/gpt-4o-mini")
    assert (priced["input_price"], priced["currency"]) == ("0.15", "USD")
    assert {"temperature", "max_tokens"} <= {rule["name"] for rule in priced["rules"]}
    refused(client.get(f"{ADMIN}/catalogue?type=picture"), 400, "text-embedding")


def test_a_tenant_chooses_what_default_stands_for(client: httpx.Client):
    assert (
        client.post(f"{ADMIN}/plan", json={"model": "default"}).json()["model"]
        == "echo/echo"
    )
    response = client.post(
        f"{ADMIN}/defaults", json={"name": "llm", "model": "openai/gpt-4o-mini"}
    )
    assert response.status_code == 201, response.text
    assert (
        client.post(f"{ADMIN}/plan", json={"model": "default"}).json()["model"]
        == "openai/gpt-4o-mini"
    )
    client.delete(f"{ADMIN}/defaults/{response.json()['id']}")
    assert (
        client.post(f"{ADMIN}/plan", json={"model": "default"}).json()["model"]
        == "echo/echo"
    )
    for name, model, expected_text in (
        ("chat", "echo/echo", "model type"), ("llm", "echo", "provider/model"), ("tts", "local/gpt-4o", "no tts model"),
        ("llm", "nobody/x", "nobody"),
    ):  # fmt: skip
        answered = client.post(f"{ADMIN}/defaults", json={"name": name, "model": model})
        assert answered.status_code in (400, 404), answered.text
        assert expected_text in answered.text


def test_a_plan_shows_the_routing_without_a_call(
    client: httpx.Client, upstream: Upstream
):
    targets = [
        {"model": "openai/gpt-4o-mini", "weight": 3},
        {"model": "echo/echo", "weight": 1},
    ]
    body = {
        "name": "mix",
        "targets": targets,
        "strategy": "weighted",
        "failover": ["openai/gpt-4o"],
    }
    assert client.post(f"{ADMIN}/routes", json=body).status_code == 201
    client.post(
        f"{ADMIN}/limits",
        json={"name": "cap", "unit": "requests", "amount": 5, "window": "day"},
    )
    planned = client.post(f"{ADMIN}/plan", json={"model": "mix", "user": "ada"}).json()
    first, second_group = planned["groups"]
    assert (planned["route"], first["why"], second_group["why"]) == (
        "mix",
        "route",
        "failover",
    )
    assert [round(deployment["share"], 2) for deployment in first["deployments"]] == [
        0.75,
        0.25,
    ]
    assert [deployment["model"] for deployment in second_group["deployments"]] == [
        "openai/gpt-4o"
    ]
    assert planned["limits"] == [
        {"name": "cap", "unit": "requests", "amount": 5, "window": "day", "used": None}
    ]
    assert upstream.requests == []
    assert chat(client, "mix").status_code == 200
    (limit,) = client.post(f"{ADMIN}/plan", json={"model": "mix"}).json()["limits"]
    assert limit["used"] == 1
    refused(client.post(f"{ADMIN}/plan", json={"model": "mxi"}), 404, "mxi")
    refused(
        client.post(f"{ADMIN}/plan", json={"model": "mix", "type": "picture"}),
        400,
        "'type' must be one of",
    )


def test_attempts_are_paged_filtered_and_explained(client: httpx.Client):
    body = {
        "name": "careful",
        "targets": [{"model": "openai/down"}],
        "failover": ["openai/gpt-4o-mini"],
    }
    client.post(f"{ADMIN}/routes", json=body)
    for number in range(5):
        assert chat(client, "openai/gpt-4o-mini", str(number)).status_code == 200
    call = chat(client, "careful").headers["x-request-id"]
    explained = got(client, f"calls/{call}")
    assert [attempt["status"] for attempt in explained["attempts"]] == [
        "upstream_unavailable",
        "ok",
    ]
    assert (
        explained["attempts"][0]["started_at"] <= explained["attempts"][1]["started_at"]
    )
    page = got(client, "calls", limit=3)
    assert (len(page["data"]), page["total"]) == (3, 7)
    remaining_calls = got(client, "calls", limit=100, offset=3)["data"]
    assert len({attempt["id"] for attempt in [*page["data"], *remaining_calls]}) == 7
    assert got(client, "calls", offset=99) == {"data": [], "total": 7}
    assert got(client, "calls", status="failed")["total"] == 1
    assert got(client, "calls", model="down", provider="openai")["total"] == 1
    assert got(client, "calls", call=call)["total"] == 2
    assert got(client, "calls", user="'; DROP TABLE usage; --")["total"] == 0
    refused(client.get(f"{ADMIN}/calls?offset=-1"), 400, "'offset'")
    refused(client.get(f"{ADMIN}/calls?limit=5000"), 400, "'limit'")
    refused(client.get(f"{ADMIN}/calls/req_nobody"), 404, "not found")
    (hours,) = got(client, "usage", by="hour", since=1)["data"]
    assert (hours["hour"], hours["attempts"]) == (int(time.time() // 3600), 7)
    (times,) = got(client, "latency", since=1)["data"]
    assert (times["model"], times["calls"], times["p50"] <= times["p99"]) == (
        "openai/gpt-4o-mini",
        6,
        True,
    )


def test_a_recorded_call_is_shown_and_replayed_with_another_model(
    client: httpx.Client, start_gateway: Start
):
    call = chat(client, "openai/gpt-4o-mini", "what is it?").headers["x-request-id"]
    explained = got(client, f"calls/{call}")
    assert explained["request"]["messages"][0]["content"] == "what is it?"
    assert "said what is it?" in json.dumps(explained["answer"])
    replay = client.post(f"{ADMIN}/calls/{call}/replay", json={"model": "echo/echo"})
    assert replay.status_code == 200, replay.text
    assert (replay.json()["model"], replay.json()["text"]) == (
        "echo/echo",
        "what is it?",
    )
    refused(
        client.post(f"{ADMIN}/calls/{call}/replay", json={}), 400, "'model' is required"
    )
    embedding_response = client.post(
        "/v1/embeddings", json={"model": "echo/echo", "input": ["x"]}
    )
    refused(
        client.post(
            f"{ADMIN}/calls/{embedding_response.headers['x-request-id']}/replay",
            json={"model": "echo/echo"},
        ),
        400,
        "chats can",
    )
    quiet = start_gateway()
    with httpx.Client(base_url=quiet.origin, timeout=30) as quiet_client:
        call = chat(quiet_client, "echo/echo").headers["x-request-id"]
        assert "request" not in got(quiet_client, f"calls/{call}")
        refused(
            quiet_client.post(
                f"{ADMIN}/calls/{call}/replay", json={"model": "echo/echo"}
            ),
            400,
            "telemetry.record",
        )


def test_settings_are_shown_without_secrets_and_written_whole_or_not_at_all(
    start_gateway: Start, tmp_path: Path
):
    gateway = start_gateway(home=str(tmp_path))
    path = tmp_path / "modelyard.yaml"
    text = (
        "# mine\nretries: 1\nproviders:\n- name: openai\n  credentials:\n  - values: {api_key: sk-live-1234}\n"
        "database: postgresql://me:hunter2@127.0.0.1/x\nmaster_key: ${KEY:-none}\n"
    )
    path.write_text(text, "utf-8")
    with httpx.Client(base_url=gateway.origin, timeout=30) as client:
        settings_view = got(client, "settings")
        assert "sk-live-1234" not in settings_view["text"]
        assert "hunter2" not in settings_view["text"]
        assert "# mine" in settings_view["text"]
        response = client.put(
            f"{ADMIN}/settings",
            json={"text": settings_view["text"].replace("retries: 1", "retries: 2")},
        )
        assert response.status_code == 200, response.text
        written_text = path.read_text("utf-8")
        assert "sk-live-1234" in written_text
        assert "me:hunter2@" in written_text
        assert "retries: 2" in written_text
        assert path.stat().st_mode & 0o077 == 0
        refused(
            client.put(f"{ADMIN}/settings", json={"text": "port: x\nprot: 1\n"}),
            400,
            "Line 2: Unknown setting 'prot'",
        )
        refused(
            client.put(f"{ADMIN}/settings", json={"text": "a: [\n"}), 400, "not YAML"
        )
        refused(
            client.put(
                f"{ADMIN}/settings",
                json={"text": "master_key: '********'\nhost: '********'\n"},
            ),
            400,
            "host",
        )
        assert path.read_text("utf-8") == written_text
        assert [
            file.name
            for file in tmp_path.iterdir()
            if file.name.startswith(".modelyard-")
        ] == []


def test_about_lists_the_packages_with_licences(client: httpx.Client):
    about = got(client, "about")
    assert (
        about["database"],
        about["workers"],
        about["problem"],
        about["records_bodies"],
    ) == ("sqlite", 1, None, True)
    assert {"msgspec", "uvicorn"} <= {package["name"] for package in about["packages"]}


def test_pages_are_notified_of_changes(client: httpx.Client):
    topics: list[str] = []
    stream_opened = threading.Event()

    def listen() -> None:
        with client.stream("GET", f"{ADMIN}/live") as answer:
            for line in answer.iter_lines():
                stream_opened.set()
                if line.startswith("data:"):
                    topics.extend(json.loads(line[5:])["topics"])
                    if {"usage", "setup"} <= {*topics}:
                        return

    listening = threading.Thread(target=listen)
    listening.start()
    assert stream_opened.wait(60)
    chat(client, "echo/echo")
    client.post(f"{ADMIN}/users", json={"name": "ada"})
    listening.join(15)
    assert {"usage", "setup"} <= {*topics}


FLOW: dict[str, Any] = {
    "app": {"name": "flow", "mode": "workflow"}, "kind": "app", "version": "0.3.0",
    "workflow": {"graph": {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "Start", "variables": [
                {"variable": "name", "label": "Name", "type": "text-input", "required": True}]}},
            {"id": "greet", "data": {"type": "template-transform", "title": "Greet", "template": "Hi {{ name }}",
                                     "variables": [{"variable": "name", "value_selector": ["start", "name"]}]}},
            {"id": "end", "data": {"type": "end", "title": "End", "outputs": [
                {"variable": "said", "value_selector": ["greet", "output"]}]}},
        ],
        "edges": [{"source": "start", "target": "greet"}, {"source": "greet", "target": "end"}],
    }},
}  # fmt: skip


def events(answered: httpx.Response) -> list[dict[str, Any]]:
    return [
        json.loads(line[5:])
        for line in answered.text.splitlines()
        if line.startswith("data:")
    ]


def test_a_draft_is_checked_run_and_watched_and_its_nodes_are_tested(
    client: httpx.Client,
):
    text = json.dumps(FLOW)
    assert (
        client.post(f"{ADMIN}/apps/check", json={"file": text}).json()["problems"] == []
    )
    broken = text.replace('"template-transform"', '"template-transfrom"')
    (problem, *_) = client.post(f"{ADMIN}/apps/check", json={"file": broken}).json()[
        "problems"
    ]
    assert (
        problem["node"] in ("greet", "Greet"),
        "template-transfrom" in problem["message"],
    ) == (True, True)
    app = client.post(f"{ADMIN}/apps", json={"file": text, "publish": False}).json()
    app_url = f"{ADMIN}/apps/{app['id']}"
    assert (
        client.get(f"{app_url}/form?draft=true").json()["data"][0]["variable"] == "name"
    )
    run_events = events(
        client.post(f"{app_url}/runs", json={"draft": True, "inputs": {"name": "Ada"}})
    )
    assert run_events[0]["event"] == "run"
    assert (run_events[-1]["event"], run_events[-1]["run"]["outputs"]) == (
        "end",
        {"said": "Hi Ada"},
    )
    run = run_events[0]["run"]["id"]
    replayed_events = events(client.get(f"{ADMIN}/runs/{run}/events"))
    assert [event["event"] for event in replayed_events] == [
        event["event"] for event in run_events
    ]
    assert client.get(f"{ADMIN}/runs/{run}").json()["status"] == "succeeded"
    assert client.get(f"{app_url}/runs").json()["total"] == 1
    for verb in ("stop", "pause", "resume"):
        assert client.post(f"{ADMIN}/runs/{run}/{verb}").json() == {"done": False}
    refused(
        client.post(f"{app_url}/runs", json={"inputs": {"name": "x"}}), 400, "publish"
    )
    refused(
        client.post(f"{app_url}/runs", json={"draft": True, "inputs": {}}), 400, "name"
    )
    _check_node_tests(client, app_url, text)
    refused(client.get(f"{ADMIN}/runs/nobody"), 404, "")


def _check_node_tests(client: httpx.Client, app_url: str, text: str) -> None:
    """A node of a draft runs alone, with the given inputs."""
    tested = client.post(
        f"{app_url}/test-node",
        json={"file": text, "node": "greet", "inputs": {"start.name": "Bob"}},
    )
    assert (tested.json()["status"], tested.json()["outputs"]) == (
        "succeeded",
        {"output": "Hi Bob"},
    )
    refused(
        client.post(f"{app_url}/test-node", json={"file": text, "node": "nobody"}),
        404,
        "no node 'nobody'",
    )
    refused(
        client.post(
            f"{app_url}/test-node",
            json={"file": text, "node": "greet", "inputs": {"x": 1}},
        ),
        400,
        "node.variable",
    )


def test_conversations_of_an_app_are_listed(client: httpx.Client):
    chatting = {
        "app": {"name": "desk", "mode": "chat"}, "kind": "app", "version": "0.3.0",
        "model_config": {"model": {"provider": "", "name": "default", "mode": "chat"}, "user_input_form": []},
    }  # fmt: skip
    app = client.post(f"{ADMIN}/apps", json={"file": json.dumps(chatting)}).json()
    app_url = f"{ADMIN}/apps/{app['id']}"
    run_events = events(client.post(f"{app_url}/runs", json={"query": "who is there?"}))
    assert run_events[-1]["run"]["status"] == "succeeded"
    (conversation,) = client.get(f"{app_url}/conversations").json()["data"]
    (message,) = client.get(f"{app_url}/conversations/{conversation['id']}").json()[
        "data"
    ]
    assert (message["query"], message["answer"]) == ("who is there?", "who is there?")
    assert client.get(f"{app_url}/feedback").json()["data"] == []
    response = client.post(
        f"{app_url}/annotations", json={"question": "When?", "answer": "Now."}
    )
    assert response.status_code == 201, response.text
    assert [
        annotation["answer"]
        for annotation in client.get(f"{app_url}/annotations").json()["data"]
    ] == ["Now."]
    assert (
        client.delete(f"{app_url}/annotations/{response.json()['id']}").json()[
            "deleted"
        ]
        is True
    )
    refused(
        client.post(f"{app_url}/annotations", json={"question": "When?"}),
        400,
        "'answer'",
    )
    refused(client.post(f"{app_url}/runs", json={}), 400, "'query'")


def test_a_splitting_rule_is_previewed_on_a_text(client: httpx.Client):
    rule = {
        "mode": "custom",
        "rules": {"segmentation": {"separator": "\n\n", "max_tokens": 500}},
    }
    preview = client.post(
        f"{ADMIN}/split", json={"text": "One.\n\nTwo.", "process_rule": rule}
    ).json()
    assert ([segment["text"] for segment in preview["data"]], preview["total"]) == (
        ["One.", "Two."],
        2,
    )
    assert client.post(f"{ADMIN}/split", json={"text": "One."}).json()["total"] == 1
    assert (
        client.post(
            f"{ADMIN}/split", json={"text": "x", "process_rule": {"mode": 7}}
        ).status_code
        == 400
    )
    refused(
        client.post(f"{ADMIN}/split", json={"text": "x" * 200_001}), 400, "longer than"
    )


def test_node_types_have_schemas(client: httpx.Client):
    kinds = {node_type["type"]: node_type for node_type in got(client, "nodes")["data"]}
    assert {
        "start",
        "llm",
        "code",
        "if-else",
        "iteration",
        "human-input",
        "agent",
    } <= kinds.keys()
    assert "LLMData" in kinds["llm"]["schema"]["$defs"]


def test_an_invalid_plugin_is_refused_and_leaves_nothing(client: httpx.Client):
    assert got(client, "plugins")["data"] == []
    refused(
        client.post(f"{ADMIN}/plugins", content=b""),
        400,
        "a .difypkg or .difybndl file",
    )
    refused(client.post(f"{ADMIN}/plugins", content=b'{"x": 1}'), 400, "not JSON")
    assert client.post(f"{ADMIN}/plugins", content=b"no zip at all").status_code in (
        400,
        422,
    )
    refused(client.get(f"{ADMIN}/plugins/nobody"), 404, "not installed")
    assert got(client, "market")["data"] == []


def test_local_models_are_listed_with_their_files(
    client: httpx.Client, start_gateway: Start
):
    listed = got(client, "weights")["data"]
    small_model = next(model for model in listed if model["id"] == "smollm2-135m")
    assert (small_model["types"], small_model["licence"], small_model["sets"]) == (
        ["llm"],
        "Apache-2.0",
        ["mini"],
    )
    assert small_model["bytes"] > 90_000_000
    refused(client.post(f"{ADMIN}/weights/qwen/pull"), 404, "did you mean 'qwen")
    refused(client.post(f"{ADMIN}/weights/smollm2-135m"), 405, "takes DELETE")
    assert client.delete(f"{ADMIN}/weights/smollm2-135m").json() == {
        "id": "smollm2-135m",
        "deleted": False,
    }
    with httpx.Client(
        base_url=start_gateway(local=LocalSettings(enabled=False)).origin, timeout=30
    ) as other_client:
        assert got(other_client, "weights")["data"] == []


@pytest.mark.parametrize("role", ["viewer", "developer"])
def test_roles_without_write_permission_are_refused(client: httpx.Client, role: str):
    key = client.post(f"{ADMIN}/keys", json={"name": "k", "role": role}).json()["key"]
    client.headers["authorization"] = f"Bearer {key}"
    for verb, path in (
        ("GET", "settings"), ("PUT", "settings"), ("POST", "plan"), ("GET", "plugins"), ("POST", "plugins"),
        ("GET", "providers"), ("POST", "apps/check"), ("POST", "weights/x/pull"),
    ):  # fmt: skip
        answered = client.request(
            verb, f"{ADMIN}/{path}", content=b"{}" if verb != "GET" else None
        )
        assert answered.status_code == 403, (verb, path, answered.text)
    assert client.get(f"{ADMIN}/calls").status_code == 200
    assert client.get(f"{ADMIN}/about").status_code == 200


def test_a_custom_model_has_its_price_and_is_removed(
    start_gateway: Start, upstream: Upstream
):
    own_provider = ProviderSettings(name="mine", base_url=upstream.url)
    gateway = start_gateway(providers=[own_provider])
    definition = {
        "model": "tiny", "model_type": "llm", "label": {"en_US": "Tiny"},
        "model_properties": {"mode": "chat", "context_size": 1000},
        "pricing": {"input": "1", "output": "2", "unit": "0.000001", "currency": "EUR"},
    }  # fmt: skip
    with httpx.Client(base_url=gateway.origin, timeout=30) as client:
        response = client.post(
            f"{ADMIN}/models",
            json={"name": "tiny", "provider": "mine", "definition": definition},
        )
        assert response.status_code == 201, response.text
        (listed,) = [
            model
            for model in got(client, "catalogue")["data"]
            if model["id"] == "mine/tiny"
        ]
        assert (listed["is_custom"], listed["output_price"], listed["currency"]) == (
            True,
            "2",
            "EUR",
        )
        client.delete(f"{ADMIN}/models/{response.json()['id']}")
        assert "mine/tiny" not in {
            model["id"] for model in got(client, "catalogue")["data"]
        }


def test_the_operator_acts_for_another_tenant_and_nobody_else_can(
    start_gateway: Start, upstream: Upstream
):
    owner = "sk-of-the-owner"
    gateway = start_gateway(upstream, api_keys=[owner])
    mine = {"authorization": f"Bearer {owner}"}
    acting = {"x-modelyard-tenant": "acme"}
    with httpx.Client(base_url=gateway.origin, timeout=30, headers=mine) as client:
        client.post(f"{ADMIN}/tenants", json={"name": "acme"})
        client.post(f"{ADMIN}/users", json={"name": "of the house"})
        acme_key = client.post(
            f"{ADMIN}/keys", json={"name": "theirs", "role": "owner"}, headers=acting
        ).json()["key"]
        admin_key = client.post(
            f"{ADMIN}/keys", json={"name": "less", "role": "admin"}
        ).json()["key"]
        assert (
            _listed(client, "keys", owner, **acting)
            == _listed(client, "keys", acme_key)
            == ["theirs"]
        )
        assert _listed(client, "users", owner) == ["of the house"]
        assert _listed(client, "users", owner, **acting) == []
        by_default = {"x-modelyard-tenant": "default"}
        assert _listed(client, "users", owner, **by_default) == ["of the house"]
        for key, tenant in (
            (acme_key, "default"),
            (acme_key, "nobody"),
            (admin_key, "acme"),
            (admin_key, "nobody"),
        ):
            _check_refused_tenant(client, key, tenant)
        refused(
            client.get(f"{ADMIN}/users", headers=_acting_as(owner, "nobody")),
            404,
            "does not exist",
        )
        assert _listed(client, "tenants", owner, **acting) == ["acme"], (
            "an owner of one tenant sees that one"
        )
        _check_acting(client, _acting_as(owner, "acme"), mine)
        gateway.flush()
        assert [row.tenant for row in gateway.rows("acme")] == ["acme"]


def _acting_as(key: str, tenant: str) -> dict[str, str]:
    """Return the headers of a request for a tenant."""
    return {"authorization": f"Bearer {key}", "x-modelyard-tenant": tenant}


def _listed(client: httpx.Client, plural: str, key: str, **headers: str) -> list[str]:
    """Return the names of the resources that a key can list."""
    answered = client.get(
        f"{ADMIN}/{plural}", headers={"authorization": f"Bearer {key}", **headers}
    )
    assert answered.status_code == 200, answered.text
    return [resource["name"] for resource in answered.json()["data"]]


def _check_refused_tenant(client: httpx.Client, key: str, tenant: str) -> None:
    """A key of one tenant cannot act for another tenant, existing or not."""
    headers = _acting_as(key, tenant)
    for path in (f"{ADMIN}/users", "/v1/models"):
        refused(client.get(path, headers=headers), 404, "does not exist")
    assert client.get("/v1/datasets", headers=headers).status_code in (401, 404)


def _check_acting(
    client: httpx.Client, acted: dict[str, str], mine: dict[str, str]
) -> None:
    """Datasets and calls that the operator makes for a tenant belong to that tenant."""
    assert client.get(f"{ADMIN}/settings", headers=acted).status_code == 404
    created = client.post("/v1/datasets", json={"name": "of acme"}, headers=acted)
    assert created.status_code == 200
    totals = [
        client.get("/v1/datasets", headers=headers).json()["total"]
        for headers in (acted, mine)
    ]
    assert totals == [1, 0]
    body = {"model": "echo/echo", "messages": [{"role": "user", "content": "hi"}]}
    called = client.post("/v1/chat/completions", json=body, headers=acted)
    assert called.status_code == 200
