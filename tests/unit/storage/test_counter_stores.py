"""Counters in memory and on SQLite: what is reserved, settled, seeded and deleted."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.storage import writer
from modelyard.storage.counters import (
    CLOCK_SKEW_SECONDS,
    NO_USAGE,
    Charge,
    Counters,
    DatabaseCounters,
    Level,
    MemoryCounters,
    UnseededError,
    adjusted,
    reserve_all,
)
from modelyard.storage.database import Database
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.sqlite import SqliteEngine
from modelyard.testing import FakeClock

Open = Callable[[FakeClock], AbstractAsyncContextManager[Counters]]
CLEANUP_INTERVAL = 4096


def charge(
    name: str,
    amount: float = 1.0,
    *,
    need: float | None = None,
    cap: float = 10.0,
    refill: float = 0.0,
    lasts: float = 100.0,
    unit: str = "tokens",
) -> Charge:
    needed = amount if need is None else need
    return Charge(name, amount, needed, cap, refill, lasts, unit)


@asynccontextmanager
async def on_sqlite(
    clock: FakeClock, owner: str = "here"
) -> AsyncGenerator[DatabaseCounters]:
    database = Database(":memory:")
    yield DatabaseCounters(database, clock, owner=owner)
    await asyncio.to_thread(database.close)


@asynccontextmanager
async def in_memory(clock: FakeClock) -> AsyncGenerator[MemoryCounters]:
    counters = MemoryCounters(clock)
    yield counters
    await counters.aclose()


@pytest.fixture(params=[in_memory, on_sqlite], ids=["memory", "sqlite"])
def open_counters(request: pytest.FixtureRequest) -> Open:
    return request.param


# Levels.


def test_a_level_drains_but_not_below_zero():
    assert level_after(Level(6.0, 100.0), refill=2.0, moment=102.0) == 2.0
    assert level_after(Level(6.0, 100.0), refill=2.0, moment=104.0) == 0.0
    assert level_after(Level(6.0, 100.0), refill=0.0, moment=200.0) == 6.0


def level_after(level: Level, *, refill: float, moment: float) -> float:
    """Return what a counter holds at a moment, as seen by a call that takes nothing."""
    levels = {"c": level}
    charge = Charge("c", 0.0, 0.0, 100.0, refill, 3600.0, "requests")
    assert reserve_all(levels, [charge], moment) is None
    return levels["c"].used


def test_only_a_stamp_far_ahead_is_corrected():
    assert stamp_after(100.0 + CLOCK_SKEW_SECONDS) == 100.0 + CLOCK_SKEW_SECONDS
    assert stamp_after(100.5 + CLOCK_SKEW_SECONDS) == 100.0


def stamp_after(stamp: float) -> float:
    """Return the time to which a counter refers after a refused call at 100.0."""
    levels = {"c": Level(9.0, stamp)}
    charge = Charge("c", 1.0, 1.0, 9.0, 0.0, 3600.0, "requests")
    assert reserve_all(levels, [charge], 100.0) is not None
    return levels["c"].stamp


def test_an_adjustment_replaces_the_reserved_amount_and_keeps_the_time():
    assert adjusted(Level(9.0, 5.0), 4.0, 1.5) == Level(6.5, 5.0)
    assert adjusted(Level(2.0, 5.0), 4.0, 1.0) == Level(0.0, 5.0)


def test_a_refused_call_corrects_the_clock_jump_and_takes_nothing():
    levels = {"a": Level(9.0, 500.0), "b": Level(0.0, 500.0), "c": Level(1.0, 900.0)}
    charges = [charge("b", 1.0), charge("a", 2.0)]
    refusal = reserve_all(levels, charges, 100.0)
    assert refusal == (charges[1], 9.0)
    assert levels == {
        "a": Level(9.0, 100.0),
        "b": Level(0.0, 100.0),
        "c": Level(1.0, 900.0),
    }


def test_an_estimated_charge_may_exceed_what_is_left():
    levels = {"a": Level(9.5, 100.0)}
    assert reserve_all(levels, [charge("a", 8.0, need=0.5)], 101.0) is None
    assert levels == {"a": Level(17.5, 101.0)}
    refused = charge("a", 8.0, need=0.5)
    assert reserve_all(levels, [refused], 101.0) == (refused, 17.5)


def test_all_missing_counters_are_named():
    with pytest.raises(UnseededError) as caught:
        reserve_all(
            {"b": Level(0.0, 0.0)}, [charge("a"), charge("b"), charge("c")], 0.0
        )
    assert caught.value.names == ["a", "c"]


def test_no_usage_has_every_unit():
    assert set(NO_USAGE) == {
        "requests", "tokens", "cost", "concurrency", "credits", "times",
    }  # fmt: skip
    assert set(NO_USAGE.values()) == {0.0}


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 5)), max_size=20
    )
)
def test_a_level_is_the_sum_of_what_its_calls_used(calls: list[tuple[int, int, int]]):
    """Whatever was reserved, refused or settled, and however long it took."""
    clock = FakeClock()

    async def work() -> None:
        counters = MemoryCounters(clock)
        await counters.seed({"a": 0.0}, [charge("a")])
        total = 0.0
        for number, (reserved, actual_amount, seconds) in enumerate(calls):
            name, new_charge = f"call {number}", charge("a", reserved)
            refusal = await counters.reserve(name, [new_charge])
            assert (refusal is None) is (total + reserved <= 10.0)
            clock.advance(seconds)
            counters.settle(name, {"tokens": actual_amount})
            if refusal is None:
                total += actual_amount
            assert await counters.levels(["a"]) == {"a": total}

    asyncio.run(work())


# Stores.


def test_a_settlement_replaces_each_unit_that_it_names(open_counters: Open):
    async def work() -> None:
        async with open_counters(FakeClock()) as counters:
            charges = [charge("c", 4.0), charge("b", 3.0, unit="requests"), charge("a")]
            await counters.seed({"a": 2.0, "b": 1.0, "c": 0.0}, charges)
            assert await counters.reserve("call", charges) is None
            assert await counters.levels(["a", "b", "c", "d"]) == {
                "a": 3.0,
                "b": 4.0,
                "c": 4.0,
            }
            counters.settle("call", {"tokens": 6.0, "cost": 9.0})
            levels = {"a": 8.0, "b": 4.0, "c": 6.0}
            assert await counters.levels(["a", "b", "c"]) == levels
            counters.settle("call", {"tokens": 0.0})
            counters.settle("unknown", {"tokens": 0.0})
            assert await counters.levels(["a", "b", "c"]) == levels

    asyncio.run(work())


def test_a_refused_call_has_nothing_to_settle(open_counters: Open):
    async def work() -> None:
        async with open_counters(FakeClock()) as counters:
            await counters.seed({"a": 8.0}, [charge("a")])
            refusal = await counters.reserve("call", [charge("a", 3.0)])
            assert refusal == (charge("a", 3.0), 8.0)
            counters.settle("call", {"tokens": 0.0})
            assert await counters.levels(["a"]) == {"a": 8.0}

    asyncio.run(work())


def test_a_seed_creates_only_what_is_missing(open_counters: Open):
    async def work() -> None:
        async with open_counters(FakeClock()) as counters:
            await counters.seed({"a": 2.0}, [charge("a"), charge("b")])
            await counters.seed({"a": 5.0, "b": 6.0}, [charge("a"), charge("b")])
            assert await counters.levels(["a", "b"]) == {"a": 2.0, "b": 6.0}
            await counters.reset(["a", "unknown"])
            assert await counters.levels(["a", "b"]) == {"b": 6.0}
            await counters.reset(["b"])
            with pytest.raises(UnseededError):
                await counters.reserve("call", [charge("b")])

    asyncio.run(work())


def test_a_counter_that_was_deleted_is_not_settled(open_counters: Open):
    async def work() -> None:
        async with open_counters(FakeClock()) as counters:
            charges = [charge("a", 4.0), charge("b", 4.0)]
            await counters.seed({"a": 0.0, "b": 0.0}, charges)
            await counters.reserve("call", charges)
            await counters.reset(["a"])
            counters.settle("call", {"tokens": 1.0})
            assert await counters.levels(["a", "b"]) == {"b": 1.0}

    asyncio.run(work())


def test_a_counter_drains_from_its_seed_on(open_counters: Open):
    async def work() -> None:
        clock = FakeClock()
        async with open_counters(clock) as counters:
            draining = charge("a", 4.0, refill=0.5)
            await counters.seed({"a": 8.0}, [draining])
            assert await counters.reserve("call", [draining]) == (draining, 8.0)
            clock.advance(2)
            assert await counters.reserve("call", [draining]) == (draining, 7.0)
            clock.advance(2)
            assert await counters.reserve("call", [draining]) is None
            assert await counters.levels(["a"]) == {"a": 10.0}

    asyncio.run(work())


def test_a_refused_call_corrects_a_stamp_from_a_clock_jump(open_counters: Open):
    async def work() -> None:
        clock = FakeClock()
        async with open_counters(clock) as counters:
            draining = charge("a", 4.0, refill=0.5)
            clock.advance(5000)
            await counters.seed({"a": 8.0}, [draining])
            clock.advance(-5000)
            assert await counters.reserve("call", [draining]) == (draining, 8.0)
            clock.advance(4)
            assert await counters.reserve("call", [draining]) is None

    asyncio.run(work())


# In memory only.


async def seed_often(counters: MemoryCounters, count: int) -> None:
    for _ in range(count):
        await counters.seed({"busy": 0.0}, [charge("busy", lasts=1e9)])


def test_expired_counters_are_deleted_at_every_4096th_seed():
    async def work() -> None:
        clock = FakeClock()
        counters = MemoryCounters(clock)
        await counters.seed({"old": 1.0}, [charge("old", lasts=10.0)])
        await counters.seed({"due": 2.0}, [charge("due", lasts=20.0)])
        await counters.seed({"open": 3.0}, [charge("open", lasts=10.0)])
        await counters.reserve("call", [charge("open")])
        clock.advance(20.0)
        await seed_often(counters, CLEANUP_INTERVAL - 4)
        names = ["old", "due", "open"]
        assert list(await counters.levels(names)) == names
        await seed_often(counters, 1)
        # One expires at this very moment, and one has an open reservation.
        assert list(await counters.levels(names)) == ["due", "open"]
        counters.settle("call", {})
        clock.advance(0.5)
        await seed_often(counters, CLEANUP_INTERVAL)
        assert list(await counters.levels(names)) == []

    asyncio.run(work())


def test_a_counter_that_was_reset_may_expire():
    async def work() -> None:
        clock = FakeClock()
        counters = MemoryCounters(clock)
        await counters.seed({"old": 1.0}, [charge("old", lasts=10.0)])
        await counters.reset(["old"])
        clock.advance(11.0)
        await seed_often(counters, CLEANUP_INTERVAL)
        assert list(await counters.levels(["old", "busy"])) == ["busy"]

    asyncio.run(work())


def test_reservations_in_memory_belong_to_no_other_process():
    async def work() -> None:
        counters = MemoryCounters(FakeClock())
        await counters.seed({"a": 0.0}, [charge("a")])
        await counters.reserve("call", [charge("a")])
        assert list(await counters.reservations_of("")) == []
        await counters.settle_for("", "call", {"tokens": 0.0})
        counters.release_older(1e12)
        assert await counters.levels(["a"]) == {"a": 1.0}

    asyncio.run(work())


# In a database only.


def test_reservations_are_found_by_their_process(tmp_path: Path):
    async def work() -> None:
        database = Database(tmp_path / "x.db")
        first = DatabaseCounters(database, FakeClock(), owner="first")
        second = DatabaseCounters(database, FakeClock(), owner="second")
        nameless = DatabaseCounters(database, FakeClock())
        await first.seed({"a": 0.0}, [charge("a")])
        for number, counters in enumerate((first, second, first, nameless)):
            await counters.reserve(f"call {number}", [charge("a", 2.0)])
        assert sorted(await second.reservations_of("first")) == ["call 0", "call 2"]
        assert list(await second.reservations_of("")) == ["call 3"]
        await second.settle_for("first", "call 0", {"tokens": 0.5})
        assert list(await second.reservations_of("first")) == ["call 2"]
        assert await first.levels(["a"]) == {"a": 6.5}
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_old_reservations_are_released_as_unused():
    async def work() -> None:
        clock = FakeClock(1000.0)
        async with on_sqlite(clock) as counters:
            await counters.seed({"a": 0.0}, [charge("a")])
            for number in range(3):
                await counters.reserve(f"call {number}", [charge("a", 2.0)])
                clock.advance(10)
            counters.release_older(1010.0)
            # The list comes with one transaction, and the settlement with the next.
            await counters.levels(["a"])
            assert await counters.levels(["a"]) == {"a": 4.0}
            assert sorted(await counters.reservations_of("here")) == [
                "call 1",
                "call 2",
            ]

    asyncio.run(work())


def test_a_release_that_fails_is_ignored(caplog: pytest.LogCaptureFixture):
    async def work() -> None:
        database = Database(":memory:")
        counters = DatabaseCounters(database, FakeClock())
        await database.transact(lambda it: it.execute("DROP TABLE reservations"))
        with caplog.at_level(logging.ERROR, "concurrent.futures"):
            counters.release_older(1e12)
            await asyncio.to_thread(database.close)
        assert [
            record for record in caplog.records if record.name == "concurrent.futures"
        ] == []

    asyncio.run(work())


class Interrupted(SqliteEngine):
    """A database that cannot be written a number of times."""

    failures = 0

    def begin(self) -> str:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailableError("the disk is full")
        return super().begin()


@pytest.mark.parametrize("is_of_exited_process", [True, False])
def test_a_settlement_waits_until_the_database_can_be_written(
    monkeypatch: pytest.MonkeyPatch, *, is_of_exited_process: bool
):
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.001)

    async def work() -> None:
        engine = Interrupted(":memory:")
        database = Database(":memory:", engine=engine)
        counters = DatabaseCounters(database, FakeClock(), owner="here")
        await counters.seed({"a": 0.0}, [charge("a")])
        await counters.reserve("call", [charge("a", 4.0)])
        engine.failures = 1
        if is_of_exited_process:
            await counters.settle_for("here", "call", {"tokens": 1.0})
        else:
            counters.settle("call", {"tokens": 1.0})
            await asyncio.wrap_future(database.flush())
        while database.backlog:
            await asyncio.wrap_future(database.flush())
        assert await counters.levels(["a"]) == {"a": 1.0}
        assert engine.failures == 0
        await asyncio.to_thread(database.close)

    asyncio.run(work())
