"""Tests for separating thinking between tags from the answer, however it is chunked."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta, fold
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.thinking import ThinkSplitter, ThinkStream

plain = st.text("ab<>/thinkc \n", max_size=20)


def split(chunks: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    outputs = [splitter.feed(chunk) for chunk in chunks] + [splitter.finish()]
    return "".join(thought for thought, _ in outputs), "".join(
        answer_text for _, answer_text in outputs
    )


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    positions = sorted(draw(st.sets(st.integers(0, len(text)))))
    edges = [0, *positions, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(st.data(), plain)
def test_the_chunking_of_a_stream_makes_no_difference(data: st.DataObject, text: str):
    for full_text in (text, f"<think>{text}</think>{text}", f" \n<think>{text}"):
        assert split(data.draw(cuts(full_text))) == split([full_text])


@given(plain.filter(lambda text: "</think>" not in text), plain)
def test_thinking_at_the_start_is_separated(thought: str, answer: str):
    assert split([f"<think>{thought}</think>{answer}"]) == (thought, answer.lstrip())


@given(plain.filter(lambda text: not text.lstrip().startswith("<think>")))
def test_text_that_does_not_start_with_the_tag_is_unchanged(text: str):
    assert split([text]) == ("", text)


def test_a_stream_is_split_into_thinking_and_answer():
    stream = ThinkStream()
    fragments = ["<th", "ink>hm", "m</thi", "nk>\n\nYes"]
    chunks = [
        LLMResultChunk(
            delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=fragment))
        )
        for fragment in fragments
    ]
    chunks.append(LLMResultChunk(delta=LLMResultChunkDelta(finish_reason="stop")))
    result = fold([stream.feed(chunk) for chunk in chunks] + stream.finish())
    assert (result.message.reasoning_content, result.text, result.finish_reason) == (
        "hmm",
        "Yes",
        "stop",
    )
