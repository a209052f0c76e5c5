"""Tests for limits: which apply, how much they charge and how they end.

Also for the fair queue, API keys, and shares of a batch.
"""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.administration.inputs import find_cycle
from modelyard.base.errors import QueueFullError
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingResult
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.limits import (
    ApplicableLimit,
    Estimate,
    QuotaExceededError,
    Subject,
    applicable_limits,
    charge,
    limit_error,
    seconds_to_reset,
    settled_amounts,
    window_start,
)
from modelyard.runtime.policies.batch import (
    _BatchWaiter,
    _distribute,
    proportional_shares,
)
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import Caller, Role
from modelyard.tenancy.resource_types import Limit

ALICE = Subject("t", "k1", "alice", "openai/gpt-5")
NOON = datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()


def limits_for(limit: Limit, subject: Subject = ALICE) -> list[ApplicableLimit]:
    return applicable_limits([("l", "name", limit)], subject)


@pytest.mark.parametrize(
    ("limit", "holds", "owner"),
    [
        (Limit(unit="requests", amount=1), True, "t"),
        (Limit(unit="requests", amount=1, per="key"), True, "k1"),
        (Limit(unit="requests", amount=1, per="user"), True, "alice"),
        (Limit(unit="requests", amount=1, per="model"), True, "openai/gpt-5"),
        (Limit(unit="requests", amount=1, key="k2"), False, ""),
        (Limit(unit="requests", amount=1, user="alice", model="openai/*"), True, "t"),
        (Limit(unit="requests", amount=1, model="anthropic/*"), False, ""),
        (Limit(unit="requests", amount=-1), False, ""),
    ],
)
def test_a_limit_applies_to_its_subject(limit: Limit, holds: bool, owner: str):
    assert [
        applicable_limit.subject_value for applicable_limit in limits_for(limit)
    ] == ([owner] if holds else [])


def test_the_charge_of_a_call_in_each_unit():
    estimate = Estimate(500, 2_000_000)
    limits = {
        "requests": 1, "times": 1, "concurrency": 1, "tokens": 500, "cost": 2_000_000, "credits": 20,
    }  # fmt: skip
    for unit, amount in limits.items():
        applicable_limit = limits_for(
            Limit(unit=unit, amount=5, window="total", credits={"openai/*": 20})
        )[0]  # type: ignore[arg-type]
        assert charge(applicable_limit, ALICE, estimate, NOON).amount == amount
    served = settled_amounts(tokens=7, nanos=9, is_served=True)
    # Of the other units, the reserved amount.
    assert served == {
        "tokens": 7.0,
        "cost": 9.0,
        "concurrency": 0.0,
    }
    failed = settled_amounts(tokens=0, nanos=0, is_served=False)
    assert failed == {
        "tokens": 0.0,
        "cost": 0.0,
        "concurrency": 0.0,
        "credits": 0.0,
        "times": 0.0,
    }


def test_windows_follow_the_utc_calendar():
    assert seconds_to_reset("day", NOON) == 12 * 3600
    assert seconds_to_reset("month", NOON) == 12 * 3600
    assert seconds_to_reset("total", NOON) is None
    assert datetime.fromtimestamp(window_start("month", NOON), UTC) == datetime(
        2026, 2, 1, tzinfo=UTC
    )
    assert window_start("minute", NOON) == NOON - 60
    day = limits_for(Limit(unit="requests", amount=1, window="day"))[0]
    assert (
        charge(day, ALICE, Estimate(0, 0), NOON).name
        != charge(day, ALICE, Estimate(0, 0), NOON + 43_200).name
    )


def test_a_refusal_names_the_limit_and_its_reset():
    minute = limits_for(Limit(unit="tokens", amount=60))[0]
    reservation = charge(minute, ALICE, Estimate(30, 0), NOON)
    error = limit_error(minute, reservation, 60.0, NOON)
    assert "60 tokens per minute" in str(error)
    assert 0 < error.retry_after < 1
    month = limits_for(Limit(unit="cost", amount=5, window="month", per="key"))[0]
    error = limit_error(month, charge(month, ALICE, Estimate(0, 1), NOON), 5e9, NOON)
    assert isinstance(error, QuotaExceededError)
    assert "API key 'k1' has used up 5 USD per month" in str(error)
    assert error.retry_after == 12 * 3600


# fair queue


def test_tenants_alternate_and_the_quiet_one_is_first():
    async def work() -> list[str]:
        queue, order = FairQueue(2, 100), list[str]()
        assert queue.try_enter("noisy")
        assert queue.try_enter("noisy")

        async def wait(tenant: str, priority: int = 0) -> None:
            await queue.enter(tenant, priority=priority, seconds=5)
            order.append(tenant)

        waiting = [asyncio.create_task(wait("noisy")) for _ in range(3)]
        waiting += [
            asyncio.create_task(wait("quiet")),
            asyncio.create_task(wait("urgent", 5)),
        ]
        await asyncio.sleep(0)
        for _ in range(5):
            queue.leave("noisy" if order.count("noisy") < 4 else "quiet")
            await asyncio.sleep(0.01)
            if len(order) == 2:
                break
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert queue.waiting == 0
        return order

    assert asyncio.run(work()) == ["urgent", "quiet"]


def test_a_full_queue_admits_a_tenant_with_few_waiting_calls():
    async def work() -> None:
        queue = FairQueue(1, 3)
        assert queue.try_enter("noisy")
        noisy = [asyncio.create_task(queue.enter("noisy", seconds=5)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="3 calls are already waiting"):
            await queue.enter("noisy", seconds=5)
        quiet = asyncio.create_task(queue.enter("quiet", seconds=5))
        await asyncio.sleep(0)
        queue.leave("noisy")
        await quiet
        wait_result = await asyncio.wait({noisy[2]})
        assert isinstance(next(iter(wait_result[0])).exception(), QueueFullError)
        for task in noisy:
            task.cancel()
        await asyncio.gather(*noisy, return_exceptions=True)
        queue.leave("quiet")
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(work())


def test_waiting_ends_at_the_timeout():
    async def work() -> None:
        queue = FairQueue(1, 3)
        assert queue.try_enter("t")
        with pytest.raises(QueueFullError, match="in the queue"):
            await queue.enter("t", seconds=0.01)
        queue.leave("t")
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(work())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_a_queue_never_exceeds_its_capacity_and_loses_no_call(
    steps: list[tuple[str, bool]],
):
    async def work() -> None:
        queue, admitted, waiting = (
            FairQueue(2, 5),
            list[str](),
            list[asyncio.Task[None]](),
        )

        async def enter(tenant: str) -> None:
            await queue.enter(tenant, seconds=5)
            admitted.append(tenant)

        for tenant, is_arrival in steps:
            if is_arrival and queue.try_enter(tenant):
                admitted.append(tenant)
            elif is_arrival:
                waiting.append(asyncio.create_task(enter(tenant)))
            elif admitted:
                queue.leave(admitted.pop())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert queue.running <= 2
        while admitted:
            queue.leave(admitted.pop())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(work())


# keys


@given(st.integers(0, 60), st.sampled_from("0aZ_-"))
def test_a_mistyped_key_is_invalid(position: int, character: str):
    name, key = api_keys.generate_key()
    assert api_keys.id_of(key) == name
    position %= len(key)
    mistyped_key = key[:position] + character + key[position + 1 :]
    assert mistyped_key == key or api_keys.id_of(mistyped_key) is None
    assert key not in api_keys.hint(key)
    assert len(api_keys.hint(key)) == 13


def test_roles_cover_lower_ones():
    assert [role.covers(Role.DEVELOPER) for role in Role] == [
        True,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("models", "model", "is_allowed"),
    [
        ((), "a/b", True),
        (("a/*",), "a/b", True),
        (("a/*",), "ab/c", False),
        (("a/b",), "a/b2", False),
        (("*",), "x/y", True),
    ],
)
def test_a_key_may_call_models_that_its_patterns_match(
    models: tuple[str, ...], model: str, is_allowed: bool
):
    assert Caller(tenant="t", models=models).may_call(model) is is_allowed


def test_a_failover_cycle_is_found():
    assert find_cycle({"a": ["b"], "b": ["c"]}) == []
    assert find_cycle({"a": ["b", "c"], "c": ["a"]}) == ["a", "c", "a"]
    assert find_cycle({"a": ["a"]}) == ["a", "a"]


# shares of a batch


@given(st.integers(0, 10**9), st.lists(st.integers(1, 1000), min_size=1, max_size=50))
def test_shares_add_up_to_the_total(total: int, weights: list[int]):
    parts = proportional_shares(total, weights)
    assert sum(parts) == total
    assert min(parts) >= 0


def test_each_caller_of_a_batch_gets_its_vectors_and_its_share():
    async def work() -> None:
        loop = asyncio.get_running_loop()
        waiting = [
            _BatchWaiter(["a"], loop.create_future()),
            _BatchWaiter(["b", "c"], loop.create_future()),
        ]
        usage = EmbeddingUsage(
            tokens=10, total_tokens=10, total_price=Decimal("0.0000007")
        )
        _distribute(
            TextEmbeddingResult(embeddings=[[1.0], [2.0], [3.0]], usage=usage), waiting
        )
        first, two = await waiting[0].done, await waiting[1].done
        assert (first.embeddings, two.embeddings) == ([[1.0]], [[2.0], [3.0]])
        assert first.usage.tokens + two.usage.tokens == 10
        assert first.usage.total_price + two.usage.total_price == Decimal("0.0000007")

    asyncio.run(work())
