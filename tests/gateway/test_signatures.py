"""Tests for signatures of thoughts: each arrives at its issuer, and nowhere else."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.models.types import JSON
from modelyard.providers.adaptation.signature_tags import (
    Issuer,
    family_code,
    id_with_signature,
    read_tag,
    split_id,
    tag_of,
)
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

GEMINI, CLAUDE, OPENAI = "R2VtU2lnMQ==", "Q2xhdWRlU2ln", "gAAAEncrypted=="
SKIP = "skip_thought_signature_validator"
TARGETS = {
    "gemini": "gemini/gemini-3-pro-preview",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "responses": "openai/gpt-5-mini",
}
SIGNATURES = {"gemini": GEMINI, "anthropic": CLAUDE, "responses": OPENAI}
CALL = {"name": "Write", "args": {"path": "a"}}
GEMINI_PARTS: list[JSON] = [
    {"text": "**Thinking** about it", "thought": True},
    {"functionCall": CALL, "thoughtSignature": GEMINI},
]
USAGE = {"input_tokens": 1, "output_tokens": 1}


def gemini_answer(parts: list[JSON]) -> JSON:
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    return {"candidates": [candidate]}


def answer(request: UpstreamRequest) -> Answer:
    """Answer with a thought and a call, signed as the vendor signs them."""
    path = request.path
    if "streamGenerateContent" in path:
        events = [gemini_answer([part]) for part in GEMINI_PARTS]
        del events[0]["candidates"][0]["finishReason"]
        return stream_answer([f"data: {json.dumps(e)}\n\n".encode() for e in events])
    if "generateContent" in path:
        return json_answer(gemini_answer(GEMINI_PARTS))
    if path.endswith("/messages"):
        content = [
            {"type": "thinking", "thinking": "hmm", "signature": CLAUDE},
            {"type": "tool_use", "id": "toolu_1", "name": "Write", "input": {}},
        ]
        head = {"id": "m", "role": "assistant", "usage": USAGE}
        return json_answer({**head, "content": content, "stop_reason": "tool_use"})
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hmm"}],
        "encrypted_content": OPENAI,
    }
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "Write",
        "arguments": "{}",
    }
    head = {"id": "r", "status": "completed"}
    return json_answer({**head, "output": [reasoning, call]})


@pytest.fixture
def world(upstream: Play, start_gateway: Start) -> tuple[Running, Upstream]:
    """A gateway whose providers are one upstream; OpenAI's is spoken to by Responses."""
    server = upstream(answer)
    credential = CredentialSettings(values={"api_key": "k"})
    providers = [
        ProviderSettings(
            name=name,
            base_url=server.url,
            credentials=[credential],
            wire="openai_responses" if name == "openai" else None,
        )
        for name in ("gemini", "anthropic", "openai")
    ]
    return start_gateway(providers=providers), server


def call(
    gateway: Running, upstream: Upstream, path: str, body: JSON
) -> tuple[httpx.Response, JSON]:
    """Return the response to a call and the body that reached the upstream."""
    before = len(upstream.requests)
    response = httpx.post(f"{gateway.origin}{path}", json=body, timeout=30)
    requests = upstream.requests[before:]
    assert requests, response.text
    return response, json.loads(requests[-1].body)


SCHEMA = {"type": "object", "properties": {}}


class MessagesClient:
    """Sends back all blocks, or only those that have a text or are a call."""

    path = "/v1/messages"

    def __init__(self, *, keeps_all: bool = True) -> None:
        self.keeps_all = keeps_all

    def body(self, model: str, history: list[Any], **fields: Any) -> JSON:
        tool = {"name": "Write", "input_schema": SCHEMA}
        messages = [{"role": "user", "content": "x"}, *history]
        head = {"model": model, "max_tokens": 4000, "tools": [tool]}
        return {**head, "messages": messages, **fields}

    def history(self, document: JSON) -> list[Any]:
        blocks = [
            block
            for block in document["content"]
            if self.keeps_all or block["type"] != "thinking"
        ]
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
            for block in blocks
            if block["type"] == "tool_use"
        ]
        return [
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results},
        ]


class ChatClient:
    """Sends back the message, or only its known fields."""

    path = "/v1/chat/completions"

    def __init__(self, *, keeps_all: bool = True) -> None:
        self.keeps_all = keeps_all

    def body(self, model: str, history: list[Any], **fields: Any) -> JSON:
        tool = {"type": "function", "function": {"name": "Write", "parameters": SCHEMA}}
        messages = [{"role": "user", "content": "x"}, *history]
        return {"model": model, "messages": messages, "tools": [tool], **fields}

    def history(self, document: JSON) -> list[Any]:
        message = document["choices"][0]["message"]
        if not self.keeps_all:
            names = ("role", "content", "tool_calls")
            message = {name: message.get(name) for name in names}
        return [
            message,
            *(
                {"role": "tool", "tool_call_id": each["id"], "content": "ok"}
                for each in message["tool_calls"]
            ),
        ]


class ResponsesClient:
    """Sends back all items, or only the calls."""

    path = "/v1/responses"

    def __init__(self, *, keeps_all: bool = True) -> None:
        self.keeps_all = keeps_all

    def body(self, model: str, history: list[Any], **fields: Any) -> JSON:
        tool = {"type": "function", "name": "Write", "parameters": SCHEMA}
        items = [{"role": "user", "content": "x"}, *history]
        head = {"model": model, "input": items, "tools": [tool], "store": False}
        include = ["reasoning.encrypted_content"]
        return {**head, "include": include, **fields}

    def history(self, document: JSON) -> list[Any]:
        items = [
            item
            for item in document["output"]
            if self.keeps_all or item["type"] != "reasoning"
        ]
        results = [
            {"type": "function_call_output", "call_id": x["call_id"], "output": "ok"}
            for x in items
            if x["type"] == "function_call"
        ]
        return [*items, *results]


CLIENTS = {
    "messages": MessagesClient,
    "chat": ChatClient,
    "responses": ResponsesClient,
}


@pytest.mark.case("3.4")
@pytest.mark.parametrize("second", TARGETS)
@pytest.mark.parametrize("first", TARGETS)
@pytest.mark.parametrize("client_name", CLIENTS)
def test_a_signature_arrives_at_its_issuer_alone(
    world: tuple[Running, Upstream], client_name: str, first: str, second: str
):
    gateway, server = world
    client = CLIENTS[client_name]()
    response, _ = call(gateway, server, client.path, client.body(TARGETS[first], []))
    assert response.status_code == 200, response.text
    history = client.history(response.json())
    response, sent = call(
        gateway, server, client.path, client.body(TARGETS[second], history)
    )
    text = json.dumps(sent)
    assert "mYardSig" not in text
    assert "__sig" not in text
    for issuer, signature in SIGNATURES.items():
        if issuer != second:
            assert signature not in text
    if first == second:
        assert SIGNATURES[first] in text
    if second == "anthropic":
        assert SKIP not in text
        assert '"signature": ""' not in text
    elif second == "gemini" and first != "gemini":
        assert SKIP in text


@pytest.mark.case("3.1")
@pytest.mark.parametrize("client_name", CLIENTS)
def test_geminis_signature_survives_clients_that_keep_calls_alone(
    world: tuple[Running, Upstream], client_name: str
):
    gateway, server = world
    client = CLIENTS[client_name](keeps_all=False)
    model = TARGETS["gemini"]
    response, _ = call(gateway, server, client.path, client.body(model, []))
    history = client.history(response.json())
    _, sent = call(gateway, server, client.path, client.body(model, history))
    (part,) = sent["contents"][1]["parts"]
    assert part == {"functionCall": CALL, "thoughtSignature": GEMINI}
    assert "id" not in sent["contents"][2]["parts"][0]["functionResponse"]


@pytest.mark.case("3.1")
def test_geminis_signature_survives_a_stream(world: tuple[Running, Upstream]):
    gateway, server = world
    client = MessagesClient()
    model = TARGETS["gemini"]
    body = client.body(model, [], stream=True)
    response, _ = call(gateway, server, client.path, body)
    events = [
        json.loads(line[6:])
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
    starts = [e for e in events if e["type"] == "content_block_start"]
    blocks = [event["content_block"] for event in starts]
    assert [block["type"] for block in blocks] == ["thinking", "tool_use"]
    assert GEMINI not in json.dumps(blocks)
    history = client.history({"content": [{**blocks[1], "input": CALL["args"]}]})
    _, sent = call(gateway, server, client.path, client.body(model, history))
    (part,) = sent["contents"][1]["parts"]
    assert part == {"functionCall": CALL, "thoughtSignature": GEMINI}


@pytest.mark.case("3.1")
def test_unknown_calls_of_the_current_turn_get_googles_placeholder(
    world: tuple[Running, Upstream],
):
    gateway, server = world

    def step(*names: str) -> list[JSON]:
        calls = [
            {"type": "tool_use", "id": name, "name": "Write", "input": {}}
            for name in names
        ]
        results = [
            {"type": "tool_result", "tool_use_id": name, "content": "ok"}
            for name in names
        ]
        return [
            {"role": "assistant", "content": calls},
            {"role": "user", "content": results},
        ]

    history = [*step("old"), {"role": "user", "content": "next"}]
    history += [*step("a", "b"), *step("c")]
    client = MessagesClient()
    body = client.body(TARGETS["gemini"], history)
    _, sent = call(gateway, server, client.path, body)
    signatures = [
        part.get("thoughtSignature")
        for content in sent["contents"]
        for part in content["parts"]
        if "functionCall" in part
    ]
    assert signatures == [None, SKIP, None, SKIP]
    # Models before the third generation check nothing.
    body = client.body("gemini/gemini-2.5-flash", history)
    _, sent = call(gateway, server, client.path, body)
    assert SKIP not in json.dumps(sent)


@pytest.mark.case("3.3")
def test_googles_placeholder_is_no_thought_of_claude(world: tuple[Running, Upstream]):
    gateway, server = world
    called = {"id": "c1", "name": "f", "args": {}}
    parts = [
        {"text": "I use a tool."},
        {"functionCall": called, "thoughtSignature": SKIP},
    ]
    result = {"name": "f", "id": "c1", "response": {"output": "ok"}}
    declaration = {"name": "f", "parametersJsonSchema": SCHEMA}
    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "x"}]},
            {"role": "model", "parts": parts},
            {"role": "user", "parts": [{"functionResponse": result}]},
        ],
        "tools": [{"functionDeclarations": [declaration]}],
    }
    path = f"/v1beta/models/{TARGETS['anthropic']}:generateContent"
    response, sent = call(gateway, server, path, body)
    kinds = [block["type"] for block in sent["messages"][1]["content"]]
    assert kinds == ["text", "tool_use"]
    assert "x-modelyard-dropped" not in response.headers
    # Google's clients decode signatures.
    answered = response.json()["candidates"][0]["content"]["parts"]
    signed = [part["thoughtSignature"] for part in answered if part.get("thought")]
    assert len(signed) == 1
    assert base64.b64decode(signed[0], validate=True)


@pytest.mark.case("3.4")
def test_an_unsigned_thought_never_goes_to_claude(world: tuple[Running, Upstream]):
    gateway, server = world
    thought = {"type": "thinking", "thinking": "hmm", "signature": ""}
    history = [
        {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}]},
        {"role": "user", "content": "b"},
    ]
    client = MessagesClient()
    body = client.body(TARGETS["anthropic"], history)
    response, sent = call(gateway, server, client.path, body)
    assert "hmm" not in json.dumps(sent)
    assert response.headers["x-modelyard-dropped"] == "thinking"


@pytest.mark.case("3.2")
def test_text_is_the_last_block(upstream: Play, start_gateway: Start):
    parts: list[JSON] = [
        {"text": "hmm", "thought": True},
        {"text": "All done"},
        {"text": "", "thoughtSignature": GEMINI},
    ]
    server = upstream(lambda request: json_answer(gemini_answer(parts)))
    credential = CredentialSettings(values={"api_key": "k"})
    provider = ProviderSettings(
        name="gemini", base_url=server.url, credentials=[credential]
    )
    gateway = start_gateway(providers=[provider])
    client = MessagesClient()
    body = client.body(TARGETS["gemini"], [])
    response, _ = call(gateway, server, client.path, body)
    kinds = [block["type"] for block in response.json()["content"]]
    assert kinds == ["thinking", "text"]


@given(st.text(), st.sampled_from(["call_1", "toolu_x-y", "gcall_1_0"]))
def test_an_id_returns_the_signature_in_it(signature: str, call_id: str):
    extended = id_with_signature(call_id, signature)
    assert extended.replace("-", "").replace("_", "").isalnum()
    assert extended.isascii()
    assert split_id(extended) == (call_id, signature)


@given(st.binary(min_size=1))
def test_an_id_returns_bytes_in_base64(content: bytes):
    signature = base64.b64encode(content).decode()
    assert split_id(id_with_signature("c", signature)) == ("c", signature)


def test_a_changed_id_has_no_signature():
    assert split_id("c__sigb_???") == ("c", "")
    assert split_id("c__sigu_/w") == ("c", "")
    assert split_id("plain") == ("plain", "")
    assert id_with_signature("c", "a" * 100_000) == "c"


def test_a_mark_names_the_issuer():
    issuer = Issuer("gemini", "gemini", family_code("gemini-3"), redacted=True)
    assert read_tag(tag_of(issuer) + GEMINI) == (issuer, GEMINI)
    assert len(tag_of(issuer)) % 4 == 0
    assert read_tag(GEMINI) == (None, GEMINI)
    assert read_tag("mYardSig") == (None, "mYardSig")
