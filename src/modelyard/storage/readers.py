"""A pool of read connections and the threads that use them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from modelyard.storage.engine import Connection, Engine, Row, StorageUnavailableError
from modelyard.storage.page_damage import PageHealth

T = TypeVar("T")


class Readers:
    """A bounded pool of read connections, each opened when first needed."""

    def __init__(
        self,
        engine: Engine,
        max_connections: int,
        pages: PageHealth,
        *,
        first: Connection | None = None,
    ) -> None:
        self._engine = engine
        self._pages = pages
        self._generation = 0
        self._idle: list[Connection] = [first] if first else []
        # Threads of callers may read too, so the pool is limited by a semaphore and not
        # by the executor alone.
        self._slots = threading.Semaphore(max_connections)
        self._is_closed = False
        self.threads = ThreadPoolExecutor(
            max_connections, thread_name_prefix="modelyard-reader"
        )

    def execute(
        self, statement: str, values: Mapping[str, Any] | Sequence[Any]
    ) -> list[Row]:
        """Run a query and return its rows. Raises StorageUnavailableError if the
        database is unavailable."""
        return self.run(lambda connection: connection.execute(statement, values))

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which must only read, and return its result. A transient failure
        is retried once.

        Raises StorageUnavailableError if the database is unavailable.
        """
        with self._slots:
            try:
                return self._attempt(work)
            except self._engine.errors as error:
                self._refuse_hopeless(error)
            # The second attempt uses a fresh connection.
            try:
                return self._attempt(work)
            except self._engine.errors as error:
                self._refuse_hopeless(error)
                where = self._engine.where
                raise StorageUnavailableError(
                    f"Database {where!r} cannot be read: {error}"
                ) from error

    def _refuse_hopeless(self, error: Exception) -> None:
        """Raise the error itself if it is not transient, or StorageUnavailableError for
        damaged pages."""
        if not self._engine.is_transient(error):
            raise error
        self._pages.refuse_damage(error)

    def _attempt(self, work: Callable[[Connection], T]) -> T:
        """Run `work` once on a pooled connection and return its result.

        The connection goes back to the pool unless it is broken, the pool is closed, or
        the database was replaced meanwhile; then all idle connections are closed, too.
        Exceptions are passed on.
        """
        generation = self._generation
        connection = self._acquire()
        is_usable = True
        try:
            return work(connection)
        except self._engine.errors as error:
            # After a server outage the connection itself is unusable.
            is_usable = self._engine.name == "sqlite" or not self._engine.is_transient(
                error
            )
            raise
        finally:
            # A connection from before a renewal still reads the old database file.
            if is_usable and not self._is_closed and generation == self._generation:
                self._idle.append(connection)
            else:
                connection.close()
                self._close_idle()

    def renew(self) -> None:
        """Discard all current connections because the database file was replaced."""
        self._generation += 1
        self._close_idle()

    def _acquire(self) -> Connection:
        """Return an idle connection, or open one if there is none."""
        try:
            # Tried instead of checked first, since other threads take from the list,
            # too.
            return self._idle.pop()
        except IndexError:
            return self._engine.connect()

    def close(self) -> None:
        """Start no further reads, and wait for running ones."""
        self._is_closed = True
        self.threads.shutdown(wait=True, cancel_futures=True)
        self._close_idle()

    def _close_idle(self) -> None:
        """Close idle connections: if one is broken, the others of the same age probably
        are too."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
