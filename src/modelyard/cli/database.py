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
    """The database: check it, back it up, restore it."""


@database.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Check the integrity of the database's pages. Reads all of a SQLite database;
    servers may keep running. Exits with 1 if it is damaged."""
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
        click.echo(f"{_display_location(settings)}: {problem or 'its pages are whole'}")
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
    """Copy the database to FILE, or into the folder `backups` next to it. Servers may
    keep running."""
    path = _database_file(settings_of(ctx))
    if not path.exists():
        raise ConfigError(f"database {str(path)!r} does not exist")
    click.echo(str(backups.back_up(path, file)))


@database.command("restore")
@click.argument("backup", required=False, type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, backup: Path | None) -> None:
    """Replace the database by BACKUP; without BACKUP, list the backups.

    No server may run. The previous database is retained next to the new one. Costs of
    calls made after the backup are lost.
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
        f"{path} is {backup} again" + (f"; what was there is {aside}" if aside else "")
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
            raise ConfigError(f"a server runs with {path}: stop it first") from None
        # The lock covers servers only; other tools may have the file open too.
        if (user := _process_using(path)) is not None:
            raise ConfigError(f"process {user} has {path} open: stop it first")
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
        try:
            # Device and inode identify a file even if it was opened under another path.
            opened = [
                descriptor_path.stat() for descriptor_path in (process / "fd").iterdir()
            ]
        except OSError:  # it has ended, or is somebody else's
            continue
        if any(
            (opened_file.st_dev, opened_file.st_ino) == (target.st_dev, target.st_ino)
            for opened_file in opened
        ):
            return int(process.name)
    return None


def _database_file(settings: Settings) -> Path:
    """Return the SQLite file. Raises ConfigError for PostgreSQL."""
    if "://" in settings.database_url:
        raise ConfigError(
            "backups of PostgreSQL are made with its own tools, as pg_dump; see"
            " docs/how-to/upgrade.md"
        )
    return Path(settings.database_url)


def _display_location(settings: Settings) -> str:
    """Return the database's location without a password."""
    where = settings.database_url
    return f"postgresql://{where.rpartition('@')[2]}" if "://" in where else where
