"""Policy that admits a call within its limits: it reserves the most the call can use,
and settles what it really used."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.models.types import Chunks
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import (
    ApplicableLimit,
    CounterStart,
    Estimate,
    Subject,
    charge,
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

    def admit_now(self, invocation: Invocation) -> "Admitted | None":
        """Admit a call without waiting.

        None if it has to wait for a slot or for a counter, or if a limit refuses it;
        nothing has changed then.
        """
        if not isinstance(self.counters, MemoryCounters):
            return None
        if not self.queue.try_enter(invocation.tenant):
            return None
        subject = _subject_of(invocation)
        applied = self.applicable_limits(subject)
        if self._unpriced_limit(invocation, applied) is not None:
            self.queue.leave(invocation.tenant)
            return None
        charges = self._charges(invocation, subject, applied) if applied else []
        try:
            is_refused = bool(charges) and (
                self.counters.reserve_now(invocation.id, charges) is not None
            )
        except UnseededError:
            is_refused = True
        if is_refused:
            self.queue.leave(invocation.tenant)
            return None
        return Admitted(self, invocation, charges)

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
        invocation.record.note(
            self.clock.monotonic(),
            "refused",
            is_notable=True,
            limit=refusing_limit.name,
            used=refusal.used,
            of=refusal.charge.cap,
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
        if of_money is None or self.is_priced(invocation):
            return None
        return of_money

    def _charges(
        self,
        invocation: Invocation,
        subject: Subject,
        applied: Sequence[ApplicableLimit],
        current_time: float | None = None,
    ) -> list[Charge]:
        """Return the charges of a call against its limits."""
        estimate = self.estimate(invocation)
        current_time = self.clock.time() if current_time is None else current_time
        return [
            charge(applicable_limit, subject, estimate, current_time)
            for applicable_limit in applied
        ]

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


@dataclass(slots=True, eq=False)
class Admitted:
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
        finally:
            self.limits.queue.leave(invocation.tenant)
