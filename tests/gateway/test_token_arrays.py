"""Tests for embeddings of token ids, and for text completions with several prompts and
with fields that chat models lack."""

import base64
import json
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.models.embedding import TokenIds
from modelyard.testing import (
    Upstream,
    embedding_answer,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running
from tests.gateway.test_money import provider_at
from tests.gateway.test_traffic import ask

Start = Callable[..., Running]
SMALL = "text-embedding-3-small"


def embeddings(request: Any) -> Any:
    """Return a vector for each input."""
    return embedding_answer(
        [[0.5, float(n)] for n in range(len(request.json["input"]))]
    )


def embed(running: Running, model: str, value: Any, **more: Any) -> Any:
    """Return the answer to an embeddings request."""
    return ask(
        running, "POST", "/v1/embeddings", {"model": model, "input": value, **more}
    )


@pytest.mark.case("10.1")
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ([[9906, 1917]], [[9906, 1917]]),
        ([9906, 1917], [[9906, 1917]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_token_ids_reach_openai_as_they_are(
    start_gateway: Start, upstream: Callable[..., Upstream], value: Any, sent: Any
):
    server = upstream(embeddings)
    running = start_gateway(server)
    reply = embed(running, f"openai/{SMALL}", value, encoding_format="base64")
    assert reply.status == 200
    assert server.requests[0].json["input"] == sent
    vectors = [row["embedding"] for row in reply.json["data"]]
    assert len(vectors) == len(sent)
    assert array("f", base64.b64decode(vectors[0])).tolist() == [0.5, 0.0]
    (row,) = running.flush()
    assert row.prompt_tokens == len(sent)


def test_token_ids_and_texts_are_never_joined_into_one_call(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(embeddings)
    running = start_gateway(server, embedding_batch_ms=0.0)
    assert embed(running, f"openai/{SMALL}", [[9906]]).status == 200
    assert embed(running, f"openai/{SMALL}", "9906").status == 200
    assert [request.json["input"] for request in server.requests] == [
        [[9906]],
        ["9906"],
    ]


@pytest.mark.case("10.1")
def test_token_ids_are_refused_where_the_tokenizer_is_another(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(embeddings)
    running = start_gateway(providers=[provider_at(server.url, "mistral")])
    reply = embed(running, "mistral/mistral-embed", [[9906, 1917]])
    assert (reply.status, reply.json["error"]["param"]) == (400, "input")
    assert "token ids" in reply.json["error"]["message"]
    assert not server.requests


@pytest.mark.parametrize(
    "value",
    [[[]], [[1], "a"], ["a", [1]], [[1, "b"]], [[-1]], [[True]], [1, 2.5], [[1 << 40]]],
)
def test_invalid_token_ids_are_refused(start_gateway: Start, value: Any):
    reply = embed(start_gateway(), f"openai/{SMALL}", value)
    assert reply.status == 400
    assert "input" in reply.json["error"]["message"]


def test_token_ids_are_no_text():
    assert TokenIds([1, 2]) != "1,2"
    assert TokenIds([1, 2]) == TokenIds([1, 2])
    assert TokenIds([1, 2]).ids == (1, 2)


# Text completions


HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def echo(request: Any) -> Any:
    """Return the prompt, as an answer or as a stream."""
    choice = {
        "text": f"<{request.json['prompt']}>",
        "index": 0,
        "finish_reason": "stop",
    }
    if not request.json.get("stream"):
        return json_answer({**HEAD, "choices": [choice], "usage": USAGE})
    events = [{**HEAD, "choices": [choice]}, {**HEAD, "choices": [], "usage": USAGE}]
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return stream_answer([*lines, b"data: [DONE]\n\n"])


def complete(running: Running, headers: Any = None, **body: Any) -> Any:
    """Return the answer to a text completion."""
    sent = {"model": "openai/gpt-3.5-turbo-instruct", **body}
    return ask(running, "POST", "/v1/completions", sent, headers=headers)


@pytest.mark.case("7.5")
def test_each_of_several_prompts_gets_a_choice(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    running = start_gateway(upstream(echo))
    reply = complete(running, prompt=["one", "two", "three"])
    assert reply.status == 200
    choices = [(row["index"], row["text"]) for row in reply.json["choices"]]
    assert choices == [(0, "<one>"), (1, "<two>"), (2, "<three>")]
    assert reply.json["usage"]["total_tokens"] == 18
    assert len(running.flush()) == 3


def test_the_callers_headers_go_along_with_each_of_several_prompts(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(echo)
    headers = {"openai-beta": "feature=v1"}
    reply = complete(start_gateway(server), headers, prompt=["one", "two"])
    assert reply.status == 200
    sent = [request.headers.get("openai-beta") for request in server.requests]
    assert sent == ["feature=v1"] * 2


@pytest.mark.case("7.5")
def test_each_of_several_prompts_gets_a_choice_of_the_stream(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    running = start_gateway(upstream(echo))
    options = {"include_usage": True}
    reply = complete(
        running, prompt=["one", "two"], stream=True, stream_options=options
    )
    lines = [line for line in reply.body.split(b"\n\n") if line.startswith(b"data: {")]
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    texts: dict[int, str] = {0: "", 1: ""}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "<one>", 1: "<two>"}
    assert events[-1]["usage"]["total_tokens"] == 12
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_an_error_of_one_prompt_is_the_error_of_the_call(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    def answer(request: Any) -> Any:
        if request.json["prompt"] == "bad":
            return embedding_answer([])
        return echo(request)

    running = start_gateway(upstream(answer))
    assert complete(running, prompt=["one", "bad"]).status == 503


@pytest.mark.parametrize("prompt", [[], [1, 2], [[1], [2]], ["a", 1], ["x"] * 129])
def test_invalid_prompts_are_refused(start_gateway: Start, prompt: Any):
    reply = complete(start_gateway(), prompt=prompt, model="echo/echo")
    assert (reply.status, reply.json["error"]["param"]) == (400, "prompt")


@pytest.mark.case("7.5")
@pytest.mark.parametrize(
    ("name", "value"),
    [("echo", True), ("logprobs", 2), ("suffix", "end"), ("best_of", 3)],
)
def test_what_a_chat_model_cannot_complete_is_named_or_refused(
    start_gateway: Start, name: str, value: Any
):
    running = start_gateway()
    body = {"model": "echo/echo", "prompt": "one", name: value}
    reply = complete(running, **body)
    assert reply.status == 200
    assert name in reply.headers["x-modelyard-dropped"].split(", ")
    refused = complete(running, {"x-modelyard-unsupported": "refuse"}, **body)
    assert (refused.status, refused.json["error"]["param"]) == (400, name)


@pytest.mark.case("7.5")
def test_a_server_of_text_completions_gets_the_fields_as_they_are(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(echo)
    reply = complete(start_gateway(server), prompt="a", echo=True, suffix="b")
    assert reply.status == 200
    assert "x-modelyard-dropped" not in reply.headers
    assert server.requests[0].json["echo"] is True
    assert server.requests[0].json["suffix"] == "b"
