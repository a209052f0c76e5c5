"""Which deployment is chosen: turns, random and sticky choice, priorities, weights."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from modelyard.runtime.load_balancing import (
    Credential,
    Deployment,
    DeploymentHealth,
    LBModelManager,
    Plan,
    rendezvous_pick,
    weighted_pick,
)
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock
from tests.unit.runtime.dispatch_calls import deployment, group

KEYS = [f"user-{number}" for number in range(200)]


def _health() -> DeploymentHealth:
    return DeploymentHealth(FakeClock())


def _order(manager: LBModelManager, count: int) -> str:
    """The first letters of the ids of the next choices."""
    letters: list[str] = []
    for _ in range(count):
        selected = manager.fetch_next()
        assert selected is not None
        letters.append(selected.id[0])
    return "".join(letters)


# names


def test_a_deployment_is_named_after_its_model_and_credential():
    assert deployment("work").name == "p/big with work"
    assert Deployment("p/big", "p", "big", None).name == "p/big"


def test_secrets_are_not_part_of_the_representation():
    assert "canary" not in repr(Credential("id", "name", {"api_key": "canary"}))


# turns


def test_turns_go_on_in_the_same_order_when_a_cooldown_starts():
    manager = group(_health(), *"abcd")
    assert _order(manager, 2) == "ab"
    manager.health.cool_down("a/big", 60.0)
    assert _order(manager, 5) == "cdbcd"


def test_turns_go_on_in_the_same_order_when_a_cooldown_ends():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abcd")
    manager.health.cool_down("b/big", 60.0)
    assert _order(manager, 4) == "acda"
    clock.advance(60.0)
    manager.served(manager.deployments[1], 0.1)
    assert _order(manager, 5) == "bcdab"


def test_excluded_deployments_are_not_chosen():
    manager = group(_health(), *"abc")
    picks = [
        manager.fetch_next(excluded_ids={"a/big", "c/big"}),
        manager.fetch_next(excluded_ids={"a/big", "b/big", "c/big"}),
    ]
    assert picks == [manager.deployments[1], None]


def test_a_group_without_deployments_has_no_choice():
    assert group(_health()).fetch_next() is None


@pytest.mark.parametrize("strategy", ["lowest_cost", "least_in_flight"])
def test_equal_deployments_are_chosen_in_turn(strategy: str):
    manager = group(_health(), *"abc", strategy=strategy)
    assert Counter(_order(manager, 30)) == {"a": 10, "b": 10, "c": 10}


def test_the_cheapest_deployments_share_the_calls():
    manager = LBModelManager(
        [
            deployment("a", price=2.0),
            deployment("b", price=1.0),
            deployment("c", price=1.0),
        ],
        _health(),
        strategy="lowest_cost",
    )
    assert set(_order(manager, 12)) == {"b", "c"}


def test_the_deployment_with_the_fewest_calls_in_flight_is_next():
    manager = group(_health(), *"abc", strategy="least_in_flight")
    for peer, calls in zip(manager.deployments, (2, 1, 2), strict=True):
        for _ in range(calls):
            manager.health.begin(peer)
    assert _order(manager, 4) == "bbbb"


# random


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, "a"), (0.33, "a"), (0.34, "b"), (0.66, "b"), (0.67, "c"), (0.999, "c")],
)
def test_random_choice_divides_the_range_evenly(fraction: float, expected: str):
    manager = group(_health(), *"abc", strategy="random", rng=lambda: fraction)
    assert _order(manager, 2) == expected * 2


def test_random_choice_draws_for_each_call():
    manager = group(_health(), *"abc", strategy="random", rng=random.Random(5).random)
    shares = Counter(_order(manager, 9000))
    assert all(shares[name] == pytest.approx(3000, abs=150) for name in "abc")


def _draws(fractions: Sequence[float]) -> LBModelManager:
    """A group that draws these numbers: `a` has a latency of 3 s, `b` of 2 s, `c` of
    1 s."""
    draws = iter(fractions)
    manager = group(
        _health(), *"abc", strategy="lowest_latency", rng=lambda: next(draws)
    )
    for peer, seconds in zip(manager.deployments, (3.0, 2.0, 1.0), strict=True):
        manager.health.served(peer, seconds)
    return manager


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.0, 0.5, "b"),
        (0.5, 0.0, "b"),
        (0.0, 0.9, "c"),
        (0.9, 0.5, "c"),
        (0.1, 0.2, "a"),
    ],
)
def test_the_faster_of_two_random_deployments_is_chosen(
    first: float, second: float, expected: str
):
    assert _order(_draws([first, second]), 1) == expected


# sticky


def test_a_sticky_call_is_always_served_by_the_same_deployment():
    manager = group(_health(), *"abcd")
    for key in KEYS:
        expected = rendezvous_pick(manager.deployments, key)
        assert [manager.fetch_next(sticky=key) for _ in range(3)] == [expected] * 3


def test_a_sticky_call_moves_only_while_its_deployment_is_in_cooldown():
    clock = FakeClock()
    manager = group(DeploymentHealth(clock), *"abc")
    homes = {key: manager.fetch_next(sticky=key) for key in KEYS}
    manager.health.cool_down("a/big", 10.0)
    for key, home in homes.items():
        current = manager.fetch_next(sticky=key)
        assert current is not None
        assert current.id != "a/big"
        if home is not manager.deployments[0]:
            assert current is home
    clock.advance(10.0)
    assert {key: manager.fetch_next(sticky=key) for key in KEYS} == homes


def test_sticky_keys_are_spread_evenly():
    candidates = [deployment(name) for name in "abcd"]
    shares = Counter(
        rendezvous_pick(candidates, f"key-{number}").id for number in range(4000)
    )
    assert all(
        shares[candidate.id] == pytest.approx(1000, abs=120) for candidate in candidates
    )


def test_all_processes_and_versions_agree_on_the_deployment_of_a_key():
    """A prompt cache at a provider outlives a restart of this server."""
    candidates = [deployment(name) for name in "abcd"]
    picks = "".join(rendezvous_pick(candidates, key).id[0] for key in KEYS[:24])
    assert picks == "dcaddcabcdbdddadccdbaddb"


# priorities


def test_higher_numbers_serve_only_if_no_lower_one_can():
    manager = LBModelManager(
        [
            deployment("a", priority=2),
            deployment("b", priority=1),
            deployment("c", priority=1),
            deployment("d", priority=3),
        ],
        _health(),
    )
    assert set(_order(manager, 6)) == {"b", "c"}
    manager.health.cool_down("b/big", 60.0)
    assert _order(manager, 3) == "ccc"
    manager.health.cool_down("c/big", 60.0)
    assert _order(manager, 3) == "aaa"
    manager.health.cool_down("a/big", 60.0)
    assert _order(manager, 3) == "ddd"


def test_a_common_priority_does_not_matter():
    manager = LBModelManager(
        [deployment(name, priority=7) for name in "abc"], _health()
    )
    assert _order(manager, 6) == "abcabc"


def test_a_sticky_call_respects_priorities():
    manager = LBModelManager(
        [deployment("a", priority=1), deployment("b"), deployment("c")], _health()
    )
    picks = {manager.fetch_next(sticky=key) for key in KEYS}
    assert picks == set(manager.deployments[1:])


# weights


def test_without_any_weight_the_last_deployment_is_chosen():
    candidates = [deployment(name, weight=0.0) for name in "abc"]
    assert weighted_pick(candidates, 0.5) is candidates[2]


def test_a_negative_weight_counts_as_none():
    candidates = [
        deployment("a", weight=-1.0),
        deployment("b", weight=1.0),
        deployment("c", weight=1.0),
    ]
    picks = [weighted_pick(candidates, fraction).id[0] for fraction in (0.0, 0.49, 0.5)]
    assert picks == ["b", "b", "c"]


def test_the_end_of_the_range_belongs_to_the_last_deployment():
    candidates = [deployment(name) for name in "abc"]
    assert weighted_pick(candidates, 1.0) is candidates[2]


# plans


@pytest.mark.parametrize("sticky", ["", "user"])
def test_a_plan_of_single_attempts_is_plain(sticky: str):
    groups = [group(_health(), *"ab"), group(_health())]
    assert Plan(groups, sticky=sticky).is_plain
    assert Plan([]).is_plain


@pytest.mark.parametrize(
    "options",
    [
        {"hedge_after": 95.0},
        # The percentile 0 is a value as well: hedge every call.
        {"hedge_after": 0.0},
        {"continue_streams": True},
        {"sticky": "prompt"},
        {"hedge_after": 95.0, "continue_streams": True},
        {"continue_streams": True, "sticky": "prompt"},
    ],
)
def test_a_plan_that_reads_messages_or_calls_twice_is_not_plain(
    options: dict[str, Any],
):
    assert not Plan([group(_health(), *"ab")], **options).is_plain


def test_a_plan_with_a_hosted_quota_is_not_plain():
    """The quota of a single deployment of a single group has to be awaited."""
    quotas = (("q", Limit(unit="requests", amount=5)),)
    hosted = Credential("h", "hosted", quotas=quotas)
    deployments = [deployment("a"), Deployment("h/big", "p", "big", hosted)]
    last_group = LBModelManager(deployments, _health())
    assert not Plan([group(_health(), *"ab"), last_group]).is_plain
    without_credential = LBModelManager(
        [Deployment("p/big", "p", "big", None)], _health()
    )
    assert Plan([without_credential]).is_plain
