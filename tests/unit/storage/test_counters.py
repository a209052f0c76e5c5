"""Tests for charging counters, with a clock that may go back."""

import asyncio
from pathlib import Path

import pytest

from modelyard.storage.counters import (
    CLOCK_SKEW_SECONDS,
    Charge,
    DatabaseCounters,
    Level,
    reserve_all,
)
from modelyard.storage.database import Database
from modelyard.testing import FakeClock

PER_SECOND = 2.0


def charge(amount: float, cap: float = 5.0, refill: float = 0.0) -> Charge:
    return Charge("c", amount, amount, cap, refill, 3600.0, "requests")


def test_a_limit_of_five_admits_five():
    levels = {"c": Level(0.0, 0.0)}
    admitted = [reserve_all(levels, [charge(1.0)], 0.0) is None for _ in range(7)]
    assert admitted == [True] * 5 + [False] * 2


def test_a_clock_that_goes_back_changes_nothing():
    for moment, expected in ((101.0, 2.0), (99.0, 4.0)):
        levels = {"c": Level(4.0, 100.0)}
        assert reserve_all(levels, [charge(0.0, refill=PER_SECOND)], moment) is None
        assert levels["c"].used == expected


def test_a_clock_that_goes_back_and_forth_drains_once():
    levels = {"c": Level(10.0, 100.0)}
    free = charge(0.0, cap=100.0, refill=PER_SECOND)
    for current_time in (101.0, 100.5, 101.0, 100.5, 101.0):
        assert reserve_all(levels, [free], current_time) is None
    assert levels["c"] == Level(8.0, 101.0)


def test_a_level_from_the_far_future_drains_from_now_on():
    levels = {"c": Level(10.0, 1000.0 + 2 * CLOCK_SKEW_SECONDS)}
    free = charge(0.0, cap=100.0, refill=PER_SECOND)
    assert reserve_all(levels, [free], 1000.0) is None
    assert reserve_all(levels, [free], 1001.0) is None
    assert levels["c"].used == pytest.approx(8.0)


def test_settling_a_call_again_changes_nothing(tmp_path: Path):
    """The first settlement ends the reservation; later ones have no effect."""

    async def work() -> None:
        database = Database(tmp_path / "x.db")
        counters = DatabaseCounters(database, FakeClock(), owner="here")
        await counters.seed({"c": 0.0}, [charge(4.0)])
        assert await counters.reserve("call", [charge(4.0)]) is None
        for amount in (1.0, 1.0, 3.0):
            counters.settle("call", {"requests": amount})
            assert await counters.levels(["c"]) == {"c": 1.0}
        assert await counters.reservations_of("here") == []
        await asyncio.to_thread(database.close)

    asyncio.run(work())
