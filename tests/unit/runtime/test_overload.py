"""Tests for overload control: laws of the controller on a simulated event loop, and the
measurement of a real one."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.base.clock import SystemClock
from modelyard.runtime import overload
from modelyard.runtime.overload import LoadController, LoopLag, OverloadedError

TARGET = 0.01
REFUSAL_COST = 0.05
"""Cost of a refusal relative to that of a call."""


@dataclass(frozen=True)
class Load:
    """Calls of one tenant with one priority."""

    tenant: str
    rate: float
    """Calls per second."""
    priority: int = 0


@dataclass
class Counts:
    """What happened to the calls of one load."""

    admitted: int = 0
    refused: int = 0


@dataclass
class SimulatedServer:
    """An event loop whose turns last as long as the work that arrived in the previous
    one. Half of a call's work is done when it arrives, half 50 ms later."""

    call_seconds: float
    controller: LoadController = field(default_factory=lambda: LoadController(TARGET))
    now: float = 0.0
    backlog_seconds: float = 0.0
    lags: list[float] = field(default_factory=list[float])
    _responses: list[float] = field(default_factory=list[float])
    _chance: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, loads: list[Load], seconds: float) -> dict[Load, Counts]:
        """Send these loads for some seconds."""
        counts = {load: Counts() for load in loads}
        until = self.now + seconds
        while self.now < until:
            self._turn(counts)
        return counts

    def _turn(self, counts: dict[Load, Counts]) -> None:
        """Run one turn, and let calls arrive meanwhile."""
        lag = self.backlog_seconds
        # As long as the controller's shortest cycle.
        duration = max(lag, TARGET / 4)
        self.now += duration
        self.backlog_seconds = 0.0
        arrivals = [
            load for load in counts for _ in range(self._arrivals(load.rate * duration))
        ]
        self._chance.shuffle(arrivals)
        for load in arrivals:
            self._arrive(load, counts[load])
        while self._responses and self._responses[0] <= self.now:
            self._responses.pop(0)
            self.backlog_seconds += self.call_seconds / 2
        self.lags.append(lag)
        self.controller.observe(lag, self.now)

    def _arrivals(self, mean: float) -> int:
        """Return a random whole number with this mean."""
        return int(mean) + (self._chance.random() < mean % 1)

    def _arrive(self, load: Load, counts: Counts) -> None:
        """Check a call and add its work."""
        if self.controller.refusal(load.tenant, load.priority) is not None:
            counts.refused += 1
            self.backlog_seconds += self.call_seconds * REFUSAL_COST
            return
        counts.admitted += 1
        self.backlog_seconds += self.call_seconds / 2
        self._responses.append(self.now + 0.05)


COSTS = st.floats(0.0002, 0.002)
MULTIPLES = st.floats(1.5, 6.0)
LOUD_TENANTS = st.integers(1, 5)


def loud_loads(total: float, count: int) -> list[Load]:
    """Return loads of so many tenants, whose rates differ."""
    weights = [1 + index % 2 for index in range(count)]
    return [
        Load(f"loud-{index}", total * weight / sum(weights))
        for index, weight in enumerate(weights)
    ]


@settings(max_examples=25, deadline=None)
@given(COSTS, MULTIPLES, LOUD_TENANTS)
def test_a_tenant_well_below_its_share_is_never_refused(
    call_seconds: float, multiple: float, tenants: int
):
    server = SimulatedServer(call_seconds)
    capacity = 1 / call_seconds
    quiet = Load("quiet", 0.15 * capacity / (tenants + 1))
    counts = server.run([*loud_loads(multiple * capacity, tenants), quiet], 3.0)
    assert counts[quiet].refused == 0
    assert sum(count.refused for count in counts.values()) > 0


@settings(max_examples=25, deadline=None)
@given(COSTS, MULTIPLES, LOUD_TENANTS)
def test_the_admitted_rate_converges_near_the_capacity(
    call_seconds: float, multiple: float, tenants: int
):
    server = SimulatedServer(call_seconds)
    capacity = 1 / call_seconds
    loads = loud_loads(multiple * capacity, tenants)
    server.run(loads, 1.5)
    server.lags.clear()
    counts = server.run(loads, 2.0)
    admitted = sum(count.admitted for count in counts.values()) / 2.0
    # The rest of the time is spent on refusals.
    refusals = sum(count.refused for count in counts.values()) / 2.0
    available = capacity - refusals * REFUSAL_COST
    assert 0.85 * available <= admitted <= 1.1 * available
    assert sum(server.lags) / len(server.lags) < 3 * TARGET


@settings(max_examples=25, deadline=None)
@given(COSTS, MULTIPLES)
def test_every_call_is_admitted_again_once_the_load_ends(
    call_seconds: float, multiple: float
):
    server = SimulatedServer(call_seconds)
    capacity = 1 / call_seconds
    server.run(loud_loads(multiple * capacity, 2), 1.0)
    assert server.controller.is_refusing
    calm = loud_loads(0.5 * capacity, 2)
    server.run(calm, 2.0)
    assert not server.controller.is_refusing
    counts = server.run(calm, 2.0)
    assert all(count.refused == 0 for count in counts.values())


@settings(max_examples=25, deadline=None)
@given(COSTS, st.floats(0.05, 0.8), LOUD_TENANTS)
def test_nothing_is_refused_without_overload(
    call_seconds: float, utilisation: float, tenants: int
):
    server = SimulatedServer(call_seconds)
    counts = server.run(loud_loads(utilisation / call_seconds, tenants), 3.0)
    assert all(count.refused == 0 for count in counts.values())


@settings(max_examples=25, deadline=None)
@given(COSTS, MULTIPLES, st.integers(-3, 3), st.integers(1, 10))
def test_of_one_tenant_calls_of_lower_priority_are_refused_first(
    call_seconds: float, multiple: float, low: int, distance: int
):
    server = SimulatedServer(call_seconds)
    capacity = 1 / call_seconds
    important = Load("tenant", 0.3 * capacity, low + distance)
    batch = Load("tenant", multiple * capacity, low)
    server.run([important, batch], 1.5)
    counts = server.run([important, batch], 2.0)
    assert counts[batch].refused > 0
    assert counts[batch].admitted > 0
    assert counts[important].refused <= 0.02 * counts[important].admitted


def test_loud_tenants_get_equal_shares_whatever_they_send():
    server = SimulatedServer(0.001)
    loads = [Load("loud", 1500), Load("louder", 3000), Load("loudest", 6000)]
    server.run(loads, 1.0)
    counts = server.run(loads, 3.0)
    admitted = [counts[load].admitted for load in loads]
    assert max(admitted) < 1.1 * min(admitted)


def overloaded() -> LoadController:
    """Return a controller whose lag has been too high for long enough."""
    controller = LoadController(TARGET)
    for step in range(5):
        for _ in range(20):
            controller.refusal("loud")
        controller.observe(0.03, 0.03 * step)
    assert controller.is_refusing
    return controller


def test_a_single_long_turn_refuses_nothing():
    controller = LoadController(TARGET)
    controller.observe(0.4, 1.0)
    controller.observe(0.001, 1.01)
    controller.observe(0.4, 1.5)
    assert not controller.is_refusing
    assert controller.refusal("tenant") is None


def test_a_lag_that_grows_steeply_is_not_waited_out():
    controller = LoadController(TARGET)
    controller.observe(0.015, 1.0)
    controller.observe(0.035, 1.036)
    assert controller.is_refusing


def test_a_long_turn_whose_backlog_shrinks_is_waited_out():
    controller = LoadController(TARGET)
    controller.observe(0.1, 1.0)
    controller.observe(0.04, 1.04)
    controller.observe(0.005, 1.05)
    assert not controller.is_refusing


def test_a_refusal_tells_when_to_try_again_and_is_counted():
    controller = overloaded()
    refused_before = controller.refused_calls
    refusals = [controller.refusal("loud") for _ in range(100)]
    errors = [error for error in refusals if error is not None]
    assert errors
    assert controller.refused_calls == refused_before + len(errors)
    assert isinstance(errors[0], OverloadedError)
    assert errors[0].code == "overloaded"
    assert errors[0].retry_after == 1.0


def test_a_target_of_zero_turns_the_control_off():
    controller = LoadController(0.0)
    for step in range(100):
        controller.observe(1.0, float(step))
    assert not controller.is_refusing
    controller = overloaded()
    controller.target_seconds = 0.0
    controller.observe(0.03, 0.2)
    assert not controller.is_refusing


def test_a_call_that_was_admitted_early_is_not_charged_twice():
    controller = overloaded()
    admitted = 0
    for _ in range(1000):
        if not controller.pre_check("newcomer"):
            break
        admitted += 1
        assert controller.refusal("newcomer") is None
    assert 4 <= admitted < 1000
    assert controller.refusal("newcomer") is not None


def test_a_call_that_starts_early_uses_its_pass():
    controller = overloaded()
    calls = controller.calls
    assert controller.pre_check("newcomer")
    # Asking again charges nothing, and neither does the start.
    assert controller.pre_check("newcomer")
    controller.use_pass("newcomer")
    assert controller.calls == calls + 1
    spent = _admitted_at_once(controller, "newcomer")
    assert spent == _admitted_at_once(overloaded(), "newcomer") - 1


def test_only_a_refusal_that_is_sent_is_counted():
    controller = overloaded()
    _admitted_at_once(controller, "newcomer")
    refused, calls = controller.refused_calls, controller.calls
    assert not controller.pre_check("newcomer")
    assert (controller.refused_calls, controller.calls) == (refused, calls)
    controller.count_refusal()
    assert (controller.refused_calls, controller.calls) == (refused + 1, calls + 1)


def _admitted_at_once(controller: LoadController, tenant: str) -> int:
    """Return how many calls of a tenant are admitted before the first refusal."""
    for admitted in range(10_000):
        if not controller.pre_check(tenant):
            return admitted
        controller.use_pass(tenant)
    raise AssertionError("no call was refused")


def test_a_lull_does_not_raise_the_share():
    controller = overloaded()
    share = controller.share
    # Turns are short, and nobody is refused: a larger share would only let the next
    # burst in.
    for step in range(20):
        controller.observe(TARGET / 20, 0.2 + 0.005 * step)
    assert controller.is_refusing
    assert controller.share == share


def test_the_number_of_remembered_tenants_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overload, "_MAX_TENANTS", 3)
    controller = overloaded()
    for index in range(10):
        controller.refusal(f"tenant-{index}")
        assert len(controller._accounts) <= 3  # pyright: ignore[reportPrivateUsage]


def test_the_highest_priority_is_forgotten_once_its_calls_end():
    controller = overloaded()
    assert controller.refusal("tenant", 5) is None
    now = 0.2

    def calls_after(cycles: int) -> int:
        """Return how many calls of priority 0 are admitted at once after a pause."""
        nonlocal now
        for _ in range(cycles):
            now += TARGET
            for _ in range(100):
                controller.refusal("loud")
            controller.observe(TARGET, now)
        refusals = [controller.refusal("tenant", 0) for _ in range(10_000)]
        return refusals.count(None)

    # A part of a burst is reserved for the higher priority.
    share = controller.share
    assert 0 < calls_after(20) < 10 * controller.share
    assert calls_after(250) >= 9 * controller.share
    assert controller.share > share


def test_the_lag_of_a_busy_loop_is_measured():
    async def measure() -> tuple[list[float], list[bool]]:
        controller, lags = LoadController(TARGET), list[float]()
        states: list[bool] = []
        measured = asyncio.Event()

        def record(lag_seconds: float) -> None:
            lags.append(lag_seconds)
            states.append(controller.is_refusing)
            if len(lags) >= 5:
                measured.set()

        async def occupy() -> None:
            while not measured.is_set():
                busy_until = time.thread_time() + 0.03
                while time.thread_time() < busy_until:
                    pass
                await asyncio.sleep(0)

        probe = asyncio.create_task(LoopLag(controller, SystemClock(), record).run())
        await asyncio.wait_for(occupy(), 20)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        return lags, states

    lags, states = asyncio.run(measure())
    assert min(lags[:5]) >= 0.03
    assert True in states
