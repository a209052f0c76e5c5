"""/admin/v1/apps/ID/statistics: how an app is used, by day."""

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import short_repr, whole_number
from modelyard.gateway.admin.requests import app_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.app_statistics import (
    DAY,
    MAX_OFFSET_MINUTES,
    AppStatistics,
    Statistics,
)
from modelyard.workflow.apps import Apps

# A month shows a weekly rhythm, and is one page of a chart.
_DEFAULT_DAYS = 30


@dataclass(frozen=True, slots=True)
class StatisticsRoute:
    """Route for the figures of an app."""

    apps: Apps
    statistics: AppStatistics

    async def show(self, request: Request) -> Reply:
        """Return the figures of each day and of the whole time range, or as CSV those of
        each day.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        output_format = request.query("format") or "json"
        if output_format not in ("json", "csv"):
            raise InvokeBadRequestError("'format' must be json or csv", param="format")
        since, until, offset = _time_range(request)
        days, total = await self.statistics.of_app(
            app_record.tenant,
            app_record.id,
            since=since,
            until=until,
            offset=offset,
        )
        if output_format == "csv":
            # Years have many days, and writing them would block the event loop.
            body = await run_in_thread(as_csv, days)
            return Reply(body, content_type=b"text/csv; charset=utf-8")
        return json_reply(
            {
                "data": days,
                "total": total,
                "since": since,
                "until": until,
            }
        )


def _time_range(request: Request) -> tuple[float, float, int]:
    """Return (since, until, offset): Unix times and minutes. By default the last thirty
    days, today included. Raises InvokeBadRequestError."""
    offset = _offset(request.query("offset") or "0")
    try:
        # One second more, so that what happens in this second is included.
        until = float(request.query("until") or time.time() + 1)
        start_of_day = (until + offset * 60) // DAY * DAY - offset * 60
        default = max(0.0, start_of_day - (_DEFAULT_DAYS - 1) * DAY)
        since = float(request.query("since") or default)
    except (ValueError, OverflowError):
        raise InvokeBadRequestError(
            "'since' and 'until' must be Unix times in seconds", param="since"
        ) from None
    return since, until, offset


def _offset(text: str) -> int:
    """Return an offset from UTC in minutes. Raises InvokeBadRequestError."""
    minutes = whole_number(text.removeprefix("-"), maximum=MAX_OFFSET_MINUTES)
    if minutes is None:
        accepted = f"from -{MAX_OFFSET_MINUTES} to {MAX_OFFSET_MINUTES} minutes"
        problem = f"'offset' must be {accepted}, not {short_repr(text)}"
        raise InvokeBadRequestError(problem, param="offset")
    return -minutes if text.startswith("-") else minutes


def as_csv(days: Sequence[Statistics]) -> bytes:
    """Return the figures of days as CSV with a header. Each currency has a column;
    figures that a day does not have are empty."""
    # A spreadsheet adds up numbers only, so amounts and currencies are not mixed.
    currencies = sorted({currency for day in days for currency in day.costs})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # No cell is a text from outside, so no formula can be among them.
    fields = [name for name in Statistics.__struct_fields__ if name != "costs"]
    writer.writerow([*fields, *(f"cost_{currency}" for currency in currencies)])
    for day in days:
        writer.writerow(_cells(day, fields, currencies))
    return buffer.getvalue().encode()


def _cells(
    day: Statistics, fields: Sequence[str], currencies: Sequence[str]
) -> Iterator[Any]:
    """Yield the cells of one day."""
    for name in fields:
        yield getattr(day, name)
    for currency in currencies:
        yield day.costs.get(currency, "0")
