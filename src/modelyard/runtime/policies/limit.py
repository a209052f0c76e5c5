"""Policy that admits a call within its limits: it reserves the most the call can use,
and settles what it really used."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.models.types import Chunks
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import (
    ApplicableLimit,
    ChargePlan,
    CounterStart,
    Estimate,
    Subject,
    limit_error,
    reserve,
    settled_amounts,
    unpriced_error,
)
from modelyard.runtime.pipeline import Call
from modelyard.storage.counters import (
    Charge,
    Counters,
    MemoryCounters,
    UnseededError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The rate limit and quota policy."""

    applicable_limits: Callable[[Subject], Sequence[ApplicableLimit]]
    """Returns the limits that apply to a call."""
    estimate: Callable[[Invocation], Estimate]
    counters: Counters
    start: Callable[[Subject, Sequence[CounterStart]], Awaitable[None]]
    """Initialises counters that do not exist yet, from the ledger."""
    queue: FairQueue
    clock: Clock
    patience: float = 10.0
    """The longest time in seconds that a call may wait in the queue."""
    is_priced: Callable[[Invocation], bool] = lambda invocation: True
    """Returns whether a limit of money can count the call."""
    estimator: "Callable[[Invocation], CallEstimator] | None" = None
    """Returns what estimates all calls to the model of a call. It is cheaper than
    `estimate`, whose results it must give."""

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        admitted = await self._admit(invocation)
        # A reservation that is never settled would count as used, so it is released
        # however the call ends.
        try:
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    admitted.is_served = True
                    yield chunk
        finally:
            admitted.release()

    @property
    def has_counters_here(self) -> bool:
        """Whether counters are in this process, so that nothing has to be awaited."""
        return isinstance(self.counters, MemoryCounters)

    def plan_for(self, invocation: Invocation) -> "AdmissionPlan | None":
        """Return how calls like this one are admitted: those of the same caller, user
        and model. None if they cannot be admitted without waiting.

        It is valid until limits, prices or models change.
        """
        if not isinstance(self.counters, MemoryCounters):
            return None
        subject = _subject_of(invocation)
        applied = self.applicable_limits(subject)
        # Such a call is refused, which is the other way's business.
        if self._unpriced_limit(invocation, applied) is not None:
            return None
        return AdmissionPlan(
            limits=self,
            counters=self.counters,
            model=subject.model,
            charges=ChargePlan(applied, subject),
            estimate=(
                self.estimate
                if self.estimator is None
                else self.estimator(invocation).estimate
            ),
        )

    async def _admit(self, invocation: Invocation) -> "Admitted":
        """Wait for a slot and reserve what the call can use at most. Raises
        QueueFullError, LimitExceededError, QuotaExceededError or UnpricedModelError."""
        tenant = invocation.tenant
        if not self.queue.try_enter(tenant):
            await self._wait(invocation)
        try:
            subject = _subject_of(invocation)
            applied = self.applicable_limits(subject)
            charges = (
                await self._reserve_charges(invocation, subject, applied)
                if applied
                else []
            )
        except BaseException:
            self.queue.leave(tenant)
            raise
        return Admitted(self, invocation, charges)

    async def _wait(self, invocation: Invocation) -> None:
        """Wait in the queue, at most until the call's deadline. Raises QueueFullError."""
        started_at = self.clock.monotonic()
        left = (
            invocation.deadline - started_at
            if invocation.deadline is not None
            else self.patience
        )
        await self.queue.enter(
            invocation.tenant,
            priority=invocation.caller.priority,
            seconds=min(left, self.patience),
        )
        waited = self.clock.monotonic() - started_at
        invocation.record.note(
            started_at, "queued", is_notable=True, ms=round(waited * 1000, 1)
        )

    async def _reserve_charges(
        self,
        invocation: Invocation,
        subject: Subject,
        applied: Sequence[ApplicableLimit],
    ) -> list[Charge]:
        """Reserve the estimate against every applicable limit and return the charges.

        Raises LimitExceededError, QuotaExceededError or UnpricedModelError.
        """
        if (limit := self._unpriced_limit(invocation, applied)) is not None:
            raise unpriced_error(limit, subject.model)
        # All charges use the same time, so that they belong to the same windows.
        current_time = self.clock.time()
        charges = self._charges(invocation, subject, applied, current_time)
        seed = partial(
            self._seed,
            subject,
            [
                CounterStart(*pair, current_time)
                for pair in zip(applied, charges, strict=True)
            ],
        )
        refusal = await reserve(self.counters, invocation.id, charges, seed)
        if refusal is None:
            return charges
        refusing_limit = applied[charges.index(refusal.charge)]
        # Money is counted in billionths; people read it in its unit.
        unit_size = 1e9 if refusing_limit.limit.unit == "cost" else 1
        invocation.record.note(
            self.clock.monotonic(),
            "refused",
            is_notable=True,
            limit=refusing_limit.name,
            used=refusal.used / unit_size,
            of=refusal.charge.cap / unit_size,
        )
        raise limit_error(refusing_limit, refusal.charge, refusal.used, current_time)

    def _unpriced_limit(
        self, invocation: Invocation, applied: Sequence[ApplicableLimit]
    ) -> ApplicableLimit | None:
        """Return a limit of money that cannot count the call because its price is
        unknown; None if there is none."""
        of_money = next(
            (applicable for applicable in applied if applicable.limit.unit == "cost"),
            None,
        )
        # Most calls have no such limit, so the price is looked up last.
        if of_money is None or self.is_priced(invocation):
            return None
        return of_money

    def _charges(
        self,
        invocation: Invocation,
        subject: Subject,
        applied: Sequence[ApplicableLimit],
        current_time: float,
    ) -> list[Charge]:
        """Return the charges of a call against its limits."""
        estimate = self.estimate(invocation)
        return ChargePlan(applied, subject).charges(estimate, current_time)

    async def _seed(
        self,
        subject: Subject,
        counter_starts: Sequence[CounterStart],
        unknown: Sequence[str],
    ) -> None:
        """Initialise the counters that the store reported as unknown."""
        await self.start(
            subject,
            [
                counter_start
                for counter_start in counter_starts
                if counter_start.charge.name in unknown
            ],
        )


class CallEstimator(Protocol):
    """Estimates the calls to one model."""

    def estimate(self, invocation: Invocation) -> Estimate:
        """Return the most that a call can use."""
        ...


class AdmissionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the calls of a caller to a model are admitted, with everything looked up."""

    limits: Limits
    counters: MemoryCounters
    model: str
    """The model that the limits count the calls against."""
    charges: ChargePlan
    estimate: Callable[[Invocation], Estimate]

    def admit(self, invocation: Invocation) -> "Admitted | None":
        """Admit a call without waiting.

        None if it has to wait for a slot or for a counter, or if a limit refuses it;
        nothing has changed then.
        """
        limits, plan = self.limits, self.charges
        if not limits.queue.try_enter(invocation.tenant):
            return None
        invocation.record.requested_model = self.model
        if not plan.applied:
            return Admitted(limits, invocation, ())
        charges = plan.charges(self.estimate(invocation), limits.clock.time())
        try:
            refusal = self.counters.reserve_now(invocation.id, charges)
            is_refused = refusal is not None
        except UnseededError:
            is_refused = True
        if is_refused:
            limits.queue.leave(invocation.tenant)
            return None
        return Admitted(limits, invocation, charges)


def _subject_of(invocation: Invocation) -> Subject:
    """Return who makes a call and what is called, and note the model for the ledger."""
    name = f"{invocation.provider}/{invocation.model}"
    # Attempts may go to other models after a failover; the limits keep counting the
    # model that was requested.
    invocation.record.requested_model = name
    return Subject(
        invocation.tenant,
        invocation.api_key,
        invocation.user or "",
        name,
        invocation.app,
    )


class Admitted(msgspec.Struct, eq=False):
    """A call that holds a slot of the queue and reservations against its limits."""

    limits: Limits
    invocation: Invocation
    charges: Sequence[Charge]
    is_served: bool = False
    """Whether the caller has received anything."""

    def release(self) -> None:
        """Settle what the call has really used, and leave the queue. Must be called
        exactly once."""
        invocation = self.invocation
        try:
            if self.charges:
                record = invocation.record
                amounts = settled_amounts(
                    tokens=record.tokens,
                    nanos=record.cost_nanos,
                    is_served=self.is_served,
                    is_cost_known=not record.has_unknown_cost,
                )
                self.limits.counters.settle(invocation.id, amounts)
        # Even if the counters fail: a slot that is not given back is lost for good.
        finally:
            self.limits.queue.leave(invocation.tenant)
