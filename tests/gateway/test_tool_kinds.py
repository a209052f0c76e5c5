"""Tools of every kind on servers of every format: the strict stand-ins refuse what their
vendors refuse."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.base.settings import ProviderSettings
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
PATCH = '*** Begin Patch\n*** Add File: a.txt\n+"häé" \\ 😀\n*** End Patch'
WRAPPED = json.dumps({"input": PATCH})
FUNCTION: dict[str, Any] = {
    "type": "function",
    "name": "exec_command",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}
CUSTOM: dict[str, Any] = {
    "type": "custom",
    "name": "apply_patch",
    "description": "FREEFORM",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
NAMESPACE: dict[str, Any] = {
    "type": "namespace",
    "name": "multi_agent_v1",
    "description": "d",
    "tools": [{**FUNCTION, "name": "spawn"}],
}
SEARCH: dict[str, Any] = {
    "type": "tool_search",
    "execution": "client",
    "description": "d",
}
WIRES = {"oai": "openai", "ant": "anthropic", "gem": "gemini"}


def functions_of(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name → schema of the functions in a request of any format."""
    functions: dict[str, dict[str, Any]] = {}
    for tool in body.get("tools") or ():
        for declared in tool.get("functionDeclarations") or (
            tool.get("function") or tool,
        ):
            schema = declared.get("parametersJsonSchema") or declared.get(
                "input_schema", declared.get("parameters")
            )
            if "name" in declared:
                functions[declared["name"]] = schema
    return functions


def objection(body: dict[str, Any]) -> str:
    """Return why a vendor would refuse a request; empty if it would not."""
    if "tool_choice" in body and not body.get("tools"):
        return "'tool_choice' is only allowed when 'tools' are specified."
    for function, schema in functions_of(body).items():
        if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", function):
            return f"illegal name {function!r}"
        if not schema or schema.get("type") != "object":
            return "the schema must be an object"
    contents = [
        message.get("content") or message.get("tool_calls")
        for message in body.get("messages", [])
    ]
    return "" if all(contents) else "empty message"


def strict(
    name: str, argument_pieces: list[str]
) -> Callable[[UpstreamRequest], Answer]:
    """Return a stand-in that calls the function `name`, and refuses what is illegal."""

    def handle(request: UpstreamRequest) -> Answer:
        body = request.json
        if reason := objection(body):
            return json_answer({"error": {"message": reason}}, status=400)
        is_stream = bool(body.get("stream") or "stream" in request.path)
        pieces = argument_pieces if is_stream else ["".join(argument_pieces)]
        if "/messages" in request.path:
            return anthropic_call(name, pieces, stream=is_stream)
        if "enerateContent" in request.path:
            return gemini_call(name, "".join(pieces), stream=is_stream)
        return chat_call(name, pieces, stream=is_stream)

    return handle


def events(*documents: Any) -> list[bytes]:
    return [
        (f"event: {each['type']}\n" if "type" in each else "").encode()
        + f"data: {json.dumps(each)}\n\n".encode()
        for each in documents
    ]


def chat_call(name: str, pieces: list[str], *, stream: bool) -> Answer:
    call: dict[str, Any] = {"id": "call_1", "type": "function"}
    if not stream:
        calls: list[Any] = [
            {**call, "function": {"name": name, "arguments": pieces[0]}}
        ]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None,
            "tool_calls": calls,
        }
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls",
        }
        return json_answer({"id": "c1", "model": "m", "choices": [choice]})
    fragments: list[dict[str, Any]] = [
        {**call, "function": {"name": name, "arguments": ""}, "index": 0}
    ]
    fragments += [{"index": 0, "function": {"arguments": each}} for each in pieces]
    documents = [
        {"id": "c1", "choices": [{"index": 0, "delta": {"tool_calls": [each]}}]}
        for each in fragments
    ]
    end: dict[str, Any] = {
        "id": "c1",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
    }
    return stream_answer([*events(*documents, end), b"data: [DONE]\n\n"])


def anthropic_call(name: str, pieces: list[str], *, stream: bool) -> Answer:
    head: dict[str, Any] = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
    }
    used: dict[str, Any] = {
        "type": "tool_use",
        "id": "call_1",
        "name": name,
        "input": {},
    }
    if not stream:
        block: dict[str, Any] = {**used, "input": json.loads(pieces[0])}
        return json_answer({**head, "content": [block], "stop_reason": "tool_use"})
    deltas = [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": each},
        }
        for each in pieces
    ]
    return stream_answer(
        events(
            {"type": "message_start", "message": {**head, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": used},
            *deltas,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        )
    )


def gemini_call(name: str, arguments: str, *, stream: bool) -> Answer:
    part: dict[str, Any] = {
        "functionCall": {"name": name, "args": json.loads(arguments)}
    }
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": [part]},
        "finishReason": "STOP",
    }
    document: dict[str, Any] = {"candidates": [candidate], "responseId": "r1"}
    return stream_answer(events(document)) if stream else json_answer(document)


@pytest.fixture
def served(start_gateway: Start, upstream: Play) -> Callable[[Handler], Any]:
    def serve(handler: Handler) -> tuple[Running, Upstream]:
        server = upstream(handler)
        names = {**WIRES, "rsp": "openai_responses"}
        providers = [
            ProviderSettings(name=name, wire=wire, base_url=server.url)
            for name, wire in names.items()
        ]
        return start_gateway(providers=providers), server

    return serve


def post(running: Running, path: str, body: dict[str, Any], **headers: str) -> Any:
    return httpx.post(running.origin + path, json=body, headers=headers, timeout=20)


def streamed(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def respond(
    running: Running, body: dict[str, Any], *, stream: bool
) -> tuple[list[dict[str, Any]], httpx.Response]:
    """Return the output items of a call to the Responses API."""
    answer = post(running, "/v1/responses", {**body, "stream": stream})
    assert answer.status_code == 200, answer.text
    document = streamed(answer)[-1]["response"] if stream else answer.json()
    return document["output"], answer


@pytest.mark.case("2.3")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
def test_a_freeform_tool_comes_back_as_one(served: Any, provider: str, stream: bool):
    running, server = served(strict("apply_patch", list(WRAPPED)))
    body: dict[str, Any] = {"model": f"{provider}/m", "input": "hi", "tools": [CUSTOM]}
    (item,), answer = respond(running, body, stream=stream)
    call_id = item["call_id"]
    assert (item["type"], item["name"], item["input"]) == (
        "custom_tool_call",
        "apply_patch",
        PATCH,
    )
    sent = server.requests[-1].json
    assert functions_of(sent)["apply_patch"] == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert "start: /.+/" in server.requests[-1].body.decode()
    assert "x-modelyard-dropped" not in answer.headers
    if stream:
        deltas = [
            event["delta"]
            for event in streamed(answer)
            if event["type"] == "response.custom_tool_call_input.delta"
        ]
        assert "".join(deltas) == PATCH
    # The second turn maps again.
    output: dict[str, Any] = {
        "type": "custom_tool_call_output",
        "call_id": call_id,
        "output": "Done",
    }
    turn: list[Any] = [{"role": "user", "content": "hi"}, item, output]
    respond(running, {**body, "input": turn}, stream=stream)
    text = server.requests[-1].body.decode()
    assert "Begin Patch" in text
    assert "Done" in text


@pytest.mark.case("2.3")
@pytest.mark.parametrize("stream", [False, True])
def test_a_freeform_tool_of_chat_comes_back_as_one(served: Any, stream: bool):
    running, _ = served(strict("apply_patch", list(WRAPPED)))
    custom: dict[str, Any] = {"name": "apply_patch", "description": "d"}
    body: dict[str, Any] = {
        "model": "ant/m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "custom", "custom": custom}],
        "stream": stream,
    }
    answer = post(running, "/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    if not stream:
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert call["custom"] == {"name": "apply_patch", "input": PATCH}
        return
    fragments = [
        call
        for event in streamed(answer)
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert {fragment["index"] for fragment in fragments} == {0}
    assert fragments[0]["type"] == "custom"
    assert "".join(each["custom"].get("input", "") for each in fragments) == PATCH


@pytest.mark.case("2.1")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
def test_a_namespace_is_offered_flat_and_comes_back(
    served: Any, provider: str, stream: bool
):
    running, server = served(strict("multi_agent_v1__spawn", ['{"a": ', "1}"]))
    body: dict[str, Any] = {
        "model": f"{provider}/m",
        "input": "hi",
        "tools": [FUNCTION, NAMESPACE],
    }
    (item,), _ = respond(running, body, stream=stream)
    assert (item["type"], item["name"], item["namespace"]) == (
        "function_call",
        "spawn",
        "multi_agent_v1",
    )
    assert set(functions_of(server.requests[-1].json)) == {
        "exec_command",
        "multi_agent_v1__spawn",
    }
    output: dict[str, Any] = {
        "type": "function_call_output",
        "call_id": item["call_id"],
        "output": "x",
    }
    turn: list[Any] = [{"role": "user", "content": "hi"}, item, output]
    respond(running, {**body, "input": turn}, stream=stream)
    sent = server.requests[-1].json
    history = json.dumps(sent.get("messages") or sent.get("contents"))
    assert "multi_agent_v1__spawn" in history


@pytest.mark.case("2.1")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
def test_a_search_for_tools_is_the_clients(served: Any, provider: str, stream: bool):
    running, server = served(strict("tool_search", ['{"query": ', '"x"}']))
    body: dict[str, Any] = {
        "model": f"{provider}/m",
        "input": "hi",
        "tools": [FUNCTION, SEARCH],
    }
    (item,), _ = respond(running, body, stream=stream)
    assert (item["type"], item["execution"], item["arguments"]) == (
        "tool_search_call",
        "client",
        {"query": "x"},
    )
    found: dict[str, Any] = {
        "type": "tool_search_output",
        "call_id": item["call_id"],
        "execution": "client",
        "status": "completed",
        "tools": [NAMESPACE],
    }
    turn: list[Any] = [{"role": "user", "content": "hi"}, item, found]
    respond(running, {**body, "input": turn}, stream=stream)
    sent = server.requests[-1].json
    assert "multi_agent_v1__spawn" in functions_of(sent)
    assert "can be called now: multi_agent_v1__spawn" in json.dumps(sent)


@pytest.mark.case("2.1")
@pytest.mark.parametrize(
    "kind", ["web_search", "image_generation", "computer_use_preview"]
)
def test_a_tool_that_nobody_can_run_costs_no_other(served: Any, kind: str):
    running, server = served(strict("exec_command", ["{}"]))
    body: dict[str, Any] = {
        "model": "oai/m",
        "input": "hi",
        "tools": [FUNCTION, {"type": kind}],
        "tool_choice": {"type": kind},
    }
    _, answer = respond(running, body, stream=False)
    assert answer.headers["x-modelyard-dropped"] == f"{kind}, tool_choice"
    assert set(functions_of(server.requests[-1].json)) == {"exec_command"}
    refused = post(
        running, "/v1/responses", body, **{"x-modelyard-unsupported": "refuse"}
    )
    assert refused.status_code == 400
    assert len(server.requests) == 1


@pytest.mark.case("2.5")
@pytest.mark.parametrize(("provider", "expected"), [
    ("oai", None),
    ("gem", {"googleSearch": {}}),
    ("rsp", {"type": "web_search", "filters": {"allowed_domains": ["a.org"]}}),
])  # fmt: skip
def test_claude_codes_web_search(served: Any, provider: str, expected: Any):
    def handle(request: UpstreamRequest) -> Answer:
        if "/responses" in request.path:
            text: dict[str, Any] = {
                "type": "output_text",
                "text": "yes",
                "annotations": [],
            }
            message: dict[str, Any] = {
                "type": "message",
                "role": "assistant",
                "content": [text],
            }
            return json_answer({"id": "r", "status": "completed", "output": [message]})
        return strict("f", ["{}"])(request)

    running, server = served(handle)
    tool: dict[str, Any] = {
        "type": "web_search_20250305",
        "name": "web_search",
        "allowed_domains": ["a.org"],
    }
    body: dict[str, Any] = {
        "model": f"{provider}/m",
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": "x"}],
        "tools": [tool],
        "tool_choice": {"type": "tool", "name": "web_search"},
    }
    answer = post(running, "/v1/messages", body)
    assert answer.status_code == 200, answer.text
    sent = server.requests[-1].json
    assert sent.get("tools") == ([expected] if expected else None)
    dropped = answer.headers.get("x-modelyard-dropped", "")
    assert ("web_search" in dropped) is (expected is None)


@pytest.mark.case("2.6")
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("tools", [None, []])
def test_a_tool_choice_needs_tools(served: Any, provider: str, tools: Any):
    running, server = served(strict("f", ["{}"]))
    body: dict[str, Any] = {
        "model": f"{provider}/m",
        "messages": [{"role": "user", "content": "x"}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        **({} if tools is None else {"tools": tools}),
    }
    answer = post(running, "/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-dropped"] == "tool_choice, parallel_tool_calls"
    sent = server.requests[-1].json
    assert not {"tool_choice", "toolConfig", "tools", "parallel_tool_calls"} & set(sent)
