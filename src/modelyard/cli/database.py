"""`modelyard database`: look whether it is whole, copy it, and go back to a copy."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings
from modelyard.cli.show import json_option, note, print_json, settings_of
from modelyard.storage import backups
from modelyard.storage.database import Database, await_database


@click.group()
def database() -> None:
    """The database: check it, back it up, restore it."""


@database.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Whether its pages are whole. Reads all of a SQLite database; servers may go on meanwhile."""
    settings = settings_of(ctx)
    problem = problem_of(settings)
    if as_json:
        print_json({"database": _shown(settings), "ok": problem is None, "problem": problem})
    else:
        click.echo(f"{_shown(settings)}: {problem or 'its pages are whole'}")
    return 0 if problem is None else 1


def problem_of(settings: Settings) -> str | None:
    """What is wrong with the database's pages; None where nothing is known to be, or where there is none yet."""
    if settings.database_url.startswith("postgres"):
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
    """Copy it to FILE, or into `backups` beside it. Servers may go on meanwhile."""
    path = _file_of(settings_of(ctx))
    if not path.exists():
        raise ConfigError(f"database {str(path)!r} does not exist")
    click.echo(str(backups.back_up(path, file)))


@database.command("restore")
@click.argument("backup", required=False, type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, backup: Path | None) -> None:
    """Put BACKUP in its place; without one, list those there are. No server may run. What was there is kept beside it.

    What calls cost that were made since the backup was taken is not in it.
    """
    settings = settings_of(ctx)
    path = _file_of(settings)
    if backup is None:
        for known in backups.backups_of(path):
            click.echo(str(known))
        return
    with _alone(settings, path):
        aside = backups.restore(backup, path)
    note(f"{path} is {backup} again" + (f"; what was there is {aside}" if aside else ""))


@contextmanager
def _alone(settings: Settings, path: Path) -> Generator[None]:
    """Raises ConfigError where a server runs, or somebody writes."""
    lock = settings.home_path / "serve.lock"
    if not lock.parent.exists():
        yield
        return
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"a server runs with {path}: stop it first") from None
        if (user := _user_of(path)) is not None:
            raise ConfigError(f"process {user} has {path} open: stop it first")
        yield
    finally:
        os.close(descriptor)


def _user_of(path: Path) -> int | None:
    """A process that has the file open, as far as that can be seen."""
    if not path.exists() or not Path("/proc").is_dir():
        return None
    wanted = path.stat()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            opened = [one.stat() for one in (process / "fd").iterdir()]
        except OSError:  # it has ended, or is somebody else's
            continue
        if any((one.st_dev, one.st_ino) == (wanted.st_dev, wanted.st_ino) for one in opened):
            return int(process.name)
    return None


def _file_of(settings: Settings) -> Path:
    """Raises ConfigError where it is not a file."""
    if "://" in settings.database_url:
        raise ConfigError("backups of PostgreSQL are made with its own tools, as pg_dump; see docs/how-to/upgrade.md")
    return Path(settings.database_url)


def _shown(settings: Settings) -> str:
    """Without a password."""
    where = settings.database_url
    return f"postgresql://{where.rpartition('@')[2]}" if "://" in where else where
