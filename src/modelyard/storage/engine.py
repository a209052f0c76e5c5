"""What differs between databases, and the words that they share. SQLite is `sqlite.py`, PostgreSQL `postgresql.py`."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from modelyard.base.errors import ConfigError, ModelyardError

logger = logging.getLogger("modelyard.storage")

_RETRY_SECONDS = 0.5
_SAY_SECONDS = 5.0

Row = Mapping[str, Any]


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
