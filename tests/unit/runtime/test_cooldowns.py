"""How long deployments are in cooldown, for which errors, and which ones share it."""

import pytest

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    QueueFullError,
    QuotaExhaustedError,
)
from modelyard.runtime.limits import LimitExceededError
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
)
from modelyard.testing import FakeClock
from tests.unit.runtime.dispatch_calls import deployment, group

INFINITY = float("inf")


def _waits(manager: LBModelManager) -> list[float]:
    """The seconds until each deployment may be called."""
    return [manager.health.wait(peer) for peer in manager.deployments]


def _fail(manager: LBModelManager, index: int, count: int) -> list[float]:
    """Let a deployment's server fail several times; return the cooldowns."""
    failing = manager.deployments[index]
    error = InvokeServerUnavailableError("503")
    return [manager.cooldown(failing, error) for _ in range(count)]


# how long


def test_rate_limits_double_up_to_five_minutes():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    seconds: list[float] = []
    for _ in range(5):
        cooldown = manager.cooldown(
            manager.deployments[0], InvokeRateLimitError("slow")
        )
        seconds.append(cooldown)
        assert _waits(manager) == [cooldown, 0.0]
        clock.advance(cooldown)
    assert seconds == [60.0, 120.0, 240.0, 300.0, 300.0]


def test_refused_credentials_double_up_to_25_seconds():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    seconds: list[float] = []
    for _ in range(4):
        seconds.append(
            manager.cooldown(manager.deployments[0], InvokeAuthorizationError("no"))
        )
        clock.advance(seconds[-1])
    assert seconds == [10.0, 20.0, 25.0, 25.0]


def test_a_used_up_quota_doubles_from_ten_minutes_to_an_hour():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    seconds: list[float] = []
    for _ in range(5):
        cooldown = manager.cooldown(
            manager.deployments[0], QuotaExhaustedError("no credit")
        )
        seconds.append(cooldown)
        clock.advance(cooldown)
    assert seconds == [600.0, 1200.0, 2400.0, 3600.0, 3600.0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvokeRateLimitError("slow"), 300.0),
        (QuotaExhaustedError("no credit"), 3600.0),
        (InvokeAuthorizationError("no"), 25.0),
        (InvokeConnectionError("down"), 25.0),
        (InvokeServerUnavailableError("503"), 25.0),
    ],
)
def test_a_credential_may_fail_for_months(error: InvokeError, expected: float):
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    seconds = 0.0
    for _ in range(1200):
        seconds = manager.cooldown(manager.deployments[0], error)
        clock.advance(seconds)
    assert seconds == expected


@pytest.mark.parametrize(
    "error_class",
    [
        InvokeRateLimitError,
        QuotaExhaustedError,
        InvokeAuthorizationError,
        InvokeConnectionError,
    ],
)
def test_the_provider_decides_the_length_if_it_asks_for_one(
    error_class: type[InvokeError],
):
    manager = group(DeploymentHealth(FakeClock()), "only")
    error = error_class("wait", retry_after=4321.5)
    assert manager.cooldown(manager.deployments[0], error) == 4321.5
    assert _waits(manager) == [4321.5]


def test_a_server_that_asks_for_a_pause_gets_it_at_its_first_failure():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    error = InvokeServerUnavailableError("busy", retry_after=7.0)
    assert manager.cooldown(manager.deployments[0], error) == 7.0
    assert _waits(manager) == [7.0, 0.0]


def test_each_rate_limit_counts_even_if_the_time_does_not_move():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    limited = manager.deployments[0]
    for _ in range(2):
        manager.cooldown(limited, InvokeRateLimitError("slow", retry_after=20.0))
    assert manager.cooldown(limited, InvokeRateLimitError("slow")) == 240.0


def test_a_cooldown_set_from_outside_counts_as_the_first_failure():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    limited = manager.deployments[0]
    manager.health.cool_down(limited.id, 10.0)
    assert manager.cooldown(limited, InvokeRateLimitError("slow")) == 120.0


def test_a_shorter_cooldown_does_not_replace_a_longer_one():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    first = deployment("a")
    health.cool_down(first.id, 30.0)
    health.cool_down(first.id, 5.0)
    assert health.wait(first) == 30.0
    health.cool_down(first.id, 40.0)
    assert health.wait(first) == 40.0


@pytest.mark.parametrize(
    "error",
    [
        InvokeRateLimitError("slow"),
        QuotaExhaustedError("no credit"),
        InvokeAuthorizationError("no"),
        InvokeConnectionError("down"),
    ],
)
def test_the_only_deployment_is_not_put_in_cooldown_unless_the_provider_asks(
    error: InvokeError,
):
    manager = group(DeploymentHealth(FakeClock()), "only")
    assert manager.cooldown(manager.deployments[0], error) == 0.0
    assert not manager.health.has_cooldowns


@pytest.mark.parametrize(
    "error",
    [
        InvokeBadRequestError("wrong"),
        InvokeError("unknown"),
        LimitExceededError("the caller's own limit"),
    ],
)
def test_errors_that_are_not_the_deployments_fault_have_no_cooldown(
    error: InvokeError,
):
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    assert manager.cooldown(manager.deployments[0], error) == 0.0
    assert not manager.health.has_cooldowns


def test_a_full_queue_counts_as_a_failure_of_the_server():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    failing, error = manager.deployments[0], QueueFullError("full")
    assert [manager.cooldown(failing, error) for _ in range(3)] == [0.0, 0.0, 10.0]


# which deployments


def _two_models() -> LBModelManager:
    """Two models with credential `a`, one with credential `b`."""
    return LBModelManager(
        [deployment("a"), deployment("a", model="small"), deployment("b")],
        DeploymentHealth(FakeClock()),
    )


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (InvokeAuthorizationError("no"), 10.0),
        (QuotaExhaustedError("no credit"), 600.0),
    ],
)
def test_a_refused_credential_affects_all_its_models(
    error: InvokeError, seconds: float
):
    manager = _two_models()
    manager.cooldown(manager.deployments[0], error)
    assert _waits(manager) == [seconds, seconds, 0.0]
    assert manager.health.in_cooldown() == {"a": seconds}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(InvokeConnectionError("down"), 10.0), (InvokeRateLimitError("slow"), 60.0)],
)
def test_other_errors_affect_the_model_that_failed(error: InvokeError, seconds: float):
    manager = _two_models()
    manager.cooldown(manager.deployments[0], error)
    assert _waits(manager) == [seconds, 0.0, 0.0]
    assert manager.health.in_cooldown() == {"a/big": seconds}


def test_a_model_without_credential_can_be_refused_too():
    local = Deployment("p/big", "p", "big", None)
    manager = LBModelManager([local, deployment("a")], DeploymentHealth(FakeClock()))
    assert manager.cooldown(local, InvokeAuthorizationError("no")) == 10.0
    assert manager.health.in_cooldown() == {"p/big": 10.0}


def test_a_shared_quota_is_one_tenants_alone():
    health = DeploymentHealth(FakeClock())
    manager = LBModelManager(
        [
            deployment("a", domain="org", owner="acme"),
            deployment("b", domain="org", owner="acme"),
            deployment("c", domain="org", owner="globex"),
            deployment("d", domain="lab", owner="acme"),
            deployment("e", owner="acme"),
        ],
        health,
    )
    manager.cooldown(manager.deployments[0], InvokeRateLimitError("slow"))
    assert _waits(manager) == [60.0, 60.0, 0.0, 0.0, 0.0]
    assert health.in_cooldown() == {"quota of acme/org": 60.0}
    assert manager.deployments[0].cooldown_keys == ("a/big", "a", "quota of acme/org")


def test_the_longest_cooldown_of_a_deployment_counts():
    health = DeploymentHealth(FakeClock())
    first = deployment("a")
    health.cool_down("a/big", 30.0)
    health.cool_down("a", 5.0)
    assert health.wait(first) == 30.0
    health.cool_down("a", 50.0)
    assert health.wait(first) == 50.0


# failures of the provider's server


def test_a_rate_limit_elsewhere_does_not_keep_a_failing_server_in_use():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    manager.health.cool_down("a/big", 100.0)
    assert _fail(manager, 1, 3) == [0.0, 0.0, 10.0]


def test_at_most_half_of_the_group_counts_only_cooldowns_that_last():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    assert _fail(manager, 0, 3)[-1] == 10.0
    clock.advance(9.0)
    assert _fail(manager, 1, 3)[-1] == 0.0
    clock.advance(1.0)
    assert _fail(manager, 1, 1) == [10.0]


def test_a_refused_cooldown_leaves_the_deployment_available():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    _fail(manager, 0, 3)
    assert _fail(manager, 1, 4) == [0.0, 0.0, 0.0, 0.0]
    assert _waits(manager) == [10.0, 0.0]


def test_a_failed_probe_starts_a_cooldown_of_twice_the_length():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    assert _fail(manager, 0, 3)[-1] == 10.0
    clock.advance(10.0)
    assert _fail(manager, 0, 1) == [20.0]
    clock.advance(20.0)
    assert _fail(manager, 0, 1) == [25.0]


def test_a_failed_probe_counts_even_while_half_of_the_group_is_in_cooldown():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    assert _fail(manager, 0, 3)[-1] == 10.0
    clock.advance(10.0)
    assert _fail(manager, 1, 3)[-1] == 10.0
    assert _fail(manager, 0, 1) == [20.0]
    assert _waits(manager) == [20.0, 10.0]


# how a cooldown ends


def test_a_cooldown_is_listed_until_the_moment_it_ends():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    health.cool_down("a/big", 10.0)
    clock.advance(9.5)
    assert health.in_cooldown() == {"a/big": 0.5}
    clock.advance(0.5)
    assert health.in_cooldown() == {}


def test_other_calls_wait_for_the_probe():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    first = deployment("a")
    health.cool_down("a/big", 10.0)
    clock.advance(10.0)
    assert health.wait(first) == 0.0
    health.begin(first)
    assert health.wait(first) == INFINITY
    assert health.in_flight(first) == 1
    health.end(first)
    assert health.wait(first) == 0.0
    assert health.in_flight(first) == 0


def test_the_probe_of_a_credential_holds_back_its_other_models():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    manager = LBModelManager(_two_models().deployments, health)
    manager.cooldown(manager.deployments[0], InvokeAuthorizationError("no"))
    clock.advance(10.0)
    health.begin(manager.deployments[1])
    assert _waits(manager) == [INFINITY, INFINITY, 0.0]
    health.end(manager.deployments[1])
    manager.served(manager.deployments[1], 0.1)
    assert _waits(manager) == [0.0, 0.0, 0.0]
    assert not health.has_cooldowns


def test_calls_in_flight_are_counted_for_each_deployment():
    health = DeploymentHealth(FakeClock())
    first, second = deployment("a"), deployment("b")
    for _ in range(3):
        health.begin(first)
    health.begin(second)
    assert (health.in_flight(first), health.in_flight(second)) == (3, 1)
    health.end(first)
    assert (health.in_flight(first), health.in_flight(second)) == (2, 1)


def test_an_operator_can_end_all_cooldowns():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    manager.cooldown(manager.deployments[0], InvokeRateLimitError("slow"))
    _fail(manager, 1, 2)
    manager.health.clear()
    assert _waits(manager) == [0.0, 0.0]
    assert not manager.health.has_cooldowns
    assert _fail(manager, 1, 2) == [0.0, 0.0]


# for the caller and the log


def test_the_next_available_deployment_is_the_one_with_the_shortest_cooldown():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    manager.health.cool_down("a/big", 30.0)
    assert manager.next_available_in() == 0.0
    manager.health.cool_down("b/big", 12.0)
    assert manager.next_available_in() == 12.0
    assert group(manager.health).next_available_in() == 0.0


def test_the_log_names_the_deployments_in_cooldown_to_the_millisecond():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b", "c", "d")
    manager.health.cool_down("a/big", 0.123456)
    manager.health.cool_down("b/big", 12.5)
    manager.health.cool_down("c/big", 5.0)
    assert manager.skipped_deployments() == {
        "p/big with a": 0.123,
        "p/big with b": 12.5,
        "p/big with c": 5.0,
    }


def test_the_log_caps_the_wait_for_a_running_probe():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), "a", "b")
    manager.health.cool_down("a/big", 5.0)
    clock.advance(5.0)
    manager.health.begin(manager.deployments[0])
    assert manager.skipped_deployments() == {"p/big with a": 1_000_000.0}
