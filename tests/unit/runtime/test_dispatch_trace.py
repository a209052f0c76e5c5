"""What a call's trace and the log say about its way to a deployment."""

import logging

import pytest

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeAuthorizationError,
    InvokeConnectionError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    NoCredentialAvailableError,
)
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
)
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.testing import FakeClock, chunk
from tests.unit.runtime.dispatch_calls import (
    RecordedCalls,
    dispatch,
    group,
    hosted_deployment,
    new_invocation,
    run_call,
)


def _log_fields(caplog: pytest.LogCaptureFixture, message: str) -> list[object]:
    """The fields of the log entries of dispatch with this message."""
    return [
        getattr(record, "fields", None)
        for record in caplog.records
        if record.name == "modelyard.dispatch" and record.message == message
    ]


# choices


def test_the_first_choice_is_recorded_and_not_notable():
    clock = FakeClock(500.0)
    invocation = new_invocation()
    calls = RecordedCalls({"a": ["yes"], "b": ["yes"]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a", "b"))
    outcome = run_call(policy, calls, invocation)
    assert [tuple(decision) for decision in outcome.decisions] == [
        (500.0, "chose", {"deployment": "p/big with a", "by": "round_robin", "of": 2})
    ]
    assert not invocation.record.is_notable


def test_a_choice_lists_the_deployments_in_cooldown():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 12.3456)
    calls = RecordedCalls({"b": ["yes"]})
    manager = group(health, "a", "b", strategy="least_in_flight")
    invocation = new_invocation()
    outcome = run_call(dispatch(clock, manager), calls, invocation)
    assert outcome.details("chose") == [
        {
            "deployment": "p/big with b",
            "by": "least_in_flight",
            "of": 2,
            "resting": {"p/big with a": 12.346},
        }
    ]
    assert not invocation.record.is_notable


def test_a_failed_attempt_and_the_next_choice_are_recorded():
    clock = FakeClock(500.0)

    async def call(invocation: Invocation) -> Chunks:
        clock.advance(2.0)
        if invocation.credential == "a":
            raise InvokeRateLimitError("slow down", retry_after=30.0)
        yield chunk("yes")

    invocation = new_invocation()
    manager = group(DeploymentHealth(clock), "a", "b")
    outcome = run_call(dispatch(clock, manager), call, invocation)
    assert [tuple(decision) for decision in outcome.decisions[1:]] == [
        (
            502.0,
            "failed",
            {
                "deployment": "p/big with a",
                "error": "rate_limit_exceeded",
                "why": "slow down",
                "rests": 30.0,
            },
        ),
        (
            502.0,
            "chose",
            {
                "deployment": "p/big with b",
                "by": "round_robin",
                "of": 2,
                "resting": {"p/big with a": 30.0},
            },
        ),
    ]
    assert invocation.record.is_notable


def test_an_attempt_after_a_failed_one_is_notable_even_without_a_cooldown():
    clock = FakeClock()
    script = {"a": [InvokeServerUnavailableError("503")], "b": ["yes"]}
    outcome = run_call(
        dispatch(clock, group(DeploymentHealth(clock), "a", "b")), RecordedCalls(script)
    )
    assert outcome.details("chose")[1] == {
        "deployment": "p/big with b",
        "by": "round_robin",
        "of": 2,
        "resting": {},
    }
    assert outcome.details("failed")[0]["rests"] == 0.0


def test_long_error_messages_are_cut_after_300_characters():
    clock = FakeClock()
    calls = RecordedCalls({"a": [InvokeConnectionError("x" * 299 + "yz")]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a"), retries=0)
    outcome = run_call(policy, calls)
    assert [details["why"] for details in outcome.details("failed")] == [
        "x" * 299 + "y"
    ]


def test_a_cooldown_is_logged_with_the_call_and_the_deployment(
    caplog: pytest.LogCaptureFixture,
):
    clock = FakeClock()
    script = {"a": [InvokeAuthorizationError("refused")], "b": ["yes"]}
    policy = dispatch(clock, group(DeploymentHealth(clock), "a", "b"))
    with caplog.at_level(logging.WARNING, "modelyard.dispatch"):
        run_call(policy, RecordedCalls(script), new_invocation(id="call-7"))
    assert _log_fields(caplog, "credential in cooldown") == [
        {
            "call": "call-7",
            "deployment": "p/big with a",
            "seconds": 10.0,
            "error": "refused",
        }
    ]


def test_a_failure_without_a_cooldown_is_not_logged(caplog: pytest.LogCaptureFixture):
    clock = FakeClock()
    script = {"a": [InvokeServerUnavailableError("503")], "b": ["yes"]}
    policy = dispatch(clock, group(DeploymentHealth(clock), "a", "b"))
    with caplog.at_level(logging.WARNING, "modelyard.dispatch"):
        run_call(policy, RecordedCalls(script))
    assert not caplog.records


# failover


def test_a_failover_is_recorded_and_logged(caplog: pytest.LogCaptureFixture):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    policy = dispatch(
        clock, group(health, "a", "b"), group(health, "c", "d", model="small")
    )
    script = {"a": [ContextTooLongError("too long")], "c": ["yes"]}
    with caplog.at_level(logging.WARNING, "modelyard.dispatch"):
        outcome = run_call(policy, RecordedCalls(script), new_invocation(id="call-7"))
    assert outcome.texts == ["yes"]
    assert outcome.details("failed over") == [
        {"to": "p/small with c", "why": "too long"}
    ]
    assert _log_fields(caplog, "failover") == [
        {"call": "call-7", "from": "big", "to": "p/small with c", "error": "too long"}
    ]


def test_a_failover_after_the_last_deployment_has_its_error_as_the_reason():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    policy = dispatch(clock, group(health, "a"), group(health, "b", model="small"))
    script = {"a": [InvokeAuthorizationError("refused")], "b": ["yes"]}
    outcome = run_call(policy, RecordedCalls(script))
    assert outcome.details("failed over") == [
        {"to": "p/small with b", "why": "refused"}
    ]


def test_a_failover_from_a_route_names_the_model_that_failed(
    caplog: pytest.LogCaptureFixture,
):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    policy = dispatch(
        clock, group(health, "a", model="large"), group(health, "b", model="small")
    )
    script = {"a": [ContextTooLongError("too long")], "b": ["yes"]}
    invocation = new_invocation(model="my-route", route="my-route")
    with caplog.at_level(logging.WARNING, "modelyard.dispatch"):
        run_call(policy, RecordedCalls(script), invocation)
    (fields,) = _log_fields(caplog, "failover")
    assert isinstance(fields, dict)
    assert fields["from"] == "large"


def test_models_without_deployments_are_passed_over(caplog: pytest.LogCaptureFixture):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    policy = dispatch(
        clock, group(health), group(health), group(health, "c", model="small")
    )
    with caplog.at_level(logging.WARNING, "modelyard.dispatch"):
        outcome = run_call(
            policy, RecordedCalls({"c": ["yes"]}), new_invocation(id="call-7")
        )
    assert outcome.texts == ["yes"]
    assert clock.slept == []
    reason = "[p] No credential is configured; add one with `modelyard providers add p`"
    assert outcome.details("failed over") == [
        {"to": "nothing", "why": reason},
        {"to": "p/small with c", "why": reason},
    ]
    assert _log_fields(caplog, "failover") == [
        {"call": "call-7", "from": "big", "to": "nothing", "error": reason},
        {"call": "call-7", "from": "big", "to": "p/small with c", "error": reason},
    ]


# waits and refusals


def test_a_wait_is_recorded_in_milliseconds():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 1.2503)
    outcome = run_call(
        dispatch(clock, group(health, "a")), RecordedCalls({"a": ["yes"]})
    )
    assert outcome.texts == ["yes"]
    assert outcome.details("waited") == [
        {"ms": 1250, "why": "all deployments are in cooldown"}
    ]


def test_an_exhausted_retry_budget_is_recorded():
    clock = FakeClock()
    budget = RetryBudget(clock, free=0.0, retry_ratio=0.0)
    script = {"a": [InvokeServerUnavailableError("503")]}
    policy = dispatch(clock, group(DeploymentHealth(clock), "a"), budget=budget)
    outcome = run_call(policy, RecordedCalls(script))
    assert isinstance(outcome.error, InvokeServerUnavailableError)
    assert outcome.details("not repeated") == [{"why": "the retry budget is used up"}]


def test_a_failure_that_is_not_repeated_anyway_does_not_mention_the_budget():
    clock = FakeClock()
    budget = RetryBudget(clock, free=0.0, retry_ratio=0.0)
    script = {"a": [InvokeServerUnavailableError("503")]}
    policy = dispatch(
        clock, group(DeploymentHealth(clock), "a"), budget=budget, retries=0
    )
    assert run_call(policy, RecordedCalls(script)).actions == ["chose", "failed"]


class _RefusedQuota:
    """Refuses the use of some deployments, and records its calls."""

    def __init__(self, *refused_ids: str) -> None:
        self._refused_ids = refused_ids
        self.reserved: list[tuple[str, str]] = []
        self.settled: list[tuple[str, str, bool]] = []

    async def reserve(
        self, invocation: Invocation, deployment: Deployment
    ) -> str | None:
        self.reserved.append((invocation.id, deployment.id))
        return "quota used up" if deployment.id in self._refused_ids else None

    def settle(
        self, invocation: Invocation, deployment: Deployment, *, is_served: bool
    ) -> None:
        self.settled.append((invocation.id, deployment.id, is_served))


def test_a_deployment_without_quota_is_skipped_and_not_charged():
    clock = FakeClock()
    quotas = _RefusedQuota("a/big")
    manager = LBModelManager(
        [hosted_deployment("a"), hosted_deployment("b")], DeploymentHealth(clock)
    )
    policy = dispatch(clock, manager, quotas=quotas)
    calls = RecordedCalls({"a": ["no"], "b": ["yes"]})
    outcome = run_call(policy, calls, new_invocation(id="call-7"))
    assert outcome.texts == ["yes"]
    assert outcome.details("skipped") == [
        {"deployment": "p/big with a", "why": "quota used up"}
    ]
    assert quotas.reserved == [("call-7", "a/big"), ("call-7", "b/big")]
    assert quotas.settled == [("call-7", "b/big", True)]
    assert calls.names == ["b"]


def test_own_credentials_need_no_quota():
    clock = FakeClock()
    quotas = _RefusedQuota("a/big", "p/big")
    own = group(DeploymentHealth(clock), "a")
    bare = LBModelManager(
        [Deployment("p/big", "p", "big", None)], DeploymentHealth(clock)
    )
    for manager in (own, bare):
        calls = RecordedCalls({"big": ["yes"]}, by="model")
        policy = dispatch(clock, manager, quotas=quotas)
        assert run_call(policy, calls).texts == ["yes"]
    assert quotas.reserved == []
    assert quotas.settled == []


def test_a_hosted_credential_may_be_used_where_no_quotas_are_enforced():
    clock = FakeClock()
    manager = LBModelManager([hosted_deployment("a")], DeploymentHealth(clock))
    outcome = run_call(dispatch(clock, manager), RecordedCalls({"a": ["yes"]}))
    assert outcome.texts == ["yes"]


def test_a_stream_that_is_continued_is_recorded():
    clock = FakeClock()
    script = {"a": ["once", InvokeServerUnavailableError("cut")], "b": [" upon"]}
    policy = dispatch(
        clock, group(DeploymentHealth(clock), "a", "b"), continue_streams=True
    )
    outcome = run_call(policy, RecordedCalls(script))
    assert outcome.texts == ["once", " upon"]
    assert outcome.actions == ["chose", "failed", "continued", "chose"]
    assert outcome.details("continued") == [{"after": "p/big with a"}]


# errors without a deployment


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "",
            "[p] No credential is configured; add one with `modelyard providers add p`",
        ),
        ("a", "[p] The only credential is in cooldown; retry in 31 s"),
        ("ab", "[p] All 2 credentials are in cooldown; retry in 31 s"),
    ],
)
def test_the_error_says_why_no_deployment_can_be_used(names: str, message: str):
    clock = FakeClock()
    health = DeploymentHealth(clock)
    for seconds, name in enumerate(names):
        health.cool_down(f"{name}/big", 30.6 + seconds)
    outcome = run_call(dispatch(clock, group(health, *names)), RecordedCalls({}))
    assert isinstance(outcome.error, NoCredentialAvailableError)
    assert str(outcome.error) == message
    assert outcome.error.provider == "p"
    expected_wait = pytest.approx(30.6) if names else None
    assert outcome.error.retry_after == expected_wait


def test_the_caller_is_told_to_wait_an_hour_at_most():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    manager = group(health, "a")
    health.cool_down("a/big", 5.0)
    clock.advance(5.0)
    health.begin(manager.deployments[0])
    outcome = run_call(dispatch(clock, manager), RecordedCalls({}))
    assert outcome.error is not None
    assert outcome.error.retry_after == 3600.0
    assert str(outcome.error).endswith("retry in 3600 s")


def test_requests_without_a_failure_are_passed_on_unchanged():
    clock = FakeClock()
    request = LLMRequest(messages=[UserPromptMessage(content="hello")])
    calls = RecordedCalls({"a": ["yes"]})
    policy = dispatch(clock, group(DeploymentHealth(clock), "a"))
    run_call(policy, calls, new_invocation(request=request))
    assert calls.invocations[0].request is request
