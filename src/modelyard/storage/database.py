"""The database: one thread that writes in batches, and separate connections for reads.
SQLite by default, PostgreSQL for several machines.

Why there is no ORM or toolkit, and what the two engines share:
docs/design/0002-storage.md.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from modelyard.storage.engine import (
    Connection,
    DuplicateError,
    Engine,
    Row,
    StorageUnavailableError,
)
from modelyard.storage.engines import await_database, open_engine
from modelyard.storage.page_damage import PageHealth
from modelyard.storage.readers import Readers
from modelyard.storage.schema import bring_up_to_date, checksum, migrations
from modelyard.storage.signals import Signals
from modelyard.storage.statements import statements
from modelyard.storage.writer import Writer

# Re-exported, so that users of the database need not know the modules behind it.
__all__ = [
    "Connection",
    "Database",
    "DuplicateError",
    "Engine",
    "Row",
    "StorageUnavailableError",
    "await_database",
    "checksum",
    "migrations",
    "open_engine",
    "statements",
]

# Long reads have a pool of their own, so that they cannot occupy all connections.
_READERS = 4
_LONG_READERS = 2

T = TypeVar("T")


def _is_on_loop() -> bool:
    """Return whether an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Database:
    """A database. Writes go through one thread, in order, several per transaction;
    reads use their own connections.

    Long reads use a separate pool, so that short ones never wait behind them. `where`
    is a path, `postgresql://…`, or `:memory:`, which lasts as long as the object.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        engine: Engine | None = None,
        may_upgrade: bool = True,
    ) -> None:
        self._engine = engine or open_engine(where)
        self._pages = PageHealth(self._engine)
        self.signals = Signals(self._engine)
        """Signals from and to the other processes that use the database."""
        # The first connection performs the migration before any other one can see the
        # schema.
        first = self._engine.connect()
        bring_up_to_date(self._engine, first, may_upgrade=may_upgrade)
        self._readers = Readers(self._engine, _READERS, self._pages, first=first)
        self._long_readers = Readers(self._engine, _LONG_READERS, self._pages)
        self._writer = Writer(self._engine, self._pages)

    # Description and state.

    @property
    def where(self) -> str:
        """Return the database's location for messages, without a password."""
        return self._engine.where

    @property
    def engine(self) -> str:
        """Return the engine's name: `sqlite` or `postgresql`."""
        return self._engine.name

    @property
    def is_shared(self) -> bool:
        """Return whether several processes write to it concurrently: a server, which
        can be unreachable while this machine works.

        Counters on a shared database are split over several rows, so that writers do
        not all wait for one row.
        """
        return self._engine.is_shared

    def statements(self, name: str) -> dict[str, str]:
        """Return the named statements of `sql/<name>.sql`.

        If a statement has engine-specific variants, such as `hour_sqlite` and
        `hour_postgresql`, this engine's variant is returned as `hour`.
        """
        all_statements = dict(statements(name))
        ending = f"_{self._engine.name}"
        for key, text in list(all_statements.items()):
            if key.endswith(ending):
                all_statements[key.removesuffix(ending)] = text
        return all_statements

    def engine_object(self) -> Engine:
        """Return the engine, for components that manage their own connections."""
        return self._engine

    @property
    def damage(self) -> str | None:
        """Return the known page damage, or None. While there is damage, nothing is
        written until a check passes."""
        return self._pages.damage

    @property
    def trouble(self) -> str | None:
        """Return why writes currently fail, or None. Waiting writes are retained and
        retried."""
        return self._writer.trouble

    @property
    def backlog(self) -> int:
        """Return the number of writes that are waiting for their commit."""
        return self._writer.backlog

    def check(self) -> str | None:
        """Check all pages on a separate connection. Returns the damage, which `damage`
        then reports too, or None.

        Takes as long as reading the entire SQLite database; `close` aborts it. Raises
        StorageUnavailableError if it cannot run.
        """
        try:
            with self.connection() as connection:
                problem = self._engine.check(connection, self._writer.is_closing.is_set)
        except self._engine.errors as error:
            if not self._engine.is_damaged(error):
                raise StorageUnavailableError(
                    f"Database {self.where!r} cannot be checked: {error}"
                ) from error
            problem = str(error)
        except StorageUnavailableError:
            # The database is unavailable, so nothing is known about its pages.
            if self.damage is None:
                raise
            problem = self.damage
        # A check aborted by `close` also returns None, which does not prove that the
        # pages are intact.
        if (
            problem is None
            and self.damage is not None
            and not self._writer.is_closing.is_set()
        ):
            self._reopen_connections()
            self._pages.note_whole()
        elif problem is not None:
            self._pages.note_damage(problem)
        return problem

    # Operations for callers.

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """Queue a row for writing with a statement that has one `VALUES (?, …)`. Never
        blocks.

        After a server crash it may be written twice, so the statement should have `ON
        CONFLICT`. Raises ConfigError if an earlier statement was invalid,
        StorageUnavailableError if too many writes are waiting.
        """
        self._writer.write(statement, values)

    async def transact(
        self,
        work: Callable[[Connection], T],
        *,
        is_retried: bool = False,
        may_gather: bool = False,
    ) -> T:
        """Run `work` in a transaction and return its result after the commit. See
        `submit`."""
        return await asyncio.wrap_future(
            self.submit(work, is_retried=is_retried, may_gather=may_gather)
        )

    def submit(
        self,
        work: Callable[[Connection], T],
        *,
        is_retried: bool = False,
        may_gather: bool = False,
    ) -> "Future[T]":
        """Queue `work` for a transaction; the future has its result after the commit.
        Never blocks.

        With `is_retried` it is retried until the database accepts it or closes; without
        it, the future fails with StorageUnavailableError. With `may_gather` it may wait
        to share a transaction with later writes.
        """
        return self._writer.submit(work, is_retried=is_retried, may_gather=may_gather)

    def flush(self) -> "Future[None]":
        """Return a future that is done when all earlier writes are committed."""
        return self._writer.flush()

    def read(
        self,
        statement: str,
        values: Mapping[str, Any] | Sequence[Any] = (),
        *,
        is_long: bool = False,
    ) -> list[Row]:
        """Run a query and block until its rows are read. For programs and tests without
        an event loop.

        Raises RuntimeError on a running event loop, StorageUnavailableError if the
        database is unavailable.
        """
        if _is_on_loop():
            raise RuntimeError(
                "A read would block the event loop; await `fetch` instead"
            )
        return self._readers_for(is_long=is_long).execute(statement, values)

    async def fetch(
        self,
        statement: str,
        values: Mapping[str, Any] | Sequence[Any] = (),
        *,
        is_long: bool = False,
    ) -> list[Row]:
        """Run a query in a reader thread and return its rows.

        `is_long` selects the pool for queries that may scan many rows. Raises
        StorageUnavailableError if the database is unavailable.
        """
        readers = self._readers_for(is_long=is_long)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            readers.threads, readers.execute, statement, values
        )

    async def read_together(
        self, work: Callable[[Connection], T], *, is_long: bool = False
    ) -> T:
        """Run `work`, which makes several reads, on one connection in one thread hop,
        and return its result.

        It may run twice. `is_long` is as in `fetch`. Raises StorageUnavailableError if
        the database is unavailable.
        """
        readers = self._readers_for(is_long=is_long)
        return await asyncio.get_running_loop().run_in_executor(
            readers.threads, readers.run, work
        )

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """Open a separate connection for large reads, so that no other read waits for
        it."""
        connection = self._engine.connect()
        try:
            yield connection
        except self._engine.errors as error:
            self._pages.refuse_damage(error)
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Commit waiting writes and close all connections."""
        self._writer.close()
        self._readers.close()
        self._long_readers.close()

    def _readers_for(self, *, is_long: bool) -> Readers:
        """Return the connections for a read. Long ones have their own."""
        return self._long_readers if is_long else self._readers

    def _reopen_connections(self) -> None:
        """Discard connections opened before the database file was replaced: they still
        read the old file."""
        self._readers.renew()
        self._long_readers.renew()
        self._writer.renew()
