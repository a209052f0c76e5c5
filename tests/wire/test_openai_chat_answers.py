"""Answers and streams of the Chat Completions API: each as it is read and written, in full."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from modelyard.base.errors import (
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.models.llm import (
    LLMChoice,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
    fold,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    Citation,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
)
from modelyard.models.tool_call_reader import generated_call_id
from modelyard.wire import openai_chat

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
LOGPROBS = {
    "content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}],
    "refusal": None,
}


def chat(**fields: Any) -> dict[str, dict[str, Any]]:
    """Return fields that only this format has, as our types keep them."""
    return {"openai_chat": fields}


def call(
    call_id: str, name: str, arguments: str, type: str = "function", **fields: Any
) -> ToolCall:
    function = ToolCallFunction(name=name, arguments=arguments)
    return ToolCall(id=call_id, type=type, function=function, **fields)


def message(**fields: Any) -> AssistantPromptMessage:
    return AssistantPromptMessage(**fields)


# ------------------------------------------------------------------------------- answers

USAGE = {
    "prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 4, "audio_tokens": 3, "image_tokens": 2},
    "completion_tokens_details": {
        "reasoning_tokens": 7, "audio_tokens": 6, "image_tokens": 1, "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0},
}  # fmt: skip
ANNOTATION = {
    "type": "url_citation",
    "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1},
}
WHOLE = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "gpt", "system_fingerprint": "fp",
    "service_tier": "flex", "usage": USAGE,
    "choices": [
        {"index": 0, "finish_reason": "stop", "logprobs": LOGPROBS, "message": {
            "role": "assistant", "content": "ab", "refusal": None, "annotations": [ANNOTATION]}},
        {"index": 1, "finish_reason": "tool_calls", "logprobs": None, "message": {
            "role": "assistant", "content": None, "refusal": None, "tool_calls": [
                CALL, {"id": "c2", "type": "custom", "custom": {"name": "sql", "input": "x"}}]}},
        {"index": 2, "finish_reason": "stop", "logprobs": None, "message": {
            "role": "assistant", "content": None, "refusal": "no"}},
        {"index": 3, "finish_reason": "stop", "logprobs": None, "message": {
            "role": "assistant", "content": None, "refusal": None,
            "audio": {"id": "a1", "data": "aGk=", "expires_at": 9, "transcript": "hi"}}},
    ],
}  # fmt: skip


def test_a_whole_answer_is_read_and_written():
    ChatCompletion.model_validate(WHOLE, strict=True)
    result = openai_chat.parse_result(WHOLE)
    choices = result.choices
    assert choices[:3] == [
        LLMChoice(
            message=message(
                content=[
                    TextPromptMessageContent(
                        data="ab",
                        citations=[
                            Citation(
                                url="u",
                                title="t",
                                start=0,
                                end=1,
                                extra=chat(**ANNOTATION),
                            )
                        ],
                    )
                ]
            ),
            finish_reason="stop",
            logprobs=LOGPROBS,
        ),
        LLMChoice(
            index=1,
            message=message(
                tool_calls=[
                    call("c1", "look", "{}"),
                    call("c2", "sql", "x", "custom"),
                ]
            ),
            finish_reason="tool_calls",
        ),
        LLMChoice(index=2, message=message(refusal="no"), finish_reason="stop"),
    ]
    assert msgspec.structs.replace(result, choices=[]) == LLMResult(
        id="chatcmpl-1",
        created=5,
        model="gpt",
        system_fingerprint="fp",
        choices=[],
        usage=LLMUsage(
            prompt_tokens=50,
            completion_tokens=20,
            total_tokens=70,
            cached_tokens=5,
            cache_write_tokens=4,
            audio_prompt_tokens=3,
            image_prompt_tokens=2,
            reasoning_tokens=7,
            audio_completion_tokens=6,
            image_completion_tokens=1,
            service_tier="flex",
            extra=chat(**USAGE),
        ),
        extra=chat(service_tier="flex"),
    )
    assert openai_chat.dump_result(result) == WHOLE


def test_an_answer_with_the_least_that_servers_send():
    body = {"choices": [{"finish_reason": "stop"}, {"message": {}, "index": "1"}]}
    assert openai_chat.parse_result(body) == LLMResult(
        model="",
        choices=[LLMChoice(finish_reason="stop"), LLMChoice(index=1)],
        usage=LLMUsage(estimated=True),
    )


def test_what_an_answer_has_beyond_the_format():
    choice = {"message": {"content": "a", "x": 1}, "y": 2, "z": None, "index": 3}
    body = {"choices": [choice], "provider": "p", "id": "", "created": 2.0}
    result = openai_chat.parse_result(body)
    expected = message(content="a", extra=chat(x=1))
    assert result.choices == [LLMChoice(index=3, message=expected, extra=chat(y=2))]
    assert (result.extra, result.created) == (chat(provider="p"), 2)
    assert openai_chat.dump_result(result) == {
        "id": "",
        "object": "chat.completion",
        "created": 2,
        "model": "",
        "choices": [
            {
                "index": 3,
                "message": {
                    "role": "assistant",
                    "content": "a",
                    "refusal": None,
                    "x": 1,
                },
                "logprobs": None,
                "finish_reason": None,
                "y": 2,
            }
        ],
        "usage": openai_chat.dump_usage(LLMUsage()),
        "provider": "p",
    }


def test_the_tier_of_another_provider():
    usage = LLMUsage.of(1, 2, service_tier="standard")
    result = LLMResult(model="m", choices=[LLMChoice()], usage=usage)
    assert openai_chat.dump_result(result)["service_tier"] == "default"


def test_calls_without_an_id_get_one():
    calls = [{"function": {"name": "a"}}, {"id": "", "function": {"name": "b"}}]
    for body, response in (({"id": "r", "created": 5}, "r"), ({"created": 5}, "5"), ({}, "")):  # fmt: skip
        choice = {"message": {"tool_calls": calls}}
        parsed = openai_chat.parse_result({**body, "choices": [choice]})
        assert [found.id for found in parsed.tool_calls] == [
            generated_call_id(response, 0),
            generated_call_id(response, 1),
        ]


REASONS = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "function_call": "tool_calls", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
    "model_length": "length", "COMPLETE": "stop", "MAX_TOKENS": "length", "tool_call": "tool_calls",
    "sensitive": "content_filter", "odd": "odd",
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_a_finish_reason_is_translated_and_comes_back(reason: str):
    choice = {"message": {"content": ""}, "finish_reason": reason, "x": None}
    found = openai_chat.parse_result({"choices": [choice]}).choices[0]
    assert found.finish_reason == REASONS[reason]
    is_usual = reason == REASONS[reason]
    # The other fields of a choice are beside the vendor's own reason.
    assert found.extra == ({} if is_usual else chat(finish_reason=reason, x=None))
    written = openai_chat.dump_result(LLMResult(model="m", choices=[found]))
    assert written["choices"][0]["finish_reason"] == reason


def test_a_pause_and_no_reason_at_all():
    paused = LLMResult(model="m", choices=[LLMChoice(finish_reason="pause")])
    assert openai_chat.dump_result(paused)["choices"][0]["finish_reason"] == "stop"
    for reason in ("", None):
        choice = {"message": {"content": ""}, "finish_reason": reason}
        found = openai_chat.parse_result({"choices": [choice]}).choices[0]
        assert found == LLMChoice(message=message(content=""))


FAILED = "The provider ended its answer with the finish reason "
BROKEN = "Upstream response: choices[0] has no 'message'"
# Answer -> the class and the words of its error.
ERRORS: list[tuple[dict[str, Any], type[InvokeError], str]] = [
    ({"error": {"type": "rate_limit_error", "message": "slow"}}, InvokeRateLimitError, "slow"),
    ({}, InvokeServerUnavailableError, "Upstream response has no 'choices'"),
    ({"choices": []}, InvokeServerUnavailableError, "Upstream response has no 'choices'"),
    ({"choices": "x"}, InvokeServerUnavailableError, "Upstream response has no 'choices'"),
    ({"choices": [5]}, InvokeServerUnavailableError, BROKEN),
    ({"choices": [{}]}, InvokeServerUnavailableError, BROKEN),
    ({"choices": [{"message": 5}]}, InvokeServerUnavailableError, BROKEN),
    ({"choices": [{"finish_reason": "stop"}, {}]}, InvokeServerUnavailableError,
     "Upstream response: choices[1] has no 'message'"),
    ({"choices": [{"finish_reason": "stop"}, 5]}, InvokeServerUnavailableError,
     "Upstream response: choices[1] has no 'message'"),
    ({"choices": [{"message": {}, "error": {"code": 429, "message": "slow"}}]}, InvokeRateLimitError, "slow"),
    ({"choices": [{"message": {"content": 5}}]}, InvokeServerUnavailableError,
     "Invalid upstream response: 'message.content' must be a string or a list of parts, not 5"),
    ({"choices": [{"message": {"tool_calls": [5]}}]}, InvokeServerUnavailableError,
     "Invalid upstream response: 'message.tool_calls[0]' must be an object, not 5"),
    ({"choices": [{"message": {}, "finish_reason": "error"}]}, InvokeServerUnavailableError, f"{FAILED}'error'"),
    ({"choices": [{"message": {}, "finish_reason": "network_error"}]}, InvokeServerUnavailableError,
     f"{FAILED}'network_error'"),
    ({"choices": [{"message": {"tool_calls": 5}}]}, InvokeServerUnavailableError,
     "The response does not match its format: 'int' object is not iterable"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "error_class", "words"), ERRORS)
def test_an_answer_that_is_an_error(
    body: dict[str, Any], error_class: type[InvokeError], words: str
):
    with pytest.raises(error_class) as caught:
        openai_chat.parse_result(body)
    assert type(caught.value) is error_class
    assert str(caught.value) == words


def test_an_error_object_alone():
    error = openai_chat.error_of({"type": "rate_limit_error", "message": "slow"})
    assert (type(error), str(error)) == (InvokeRateLimitError, "slow")


# --------------------------------------------------------------------------------- usage

# Usage as servers write it -> its counts.
USAGES: list[tuple[Any, dict[str, Any] | None]] = [
    ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9},
     {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}),
    ({"prompt_tokens": 3}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"completion_tokens": 4}, {"completion_tokens": 4, "total_tokens": 4}),
    ({"prompt_tokens": 3, "completion_tokens": "x"}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2}, {"prompt_tokens": 3, "total_tokens": 3, "cached_tokens": 2}),
    ({"prompt_tokens": 3, "num_search_queries": 2}, {"prompt_tokens": 3, "total_tokens": 3, "searches": 2}),
    ({"prompt_tokens": 3, "completion_tokens": 4, "reasoning_tokens": 2},
     {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "reasoning_tokens": 2}),
    # xAI counts reasoning beside the completion.
    ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 2}},
     {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9, "reasoning_tokens": 2}),
    ({"completion_tokens": 4, "total_tokens": 6, "reasoning_tokens": 2},
     {"completion_tokens": 6, "total_tokens": 6, "reasoning_tokens": 2}),
    ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 10, "reasoning_tokens": 2},
     {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 10, "reasoning_tokens": 2}),
    ({"prompt_tokens": 3, "cost": 0.5}, {"prompt_tokens": 3, "total_tokens": 3, "total_price": Decimal("0.5")}),
    ({"prompt_tokens": 3, "cost": 0}, {"prompt_tokens": 3, "total_tokens": 3, "total_price": Decimal(0)}),
    ({"prompt_tokens": 3, "cost": {"total_cost": 2}}, {"prompt_tokens": 3, "total_tokens": 3, "total_price": Decimal(2)}),
    ({"prompt_tokens": 3, "cost": True}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"prompt_tokens": 3, "cost": "1"}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"prompt_tokens": 3, "cost": -1}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"prompt_tokens": 3, "cost": 1e6}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"prompt_tokens": 3, "cost": {}}, {"prompt_tokens": 3, "total_tokens": 3}),
    ({"total_tokens": 3}, None),
    ([], None),
]  # fmt: skip


@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_usage_of_servers(usage: Any, counts: dict[str, Any] | None):
    expected = None if counts is None else LLMUsage(**counts, extra=chat(**usage))
    assert openai_chat.parse_usage(usage) == expected
    if expected is not None:
        assert openai_chat.dump_usage(expected) == usage


def test_usage_of_other_formats():
    counts = {
        "cached_tokens": 3, "cache_write_tokens": 4, "audio_prompt_tokens": 5, "image_prompt_tokens": 6,
        "reasoning_tokens": 7, "audio_completion_tokens": 8, "image_completion_tokens": 9,
    }  # fmt: skip
    assert openai_chat.dump_usage(LLMUsage.of(1, 2, **counts)) == {
        "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4, "audio_tokens": 5, "image_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 8, "image_tokens": 9},
    }  # fmt: skip
    assert openai_chat.dump_usage(LLMUsage.of(1, 2)) == {
        "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def test_the_tier_beside_a_usage():
    usage = openai_chat.parse_usage({"prompt_tokens": 1}, "Flex")
    assert usage is not None
    assert usage.service_tier == "flex"


# ------------------------------------------------------------------------------- streams

HEAD = {"id": "r", "object": "chat.completion.chunk", "created": 5, "model": "gpt"}


def event(*choices: Any, **fields: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [*choices], **fields}


def choice(delta: Any, **fields: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": None,
        **fields,
    }


def chunk(extra: Any = None, /, **delta: Any) -> LLMResultChunk:
    return LLMResultChunk(
        id="r",
        created=5,
        model="gpt",
        delta=LLMResultChunkDelta(**delta),
        extra=extra or {},
    )


def said(content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"message": message(content=content, **fields)}


FLEX = LLMUsage.of(3, 4, service_tier="flex")
COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
# Event -> the chunks that are read from it.
EVENTS: dict[str, tuple[dict[str, Any], list[LLMResultChunk]]] = {
    "role": (event(choice({"role": "assistant", "content": "", "refusal": None})), [chunk(**said(""))]),
    "text": (event(choice({"content": "a"})), [chunk(**said("a"))]),
    "fingerprint and padding": (
        event(choice({"content": "a"}), system_fingerprint="fp", obfuscation="xx", service_tier="default"),
        [msgspec.structs.replace(
            chunk(**said("a")), system_fingerprint="fp", extra=chat(service_tier="default"))],
    ),
    "no text": (event(choice({"content": None})), [chunk()]),
    "no delta": (event(choice(None, finish_reason="stop")), [chunk(finish_reason="stop")]),
    "text with a role": (event(choice({"role": "assistant", "content": "a"})), [chunk(**said("a"))]),
    "text with a name": (event(choice({"content": "a", "x": 1})), [chunk(**said("a", extra=chat(x=1)))]),
    "refusal": (event(choice({"refusal": "no"})), [chunk(**said(refusal="no"))]),
    "reasoning": (event(choice({"reasoning": "hm"})), [chunk(**said(reasoning_content="hm"))]),
    "logprobs": (event(choice({"content": "a"}, logprobs=LOGPROBS)), [chunk(**said("a"), logprobs=LOGPROBS)]),
    "two choices": (
        event(choice({"content": "a"}), choice({"content": "b"}, index=1)),
        [chunk(**said("a")), chunk(index=1, **said("b"))],
    ),
    "a vendor's reason": (
        event(choice({}, finish_reason="eos", x=1)),
        [msgspec.structs.replace(chunk(), delta=LLMResultChunkDelta(
            finish_reason="stop", extra=chat(x=1, finish_reason="eos")))],
    ),
    "usage alone": (
        event(usage=COUNTS, service_tier="Flex"),
        [chunk(chat(service_tier="Flex"), usage=msgspec.structs.replace(FLEX, extra=chat(**COUNTS)))],
    ),
    "usage of every choice": (
        event(choice({}, finish_reason="stop"), usage=COUNTS),
        [chunk(finish_reason="stop", usage=LLMUsage.of(3, 4, extra=chat(**COUNTS)))],
    ),
    "Groq's usage": (
        event(choice({}, finish_reason="stop"), x_groq={"id": "q", "usage": COUNTS}),
        [chunk(chat(x_groq={"id": "q", "usage": COUNTS}), finish_reason="stop",
               usage=LLMUsage.of(3, 4, extra=chat(**COUNTS)))],
    ),
    "Groq's field without usage": (
        event(choice({"content": "a"}), x_groq="odd"), [chunk(chat(x_groq="odd"), **said("a"))]),
    "no choices": (event(), []),
    "null choices and usage": ({**HEAD, "choices": None, "usage": None}, []),
    "implausible usage": (event(usage={"prompt_tokens": -1}), []),
    "a thinking part": (
        event(choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})),
        [chunk(**said([ThinkingPromptMessageContent(data="hm", index=0, extra=chat(type="thinking"))]))],
    ),
    "numbered thoughts": (
        event(choice({"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 3}]})),
        [chunk(**said([ThinkingPromptMessageContent(data="hm", index=3), TextPromptMessageContent(data="a")]))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_read(name: str):
    wire_event, chunks = EVENTS[name]
    assert openai_chat.StreamParser().feed(wire_event) == chunks


def test_an_event_without_anything_around_its_choice():
    parsed = openai_chat.StreamParser().feed({"choices": [{"delta": {"content": "a"}}]})
    delta = LLMResultChunkDelta(message=message(content="a"))
    assert parsed == [LLMResultChunk(model="", delta=delta)]


def test_fragments_of_calls_get_one_form_in_each_choice():
    """A server that repeats the id and the name, and one that has neither number nor id."""
    parser = openai_chat.StreamParser()

    def read(index: int, *calls: Any, **fields: Any) -> list[ToolCall]:
        (parsed,) = parser.feed(
            {"choices": [{"index": index, "delta": {"tool_calls": [*calls]}}], **fields}
        )
        assert parsed.delta.index == index
        return parsed.delta.message.tool_calls

    first = {"function": {"name": "look", "arguments": ""}}
    assert read(0, first, id="", created=9) == [
        call(generated_call_id("9", 0), "look", "", index=0)
    ]
    # The id of the response stays the one that came first.
    assert read(1, first, id="r") == [
        call(generated_call_id("9", 0), "look", "", index=0)
    ]
    assert read(0, {"function": {"arguments": "{}"}}) == [call("", "", "{}", index=0)]
    assert read(1, {"function": {"arguments": "{"}}, id="r") == [
        call("", "", "{", index=0)
    ]
    assert read(0, {"function": {"name": "find", "arguments": "{}"}}) == [
        call(generated_call_id("9", 1), "find", "{}", index=1)
    ]


# Event -> the class and the words of its error.
STREAM_ERRORS: list[tuple[dict[str, Any], type[InvokeError], str]] = [
    ({"error": {"type": "rate_limit_error", "message": "slow"}}, InvokeRateLimitError, "slow"),
    ({"message": "slow", "code": 429}, InvokeRateLimitError, "slow"),
    (event(choice({}, error={"code": 429, "message": "slow"})), InvokeRateLimitError, "slow"),
    (event(5), InvokeServerUnavailableError, "Upstream stream: a choice must be an object, not 5"),
    (event(choice({"content": 5, "x": 1})), InvokeServerUnavailableError,
     "Invalid upstream response: 'message.content' must be a string or a list of parts, not 5"),
    (event(choice({}, finish_reason="error")), InvokeServerUnavailableError, f"{FAILED}'error'"),
]  # fmt: skip


@pytest.mark.parametrize(("wire_event", "error_class", "words"), STREAM_ERRORS)
def test_an_event_that_is_an_error(
    wire_event: dict[str, Any], error_class: type[InvokeError], words: str
):
    with pytest.raises(error_class) as caught:
        list(openai_chat.parse_stream([event(choice({"content": "a"})), wire_event]))
    assert type(caught.value) is error_class
    assert str(caught.value) == words


def test_the_end_of_a_stream():
    cut = "Upstream stream ended without a finish reason or [DONE]"
    parser = openai_chat.StreamParser()
    parser.feed(event(choice({"content": "a"})))
    with pytest.raises(InvokeServerUnavailableError) as caught:
        parser.finish(end_marker_seen=False)
    assert str(caught.value) == cut
    assert parser.finish(end_marker_seen=True) == []
    parser.feed(event(choice({}, finish_reason="stop")))
    # What follows the reason changes nothing.
    parser.feed(event(choice({})))
    assert parser.finish(end_marker_seen=False) == []


# ------------------------------------------------------------------- streams for callers

NULL = {"usage": None}
ROLE = {"role": "assistant"}


def dumped(*chunks: LLMResultChunk, **options: Any) -> list[dict[str, Any]]:
    return list(openai_chat.dump_stream(chunks, **options))


def fragment(call_id: str, name: str, arguments: str, **fields: Any) -> dict[str, Any]:
    return said(tool_calls=[call(call_id, name, arguments, **fields)])


# Chunks -> the choices of their events, without what all have in common.
STREAMS: dict[str, tuple[list[LLMResultChunk], list[Any]]] = {
    "text": (
        [chunk(**said("a")), chunk(**said("b")), chunk(finish_reason="stop")],
        [choice({**ROLE, "content": "a"}), choice({"content": "b"}), choice({}, finish_reason="stop")],
    ),
    "text as parts": (
        [chunk(**said([TextPromptMessageContent(data="a", index=1)])), chunk(**said([TextPromptMessageContent(data="")]))],
        [choice({**ROLE, "content": "a"}), choice({"content": ""})],
    ),
    "nothing yet": ([chunk(), chunk(), chunk(**said("a"))], [choice({**ROLE, "content": ""}), choice({"content": "a"})]),
    "two choices": (
        [chunk(**said("a")), chunk(index=1, **said("b")), chunk(index=1, finish_reason="pause")],
        [choice({**ROLE, "content": "a"}), choice({**ROLE, "content": "b"}, index=1),
         choice({}, index=1, finish_reason="stop")],
    ),
    "reasoning and refusal": (
        [chunk(**said(reasoning_content="hm")), chunk(**said(refusal="no")), chunk(**said("a", extra=chat(x=1)))],
        [choice({**ROLE, "reasoning_content": "hm"}), choice({"refusal": "no"}), choice({"content": "a", "x": 1})],
    ),
    "thoughts": (
        [chunk(**said([ThinkingPromptMessageContent(data="hm", origin="anthropic", index=0)])),
         chunk(**said([ThinkingPromptMessageContent(signature="s", origin="anthropic", index=0)]))],
        [choice({**ROLE, "reasoning_content": "hm", "reasoning_details": [
            {"type": "reasoning.text", "text": "hm", "format": "anthropic-claude-v1", "index": 0}]}),
         choice({"reasoning_details": [
             {"type": "reasoning.encrypted", "data": "s", "format": "anthropic-claude-v1", "index": 0}]})],
    ),
    "logprobs": (
        [chunk(logprobs=LOGPROBS), chunk(**said("a"), logprobs=LOGPROBS)],
        [choice({**ROLE, "content": ""}, logprobs=LOGPROBS), choice({"content": "a"}, logprobs=LOGPROBS)],
    ),
    "calls": (
        [chunk(**fragment("c1", "look", "", index=0)), chunk(**fragment("", "", "{}", index=0)),
         chunk(**fragment("c2", "sql", "x", type="custom", extra=chat(k=1))),
         chunk(**fragment("", "", "y", type="custom"))],
        [choice({**ROLE, "tool_calls": [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]}),
         choice({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
         choice({"tool_calls": [{"index": 1, "id": "c2", "type": "custom", "custom": {"name": "sql", "input": "x"}, "k": 1}]}),
         choice({"tool_calls": [{"index": 1, "custom": {"input": "y"}}]})],
    ),
    "a deprecated call": (
        [chunk(**fragment("", "look", "", extra=chat(old=True))), chunk(**fragment("", "", "{}", extra=chat(old=True)))],
        [choice({**ROLE, "function_call": {"name": "look", "arguments": ""}}),
         choice({"function_call": {"arguments": "{}"}})],
    ),
    "calls of two choices": (
        [chunk(**fragment("c1", "look", "{}")), chunk(index=1, **fragment("c2", "find", "{}"))],
        [choice({**ROLE, "tool_calls": [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}),
         choice({**ROLE, "tool_calls": [
             {"index": 0, "id": "c2", "type": "function", "function": {"name": "find", "arguments": "{}"}}]}, index=1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_chunks_are_written_as_events(name: str):
    chunks, choices = STREAMS[name]
    expected = [event(written, **NULL) for written in choices]
    assert dumped(*chunks) == expected
    # Without usage, its null is left out as well.
    plain = [event(written) for written in choices]
    assert dumped(*chunks, include_usage=False) == plain
    # OpenAI's own types have no custom calls in streams.
    for written in expected if name != "calls" else ():
        ChatCompletionChunk.model_validate(written)


def test_fields_of_a_vendor_are_in_their_event_or_the_last_one():
    own = chunk(chat(z=2), finish_reason="stop")
    choice_fields = msgspec.structs.replace(
        chunk(), delta=LLMResultChunkDelta(extra=chat(k=3))
    )
    assert dumped(chunk(**said("a")), chunk(chat(y=1)), choice_fields, own) == [
        event(choice({**ROLE, "content": "a"}), **NULL),
        event(choice({}, k=3), **NULL),
        event(choice({}, finish_reason="stop"), **NULL, z=2),
        event(**NULL, y=1),
    ]
    assert dumped() == []


def test_sources_in_a_stream_have_positions_in_the_whole_text():
    def cited(data: str, index: int, **fields: Any) -> LLMResultChunk:
        citation = Citation(url="u", start=0, end=1, **fields)
        part = TextPromptMessageContent(data=data, index=index, citations=[citation])
        return chunk(**said([part]))

    raw = {"type": "url_citation", "url_citation": {"url": "raw"}}
    events = dumped(
        chunk(**said("abc")),
        chunk(**said()),
        cited("de", 1),
        cited("", 2, extra=chat(**raw)),
        chunk(index=1, **said("x")),
    )
    found = [written["choices"][0]["delta"] for written in events]
    moved = {"url": "u", "title": "", "start_index": 3, "end_index": 4}
    assert found == [
        {**ROLE, "content": "abc"},
        {"content": "de", "annotations": [{"type": "url_citation", "url_citation": moved}]},
        {"annotations": [raw]},
        {**ROLE, "content": "x"},
    ]  # fmt: skip


def test_usage_is_the_last_event_if_it_is_asked_for():
    end = chunk(chat(service_tier="flex"), usage=FLEX)
    events = dumped(chunk(**said("a")), end, chunk(finish_reason="stop"))
    assert events[1:] == [
        event(choice({}, finish_reason="stop"), **NULL),
        event(usage=openai_chat.dump_usage(FLEX), service_tier="flex"),
    ]
    assert len(dumped(chunk(**said("a")), end, include_usage=False)) == 1
    silent = dumped(chunk(usage=LLMUsage.of(1, 2, service_tier="standard")))
    assert silent == [
        event(usage=openai_chat.dump_usage(LLMUsage.of(1, 2)), service_tier="default")
    ]
    assert dumped(chunk(**said("a")))[1:] == []


def test_a_stream_that_a_client_has_begun_has_no_second_role():
    options = {"response_id": "r", "created": 5, "model": "gpt"}
    dumper = openai_chat.StreamDumper(**options, has_begun=True)
    named = msgspec.structs.replace(chunk(**said("a")), system_fingerprint="fp")
    assert dumper.feed(named) == [
        event(choice({"content": "a"}), system_fingerprint="fp", **NULL)
    ]
    assert dumper.feed(chunk(index=1)) == [
        event(choice({**ROLE, "content": ""}, index=1), **NULL)
    ]
    assert dumper.finish() == []


# ------------------------------------------------------------------------------------ laws

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
CALLS = st.lists(
    st.builds(
        call,
        st.uuids().map(str),
        TEXTS,
        TEXTS,
        st.sampled_from(["function", "custom"]),
        extra=st.sampled_from([{}, chat(extra_content={"a": 1})]),
    ),
    max_size=3,
    unique_by=lambda made: made.id,
)
PLAIN_MESSAGES = st.builds(
    AssistantPromptMessage,
    content=st.none() | TEXTS,
    tool_calls=CALLS,
    reasoning_content=st.none() | TEXTS,
    refusal=st.none() | TEXTS,
    extra=st.sampled_from([{}, chat(x=1)]),
)
# A stream begins with an empty text if there is nothing else.
FULL_MESSAGES = PLAIN_MESSAGES.filter(
    lambda made: made != message(tool_calls=made.tool_calls) or bool(made.tool_calls)
)
CHOICES = st.builds(
    LLMChoice,
    message=FULL_MESSAGES,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    # The null beside it becomes an empty list where several chunks are joined.
    logprobs=st.sampled_from([None, {"content": LOGPROBS["content"]}]),
    extra=st.sampled_from([{}, chat(y=1)]),
)
RESULTS = st.builds(
    LLMResult,
    id=TEXTS,
    model=TEXTS,
    created=st.integers(1, 2**31),
    system_fingerprint=st.none() | TEXTS,
    choices=st.lists(CHOICES, min_size=1, max_size=3).map(
        lambda choices: [
            msgspec.structs.replace(made, index=index)
            for index, made in enumerate(choices)
        ]
    ),
    extra=st.sampled_from([{}, chat(provider="p")]),
)


@given(RESULTS)
def test_an_answer_comes_back_as_it_was(result: LLMResult):
    body = openai_chat.dump_result(result)
    parsed = openai_chat.parse_result(body)
    assert msgspec.structs.replace(parsed, usage=LLMUsage()) == result
    assert openai_chat.dump_result(parsed) == body


@given(RESULTS)
def test_a_stream_comes_back_as_it_was(result: LLMResult):
    """In a stream the fields of a choice and of an answer are those of an event."""
    expected = msgspec.structs.replace(result, usage=LLMUsage())
    chunks = list(expected.as_chunks())
    events = list(openai_chat.dump_stream(chunks))
    parsed = list(openai_chat.parse_stream(events))
    assert fold(parsed).choices == fold(chunks).choices
    assert fold(parsed).extra == expected.extra
