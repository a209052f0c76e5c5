"""Attempts metered by a plan, and service tiers: the row must be that of the policy."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from modelyard.models.entities import PriceConfig, PricePeriod, ServicePrices
from modelyard.models.llm import LLMRequest, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import UserPromptMessage
from modelyard.models.passthrough import PassthroughChunk
from modelyard.runtime.attribution import Attribution
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.policies.meter import Meter, MeterPlan
from modelyard.tenancy.caller import Caller
from modelyard.testing import chunk, last_chunk
from tests.unit.runtime.test_meter_policy import (
    PRICES,
    REQUEST,
    Setup,
    new_call,
    reporting,
    run,
)
from tests.unit.virtual_time import START

D = Decimal
CALLER = Caller(tenant="t", key="k1", app="app:7")
FLEX = replace(PRICES, service_tiers={"flex": ServicePrices(input=D(1), output=D(1))})
ANSWERS: dict[str, list[Any]] = {
    "with usage": [1.5, chunk("hi"), 2, last_chunk(10, 20), 0.5],
    "without usage": [1.5, chunk("twelve signs"), 2],
    "empty": [2],
}


def plan_of(setup: Setup, invocation: Invocation) -> MeterPlan:
    """Return the plan for the calls of a caller; it must not record anything."""
    plan = setup.meter.plan_for(invocation)
    assert setup.ledger.opened == []
    assert invocation.record.attempts == 0
    return plan


def meter_by_plan(
    setup: Setup, plan: MeterPlan, invocation: Invocation, steps: Iterable[Any]
) -> list[Any]:
    """Return what the caller receives of a successful attempt. Numbers among the steps
    are seconds."""
    attempt = plan.begin(invocation)
    received: list[Any] = []
    for step in steps:
        if isinstance(step, int | float):
            setup.clock.advance(step)
        else:
            received.append(attempt.record_chunk(step))
    if (usage_chunk := attempt.missing_usage_chunk()) is not None:
        received.append(usage_chunk)
    attempt.settle("ok")
    return received


@pytest.mark.parametrize("prices", [PRICES, None])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_attempt_by_a_plan_is_metered_as_by_the_policy(
    answer: str, prices: PriceConfig | None
):
    fields: dict[str, Any] = {
        "user": "alice", "credential": "main", "credential_id": "c1",
        "caller": CALLER, "attribution": Attribution("s1", "blue", "a,b"),
    }  # fmt: skip

    async def work(setup: Setup) -> None:
        # An earlier call of the same caller, with a longer prompt and another session.
        long_request = LLMRequest(messages=[UserPromptMessage(content="hello " * 9)])
        first = new_call(**fields, request=long_request)
        plan = plan_of(setup, replace(first, attribution=Attribution("s0")))
        by_policy, by_plan = new_call(**fields), new_call(**fields, id="other")
        expected = await setup.call(*ANSWERS[answer], invocation=by_policy)
        setup.clock.now = START
        received = meter_by_plan(setup, plan, by_plan, ANSWERS[answer])

        assert received == expected
        policy_row, plan_row = await setup.rows()
        assert (plan_row.id, plan_row.invocation) == ("other.1", "other")
        assert replace(plan_row, id="call.1", invocation="call") == policy_row
        for name in ("tokens", "cost_nanos", "attempts", "has_unknown_cost"):
            assert getattr(by_plan.record, name) == getattr(by_policy.record, name)
        intents = [opened.intent for opened in setup.ledger.opened]
        assert replace(intents[1], invocation="call") == intents[0]

    run(work, prices)


def test_a_plan_looks_the_price_up_once():
    async def work(setup: Setup) -> None:
        models: list[str] = []

        def pricing(invocation: Invocation) -> PriceConfig:
            models.append(invocation.model)
            return PRICES

        setup.meter = Meter(setup.ledger, pricing, setup.clock)
        plan = plan_of(setup, new_call())
        for name in ("a", "b"):
            meter_by_plan(setup, plan, new_call(id=name), [last_chunk(10, 20)])
        assert models == ["big"]
        rows = await setup.rows()
        assert [row.total_price for row in rows] == [D("0.08"), D("0.08")]

    run(work)


def test_a_plan_numbers_the_attempts_of_a_call():
    async def work(setup: Setup) -> None:
        invocation = new_call()
        plan = plan_of(setup, invocation)
        for _ in range(2):
            meter_by_plan(setup, plan, invocation, [last_chunk(1, 1)])
        assert [row.id for row in await setup.rows()] == ["call.1", "call.2"]

    run(work)


@pytest.mark.parametrize("usage", [LLMUsage.of(10, 20), None])
def test_a_call_without_prices_has_an_unknown_cost(usage: LLMUsage | None):
    """Nobody knows how much of a limit of money it has used."""

    async def work(setup: Setup) -> None:
        invocation = new_call()
        answer = chunk("hi") if usage is None else reporting(usage)
        await setup.call(answer, invocation=invocation)
        assert invocation.record.has_unknown_cost

    run(work, None)


# service tiers


def passed_through(usage: LLMUsage) -> PassthroughChunk:
    """Return a chunk that the caller receives in the provider's own bytes."""
    return PassthroughChunk(data=b"raw", delta=LLMResultChunkDelta(usage=usage))


@pytest.mark.parametrize("answer", [reporting, passed_through])
@pytest.mark.parametrize(
    ("requested", "reported", "expected"),
    [
        ("flex", "", "0.03"),
        # Names of tiers are the same in upper case.
        ("FLEX", "", "0.03"),
        # The provider says which tier has served the call.
        ("", "flex", "0.03"),
        ("flex", "default", "0.08"),
        ("default", "", "0.08"),
        (None, "", "0.08"),
        (7, "", "0.08"),
    ],
)
def test_the_service_tier_decides_the_price(
    answer: Any, requested: Any, reported: str, expected: str
):
    async def work(setup: Setup) -> None:
        parameters = {} if requested is None else {"service_tier": requested}
        invocation = new_call(request=replace(REQUEST, model_parameters=parameters))
        usage = LLMUsage.of(10, 20, service_tier=reported)
        await setup.call(answer(usage), invocation=invocation)
        assert (await setup.row()).total_price == D(expected)

    run(work, FLEX)


def test_a_service_tier_without_prices_is_not_in_the_usage():
    async def work(setup: Setup) -> None:
        parameters = {"service_tier": "flex"}
        invocation = new_call(request=replace(REQUEST, model_parameters=parameters))
        (received,) = await setup.call(last_chunk(10, 20), invocation=invocation)
        assert received.delta.usage.service_tier == ""

    run(work)


@pytest.mark.parametrize(("days", "expected"), [(0.5, "0.16"), (1.0, "0.08")])
def test_chunks_that_are_passed_through_have_the_prices_of_the_day(
    days: float, expected: str
):
    async def work(setup: Setup) -> None:
        setup.clock.now = days * 86_400
        await setup.call(passed_through(LLMUsage.of(10, 20)))
        assert (await setup.row()).total_price == D(expected)

    first_day = PricePeriod(until=date(1970, 1, 2), input=D(4), output=D(6))
    run(work, replace(PRICES, history=[first_day]))


def test_chunks_after_a_first_one_do_not_change_its_time():
    async def work(setup: Setup) -> None:
        await setup.call(1, chunk("a"), 2, chunk("b"), 3, last_chunk(1, 1))
        row = await setup.row()
        assert (row.first_chunk, row.latency) == (1.0, 6.0)

    run(work)
