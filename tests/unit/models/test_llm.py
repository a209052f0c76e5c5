from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta, LLMUsage, fold
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction
from modelyard.testing import chunk, last_chunk

counts = st.integers(0, 10**6)
prices = st.decimals("0", "100", places=7)
usages = st.builds(
    lambda p, c, price, latency: LLMUsage.of(p, c, total_price=price, prompt_price=price, latency=latency),
    counts, counts, prices, st.floats(0, 100),
)  # fmt: skip


@given(st.lists(st.text()))
def test_chunks_of_a_text_fold_to_the_text(texts: list[str]):
    assert fold([*(chunk(text) for text in texts), last_chunk(2, 3)]).text == "".join(
        texts
    )


@given(usages, usages)
def test_usage_adds_up_either_way(left: LLMUsage, right: LLMUsage):
    forward, back = left.plus(right), right.plus(left)
    assert (
        forward.total_tokens
        == back.total_tokens
        == left.total_tokens + right.total_tokens
    )
    assert (
        forward.total_price == back.total_price == left.total_price + right.total_price
    )


@given(usages)
def test_empty_usage_adds_nothing(left: LLMUsage):
    assert LLMUsage.empty_usage().plus(left) == left


def test_different_currencies_do_not_add_up():
    dollars = LLMUsage.of(1, 1, total_price=Decimal(1))
    with pytest.raises(ValueError, match="USD and usage in RMB"):
        dollars.plus(LLMUsage.of(1, 1, total_price=Decimal(1), currency="RMB"))


def call_fragment(index: int | None, arguments: str, **fields: str) -> LLMResultChunk:
    function = ToolCallFunction(name=fields.get("name", ""), arguments=arguments)
    call = ToolCall(index=index, id=fields.get("id", ""), function=function)
    message = AssistantPromptMessage(tool_calls=[call])
    return LLMResultChunk(delta=LLMResultChunkDelta(message=message))


def test_parallel_tool_calls_are_assembled_by_index():
    result = fold([
        call_fragment(0, "", id="a", name="one"), call_fragment(1, "", id="b", name="two"),
        call_fragment(0, '{"x":'), call_fragment(1, "{}"), call_fragment(0, "1}"),
    ])  # fmt: skip
    assert [
        (call.id, call.function.name, call.function.arguments)
        for call in result.tool_calls
    ] == [
        ("a", "one", '{"x":1}'),
        ("b", "two", "{}"),
    ]


def test_calls_without_an_index_are_distinguished_by_id():
    first, second = {"id": "a", "name": "one"}, {"id": "b", "name": "two"}
    start, end = call_fragment(None, "{", **first), call_fragment(None, "}")
    result = fold([start, end, call_fragment(None, "{}", **second)])
    assert [call.function.arguments for call in result.tool_calls] == ["{}", "{}"]


def test_a_call_without_an_index_never_joins_a_numbered_one():
    result = fold(
        [
            call_fragment(1, "{}", id="a", name="one"),
            call_fragment(None, "[]", id="b", name="two"),
            call_fragment(1, " "),
            call_fragment(None, " ", id="b"),
        ]
    )
    assert [call.function.arguments for call in result.tool_calls] == ["{} ", "[] "]


def test_several_choices_are_kept_apart():
    chunks = [
        LLMResultChunk(
            delta=LLMResultChunkDelta(
                index=i, message=AssistantPromptMessage(content=text)
            )
        )
        for i, text in ((1, "b"), (0, "a"), (1, "b"))
    ]
    assert [choice.message.text for choice in fold(chunks).choices] == ["a", "bb"]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_an_answer_streams_and_folds_back(texts: list[str]):
    chunks = [
        LLMResultChunk(
            delta=LLMResultChunkDelta(
                index=i,
                message=AssistantPromptMessage(content=text),
                finish_reason="stop",
            )
        )
        for i, text in enumerate(texts)
    ]
    result = fold(chunks)
    assert fold(result.as_chunks()) == result
