"""The interface that SQLite (`sqlite.py`) and PostgreSQL (`postgresql.py`) implement,
and its error types."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from modelyard.base.errors import ModelyardError

Row = Mapping[str, Any]


class StorageUnavailableError(ModelyardError):
    """The database cannot be used at the moment, for example because its disk is full
    or its server is down. Nothing was changed."""

    code = "storage_unavailable"

    @property
    def public_text(self) -> str:
        """The message for callers, without the address of the database."""
        return "The server's storage cannot be used at the moment; try again later"


class DuplicateError(Exception):
    """A row with this primary key or unique index entry already exists. The caller that
    wrote the statement decides what it means."""


class Connection(Protocol):
    """A connection with the engines' common interface: statements with `?` or `:name`
    placeholders, rows as mappings.

    Raises DuplicateError for an existing row, and the engine's own errors for
    everything else.
    """

    def execute(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """Run a statement and return its rows; an empty list if it returns none."""
        ...

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each row of values."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Engine(Protocol):
    """The operations that differ between database systems."""

    name: str
    where: str
    """Location for messages, without a password."""
    is_shared: bool
    """Whether several processes write concurrently: a server, which can be unreachable
    while this machine works."""
    # Base classes of the driver's exceptions, for `except` clauses.
    errors: tuple[type[Exception], ...]

    def connect(self) -> Connection:
        """Open a connection. Raises StorageUnavailableError if the server is down,
        ConfigError if there is no usable database."""
        ...

    def begin(self) -> str:
        """Return the statement that starts a write transaction."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Lock the schema until the end of the transaction, so that no other process
        migrates it."""
        ...

    def version(self, connection: Connection) -> int:
        """Return the number of the schema, 0 for an empty database."""
        ...

    def set_version(self, connection: Connection, version: int) -> None:
        """Record the number of the schema within the transaction."""
        ...

    def translate(self, statement: str) -> str:
        """Translate a migration's statement, written for SQLite, into this engine's
        dialect."""
        ...

    def is_transient(self, error: Exception) -> bool:
        """Return whether the error is transient, for example a full disk, a lock or an
        unreachable server."""
        ...

    def back_up(self, version: int) -> None:
        """Back up the database before a schema upgrade. Failures are logged, not
        raised."""
        ...

    def recovery_advice(self) -> str:
        """Return advice for the operator of a database that is damaged or newer than
        the code."""
        ...

    def is_ready(self, connection: Connection) -> bool:
        """Return whether the database accepts writes; a server in recovery does not."""
        ...

    def check(self, connection: Connection, is_over: Callable[[], bool]) -> str | None:
        """Return a description of page damage, or None if none is known. `is_over` is
        polled to abort the check."""
        ...

    def signal(self, connection: Connection, topic: str) -> None:
        """Signal a topic to all processes that listen, when the transaction is
        committed. Does nothing if the engine has no signals."""
        ...

    def listen(self) -> AsyncGenerator[str, None] | None:
        """Return the topics that processes signal from now on, after an empty one as
        soon as this one listens; None if the engine has no signals.

        Iterating raises StorageUnavailableError when the connection is lost.
        """
        ...

    def is_damaged(self, error: Exception) -> bool:
        """Return whether an error reports unreadable pages."""
        ...
