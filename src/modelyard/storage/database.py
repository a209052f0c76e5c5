"""The embedded database: SQLite in WAL mode, one writer thread that commits in groups.

Why the standard library's driver and no toolkit: docs/design/0002-storage.md.
"""

import logging
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from importlib import resources
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from modelyard.base.errors import ConfigError

logger = logging.getLogger("modelyard.storage")

_GATHER_SECONDS = 0.02  # writes of so long share one commit: a commit costs more CPU than fifty rows
_RETRY_SECONDS = 0.5
_MAX_WAITING = 100_000
_ROWS_AT_ONCE = 50
# A full disk, a lock, an unreadable moment: what could not be written is kept and tried again.
_PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
})  # fmt: skip
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def statements(name: str) -> dict[str, str]:
    """The named statements of `sql/<name>.sql`."""
    text = (resources.files("modelyard.storage") / "sql" / f"{name}.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {key: body.strip() for key, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[tuple[int, str]]:
    """Number and text of each migration, in order."""
    folder = resources.files("modelyard.storage") / "migrations"
    files = sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), text) for name, text in files]


_Write = tuple[str, Sequence[Any]]


@lru_cache(64)
def _for_many(statement: str) -> str:
    """The statement for `_ROWS_AT_ONCE` rows.

    The driver lets go of the interpreter's lock at every statement: row by row, the two threads would spend more on
    passing it to and fro than on the rows.
    """
    head, word, row = statement.rstrip("; \n").rpartition("VALUES")
    return f"{head}{word}{','.join([row] * _ROWS_AT_ONCE)}"


class Database:
    """Writes go through one thread, in order; reads use a connection of their own.

    `path` may be `:memory:`, which lives as long as the object.
    """

    def __init__(self, path: Path | str, *, busy_seconds: float = 10.0) -> None:
        self._path = str(path)
        self._busy_seconds = busy_seconds
        self._uri = f"file:modelyard-{id(self)}?mode=memory&cache=shared" if self._path == ":memory:" else ""
        # A deque and one event a batch: a queue.Queue would lock and wake for every row.
        self._waiting: deque[_Write | Future[None] | None] = deque()
        self._has_work = threading.Event()
        self._reader = self._connect()
        self._reading = threading.Lock()
        self._migrate()
        self._error: Exception | None = None
        self._writer = threading.Thread(target=self._write, name="modelyard-database", daemon=True)
        self._writer.start()

    def _connect(self) -> sqlite3.Connection:
        try:
            if not self._uri:
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._uri or self._path,
                uri=bool(self._uri),
                timeout=self._busy_seconds,
                check_same_thread=False,
                isolation_level=None,
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"database {self._path!r} cannot be opened: {error}") from error
        return connection

    def _migrate(self) -> None:
        """Bring the schema up to date. Several processes may start at once: one does it, the others wait."""
        known = migrations()
        self._reader.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._reader.execute("PRAGMA user_version").fetchone()
            if version > known[-1][0]:
                raise ConfigError(
                    f"database {self._path!r} was written by a newer Modelyard (schema {version}, "
                    f"this one knows {known[-1][0]}); upgrade, or name another MODELYARD_HOME"
                )
            for number, text in known:
                if number > version:
                    for statement in text.split(";\n"):
                        self._reader.execute(statement)
                    self._reader.execute(f"PRAGMA user_version={number:d}")
        except BaseException:
            self._reader.execute("ROLLBACK")
            raise
        self._reader.execute("COMMIT")

    def write(self, statement: str, values: Sequence[Any]) -> None:
        """Have a row written soon by a statement that ends in `VALUES (?, …)`. Never blocks.

        Raises ConfigError where the statement before was wrong, or where the disk has been full for very long.
        """
        if self._error is not None:
            raise ConfigError(f"database {self._path!r} cannot be written: {self._error}")
        if len(self._waiting) >= _MAX_WAITING:
            raise ConfigError(f"database {self._path!r} is too slow: {_MAX_WAITING:,} writes are waiting")
        self._put((statement, values))

    def _put(self, item: "_Write | Future[None] | None") -> None:
        self._waiting.append(item)
        if not self._has_work.is_set():
            self._has_work.set()

    def flush(self) -> "Future[None]":
        """Done when all that was written before is committed."""
        done: Future[None] = Future()
        if self._writer.is_alive():
            self._put(done)
        else:
            done.set_result(None)
        return done

    def read(self, statement: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        with self._reading:
            return self._reader.execute(statement, values).fetchall()

    def close(self) -> None:
        """Commit what is waiting and let go."""
        if self._writer.is_alive():
            self._put(None)
            self._writer.join()
        with self._reading:
            self._reader.close()

    def _write(self) -> None:
        connection = self._connect()
        is_open = True
        while is_open:
            self._has_work.wait()
            if self._waiting and isinstance(self._waiting[0], tuple):
                time.sleep(_GATHER_SECONDS)
            self._has_work.clear()
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            is_open = None not in batch
            self._commit(connection, [one for one in batch if isinstance(one, tuple)], may_wait=is_open)
            for one in batch:
                if isinstance(one, Future):
                    one.set_result(None)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, writes: list[_Write], *, may_wait: bool) -> None:
        if not writes:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, same in groupby(writes, key=itemgetter(0)):
                rows = [values for _, values in same]
                while len(rows) >= _ROWS_AT_ONCE:
                    some, rows = rows[:_ROWS_AT_ONCE], rows[_ROWS_AT_ONCE:]
                    connection.execute(_for_many(statement), list(chain.from_iterable(some)))
                connection.executemany(statement, rows)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            passes = error.sqlite_errorcode & 0xFF in _PASSING
            fields = {"rows": len(writes), "error": str(error), "kept": passes and may_wait}
            logger.error("the database cannot be written", extra={"fields": fields})
            if not passes:
                self._error = error
            elif may_wait:
                self._waiting.extendleft(reversed(writes))
                time.sleep(_RETRY_SECONDS)
                self._has_work.set()
