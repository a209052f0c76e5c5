"""Parameters against stand-ins for the vendors that refuse what these refuse."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    json_answer,
)
from tests.gateway.conftest import Running

USER = [{"role": "user", "content": "hi"}]
MARK = {"type": "ephemeral", "ttl": "1h"}
Gateway = tuple[Running, dict[str, Upstream]]


def refusal(message: str) -> Answer:
    return json_answer({"error": {"message": message, "type": "x"}}, status=400)


def openai(request: UpstreamRequest) -> Answer:
    """Answer as OpenAI's API, and as its Responses API."""
    body = request.json
    if len(body.get("user") or "") > 64:
        return refusal("Invalid 'user': string too long.")
    if len(body.get("stop") or ()) > 4:
        return refusal("Invalid 'stop': array too long.")
    if body.get("max_completion_tokens", 0) > 16_384 and "4o" in body["model"]:
        return refusal("max_tokens is too large: 32000.")
    if b"cache_control" in request.body:
        return refusal("Unknown parameter: 'cache_control'.")
    if request.path.endswith("/responses"):
        message: Any = {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "ok", "annotations": []}],
        }
        return json_answer({"id": "r1", "status": "completed", "output": [message]})
    return chat_answer("ok")


def deepseek(request: UpstreamRequest) -> Answer:
    roles = {message["role"] for message in request.json["messages"]}
    if "developer" in roles:
        return refusal("unknown variant `developer`")
    return chat_answer("ok")


def mistral(request: UpstreamRequest) -> Answer:
    known = {
        "model",
        "messages",
        "temperature",
        "max_tokens",
        "stop",
        "random_seed",
        "tools",
        "tool_choice",
    }
    if unknown := request.json.keys() - known or b"cache_control" in request.body:
        return refusal(f"extra_forbidden: {unknown}")
    return chat_answer("ok")


def claude(request: UpstreamRequest) -> Answer:
    body = request.json
    if any(not sequence.strip() for sequence in body.get("stop_sequences", ())):
        return refusal("stop_sequences: each stop sequence must contain non-whitespace")
    if body["max_tokens"] > 4096 and "claude-3-haiku" in body["model"]:
        return refusal("max_tokens: 64000 > 4096")
    if body.get("service_tier", "auto") not in ("auto", "standard_only"):
        return refusal("service_tier: Input should be 'auto' or 'standard_only'")
    text = claude_texts.pop(0) if claude_texts else '{"a": 1}'
    return json_answer(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    )


claude_texts: list[str] = []


@pytest.fixture
def gateway(start_gateway: Callable[..., Running]) -> Iterator[Gateway]:
    """Yield a gateway with the vendors, and their stand-ins by name."""
    claude_texts.clear()
    handlers = {
        "openai": openai,
        "deepseek": deepseek,
        "mistral": mistral,
        "anthropic": claude,
    }
    servers = {name: Upstream(handler) for name, handler in handlers.items()}
    for server in servers.values():
        server.__enter__()
    providers = [
        ProviderSettings(
            name=name,
            base_url=server.url.removesuffix("/v1" if name == "anthropic" else "/"),
            credentials=[CredentialSettings(values={"api_key": "k"})],
        )
        for name, server in servers.items()
    ]
    yield start_gateway(providers=providers), servers
    for server in servers.values():
        server.__exit__(None, None, None)


def ask(
    gateway: Gateway, model: str, path: str = "/chat/completions", **fields: Any
) -> tuple[Any, set[str]]:
    """Return what the vendor got, and what the caller was told is left out."""
    running, servers = gateway
    body: dict[str, Any] = {"model": model, **fields}
    if "input" not in body:
        body.setdefault("messages", USER)
    answer = httpx.post(running.url + path, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    dropped = answer.headers.get("x-modelyard-dropped", "")
    server = servers[model.partition("/")[0]]
    return server.requests[-1].json, {*dropped.split(", ")} - {""}


@pytest.mark.case("7.1")
@pytest.mark.parametrize("path", ["/chat/completions", "/messages"])
def test_a_long_user_becomes_a_hash_that_stays_the_same(gateway: Gateway, path: str):
    name = "u" * 150
    fields: dict[str, Any] = {"user": name}
    if path == "/messages":
        fields = {"metadata": {"user_id": name}, "max_tokens": 9}
    first, dropped = ask(gateway, "openai/gpt-4o", path, **fields)
    second, _ = ask(gateway, "openai/gpt-4o", path, **fields)
    assert len(first["user"]) == 64
    assert first["user"] == second["user"]
    assert dropped == set()
    assert ask(gateway, "openai/gpt-4o", user="u" * 64)[0]["user"] == "u" * 64


@pytest.mark.case("7.1")
def test_a_long_cache_key_becomes_a_hash(gateway: Gateway):
    fields = {"safety_identifier": "s" * 70, "prompt_cache_key": "c" * 70}
    body, dropped = ask(gateway, "openai/gpt-4o", **fields)
    assert len(body["safety_identifier"]) == len(body["prompt_cache_key"]) == 64
    assert dropped == set()


@pytest.mark.case("7.2")
def test_a_developer_is_the_system_elsewhere(gateway: Gateway):
    messages = [{"role": "developer", "content": "x"}, *USER]
    body, _ = ask(gateway, "deepseek/deepseek-chat", messages=messages)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    body, _ = ask(gateway, "openai/gpt-4o", messages=messages)
    assert body["messages"][0]["role"] == "developer"


@pytest.mark.case("7.3")
def test_what_must_not_be_stored_is_not(gateway: Gateway):
    responses = {"input": "hi", "store": False}
    assert (
        ask(gateway, "openai/gpt-5-pro", "/responses", **responses)[0]["store"] is False
    )
    assert ask(gateway, "openai/gpt-5-pro", store=False)[0]["store"] is False
    # Other formats store nothing of their own accord.
    assert ask(gateway, "openai/gpt-5-pro")[0]["store"] is False
    assert ask(gateway, "openai/gpt-5-pro", store=True)[0]["store"] is True
    assert "store" not in ask(gateway, "openai/gpt-5-pro", "/responses", input="hi")[0]


@pytest.mark.case("7.4")
def test_every_unread_field_is_named(gateway: Gateway):
    fields: dict[str, Any] = {
        "logit_bias": {"50256": -100},
        "prediction": {"type": "content", "content": "a"},
        "web_search_options": {},
        "made_up_tomorrow": 1,
    }
    _, dropped = ask(gateway, "anthropic/claude-sonnet-4-5", **fields)
    assert dropped == {*fields}
    answer = httpx.post(
        f"{gateway[0].url}/chat/completions",
        json={"model": "anthropic/claude-sonnet-4-5", "messages": USER, **fields},
        headers={"x-modelyard-unsupported": "refuse"},
        timeout=30,
    )
    assert answer.status_code == 400


@pytest.mark.case("7.2")
def test_a_strict_server_gets_known_fields_alone(gateway: Gateway):
    fields: dict[str, Any] = {
        "store": True,
        "service_tier": "auto",
        "seed": 3,
        "user": "u",
    }
    body, dropped = ask(gateway, "mistral/mistral-large-3", **fields)
    assert body["random_seed"] == 3
    assert dropped == {"store", "service_tier", "user"}


@pytest.mark.case("7.5")
def test_stop_sequences_that_are_refused_are_left_out(gateway: Gateway):
    stop = ["a", "b", "c", "d", "e"]
    body, dropped = ask(gateway, "openai/gpt-4o", stop=stop)
    assert (body["stop"], dropped) == (["a", "b", "c", "d"], {"stop"})
    body, dropped = ask(gateway, "anthropic/claude-sonnet-4-5", stop=[" ", "\n", "x"])
    assert (body["stop_sequences"], dropped) == (["x"], {"stop"})


@pytest.mark.case("7.5")
def test_the_output_limit_is_that_of_the_model(gateway: Gateway):
    for max_tokens in (32_000, 500_000):
        body, dropped = ask(gateway, "openai/gpt-4o", max_tokens=max_tokens)
        assert (body["max_completion_tokens"], dropped) == (16_384, {"max_tokens"})
    body, dropped = ask(gateway, "anthropic/claude-3-haiku", max_tokens=64_000)
    assert (body["max_tokens"], dropped) == (4096, {"max_tokens"})


def test_a_required_output_limit_is_one_that_the_model_accepts(gateway: Gateway):
    body, dropped = ask(gateway, "anthropic/claude-3-haiku")
    assert (body["max_tokens"], dropped) == (4096, set())
    assert ask(gateway, "anthropic/claude-sonnet-4-5")[0]["max_tokens"] == 8192


@pytest.mark.case("7.5")
def test_service_tiers_are_put_into_the_targets_words(gateway: Gateway):
    model = "anthropic/claude-sonnet-4-5"
    body, dropped = ask(gateway, model, service_tier="flex")
    assert ("service_tier" in body, dropped) == (False, {"service_tier"})
    assert (
        ask(gateway, model, service_tier="default")[0]["service_tier"]
        == "standard_only"
    )
    fields = {"max_tokens": 9, "service_tier": "standard_only"}
    body, _ = ask(gateway, "openai/gpt-4o", "/messages", **fields)
    assert body["service_tier"] == "default"


@pytest.mark.case("4.4")
@pytest.mark.parametrize("model", ["openai/gpt-4o", "mistral/mistral-large-3"])
def test_cache_marks_are_stripped_where_they_are_refused(gateway: Gateway, model: str):
    text = {"type": "text", "text": "hi", "cache_control": MARK}
    _, dropped = ask(
        gateway,
        model,
        "/messages",
        max_tokens=9,
        system=[text],
        messages=[{"role": "user", "content": [text]}],
    )
    assert dropped == {"cache_control"}


@pytest.mark.case("4.5")
def test_a_cache_key_becomes_marks(gateway: Gateway):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    body, dropped = ask(
        gateway,
        "anthropic/claude-opus-4-7",
        "/responses",
        prompt_cache_key="sess-1",
        instructions="Long.",
        input="hi",
        tools=[tool],
    )
    assert "prompt_cache_key" in dropped
    assert body["tools"][-1]["cache_control"] == {"type": "ephemeral"}
    assert body["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}


JSON_MODE = {"response_format": {"type": "json_object"}}


@pytest.mark.case("4.3")
def test_json_mode_is_asked_for_and_checked(gateway: Gateway):
    claude_texts[:] = ["All done."]
    running, servers = gateway
    body = {"model": "anthropic/claude-sonnet-4-5", "messages": USER, **JSON_MODE}
    answer = httpx.post(f"{running.url}/chat/completions", json=body, timeout=30)
    assert answer.json()["choices"][0]["message"]["content"] == '{"a": 1}'
    first, second = (request.json for request in servers["anthropic"].requests)
    assert "JSON" in first["system"]
    assert "does not satisfy" in second["messages"][-1]["content"][0]["text"]


@pytest.mark.case("4.3")
def test_an_answer_that_is_no_json_twice_is_an_error(gateway: Gateway):
    claude_texts[:] = ["All done.", "Really."]
    running, _ = gateway
    body = {"model": "anthropic/claude-sonnet-4-5", "messages": USER, **JSON_MODE}
    answer = httpx.post(f"{running.url}/chat/completions", json=body, timeout=30)
    assert answer.status_code >= 500
