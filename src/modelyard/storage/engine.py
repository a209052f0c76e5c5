"""What differs between databases, and the words that they share. SQLite is `sqlite.py`, PostgreSQL `postgresql.py`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from modelyard.base.errors import ModelyardError

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
