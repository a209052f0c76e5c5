"""Connection limits of one server process: which connections are open, and how long
each may take.

A connection is in one state: receiving a head, idle between requests, sending a body,
being answered, or closing. All states except being answered have a time limit, and
their connections are closed first if there are too many. This protects against
slow-request attacks.
"""

import asyncio
import ipaddress
import resource
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from modelyard.base.settings import ConnectionSettings

# Seconds between two checks of the time limits.
_TICK = 0.25
# Seconds for a client to read the last response before its connection is cut.
_LEAVE_SECONDS = 5.0
# A connection younger than this is not closed in favour of others of its address.
_YOUNG_SECONDS = 1.0
# Upper bound for the file limit that is requested; more is never needed by one process.
_MAX_FILES = 65_536
# Even with a low limit, the database and calls to providers need files.
_MIN_RESERVE = 64


class LimitedConnection(Protocol):
    """A connection as the limits see it."""

    origin: "ClientNetwork"

    def end_head(self) -> None:
        """Called if the request head took too long."""
        ...

    def end_body(self) -> None:
        """Called if the body arrives too slowly."""
        ...

    def is_body_slow(self, current_time: float) -> bool:
        """Tell whether the body arrives too slowly. The time is the event loop's."""
        ...

    def unread(self) -> int:
        """Return the number of response bytes that the client has not read."""
        ...

    def abort(self) -> None:
        """Close the connection at once and discard unsent data."""
        ...


class ClientNetwork:
    """A client address (or IPv6 network) with its connections."""

    __slots__ = ("connections", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.waiting: OrderedDict[LimitedConnection, float] = OrderedDict()
        """Connections without a complete request → since when, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCapacity:
    """Maximum number of connections, in total and waiting per address."""

    most: int
    idle_per_address: int


def capacity_for(settings: ConnectionSettings, files: int) -> ConnectionCapacity:
    """Return the connection limits for a process that may open `files` files.

    Unless the settings say otherwise, a quarter of the files (at least 64) is reserved
    for other uses, and one address may have a quarter of the connections waiting.
    """
    # Files other than sockets need descriptors too: the database, logs, model
    # processes, upstream connections.
    reserve = settings.reserved_files or max(_MIN_RESERVE, files // 4)
    max_connections = settings.most or max(1, files - reserve)
    # A quarter: one address that opens connections without using them leaves the rest.
    idle_per_address = settings.idle_per_address or max(1, max_connections // 4)
    return ConnectionCapacity(most=max_connections, idle_per_address=idle_per_address)


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as permitted and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    target = _MAX_FILES if hard == infinite else min(hard, _MAX_FILES)
    if soft == infinite or soft >= target:
        return _MAX_FILES if soft == infinite else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    # Some systems report a higher hard limit than they permit.
    except (OSError, ValueError):
        return soft
    return target


class ConnectionLimiter:
    """Tracks all connections of one process and enforces their limits. All methods run
    on the event loop."""

    def __init__(self, settings: ConnectionSettings, room: ConnectionCapacity) -> None:
        self.settings = settings
        self.room = room
        self.count = 0
        self._origins: dict[str, ClientNetwork] = {}
        # Ordered by time: new connections are appended, so the first one is always the
        # oldest.
        self._beginning: OrderedDict[LimitedConnection, float] = OrderedDict()
        self._idle: OrderedDict[LimitedConnection, float] = OrderedDict()
        self._leaving: OrderedDict[LimitedConnection, float] = OrderedDict()
        self._sending: dict[LimitedConnection, None] = {}
        self._unread: dict[LimitedConnection, tuple[float, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start checking time limits."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_TICK, self._tick, self._loop)

    def close(self) -> None:
        """Stop checking time limits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def now(self) -> float:
        """Return the event loop's time, or 0 before `open`."""
        return self._loop.time() if self._loop is not None else 0.0

    def free_places(self) -> int:
        """Return how many more connections there may be; negative if there are already
        too many."""
        return self.room.most - self.count

    # Life of a connection.

    def register(self, connection: LimitedConnection, address: str) -> bool:
        """Register a new connection and return whether there is room for it.

        If the process is at its maximum, a waiting connection is closed instead; if
        `address` has too many waiting ones, its oldest. The caller must `unregister` it
        also if the result is False.
        """
        name = network_of(address)
        origin = connection.origin = self._origins.get(
            name
        ) or self._origins.setdefault(name, ClientNetwork(name))
        origin.connections += 1
        self.count += 1
        if self.count > self.room.most and not self._evict():
            return False
        current_time = self.now()
        self._beginning[connection] = origin.waiting[connection] = current_time
        # Only after it was registered: the oldest connection of the address is dropped,
        # not the new one.
        if len(origin.waiting) > self.room.idle_per_address:
            self._evict_from_origin(origin, current_time)
        return True

    def start_head(self, connection: LimitedConnection) -> None:
        """The first bytes of a head arrived, and more must follow."""
        # Later reads of the same head must not extend its time limit.
        if connection not in self._beginning:
            self._forget(connection)
            self._beginning[connection] = connection.origin.waiting[connection] = (
                self.now()
            )

    def start_body(self, connection: LimitedConnection) -> bool:
        """The head is complete and the body is not. Returns whether this state is new."""
        if connection in self._sending:
            return False
        self._forget(connection)
        self._sending[connection] = None
        return True

    def start_response(self, connection: LimitedConnection) -> None:
        """The request is complete; from now on the connection has no time limit."""
        # A connection that was idle is in these two only.
        if self._idle.pop(connection, None) is not None:
            connection.origin.waiting.pop(connection, None)
        else:
            self._forget(connection)

    def mark_idle(self, connection: LimitedConnection) -> None:
        """The response was sent; the connection waits for the next request."""
        loop = self._loop
        current_time = loop.time() if loop is not None else 0.0
        self._idle[connection] = connection.origin.waiting[connection] = current_time

    def renew_idle(self, connection: LimitedConnection) -> None:
        """A request was answered at once: its connection waits for the next one. The
        same as `start_response` and `mark_idle`, in less time."""
        if connection not in self._idle:
            self.start_response(connection)
            self.mark_idle(connection)
            return
        waiting = connection.origin.waiting
        self._idle[connection] = waiting[connection] = self.now()
        self._idle.move_to_end(connection)
        waiting.move_to_end(connection)

    def start_closing(self, connection: LimitedConnection) -> None:
        """The last response is being sent; the connection closes afterwards."""
        self._forget(connection)
        self._leaving[connection] = self.now()

    def mark_unread(self, connection: LimitedConnection) -> None:
        """The client does not read its response; remember how much is unread."""
        self._unread[connection] = (self.now(), connection.unread())

    def clear_unread(self, connection: LimitedConnection) -> None:
        """The client reads again."""
        self._unread.pop(connection, None)

    def unregister(self, connection: LimitedConnection) -> None:
        """The connection is closed."""
        self._forget(connection)
        self._leaving.pop(connection, None)
        self._unread.pop(connection, None)
        self.count -= 1
        self._remove_from_origin(connection.origin)

    def _remove_from_origin(self, origin: ClientNetwork) -> None:
        """Subtract a connection from its address."""
        origin.connections -= 1
        # Addresses without connections are deleted, or the table would grow forever.
        if not origin.connections:
            self._origins.pop(origin.name, None)

    def _forget(self, connection: LimitedConnection) -> None:
        """Remove the connection from the queues of all waiting states."""
        connection.origin.waiting.pop(connection, None)
        if (
            self._idle.pop(connection, None) is None
            and self._beginning.pop(connection, None) is None
        ):
            self._sending.pop(connection, None)

    # Too many connections.

    def _evict(self) -> bool:
        """Close a connection that is not being answered: a closing one first, else the
        one that has waited longest.

        Returns False if there is none.
        """
        if self._leaving:
            self._drop(next(iter(self._leaving)))
            return True
        oldest = [
            next(iter(queue.items()))
            for queue in (self._idle, self._beginning)
            if queue
        ]
        if not oldest:
            return False
        self._drop(min(oldest, key=lambda pair: pair[1])[0])
        return True

    def _evict_from_origin(self, origin: ClientNetwork, current_time: float) -> None:
        """Close the oldest waiting connection of an address that has too many, unless
        it is very new."""
        connection, since = next(iter(origin.waiting.items()))
        if current_time - since >= _YOUNG_SECONDS:
            self._drop(connection)

    def _drop(self, connection: LimitedConnection) -> None:
        """Close a connection and forget it."""
        self._forget(connection)
        self._leaving.pop(connection, None)
        connection.abort()

    # Too slow.

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that exceeded a time limit; schedule the next check.

        Late heads and slow bodies end by their own handlers; idle connections, closing
        ones and those whose client does not read are closed.
        """
        # Scheduled first, so that an error in a connection cannot stop the checks.
        self._timer = loop.call_later(_TICK, self._tick, loop)
        current_time = loop.time()
        for connection in self._due(
            self._beginning, current_time - self.settings.head_seconds
        ):
            connection.end_head()
        for connection in self._due(
            self._idle, current_time - self.settings.idle_seconds
        ):
            self._drop(connection)
        for connection in self._due(self._leaving, current_time - _LEAVE_SECONDS):
            connection.abort()
        # Bodies have no common deadline; each is measured by its own rate.
        for connection in [
            connection
            for connection in self._sending
            if connection.is_body_slow(current_time)
        ]:
            connection.end_body()
        for connection, (since, left) in list(self._unread.items()):
            self._watch_reader(connection, since, left, current_time)

    @staticmethod
    def _due(
        queue: "OrderedDict[LimitedConnection, float]", cutoff: float
    ) -> list[LimitedConnection]:
        """Remove and return the connections that have been in the queue since the
        cutoff or earlier."""
        expired_connections: list[LimitedConnection] = []
        for connection, since in queue.items():
            # The queue is ordered by time: all others are younger.
            if since > cutoff:
                break
            expired_connections.append(connection)
        for connection in expired_connections:
            queue.pop(connection, None)
        return expired_connections

    def _watch_reader(
        self,
        connection: LimitedConnection,
        since: float,
        left: int,
        current_time: float,
    ) -> None:
        """Close the connection if its client has read nothing for too long."""
        # Any progress restarts the time limit.
        if (unread := connection.unread()) < left:
            self._unread[connection] = (current_time, unread)
        elif current_time - since >= self.settings.unread_seconds:
            self._unread.pop(connection, None)
            connection.abort()


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return the key under which an address is counted: for IPv6 its /64 network,
    because one host controls all addresses of it."""
    try:
        parsed_address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed_address, ipaddress.IPv4Address):
        return str(parsed_address)
    # IPv4 clients of a dual-stack socket count as IPv4.
    if parsed_address.ipv4_mapped is not None:
        return str(parsed_address.ipv4_mapped)
    return str(ipaddress.ip_network((parsed_address, 64), strict=False))
