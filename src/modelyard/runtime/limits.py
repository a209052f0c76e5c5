"""Which limits hold for a call, what it takes of each, and where their counters start. Pure, but for the clock's time.

A limit a minute or an hour is a counter that drains all the time; one a day, a month or for good is a counter for each
such span (UTC).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from modelyard.base.errors import InvokeRateLimitError, ModelyardError
from modelyard.storage.counters import Charge, Counters, Refusal, UnseededError
from modelyard.storage.usage_sums import MOMENT, Sought, Used
from modelyard.tenancy.caller import fits
from modelyard.tenancy.kinds import Limit, Window

_DRAINS: Mapping[str, float] = {"minute": 60.0, "hour": 3600.0}
_KNOWN_BEFORE = frozenset({"requests", "times", "credits", "concurrency"})
_FOREVER = 10 * 365 * 86_400.0
_CONCURRENCY_SECONDS = 900.0
_SMALLEST = 1e-6
_DAY = 86_400
_LAST_DAY = 1 << 40


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
    app: str = ""
    """`app:ID` of the app that runs on behalf of the key; empty where none does."""


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


class Started(NamedTuple):
    """A counter that is to be started."""

    applied: Applied
    charge: Charge
    now: float
    """When the call was charged: the counter is that of this moment's window."""


def applying(limits: Iterable[tuple[str, str, Limit]], subject: Subject) -> list[Applied]:
    """Those of a tenant's limits, (id, name, limit) each, that hold for a subject."""
    return [
        _applied(row, name, limit, subject)
        for row, name, limit in limits
        if limit.amount >= 0
        and (limit.key in ("", subject.key) or limit.key == subject.app)
        and limit.user in ("", subject.user)
        and fits(limit.model, subject.model)
    ]


def _whose(limit: Limit, subject: Subject) -> str:
    if limit.per == "tenant":
        return subject.tenant
    if limit.per == "key" and limit.key:
        return limit.key  # the caller's key, or the app that runs on its behalf
    return str(getattr(subject, limit.per) or "-")


def _applied(row: str, name: str, limit: Limit, subject: Subject) -> Applied:
    whose = _whose(limit, subject)
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
            return _credits(limit, subject.model)


def _credits(limit: Limit, model: str) -> float:
    return next((each for pattern, each in limit.credits.items() if fits(pattern, model)), 1.0)


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


def sought(one: Applied, subject: Subject, credential: str = "") -> Sought:
    """Whose use a limit counts. `credential` is that of a hosted quota: what its tenant used of it, where the quota
    does not count keys or users apart."""
    limit = one.limit
    user = one.whose if limit.per == "user" else limit.user
    key = one.whose if limit.per == "key" else limit.key
    # A limit of an app's counts the calls that it makes on behalf of keys as well as those with its own.
    is_apps = limit.key.startswith("app:")
    if user:
        return Sought(subject.tenant, "user", user, key, is_apps)
    if key:
        return Sought(subject.tenant, "key", key, is_apps=is_apps)
    return Sought(subject.tenant, "credential", credential) if credential else Sought(subject.tenant, "tenant")


def days_of(window: Window, now: float) -> tuple[int, int]:
    """The first and the last day (days since 1970) of the calendar window that a moment lies in."""
    first = int(began(window, now) // _DAY)
    ends = ends_in(window, now)
    return first, _LAST_DAY if ends is None else int((now + ends) // _DAY) - 1


def drains_within(window: Window) -> float | None:
    """The seconds within which a limit's counter drains; None for those that count by the calendar."""
    return _DRAINS.get(window)


def level_of(one: Applied, used: Iterable[Used], now: float) -> float:
    """Where a counter starts that was used so, bucket by bucket in their order."""
    level, then = 0.0, 0.0
    for each in used:
        if not fits(one.limit.model, each.model) or (one.limit.per == "model" and each.model != one.whose):
            continue
        # As if at the end of its seconds: what drained since then is rather too little than too much.
        at = min(now, (each.bucket + 1) * MOMENT)
        level = max(0.0, level - one.refill * max(0.0, at - then)) + _taken_of(one.limit, each)
        then = at
    return max(0.0, level - one.refill * max(0.0, now - then)) if one.refill else level


def _taken_of(limit: Limit, used: Used) -> float:
    match limit.unit:
        case "tokens":
            return float(used.tokens)
        case "cost":
            return float(used.nanos)
        case "credits":
            return used.served * _credits(limit, used.model)
        case "times":
            return float(used.served)
        case _:
            return float(used.calls)


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
