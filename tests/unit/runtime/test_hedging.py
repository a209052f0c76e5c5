"""Hedged attempts: a second deployment is called if the first is slow to answer."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.models.llm import LLMResultChunk
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import DeploymentHealth, LBModelManager
from modelyard.runtime.pipeline import compose
from modelyard.runtime.policies.dispatch import Dispatch
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock, chunk
from tests.unit.runtime.dispatch_calls import (
    Outcome,
    collect,
    deployment,
    dispatch,
    group,
    hosted_deployment,
    new_invocation,
)

DELAY = 0.0123456
"""Seconds to the first chunk of earlier calls, after which the second attempt starts."""


class _Upstream:
    """Deployments that can wait for each other, with the steps of each credential.

    A step is a chunk or a text, an error to raise, or a coroutine function to wait for.
    """

    def __init__(self, **steps: list[Any]) -> None:
        self._steps = steps
        self.invocations: list[Invocation] = []
        self.closed: list[str] = []
        self.started = {name: asyncio.Event() for name in steps}
        self.ended = {name: asyncio.Event() for name in steps}

    @property
    def names(self) -> list[str]:
        """The credentials in the order of the calls."""
        return [invocation.credential for invocation in self.invocations]

    async def __call__(self, invocation: Invocation) -> Chunks:
        name = invocation.credential
        self.invocations.append(invocation)
        self.started[name].set()
        try:
            for step in self._steps[name]:
                if isinstance(step, InvokeError):
                    raise step
                if callable(step):
                    await step(self)
                else:
                    yield chunk(step) if isinstance(step, str) else step
        finally:
            self.closed.append(name)
            self.ended[name].set()


async def _forever(upstream: _Upstream) -> None:
    """Wait until the attempt is cancelled."""
    await asyncio.Event().wait()


def _until_started(name: str) -> Callable[[_Upstream], Any]:
    """Wait until another deployment has been called."""

    async def wait(upstream: _Upstream) -> None:
        await upstream.started[name].wait()

    return wait


def _until_ended(name: str) -> Callable[[_Upstream], Any]:
    """Wait until the attempt at another deployment has ended."""

    async def wait(upstream: _Upstream) -> None:
        await upstream.ended[name].wait()

    return wait


def _measured(manager: LBModelManager) -> LBModelManager:
    """Let enough calls answer after the delay for hedging to be possible."""
    for _ in range(30):
        manager.served(manager.deployments[-1], DELAY)
    return manager


def _hedging(*names: str, **options: Any) -> tuple[Dispatch, LBModelManager]:
    """A policy that hedges over deployments of these names, and their group."""
    clock = FakeClock()
    manager = _measured(group(DeploymentHealth(clock), *names))
    return dispatch(clock, manager, hedge_after=95.0, **options), manager


def _run(
    policy: Dispatch, create: Callable[[], _Upstream], **fields: Any
) -> tuple[Outcome, _Upstream]:
    """Make a call, with an upstream that is created in the event loop."""

    async def call() -> tuple[Outcome, _Upstream]:
        upstream = create()
        outcome = await collect(policy, upstream, new_invocation(**fields))
        return outcome, upstream

    return asyncio.run(asyncio.wait_for(call(), 10))


def _in_flight(manager: LBModelManager) -> list[int]:
    return [manager.health.in_flight(peer) for peer in manager.deployments]


# who wins


def test_the_second_attempt_wins_if_it_answers_first():
    policy, manager = _hedging("a", "b")
    outcome, upstream = _run(
        policy, lambda: _Upstream(a=[_forever], b=["x", "y"]), id="call-7"
    )
    assert outcome.texts == ["x", "y"]
    assert upstream.names == ["a", "b"]
    assert upstream.closed == ["a", "b"]
    assert _in_flight(manager) == [0, 0]
    assert outcome.details("hedged") == [{"with_": "p/big with b", "after_ms": 12.3}]
    assert upstream.invocations[1].credentials == {"api_key": "b"}
    assert {invocation.id for invocation in upstream.invocations} == {"call-7"}


def test_the_latency_is_recorded_for_the_winner():
    policy, manager = _hedging("a", "b", "c")
    assert manager.health.latency(manager.deployments[1]) == 0.0
    slow_steps = [_advance(policy, 2.0), "x"]
    _run(policy, lambda: _Upstream(a=[_forever], b=slow_steps, c=[]))
    assert manager.health.latency(manager.deployments[0]) == 0.0
    assert manager.health.latency(manager.deployments[1]) == 2.0


def _advance(policy: Dispatch, seconds: float) -> Callable[[_Upstream], Any]:
    async def advance(upstream: _Upstream) -> None:
        await policy.clock.sleep(seconds)

    return advance


def test_the_first_attempt_wins_if_it_answers_before_the_second():
    policy, manager = _hedging("a", "b")
    outcome, upstream = _run(
        policy, lambda: _Upstream(a=[_until_started("b"), "x", "y"], b=[_forever])
    )
    assert outcome.texts == ["x", "y"]
    assert upstream.names == ["a", "b"]
    assert upstream.closed == ["b", "a"]
    assert _in_flight(manager) == [0, 0]


def test_an_answer_within_the_delay_is_not_hedged():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    for _ in range(30):
        manager.served(manager.deployments[1], 3600.0)
    policy = dispatch(clock, manager, hedge_after=95.0)
    outcome, upstream = _run(policy, lambda: _Upstream(a=["x"], b=["y"]))
    assert (outcome.texts, upstream.names) == (["x"], ["a"])
    assert outcome.actions == ["chose"]
    assert _in_flight(manager) == [0, 0]


def test_chunks_before_the_first_content_reach_the_caller():
    policy, _ = _hedging("a", "b")
    role, blank = LLMResultChunk(model="role"), LLMResultChunk(model="blank")
    outcome, _ = _run(
        policy, lambda: _Upstream(a=[role, _forever], b=[role, blank, "x", blank])
    )
    assert outcome.chunks[:2] == [role, blank]
    assert outcome.texts == ["", "", "x", ""]


def test_an_answer_without_content_reaches_the_caller():
    policy, manager = _hedging("a", "b")
    blank = LLMResultChunk(model="blank")
    outcome, upstream = _run(policy, lambda: _Upstream(a=[_forever], b=[blank, blank]))
    assert outcome.chunks == [blank, blank]
    assert outcome.error is None
    assert upstream.closed == ["b", "a"]
    assert _in_flight(manager) == [0, 0]


# failures


def test_a_failure_before_the_delay_leads_to_the_next_deployment():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    for _ in range(30):
        manager.served(manager.deployments[1], 3600.0)
    policy = dispatch(clock, manager, hedge_after=95.0)
    error = InvokeAuthorizationError("no")
    outcome, upstream = _run(policy, lambda: _Upstream(a=[error], b=["x"]))
    assert (outcome.texts, upstream.names) == (["x"], ["a", "b"])
    assert outcome.actions == ["chose", "failed", "chose"]
    assert manager.health.in_cooldown() == {"a": 10.0}


def test_a_first_attempt_that_fails_during_the_second_is_put_in_cooldown():
    policy, manager = _hedging("a", "b")
    error = InvokeAuthorizationError("no")
    outcome, upstream = _run(
        policy,
        lambda: _Upstream(a=[_until_started("b"), error], b=[_until_ended("a"), "x"]),
    )
    assert (outcome.texts, upstream.names) == (["x"], ["a", "b"])
    assert manager.health.in_cooldown() == {"a": 10.0}
    assert outcome.actions == ["chose", "hedged", "failed"]
    assert _in_flight(manager) == [0, 0]


def test_a_second_attempt_that_fails_is_put_in_cooldown():
    policy, manager = _hedging("a", "b")
    error = InvokeRateLimitError("slow", retry_after=30.0)
    outcome, upstream = _run(
        policy, lambda: _Upstream(a=[_until_ended("b"), "x"], b=[error])
    )
    assert (outcome.texts, upstream.names) == (["x"], ["a", "b"])
    assert manager.health.in_cooldown() == {"b/big": 30.0}
    assert outcome.details("failed")[0]["deployment"] == "p/big with b"
    assert _in_flight(manager) == [0, 0]


def test_if_both_fail_each_deployment_answers_for_its_own_error():
    policy, manager = _hedging("a", "b")
    down = InvokeConnectionError("down", retry_after=40.0)
    refused = InvokeAuthorizationError("refused", retry_after=50.0)
    outcome, upstream = _run(
        policy,
        lambda: _Upstream(
            a=[_until_started("b"), down], b=[_until_ended("a"), refused]
        ),
    )
    assert outcome.error is down
    assert upstream.names == ["a", "b"]
    assert manager.health.in_cooldown() == {"a/big": 40.0, "b": 50.0}
    assert [details["why"] for details in outcome.details("failed")] == [
        "refused",
        "down",
    ]
    assert _in_flight(manager) == [0, 0]


def test_a_failure_after_the_first_content_belongs_to_the_winner():
    policy, manager = _hedging("a", "b")
    error = InvokeAuthorizationError("no")
    outcome, upstream = _run(policy, lambda: _Upstream(a=[_forever], b=["x", error]))
    assert (outcome.texts, outcome.error) == (["x"], error)
    assert upstream.names == ["a", "b"]
    assert manager.health.in_cooldown() == {"b": 10.0}
    assert _in_flight(manager) == [0, 0]


def test_a_continued_stream_is_hedged_with_the_text_so_far():
    policy, _ = _hedging("a", "b", "c", continue_streams=True)
    broken = InvokeServerUnavailableError("broken off")
    outcome, upstream = _run(
        policy,
        lambda: _Upstream(a=["once", broken], b=[_forever], c=[" upon"]),
    )
    assert outcome.texts == ["once", " upon"]
    assert upstream.names == ["a", "b", "c"]
    last_messages = [
        invocation.request.messages[-1].text for invocation in upstream.invocations
    ]
    assert last_messages == ["hello", "once", "once"]


# when there is no second attempt


def _first_alone() -> _Upstream:
    """An upstream whose first deployment answers after several delays."""

    async def pause(upstream: _Upstream) -> None:
        await asyncio.sleep(5 * DELAY)

    return _Upstream(a=[pause, "x"], b=["y"])


def _assert_not_hedged(policy: Dispatch, manager: LBModelManager) -> Outcome:
    outcome, upstream = _run(policy, _first_alone)
    assert (outcome.texts, upstream.names) == (["x"], ["a"])
    assert outcome.details("hedged") == []
    assert set(_in_flight(manager)) == {0}
    return outcome


def test_a_plan_without_hedging_makes_one_attempt():
    clock = FakeClock()
    manager = _measured(group(DeploymentHealth(clock), "a", "b"))
    _assert_not_hedged(dispatch(clock, manager), manager)


def test_hedging_needs_twenty_earlier_answers():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    for _ in range(19):
        manager.served(manager.deployments[1], DELAY)
    _assert_not_hedged(dispatch(clock, manager, hedge_after=95.0), manager)


def test_hedging_needs_a_second_deployment():
    policy, manager = _hedging("a")
    _assert_not_hedged(policy, manager)


def test_a_deployment_in_cooldown_is_not_the_second():
    policy, manager = _hedging("a", "b")
    manager.health.cool_down("b/big", 60.0)
    _assert_not_hedged(policy, manager)


def test_a_hosted_credential_is_not_the_second():
    clock = FakeClock()
    manager = _measured(
        LBModelManager(
            [deployment("a"), hosted_deployment("b")], DeploymentHealth(clock)
        )
    )
    _assert_not_hedged(dispatch(clock, manager, hedge_after=95.0), manager)


def test_the_retry_budget_limits_second_attempts():
    clock = FakeClock()
    budget = RetryBudget(clock, free=0.0, retry_ratio=0.0)
    policy, manager = _hedging("a", "b", budget=budget)
    _assert_not_hedged(policy, manager)


def test_a_second_attempt_uses_up_the_retry_budget():
    budget = RetryBudget(FakeClock(), free=2.0, retry_ratio=0.0)
    policy, _ = _hedging("a", "b", budget=budget)
    _run(policy, lambda: _Upstream(a=[_forever], b=["x"]))
    assert [budget.try_retry("t", "p") for _ in range(2)] == [True, False]


def test_a_deployment_that_has_failed_is_not_the_second():
    policy, manager = _hedging("a", "b")
    busy = InvokeServerUnavailableError("busy")

    async def pause(upstream: _Upstream) -> None:
        await asyncio.sleep(5 * DELAY)

    outcome, upstream = _run(policy, lambda: _Upstream(a=[busy], b=[pause, "x"]))
    assert (outcome.texts, upstream.names) == (["x"], ["a", "b"])
    assert _in_flight(manager) == [0, 0]


# quotas and callers


class _Quotas:
    """Admits every call, and records how each was settled."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, bool]] = []

    async def reserve(self, invocation: Invocation, candidate: Any) -> str | None:
        return None

    def settle(
        self, invocation: Invocation, candidate: Any, *, is_served: bool
    ) -> None:
        self.settled.append((candidate.id, is_served))


@pytest.mark.parametrize(
    ("first_steps", "is_served"),
    [([_forever], False), ([_until_started("b"), "x"], True)],
)
def test_a_hosted_first_attempt_is_charged_only_if_it_wins(
    first_steps: list[Any], is_served: bool
):
    clock, quotas = FakeClock(), _Quotas()
    manager = _measured(
        LBModelManager(
            [hosted_deployment("a"), deployment("b")], DeploymentHealth(clock)
        )
    )
    policy = dispatch(clock, manager, quotas=quotas, hedge_after=95.0)
    second_steps = [_forever] if is_served else ["y"]
    outcome, _ = _run(policy, lambda: _Upstream(a=first_steps, b=second_steps))
    assert outcome.texts == (["x"] if is_served else ["y"])
    assert quotas.settled == [("a/big", is_served)]


def test_a_caller_that_leaves_ends_both_attempts():
    policy, manager = _hedging("a", "b")

    async def leave() -> _Upstream:
        upstream = _Upstream(a=[_forever], b=[_forever])

        async def read() -> None:
            async with aclosing(
                compose([policy], upstream)(new_invocation())
            ) as chunks:
                async for _ in chunks:
                    pass

        reader = asyncio.ensure_future(read())
        await upstream.started["b"].wait()
        assert _in_flight(manager) == [1, 1]
        reader.cancel()
        await asyncio.wait({reader})
        return upstream

    upstream = asyncio.run(asyncio.wait_for(leave(), 10))
    assert sorted(upstream.closed) == ["a", "b"]
    assert _in_flight(manager) == [0, 0]
