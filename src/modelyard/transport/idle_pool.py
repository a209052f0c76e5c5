"""Connections that wait for their next request, by the route that they lead along."""

import asyncio
from collections import deque
from collections.abc import Callable

from modelyard.transport.connection import Connection

_NEVER = float("inf")


class IdlePool:
    """Idle connections of one HTTP client. One timer closes those whose time is over:
    without calls nobody else would, and a burst's connections would stay open."""

    __slots__ = ("_connections", "_drop", "_max_per_route", "_next_check", "_timer")

    def __init__(self, max_per_route: int, drop: Callable[[Connection], None]) -> None:
        """`drop` closes a connection that is not used again."""
        self._max_per_route = max_per_route
        self._drop = drop
        # Each with the event loop's time at which it expires, the oldest first.
        self._connections: dict[object, deque[tuple[Connection, float]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_check = _NEVER

    def take(
        self, route_key: object, is_ready: Callable[[Connection], bool]
    ) -> Connection | None:
        """Remove and return a connection that is ready; None if there is none.

        Expired connections and those that are not ready are dropped when found.
        """
        idle = self._connections.get(route_key)
        # The most recently used connection first: it is the least likely to have been
        # closed.
        while idle:
            connection, until = idle.pop()
            if until > connection.loop.time() and is_ready(connection):
                return connection
            self._drop(connection)
        return None

    def put(self, connection: Connection, seconds: float) -> None:
        """Keep a connection for so many seconds; drop it if its route has enough."""
        key = connection.way.key
        idle = self._connections.get(key)
        if idle is None:
            idle = self._connections[key] = deque()
        if len(idle) >= self._max_per_route:
            self._drop(connection)
            return
        loop = connection.loop
        until = loop.time() + seconds
        idle.append((connection, until))
        # Servers may ask for less time than the connections before this one have.
        if until < self._next_check:
            self._check_at(until, loop)

    def _check_at(self, moment: float, loop: asyncio.AbstractEventLoop) -> None:
        """Let the timer fire at a time of the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_check = moment
        self._timer = loop.call_at(moment, self._drop_expired, loop)

    def _drop_expired(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the connections whose time is over. The timer stops with the last one."""
        self._timer, self._next_check = None, _NEVER
        current_time, next_expiry = loop.time(), _NEVER
        for key, idle in list(self._connections.items()):
            while idle and idle[0][1] <= current_time:
                self._drop(idle.popleft()[0])
            if idle:
                next_expiry = min(next_expiry, idle[0][1])
            # Routes are as many as the addresses that were ever called.
            else:
                del self._connections[key]
        if self._connections:
            self._check_at(next_expiry, loop)

    def clear(self) -> None:
        """Forget all connections; the caller closes them."""
        self._connections.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next_check = None, _NEVER
