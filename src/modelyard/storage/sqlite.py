"""SQLite in WAL mode: what a killed process has committed stays, readers never wait for the writer."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.storage.database import Connection, Row

# A full disk, a lock, an unreadable moment: what could not be written is kept and tried again.
_PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip


class _Connection:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        if statement == "ROLLBACK" and not self._connection.in_transaction:
            return []
        rows: list[Any] = self._connection.execute(statement, values).fetchall()
        return rows

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)

    def close(self) -> None:
        self._connection.close()


class SqliteEngine:
    name = "sqlite"
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    duplicates: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)

    def __init__(self, path: str, *, busy_seconds: float = 10.0) -> None:
        self.where = path
        self._busy_seconds = busy_seconds
        self._uri = f"file:modelyard-{id(self)}?mode=memory&cache=shared" if path == ":memory:" else ""

    def connect(self) -> Connection:
        try:
            if not self._uri:
                Path(self.where).parent.mkdir(parents=True, exist_ok=True)
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
            raise ConfigError(f"database {self.where!r} cannot be opened: {error}") from error
        return _Connection(connection)

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

    def passes(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING
