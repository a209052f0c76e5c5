"""SQLite in WAL mode: what a killed process has committed stays, readers never wait for the writer."""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.base.modes import private_folder
from modelyard.storage.backups import back_up_before_upgrade, backups_of
from modelyard.storage.engine import Connection, DuplicateError, Row

# A full disk, a lock, an unreadable moment, pages that a backup will bring back: what could not be written is kept and
# tried again.
_PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
})  # fmt: skip
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Of what SQLite calls a violated constraint, these alone say that a row is there already: NOT NULL, CHECK and foreign
# keys are mistakes in what was written. https://sqlite.org/rescode.html#constraint
_DUPLICATES = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})
_STEPS_BETWEEN_LOOKS = 10_000
_HASTE_SECONDS, _PAUSE_SECONDS = 2.0, 0.0005


class _Connection:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        if statement == "ROLLBACK" and not self._connection.in_transaction:
            return []
        try:
            rows: list[Any] = self._connection.execute(statement, values).fetchall()
        except sqlite3.IntegrityError as error:
            _refuse_duplicate(error)
            raise
        return rows

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.IntegrityError as error:
            _refuse_duplicate(error)
            raise

    def check(self, is_over: Callable[[], bool]) -> str | None:
        """What is wrong with the pages; None where nothing is, or where it was over before that was known."""
        begun = time.monotonic()

        def pause() -> bool:
            if time.monotonic() - begun > _HASTE_SECONDS:  # a large database: others need the disk too
                time.sleep(_PAUSE_SECONDS)
            return is_over()

        self._connection.set_progress_handler(pause, _STEPS_BETWEEN_LOOKS)
        try:
            lines = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check(5)")]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
        return None if lines == ["ok"] else " ".join(" ".join(lines).split())[:300]

    def close(self) -> None:
        self._connection.close()


def _refuse_duplicate(error: sqlite3.IntegrityError) -> None:
    """Raises DuplicateError where that is what is wrong."""
    if error.sqlite_errorcode in _DUPLICATES:
        raise DuplicateError(str(error)) from error


class SqliteEngine:
    name = "sqlite"
    is_shared = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: str, *, busy_seconds: float = 10.0) -> None:
        self.where = path
        self._busy_seconds = busy_seconds
        self._uri = f"file:modelyard-{id(self)}?mode=memory&cache=shared" if path == ":memory:" else ""

    def connect(self) -> Connection:
        try:
            if not self._uri:
                self._make_private()
            connection = sqlite3.connect(
                self._uri or self.where,
                uri=bool(self._uri),
                timeout=self._busy_seconds,
                check_same_thread=False,
                isolation_level=None,
            )
            connection.row_factory = sqlite3.Row
            self._set_up(connection)
        except (sqlite3.Error, OSError) as error:
            what_to_do = f"; {self.ways_back()}" if self.is_damaged(error) else ""
            raise ConfigError(f"database {self.where!r} cannot be opened: {error}{what_to_do}") from error
        return _Connection(connection)

    def _make_private(self) -> None:
        """The file is its owner's from its beginning; SQLite gives what lies beside it the same mode."""
        path = Path(self.where)
        private_folder(path.parent)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def _set_up(self, connection: sqlite3.Connection) -> None:
        until = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                return
            except sqlite3.OperationalError as error:
                # Where two processes turn a new file to WAL at once, one is told at once that it is busy.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def begin(self) -> str:
        return "BEGIN IMMEDIATE"

    def lock_schema(self, connection: Connection) -> None:
        del connection  # BEGIN IMMEDIATE is lock enough

    def version(self, connection: Connection) -> int:
        return int(connection.execute("PRAGMA user_version")[0]["user_version"])

    def set_version(self, connection: Connection, version: int) -> None:
        connection.execute(f"PRAGMA user_version={version:d}")

    def adapted(self, statement: str) -> str:
        return statement

    def back_up(self, version: int) -> None:
        if not self._uri:
            back_up_before_upgrade(Path(self.where), version)

    def ways_back(self) -> str:
        known = [] if self._uri else backups_of(Path(self.where))
        made = ", ".join(str(path) for path in known) or "none"
        return f"go back to a backup with `modelyard database restore BACKUP` (there are: {made})"

    def is_ready(self, connection: Connection) -> bool:
        del connection
        return True

    def check(self, connection: Connection, is_over: Callable[[], bool]) -> str | None:
        return connection.check(is_over)  # type: ignore[attr-defined,no-any-return]

    def is_damaged(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED

    def passes(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING
