"""The database: one thread that writes in groups, reads beside it. SQLite by default, PostgreSQL for several machines.

Why no toolkit stands between, and what the two engines share: docs/design/0002-storage.md.
"""

import asyncio
import hashlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, resources
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelyard.base.errors import ConfigError, ModelyardError

logger = logging.getLogger("modelyard.storage")

_GATHER_SECONDS = 0.02  # writes of so long share one commit: a commit costs more CPU than fifty rows
_RETRY_SECONDS = 0.5
_SAY_SECONDS = 5.0
_MAX_WAITING = 100_000
_ROWS_AT_ONCE = (50, 10)
"""So many rows a statement, while there are as many."""
_READERS = 4
_LONG_READERS = 2
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_ROW = re.compile(r"(?s)(.*\bVALUES\s*)(\([^()]*\))(.*)")

Row = Mapping[str, Any]
T = TypeVar("T")


class StorageUnavailableError(ModelyardError):
    """The database cannot be used at the moment: its disk is full, its server is down. Nothing was done."""

    code = "storage_unavailable"


class DuplicateError(Exception):
    """A row is there already: its key, or what a unique index says of it, is taken. Whoever wrote the statement knows
    what that means to a caller."""


class Connection(Protocol):
    """One connection, in the words that the engines share: statements with `?` or `:name`, rows by name.

    Raises DuplicateError where a row is there already, and the engine's own errors for all else.
    """

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]: ...

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """What differs between databases."""

    name: str
    where: str
    """For messages; without a password."""
    is_shared: bool
    """Whether several processes write to it side by side: a server, which may be away while this machine is well."""
    errors: tuple[type[Exception], ...]

    def connect(self) -> Connection:
        """Raises StorageUnavailableError where the server is down, ConfigError for what is no database."""
        ...

    def begin(self) -> str:
        """The statement that opens a transaction which will write."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Within a transaction: nobody else brings the schema up to date meanwhile."""
        ...

    def version(self, connection: Connection) -> int: ...

    def set_version(self, connection: Connection, version: int) -> None: ...

    def adapted(self, statement: str) -> str:
        """A migration's statement, written for SQLite, in this engine's words."""
        ...

    def passes(self, error: Exception) -> bool:
        """Whether the same may work later: a full disk, a lock, a server that is away."""
        ...

    def back_up(self, version: int) -> None:
        """Before its schema is changed; what cannot be done is said in the log."""
        ...

    def ways_back(self) -> str:
        """What whoever runs it may do about a database that is damaged, or newer than the code."""
        ...

    def is_ready(self, connection: Connection) -> bool:
        """Whether it takes writes: a server that still recovers does not."""
        ...

    def check(self, connection: Connection, is_over: Callable[[], bool]) -> str | None:
        """What is wrong with its pages; None where nothing is known to be."""
        ...

    def is_damaged(self, error: Exception) -> bool:
        """Whether an error says that pages cannot be read."""
        ...


def open_engine(where: Path | str) -> Engine:
    """For a file, `:memory:`, or `postgresql://…`. Raises ConfigError for anything else."""
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        return import_module("modelyard.storage.postgresql").PostgresqlEngine(text)
    if "://" in text:
        scheme = text.partition("://")[0]
        raise ConfigError(f"database {scheme}://… is not known; it is a path, or postgresql://USER:PASSWORD@HOST/NAME")
    return import_module("modelyard.storage.sqlite").SqliteEngine(text)


def statements(name: str) -> dict[str, str]:
    """The named statements of `sql/<name>.sql`."""
    text = (resources.files("modelyard.storage") / "sql" / f"{name}.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {key: _bare(body) for key, body in zip(parts[::2], parts[1::2], strict=True)}


def _bare(body: str) -> str:
    """Without its description."""
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")


def await_database(where: Path | str, seconds: float) -> None:
    """Until a database server takes connections and writes, for so long at most: it may be starting up, or recovering.

    Raises StorageUnavailableError, ConfigError.
    """
    engine = open_engine(where)
    until, said_at = time.monotonic() + seconds, 0.0
    while (problem := _not_ready(engine)) is not None:
        if time.monotonic() > until:
            raise StorageUnavailableError(f"{problem}; it was waited for {seconds:g} seconds")
        if time.monotonic() - said_at > _SAY_SECONDS:
            said_at = time.monotonic()
            logger.warning("waiting for the database", extra={"fields": {"error": problem}})
        time.sleep(_RETRY_SECONDS)


def _not_ready(engine: Engine) -> str | None:
    try:
        connection = engine.connect()
        try:
            return None if engine.is_ready(connection) else f"database {engine.where!r} is still recovering"
        finally:
            connection.close()
    except StorageUnavailableError as error:
        return str(error)
    except engine.errors as error:
        if not engine.passes(error):
            raise ConfigError(f"database {engine.where!r} cannot be used: {error}") from error
        return str(error)


def migrations() -> list[tuple[int, str]]:
    """Number and text of each migration, in order."""
    folder = resources.files("modelyard.storage") / "migrations"
    files = sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), text) for name, text in files]


@lru_cache(64)
def _for_many(statement: str, count: int) -> str | None:
    """The statement for so many rows.

    SQLite's driver lets go of the interpreter's lock at every statement: row by row, the two threads would spend more
    on passing it to and fro than on the rows.
    """
    match = _ROW.fullmatch(statement)
    return f"{match[1]}{','.join([match[2]] * count)}{match[3]}" if match else None


def _is_on_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


Work = Callable[[Connection], Any]
_Write = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """Work of more than one statement, done as a whole or not at all."""

    work: Work
    done: "Future[Any]"
    is_kept: bool
    may_gather: bool


class _Readers:
    """Connections for reading: so many at most, each opened when it is needed."""

    def __init__(
        self, engine: Engine, most: int, on_damage: Callable[[str], None], *, first: Connection | None = None
    ) -> None:
        self._engine = engine
        self._on_damage = on_damage
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
                self._refuse_damage(error)
            try:
                return self._tried(work)
            except self._engine.errors as error:
                self._refuse_damage(error)
                where = self._engine.where
                raise StorageUnavailableError(f"database {where!r} cannot be read: {error}") from error

    def _refuse_damage(self, error: Exception) -> None:
        """Raises the error itself if trying again is of no use, StorageUnavailableError for damaged pages."""
        if not self._engine.passes(error):
            raise error
        if self._engine.is_damaged(error):
            self._on_damage(str(error))
            raise StorageUnavailableError(f"database {self._engine.where!r} is damaged") from error

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
        self._is_closed = True
        self.threads.shutdown(wait=True, cancel_futures=True)
        self._close_idle()

    def _close_idle(self) -> None:
        """Where one is broken, the others are as old: the next try is made with a new one."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


class Database:
    """Writes go through one thread, in order, several to a transaction; reads use connections of their own.

    Reads that may take long have theirs apart, so that nobody's short one waits behind them.

    `where` is a path, `postgresql://…`, or `:memory:`, which lives as long as the object.
    """

    def __init__(self, where: Path | str, *, engine: Engine | None = None, may_upgrade: bool = True) -> None:
        self._engine = engine or open_engine(where)
        # A deque and one event a batch: a queue.Queue would lock and wake for every row.
        self._waiting: deque[_Write | _Item | Future[None] | None] = deque()
        self._has_work = threading.Event()
        self._is_urgent = threading.Event()
        self.damage: str | None = None
        """What is wrong with its pages, where that is known: nothing is written until a check finds them whole."""
        first = self._engine.connect()
        self._bring_up_to_date(first, may_upgrade=may_upgrade)
        self._readers = _Readers(self._engine, _READERS, self._note_damage, first=first)
        self._long_readers = _Readers(self._engine, _LONG_READERS, self._note_damage)
        self._error: Exception | None = None
        self.trouble: str | None = None
        """Why nothing can be written at the moment, where that is so; what waits is kept and tried again."""
        self._is_renewing = False
        self._is_closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="modelyard-database", daemon=True)
        self._writer.start()

    def _bring_up_to_date(self, connection: Connection, *, may_upgrade: bool) -> None:
        """Raises ConfigError for a damaged database, and as `_migrate` does."""
        try:
            _migrate(self._engine, connection, may_upgrade=may_upgrade)
        except self._engine.errors as error:
            connection.close()
            if self._engine.is_damaged(error):
                raise ConfigError(self._damaged(str(error))) from error
            if self._engine.passes(error):
                raise StorageUnavailableError(f"database {self.where!r} cannot be used: {error}") from error
            raise
        except (ConfigError, DuplicateError):
            connection.close()
            raise

    def _damaged(self, problem: str) -> str:
        return f"database {self.where!r} is damaged ({problem}); stop what uses it and {self._engine.ways_back()}"

    def check(self) -> str | None:
        """Look whether its pages are whole, on a connection of its own; what is wrong, which `damage` then says too.

        Takes as long as it takes to read all of a SQLite database; `close` ends it.
        """
        try:
            with self.connection() as connection:
                problem = self._engine.check(connection, self._is_closing.is_set)
        except self._engine.errors as error:
            if not self._engine.is_damaged(error):
                raise StorageUnavailableError(f"database {self.where!r} cannot be checked: {error}") from error
            problem = str(error)
        except StorageUnavailableError:
            if self.damage is None:  # it is away, and nothing is known of its pages
                raise
            problem = self.damage
        if problem is None and self.damage is not None and not self._is_closing.is_set():
            logger.warning("the database's pages are whole again", extra={"fields": {"database": self.where}})
            self._renew()
            self.damage = None
        elif problem is not None:
            self._note_damage(problem)
        return problem

    def _renew(self) -> None:
        """Connections that were opened before another file took the database's place are of no use."""
        self._readers.renew()
        self._long_readers.renew()
        self._is_renewing = True

    def _note_damage(self, problem: str) -> None:
        if self.damage is None:
            fields = {"database": self.where, "problem": problem, "do": self._engine.ways_back()}
            logger.critical("the database is damaged: nothing is written to it", extra={"fields": fields})
        self.damage = problem

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
    def backlog(self) -> int:
        """Writes that wait for their commit."""
        return len(self._waiting)

    # what callers use

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """Have a row written soon by a statement with one `VALUES (?, …)`. Never blocks.

        It may be written twice where a server dies in the middle: let the statement say `ON CONFLICT`.
        Raises ConfigError where the statement before was wrong, StorageUnavailableError where too much waits.
        """
        if self._error is not None:
            raise ConfigError(f"database {self.where!r} cannot be written: {self._error}")
        if len(self._waiting) >= _MAX_WAITING:
            raise StorageUnavailableError(f"database {self.where!r} is too slow: {_MAX_WAITING:,} writes are waiting")
        self._put((statement, values))

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
        done: Future[T] = Future()
        if not self._writer.is_alive():
            done.set_exception(StorageUnavailableError(f"database {self.where!r} is closed"))
            return done
        self._waiting.append(_Item(work, done, is_kept, may_gather))
        if not may_gather:
            self._is_urgent.set()
        if not self._has_work.is_set():
            self._has_work.set()
        return done

    def flush(self) -> "Future[None]":
        """Done when all that was written before is committed."""
        done: Future[None] = Future()
        if self._writer.is_alive():
            self._put(done)
            self._is_urgent.set()
        else:
            done.set_result(None)
        return done

    def read(
        self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), *, is_long: bool = False
    ) -> list[Row]:
        """As `fetch`, for programs and tests without an event loop: it blocks, and so refuses where one runs.

        Raises RuntimeError on a running loop, StorageUnavailableError where the database cannot be asked.
        """
        if _is_on_loop():
            raise RuntimeError("a read would hold up the event loop; await `fetch` instead")
        return (self._long_readers if is_long else self._readers).execute(statement, values)

    async def fetch(
        self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), *, is_long: bool = False
    ) -> list[Row]:
        """The statement's rows, read in a thread of the readers'.

        `is_long`: more rows may be looked at than a caller would wait for, which is done beside the short reads.
        Raises StorageUnavailableError where the database cannot be asked.
        """
        readers = self._long_readers if is_long else self._readers
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(readers.threads, readers.execute, statement, values)

    async def at_once(self, work: Callable[[Connection], T], *, is_long: bool = False) -> T:
        """What `work` makes of several reads on one connection, for one trip to a thread. It may be done twice.

        Raises StorageUnavailableError where the database cannot be asked. `is_long` is that of `fetch`.
        """
        readers = self._long_readers if is_long else self._readers
        return await asyncio.get_running_loop().run_in_executor(readers.threads, readers.run, work)

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """One of its own, for reading much: others do not wait for it."""
        connection = self._engine.connect()
        try:
            yield connection
        except self._engine.errors as error:
            if not self._engine.is_damaged(error):
                raise
            self._note_damage(str(error))
            raise StorageUnavailableError(f"database {self.where!r} is damaged") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Commit what is waiting and let go."""
        self._is_closing.set()
        if self._writer.is_alive():
            self._put(None)
            self._is_urgent.set()
            self._writer.join()
        self._readers.close()
        self._long_readers.close()

    def _put(self, item: "_Write | Future[None] | None") -> None:
        self._waiting.append(item)
        if not self._has_work.is_set():
            self._has_work.set()

    # the writing thread

    def _write(self) -> None:
        connection: Connection | None = None
        is_open = True
        while is_open:
            self._has_work.wait()
            self._is_urgent.wait(_GATHER_SECONDS)
            self._is_urgent.clear()
            self._has_work.clear()
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            is_open = None not in batch
            items = [one for one in batch if isinstance(one, tuple | _Item)]
            try:
                if self.damage is not None and items:
                    raise StorageUnavailableError(self.damage)
                if self._is_renewing and connection is not None:
                    connection.close()
                    connection = None
                self._is_renewing = False
                connection = connection or self._engine.connect()
                self._commit(connection, items)
                self.trouble = None
            except (*self._engine.errors, DuplicateError, StorageUnavailableError, ConfigError) as error:
                if self._engine.is_damaged(error):
                    self._note_damage(str(error))
                connection = self._rolled_back(connection)
                self._failed(items, error, may_wait=is_open and not self._is_closing.is_set())
            for one in batch:
                if isinstance(one, Future):  # whoever waited for it may have gone away
                    _settle(one, None, None)
        if connection is not None:
            connection.close()

    def _commit(self, connection: Connection, items: Sequence[_Write | _Item]) -> None:
        if not items:
            return
        connection.execute(self._engine.begin())
        outcomes: list[tuple[_Item, Any]] = []
        for statement, same in groupby(items, key=lambda one: one[0] if isinstance(one, tuple) else None):
            if statement is None:
                outcomes += [(item, self._worked(connection, item)) for item in same if isinstance(item, _Item)]
            else:
                self.insert(connection, statement, [one[1] for one in same if isinstance(one, tuple)])
        connection.execute("COMMIT")
        for item, (result, error) in outcomes:
            _settle(item.done, result, error)

    @staticmethod
    def insert(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        for count in _ROWS_AT_ONCE:
            many = _for_many(statement, count)
            while many and len(rows) >= count:
                some, rows = rows[:count], rows[count:]
                connection.execute(many, list(chain.from_iterable(some)))
        if rows:
            connection.execute_many(statement, rows)

    @staticmethod
    def insert_new(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """As `insert`, by a statement that ends with RETURNING: what it returns of the rows that were not there."""
        found: list[Row] = []
        for count in (*_ROWS_AT_ONCE, 1):
            many = _for_many(statement, count)
            if many is None:
                raise ValueError(f"no statement with VALUES (…): {statement[:80]!r}")
            while len(rows) >= count:
                some, rows = rows[:count], rows[count:]
                found += connection.execute(many, list(chain.from_iterable(some)))
        return found

    def _worked(self, connection: Connection, item: _Item) -> tuple[Any, Exception | None]:
        """What came of it; one that fails for reasons of its own leaves the others alone."""
        connection.execute("SAVEPOINT work")
        try:
            result = item.work(connection)
        except self._engine.errors as error:
            if self._engine.passes(error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        except Exception as error:  # noqa: BLE001  the work's own, handed to whoever asked for it
            connection.execute("ROLLBACK TO SAVEPOINT work")
            return None, error
        connection.execute("RELEASE SAVEPOINT work")
        return result, None

    def _rolled_back(self, connection: Connection | None) -> Connection | None:
        if connection is None:
            return None
        with suppress(*self._engine.errors):  # nothing was begun, or the connection is gone
            connection.execute("ROLLBACK")
        if self._engine.name == "sqlite":
            return connection
        connection.close()
        return None

    def _failed(self, items: Sequence[_Write | _Item], error: Exception, *, may_wait: bool) -> None:
        passes = isinstance(error, StorageUnavailableError | ConfigError) or self._engine.passes(error)
        kept = [one for one in items if isinstance(one, tuple) or one.is_kept]
        fields = {"writes": len(items), "error": str(error), "kept": len(kept) if passes and may_wait else 0}
        if self.trouble != str(error):  # once, not at every try
            logger.error("the database cannot be written", extra={"fields": fields})
        refusal = StorageUnavailableError(f"database {self.where!r} cannot be written: {error}")
        keeps = passes and may_wait
        for one in items:
            if isinstance(one, _Item) and not (keeps and one.is_kept):
                _settle(one.done, None, refusal)
        if not passes:
            self._error = error
        elif keeps and kept:
            self.trouble = str(error)
            self._waiting.extendleft(reversed(kept))
            self._is_closing.wait(_RETRY_SECONDS)
            self._has_work.set()


def _settle(done: "Future[Any]", result: Any, error: Exception | None) -> None:
    if not done.set_running_or_notify_cancel():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


_RECORD = """CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, applied_at REAL NOT NULL
) STRICT"""


def _migrate(engine: Engine, connection: Connection, *, may_upgrade: bool = True) -> None:
    """Bring the schema up to date. Several processes may start at once: one does it, the others wait.

    Raises ConfigError for a database that is newer than the code, or that was made by other migrations than these.
    """
    known = migrations()
    connection.execute(engine.begin())
    try:
        engine.lock_schema(connection)
        version = engine.version(connection)
        if version > known[-1][0]:
            raise ConfigError(
                f"database {engine.where!r} was written by a newer Modelyard (schema {version}, this one knows "
                f"{known[-1][0]}). Run that version again, name another MODELYARD_HOME, or {engine.ways_back()}; "
                "docs/how-to/upgrade.md says more"
            )
        applied = _applied(engine, connection, known, version)
        pending = [(number, text) for number, text in known if number not in applied]
        if pending and version:
            if not may_upgrade:
                raise ConfigError(
                    f"database {engine.where!r} has schema {version} and needs {known[-1][0]}, and upgrade_database is "
                    "false: back it up, and start once with MODELYARD_UPGRADE_DATABASE=true"
                )
            engine.back_up(version)
        for number, text in pending:
            for statement in _split(text):
                connection.execute(engine.adapted(statement))
            _record(connection, number, text)
            engine.set_version(connection, max(number, version))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def checksum(text: str) -> str:
    """Of a migration's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _applied(engine: Engine, connection: Connection, known: Sequence[tuple[int, str]], version: int) -> set[int]:
    """The numbers of the migrations that made this schema. Raises ConfigError where one of them was another than what
    is here under its number."""
    connection.execute(engine.adapted(_RECORD))
    recorded = {
        int(row["number"]): row["sha256"] for row in connection.execute("SELECT number, sha256 FROM migrations")
    }
    if not recorded:  # from before there was this table
        for number, text in known:
            if number <= version:
                _record(connection, number, text)
                recorded[number] = checksum(text)
    for number, text in known:
        if recorded.get(number, checksum(text)) != checksum(text):
            raise ConfigError(
                f"database {engine.where!r} was made by another migration {number:04d} than this Modelyard brings "
                f"(sha256 {recorded[number][:12]}…, not {checksum(text)[:12]}…). A migration is never changed "
                "once it was released: install an unchanged release"
            )
    return set(recorded)


def _record(connection: Connection, number: int, text: str) -> None:
    statement = "INSERT INTO migrations (number, sha256, applied_at) VALUES (?, ?, ?)"
    connection.execute(statement, (number, checksum(text), time.time()))


def _split(text: str) -> Iterator[str]:
    for statement in text.split(";\n"):
        bare = "\n".join(line.partition("--")[0].rstrip() for line in statement.splitlines()).strip()
        if bare:
            yield bare
