"""The windows of limits: where they begin and end, whatever the server's own time zone, and where counters start."""

import calendar
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.runtime import limits
from modelyard.runtime.limits import Applied, Estimate, Subject, applying, began, charge, days_of, ends_in, level_of
from modelyard.storage.usage_sums import MOMENT, Used
from modelyard.tenancy.kinds import Limit

ALICE = Subject("t", "k1", "alice", "openai/gpt-5")
HOUR = 3600


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's own time zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    limits._span.cache_clear()  # pyright: ignore[reportPrivateUsage]  what another zone would have left there
    yield request.param
    monkeypatch.undo()
    time.tzset()


def applied(limit: Limit, subject: Subject = ALICE) -> Applied:
    (only,) = applying([("l", "name", limit)], subject)
    return only


def at(year: int, month: int, day: int, hour: int = 0) -> float:
    """A moment of UTC, in seconds since 1970."""
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("year", [2026, 2028])
@pytest.mark.parametrize("month", range(1, 13))
def test_a_month_ends_with_its_last_day(year: int, month: int):
    days = calendar.monthrange(year, month)[1]
    assert ends_in("month", at(year, month, 1)) == days * 24 * HOUR
    assert ends_in("month", at(year, month, days, 23)) == HOUR
    assert datetime.fromtimestamp(began("month", at(year, month, days, 23)), UTC) == datetime(
        year, month, 1, tzinfo=UTC
    )


@pytest.mark.usefixtures("zone")
def test_days_and_months_change_at_midnight_of_utc():
    day = applied(Limit(unit="requests", amount=1, window="day"))
    month = applied(Limit(unit="requests", amount=1, window="month"))
    last, first = at(2026, 3, 1) - 1, at(2026, 3, 1)
    names = [charge(limit, ALICE, Estimate(0, 0), moment).name for limit in (day, month) for moment in (last, first)]
    assert [name.rpartition("|")[2] for name in names] == ["2026-02-28", "2026-03-01", "2026-02", "2026-03"]


@pytest.mark.usefixtures("zone")
def test_a_month_is_its_days():
    first, last = days_of("month", at(2026, 2, 14, 12))
    start = datetime(1970, 1, 1, tzinfo=UTC)
    assert (start + timedelta(days=first)).date().isoformat() == "2026-02-01"
    assert (start + timedelta(days=last)).date().isoformat() == "2026-02-28"


def test_an_amount_of_nothing_blocks_and_a_negative_one_is_no_limit():
    assert applied(Limit(unit="requests", amount=0)).cap == 0.0
    assert applying([("l", "name", Limit(unit="requests", amount=-1))], ALICE) == []


def used(seconds_ago: int, now: float, **amounts: int) -> Used:
    """What was used in the bucket that ended so long ago."""
    bucket = int(now - seconds_ago) // MOMENT - 1
    return Used("openai/gpt-5", bucket, amounts.get("calls", 0), 0, amounts.get("tokens", 0), 0)


def test_a_sliding_counter_starts_with_what_has_not_drained_yet():
    now = at(2026, 2, 14, 12)
    minute = applied(Limit(unit="tokens", amount=60, window="minute"))  # drains one token a second
    assert level_of(minute, [used(0, now, tokens=40)], now) == 40.0
    assert level_of(minute, [used(30, now, tokens=40)], now) == 10.0
    assert level_of(minute, [used(50, now, tokens=40)], now) == 0.0
    # What drained of the first is gone when the second comes: ten seconds before, 40 - 20, and 5 more.
    assert level_of(minute, [used(30, now, tokens=40), used(10, now, tokens=5)], now) == 15.0


def test_a_calendar_counter_starts_with_all_that_was_used():
    now = at(2026, 2, 14, 12)
    day = applied(Limit(unit="tokens", amount=60, window="day"))
    assert level_of(day, [used(9000, now, tokens=40), used(10, now, tokens=5)], now) == 45.0
