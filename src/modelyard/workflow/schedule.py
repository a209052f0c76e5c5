"""Times of schedule triggers: cron expressions or visual schedules, in a time zone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from modelyard.base.lazy import lazy_module
from modelyard.workflow.nodes.trigger import ScheduleData, VisualSchedule
from modelyard.workflow.variables import WorkflowError

cronsim = lazy_module("cronsim", extra="workflows")
_MAX_CRON_LENGTH = 1000
"""Maximum length in characters."""
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class ScheduleError(WorkflowError):
    """The schedule is invalid or never occurs."""

    code = "invalid_schedule"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression with its time zone."""

    cron: str
    """Minute, hour, day of month, month, day of week; `L` is the last day of a month.
    """
    timezone: str = "UTC"

    def times_after(self, moment: float) -> Iterator[float]:
        """Yield the times after a moment, in seconds since 1970.

        At changes of daylight saving time it behaves like Debian's cron: a time that is
        skipped occurs at the change, and a time that is repeated occurs once. Raises
        ScheduleError.
        """
        # Cron fields are local times of the schedule's zone.
        start = datetime.fromtimestamp(moment, UTC).astimezone(_zone(self.timezone))
        try:
            times = cronsim.CronSim(self.cron, start)
        except cronsim.CronSimError as error:
            problem = f"Invalid cron expression {self.cron!r}: {str(error).lower()}"
            raise ScheduleError(problem) from error
        return (occurrence.timestamp() for occurrence in times)

    def next(self, moment: float) -> float | None:
        """Return the first time after a moment; None if there is none."""
        return next(self.times_after(moment), None)

    def latest(self, since: float, until: float) -> float | None:
        """Return the last time after `since` and up to `until`; None if there is none."""
        latest_time = None
        # Cron iterators only go forward, so the times in between are visited.
        for occurrence in self.times_after(since):
            if occurrence > until:
                break
            latest_time = occurrence
        return latest_time


def schedule_of(data: ScheduleData) -> Schedule:
    """Return the schedule of a node. Raises ScheduleError."""
    if data.mode == "cron":
        cron = data.cron_expression.strip()
        if len(cron) > _MAX_CRON_LENGTH:
            raise ScheduleError(
                f"cron_expression has {len(cron):,} characters; the maximum is"
                f" {_MAX_CRON_LENGTH:,}"
            )
        cron = _standard_cron(cron)
    elif data.mode == "visual":
        cron = _cron_of(data.frequency or "daily", data.visual_config)
    else:
        raise ScheduleError(f"Unknown mode {data.mode!r}; expected visual or cron")
    schedule = Schedule(cron, data.timezone or "UTC")
    # A date such as 30 February is valid cron but never occurs.
    if schedule.next(0.0) is None:
        raise ScheduleError(f"Cron expression {cron!r} never matches")
    return schedule


def _standard_cron(cron: str) -> str:
    """Return a cron expression in its five standard fields. Raises ScheduleError.

    A nickname such as `@daily` stands for its fields, and `?` for `*`.
    """
    if cron.startswith("@"):
        nickname = cron.lower()
        if nickname not in _NICKNAMES:
            raise ScheduleError(
                f"Unknown schedule {cron!r}; expected one of {', '.join(_NICKNAMES)}"
            )
        return _NICKNAMES[nickname]
    fields = cron.split()
    # Only the five standard fields; seconds are not supported.
    if len(fields) != 5:
        raise ScheduleError(
            f"cron_expression {cron!r} must have five fields: minute hour day month"
            " weekday"
        )
    return " ".join("*" if field == "?" else field for field in fields)


def _cron_of(frequency: str, visual: VisualSchedule) -> str:
    """Return the cron expression of a visual schedule. Raises ScheduleError."""
    if frequency == "hourly":
        # Checked here, because the cron library's message would not name the field.
        if not 0 <= visual.on_minute <= 59:
            raise ScheduleError(
                f"visual_config.on_minute must be 0 to 59, not {visual.on_minute}"
            )
        return f"{visual.on_minute} * * * *"
    # All other frequencies have a time of day.
    hour, minute = _clock_time(visual.time)
    match frequency:
        case "daily":
            return f"{minute} {hour} * * *"
        case "weekly":
            return f"{minute} {hour} * * {_cron_weekdays(visual.weekdays)}"
        case "monthly":
            days = ",".join(
                "L" if day == "last" else str(day) for day in visual.monthly_days
            )
            return f"{minute} {hour} {days or '1'} * *"
        case _:
            raise ScheduleError(
                f"Unknown frequency {frequency!r}; expected hourly, daily, weekly or"
                " monthly"
            )


def _cron_weekdays(weekdays: Sequence[str]) -> str:
    """Return weekdays as a cron field; Sunday if there are none. Raises
    ScheduleError."""
    for weekday in weekdays:
        if weekday not in _WEEKDAYS:
            raise ScheduleError(
                f"visual_config.weekdays: unknown weekday {weekday!r}; expected one of"
                f" {', '.join(_WEEKDAYS)}"
            )
    return ",".join(str(_WEEKDAYS.index(weekday)) for weekday in weekdays) or "0"


def _clock_time(text: str) -> tuple[int, int]:
    """Return (hour, minute) of `9:30 AM` or `09:30`. Raises ScheduleError."""
    # 12-hour notation comes first; both notations cannot match the same text.
    for shape in ("%I:%M %p", "%H:%M"):
        try:
            parsed = datetime.strptime(text.strip(), shape)  # noqa: DTZ007
        except ValueError:
            continue
        return parsed.hour, parsed.minute
    raise ScheduleError(
        f"Invalid visual_config.time {text!r}; expected a time like '9:30 AM' or"
        " '21:30'"
    )


@lru_cache(64)
def _zone(name: str) -> ZoneInfo:
    """Return the time zone. Raises ScheduleError if it is unknown."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ScheduleError(
            f"Unknown timezone {name!r}; expected a name like 'Europe/Berlin' or 'UTC'"
        ) from error
