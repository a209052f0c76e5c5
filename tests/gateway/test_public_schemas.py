"""Tests for the fields that the vendors' published schemas require of an answer, and for
fields of Anthropic's answers that come back unchanged in its own format."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.testing import Upstream, json_answer, stream_answer
from tests.gateway.conftest import Running
from tests.gateway.test_money import provider_at
from tests.gateway.test_traffic import ask

Start = Callable[..., Running]
HELLO = [{"role": "user", "content": "hi"}]
# The required fields of a response in Open Responses' schema of 2026-04-24, and what
# each may be.
NULLABLE = {
    "completed_at": int,
    "incomplete_details": dict,
    "previous_response_id": str,
    "instructions": str,
    "error": dict,
    "reasoning": dict,
    "usage": dict,
    "max_output_tokens": int,
    "max_tool_calls": int,
    "safety_identifier": str,
    "prompt_cache_key": str,
}
NEVER_NULL = {
    "id": str,
    "object": str,
    "created_at": int,
    "status": str,
    "model": str,
    "output": list,
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "top_logprobs": int,
    "temperature": (int, float),
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
}
# Those of Anthropic's own schema.
MESSAGE = {
    "id", "type", "role", "content", "model", "stop_reason", "stop_sequence",
    "stop_details", "usage", "container",
}  # fmt: skip
MESSAGE_USAGE = {
    "cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens",
    "inference_geo", "input_tokens", "output_tokens", "output_tokens_details",
    "server_tool_use", "service_tier",
}  # fmt: skip
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {}},
}


def check_response(body: Any) -> None:
    """Fail unless a response has every required field with a permitted type."""
    for name, kind in NEVER_NULL.items():
        assert isinstance(body[name], kind), name
    for name, kind in NULLABLE.items():
        assert body[name] is None or isinstance(body[name], kind), name
    for tool in body["tools"]:
        assert {"type", "name", "description", "parameters", "strict"} <= tool.keys()


def events_of(body: bytes) -> list[Any]:
    """Return the events of a stream."""
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


@pytest.mark.case("9.5")
def test_a_response_has_every_required_field(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "input": "hi", "tools": [WEATHER]}
    reply = ask(running, "POST", "/v1/responses", body)
    assert reply.status == 200
    check_response(reply.json)
    # Stored responses are the same.
    check_response(ask(running, "GET", f"/v1/responses/{reply.json['id']}").json)
    streamed = ask(running, "POST", "/v1/responses", {**body, "stream": True})
    responses = [
        event["response"] for event in events_of(streamed.body) if "response" in event
    ]
    assert len(responses) >= 2
    for response in responses:
        check_response(response)


def test_a_response_repeats_what_the_request_says(start_gateway: Start):
    said = {
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "max_tool_calls": 3,
        "top_logprobs": 2,
    }
    body = {"model": "echo/echo", "input": "hi", **said}
    reply = ask(start_gateway(), "POST", "/v1/responses", body)
    assert {name: reply.json[name] for name in said} == said


@pytest.mark.case("9.5")
def test_a_message_has_every_required_field(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "max_tokens": 9, "messages": HELLO}
    message = ask(running, "POST", "/v1/messages", body).json
    assert message.keys() >= MESSAGE
    assert message["usage"].keys() >= MESSAGE_USAGE
    assert all("citations" in block for block in message["content"])
    streamed = ask(running, "POST", "/v1/messages", {**body, "stream": True})
    events = {event["type"]: event for event in events_of(streamed.body)}
    start = events["message_start"]["message"]
    assert start.keys() >= MESSAGE
    assert start["usage"].keys() >= MESSAGE_USAGE
    assert "citations" in events["content_block_start"]["content_block"]
    delta = events["message_delta"]["delta"]
    assert {"container", "stop_details", "stop_reason", "stop_sequence"} <= delta.keys()


CONTAINER = {"id": "c1", "expires_at": "2026-12-01T00:00:00Z", "skills": None}
DETAILS = {"type": "refusal", "category": "cyber", "explanation": "no"}
EDITS = {"applied_edits": []}
USAGE = {
    "input_tokens": 5,
    "output_tokens": 2,
    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "inference_geo": "eu",
    "output_tokens_details": None,
    "server_tool_use": None,
    "service_tier": "standard",
}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "no", "citations": None}],
    "stop_reason": "refusal",
    "stop_sequence": None,
    "stop_details": DETAILS,
    "container": CONTAINER,
    "context_management": EDITS,
    "usage": USAGE,
}


def claude(request: Any) -> Any:
    """Return Anthropic's answer, complete or as a stream."""
    if not request.json.get("stream"):
        return json_answer(ANSWER)
    start = {**ANSWER, "content": [], "stop_reason": None, "stop_details": None}
    start |= {"container": None, "context_management": None}
    delta = {
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": DETAILS,
        "container": CONTAINER,
    }
    events: list[Any] = [
        {"type": "message_start", "message": start},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": "", "citations": None},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "no"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": delta,
            "usage": USAGE,
            "context_management": EDITS,
        },
        {"type": "message_stop"},
    ]
    return stream_answer(
        [
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            for event in events
        ]
    )


@pytest.fixture
def claude_gateway(start_gateway: Start, upstream: Callable[..., Upstream]) -> Running:
    """A gateway in front of Anthropic."""
    url = upstream(claude).url.removesuffix("/v1")
    return start_gateway(providers=[provider_at(f"{url}/v1", "anthropic")])


@pytest.mark.case("9.5")
def test_an_answer_of_anthropic_comes_back_as_it_is(claude_gateway: Running):
    body = {"model": "anthropic/claude-sonnet-4-5", "max_tokens": 9, "messages": HELLO}
    assert ask(claude_gateway, "POST", "/v1/messages", body).json == ANSWER


@pytest.mark.case("9.5")
def test_a_stream_of_anthropic_keeps_its_fields_in_their_places(
    claude_gateway: Running,
):
    body = {
        "model": "anthropic/claude-sonnet-4-5",
        "max_tokens": 9,
        "messages": HELLO,
        "stream": True,
    }
    streamed = ask(claude_gateway, "POST", "/v1/messages", body)
    end = next(e for e in events_of(streamed.body) if e["type"] == "message_delta")
    assert end["delta"]["stop_details"] == DETAILS
    assert end["delta"]["container"] == CONTAINER
    assert end["context_management"] == EDITS
    assert end["usage"]["service_tier"] == "standard"


@pytest.mark.case("9.1")
def test_compaction_is_a_plain_404(start_gateway: Start):
    body = {"model": "echo/echo", "input": "hi"}
    reply = ask(start_gateway(), "POST", "/v1/responses/compact", body)
    assert (reply.status, reply.json["error"]["code"]) == (404, "unknown_url")
    assert "does not provide this endpoint of OpenAI" in reply.json["error"]["message"]
