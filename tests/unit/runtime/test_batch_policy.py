"""Batches of embedding calls: which calls are joined, and what each caller gets."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modelyard.base.errors import InvokeRateLimitError, InvokeServerUnavailableError
from modelyard.models.embedding import (
    EmbeddingInputType,
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.llm import LLMRequest
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.policies.batch import Batch, proportional_shares
from modelyard.testing import FakeClock
from tests.unit.virtual_time import START, run_virtually, settle_tasks

ASK = Invocation(
    tenant="t",
    provider="p",
    model="embed",
    model_type=ModelType.TEXT_EMBEDDING,
    request=TextEmbeddingRequest(texts=["a"]),
    credential_id="main",
)


def run(work: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> None:
    clock = FakeClock(START)
    run_virtually(work(clock), clock)


def asking(*texts: str, **fields: Any) -> Invocation:
    return replace(ASK, request=TextEmbeddingRequest(texts=list(texts), **fields))


class Model:
    """Answers each text with its length, after an event if there is one."""

    def __init__(self, **usage: Any) -> None:
        self.calls: list[Invocation] = []
        self.usage = EmbeddingUsage(**usage)
        self.error: BaseException | None = None
        self.may_answer: asyncio.Event | None = None
        self.cancelled = 0
        self.is_silent = False

    async def __call__(self, invocation: Invocation) -> Chunks:
        self.calls.append(invocation)
        if self.may_answer is not None:
            try:
                await self.may_answer.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        if not self.is_silent:
            yield TextEmbeddingResult(
                model="embed-1",
                embeddings=[[float(len(text))] for text in invocation.request.texts],
                usage=self.usage,
            )

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each call."""
        return [invocation.request.texts for invocation in self.calls]


def batch_of(max_texts: int, seconds: float = 0.5) -> Batch:
    return Batch(lambda invocation: max_texts, seconds)


async def result_of(
    batch: Batch, invocation: Invocation, model: Model
) -> TextEmbeddingResult:
    async with aclosing(batch(invocation, model)) as chunks:
        (result,) = [chunk async for chunk in chunks]
        return result


async def started(
    batch: Batch, model: Model, *invocations: Invocation
) -> list[asyncio.Task[TextEmbeddingResult]]:
    tasks = [
        asyncio.create_task(result_of(batch, invocation, model))
        for invocation in invocations
    ]
    await settle_tasks()
    return tasks


@pytest.mark.parametrize(
    ("batch", "invocation"),
    [
        (batch_of(0), ASK),
        (batch_of(1), ASK),
        (batch_of(9, seconds=0.0), ASK),
        (batch_of(2), asking("a", "b")),
        (batch_of(2), asking("a", "b", "c")),
        (
            batch_of(9),
            replace(ASK, model_type=ModelType.LLM, request=LLMRequest(messages=[])),
        ),
    ],
)
def test_a_call_that_gains_nothing_is_passed_on_as_it_is(
    batch: Batch, invocation: Invocation
):
    assert batch(invocation, lambda passed: passed) is invocation  # type: ignore[arg-type, return-value, comparison-overlap]


def test_a_full_batch_is_sent_at_once():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(3), Model()
        tasks = await started(batch, model, asking("a", "bb"), asking("ccc"))
        results = await asyncio.gather(*tasks)
        assert model.calls == [asking("a", "bb", "ccc")]
        assert [result.embeddings for result in results] == [[[1.0], [2.0]], [[3.0]]]
        assert [result.model for result in results] == ["embed-1", "embed-1"]
        assert clock.now == START

    run(work)


def test_two_calls_of_one_text_are_joined():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        await asyncio.gather(*await started(batch, model, asking("a"), asking("b")))
        assert model.texts == [["a", "b"]]

    run(work)


def test_a_batch_is_open_for_its_time():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(9), Model()
        tasks = await started(batch, model, asking("a"))
        clock.advance(0.25)
        tasks += await started(batch, model, asking("b"))
        assert model.calls == []
        await asyncio.gather(*tasks)
        assert model.texts == [["a", "b"]]
        assert clock.now == START + 0.5
        # The next call opens another one.
        await result_of(batch, asking("c"), model)
        assert model.texts == [["a", "b"], ["c"]]
        assert clock.now == START + 1.0

    run(work)


def test_a_full_batch_is_followed_by_another_with_all_its_time():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        tasks = await started(batch, model, asking("a"))
        clock.advance(0.25)
        tasks += await started(batch, model, asking("b"), asking("c"))
        await asyncio.gather(*tasks)
        assert model.texts == [["a", "b"], ["c"]]
        assert clock.now == START + 0.75

    run(work)


def test_a_batch_stays_open_for_three_milliseconds_unless_told_otherwise():
    assert Batch(lambda invocation: 9).seconds == 0.003


def test_texts_that_do_not_fit_start_another_batch():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(4), Model()
        calls = [asking("a", "b"), asking("c", "d", "e"), asking("f")]
        tasks = await started(batch, model, *calls)
        assert model.texts == [["a", "b"], ["c", "d", "e", "f"]]
        results = await asyncio.gather(*tasks)
        assert [len(result.embeddings) for result in results] == [2, 3, 1]
        assert clock.now == START

    run(work)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ASK, tenant="other"),
        replace(ASK, provider="other"),
        replace(ASK, model="other"),
        replace(ASK, credential_id="other"),
        asking("a", dimensions=8),
        asking("a", input_type=EmbeddingInputType.QUERY),
        asking("a", extra={"encoding": "float"}),
    ],
)
def test_only_calls_with_the_same_options_are_joined(changed: Invocation):
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        await asyncio.gather(*await started(batch, model, ASK, changed))
        assert model.calls == [ASK, changed]

    run(work)


def test_calls_of_different_users_are_joined():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        calls = [replace(ASK, user="alice"), replace(ASK, id="call-2", user="bob")]
        await asyncio.gather(*await started(batch, model, *calls))
        assert model.texts == [["a", "a"]]

    run(work)


# Errors and callers who leave.


def test_an_error_reaches_every_caller():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        model.error = InvokeRateLimitError("slow down", retry_after=3.0)
        tasks = await started(batch, model, asking("a"), asking("b"))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [model.error, model.error]

    run(work)


def test_a_model_that_returns_nothing_is_an_error_for_every_caller():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        model.is_silent = True
        tasks = await started(batch, model, asking("a"), asking("b"))
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, InvokeServerUnavailableError)
            assert str(result) == "Model 'embed' returned no embeddings"

    run(work)


def test_a_caller_who_leaves_does_not_harm_the_others():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(3), Model()
        model.may_answer = asyncio.Event()
        calls = [asking("a"), asking("bb"), asking("ccc")]
        first, second, third = await started(batch, model, *calls)
        second.cancel()
        await settle_tasks()
        model.may_answer.set()
        assert (await first).embeddings == [[1.0]]
        assert (await third).embeddings == [[3.0]]
        assert second.cancelled()
        assert model.cancelled == 0

    run(work)


def test_a_call_that_nobody_waits_for_is_cancelled():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        model.may_answer = asyncio.Event()
        tasks = await started(batch, model, asking("a"), asking("b"))
        tasks[0].cancel()
        await settle_tasks()
        assert model.cancelled == 0
        tasks[1].cancel()
        await settle_tasks()
        assert model.cancelled == 1
        assert [task.cancelled() for task in tasks] == [True, True]

    run(work)


def test_a_caller_who_left_an_open_batch_is_not_asked_for():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(9), Model()
        first, second = await started(batch, model, asking("a"), asking("bb"))
        first.cancel()
        assert (await second).embeddings == [[2.0]]
        assert first.cancelled()
        assert model.texts == [["bb"]]

    run(work)


def test_a_batch_without_callers_is_not_sent():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(9), Model()
        (task,) = await started(batch, model, asking("a"))
        task.cancel()
        await asyncio.sleep(1)
        assert model.calls == []
        assert (await result_of(batch, asking("b"), model)).embeddings == [[1.0]]
        assert model.texts == [["b"]]

    run(work)


def test_callers_are_cancelled_if_the_call_is():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model()
        model.error = asyncio.CancelledError()
        tasks = await started(batch, model, asking("a"), asking("b"))
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, True]

    run(work)


# Shares.


def test_each_caller_gets_its_share_of_the_usage():
    async def work(clock: FakeClock) -> None:
        usage = {
            "tokens": 10,
            "total_tokens": 20,
            "total_price": Decimal("0.0000011"),
            "currency": "EUR",
        }
        batch, model = batch_of(4), Model(**usage)
        # One, three (of which two are empty) and six tokens by the estimate.
        calls = [asking("abcd"), asking("", ""), asking("a" * 24)]
        tasks = await started(batch, model, *calls)
        shares = [(await task).usage for task in tasks]
        assert [share.tokens for share in shares] == [1, 1, 8]
        assert [share.total_tokens for share in shares] == [2, 3, 15]
        assert [share.total_price for share in shares] == [
            Decimal("0.000000137"),
            Decimal("0.000000138"),
            Decimal("0.000000825"),
        ]
        assert {share.currency for share in shares} == {"EUR"}

    run(work)


def test_an_unknown_price_is_unknown_for_everyone():
    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(2), Model(tokens=5)
        tasks = await started(batch, model, asking("a"), asking("b"))
        assert [(await task).usage.total_price for task in tasks] == [None, None]

    run(work)


@given(
    st.integers(0, 10**15),
    st.integers(-14, 3),
    st.lists(st.integers(0, 90), min_size=1, max_size=6),
)
def test_the_prices_of_all_callers_add_up_exactly(
    digits: int, exponent: int, lengths: list[int]
):
    price = Decimal(digits).scaleb(exponent)

    async def work(clock: FakeClock) -> None:
        batch, model = batch_of(len(lengths) + 1), Model(total_price=price)
        tasks = await started(
            batch, model, *(asking("x" * length) for length in lengths)
        )
        results = await asyncio.gather(*tasks)
        assert sum(result.usage.total_price or 0 for result in results) == price

    run(work)


def test_shares_are_proportional_to_the_weights():
    assert proportional_shares(100, [1, 2, 1]) == [25, 50, 25]
    assert proportional_shares(10, [1, 1, 1]) == [3, 3, 4]
    assert proportional_shares(0, [5, 5]) == [0, 0]
    assert proportional_shares(1, [1, 1, 2]) == [0, 0, 1]
