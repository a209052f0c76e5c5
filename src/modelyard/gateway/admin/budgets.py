"""/admin/v1/budgets: what is used and left of each limit, and what it comes to at the
present pace."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import BudgetView
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.runtime.limits import (
    ApplicableLimit,
    CounterStart,
    Estimate,
    Subject,
    applicable_limits,
    charge,
    seconds_to_reset,
    window_start,
)
from modelyard.storage.counters import Counters
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Limit

_NANO = 1e9


@dataclass(frozen=True, slots=True)
class Budgets:
    """Route for the levels of a tenant's limits."""

    directory: Directory
    counters: Counters
    start_counters: Callable[[Subject, Sequence[CounterStart]], Awaitable[None]]
    """Initialises counters that do not exist yet, from the ledger."""
    clock: Clock

    async def listed(self, request: Request) -> Reply:
        """List the limits with what is used of each, by name.

        Raises NotFoundError, StorageUnavailableError, LedgerUnavailableError.
        """
        tenant = tenant_of(request)
        limits = [
            (resource.name, resource.id, limit)
            for resource, limit in self.directory.of(tenant, Limit)
            # A negative amount means unlimited.
            if limit.amount >= 0
        ]
        views: list[BudgetView] = []
        for name, row, limit in sorted(limits, key=lambda found: found[0]):
            used = await self._used(tenant, row, name, limit)
            views.append(_view(row, name, limit, used, self.clock.time()))
        return json_reply({"data": views})

    async def _used(
        self, tenant: str, row: str, name: str, limit: Limit
    ) -> float | None:
        """Return what is used of a limit in its own unit; None if it counts several
        callers or models separately."""
        subject = _only_subject(tenant, limit)
        if subject is None:
            return None
        applied = applicable_limits([(row, name, limit)], subject)
        level = await self._level(subject, applied[0]) if applied else 0.0
        return level / _NANO if limit.unit == "cost" else level

    async def _level(self, subject: Subject, applied: ApplicableLimit) -> float:
        """Return the level of a limit's counter, which is initialised if necessary."""
        now = self.clock.time()
        # Nothing is charged: only the counter's name and window are needed.
        nothing = charge(applied, subject, Estimate(0, 0), now)
        level = (await self.counters.levels([nothing.name])).get(nothing.name)
        if level is None:
            started = CounterStart(applied, nothing, now)
            await self.start_counters(subject, [started])
            level = (await self.counters.levels([nothing.name])).get(nothing.name)
        return level or 0.0


def _only_subject(tenant: str, limit: Limit) -> Subject | None:
    """Return the one subject that a limit counts, or None if it counts each key, user or
    model separately."""
    subject = Subject(tenant, limit.key, limit.user, limit.model)
    if limit.per == "tenant":
        return subject
    value = getattr(limit, limit.per)
    # A pattern stands for several models.
    is_one = bool(value) and not (limit.per == "model" and "*" in value)
    return subject if is_one else None


def _view(
    row: str, name: str, limit: Limit, used: float | None, now: float
) -> BudgetView:
    """Return the view of a limit."""
    remaining_seconds = (
        None if limit.unit == "concurrency" else seconds_to_reset(limit.window, now)
    )
    return BudgetView(
        id=row,
        name=name,
        unit=limit.unit,
        amount=limit.amount,
        window=limit.window,
        currency=limit.currency,
        per=limit.per,
        key=limit.key,
        user=limit.user,
        model=limit.model,
        used=used,
        left=None if used is None else max(0.0, limit.amount - used),
        is_spent=used is not None and used >= limit.amount,
        resets_at=None if remaining_seconds is None else now + remaining_seconds,
        forecast=_forecast(limit, used, remaining_seconds, now),
    )


def _forecast(
    limit: Limit, used: float | None, remaining_seconds: float | None, now: float
) -> float | None:
    """Return what will be used at the end of a day or month at the pace so far; None for
    other windows."""
    if used is None or remaining_seconds is None:
        return None
    # The first minutes of a window would tell nothing.
    elapsed = max(now - window_start(limit.window, now), 3600.0)
    return used * (elapsed + remaining_seconds) / elapsed
