"""Tests for messages of the system in the middle of a session, as agents send them: each
stays at its place, so that the provider's prompt cache still knows the beginning."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.testing import Handler, Upstream
from tests.gateway.conftest import Running
from tests.gateway.test_agent_sessions import World

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
REMINDER = "The task tools have not been used."
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "read_file", "arguments": "{}"},
}
TOOL = {"type": "function", "function": {"name": "read_file", "parameters": {"type": "object", "properties": {}}}}  # fmt: skip
BEGINNING: list[dict[str, Any]] = [
    {"role": "system", "content": "You are an agent."},
    {"role": "user", "content": "Do it"},
    {"role": "system", "content": "The date is today."},
]
TURN: list[dict[str, Any]] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "text of the file"},
]
LATE: list[dict[str, Any]] = [{"role": "system", "content": REMINDER}]


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> Callable[[str], World]:
    return lambda target: World(target, start_gateway, upstream)


def send(setup: World, messages: list[Any]) -> Any:
    """Return the body that the provider got for a chat request."""
    body = {"model": setup.model, "messages": messages, "tools": [TOOL]}
    url = f"{setup.running.url}/chat/completions"
    answer = httpx.post(url, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert setup.stand_in.refusals == []
    assert "x-modelyard-dropped" not in answer.headers
    return setup.upstream.requests[-1].json


def turns_of(body: Any) -> list[Any]:
    """Return the conversation of a request in any format."""
    return body.get("contents") or body["messages"]


@pytest.mark.parametrize("target", ["anthropic", "gemini", "bedrock", "plain"])
def test_a_late_message_stays_at_its_place(world: Callable[[str], World], target: str):
    setup = world(target)
    before = send(setup, [*BEGINNING, *TURN])
    after = send(setup, [*BEGINNING, *TURN, *LATE])
    assert REMINDER in json.dumps(turns_of(after)[-1])
    for name in ("system", "systemInstruction"):
        assert before.get(name) == after.get(name)
    assert turns_of(before)[:-1] == turns_of(after)[: len(turns_of(before)) - 1]


@pytest.mark.parametrize("target", ["anthropic", "gemini", "bedrock", "plain"])
def test_a_late_message_joins_the_user_that_follows(
    world: Callable[[str], World], target: str
):
    question = {"role": "user", "content": "And now?"}
    body = send(world(target), [*BEGINNING, *TURN, *LATE, question])
    last = json.dumps(turns_of(body)[-1])
    assert turns_of(body)[-1]["role"] == "user"
    assert "And now?" in last
    # A server that refuses a user after a result has it in the result.
    assert (REMINDER in last) == (target != "plain")


def test_a_message_between_call_and_result_waits_for_the_result(
    world: Callable[[str], World],
):
    call, result = TURN
    body = send(world("anthropic"), [*BEGINNING, call, *LATE, result])
    kinds = [block["type"] for block in body["messages"][-1]["content"]]
    assert kinds == ["tool_result", "text"]


def test_a_server_with_one_system_message_gets_one(world: Callable[[str], World]):
    body = send(world("plain"), [*BEGINNING, *TURN, *LATE])
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]
    assert body["messages"][0]["content"] == "You are an agent.\n\nThe date is today."
    assert body["messages"][-1]["content"].startswith("text of the file\n\n")


def test_openai_gets_the_messages_as_they_are(world: Callable[[str], World]):
    body = send(world("chat"), [*BEGINNING, *TURN, *LATE])
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "system", "assistant", "tool", "system"]


@pytest.mark.parametrize(
    ("target", "has_beta", "role"),
    [
        ("anthropic", False, "user"),
        ("anthropic", True, "system"),
        ("adaptive", False, "system"),
    ],
)
def test_anthropic_takes_the_role_by_model_or_beta_name(
    world: Callable[[str], World], target: str, has_beta: bool, role: str
):
    setup = world(target)
    use = {"type": "tool_use", "id": "call_1", "name": "read_file", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "text"}
    body = {
        "model": setup.model,
        "max_tokens": 2000,
        "tools": [{"name": "read_file", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": "Do it"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
            {"role": "system", "content": REMINDER},
        ],
    }
    headers = {"anthropic-version": "2023-06-01"}
    if has_beta:
        headers["anthropic-beta"] = "mid-conversation-system-2026-04-07"
    # Without the cache's header the request would be passed on as it is.
    for extra in ({}, {"x-modelyard-cache": "off"}):
        url = f"{setup.running.url}/messages"
        answer = httpx.post(url, json=body, headers={**headers, **extra}, timeout=30)
        assert answer.status_code == 200, answer.text
        sent = setup.upstream.requests[-1].json
        assert "system" not in sent
        assert sent["messages"][-1]["role"] == role
        assert REMINDER in json.dumps(sent["messages"][-1])
