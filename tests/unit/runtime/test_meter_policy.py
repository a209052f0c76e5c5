"""The row of each attempt: what it used, what it costs, how it ended, and when."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.entities import PriceConfig, PricePer, PricePeriod
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    UserPromptMessage,
)
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger, OpenAttempt
from modelyard.runtime.policies.meter import Meter
from modelyard.runtime.usage_row import UsageRow
from modelyard.storage.database import Database
from modelyard.tenancy.caller import Caller
from modelyard.testing import FakeClock, chunk, last_chunk
from tests.unit.virtual_time import START

D = Decimal
REQUEST = LLMRequest(messages=[UserPromptMessage(content="hello")])
PROMPT_TOKENS = 9
"""Of that request by the estimate: two for the word, seven around it."""
PRICES = PriceConfig(
    input=D(2), output=D(3), unit=D("0.001"), currency="EUR", source="list",
    as_of=date(2026, 1, 2),
)  # fmt: skip
PER_TOKEN = PriceConfig(input=D(2), unit=D("0.001"), currency="USD")


def new_call(**fields: Any) -> Invocation:
    defaults: dict[str, Any] = {
        "tenant": "t",
        "provider": "p",
        "model": "big",
        "model_type": ModelType.LLM,
        "request": REQUEST,
        "id": "call",
        "record": CallTrace(),
    }
    return Invocation(**defaults | fields)


class WatchedLedger(Ledger):
    """A ledger that remembers what was recorded before the end of the attempts."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.opened: list[OpenAttempt] = []
        self.amounts: list[tuple[int, int]] = []
        """The attempt, and its tokens so far."""

    def begin(self, invocation: Invocation, **options: Any) -> OpenAttempt:
        self.opened.append(super().begin(invocation, **options))
        return self.opened[-1]

    def progress(self, opened: OpenAttempt, tokens: int) -> None:
        self.amounts.append((opened.intent.attempt, tokens))


class Setup:
    """A meter on a manual clock, before a model whose steps take time."""

    def __init__(self, prices: PriceConfig | None = PRICES) -> None:
        self.clock = FakeClock(START)
        self.database = Database(":memory:")
        self.ledger = WatchedLedger(self.database)
        self.meter = Meter(self.ledger, lambda invocation: prices, self.clock)

    async def call(
        self,
        *steps: Any,
        invocation: Invocation | None = None,
        leave_after: int | None = None,
    ) -> list[Any]:
        """Return what the caller received. Numbers among the steps are seconds."""

        async def model(invocation: Invocation) -> Chunks:
            for step in steps:
                if isinstance(step, int | float):
                    self.clock.advance(step)
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step

        received: list[Any] = []
        async with aclosing(self.meter(invocation or new_call(), model)) as chunks:
            async for item in chunks:
                received.append(item)
                if len(received) == leave_after:
                    break
        return received

    async def row(self) -> UsageRow:
        (row,) = await self.rows()
        return row

    async def rows(self) -> list[UsageRow]:
        await self.ledger.flush()
        return list(reversed(await self.ledger.usage.recent("t")))


def run(
    work: Callable[[Setup], Coroutine[Any, Any, None]],
    prices: PriceConfig | None = PRICES,
) -> None:
    setup = Setup(prices)
    try:
        asyncio.run(work(setup))
    finally:
        setup.database.close()


def reporting(
    usage: LLMUsage, text: str = "", reason: str | None = None
) -> LLMResultChunk:
    message = AssistantPromptMessage(content=text)
    delta = LLMResultChunkDelta(message=message, usage=usage, finish_reason=reason)
    return LLMResultChunk(model="big", delta=delta)


# Calls that succeed.


def test_a_served_attempt_has_one_row_with_everything():
    async def work(setup: Setup) -> None:
        usage = LLMUsage.of(
            10,
            20,
            cached_tokens=4,
            cache_write_tokens=3,
            reasoning_tokens=5,
            searches=2,
        )
        invocation = new_call(
            user="alice",
            credential="main",
            credential_id="c1",
            caller=Caller(tenant="t", key="k1", app="app:7"),
        )
        received = await setup.call(
            1.5, chunk("hi"), 2, reporting(usage), 0.5, invocation=invocation
        )
        assert len(received) == 2
        expected = UsageRow(
            id="call.1", invocation="call", attempt=1, tenant="t", api_key="k1",
            user="alice", created_at=START, day=0, provider="p", model="big",
            model_type="llm", credential="main", credential_id="c1", status="ok",
            counted_by="provider", prompt_tokens=10, completion_tokens=20,
            cached_tokens=4, cache_write_tokens=3, reasoning_tokens=5, characters=0,
            seconds=0.0, searches=2, total_price=D("0.08"), nanos=80_000_000,
            currency="EUR", price_source="list", price_version="2026-01-02",
            latency=4.0, first_chunk=1.5, asked="p/big", app="app:7",
        )  # fmt: skip
        assert await setup.row() == expected
        record = invocation.record
        assert (record.tokens, record.cost_nanos, record.attempts) == (
            30,
            80_000_000,
            1,
        )

    run(work)


def test_the_caller_receives_the_price_and_the_times():
    async def work(setup: Setup) -> None:
        text, last = await setup.call(1.5, chunk("hi"), 2, last_chunk(10, 20), 9)
        assert text == chunk("hi")
        usage = last.delta.usage
        assert (usage.prompt_price, usage.completion_price) == (D("0.02"), D("0.06"))
        assert (usage.total_price, usage.currency) == (D("0.08"), "EUR")
        assert usage.latency == 3.5
        assert (usage.time_to_first_token, usage.time_to_generate) == (1.5, 2.0)
        assert not usage.estimated

    run(work)


def test_a_model_without_prices_has_an_unknown_cost():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        await setup.call(last_chunk(10, 20), invocation=invocation)
        row = await setup.row()
        assert (row.total_price, row.nanos, row.price_version) == (None, None, "")
        assert (invocation.record.tokens, invocation.record.cost_nanos) == (30, 0)

    run(work, None)


def test_prices_without_a_date_have_no_version():
    async def work(setup: Setup) -> None:
        await setup.call(last_chunk(10, 20))
        row = await setup.row()
        assert (row.total_price, row.price_version) == (D("0.08"), "")

    run(work, replace(PRICES, as_of=None))


@pytest.mark.parametrize(
    ("days", "expected"), [(0.0, "0.16"), (0.999, "0.16"), (1.0, "0.08")]
)
def test_the_prices_of_the_day_apply(days: float, expected: str):
    async def work(setup: Setup) -> None:
        setup.clock.now = days * 86_400
        await setup.call(last_chunk(10, 20))
        assert (await setup.row()).total_price == D(expected)

    first_day = PricePeriod(until=date(1970, 1, 2), input=D(4), output=D(6))
    run(work, replace(PRICES, history=[first_day]))


def test_each_attempt_of_a_call_has_its_number_and_they_add_up():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        for _ in range(2):
            await setup.call(last_chunk(10, 20), invocation=invocation)
        assert [row.id for row in await setup.rows()] == ["call.1", "call.2"]
        record = invocation.record
        assert (record.tokens, record.cost_nanos) == (60, 160_000_000)

    run(work)


def test_an_attempt_is_recorded_before_the_model_is_called():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        with pytest.raises(InvokeServerUnavailableError):
            await setup.call(InvokeServerUnavailableError("x"), invocation=invocation)
        (opened,) = setup.ledger.opened
        assert opened.intent.invocation == "call"
        assert (opened.intent.attempt, opened.intent.created_at) == (1, START)
        # Two for the word and four for its message.
        assert opened.intent.prompt_tokens == 6

    run(work)


# Usage that the provider does not report.


def test_usage_that_is_not_reported_is_estimated():
    async def work(setup: Setup) -> None:
        text, last = await setup.call(1, chunk("twelve signs"), 2)
        assert text == chunk("twelve signs")
        assert (last.model, last.text) == ("big", "")
        usage = last.delta.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, 3)
        assert (usage.estimated, usage.total_price) == (True, D("0.027"))
        assert (usage.latency, usage.time_to_first_token) == (3.0, 1.0)
        assert usage.time_to_generate == 2.0
        row = await setup.row()
        assert (row.status, row.counted_by) == ("ok", "estimate")
        assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, 3)
        assert (row.total_price, row.price_version) == (D("0.027"), "2026-01-02")

    run(work)


def test_thoughts_that_are_parts_of_the_answer_are_estimated_too():
    async def work(setup: Setup) -> None:
        message = AssistantPromptMessage(
            content=[
                ThinkingPromptMessageContent(data="twelve signs", signature="s"),
                TextPromptMessageContent(data="four"),
            ]
        )
        mixed = LLMResultChunk(delta=LLMResultChunkDelta(message=message))
        await setup.call(mixed)
        row = await setup.row()
        assert (row.completion_tokens, row.counted_by) == (4, "estimate")

    run(work)


def test_an_answer_without_any_chunk_is_estimated():
    async def work(setup: Setup) -> None:
        (last,) = await setup.call(2)
        usage = last.delta.usage
        assert (usage.completion_tokens, usage.time_to_first_token) == (0, None)
        assert usage.time_to_generate == 2.0
        assert (await setup.row()).prompt_tokens == PROMPT_TOKENS

    run(work)


def test_a_known_tokenizer_counts_exactly():
    pytest.importorskip("toktok")

    async def work(setup: Setup) -> None:
        await setup.call(chunk("hello world"), invocation=new_call(model="gpt-4o"))
        row = await setup.row()
        assert (row.counted_by, row.prompt_tokens) == ("tokenizer", 8)
        assert row.completion_tokens == 2

    run(work)


def test_a_prompt_with_tools_is_an_estimate():
    pytest.importorskip("toktok")

    async def work(setup: Setup) -> None:
        request = replace(REQUEST, tools=[PromptMessageTool(name="look")])
        invocation = new_call(model="gpt-4o", request=request)
        await setup.call(chunk("hello world"), invocation=invocation)
        row = await setup.row()
        assert (row.counted_by, row.prompt_tokens > 8) == ("estimate", True)

    run(work)


def test_usage_that_the_server_guessed_is_estimated_from_the_text():
    async def work(setup: Setup) -> None:
        guess = reporting(LLMUsage(estimated=True), "eight to")
        received = await setup.call(guess)
        usage = received[0].delta.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, 2)
        assert usage.total_price == D("0.024")
        row = await setup.row()
        assert (row.counted_by, row.total_price) == ("estimate", D("0.024"))

    run(work)


@pytest.mark.parametrize(
    ("usage", "counted_by"),
    [
        (LLMUsage.of(10, 20, estimated=True), "estimate"),
        (LLMUsage.of(10, 20), "provider"),
        (LLMUsage(), "provider"),
    ],
)
def test_a_count_of_the_provider_is_used(usage: LLMUsage, counted_by: str):
    async def work(setup: Setup) -> None:
        await setup.call(chunk("some text"), reporting(usage))
        row = await setup.row()
        assert row.counted_by == counted_by
        assert row.prompt_tokens == usage.prompt_tokens

    run(work)


def test_embeddings_without_a_count_are_estimated_from_their_texts():
    async def work(setup: Setup) -> None:
        invocation = new_call(
            model_type=ModelType.TEXT_EMBEDDING,
            request=TextEmbeddingRequest(texts=["abcd", "abcdefgh"]),
        )
        usage = EmbeddingUsage(estimated=True)
        result = TextEmbeddingResult(embeddings=[], usage=usage)
        (received,) = await setup.call(3, result, invocation=invocation)
        assert (received.usage.tokens, received.usage.total_tokens) == (3, 3)
        assert (received.usage.total_price, received.usage.latency) == (D("0.006"), 3.0)
        row = await setup.row()
        assert (row.prompt_tokens, row.counted_by) == (3, "estimate")
        assert (row.total_price, row.first_chunk) == (D("0.006"), 3.0)
        assert invocation.record.tokens == 3

    run(work, PER_TOKEN)


@pytest.mark.parametrize(
    "usage", [EmbeddingUsage(tokens=7, estimated=True), EmbeddingUsage(tokens=7)]
)
def test_a_count_of_embeddings_is_used(usage: EmbeddingUsage):
    async def work(setup: Setup) -> None:
        invocation = new_call(
            model_type=ModelType.TEXT_EMBEDDING,
            request=TextEmbeddingRequest(texts=["abcd"]),
        )
        result = TextEmbeddingResult(embeddings=[], usage=usage)
        await setup.call(result, invocation=invocation)
        row = await setup.row()
        assert (row.prompt_tokens, row.estimated) == (7, usage.estimated)
        assert row.total_price == D("0.014")

    run(work, PER_TOKEN)


# Chunks that are passed through.


def test_a_chunk_that_is_passed_through_stays_as_it_is():
    async def work(setup: Setup) -> None:
        passed = PassthroughChunk(
            data=b"raw",
            said="some text",
            delta=LLMResultChunkDelta(usage=LLMUsage.of(10, 20)),
        )
        (received,) = await setup.call(passed)
        assert received is passed
        row = await setup.row()
        assert (row.counted_by, row.total_price) == ("provider", D("0.08"))
        assert setup.ledger.amounts == [(1, 2)]

    run(work)


def test_an_answer_that_is_passed_through_without_usage_is_estimated():
    async def work(setup: Setup) -> None:
        request = PassthroughRequest(
            format="x", asked=None, model_parameters={}, stream=True, user=None,
            wants_usage=False, signs=5, parse=lambda: REQUEST,
        )  # fmt: skip
        passed = PassthroughChunk(data=b"raw", said="twelve signs")
        await setup.call(passed, invocation=new_call(request=request))
        row = await setup.row()
        assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, 3)

    run(work)


# Progress.


def test_the_tokens_so_far_are_recorded_with_each_text():
    async def work(setup: Setup) -> None:
        message = AssistantPromptMessage(
            content="ab",
            reasoning_content="cdefgh",
            tool_calls=[
                ToolCall(function=ToolCallFunction(name="look", arguments="{12}")),
                ToolCall(function=ToolCallFunction(name="look", arguments="[]")),
            ],
        )
        mixed = LLMResultChunk(delta=LLMResultChunkDelta(message=message))
        await setup.call(
            chunk("a"), chunk("abcdef"), chunk(""), mixed, last_chunk(1, 1)
        )
        # One, two and four: a token for four characters, at least one for each text.
        assert setup.ledger.amounts == [(1, 1), (1, 3), (1, 7)]

    run(work)


def test_everything_that_a_model_generates_counts():
    async def work(setup: Setup) -> None:
        message = AssistantPromptMessage(
            content="ab",
            reasoning_content="cdefgh",
            tool_calls=[
                ToolCall(function=ToolCallFunction(name="look", arguments="{12}"))
            ],
        )
        await setup.call(LLMResultChunk(delta=LLMResultChunkDelta(message=message)))
        assert (await setup.row()).completion_tokens == 3

    run(work)


# Attempts that end early.


def test_an_attempt_that_failed_at_once_costs_nothing():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        with pytest.raises(InvokeServerUnavailableError, match="busy"):
            await setup.call(
                3, InvokeServerUnavailableError("busy"), invocation=invocation
            )
        row = await setup.row()
        assert (row.status, row.counted_by) == ("upstream_unavailable", "")
        assert (row.prompt_tokens, row.total_price, row.nanos) == (0, 0, 0)
        assert (row.price_source, row.price_version, row.currency) == ("", "", "USD")
        assert (row.latency, row.first_chunk) == (3.0, None)
        assert (invocation.record.tokens, invocation.record.cost_nanos) == (0, 0)

    run(work)


def test_an_attempt_that_failed_later_costs_what_came():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        with pytest.raises(InvokeServerUnavailableError):
            await setup.call(
                1,
                chunk("twelve signs"),
                2,
                InvokeServerUnavailableError("busy"),
                invocation=invocation,
            )
        row = await setup.row()
        assert (row.status, row.counted_by) == ("upstream_unavailable", "estimate")
        assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, 3)
        assert (row.total_price, row.price_version) == (D("0.027"), "2026-01-02")
        assert (row.latency, row.first_chunk) == (3.0, 1.0)
        assert invocation.record.tokens == PROMPT_TOKENS + 3

    run(work)


def test_a_caller_who_leaves_pays_for_what_came():
    async def work(setup: Setup) -> None:
        await setup.call(chunk("twelve signs"), chunk("never"), leave_after=1)
        row = await setup.row()
        assert (row.status, row.counted_by) == ("cancelled", "estimate")
        assert row.completion_tokens == 3

    run(work)


def test_a_defect_is_recorded_as_cancelled():
    async def work(setup: Setup) -> None:
        with pytest.raises(ZeroDivisionError):
            await setup.call(ZeroDivisionError())
        assert (await setup.row()).status == "cancelled"

    run(work)


def test_a_stream_that_is_cut_after_its_first_report_counts_what_came():
    """Some providers report the prompt at the start and the rest at the end."""

    async def work(setup: Setup) -> None:
        first = reporting(LLMUsage.of(100, 1, cached_tokens=40))
        await setup.call(first, chunk("twelve signs"), chunk("never"), leave_after=2)
        row = await setup.row()
        assert (row.prompt_tokens, row.completion_tokens) == (100, 3)
        assert (row.cached_tokens, row.counted_by) == (40, "estimate")
        assert row.total_price == D("0.209")

    run(work)


def test_a_count_that_covers_what_came_is_the_providers():
    async def work(setup: Setup) -> None:
        first = reporting(LLMUsage.of(100, 3))
        await setup.call(first, chunk("twelve signs"), chunk("never"), leave_after=2)
        row = await setup.row()
        assert (row.prompt_tokens, row.completion_tokens) == (100, 3)
        assert (row.counted_by, row.total_price) == ("provider", D("0.209"))

    run(work)


def test_other_usage_is_final_as_soon_as_it_arrives():
    async def work(setup: Setup) -> None:
        invocation = new_call(
            model_type=ModelType.TTS, request=TTSRequest(text="hello")
        )
        last = TTSResultChunk(usage=TTSUsage(characters=5))
        await setup.call(last, last, invocation=invocation, leave_after=1)
        row = await setup.row()
        assert (row.status, row.characters) == ("cancelled", 5)
        assert (row.counted_by, row.total_price) == ("provider", D("0.01"))

    run(work, replace(PER_TOKEN, per=PricePer.CHARACTER))


def test_speech_that_is_cut_has_no_usage():
    async def work(setup: Setup) -> None:
        invocation = new_call(
            model_type=ModelType.TTS, request=TTSRequest(text="hello")
        )
        audio = TTSResultChunk(audio=b"a")
        await setup.call(audio, audio, invocation=invocation, leave_after=1)
        row = await setup.row()
        assert (row.status, row.characters, row.counted_by) == ("cancelled", 0, "")
        assert row.first_chunk == 0.0

    run(work)


def test_speech_without_usage_gets_no_further_chunk():
    async def work(setup: Setup) -> None:
        invocation = new_call(
            model_type=ModelType.TTS, request=TTSRequest(text="hello")
        )
        audio = TTSResultChunk(audio=b"a")
        assert await setup.call(audio, invocation=invocation) == [audio]
        assert (await setup.row()).status == "ok"

    run(work)
