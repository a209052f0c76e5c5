"""Calls whose first deployment is chosen without waiting, and calls that are adapted to
what a server has refused."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError, InvokeConnectionError
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
    rendezvous_pick,
)
from modelyard.runtime.policies.dispatch import Dispatch
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock
from tests.unit.runtime.dispatch_calls import (
    Outcome,
    RecordedCalls,
    dispatch,
    group,
    hosted_deployment,
    new_invocation,
    run_call,
)


def refusal(*, is_adaptable: bool = True) -> InvokeBadRequestError:
    """Return the error of a server that refuses a parameter."""
    error = InvokeBadRequestError("temperature is not supported")
    error.is_adaptable = is_adaptable
    return error


# the first deployment, chosen without waiting


def test_the_first_choice_without_waiting_is_that_of_a_usual_call():
    clock = FakeClock()
    usual = group(DeploymentHealth(clock), *"abc")
    at_once = group(DeploymentHealth(clock), *"abc")
    for _ in range(4):
        invocation, direct_invocation = new_invocation(), new_invocation()
        calls = RecordedCalls({name: ["yes"] for name in "abc"})
        outcome = run_call(dispatch(clock, usual), calls, invocation)
        state = dispatch(clock, at_once).state(direct_invocation)
        chosen = state.next_now()
        assert chosen is not None
        assert [chosen.credential and chosen.credential.name] == calls.names
        assert state.deployment is chosen
        assert direct_invocation.record.notes == outcome.decisions


def test_the_first_choice_without_waiting_keeps_users_at_their_deployment():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abcd")
    policy = dispatch(clock, manager, sticky="user")
    for number in range(20):
        user = f"user-{number}"
        expected = rendezvous_pick(manager.deployments, user)
        assert policy.state(new_invocation(user=user)).next_now() is expected


def test_nothing_is_chosen_at_once_while_all_are_in_cooldown():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"ab")
    for name in "ab":
        manager.health.cool_down(f"{name}/big", 5.0)
    invocation = new_invocation()
    assert dispatch(clock, manager).state(invocation).next_now() is None
    assert invocation.record.notes == []


def test_a_call_goes_on_with_the_deployment_that_was_chosen():
    """Its first attempt could not be made at once; it must not be chosen again."""
    clock = FakeClock()
    policy = dispatch(clock, group(DeploymentHealth(clock), *"ab"))
    calls = RecordedCalls({"a": [InvokeConnectionError("down")], "b": ["yes"]})
    invocation = new_invocation()
    state = policy.state(invocation)
    state.chosen = state.next_now()

    async def work() -> list[str]:
        async with aclosing(policy.run(state, calls)) as chunks:
            return [received.text async for received in chunks]

    assert asyncio.run(work()) == ["yes"]
    assert calls.names == ["a", "b"]
    actions = [decision.action for decision in invocation.record.notes]
    assert actions == ["chose", "failed", "chose"]


# calls that are adapted


def _adapted_call(*steps: Any, **options: Any) -> tuple[Outcome, RecordedCalls]:
    """Let deployment `a` play the steps, and the others answer."""
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abc")
    calls = RecordedCalls({"a": list(steps), "b": ["other"], "c": ["other"]})
    return run_call(dispatch(clock, manager, **options), calls), calls


def test_a_refused_call_is_made_again_at_the_same_deployment():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abc")
    calls = RecordedCalls({"a": [[refusal()], [refusal()], ["yes"]]})
    # No repeat is needed for it, neither of the call nor of the budget.
    budget = RetryBudget(clock, retry_ratio=0.0, free=0.0)
    outcome = run_call(dispatch(clock, manager, retries=0, budget=budget), calls)
    assert outcome.texts == ["yes"]
    assert calls.names == ["a", "a", "a"]
    why = "temperature is not supported"
    details = {"deployment": "p/big with a", "why": why}
    assert outcome.details("adapted") == [details, details]
    assert outcome.actions == ["chose", "adapted", "adapted"]
    assert outcome.trace.is_notable
    # It was nobody's fault, and took no time.
    assert not manager.health.has_cooldowns
    assert clock.now == FakeClock().now
    assert manager.health.in_flight(manager.deployments[0]) == 0


def test_a_call_is_adapted_at_most_eight_times():
    outcome, calls = _adapted_call(refusal())
    assert isinstance(outcome.error, InvokeBadRequestError)
    assert calls.names == ["a"] * 9
    assert outcome.actions == ["chose", *["adapted"] * 8, "failed"]


def test_a_refusal_that_taught_nothing_is_final():
    outcome, calls = _adapted_call(refusal(is_adaptable=False))
    assert isinstance(outcome.error, InvokeBadRequestError)
    assert calls.names == ["a"]
    assert "adapted" not in outcome.actions


def test_a_call_is_not_adapted_once_its_answer_has_begun():
    outcome, calls = _adapted_call("half", refusal())
    assert isinstance(outcome.error, InvokeBadRequestError)
    assert outcome.texts == ["half"]
    assert calls.names == ["a"]
    assert "adapted" not in outcome.actions


def test_a_long_refusal_is_shortened_in_the_trace():
    error = InvokeBadRequestError("x" * 1000)
    error.is_adaptable = True
    outcome, _ = _adapted_call([error], ["yes"])
    assert outcome.details("adapted")[0]["why"] == "x" * 300


class CountedQuotas:
    """A hosted quota that is never used up."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def reserve(self, invocation: Invocation, deployment: Deployment) -> None:
        self.events.append(f"reserve {deployment.id}")

    def settle(
        self, invocation: Invocation, deployment: Deployment, *, is_served: bool
    ) -> None:
        self.events.append(f"{'use' if is_served else 'return'} {deployment.id}")


def test_an_adapted_call_reserves_its_hosted_quota_again():
    clock, quotas = FakeClock(), CountedQuotas()
    manager = LBModelManager([hosted_deployment("h")], DeploymentHealth(clock))
    calls = RecordedCalls({"h": [[refusal()], ["yes"]]})
    policy: Dispatch = dispatch(clock, manager, quotas=quotas)
    assert run_call(policy, calls).texts == ["yes"]
    attempt = ["reserve h/big", "return h/big", "reserve h/big", "use h/big"]
    assert quotas.events == attempt


@pytest.mark.parametrize("has_credential", [True, False])
def test_a_model_without_credential_is_adapted_too(*, has_credential: bool):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    local = Deployment("p/big", "p", "big", None)
    manager = group(health, "a") if has_credential else LBModelManager([local], health)
    name = "a" if has_credential else ""
    calls = RecordedCalls({name: [[refusal()], ["yes"]]})
    assert run_call(dispatch(clock, manager), calls).texts == ["yes"]
    assert calls.names == [name, name]
