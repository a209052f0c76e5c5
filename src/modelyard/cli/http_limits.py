"""Limits for request heads (size) and request bodies (speed)."""

from collections.abc import Sequence

from modelyard.base.settings import ConnectionSettings
from modelyard.gateway.http import (
    HeadersTooLargeError,
    RefusedError,
    TargetTooLongError,
)

_LINE_COST = 4
"""Bytes that a header takes in addition to name and value: colon, space, CR and LF."""


class HeadLimits:
    """Limits for request heads: total bytes, number of headers, and length of the
    target. One object per server."""

    __slots__ = ("_settings", "harmless", "most_bytes", "most_headers", "most_target")

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self.most_bytes = settings.head_kb << 10
        self.most_headers = settings.headers
        self.most_target = settings.target_kb << 10
        self.harmless = min(self.most_bytes, self.most_target)
        """A head of at most this size can only exceed the number of headers. Allows
        skipping the exact check."""

    def broken_by_part(self, url: bytes, received_bytes: int) -> RefusedError | None:
        """Return the error for an incomplete head of which `received_bytes` have
        arrived, or None."""
        if received_bytes <= self.most_bytes:
            return None
        # The URL is known in part already; it decides between 414 and 431.
        return self._too_long() if len(url) > self.most_target else self._too_large()

    def broken_by(
        self, url: bytes, headers: Sequence[tuple[bytes, bytes]], received_bytes: int
    ) -> RefusedError | None:
        """Return the error for a complete head that arrived within `received_bytes`, or
        None."""
        if len(url) > self.most_target:
            return self._too_long()
        if len(headers) > self.most_headers:
            return self._too_large()
        # The read that completes a head may contain more than it, so the size is
        # computed from the parts.
        if received_bytes > self.most_bytes and _size(url, headers) > self.most_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RefusedError:
        """Return the error for a head that is too large (431)."""
        settings = self._settings
        return HeadersTooLargeError(
            f"Request headers too large; at most {settings.headers} headers and"
            f" {settings.head_kb} kB in total"
        )

    def _too_long(self) -> RefusedError:
        """Return the error for a target that is too long (414)."""
        return TargetTooLongError(
            f"Request target too long; at most {self._settings.target_kb} kB"
        )


def _size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Return the size of a parsed head in bytes."""
    return len(url) + sum(
        len(name) + len(value) + _LINE_COST for name, value in headers
    )


class BodyRateMeter:
    """Measures the speed of one body. Patience decreases with time and is restored by
    arriving bytes."""

    __slots__ = ("_checked_at", "_patience", "_received_bytes", "_settings")

    def __init__(
        self, settings: ConnectionSettings, current_time: float, received_bytes: int
    ) -> None:
        """`received_bytes`: how much of the body has arrived already."""
        self._settings = settings
        # Starts full, so that a slow start is tolerated.
        self._patience = settings.body_seconds
        self._checked_at = current_time
        self._received_bytes = received_bytes

    def is_slow(
        self, current_time: float, received_bytes: int, *, is_held: bool
    ) -> bool:
        """Tell whether patience is used up. `is_held`: the server paused reading, so
        the time does not count."""
        elapsed, self._checked_at = current_time - self._checked_at, current_time
        new_bytes, self._received_bytes = (
            received_bytes - self._received_bytes,
            received_bytes,
        )
        if is_held:
            return False
        max_patience = self._settings.body_seconds
        # Capped at the start value: a fast beginning does not permit a long stall
        # later.
        self._patience = min(
            max_patience,
            self._patience - elapsed + new_bytes / self._settings.body_rate,
        )
        return self._patience < 0
