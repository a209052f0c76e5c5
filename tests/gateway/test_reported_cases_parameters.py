"""Reported cases of parameters: each within the receiving vendor's limits and words."""

import json
from typing import Any

import pytest

from modelyard.testing import (
    Answer,
    UpstreamRequest,
    embedding_answer,
    json_answer,
)
from tests.gateway.reported_world import (
    HI,
    Play,
    Start,
    Vendors,
    dropped,
    plain_answer,
)

OBJECT = {"type": "object", "properties": {}}


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    names = ("openai", "anthropic", "gemini", "deepseek", "mistral", "azure_openai")
    return Vendors(start_gateway, upstream, *names)


@pytest.mark.case("7.1")
@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "azure_openai/gpt-5-mini"])
def test_claude_codes_user_fits(vendors: Vendors, model: str):
    user = json.dumps(
        {"device_id": "d" * 64, "account_uuid": "", "session_id": "s" * 40}
    )
    sent: list[str] = []
    for _ in range(2):
        answer = vendors.messages(model, metadata={"user_id": user})
        sent.append(vendors.sent["user"])
        assert dropped(answer) == set()
    assert sent[0] == sent[1]
    assert len(sent[0]) <= 64


# --------------------------------------------------- compatible is not the same: 7.2

DEEPSEEKS = {
    "model", "messages", "max_tokens", "stream", "stream_options", "tools", "tool_choice",
    "temperature", "top_p", "stop", "response_format", "thinking", "reasoning_effort",
}  # fmt: skip


class StrictWorld(Vendors):
    """A gateway whose chat servers refuse each field that is OpenAI's alone."""

    def answer(self, request: UpstreamRequest) -> Answer:
        """Refuse unknown fields and the role of a developer."""
        body = request.json
        unknown = sorted(body.keys() - DEEPSEEKS)
        if any(message["role"] == "developer" for message in body["messages"]):
            unknown = ["messages[0].role"]
        if not unknown:
            return plain_answer(request)
        message = f"Unknown parameter: '{unknown[0]}'."
        error = {"message": message, "param": unknown[0], "code": "unknown_parameter"}
        return json_answer({"error": error}, status=400)


EXTRAS: dict[str, Any] = {
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "flex",
    "parallel_tool_calls": False,
    "max_completion_tokens": 9,
}


@pytest.mark.case("7.2")
@pytest.mark.parametrize("model", ["deepseek/deepseek-chat", "oai/m"])
def test_a_compatible_server_gets_what_it_takes(
    start_gateway: Start, upstream: Play, model: str
):
    vendors = StrictWorld(start_gateway, upstream, "deepseek")
    function = {"name": "f", "parameters": OBJECT, "strict": True}
    messages = [{"role": "developer", "content": "x"}, *HI]
    for _ in range(2):
        count = len(vendors.upstream.requests)
        answer = vendors.chat(
            model,
            messages=messages,
            tools=[{"type": "function", "function": function}],
            **EXTRAS,
        )
        assert dropped(answer) == {*EXTRAS} - {"max_completion_tokens"}
        assert vendors.sent["max_tokens"] == 9
        assert vendors.sent["messages"][0] == {"role": "system", "content": "x"}
    # What a server refuses is learnt: the second call goes through at once.
    assert len(vendors.upstream.requests) == count + 1


@pytest.mark.case("7.3")
def test_store_false_reaches_openai(vendors: Vendors):
    include = ["reasoning.encrypted_content"]
    vendors.responses("rsp/agent", store=False, include=include)
    assert vendors.sent["store"] is False
    vendors.chat("rsp/agent")
    assert vendors.sent["store"] is False


@pytest.mark.case("7.5")
def test_gemini_takes_five_stop_sequences(vendors: Vendors):
    answer = vendors.chat("gemini/gemini-2.5-flash", stop=list("abcdefg"))
    assert vendors.sent["generationConfig"]["stopSequences"] == list("abcde")
    assert dropped(answer) == {"stop"}


@pytest.mark.case("7.5")
def test_only_blank_stop_sequences_are_left_out(vendors: Vendors):
    answer = vendors.chat("anthropic/claude-sonnet-4-5", stop=[" ", "\n"])
    assert "stop_sequences" not in vendors.sent
    assert dropped(answer) == {"stop"}


@pytest.mark.case("7.5")
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_completion_names_what_a_chat_cannot_do(vendors: Vendors, is_stream: bool):
    fields = {"echo": True, "logprobs": 2, "suffix": "end", "logit_bias": {"1": 1}}
    body = {"model": "ant/m", "prompt": "one", "stream": is_stream, **fields}
    assert dropped(vendors.ask("/v1/completions", body)) == {*fields}


# ---------------------------------------------------------------- token arrays: 10.1


def embeddings(request: UpstreamRequest) -> Answer:
    """Return a vector for each input."""
    return embedding_answer([[0.5, 0.25]] * len(request.json["input"]))


@pytest.mark.case("10.1")
@pytest.mark.parametrize("provider", ["openai", "azure_openai"])
@pytest.mark.parametrize("tokens", [[[9906, 1917]], [9906, 1917]])
def test_token_ids_reach_openai_and_azure(vendors: Vendors, provider: str, tokens: Any):
    vendors.upstream.handler = embeddings
    model = f"{provider}/text-embedding-3-small"
    body = {"model": model, "input": tokens, "encoding_format": "base64"}
    answer = vendors.ask("/v1/embeddings", body)
    assert vendors.sent["input"] == [[9906, 1917]]
    (row,) = answer.json()["data"]
    assert isinstance(row["embedding"], str)
