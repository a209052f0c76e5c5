"""Tests for limit windows: start and end in any time zone, and initial counters."""

import calendar
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.runtime import limits
from modelyard.runtime.limits import (
    ApplicableLimit,
    Estimate,
    Subject,
    applicable_limits,
    charge,
    initial_level,
    seconds_to_reset,
    window_days,
    window_start,
)
from modelyard.storage.usage_sums import SHORT_BUCKET_SECONDS, UsageTotal
from modelyard.tenancy.resource_types import Limit

ALICE = Subject("t", "k1", "alice", "openai/gpt-5")
HOUR = 3600


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The server's own time zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    # may be cached for another zone
    limits._window_name.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield request.param
    monkeypatch.undo()
    time.tzset()


def applied(limit: Limit, subject: Subject = ALICE) -> ApplicableLimit:
    (applicable_limit,) = applicable_limits([("l", "name", limit)], subject)
    return applicable_limit


def at(year: int, month: int, day: int, hour: int = 0) -> float:
    """Return the Unix time of a UTC date in seconds."""
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("year", [2026, 2028])
@pytest.mark.parametrize("month", range(1, 13))
def test_a_month_ends_with_its_last_day(year: int, month: int):
    days = calendar.monthrange(year, month)[1]
    assert seconds_to_reset("month", at(year, month, 1)) == days * 24 * HOUR
    assert seconds_to_reset("month", at(year, month, days, 23)) == HOUR
    assert datetime.fromtimestamp(
        window_start("month", at(year, month, days, 23)), UTC
    ) == datetime(year, month, 1, tzinfo=UTC)


@pytest.mark.usefixtures("zone")
def test_days_and_months_change_at_midnight_utc():
    day = applied(Limit(unit="requests", amount=1, window="day"))
    month = applied(Limit(unit="requests", amount=1, window="month"))
    last, first = at(2026, 3, 1) - 1, at(2026, 3, 1)
    names = [
        charge(limit, ALICE, Estimate(0, 0), moment).name
        for limit in (day, month)
        for moment in (last, first)
    ]
    assert [name.rpartition("|")[2] for name in names] == [
        "2026-02-28",
        "2026-03-01",
        "2026-02",
        "2026-03",
    ]


@pytest.mark.usefixtures("zone")
def test_a_month_consists_of_its_days():
    first, last = window_days("month", at(2026, 2, 14, 12))
    start = datetime(1970, 1, 1, tzinfo=UTC)
    assert (start + timedelta(days=first)).date().isoformat() == "2026-02-01"
    assert (start + timedelta(days=last)).date().isoformat() == "2026-02-28"


def test_an_amount_of_zero_blocks_and_a_negative_one_is_unlimited():
    assert applied(Limit(unit="requests", amount=0)).cap == 0.0
    assert (
        applicable_limits([("l", "name", Limit(unit="requests", amount=-1))], ALICE)
        == []
    )


def used(seconds_ago: int, current_time: float, **amounts: int) -> UsageTotal:
    """Return the usage of the bucket that ended `seconds_ago`."""
    bucket = int(current_time - seconds_ago) // SHORT_BUCKET_SECONDS - 1
    return UsageTotal(
        "openai/gpt-5", bucket, amounts.get("calls", 0), 0, amounts.get("tokens", 0), 0
    )


def test_a_sliding_counter_starts_with_undrained_usage():
    current_time = at(2026, 2, 14, 12)
    # Drains one token per second.
    minute = applied(Limit(unit="tokens", amount=60, window="minute"))
    assert (
        initial_level(minute, [used(0, current_time, tokens=40)], current_time) == 40.0
    )
    assert (
        initial_level(minute, [used(30, current_time, tokens=40)], current_time) == 10.0
    )
    assert (
        initial_level(minute, [used(50, current_time, tokens=40)], current_time) == 0.0
    )
    # What drains between the two uses does not count for the second: 40 - 20 after
    # twenty seconds, plus 5, less 10 in the last ten seconds.
    assert (
        initial_level(
            minute,
            [used(30, current_time, tokens=40), used(10, current_time, tokens=5)],
            current_time,
        )
        == 15.0
    )


def test_a_calendar_counter_starts_with_all_usage():
    current_time = at(2026, 2, 14, 12)
    day = applied(Limit(unit="tokens", amount=60, window="day"))
    assert (
        initial_level(
            day,
            [used(9000, current_time, tokens=40), used(10, current_time, tokens=5)],
            current_time,
        )
        == 45.0
    )
