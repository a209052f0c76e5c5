"""Log entries about something that is away: one when it begins, one a minute, and one
when it is over."""

import logging
import time

_REPEAT_SECONDS = 60.0


class OutageLog:
    """Keeps a task that tries again and again from filling the log.

    The first failure of a series is logged, then one a minute with the number of those
    between, and the first success after it.
    """

    def __init__(self, logger: logging.Logger, failure: str, recovery: str) -> None:
        """`failure` and `recovery` are the log messages, without the reason."""
        self._logger = logger
        self._failure = failure
        self._recovery = recovery
        self._logged_at: float | None = None
        self._unlogged = 0

    def failed(self, error: Exception) -> None:
        """Note a failure."""
        now = time.monotonic()
        if self._logged_at is not None and now - self._logged_at < _REPEAT_SECONDS:
            self._unlogged += 1
            return
        # Some drivers explain themselves in several lines.
        fields = {"error": " ".join(str(error).split())}
        if self._unlogged:
            fields["repeated"] = str(self._unlogged)
        self._logger.warning(self._failure, extra={"fields": fields})
        self._logged_at = now
        self._unlogged = 0

    def worked(self) -> None:
        """Note a success."""
        if self._logged_at is not None:
            self._logger.info(self._recovery)
        self._logged_at = None
        self._unlogged = 0
