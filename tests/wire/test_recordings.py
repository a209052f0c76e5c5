"""Real exchanges, replayed: read by each format's module, written in its own and in the others', and compared with
what an independent reader finds in the bytes."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tools.show.exchanges import Exchange, exchanges
from tools.show.truth import READERS, Truth, canonical, differences

from modelyard.base.errors import InvokeError
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.rerank import RerankRequest
from modelyard.providers.formats import EMBEDDING, RERANK
from modelyard.providers.http_errors import error_of
from tests.wire.formats import EGRESS, MODULES


def answers(name: str) -> list[Exchange]:
    return [one for one in exchanges() if one.format == name and one.status == 200]


def read(one: Exchange) -> list[LLMResultChunk]:
    module = MODULES[one.format]
    if one.events is not None:
        return list(module.parse_stream(one.events))
    return list(module.parse_result(one.response).as_chunks())


def written(name: str, chunks: Sequence[LLMResultChunk], result: LLMResult, *, stream: bool) -> Truth:
    whole, streamed = READERS[name]
    if stream:
        return streamed(json.loads(json.dumps(list(MODULES[name].dump_stream(chunks)))))
    return whole(json.loads(json.dumps(MODULES[name].dump_result(result))))


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_recorded_answer_means_the_same_in_its_own_format_and_in_the_others(name: str):
    wrong: list[Any] = []
    count = 0
    for one in answers(name):
        source = one.response if one.events is None else one.events
        try:
            chunks = read(one)
        except InvokeError as error:
            # Recorded cut short, or with an error inside: to be said, not to be passed over.
            assert "broke off" in str(error) or "error" in json.dumps(one.response), one.id
            continue
        said = READERS[name][one.is_stream](source)
        result = fold(chunks)
        for other in {*EGRESS, name}:
            for stream in (False, True):
                seen = written(other, chunks, result, stream=stream)
                if found := differences(said, seen, other, is_same=other == name):
                    wrong.append((one.id, other, stream, found))
        count += 1
    assert not wrong
    assert count >= 17


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_was_read_and_written_and_read_again_is_the_same(name: str):
    module = MODULES[name]
    for one in answers(name):
        try:
            whole = fold(read(one))
        except InvokeError:
            continue
        again = module.parse_result(json.loads(json.dumps(module.dump_result(whole))))
        # Without a reason to end, a stream is one that broke off.
        streamed = (
            [fold(module.parse_stream(list(module.dump_stream(whole.as_chunks()))))] if whole.finish_reason else []
        )
        for other in (again, *streamed):
            assert other.message.text == whole.message.text, one.id
            assert called(other) == called(whole), one.id
            assert other.message.thinking == whole.message.thinking, one.id
            assert other.usage.prompt_tokens == whole.usage.prompt_tokens, one.id


def called(result: LLMResult) -> list[tuple[str, str]]:
    """Names and arguments, these as they are meant: some formats write them as text and some as objects."""
    return [(call.function.name, canonical(call.function.arguments)) for call in result.tool_calls]


def stream_of(name: str, request: LLMRequest) -> dict[str, Any]:
    """Whether it streams stands in the address in some formats."""
    return {"stream": request.stream} if name in ("gemini", "bedrock", "dashscope") else {}


def requests(name: str) -> list[Exchange]:
    return [
        one
        for one in exchanges()
        if one.format == name and isinstance(one.request, dict) and one.request and one.status == 200
    ]


@pytest.mark.parametrize("name", sorted(READERS))
def test_nearly_every_recorded_request_is_understood_and_written_so_that_it_reads_the_same(name: str):
    module = MODULES[name]
    every = [one for one in requests(name) if not one.path.endswith("/api/generate")]
    refused: list[Any] = []
    for one in every:
        try:
            request = module.parse_request(one.request)
        except InvokeError as error:
            refused.append((one.id, str(error)))
            continue
        body = json.loads(json.dumps(module.dump_request(request, "m", {})))
        again = module.parse_request(body, **stream_of(name, request))
        # Neighbours of one role are one turn: so what is compared is what goes out.
        assert json.loads(json.dumps(module.dump_request(again, "m", {}))) == body, one.id
        assert again.tools == request.tools, one.id
        assert (again.tool_choice, again.stop) == (request.tool_choice, request.stop), one.id
        assert again.model_parameters == request.model_parameters, one.id
        assert again.extra.get(name, {}).keys() - {"stream_options"} == request.extra.get(name, {}).keys(), one.id
    assert len(refused) <= 0.03 * len(every), refused


@pytest.mark.parametrize("name", EGRESS)
def test_a_recorded_request_can_be_sent_in_every_other_format(name: str):
    """Tools that one provider runs itself are refused elsewhere, and files that another does not take; no more."""
    sent = 0
    for one in requests(name):
        try:
            request = MODULES[name].parse_request(one.request)
        except InvokeError:
            continue
        for other in EGRESS:
            try:
                body = MODULES[other].dump_request(request, "m", {})
            except InvokeError:
                continue
            json.dumps(body)
            sent += 1
    assert sent > 600


def test_every_embedding_answer_is_read():
    count = 0
    for one in exchanges():
        kind, _, name = one.format.partition(":")
        if kind == "embed" and one.status == 200 and isinstance(one.response, dict):
            body = one.response.get("body", one.response)
            result = EMBEDDING[name].parse_result(body, None)  # pyright: ignore[reportArgumentType]
            assert all(isinstance(number, float | int) for number in result.embeddings[0])
            count += 1
    assert count > 60


def test_every_ranking_is_read():
    request = RerankRequest(query="q", docs=[str(place) for place in range(1000)])
    count = 0
    for one in exchanges():
        kind, _, name = one.format.partition(":")
        if kind == "rerank" and one.status == 200:
            result = RERANK[name].parse_result(one.response, request)
            assert result.docs
            assert [doc.score for doc in result.docs] == sorted((doc.score for doc in result.docs), reverse=True)
            count += 1
    assert count >= 6


def test_every_refusal_becomes_an_error_with_the_providers_words():
    count = 0
    for one in exchanges():
        if one.status >= 400 and one.format:
            error = error_of(one.status, {}, json.dumps(one.response).encode(), provider="p")
            assert str(error).startswith("[p] ")
            assert "without a message" not in str(error), one.response
            count += 1
    assert count > 30
