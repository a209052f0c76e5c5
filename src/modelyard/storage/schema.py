"""The schema: made and brought up to date by numbered migrations, each recorded with its checksum."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from importlib import resources

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import Connection, DuplicateError, Engine, StorageUnavailableError

_RECORD = """CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, applied_at REAL NOT NULL
) STRICT"""


def migrations() -> list[tuple[int, str]]:
    """Number and text of each migration, in order."""
    folder = resources.files("modelyard.storage") / "migrations"
    files = sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), text) for name, text in files]


def bring_up_to_date(engine: Engine, connection: Connection, *, may_upgrade: bool) -> None:
    """What `migrate` does; the connection is closed where it fails.

    Raises ConfigError for a damaged database, StorageUnavailableError where the same may work later, and as `migrate`.
    """
    try:
        migrate(engine, connection, may_upgrade=may_upgrade)
    except engine.errors as error:
        connection.close()
        if engine.is_damaged(error):
            problem = f"database {engine.where!r} is damaged ({error}); stop what uses it and {engine.ways_back()}"
            raise ConfigError(problem) from error
        if engine.passes(error):
            raise StorageUnavailableError(f"database {engine.where!r} cannot be used: {error}") from error
        raise
    except (ConfigError, DuplicateError):
        connection.close()
        raise


def migrate(engine: Engine, connection: Connection, *, may_upgrade: bool = True) -> None:
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
            for statement in split(text):
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


def split(text: str) -> Iterator[str]:
    """The statements of a migration, without their comments."""
    for statement in text.split(";\n"):
        bare = "\n".join(line.partition("--")[0].rstrip() for line in statement.splitlines()).strip()
        if bare:
            yield bare
