"""llm-comply, a public suite of the vendors' formats, against the gateway: each of its
cases, with answers that are translated from another format."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm_comply
import pytest
from llm_comply import result as suite_result
from llm_comply import runner
from llm_comply.config import ComplianceConfig
from llm_comply.http import close_client
from llm_comply.schema import SpecLoader
from llm_comply.tests import get_tests

from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running
from tests.gateway.test_money import provider_at

pytestmark = pytest.mark.proof("comply")

# The suite leaves cases out for models whose names it does not know.
MODELS = {
    "openai-chat": "gpt-5",
    "open-responses": "gpt-5",
    "anthropic": "claude-sonnet-4-5",
    "google-genai": "gemini-2.5-flash",
}
# The suite has no schema of Google's answers, but checks of its own.
SCHEMAS = {
    "openai-chat": "openai_chat.json",
    "open-responses": "openresponses.json",
    "anthropic": "anthropic.json",
}
CASES = [(suite, case.id) for suite in MODELS for case in get_tests(suite)]
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def schema_of(suite: str) -> SpecLoader:
    """Return the schema of a suite's answers, as the suite's own command loads it."""
    if suite not in SCHEMAS:
        return SpecLoader(None)
    folder = Path(llm_comply.__file__).parent / "specs"
    return SpecLoader(str(folder / SCHEMAS[suite]))


def message_for(body: Any) -> dict[str, Any]:
    """Return a model's message: a call if there are tools and the user speaks last."""
    message: dict[str, Any] = {"role": "assistant", "content": "Hello, my friend."}
    if body.get("reasoning_effort") or body.get("thinking"):
        message["reasoning_content"] = "The user greets me."
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        function = {
            "name": body["tools"][0]["function"]["name"],
            "arguments": '{"location": "Paris"}',
        }
        call = {"id": "call_1", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
    return message


def answer(request: UpstreamRequest) -> Answer:
    """Answer as a server that has chat completions alone."""
    if not request.path.endswith("/chat/completions"):
        return json_answer({"error": {"message": "no such path"}}, status=404)
    message = message_for(request.json)
    reason = "tool_calls" if "tool_calls" in message else "stop"
    if request.json.get("stream"):
        return stream_answer(list(events_of(message, reason)))
    choice = {
        "index": 0,
        "message": {"refusal": None, **message},
        "logprobs": None,
        "finish_reason": reason,
    }
    return json_answer(
        {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    )


def events_of(message: dict[str, Any], reason: str) -> Iterator[bytes]:
    """Yield the events of a stream with this message."""
    calls: list[Any] = [
        {"index": index, **call}
        for index, call in enumerate(message.get("tool_calls", []))
    ]
    delta = {**message, "tool_calls": calls} if calls else message
    yield event_of(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
    yield event_of(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
    yield event_of(choices=[], usage=USAGE)
    yield b"data: [DONE]\n\n"


def event_of(**fields: Any) -> bytes:
    """Return one event."""
    chunk = {**HEAD, "object": "chat.completion.chunk", **fields}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.fixture
def closed_client() -> Iterator[None]:
    """Close the connections that the suite keeps."""
    yield
    close_client()


@pytest.mark.case("9.5")
# The suite uses a part of jsonschema that is deprecated.
@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated")
@pytest.mark.usefixtures("closed_client")
@pytest.mark.parametrize(("suite", "case_id"), CASES)
def test_a_public_suite_finds_nothing(
    suite: str, case_id: str, start_gateway: Callable[..., Running]
):
    case = next(case for case in get_tests(suite) if case.id == case_id)
    with Upstream(answer) as upstream:
        running = start_gateway(providers=[provider_at(upstream.url, "deepseek")])
        is_google = suite == "google-genai"
        config = ComplianceConfig(
            base_url=running.origin if is_google else running.url,
            api_key="unused",
            model=f"deepseek/{MODELS[suite]}",
        )
        result = runner.TestRunner(config, [case], schema_of(suite)).run_one(case)
    assert result.errors == []
    assert result.status is suite_result.TestStatus.PASSED
