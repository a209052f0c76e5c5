"""Measured latencies: their average, slow deployments, percentiles."""

import pytest

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.runtime.load_balancing import (
    Deployment,
    DeploymentHealth,
    LBModelManager,
)
from modelyard.testing import FakeClock
from tests.unit.runtime.dispatch_calls import deployment, group

# the average


def test_the_average_moves_a_fifth_of_the_way_to_each_new_sample():
    health = DeploymentHealth(FakeClock())
    first = deployment("a")
    assert health.latency(first) == 0.0
    averages: list[float] = []
    for seconds in (10.0, 20.0, 2.0):
        health.served(first, seconds)
        averages.append(health.latency(first))
    assert averages == pytest.approx([10.0, 12.0, 10.0])


def test_each_deployment_has_its_own_average():
    health = DeploymentHealth(FakeClock())
    first, second = deployment("a"), deployment("b")
    health.served(first, 1.0)
    health.served(second, 3.0)
    assert (health.latency(first), health.latency(second)) == (1.0, 3.0)


# slow deployments


def _measured(
    *latencies: float, samples: int = 20
) -> tuple[DeploymentHealth, list[Deployment]]:
    """Deployments with so many samples of these latencies each; 0 for no sample."""
    health = DeploymentHealth(FakeClock())
    measured = [deployment(str(index)) for index in range(len(latencies))]
    for peer, seconds in zip(measured, latencies, strict=True):
        if seconds:
            _serve(health, peer, seconds, samples)
    return health, measured


def _serve(
    health: DeploymentHealth, served: Deployment, seconds: float, count: int
) -> None:
    for _ in range(count):
        health.served(served, seconds)


@pytest.mark.parametrize(
    ("slow", "peers", "cooldown"),
    [
        (5.0, (1.0, 1.0), 10.0),
        (4.9, (1.0, 1.0), 0.0),
        # The median of two peers is the slower one.
        (9.0, (1.0, 2.0), 0.0),
        (10.0, (1.0, 2.0), 10.0),
        (12.0, (1.0, 2.0, 3.0), 10.0),
        (12.0, (1.0, 2.0, 3.0, 4.0), 0.0),
        (15.0, (4.0, 3.0, 2.0, 1.0), 10.0),
        # Peers without a sample do not count.
        (4.9, (0.0, 0.0, 1.0), 0.0),
        (5.0, (0.0, 0.0, 1.0), 10.0),
        (5.0, (0.0, 0.0, 0.0), 0.0),
    ],
)
def test_five_times_the_median_of_the_peers_is_slow(
    slow: float, peers: tuple[float, ...], cooldown: float
):
    health, measured = _measured(slow, *peers)
    assert health.watch_latency(measured[0], measured) == cooldown
    assert [health.wait(peer) for peer in measured] == [cooldown] + [0.0] * len(peers)


def test_with_one_peer_nothing_is_slow():
    health, measured = _measured(100.0, 1.0)
    assert health.watch_latency(measured[0], measured) == 0.0


def test_twenty_samples_are_needed_to_be_slow():
    health, measured = _measured(9.0, 1.0, 1.0, samples=19)
    assert health.watch_latency(measured[0], measured) == 0.0
    health.served(measured[0], 9.0)
    assert health.watch_latency(measured[0], measured) == 10.0


def test_without_any_sample_nothing_is_slow():
    health, measured = _measured(0.0, 1.0, 1.0)
    assert health.watch_latency(measured[0], measured) == 0.0


def test_a_slow_deployment_is_measured_from_scratch_after_its_cooldown():
    health, measured = _measured(9.0, 1.0, 1.0)
    slow = measured[0]
    assert health.watch_latency(slow, measured) == 10.0
    assert health.latency(slow) == 0.0
    health.served(slow, 2.0)
    assert health.latency(slow) == 2.0
    _serve(health, slow, 9.0, 18)
    assert health.watch_latency(slow, measured) == 0.0
    _serve(health, slow, 9.0, 20)
    # Already in cooldown, so there is nothing to add.
    assert health.watch_latency(slow, measured) == 0.0
    assert health.wait(slow) == 10.0


def test_a_deployment_that_is_slow_again_has_another_cooldown():
    clock = FakeClock()
    health = DeploymentHealth(clock)
    slow, *peers = measured = [deployment(name) for name in "abc"]
    for peer in peers:
        _serve(health, peer, 1.0, 20)
    for _ in range(2):
        _serve(health, slow, 9.0, 19)
        assert health.watch_latency(slow, measured) == 0.0
        _serve(health, slow, 9.0, 1)
        assert health.watch_latency(slow, measured) == 10.0
        clock.advance(10.0)


def test_a_slow_deployment_stays_in_use_if_half_of_the_group_is_in_cooldown():
    manager = group(DeploymentHealth(FakeClock()), "a", "b", "c")
    for peer, seconds in zip(manager.deployments, (9.0, 1.0, 1.0), strict=True):
        _serve(manager.health, peer, seconds, 20)
    for _ in range(3):
        manager.cooldown(manager.deployments[1], InvokeServerUnavailableError("503"))
    slow = manager.deployments[0]
    assert manager.health.watch_latency(slow, manager.deployments) == 0.0
    assert manager.health.wait(slow) == 0.0


@pytest.mark.parametrize("size", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("slow_index", [0, 1, 2])
def test_a_slow_deployment_is_noticed_whatever_the_order_of_the_calls(
    size: int, slow_index: int
):
    manager = group(DeploymentHealth(FakeClock()), *map(str, range(size)))
    slow = manager.deployments[slow_index]
    for _ in range(40 * size):
        selected = manager.fetch_next()
        assert selected is not None
        manager.served(selected, 9.0 if selected is slow else 1.0)
    assert manager.health.in_cooldown() == {slow.id: 10.0}


def test_two_deployments_are_not_compared():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    for _ in range(80):
        manager.served(manager.deployments[0], 9.0)
        manager.served(manager.deployments[1], 1.0)
    assert not manager.health.has_cooldowns


# percentiles


def _served(manager: LBModelManager, count: int, first: int = 0) -> None:
    """Let calls answer after `first`, `first` + 1 … seconds."""
    for seconds in range(first, first + count):
        manager.served(manager.deployments[0], float(seconds))


def test_percentiles_need_twenty_answers():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    _served(manager, 19)
    assert manager.percentile(50) is None
    _served(manager, 1, first=19)
    assert manager.percentile(50) == 10.0


def test_percentiles_are_those_of_the_last_two_hundred_answers():
    manager = group(DeploymentHealth(FakeClock()), "a", "b")
    _served(manager, 300)
    assert manager.percentile(0) == 100.0
    assert manager.percentile(50) == 200.0
    assert manager.percentile(100) == 299.0
