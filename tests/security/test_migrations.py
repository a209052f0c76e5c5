"""Tests for migrations: never edited, checksums, backups, rollback, late databases."""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from modelyard.base.errors import ConfigError
from modelyard.storage import backups, schema
from modelyard.storage.database import (
    Database,
    StorageUnavailableError,
    await_database,
    checksum,
    migrations,
    open_engine,
)
from tests.contract.conftest import postgres_url  # noqa: F401
from tests.security.starting import StartingUp

pytestmark = pytest.mark.proof("rollback")

PINNED = Path(__file__).parent / "migrations.sha256"


def _digests(path: Path) -> dict[str, tuple[int, str]]:
    """Return the row count and a digest of each table."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        digests: dict[str, tuple[int, str]] = {}
        for (name,) in names:
            if name != "migrations" and not name.startswith("sqlite_"):
                rows = sorted(
                    repr(row) for row in connection.execute(f'SELECT * FROM "{name}"')
                )
                digests[name] = (
                    len(rows),
                    hashlib.sha256("\n".join(rows).encode()).hexdigest(),
                )
    return digests


def _create_old_database(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, last: int
) -> None:
    """Create a database with the first `last` migrations.

    It is of the time before migrations were recorded.
    """
    old_migrations = [migration for migration in migrations() if migration[0] <= last]
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", lambda: old_migrations)
        Database(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE migrations")


def test_no_shipped_migration_is_edited():
    """Property: a released migration never changes; a new one adds a line here."""
    pinned = dict(reversed(line.split()) for line in PINNED.read_text().splitlines())
    shipped = {f"{number:04d}": checksum(text) for number, text in migrations()}
    changed = sorted(
        number
        for number in pinned.keys() & shipped.keys()
        if pinned[number] != shipped[number]
    )
    assert not changed, (
        f"migrations {changed} were edited in place: write a new one instead"
    )
    assert not pinned.keys() - shipped.keys(), "a shipped migration is gone"
    missing = [
        f"{shipped[number]}  {number}"
        for number in sorted(shipped.keys() - pinned.keys())
    ]
    assert not missing, f"add to {PINNED.name}:\n" + "\n".join(missing)


def test_a_new_database_records_its_migrations(tmp_path: Path):
    opened = Database(tmp_path / "x.db")
    rows = opened.read(
        "SELECT number, sha256, applied_at FROM migrations ORDER BY number"
    )
    opened.close()
    assert [(row["number"], row["sha256"]) for row in rows] == [
        (n, checksum(text)) for n, text in migrations()
    ]
    assert all(row["applied_at"] > 1_700_000_000 for row in rows)
    assert not backups.backups_of(tmp_path / "x.db")  # the database was empty


@pytest.mark.parametrize("last", [1, 5, 8])
def test_an_older_database_is_backed_up_and_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
):
    path = tmp_path / "x.db"
    _create_old_database(path, monkeypatch, last=last)
    digests_before = _digests(path)
    Database(path).close()
    (backup,) = backups.backups_of(path)
    assert (backup.stat().st_mode & 0o777, backup.parent.stat().st_mode & 0o777) == (
        0o600,
        0o700,
    )
    assert f"-{last}-" in backup.name
    assert _digests(backup) == digests_before
    reopened = Database(path)
    recorded = {row["number"] for row in reopened.read("SELECT number FROM migrations")}
    reopened.close()
    assert recorded == {number for number, _ in migrations()}
    assert len(backups.backups_of(path)) == 1  # the second start changes nothing


def test_the_last_three_upgrade_backups_are_kept(tmp_path: Path):
    path = tmp_path / "x.db"
    Database(path).close()
    manual_backup = backups.back_up(path)
    upgrade_backups = [backups.back_up_before_upgrade(path, 3) for _ in range(5)]
    assert backups.backups_of(path)[-3:] == upgrade_backups[-3:]
    assert set(backups.backups_of(path)) == {manual_backup, *upgrade_backups[-3:]}


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database."""
    if request.param == "sqlite":
        yield str(tmp_path / "fresh.db")
        return
    url = request.getfixturevalue("postgres_url")
    name = f"fresh_{abs(hash(str(tmp_path))) % 10**9}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        yield url.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


def test_an_edited_migration_is_refused(fresh: str, monkeypatch: pytest.MonkeyPatch):
    Database(fresh).close()
    edited = [
        (number, text + "\n-- a word more" if number == 3 else text)
        for number, text in migrations()
    ]
    monkeypatch.setattr(schema, "migrations", lambda: edited)
    with pytest.raises(ConfigError, match="another migration 0003"):
        Database(fresh)


def test_a_newer_database_error_says_what_to_do(
    fresh: str, monkeypatch: pytest.MonkeyPatch
):
    Database(fresh).close()
    older = migrations()[:-1]
    monkeypatch.setattr(schema, "migrations", lambda: older)
    with pytest.raises(
        ConfigError, match=r"newer Modelyard.*restore a backup.*upgrade\.md"
    ):
        Database(fresh)


def test_an_upgrade_may_be_forbidden(fresh: str, monkeypatch: pytest.MonkeyPatch):
    older = migrations()[:5]
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", lambda: older)
        Database(fresh, may_upgrade=False).close()  # creating is not upgrading
    with pytest.raises(ConfigError, match="MODELYARD_UPGRADE_DATABASE=true"):
        Database(fresh, may_upgrade=False)
    Database(fresh).close()
    Database(fresh, may_upgrade=False).close()


def test_concurrent_starts_migrate_once(fresh: str, monkeypatch: pytest.MonkeyPatch):
    older = migrations()[:4]
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", lambda: older)
        Database(fresh).close()
    problems: list[Exception] = []

    def start() -> None:
        try:
            Database(fresh).close()
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    opened = Database(fresh)
    assert len(opened.read("SELECT number FROM migrations")) == len(migrations())
    opened.close()
    if "://" not in fresh:
        assert len(backups.backups_of(Path(fresh))) == 1


# a database server that is still starting


def test_a_server_that_is_starting_up_is_waited_for(postgres_url: str):  # noqa: F811
    with StartingUp(postgres_url, refusals=3) as proxy:
        await_database(proxy.url, 30)
        assert proxy.refused == 3
        Database(proxy.url).close()


def test_waiting_for_a_database_times_out_with_its_own_message(postgres_url: str):  # noqa: F811
    with StartingUp(postgres_url, refusals=10**6) as proxy:
        started_at = time.monotonic()
        with pytest.raises(
            StorageUnavailableError, match=r"starting up.*gave up after 0\.3 seconds"
        ):
            await_database(proxy.url, 0.3)
        assert time.monotonic() - started_at < 20


def test_a_recovering_database_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,  # noqa: F811
):
    answers = iter([False, False, True])
    engine_class = type(open_engine(postgres_url))
    monkeypatch.setattr(
        engine_class, "is_ready", lambda engine, connection: next(answers)
    )
    await_database(postgres_url, 30)
    assert next(answers, None) is None


def test_one_that_goes_down_is_a_503_and_comes_back(postgres_url: str):  # noqa: F811
    with StartingUp(postgres_url, refusals=0) as proxy:
        opened = Database(proxy.url)
        proxy.restart(refusals=2)
        with pytest.raises(StorageUnavailableError):
            opened.read("SELECT 1 AS one")
        pending_write = opened.submit(
            lambda connection: connection.execute("SELECT 1 AS one"), is_retried=True
        )
        assert pending_write.result(30)[0]["one"] == 1
        assert _eventually(lambda: opened.read("SELECT 1 AS one")[0]["one"] == 1)
        opened.close()


def _eventually(holds: Callable[[], Any]) -> bool:
    for _ in range(200):
        try:
            return bool(holds())
        except StorageUnavailableError:
            time.sleep(0.05)
    return False
