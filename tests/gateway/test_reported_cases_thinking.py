"""Reported cases of thoughts: signatures reach their issuer alone, and survive clients
that keep only what they show."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from modelyard.testing import Answer, UpstreamRequest, error_answer, json_answer
from tests.gateway.reported_world import (
    HI,
    JSON,
    Play,
    Start,
    Vendors,
    dropped,
    events_in,
    gemini_document,
    plain_answer,
    sse,
)

SIGNATURE = "R2VtU2lnMQ=="
SKIP = "skip_thought_signature_validator"
ARGUMENTS = {"path": "a.txt"}
CALL = {"name": "Write", "args": ARGUMENTS}
SIGNED = {"functionCall": CALL, "thoughtSignature": SIGNATURE}
THOUGHT = {"text": "**Thinking** about it", "thought": True}
OBJECT = {"type": "object"}
BEDROCK = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"


def strict_gemini(request: UpstreamRequest) -> Answer:
    """Answer with a signed call, and refuse a call that has lost its signature."""
    if "enerateContent" not in request.path:
        return plain_answer(request)
    for content in request.json["contents"]:
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and "thoughtSignature" not in calls[0]:
            message = (
                "Function call is missing a thought_signature in functionCall parts"
            )
            error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
            return json_answer({"error": error}, status=400)
    parts = [THOUGHT, SIGNED]
    if "stream" not in request.path:
        return json_answer(gemini_document(parts))
    return sse(gemini_document([THOUGHT], finish=""), gemini_document([SIGNED]))


class StrictWorld(Vendors):
    """A gateway whose Gemini wants its signatures back."""

    def answer(self, request: UpstreamRequest) -> Answer:
        """Return the next answer of the script, else that of the strict server."""
        return self.script.pop(0) if self.script else strict_gemini(request)


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    return StrictWorld(start_gateway, upstream, "gemini", "bedrock")


# -------------------------------------------- clients that keep only what they show: 3.1


def messages_turn(vendors: Vendors, *, is_stream: bool) -> tuple[str, JSON]:
    """Return path and body of the second turn of a client of Anthropic's API, which
    keeps no thinking."""
    body: JSON = {
        "model": "gem/agent",
        "max_tokens": 2000,
        "tools": [{"name": "Write", "input_schema": OBJECT}],
        "messages": HI,
    }
    answer = vendors.ask("/v1/messages", {**body, "stream": is_stream})
    blocks = answer.json()["content"] if not is_stream else _started(answer)
    (use,) = [block for block in blocks if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "ok"}
    used = {name: use[name] for name in ("type", "id", "name")}
    history = [
        *HI,
        {"role": "assistant", "content": [{**used, "input": ARGUMENTS}]},
        {"role": "user", "content": [result]},
    ]
    return "/v1/messages", {**body, "messages": history}


def _started(answer: Any) -> list[Any]:
    """Return the blocks with which a stream of messages begins."""
    return [
        each["content_block"] for each in events_in(answer) if "content_block" in each
    ]


def chat_turn(vendors: Vendors, *, is_stream: bool) -> tuple[str, JSON]:
    """Return the second turn of a client of chat that keeps the known fields alone."""
    function = {"name": "Write", "parameters": OBJECT}
    tools = [{"type": "function", "function": function}]
    body: JSON = {"model": "gem/agent", "tools": tools, "messages": HI}
    answer = vendors.ask("/v1/chat/completions", {**body, "stream": is_stream})
    documents = events_in(answer) if is_stream else [answer.json()]
    call_id = next(_chat_call_ids(documents))
    called = {"name": "Write", "arguments": json.dumps(ARGUMENTS)}
    call = {"id": call_id, "type": "function", "function": called}
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "ok"},
    ]
    return "/v1/chat/completions", {**body, "messages": history}


def _chat_call_ids(documents: list[Any]) -> Iterator[str]:
    """Yield the ids of the calls in chunks, or in an answer."""
    choices = [choice for document in documents for choice in document["choices"]]
    for choice in choices:
        message = choice.get("delta") or choice.get("message") or {}
        for call in message.get("tool_calls") or ():
            if call.get("id"):
                yield call["id"]


def responses_turn(vendors: Vendors, *, is_stream: bool) -> tuple[str, JSON]:
    """Return the second turn of a client of Responses that keeps the call alone."""
    tools = [{"type": "function", "name": "Write", "parameters": OBJECT}]
    body: JSON = {"model": "gem/agent", "tools": tools, "store": False, "input": "hi"}
    answer = vendors.ask("/v1/responses", {**body, "stream": is_stream})
    document = events_in(answer)[-1]["response"] if is_stream else answer.json()
    (item,) = [each for each in document["output"] if each["type"] == "function_call"]
    names = ("type", "call_id", "name", "arguments")
    call = {name: item[name] for name in names}
    result = {"type": "function_call_output", "call_id": item["call_id"]}
    turn = [{"role": "user", "content": "hi"}, call, {**result, "output": "ok"}]
    return "/v1/responses", {**body, "input": turn}


CLIENTS = {
    "messages": messages_turn,
    "chat": chat_turn,
    "responses": responses_turn,
}


@pytest.mark.case("3.1")
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_signature_of_a_call_comes_back(
    vendors: Vendors, client: str, is_stream: bool
):
    path, body = CLIENTS[client](vendors, is_stream=is_stream)
    vendors.ask(path, body)
    parts = [p for content in vendors.sent["contents"] for p in content["parts"]]
    calls = [part for part in parts if "functionCall" in part]
    assert calls == [SIGNED]


@pytest.mark.case("3.1")
def test_a_foreign_call_gets_the_placeholder_at_gemini_alone(vendors: Vendors):
    use = {"type": "tool_use", "id": "toolu_1", "name": "Write", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
    history = [
        *HI,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    tools = [{"name": "Write", "input_schema": OBJECT}]
    for model in ("gem/agent", "ant/agent", "oai/agent", "rsp/agent", BEDROCK):
        vendors.messages(model, messages=history, tools=tools)
        assert (SKIP in vendors.sent_text) == model.startswith("gem")


# ---------------------------------------------------------------- the last block: 3.2


@pytest.mark.case("3.2")
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_the_text_is_the_last_block(vendors: Vendors, is_stream: bool):
    parts = [
        THOUGHT,
        {"text": "All done."},
        {"text": "", "thoughtSignature": "R2VtU2lnMg=="},
    ]
    if is_stream:
        first = [gemini_document([part], finish="") for part in parts[:-1]]
        vendors.script = [sse(*first, gemini_document(parts[-1:]))]
    else:
        vendors.script = [json_answer(gemini_document(parts))]
    answer = vendors.messages("gem/agent", stream=is_stream)
    blocks = _started(answer) if is_stream else answer.json()["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text"]


# ------------------------------------------------------------------ provenance: 3.3, 3.4


@pytest.mark.case("3.3")
@pytest.mark.parametrize("model", ["ant/agent", BEDROCK])
def test_googles_placeholder_is_no_thought(vendors: Vendors, model: str):
    called = {"id": "c1", "name": "f", "args": {}}
    result = {"name": "f", "id": "c1", "response": {"output": "ok"}}
    schema = {"type": "object", "properties": {}}
    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "x"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "I use a tool."},
                    {"functionCall": called, "thoughtSignature": SKIP},
                ],
            },
            {"role": "user", "parts": [{"functionResponse": result}]},
        ],
        "tools": [
            {"functionDeclarations": [{"name": "f", "parametersJsonSchema": schema}]}
        ],
    }
    answer = vendors.ask(f"/v1beta/models/{model}:generateContent", body)
    assert SKIP not in vendors.sent_text
    assert len(vendors.sent["messages"][1]["content"]) == 2
    assert dropped(answer) == set()


# What carries something encrypted, by its field; and who may read it.
ENCRYPTED: dict[str, tuple[JSON, tuple[str, ...]]] = {
    "thinking": ({"type": "thinking", "thinking": "hm", "signature": "SECRETSIG"},
                 ("ant/m", BEDROCK)),
    "redacted_thinking": ({"type": "redacted_thinking", "data": "SECRETSIG"},
                          ("ant/m", BEDROCK)),
    "web_search_tool_result": (
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
         "content": [{"type": "web_search_result", "url": "u", "title": "t",
                      "encrypted_content": "SECRETSIG"}]},
        ("ant/m",),
    ),
}  # fmt: skip


@pytest.mark.case("3.4")
@pytest.mark.parametrize("model", ["ant/m", BEDROCK, "gem/m", "rsp/m", "oai/m"])
@pytest.mark.parametrize("kind", ENCRYPTED)
def test_what_anthropic_has_encrypted_goes_to_it_alone(
    vendors: Vendors, kind: str, model: str
):
    block, readers = ENCRYPTED[kind]
    answered = {"role": "assistant", "content": [block, {"type": "text", "text": "a"}]}
    history = [*HI, answered, {"role": "user", "content": "b"}]
    answer = vendors.messages(model, messages=history)
    assert ("SECRETSIG" in vendors.sent_text) == (model in readers)
    is_text = kind == "thinking" and "hm" in vendors.sent_text
    assert bool(dropped(answer)) == (model not in readers and not is_text)


@pytest.mark.case("3.4")
@pytest.mark.parametrize("model", ["ant/m", BEDROCK, "gem/m", "rsp/m", "oai/m"])
def test_encrypted_content_goes_to_openai_alone(vendors: Vendors, model: str):
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    items = [
        {"role": "user", "content": "x"},
        {**reasoning, "encrypted_content": "SECRETSIG"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"role": "user", "content": "b"},
    ]
    answer = vendors.responses(model, input=items)
    is_own = model == "rsp/m"
    assert ("SECRETSIG" in vendors.sent_text) == is_own
    assert dropped(answer) == (set() if is_own else {"reasoning"})


@pytest.mark.case("3.4")
@pytest.mark.parametrize("model", ["gem/m", "rsp/m"])
def test_reasoning_details_of_another_vendor_are_named(vendors: Vendors, model: str):
    detail = {"type": "reasoning.encrypted", "data": "SECRETSIG"}
    details = [{**detail, "format": "anthropic-claude-v1"}]
    answered = {"role": "assistant", "content": "a", "reasoning_details": details}
    history = [*HI, answered, {"role": "user", "content": "b"}]
    answer = vendors.chat(model, messages=history)
    assert "SECRETSIG" not in vendors.sent_text
    assert dropped(answer) == {"reasoning_details"}


@pytest.mark.case("3.4")
def test_a_failover_inside_a_loop_of_tools_carries_no_signature(
    start_gateway: Start, upstream: Play
):
    routes = {"r": {"targets": ["gem/agent"], "failover": ["ant/agent"]}}
    vendors = StrictWorld(start_gateway, upstream, routes=routes)
    path, body = messages_turn(vendors, is_stream=False)
    vendors.script = [error_answer(503)]
    vendors.ask(path, {**body, "model": "r"})
    first, second = vendors.upstream.requests[-2:]
    assert SIGNATURE in first.body.decode()
    assert second.path.endswith("/messages")
    for word in (SIGNATURE, "sig", SKIP):
        assert word not in second.body.decode()
