"""Tests for load balancing: the next deployment, exact shares, exact cooldowns."""

import random
from collections import Counter
from typing import Any

import pytest

from modelyard.base.errors import InvokeConnectionError, InvokeServerUnavailableError
from modelyard.runtime.load_balancing import (
    Credential,
    Deployment,
    DeploymentHealth,
    LBModelManager,
    weighted_pick,
)
from modelyard.testing import FakeClock

DRAWS = 10_000


def deployments(*weights: float, **options: Any) -> list[Deployment]:
    """Return deployments of one model with these weights, named a, b, c …"""
    names = "abcdefgh"[: len(weights)]
    return [
        Deployment(
            f"{name}/m", "p", "m", Credential(name, name), weight=weight, **options
        )
        for name, weight in zip(names, weights, strict=True)
    ]


def balancer(clock: FakeClock, count: int, **options: Any) -> LBModelManager:
    """Return a balancer over `count` deployments of weight 1."""
    return LBModelManager(
        deployments(*[1.0] * count), DeploymentHealth(clock), **options
    )


def test_the_weight_decides_the_share():
    candidates = deployments(1.0, 2.0, 0.0, 5.0)
    draw = random.Random(7).random
    draw_counts = Counter(weighted_pick(candidates, draw()).id for _ in range(DRAWS))
    shares = {
        deployment.id: draw_counts[deployment.id] / DRAWS for deployment in candidates
    }
    assert shares == pytest.approx(
        {"a/m": 1 / 8, "b/m": 2 / 8, "c/m": 0.0, "d/m": 5 / 8}, abs=0.02
    )


@pytest.mark.parametrize(
    ("random_fraction", "expected_id"),
    [(0.0, "a/m"), (0.24, "a/m"), (0.25, "b/m"), (0.74, "b/m"), (0.75, "c/m")],
)
def test_shares_are_divided_by_weight(random_fraction: float, expected_id: str):
    assert weighted_pick(deployments(1.0, 2.0, 1.0), random_fraction).id == expected_id


def test_the_weighted_strategy_draws_by_weight():
    draw = random.Random(3).random
    manager = LBModelManager(
        deployments(3.0, 1.0),
        DeploymentHealth(FakeClock()),
        strategy="weighted",
        rng=draw,
    )
    draw_counts = Counter(_next(manager).id for _ in range(DRAWS))
    assert draw_counts["a/m"] / DRAWS == pytest.approx(0.75, abs=0.02)


# cooldowns


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.0), (2, 0.0), (3, 10.0), (4, 20.0)]
)
def test_three_failures_in_a_row_start_a_cooldown(failures: int, seconds: float):
    manager = balancer(FakeClock(), 4)
    failing = manager.deployments[0]
    waited = [
        manager.cooldown(failing, InvokeServerUnavailableError("503"))
        for _ in range(failures)
    ]
    assert waited[-1] == seconds
    assert manager.health.wait(failing) == seconds


def test_an_answer_between_failures_resets_the_count():
    manager = balancer(FakeClock(), 4)
    failing, error = manager.deployments[0], InvokeServerUnavailableError("503")
    for _ in range(2):
        manager.cooldown(failing, error)
    manager.served(failing, 0.1)
    assert [manager.cooldown(failing, error) for _ in range(3)] == [0.0, 0.0, 10.0]


def test_a_cooldown_grows_to_at_most_twenty_five_seconds():
    clock = FakeClock()
    manager = balancer(clock, 4)
    failing = manager.deployments[0]
    seconds: list[float] = []
    for _ in range(8):
        seconds.append(manager.cooldown(failing, InvokeConnectionError("down")))
        clock.advance(30.0)
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-1] == 25.0
    assert max(seconds) == 25.0


@pytest.mark.parametrize(("size", "resting"), [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_at_most_half_of_a_group_cools_down_for_provider_failures(
    size: int, resting: int
):
    manager = balancer(FakeClock(), size)
    for deployment in manager.deployments:
        for _ in range(3):
            manager.cooldown(deployment, InvokeServerUnavailableError("503"))
    assert (
        sum(manager.health.wait(deployment) > 0 for deployment in manager.deployments)
        == resting
    )


def test_an_answer_ends_a_cooldown_only_once_its_time_is_over():
    clock = FakeClock()
    manager = balancer(clock, 2)
    first = manager.deployments[0]
    manager.health.cool_down(first.id, 10.0)
    manager.served(first, 0.1)
    assert manager.health.wait(first) == 10.0
    clock.advance(10.0)
    manager.served(first, 0.1)
    assert not manager.health.has_cooldowns


# selection


def test_a_busy_fast_deployment_loses_to_an_idle_one():
    manager = LBModelManager(
        deployments(1.0, 1.0),
        DeploymentHealth(FakeClock()),
        strategy="lowest_latency",
        rng=_Alternating(),
    )
    fast, slow = manager.deployments
    manager.health.served(fast, 1.0)
    manager.health.served(slow, 2.0)
    assert _next(manager) is fast
    manager.health.begin(fast)
    manager.health.begin(fast)
    assert _next(manager) is slow
    manager.health.end(fast)
    manager.health.end(fast)
    assert _next(manager) is fast


class _Alternating:
    """A random source that alternates between the first and the second of two."""

    def __init__(self) -> None:
        self._is_second = True

    def __call__(self) -> float:
        self._is_second = not self._is_second
        return 0.9 if self._is_second else 0.1


def test_percentiles_cover_the_latest_answers():
    manager = balancer(FakeClock(), 2)
    first = manager.deployments[0]
    for number in range(19):
        manager.served(first, float(number))
    assert manager.percentile(50) is None
    for number in range(19, 100):
        manager.served(first, float(number))
    assert manager.percentile(0) == 0.0
    assert manager.percentile(50) == 50.0
    assert manager.percentile(95) == 95.0
    assert manager.percentile(100) == 99.0


def test_available_deployments_alternate_evenly_during_a_cooldown():
    manager = balancer(FakeClock(), 3)
    manager.health.cool_down("a/m", 60.0)
    order = [_next(manager).id for _ in range(6)]
    assert order == ["b/m", "c/m", "b/m", "c/m", "b/m", "c/m"]


def test_a_cooldown_keeps_the_rotation_of_the_others_even():
    manager = balancer(FakeClock(), 4)
    manager.health.cool_down("b/m", 60.0)
    turns = Counter(_next(manager).id for _ in range(300))
    assert turns == {"a/m": 100, "c/m": 100, "d/m": 100}


def _next(manager: LBModelManager) -> Deployment:
    selected = manager.fetch_next()
    assert selected is not None
    return selected
