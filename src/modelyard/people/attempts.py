"""Counting what strangers try: each try is counted before it is made, so that a hundred at once are not a hundred.

Windows are on a monotonic clock: a wall clock that jumps neither opens nor shuts a door.
"""

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from modelyard.base.errors import ModelyardError

_MOST_NAMES = 10_000


class TooManyTriesError(ModelyardError):
    code = "too_many_tries"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many tries: wait a minute")
        self.retry_after = retry_after


class Attempts:
    """So many tries within a window for each name; names that were quiet for longest are forgotten first."""

    def __init__(self, most: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._made: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, name: str) -> None:
        """Count a try that is about to be made. Raises TooManyTriesError where there were enough."""
        now = self._now()
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = deque(maxlen=self._most)
            if len(self._made) > _MOST_NAMES:
                self._made.popitem(last=False)
        elif len(made) == self._most and made[0] > now - self._seconds:
            raise TooManyTriesError(self._seconds)
        made.append(now)
        self._made.move_to_end(name)

    def give_back(self, name: str) -> None:
        """It was not made after all, or it was right."""
        made = self._made.get(name)
        if made:
            made.pop()

    def forget(self, name: str) -> None:
        """Start anew."""
        self._made.pop(name, None)


def neighbourhood(address: str) -> str:
    """What one person can call from: an IPv4 address, or the /64 that an IPv6 address lies in."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), 64), strict=False))
