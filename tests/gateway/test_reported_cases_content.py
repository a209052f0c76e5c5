"""Reported cases of content: pictures, documents, files by id, JSON mode and cache marks
arrive, are named as left out, or the call is refused."""

import base64
import json
from typing import Any

import pytest

from modelyard.testing import json_answer
from tests.gateway.reported_world import (
    HI,
    JSON,
    Play,
    Start,
    Vendors,
    dropped,
    gemini_document,
)
from tests.stand_ins.pictures import PICTURE

PNG = base64.b64encode(PICTURE).decode()
SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
BEDROCK = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"
MARK = {"type": "ephemeral", "ttl": "1h"}


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    names = (
        "openai",
        "anthropic",
        "gemini",
        "mistral",
        "bedrock",
        "openrouter",
        "ollama",
    )
    return Vendors(start_gateway, upstream, *names)


# ------------------------------------------------------- pictures in tool results: 4.1


def read_picture(*call_ids: str) -> list[JSON]:
    """Return the turns in which Claude Code reads pictures."""
    uses = [
        {"type": "tool_use", "id": call_id, "name": "Read", "input": {}}
        for call_id in call_ids
    ]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call_id,
            "content": [{"type": "image", "source": SOURCE}],
        }
        for call_id in call_ids
    ]
    return [
        *HI,
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]


def check_pictures(messages: list[Any], count: int) -> None:
    """Check that pictures follow all results, in a message of the user."""
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", *["tool"] * count, "user"]
    for message in messages[2:-1]:
        assert message["content"].strip()
        assert PNG not in json.dumps(message)
    assert json.dumps(messages[-1]).count(PNG) == count


@pytest.mark.case("4.1")
@pytest.mark.parametrize("call_ids", [("t1",), ("t1", "t2")])
def test_a_picture_that_claude_code_reads_reaches_openai(
    vendors: Vendors, call_ids: tuple[str, ...]
):
    answer = vendors.messages("openai/gpt-5-mini", messages=read_picture(*call_ids))
    check_pictures(vendors.sent["messages"], len(call_ids))
    assert dropped(answer) == set()


@pytest.mark.case("4.1")
def test_a_picture_that_codex_views_reaches_a_chat(vendors: Vendors):
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    call = {"type": "function_call", "call_id": "c1", "name": "view_image"}
    items = [
        {"role": "user", "content": "hi"},
        {**call, "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [image]},
    ]
    vendors.responses("oai/agent", input=items)
    check_pictures(vendors.sent["messages"], 1)


@pytest.mark.case("4.1")
def test_a_picture_in_a_result_reaches_ollama(vendors: Vendors):
    vendors.messages("ollama/llava", messages=read_picture("t1"))
    last = vendors.sent["messages"][-1]
    assert (last["role"], last["images"]) == ("user", [PNG])


# ------------------------------------------------------------- documents and files: 4.2

DOCUMENT = {"type": "text", "media_type": "text/plain", "data": "SECRET42"}
FOUND = {"type": "text", "text": "SECRET43"}
BLOCKS = [
    {"type": "document", "source": DOCUMENT},
    {"type": "search_result", "source": "u", "title": "t", "content": [FOUND]},
    {"type": "text", "text": "?"},
]


@pytest.mark.case("4.2")
@pytest.mark.parametrize("model", ["oai/agent", "gem/agent", "rsp/agent", BEDROCK])
@pytest.mark.parametrize("is_result", [False, True], ids=["user", "result"])
def test_attached_texts_arrive(vendors: Vendors, model: str, is_result: bool):
    turns: list[JSON] = [{"role": "user", "content": BLOCKS}]
    if is_result:
        use = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": BLOCKS}
        turns = [
            *HI,
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
    answer = vendors.messages(model, messages=turns)
    assert "SECRET42" in vendors.sent_text
    assert "SECRET43" in vendors.sent_text
    assert dropped(answer) == set()


@pytest.mark.case("4.2")
def test_coheres_documents_arrive(vendors: Vendors):
    documents = [{"data": {"text": "SECRET45"}}]
    body = {"model": "oai/agent", "messages": HI, "documents": documents}
    vendors.ask("/v2/chat", body)
    assert "SECRET45" in vendors.sent_text


@pytest.mark.case("4.2")
@pytest.mark.parametrize("model", ["openai/gpt-5-pro", "ant/m", "gem/m", BEDROCK])
def test_a_file_id_goes_to_its_issuer_alone(vendors: Vendors, model: str):
    file = {"type": "file", "file": {"file_id": "file-abc"}}
    content = [file, {"type": "text", "text": "?"}]
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    answer = vendors.post("/v1/chat/completions", body)
    if model.startswith("openai"):
        assert vendors.upstream.requests[-1].path.endswith("/responses")
        assert "file-abc" in vendors.sent_text
    else:
        assert answer.status_code == 400
        assert "file-abc" in answer.json()["error"]["message"]
        assert not vendors.upstream.requests


PDF = base64.b64encode(b"%PDF-1.4 SECRET").decode()
AUDIO = base64.b64encode(b"RIFF0000WAVEfmt ").decode()
PARTS: dict[str, JSON] = {
    "pdf": {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
    "audio": {"inlineData": {"mimeType": "audio/wav", "data": AUDIO}},
    "video": {"inlineData": {"mimeType": "video/mp4", "data": PDF}},
    "address": {
        "fileData": {
            "mimeType": "application/pdf",
            "fileUri": "https://example.org/a.pdf",
        }
    },
    "google's file": {
        "fileData": {
            "mimeType": "application/pdf",
            "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc",
        }
    },
}


@pytest.mark.case("4.2")
@pytest.mark.parametrize(
    "model",
    ["oai/m", "rsp/m", "ant/m", "mistral/mistral-large-latest", BEDROCK, "ollama/m"],
)
@pytest.mark.parametrize("kind", PARTS)
def test_a_file_arrives_or_is_named_or_the_call_is_refused(
    vendors: Vendors, kind: str, model: str
):
    part = PARTS[kind]
    (fields,) = part.values()
    content = fields.get("data") or fields.get("fileUri")
    contents = [{"role": "user", "parts": [part, {"text": "?"}]}]
    path = f"/v1beta/models/{model}:generateContent"
    answer = vendors.post(path, {"contents": contents})
    if answer.status_code == 200:
        assert content in vendors.sent_text or dropped(answer)
    else:
        assert answer.status_code == 400
        assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
        assert not vendors.upstream.requests


# --------------------------------------------------- JSON mode and cache marks: 4.3, 4.4


@pytest.mark.case("4.3")
def test_gemini_has_its_own_json_mode(vendors: Vendors):
    vendors.script = [json_answer(gemini_document([{"text": '{"a": 1}'}]))]
    kind = {"type": "json_object"}
    answer = vendors.chat("gemini/gemini-2.5-flash", response_format=kind)
    config = vendors.sent["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == '{"a": 1}'


@pytest.mark.case("4.4")
@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("openai/gpt-5-mini", ""),
        ("mistral/mistral-large-latest", ""),
        ("oai/m", ""),
        ("openrouter/anthropic/claude-sonnet-4.5", "cache_control"),
        ("anthropic/claude-sonnet-4-5", "cache_control"),
        (BEDROCK, "cachePoint"),
    ],
)
def test_cache_marks_go_where_they_are_known(vendors: Vendors, model: str, word: str):
    text = {"type": "text", "text": "hi", "cache_control": MARK}
    tool = {"name": "f", "input_schema": {"type": "object"}, "cache_control": MARK}
    answer = vendors.messages(
        model,
        system=[text],
        messages=[{"role": "user", "content": [text]}],
        tools=[tool],
    )
    marks = {
        name: vendors.sent_text.count(name) for name in ("cache_control", "cachePoint")
    }
    assert {name: count for name, count in marks.items() if count} == (
        {word: 3} if word else {}
    )
    assert dropped(answer) == (set() if word else {"cache_control"})


@pytest.mark.case("4.5")
def test_a_cache_key_becomes_marks(vendors: Vendors):
    tools = [
        {"type": "function", "name": f"f{number}", "parameters": {"type": "object"}}
        for number in range(3)
    ]
    answer = vendors.responses(
        "anthropic/claude-opus-4-7",
        prompt_cache_key="sess-1",
        instructions="LONG",
        tools=tools,
    )
    assert "prompt_cache_key" in dropped(answer)
    assert vendors.sent["tools"][-1]["cache_control"] == {"type": "ephemeral"}
    assert vendors.sent_text.count("cache_control") == 3


@pytest.mark.case("4.5")
def test_a_callers_own_marks_stay_as_they_are(vendors: Vendors):
    text = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    body: Any = {"system": "s", "messages": [{"role": "user", "content": [text]}]}
    vendors.messages("anthropic/claude-opus-4-7", **body)
    assert vendors.sent_text.count("cache_control") == 1
