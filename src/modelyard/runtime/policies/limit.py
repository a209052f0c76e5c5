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
)
from modelyard.runtime.pipeline import Call
from modelyard.storage.counters import Charge, Counters


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

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        tenant = invocation.tenant
        if not self.queue.try_enter(tenant):
            await self._wait(invocation)
        try:
            name = f"{invocation.provider}/{invocation.model}"
            subject = Subject(
                tenant, invocation.api_key, invocation.user or "", name, invocation.app
            )
            # Attempts may go to other models after a failover; the limits keep counting
            # the model that was requested.
            invocation.record.requested_model = name
            applied = self.applicable_limits(subject)
            charges = (
                await self._reserve_charges(invocation, subject, applied)
                if applied
                else []
            )
            is_served = False
            try:
                async with aclosing(call_next(invocation)) as chunks:
                    async for chunk in chunks:
                        is_served = True
                        yield chunk
            # Also runs if the caller disconnects: a reservation that is never settled
            # would count as used.
            finally:
                if charges:
                    record = invocation.record
                    amounts = settled_amounts(
                        tokens=record.tokens,
                        nanos=record.cost_nanos,
                        is_served=is_served,
                    )
                    self.counters.settle(invocation.id, amounts)
        finally:
            self.queue.leave(tenant)

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

        Raises LimitExceededError or QuotaExceededError.
        """
        estimate = self.estimate(invocation)
        # All charges use the same time, so that they belong to the same windows.
        current_time = self.clock.time()
        charges = [
            charge(applicable_limit, subject, estimate, current_time)
            for applicable_limit in applied
        ]
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
