"""A clock that jumps a day ahead for two seconds and back must not lock anyone out."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.show.servers import Postgres, Valkey

from modelyard.app import Modelyard
from modelyard.base.clock import SteadyTime
from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.base.settings import Settings
from modelyard.runtime.limits import ApplicableLimit, initial_level
from modelyard.storage.counters import CLOCK_SKEW_SECONDS, Charge, Level, reserve_all
from modelyard.storage.usage_sums import UsageTotal
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock, echo_models, echo_provider

pytestmark = pytest.mark.proof("clock")

DAY = 86_400.0


class JumpingClock(FakeClock):
    """A clock whose wall time can be ahead; monotonic time advances normally."""

    ahead = 0.0

    def time(self) -> float:
        return self.now + self.ahead


# --------------------------------------------------------------------- the clock itself


class Machine:
    def __init__(self) -> None:
        self.passed, self.set_to = 1000.0, 1_790_000_000.0
        self.time = SteadyTime(lambda: self.set_to + self.passed, lambda: self.passed)

    def after(self, seconds: float) -> float:
        """Advance the machine; return the steady time in seconds since the start."""
        self.passed += seconds
        return self.time() - 1_790_001_000.0


def test_a_short_jump_is_ignored():
    machine = Machine()
    for jump in (DAY, -DAY, 400 * DAY):
        time_before = machine.after(1)
        machine.set_to += jump
        assert machine.after(0) == time_before
        assert machine.after(2) == time_before + 2
        machine.set_to -= jump
        assert machine.after(5) == time_before + 7


def test_a_lasting_jump_is_accepted_and_small_corrections_at_once():
    machine = Machine()
    machine.set_to += 0.5
    assert machine.after(1) == 1.5
    machine.set_to += DAY
    assert machine.after(10) == 11.5
    assert machine.after(29) == 40.5
    assert machine.after(2) == 42.5 + DAY
    machine.set_to -= DAY
    machine.after(1)
    machine.set_to += 7 * DAY  # another jump starts another 30 s
    machine.after(29)
    assert machine.after(0) < 2 * DAY
    assert machine.after(31) > 5 * DAY


# ----------------------------------------------------------------------------- counters


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data") as server:
        yield server.url


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(params=["memory", "sqlite", "postgresql", "valkey"])
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    match request.param:
        case "memory":
            return {}
        case "sqlite":
            return {"shared": "database"}
        case "postgresql":
            return {"database": request.getfixturevalue("postgres")}
        case _:
            return {"shared": request.getfixturevalue("valkey")}


@pytest.mark.parametrize("window", ["minute", "hour"])
def test_a_jump_ahead_and_back_blocks_at_most_for_the_window(
    tmp_path: Path, stored: dict[str, Any], window: str
):
    seconds = {"minute": 60.0, "hour": 3600.0}[window]
    limit = {"unit": "requests", "amount": 3, "window": window, "per": "user"}
    document = {
        "home": str(tmp_path), "local": {"enabled": False}, "plugins": {"debug_port": 0}, "limits": {"few": limit},
        **stored,
    }  # fmt: skip
    settings, clock, user = (
        msgspec.convert(document, Settings),
        JumpingClock(1_790_000_000.0),
        new_id("u"),
    )

    async def admitted(yard: Modelyard) -> int:
        count = 0
        for _ in range(5):
            try:
                await yard.chat("hi", model="echo/echo", user=user)
                count += 1
            except ModelyardError as error:
                assert error.code == "rate_limit_exceeded"
                assert getattr(error, "retry_after", 0.0) <= seconds
        await asyncio.sleep(0.05)
        return count

    async def work() -> None:
        yard = Modelyard(
            settings,
            definitions=[echo_provider()],
            builders={"echo": echo_models},
            environ={},
            clock=clock,
        )
        async with yard:
            assert await admitted(yard) == 3
            clock.ahead = DAY
            clock.advance(1)
            await admitted(yard)
            clock.advance(1)
            clock.ahead = 0.0
            # Usage during the jump counts as usage just now.
            assert await admitted(yard) == 0
            clock.advance(seconds + 1)
            assert await admitted(yard) == 3
            clock.ahead = -DAY
            assert await admitted(yard) == 0
            clock.ahead = 0.0
            clock.advance(seconds + 1)
            assert await admitted(yard) == 3

    asyncio.run(work())


def test_clock_skew_between_machines_does_not_admit_more_calls():
    levels, current_time = {"a": Level(10.0, 100.0 + CLOCK_SKEW_SECONDS)}, 100.0
    charge = Charge("a", 1, 1, 10, 1.0, 60.0, "requests")
    for _ in range(50):  # two machines in turn, one ahead
        assert reserve_all(levels, [charge], current_time) is not None
        assert (
            reserve_all(levels, [charge], current_time + CLOCK_SKEW_SECONDS) is not None
        )


def test_rows_of_a_jump_do_not_keep_a_counter_from_draining():
    applied_limit = ApplicableLimit(
        "l",
        "l",
        Limit(unit="requests", amount=60),
        "t",
        "l|t|t|minute",
        60.0,
        1.0,
        120.0,
        True,
    )
    current_time = 1_790_000_000.0
    ahead = UsageTotal("echo/echo", int((current_time + DAY) // 10), 60, 60, 0, 0)
    assert initial_level(applied_limit, [ahead], current_time) == 60.0
    assert initial_level(applied_limit, [ahead], current_time + 30) <= 60.0
