"""The database schema: created and upgraded by numbered migrations, each recorded with
its checksum."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from importlib import resources

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import (
    Connection,
    DuplicateError,
    Engine,
    StorageUnavailableError,
)

_RECORD = """CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, applied_at REAL NOT NULL
) STRICT"""


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL text) of each migration, in order."""
    folder = resources.files("modelyard.storage") / "migrations"
    files = sorted(
        (entry.name, entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    )
    return [(int(name[:4]), text) for name, text in files]


def bring_up_to_date(
    engine: Engine, connection: Connection, *, may_upgrade: bool
) -> None:
    """Run `migrate`, and close the connection if it fails.

    Raises ConfigError for a damaged database, StorageUnavailableError for a transient
    failure, and the errors of `migrate`.
    """
    try:
        migrate(engine, connection, may_upgrade=may_upgrade)
    except engine.errors as error:
        connection.close()
        if engine.is_damaged(error):
            problem = (
                f"Database {engine.where!r} is damaged ({error}); stop all processes"
                f" that use it and {engine.recovery_advice()}"
            )
            raise ConfigError(problem) from error
        if engine.is_transient(error):
            raise StorageUnavailableError(
                f"Database {engine.where!r} cannot be used: {error}"
            ) from error
        raise
    except (ConfigError, DuplicateError):
        connection.close()
        raise


def migrate(
    engine: Engine, connection: Connection, *, may_upgrade: bool = True
) -> None:
    """Upgrade the schema. If several processes start at once, one migrates and the
    others wait.

    Raises ConfigError for a database that is newer than the code, or that was created
    by different migrations.
    """
    available_migrations = migrations()
    connection.execute(engine.begin())
    try:
        # The version is read under the lock: another process may have upgraded
        # meanwhile.
        engine.lock_schema(connection)
        version = engine.version(connection)
        if version > available_migrations[-1][0]:
            raise ConfigError(
                f"Database {engine.where!r} was written by a newer Modelyard (schema"
                f" {version}, this one supports {available_migrations[-1][0]}). Run that"
                " version again, name another MODELYARD_HOME, or"
                f" {engine.recovery_advice()}; docs/how-to/upgrade.md has details"
            )
        applied = _applied(engine, connection, available_migrations, version)
        pending = [
            (number, text)
            for number, text in available_migrations
            if number not in applied
        ]
        # A new database (version 0) needs neither permission nor a backup.
        if pending and version:
            if not may_upgrade:
                raise ConfigError(
                    f"Database {engine.where!r} has schema {version} and needs"
                    f" {available_migrations[-1][0]}, but upgrade_database is false:"
                    " back it up, and start once with MODELYARD_UPGRADE_DATABASE=true"
                )
            # Within the transaction, so that nothing is written between the copy and
            # the upgrade.
            engine.back_up(version)
        for number, text in pending:
            for statement in split_statements(text):
                connection.execute(engine.translate(statement))
            _record(connection, number, text)
            # A migration that was added below the current version must not lower it.
            engine.set_version(connection, max(number, version))
    except BaseException:
        # All migrations run in one transaction: a failure leaves the old schema.
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def checksum(text: str) -> str:
    """Return the SHA-256 of a migration's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _applied(
    engine: Engine,
    connection: Connection,
    available: Sequence[tuple[int, str]],
    version: int,
) -> set[int]:
    """Return the numbers of the applied migrations.

    Raises ConfigError if a recorded checksum differs from the migration of that number.
    """
    connection.execute(engine.translate(_RECORD))
    recorded = {
        int(row["number"]): row["sha256"]
        for row in connection.execute("SELECT number, sha256 FROM migrations")
    }
    if not recorded:
        # Databases from before the migrations table get it filled from their version.
        for number, text in available:
            if number <= version:
                _record(connection, number, text)
                recorded[number] = checksum(text)
    for number, text in available:
        if recorded.get(number, checksum(text)) != checksum(text):
            raise ConfigError(
                f"Database {engine.where!r} was created by another migration {number:04d}"
                f" than that of this version (sha256 {recorded[number][:12]}…, not"
                f" {checksum(text)[:12]}…). A released migration never changes:"
                " install an unmodified release"
            )
    return set(recorded)


def _record(connection: Connection, number: int, text: str) -> None:
    """Record that a migration was applied."""
    statement = "INSERT INTO migrations (number, sha256, applied_at) VALUES (?, ?, ?)"
    connection.execute(statement, (number, checksum(text), time.time()))


def split_statements(text: str) -> Iterator[str]:
    """Yield the statements of a migration without comments."""
    # Only a semicolon at the end of a line separates statements.
    for statement in text.split(";\n"):
        statement_text = "\n".join(
            line.partition("--")[0].rstrip() for line in statement.splitlines()
        ).strip()
        if statement_text:
            yield statement_text
