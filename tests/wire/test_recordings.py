"""Real exchanges, replayed.

Each is read by its format's module and written in its own format and in the others. The
result is compared with that of an independent reader of the bytes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from tools.show.exchanges import Exchange, exchanges
from tools.show.truth import READERS, Truth, canonical, differences

from modelyard.base.call_headers import CallHeaders
from modelyard.base.errors import InvokeError
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.rerank import RerankRequest
from modelyard.models.vendor_headers import BETA_FIELDS
from modelyard.providers.formats import EMBEDDING, RERANK
from modelyard.providers.http_errors import error_of
from tests.wire.formats import EGRESS, MODULES

pytestmark = pytest.mark.proof("recordings")


def successful_exchanges(name: str) -> list[Exchange]:
    return [
        exchange
        for exchange in exchanges()
        if exchange.format == name and exchange.status == 200
    ]


def parse_recorded(exchange: Exchange) -> list[LLMResultChunk]:
    module = MODULES[exchange.format]
    if exchange.events is not None:
        return list(module.parse_stream(exchange.events))
    return list(module.parse_result(exchange.response).as_chunks())


def truth_after_writing(
    name: str, chunks: Sequence[LLMResultChunk], result: LLMResult, *, stream: bool
) -> Truth:
    read_complete, streamed = READERS[name]
    if stream:
        return streamed(json.loads(json.dumps(list(MODULES[name].dump_stream(chunks)))))
    return read_complete(json.loads(json.dumps(MODULES[name].dump_result(result))))


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_recorded_answer_is_equivalent_in_all_formats(
    name: str,
):
    mismatches: list[Any] = []
    count = 0
    for exchange in successful_exchanges(name):
        try:
            chunks = parse_recorded(exchange)
        except InvokeError as error:
            # A recording that was cut short or contains an error must raise one.
            assert "ended without" in str(error) or "error" in json.dumps(
                exchange.response
            ), exchange.id
            continue
        mismatches += _mismatches(exchange, chunks)
        count += 1
    assert not mismatches
    assert count >= 17


def _mismatches(
    exchange: Exchange, chunks: Sequence[LLMResultChunk]
) -> Iterator[tuple[str, str, bool, list[str]]]:
    """Yield (id, format, is stream, differences) for each differing answer."""
    name, result = exchange.format, fold(chunks)
    source = exchange.response if exchange.events is None else exchange.events
    expected = READERS[name][exchange.is_stream](source)
    for target_format in {*EGRESS, name}:
        for stream in (False, True):
            actual = truth_after_writing(target_format, chunks, result, stream=stream)
            problems = differences(
                expected, actual, target_format, is_same=target_format == name
            )
            if problems:
                yield exchange.id, target_format, stream, problems


@pytest.mark.parametrize("name", sorted(READERS))
def test_recorded_answers_survive_a_round_trip(name: str):
    module = MODULES[name]
    for exchange in successful_exchanges(name):
        try:
            result = fold(parse_recorded(exchange))
        except InvokeError:
            continue
        reparsed = module.parse_result(
            json.loads(json.dumps(module.dump_result(result)))
        )
        # A stream without a finish reason counts as interrupted.
        streamed = (
            [fold(module.parse_stream(list(module.dump_stream(result.as_chunks()))))]
            if result.finish_reason
            else []
        )
        for round_trip in (reparsed, *streamed):
            assert round_trip.message.text == result.message.text, exchange.id
            assert canonical_calls(round_trip) == canonical_calls(result), exchange.id
            assert round_trip.message.thinking == result.message.thinking, exchange.id
            assert round_trip.usage.prompt_tokens == result.usage.prompt_tokens, (
                exchange.id
            )


def canonical_calls(result: LLMResult) -> list[tuple[str, str]]:
    """Return names and canonical arguments of calls.

    Some formats write arguments as text, others as objects.
    """
    return [
        (call.function.name, canonical(call.function.arguments))
        for call in result.tool_calls
    ]


def stream_of(name: str, request: LLMRequest) -> dict[str, Any]:
    """In some formats the URL says whether to stream."""
    return (
        {"stream": request.stream} if name in ("gemini", "bedrock", "dashscope") else {}
    )


def with_beta_names(request: LLMRequest) -> LLMRequest:
    """Return a request with the header that its fields of Anthropic's API in beta need.

    Recordings have no headers.
    """
    names = [
        BETA_FIELDS[name][0]
        for name in request.extra.get("anthropic", {})
        if name in BETA_FIELDS
    ]
    if not names:
        return request
    headers = CallHeaders(
        vendor="anthropic", values={"anthropic-beta": ",".join(names)}
    )
    return msgspec.structs.replace(request, headers=headers)


def recorded_requests_of(name: str) -> list[Exchange]:
    return [
        exchange
        for exchange in exchanges()
        if exchange.format == name
        and isinstance(exchange.request, dict)
        and exchange.request
        and exchange.status == 200
    ]


@pytest.mark.parametrize("name", sorted(READERS))
def test_nearly_all_recorded_requests_survive_a_round_trip(
    name: str,
):
    module = MODULES[name]
    recorded_requests = [
        exchange
        for exchange in recorded_requests_of(name)
        if not exchange.path.endswith("/api/generate")
    ]
    refused: list[Any] = []
    for exchange in recorded_requests:
        try:
            request = module.parse_request(exchange.request)
        except InvokeError as error:
            refused.append((exchange.id, str(error)))
            continue
        request = with_beta_names(request)
        body = json.loads(json.dumps(module.dump_request(request, "m", Capabilities())))
        reparsed = with_beta_names(
            module.parse_request(body, **stream_of(name, request))
        )
        # Adjacent messages of one role are merged, so the written bodies are compared.
        assert (
            json.loads(json.dumps(module.dump_request(reparsed, "m", Capabilities())))
            == body
        ), exchange.id
        assert reparsed.tools == request.tools, exchange.id
        assert (reparsed.tool_choice, reparsed.stop) == (
            request.tool_choice,
            request.stop,
        ), exchange.id
        assert reparsed.model_parameters == request.model_parameters, exchange.id
        assert (
            reparsed.extra.get(name, {}).keys() - {"stream_options"}
            == request.extra.get(name, {}).keys()
        ), exchange.id
    assert len(refused) <= 0.03 * len(recorded_requests), refused


@pytest.mark.parametrize("name", EGRESS)
def test_a_recorded_request_can_be_sent_in_every_other_format(name: str):
    """Only provider-hosted tools and unsupported files are refused by other formats."""
    sent = 0
    for exchange in recorded_requests_of(name):
        try:
            request = MODULES[name].parse_request(exchange.request)
        except InvokeError:
            continue
        for target_format in EGRESS:
            try:
                body = MODULES[target_format].dump_request(request, "m", Capabilities())
            except InvokeError:
                continue
            json.dumps(body)
            sent += 1
    assert sent > 600


def test_every_embedding_answer_is_read():
    count = 0
    for exchange in exchanges():
        call_type, _, name = exchange.format.partition(":")
        if (
            call_type == "embed"
            and exchange.status == 200
            and isinstance(exchange.response, dict)
        ):
            body = exchange.response.get("body", exchange.response)
            result = EMBEDDING[name].parse_result(body, None)  # pyright: ignore[reportArgumentType]
            assert all(
                isinstance(number, float | int) for number in result.embeddings[0]
            )
            count += 1
    assert count > 60


def test_every_ranking_is_read():
    request = RerankRequest(query="q", docs=[str(index) for index in range(1000)])
    count = 0
    for exchange in exchanges():
        call_type, _, name = exchange.format.partition(":")
        if call_type == "rerank" and exchange.status == 200:
            result = RERANK[name].parse_result(exchange.response, request)
            assert result.docs
            assert [doc.score for doc in result.docs] == sorted(
                (doc.score for doc in result.docs), reverse=True
            )
            count += 1
    assert count >= 6


def test_every_error_response_becomes_an_error_with_its_message():
    count = 0
    for exchange in exchanges():
        if exchange.status >= 400 and exchange.format:
            error = error_of(
                exchange.status,
                {},
                json.dumps(exchange.response).encode(),
                provider="p",
            )
            assert str(error).startswith("[p] ")
            assert "without a message" not in str(error), exchange.response
            count += 1
    assert count > 30
