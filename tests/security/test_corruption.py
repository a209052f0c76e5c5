"""Tests for damaged database pages.

Billable calls are refused in the caller's format, readiness says why, nothing is lost,
and a backup restores everything.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelyard.app import maintenance
from modelyard.base.errors import ConfigError
from modelyard.cli.database import database as commands
from modelyard.cli.doctor import doctor
from modelyard.storage import backups
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.postgresql import PostgresqlEngine
from modelyard.testing import Upstream, chat_answer
from tests.contract.conftest import postgres_url  # noqa: F401
from tests.gateway.conftest import Running, start_gateway  # noqa: F401
from tests.gateway.test_traffic import ask, chat

Start = Callable[..., Running]
CALLS = (
    ("/v1/chat/completions", {"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}, "error"),
    ("/v1/messages", {"model": "openai/gpt-5-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
     "type"),
    ("/v1beta/models/openai%2Fgpt-5-mini:generateContent", {"contents": [{"parts": [{"text": "hi"}]}]}, "error"),
    ("/v2/chat", {"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}, "message"),
)  # fmt: skip


@pytest.fixture
def healthy_upstream(upstream: Callable[..., Upstream]) -> Upstream:
    async def answer(request: Any) -> Any:
        return chat_answer("fine")

    return upstream(answer)


def damage(path: Path, table: str = "usage") -> int:
    """Overwrite all pages of a table but the first; return their number."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        (first,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
        pages = [first]
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)
    return len(pages)


def _until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def test_damaged_pages_stop_billable_calls_until_a_backup_is_restored(
    start_gateway: Start,  # noqa: F811
    healthy_upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(maintenance, "_CHECK_SECONDS", 0.2)
    home = tmp_path / "home"
    path = home / "modelyard.db"
    running = start_gateway(healthy_upstream, home=str(home))
    assert [chat(running).status for _ in range(20)] == [200] * 20
    running.flush()
    backup = backups.back_up(path)
    assert ask(running, "GET", "/health/ready").status == 200
    damage(path)
    assert _until(lambda: ask(running, "GET", "/health/ready").status == 503)
    assert "damaged" in ask(running, "GET", "/health/ready").json["problem"]
    for address, body, field in CALLS:
        refused = ask(running, "POST", address, body)
        assert (refused.status, field in refused.json) == (503, True), address
        assert str(home) not in refused.body.decode()
    assert ask(running, "GET", "/admin/v1/usage").status == 503
    assert len(healthy_upstream.requests) == 20
    running.close()

    aside = backups.restore(backup, path)
    assert aside is not None
    assert backups.check(aside) is not None  # the damaged file is kept
    restarted = start_gateway(healthy_upstream, home=str(home))
    assert ask(restarted, "GET", "/health/ready").status == 200
    assert chat(restarted).status == 200
    restarted.flush()
    assert _count(path) == 21


def test_rows_for_damaged_pages_wait_in_the_journal(tmp_path: Path):
    from modelyard.models.llm import LLMUsage
    from modelyard.models.types import ModelType
    from modelyard.runtime.invocation import Invocation
    from modelyard.runtime.ledger import Ledger, LedgerUnavailableError
    from tests.unit.storage.test_database import add

    path = tmp_path / "x.db"
    database = Database(path)
    ledger = Ledger(database, tmp_path / "ledger")
    add(ledger, "t", "m", "1")
    database.flush().result(5)
    backup = backups.back_up(path)
    call = Invocation(
        tenant="t", provider="p", model="m", model_type=ModelType.LLM, request=None
    )
    opened = ledger.begin(call, attempt=1, created_at=2.0)
    damage(path)
    assert database.check() is not None
    with pytest.raises(LedgerUnavailableError, match="damaged"):
        ledger.begin(call, attempt=2, created_at=2.0)
    ledger.settle(
        opened, status="ok", usage=LLMUsage.of(1, 2), counted_by="provider", price_version="", latency=0.1,
        first_chunk=None,
    )  # fmt: skip
    with pytest.raises(StorageUnavailableError):
        database.submit(lambda connection: connection.execute("SELECT 1")).result(5)
    database.close()
    ledger.close()
    backups.restore(backup, path)
    restored_database = Database(path)
    recovered = Ledger(restored_database, tmp_path / "ledger")
    asyncio.run(recovered.recover())
    assert len(asyncio.run(recovered.usage.recent("t"))) == 2
    recovered.close()
    restored_database.close()


def test_a_repaired_database_is_used_without_a_restart(tmp_path: Path):
    path = tmp_path / "x.db"
    database = Database(path)
    add = "INSERT INTO revisions (name, value) VALUES (?, 1)"
    database.submit(lambda connection: connection.execute(add, ("before",))).result(5)
    backup = backups.back_up(path)
    damage(path)
    assert database.check() is not None
    pending_write = database.submit(
        lambda connection: connection.execute(add, ("during",)), is_retried=True
    )
    for file in backups.files_of(path):
        file.unlink()
    backups.restore(backup, path)
    assert database.check() is None
    assert database.damage is None
    pending_write.result(10)
    names = {row["name"] for row in database.read("SELECT name FROM revisions")}
    assert {"before", "during"} <= names
    database.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but a text that is long enough" * 100, None]
)
def test_a_damaged_database_is_reported_at_startup_with_advice(
    tmp_path: Path, content: bytes | None
):
    path = tmp_path / "modelyard.db"
    Database(path).close()
    if content is None:
        damage(path, "resources")
        data = bytearray(path.read_bytes())
        data[100:4096] = b"\x11" * 3996  # the page of the schema
        path.write_bytes(data)
    else:
        path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"(malformed|not a database|damaged).*database restore"
    ):
        Database(path)
    environ = {"MODELYARD_HOME": str(tmp_path), "MODELYARD_LOCAL__ENABLED": "false"}
    result = CliRunner().invoke(doctor, ["--json"], env=environ, standalone_mode=False)
    finding = next(
        diagnosis
        for diagnosis in json.loads(result.stdout)
        if diagnosis["what"] == "database"
    )
    assert (finding["ok"], "restore" in finding["remedy"]) == (False, True)
    checked = CliRunner().invoke(
        commands, ["check", "--json"], env=environ, standalone_mode=False
    )
    assert json.loads(checked.stdout)["ok"] is False


def test_reads_of_damaged_pages_are_503(tmp_path: Path):
    path = tmp_path / "x.db"
    database = Database(path)
    damage(path)
    with pytest.raises(StorageUnavailableError, match="damaged"):
        database.read("SELECT * FROM usage")
    with pytest.raises(StorageUnavailableError), database.connection() as connection:
        connection.execute("SELECT * FROM usage")
    assert database.damage is not None
    database.close()


def test_restoring_needs_a_valid_backup_and_a_stopped_server(
    tmp_path: Path,
):
    path = tmp_path / "modelyard.db"
    database = Database(path)
    backup = backups.back_up(path)
    assert backup.stat().st_mode & 0o777 == 0o600
    environ = {"MODELYARD_HOME": str(tmp_path), "MODELYARD_LOCAL__ENABLED": "false"}

    def command(*arguments: str) -> Any:
        return CliRunner().invoke(
            commands, [*arguments], env=environ, standalone_mode=False
        )

    assert command("restore").output.split() == [str(backup)]
    for invalid_path, message in (
        ("nothing.db", "does not exist"),
        (__file__, "damaged too"),
    ):
        assert message in str(command("restore", invalid_path).exception)
    with (tmp_path / "serve.lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "stop it first" in str(command("restore", str(backup)).exception)
    database.close()
    restored = command("restore", str(backup))
    assert restored.exit_code == 0
    # As the help says: the previous database is in the folder of the backups.
    (previous,) = (path for path in backups.backups_of(path) if path != backup)
    assert str(previous) in restored.output
    assert previous.parent == path.parent / "backups"
    help_text = " ".join(command("restore", "--help").output.split())
    assert "moved to the folder `backups` under a new name" in help_text
    assert command("check").exit_code == 0
    elsewhere = tmp_path / "elsewhere.db"
    assert command("backup", str(elsewhere)).output.strip() == str(elsewhere)
    assert "already" in str(command("backup", str(elsewhere)).exception)
    environ["MODELYARD_DATABASE"] = "postgresql://u:secret@127.0.0.1:1/x"
    result = command("backup")
    assert "pg_dump" in str(result.exception)
    assert "secret" not in str(result.exception)


def test_a_full_disk_is_detected_before_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x.db"
    Database(path).close()
    monkeypatch.setattr(backups.shutil, "disk_usage", lambda folder: _Full())
    with pytest.raises(ConfigError, match="MB free"):
        backups.back_up(path)
    # The upgrade continues, and logs that there is no backup.
    assert backups.back_up_before_upgrade(path, 1) is None
    assert not backups.backups_of(path)


class _Full:
    free = 0


@pytest.fixture
def postgres(postgres_url: str) -> PostgresqlEngine:  # noqa: F811
    return PostgresqlEngine(postgres_url)


def test_postgresql_damage_errors_are_recognized(postgres: PostgresqlEngine):
    connection = postgres.connect()
    assert postgres.check(connection, lambda: False) is None
    for state in ("XX001", "XX002"):
        raised: Any = None
        try:
            connection.execute(
                f"DO $$ BEGIN RAISE EXCEPTION 'invalid page in block' USING ERRCODE = '{state}'; END $$"
            )
        except postgres.errors as error:
            raised = error
        assert postgres.is_damaged(raised)
        assert postgres.is_transient(raised)
    postgres._failures = -1  # as if there were new failures
    assert "checksums" in (postgres.check(connection, lambda: False) or "")
    connection.close()
