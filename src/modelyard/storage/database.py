"""The database: one thread that writes in groups, reads beside it. SQLite by default, PostgreSQL for several machines.

Why no toolkit stands between, and what the two engines share: docs/design/0002-storage.md.
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
from modelyard.storage.pages import Pages
from modelyard.storage.readers import Readers
from modelyard.storage.schema import bring_up_to_date, checksum, migrations
from modelyard.storage.statements import statements
from modelyard.storage.writer import Writer

# What users of the database need beside it, so that they need not know where it lies.
__all__ = [
    "Connection", "Database", "DuplicateError", "Engine", "Row", "StorageUnavailableError", "await_database",
    "checksum", "migrations", "open_engine", "statements",
]  # fmt: skip

_READERS = 4
_LONG_READERS = 2

T = TypeVar("T")


def _is_on_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Database:
    """Writes go through one thread, in order, several to a transaction; reads use connections of their own.

    Reads that may take long have theirs apart, so that nobody's short one waits behind them.

    `where` is a path, `postgresql://…`, or `:memory:`, which lives as long as the object.
    """

    def __init__(self, where: Path | str, *, engine: Engine | None = None, may_upgrade: bool = True) -> None:
        self._engine = engine or open_engine(where)
        self._pages = Pages(self._engine)
        first = self._engine.connect()
        bring_up_to_date(self._engine, first, may_upgrade=may_upgrade)
        self._readers = Readers(self._engine, _READERS, self._pages, first=first)
        self._long_readers = Readers(self._engine, _LONG_READERS, self._pages)
        self._writer = Writer(self._engine, self._pages)

    # what it is, and how it is

    @property
    def where(self) -> str:
        return self._engine.where

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def is_shared(self) -> bool:
        """Whether several processes write to it side by side: a server, which may be away while this machine is well.

        Whoever counts there counts in parts, so that not all wait for one row.
        """
        return self._engine.is_shared

    def statements(self, name: str) -> dict[str, str]:
        """The named statements of `sql/<name>.sql`. Of two that differ between databases, as `hour_sqlite` and
        `hour_postgresql`, this database's is `hour`."""
        known = statements(name)
        ending = f"_{self._engine.name}"
        own = {key.removesuffix(ending): text for key, text in known.items() if key.endswith(ending)}
        return known | own

    def opened(self) -> Engine:
        """The engine, for those who keep connections of their own."""
        return self._engine

    @property
    def damage(self) -> str | None:
        """What is wrong with its pages, where that is known: nothing is written until a check finds them whole."""
        return self._pages.damage

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written at the moment, where that is so; what waits is kept and tried again."""
        return self._writer.trouble

    @property
    def backlog(self) -> int:
        """Writes that wait for their commit."""
        return self._writer.backlog

    def check(self) -> str | None:
        """Look whether its pages are whole, on a connection of its own; what is wrong, which `damage` then says too.

        Takes as long as it takes to read all of a SQLite database; `close` ends it.
        """
        try:
            with self.connection() as connection:
                problem = self._engine.check(connection, self._writer.is_closing.is_set)
        except self._engine.errors as error:
            if not self._engine.is_damaged(error):
                raise StorageUnavailableError(f"database {self.where!r} cannot be checked: {error}") from error
            problem = str(error)
        except StorageUnavailableError:
            if self.damage is None:  # it is away, and nothing is known of its pages
                raise
            problem = self.damage
        if problem is None and self.damage is not None and not self._writer.is_closing.is_set():
            self._renew()
            self._pages.note_whole()
        elif problem is not None:
            self._pages.note_damage(problem)
        return problem

    # what callers use

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """Have a row written soon by a statement with one `VALUES (?, …)`. Never blocks.

        It may be written twice where a server dies in the middle: let the statement say `ON CONFLICT`.
        Raises ConfigError where the statement before was wrong, StorageUnavailableError where too much waits.
        """
        self._writer.write(statement, values)

    async def transact(self, work: Callable[[Connection], T], *, is_kept: bool = False, may_gather: bool = False) -> T:
        """Do `work` in a transaction; its result, once that is committed. See `submit`."""
        return await asyncio.wrap_future(self.submit(work, is_kept=is_kept, may_gather=may_gather))

    def submit(
        self, work: Callable[[Connection], T], *, is_kept: bool = False, may_gather: bool = False
    ) -> "Future[T]":
        """Have `work` done in a transaction soon; its result, once that is committed. Never blocks.

        With `is_kept` it is tried again until the database takes it, else StorageUnavailableError is the outcome; with
        `may_gather` it need not be at once.
        """
        return self._writer.submit(work, is_kept=is_kept, may_gather=may_gather)

    def flush(self) -> "Future[None]":
        """Done when all that was written before is committed."""
        return self._writer.flush()

    def read(
        self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), *, is_long: bool = False
    ) -> list[Row]:
        """As `fetch`, for programs and tests without an event loop: it blocks, and so refuses where one runs.

        Raises RuntimeError on a running loop, StorageUnavailableError where the database cannot be asked.
        """
        if _is_on_loop():
            raise RuntimeError("a read would hold up the event loop; await `fetch` instead")
        return self._readers_for(is_long=is_long).execute(statement, values)

    async def fetch(
        self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), *, is_long: bool = False
    ) -> list[Row]:
        """The statement's rows, read in a thread of the readers'.

        `is_long`: more rows may be looked at than a caller would wait for, which is done beside the short reads.
        Raises StorageUnavailableError where the database cannot be asked.
        """
        readers = self._readers_for(is_long=is_long)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(readers.threads, readers.execute, statement, values)

    async def at_once(self, work: Callable[[Connection], T], *, is_long: bool = False) -> T:
        """What `work` makes of several reads on one connection, for one trip to a thread. It may be done twice.

        Raises StorageUnavailableError where the database cannot be asked. `is_long` is that of `fetch`.
        """
        readers = self._readers_for(is_long=is_long)
        return await asyncio.get_running_loop().run_in_executor(readers.threads, readers.run, work)

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """One of its own, for reading much: others do not wait for it."""
        connection = self._engine.connect()
        try:
            yield connection
        except self._engine.errors as error:
            self._pages.refuse_damage(error)
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Commit what is waiting and let go."""
        self._writer.close()
        self._readers.close()
        self._long_readers.close()

    def _readers_for(self, *, is_long: bool) -> Readers:
        return self._long_readers if is_long else self._readers

    def _renew(self) -> None:
        """Connections that were opened before another file took the database's place are of no use."""
        self._readers.renew()
        self._long_readers.renew()
        self._writer.renew()
