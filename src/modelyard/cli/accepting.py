"""Accepting connections, several of them in each turn of the event loop.

uvloop accepts one for each listening socket and turn. A busy process takes 10 ms and more
for a turn, so the last of 500 clients that connect at once would wait for five seconds
before anybody could answer or refuse them.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger("modelyard.connections")

_PER_TURN = 32
"""Connections that are accepted at most in a turn. Requests that have arrived already
wait meanwhile, a tenth of a millisecond for each connection."""
_PAUSE_SECONDS = 0.1
"""Pause after the system had no room for another connection."""
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Accepts the connections of one listening socket, which must not block."""

    def __init__(
        self,
        listening: socket.socket,
        create_protocol: Callable[[], asyncio.Protocol],
        free_places: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`free_places` returns how many more connections there may be; without any,
        one in each turn is accepted, so that its protocol can close another one or
        refuse it."""
        self._listening = listening
        self._create_protocol = create_protocol
        self._free_places = free_places
        self._loop = loop
        self._tasks: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start accepting."""
        self._timer = None
        self._loop.add_reader(self._listening.fileno(), self._accept_waiting)

    def close(self) -> None:
        """Accept no more connections. Those that were accepted are still served; the
        socket stays open."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening.fileno())

    def _accept_waiting(self) -> None:
        """Accept the connections that wait, up to the limit of a turn."""
        # A connection that is closed in favour of a new one gives its file back in the
        # next turn; those that are being opened have no protocol yet that counts.
        free_places = self._free_places() - len(self._tasks)
        for _ in range(min(_PER_TURN, max(1, free_places))):
            try:
                connection, _ = self._listening.accept()
            # Nothing waits any more, or another process was faster.
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error)
                    return
                # The client has left before it was accepted.
                continue
            self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        """Serve a connection."""
        connection.setblocking(False)
        opening = self._loop.connect_accepted_socket(self._create_protocol, connection)
        task = self._loop.create_task(opening)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pause(self, error: OSError) -> None:
        """Leave the waiting connections alone for a while: the event loop would report
        them in every turn."""
        logger.warning("no connection can be accepted", exc_info=error)
        self._loop.remove_reader(self._listening.fileno())
        self._timer = self._loop.call_later(_PAUSE_SECONDS, self.start)
