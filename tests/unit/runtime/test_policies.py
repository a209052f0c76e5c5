"""Tests for each policy alone and for the whole pipeline.

Calls follow scripts, and the clock is a fake one that does not wait.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.base.clock import SystemClock
from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
)
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.entities import PriceConfig
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call, Policy, compose
from modelyard.runtime.policies.cache import Cache
from modelyard.runtime.policies.deadline import Deadline
from modelyard.runtime.policies.meter import Meter
from modelyard.runtime.policies.observe import Observe
from modelyard.storage.database import Database
from modelyard.storage.response_cache import MemoryResponseCache
from modelyard.testing import FakeClock, last_chunk, scripted
from tests.unit.runtime.test_dispatch import dispatch

ASK = Invocation(
    tenant="t",
    provider="p",
    model="big",
    model_type=ModelType.LLM,
    request=LLMRequest(messages=[UserPromptMessage(content="hello")]),
)


def texts(policies: Sequence[Policy], call: Call, ask: Invocation = ASK) -> list[str]:
    async def gather() -> list[str]:
        async with aclosing(compose(policies, call)(ask)) as chunks:
            return [chunk.text async for chunk in chunks]

    return asyncio.run(gather())


# deadline


async def slow(invocation: Invocation) -> Chunks:
    for _ in range(100):
        yield last_chunk()
        await asyncio.sleep(0.05)


def test_a_deadline_ends_a_call_that_is_waiting():
    clock = SystemClock()
    with pytest.raises(
        InvokeTimeoutError, match="did not finish before the call's deadline"
    ):
        texts([Deadline(clock)], slow, replace(ASK, deadline=clock.monotonic() + 0.12))


def test_a_deadline_does_not_interrupt_the_caller():
    async def work() -> str:
        clock = SystemClock()
        ask = replace(ASK, deadline=clock.monotonic() + 0.05)
        async with aclosing(compose([Deadline(clock)], slow)(ask)) as chunks:
            await anext(chunks)
            await asyncio.sleep(0.15)  # the caller is slow, not the call
            with pytest.raises(InvokeTimeoutError):
                await anext(chunks)
        return "unharmed"

    assert asyncio.run(work()) == "unharmed"


def test_a_cancelled_caller_stays_cancelled():
    async def work() -> None:
        clock = SystemClock()
        task = asyncio.create_task(
            _drain(
                compose([Deadline(clock)], slow)(
                    replace(ASK, deadline=clock.monotonic() + 60)
                )
            )
        )
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())


async def _drain(chunks: Chunks) -> None:
    async with aclosing(chunks):
        async for _ in chunks:
            pass


# observe


class Watcher(Callback):
    wants_result = True

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_before_invoke(self, invocation: Invocation) -> None:
        self.heard.append("before")

    def on_new_chunk(self, invocation: Invocation, chunk: LLMResultChunk) -> None:
        self.heard.append(chunk.text)

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        self.heard.append(
            (
                "after",
                outcome.status,
                outcome.chunks,
                outcome.result.text,
                outcome.usage,
            )
        )

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        self.heard.append((type(error).__name__, outcome.status, outcome.chunks))


def test_a_callback_receives_all_events_in_order():
    watcher = Watcher()
    call, _ = scripted({"big": ["he", "llo", last_chunk(3, 2)]})
    texts([Observe(FakeClock(), (watcher,))], call)
    assert watcher.heard[:-1] == ["before", "he", "llo", ""]
    assert watcher.heard[-1][:4] == ("after", "ok", 3, "hello")
    assert watcher.heard[-1][4].total_tokens == 5


def test_a_callback_receives_errors_and_disconnects():
    watcher = Watcher()
    call, _ = scripted({"big": ["x", InvokeServerUnavailableError("busy")]})
    with pytest.raises(InvokeServerUnavailableError):
        texts([Observe(FakeClock(), (watcher,))], call)
    assert watcher.heard[-1] == (
        "InvokeServerUnavailableError",
        "upstream_unavailable",
        1,
    )

    async def leave() -> None:
        call, _ = scripted({"big": ["x", "y"]})
        async with aclosing(Observe(FakeClock(), (watcher,))(ASK, call)) as chunks:
            await anext(chunks)

    asyncio.run(leave())
    assert watcher.heard[-1] == ("GeneratorExit", "cancelled", 1)


class Broken(Callback):
    def on_before_invoke(self, invocation: Invocation) -> None:
        raise RuntimeError("mine")


def test_a_failing_callback_fails_the_call_only_on_request():
    call, _ = scripted({"big": ["x"]})
    assert texts([Observe(FakeClock(), (Broken(),))], call) == ["x"]
    strict = Broken()
    strict.raise_error = True
    with pytest.raises(RuntimeError, match="mine"):
        texts([Observe(FakeClock(), (strict,))], call)


# meter

PRICE = PriceConfig(
    input=Decimal(2), output=Decimal(3), unit=Decimal("0.001"), currency="USD"
)


def metered(call: Call, *outer: Policy, cut: bool = False) -> list[Any]:
    """Return the ledger rows of a call, oldest first."""

    async def work() -> list[Any]:
        database = Database(":memory:")
        ledger = Ledger(database)
        policies = [*outer, Meter(ledger, lambda invocation: PRICE, FakeClock())]
        try:
            async with aclosing(
                compose(policies, call)(replace(ASK, record=CallTrace()))
            ) as chunks:
                async for _ in chunks:
                    if cut:
                        break
        except InvokeError:
            pass
        await ledger.flush()
        rows = list(reversed(await ledger.usage.recent("t")))
        assert await ledger.usage.recent("somebody else") == []
        database.close()
        return rows

    return asyncio.run(work())


def test_a_row_has_the_providers_usage_and_its_cost():
    call, _ = scripted({"big": ["x", last_chunk(10, 20)]})
    (row,) = metered(call)
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.estimated) == (
        "ok",
        10,
        20,
        False,
    )
    assert row.total_price == Decimal("0.08")


def test_every_attempt_has_a_row_with_its_number():
    call, _ = scripted(
        {"big": [[InvokeServerUnavailableError("busy")], ["x", last_chunk()]]}
    )
    rows = metered(call, dispatch(FakeClock()))
    assert [(row.attempt, row.status) for row in rows] == [
        (1, "upstream_unavailable"),
        (2, "ok"),
    ]
    assert len({row.invocation for row in rows}) == 1


def test_a_disconnected_caller_pays_for_the_received_part():
    call, _ = scripted({"big": ["some words here", "more"]})
    (row,) = metered(call, cut=True)
    assert (row.status, row.estimated) == ("cancelled", True)
    assert row.completion_tokens == 4
    assert row.total_price > 0


def test_missing_usage_is_estimated_and_marked():
    call, _ = scripted({"big": ["twelve signs"]})
    (row,) = metered(call)
    assert (row.status, row.completion_tokens, row.estimated) == ("ok", 3, True)


def test_a_call_that_failed_before_it_started_costs_nothing():
    call, _ = scripted({"big": [InvokeAuthorizationError("no")]})
    (row,) = metered(call)
    assert (row.status, row.total_price, row.prompt_tokens) == (
        "upstream_authorization",
        0,
        0,
    )


# the whole pipeline


def test_policies_compose_from_the_outside_in():
    order: list[str] = []

    def noting(name: str) -> Policy:
        async def policy(invocation: Invocation, call_next: Call) -> Chunks:
            order.append(name)
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    yield chunk

        return policy

    call, _ = scripted({"big": ["x"]})
    texts([noting("outer"), noting("inner")], call)
    assert order == ["outer", "inner"]


def test_closing_the_outer_stream_closes_the_inner():
    closed: list[bool] = []

    async def call(invocation: Invocation) -> Chunks:
        try:
            while True:
                yield last_chunk()
        finally:
            closed.append(True)

    async def work() -> None:
        clock = FakeClock()
        policies: list[Policy] = [
            Observe(clock), Deadline(clock), dispatch(clock),
        ]  # fmt: skip
        async with aclosing(compose(policies, call)(ASK)) as chunks:
            await anext(chunks)

    asyncio.run(work())
    assert closed == [True]


# cache


def test_a_model_that_returns_no_embeddings_is_an_error_and_not_a_crash(
    tmp_path: Path,
):
    async def returns_nothing(invocation: Invocation) -> Chunks:
        for chunk in ():
            yield chunk

    request = TextEmbeddingRequest(texts=["a"])
    ask = replace(ASK, model_type=ModelType.TEXT_EMBEDDING, request=request)
    clock = FakeClock()
    ledger = Ledger(Database(tmp_path / "x.db"))
    answers = MemoryResponseCache(clock, max_bytes=1 << 20)
    cache = Cache(answers, lambda _: 60.0, ledger, clock)
    with pytest.raises(InvokeServerUnavailableError, match="returned no embeddings"):
        texts([cache], returns_nothing, ask)
