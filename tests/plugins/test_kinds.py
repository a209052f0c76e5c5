"""End-to-end tests with unmodified plugins of every type.

Through the gateway's routes and the plugin daemon's interface.
"""

import base64
import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI

from modelyard.base.errors import (
    InvokeBadRequestError,
    NotFoundError,
    PackageError,
    PluginError,
)
from modelyard.base.settings import PluginSettings
from modelyard.plugins.signature import generate_keys, sign
from modelyard.tenancy.resource_types import Subscription, ToolCredential
from modelyard.tenant_plugins.grants import Grant
from modelyard.tools.function import tool
from tests.plugins.conftest import EXAMPLES, PluginGateway

pytestmark = pytest.mark.proof("plugin-kinds")

Plug = Callable[..., PluginGateway]


def test_a_model_is_listed_and_streams_to_the_official_client(plugged: Plug):
    gateway = plugged()
    gateway.install("mockgpt")
    with OpenAI(base_url=gateway.running.url, api_key="any") as client:
        assert "mockgpt/mock-gpt-v1" in [model.id for model in client.models.list()]
        ask: Any = {
            "model": "mockgpt/mock-gpt-v1",
            "messages": [{"role": "user", "content": "hi"}],
        }
        completion = client.chat.completions.create(**ask)
        assert (
            completion.choices[0].message.content
            == "感谢你的提问，希望这个回答对你有所帮助。"
        )
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (
            2,
            20,
        )  # type: ignore[union-attr]
        with client.chat.completions.create(
            **ask, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
    deltas = [
        chunk.choices[0].delta.content
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert "".join(deltas) == completion.choices[0].message.content
    assert len(deltas) == 20  # word by word
    assert chunks[-1].usage.total_tokens == 22  # type: ignore[union-attr]
    rows = gateway.running.flush()
    assert [
        (row.provider, row.prompt_tokens, row.completion_tokens, str(row.total_price))
        for row in rows
    ] == [("mockgpt", 2, 20, "0.0000860")] * 2


def test_parameters_are_validated_by_the_plugins_rules(plugged: Plug):
    gateway = plugged()
    gateway.install("mockgpt")
    ask = {
        "model": "mockgpt/mock-gpt-v1",
        "messages": [{"role": "user", "content": "hi"}],
    }
    with httpx.Client(base_url=gateway.running.url, timeout=30) as client:
        short = client.post("/chat/completions", json={**ask, "max_tokens": 3})
        assert short.json()["usage"]["completion_tokens"] == 3
        refused = client.post("/chat/completions", json={**ask, "max_tokens": 99_999})
        assert (
            refused.status_code,
            "max_tokens" in refused.json()["error"]["message"],
        ) == (400, True)


def test_tokens_are_counted_by_the_plugin(plugged: Plug):
    gateway = plugged()
    gateway.install("mockgpt")
    with httpx.Client(base_url=gateway.running.url, timeout=30) as client:
        body = {
            "model": "mockgpt/mock-gpt-v1",
            "messages": [{"role": "user", "content": "一二三四五"}],
            "max_tokens": 5,
        }
        assert client.post("/messages/count_tokens", json=body).json() == {
            "input_tokens": 5
        }


def test_five_more_model_types(plugged: Plug):
    gateway = plugged()
    gateway.install("sixfold")
    with httpx.Client(base_url=gateway.running.url, timeout=30) as client:
        vectors = client.post(
            "/embeddings",
            json={"model": "sixfold/letters", "input": ["aaaa", "bbbb" * 9]},
        ).json()
        assert [len(entry["embedding"]) for entry in vectors["data"]] == [26, 26]
        assert vectors["usage"]["prompt_tokens"] == 10
        docs = ["blue sky", "the cat sat", "a cat"]
        ranked = client.post(
            "/rerank",
            json={"model": "sixfold/overlap", "query": "the cat", "documents": docs},
        ).json()
        assert [entry["index"] for entry in ranked["results"]] == [1, 2, 0]
        speech = client.post(
            "/audio/speech",
            json={"model": "sixfold/tone", "input": "hello", "voice": "high"},
        )
        with wave.open(io.BytesIO(speech.content)) as file:
            assert file.getnframes() == 400
        fields = {"model": "sixfold/length"}
        transcription = client.post(
            "/audio/transcriptions", data=fields, files={"file": ("a.wav", b"x" * 77)}
        )
        assert transcription.json()["text"] == "77 bytes"
        verdict = client.post(
            "/moderations",
            json={"model": "sixfold/words", "input": ["a bad word", "fine"]},
        ).json()
        assert [entry["flagged"] for entry in verdict["results"]] == [True, False]
        unknown_voice = client.post(
            "/audio/speech",
            json={"model": "sixfold/tone", "input": "x", "voice": "nobody"},
        )
        assert (unknown_voice.status_code, "low and high" in unknown_voice.text) == (
            400,
            True,
        )
    assert {row.model_type for row in gateway.running.flush()} == {
        "text-embedding", "rerank", "tts", "speech2text", "moderation",
    }  # fmt: skip


@pytest.mark.xdist_group("toolbox")
def test_a_tool_answers_with_text_json_variables_and_files(toolbox: PluginGateway):
    assert [entry["type"] for entry in toolbox.tool("add", a=2, b=3)] == [
        "text",
        "json",
        "variable",
    ]
    assert toolbox.tool_text("add", a=2, b=3) == "5"
    chunks = [entry["message"] for entry in toolbox.tool("draw", size=20_000)]
    assert [chunk["end"] for chunk in chunks] == [False, False, False, True]
    assert b"".join(base64.b64decode(chunk["blob"]) for chunk in chunks) == bytes(
        n % 256 for n in range(20_000)
    )
    assert toolbox.call(
        "modelyard/toolbox",
        "tool",
        "validate_tool_credentials",
        provider="toolbox",
        credentials={},
    ) == [{"result": True}]
    with pytest.raises(PluginError, match="this token is refused") as caught:
        toolbox.call(
            "modelyard/toolbox",
            "tool",
            "validate_tool_credentials",
            provider="toolbox",
            credentials={"token": "wrong"},
        )
    assert caught.value.kind == "ToolProviderCredentialValidationError"


@pytest.mark.xdist_group("toolbox")
def test_dynamic_options_of_a_parameter_are_requested(toolbox: PluginGateway):
    environment = toolbox.run_on_loop(
        toolbox.parts.host.environments.prepare(EXAMPLES / "toolbox", name="toolbox")
    )
    if (
        "/python3.11/"
        in str(next(environment.folder.glob("lib/*/site-packages"))) + "/"
    ):
        pytest.skip("the last SDK for Python 3.11 asks triggers alone for options")
    options = toolbox.call(
        "modelyard/toolbox", "dynamic_parameter", "fetch_parameter_options",
        provider="toolbox", provider_action="draw", parameter="colour", credentials={}, credential_type="api-key",
    )  # fmt: skip
    assert [entry["value"] for entry in options[0]["options"]] == ["red", "green"]


@pytest.mark.xdist_group("toolbox")
def test_a_tool_receives_its_oauth_credentials(toolbox: PluginGateway):
    common: dict[str, Any] = {
        "provider": "toolbox", "redirect_uri": "http://127.0.0.1/back", "system_credentials": {"client_id": "me"},
    }  # fmt: skip
    (url,) = toolbox.call(
        "modelyard/toolbox", "oauth", "get_authorization_url", **common
    )
    assert "client_id=me" in url["authorization_url"]
    back = b"GET /back?code=abc HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".hex()
    (token_response,) = toolbox.call(
        "modelyard/toolbox", "oauth", "get_credentials", raw_http_request=back, **common
    )
    assert (token_response["credentials"], token_response["expires_at"]) == (
        {"token": "for-abc"},
        2_000_000_000,
    )
    (refreshed_token,) = toolbox.call(
        "modelyard/toolbox",
        "oauth",
        "refresh_credentials",
        credentials=token_response["credentials"],
        **common,
    )
    assert refreshed_token["credentials"] == {"token": "for-abc-again"}


def test_a_tool_called_by_another_has_the_tenants_credentials(plugged: Plug):
    gateway = plugged()
    gateway.install("toolbox")
    value = ToolCredential(provider="modelyard/toolbox/toolbox")
    row = gateway.run_on_loop(
        gateway.parts.rows.save(
            "default", ToolCredential.kind, "mine", {"token": "secret-canary"}, value
        )
    )
    assert gateway.run_on_loop(
        gateway.parts.credentials.find("default", "modelyard/toolbox/toolbox")
    ) == (
        {"token": "secret-canary"},
        "api-key",
    )
    assert gateway.run_on_loop(
        gateway.parts.credentials.find("other", "modelyard/toolbox/toolbox")
    ) == ({}, "unauthorized")
    assert (
        "secret-canary"
        not in gateway.run_on_loop(
            gateway.yard.services.storage.resources.get(
                "default", ToolCredential.kind, row
            )
        ).body
    )
    with pytest.raises(NotFoundError):
        gateway.run_on_loop(
            gateway.parts.credentials.find(
                "default", "modelyard/toolbox/toolbox", "nothing"
            )
        )
    assert gateway.tool_text("ask", what="tool", text="4+5") == "9"


def test_unsigned_packages_are_refused_if_signatures_are_required(
    plugged: Plug, tmp_path: Path, example: Callable[[str], Any]
):
    private, public = generate_keys()
    (tmp_path / "us.pem").write_bytes(public)
    plugin_settings = PluginSettings(
        debug_port=0, must_be_signed=True, public_keys=[str(tmp_path / "us.pem")]
    )
    gateway = plugged(chosen=plugin_settings)
    plain = example("mockgpt").data
    with pytest.raises(PackageError, match="not signed"):
        gateway.run_on_loop(gateway.parts.packages.upload(plain))
    package, signature = gateway.run_on_loop(
        gateway.parts.packages.upload(
            sign(plain, private, category="partner", signed_at=1)
        )
    )
    assert signature.category == "partner"
    gateway.run_on_loop(gateway.parts.installations.add("default", package))
    assert gateway.call(
        "modelyard/mockgpt",
        "model",
        "validate_provider_credentials",
        provider="mockgpt",
        credentials={},
    )


@pytest.mark.xdist_group("toolbox")
@pytest.mark.parametrize(
    ("capability", "text", "answer"),
    [
        ("llm", "say this", "say this"),
        ("embedding", "abc", "26"),
        ("rerank", "two words", "two words"),
        ("tts", "hello", "844"),
        ("moderation", "bad thing", "True"),
        ("summary", "a long text", "a long text"),
        ("tool", "4+5", "9"),
        ("file", "some bytes", "note.txt 10"),
    ],
)
def test_a_tool_calls_its_host_during_a_call(
    toolbox: PluginGateway, capability: str, text: str, answer: str
):
    assert toolbox.tool_text("ask", what=capability, text=text) == answer


def test_host_calls_of_a_tool_are_in_the_tenants_ledger(plugged: Plug):
    gateway = plugged()
    gateway.install("toolbox")
    gateway.tool_text("ask", what="llm", text="hi")
    (row,) = gateway.running.flush()
    assert (row.provider, row.user, row.tenant) == ("echo", "alice", "default")


@pytest.mark.xdist_group("toolbox")
def test_calls_of_unknown_apps_are_errors(toolbox: PluginGateway):
    with pytest.raises(PluginError, match="App 'some-app' does not exist"):
        toolbox.tool_text("ask", what="app", text="some-app")


def test_an_agent_node_runs_a_plugins_strategy_with_our_tool(plugged: Plug):
    gateway = plugged()
    gateway.install("planner", "toolbox")

    @tool
    async def add(a: float, b: float) -> str:
        """Adds."""
        return f"{a + b:g}"

    gateway.yard.tools.functions.add(add)
    agent = {
        "type": "agent", "title": "agent", "agent_strategy_provider_name": "modelyard/planner/planner",
        "agent_strategy_name": "once", "agent_parameters": {
            "query": {"type": "constant", "value": "what is 20 and 22"},
            "model": {"type": "constant", "value": {"provider": "echo", "model": "echo", "mode": "chat", "model_type": "llm"}},
            "tools": {"type": "constant", "value": [{"enabled": True, "type": "builtin", "provider_name": "function", "tool_name": "add"}]},
        },
    }  # fmt: skip
    nodes = {
        "start": {"type": "start"},
        "agent": agent,
        "end": {
            "type": "end",
            "outputs": [{"variable": "said", "value_selector": ["agent", "text"]}],
        },
    }
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": "start", "target": "agent"},
            {"source": "agent", "target": "end"},
        ],
    }
    document = {
        "kind": "app",
        "version": "0.6.0",
        "app": {"name": "planned", "mode": "workflow"},
        "workflow": {"graph": graph},
    }

    async def go() -> Any:
        app_record, app, _ = await gateway.yard.apps.add("default", yaml.dump(document))
        run = await gateway.yard.services.workflows.chats.run(
            app_record, app, inputs={}, user="ada"
        )
        return await gateway.yard.runs.wait_until_ended("default", run.id)

    ended = gateway.run_on_loop(go())
    assert (ended.error, ended.outputs.get("said")) == ("", "It is 42.")


def test_host_calls_without_permission_are_refused(plugged: Plug):
    gateway = plugged()
    gateway.install("toolbox", grant=Grant(permissions=["storage"]))
    assert gateway.tool_text("remember", opt="set", key="a", value="x") == "kept"
    with pytest.raises(PluginError, match=r"Permission denied: 'model\.llm'"):
        gateway.tool_text("ask", what="llm", text="hi")
    gateway.run_on_loop(
        gateway.parts.installations.grant("default", "modelyard/toolbox", ["model.llm"])
    )
    assert gateway.tool_text("ask", what="llm", text="hi") == "hi"
    with pytest.raises(PluginError, match="Permission denied: 'storage'"):
        gateway.tool_text("remember", opt="get", key="a")
    with pytest.raises(InvokeBadRequestError, match="does not request 'endpoint'"):
        gateway.run_on_loop(
            gateway.parts.installations.grant(
                "default", "modelyard/toolbox", ["endpoint"]
            )
        )


def test_plugin_storage_is_limited_and_separate_per_tenant(plugged: Plug):
    gateway = plugged()
    gateway.install("toolbox")
    gateway.install("toolbox", tenant="other")
    assert gateway.tool_text("remember", opt="set", key="note", value="mine") == "kept"
    assert gateway.tool_text("remember", opt="get", key="note") == "mine"
    with pytest.raises(PluginError, match="Key 'note' not found in plugin storage"):
        gateway.tool("remember", "other", opt="get", key="note")
    with pytest.raises(PluginError, match="4,096 are allowed"):
        gateway.tool_text("remember", opt="set", key="big", value="x" * 5000)
    assert gateway.tool_text("remember", opt="get", key="note") == "mine"
    with pytest.raises(PluginError, match="is not a valid key"):
        gateway.tool_text("remember", opt="set", key="../x", value="y")
    assert gateway.tool_text("remember", opt="delete", key="note") == "gone"
    assert gateway.tool_text("remember", opt="exist", key="note") == "False"


def test_an_agent_strategy_calls_tools_and_models(plugged: Plug):
    gateway = plugged()
    gateway.install("planner", "toolbox")
    tool = {
        "identity": {
            "author": "modelyard",
            "name": "add",
            "label": {"en_US": "Add"},
            "provider": "modelyard/toolbox/toolbox",
        },
        "parameters": [],
        "description": {"human": {"en_US": "Adds."}, "llm": "Adds."},
        "provider_type": "builtin",
        "runtime_parameters": {},
    }
    model = {
        "provider": "echo",
        "model": "echo",
        "model_type": "llm",
        "mode": "chat",
        "completion_params": {},
        "history_prompt_messages": [],
    }
    messages = gateway.call(
        "modelyard/planner", "agent_strategy", "invoke_agent_strategy",
        agent_strategy_provider="planner", agent_strategy="once",
        agent_strategy_params={"query": "what is 20 and 22", "model": model, "tools": [tool]},
    )  # fmt: skip
    assert [entry["type"] for entry in messages[:2]] == ["log", "log"]
    assert messages[1]["message"]["data"] == {"output": "42"}
    assert "".join(entry["message"]["text"] for entry in messages[2:]) == "It is 42."


def test_endpoints_have_their_own_urls(plugged: Plug):
    gateway = plugged()
    gateway.install("webhook")
    hook = gateway.run_on_loop(
        gateway.parts.endpoints.set_up(
            "default", "modelyard/webhook", "mine", {"greeting": "Hi", "token": "t"}
        )
    )
    with httpx.Client(
        base_url=f"{gateway.running.origin}/e/{hook}", timeout=30
    ) as client:
        hello = client.get("/hello/Ada", params={"mark": "!"})
        assert (hello.status_code, hello.text, hello.headers["x-by"]) == (
            200,
            "Hi, Ada!",
            "webhook",
        )
        assert [client.post("/count", content=b"body").json() for _ in range(2)] == [
            {"count": 1, "body": "body"}, {"count": 2, "body": "body"},
        ]  # fmt: skip
        assert client.get("/slowly").text == "one two three"
        assert client.get("/nowhere").status_code == 404
        gateway.run_on_loop(
            gateway.parts.endpoints.enable("default", hook, is_on=False)
        )
        assert client.get("/hello/Ada").status_code == 404
    with pytest.raises(NotFoundError):
        gateway.run_on_loop(gateway.parts.endpoints.enable("other", hook, is_on=True))
    with pytest.raises(InvokeBadRequestError, match="has no endpoints"):
        gateway.install("mockgpt")
        gateway.run_on_loop(
            gateway.parts.endpoints.set_up("default", "modelyard/mockgpt", "x", {})
        )


def test_a_datasource_lists_pages_and_returns_their_text(plugged: Plug):
    gateway = plugged()
    gateway.install("shelf")
    common: dict[str, Any] = {
        "provider": "shelf",
        "datasource": "notes",
        "credentials": {"token": "x"},
    }
    (pages,) = gateway.call(
        "modelyard/shelf",
        "datasource",
        "invoke_online_document_datasource_get_pages",
        datasource_parameters={},
        **common,
    )
    assert [page["page_name"] for page in pages["result"][0]["pages"]] == [
        "Note 1",
        "Note 2",
        "Note 3",
    ]
    page = {"workspace_id": "shelf", "page_id": "3", "type": "page"}
    messages = gateway.call(
        "modelyard/shelf",
        "datasource",
        "invoke_online_document_datasource_get_page_content",
        page=page,
        **common,
    )
    assert messages[0]["message"]["variable_value"] == "Read a book."


def test_an_event_starts_the_subscribed_apps(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    with httpx.Client(base_url=gateway.running.origin, timeout=60) as client:
        _check_trigger_forms(client)
        subscription = {
            "plugin": "modelyard/pulse",
            "name": "ward",
            "parameters": {"room": "7"},
            "credentials": {"token": "a"},
        }
        ward = client.post("/admin/v1/subscriptions", json=subscription).json()
        hall = client.post(
            "/admin/v1/subscriptions", json={**subscription, "name": "hall"}
        ).json()
        assert "token" not in json.dumps(client.get("/admin/v1/subscriptions").json())
        at_least = {"at_least": {"type": "constant", "value": 100}}
        every_app = _listening_app(client, "every")
        apps = [
            every_app,
            _listening_app(client, "high", event_parameters=at_least),
            _listening_app(client, "ward", subscription_id=ward["id"]),
        ]
        _listening_app(client, "others", event_name="sneeze")
        for row, beat in ((ward, 72), (hall, 130)):
            assert client.post(row["address"], json={"beat": beat}).status_code == 202
        assert [sorted(_beats(gateway, client, app)) for app in apps] == [
            [72, 130],
            [130],
            [72],
        ]
        client.patch(f"/admin/v1/apps/{every_app}", json={"is_enabled": False})
        assert client.post(ward["address"], json={"beat": 80}).status_code == 202
        assert sorted(_beats(gateway, client, every_app)) == [72, 130]
        bad = {**subscription, "name": "bad", "credentials": {"token": "wrong"}}
        refused = client.post("/admin/v1/subscriptions", json=bad)
        assert refused.status_code == 502
        assert "this token is refused" in refused.text
        _check_deletion(client, hall)
    renew = gateway.parts.subscriptions.renew
    day = gateway.yard.services.clock.time() + 86_400
    assert gateway.run_on_loop(renew(day - 3600)) == 0
    assert gateway.run_on_loop(renew(day + 60)) == 1


def _check_trigger_forms(client: httpx.Client) -> None:
    """The editor receives the plugin's event and the forms of its trigger."""
    parts = client.get("/admin/v1/node-parts").json()
    (event,) = parts["events"]
    assert (event["provider"], event["name"]) == ("modelyard/pulse/pulse", "beat")
    assert [parameter["name"] for parameter in event["parameters"]] == ["at_least"]
    (provider,) = parts["trigger_providers"]
    assert [field["name"] for field in provider["parameters"]] == ["room"]
    assert [field["name"] for field in provider["credentials"]] == ["token"]


def _listening_app(client: httpx.Client, name: str, **data: Any) -> str:
    """Create an app that is started by the plugin's event; return its id."""
    event = {
        "id": "event",
        "type": "trigger-plugin",
        "title": "event",
        "provider_id": "modelyard/pulse/pulse",
        "event_name": "beat",
        **data,
    }
    end = {
        "id": "end",
        "type": "end",
        "title": "end",
        "outputs": [{"variable": "beat", "value_selector": ["event", "beat"]}],
    }
    graph = {
        "nodes": [{"id": node["id"], "data": node} for node in (event, end)],
        "edges": [{"source": "event", "target": "end"}],
    }
    file = {
        "app": {"name": name, "mode": "workflow"},
        "kind": "app",
        "workflow": {"graph": graph},
    }
    created = client.post("/admin/v1/apps", json={"file": json.dumps(file)})
    return created.json()["id"]


def _beats(gateway: Any, client: httpx.Client, app: str) -> list[Any]:
    """Return the output of each run of an app, once it has ended."""
    runs = gateway.yard.services.workflows.runs
    return [
        gateway.run_on_loop(runs.wait_until_ended("default", run["id"])).outputs["beat"]
        for run in client.get(f"/admin/v1/apps/{app}/runs").json()["data"]
    ]


def _check_deletion(client: httpx.Client, subscription: dict[str, Any]) -> None:
    """A deleted subscription receives no more events and cannot be deleted again."""
    path = f"/admin/v1/subscriptions/{subscription['id']}"
    assert client.delete(path).json()["deleted"] is True
    received = client.post(subscription["address"], json={"beat": 1})
    assert received.status_code == 404
    assert client.delete(path).status_code == 404


def test_a_trigger_receives_and_filters_events(plugged: Plug):
    gateway = plugged()
    gateway.install("pulse")
    received_events: list[Any] = []

    async def listen(*event: Any) -> None:
        received_events.append(event)

    gateway.yard.on_trigger(listen)
    origin = gateway.running.origin
    row = gateway.run_on_loop(
        gateway.parts.subscriptions.subscribe(
            "default",
            "modelyard/pulse",
            "ward",
            {"room": "7"},
            {"token": "good"},
            origin=origin,
        )
    )
    with httpx.Client(timeout=30) as client:
        answer = client.post(f"{origin}/t/{row}", json={"beat": 72})
        assert (answer.status_code, answer.text) == (202, "heard")
        assert client.post(f"{origin}/t/{row}", json={"nothing": 1}).status_code == 400
        assert client.post(f"{origin}/t/nobody", json={"beat": 1}).status_code == 404
    assert received_events == [("default", row, "beat", {"beat": 72})]
    with pytest.raises(PluginError, match="this token is refused"):
        gateway.run_on_loop(
            gateway.parts.subscriptions.subscribe(
                "default",
                "modelyard/pulse",
                "x",
                {"room": "7"},
                {"token": "wrong"},
                origin=origin,
            )
        )
    # The failed subscription was not stored.
    assert [
        subscription.id
        for subscription, _ in gateway.yard.services.tenancy.directory.of(
            "default", Subscription
        )
    ] == [row]
    gateway.run_on_loop(gateway.parts.subscriptions.unsubscribe("default", row))
    with pytest.raises(NotFoundError):
        gateway.parts.subscriptions.subscription(row)


# -------------------------------------------------------- the plugin daemon's interface


def daemon(
    gateway: PluginGateway,
    method: str,
    path: str,
    tenant: str = "default",
    **options: Any,
) -> httpx.Response:
    headers = {
        "x-api-key": gateway.yard.services.plugins.key,
        **options.pop("headers", {}),
    }
    return httpx.request(
        method,
        f"{gateway.running.origin}/plugin/{tenant}/{path}",
        headers=headers,
        timeout=60,
        **options,
    )


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line]


def dispatch(
    gateway: PluginGateway, path: str, plugin: str, data: Any, tenant: str = "default"
) -> httpx.Response:
    return daemon(
        gateway,
        "POST",
        f"dispatch/{path}",
        tenant,
        json={"user_id": "u", "data": data},
        headers={"x-plugin-id": plugin},
    )


def test_the_daemon_installs_lists_dispatches_and_removes(
    plugged: Plug, example: Callable[[str], Any]
):
    gateway = plugged()
    package = example("mockgpt")
    identifier = _install_by_daemon(gateway, package)
    (listed,) = daemon(gateway, "GET", "management/list").json()["data"]["list"]
    assert (listed["plugin_id"], listed["version"], listed["runtime_type"]) == (
        "modelyard/mockgpt",
        "0.0.1",
        "local",
    )
    icon = daemon(gateway, "GET", f"asset/{listed['declaration']['icon']}")
    assert icon.content.startswith(b"<svg")
    (models,) = daemon(gateway, "GET", "management/models").json()["data"]
    assert models["declaration"]["models"][0]["model"] == "mock-gpt-v1"
    _check_dispatch(gateway)
    removal = daemon(
        gateway,
        "POST",
        "management/uninstall",
        json={"plugin_installation_id": listed["id"]},
    )
    assert removal.json()["data"] is True
    assert daemon(gateway, "GET", "management/list").json()["data"] == {
        "list": [],
        "total": 0,
    }
    assert not gateway.parts.host.packages.folder(identifier).exists()


def _install_by_daemon(gateway: Any, package: Any) -> str:
    """Upload and install a package; return its identifier."""
    sent = daemon(
        gateway,
        "POST",
        "management/install/upload/package",
        files={"dify_pkg": ("m.difypkg", package.data)},
    )
    identifier = sent.json()["data"]["unique_identifier"]
    assert identifier == str(package.identifier)
    request = {
        "plugin_unique_identifiers": [identifier],
        "source": "package",
        "metas": [{}],
    }
    started = daemon(
        gateway, "POST", "management/install/identifiers", json=request
    ).json()["data"]
    assert started["all_installed"] is False
    gateway.run_on_loop(gateway.parts.installations.wait_until_idle())
    path = f"management/install/tasks/{started['task_id']}"
    task = daemon(gateway, "GET", path).json()["data"]
    assert (task["status"], task["completed_plugins"]) == ("success", 1)
    assert task["plugins"][0]["message"] == "installed"
    return identifier


def _check_dispatch(gateway: Any) -> None:
    """Calls of the plugin's model are answered, and refused with a wrong credential."""
    data = {
        "provider": "modelyard/mockgpt/mockgpt",
        "model": "mock-gpt-v1",
        "model_type": "llm",
        "credentials": {},
        "prompt_messages": [{"role": "user", "content": "hi"}],
        "model_parameters": {},
        "stream": True,
    }

    def dispatched(action: str, **changes: Any) -> list[Any]:
        return events(
            dispatch(gateway, action, "modelyard/mockgpt", {**data, **changes})
        )

    stream_events = dispatched("llm/invoke")
    assert {entry["code"] for entry in stream_events} == {0}
    deltas = [entry["data"]["delta"]["message"]["content"] for entry in stream_events]
    assert "".join(deltas).startswith("感谢你的提问")
    failed = dispatched("llm/invoke", credentials={"api_key": "wrong"})
    error = json.loads(json.loads(failed[0]["message"])["message"])
    assert (failed[0]["code"], error["error_type"]) == (
        -500,
        "InvokeAuthorizationError",
    )
    assert dispatched("llm/num_tokens") == [
        {"code": 0, "message": "success", "data": {"num_tokens": 2}}
    ]


def test_the_daemon_interface_has_its_own_errors(plugged: Plug):
    gateway = plugged()
    gateway.install("mockgpt")
    no_key = httpx.get(f"{gateway.running.origin}/plugin/default/management/list")
    assert (no_key.status_code, no_key.json()["code"]) == (401, -401)
    cases = [
        dispatch(gateway, "llm/fly", "modelyard/mockgpt", {}),
        dispatch(gateway, "llm/invoke", "modelyard/nobody", {}),
        dispatch(gateway, "llm/invoke", "modelyard/mockgpt", {}, tenant="other"),
        daemon(gateway, "GET", "management/nothing"),
        daemon(
            gateway,
            "POST",
            "management/uninstall",
            json={"plugin_installation_id": "x"},
        ),
    ]
    # What concerns a plugin or an installation is in the body of a 200, where clients
    # look for it.
    assert [(case.status_code, case.json()["code"]) for case in cases] == [
        *[(404, -404)] * 4,
        (200, -404),
    ]
    error = json.loads(cases[4].json()["message"])
    assert error["error_type"] == "PluginNotFoundError"
    wrong_type = dispatch(
        gateway, "llm/invoke", "modelyard/mockgpt", {"model_type": "tts"}
    )
    assert (wrong_type.status_code, "must be 'llm'" in wrong_type.text) == (400, True)
    no_package = daemon(
        gateway,
        "POST",
        "management/install/upload/package",
        files={"dify_pkg": ("x", b"not a zip")},
    )
    assert "invalid ZIP file" in no_package.text


def test_the_daemon_sets_up_endpoints(plugged: Plug):
    gateway = plugged()
    (installed,) = gateway.install("webhook")
    setup = {
        "plugin_unique_identifier": installed.identifier,
        "name": "a",
        "settings": {"greeting": "Ho"},
        "user_id": "u",
    }
    assert daemon(gateway, "POST", "endpoint/setup", json=setup).json()["data"] is True
    (listed,) = daemon(gateway, "GET", "endpoint/list").json()["data"]
    assert httpx.get(f"{listed['url']}/hello/Bo", timeout=60).text == "Ho, Bo."
    changed = {"endpoint_id": listed["id"], "name": "b", "settings": {"greeting": "Hm"}}
    assert (
        daemon(gateway, "POST", "endpoint/update", json=changed).json()["data"] is True
    )
    assert httpx.get(f"{listed['url']}/hello/Bo", timeout=60).text == "Hm, Bo."
    assert (
        daemon(
            gateway, "POST", "endpoint/remove", json={"endpoint_id": listed["id"]}
        ).json()["data"]
        is True
    )
    assert httpx.get(f"{listed['url']}/hello/Bo", timeout=60).status_code == 404
