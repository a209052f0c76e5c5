"""The response cache: what is part of a key, what is stored, and what callers pay."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.errors import InvokeError, InvokeServerUnavailableError
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
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
    UserPromptMessage,
)
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.passthrough import PassthroughRequest
from modelyard.models.rerank import RerankRequest, RerankResult, RerankUsage
from modelyard.models.tts import TTSRequest, TTSResultChunk
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace, Decision
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.policies import cache as cache_module
from modelyard.runtime.policies.cache import Cache, Semantic
from modelyard.runtime.usage_row import UsageRow
from modelyard.storage.database import Database
from modelyard.storage.response_cache import MemoryResponseCache
from modelyard.testing import FakeClock, chunk
from tests.unit.virtual_time import START

TOOL = PromptMessageTool(name="look")
REQUEST = LLMRequest(
    messages=[UserPromptMessage(content="hello")], model_parameters={"temperature": 0}
)
ASK = Invocation(
    tenant="t", provider="p", model="big", model_type=ModelType.LLM, request=REQUEST
)
EMBED = replace(
    ASK,
    model="embed",
    model_type=ModelType.TEXT_EMBEDDING,
    request=TextEmbeddingRequest(texts=["a", "bb"]),
)


def ending(
    reason: str | None = "stop", usage: LLMUsage | None = None
) -> LLMResultChunk:
    delta = LLMResultChunkDelta(finish_reason=reason, usage=usage)
    return LLMResultChunk(model="big", delta=delta)


ANSWER = [chunk("he"), chunk("llo"), ending(usage=LLMUsage.of(10, 20, searches=1))]


class Setup:
    """A cache on a manual clock, before a model that counts its calls."""

    def __init__(
        self, *answer: Any, semantic: Semantic | None = None, seconds: float = 60.0
    ) -> None:
        self.clock = FakeClock(START)
        self.database = Database(":memory:")
        self.ledger = Ledger(self.database)
        self.store = MemoryResponseCache(self.clock, max_bytes=1 << 20)
        self.answer = list(answer or ANSWER)
        self.seen: list[Invocation] = []
        self.policy = Cache(
            self.store, lambda _: seconds, self.ledger, self.clock, semantic
        )

    async def model(self, invocation: Invocation) -> Chunks:
        self.seen.append(invocation)
        for item in self.answer:
            if isinstance(item, Exception):
                raise item
            yield item

    async def embedder(self, invocation: Invocation) -> Chunks:
        self.seen.append(invocation)
        texts = invocation.request.texts
        usage = EmbeddingUsage(tokens=3, total_tokens=3, total_price=Decimal("0.5"))
        vectors = [[float(len(text)), 0.5] for text in texts]
        yield TextEmbeddingResult(model="embed-1", embeddings=vectors, usage=usage)

    async def ask(self, invocation: Invocation = ASK) -> tuple[list[Any], CallTrace]:
        """Return the chunks of a call and its trace."""
        trace = CallTrace()
        is_embedding = invocation.model_type is ModelType.TEXT_EMBEDDING
        call = self.embedder if is_embedding else self.model
        invocation = replace(invocation, record=trace)
        async with aclosing(self.policy(invocation, call)) as chunks:
            return [received async for received in chunks], trace

    async def rows(self) -> list[UsageRow]:
        await self.ledger.flush()
        return await self.ledger.usage.recent("t")


def run(setup: Setup, work: Callable[[Setup], Coroutine[Any, Any, None]]) -> None:
    try:
        asyncio.run(work(setup))
    finally:
        setup.database.close()


# Which calls the cache is for.


@pytest.mark.parametrize(
    ("mode", "seconds", "applies"),
    [
        ("", 60.0, True),
        ("on", 0.5, True),
        ("refresh", 60.0, True),
        ("off", 60.0, False),
        ("", 0.0, False),
        ("on", -1.0, False),
    ],
)
def test_the_cache_applies_to_calls_whose_answers_it_may_keep(
    mode: str, seconds: float, *, applies: bool
):
    """A call that it does not apply to may skip the policy."""

    async def work(setup: Setup) -> None:
        invocation = replace(EMBED, cache=mode)
        assert setup.policy.applies_to(invocation) is applies
        for _ in range(2):
            await setup.ask(invocation)
        is_reused = len(setup.seen) == 1
        assert is_reused is (applies and mode != "refresh")

    run(Setup(seconds=seconds), work)


# Whole answers.


def test_a_repeated_question_gets_the_same_chunks_without_a_call():
    async def work(setup: Setup) -> None:
        first, trace = await setup.ask()
        assert (first, trace.notes) == (ANSWER, [])
        setup.clock.advance(59)
        second, trace = await setup.ask(replace(ASK, id="call-2", route=""))
        assert second == ANSWER
        assert len(setup.seen) == 1
        assert trace.notes == [Decision(START + 59, "cached", {})]
        assert trace.is_notable

    run(Setup(), work)


def test_an_answer_from_the_cache_is_a_row_that_costs_nothing():
    async def work(setup: Setup) -> None:
        usage = LLMUsage.of(10, 20, total_price=Decimal(3), price_source="list")
        setup.answer = [chunk("x"), ending(usage=usage)]
        await setup.ask()
        assert await setup.rows() == []
        setup.clock.advance(5)
        await setup.ask(replace(ASK, id="call-2", user="alice"))
        (row,) = await setup.rows()
        assert (row.id, row.attempt, row.status) == ("call-2.0", 0, "cached")
        assert (row.user, row.created_at, row.latency) == ("alice", START + 5, 0.0)
        assert (row.prompt_tokens, row.completion_tokens) == (10, 20)
        assert (row.total_price, row.nanos, row.price_source) == (0, 0, "cache")
        assert (row.counted_by, row.first_chunk) == ("provider", None)

    run(Setup(), work)


def test_the_last_usage_of_an_answer_is_recorded():
    async def work(setup: Setup) -> None:
        setup.answer = [
            ending(None, LLMUsage.of(1, 1)),
            ending("stop", LLMUsage.of(2, 2)),
            chunk("!"),
        ]
        await setup.ask()
        await setup.ask()
        (row,) = await setup.rows()
        assert row.prompt_tokens == 2

    run(Setup(), work)


def test_an_answer_without_usage_is_recorded_without_tokens():
    async def work(setup: Setup) -> None:
        setup.answer = [chunk("x"), ending()]
        await setup.ask()
        await setup.ask()
        (row,) = await setup.rows()
        assert (row.prompt_tokens, row.counted_by, row.total_price) == (0, "", 0)

    run(Setup(), work)


def test_an_answer_is_stored_for_its_seconds():
    async def work(setup: Setup) -> None:
        await setup.ask()
        setup.clock.advance(60)
        assert (await setup.ask())[1].notes == []
        assert len(setup.seen) == 2

    run(Setup(), work)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ASK, id="other"),
        replace(ASK, user="alice"),
        replace(ASK, credential="other", credential_id="other"),
        replace(ASK, deadline=5.0),
        replace(ASK, request=replace(REQUEST, stream=True)),
        replace(ASK, request=replace(REQUEST, user="alice")),
        replace(ASK, request=replace(REQUEST, unsupported="refuse")),
        replace(ASK, cache="on"),
    ],
)
def test_who_asks_and_how_is_not_part_of_the_key(changed: Invocation):
    async def work(setup: Setup) -> None:
        await setup.ask()
        assert (await setup.ask(changed))[0] == ANSWER
        assert len(setup.seen) == 1

    run(Setup(), work)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ASK, tenant="other"),
        replace(ASK, provider="other"),
        replace(ASK, model="other"),
        replace(ASK, route="other"),
        replace(ASK, request=replace(REQUEST, messages=[])),
        replace(ASK, request=replace(REQUEST, tools=[TOOL])),
        replace(ASK, request=replace(REQUEST, tool_choice="none")),
        replace(ASK, request=replace(REQUEST, stop=["."])),
        replace(ASK, request=replace(REQUEST, extra={"x": {"seed": 1}})),
        replace(
            ASK, request=replace(REQUEST, model_parameters={"temperature": 0, "n": 2})
        ),
    ],
)
def test_everything_that_was_asked_is_part_of_the_key(changed: Invocation):
    async def work(setup: Setup) -> None:
        await setup.ask()
        await setup.ask(changed)
        assert len(setup.seen) == 2
        # The first answer is still there.
        await setup.ask()
        assert len(setup.seen) == 2

    run(Setup(), work)


def test_the_order_of_parameters_is_not_part_of_the_key():
    async def work(setup: Setup) -> None:
        for names in (("n", "seed"), ("seed", "n")):
            parameters = {"temperature": 0.0, **dict.fromkeys(names, 1)}
            request = replace(REQUEST, model_parameters=parameters)
            await setup.ask(replace(ASK, request=request))
        assert len(setup.seen) == 1

    run(Setup(), work)


@pytest.mark.parametrize(
    ("parameters", "mode", "calls"),
    [
        ({"temperature": 0}, "", 1),
        ({"temperature": 0.0}, "", 1),
        ({"temperature": 0.1}, "", 2),
        ({}, "", 2),
        ({"temperature": 1}, "on", 1),
        ({}, "on", 1),
        ({"temperature": 0}, "off", 2),
        ({"temperature": 1}, "refresh", 2),
    ],
)
def test_only_answers_that_may_repeat_are_reused(
    parameters: dict[str, Any], mode: str, calls: int
):
    async def work(setup: Setup) -> None:
        request = replace(REQUEST, model_parameters=parameters)
        for _ in range(2):
            await setup.ask(replace(ASK, cache=mode, request=request))
        assert len(setup.seen) == calls

    run(Setup(), work)


def test_a_refresh_replaces_the_stored_answer():
    async def work(setup: Setup) -> None:
        await setup.ask()
        setup.answer = [chunk("new"), ending()]
        refreshed, trace = await setup.ask(replace(ASK, cache="refresh"))
        assert (refreshed[0].text, trace.notes) == ("new", [])
        assert (await setup.ask())[0][0].text == "new"
        assert len(setup.seen) == 2

    run(Setup(), work)


def test_nothing_is_cached_for_zero_seconds():
    async def work(setup: Setup) -> None:
        for _ in range(2):
            await setup.ask()
        assert len(setup.seen) == 2

    run(Setup(seconds=0.0), work)


@pytest.mark.parametrize(
    ("answer", "is_stored"),
    [
        ([chunk("x"), ending("stop")], True),
        ([chunk("x"), ending("tool_calls")], True),
        ([ending("stop"), ending("tool_calls")], True),
        ([chunk("x"), ending("length")], False),
        ([chunk("x"), ending("content_filter")], False),
        ([ending("stop"), ending("length")], False),
        ([chunk("x")], False),
    ],
)
def test_only_complete_answers_are_stored(answer: list[Any], *, is_stored: bool):
    async def work(setup: Setup) -> None:
        for _ in range(2):
            assert (await setup.ask())[0] == answer
        assert len(setup.seen) == (1 if is_stored else 2)

    run(Setup(*answer), work)


def test_a_failed_answer_is_not_stored():
    async def work(setup: Setup) -> None:
        setup.answer = [ending("stop"), InvokeServerUnavailableError("busy")]
        with pytest.raises(InvokeServerUnavailableError):
            await setup.ask()
        setup.answer = []
        assert (await setup.ask())[0] == []
        setup.answer = ANSWER
        assert (await setup.ask())[0] == ANSWER
        assert len(setup.seen) == 3

    run(Setup(), work)


@pytest.mark.parametrize(("length", "calls"), [(3, 1), (4, 2), (5, 2)])
def test_a_very_long_answer_is_passed_on_but_not_stored(
    length: int, calls: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_module, "_MAX_CHUNKS", 4)

    async def work(setup: Setup) -> None:
        for _ in range(2):
            assert len((await setup.ask())[0]) == length
        assert len(setup.seen) == calls

    run(Setup(*[chunk("x") for _ in range(length - 1)], ending()), work)


def test_an_answer_of_another_version_is_a_miss():
    async def work(setup: Setup) -> None:
        await setup.ask()
        for name in [name for _, name in setup.store._entries]:  # pyright: ignore[reportPrivateUsage]
            await setup.store.put("t", name, b"\x91\xa1x", 60.0)
        answer, trace = await setup.ask()
        assert (answer, trace.notes) == (ANSWER, [])
        assert len(setup.seen) == 2

    run(Setup(), work)


@pytest.mark.parametrize(
    ("model_type", "request_", "answer", "calls"),
    [
        (
            ModelType.RERANK,
            RerankRequest(query="q", docs=["a"]),
            RerankResult(docs=[], usage=RerankUsage(searches=2)),
            1,
        ),
        (
            ModelType.MODERATION,
            ModerationRequest(texts=["a"]),
            ModerationResult(verdicts=[], id="m"),
            1,
        ),
        (ModelType.TTS, TTSRequest(text="a"), TTSResultChunk(audio=b"a"), 2),
    ],
)
def test_other_types_are_cached_if_their_answer_is_a_document(
    model_type: ModelType, request_: Any, answer: Any, calls: int
):
    async def work(setup: Setup) -> None:
        invocation = replace(ASK, model_type=model_type, request=request_)
        for _ in range(2):
            assert (await setup.ask(invocation))[0] == [answer]
        assert len(setup.seen) == calls

    run(Setup(answer), work)


def test_a_request_that_is_passed_through_is_parsed_for_its_key():
    async def work(setup: Setup) -> None:
        passthrough = PassthroughRequest(
            format="x", asked=None, model_parameters={}, stream=False, user=None,
            wants_usage=False, signs=5, parse=lambda: REQUEST,
        )  # fmt: skip
        await setup.ask(replace(ASK, request=passthrough))
        assert setup.seen[0].request == REQUEST
        assert (await setup.ask())[0] == ANSWER
        assert len(setup.seen) == 1

    run(Setup(), work)


# The same meaning.


class Meanings:
    """Vectors of texts; an error for those without one."""

    def __init__(self, **vectors: Sequence[float]) -> None:
        self.vectors = vectors
        self.embedded: list[tuple[str, str]] = []

    async def __call__(self, tenant: str, text: str) -> Sequence[float]:
        self.embedded.append((tenant, text))
        if text not in self.vectors:
            raise InvokeServerUnavailableError("no vectors today")
        return self.vectors[text]


def question(*texts: str, **fields: Any) -> Invocation:
    messages = [UserPromptMessage(content=text) for text in texts]
    return replace(ASK, request=replace(REQUEST, messages=messages, **fields))


def semantic_setup(threshold: float = 0.9, **options: Any) -> tuple[Setup, Meanings]:
    meanings = Meanings(
        car=[3.0, 4.0], auto=[6.0, 8.0], truck=[4.0, 3.0], tree=[-4.0, 3.0], none=[0, 0]
    )
    semantic = Semantic(embed=meanings, threshold=threshold, **options)
    return Setup(semantic=semantic), meanings


def test_a_question_with_the_same_meaning_gets_the_answer():
    setup, meanings = semantic_setup()

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        setup.clock.advance(1)
        answer, trace = await setup.ask(question("auto"))
        assert answer == ANSWER
        assert trace.notes == [Decision(START + 1, "cached", {"meaning": 1.0})]
        assert (await setup.rows())[0].status == "cached"
        # The same words need no vector.
        assert (await setup.ask(question("car")))[1].notes[0].details == {}
        assert meanings.embedded == [("t", "car"), ("t", "auto")]
        assert len(setup.seen) == 1

    run(setup, work)


@pytest.mark.parametrize(("threshold", "calls"), [(0.96, 1), (0.97, 2)])
def test_a_question_must_be_similar_enough(threshold: float, calls: int):
    setup, _ = semantic_setup(threshold)

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        _, trace = await setup.ask(question("truck"))
        assert len(setup.seen) == calls
        if calls == 1:
            assert trace.notes[0].details == {"meaning": 0.96}

    run(setup, work)


def test_the_nearest_question_counts():
    setup, _ = semantic_setup(threshold=0.5)

    async def work(setup: Setup) -> None:
        for text in ("tree", "truck", "car"):
            setup.answer = [chunk(text), ending()]
            await setup.ask(replace(question(text), cache="refresh"))
        answer, _ = await setup.ask(question("auto"))
        assert answer[0].text == "car"

    run(setup, work)


def test_opposite_and_empty_meanings_are_not_similar():
    setup, _ = semantic_setup(threshold=0.0001)

    async def work(setup: Setup) -> None:
        for text in ("car", "tree", "none"):
            await setup.ask(question(text))
        assert len(setup.seen) == 3

    run(setup, work)


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(question("auto"), tenant="other"),
        replace(question("auto"), model="other"),
        question("before", "auto"),
        question("auto", model_parameters={"temperature": 0, "seed": 5}),
    ],
)
def test_a_question_means_something_else_elsewhere(elsewhere: Invocation):
    setup, _ = semantic_setup()

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        await setup.ask(elsewhere)
        assert len(setup.seen) == 2

    run(setup, work)


def test_a_question_means_the_same_in_the_same_conversation():
    setup, _ = semantic_setup()

    async def work(setup: Setup) -> None:
        await setup.ask(question("before", "car"))
        await setup.ask(question("before", "auto"))
        assert len(setup.seen) == 1

    run(setup, work)


@pytest.mark.parametrize(
    "invocation",
    [
        question("car", tools=[TOOL]),
        question(),
        replace(
            ASK,
            request=replace(
                REQUEST, messages=[AssistantPromptMessage(content="car")]
            ),
        ),
        replace(
            ASK,
            request=replace(
                REQUEST,
                messages=[
                    UserPromptMessage(content=[TextPromptMessageContent(data="car")])
                ],
            ),
        ),
        replace(ASK, model_type=ModelType.RERANK, request=RerankRequest(query="q", docs=[])),
    ],
)  # fmt: skip
def test_only_plain_questions_are_compared_by_meaning(invocation: Invocation):
    setup, meanings = semantic_setup()
    if invocation.model_type is ModelType.RERANK:
        setup.answer = [RerankResult(docs=[])]

    async def work(setup: Setup) -> None:
        await setup.ask(invocation)
        assert meanings.embedded == []
        assert len(setup.seen) == 1

    run(setup, work)


def test_a_refresh_asks_the_model_and_is_found_by_its_meaning():
    setup, _ = semantic_setup()

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        await setup.ask(replace(question("auto"), cache="refresh"))
        assert len(setup.seen) == 2
        await setup.ask(question("auto"))
        assert len(setup.seen) == 2

    run(setup, work)


def test_without_a_vector_the_model_is_asked(caplog: pytest.LogCaptureFixture):
    setup, _ = semantic_setup()

    async def work(setup: Setup) -> None:
        assert (await setup.ask(question("unknown")))[0] == ANSWER
        assert (await setup.ask(question("unknown")))[0] == ANSWER
        assert len(setup.seen) == 1

    with caplog.at_level(logging.WARNING, "modelyard.cache"):
        run(setup, work)
    (record,) = caplog.records
    assert record.getMessage() == "semantic cache: embedding failed"
    assert record.__dict__["fields"] == {"error": "no vectors today"}


def test_the_oldest_questions_are_dropped():
    setup, _ = semantic_setup(max_entries=1)

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        await setup.ask(question("tree"))
        await setup.ask(question("auto"))
        assert len(setup.seen) == 3

    run(setup, work)


def test_as_many_questions_as_allowed_are_known():
    setup, _ = semantic_setup(max_entries=2)

    async def work(setup: Setup) -> None:
        await setup.ask(question("car"))
        await setup.ask(question("tree"))
        await setup.ask(question("auto"))
        assert len(setup.seen) == 2

    run(setup, work)


def test_the_indexes_of_very_many_conversations_are_dropped():
    semantic = Semantic(embed=Meanings(), threshold=0.9)
    first = semantic.index_for("t", "first")
    assert semantic.index_for("t", "first") is first
    assert semantic.index_for("other", "first") is not first
    for number in range(999):
        semantic.index_for("t", str(number))
    # There are more than a thousand now, so that all are dropped.
    assert semantic.index_for("t", "first") is not first


def test_a_thousand_conversations_are_known():
    semantic = Semantic(embed=Meanings(), threshold=0.9)
    first = semantic.index_for("t", "first")
    for number in range(999):
        semantic.index_for("t", str(number))
    assert semantic.index_for("t", "first") is first


# Embeddings.


def test_only_the_texts_that_are_missing_are_embedded():
    async def work(setup: Setup) -> None:
        (first,), trace = await setup.ask(EMBED)
        assert first.embeddings == [[1.0, 0.5], [2.0, 0.5]]
        assert (first.model, first.usage.tokens) == ("embed-1", 3)
        assert trace.notes == []
        setup.clock.advance(1)
        longer = replace(EMBED, request=TextEmbeddingRequest(texts=["ccc", "a", "ccc"]))
        (second,), trace = await setup.ask(longer)
        assert setup.seen[1].request.texts == ["ccc"]
        assert second.embeddings == [[3.0, 0.5], [1.0, 0.5], [3.0, 0.5]]
        details = {"texts": 1, "of": 3}
        assert trace.notes == [Decision(START + 1, "cached", details)]
        assert trace.is_notable
        # The calls that were made are the model's, not the cache's.
        assert await setup.rows() == []

    run(Setup(), work)


def test_texts_that_are_all_known_cost_nothing():
    async def work(setup: Setup) -> None:
        await setup.ask(EMBED)
        (result,), trace = await setup.ask(replace(EMBED, id="call-2"))
        assert len(setup.seen) == 1
        assert result.embeddings == [[1.0, 0.5], [2.0, 0.5]]
        usage = result.usage
        assert (usage.tokens, usage.total_price, usage.price_source) == (0, 0, "cache")
        assert result.model == "embed"
        assert trace.notes[0].details == {"texts": 2, "of": 2}
        (row,) = await setup.rows()
        assert (row.id, row.status, row.total_price) == ("call-2.0", "cached", 0)
        assert row.price_source == "cache"

    run(Setup(), work)


def test_vectors_are_stored_for_their_seconds():
    async def work(setup: Setup) -> None:
        await setup.ask(EMBED)
        setup.clock.advance(59)
        await setup.ask(EMBED)
        assert len(setup.seen) == 1
        setup.clock.advance(1)
        await setup.ask(EMBED)
        assert len(setup.seen) == 2

    run(Setup(), work)


@pytest.mark.parametrize(
    ("changed", "calls"),
    [
        (replace(EMBED, tenant="other"), 2),
        (replace(EMBED, provider="other"), 2),
        (replace(EMBED, model="other"), 2),
        (replace(EMBED, route="other"), 2),
        (replace(EMBED, request=replace(EMBED.request, dimensions=8)), 2),
        (
            replace(
                EMBED,
                request=replace(EMBED.request, input_type=EmbeddingInputType.QUERY),
            ),
            2,
        ),
        (replace(EMBED, request=replace(EMBED.request, extra={"x": 1})), 2),
        (replace(EMBED, request=replace(EMBED.request, user="alice")), 1),
        (replace(EMBED, user="alice", cache="on"), 1),
        (replace(EMBED, cache="off"), 2),
        (replace(EMBED, cache="refresh"), 2),
    ],
)
def test_a_vector_belongs_to_a_model_and_its_options(changed: Invocation, calls: int):
    async def work(setup: Setup) -> None:
        await setup.ask(EMBED)
        await setup.ask(changed)
        assert len(setup.seen) == calls

    run(Setup(), work)


def test_a_model_without_embeddings_is_an_error():
    async def work(setup: Setup) -> None:
        setup.answer = []
        setup.embedder = setup.model  # type: ignore[method-assign]
        with pytest.raises(InvokeError) as caught:
            await setup.ask(EMBED)
        assert str(caught.value) == "Model 'embed' returned no embeddings"

    run(Setup(), work)


def test_closing_an_answer_closes_the_call():
    closed: list[bool] = []

    async def call(invocation: Invocation) -> Chunks:
        try:
            while True:
                yield chunk("x")
        finally:
            closed.append(True)

    async def work(setup: Setup) -> None:
        async with aclosing(setup.policy(ASK, call)) as chunks:
            await anext(chunks)
        assert closed == [True]

    run(Setup(), work)
