"""Reported cases of streams and errors: clients act on what they are told."""

import json
from typing import Any

import pytest

from modelyard.base.settings import TimeoutSettings
from modelyard.testing import Answer, chat_events, json_answer
from tests.gateway.reported_world import HI, Play, Start, Vendors, events_in, sse

OPENROUTER = b": OPENROUTER PROCESSING\n\n"
ANTHROPICS = b'event: ping\ndata: {"type": "ping"}\n\n'
BEGINNING = chat_events(["partial answer "], sends_done=False)[:2]
OVERLOADED = {
    "error": {"message": "Overloaded", "type": "overloaded_error", "code": 529}
}


def streamed(pieces: list[bytes], *, fault: str = "", gap: float = 0.0) -> Answer:
    """Return a stream of these pieces."""
    headers = {"content-type": "text/event-stream"}
    return Answer(headers=headers, pieces=pieces, fault=fault, gap=gap)


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    return Vendors(start_gateway, upstream, "bedrock", "openrouter")


@pytest.mark.case("5.1")
def test_codex_gets_a_failed_response(vendors: Vendors):
    error = f"data: {json.dumps(OVERLOADED)}\n\n".encode()
    vendors.script = [streamed([*BEGINNING, error])]
    answer = vendors.responses("oai/errmid", stream=True)
    assert "event: response.failed\n" in answer.text
    last = events_in(answer)[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "Overloaded"}
    assert response["output"][0]["content"][0]["text"] == "partial answer "


# ---------------------------------------------------------------------- silence: 5.2


@pytest.mark.case("5.2")
@pytest.mark.parametrize("sign", [OPENROUTER, ANTHROPICS], ids=["comment", "ping"])
def test_a_sign_of_life_commits_to_nothing(
    start_gateway: Start, upstream: Play, sign: bytes
):
    first = "ant/slow" if sign == ANTHROPICS else "oai/slow"
    vendors = Vendors(
        start_gateway,
        upstream,
        routes={"r": {"targets": [first], "failover": ["rsp/good"]}},
        timeouts=TimeoutSettings(keep_alive=0.05),
    )
    # The upstream shows signs of life for a while, and then closes.
    vendors.script = [streamed([sign] * 3, fault="cut", gap=0.1)]
    answer = vendors.messages("r", stream=True)
    events = events_in(answer)
    begin = next(n for n, event in enumerate(events) if event["type"] != "ping")
    assert begin > 0
    assert events[begin]["type"] == "message_start"
    texts = [e["delta"]["text"] for e in events if "text" in (e.get("delta") or {})]
    assert texts == ["hello"]
    assert "OPENROUTER" not in answer.text
    assert [request.path for request in vendors.upstream.requests][-1].endswith(
        "/responses"
    )


# ---------------------------------------------------------------- retired models: 6.3

MODEL = "anthropic.claude-sonnet-4-5-20250929-v1:0"


def aws_error(name: str, message: str) -> Answer:
    """Return an error of AWS with status 404."""
    answer = json_answer({"message": message}, status=404)
    headers = {**answer.headers, "x-amzn-errortype": name}
    return Answer(status=404, headers=headers, body=answer.body)


RETIRED: dict[str, tuple[str, Answer]] = {
    "anthropic": ("ant/m", json_answer(
        {"type": "error", "error": {"type": "not_found_error",
         "message": "model: claude-3-5-sonnet-20240620"}}, status=404)),
    "openai": ("oai/m", json_answer(
        {"error": {"message": "The model `x` does not exist.", "param": None,
         "type": "invalid_request_error", "code": "model_not_found"}}, status=404)),
    "gemini": ("gem/m", json_answer(
        {"error": {"code": 404, "message": "models/x is not found for API version v1",
         "status": "NOT_FOUND"}}, status=404)),
    "bedrock": (f"bedrock/{MODEL}", aws_error(
        "ResourceNotFoundException", "This model version has reached the end of life.")),
    "openrouter": ("openrouter/some/model", json_answer(
        {"error": {"message": "No endpoints found for some/model.", "code": 404}},
        status=404)),
}  # fmt: skip


@pytest.mark.case("6.3")
@pytest.mark.parametrize("vendor", RETIRED)
def test_a_retired_model_is_named_in_every_format(vendors: Vendors, vendor: str):
    model, answer = RETIRED[vendor]
    contents = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    expected: dict[str, tuple[Any, str, str]] = {
        "/v1/chat/completions": ({"messages": HI}, "code", "model_not_found"),
        "/v1/responses": ({"input": "hi"}, "code", "model_not_found"),
        "/v1/messages": (
            {"messages": HI, "max_tokens": 9},
            "type",
            "not_found_error",
        ),
        f"/v1beta/models/{model}:generateContent": (contents, "status", "NOT_FOUND"),
    }
    for path, (body, field, value) in expected.items():
        vendors.script = [answer]
        reply = vendors.post(path, {"model": model, **body})
        assert (reply.status_code, reply.json()["error"][field]) == (404, value)


@pytest.mark.case("6.3")
@pytest.mark.parametrize("vendor", RETIRED)
def test_a_retired_model_fails_over(start_gateway: Start, upstream: Play, vendor: str):
    model, answer = RETIRED[vendor]
    routes = {"r": {"targets": [model], "failover": ["oai/agent"]}}
    vendors = Vendors(start_gateway, upstream, "bedrock", "openrouter", routes=routes)
    vendors.script = [answer]
    vendors.chat("r")
    assert vendors.sent["model"] == "agent"


@pytest.mark.case("5.3")
def test_an_event_in_several_lines_is_read(vendors: Vendors):
    answer = sse({"id": "c", "choices": [{"index": 0, "delta": {"content": "he"}}]})
    (event,) = answer.pieces or ()
    text = event.decode()
    lines = text.replace('"choices"', '\ndata: "choices"').encode()
    end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    last = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()
    vendors.script = [streamed([lines, last])]
    events = events_in(vendors.chat("oai/m", stream=True))
    assert events[0]["choices"][0]["delta"]["content"] == "he"
