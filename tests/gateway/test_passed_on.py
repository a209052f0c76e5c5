"""Tests for streams that are passed through unparsed, up to an event that is parsed."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from modelyard.testing import Handler, Upstream, stream_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
HEAD = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "m",
}


def event(
    delta: dict[str, Any] | None, reason: str | None = None, **extra_fields: Any
) -> bytes:
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    )
    return (
        f"data: {json.dumps({**HEAD, 'choices': choices, **extra_fields})}\n\n".encode()
    )


BEGIN = [
    event({"role": "assistant", "content": ""}),
    event({"content": "hel"}),
    event({"content": "lo"}),
]
GROQ = {
    "id": "req_1",
    "usage": {
        "queue_time": 0.1,
        "prompt_tokens": 21,
        "completion_tokens": 12,
        "total_tokens": 33,
    },
}
# xAI does not count reasoning in the completion tokens; only the total shows it.
APART = {
    "prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 33,
    "completion_tokens_details": {"reasoning_tokens": 10},
}  # fmt: skip
ENDS = {
    "usage in Groq's place": [event({}, "stop", x_groq=GROQ), b"data: [DONE]\n\n"],
    "usage to be understood, and no [DONE]": [
        event({}, "stop"),
        event(None, usage=APART),
    ],
}


def streamed_events(running: Running, *, include_usage: bool) -> list[Any]:
    api = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = api.chat.completions.create(
        model="openai/gpt-5-mini", messages=messages, stream=True, **options
    )
    return list(stream)


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("end", ENDS)
def test_the_ledger_and_the_caller_get_the_providers_usage(
    start_gateway: Start, upstream: Play, end: str, include_usage: bool
):
    server = upstream(lambda request: stream_answer([*BEGIN, *ENDS[end]]))
    running = start_gateway(server)
    state = ChatCompletionStreamState()
    stated: list[Any] = []
    for chunk in streamed_events(running, include_usage=include_usage):
        state.handle_chunk(chunk)
        stated += [chunk.usage] if chunk.usage is not None else []
        assert chunk.id == HEAD["id"]
    choice = state.get_final_completion().choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "hello",
        "stop",
    )
    assert [usage.total_tokens for usage in stated] == ([33] if include_usage else [])
    (row,) = running.flush()
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.estimated) == (
        "ok",
        21,
        12,
        False,
    )


CALL = event(
    {
        "tool_calls": [
            {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"at":'},
            }
        ]
    }
)
CALL_ENDS = {
    "in the common form": {"index": 0, "function": {"arguments": " 1}"}},
    # The full parser reads this one, and knows the call from the event before it.
    "without an index": {"id": "c1", "function": {"arguments": " 1}"}},
}


@pytest.mark.parametrize("end", CALL_ENDS)
def test_a_tool_call_that_is_passed_through_arrives_complete(
    start_gateway: Start, upstream: Play, end: str
):
    events = [*BEGIN, CALL, event({"tool_calls": [CALL_ENDS[end]]})]
    events += [event({}, "tool_calls", x_groq=GROQ), b"data: [DONE]\n\n"]
    server = upstream(lambda request: stream_answer(events))
    running = start_gateway(server)
    state = ChatCompletionStreamState()
    for chunk in streamed_events(running, include_usage=True):
        state.handle_chunk(chunk)
    (call,) = state.get_final_completion().choices[0].message.tool_calls or ()
    assert (call.id, call.function.name) == ("c1", "look")
    assert json.loads(call.function.arguments) == {"at": 1}
    (row,) = running.flush()
    assert (row.status, row.completion_tokens, row.estimated) == ("ok", 12, False)


def test_a_stream_without_an_end_counts_as_interrupted(
    start_gateway: Start, upstream: Play
):
    server = upstream(lambda request: stream_answer([*BEGIN, event(None, usage=APART)]))
    running = start_gateway(server)
    with pytest.raises(openai.APIError, match="ended without"):
        streamed_events(running, include_usage=True)
