import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError, InvokeRateLimitError, InvokeServerUnavailableError
from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta, LLMUsage, fold
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction
from modelyard.wire import openai_chat

USER = {"role": "user", "content": "hi"}
text = st.text(max_size=20)
calls = st.builds(
    lambda index, id_, name, arguments: ToolCall(
        index=index, id=id_, function=ToolCallFunction(name=name, arguments=arguments)
    ),
    st.integers(0, 3), st.sampled_from(["", "call_1"]), text, text,
)  # fmt: skip
messages = st.builds(
    AssistantPromptMessage,
    content=st.none() | text,
    tool_calls=st.lists(calls, max_size=2),
    reasoning_content=st.none() | st.text(min_size=1, max_size=9),
)
deltas = st.builds(
    LLMResultChunkDelta,
    index=st.integers(0, 2),
    message=messages,
    finish_reason=st.sampled_from([None, None, "stop", "length"]),
)
chunks = st.builds(lambda delta: LLMResultChunk(id="c", model="m", created=5, delta=delta), deltas)


@given(st.lists(chunks, min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 99))
def test_a_stream_written_and_read_folds_to_the_same_answer(stream: list[LLMResultChunk], prompt: int, completion: int):
    usage = LLMResultChunk(
        id="c",
        model="m",
        created=5,
        delta=LLMResultChunkDelta(finish_reason="stop", usage=LLMUsage.of(prompt, completion)),
    )
    whole = fold([*stream, usage])
    again = fold(openai_chat.parse_stream(openai_chat.dump_stream([*stream, usage])))
    for one, other in zip(again.choices, whole.choices, strict=True):
        assert one.message.text == other.message.text
        assert one.message.tool_calls == other.message.tool_calls
        assert one.message.reasoning_content == other.message.reasoning_content
        assert one.finish_reason == other.finish_reason
    assert again.usage == whole.usage


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"messages": None}, "'messages' is required"),
        ({"messages": []}, "at least one message"),
        ({"messages": ["hi"]}, "messages[0]' must be an object"),
        ({"messages": [{"role": "robot", "content": ""}]}, "'messages[0].role' must be system"),
        ({"messages": [{"role": "user"}]}, "'messages[0].content' is required"),
        ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "base64",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "'temperature' must be a number, not 'hot'"),
        ({"temperature": 9}, "between 0 and 2"),
        ({"max_tokens": 1.5}, "'max_tokens' must be a whole number"),
        ({"n": 0}, "between 1 and 128"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "true or false"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ],
)
def test_each_mistake_names_its_field(change: dict[str, object], part: str):
    with pytest.raises(InvokeBadRequestError) as caught:
        openai_chat.parse_request({"messages": [USER], **change})
    assert part in str(caught.value)
    assert caught.value.param


def test_what_we_do_not_know_travels_along():
    request = openai_chat.parse_request({"messages": [{**USER, "mood": "good"}], "logit_bias": {}, "future": {"x": 1}})
    body = openai_chat.dump_request(request, "m", {})
    assert body["future"] == {"x": 1}
    assert body["messages"][0]["mood"] == "good"


def test_quirks_rename_and_drop_fields():
    request = openai_chat.parse_request({"messages": [USER], "max_tokens": 5, "seed": 1, "stream": True})
    body = openai_chat.dump_request(
        request, "m", {"max_tokens_field": "max_completion_tokens", "drop": ["seed"], "no_stream_options": True}
    )
    assert body["max_completion_tokens"] == 5
    assert not body.keys() & {"max_tokens", "seed", "stream_options"}


def test_a_stream_that_breaks_off_does_not_look_whole():
    parser = openai_chat.StreamParser()
    list(parser.feed({"choices": [{"delta": {"content": "half"}}]}))
    with pytest.raises(InvokeServerUnavailableError, match="broke off"):
        parser.finish(done=False)


def test_an_error_inside_a_stream_is_raised_by_its_type():
    with pytest.raises(InvokeRateLimitError, match="slow"):
        list(openai_chat.StreamParser().feed({"error": {"type": "rate_limit_error", "message": "slow"}}))


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": 1e308}, {"prompt_tokens": "9"}, 5]
)
def test_usage_that_cannot_be_believed_is_none(usage: object):
    assert openai_chat.parse_usage(usage) is None
