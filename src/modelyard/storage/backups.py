"""Backups of a SQLite database: before a schema upgrade, and on request.

They are stored in the folder `backups` next to the database, readable by the owner
only. A backup does not block readers or writers.
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
from modelyard.base.private_files import private_folder

logger = logging.getLogger("modelyard.storage")

_FOLDER = "backups"
_KEEP = 3
"""Number of pre-upgrade backups to retain. Manual ones are never deleted."""
# Must stay free on the disk after a copy.
_SPARE_BYTES = 64 << 20


def backups_of(database: Path) -> list[Path]:
    """Return all backups, oldest first."""
    backup_paths = (database.parent / _FOLDER).glob("*.db")
    return sorted(backup_paths, key=lambda path: (path.stat().st_mtime, path.name))


def back_up(database: Path, target: Path | None = None) -> Path:
    """Copy a database while it is in use, and return the path of the copy.

    `target` defaults to a new file in the backup folder. Raises ConfigError if the
    target exists, the disk lacks space, or the database cannot be read.
    """
    target = target or _new_backup_path(database, "manual")
    if target.exists():
        raise ConfigError(f"{target} already exists; choose another file")
    _copy(database, target)
    return target


def back_up_before_upgrade(database: Path, version: int) -> Path | None:
    """Back up a database before its schema is upgraded, and delete old pre-upgrade
    backups.

    Returns None, after a warning in the log, if the backup could not be made.
    """
    try:
        target = _new_backup_path(database, str(version))
        _copy(database, target)
    except (ConfigError, OSError) as error:
        fields = {"database": str(database), "schema": version, "error": str(error)}
        logger.warning(
            "upgrading the database without a backup", extra={"fields": fields}
        )
        return None
    logger.info(
        "database backed up before its upgrade",
        extra={"fields": {"backup": str(target)}},
    )
    # File names read `modelyard-LABEL-TIME.db`; manual backups are excluded from
    # deletion.
    upgrade_backups = [
        path for path in backups_of(database) if path.name.split("-")[1:2] != ["manual"]
    ]
    for old in upgrade_backups[:-_KEEP]:
        old.unlink(missing_ok=True)
    return target


def _new_backup_path(database: Path, label: str) -> Path:
    """Return an unused path in the backup folder, which is created if missing.

    The file name has the label and the time in UTC; a number is added if the name is
    taken.
    """
    folder = private_folder(database.parent / _FOLDER)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    # A numeric suffix keeps two backups of the same second apart.
    suffixes = ("", *(f"-{number}" for number in range(1, 1000)))
    paths = (folder / f"modelyard-{label}-{stamp}{suffix}.db" for suffix in suffixes)
    return next(path for path in paths if not path.exists())


def _copy(database: Path, target: Path) -> None:
    """Copy a database into a temporary file and move it into place. Raises ConfigError."""
    size = sum(path.stat().st_size for path in files_of(database))
    free = shutil.disk_usage(target.parent).free
    if free < size + _SPARE_BYTES:
        raise ConfigError(
            f"{target.parent} has {free >> 20:,} MB free, but a copy needs {size >> 20:,} MB"
        )
    # The target name appears only once the copy is complete.
    unseen = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            # sqlite3's own context manager ends the transaction and leaves the
            # connection open.
            closing(sqlite3.connect(database)) as source,
            closing(sqlite3.connect(unseen)) as copy,
        ):
            # SQLite's online backup includes the write-ahead log and tolerates
            # concurrent writes.
            source.backup(copy)
            # A single file, which can be copied anywhere.
            copy.execute("PRAGMA journal_mode=DELETE")
        unseen.replace(target)
    except sqlite3.Error as error:
        raise ConfigError(
            f"Database {str(database)!r} cannot be copied: {error}"
        ) from error
    finally:
        unseen.unlink(missing_ok=True)


def restore(backup: Path, database: Path) -> Path | None:
    """Replace a database, which must not be in use, with a backup.

    Returns the path to which the previous database was moved, or None if there was
    none. Raises ConfigError if the backup is missing or damaged, or the disk lacks
    space.
    """
    if not backup.is_file():
        available = ", ".join(str(path) for path in backups_of(database)) or "none"
        raise ConfigError(
            f"Backup {str(backup)!r} does not exist; available: {available}"
        )
    if (problem := check(backup)) is not None:
        raise ConfigError(f"Backup {str(backup)!r} is damaged too: {problem}")
    temporary_path = database.with_name(f".{database.name}.{os.getpid()}")
    private_folder(database.parent)
    try:
        # Copied before the old database is touched, so that a failure leaves it in
        # place.
        _copy(backup, temporary_path)
        aside = _set_aside(database)
        temporary_path.replace(database)
    finally:
        temporary_path.unlink(missing_ok=True)
    return aside


def _set_aside(database: Path) -> Path | None:
    """Move the current database and its log files to the backup folder: even a damaged
    one may still be needed."""
    if not database.exists():
        return None
    # A label that begins with `manual` is never deleted with the old backups.
    aside = _new_backup_path(database, "manual-replaced")
    for path in files_of(database):
        path.replace(
            aside.with_name(aside.name + path.name.removeprefix(database.name))
        )
    return aside


def files_of(database: Path) -> Sequence[Path]:
    """Return the database file and the files that SQLite keeps next to it, as far as
    they exist."""
    return [
        path
        for end in ("", "-wal", "-shm")
        if (path := database.with_name(database.name + end)).exists()
    ]


def check(database: Path) -> str | None:
    """Check the pages of a database. Returns a description of the damage, or None."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            lines = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except sqlite3.Error as error:
        return str(error)
    return None if lines == ["ok"] else " ".join(" ".join(lines).split())[:300]
