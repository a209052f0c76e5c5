"""Responses of the gateway are validated against the types of OpenAI's own package.

These are generated from OpenAI's API description. Validation is strict: a missing
field, a wrong type or an unknown event type fails.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.moderation_create_response import ModerationCreateResponse
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError
from tools.show.exchanges import exchanges

from modelyard.models.embedding import TextEmbeddingResult
from modelyard.models.llm import LLMResult
from modelyard.models.moderation import ModerationResult, ModerationVerdict
from modelyard.wire import (
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_moderations,
    openai_responses,
)
from tests.wire.test_laws import answers, cut
from tests.wire.test_recordings import parse_recorded

pytestmark = pytest.mark.proof("format-laws")

CHAT: TypeAdapter[Any] = TypeAdapter(ChatCompletion)
CHUNK: TypeAdapter[Any] = TypeAdapter(ChatCompletionChunk)
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
COMPLETION: TypeAdapter[Any] = TypeAdapter(Completion)
plain = settings(deadline=None)


@cache
def event_adapters() -> Mapping[str, TypeAdapter[Any]]:
    """Return the types of events by their names.

    The union of all of them would try each of its types for every event.
    """
    union, _ = get_args(ResponseStreamEvent)
    return {
        name: TypeAdapter(event_type)
        for event_type in get_args(union)
        for name in get_args(event_type.model_fields["type"].annotation)
    }


def assert_valid_event(event: Any) -> None:
    """Validate an event of the Responses API strictly, as the type that it names."""
    assert event["type"] in event_adapters()
    assert_valid(event_adapters()[event["type"]], event)


def assert_valid(adapter: TypeAdapter[Any], document: Any) -> None:
    """Validate strictly, which OpenAI's clients do not."""
    try:
        adapter.validate_json(json.dumps(document))
    except ValidationError as error:
        raise AssertionError(f"{error}\n{json.dumps(document)[:2000]}") from error


def emitted(result: LLMResult, chunks: Any) -> None:
    assert_valid(CHAT, openai_chat.dump_result(result))
    for event in openai_chat.dump_stream(chunks):
        assert_valid(CHUNK, event)
    assert_valid(RESPONSE, openai_responses.dump_result(result))
    for event in openai_responses.dump_stream(chunks):
        assert_valid_event(event)


@plain
@given(st.data())
def test_generated_answers_and_streams(data: st.DataObject):
    result = data.draw(
        answers(
            data.draw(
                st.sampled_from(["anthropic", "gemini", "openai_responses", "bedrock"])
            )
        )
    )
    emitted(result, data.draw(cut(result)))


@plain
@given(st.data())
def test_legacy_completions(data: st.DataObject):
    result = data.draw(answers("openai_completions"))
    assert_valid(COMPLETION, openai_completions.dump_result(result))


@pytest.mark.parametrize("name", ["anthropic", "gemini", "cohere", "ollama", "bedrock"])
def test_recorded_answers_of_other_providers(name: str):
    """Other providers' answers are valid when converted for OpenAI's clients."""
    from modelyard.base.errors import InvokeError
    from modelyard.models.llm import fold

    count = 0
    for exchange in exchanges():
        if exchange.format != name or exchange.status != 200:
            continue
        try:
            chunks = parse_recorded(exchange)
        except InvokeError:
            continue
        result = fold(chunks)
        if result.finish_reason is None or not result.id:
            continue
        emitted(result, chunks)
        count += 1
    # These have no ids: the gateway assigns them.
    assert count >= 17 or name in (
        "bedrock",
        "ollama",
    )


def test_the_other_types():
    assert_valid(
        TypeAdapter(CreateEmbeddingResponse),
        openai_embeddings.dump_result(
            TextEmbeddingResult(model="m", embeddings=[[0.5]])
        ),
    )
    verdict = ModerationVerdict(flagged=False, categories={}, category_scores={})
    document = openai_moderations.dump_result(
        ModerationResult(model="m", verdicts=[verdict]), response_id="x"
    )
    assert document["results"][0]["categories"].keys() >= {"hate", "violence/graphic"}
    assert (
        ModerationCreateResponse.model_validate_json(json.dumps(document))
        .results[0]
        .flagged
        is False
    )
