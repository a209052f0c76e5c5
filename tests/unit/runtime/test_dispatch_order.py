"""In which order a call tries deployments and models, and how long it pauses."""

from typing import Any

import pytest

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeAuthorizationError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
    NoCredentialAvailableError,
)
from modelyard.runtime.load_balancing import DeploymentHealth, LBModelManager
from modelyard.runtime.policies.dispatch import backoff
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock
from tests.unit.runtime.dispatch_calls import (
    Outcome,
    RecordedCalls,
    deployment,
    dispatch,
    group,
    new_invocation,
    run_call,
)

BUSY = InvokeServerUnavailableError("busy")


def _busy(retry_after: float) -> InvokeServerUnavailableError:
    return InvokeServerUnavailableError("busy", retry_after=retry_after)


def _tried(
    script: dict[str, Any],
    *groups: LBModelManager,
    clock: FakeClock,
    **options: Any,
) -> tuple[Outcome, str]:
    """The outcome of a call, and the names of the credentials that it tried."""
    calls = RecordedCalls(script)
    outcome = run_call(dispatch(clock, *groups, **options), calls)
    return outcome, "".join(calls.names)


# the length of a pause


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 0.25), (2, 0.5), (3, 1.0), (4, 2.0), (5, 4.0), (6, 8.0), (7, 8.0)],
)
def test_the_pause_doubles_up_to_eight_seconds(failures: int, seconds: float):
    assert backoff(failures, 1.0) == seconds
    assert backoff(failures, 0.5) == seconds / 2
    assert backoff(failures, 0.0) == 0.0


def test_the_pause_stays_finite_after_many_failures():
    assert backoff(100_000, 1.0) == 8.0


def test_repeats_pause_longer_each_time():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a")
    outcome, names = _tried({"a": [BUSY]}, manager, clock=clock, retries=4)
    assert (names, outcome.error) == ("aaaaa", BUSY)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]


def test_the_pause_is_random_so_that_callers_do_not_return_together():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a")
    _tried({"a": [BUSY]}, manager, clock=clock, random_fraction=0.5)
    assert clock.slept == [0.125, 0.25]


def test_a_provider_may_ask_for_no_pause():
    clock = FakeClock()
    script = {"a": [[_busy(0.0)], ["yes"]]}
    outcome, _ = _tried(script, group(DeploymentHealth(clock), "a"), clock=clock)
    assert outcome.texts == ["yes"]
    assert clock.slept == []


def test_a_pause_is_made_once():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    script = {"a": [[_busy(3.0)], [InvokeAuthorizationError("no")]], "b": ["yes"]}
    outcome, names = _tried(
        script, group(health, "a"), group(health, "b", model="small"), clock=clock
    )
    assert (outcome.texts, names) == (["yes"], "aab")
    assert clock.slept == [3.0]


@pytest.mark.parametrize(("remaining", "is_repeated"), [(5.0, False), (5.5, True)])
def test_a_pause_must_end_before_the_deadline(remaining: float, is_repeated: bool):
    clock = FakeClock()
    calls = RecordedCalls({"a": [[_busy(5.0)], ["yes"]]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a"))
    invocation = new_invocation(deadline=clock.now + remaining)
    outcome = run_call(policy, calls, invocation)
    assert outcome.texts == (["yes"] if is_repeated else [])
    assert clock.slept == ([5.0] if is_repeated else [])


# other deployments of the model


def test_repeats_go_to_other_deployments_first():
    clock = FakeClock()
    script = {name: [BUSY] for name in "abcd"}
    manager = group(DeploymentHealth(clock), *"abcd")
    outcome, names = _tried(script, manager, clock=clock)
    assert (names, outcome.error) == ("abc", BUSY)
    assert clock.slept == []


def test_after_all_deployments_failed_a_pause_is_made_before_the_repeat():
    clock = FakeClock()
    script = {"a": [BUSY], "b": [[BUSY], ["yes"]]}
    manager = group(DeploymentHealth(clock), "a", "b")
    outcome, names = _tried(script, manager, clock=clock)
    assert (names, outcome.texts) == ("abb", ["yes"])
    assert clock.slept == [0.5]


def test_a_deployment_in_cooldown_does_not_take_the_repeat():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("b/big", 60.0)
    script = {"a": [[BUSY], ["yes"]], "b": ["no"]}
    outcome, names = _tried(script, group(health, "a", "b"), clock=clock)
    assert (names, outcome.texts) == ("aa", ["yes"])
    assert clock.slept == [0.25]


@pytest.mark.parametrize(
    "error_class",
    [
        InvokeAuthorizationError,
        InvokeRateLimitError,
        InvokeTimeoutError,
        InvokeConnectionError,
    ],
)
def test_errors_with_a_cooldown_move_on_without_using_repeats(
    error_class: type[InvokeError],
):
    clock = FakeClock()
    script = {name: [error_class(name)] for name in "abcde"}
    manager = group(DeploymentHealth(clock), *"abcde")
    outcome, names = _tried(script, manager, clock=clock, retries=0)
    assert names == "abcde"
    assert str(outcome.error) == "e"


def test_errors_that_cannot_be_repeated_do_not_use_up_the_repeats():
    clock = FakeClock()
    script: dict[str, Any] = {name: [InvokeAuthorizationError(name)] for name in "abc"}
    script["d"] = [[BUSY], [BUSY], ["yes"]]
    manager = group(DeploymentHealth(clock), *"abcd")
    outcome, names = _tried(script, manager, clock=clock)
    assert (names, outcome.texts) == ("abcddd", ["yes"])


def test_a_failing_server_is_not_replaced_without_repeats():
    clock = FakeClock()
    script = {"a": [BUSY], "b": ["yes"]}
    manager = group(DeploymentHealth(clock), "a", "b")
    outcome, names = _tried(script, manager, clock=clock, retries=0)
    assert (names, outcome.error) == ("a", BUSY)


def test_a_failing_server_is_not_replaced_without_a_retry_budget():
    clock = FakeClock()
    budget = RetryBudget(clock, free=0.0, retry_ratio=0.0)
    script = {"a": [BUSY], "b": ["yes"]}
    manager = group(DeploymentHealth(clock), "a", "b")
    outcome, names = _tried(script, manager, clock=clock, budget=budget)
    assert (names, outcome.error) == ("a", BUSY)


def test_each_repeat_uses_up_the_budget_of_the_tenant_and_provider():
    clock = FakeClock()
    budget = RetryBudget(clock, free=3.0, retry_ratio=0.0)
    manager = group(DeploymentHealth(clock), "a")
    _tried({"a": [_busy(0.0)]}, manager, clock=clock, budget=budget)
    assert [budget.try_retry("t", "p") for _ in range(2)] == [True, False]


# the next model


def test_the_next_model_has_repeats_of_its_own():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    script = {"a": [BUSY], "b": [[BUSY], [BUSY], ["yes"]]}
    outcome, names = _tried(
        script, group(health, "a"), group(health, "b", model="small"), clock=clock
    )
    assert (names, outcome.texts) == ("aaabbb", ["yes"])


def test_a_deployment_may_be_tried_again_as_part_of_the_next_group():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    shared = deployment("a")
    first = LBModelManager([shared], health)
    second = LBModelManager([shared, deployment("b", model="small")], health)
    script = {"a": [InvokeConnectionError("down")], "b": ["yes"]}
    outcome, names = _tried(script, first, second, clock=clock, retries=0)
    assert (names, outcome.texts) == ("aab", ["yes"])


def test_an_error_of_the_request_skips_the_models_other_deployments():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    error = ContextTooLongError("too long")
    script = {"a": [error], "b": ["no"], "c": ["yes"]}
    groups = [group(health, "a", "b"), group(health, "c", model="small")]
    outcome, names = _tried(script, *groups, clock=clock)
    assert (names, outcome.texts) == ("ac", ["yes"])
    outcome, names = _tried(script, group(health, "a", "b"), clock=clock)
    assert (names, outcome.error) == ("a", error)


def test_the_error_of_the_last_model_is_raised():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    script = {
        "a": [InvokeAuthorizationError("first")],
        "b": [InvokeAuthorizationError("second")],
    }
    outcome, names = _tried(
        script, group(health, "a"), group(health, "b", model="small"), clock=clock
    )
    assert (names, str(outcome.error)) == ("ab", "second")


def test_the_last_error_is_raised_if_the_next_model_cannot_be_called():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("b/small", 60.0)
    script = {"a": [InvokeAuthorizationError("first")]}
    outcome, names = _tried(
        script, group(health, "a"), group(health, "b", model="small"), clock=clock
    )
    assert (names, str(outcome.error)) == ("a", "first")


def test_the_next_model_is_called_at_once_if_the_first_is_in_cooldown():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 60.0)
    outcome, names = _tried(
        {"b": ["yes"]},
        group(health, "a"),
        group(health, "b", model="small"),
        clock=clock,
    )
    assert (names, outcome.texts, clock.slept) == ("b", ["yes"], [])


# waits for the end of a cooldown


@pytest.mark.parametrize(
    ("cooldown", "options", "is_served"),
    [
        (2.0, {}, True),
        (2.5, {}, False),
        (0.5, {"patience": 0.5}, True),
        (0.75, {"patience": 0.5}, False),
        (0.5, {"patience": 0.0}, False),
    ],
)
def test_a_call_waits_as_long_as_the_group_allows(
    cooldown: float, options: dict[str, float], is_served: bool
):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", cooldown)
    outcome, _ = _tried({"a": ["yes"]}, group(health, "a", **options), clock=clock)
    assert outcome.texts == (["yes"] if is_served else [])
    assert clock.slept == ([cooldown] if is_served else [])
    assert isinstance(outcome.error, NoCredentialAvailableError) is not is_served


@pytest.mark.parametrize(("remaining", "is_served"), [(1.5, False), (1.75, True)])
def test_a_wait_must_end_before_the_deadline(remaining: float, is_served: bool):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 1.5)
    policy = dispatch(clock, group(health, "a"))
    invocation = new_invocation(deadline=clock.now + remaining)
    outcome = run_call(policy, RecordedCalls({"a": ["yes"]}), invocation)
    assert outcome.texts == (["yes"] if is_served else [])


@pytest.mark.parametrize(("retry_after", "is_served"), [(2.0, True), (2.5, False)])
def test_a_limited_deployment_is_waited_for_if_the_limit_is_short(
    retry_after: float, is_served: bool
):
    clock = FakeClock()
    error = InvokeRateLimitError("slow", retry_after=retry_after)
    script = {"a": [[error], ["yes"]], "b": [InvokeAuthorizationError("no")]}
    manager = group(DeploymentHealth(clock), "b", "a")
    outcome, names = _tried(script, manager, clock=clock)
    if is_served:
        assert (names, outcome.texts) == ("baa", ["yes"])
        assert clock.slept == [2.0]
    else:
        assert (names, outcome.error) == ("ba", error)
        assert clock.slept == []


def test_a_model_that_was_waited_for_and_limited_again_is_given_up():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 1.0)
    script = {"a": [InvokeRateLimitError("slow", retry_after=1.0)], "b": ["yes"]}
    outcome, names = _tried(
        script, group(health, "a"), group(health, "b", model="small"), clock=clock
    )
    assert (names, outcome.texts) == ("ab", ["yes"])
    assert clock.slept == [1.0]


def test_a_failing_server_without_repeats_is_not_waited_for():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("b/big", 1.5)
    error = _busy(1.0)
    script = {"a": [[error], ["no"]], "b": ["no"]}
    outcome, names = _tried(script, group(health, "a", "b"), clock=clock, retries=0)
    assert (names, outcome.error, clock.slept) == ("a", error, [])


def test_a_deployment_with_a_running_probe_is_not_waited_for():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    manager = group(health, "a")
    health.cool_down("a/big", 1.0)
    clock.advance(1.0)
    health.begin(manager.deployments[0])
    outcome, names = _tried({"a": ["yes"]}, manager, clock=clock)
    assert (names, clock.slept) == ("", [])
    assert isinstance(outcome.error, NoCredentialAvailableError)
