"""The SQLite engine, in WAL mode: commits survive a killed process, and readers never
wait for the writer."""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.base.errors import ConfigError
from modelyard.base.private_files import private_folder
from modelyard.storage.backups import back_up_before_upgrade, backups_of
from modelyard.storage.engine import Connection, DuplicateError, Row

# Transient errors: a full disk, a lock, an I/O failure, or damage that a restored
# backup will fix. Failed writes are retained and retried.
_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Of the constraint violations, only these mean an existing row: NOT NULL, CHECK and
# foreign keys indicate wrong data. https://sqlite.org/rescode.html#constraint
_DUPLICATES = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}
)
# Virtual machine steps between two polls of a running check; after the first seconds it
# pauses at each poll.
_STEPS_BETWEEN_POLLS = 10_000
_FULL_SPEED_SECONDS, _PAUSE_SECONDS = 2.0, 0.0005


class _Connection:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """Run a statement and return its rows. Raises DuplicateError for an existing
        row."""
        if statement == "ROLLBACK" and not self._connection.in_transaction:
            # SQLite rolls back on its own after some errors; another ROLLBACK would
            # then fail.
            return []
        try:
            # An open cursor keeps its snapshot, and the write-ahead log could not be
            # emptied.
            rows: list[Any] = self._connection.execute(statement, values).fetchall()
        except sqlite3.IntegrityError as error:
            _refuse_duplicate(error)
            raise
        return rows

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row. Raises DuplicateError for an existing row."""
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.IntegrityError as error:
            _refuse_duplicate(error)
            raise

    def check(self, is_over: Callable[[], bool]) -> str | None:
        """Return a description of page damage, or None if there is none or the check
        was aborted."""
        started_at = time.monotonic()

        def pause() -> bool:
            """Return whether to abort; after a while it also sleeps briefly."""
            # A large database: leave disk bandwidth to others.
            if time.monotonic() - started_at > _FULL_SPEED_SECONDS:
                time.sleep(_PAUSE_SECONDS)
            return is_over()

        self._connection.set_progress_handler(pause, _STEPS_BETWEEN_POLLS)
        try:
            # `integrity_check` would also compare indexes with their tables, which
            # takes far longer.
            lines = [
                str(row[0]) for row in self._connection.execute("PRAGMA quick_check(5)")
            ]
        except sqlite3.OperationalError as error:
            # The progress handler returned true and aborted the statement.
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
        return None if lines == ["ok"] else " ".join(" ".join(lines).split())[:300]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _refuse_duplicate(error: sqlite3.IntegrityError) -> None:
    """Raise DuplicateError if the error means an existing row."""
    if error.sqlite_errorcode in _DUPLICATES:
        raise DuplicateError(str(error)) from error


class SqliteEngine:
    """The engine for files and for `:memory:`."""

    name = "sqlite"
    is_shared = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: str, *, busy_seconds: float = 10.0) -> None:
        self.where = path
        self._busy_seconds = busy_seconds
        self._uri = ""
        # A shared cache lets several connections use the same in-memory database.
        if path == ":memory:":
            self._uri = f"file:modelyard-{id(self)}?mode=memory&cache=shared"

    def connect(self) -> Connection:
        """Open a connection in autocommit mode. Raises ConfigError if the file cannot
        be opened."""
        try:
            if not self._uri:
                self._make_private()
            # Connections move between threads of a pool, but only one uses each at a
            # time.
            connection = sqlite3.connect(
                self._uri or self.where,
                uri=bool(self._uri),
                timeout=self._busy_seconds,
                check_same_thread=False,
                # Otherwise the module begins transactions by itself.
                isolation_level=None,
            )
            connection.row_factory = sqlite3.Row
            self._set_up(connection)
        except (sqlite3.Error, OSError) as error:
            advice = f"; {self.recovery_advice()}" if self.is_damaged(error) else ""
            raise ConfigError(
                f"Database {self.where!r} cannot be opened: {error}{advice}"
            ) from error
        return _Connection(connection)

    def _make_private(self) -> None:
        """Create the file with access for its owner only; SQLite gives the WAL files
        the same mode."""
        path = Path(self.where)
        private_folder(path.parent)
        if not path.exists():
            # Without O_EXCL: another process may be creating the file at the same
            # moment.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def _set_up(self, connection: sqlite3.Connection) -> None:
        """Put a new connection's database into WAL mode, with `synchronous=NORMAL`.

        While another process makes the same change, it is retried for the busy timeout.
        Raises sqlite3.OperationalError after that, and for any other failure.
        """
        until = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                # In WAL mode this syncs at checkpoints only: a power cut may cost the
                # last commits, but does not damage the file.
                connection.execute("PRAGMA synchronous=NORMAL")
                return
            except sqlite3.OperationalError as error:
                # If two processes switch a new file to WAL at the same time, one gets
                # SQLITE_BUSY immediately, without the timeout.
                if (
                    error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY
                    or time.monotonic() > until
                ):
                    raise
                time.sleep(0.02)

    def begin(self) -> str:
        """Return the statement that starts a write transaction.

        IMMEDIATE takes the write lock now, instead of failing at the first write.
        """
        return "BEGIN IMMEDIATE"

    def lock_schema(self, connection: Connection) -> None:
        """Do nothing: the write transaction already excludes other processes."""
        del connection  # BEGIN IMMEDIATE is lock enough

    def version(self, connection: Connection) -> int:
        """Return the schema number, 0 for an empty database."""
        return int(connection.execute("PRAGMA user_version")[0]["user_version"])

    def set_version(self, connection: Connection, version: int) -> None:
        """Record the schema number within the transaction."""
        connection.execute(f"PRAGMA user_version={version:d}")

    def translate(self, statement: str) -> str:
        """Return the statement unchanged: migrations are written for SQLite."""
        return statement

    def back_up(self, version: int) -> None:
        """Copy the file before an upgrade. Databases in memory are not copied."""
        if not self._uri:
            back_up_before_upgrade(Path(self.where), version)

    def recovery_advice(self) -> str:
        """Return advice with the list of available backups."""
        backup_paths = [] if self._uri else backups_of(Path(self.where))
        listing = ", ".join(str(path) for path in backup_paths) or "none"
        return (
            "restore a backup with `modelyard database restore BACKUP` (available:"
            f" {listing})"
        )

    def is_ready(self, connection: Connection) -> bool:
        """Return True: there is no server that could be in recovery."""
        del connection
        return True

    def check(self, connection: Connection, is_over: Callable[[], bool]) -> str | None:
        """Return a description of page damage, or None if there is none or the check
        was aborted."""
        return connection.check(is_over)  # type: ignore[attr-defined,no-any-return]

    def signal(self, connection: Connection, topic: str) -> None:
        """Do nothing: processes that share a file do not hear each other."""

    def listen(self) -> None:
        """Return None: there are no signals."""
        return

    def is_damaged(self, error: Exception) -> bool:
        """Return whether an error reports damaged pages or a file that is not a
        database."""
        return (
            isinstance(error, sqlite3.Error)
            # The low byte is the primary code; the rest makes it an extended one.
            and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED
        )

    def is_transient(self, error: Exception) -> bool:
        """Return whether an error is transient."""
        return (
            isinstance(error, sqlite3.Error)
            and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRANSIENT
        )
