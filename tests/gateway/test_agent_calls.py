"""Tests for what real agents send in their calls, against strict stand-ins."""

import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.testing import Handler, Upstream
from tests.gateway.conftest import Running
from tests.gateway.test_agent_sessions import TARGETS, World
from tests.stand_ins.pictures import PICTURE
from tests.stand_ins.session import Answer, Conversation, Session

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
DATA = base64.b64encode(PICTURE).decode()


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> Callable[[str], World]:
    return lambda target: World(target, start_gateway, upstream)


def gemini_turn(response: dict[str, Any]) -> dict[str, Any]:
    """Return a request of Gemini CLI after a call of a tool."""
    call = {"id": "c1", "name": "read_file", "args": {}}
    result = {"id": "c1", "name": "read_file", **response}
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "Look"}]},
            {"role": "model", "parts": [{"functionCall": call}]},
            {"role": "user", "parts": [{"functionResponse": result}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "read_file"}]}],
    }


def send(setup: World, path: str, body: Any) -> httpx.Response:
    """Send a request that the stand-in has to accept."""
    url = setup.running.origin + path.format(model=setup.model)
    answer = httpx.post(url, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert setup.stand_in.refusals == []
    return answer


GEMINI = "/v1beta/models/{model}:generateContent"


@pytest.mark.case("4.1")
@pytest.mark.parametrize(
    "target", ["anthropic", "chat", "responses", "gemini", "bedrock", "plain"]
)
def test_a_picture_in_a_function_response_arrives(
    world: Callable[[str], World], target: str
):
    setup = world(target)
    picture = {"inlineData": {"mimeType": "image/png", "data": DATA}}
    response = {"response": {"output": "A picture."}, "parts": [picture]}
    answer = send(setup, GEMINI, gemini_turn(response))
    assert DATA in setup.upstream.requests[-1].body.decode()
    assert "A picture." in setup.upstream.requests[-1].body.decode()
    dropped = answer.headers.get("x-modelyard-dropped", "")
    assert "parts" not in dropped


@pytest.mark.parametrize("target", ["chat", "plain"])
def test_a_result_has_no_name_in_a_chat(world: Callable[[str], World], target: str):
    setup = world(target)
    send(setup, GEMINI, gemini_turn({"response": {"output": "text"}}))
    message = setup.upstream.requests[-1].json["messages"][-1]
    assert message.keys() == {"role", "tool_call_id", "content"}


def test_a_name_that_a_chat_caller_sends_goes_along(world: Callable[[str], World]):
    setup = world("chat")
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }
    body = {
        "model": setup.model,
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "y"},
        ],
    }
    url = f"{setup.running.url}/chat/completions"
    httpx.post(url, json=body, headers={"x-modelyard-cache": "off"}, timeout=30)
    assert setup.upstream.requests[-1].json["messages"][-1]["name"] == "f"


@pytest.mark.case("2.5")
def test_a_forced_search_is_the_only_allowed_tool(world: Callable[[str], World]):
    setup = world("responses")
    body = {
        "model": setup.model,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": "released version"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": "web_search"},
    }
    answer = send(setup, "/v1/messages", body)
    assert setup.upstream.requests[-1].json["tool_choice"] == {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "web_search"}],
    }
    assert "4.2.1" in answer.json()["content"][-1]["text"]


def marks_of(body: Any) -> int:
    """Return how many cache marks a request has."""
    return str(body).count("cache_control")


def test_a_loop_of_tool_calls_is_cached(world: Callable[[str], World]):
    setup = world("anthropic")
    first = gemini_turn({"response": {"output": "text"}})
    send(setup, GEMINI, {**first, "contents": first["contents"][:1]})
    # A call that nobody continues would pay for a mark that nobody reads.
    assert marks_of(setup.upstream.requests[-1].json) == 0
    send(setup, GEMINI, first)
    assert marks_of(setup.upstream.requests[-1].json) >= 2


class Fine(Session):
    """A model that answers everything alike."""

    def answer(self, conversation: Conversation) -> Answer:
        """Return the answer."""
        del conversation
        return Answer("fine")


@pytest.mark.parametrize("target", TARGETS)
def test_an_answer_that_broke_off_is_no_obstacle(
    start_gateway: Start, upstream: Play, target: str
):
    """Agents keep an empty answer, or one with thoughts alone, in their history."""
    setup = World(target, start_gateway, upstream, Fine("/none"))
    broken: list[dict[str, Any]] = [
        {"content": ""},
        {"content": []},
        {"content": "", "reasoning_content": "Let me see"},
    ]
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    for fields in broken:
        for end in ([], [{"role": "user", "content": "Go on"}]):
            messages = [
                {"role": "user", "content": "Begin"},
                {"role": "assistant", **fields},
                *end,
            ]
            body = {"model": setup.model, "messages": messages}
            for tools in ({}, {"tools": [{"type": "function", "function": function}]}):
                answer = send(setup, "/v1/chat/completions", {**body, **tools})
                choice = answer.json()["choices"][0]
                assert choice["message"]["content"] == "fine"
