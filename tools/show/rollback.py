"""Upgrade and back: an older release's database with rows in every table is brought up to date, and restored again.

The older release is the real one, out of this repository's history; it runs before the upgrade and after the way back.
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
"""The last commit before the schema's ninth migration."""
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
    """Table → its columns, without what the upgrade keeps for itself."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')]
        for name in names
        if name != "migrations" and not name.startswith("sqlite_")
    }


def _digests(path: Path, columns: Mapping[str, list[str]]) -> Digests:
    """Table → how many rows, and a digest of these columns of them."""
    found: dict[str, tuple[int, str]] = {}
    with closing(sqlite3.connect(path)) as connection:
        here = _tables(connection)
        for table, wanted in columns.items():
            if table not in here:
                found[table] = 0, "gone"
                continue
            chosen = ", ".join(f'"{one}"' for one in wanted if one in here[table])
            rows = sorted(repr(row) for row in connection.execute(f'SELECT {chosen} FROM "{table}"'))
            found[table] = len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return found


def _fill(path: Path) -> int:
    """Add rows to every table, whatever its columns; how many tables took them."""
    filled = 0
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in _tables(connection):
            about = list(connection.execute(f'PRAGMA table_info("{table}")'))
            statement = f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(about))})'
            added = 0
            for number in range(_ROWS):
                try:
                    connection.execute(statement, [_value(column, number) for column in about])
                    added += 1
                except sqlite3.IntegrityError:  # a rule of that table's own
                    continue
            filled += added > 0
    return filled


def _value(column: tuple[Any, ...], number: int) -> Any:
    _, name, kind, *_ = column
    match kind:
        case "INTEGER":
            return number % 2 if name.startswith(("is_", "has_")) else 1_000_000 + number
        case "REAL":
            return 1_700_000_000.25 + number
        case "BLOB":
            return bytes([number % 256]) * 12
        case _:
            return "0.25" if "price" in name else f"{name}-{number}"


def _column_sets(path: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as connection:
        return _tables(connection)


def _with_migrations(path: Path, last: int) -> None:
    known, shipped = [one for one in migrations() if one[0] <= last], schema.migrations
    schema.migrations = lambda: known
    try:
        Database(path).close()
    finally:
        schema.migrations = shipped
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE migrations")  # there was none then


def _from_each_schema(folder: Path, proof: Proof) -> None:
    """Rows of every earlier schema are there after the upgrade."""
    rows, lost, changed = 0, 0, 0
    newest = migrations()[-1][0]
    for last in range(1, newest):
        path = folder / f"schema-{last}.db"
        _with_migrations(path, last)
        _fill(path)
        columns = _column_sets(path)
        if last < 4:  # since then an attempt's id and price are kept in other words
            columns["usage"] = ["invocation", "tenant", "created_at", "provider", "model", "prompt_tokens", "latency"]
        before = _digests(path, columns)
        Database(path).close()
        after = _digests(path, columns)
        rows += sum(count for count, _ in before.values())
        lost += sum(max(0, count - after[table][0]) for table, (count, _) in before.items())
        changed += sum(after[table] != seen for table, seen in before.items() if table != "revisions")
    proof.line(f"rows of schemas 1 to {newest - 1}, upgraded to {newest}", rows, rows > 1000)
    proof.line("of these, rows lost", lost, lost == 0)
    proof.line("tables whose rows changed", changed, changed == 0)
    proof.figures |= {"rows": rows, "lost": lost}


class _Release:
    """Commands of the older code."""

    def __init__(self, source: Path, environ: Mapping[str, str]) -> None:
        self.environ = {**environ, "PYTHONPATH": str(source / "src")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelyard", *arguments]
        environ = {**os.environ, **self.environ}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd="/")


def _old_source(folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", _OLD, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    return folder


def _chats(port: int, count: int) -> int:
    body = {"model": "own/m", "messages": [{"role": "user", "content": "hi"}]}
    return sum(ask(port, "POST", "/v1/chat/completions", body, OWNER)[0] == 200 for _ in range(count))


def _usage(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def prove() -> Proof:
    proof = Proof()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-show-")))
        _from_each_schema(folder, proof)
        upstream = stack.enter_context(TruthfulUpstream())
        home = folder / "home"
        home.mkdir()
        (home / "modelyard.yaml").write_text(SETTINGS.format(owner=OWNER, url=upstream.url))
        path, environ = home / "modelyard.db", {"MODELYARD_HOME": str(home)}
        old = _Release(_old_source(folder / "old"), environ)
        port = free_port()
        with running(serve_command(), port, environ=old.environ, cwd=Path("/")):
            served = _chats(port, _CALLS)
            time.sleep(0.5)
        proof.line("calls that the older release served", served, served == _CALLS)
        filled = _fill(path)
        columns = _column_sets(path)
        before = _digests(path, columns)
        proof.line("tables with rows", f"{filled} of {len(columns)}", filled >= len(columns) - 2)

        new = _Release(ROOT, environ)
        upgraded = new.run("tenants", "list", "--json")
        after = _digests(path, columns)
        same = sum(after[table] == seen for table, seen in before.items())
        proof.line("the newer release upgrades it", f"exit {upgraded.returncode}", upgraded.returncode == 0)
        proof.line("tables with the same rows", f"{same} of {len(before)}", same == len(before))
        made = backups_of(path)
        mode = made[0].stat().st_mode & 0o777 if made else 0
        proof.line("a backup from before", f"{len(made)}, mode {mode:o}", len(made) == 1 and mode == 0o600)

        refused = old.run("tenants", "list")
        says = "newer Modelyard" in refused.stderr
        proof.line("the older release refuses the newer database", f"exit {refused.returncode}", says)
        restored = new.run("database", "restore", str(made[0])) if made else upgraded
        back = _digests(path, columns)
        same = sum(back[table] == seen for table, seen in before.items())
        proof.line("the backup is restored", f"exit {restored.returncode}", restored.returncode == 0)
        proof.line("tables as they were", f"{same} of {len(before)}", same == len(before))
        _old_goes_on(proof, old, path, port, before["usage"][0])
    return proof


def _old_goes_on(proof: Proof, old: _Release, path: Path, port: int, before: int) -> None:
    """The older release runs on what was restored."""
    listed = old.run("usage", "--json")
    calls = sum(one["calls"] for one in json.loads(listed.stdout)) if listed.returncode == 0 else 0
    proof.line("the older release reads its calls again", calls, calls == _CALLS)
    if listed.returncode:
        proof.line("and goes on", listed.stderr.strip(), ok=False)
        return
    with running(serve_command(), port, environ=old.environ, cwd=Path("/")):
        served = _chats(port, 5)
        time.sleep(0.5)
    count = _usage(path)
    proof.line("and goes on", f"{served} calls, {count} rows", served == 5 and count == before + 5)
