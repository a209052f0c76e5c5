"""`modelyard database`: check the database, back it up, restore a backup."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings
from modelyard.cli.output import json_option, print_json, print_note, settings_of
from modelyard.storage import backups
from modelyard.storage.database import Database, await_database


@click.group()
def database() -> None:
    """Check, back up and restore the database."""


@database.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Check the database for damage. Reads all pages of a SQLite database. Servers may
    keep running. Exit code 1: it is damaged."""
    settings = settings_of(ctx)
    problem = problem_of(settings)
    if as_json:
        print_json(
            {
                "database": _display_location(settings),
                "ok": problem is None,
                "problem": problem,
            }
        )
    else:
        click.echo(f"{_display_location(settings)}: {problem or 'no damage found'}")
    return 0 if problem is None else 1


def problem_of(settings: Settings) -> str | None:
    """Return what is wrong with the database's pages, or None if no damage was found or
    there is no database yet."""
    if settings.database_url.startswith("postgres"):
        # Zero seconds: a check should report an unreachable server, not wait for it.
        await_database(settings.database_url, 0)
        opened = Database(settings.database_url)
        try:
            return opened.check()
        finally:
            opened.close()
    path = Path(settings.database_url)
    return backups.check(path) if path.exists() else None


@database.command("backup")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def back_up(ctx: click.Context, file: Path | None) -> None:
    """Copy a SQLite database to FILE and print the path. Servers may keep running.

    Default: a file in the folder `backups` next to the database.
    """
    path = _database_file(settings_of(ctx))
    if not path.exists():
        raise ConfigError(f"Database {str(path)!r} does not exist")
    click.echo(str(backups.back_up(path, file)))


@database.command("restore")
@click.argument("backup", required=False, type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, backup: Path | None) -> None:
    """Replace the SQLite database by a copy of BACKUP. Without BACKUP, list the backups
    in the folder `backups` next to the database.

    Refused if a server is running, if another process has the database open, or if
    BACKUP is damaged. The previous database is moved to the folder `backups` under a
    new name, which is printed. Everything written to it after the backup, such as keys,
    apps, documents and usage, is only there. Files outside the database stay as they
    are.
    """
    settings = settings_of(ctx)
    path = _database_file(settings)
    if backup is None:
        for backup_path in backups.backups_of(path):
            click.echo(str(backup_path))
        return
    # Replacing the file under a running server would corrupt both.
    with _exclusive_access(settings, path):
        aside = backups.restore(backup, path)
    print_note(
        f"restored {path} from {backup}"
        + (f"; the previous database is {aside}" if aside else "")
    )


@contextmanager
def _exclusive_access(settings: Settings, path: Path) -> Generator[None]:
    """Hold the server's lock. Raises ConfigError if a server runs or another process
    has the database open."""
    lock = settings.home_path / "serve.lock"
    # Without a home folder no server can have run.
    if not lock.parent.exists():
        yield
        return
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            # A running server holds this lock; it also keeps one from starting during
            # the restore.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"A running server uses database {path}; stop it first"
            ) from None
        # The lock covers servers only; other tools may have the file open too.
        if (user := _process_using(path)) is not None:
            raise ConfigError(f"Process {user} has database {path} open; stop it first")
        yield
    finally:
        os.close(descriptor)


def _process_using(path: Path) -> int | None:
    """Return a process that has the file open, or None. Only processes that /proc shows
    are found."""
    if not path.exists() or not Path("/proc").is_dir():
        return None
    target = path.stat()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        if _has_open(process, target):
            return int(process.name)
    return None


def _has_open(process: Path, target: os.stat_result) -> bool:
    """Tell whether a process, given as its folder in /proc, has a file open."""
    try:
        opened = [
            descriptor_path.stat() for descriptor_path in (process / "fd").iterdir()
        ]
    # The process has exited, or belongs to another user.
    except OSError:
        return False
    # Device and inode identify a file even if it was opened under another path.
    return any(
        (opened_file.st_dev, opened_file.st_ino) == (target.st_dev, target.st_ino)
        for opened_file in opened
    )


def _database_file(settings: Settings) -> Path:
    """Return the SQLite file. Raises ConfigError for PostgreSQL."""
    if "://" in settings.database_url:
        raise ConfigError(
            "This command supports SQLite only; back up PostgreSQL with its own tools,"
            " for example pg_dump (see docs/how-to/upgrade.md)"
        )
    return Path(settings.database_url)


def _display_location(settings: Settings) -> str:
    """Return the database's location without a password."""
    url = settings.database_url
    return f"postgresql://{url.rpartition('@')[2]}" if "://" in url else url
