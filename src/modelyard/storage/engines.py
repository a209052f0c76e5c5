"""Which engine a database has, and waiting until it is there."""

import logging
import time
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.storage.engine import Engine, StorageUnavailableError
from modelyard.storage.sqlite import SqliteEngine

logger = logging.getLogger("modelyard.storage")
_RETRY_SECONDS = 0.5
_SAY_SECONDS = 5.0


def open_engine(where: Path | str) -> Engine:
    """For a file, `:memory:`, or `postgresql://…`. Raises ConfigError for anything else."""
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        from modelyard.storage.postgresql import PostgresqlEngine  # its driver is an extra

        return PostgresqlEngine(text)
    if "://" in text:
        scheme = text.partition("://")[0]
        raise ConfigError(f"database {scheme}://… is not known; it is a path, or postgresql://USER:PASSWORD@HOST/NAME")
    return SqliteEngine(text)


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
