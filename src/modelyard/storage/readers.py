"""Connections that read, and the threads that they read in."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from modelyard.storage.engine import Connection, Engine, Row, StorageUnavailableError
from modelyard.storage.pages import Pages

T = TypeVar("T")


class Readers:
    """Connections for reading: so many at most, each opened when it is needed."""

    def __init__(self, engine: Engine, most: int, pages: Pages, *, first: Connection | None = None) -> None:
        self._engine = engine
        self._pages = pages
        self._generation = 0
        self._idle: list[Connection] = [first] if first else []
        self._places = threading.Semaphore(most)
        self._is_closed = False
        self.threads = ThreadPoolExecutor(most, thread_name_prefix="modelyard-reader")

    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any]) -> list[Row]:
        """Raises StorageUnavailableError where the database cannot be asked."""
        return self.run(lambda connection: connection.execute(statement, values))

    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work`, which only reads, returns; it is tried again where that may help.

        Raises StorageUnavailableError where the database cannot be asked.
        """
        with self._places:
            try:
                return self._tried(work)
            except self._engine.errors as error:
                self._refuse_hopeless(error)
            try:
                return self._tried(work)
            except self._engine.errors as error:
                self._refuse_hopeless(error)
                where = self._engine.where
                raise StorageUnavailableError(f"database {where!r} cannot be read: {error}") from error

    def _refuse_hopeless(self, error: Exception) -> None:
        """Raises the error itself if trying again is of no use, StorageUnavailableError for damaged pages."""
        if not self._engine.passes(error):
            raise error
        self._pages.refuse_damage(error)

    def _tried(self, work: Callable[[Connection], T]) -> T:
        generation = self._generation
        connection = self._taken()
        is_usable = True
        try:
            return work(connection)
        except self._engine.errors as error:
            # A server that was away does not come back on this connection.
            is_usable = self._engine.name == "sqlite" or not self._engine.passes(error)
            raise
        finally:
            if is_usable and not self._is_closed and generation == self._generation:
                self._idle.append(connection)
            else:
                connection.close()
                self._close_idle()

    def renew(self) -> None:
        """Use no connection that is open now: another file took the database's place."""
        self._generation += 1
        self._close_idle()

    def _taken(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._engine.connect()

    def close(self) -> None:
        """Begin no more reads, and wait for those that run."""
        self._is_closed = True
        self.threads.shutdown(wait=True, cancel_futures=True)
        self._close_idle()

    def _close_idle(self) -> None:
        """Where one is broken, the others are as old: the next try is made with a new one."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
