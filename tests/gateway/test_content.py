"""Tests for attached content: in each target's format it arrives, is named as dropped, or
the call is refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.models.types import JSON
from modelyard.testing import Answer, Handler, Upstream, UpstreamRequest, json_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]

# A picture of one point; images are checked by their first bytes.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
}
# A file of plain text, which only some vendors take as a file.
TEXT_FILE = base64.b64encode(b"SECRET44").decode()
# Without usage, a response would count as an estimate.
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def answer(request: UpstreamRequest) -> Answer:
    """Answer in the format that the path belongs to."""
    path = request.path
    if "generateContent" in path:
        candidate = {"content": {"parts": [{"text": "ok"}]}, "finishReason": "STOP"}
        return json_answer({"candidates": [candidate]})
    if path.endswith("/responses"):
        part = {"type": "output_text", "text": "ok", "annotations": []}
        message = {"type": "message", "role": "assistant", "content": [part]}
        return json_answer({"id": "r", "status": "completed", "output": [message]})
    if path.endswith("/messages"):
        return json_answer(
            {
                "id": "m",
                "role": "assistant",
                "content": [{"type": "text", "text": "ok"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 1, "output_tokens": 1},
            }
        )
    if path.endswith("/v2/chat"):
        message = {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}
        return json_answer({"id": "c", "message": message, "finish_reason": "COMPLETE"})
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}}
    return json_answer(
        {"id": "c", "choices": [{**choice, "finish_reason": "stop"}], "usage": USAGE}
    )


# Provider names of the catalogue, with the format of each.
TARGETS = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3-pro-preview",
    "cohere": "command-a-03-2025",
}


@pytest.fixture
def world(upstream: Play, start_gateway: Start) -> tuple[Running, Upstream]:
    """A gateway whose providers of all formats are one upstream."""
    server = upstream(answer)
    credential = CredentialSettings(values={"api_key": "k"})
    providers = [
        ProviderSettings(name=name, base_url=server.url, credentials=[credential])
        for name in TARGETS
    ]
    return start_gateway(providers=providers), server


def call(
    gateway: Running, upstream: Upstream, path: str, body: JSON
) -> tuple[httpx.Response, JSON]:
    """Return the response to a call and the body that reached the upstream."""
    before = len(upstream.requests)
    response = httpx.post(f"{gateway.origin}{path}", json=body, timeout=30)
    requests = upstream.requests[before:]
    return response, json.loads(requests[-1].body) if requests else {}


def messages(target: str, *content: Any) -> JSON:
    """Return a request of Anthropic's format with this content of the user."""
    return {
        "model": f"{target}/{TARGETS[target]}",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": list(content)}],
    }


# What Anthropic calls a document or a search result, in each form that has a text.
# Source: the content blocks of Anthropic's Messages API.
DOCUMENTS = {
    "text": {
        "type": "document",
        "title": "Notes",
        "source": {"type": "text", "media_type": "text/plain", "data": "SECRET42"},
    },
    "blocks": {
        "type": "document",
        "source": {
            "type": "content",
            "content": [{"type": "text", "text": "SECRET42"}],
        },
    },
    "string": {
        "type": "document",
        "source": {"type": "content", "content": "SECRET42"},
    },
    "search result": {
        "type": "search_result",
        "source": "https://example.com/a",
        "title": "Notes",
        "content": [{"type": "text", "text": "SECRET42"}],
    },
}


@pytest.mark.case("4.2")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_text_documents_reach_every_format(
    world: tuple[Running, Upstream], target: str, kind: str
):
    body = messages(target, DOCUMENTS[kind], {"type": "text", "text": "?"})
    response, sent = call(*world, "/v1/messages", body)
    assert response.status_code == 200, response.text
    assert "SECRET42" in json.dumps(sent)
    if target == "anthropic":
        assert sent["messages"][0]["content"][0] == DOCUMENTS[kind]
    elif "title" in DOCUMENTS[kind]:
        assert "Notes" in json.dumps(sent)
    assert "x-modelyard-dropped" not in response.headers


@pytest.mark.case("4.2")
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "anthropic"])
def test_documents_in_tool_results_reach_every_format(
    world: tuple[Running, Upstream], target: str
):
    body = messages(target, {"type": "text", "text": "?"})
    body["messages"] += _tool_turn([DOCUMENTS["text"], DOCUMENTS["search result"]])
    response, sent = call(*world, "/v1/messages", body)
    assert response.status_code == 200, response.text
    assert json.dumps(sent).count("SECRET42") == 2


def _tool_turn(content: list[Any], *ids: str) -> list[JSON]:
    """Return a call and its result for each id; the first result has the content."""
    call_ids = ids or ("t1",)
    uses = [
        {"type": "tool_use", "id": call_id, "name": "Read", "input": {}}
        for call_id in call_ids
    ]
    results = [
        {"type": "tool_result", "tool_use_id": call_id, "content": "plain"}
        for call_id in call_ids
    ]
    results[0]["content"] = content
    return [
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]


@pytest.mark.case("4.1")
def test_images_of_tool_results_follow_all_results_where_tools_hold_texts(
    world: tuple[Running, Upstream],
):
    body = messages("openai", {"type": "text", "text": "?"})
    body["messages"] += _tool_turn(
        [IMAGE, {"type": "text", "text": "seen"}], "t1", "t2"
    )
    response, sent = call(*world, "/v1/messages", body)
    assert response.status_code == 200, response.text
    _, _, first, second, follow_up = sent["messages"]
    assert [first["role"], second["role"]] == ["tool", "tool"]
    assert "image_url" not in json.dumps([first, second])
    assert "seen" in json.dumps(first)
    assert "next user message" in json.dumps(first)
    assert follow_up["role"] == "user"
    image = follow_up["content"][1]["image_url"]["url"]
    assert image == f"data:image/png;base64,{PNG}"


@pytest.mark.case("4.1")
@pytest.mark.parametrize("target", ["anthropic", "gemini"])
def test_images_of_tool_results_stay_where_tools_hold_files(
    world: tuple[Running, Upstream], target: str
):
    body = messages(target, {"type": "text", "text": "?"})
    body["messages"] += _tool_turn([IMAGE])
    response, sent = call(*world, "/v1/messages", body)
    assert response.status_code == 200, response.text
    last = (sent.get("messages") or sent.get("contents"))[-1]
    assert PNG in json.dumps(last)
    assert "next user message" not in json.dumps(sent)


@pytest.mark.case("4.1")
def test_images_of_responses_tool_outputs_follow_the_result(
    world: tuple[Running, Upstream],
):
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    body = {
        "model": f"cohere/{TARGETS['cohere']}",
        "input": [
            {"role": "user", "content": "?"},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "view_image",
                "arguments": "{}",
            },
            {"type": "function_call_output", "call_id": "c1", "output": [image]},
        ],
    }
    response, sent = call(*world, "/v1/responses", body)
    assert response.status_code == 200, response.text
    assert [message["role"] for message in sent["messages"]] == [
        "user",
        "assistant",
        "tool",
        "user",
    ]
    assert PNG in json.dumps(sent["messages"][-1])


@pytest.mark.case("4.2")
@pytest.mark.parametrize("target", TARGETS)
def test_documents_of_coheres_requests_reach_every_format(
    world: tuple[Running, Upstream], target: str
):
    body = {
        "model": f"{target}/{TARGETS[target]}",
        "messages": [{"role": "user", "content": "?"}],
        "documents": [{"data": {"title": "Notes", "text": "SECRET45"}}, "SECRET46"],
    }
    response, sent = call(*world, "/v2/chat", body)
    assert response.status_code == 200, response.text
    assert "SECRET45" in json.dumps(sent)
    assert "SECRET46" in json.dumps(sent)


def test_documents_that_are_no_list_are_refused(world: tuple[Running, Upstream]):
    body = {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "?"}],
        "documents": "SECRET",
    }
    response, sent = call(*world, "/v2/chat", body)
    assert response.status_code == 400
    assert "documents" in response.json()["message"]
    assert not sent


@pytest.mark.case("4.2")
# They take PDFs as files, so a plain text has to become a text.
@pytest.mark.parametrize("target", ["openai", "anthropic", "cohere"])
def test_text_files_in_base64_reach_vendors_that_take_pdfs_only(
    world: tuple[Running, Upstream], target: str
):
    data = f"data:text/plain;base64,{TEXT_FILE}"
    file = {"type": "file", "file": {"filename": "a.txt", "file_data": data}}
    body = {
        "model": f"{target}/{TARGETS[target]}",
        "messages": [
            {"role": "user", "content": [file, {"type": "text", "text": "?"}]}
        ],
    }
    response, sent = call(*world, "/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    assert "SECRET44" in json.dumps(sent)


# Each way to name an uploaded file, with the API that has it.
# An id is valid for the account that has uploaded the file.
FILE_IDS: dict[str, tuple[str, JSON]] = {
    "chat": ("/v1/chat/completions", {"type": "file", "file": {"file_id": "file-abc"}}),
    "responses": ("/v1/responses", {"type": "input_file", "file_id": "file-abc"}),
    "responses image": (
        "/v1/responses",
        {"type": "input_image", "file_id": "file-abc"},
    ),
    "messages": (
        "/v1/messages",
        {"type": "document", "source": {"type": "file", "file_id": "file-abc"}},
    ),
    "messages image": (
        "/v1/messages",
        {"type": "image", "source": {"type": "file", "file_id": "file-abc"}},
    ),
    "google": (
        "/v1beta/models/MODEL:generateContent",
        {
            "fileData": {
                "mimeType": "application/pdf",
                "fileUri": (
                    "https://generativelanguage.googleapis.com/v1beta/files/file-abc"
                ),
            }
        },
    ),
}
# The vendor that has issued the id; Google for all others.
ISSUERS = {"chat": "openai", "responses": "openai", "messages": "anthropic"}


def _with_file(path: str, part: JSON, model: str) -> tuple[str, JSON]:
    """Return path and body of a request with one file, in the format of the path."""
    if "MODEL" in path:
        contents = [{"role": "user", "parts": [part, {"text": "?"}]}]
        return path.replace("MODEL", model), {"contents": contents}
    if path.endswith("responses"):
        items = [{"role": "user", "content": [part]}]
        return path, {"model": model, "input": items}
    turn = {"role": "user", "content": [part, {"type": "text", "text": "?"}]}
    return path, {"model": model, "max_tokens": 100, "messages": [turn]}


@pytest.mark.case("4.2")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", FILE_IDS)
def test_a_file_id_goes_to_its_issuer_alone(
    world: tuple[Running, Upstream], kind: str, target: str
):
    path, body = _with_file(*FILE_IDS[kind], f"{target}/{TARGETS[target]}")
    response, sent = call(*world, path, body)
    issuer = ISSUERS.get(kind.split()[0], "gemini")
    if target == issuer:
        assert response.status_code == 200, response.text
        assert "file-abc" in json.dumps(sent)
    else:
        assert response.status_code == 400, (response.text, sent)
        assert "file-abc" in response.text
        assert not sent


def test_parts_without_an_equivalent_are_named(world: tuple[Running, Upstream]):
    block = {"type": "future_block", "data": "x"}
    body = messages("openai", block, {"type": "text", "text": "?"})
    response, sent = call(*world, "/v1/messages", body)
    assert response.status_code == 200
    assert response.headers["x-modelyard-dropped"] == "future_block"
    remaining = [{"type": "text", "text": "?"}]
    assert sent["messages"] == [{"role": "user", "content": remaining}]
    refused = httpx.post(
        f"{world[0].origin}/v1/messages",
        json=body,
        headers={"x-modelyard-unsupported": "refuse"},
    )
    assert refused.status_code == 400
    assert "future_block" in refused.text
