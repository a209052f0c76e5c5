"""Admit a call within its limits: reserve the most it can take, and settle what it took."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.models.types import Chunks
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import Applied, Estimate, Started, Subject, charge, refused, reserve, taken
from modelyard.runtime.pipeline import Call
from modelyard.storage.counters import Charge, Counters


@dataclass(frozen=True, slots=True)
class Limits:
    applying: Callable[[Subject], Sequence[Applied]]
    """The limits that hold for a call."""
    estimate: Callable[[Invocation], Estimate]
    counters: Counters
    start: Callable[[Subject, Sequence[Started]], Awaitable[None]]
    """Start counters that are not there, by the ledger."""
    queue: FairQueue
    clock: Clock
    patience: float = 10.0
    """Seconds that a call may wait for a turn."""

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        tenant = invocation.tenant
        if not self.queue.try_enter(tenant):
            await self._wait(invocation)
        try:
            name = f"{invocation.provider}/{invocation.model}"
            subject = Subject(tenant, invocation.api_key, invocation.user or "", name, invocation.app)
            invocation.record.asked = name
            applied = self.applying(subject)
            charges = await self._reserved(invocation, subject, applied) if applied else []
            is_served = False
            try:
                async with aclosing(call_next(invocation)) as chunks:
                    async for chunk in chunks:
                        is_served = True
                        yield chunk
            finally:
                if charges:
                    record = invocation.record
                    amounts = taken(tokens=record.tokens, nanos=record.cost_nanos, is_served=is_served)
                    self.counters.settle(invocation.id, amounts)
        finally:
            self.queue.leave(tenant)

    async def _wait(self, invocation: Invocation) -> None:
        begun = self.clock.monotonic()
        left = invocation.deadline - begun if invocation.deadline is not None else self.patience
        await self.queue.enter(invocation.tenant, priority=invocation.caller.priority, seconds=min(left, self.patience))
        waited = self.clock.monotonic() - begun
        invocation.record.note(begun, "queued", is_notable=True, ms=round(waited * 1000, 1))

    async def _reserved(self, invocation: Invocation, subject: Subject, applied: Sequence[Applied]) -> list[Charge]:
        """Raises LimitExceededError or QuotaExceededError."""
        estimate = self.estimate(invocation)
        now = self.clock.time()
        charges = [charge(one, subject, estimate, now) for one in applied]
        seed = partial(self._seed, subject, [Started(*pair, now) for pair in zip(applied, charges, strict=True)])
        refusal = await reserve(self.counters, invocation.id, charges, seed)
        if refusal is None:
            return charges
        one = applied[charges.index(refusal.charge)]
        invocation.record.note(
            self.clock.monotonic(), "refused", is_notable=True, limit=one.name, used=refusal.used, of=refusal.charge.cap
        )
        raise refused(one, refusal.charge, refusal.used, now)

    async def _seed(self, subject: Subject, known: Sequence[Started], unknown: Sequence[str]) -> None:
        await self.start(subject, [one for one in known if one.charge.name in unknown])
