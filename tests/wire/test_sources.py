"""Positions of sources: in characters of a part with us, in the whole text or in bytes
in some formats, and known only at the end of a text in others."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.capabilities import Capabilities
from modelyard.models.citations import WholeText, covering, moved, placed_citations
from modelyard.models.google_sources import citation_metadata, parse_sources
from modelyard.models.llm import (
    LLMChoice,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    fold,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
)
from modelyard.wire import (
    anthropic,
    cohere,
    gemini,
    openai_chat,
    openai_completions,
    openai_responses,
)

TEXT = "Café ☕ is nice. Second."
WEB = {"web": {"uri": "https://a.example", "title": "A"}}


def grounding(segment: dict[str, Any], *indexes: int) -> dict[str, Any]:
    support = {"segment": segment, "groundingChunkIndices": list(indexes)}
    return {
        "groundingMetadata": {"groundingChunks": [WEB], "groundingSupports": [support]}
    }


@pytest.mark.parametrize(
    ("segment", "texts", "expected"),
    [
        # Bytes within the part.
        (
            {"endIndex": 18, "text": "Café ☕ is nice."},
            [TEXT],
            (0, 0, 15),
        ),
        ({"startIndex": 19, "endIndex": 26, "text": "Second."}, [TEXT], (0, 16, 23)),
        # Counted in another part than ours.
        (
            {"startIndex": 90, "endIndex": 97, "text": "Second."},
            ["x", TEXT],
            (1, 16, 23),
        ),
        # Without its words it counts in the whole text.
        ({"startIndex": 19, "endIndex": 26}, [TEXT], (0, 16, 23)),
        ({"startIndex": 3, "endIndex": 5}, ["abc", "def"], (1, 0, 2)),
        # Not in the text, and no segment at all.
        ({"endIndex": 5, "text": "other"}, [TEXT], (0, None, None)),
        ({}, [TEXT], (0, None, None)),
    ],
)
def test_googles_segments_become_characters(
    segment: dict[str, Any], texts: Sequence[str], expected: tuple[int, Any, Any]
):
    [(number, citation)] = parse_sources(grounding(segment, 0), texts)
    assert (number, citation.start, citation.end) == expected
    assert (citation.url, citation.title) == ("https://a.example", "A")


def test_a_segment_counts_in_its_part():
    parts = [{"text": "Hm.", "thought": True}, {"text": "é."}, {"text": "Two."}]
    segment = {"partIndex": 2, "startIndex": 0, "endIndex": 3}
    candidate = {"content": {"parts": parts}, **grounding(segment, 0)}
    [(number, citation)] = parse_sources(candidate, ["é.", "Two."])
    assert (number, citation.start, citation.end) == (1, 0, 3)


def test_sources_without_a_segment_a_text_or_a_name():
    assert not parse_sources(grounding({"endIndex": 1}, 0), [])
    # An index that names no source.
    [(_, unplaced)] = parse_sources(grounding({"endIndex": 1}, 7), ["a"])
    assert unplaced.start is None
    store = {"retrievedContext": {"fileSearchStore": "s", "text": "t"}}
    assert not parse_sources({"groundingMetadata": {"groundingChunks": [store]}}, ["a"])
    recited = {"citationMetadata": {"citations": [{"title": "A", "endIndex": 2}, "x"]}}
    [(_, citation)] = parse_sources(recited, ["Café"])
    assert (citation.title, citation.start, citation.end) == ("A", 0, 2)
    assert not citation_metadata([Citation(quote="q")], "a")


texts = st.text(alphabet="aé☕ 𝄞", min_size=1, max_size=12)


@given(texts, st.data())
def test_positions_survive_googles_bytes(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    cited = Citation(url="https://a.example", start=start, end=end)
    [(number, read)] = parse_sources(citation_metadata([cited], text), [text])
    assert (number, read.start, read.end) == (0, start, end)


def test_positions_in_the_whole_text():
    first = TextPromptMessageContent(
        data="abc", citations=[Citation(url="u", start=1, end=2)], index=0
    )
    second = TextPromptMessageContent(
        data="de", citations=[Citation(title="t"), Citation(url="v", start=0, end=2)]
    )
    placed = placed_citations([first, second])
    assert [(cited.start, cited.end) for cited in placed] == [
        (1, 2),
        (None, None),
        (3, 5),
    ]
    assert WholeText([first, second]).text == "abcde"
    assert moved(Citation(), 5) == Citation()
    assert covering([Citation(url="u")], 4) == [Citation(url="u", start=0, end=4)]


def chunks_of(*parts: TextPromptMessageContent) -> list[LLMResultChunk]:
    """A streamed answer, each part a chunk."""
    deltas = [
        LLMResultChunkDelta(message=AssistantPromptMessage(content=[part]))
        for part in parts
    ]
    end = LLMResultChunkDelta(finish_reason="stop")
    return [LLMResultChunk(delta=delta) for delta in (*deltas, end)]


CITED = chunks_of(
    TextPromptMessageContent(data="One. ", index=0),
    TextPromptMessageContent(data="Two", index=1),
    TextPromptMessageContent(data=" é.", index=1),
    TextPromptMessageContent(
        data="", citations=[Citation(url="u", title="T", start=0, end=6)], index=1
    ),
)


def test_a_streamed_source_has_its_position_in_each_format():
    [annotation] = [
        annotation
        for event in openai_chat.dump_stream(CITED)
        for choice in event["choices"]
        for annotation in choice["delta"].get("annotations") or ()
    ]
    assert annotation["url_citation"]["start_index"] == 5
    assert annotation["url_citation"]["end_index"] == 11
    *_, completed = openai_responses.dump_stream(CITED)
    part = completed["response"]["output"][1]["content"][0]
    assert (part["text"], part["annotations"][0]["end_index"]) == ("Two é.", 6)
    *_, last = gemini.dump_stream(CITED)
    [source] = last["candidates"][0]["citationMetadata"]["citations"]
    assert (source["startIndex"], source["endIndex"]) == (5, 12)
    [started] = [
        event["delta"]["message"]["citations"]
        for event in cohere.dump_stream(CITED)
        if event["type"] == "citation-start"
    ]
    assert (started["start"], started["end"], started["text"]) == (0, 6, "Two é.")
    assert started["content_index"] == 1


def test_a_source_may_come_before_its_text():
    source = TextPromptMessageContent(data="", citations=[Citation(url="u")])
    stream = chunks_of(source, TextPromptMessageContent(data="Hi."))
    *_, completed = openai_responses.dump_stream(stream)
    [item] = completed["response"]["output"]
    assert item["content"][0]["annotations"][0]["url"] == "u"
    assert item["content"][0]["text"] == "Hi."


def test_claudes_streamed_sources_cover_their_block():
    source = {"type": "char_location", "document_title": "T", "cited_text": "q"}
    deltas = [
        {"type": "citations_delta", "citation": source},
        {"type": "text_delta", "text": "One "},
        {"type": "text_delta", "text": "two."},
    ]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "usage": {}}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        *(
            {"type": "content_block_delta", "index": 0, "delta": delta}
            for delta in deltas
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    [part] = fold(anthropic.parse_stream(events)).message.parts
    assert isinstance(part, TextPromptMessageContent)
    [citation] = part.citations
    assert (citation.start, citation.end, part.data) == (0, 8, "One two.")


# ------------------------------------------------------------- other facts of an answer


def test_google_gets_calls_where_they_came():
    call = ToolCall(
        id="c", index=0, function=ToolCallFunction(name="f", arguments='{"a": 1}')
    )
    message = AssistantPromptMessage(tool_calls=[call])
    calls = LLMResultChunk(delta=LLMResultChunkDelta(message=message))
    first, end = chunks_of(TextPromptMessageContent(data="One.", index=0))
    second, _ = chunks_of(TextPromptMessageContent(data="Two.", index=1))
    events = list(gemini.dump_stream([first, calls, second, end]))
    kinds = [
        "call" if "functionCall" in part else part["text"]
        for event in events
        for candidate in event.get("candidates") or ()
        for part in candidate["content"]["parts"]
    ]
    assert kinds == ["One.", "call", "Two."]


def test_log_probabilities_of_text_completions_are_read():
    choice = {
        "index": 0,
        "text": "Hi",
        "finish_reason": "stop",
        "logprobs": {
            "tokens": ["H", "i"],
            "token_logprobs": [None, -0.5],
            "top_logprobs": [None, {"i": -0.5}],
        },
    }
    result = openai_completions.parse_result({"choices": [choice]})
    logprobs = result.choices[0].logprobs
    assert logprobs is not None
    assert [token["logprob"] for token in logprobs["content"]] == [0.0, -0.5]
    google = gemini.dump_result(result)["candidates"][0]["logprobsResult"]
    assert google["topCandidates"][1]["candidates"][0]["token"] == "i"
    # The original is written again in its own format.
    dumped = openai_completions.dump_result(result)
    assert dumped["choices"][0]["logprobs"] == choice["logprobs"]


@pytest.mark.parametrize("logprobs", [None, 5, {}, {"tokens": "x"}, {"tokens": []}])
def test_answers_without_log_probabilities(logprobs: Any):
    body = {"choices": [{"text": "a", "logprobs": logprobs}]}
    assert openai_completions.parse_result(body).choices[0].logprobs is None


def test_streamed_reasoning_that_is_no_summary_stays_so():
    head = {"id": "r", "object": "response", "output": []}
    item = {"id": "rs", "type": "reasoning", "summary": []}
    done = {**item, "content": [{"type": "reasoning_text", "text": "Hm."}]}
    events = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {
            "type": "response.reasoning_text.delta",
            "output_index": 0,
            "content_index": 0,
            "delta": "Hm.",
        },
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {
            "type": "response.completed",
            "response": {**head, "status": "completed", "output": [done]},
        },
    ]
    written = list(openai_responses.dump_stream(openai_responses.parse_stream(events)))
    types = [event["type"] for event in written]
    assert "response.reasoning_text.delta" in types
    assert "response.reasoning_text.done" in types
    assert not [name for name in types if "summary" in name]
    assert written[-1]["response"]["output"][0]["content"] == done["content"]


def test_each_fragment_of_a_freeform_call_is_one():
    events = [
        {"type": "response.created", "response": {"id": "r", "output": []}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "custom_tool_call", "call_id": "c", "name": "sql"},
        },
        {
            "type": "response.custom_tool_call_input.delta",
            "output_index": 0,
            "delta": "SELECT 1",
        },
        {
            "type": "response.completed",
            "response": {"id": "r", "status": "completed", "output": []},
        },
    ]
    written = openai_chat.dump_stream(openai_responses.parse_stream(events))
    calls = [
        call
        for event in written
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert calls
    assert all("function" not in call for call in calls)


def test_a_mark_for_the_cache_stays_on_its_text():
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    part = {"type": "input_text", "text": "Hi.", **mark}
    body = {"model": "m", "input": [{"role": "user", "content": [part]}]}
    request = openai_responses.parse_request(body)
    sent = openai_responses.dump_request(request, "m", Capabilities())
    assert json.loads(json.dumps(sent))["input"][0]["content"] == [part]


def test_cohere_answers_leave_files_out():
    parts = [
        TextPromptMessageContent(data="Hi."),
        AudioPromptMessageContent(base64_data="AAAA", format="wav"),
    ]
    message = AssistantPromptMessage(content=[*parts])
    body = cohere.dump_result(LLMResult(choices=[LLMChoice(message=message)]))
    assert body["message"]["content"] == [{"type": "text", "text": "Hi."}]
