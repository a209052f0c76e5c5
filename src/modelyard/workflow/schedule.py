"""When a schedule node's time comes: cron expressions, or what its form says, in a time zone of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from modelyard.base.lazy import lazy
from modelyard.workflow.nodes.trigger import ScheduleData, VisualSchedule
from modelyard.workflow.variables import WorkflowError

cronsim = lazy("cronsim", extra="workflows")
_LONGEST_CRON = 1000
"""Characters."""
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class ScheduleError(WorkflowError):
    """A schedule that says no time."""

    code = "invalid_schedule"


@dataclass(frozen=True, slots=True)
class Schedule:
    cron: str
    """Minute, hour, day of month, month, day of week; `L` is a month's last day."""
    timezone: str = "UTC"

    def after(self, moment: float) -> Iterator[float]:
        """Its times after a moment, in seconds since 1970, for as long as there are any. Where the clock is put forward
        a time that it leaps over comes at the leap; where it is put back a time comes once, as in Debian's cron."""
        began = datetime.fromtimestamp(moment, UTC).astimezone(_zone(self.timezone))
        try:
            times = cronsim.CronSim(self.cron, began)
        except cronsim.CronSimError as error:
            raise ScheduleError(f"{self.cron!r} is no cron expression: {str(error).lower()}") from error
        return (one.timestamp() for one in times)

    def next(self, moment: float) -> float | None:
        return next(self.after(moment), None)

    def latest(self, since: float, until: float) -> float | None:
        """The last of its times after `since` and not after `until`."""
        found = None
        for one in self.after(since):
            if one > until:
                break
            found = one
        return found


def schedule_of(data: ScheduleData) -> Schedule:
    """What a node says. Raises ScheduleError."""
    if data.mode == "cron":
        cron = data.cron_expression.strip()
        if len(cron) > _LONGEST_CRON:
            raise ScheduleError(f"cron_expression has {len(cron):,} characters; it may have {_LONGEST_CRON:,}")
        if len(cron.split()) != 5:
            raise ScheduleError(f"cron_expression {cron!r} must have five fields: minute hour day month weekday")
    elif data.mode == "visual":
        cron = _cron_of(data.frequency or "daily", data.visual_config)
    else:
        raise ScheduleError(f"mode {data.mode!r} is not known; it is visual or cron")
    schedule = Schedule(cron, data.timezone or "UTC")
    if schedule.next(0.0) is None:
        raise ScheduleError(f"{cron!r} never comes")
    return schedule


def _cron_of(frequency: str, said: VisualSchedule) -> str:
    if frequency == "hourly":
        if not 0 <= said.on_minute <= 59:
            raise ScheduleError(f"visual_config.on_minute must be 0 to 59, not {said.on_minute}")
        return f"{said.on_minute} * * * *"
    hour, minute = _clock_time(said.time)
    match frequency:
        case "daily":
            return f"{minute} {hour} * * *"
        case "weekly":
            if wrong := [one for one in said.weekdays if one not in _WEEKDAYS]:
                raise ScheduleError(f"visual_config.weekdays: {wrong[0]!r} is none; they are {', '.join(_WEEKDAYS)}")
            days = ",".join(str(_WEEKDAYS.index(one)) for one in said.weekdays)
            return f"{minute} {hour} * * {days or '0'}"
        case "monthly":
            days = ",".join("L" if one == "last" else str(one) for one in said.monthly_days)
            return f"{minute} {hour} {days or '1'} * *"
        case _:
            raise ScheduleError(f"frequency {frequency!r} is not known; it is hourly, daily, weekly or monthly")


def _clock_time(text: str) -> tuple[int, int]:
    """(hour, minute) of `9:30 AM`, or of `09:30`."""
    for shape in ("%I:%M %p", "%H:%M"):
        try:
            found = datetime.strptime(text.strip(), shape)  # noqa: DTZ007  a time of day has no zone
        except ValueError:
            continue
        return found.hour, found.minute
    raise ScheduleError(f"visual_config.time {text!r} must read like '9:30 AM' or '21:30'")


@lru_cache(64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ScheduleError(f"timezone {name!r} is not known; it is like 'Europe/Berlin' or 'UTC'") from error
