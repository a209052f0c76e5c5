"""Tools for the current time in any time zone, and for conversions between notations."""

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from modelyard.base.clock import Clock
from modelyard.base.errors import suggestion
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolParameterError
from modelyard.tools.function import FunctionTool

_FORMAT = "%Y-%m-%d %H:%M:%S"
_FORMATS = (
    _FORMAT,
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S %z",
)


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name or its city. Raises ToolParameterError with
    similar names."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        from zoneinfo import available_timezones

        zone_names = available_timezones()
        # Models often name just the city, such as "New York".
        exact = next(
            (
                zone_name
                for zone_name in zone_names
                if zone_name.rpartition("/")[2].lower()
                == name.replace(" ", "_").lower()
            ),
            None,
        )
        if exact is not None:
            return ZoneInfo(exact)
        hint = suggestion(name, sorted(zone_names), label="available:")
        raise ToolParameterError(f"Unknown time zone {name[:60]!r}; {hint}") from None


def moment(text: str, where: str) -> datetime:
    """Parse a local time in a zone. Raises ToolParameterError."""
    text = text.strip()
    for date_format in _FORMATS:
        try:
            local_time = datetime.strptime(text, date_format)  # noqa: DTZ007
        except ValueError:
            continue
        # An offset in the text takes precedence over the zone.
        return (
            local_time if local_time.tzinfo else local_time.replace(tzinfo=zone(where))
        )
    raise ToolParameterError(
        f"Invalid time {text[:60]!r}; expected a form such as 2026-11-21 14:30:00"
    )


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the time tools."""
    tools = _TimeTools(parts.clock)
    common_fields = {"provider": "time", "kind": "builtin", "is_repeatable": True}
    functions = (
        tools.current_time,
        tools.timezone_conversion,
        tools.localtime_to_timestamp,
        tools.timestamp_to_localtime,
        tools.weekday,
    )
    return [FunctionTool(function, **common_fields) for function in functions]


class _TimeTools:
    """The tools as methods. Their docstrings are sent to models as descriptions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _utc_now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    async def current_time(
        self, timezone: str = "UTC", format: str = "%Y-%m-%d %H:%M:%S %Z"
    ) -> str:
        """The date and the time now.

        timezone: as Europe/Paris or Asia/Shanghai
        format: as strftime writes it
        """
        local_time = self._utc_now().astimezone(zone(timezone))
        return local_time.strftime(format or "%Y-%m-%d %H:%M:%S %Z")

    async def timezone_conversion(
        self, current_time: str, current_timezone: str, target_timezone: str
    ) -> str:
        """A time in one time zone, told in another.

        current_time: as 2026-11-21 14:30:00
        current_timezone: as Asia/Shanghai
        target_timezone: as America/New_York
        """
        local_time = moment(current_time, current_timezone)
        return local_time.astimezone(zone(target_timezone)).strftime(_FORMAT)

    async def localtime_to_timestamp(
        self, localtime: str, timezone: str = "UTC"
    ) -> str:
        """Seconds since 1970 of a local time.

        localtime: as 2026-11-21 14:30:00
        timezone: as Europe/Paris
        """
        return str(int(moment(localtime, timezone).timestamp()))

    async def timestamp_to_localtime(
        self, timestamp: float, timezone: str = "UTC"
    ) -> str:
        """The local time of a number of seconds since 1970.

        timezone: as Europe/Paris
        """
        try:
            # Such a large number can only be in milliseconds.
            seconds = timestamp / 1000 if abs(timestamp) > 1e11 else timestamp
            return datetime.fromtimestamp(seconds, zone(timezone)).strftime(_FORMAT)
        except (OverflowError, ValueError, OSError) as error:
            raise ToolParameterError(
                f"Timestamp {timestamp} is out of range"
            ) from error

    async def weekday(
        self,
        year: int | None = None,
        month: int | None = None,
        day: int | None = None,
    ) -> str:
        """Which day of the week a date is; today where no date is given."""
        today = self._utc_now()
        try:
            date = datetime(
                year or today.year, month or today.month, day or today.day, tzinfo=UTC
            )
        except ValueError as error:
            raise ToolParameterError(
                f"Invalid date {year}-{month}-{day}: {error}"
            ) from error
        return date.strftime("%Y-%m-%d is a %A.")
