"""Tests for dispatching: load balancing, cooldowns, retries, failover and hedging.

Deployments follow scripts, and the clock is a fake one that does not wait.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from modelyard.base.errors import (
    ContentFilterError,
    ContextTooLongError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
    NoCredentialAvailableError,
)
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Credential,
    Deployment,
    DeploymentHealth,
    LBModelManager,
    Plan,
    rendezvous_pick,
    weighted_pick,
)
from modelyard.runtime.pipeline import Call, compose
from modelyard.runtime.policies.dispatch import Dispatch, backoff
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock, chunk, last_chunk, scripted

ASK = Invocation(
    tenant="t",
    provider="p",
    model="big",
    model_type=ModelType.LLM,
    request=LLMRequest(messages=[UserPromptMessage(content="hello")]),
)


def deployments(*names: str, model: str = "big", **options: Any) -> list[Deployment]:
    return [
        Deployment(
            f"{name}/{model}",
            "p",
            model,
            Credential(name, name, {"api_key": name}),
            **options,
        )
        for name in names
    ]


def bare(model: str) -> list[Deployment]:
    """The deployment of a model that needs no credential."""
    return [Deployment(f"p/{model}", "p", model, None)]


def pool(
    clock: FakeClock,
    *names: str,
    health: DeploymentHealth | None = None,
    **options: Any,
) -> LBModelManager:
    return LBModelManager(
        deployments(*names), health or DeploymentHealth(clock), **options
    )


def dispatch(
    clock: FakeClock, *groups: LBModelManager, retries: int = 2, **plan: Any
) -> Dispatch:
    model_groups = list(groups) or [
        LBModelManager(bare("big"), DeploymentHealth(clock))
    ]
    dispatch_plan = Plan(model_groups, **plan)
    return Dispatch(
        lambda invocation: dispatch_plan, clock, RetryBudget(clock), retries
    )


def texts(policy: Dispatch, call: Call, ask: Invocation | None = None) -> list[str]:
    invocation = ask or replace(ASK, record=CallTrace())

    async def gather() -> list[str]:
        async with aclosing(compose([policy], call)(invocation)) as chunks:
            return [received_chunk.text async for received_chunk in chunks]

    return asyncio.run(gather())


def two_models(clock: FakeClock) -> Dispatch:
    health = DeploymentHealth(clock)
    return dispatch(
        clock,
        LBModelManager(bare("big"), health),
        LBModelManager(bare("small"), health),
        retries=0,
    )


# failover


def test_failover_happens_before_the_first_chunk():
    call, called_names = scripted(
        {"big": [InvokeConnectionError("down")], "small": ["he", "llo"]}
    )
    assert texts(two_models(FakeClock()), call) == ["he", "llo"]
    assert called_names == ["big", "small"]


def test_failover_never_happens_after_the_first_chunk():
    call, called_names = scripted(
        {"big": ["he", InvokeConnectionError("down")], "small": ["x"]}
    )
    with pytest.raises(InvokeConnectionError):
        texts(two_models(FakeClock()), call)
    assert called_names == ["big"]


def test_a_stream_without_content_has_not_started():
    role = LLMResultChunk(model="big")
    call, called_names = scripted(
        {"big": [role, InvokeConnectionError("down")], "small": [role, "hello"]}
    )
    assert texts(two_models(FakeClock()), call) == ["", "hello"]
    assert called_names == ["big", "small"]


@pytest.mark.parametrize(
    ("error", "moves"),
    [
        (InvokeBadRequestError("no"), False),
        (ContextTooLongError("long"), True),
        (ContentFilterError("no"), True),
    ],
)
def test_the_error_type_decides_about_failover(error: InvokeError, moves: bool):
    call, called_names = scripted({"big": [error], "small": ["x"]})
    if moves:
        assert texts(two_models(FakeClock()), call) == ["x"]
    else:
        with pytest.raises(InvokeBadRequestError):
            texts(two_models(FakeClock()), call)
    assert called_names == (["big", "small"] if moves else ["big"])


def test_an_interrupted_text_is_continued_if_configured():
    clock = FakeClock()
    invocations: list[Invocation] = []

    async def call(invocation: Invocation) -> Chunks:
        invocations.append(invocation)
        if len(invocations) == 1:
            yield chunk("once upon")
            raise InvokeServerUnavailableError("cut")
        yield chunk(" a time")
        yield last_chunk()

    policy = dispatch(clock, pool(clock, "a", "b"), continue_streams=True)
    assert texts(policy, call) == ["once upon", " a time", ""]
    assert invocations[1].request.messages[-1].text == "once upon"
    assert invocations[1].credential == "b"


# retries


def test_retry_repeats_the_call_if_the_error_allows_it():
    clock = FakeClock()
    call, called_names = scripted(
        {"big": [[InvokeServerUnavailableError("busy", retry_after=3)], ["ok"]]}
    )
    assert texts(dispatch(clock), call) == ["ok"]
    assert (called_names, clock.slept) == (["big", "big"], [3])


@pytest.mark.parametrize(
    "error",
    [
        InvokeBadRequestError("no"),
        InvokeAuthorizationError("no"),
        InvokeRateLimitError("slow"),
        InvokeTimeoutError("late"),
        InvokeServerUnavailableError("come back tomorrow", retry_after=86_400),
    ],
)
def test_other_errors_are_not_retried(error: InvokeError):
    clock = FakeClock()
    call, called_names = scripted({"big": [error]})
    with pytest.raises(type(error)):
        texts(dispatch(clock), call)
    assert (called_names, clock.slept) == (["big"], [])


def test_retries_are_limited_and_started_streams_are_not_retried():
    call, called_names = scripted({"big": [InvokeServerUnavailableError("busy")]})
    with pytest.raises(InvokeServerUnavailableError):
        texts(dispatch(FakeClock(), retries=2), call)
    assert called_names == ["big"] * 3
    call, called_names = scripted({"big": ["x", InvokeServerUnavailableError("busy")]})
    with pytest.raises(InvokeServerUnavailableError):
        texts(dispatch(FakeClock()), call)
    assert called_names == ["big"]


def test_retry_does_not_wait_past_the_deadline():
    clock = FakeClock()
    call, called_names = scripted(
        {"big": [InvokeServerUnavailableError("busy", retry_after=5)]}
    )
    with pytest.raises(InvokeServerUnavailableError):
        texts(
            dispatch(clock),
            call,
            replace(ASK, deadline=clock.now + 4, record=CallTrace()),
        )
    assert called_names == ["big"]


@given(st.integers(1, 50), st.floats(0, 1))
def test_backoff_is_bounded(failures: int, random_fraction: float):
    assert 0 <= backoff(failures, random_fraction) <= 8


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_retries_stay_within_a_fifth_of_all_calls(fails: list[bool]):
    budget, repeats = RetryBudget(FakeClock(), free=5), 0
    for is_failure in fails:
        budget.record_call("t", "p")
        repeats += is_failure and budget.try_retry("t", "p")
    assert repeats <= 5 + 0.2 * len(fails)


def test_one_tenants_failures_do_not_use_other_tenants_retries():
    budget = RetryBudget(FakeClock(), free=5)
    while budget.try_retry("acme", "p"):
        pass
    assert budget.try_retry("globex", "p")
    assert budget.try_retry("acme", "q")
    assert not budget.try_retry("acme", "p")
    for number in range(10_000):
        budget.record_call(f"t{number}", "p")
    assert len(budget._pots) <= 4096  # pyright: ignore[reportPrivateUsage]


def test_retries_do_not_overload_a_failing_provider():
    clock = FakeClock()
    call, called_names = scripted({"big": [InvokeServerUnavailableError("down")]})
    policy = dispatch(clock)
    clock_still = FakeClock()
    policy = Dispatch(policy.plan, clock_still, RetryBudget(FakeClock()), 2)
    for _ in range(100):
        with pytest.raises(InvokeServerUnavailableError):
            texts(policy, call)
    assert len(called_names) <= 100 * 1.2 * 1.2 + 6


# load balancing


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 100))
def test_an_available_deployment_is_found_if_there_is_one(
    rested: list[bool], turns: int
):
    clock = FakeClock()
    manager = pool(clock, *(str(index) for index in range(len(rested))))
    for deployment, is_rested in zip(manager.deployments, rested, strict=True):
        if not is_rested:
            manager.health.cool_down(deployment.id, 100)
    for _ in range(turns % 7 + 1):
        selected = manager.fetch_next()
        assert (selected is None) == (not any(rested))
        assert selected is None or rested[int(selected.id.partition("/")[0])]


@given(st.integers(1, 6), st.integers(1, 5))
def test_round_robin_is_even(size: int, rounds: int):
    manager = pool(FakeClock(), *map(str, range(size)))
    served = [
        deployment.id
        for _ in range(size * rounds)
        if (deployment := manager.fetch_next())
    ]
    assert all(served.count(f"{name}/big") == rounds for name in range(size))


@given(st.lists(st.integers(0, 10), min_size=1, max_size=6).filter(any))
@settings(max_examples=20, deadline=None)
def test_weight_decides_the_share(weights: list[int]):
    """In 10,000 draws each deployment gets its share by weight; weight 0 gets none."""
    candidates = [
        Deployment(str(index), "p", "m", Credential(str(index), "", {}), weight=weight)
        for index, weight in enumerate(weights)
    ]
    draw, draws = random.Random(11).random, 10_000
    counts = Counter(weighted_pick(candidates, draw()).id for _ in range(draws))
    for deployment in candidates:
        share = deployment.weight / sum(weights)
        assert counts[deployment.id] / draws == pytest.approx(share, abs=0.03)
        assert counts[deployment.id] > 0 or not deployment.weight
        assert deployment.weight or not counts[deployment.id]


def test_each_strategy_selects_as_documented():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    cheap = Deployment("cheap", "p", "m", None, price=1)
    dear = Deployment("dear", "p", "m", None, price=2)
    assert (
        LBModelManager([dear, cheap], health, strategy="lowest_cost").fetch_next()
        is cheap
    )
    health.begin(cheap)
    assert (
        LBModelManager([dear, cheap], health, strategy="least_in_flight").fetch_next()
        is dear
    )
    health.end(cheap)
    health.served(cheap, 1.0)
    health.served(dear, 0.1)
    picks = iter([0.0, 0.9, 0.0, 0.9])
    quick = LBModelManager(
        [dear, cheap], health, strategy="lowest_latency", rng=lambda: next(picks)
    )
    assert quick.fetch_next() is dear
    first = Deployment("first", "p", "m", None, priority=0)
    second = Deployment("then", "p", "m", None, priority=1)
    ordered = LBModelManager([second, first], health)
    assert [ordered.fetch_next() for _ in range(3)] == [first] * 3
    assert ordered.fetch_next(excluded_ids={"first"}) is second


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30, unique=True))
def test_session_affinity_moves_few_keys_when_a_deployment_is_removed(keys: list[str]):
    all_deployments = deployments(*"abcd")
    before_removal = {key: rendezvous_pick(all_deployments, key) for key in keys}
    left = all_deployments[:-1]
    after_removal = {key: rendezvous_pick(left, key) for key in keys}
    assert all(
        after_removal[key] is before_removal[key]
        for key in keys
        if before_removal[key] in left
    )


def test_a_rate_limited_credential_cools_down_and_the_next_serves():
    clock = FakeClock()
    call, called_names = scripted(
        {"a": [[InvokeRateLimitError("slow", retry_after=30)], ["a"]], "b": ["b"]},
        by="credential",
    )
    balance = dispatch(clock, pool(clock, "a", "b"))
    assert texts(balance, call) == ["b"]
    assert texts(balance, call) == ["b"]
    assert called_names == ["a", "b", "b"]
    clock.advance(31)
    assert {texts(balance, call)[0] for _ in range(2)} == {"a", "b"}


def test_credentials_with_a_shared_quota_cool_down_together():
    clock = FakeClock()
    candidates = [
        Deployment(
            name,
            "p",
            "big",
            Credential(name, name, {}, domain="org" if name != "c" else "other"),
        )
        for name in "abc"
    ]
    call, called_names = scripted(
        {"a": [InvokeRateLimitError("slow")], "b": ["b"], "c": ["c"]}, by="credential"
    )
    balance = dispatch(clock, LBModelManager(candidates, DeploymentHealth(clock)))
    assert texts(balance, call) == ["c"]
    assert texts(balance, call) == ["c"]
    assert called_names == ["a", "c", "c"]


def test_every_credential_is_tried_once_and_the_last_error_is_raised():
    clock = FakeClock()
    call, called_names = scripted(
        {
            "a": [InvokeAuthorizationError("a no")],
            "b": [InvokeRateLimitError("b slow")],
        },
        by="credential",
    )
    balance = dispatch(clock, pool(clock, "a", "b"))
    with pytest.raises(InvokeRateLimitError, match="b slow"):
        texts(balance, call)
    assert called_names == ["a", "b"]
    with pytest.raises(
        NoCredentialAvailableError,
        match="All 2 credentials are in cooldown; retry in 10 s",
    ) as caught:
        texts(balance, call)
    assert caught.value.retry_after == pytest.approx(10)


def test_a_short_cooldown_is_waited_for_once():
    clock = FakeClock()
    call, called_names = scripted(
        {"a": [[InvokeRateLimitError("slow", retry_after=1)], ["ok"]]}, by="credential"
    )
    assert texts(dispatch(clock, pool(clock, "a")), call) == ["ok"]
    assert (called_names, clock.slept) == (["a", "a"], [1])
    call, called_names = scripted(
        {"a": [InvokeRateLimitError("slow", retry_after=1)]}, by="credential"
    )
    with pytest.raises(InvokeRateLimitError):
        texts(dispatch(clock, pool(clock, "a")), call)
    assert called_names == ["a", "a"]


def test_without_patience_a_single_deployment_fails_at_once():
    clock = FakeClock()
    call, called_names = scripted(
        {"a": [InvokeRateLimitError("slow", retry_after=1)]}, by="credential"
    )
    with pytest.raises(InvokeRateLimitError):
        texts(dispatch(clock, pool(clock, "a", patience=0.0)), call)
    assert (called_names, clock.slept) == (["a"], [])


def test_the_only_credential_has_no_cooldown_after_one_failure():
    clock = FakeClock()
    call, called_names = scripted(
        {"a": [[InvokeConnectionError("down")], ["up"]]}, by="credential"
    )
    balance = dispatch(clock, pool(clock, "a"), retries=0)
    with pytest.raises(InvokeConnectionError):
        texts(balance, call)
    assert texts(balance, call) == ["up"]


def test_cooldowns_grow_and_end_with_one_probe_call():
    clock = FakeClock()
    call, called_names = scripted(
        {"a": [InvokeAuthorizationError("no")], "b": ["b"]}, by="credential"
    )
    balance = dispatch(clock, pool(clock, "a", "b"))
    waits: list[float] = []
    for _ in range(4):
        while "a" not in called_names[len(waits) and -2 :]:
            texts(balance, call)
        called_names.clear()
        health = balance.plan(ASK).groups[0].health
        waits.append(max(health.in_cooldown().values()))
        clock.advance(waits[-1] + 0.1)
    assert waits == [10, 20, 25, 25]


def test_only_one_call_probes_a_credential_after_its_cooldown():
    clock = FakeClock()
    manager = pool(clock, "a", "b")
    a, b = manager.deployments
    manager.health.cool_down(a.id, 5)
    clock.advance(6)
    manager.health.begin(a)
    assert {manager.fetch_next() for _ in range(4)} == {b}
    manager.health.end(a)
    manager.served(a, 0.1)
    assert {manager.fetch_next() for _ in range(4)} == {a, b}


def test_provider_failures_cool_down_at_most_half_of_a_group():
    clock = FakeClock()
    manager = pool(clock, *"abcd")
    for _ in range(10):
        for deployment in manager.deployments:
            manager.cooldown(deployment, InvokeServerUnavailableError("500"))
    assert len(manager.health.in_cooldown()) == 2


def test_an_earlier_answer_does_not_end_a_cooldown():
    clock = FakeClock()
    manager = pool(clock, "a", "b")
    manager.cooldown(
        manager.deployments[0], InvokeRateLimitError("slow", retry_after=30)
    )
    manager.served(manager.deployments[0], 0.1)
    assert manager.health.wait(manager.deployments[0]) == pytest.approx(30)


def test_a_much_slower_deployment_cools_down():
    clock = FakeClock()
    manager = pool(clock, *"abcd")
    for _ in range(30):
        for deployment in manager.deployments:
            manager.served(deployment, 5.0 if deployment.id.startswith("a") else 0.1)
    assert list(manager.health.in_cooldown()) == ["a/big"]


def test_the_error_without_a_credential_says_how_to_add_one():
    clock = FakeClock()
    call, _ = scripted({})
    with pytest.raises(NoCredentialAvailableError, match="providers add p"):
        texts(dispatch(clock, pool(clock)), call)


def test_credential_values_reach_the_call_but_not_repr():
    clock = FakeClock()
    invocations: list[Invocation] = []

    async def call(invocation: Invocation) -> Chunks:
        invocations.append(invocation)
        yield last_chunk()

    manager = pool(clock, "canary-value")
    texts(dispatch(clock, manager), call)
    assert invocations[0].credentials == {"api_key": "canary-value"}
    assert "api_key" not in repr(manager.deployments[0])


@given(
    st.lists(
        st.sampled_from(["ok", "limited", "down", "refused", "broken", "bad"]),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_every_call_ends_after_a_bounded_number_of_attempts(
    fates: list[str], retries: int
):
    """Every call ends with an answer or an error.

    The number of attempts is bounded, whatever the deployments do.
    """
    clock = FakeClock()
    errors = {
        "limited": InvokeRateLimitError("x"),
        "down": InvokeConnectionError("x"),
        "refused": InvokeAuthorizationError("x"),
        "broken": InvokeServerUnavailableError("x"),
        "bad": InvokeBadRequestError("x"),
    }
    script: dict[str, Sequence[Any]] = {
        str(n): [errors.get(fate, "yes")] for n, fate in enumerate(fates)
    }
    call, called_names = scripted(script, by="credential")
    policy = dispatch(clock, pool(clock, *script), retries=retries)
    try:
        assert texts(policy, call) == ["yes"]
        assert "ok" in fates
    except InvokeError:
        assert set(fates) != {"ok"}
    assert len(called_names) <= len(fates) + 2 * (retries + 1) + 1


# hedging


def test_a_slow_first_attempt_is_hedged_and_closed():
    async def work() -> None:
        clock = FakeClock()
        closed: list[str] = []
        manager = pool(clock, "slow", "quick")
        for _ in range(30):
            manager.served(manager.deployments[1], 0.01)

        async def call(invocation: Invocation) -> Chunks:
            try:
                if invocation.credential == "slow":
                    await asyncio.sleep(30)
                yield chunk(invocation.credential)
                yield last_chunk()
            finally:
                closed.append(invocation.credential)

        policy = dispatch(clock, manager, hedge_after=95.0)
        async with aclosing(
            compose([policy], call)(replace(ASK, record=CallTrace()))
        ) as chunks:
            answer_texts = [received_chunk.text async for received_chunk in chunks]
        assert answer_texts == ["quick", ""]
        assert closed == ["slow", "quick"]
        assert manager.health.in_flight(manager.deployments[0]) == 0

    asyncio.run(asyncio.wait_for(work(), 5))


def test_no_hedging_if_the_retry_budget_is_exhausted():
    async def work() -> None:
        clock = FakeClock()
        called_names: list[str] = []
        manager = pool(clock, "slow", "quick")
        for _ in range(30):
            manager.served(manager.deployments[1], 0.01)

        async def call(invocation: Invocation) -> Chunks:
            called_names.append(invocation.credential)
            await asyncio.sleep(0.05)
            yield chunk(invocation.credential)
            yield last_chunk()

        budget = RetryBudget(clock)
        while budget.try_retry("t", "p"):
            pass
        plan = Plan([manager], hedge_after=95.0)
        policy = Dispatch(lambda invocation: plan, clock, budget, 2)
        async with aclosing(
            compose([policy], call)(replace(ASK, record=CallTrace()))
        ) as chunks:
            assert [received_chunk.text async for received_chunk in chunks] == [
                "slow",
                "",
            ]
        assert called_names == ["slow"]

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_second_one_that_fails_at_once_does_not_end_the_first():
    async def work() -> None:
        clock = FakeClock()
        manager = pool(clock, "slow", "broken")
        for _ in range(30):
            manager.served(manager.deployments[1], 0.01)
        has_failed = asyncio.Event()

        async def slow(invocation: Invocation) -> Chunks:
            await has_failed.wait()
            yield chunk(invocation.credential)

        def call(invocation: Invocation) -> Chunks:
            if invocation.credential == "slow":
                return slow(invocation)
            has_failed.set()
            raise InvokeConnectionError("down")

        policy = dispatch(clock, manager, hedge_after=95.0)
        ask = replace(ASK, record=CallTrace())
        async with aclosing(compose([policy], call)(ask)) as chunks:
            answer_texts = [received_chunk.text async for received_chunk in chunks]
        assert answer_texts == ["slow"]
        assert manager.health._in_flight == {}

    asyncio.run(asyncio.wait_for(work(), 5))


def test_both_of_a_pair_are_counted_as_ended_if_their_closing_is_cancelled():
    """The caller may be cancelled a second time, while slow attempts clean up."""

    async def work() -> None:
        clock = FakeClock()
        manager = pool(clock, "a", "b")
        for _ in range(30):
            manager.served(manager.deployments[1], 0.01)
        started, closing = asyncio.Semaphore(0), asyncio.Semaphore(0)
        may_close = asyncio.Event()

        async def call(invocation: Invocation) -> Chunks:
            try:
                started.release()
                await asyncio.Event().wait()
                yield chunk("never")
            finally:
                closing.release()
                await may_close.wait()

        policy = dispatch(clock, manager, hedge_after=95.0)

        async def read() -> None:
            ask = replace(ASK, record=CallTrace())
            async with aclosing(compose([policy], call)(ask)) as chunks:
                async for _ in chunks:
                    pass

        reading = asyncio.ensure_future(read())
        await started.acquire()
        await started.acquire()
        assert sum(manager.health._in_flight.values()) == 2
        reading.cancel()
        for _ in range(2):
            # Each attempt in turn is cancelled and cleans up; so is the caller again.
            await closing.acquire()
            reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert manager.health._in_flight == {}
        may_close.set()

    asyncio.run(asyncio.wait_for(work(), 5))


# calls that fail before they have a stream


def test_a_call_that_fails_at_once_is_an_attempt_that_failed():
    clock, quotas = FakeClock(), _Quotas()
    managers = [_hosted(clock, "h", "big"), _hosted(clock, "h", "small")]
    plan = Plan(managers)
    policy = Dispatch(lambda invocation: plan, clock, RetryBudget(clock), 0, quotas)
    stream, _ = scripted({"small": ["yes"]})

    def call(invocation: Invocation) -> Chunks:
        if invocation.model == "big":
            raise InvokeConnectionError("down")
        return stream(invocation)

    assert texts(policy, call) == ["yes"]
    assert [manager.health._in_flight for manager in managers] == [{}, {}]
    assert quotas.settled == [("h/big", False), ("h/small", True)]


def test_a_fault_in_a_call_is_raised_and_its_attempt_has_ended():
    manager = pool(FakeClock(), "a")

    def call(invocation: Invocation) -> Chunks:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        texts(dispatch(FakeClock(), manager), call)
    assert manager.health._in_flight == {}


# waiting, and passing on to the caller


@pytest.mark.parametrize(
    ("retry_after", "waited"), [(2.0, [2.0]), (10.0, [10.0]), (10.5, []), (60.0, [])]
)
def test_a_long_retry_after_is_passed_to_the_caller_and_not_waited_for(
    retry_after: float, waited: list[float]
):
    clock = FakeClock()
    call, called_names = scripted(
        {
            "big": [
                [InvokeServerUnavailableError("busy", retry_after=retry_after)],
                ["yes"],
            ]
        }
    )
    policy = dispatch(clock)
    if waited:
        assert texts(policy, call) == ["yes"]
    else:
        with pytest.raises(InvokeServerUnavailableError) as raised:
            texts(policy, call)
        assert raised.value.retry_after == retry_after
    assert clock.slept == waited
    assert len(called_names) == (2 if waited else 1)


def test_a_stream_of_blank_chunks_reaches_the_caller():
    role, usage = LLMResultChunk(model="big"), LLMResultChunk(model="big")
    call, _ = scripted({"big": [role, usage]})
    assert texts(dispatch(FakeClock()), call) == ["", ""]


def test_each_model_may_wait_once_for_a_short_cooldown():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    first, second = (
        pool(clock, "a", health=health),
        LBModelManager(deployments("b", model="small"), health),
    )
    health.cool_down("a/big", 1.0)
    health.cool_down("b/small", 2.5)
    call, called_names = scripted(
        {"big": [InvokeConnectionError("down")], "small": ["yes"]}
    )
    policy = dispatch(clock, first, second, retries=0)
    assert texts(policy, call) == ["yes"]
    assert called_names == ["big", "small"]
    assert clock.slept == [1.0, 1.5]


class _Quotas:
    """Records how each reservation of a hosted credential was settled."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, bool]] = []

    async def reserve(
        self, invocation: Invocation, deployment: Deployment
    ) -> str | None:
        return None

    def settle(
        self, invocation: Invocation, deployment: Deployment, *, is_served: bool
    ) -> None:
        self.settled.append((deployment.id, is_served))


def _hosted(clock: FakeClock, name: str, model: str) -> LBModelManager:
    quota = (("q", Limit(unit="credits", amount=5, window="total")),)
    credential = Credential(name, name, {"api_key": name}, quotas=quota)
    return LBModelManager(
        [Deployment(f"{name}/{model}", "p", model, credential)], DeploymentHealth(clock)
    )


@pytest.mark.parametrize(
    ("script", "served"), [(["yes"], True), ([InvokeConnectionError("down")], False)]
)
def test_a_hosted_quota_is_released_if_the_call_failed(script: list[Any], served: bool):
    clock, quotas = FakeClock(), _Quotas()
    plan = Plan([_hosted(clock, "h", "big")])
    policy = Dispatch(lambda invocation: plan, clock, RetryBudget(clock), 0, quotas)
    call, _ = scripted({"big": script})
    if served:
        texts(policy, call)
    else:
        with pytest.raises(InvokeConnectionError):
            texts(policy, call)
    assert quotas.settled == [("h/big", served)]


def test_a_hosted_quota_is_charged_once_after_a_failover():
    clock, quotas = FakeClock(), _Quotas()
    quota = (("q", Limit(unit="credits", amount=5, window="total")),)
    hosted = [
        Deployment(
            f"{name}/big",
            "p",
            "big",
            Credential(name, name, {"api_key": name}, quotas=quota),
        )
        for name in "ab"
    ]
    plan = Plan([LBModelManager(hosted, DeploymentHealth(clock))])
    policy = Dispatch(lambda invocation: plan, clock, RetryBudget(clock), 2, quotas)
    call, _ = scripted(
        {"a": [InvokeConnectionError("down")], "b": ["yes"]}, by="credential"
    )
    assert texts(policy, call) == ["yes"]
    assert quotas.settled == [("a/big", False), ("b/big", True)]
