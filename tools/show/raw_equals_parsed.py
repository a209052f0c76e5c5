"""The law of passing through: an answer that travels as bytes is read as the full parser
reads it, and reaches the caller as it came.

Each recorded answer of a format that passes through is read twice by the exchange that
calls use: raw, in random reads that cut it at any byte, and parsed, at once. Requests
are written twice, from their bytes and from their parsed form. A format takes part as
soon as the table of chat formats has its raw form.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.models.capabilities import DEFAULT_CAPABILITIES, Capabilities
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage, fold
from modelyard.models.passthrough import (
    PassthroughChunk,
    PassthroughFormat,
    PassthroughRequest,
)
from modelyard.providers.chat_exchange import ChatExchange
from modelyard.providers.endpoint import Endpoint
from modelyard.providers.factory import catalog_definition
from modelyard.providers.formats import CHAT, ChatFormat
from modelyard.transport.http import HttpClient, Timeouts
from modelyard.wire import openai_chat, openai_passthrough
from tools.show.exchanges import Exchange, exchanges
from tools.show.proof import Proof
from tools.show.replay import body_of, content_type_of

Peek = Callable[[bytes], tuple[str, PassthroughRequest] | None]

# How the route of each format looks into the bytes of a request.
PEEKS: dict[str, Peek] = {
    "openai_chat": lambda body: openai_passthrough.peek_request(
        body, openai_chat.parse_request
    )
}
_CAPABILITIES = (
    Capabilities(),
    Capabilities(max_tokens_field="max_completion_tokens"),
    Capabilities(no_stream_options=True),
)
_CUTS = 4
"""Number of times that each stream is read, each time cut at other places."""


@dataclass
class Reading:
    """One reading of an answer."""

    chunks: list[LLMResultChunk] = field(default_factory=list[LLMResultChunk])
    error: str = ""
    """Class and text of the error that ended it; empty if there was none."""

    @property
    def usage(self) -> LLMUsage | None:
        """The last usage, without the vendor's own words for it."""
        usage = _last(chunk.delta.usage for chunk in self.chunks)
        return None if usage is None else msgspec.structs.replace(usage, extra={})

    @property
    def reason(self) -> str | None:
        """The last finish reason."""
        return _last(chunk.delta.finish_reason for chunk in self.chunks)

    @property
    def raw(self) -> bytes:
        """The bytes that are passed through."""
        return b"".join(
            chunk.data for chunk in self.chunks if isinstance(chunk, PassthroughChunk)
        )

    @property
    def parsed(self) -> list[LLMResultChunk]:
        """The chunks that the full parser has read."""
        return [
            chunk for chunk in self.chunks if not isinstance(chunk, PassthroughChunk)
        ]


def _last(values: Iterable[Any]) -> Any:
    """Return the last value that is not empty."""
    return next((value for value in reversed([*values]) if value), None)


@dataclass(frozen=True)
class Comparison:
    """What the two readings of one answer showed."""

    problems: tuple[str, ...]
    is_raw: bool
    """Whether any byte of the answer was passed through."""
    is_all_raw: bool
    """Whether the full parser was not needed."""


def passing_formats() -> dict[str, ChatFormat]:
    """Return the chat formats that have a raw form, by name."""
    return {
        chat_format.name: chat_format
        for chat_format in CHAT.values()
        if chat_format.passing is not None
    }


def answers() -> list[Exchange]:
    """Return the recorded answers in formats that pass through.

    Error statuses never reach a reader of chunks.
    """
    names = passing_formats().keys()
    return [
        exchange
        for exchange in exchanges()
        if exchange.format in names and exchange.status == 200
    ]


@cache
def _endpoint() -> Endpoint:
    """Return an endpoint whose errors name one provider; it sends nothing."""
    return Endpoint(catalog_definition("openai"), HttpClient(), Timeouts())


def _exchange_for(
    chat_format: ChatFormat,
    request: LLMRequest | PassthroughRequest,
    passing: PassthroughFormat | None,
) -> ChatExchange:
    """Return the exchange of a call, which chooses the reader of its answer."""
    return ChatExchange(
        _endpoint(),
        chat_format,
        DEFAULT_CAPABILITIES,
        request,
        passing,
        url="",
        headers={},
        call_headers={},
        body=b"",
    )


def _plain_request(name: str, *, is_stream: bool, wants_usage: bool) -> Any:
    """Return a request of one text that passes through."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "stream": is_stream,
    }
    if is_stream and wants_usage:
        body["stream_options"] = {"include_usage": True}
    peeked = PEEKS[name](json.dumps(body).encode())
    assert peeked is not None, f"A plain request in {name} does not pass through"
    return peeked[1]


def read(
    exchange: ChatExchange,
    fragments: Iterable[bytes],
    content_type: str,
    *,
    is_complete: bool = True,
) -> Reading:
    """Read an answer that arrives in these fragments; `is_complete` is whether it ends
    with them."""
    reading = Reading()
    reader = exchange.reader(content_type)
    try:
        for fragment in fragments:
            # One by one: what came before an error reaches the caller.
            for chunk in reader.feed(fragment):
                reading.chunks.append(chunk)
        for chunk in reader.finish() if is_complete else ():
            reading.chunks.append(chunk)
    except ModelyardError as error:
        reading.error = f"{type(error).__name__}: {error}"
    return reading


def cut_at_random(body: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield a body in fragments of random lengths: single bytes, parts of an event, or
    many events."""
    longest = chance.choice((3, 40, 400, 4000, 10**9))
    position = 0
    while position < len(body):
        end = position + chance.randint(1, longest)
        yield body[position:end]
        position = end


def compare(
    exchange: Exchange,
    passing: PassthroughFormat | None = None,
    *,
    cuts: int = _CUTS,
) -> Comparison:
    """Read one recorded answer raw and parsed, and return the differences.

    `passing` replaces the raw form of the format, for tests that spoil it.
    """
    chat_format = passing_formats()[exchange.format]
    raw_form = passing or chat_format.passing
    body, content_type = body_of(exchange), content_type_of(exchange)
    request = _plain_request(
        exchange.format, is_stream=exchange.is_stream, wants_usage=True
    )
    parsed = read(
        _exchange_for(chat_format, request.parse(), None), [body], content_type
    )
    problems: list[str] = []
    is_raw, is_all_raw = False, True
    # The same places in every run, but others for each recording.
    chance = random.Random(exchange.id)
    for attempt in range(cuts if exchange.is_stream else 1):
        wants_usage = attempt % 2 == 0
        request = _plain_request(
            exchange.format, is_stream=exchange.is_stream, wants_usage=wants_usage
        )
        raw = read(
            _exchange_for(chat_format, request, raw_form),
            cut_at_random(body, chance),
            content_type,
        )
        is_raw, is_all_raw = is_raw or bool(raw.raw), is_all_raw and not raw.parsed
        problems += _differences(raw, parsed)
        problems += _not_as_it_came(raw, parsed, body, chat_format, exchange)
    return Comparison(tuple(dict.fromkeys(problems)), is_raw, is_raw and is_all_raw)


def _differences(raw: Reading, parsed: Reading) -> Iterator[str]:
    """Yield what the ledger would get differently."""
    for name in ("usage", "reason", "error"):
        got, expected = getattr(raw, name), getattr(parsed, name)
        if got != expected:
            yield f"{name}: {got!r} instead of {expected!r}"
    got, expected = _estimated_text(raw.chunks), _estimated_text(parsed.chunks)
    # A whole answer that passes through has usage, so its text is never estimated.
    is_whole = any(
        isinstance(chunk, PassthroughChunk) and chunk.is_whole for chunk in raw.chunks
    )
    if got != expected and not is_whole:
        yield f"text: {got[-80:]!r} instead of {expected[-80:]!r}"


def _estimated_text(chunks: Sequence[LLMResultChunk]) -> str:
    """Return text, thoughts and arguments of calls, from which the ledger estimates
    tokens if the provider never reports them."""
    return "".join(_spoken(chunk) for chunk in chunks)


def _spoken(chunk: LLMResultChunk) -> str:
    """Return what the ledger records of a chunk."""
    if isinstance(chunk, PassthroughChunk):
        return chunk.said
    message = chunk.delta.message
    arguments = [call.function.arguments for call in message.tool_calls]
    return message.text + message.thinking + "".join(arguments)


def _not_as_it_came(
    raw: Reading,
    parsed: Reading,
    body: bytes,
    chat_format: ChatFormat,
    exchange: Exchange,
) -> Iterator[str]:
    """Yield what the caller would get differently."""
    # An answer of which nothing was passed is only the full parser's.
    if len(raw.parsed) == len(raw.chunks):
        return
    if not exchange.is_stream:
        if raw.raw != body:
            yield "bytes: the answer is not the one that came"
        return
    missing = _not_among(raw.raw.split(b"\n\n"), body.split(b"\n\n"))
    if missing is not None:
        yield f"bytes: {missing[:80]!r} did not come, or not at this place"
    # The passed events, read by the full parser, and what it read itself.
    request = _plain_request(chat_format.name, is_stream=True, wants_usage=True)
    full = _exchange_for(chat_format, request.parse(), None)
    reread = read(full, [raw.raw], "text/event-stream", is_complete=False)
    if reread.error:
        yield f"bytes: the full parser cannot read them: {reread.error}"
    got = _content([*reread.chunks, *raw.parsed])
    expected = _content(parsed.chunks)
    for name, value in expected.items():
        if got[name] != value:
            yield f"{name}: {str(got[name])[:120]!r} instead of {str(value)[:120]!r}"


def _not_among(passed: Iterable[bytes], came: Iterable[bytes]) -> bytes | None:
    """Return the first passed event that did not come in this order; None if all did."""
    remaining = iter(came)
    for block in passed:
        # Looking into an iterator uses it up, so the order is compared too.
        if block and block not in remaining:
            return block
    return None


def _content(chunks: Sequence[LLMResultChunk]) -> dict[str, Any]:
    """Return what a caller learns from chunks."""
    result = fold(chunks)
    return {
        "choices": [
            (choice.index, choice.message, choice.finish_reason)
            for choice in result.choices
        ],
        "model": result.model,
        "id": result.id,
    }


def compare_request(exchange: Exchange) -> tuple[bool, list[str]]:
    """Write a recorded request from its bytes and from its parsed form.

    Returns whether it passes through, and the differences.
    """
    peeked = PEEKS[exchange.format](json.dumps(exchange.request).encode())
    passing = passing_formats()[exchange.format].passing
    if peeked is None or passing is None:
        return False, []
    name, request = peeked
    problems: list[str] = []
    if name != exchange.request.get("model"):
        problems.append(f"model: {name!r}")
    chat_format = passing_formats()[exchange.format]
    for capabilities in _CAPABILITIES:
        if passing.can_pass_through(request, capabilities):
            written = json.loads(passing.dump(request, "other", capabilities))
            full = chat_format.dump_request(request.parse(), "other", capabilities)
            if written != json.loads(msgspec.json.encode(full)):
                problems.append(
                    f"request: {str(written)[:200]} instead of {full}"[:400]
                )
    return True, problems


def requests() -> list[Exchange]:
    """Return the recordings whose request is in a format that passes through."""
    names = passing_formats().keys()
    return [
        exchange
        for exchange in exchanges()
        if exchange.format in names and isinstance(exchange.request, dict)
    ]


def prove() -> Proof:
    """Compare all recorded answers and requests, and report them by format."""
    proof = Proof()
    counts: Counter[tuple[str, bool, str]] = Counter()
    for exchange in answers():
        comparison = compare(exchange)
        row = exchange.format, exchange.is_stream
        counts[*row, "read"] += 1
        counts[*row, "raw"] += comparison.is_all_raw
        counts[*row, "partly"] += comparison.is_raw and not comparison.is_all_raw
        counts[*row, "unequal"] += bool(comparison.problems)
        if comparison.problems:
            proof.line(exchange.id, "; ".join(comparison.problems)[:400], False)
    for name, is_stream in sorted({row[:2] for row in counts}):
        read_count, raw, partly, unequal = (
            counts[name, is_stream, column]
            for column in ("read", "raw", "partly", "unequal")
        )
        label = f"{name}, {'streamed' if is_stream else 'whole'}"
        text = f"{read_count} read, {raw} raw, {partly} raw in part, {unequal} unequal"
        # A format of which nothing passes through would prove nothing.
        proof.line(label, text, unequal == 0 and raw > 0)
        proof.figures[label] = text
    _report_requests(proof)
    return proof


def _report_requests(proof: Proof) -> None:
    """Report the requests that pass through."""
    passed = unequal = 0
    for exchange in (recorded := requests()):
        is_passed, problems = compare_request(exchange)
        passed += is_passed
        unequal += bool(problems)
        if problems:
            proof.line(exchange.id, "; ".join(problems)[:400], False)
    text = f"{len(recorded)} recorded, {passed} written from bytes, {unequal} unequal"
    proof.line("requests", text, unequal == 0 and passed > 0)
    proof.figures["requests"] = text
