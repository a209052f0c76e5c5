"""Overload control: calls that the process cannot serve in time are refused at once.

A process that gets more calls than it can serve does not see them in a queue of its
own: they wait for their turn in the event loop. Admission therefore measures the work
that a callback waits for, the lag. If it stays above a target, new calls are refused,
first those of the tenants that call most. Deciding when follows CoDel (RFC 8289).
Performs no I/O.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.errors import QueueFullError

logger = logging.getLogger("modelyard.overload")

_INTERVAL_SECONDS = 0.05
"""How long the lag must stay above its target before calls are refused: bursts that the
process works off within this time are admitted."""
_TURN_PART = 0.5
"""The part of the target that a turn may take while calls are refused. A served call waits
for two or three turns, a refusal for one or two, and some turns are far too long."""
_STEEP = 3.0
"""A lag that grows in two turns to this multiple of the target is not waited out: at
several times the capacity, the work of an interval takes seconds."""
_CALM_SECONDS = 0.5
"""Calls are admitted without a check again once none was refused for this long."""
_GAIN = 0.1
"""Exponent with which one cycle's deviation from the target changes the share. The work
of an admitted call is spread over several cycles, so a larger gain oscillates."""
_MAX_INCREASE, _MAX_DECREASE = 1.5, 6.0
"""Largest deviations from the target that one cycle may count, as factors. A cycle that
is too long comes less often than one that is too short, so it has to count for more."""
_REFUSAL_COST = 0.1
"""Cost of a refusal relative to that of a call, about as measured. The part of a turn
that refusals take is not the calls' fault: admitting fewer would not shorten it."""
_SMOOTHING = 0.1
"""Weight of one cycle in the averages of admitted and refused calls."""
# At zero, no call would be let in any more whose duration could be measured.
_MIN_SHARE = 0.01
# Without a bound, it would take long to come down again after a quiet time.
_MAX_SHARE = 1e6
# After a pause, a client usually sends several calls at once.
_BURST_CYCLES = 10
_MIN_BURST = 8.0
"""Calls that a quiet tenant may start at once: the shares of some cycles, and at least
this number."""
_PRIORITY_CYCLES = 200
"""Cycles without calls of a tenant's highest priority after which it is forgotten."""
_MAX_TENANTS = 100_000
# Shorter cycles would use the processor for measuring.
_MIN_CYCLE_SECONDS = 0.002
_PAUSE_SECONDS = 0.01
_IDLE_SECONDS = 0.05
"""Seconds between two measurements, with and without calls."""


class OverloadedError(QueueFullError):
    """The process has more calls than it can serve in time, and this caller's tenant
    has at least its fair share of them."""

    code = "overloaded"


@dataclass(slots=True)
class _Account:
    """The calls of one tenant, and while calls are refused, those that it may start."""

    arrivals: int = 0
    """Calls since the lag rose above its target."""
    tokens: float = 0.0
    granted: float = 0.0
    """`LoadController._granted` when `tokens` was last updated."""
    top_priority: int = 0
    top_cycle: int = 0
    """Cycle of the last call with at least this priority."""
    passes: int = 0
    """Calls that `pre_check` has admitted and that have not started yet."""


class LoadController:
    """Decides which calls are refused. Every method takes constant time.

    Time is divided into cycles: turns of the event loop under load. While calls are
    refused, each tenant may start `share` calls per cycle, and the share is adjusted
    until a turn takes half of `target_seconds`. A cycle lasts as long as the work in it, so the
    rate of admitted calls follows the capacity of the process by itself, however many
    calls arrive. Unused shares of the last cycles are kept, so a tenant below its share
    is always admitted.

    Among the calls of one tenant, those with a lower priority than others of the tenant
    are refused first.
    """

    def __init__(self, target_seconds: float) -> None:
        """`target_seconds`: acceptable lag; 0 admits every call."""
        self.target_seconds = target_seconds
        self.is_refusing = False
        self.refused_calls = 0
        """Number of calls that were refused, ever."""
        self.calls = 0
        """Number of calls that were checked, ever."""
        self.cycle = 0
        self.share = 0.0
        self._granted = 0.0
        """Sum of the shares of all cycles: what a tenant could have started so far."""
        self._accounts: dict[str, _Account] = {}
        self._above_since: float | None = None
        self._counted_since = 0.0
        """Since when the accounts count arrivals."""
        self._previous_lag = 0.0
        self._last_refusal = 0.0
        self._started_calls, self._refusals = 0, 0
        """Calls of this cycle that were admitted and refused."""
        self._mean_started, self._mean_refused = 0.0, 0.0

    def refusal(self, tenant: str, priority: int = 0) -> OverloadedError | None:
        """Check a call that is about to start; return the error if it is refused."""
        self.calls += 1
        if not self.target_seconds:
            return None
        account = self._accounts.get(tenant) or self._open_account(tenant)
        account.arrivals += 1
        if not self.is_refusing:
            return None
        if account.passes:
            account.passes -= 1
            return None
        if self._take_token(account, priority):
            return None
        self._note_refusal()
        return OverloadedError(
            "The server is overloaded; try again in a moment", retry_after=1.0
        )

    def pre_check(self, tenant: str, priority: int = 0) -> bool:
        """Check a call as soon as its caller is known; return whether it may go on.

        A call that may is charged, and has a pass: whoever starts it, `refusal` or
        `use_pass`, does not charge it again. One that may not has changed nothing.
        """
        account = self._accounts.get(tenant) or self._open_account(tenant)
        if account.passes:
            return True
        if not self._take_token(account, priority):
            return False
        account.passes = 1
        return True

    def use_pass(self, tenant: str) -> None:
        """Count a call that `pre_check` has admitted and that starts now."""
        self.calls += 1
        account = self._accounts.get(tenant)
        if account is not None and account.passes:
            account.passes -= 1

    def count_refusal(self) -> None:
        """Count a call that `pre_check` did not admit and that is refused now."""
        self.calls += 1
        self._note_refusal()

    def observe(self, lag_seconds: float, now: float) -> None:
        """End a cycle: a callback waited for `lag_seconds` of work, until `now`."""
        self.cycle += 1
        if self.is_refusing:
            self._end_cycle(lag_seconds, now)
        elif not self.target_seconds or lag_seconds <= self.target_seconds:
            self._above_since = None
            # Only the arrivals since the lag rose matter.
            self._accounts.clear()
            self._counted_since = now
        elif self._above_since is None:
            self._above_since = now
            earliest = now - lag_seconds - _IDLE_SECONDS
            self._counted_since = max(self._counted_since, earliest)
        elif now - self._above_since >= _INTERVAL_SECONDS or lag_seconds >= max(
            _STEEP * self.target_seconds, self._previous_lag
        ):
            self._start_refusing(lag_seconds, now)
        self._previous_lag = lag_seconds

    @property
    def _turn_seconds(self) -> float:
        """How long a turn is to take while calls are refused."""
        return _TURN_PART * self.target_seconds

    def _start_refusing(self, lag_seconds: float, now: float) -> None:
        """Start with the share at which the calls of the last interval would have kept
        the target."""
        busiest = max(
            (account.arrivals for account in self._accounts.values()), default=0
        )
        # What arrived since the lag rose took that time, and what is left of it takes
        # the lag.
        work_seconds = now - self._counted_since + lag_seconds
        share = busiest * self._turn_seconds / work_seconds
        self.share = max(share, _MIN_SHARE)
        self._granted = 0.0
        self.is_refusing, self._last_refusal = True, now
        self._started_calls, self._refusals = 0, 0
        # Until calls are refused, all of the lag is due to calls that were admitted.
        self._mean_started, self._mean_refused = max(share, 1.0), 0.0
        for account in self._accounts.values():
            # Who has called a lot in this interval has used its burst already.
            account.tokens = max(0.0, self._max_tokens() - account.arrivals)
            account.granted = 0.0
        logger.warning(
            "overloaded; calls of the busiest tenants are refused",
            extra={"fields": {"lag_ms": round(lag_seconds * 1000, 1)}},
        )

    def _stop_refusing(self) -> None:
        """Admit every call again."""
        self.is_refusing = False
        self._above_since = None
        self._accounts.clear()
        logger.info(
            "no longer overloaded",
            extra={"fields": {"refused": self.refused_calls}},
        )

    def _end_cycle(self, lag_seconds: float, now: float) -> None:
        """Adjust the share and grant it for the next cycle, or stop refusing calls."""
        if self._refusals:
            self._last_refusal = now
        if now - self._last_refusal >= _CALM_SECONDS or not self.target_seconds:
            self._stop_refusing()
            return
        self._mean_started += _SMOOTHING * (self._started_calls - self._mean_started)
        self._mean_refused += _SMOOTHING * (self._refusals - self._mean_refused)
        is_binding = self._refusals > 0
        self._started_calls, self._refusals = 0, 0
        self._adjust_share(lag_seconds * self._calls_part(), is_binding=is_binding)
        self._granted += self.share

    def _calls_part(self) -> float:
        """Return the part of a turn that admitted calls take, from 0 to 1."""
        refusals = _REFUSAL_COST * self._mean_refused
        return self._mean_started / max(self._mean_started + refusals, 1e-9)

    def _adjust_share(self, seconds: float, *, is_binding: bool) -> None:
        """Change the share by the deviation of the calls' part of a turn from the
        target. `is_binding`: whether the share has refused a call in this cycle."""
        ratio = self._turn_seconds / max(seconds, 1e-6)
        # A share that nobody has used up says nothing about a larger one. Raised in
        # every lull, it would admit the next burst whole.
        if ratio > 1 and not is_binding:
            return
        factor = min(max(ratio, 1 / _MAX_DECREASE), _MAX_INCREASE) ** _GAIN
        self.share = min(max(self.share * factor, _MIN_SHARE), _MAX_SHARE)

    def _take_token(self, account: _Account, priority: int) -> bool:
        """Charge a call to its tenant's share; return False if the share is used up."""
        # Nothing was granted since the last refusal, which is so for most of a turn.
        if account.tokens < 1 and account.granted == self._granted:
            return False
        capacity = self._max_tokens()
        tokens = min(
            account.tokens + self._granted - account.granted,
            capacity,
        )
        account.granted = self._granted
        account.tokens = tokens
        if tokens < 1 or tokens <= capacity * self._reserved(account, priority):
            return False
        account.tokens = tokens - 1
        self._started_calls += 1
        return True

    def _reserved(self, account: _Account, priority: int) -> float:
        """Return the fraction of a tenant's burst that is reserved for its calls of
        higher priority: none for the highest, up to a half for the others."""
        is_outdated = self.cycle - account.top_cycle > _PRIORITY_CYCLES
        if priority >= account.top_priority or is_outdated:
            account.top_priority, account.top_cycle = priority, self.cycle
            return 0.0
        distance = account.top_priority - priority
        return distance / (distance + 1) / 2

    def _max_tokens(self) -> float:
        """Return the calls that a tenant may start at once after a pause."""
        return max(_MIN_BURST, _BURST_CYCLES * self.share)

    def _open_account(self, tenant: str) -> _Account:
        """Return a new account, with a full burst."""
        # Forgetting who called only makes the next cycles less fair; an unbounded map
        # would fill the memory.
        if len(self._accounts) >= _MAX_TENANTS:
            self._accounts.clear()
        account = _Account(tokens=self._max_tokens(), granted=self._granted)
        account.top_cycle = -_PRIORITY_CYCLES - 1
        self._accounts[tenant] = account
        return account

    def _note_refusal(self) -> None:
        """Count a refused call, in total and for the current interval."""
        self.refused_calls += 1
        self._refusals += 1


class LoopLag:
    """Measures how long a callback waits for its turn in the event loop, and reports it
    to the controller and the metrics.

    The controller gets the processor time of the turn. What the process itself waits
    for, another process or thread, no refused call would shorten.

    Costs about 10 µs for each measurement: a hundred a second while there are calls, 20
    without.
    """

    def __init__(
        self,
        controller: LoadController,
        clock: Clock,
        record: Callable[[float], None],
    ) -> None:
        """`record` receives each measured wait in seconds."""
        self._controller = controller
        self._clock = clock
        self._record = record

    async def run(self) -> None:
        """Measure until cancelled."""
        controller, clock = self._controller, self._clock
        lag_seconds, checked_calls = 0.0, -1
        while True:
            late_seconds = 0.0
            if pause_seconds := self._pause(lag_seconds, checked_calls):
                late_seconds = await self._sleep(pause_seconds)
            checked_calls = controller.calls
            started_at, cpu_seconds = clock.monotonic(), time.thread_time()
            # One turn: what is ready now runs first, and what arrives meanwhile is
            # read.
            await asyncio.sleep(0)
            ended_at = clock.monotonic()
            lag_seconds = max(time.thread_time() - cpu_seconds, late_seconds)
            controller.observe(lag_seconds, ended_at)
            self._record(ended_at - started_at)

    async def _sleep(self, seconds: float) -> float:
        """Sleep to the front of a turn; return by how much processor time that was too
        late.

        Turns during the sleep are not measured otherwise, and the longest may be among
        them.
        """
        started_at, cpu_seconds = self._clock.monotonic(), time.thread_time()
        await asyncio.sleep(seconds)
        late_seconds = self._clock.monotonic() - started_at - seconds
        late_seconds = min(late_seconds, time.thread_time() - cpu_seconds)
        # A timer's callbacks run last in their turn, after the tasks that are ready.
        # From the front of a turn all of it is measured.
        await asyncio.sleep(0)
        return late_seconds

    def _pause(self, lag_seconds: float, checked_calls: int) -> float:
        """Return the seconds until the next measurement."""
        controller = self._controller
        if controller.is_refusing:
            # Under load the cycles follow each other without a pause: the calls of a
            # cycle then start in one turn.
            shortest_cycle = max(controller.target_seconds / 4, _MIN_CYCLE_SECONDS)
            return max(0.0, shortest_cycle - lag_seconds)
        return _PAUSE_SECONDS if controller.calls != checked_calls else _IDLE_SECONDS
