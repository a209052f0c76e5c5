"""Limits: their counters, what calls take of them, and what refused callers read."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ModelyardError
from modelyard.runtime.limits import (
    ApplicableLimit,
    Estimate,
    LimitExceededError,
    QuotaExceededError,
    Subject,
    applicable_limits,
    charge,
    drain_seconds,
    initial_level,
    limit_error,
    reserve,
    seconds_to_reset,
    settled_amounts,
    usage_query,
    window_days,
    window_start,
)
from modelyard.storage.counters import Charge, MemoryCounters, UnseededError
from modelyard.storage.usage_sums import UsageQuery, UsageTotal
from modelyard.tenancy.resource_types import Limit, Window
from modelyard.testing import FakeClock

ALICE = Subject("t", "k1", "alice", "openai/gpt-5")
NOBODY = Subject("t", "", "", "openai/gpt-5")
OF_APP = Subject("t", "k1", "alice", "openai/gpt-5", "app:7")
DAY = 86_400.0
FOREVER = 3650 * DAY
NOON = datetime(2026, 2, 27, 12, tzinfo=UTC).timestamp()
ESTIMATE = Estimate(tokens=500, nanos=2_000_000)


def applied(limit: Limit, subject: Subject = ALICE) -> ApplicableLimit:
    (applicable_limit,) = applicable_limits([("row", "mine", limit)], subject)
    return applicable_limit


# Counters.


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (
            Limit(unit="requests", amount=30),
            ("t", "row|t|t|minute", 30, 0.5, 120.0, True),
        ),
        (
            Limit(unit="tokens", amount=7200, window="hour", per="key"),
            ("k1", "row|t|k1|hour", 7200, 2.0, 7200.0, False),
        ),
        (
            Limit(unit="cost", amount=5, window="day", per="user"),
            ("alice", "row|t|alice|", 5e9, 0.0, 3 * DAY, False),
        ),
        (
            Limit(unit="credits", amount=5, window="month", per="model"),
            ("openai/gpt-5", "row|t|openai/gpt-5|", 5, 0.0, 40 * DAY, True),
        ),
        (
            Limit(unit="times", amount=5, window="total"),
            ("t", "row|t|t|total", 5, 0.0, FOREVER, True),
        ),
        (
            Limit(unit="concurrency", amount=5, window="day", per="key"),
            ("k1", "row|t|k1|now", 5, 0.0, 900.0, True),
        ),
    ],
)
def test_a_limit_has_a_counter_for_its_window(
    limit: Limit, expected: tuple[object, ...]
):
    assert applied(limit) == ("row", "mine", limit, *expected)


@pytest.mark.parametrize(
    ("per", "key", "subject", "expected"),
    [
        ("tenant", "k1", ALICE, "t"),
        ("key", "", ALICE, "k1"),
        ("key", "k1", ALICE, "k1"),
        ("key", "app:7", OF_APP, "app:7"),
        ("user", "app:7", OF_APP, "alice"),
        ("key", "", NOBODY, "-"),
        ("user", "", NOBODY, "-"),
    ],
)
def test_each_value_of_the_subject_is_counted_separately(
    per: str, key: str, subject: Subject, expected: str
):
    limit = Limit(unit="requests", amount=1, per=per, key=key)  # type: ignore[arg-type]
    assert applied(limit, subject).subject_value == expected


@pytest.mark.parametrize(
    ("limit", "subject", "applies"),
    [
        (Limit(unit="requests", amount=1, key="k1"), ALICE, True),
        (Limit(unit="requests", amount=1, key="k2"), ALICE, False),
        (Limit(unit="requests", amount=1, key="app:7"), OF_APP, True),
        (Limit(unit="requests", amount=1, key="app:8"), OF_APP, False),
        (Limit(unit="requests", amount=1, user="alice"), ALICE, True),
        (Limit(unit="requests", amount=1, user="bob"), ALICE, False),
        (Limit(unit="requests", amount=1, user="alice"), NOBODY, False),
        (Limit(unit="requests", amount=1, key="k1", user="bob"), ALICE, False),
        (Limit(unit="requests", amount=1, model="other/*"), ALICE, False),
        (Limit(unit="requests", amount=0), ALICE, True),
        (Limit(unit="requests", amount=-1, key="k1"), ALICE, False),
    ],
)
def test_a_limit_applies_to_the_subjects_that_it_names(
    limit: Limit, subject: Subject, *, applies: bool
):
    assert bool(applicable_limits([("row", "mine", limit)], subject)) is applies


# Charges.


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (
            Limit(unit="requests", amount=30),
            Charge("row|t|t|minute", 1.0, 1.0, 30, 0.5, 120.0, "requests"),
        ),
        (
            Limit(unit="tokens", amount=2_000_000, window="day"),
            Charge("row|t|t|2026-02-27", 500.0, 2.0, 2_000_000, 0.0, 3 * DAY, "tokens"),
        ),
        (
            Limit(unit="cost", amount=0, window="month"),
            Charge("row|t|t|2026-02", 2_000_000.0, 1e-6, 0, 0.0, 40 * DAY, "cost"),
        ),
        (
            Limit(unit="concurrency", amount=5, window="month"),
            Charge("row|t|t|now", 1.0, 1.0, 5, 0.0, 900.0, "concurrency"),
        ),
    ],
)
def test_a_call_is_charged_to_the_window_of_its_time(limit: Limit, expected: Charge):
    assert charge(applied(limit), ALICE, ESTIMATE, NOON) == expected


def test_an_estimate_of_nothing_needs_nothing():
    limit = applied(Limit(unit="tokens", amount=1000, window="total"))
    assert charge(limit, ALICE, Estimate(0, 0), NOON).need == 0.0


def test_the_first_matching_pattern_says_the_credits():
    credits_by_model = {"other/*": 50.0, "openai/*": 20.0, "openai/gpt-5": 30.0}
    limit = applied(
        Limit(unit="credits", amount=9, window="total", credits=credits_by_model)
    )
    assert charge(limit, ALICE, ESTIMATE, NOON).amount == 20.0
    unmatched = ALICE._replace(model="local/tiny")
    assert charge(limit, unmatched, ESTIMATE, NOON).amount == 1.0


def test_a_settlement_has_the_usage_of_each_unit():
    served = {"tokens": 7.0, "cost": 9.0, "concurrency": 0.0}
    assert settled_amounts(tokens=7, nanos=9, is_served=True) == served
    assert settled_amounts(tokens=7, nanos=9, is_served=False) == {
        **served,
        "credits": 0.0,
        "times": 0.0,
    }


# Windows.

LATE = NOON + 3661.25
"""13:01:01.25 o'clock."""


@pytest.mark.parametrize(
    ("window", "start", "seconds_left", "days"),
    [
        ("minute", LATE - 60, None, (20_511, 1 << 40)),
        ("hour", LATE - 3600, None, (20_511, 1 << 40)),
        ("day", NOON - DAY / 2, DAY / 2 - 3661.25, (20_511, 20_511)),
        ("month", NOON - 26.5 * DAY, 1.5 * DAY - 3661.25, (20_485, 20_512)),
        ("total", 0.0, None, (0, 1 << 40)),
    ],
)
def test_windows_start_and_end_to_the_second(
    window: Window, start: float, seconds_left: float | None, days: tuple[int, int]
):
    assert window_start(window, LATE) == start
    assert seconds_to_reset(window, LATE) == seconds_left
    assert window_days(window, LATE) == days


def test_the_last_moment_of_a_month_belongs_to_it():
    last = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert seconds_to_reset("month", last) == 1.0
    assert window_start("month", last) == last + 1 - 31 * DAY


def test_only_minutes_and_hours_drain():
    windows: list[Window] = ["minute", "hour", "day", "month", "total"]
    assert [drain_seconds(window) for window in windows] == [
        60.0,
        3600.0,
        None,
        None,
        None,
    ]


# Refusals.


def refusal(limit: Limit, used: float) -> ModelyardError:
    applicable_limit = applied(limit)
    reservation = charge(applicable_limit, ALICE, ESTIMATE, NOON)
    return limit_error(applicable_limit, reservation, used, NOON)


@pytest.mark.parametrize(
    ("limit", "used", "message", "retry_after"),
    [
        (
            Limit(unit="requests", amount=30),
            34.0,
            "Tenant 't' is limited to 30 requests per minute (limit 'mine')",
            10.0,
        ),
        (
            Limit(unit="cost", amount=3.6, window="hour", per="key", currency="EUR"),
            3.61e9,
            "API key 'k1' is limited to 3.6 EUR per hour (limit 'mine')",
            10.0036,
        ),
        (
            Limit(unit="requests", amount=30, per="user"),
            29.0,
            "User 'alice' is limited to 30 requests per minute (limit 'mine')",
            0.001,
        ),
        (
            Limit(unit="requests", amount=0, per="model"),
            0.0,
            "Model 'openai/gpt-5' is limited to 0 requests per minute (limit 'mine')",
            None,
        ),
        (
            Limit(unit="concurrency", amount=2, window="day"),
            2.0,
            "Tenant 't' is limited to 2 concurrent calls (limit 'mine')",
            1.0,
        ),
    ],
)
def test_a_rate_limit_says_when_to_try_again(
    limit: Limit, used: float, message: str, retry_after: float | None
):
    error = refusal(limit, used)
    assert isinstance(error, LimitExceededError)
    assert (str(error), error.code) == (message, "rate_limit_exceeded")
    assert error.retry_after == pytest.approx(retry_after)
    assert (error.failover, error.cooldown_seconds) == (False, 0.0)


@pytest.mark.parametrize(
    ("limit", "message", "retry_after"),
    [
        (
            Limit(unit="tokens", amount=5, window="day"),
            "Tenant 't' has used up 5 tokens per day (limit 'mine')",
            DAY / 2,
        ),
        (
            Limit(unit="cost", amount=5, window="month", per="user"),
            "User 'alice' has used up 5 USD per month (limit 'mine')",
            1.5 * DAY,
        ),
        (
            Limit(unit="times", amount=5, window="total", per="model"),
            "Model 'openai/gpt-5' has used up 5 times in total (limit 'mine')",
            None,
        ),
    ],
)
def test_a_quota_says_when_it_starts_again(
    limit: Limit, message: str, retry_after: float | None
):
    error = refusal(limit, 5.0)
    assert isinstance(error, QuotaExceededError)
    assert (str(error), error.code) == (message, "insufficient_quota")
    assert error.retry_after == retry_after


def test_a_caller_who_waits_as_long_as_told_is_admitted():
    clock = FakeClock()

    async def work() -> None:
        limit = applied(Limit(unit="requests", amount=30))
        reservation = charge(limit, ALICE, ESTIMATE, NOON)
        counters = MemoryCounters(clock)
        await counters.seed({reservation.name: 34.0}, [reservation])
        error = limit_error(limit, reservation, 34.0, NOON)
        assert isinstance(error, LimitExceededError)
        assert error.retry_after is not None
        clock.advance(error.retry_after - 0.01)
        assert await counters.reserve("early", [reservation]) is not None
        clock.advance(0.02)
        assert await counters.reserve("late", [reservation]) is None

    asyncio.run(work())


# Counters that start with recorded usage.


@pytest.mark.parametrize(
    ("limit", "credential", "expected"),
    [
        (Limit(unit="tokens", amount=1), "", UsageQuery("t", "tenant")),
        (
            Limit(unit="tokens", amount=1),
            "p/main",
            UsageQuery("t", "credential", "p/main"),
        ),
        (
            Limit(unit="tokens", amount=1, per="key"),
            "p/main",
            UsageQuery("t", "key", "k1"),
        ),
        (Limit(unit="tokens", amount=1, key="k1"), "", UsageQuery("t", "key", "k1")),
        (
            Limit(unit="tokens", amount=1, per="user"),
            "",
            UsageQuery("t", "user", "alice"),
        ),
        (
            Limit(unit="tokens", amount=1, user="alice", per="key"),
            "",
            UsageQuery("t", "user", "alice", "k1"),
        ),
        (
            Limit(unit="tokens", amount=1, key="app:7", per="user"),
            "",
            UsageQuery("t", "user", "alice", "app:7", is_apps=True),
        ),
        (
            Limit(unit="tokens", amount=1, key="app:7"),
            "",
            UsageQuery("t", "key", "app:7", is_apps=True),
        ),
        (
            Limit(unit="tokens", amount=1, per="model"),
            "",
            UsageQuery("t", "tenant"),
        ),
    ],
)
def test_a_counter_starts_with_the_usage_of_its_subject(
    limit: Limit, credential: str, expected: UsageQuery
):
    assert usage_query(applied(limit, OF_APP), ALICE, credential) == expected
    if not credential:
        assert usage_query(applied(limit, OF_APP), ALICE) == expected


def used(model: str, bucket: int = 0) -> UsageTotal:
    return UsageTotal(model, bucket, calls=2, served=3, tokens=5, nanos=7)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("requests", 2.0),
        ("times", 3.0),
        ("tokens", 5.0),
        ("cost", 7.0),
        ("credits", 12.0),
    ],
)
def test_recorded_usage_counts_in_the_unit_of_the_limit(unit: str, expected: float):
    limit = applied(
        Limit(unit=unit, amount=9, window="total", credits={"openai/*": 4.0})  # type: ignore[arg-type]
    )
    assert initial_level(limit, [used("openai/gpt-5")], NOON) == expected
    assert initial_level(limit, [], NOON) == 0.0


def test_usage_of_other_models_does_not_count():
    usages = [used("other/x"), used("openai/gpt-4"), used("openai/gpt-5")]
    pattern = Limit(unit="tokens", amount=9, window="total", model="openai/*")
    assert initial_level(applied(pattern), usages, NOON) == 10.0
    per_model = Limit(unit="tokens", amount=9, window="total", per="model")
    assert initial_level(applied(per_model), usages, NOON) == 5.0


def tokens(amount: int, seconds_ago: int, model: str = "openai/gpt-5") -> UsageTotal:
    """Usage whose bucket of ten seconds ended so long ago."""
    bucket = (int(NOON) - seconds_ago) // 10 - 1
    return UsageTotal(model, bucket, 0, 0, amount, 0)


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([tokens(40, 0)], 40.0),
        ([tokens(40, 10)], 30.0),
        ([tokens(40, -10)], 40.0),
        ([tokens(40, 10), tokens(5, 10, "openai/b")], 35.0),
        ([tokens(10, 40), tokens(25, 20)], 5.0),
        ([tokens(40, 30), tokens(5, 10)], 15.0),
        ([tokens(1, 50), tokens(40, 30), tokens(5, 10)], 15.0),
        ([tokens(10, 20)], 0.0),
    ],
)
def test_recorded_usage_has_drained_since(usages: list[UsageTotal], expected: float):
    """The limit drains one token a second; a bucket counts at its end."""
    minute = applied(Limit(unit="tokens", amount=60))
    assert initial_level(minute, usages, NOON) == expected


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 100)), max_size=8))
def test_a_drained_level_is_never_negative_nor_more_than_was_used(
    amounts: list[tuple[int, int]],
):
    usages = [tokens(amount, 10 * age) for age, amount in sorted(amounts, reverse=True)]
    level = initial_level(applied(Limit(unit="tokens", amount=60)), usages, NOON)
    assert 0.0 <= level <= sum(usage.tokens for usage in usages)


# Reserving.


def test_counters_are_initialised_as_often_as_they_are_missing():
    seeds: list[Sequence[str]] = []
    counters = MemoryCounters(FakeClock())
    charges = [
        charge(applied(Limit(unit="requests", amount=2, per=per)), ALICE, ESTIMATE, 0.0)
        for per in ("tenant", "key")
    ]

    async def seed(names: Sequence[str]) -> None:
        seeds.append(names)
        # The first attempt loses one of them again, as an evicting store does.
        levels = {name: 1.0 for name in names if len(seeds) > 1 or "k1" in name}
        await counters.seed(levels, charges)

    async def work() -> None:
        assert await reserve(counters, "call", charges, seed) is None
        assert seeds == [["row|t|t|minute", "row|t|k1|minute"], ["row|t|t|minute"]]
        refused = await reserve(counters, "next", charges, seed)
        assert refused is not None
        assert (refused.charge, refused.used) == (charges[0], 2.0)
        assert len(seeds) == 2

    asyncio.run(work())


def test_missing_counters_are_named():
    error = UnseededError(["a", "b"])
    assert (str(error), error.names) == ("a, b", ["a", "b"])
