"""The short form of the law of passing through: a sample of recorded answers, each cut
once with and once without usage; and every way of spoiling the raw reader is noticed.
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tools.show.exchanges import Exchange
from tools.show.raw_equals_parsed import (
    answers,
    compare,
    compare_request,
    passing_formats,
    requests,
)

from modelyard.models.llm import LLMUsage
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest
from modelyard.wire.openai_passthrough import PASSING

pytestmark = pytest.mark.proof("raw-equals-parsed")

_SAMPLE_STEP = 7


def _sample() -> list[Exchange]:
    # Streams differ more than complete answers, and are what the raw readers cut.
    recorded = answers()
    streams = [exchange for exchange in recorded if exchange.is_stream]
    complete = [exchange for exchange in recorded if not exchange.is_stream]
    return [*streams[::2], *complete[::_SAMPLE_STEP]]


def test_raw_and_parsed_answers_are_equal():
    compared = [(exchange, compare(exchange, cuts=2)) for exchange in _sample()]
    unequal = {
        exchange.id: comparison.problems
        for exchange, comparison in compared
        if comparison.problems
    }
    assert unequal == {}
    for name in passing_formats():
        for is_stream in (True, False):
            raw = [
                comparison
                for exchange, comparison in compared
                if (exchange.format, exchange.is_stream) == (name, is_stream)
                and comparison.is_all_raw
            ]
            assert len(raw) > 20


def test_requests_written_from_bytes_are_those_of_the_full_parser():
    compared = [compare_request(exchange) for exchange in requests()[::3]]
    assert [problems for _, problems in compared if problems] == []
    assert sum(is_passed for is_passed, _ in compared) > 50


Spoil = Callable[[PassthroughChunk], PassthroughChunk]


def _with_delta(chunk: PassthroughChunk, **fields: Any) -> PassthroughChunk:
    return msgspec.structs.replace(
        chunk, delta=msgspec.structs.replace(chunk.delta, **fields)
    )


def _with_other_usage(chunk: PassthroughChunk) -> PassthroughChunk:
    usage = chunk.delta.usage
    return chunk if usage is None else _with_delta(chunk, usage=LLMUsage.of(1, 1))


def _with_other_reason(chunk: PassthroughChunk) -> PassthroughChunk:
    is_last = chunk.delta.finish_reason is not None
    return _with_delta(chunk, finish_reason="length") if is_last else chunk


def _without_text(chunk: PassthroughChunk) -> PassthroughChunk:
    return msgspec.structs.replace(chunk, said=chunk.said[1:])


def _with_other_bytes(chunk: PassthroughChunk) -> PassthroughChunk:
    return msgspec.structs.replace(chunk, data=chunk.data.replace(b"e", b"E"))


def _without_an_event(chunk: PassthroughChunk) -> PassthroughChunk:
    return msgspec.structs.replace(chunk, data=chunk.data.partition(b"\n\n")[2])


class _SpoiltInspector:
    """An inspector whose chunks are changed."""

    def __init__(self, inspector: Any, spoil: Spoil) -> None:
        self._inspector, self._spoil = inspector, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inspector, name)

    def feed(self, body_chunk: bytes) -> PassthroughChunk | None:
        chunk = self._inspector.feed(body_chunk)
        return None if chunk is None else self._spoil(chunk)


class _Spoilt:
    """A raw form that reads wrongly."""

    def __init__(self, spoil: Spoil) -> None:
        self._spoil = spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(PASSING, name)

    def result(self, body: bytes) -> PassthroughChunk | None:
        chunk = PASSING.result(body)
        return None if chunk is None else self._spoil(chunk)

    def inspect_stream(self, request: PassthroughRequest) -> Any:
        return _SpoiltInspector(PASSING.inspect_stream(request), self._spoil)


@pytest.mark.parametrize(
    ("spoil", "is_stream"),
    [
        (_with_other_usage, True),
        (_with_other_usage, False),
        (_with_other_reason, True),
        (_with_other_reason, False),
        (_without_text, True),
        (_with_other_bytes, True),
        (_with_other_bytes, False),
        (_without_an_event, True),
    ],
)
def test_a_raw_reader_that_reads_wrongly_is_noticed(spoil: Spoil, is_stream: bool):
    spoilt: Any = _Spoilt(spoil)
    recorded = [exchange for exchange in answers() if exchange.is_stream == is_stream]
    # Not every answer has usage, or anything else that is spoilt here.
    assert any(compare(exchange, spoilt, cuts=1).problems for exchange in recorded)


# What the recordings lack: calls in an uncommon form, after common ones.


def _stream_of(*deltas: dict[str, Any]) -> Exchange:
    """Return a recording of these deltas, with a finish reason at the end."""
    events = [
        {"id": "r", "created": 1, "model": "m", "choices": [{"index": 0, "delta": d}]}
        for d in deltas
    ]
    events.append(
        {
            "id": "r",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
        }
    )
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return Exchange(
        id=f"made/{len(body)}",
        provider="openai",
        format="openai_chat",
        status=200,
        request=None,
        response=body + "data: [DONE]\n\n",
        events=tuple(events),
    )


def _fragment(index: int | None, **fields: Any) -> dict[str, Any]:
    """Return a delta with one fragment of a call."""
    call_id = fields.pop("id", None)
    fragment: dict[str, Any] = {"function": fields}
    if index is not None:
        fragment["index"] = index
    if call_id:
        fragment |= {"id": call_id, "type": "function"}
    return {"tool_calls": [fragment]}


_BEGUN = _fragment(0, id="c1", name="look", arguments='{"a"')
_ENDED = _fragment(0, arguments=": 1}")
_SECOND = _fragment(1, id="c2", name="look", arguments="{}")


def test_common_tool_calls_are_passed_through():
    comparison = compare(_stream_of({"content": "x"}, _BEGUN, _ENDED, _SECOND))
    assert comparison.problems == ()
    assert comparison.is_all_raw


@pytest.mark.parametrize(
    "uncommon",
    [
        _fragment(None, arguments=": 1}"),
        _fragment(0, id="c1", name="look", arguments=": 1}"),
        _fragment(0, id="c2", name="look", arguments="{}"),
        _fragment(1, name="look", arguments="{}"),
        _fragment(5, id="c9", name="look", arguments="{}"),
        _fragment(1, id="c1", name="look", arguments="{}"),
    ],
)
def test_the_full_parser_goes_on_with_calls_that_began_raw(uncommon: dict[str, Any]):
    comparison = compare(_stream_of(_BEGUN, uncommon))
    assert comparison.problems == ()
    assert comparison.is_raw
    assert not comparison.is_all_raw
