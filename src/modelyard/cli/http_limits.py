"""How large a request's head may be, and how slowly its body may come."""

from collections.abc import Sequence

from modelyard.base.settings import ConnectionSettings
from modelyard.gateway.http import HeadTooLargeError, RefusedError, TargetTooLongError

_LINE_COST = 4
"""Of a header beside its name and value."""


class HeadLimits:
    """Of heads: bytes, headers, and bytes of the address. One object a server."""

    __slots__ = ("_settings", "harmless", "most_bytes", "most_headers", "most_target")

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self.most_bytes = settings.head_kb << 10
        self.most_headers = settings.headers
        self.most_target = settings.target_kb << 10
        self.harmless = min(self.most_bytes, self.most_target)
        """A head that came in no more bytes than these is not too large in any way, but for its headers' number."""

    def broken_by_part(self, url: bytes, came: int) -> RefusedError | None:
        """What is wrong with a head of which so many bytes came, and which is not complete."""
        if came <= self.most_bytes:
            return None
        return self._too_long() if len(url) > self.most_target else self._too_large()

    def broken_by(self, url: bytes, headers: Sequence[tuple[bytes, bytes]], came: int) -> RefusedError | None:
        """What is wrong with a complete head, which came within so many bytes."""
        if len(url) > self.most_target:
            return self._too_long()
        if len(headers) > self.most_headers:
            return self._too_large()
        # The read that completes a head may hold more than it, so that only its parts say how large it was.
        if came > self.most_bytes and _size(url, headers) > self.most_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RefusedError:
        settings = self._settings
        return HeadTooLargeError(f"a request may have {settings.headers} headers, and {settings.head_kb} kB of them")

    def _too_long(self) -> RefusedError:
        return TargetTooLongError(f"a request's address may have {self._settings.target_kb} kB")


def _size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + _LINE_COST for name, value in headers)


class Pace:
    """Of one body. Patience with it is lost with time, and won by bytes."""

    __slots__ = ("_came", "_looked_at", "_patience", "_settings")

    def __init__(self, settings: ConnectionSettings, now: float, came: int) -> None:
        """`came`: bytes of it that are here already."""
        self._settings = settings
        self._patience = settings.body_seconds
        self._looked_at = now
        self._came = came

    def is_slow(self, now: float, came: int, *, is_held: bool) -> bool:
        """Whether patience is at its end. `is_held`: it is we who keep it waiting, which costs nothing."""
        elapsed, self._looked_at = now - self._looked_at, now
        fresh, self._came = came - self._came, came
        if is_held:
            return False
        most = self._settings.body_seconds
        self._patience = min(most, self._patience - elapsed + fresh / self._settings.body_rate)
        return self._patience < 0
