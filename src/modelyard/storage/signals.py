"""Signals between the processes that share a database: "something has changed there,
look at it".

A signal carries no data and may get lost, so whoever waits for one looks by itself now
and then. It makes the usual wait short and the usual look unnecessary: without signals,
a server that watches forty runs of another one asks the database eight hundred times a
second. PostgreSQL has them as LISTEN and NOTIFY
(https://www.postgresql.org/docs/current/sql-notify.html). A file has none: there the
waiters poll, which costs no round trip.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager, suppress

from modelyard.base.outage_log import OutageLog
from modelyard.storage.engine import Connection, Engine, StorageUnavailableError

logger = logging.getLogger("modelyard.storage")

_RECONNECT_SECONDS = 1.0


class SignalListener:
    """Waits for the signals of one topic. A signal that arrives between two waits ends
    the second one at once, so none is missed between a look and the next wait."""

    def __init__(self, signals: "Signals") -> None:
        self._signals = signals
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End the current or the next wait."""
        self._event.set()

    async def wait(self, seconds: float, *, unheard_seconds: float) -> None:
        """Wait for a signal, but at most `seconds`. While this process receives no
        signals, `unheard_seconds` is the interval for looking without them."""
        limit = seconds if self._signals.is_listening else unheard_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._event.wait()
        self._event.clear()


class Signals:
    """The signals of a database, sent in transactions and received by `run`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: dict[str, set[SignalListener]] = {}
        self._observers: dict[str, Callable[[str], None]] = {}
        self._outages = OutageLog(
            logger,
            "signals of other processes are not received",
            "signals of other processes are received again",
        )
        self.is_listening = False
        """Whether signals of other processes arrive at present."""

    def send(self, connection: Connection, topic: str) -> None:
        """Signal a topic to all processes, this one included, when the transaction is
        committed. A topic has at most some hundred characters."""
        self._engine.signal(connection, topic)

    @contextmanager
    def listener(self, topic: str) -> Generator[SignalListener]:
        """Receive the signals of a topic during a block."""
        listener = SignalListener(self)
        listeners = self._listeners.setdefault(topic, set())
        listeners.add(listener)
        try:
            yield listener
        finally:
            listeners.discard(listener)
            # Another block may have made a new set in the meantime.
            if not listeners and self._listeners.get(topic) is listeners:
                del self._listeners[topic]

    async def call_at(
        self,
        topic: str,
        act: Callable[[], Awaitable[object]],
        seconds: float,
        *,
        unheard_seconds: float,
    ) -> None:
        """Call `act` at once, at each signal of a topic, and after each wait without
        one (see `SignalListener.wait`), until the task is cancelled or `act` raises."""
        with self.listener(topic) as listener:
            while True:
                await act()
                await listener.wait(seconds, unheard_seconds=unheard_seconds)

    def wake(self, topic: str) -> None:
        """Wake the listeners of a topic in this process alone, on their event loop."""
        for listener in self._listeners.get(topic, ()):
            listener.wake()

    def observe(self, prefix: str, notice: Callable[[str], None]) -> None:
        """Call `notice` with the rest of each topic that begins with `prefix`. It runs
        on the event loop of `run` and must not raise."""
        self._observers[prefix] = notice

    async def run(self) -> None:
        """Receive signals until the task is cancelled; connect again when the database
        was away. Returns at once if the database has no signals."""
        topics = self._engine.listen()
        while topics is not None:
            try:
                async with aclosing(topics):
                    await self._receive(topics)
            except StorageUnavailableError as error:
                self._outages.failed(error)
            finally:
                self._set_listening(False)
            await asyncio.sleep(_RECONNECT_SECONDS)
            topics = self._engine.listen()

    async def _receive(self, topics: AsyncGenerator[str, None]) -> None:
        """Wake the listeners of each topic. The first, empty one says that this process
        listens from now on."""
        async for topic in topics:
            if not topic:
                self._outages.worked()
                self._set_listening(True)
                continue
            self.wake(topic)
            self._tell_observers(topic)

    def _tell_observers(self, topic: str) -> None:
        for prefix, notice in self._observers.items():
            if topic.startswith(prefix):
                notice(topic.removeprefix(prefix))

    def _set_listening(self, is_listening: bool) -> None:
        """Wake all listeners if signals may have been missed, or will be from now on:
        their present wait may be too long."""
        if is_listening == self.is_listening:
            return
        self.is_listening = is_listening
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.wake()
