"""Selection of the database engine, and waiting for a database to become available."""

import logging
import time
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import Engine, StorageUnavailableError
from modelyard.storage.sqlite import SqliteEngine

logger = logging.getLogger("modelyard.storage")
# Seconds between two attempts, and between two log messages about them.
_RETRY_SECONDS = 0.5
_LOG_SECONDS = 5.0


def open_engine(where: Path | str) -> Engine:
    """Return the engine for a file path, `:memory:` or `postgresql://…`. Raises
    ConfigError for any other URL."""
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        # Imported here, because its driver is an optional dependency.
        from modelyard.storage.postgresql import PostgresqlEngine

        return PostgresqlEngine(text)
    if "://" in text:
        # Only the scheme goes into the message: the URL may contain a password.
        scheme = text.partition("://")[0]
        raise ConfigError(
            f"Database {scheme}://… is not supported; expected a path or"
            " postgresql://USER:PASSWORD@HOST/NAME"
        )
    return SqliteEngine(text)


def await_database(where: Path | str, seconds: float) -> None:
    """Wait until the database accepts connections and writes, at most `seconds`. A
    server may be starting or recovering.

    Blocks the thread. Raises StorageUnavailableError after the timeout, ConfigError if
    waiting cannot help.
    """
    engine = open_engine(where)
    until, last_logged_at = time.monotonic() + seconds, 0.0
    while (problem := _readiness_problem(engine)) is not None:
        if time.monotonic() > until:
            raise StorageUnavailableError(
                f"{problem}; gave up after {seconds:g} seconds"
            )
        if time.monotonic() - last_logged_at > _LOG_SECONDS:
            last_logged_at = time.monotonic()
            logger.warning(
                "waiting for the database", extra={"fields": {"error": problem}}
            )
        time.sleep(_RETRY_SECONDS)


def _readiness_problem(engine: Engine) -> str | None:
    """Return why a database does not accept work yet; None if it does.

    Raises ConfigError for an error that waiting cannot cure, such as a wrong password.
    """
    try:
        connection = engine.connect()
        try:
            return (
                None
                if engine.is_ready(connection)
                else f"Database {engine.where!r} is still recovering"
            )
        finally:
            connection.close()
    except StorageUnavailableError as error:
        return str(error)
    except engine.errors as error:
        # Errors that are not transient, such as a wrong password, would only delay the
        # startup.
        if not engine.is_transient(error):
            raise ConfigError(
                f"Database {engine.where!r} cannot be used: {error}"
            ) from error
        return str(error)
