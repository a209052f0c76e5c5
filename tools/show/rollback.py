"""Upgrade and rollback: the database of an older release, with rows in every table, is
upgraded and then restored.

The older release is the real code from the history of this repository. It runs before
the upgrade and after the restore.
"""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from modelyard.storage import schema
from modelyard.storage.backups import backups_of
from modelyard.storage.database import Database, migrations
from tools.show.proof import ROOT, Proof, free_port, running, serve_command
from tools.show.rotate import ask
from tools.show.truth_log import TruthfulUpstream

_OLD = "a2462c6^"
"""Revision of the older release: the last commit before the ninth schema migration."""
_ROWS = 40
_CALLS = 25
OWNER = "owner-key-0123456789"
SETTINGS = """
api_keys: ["{owner}"]
local: {{enabled: false}}
plugins: {{debug_port: 0}}
providers:
  - name: own
    base_url: "{url}"
    credentials: [{{values: {{api_key: sk-own}}}}]
    models: [{{name: m, input_price: 1, output_price: 1}}]
"""
Digests = Mapping[str, tuple[int, str]]


def _tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return table to column names, without the upgrade's own bookkeeping table."""
    names = [
        row[0]
        for row in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        )
    ]
    return {
        name: [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')]
        for name in names
        if name != "migrations" and not name.startswith("sqlite_")
    }


def _digests(path: Path, columns: Mapping[str, list[str]]) -> Digests:
    """Return table to (row count, digest over the given columns of all rows)."""
    digests: dict[str, tuple[int, str]] = {}
    with closing(sqlite3.connect(path)) as connection:
        current_columns = _tables(connection)
        for table, column_names in columns.items():
            if table not in current_columns:
                digests[table] = 0, "gone"
                continue
            # Compare only columns that exist on both sides: an upgrade may add or drop
            # some.
            column_list = ", ".join(
                f'"{column}"'
                for column in column_names
                if column in current_columns[table]
            )
            rows = sorted(
                repr(row)
                for row in connection.execute(f'SELECT {column_list} FROM "{table}"')
            )
            digests[table] = (
                len(rows),
                hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            )
    return digests


def _fill(path: Path) -> int:
    """Add rows to every table, from the declared types of its columns; return how many
    tables accepted some."""
    filled = 0
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in _tables(connection):
            columns = list(connection.execute(f'PRAGMA table_info("{table}")'))
            statement = (
                f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})'
            )
            added = 0
            for number in range(_ROWS):
                try:
                    connection.execute(
                        statement, [_value(column, number) for column in columns]
                    )
                    added += 1
                except sqlite3.IntegrityError:  # a rule of that table's own
                    continue
            filled += added > 0
    return filled


def _value(column: tuple[Any, ...], number: int) -> Any:
    """Return a value for a column, distinct for each row number, that fits its declared
    type."""
    _, name, declared_type, *_ = column
    match declared_type:
        case "INTEGER":
            return (
                number % 2 if name.startswith(("is_", "has_")) else 1_000_000 + number
            )
        case "REAL":
            return 1_700_000_000.25 + number
        case "BLOB":
            return bytes([number % 256]) * 12
        case _:
            return "0.25" if "price" in name else f"{name}-{number}"


def _column_sets(path: Path) -> dict[str, list[str]]:
    """Return table to column names of the database at `path`."""
    with closing(sqlite3.connect(path)) as connection:
        return _tables(connection)


def _create_at_schema(path: Path, last: int) -> None:
    """Create a database that has only the migrations up to number `last`."""
    applied_migrations, shipped = (
        [migration for migration in migrations() if migration[0] <= last],
        schema.migrations,
    )
    # The database reads its migrations through the module, so replace them there for a
    # moment.
    schema.migrations = lambda: applied_migrations
    try:
        Database(path).close()
    finally:
        schema.migrations = shipped
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE migrations")  # there was none then


def _check_all_schemas(folder: Path, proof: Proof) -> None:
    """Check that rows of every earlier schema survive the upgrade."""
    rows, lost_rows, changed = 0, 0, 0
    newest = migrations()[-1][0]
    for last in range(1, newest):
        path = folder / f"schema-{last}.db"
        _create_at_schema(path, last)
        _fill(path)
        columns = _column_sets(path)
        if last < 4:  # since then an attempt's id and price are kept in other words
            columns["usage"] = [
                "invocation",
                "tenant",
                "created_at",
                "provider",
                "model",
                "prompt_tokens",
                "latency",
            ]
        digests_before = _digests(path, columns)
        Database(path).close()
        digests_after = _digests(path, columns)
        # Revisions are counters that the upgrade itself increments, so their rows may
        # change.
        rows += sum(count for count, _ in digests_before.values())
        lost_rows += sum(
            max(0, count - digests_after[table][0])
            for table, (count, _) in digests_before.items()
        )
        changed += sum(
            digests_after[table] != digest
            for table, digest in digests_before.items()
            if table != "revisions"
        )
    proof.line(
        f"rows of schemas 1 to {newest - 1}, upgraded to {newest}", rows, rows > 1000
    )
    proof.line("of these, rows lost", lost_rows, lost_rows == 0)
    proof.line("tables whose rows changed", changed, changed == 0)
    proof.figures |= {"rows": rows, "lost": lost_rows}


class _Release:
    """Runs commands of one release."""

    def __init__(self, source: Path, environ: Mapping[str, str]) -> None:
        self.environ = {**environ, "PYTHONPATH": str(source / "src")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `modelyard` command of this release and return the completed process."""
        command = [sys.executable, "-m", "modelyard", *arguments]
        environ = {**os.environ, **self.environ}
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, cwd="/"
        )


def _old_source(folder: Path) -> Path:
    """Extract the source of the older release into `folder`."""
    archive = subprocess.run(
        ["git", "archive", _OLD, "src"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    folder.mkdir()
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    return folder


def _chats(port: int, count: int) -> int:
    """Send so many chat requests and return how many succeeded."""
    body = {"model": "own/m", "messages": [{"role": "user", "content": "hi"}]}
    return sum(
        ask(port, "POST", "/v1/chat/completions", body, OWNER)[0] == 200
        for _ in range(count)
    )


def _usage(path: Path) -> int:
    """Return the number of rows in the usage ledger."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def prove() -> Proof:
    """Run the older release, upgrade its database, refuse the older release, restore
    the backup and run it again."""
    proof = Proof()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-show-"))
        )
        _check_all_schemas(folder, proof)
        upstream = stack.enter_context(TruthfulUpstream())
        home = folder / "home"
        home.mkdir()
        (home / "modelyard.yaml").write_text(
            SETTINGS.format(owner=OWNER, url=upstream.url)
        )
        path, environ = home / "modelyard.db", {"MODELYARD_HOME": str(home)}
        old = _Release(_old_source(folder / "old"), environ)
        port = free_port()
        with running(serve_command(), port, environ=old.environ, cwd=Path("/")):
            served = _chats(port, _CALLS)
            time.sleep(0.5)
        proof.line("calls that the older release served", served, served == _CALLS)
        _check_rollback(proof, old, _Release(ROOT, environ), path, port)
    return proof


def _check_rollback(
    proof: Proof, old: _Release, new: _Release, path: Path, port: int
) -> None:
    """Upgrade the database at `path`, restore its backup and run the older release."""
    filled = _fill(path)
    columns = _column_sets(path)
    before = _digests(path, columns)
    proof.line(
        "tables with rows", f"{filled} of {len(columns)}", filled >= len(columns) - 2
    )
    upgraded = new.run("tenants", "list", "--json")
    exit_code = upgraded.returncode
    proof.line("the newer release upgrades it", f"exit {exit_code}", exit_code == 0)
    _report_unchanged(
        proof, "tables with the same rows", before, _digests(path, columns)
    )
    # The upgrade must leave one backup of the older database, readable by its owner
    # alone.
    backups = backups_of(path)
    mode = backups[0].stat().st_mode & 0o777 if backups else 0
    proof.line(
        "a backup of the older database",
        f"{len(backups)}, mode {mode:o}",
        len(backups) == 1 and mode == 0o600,
    )
    # An older release must not touch a newer schema.
    refused = old.run("tenants", "list")
    proof.line(
        "the older release refuses the newer database",
        f"exit {refused.returncode}",
        "newer Modelyard" in refused.stderr,
    )
    restored = new.run("database", "restore", str(backups[0])) if backups else upgraded
    exit_code = restored.returncode
    proof.line("the backup is restored", f"exit {exit_code}", exit_code == 0)
    _report_unchanged(
        proof, "tables as before the upgrade", before, _digests(path, columns)
    )
    _check_old_release(proof, old, path, port, before["usage"][0])


def _report_unchanged(
    proof: Proof, label: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Report how many tables have the same digest as before."""
    unchanged = sum(after[table] == digest for table, digest in before.items())
    proof.line(label, f"{unchanged} of {len(before)}", unchanged == len(before))


def _check_old_release(
    proof: Proof, old: _Release, path: Path, port: int, rows_before: int
) -> None:
    """Check that the older release reads and extends the restored database."""
    listed = old.run("usage", "--json")
    calls = (
        sum(usage_row["calls"] for usage_row in json.loads(listed.stdout))
        if listed.returncode == 0
        else 0
    )
    proof.line("the older release reads its calls again", calls, calls == _CALLS)
    if listed.returncode:
        proof.line("and continues to serve", listed.stderr.strip(), ok=False)
        return
    with running(serve_command(), port, environ=old.environ, cwd=Path("/")):
        served = _chats(port, 5)
        time.sleep(0.5)
    count = _usage(path)
    proof.line(
        "and continues to serve",
        f"{served} calls, {count} rows",
        served == 5 and count == rows_before + 5,
    )
