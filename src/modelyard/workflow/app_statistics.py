"""How an app is used, by day: messages, users, tokens, cost, speed and satisfaction.

Every figure is one statement over the tables of messages, runs and the ledger, so it
can be recomputed and never drifts.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.database import Database, Row

DAY = 86_400
# Every request reads all rows of its range, so the range has a limit.
MAX_DAYS = 366
# No time zone is further from UTC than UTC+14, that of the Line Islands.
MAX_OFFSET_MINUTES = 14 * 60
"""The largest offset of a time zone from UTC."""
_NANO = Decimal(1_000_000_000)
_FIGURES = (
    "messages",
    "runs",
    "end_users",
    "conversations",
    "usage",
    "speed",
    "ratings",
)


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one day, or of the whole time range."""

    day: str = ""
    """As `2026-11-30`; empty for the whole time range."""
    messages: int = 0
    runs: int = 0
    end_users: int = 0
    conversations: int = 0
    """Conversations that started."""
    interactions: float | None = None
    """Mean number of messages in these conversations; None without any."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    costs: dict[str, str] = {}
    """Currency → amount as a decimal text."""
    unpriced: int = 0
    """Calls whose price is unknown; `costs` does not include them."""
    tokens_per_second: float | None = None
    """Generated tokens per second of chat models; None without any."""
    likes: int = 0
    dislikes: int = 0
    likes_per_1000: float | None = None
    """Likes for 1,000 messages; None without messages."""


class AppStatistics:
    """Reads the figures of one app at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.statements("app_statistics")

    async def of_app(
        self, tenant: str, app: str, *, since: float, until: float, offset: int = 0
    ) -> tuple[list[Statistics], Statistics]:
        """Return the figures of every day of a time range, also of days without any use,
        and those of the whole range.

        `since` and `until` are Unix times; `offset` is the distance of the caller's time
        zone from UTC in minutes, which decides when a day begins. Raises
        InvokeBadRequestError for an invalid range or offset.
        """
        _check_range(since, until, offset)
        values: dict[str, Any] = {
            "tenant": tenant,
            "app": app,
            "caller": f"app:{app}",
            "since": since,
            "until": until,
        }
        # Two sets of rows: users of a range are fewer than the sum of its days.
        offset_seconds = offset * 60
        by_day = await self._figures(
            {**values, "offset": offset_seconds}, is_daily=True
        )
        totals = await self._figures(values, is_daily=False)
        first = int((since + offset_seconds) // DAY)
        # The end of the range does not belong to it.
        last = max(first, int(-(-(until + offset_seconds) // DAY)) - 1)
        return (
            [_statistics(by_day, day, _date(day)) for day in range(first, last + 1)],
            _statistics(totals, 0, ""),
        )

    async def _figures(
        self, values: Mapping[str, Any], *, is_daily: bool
    ) -> Mapping[str, Mapping[int, list[Row]]]:
        """Return the rows of each figure by day; under day 0 if they are for the whole
        range."""
        figures: dict[str, dict[int, list[Row]]] = {}
        for name in _FIGURES:
            statement = self._sql[name].replace(
                "{day}", self._sql["day"] if is_daily else "0"
            )
            # Off the event loop, and not among short reads: an app may have many rows.
            rows = await self._database.read_together(
                lambda connection, statement=statement, name=name: connection.execute(
                    statement, _values_of(name, values)
                ),
                is_long=True,
            )
            by_day: dict[int, list[Row]] = {}
            for row in rows:
                by_day.setdefault(int(row["day"]), []).append(row)
            figures[name] = by_day
        return figures


def _values_of(name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values that a statement uses."""
    # The ledger names the app as a caller; the other tables by its id.
    unused = "app" if name in ("usage", "speed") else "caller"
    return {key: value for key, value in values.items() if key != unused}


def _check_range(since: float, until: float, offset: int) -> None:
    """Raise InvokeBadRequestError for a time range or an offset that is not possible."""
    # Written so that NaN is refused too.
    if not 0 <= since < until <= 1e11:
        raise InvokeBadRequestError(
            "'since' must be a Unix time before 'until'", param="since"
        )
    if until - since > MAX_DAYS * DAY:
        raise InvokeBadRequestError(
            f"The time range must have at most {MAX_DAYS} days", param="since"
        )
    if not -MAX_OFFSET_MINUTES <= offset <= MAX_OFFSET_MINUTES:
        raise InvokeBadRequestError(
            f"'offset' must be from -{MAX_OFFSET_MINUTES} to {MAX_OFFSET_MINUTES}"
            " minutes",
            param="offset",
        )


def _date(day: int) -> str:
    """Return the date of a day since 1970."""
    # The day was counted with the offset, so it is read without one.
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()


def _statistics(
    figures: Mapping[str, Mapping[int, list[Row]]], day: int, date: str
) -> Statistics:
    """Return the figures of one day."""

    def first(name: str) -> Row | None:
        """Return the only row of a figure; None if there is none."""
        return next(iter(figures[name].get(day, ())), None)

    ratings, started = first("ratings"), first("conversations")
    speed, usage = first("speed"), figures["usage"].get(day, [])
    messages = _number(ratings, "messages")
    return Statistics(
        day=date,
        messages=_number(first("messages"), "messages"),
        runs=_number(first("runs"), "runs"),
        end_users=_number(first("end_users"), "end_users"),
        conversations=_number(started, "conversations"),
        interactions=_ratio(started, "interactions", "conversations"),
        prompt_tokens=sum(_number(row, "prompt_tokens") for row in usage),
        completion_tokens=sum(_number(row, "completion_tokens") for row in usage),
        costs=dict(_costs(usage)),
        unpriced=sum(_number(row, "unpriced") for row in usage),
        tokens_per_second=_ratio(speed, "completion_tokens", "seconds"),
        likes=_number(ratings, "likes"),
        dislikes=_number(ratings, "dislikes"),
        # Without ratings there is no rate: zero would say that nobody likes the app.
        likes_per_1000=round(1000 * _number(ratings, "likes") / messages, 2)
        if messages
        else None,
    )


def _number(row: Row | None, name: str) -> int:
    """Return a sum of a row; 0 if there is none."""
    # PostgreSQL returns sums of integers as decimals.
    return int(row[name] or 0) if row is not None else 0


def _ratio(row: Row | None, dividend: str, divisor: str) -> float | None:
    """Return a quotient of two sums, rounded to two digits; None if it has none."""
    if row is None or not row[divisor]:
        return None
    return round(float(row[dividend]) / float(row[divisor]), 2)


def _costs(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield the currencies with their amounts, those without any left out."""
    # Databases return groups in any order, and the same figures must look the same.
    for row in sorted(rows, key=lambda row: row["currency"]):
        # Local models and calls without a price have rows too.
        if amount := int(row["nanos"]):
            yield row["currency"], format((Decimal(amount) / _NANO).normalize(), "f")
