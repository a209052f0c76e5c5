"""Property tests: what is read has the types of its class, or is refused.

The classes do not check their values when they are made, so that a number in the place
of a text would go on to callers and to the next format.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tools.show.exchanges import exchanges

from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.moderation import ModerationResult
from modelyard.models.rerank import RerankResult
from modelyard.models.speech2text import Speech2TextResult
from modelyard.providers.formats import EMBEDDING, RERANK
from modelyard.providers.speech_formats import SPEECH2TEXT
from modelyard.wire import openai_moderations
from tests.wire import test_cohere, test_dashscope
from tests.wire.formats import MODULES
from tests.wire.test_any_shape import distinct, faults
from tests.wire.test_retrieval_formats import ABC, EMBEDDED, RERANKED, TWO_TEXTS
from tests.wire.test_speech_formats import TRANSCRIPTS

CHAT = ("cohere", "dashscope", "ollama")
PIXEL = test_dashscope.PIXEL
CALL = {"id": "c1", "index": 0, "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"a": 1}}}
QUESTION = {"role": "user", "content": "Hi."}
CALLING = {"role": "assistant", "content": "A", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "B", "tool_call_id": "c1", "name": "look"}
REQUESTS: dict[str, Any] = {
    "cohere": {
        "messages": [
            QUESTION,
            {**CALLING, "tool_plan": "C", "citations": [test_cohere.WIRE_CITATION]},
            RESULT,
        ],
        "stop_sequences": ["D"],
        "tools": [TOOL],
    },
    "dashscope": {
        "input": {
            "messages": [
                {"role": "user", "content": [{"text": "a"}, {"image": "https://a.b"}]},
                {**CALLING, "reasoning_content": "C"},
                RESULT,
            ]
        },
        "parameters": {
            "stop": ["D"],
            "tools": [TOOL],
            "tool_choice": TOOL,
            "enable_thinking": True,
            "thinking_budget": 9,
            "temperature": 0.5,
        },
    },
    "ollama": {
        "messages": [
            {**QUESTION, "images": [PIXEL]},
            {**CALLING, "thinking": "C", "images": [PIXEL]},
            {**RESULT, "tool_name": "look"},
        ],
        "options": {"stop": ["D"], "temperature": 0.5},
        "tools": [TOOL],
        "think": "low",
        "format": "json",
    },
}
ANSWERS: dict[str, Any] = {
    "cohere": {
        "id": "r",
        "message": {**CALLING, "content": [{"type": "text", "text": "a"}]},
        "finish_reason": "COMPLETE",
        "usage": test_cohere.USAGE,
    },
    "dashscope": test_dashscope.answer(
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {**CALLING, "reasoning_content": "C"},
        },
        usage={"input_tokens": 1, "output_tokens": 2},
    ),
    "ollama": {
        "model": "m",
        "message": {**CALLING, "thinking": "C", "images": [PIXEL]},
        "done": True,
        "done_reason": "stop",
        "eval_count": 2,
    },
}
STREAMS: dict[str, list[Any]] = {
    "cohere": [
        *test_cohere.TEXT_STREAM[:-1],
        test_cohere.event("tool-plan-delta", tool_plan="C"),
        test_cohere.event("tool-call-start", 0, tool_calls=CALL),
        test_cohere.TEXT_STREAM[-1],
    ],
    "dashscope": [
        test_dashscope.event("He", reasoning_content="C"),
        test_dashscope.event(tool_calls=[CALL]),
        test_dashscope.event("", "stop"),
    ],
    "ollama": [
        {**ANSWERS["ollama"], "done": False},
        {"model": "m", "response": "a", "thinking": "b", "done": False},
        ANSWERS["ollama"],
    ],
}


def reading(read: Callable[[Any], Any], expected_class: Any) -> Callable[[Any], Any]:
    """Return a reader that checks the types of its result, at every level."""

    def read_and_check(document: Any) -> None:
        msgspec.convert(msgspec.to_builtins(read(document)), expected_class)

    return read_and_check


def recorded(name: str, field: str) -> Iterator[Any]:
    """Yield the recorded documents of a format."""
    for exchange in exchanges():
        document = getattr(exchange, field)
        if exchange.format == name and isinstance(document, dict):
            yield document


def test_the_examples_are_read():
    """Otherwise each change of them would be refused, whatever it is."""
    for name in CHAT:
        module = MODULES[name]
        assert len(module.parse_request(REQUESTS[name]).messages) == 3
        assert module.parse_result(ANSWERS[name]).tool_calls
        assert list(module.parse_stream(STREAMS[name]))


@pytest.mark.parametrize("name", CHAT)
def test_a_request_has_the_types_of_its_class(name: str):
    documents = [REQUESTS[name], *distinct(recorded(name, "request"))]
    assert faults(documents, reading(MODULES[name].parse_request, LLMRequest)) == {}


@pytest.mark.parametrize("name", CHAT)
def test_an_answer_has_the_types_of_its_class(name: str):
    documents = [ANSWERS[name], *distinct(recorded(name, "response"))]
    assert faults(documents, reading(MODULES[name].parse_result, LLMResult)) == {}


@pytest.mark.parametrize("name", CHAT)
def test_every_event_of_a_stream_has_the_types_of_its_class(name: str):
    # A stream of one changed event, which ends as it should.
    def read(event: Any) -> Any:
        return list(MODULES[name].parse_stream([event, STREAMS[name][-1]]))

    assert faults(STREAMS[name], reading(read, list[LLMResultChunk])) == {}


@pytest.mark.parametrize("name", sorted(SPEECH2TEXT))
def test_a_transcript_has_the_types_of_its_class(name: str):
    read = reading(SPEECH2TEXT[name].parse, Speech2TextResult)
    assert faults([TRANSCRIPTS[name]], read) == {}


@pytest.mark.parametrize("name", sorted(RERANK))
def test_a_ranking_has_the_types_of_its_class(name: str):
    def read(document: Any) -> Any:
        return RERANK[name].parse_result(document.get("body", document), ABC)

    body = RERANKED[name]
    document = body if isinstance(body, dict) else {"body": body}
    assert faults([document], reading(read, RerankResult)) == {}


@pytest.mark.parametrize("name", sorted(EMBEDDING))
def test_embeddings_of_any_shape_are_read_or_refused(name: str):
    """The numbers of a vector are not checked, for they are many."""

    def read(document: Any) -> Any:
        result = EMBEDDING[name].parse_result(document.get("body", document), TWO_TEXTS)
        assert isinstance(result.model, str)
        assert all(isinstance(vector, list) for vector in result.embeddings)

    body = EMBEDDED[name]
    document = body if isinstance(body, dict) else {"body": body}
    assert faults([document], read) == {}


def test_verdicts_have_the_types_of_their_class():
    verdict = {
        "flagged": True,
        "categories": {"hate": True},
        "category_scores": {"hate": 0.5},
    }
    document = {"id": "r", "model": "m", "results": [verdict]}
    read = reading(openai_moderations.parse_result, ModerationResult)
    assert faults([document], read) == {}
