"""Tests that streams which are passed through are read as a full parser reads them."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.show.exchanges import exchanges

from modelyard.base.errors import InvokeError, InvokeServerUnavailableError
from modelyard.models.capabilities import Capabilities, InputTypeField, Thinking
from modelyard.models.llm import LLMResultChunk, fold
from modelyard.testing import chat_answer, chat_events
from modelyard.wire import openai_chat, openai_passthrough

CAPABILITIES = [
    Capabilities(),
    Capabilities(max_tokens_field="max_completion_tokens"),
    Capabilities(no_stream_options=True),
]
# One other value for each capability that passthrough takes as irrelevant.
IRRELEVANT_VALUES: dict[str, Any] = {
    "custom_tools": True,
    "max_tools": 3,
    "reasoning_field": "reasoning",
    "reasoning": "thinking",
    "reasoning_with_calls": True,
    "unsigned_thoughts": True,
    "thinking": Thinking(control="none"),
    "developer_role": True,
    "system_first": True,
    "system_between": True,
    "cache_marks": True,
    "checks_signatures": False,
    "signature_family": "f",
    "max_stop_sequences": 0,
    "plain_transcripts": ("m",),
    "default_voice": "alloy",
    "max_texts": 4,
    "required_tool_choice": "any",
    "input_type": InputTypeField(field="f", query="q", document="d"),
    "max_tokens": 5,
    "adaptive_thinking": True,
    "structured": "output_format",
}
# A message without content is read in full.
TEXTS = st.text(min_size=1, max_size=40)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS}
    ),
    min_size=1,
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": MESSAGES},
    optional={
        "stream": st.booleans(),
        "user": st.text(min_size=1, max_size=9),
        "max_tokens": st.integers(1, 10**6),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
    },
)


@given(BODIES, st.sampled_from(CAPABILITIES))
def test_a_passed_through_request_is_read_as_by_the_full_parser(
    body: dict[str, Any], capabilities: Capabilities
):
    peeked_request = openai_passthrough.peek_request(
        json.dumps(body).encode(), openai_chat.parse_request
    )
    assert peeked_request is not None
    model, request = peeked_request
    assert (model, request.format) == ("m", openai_chat.FORMAT)
    passed = json.loads(openai_passthrough.PASSING.dump(request, "other", capabilities))
    full_body = openai_chat.dump_request(
        openai_chat.parse_request(body), "other", capabilities
    )
    assert passed == json.loads(msgspec.json.encode(full_body))
    assert request.parse() == openai_chat.parse_request(body)


@pytest.mark.parametrize(
    "extra_fields",
    [
        {"tools": []}, {"response_format": {"type": "json_object"}}, {"temperature": 3}, {"max_tokens": 0}, {"nonsense": 1},
        {"messages": []}, {"messages": [{"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, {"reasoning_effort": "low"},
    ],
)  # fmt: skip
def test_unusual_requests_are_parsed_in_full(extra_fields: dict[str, Any]):
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        **extra_fields,
    }
    assert (
        openai_passthrough.peek_request(
            json.dumps(body).encode(), openai_chat.parse_request
        )
        is None
    )


@given(BODIES, st.sampled_from(sorted(IRRELEVANT_VALUES)))
def test_irrelevant_capabilities_do_not_change_a_plain_request(
    body: dict[str, Any], name: str
):
    capabilities = Capabilities(**{name: IRRELEVANT_VALUES[name]})
    assert capabilities != Capabilities()
    peeked_request = openai_passthrough.peek_request(
        json.dumps(body).encode(), openai_chat.parse_request
    )
    assert peeked_request is not None
    request = peeked_request[1]
    assert openai_passthrough.PASSING.can_pass_through(request, capabilities)
    assert openai_chat.dump_request(
        request.parse(), "m", capabilities
    ) == openai_chat.dump_request(request.parse(), "m", Capabilities())


def test_each_capability_is_applied_irrelevant_or_prevents_passthrough():
    applied = openai_passthrough.APPLIED_CAPABILITIES
    irrelevant = openai_passthrough.IRRELEVANT_CAPABILITIES
    assert irrelevant == IRRELEVANT_VALUES.keys()
    assert not applied & irrelevant
    # Those for which the next test has a value.
    preventing = {"rename", "think_tags", "thinking_parts", "fields", "max_output"}
    assert applied | irrelevant | preventing == {*Capabilities.__struct_fields__}


@pytest.mark.parametrize(
    "capabilities",
    [
        Capabilities(rename={"user": "who"}),
        Capabilities(think_tags=True),
        Capabilities(thinking_parts=True),
        Capabilities(drop=("max_tokens",)),
        Capabilities(drop=("user",)),
        Capabilities(drop=("stream_options",)),
        Capabilities(max_tokens_field="num_predict"),
        Capabilities(fields=("model", "messages")),
        Capabilities(max_output=5),
        Capabilities(prefill="marked"),
        Capabilities(sampling="never"),
        Capabilities(temperature_or_top_p=True),
    ],
)
def test_requests_to_servers_that_deviate_are_not_passed_through(
    capabilities: Capabilities,
):
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.5,
    }
    peeked_request = openai_passthrough.peek_request(
        json.dumps(body).encode(), openai_chat.parse_request
    )
    assert peeked_request is not None
    request = peeked_request[1]
    assert not openai_passthrough.PASSING.can_pass_through(request, capabilities)
    assert openai_passthrough.PASSING.can_pass_through(request, Capabilities())


def test_a_passed_through_answer_has_the_same_bytes_and_usage():
    body = chat_answer("hello", prompt=9, completion=4).body
    passed = openai_passthrough.PASSING.result(body)
    assert passed is not None
    assert passed.data == body
    read = openai_chat.parse_result(json.loads(body)).usage
    assert msgspec.structs.replace(read, extra={}) == passed.usage_or_none


@pytest.mark.parametrize(
    "change",
    [
        {"error": {"message": "no"}}, {"choices": []}, {"usage": None}, {"usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.1}}, {"id": None},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}}},
    ],
)  # fmt: skip
def test_some_answers_need_the_full_parser(
    change: dict[str, Any],
):
    body = {**json.loads(chat_answer("hello").body), **change}
    assert openai_passthrough.PASSING.result(json.dumps(body).encode()) is None


def inspect_stream(
    fragments: list[bytes], *, wants_usage: bool
) -> tuple[bytes, str, Any, Any]:
    glance = openai_passthrough.StreamInspector(wants_usage=wants_usage)
    chunks = [
        chunk for fragment in fragments if (chunk := glance.feed(fragment)) is not None
    ]
    glance.finish()
    usage = next(
        (chunk.usage_or_none for chunk in chunks if chunk.usage_or_none is not None),
        None,
    )
    return (
        b"".join(chunk.data for chunk in chunks),
        "".join(chunk.text for chunk in chunks),
        usage,
        glance.unread,
    )


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12),
    st.lists(st.integers(1, 400), max_size=20),
    st.booleans(),
)
def test_a_stream_is_passed_through_in_any_chunking(
    tokens: list[str], cuts: list[int], wants_usage: bool
):
    events = chat_events(tokens)
    body, fragments, position = b"".join(events), [], 0
    for cut in [*cuts, len(body)]:
        fragments.append(body[position : position + cut])
        position += cut
    data, text, usage, unread = inspect_stream(
        [fragment for fragment in fragments if fragment], wants_usage=wants_usage
    )
    assert unread is None
    assert text == "".join(tokens)
    assert data == b"".join(events[:-1] if wants_usage else events[:-2])
    parser = openai_chat.StreamParser()
    chunks = [
        chunk for event in events[:-1] for chunk in parser.feed(json.loads(event[6:]))
    ]
    assert fold(chunks).text == text
    assert msgspec.structs.replace(fold(chunks).usage, extra={}) == usage


@pytest.mark.parametrize(
    "invalid_event",
    [
        b"data: {not json\n\n",
        b'data: {"error": {"message": "x"}}\n\n',
        b"data: [1]\n\n",
        b"event: x\ndata: {}\n\n",
        b"data: {}\r\n\r\n",
    ],
)
def test_the_full_parser_takes_over_at_an_invalid_event(invalid_event: bytes):
    events = chat_events(["a", "b"])
    glance = openai_passthrough.StreamInspector(wants_usage=True)
    first = glance.feed(events[0] + events[1])
    assert first is not None
    glance.feed(invalid_event + events[2])
    assert glance.unread is not None
    assert glance.unread.startswith(invalid_event[:6])
    assert glance.unread.endswith(events[2])


def test_an_interrupted_stream_is_not_taken_as_complete():
    glance = openai_passthrough.StreamInspector(wants_usage=True)
    glance.feed(chat_events(["a"])[1])
    with pytest.raises(InvokeServerUnavailableError, match="ended without"):
        glance.finish()


def ending(chunks: Iterable[LLMResultChunk]) -> tuple[Any, str | None]:
    """Return (prompt, completion, cached and reasoning tokens), and the finish reason.

    The last value of each counts.
    """
    usage, reason = None, None
    for chunk in chunks:
        usage = chunk.delta.usage or usage
        reason = chunk.delta.finish_reason or reason
    if usage is None:
        return None, reason
    return (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    ), reason


def read_in_full(
    events: Iterable[bytes], *, has_finished: bool
) -> list[LLMResultChunk]:
    parser = openai_chat.StreamParser()
    chunks = [
        chunk
        for event in events
        if event != b"[DONE]"
        for chunk in parser.feed(json.loads(event))
    ]
    return [*chunks, *parser.finish(end_marker_seen=has_finished)]


def test_recorded_streams_end_as_with_the_full_parser():
    count = 0
    for exchange in exchanges():
        if exchange.format != "openai_chat" or exchange.events is None:
            continue
        events = [json.dumps(event).encode() for event in exchange.events]
        if exchange.response.rstrip().endswith("[DONE]"):
            events.append(b"[DONE]")
        try:
            expected_ending = ending(
                read_in_full(events, has_finished=events[-1] == b"[DONE]")
            )
        except InvokeError:
            continue
        assert ending(_inspected(events)) == expected_ending, exchange.id
        count += 1
    assert count > 150


def _inspected(events: list[bytes]) -> list[LLMResultChunk]:
    """Return the chunks that the inspector of passed-through streams reads.

    Includes those that it leaves to the full parser.
    """
    inspector = openai_passthrough.StreamInspector(wants_usage=True)
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    passed = inspector.feed(body)
    chunks = [] if passed is None else [passed]
    if inspector.unread is None:
        inspector.finish()
        return chunks
    unread_events = [
        event.removeprefix(b"data: ")
        for event in inspector.unread.split(b"\n\n")
        if event
    ]
    has_finished = inspector.has_finished or unread_events[-1] == b"[DONE]"
    return chunks + list(read_in_full(unread_events, has_finished=has_finished))


def test_data_after_the_end_is_ignored():
    glance = openai_passthrough.StreamInspector(wants_usage=True)
    chunk = glance.feed(b"".join(chat_events(["a"])) + b"data: {not json\n\n")
    assert chunk is not None
    assert glance.feed(b"event: x\r\n") is None
    glance.finish()
    assert glance.unread is None


def test_an_empty_finish_reason_ends_nothing():
    glance = openai_passthrough.StreamInspector(wants_usage=True)
    glance.feed(
        b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]}\n\n'
    )
    with pytest.raises(InvokeServerUnavailableError, match="ended without"):
        glance.finish()
