"""Which limits apply to a call, what the call takes of each, and where their counters
start.

Pure functions; the time is a parameter. A limit per minute or hour is a leaky bucket
that drains continuously. A limit per day or month, or in total, has one counter for
each such window, in UTC.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from modelyard.base.errors import InvokeRateLimitError, ModelyardError
from modelyard.base.tuples import new_tuple
from modelyard.storage.counters import Charge, Counters, Refusal, UnseededError
from modelyard.storage.usage_sums import SHORT_BUCKET_SECONDS, UsageQuery, UsageTotal
from modelyard.tenancy.caller import matches_pattern
from modelyard.tenancy.resource_types import Limit, Window

# Windows whose usage drains continuously; the others end with the calendar.
_DRAIN_SECONDS: Mapping[str, float] = {"minute": 60.0, "hour": 3600.0}
# The units whose amount is known before the call. Tokens and cost are only estimated,
# so such a call is admitted while anything is left.
_EXACT_UNITS = frozenset({"requests", "times", "credits", "concurrency"})
_FOREVER = 10 * 365 * 86_400.0
_CONCURRENCY_SECONDS = 900.0
# Below this fraction of a limit, the rest counts as used up.
_MIN_FRACTION = 1e-6
_DAY = 86_400
# A day number beyond any real date, for windows without an end.
_LAST_DAY = 1 << 40


class LimitExceededError(InvokeRateLimitError):
    """The caller has reached its own limit. No failover: another model of this server
    would not help."""

    code = "rate_limit_exceeded"
    cooldown = 0.0
    failover = False


class QuotaExceededError(ModelyardError):
    """The caller has used up its quota for the window."""

    code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnpricedModelError(ModelyardError):
    """The price of the model is unknown, and a limit of money applies to the call."""

    code = "model_price_unknown"


class Subject(NamedTuple):
    """Who makes the call, and which model it calls."""

    tenant: str
    key: str
    user: str
    model: str
    """`provider/model`."""
    app: str = ""
    """`app:ID` of the app that runs on behalf of the key; empty if there is none."""


class Estimate(NamedTuple):
    """The most that a call can use."""

    tokens: int
    nanos: int
    """Money, in billionths of the currency unit."""


class ApplicableLimit(NamedTuple):
    """A limit that applies to a subject, with the parameters of its counter."""

    id: str
    name: str
    limit: Limit
    subject_value: str
    """The value that the limit counts separately: a key's id, a user's name, a model.
    """
    counter: str
    """The counter's name. For a calendar window it is the prefix before the day or
    month."""
    cap: float
    # `refill` is in units per second; `lasts` is how many seconds an unused counter is
    # stored.
    refill: float
    ttl_seconds: float
    is_known_upfront: bool


class CounterStart(NamedTuple):
    """A counter that has to be initialised."""

    applied: ApplicableLimit
    charge: Charge
    now: float
    """When the call was charged, in seconds since 1970; the counter belongs to the
    window that holds this moment."""


def applicable_limits(
    limits: Iterable[tuple[str, str, Limit]], subject: Subject
) -> list[ApplicableLimit]:
    """Return those of a tenant's limits, each (id, name, limit), that apply to the
    subject."""
    return [
        _applicable_limit(row, name, limit, subject)
        for row, name, limit in limits
        # A negative amount means unlimited.
        if limit.amount >= 0
        and (limit.key in ("", subject.key) or limit.key == subject.app)
        and limit.user in ("", subject.user)
        and matches_pattern(limit.model, subject.model)
    ]


def _subject_value(limit: Limit, subject: Subject) -> str:
    """Return the value that the limit counts separately for this subject; `-` if the
    subject has none."""
    if limit.per == "key" and limit.key:
        # This is the caller's key, or the app that runs on its behalf.
        return limit.key
    return str(getattr(subject, limit.per) or "-")


def _applicable_limit(
    row: str, name: str, limit: Limit, subject: Subject
) -> ApplicableLimit:
    """Compute the counter's name, capacity and refill rate of a limit for a subject."""
    subject_value = _subject_value(limit, subject)
    cap = limit.amount * 1e9 if limit.unit == "cost" else limit.amount
    counter = f"{row}|{subject.tenant}|{subject_value}|"
    is_known_upfront = limit.unit in _EXACT_UNITS
    # Concurrency has no window: the counter holds the calls that run now, and expires
    # in case a process dies.
    if limit.unit == "concurrency":
        return ApplicableLimit(
            row,
            name,
            limit,
            subject_value,
            f"{counter}now",
            cap,
            0.0,
            _CONCURRENCY_SECONDS,
            is_known_upfront,
        )
    # The name of a calendar window's counter is completed with the day or month when
    # the call is charged.
    if limit.window not in ("day", "month"):
        counter += limit.window
    seconds = _DRAIN_SECONDS.get(limit.window)
    refill, lasts = (
        # Empty after one window; twice that, for calls that settle late.
        (cap / seconds, 2 * seconds) if seconds else (0.0, _counter_ttl(limit.window))
    )
    return ApplicableLimit(
        row, name, limit, subject_value, counter, cap, refill, lasts, is_known_upfront
    )


class ChargePlan:
    """What each call of a subject takes of its limits.

    What does not depend on the call is computed once. The charges are in the order of
    the limits.
    """

    __slots__ = ("_day", "_fixed", "_has_windows", "_varying", "applied", "subject")

    def __init__(self, applied: Sequence[ApplicableLimit], subject: Subject) -> None:
        self.applied = applied
        self.subject = subject
        self._day = -1
        self._has_windows = any(map(_has_calendar_window, applied))
        # Charges whose amount is the same for each call, and the others with an amount
        # of 0; by position.
        self._fixed: list[Charge] = []
        # Position, whether it is money, and what must be left of the limit.
        self._varying: list[tuple[int, bool, float]] = []
        self._start_day(0)

    def charges(self, estimate: Estimate, current_time: float) -> list[Charge]:
        """Return the charges of a call."""
        # Calendar windows change at midnight, and their counters' names with them.
        if self._has_windows and (day := int(current_time // _DAY)) != self._day:
            self._start_day(day)
        # Each call needs a list of its own: it is settled by it later.
        charges = self._fixed.copy()
        for position, is_money, trace in self._varying:
            amount = float(estimate.nanos if is_money else estimate.tokens)
            name, _, _, cap, refill, lasts, unit = charges[position]
            # An amount that is only estimated must not refuse the call, so it needs
            # just a trace of the limit to be left.
            need = amount if amount < trace else trace
            charges[position] = new_tuple(
                Charge, (name, amount, need, cap, refill, lasts, unit)
            )
        return charges

    def _start_day(self, day: int) -> None:
        """Compute what is the same for all calls of a day, a number of days since
        1970."""
        self._day = day
        self._fixed, self._varying = [], []
        for position, applicable_limit in enumerate(self.applied):
            limit = applicable_limit.limit
            name, amount = applicable_limit.counter, 0.0
            if _has_calendar_window(applicable_limit):
                name += _window_name(limit.window, day)
            if applicable_limit.is_known_upfront:
                amount = _known_amount(limit, self.subject)
            else:
                trace = max(_MIN_FRACTION, applicable_limit.cap * _MIN_FRACTION)
                self._varying.append((position, limit.unit == "cost", trace))
            self._fixed.append(
                Charge(
                    name,
                    amount,
                    amount,
                    applicable_limit.cap,
                    applicable_limit.refill,
                    applicable_limit.ttl_seconds,
                    limit.unit,
                )
            )


def charge(
    applicable_limit: ApplicableLimit,
    subject: Subject,
    estimate: Estimate,
    current_time: float,
) -> Charge:
    """Return the charge of a call against a limit."""
    plan = ChargePlan((applicable_limit,), subject)
    return plan.charges(estimate, current_time)[0]


def _has_calendar_window(applicable_limit: ApplicableLimit) -> bool:
    """Return whether a limit has a counter for each day or month."""
    limit = applicable_limit.limit
    return limit.window in ("day", "month") and limit.unit != "concurrency"


@lru_cache(8)
def _window_name(window: Window, day: int) -> str:
    """Return the name of the day or month that a day number (days since 1970, UTC)
    belongs to."""
    moment = datetime.fromtimestamp(day * 86_400, UTC)
    return moment.strftime("%Y-%m-%d" if window == "day" else "%Y-%m")


def _known_amount(limit: Limit, subject: Subject) -> float:
    """Return how much a call takes of a limit whose amount is known before the call."""
    return _credits(limit, subject.model) if limit.unit == "credits" else 1.0


def _credits(limit: Limit, model: str) -> float:
    """Return the credits that one call to the model costs: the first matching pattern,
    else 1."""
    return next(
        (
            credits_per_call
            for pattern, credits_per_call in limit.credits.items()
            if matches_pattern(pattern, model)
        ),
        1.0,
    )


def settled_amounts(
    *, tokens: int, nanos: int, is_served: bool, is_cost_known: bool = True
) -> Mapping[str, float]:
    """Return what a finished call really used, by unit. Units that are absent keep the
    reserved amount."""
    amounts = {"tokens": float(tokens), "concurrency": 0.0}
    # An unknown cost is not zero: the most that the call could cost stays reserved.
    if is_cost_known:
        amounts["cost"] = float(nanos)
    # A call that failed costs neither credits nor times; it still counts as a request.
    if not is_served:
        amounts["credits"] = amounts["times"] = 0.0
    return amounts


def window_start(window: Window, current_time: float) -> float:
    """Return when the current window started, in seconds since 1970."""
    today = datetime.fromtimestamp(current_time, UTC).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    match window:
        case "minute" | "hour":
            return current_time - _DRAIN_SECONDS[window]
        case "day":
            return today.timestamp()
        case "month":
            return today.replace(day=1).timestamp()
        case "total":
            return 0.0


def seconds_to_reset(window: Window, current_time: float) -> float | None:
    """Return the seconds until a calendar window ends; None for windows that are not
    calendar windows."""
    today = datetime.fromtimestamp(current_time, UTC).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    if window == "day":
        return (today + timedelta(days=1)).timestamp() - current_time
    if window == "month":
        # 32 days after the first of a month always lie in the next month.
        return (today.replace(day=1) + timedelta(days=32)).replace(
            day=1
        ).timestamp() - current_time
    return None


def _counter_ttl(window: Window) -> float:
    """Return how many seconds the counter of a calendar window is stored: longer than
    the window, so that late calls settle."""
    return {"day": 3 * 86_400.0, "month": 40 * 86_400.0}.get(window, _FOREVER)


def limit_error(
    applicable_limit: ApplicableLimit, charge: Charge, used: float, current_time: float
) -> ModelyardError:
    """Return the error for a call that a limit refuses, with the seconds after which a
    retry may succeed."""
    limit = applicable_limit.limit
    subject_label = {
        "tenant": f"Tenant {applicable_limit.subject_value!r}",
        "key": f"API key {applicable_limit.subject_value!r}",
        "user": f"User {applicable_limit.subject_value!r}",
        "model": f"Model {applicable_limit.subject_value!r}",
    }[limit.per]
    amount = (
        f"{limit.amount:g} {limit.currency if limit.unit == 'cost' else limit.unit}"
    )
    if limit.unit == "concurrency":
        message = (
            f"{subject_label} is limited to {limit.amount:g} concurrent calls"
            f" (limit {applicable_limit.name!r})"
        )
        return LimitExceededError(message, retry_after=1.0)
    if limit.window in _DRAIN_SECONDS:
        # The bucket drains at `refill` per second, so the wait is the excess divided by
        # it.
        wait = (
            (used + charge.need - charge.cap) / charge.refill if charge.refill else None
        )
        message = (
            f"{subject_label} is limited to {amount} per {limit.window} (limit"
            f" {applicable_limit.name!r})"
        )
        return LimitExceededError(
            message, retry_after=max(0.001, wait) if wait is not None else None
        )
    when = {"day": " per day", "month": " per month"}.get(limit.window, " in total")
    message = (
        f"{subject_label} has used up {amount}{when} (limit {applicable_limit.name!r})"
    )
    return QuotaExceededError(
        message, retry_after=seconds_to_reset(limit.window, current_time)
    )


def unpriced_error(applicable_limit: ApplicableLimit, model: str) -> UnpricedModelError:
    """Return the error for a call that a limit of money cannot count."""
    return UnpricedModelError(
        f"The price of {model!r} is unknown, so the limit {applicable_limit.name!r}, an"
        " amount of money, cannot count the call. Declare the model with its price, or"
        " let such calls be counted at a stated price: 'unpriced.calls: count' in the"
        " settings, or 'unpriced: count' of the API key"
    )


def usage_query(
    applicable_limit: ApplicableLimit, subject: Subject, credential: str = ""
) -> UsageQuery:
    """Return the query for the recorded usage that a limit counts.

    `credential` is that of a hosted quota: the query then covers the tenant's use of
    it, unless the quota counts keys or users separately.
    """
    limit = applicable_limit.limit
    user = applicable_limit.subject_value if limit.per == "user" else limit.user
    key = applicable_limit.subject_value if limit.per == "key" else limit.key
    # A limit of an app counts the calls it makes on behalf of keys as well as those
    # with its own key.
    is_apps = limit.key.startswith("app:")
    if user:
        return UsageQuery(subject.tenant, "user", user, key, is_apps)
    if key:
        return UsageQuery(subject.tenant, "key", key, is_apps=is_apps)
    return (
        UsageQuery(subject.tenant, "credential", credential)
        if credential
        else UsageQuery(subject.tenant, "tenant")
    )


def window_days(window: Window, current_time: float) -> tuple[int, int]:
    """Return the first and the last day (days since 1970) of the calendar window that
    holds the moment."""
    first = int(window_start(window, current_time) // _DAY)
    ends = seconds_to_reset(window, current_time)
    return first, _LAST_DAY if ends is None else int((current_time + ends) // _DAY) - 1


def drain_seconds(window: Window) -> float | None:
    """Return the seconds in which a limit's counter drains; None for calendar windows."""
    return _DRAIN_SECONDS.get(window)


def initial_level(
    applicable_limit: ApplicableLimit, used: Iterable[UsageTotal], current_time: float
) -> float:
    """Return the initial level of a counter from recorded usage, given in order of
    time."""
    level, previous_time = 0.0, 0.0
    for usage_bucket in used:
        if not matches_pattern(applicable_limit.limit.model, usage_bucket.model) or (
            applicable_limit.limit.per == "model"
            and usage_bucket.model != applicable_limit.subject_value
        ):
            continue
        # Usage counts as if it happened at the end of its bucket. That drains rather
        # too little than too much.
        timestamp = min(current_time, (usage_bucket.bucket + 1) * SHORT_BUCKET_SECONDS)
        # Replay the leaky bucket: drain since the previous bucket, then add this one.
        level = max(
            0.0, level - applicable_limit.refill * max(0.0, timestamp - previous_time)
        ) + _used_amount(applicable_limit.limit, usage_bucket)
        previous_time = timestamp
    drained = applicable_limit.refill * max(0.0, current_time - previous_time)
    return max(0.0, level - drained)


def _used_amount(limit: Limit, used: UsageTotal) -> float:
    """Return how much of the limit's unit was used in a usage bucket."""
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
    counters: Counters,
    name: str,
    charges: Sequence[Charge],
    seed: Callable[[Sequence[str]], Awaitable[None]],
) -> Refusal | None:
    """Reserve the charges, after initialising the counters that do not exist yet.

    Returns the refusal, or None if everything was reserved.
    """
    while True:
        try:
            return await counters.reserve(name, charges)
        except UnseededError as error:
            await seed(error.names)
            # Yield to the event loop, so that a counter that is evicted again and again
            # cannot block it.
            await asyncio.sleep(0)
