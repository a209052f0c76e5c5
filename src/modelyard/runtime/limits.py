"""Which limits hold for a call, what it takes of each, and where their counters start. Pure, but for the clock's time.

A limit a minute or an hour is a counter that drains all the time; one a day, a month or for good is a counter for each
such span (UTC).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from modelyard.base.errors import InvokeRateLimitError, ModelyardError
from modelyard.runtime.caller import fits
from modelyard.runtime.tenancy import Limit, Window
from modelyard.storage.counters import Charge, Counters, Refusal, UnseededError

_DRAINS: Mapping[str, float] = {"minute": 60.0, "hour": 3600.0}
_KNOWN_BEFORE = frozenset({"requests", "times", "credits", "concurrency"})
_FOREVER = 10 * 365 * 86_400.0
_CONCURRENCY_SECONDS = 900.0
_SMALLEST = 1e-6


class LimitExceededError(InvokeRateLimitError):
    """The caller's own limit here is reached; another model of ours would not change that."""

    code = "rate_limit_exceeded"
    cooldown = 0.0
    failover = False


class QuotaExceededError(ModelyardError):
    """What may be spent is spent."""

    code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Subject(NamedTuple):
    """Whose call it is and what it calls."""

    tenant: str
    key: str
    user: str
    model: str
    """`provider/model`."""


class Estimate(NamedTuple):
    """The most that a call can take."""

    tokens: int
    nanos: int
    """Of money, in billionths."""


class Applied(NamedTuple):
    """A limit that holds for a subject."""

    id: str
    name: str
    limit: Limit
    whose: str
    """The value of what the limit counts apart: a key's id, a user's name."""
    counter: str
    """The name of its counter; of a day's or a month's, what stands before the day or month."""
    cap: float
    refill: float
    lasts: float
    is_known_before: bool


def applying(limits: Iterable[tuple[str, str, Limit]], subject: Subject) -> list[Applied]:
    """Those of a tenant's limits, (id, name, limit) each, that hold for a subject."""
    return [
        _applied(row, name, limit, subject)
        for row, name, limit in limits
        if limit.amount >= 0
        and limit.key in ("", subject.key)
        and limit.user in ("", subject.user)
        and fits(limit.model, subject.model)
    ]


def _applied(row: str, name: str, limit: Limit, subject: Subject) -> Applied:
    whose = subject.tenant if limit.per == "tenant" else str(getattr(subject, limit.per) or "-")
    cap = limit.amount * 1e9 if limit.unit == "cost" else limit.amount
    counter = f"{row}|{subject.tenant}|{whose}|"
    is_known = limit.unit in _KNOWN_BEFORE
    if limit.unit == "concurrency":
        return Applied(row, name, limit, whose, f"{counter}now", cap, 0.0, _CONCURRENCY_SECONDS, is_known)
    if limit.window not in ("day", "month"):
        counter += limit.window
    seconds = _DRAINS.get(limit.window)
    refill, lasts = (cap / seconds, 2 * seconds) if seconds else (0.0, _lasts(limit.window))
    return Applied(row, name, limit, whose, counter, cap, refill, lasts, is_known)


def charge(one: Applied, subject: Subject, estimate: Estimate, now: float) -> Charge:
    """What a call takes of a limit."""
    limit = one.limit
    amount = _amount(limit, subject, estimate)
    need = amount if one.is_known_before else min(amount, max(_SMALLEST, one.cap * _SMALLEST))
    name = one.counter
    if limit.window in ("day", "month") and limit.unit != "concurrency":
        name += _span(limit.window, int(now // 86_400))
    return Charge(name, amount, need, one.cap, one.refill, one.lasts, limit.unit)


@lru_cache(8)
def _span(window: Window, day: int) -> str:
    """The name of the day or month that a day (days since 1970) lies in."""
    moment = datetime.fromtimestamp(day * 86_400, UTC)
    return moment.strftime("%Y-%m-%d" if window == "day" else "%Y-%m")


def _amount(limit: Limit, subject: Subject, estimate: Estimate) -> float:
    match limit.unit:
        case "requests" | "times" | "concurrency":
            return 1.0
        case "tokens":
            return float(estimate.tokens)
        case "cost":
            return float(estimate.nanos)
        case "credits":
            return next((each for pattern, each in limit.credits.items() if fits(pattern, subject.model)), 1.0)


def taken(*, tokens: int, nanos: int, is_served: bool) -> Mapping[str, float]:
    """What a call that is over took of each unit; of those that are left out, what it reserved."""
    amounts = {"tokens": float(tokens), "cost": float(nanos), "concurrency": 0.0}
    if not is_served:
        amounts["credits"] = amounts["times"] = 0.0
    return amounts


def began(window: Window, now: float) -> float:
    """When what the counter holds began to count."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match window:
        case "minute" | "hour":
            return now - _DRAINS[window]
        case "day":
            return today.timestamp()
        case "month":
            return today.replace(day=1).timestamp()
        case "total":
            return 0.0


def ends_in(window: Window, now: float) -> float | None:
    """Seconds until a calendar window is over; None for those that never are."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "day":
        return (today + timedelta(days=1)).timestamp() - now
    if window == "month":
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp() - now
    return None


def _lasts(window: Window) -> float:
    return {"day": 3 * 86_400.0, "month": 40 * 86_400.0}.get(window, _FOREVER)


def refused(one: Applied, charge: Charge, used: float, now: float) -> ModelyardError:
    """The error for a call that a limit does not admit, with when to come back."""
    limit = one.limit
    whose = {"tenant": f"tenant {one.whose!r}", "key": f"API key {one.whose!r}", "user": f"user {one.whose!r}",
             "model": f"model {one.whose!r}"}[limit.per]  # fmt: skip
    amount = f"{limit.amount:g} {limit.currency if limit.unit == 'cost' else limit.unit}"
    if limit.unit == "concurrency":
        message = f"{whose} may have {limit.amount:g} calls at once (limit {one.name!r})"
        return LimitExceededError(message, retry_after=1.0)
    if limit.window in _DRAINS:
        wait = (used + charge.need - charge.cap) / charge.refill if charge.refill else None
        message = f"{whose} may use {amount} a {limit.window} (limit {one.name!r})"
        return LimitExceededError(message, retry_after=max(0.001, wait) if wait is not None else None)
    when = {"day": " a day", "month": " a month"}.get(limit.window, " in all")
    message = f"{whose} has used its {amount}{when} (limit {one.name!r})"
    return QuotaExceededError(message, retry_after=ends_in(limit.window, now))


def seed_of(one: Applied, subject: Subject, rows: Sequence[Any], now: float) -> float:
    """Where a counter starts, by the ledger's sums since its window began."""
    if one.limit.unit == "concurrency":
        return 0.0
    total = 0.0
    for row in rows:
        model = f"{row['provider']}/{row['model']}"
        owner = Subject(row["tenant"], row["api_key"], row["user"] or "", model)
        if owner.tenant != subject.tenant or not applying([(one.id, one.name, one.limit)], owner):
            continue
        if one.limit.per != "tenant" and str(getattr(owner, one.limit.per) or "-") != one.whose:
            continue
        total += _seed(one, owner, row)
    # What was used within the last minute has drained by half on average.
    return math.floor(total / 2) if one.limit.window in _DRAINS else total


def _seed(one: Applied, owner: Subject, row: Any) -> float:
    match one.limit.unit:
        case "tokens":
            return float(row["tokens"])
        case "cost":
            return float(row["nanos"])
        case "credits":
            return float(row["calls"]) * _amount(one.limit, owner, Estimate(0, 0))
        case _:
            return float(row["calls"])


async def reserve(
    counters: Counters, name: str, charges: Sequence[Charge], seed: Callable[[Sequence[str]], Awaitable[None]]
) -> Refusal | None:
    """Reserve, after starting those counters that are not there yet."""
    while True:
        try:
            return await counters.reserve(name, charges)
        except UnseededError as error:
            await seed(error.names)
            await asyncio.sleep(0)
