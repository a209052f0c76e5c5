"""Rate limits for sign-in tries. A try is counted before it is made, so that concurrent
ones cannot exceed the limit.

Windows use a monotonic clock: a jump of the wall clock neither allows more tries nor
locks anybody out.
"""

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from modelyard.base.errors import ModelyardError

# Names are chosen by whoever tries to sign in.
_MAX_NAMES = 10_000


class TooManyTriesError(ModelyardError):
    """Too many tries within the window."""

    code = "too_many_tries"

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many tries: wait a minute")
        self.retry_after = retry_after


class Attempts:
    """Allows a number of tries within a window for each name. The names that were
    unused for the longest are dropped first."""

    def __init__(
        self,
        max_tries: int,
        seconds: float,
        get_time: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allow `max_tries` tries within `seconds`. `get_time` returns monotonic
        seconds."""
        self._max_tries = max_tries
        self._seconds = seconds
        self._now = get_time
        self._try_times: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, name: str) -> None:
        """Count a try that is about to be made. Raises TooManyTriesError if the limit
        is reached."""
        current_time = self._now()
        try_times = self._try_times.get(name)
        if try_times is None:
            try_times = self._try_times[name] = deque(maxlen=self._max_tries)
            if len(self._try_times) > _MAX_NAMES:
                self._try_times.popitem(last=False)
        # The queue holds the last tries only, so its first one tells whether the window
        # is full.
        elif (
            len(try_times) == self._max_tries
            and try_times[0] > current_time - self._seconds
        ):
            raise TooManyTriesError(self._seconds)
        try_times.append(current_time)
        self._try_times.move_to_end(name)

    def give_back(self, name: str) -> None:
        """Return a try that was not made after all, or that succeeded."""
        try_times = self._try_times.get(name)
        if try_times:
            try_times.pop()

    def forget(self, name: str) -> None:
        """Reset the tries of a name."""
        self._try_times.pop(name, None)


def client_network(address: str) -> str:
    """Return the address range that one person may control: an IPv4 address, or the /64
    network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    # The same client may appear as IPv4 or as IPv6-mapped IPv4.
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), 64), strict=False))
