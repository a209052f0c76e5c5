"""Copies of a SQLite database: before its schema is changed, and when somebody asks for one.

They lie in `backups` beside it, readable by their owner alone. A copy is made while others read and write.
"""

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.modes import private_folder

logger = logging.getLogger("modelyard.storage")

_FOLDER = "backups"
_KEEP = 3
"""Copies of before an upgrade; those that somebody asked for are theirs to remove."""
_SPARE_BYTES = 64 << 20


def backups_of(database: Path) -> list[Path]:
    """The newest last."""
    found = (database.parent / _FOLDER).glob("*.db")
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def back_up(database: Path, target: Path | None = None) -> Path:
    """Copy a database as it is now. Raises ConfigError where there is no room, or where it cannot be read."""
    target = target or _place(database, "manual")
    if target.exists():
        raise ConfigError(f"{target} is there already; name another file")
    _copy(database, target)
    return target


def back_up_before_upgrade(database: Path, version: int) -> Path | None:
    """The copy; None, with a word in the log, where it could not be made. Copies of all but the last upgrades go."""
    try:
        target = _place(database, str(version))
        _copy(database, target)
    except (ConfigError, OSError) as error:
        fields = {"database": str(database), "schema": version, "error": str(error)}
        logger.warning("the database is upgraded without a backup", extra={"fields": fields})
        return None
    logger.info("the database was backed up before its upgrade", extra={"fields": {"backup": str(target)}})
    made = [path for path in backups_of(database) if path.name.split("-")[1:2] != ["manual"]]
    for old in made[:-_KEEP]:
        old.unlink(missing_ok=True)
    return target


def _place(database: Path, what: str) -> Path:
    folder = private_folder(database.parent / _FOLDER)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    names = (f"modelyard-{what}-{stamp}{suffix}.db" for suffix in ("", *(f"-{number}" for number in range(1, 1000))))
    return next(folder / name for name in names if not (folder / name).exists())


def _copy(database: Path, target: Path) -> None:
    """Raises ConfigError."""
    size = sum(path.stat().st_size for path in files_of(database))
    free = shutil.disk_usage(target.parent).free
    if free < size + _SPARE_BYTES:
        raise ConfigError(f"{target.parent} has {free >> 20:,} MB free, and a copy takes {size >> 20:,} MB")
    unseen = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(unseen)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, that may be carried anywhere
        unseen.replace(target)
    except sqlite3.Error as error:
        raise ConfigError(f"database {str(database)!r} cannot be copied: {error}") from error
    finally:
        unseen.unlink(missing_ok=True)


def restore(backup: Path, database: Path) -> Path | None:
    """Put a backup in the place of a database that nobody uses; where what was there lies now, if anything did.

    Raises ConfigError where the backup is damaged, or where there is no room.
    """
    if not backup.is_file():
        known = ", ".join(str(path) for path in backups_of(database)) or "none"
        raise ConfigError(f"backup {str(backup)!r} does not exist; there are: {known}")
    if (problem := check(backup)) is not None:
        raise ConfigError(f"backup {str(backup)!r} is damaged itself: {problem}")
    fresh = database.with_name(f".{database.name}.{os.getpid()}")
    private_folder(database.parent)
    try:
        _copy(backup, fresh)
        aside = _set_aside(database)
        fresh.replace(database)
    finally:
        fresh.unlink(missing_ok=True)
    return aside


def _set_aside(database: Path) -> Path | None:
    """What was there is kept, its log too: what the damaged one still holds may be wanted."""
    if not database.exists():
        return None
    aside = _place(database, "manual-replaced")
    for path in files_of(database):
        path.replace(aside.with_name(aside.name + path.name.removeprefix(database.name)))
    return aside


def files_of(database: Path) -> Sequence[Path]:
    """The file, and what SQLite keeps beside it."""
    return [path for end in ("", "-wal", "-shm") if (path := database.with_name(database.name + end)).exists()]


def check(database: Path) -> str | None:
    """What is wrong with a database's pages; None where nothing is."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            lines = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except sqlite3.Error as error:
        return str(error)
    return None if lines == ["ok"] else " ".join(" ".join(lines).split())[:300]
