"""Which connections are open, and how long each may take for what it does. Strangers cannot hold the door.

Every connection is in one state: it begins a request, is idle between two, sends a body, is answered, or leaves. Those
that are not answered have a time limit, and are the first to go when there are too many.
"""

import asyncio
import ipaddress
import resource
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from modelyard.base.settings import ConnectionSettings

_TICK = 0.25
_LEAVE_SECONDS = 5.0
_YOUNG_SECONDS = 1.0
_MOST_FILES = 65_536
_LEAST_RESERVE = 64


class Connection(Protocol):
    """What the door sees of one."""

    origin: "Origin"

    def end_head(self) -> None:
        """Its head took too long."""
        ...

    def end_body(self) -> None:
        """Its body comes too slowly."""
        ...

    def is_body_slow(self, now: float) -> bool: ...

    def unread(self) -> int:
        """Bytes of the answer that its caller has not taken."""
        ...

    def abort(self) -> None:
        """Close it at once; whatever is left to be sent is lost."""
        ...


class Origin:
    """An address that connections come from."""

    __slots__ = ("connections", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.waiting: OrderedDict[Connection, float] = OrderedDict()
        """Those on which no request is complete, with the time since when; the longest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many connections there may be."""

    most: int
    idle_per_address: int


def room_of(settings: ConnectionSettings, files: int) -> Room:
    """What so many open files have room for."""
    reserve = settings.reserved_files or max(_LEAST_RESERVE, files // 4)
    most = settings.most or max(1, files - reserve)
    return Room(most=most, idle_per_address=settings.idle_per_address or max(1, most // 4))


def raise_file_limit() -> int:
    """As many open files as this process may have; how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = _MOST_FILES if hard == infinite else min(hard, _MOST_FILES)
    if soft == infinite or soft >= wanted:
        return _MOST_FILES if soft == infinite else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems have a lower limit than they say
        return soft
    return wanted


class Door:
    """Keeps account of all connections of one process."""

    def __init__(self, settings: ConnectionSettings, room: Room) -> None:
        self.settings = settings
        self.room = room
        self.count = 0
        self._origins: dict[str, Origin] = {}
        self._beginning: OrderedDict[Connection, float] = OrderedDict()
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        self._leaving: OrderedDict[Connection, float] = OrderedDict()
        self._sending: dict[Connection, None] = {}
        self._unread: dict[Connection, tuple[float, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Have an eye on time from now on."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_TICK, self._tick, self._loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    # one connection's life

    def enter(self, one: Connection, address: str) -> bool:
        """Whether there is room for it; those that are idle longest make room."""
        name = network_of(address)
        origin = one.origin = self._origins.get(name) or self._origins.setdefault(name, Origin(name))
        origin.connections += 1
        self.count += 1
        if self.count > self.room.most and not self._make_room():
            return False
        now = self.now()
        self._beginning[one] = origin.waiting[one] = now
        if len(origin.waiting) > self.room.idle_per_address:
            self._thin(origin, now)
        return True

    def begin(self, one: Connection) -> None:
        """The first bytes of a head came, and more have to."""
        if one not in self._beginning:
            self._forget(one)
            self._beginning[one] = one.origin.waiting[one] = self.now()

    def send(self, one: Connection) -> bool:
        """Its head is complete, and its body is not. Whether that is new."""
        if one in self._sending:
            return False
        self._forget(one)
        self._sending[one] = None
        return True

    def answer(self, one: Connection) -> None:
        """Its request is complete."""
        self._forget(one)

    def rest(self, one: Connection) -> None:
        """It was answered, and may ask again."""
        self._idle[one] = one.origin.waiting[one] = self.now()

    def leave(self, one: Connection) -> None:
        """The last that it is told is on its way."""
        self._forget(one)
        self._leaving[one] = self.now()

    def block(self, one: Connection) -> None:
        """Its caller does not take what it is sent."""
        self._unread[one] = (self.now(), one.unread())

    def unblock(self, one: Connection) -> None:
        self._unread.pop(one, None)

    def exit(self, one: Connection) -> None:
        """It is closed."""
        self._forget(one)
        self._leaving.pop(one, None)
        self._unread.pop(one, None)
        origin = one.origin
        origin.connections -= 1
        self.count -= 1
        if not origin.connections:
            self._origins.pop(origin.name, None)

    def _forget(self, one: Connection) -> None:
        one.origin.waiting.pop(one, None)
        if self._idle.pop(one, None) is None and self._beginning.pop(one, None) is None:
            self._sending.pop(one, None)

    # too many

    def _make_room(self) -> bool:
        """Close one that is not being answered: who was told its last already, else who waits longest."""
        if self._leaving:
            self._drop(next(iter(self._leaving)))
            return True
        oldest = [next(iter(those.items())) for those in (self._idle, self._beginning) if those]
        if not oldest:
            return False
        self._drop(min(oldest, key=lambda pair: pair[1])[0])
        return True

    def _thin(self, origin: Origin, now: float) -> None:
        """One address has too many that wait. Those that came just now may be about to ask."""
        one, since = next(iter(origin.waiting.items()))
        if now - since >= _YOUNG_SECONDS:
            self._drop(one)

    def _drop(self, one: Connection) -> None:
        self._forget(one)
        self._leaving.pop(one, None)
        one.abort()

    # too slow

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_TICK, self._tick, loop)
        now = loop.time()
        for one in self._due(self._beginning, now - self.settings.head_seconds):
            one.end_head()
        for one in self._due(self._idle, now - self.settings.idle_seconds):
            self._drop(one)
        for one in self._due(self._leaving, now - _LEAVE_SECONDS):
            one.abort()
        for one in [one for one in self._sending if one.is_body_slow(now)]:
            one.end_body()
        for one, (since, left) in list(self._unread.items()):
            self._watch_reader(one, since, left, now)

    @staticmethod
    def _due(those: "OrderedDict[Connection, float]", before: float) -> list[Connection]:
        """Those since before that moment; they stand first."""
        due: list[Connection] = []
        for one, since in those.items():
            if since > before:
                break
            due.append(one)
        for one in due:
            those.pop(one, None)
        return due

    def _watch_reader(self, one: Connection, since: float, left: int, now: float) -> None:
        if (unread := one.unread()) < left:
            self._unread[one] = (now, unread)
        elif now - since >= self.settings.unread_seconds:
            self._unread.pop(one, None)
            one.abort()


@lru_cache(4096)
def network_of(address: str) -> str:
    """What counts as one address: of IPv6 a network, since each of its hosts has as many addresses as it likes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
