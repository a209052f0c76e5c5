"""The database's clock: the one clock that all servers of an installation share."""

import time
from collections.abc import Callable

from modelyard.storage.database import Database
from modelyard.storage.repository import Repository

_KEPT_SECONDS = 10.0
"""How long a measurement is used. Those who look for work ask more often."""
_MAX_DRIFT_SECONDS = 0.5
_MAX_ROUND_TRIP_SECONDS = 1.0
"""A slower answer says too little about the time at which it was given."""


class DatabaseClock(Repository):
    """Tells the time of the database, in seconds since 1970.

    Leases and due times of several servers must be compared on one clock, or a server
    whose clock is ahead takes over runs whose owners are well. The distance to this
    server's clock is measured by `synchronise`; in between this server's clock goes on.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """`clock` is this server's, in seconds since 1970."""
        super().__init__(database, "clock")
        self._clock = clock
        self._offset = 0.0
        self._measured_at = -_KEPT_SECONDS
        self._ahead_of_monotonic = 0.0
        """Distance of this server's clock to the one that nobody can set, when the two
        clocks were compared."""

    @classmethod
    def of(cls, database: Database, clock: Callable[[], float]) -> "DatabaseClock":
        """Return `clock` if it is a database's already, else a new one."""
        return clock if isinstance(clock, cls) else cls(database, clock)

    def __call__(self) -> float:
        """Return the time."""
        return self._clock() + self._offset

    async def synchronise(self) -> None:
        """Measure how far the two clocks are apart, unless that was done within the last
        seconds. Raises StorageUnavailableError."""
        # A file is read by this machine, whose clock is the only one.
        if not self._database.is_shared:
            return
        started_at = time.monotonic()
        asked_at = self._clock()
        is_recent = started_at - self._measured_at < _KEPT_SECONDS
        # Somebody may have set this server's clock since.
        drift = asked_at - started_at - self._ahead_of_monotonic
        if is_recent and abs(drift) < _MAX_DRIFT_SECONDS:
            return
        rows = await self._rows("now")
        answered_at = self._clock()
        if 0 <= answered_at - asked_at <= _MAX_ROUND_TRIP_SECONDS:
            self._offset = float(rows[0]["now"]) - (asked_at + answered_at) / 2
            self._measured_at = started_at
            self._ahead_of_monotonic = asked_at - started_at
