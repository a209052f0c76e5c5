"""Admission without waiting: it takes the same from the limits as the policy does, or
changes nothing."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import Estimate, UnpricedModelError
from modelyard.runtime.policies.limit import AdmissionPlan, Admitted
from modelyard.storage.counters import DatabaseCounters, MemoryCounters
from modelyard.storage.database import Database
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock
from tests.unit.runtime.test_limit_policy import (
    CREDITS,
    REQUESTS,
    SUBJECT,
    TOKENS,
    Setup,
    answers,
    fails,
    new_call,
    run,
)
from tests.unit.virtual_time import START

MONEY = Limit(unit="cost", amount=1, window="total", currency="USD")
CONCURRENCY = Limit(unit="concurrency", amount=2, window="total")
ALL_LIMITS = (REQUESTS, TOKENS, CREDITS, MONEY, CONCURRENCY)


def plan_of(setup: Setup) -> AdmissionPlan:
    """Return the plan for the calls of `new_call`."""
    plan = setup.policy.plan_for(new_call())
    assert plan is not None
    return plan


def admit(setup: Setup, invocation: Invocation) -> Admitted:
    """Admit a call by its plan, which must be possible at once."""
    admitted = plan_of(setup).admit(invocation)
    assert admitted is not None
    return admitted


# the same as the policy


@pytest.mark.parametrize("is_served", [True, False])
@given(limits=st.lists(st.sampled_from(ALL_LIMITS), unique_by=id))
def test_a_planned_call_takes_what_a_call_of_the_policy_takes(
    is_served: bool, limits: Sequence[Limit]
):
    async def work(clock: FakeClock) -> None:
        by_policy, by_plan = Setup(clock, limits), Setup(clock, limits)
        # The policy also starts the counters; the plan leaves that to it.
        for setup in (by_policy, by_plan):
            await setup.call(answers, new_call())
        try:
            await by_policy.call(answers if is_served else fails, new_call())
        except Exception as error:  # noqa: BLE001  the provider's failure
            assert not is_served, error

        invocation = new_call()
        admitted = admit(by_plan, invocation)
        assert by_plan.queue.running == 1
        assert admitted.invocation is invocation
        admitted.is_served = is_served
        tokens, nanos = (7, 80) if is_served else (5, 0)
        invocation.record.spend(tokens, nanos)
        admitted.release()

        assert await by_plan.levels() == await by_policy.levels()
        assert by_plan.queue.running == 0
        assert invocation.record.requested_model == "p/big"

    run(work)


def test_a_planned_call_reserves_the_most_that_it_can_use():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS, TOKENS, MONEY, CREDITS])
        await setup.call(answers, new_call())
        before = await setup.levels()
        admit(setup, new_call())
        differences = [
            level - previous
            for level, previous in zip(await setup.levels(), before, strict=True)
        ]
        assert differences == [1.0, 50.0, 600.0, 4.0]

    run(work)


def test_a_plan_charges_each_day_separately():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [Limit(unit="requests", amount=9, window="day")])
        await setup.call(answers, new_call())
        plan = plan_of(setup)
        clock.advance(86_400)
        # The next day has a counter of its own, which has to be started first.
        assert plan.admit(new_call()) is None
        await setup.call(answers, new_call())
        assert plan.admit(new_call()) is not None
        names = ["id0|t|t|1970-01-01", "id0|t|t|1970-01-02"]
        levels = await setup.counters.levels(names)
        assert [levels[name] for name in names] == [2.0, 3.0]

    run(work)


def test_an_estimator_of_the_model_replaces_the_estimate_of_each_call():
    class Estimator:
        def estimate(self, invocation: Invocation) -> Estimate:
            return Estimate(tokens=30 + len(invocation.id), nanos=9)

    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [TOKENS])
        await setup.call(answers, new_call())
        models: list[str] = []

        def estimator(invocation: Invocation) -> Estimator:
            models.append(invocation.model)
            return Estimator()

        plan = replace(setup.policy, estimator=estimator).plan_for(new_call())
        assert plan is not None
        assert plan.admit(msgspec.structs.replace(new_call(), id="123456")) is not None
        assert models == ["big"]
        assert await setup.levels() == [8.0 + 36.0]

    run(work)


# nothing changes


def test_a_call_that_has_to_wait_for_a_slot_is_not_admitted():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS], queue=FairQueue(1, 4))
        await setup.call(answers, new_call())
        plan = plan_of(setup)
        assert setup.queue.try_enter("other")
        assert plan.admit(new_call()) is None
        assert await setup.levels() == [2.0]
        assert (setup.queue.running, setup.queue.waiting) == (1, 0)
        setup.queue.leave("other")
        assert plan.admit(new_call()) is not None

    run(work)


def test_a_call_whose_counters_do_not_exist_is_not_admitted():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS, TOKENS])
        assert plan_of(setup).admit(new_call()) is None
        assert setup.queue.running == 0
        assert setup.starts == []

    run(work)


def test_a_call_that_a_limit_refuses_is_not_admitted():
    """The policy makes the error, and notes which limit refused the call."""

    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [TOKENS, REQUESTS])
        for _ in range(2):
            await setup.call(answers, new_call())
        before = await setup.levels()
        invocation = new_call()
        assert plan_of(setup).admit(invocation) is None
        assert await setup.levels() == before
        assert setup.queue.running == 0
        assert invocation.record.notes == []

    run(work)


# which calls have a plan


def test_only_counters_of_this_process_are_asked_without_waiting():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS])
        with closing(Database(":memory:")) as database:
            shared = DatabaseCounters(database, clock)
            policy = replace(setup.policy, counters=shared)
            assert not policy.has_counters_here
            assert policy.plan_for(new_call()) is None
        assert setup.policy.has_counters_here
        assert isinstance(plan_of(setup).counters, MemoryCounters)

    run(work)


@pytest.mark.parametrize(
    ("limits", "is_priced", "has_plan"),
    [
        ([REQUESTS, MONEY], False, False),
        ([REQUESTS, MONEY], True, True),
        ([REQUESTS], False, True),
        ([], False, True),
    ],
)
def test_a_limit_of_money_counts_only_calls_with_a_price(
    limits: Sequence[Limit], is_priced: bool, has_plan: bool
):
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, limits)
        models: list[str] = []

        def price_is_known(invocation: Invocation) -> bool:
            models.append(invocation.model)
            return is_priced

        setup.policy = replace(setup.policy, is_priced=price_is_known)
        assert (setup.policy.plan_for(new_call()) is not None) is has_plan
        if has_plan:
            assert await setup.call(answers, new_call()) == ["a", "b"]
        else:
            with pytest.raises(UnpricedModelError, match="'p/big'.*'limit 1'"):
                await setup.call(answers, new_call())
            assert setup.starts == []
        # Without a limit of money the price does not matter.
        assert models == (["big", "big"] if MONEY in limits else [])
        assert setup.queue.running == 0

    run(work)


def test_a_plan_asks_for_the_limits_of_the_caller_once():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock)
        plan = plan_of(setup)
        for _ in range(3):
            invocation = new_call()
            admitted = plan.admit(invocation)
            assert admitted is not None
            assert invocation.record.requested_model == "p/big"
            assert setup.queue.running == 1
            admitted.release()
        assert setup.subjects == [SUBJECT]
        assert setup.queue.running == 0

    run(work)


# what is settled


def test_the_most_that_a_call_can_cost_stays_reserved_if_its_cost_is_unknown():
    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [TOKENS, MONEY])
        await setup.call(answers, new_call())
        before = await setup.levels()
        invocation = new_call()
        admitted = admit(setup, invocation)
        invocation.record.spend(7, 80)
        invocation.record.has_unknown_cost = True
        admitted.release()
        tokens, nanos = await setup.levels()
        assert (tokens, nanos) == (before[0] + 7.0, before[1] + 600.0)

    run(work)


def test_a_slot_is_given_back_even_if_the_counters_fail():
    class BrokenCounters(MemoryCounters):
        def settle(self, name: str, amounts: object) -> None:
            raise OSError("No space left on device")

    async def work(clock: FakeClock) -> None:
        setup = Setup(clock, [REQUESTS])
        broken = BrokenCounters(FakeClock(START))
        setup.counters = broken
        setup.policy = replace(setup.policy, counters=broken)
        with pytest.raises(OSError, match="No space left"):
            await setup.call(answers, new_call())
        assert setup.queue.running == 0

    run(work)
