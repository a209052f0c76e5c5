"""Restart with a large ledger: SIGKILL under load, a restart, 256 callers at once.
Measures who waits and whether limits stay exact.

MODELYARD_SHOW_ROWS is the number of rows (default 1,000,000). MODELYARD_SHOW_LEDGERS is
a folder in which the SQLite ledger is stored for reuse (100,000,000 rows need about 40
GB while it is created). PostgreSQL gets at most 1,000,000 rows. The rows have no sums
when they are created: the server sums up the ledger itself, as after an upgrade from a
release without sums, and that is measured too.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import InvokeError
from modelyard.runtime.ledger import Ledger
from modelyard.storage.database import Database
from modelyard.transport.http import HttpClient, Timeouts
from tools.show.proof import Proof, free_port, modelyard
from tools.show.servers import Postgres
from tools.show.truth_log import (
    TruthfulUpstream,
    home_with,
    kill,
    server_forker,
    wait_until_healthy,
)

_CALLERS = 256
_LOAD_CALLERS = 32
_LOAD_SECONDS = 1.5
_HEADROOM = {"key": 260, "user": 270, "model": 280, "tenant": 1500}
"""Calls that each limit still admits beyond the rows that exist."""
_CHUNK = 1_000_000
_TOKENS_IN, _TOKENS_OUT = 7, 11
_ADA, _MODEL, _OTHER = "ada", "gpt-5", "gpt-5-mini"
_MAX_POSTGRES_ROWS = 1_000_000

# Values are computed from the row number `i`, so the amounts that limits count are
# known by arithmetic. Rows are in the order of every index, so that indexes only grow
# at their end.
_INSERT = """
INSERT INTO usage (id, invocation, attempt, tenant, api_key, "user", created_at, day, provider, model, model_type,
                   credential, credential_id, status, counted_by, prompt_tokens, completion_tokens, cached_tokens,
                   cache_write_tokens, reasoning_tokens, characters, seconds, searches, total_price, nanos, currency,
                   price_source, price_version, latency, first_chunk)
{numbers}
SELECT {name} || '.1', {name}, 1, 'default', CASE WHEN i % 4 = 0 THEN '{key}' ELSE '{other_key}' END,
       CASE WHEN i % 5 = 0 THEN 'ada' ELSE 'user-' || (i % 997) END, at, {day}, 'openai',
       CASE WHEN i % 3 = 0 THEN 'gpt-5' ELSE 'gpt-5-mini' END, 'llm', 'credential-1', 'default/openai/1', 'ok',
       'provider', 7, 11, 0, 0, 0, 0, 0.0, 0, '0.000001', 1000, 'USD', 'catalogue', '', 0.5, 0.1
FROM (SELECT i, {since} + (i - {begin}) * {step} AS at FROM numbers) AS placed
"""
_SQLITE_NUMBERS = """
WITH RECURSIVE numbers (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM numbers WHERE i < {last})
"""
_SQLITE_DAY, _POSTGRES_DAY = "CAST(at / 86400 AS INTEGER)", "FLOOR(at / 86400)::bigint"
_POSTGRES_NUMBERS = "WITH numbers (i) AS (SELECT generate_series({first}, {last}))"
_INDEXES = ("usage_by_tenant_and_time", "usage_by_invocation")


@dataclass
class SeededLedger:
    """A generated ledger and the facts about its contents."""

    rows: int
    month: str
    until: float
    """Seconds since 1970. All generated rows are older; rows of real calls are newer.
    """
    keys: dict[str, tuple[str, str]]
    """Key name to (key id, secret)."""

    def base(self) -> dict[str, int]:
        """Return how much of each limit this month's generated rows use."""
        # The second half of the rows belongs to this month.
        first, last = self.rows // 2, self.rows
        return {
            "key": _multiples(4, first, last),
            "user": _multiples(5, first, last),
            "model": _multiples(3, first, last),
            "tenant": last - first,
        }


def _multiples(of: int, first: int, last: int) -> int:
    """Return how many multiples of `of` lie in [first, last)."""
    return (last + of - 1) // of - (first + of - 1) // of


def say(text: str) -> None:
    """Print progress to stderr at once."""
    print(text, file=sys.stderr, flush=True)


# Creating a ledger


def current_month() -> tuple[str, float]:
    """Return the current month as YYYY-MM and its start in seconds since 1970 (UTC)."""
    current_time = datetime.now(UTC)
    month_start = current_time.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return current_time.strftime("%Y-%m"), month_start.timestamp()


def spans(
    rows: int, month_start: float, until: float
) -> Iterator[tuple[int, int, float, float]]:
    """Yield (first number, one past the last, timestamp of the first, seconds between
    two) for two halves.

    Half of the rows are in the two months before, half in this month.
    """
    half = rows // 2
    yield 0, half, month_start - 61 * 86_400, 60 * 86_400 / max(1, half)
    yield half, rows, month_start, (until - month_start) / max(1, rows - half)


def inserts(
    ledger: SeededLedger, month_start: float, numbers: str, name: str, day: str
) -> Iterator[tuple[int, str]]:
    """Yield (rows so far, statement); each statement inserts at most `_CHUNK` rows."""
    keys = {"key": ledger.keys["k1"][0], "other_key": ledger.keys["k2"][0]}
    for start, end, since, step in spans(ledger.rows, month_start, ledger.until):
        for first in range(start, end, _CHUNK):
            last = min(end, first + _CHUNK) - 1
            numbers_sql = numbers.format(first=first, last=last)
            yield (
                last + 1,
                _INSERT.format(
                    numbers=numbers_sql,
                    name=name,
                    day=day,
                    since=since,
                    begin=start,
                    step=step,
                    **keys,
                ),
            )


def fill_sqlite(path: Path, ledger: SeededLedger, month_start: float) -> None:
    """Fill the SQLite ledger with the rows, as fast as possible and without crash
    safety."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (
        "journal_mode=OFF",
        "synchronous=OFF",
        "locking_mode=EXCLUSIVE",
        "cache_size=-400000",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("PRAGMA threads=2")
    # Insert without indexes and create them afterwards, which is several times faster.
    indexes = [
        connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = ?", (name,)
        ).fetchone()[0]
        for name in _INDEXES
    ]
    for name in _INDEXES:
        connection.execute(f"DROP INDEX {name}")
    started_at = time.monotonic()
    connection.execute("BEGIN")
    for inserted_rows, statement in inserts(
        ledger, month_start, _SQLITE_NUMBERS, "'g' || (10000000000 + i)", _SQLITE_DAY
    ):
        connection.execute(statement)
        progress("rows", inserted_rows, ledger.rows, started_at)
    connection.execute("COMMIT")
    for text in indexes:
        say(f"{text[:60]}…")
        connection.execute(text)
    # Marks every row up to a far future time as not summed yet, as a ledger of an older
    # release is.
    connection.execute(
        "INSERT INTO usage_unsummed (tenant, until) VALUES ('default', 1e15)"
    )
    connection.close()


def fill_postgres(url: str, ledger: SeededLedger, month_start: float) -> None:
    """Fill the PostgreSQL ledger with the rows; indexes are dropped meanwhile."""
    import psycopg

    started_at = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        index_rows = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'usage'"
        ).fetchall()
        definitions = [text for name, text in index_rows if name in _INDEXES]
        for name in _INDEXES:
            connection.execute(f"DROP INDEX {name}")  # type: ignore[arg-type]
        for inserted_rows, statement in inserts(
            ledger,
            month_start,
            _POSTGRES_NUMBERS,
            "'g' || (10000000000 + i)",
            _POSTGRES_DAY,
        ):
            connection.execute(statement)  # type: ignore[arg-type]
            progress("rows", inserted_rows, ledger.rows, started_at)
        for text in definitions:
            connection.execute(text)
        # Marks every row as not summed yet, as in a ledger of an older release.
        connection.execute(
            "INSERT INTO usage_unsummed (tenant, until) VALUES ('default', 1e15)"
        )
        connection.execute("ANALYZE usage")


def progress(label: str, completed_count: int, of: int, started_at: float) -> None:
    """Print how much is done and the rate per second."""
    seconds = time.monotonic() - started_at
    say(
        f"{label}: {completed_count:,} of {of:,} in {seconds:,.0f} s, {completed_count / max(0.001, seconds):,.0f} a second"
    )


def create_ledger(home: Path, database: str, rows: int) -> SeededLedger:
    """Create the schema and two API keys in `home`, then fill the ledger."""
    month, month_start = current_month()
    environ = {"MODELYARD_HOME": str(home)} | (
        {"MODELYARD_DATABASE": database} if "://" in database else {}
    )
    keys: dict[str, tuple[str, str]] = {}
    # The command also creates the schema of the database.
    for name in ("k1", "k2"):
        created_key = json.loads(
            modelyard(
                "keys", "create", name, "--role", "owner", "--json", environ=environ
            )
        )
        keys[name] = created_key["id"], created_key["key"]
    # One second in the past, so that no generated row is newer than a call that
    # follows.
    ledger = SeededLedger(rows, month, time.time() - 1.0, keys)
    if "://" in database:
        fill_postgres(database, ledger, month_start)
    else:
        fill_sqlite(Path(database), ledger, month_start)
    return ledger


async def sum_ledger(database: str, rows: int) -> float:
    """Sum up the rows that have no sums yet; return the seconds that it took."""
    started_at, opened = time.monotonic(), Database(database)
    sums, turns = Ledger(opened).sums, 0
    while await sums.sum_next_span(time.time()):
        turns += 1
        if turns % 5 == 0:
            progress("added up", min(rows, turns * 200_000), rows, started_at)
    await asyncio.to_thread(opened.close)
    return time.monotonic() - started_at


# Callers


@dataclass
class Group:
    """Callers that reach the same limit."""

    name: str
    key: str
    user: str
    model: str
    statuses: list[int] = field(default_factory=list[int])


@dataclass
class Load:
    """Callers of one server, in groups, with the durations and unexpected responses
    that they saw."""

    port: int
    groups: Sequence[Group]
    times: list[float] = field(default_factory=list[float])
    other: list[str] = field(default_factory=list[str])

    async def send_call(self, client: HttpClient, group: Group, number: str) -> int:
        """Send one request and return its status; 0 if the connection failed."""
        body = {
            # A group without a fixed user sends a new user with each call, so the user
            # limit does not stop it.
            "model": f"openai/{group.model}",
            "user": group.user or f"{group.name}-{number}",
            "messages": [{"role": "user", "content": "Say forty words."}],
            "max_tokens": 50,
        }
        started_at = time.monotonic()
        try:
            response = await client.send(
                "POST",
                f"http://127.0.0.1:{self.port}/v1/chat/completions",
                headers={
                    "content-type": "application/json",
                    "authorization": f"Bearer {group.key}",
                },
                body=[msgspec.json.encode(body)],
                timeouts=Timeouts(connect=30, first_byte=120, between_bytes=120),
            )
            response_body = await response.read(max_bytes=1 << 20)
        except InvokeError:
            return 0
        self.times.append(time.monotonic() - started_at)
        if response.status not in (200, 429):
            self.other.append(response_body.decode()[:200])
        group.statuses.append(response.status)
        return response.status

    async def at_once(self) -> None:
        """Send one request from every caller at the same moment."""
        client = HttpClient(keep_idle=_CALLERS, max_connections=_CALLERS)
        calls = [
            (group, number)
            for number in range(_CALLERS // len(self.groups))
            for group in self.groups
        ]
        await asyncio.gather(
            *(self.send_call(client, group, f"once{number}") for group, number in calls)
        )
        await client.aclose()

    async def until_refused(self, callers: int, max_seconds: float) -> None:
        """Let each caller continue until it was refused three times or the time is
        over."""
        client = HttpClient(keep_idle=0)
        until = time.monotonic() + max_seconds

        async def go_on(group: Group, number: int) -> None:
            """Send calls from one caller, with a short pause after each that was not
            served."""
            refusals = call_number = 0
            while refusals < 3 and time.monotonic() < until:
                call_number += 1
                status = await self.send_call(client, group, f"{number}-{call_number}")
                refusals += status == 429
                if status != 200:
                    await asyncio.sleep(0.02)

        await asyncio.gather(
            *(
                go_on(self.groups[index % len(self.groups)], index)
                for index in range(callers)
            )
        )
        await client.aclose()


# Checking the result


def new_rows(database: str, ledger: SeededLedger) -> dict[str, int]:
    """Return the number of calls since the ledger was created, by limit."""
    opened = Database(database)
    rows = opened.read(
        'SELECT api_key, "user", model FROM usage WHERE tenant = :tenant AND created_at > :until AND attempt = 1',
        {"tenant": "default", "until": ledger.until},
    )
    opened.close()
    return {
        "key": sum(row["api_key"] == ledger.keys["k1"][0] for row in rows),
        "user": sum(row["user"] == _ADA for row in rows),
        "model": sum(row["model"] == _MODEL for row in rows),
        "tenant": len(rows),
    }


def check_restart(
    proof: Proof, name: str, home: Path, database: str, ledger: SeededLedger
) -> None:
    """Load the server, kill it with SIGKILL, restart it, send 256 calls at once and
    continue until every limit is reached."""
    calls_before, base = new_rows(database, ledger), ledger.base()
    # Each limit is set to what is used already plus a small room, so it is reached
    # within this run.
    amounts = {
        limit_name: base[limit_name] + calls_before[limit_name] + room
        for limit_name, room in _HEADROOM.items()
    }
    with TruthfulUpstream(latency=0.05) as upstream:
        extra_settings = {"database": database} if "://" in database else {}
        limits = _limit_settings(amounts, ledger.keys["k1"][0])
        environ = home_with(home, upstream.url, limits=limits, **extra_settings)
        started, load = _restart_under_load(environ, upstream, _groups(ledger))
        served = len(upstream.served)
    calls_after = new_rows(database, ledger)
    _report_start(proof, name, started, load)
    # Exactly the amount may be used: one call less or more is a failure.
    for limit_name, amount in amounts.items():
        used = base[limit_name] + calls_after[limit_name]
        proof.line(
            f"{name}: limit of the {limit_name}, used of it",
            f"{amount:,}, {used:,}",
            used == amount,
        )
    rows = calls_after["tenant"] - calls_before["tenant"]
    # A call that the server died in may have been reserved but not served; such calls
    # still have a row.
    proof.line(
        f"{name}: served by the provider, rows in the ledger",
        f"{served:,}, {rows:,} (some calls were killed before they were sent)",
        0 <= rows - served <= _LOAD_CALLERS,
    )
    proof.figures[name] |= {"rows": ledger.rows, "served": served}


def _limit_settings(amounts: dict[str, int], key: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the limits: of a key, a user, a model and the tenant."""
    scopes: dict[str, dict[str, str]] = {
        "key": {"per": "key", "key": key},
        "user": {"per": "user", "user": _ADA},
        "model": {"per": "model", "model": f"openai/{_MODEL}"},
        "tenant": {},
    }
    return {
        name: {
            "unit": "requests",
            "amount": amounts[name],
            "window": "month",
            **scope,
        }
        for name, scope in scopes.items()
    }


def _groups(ledger: SeededLedger) -> list[Group]:
    """Return one group of callers for each limit."""
    k1, k2 = ledger.keys["k1"], ledger.keys["k2"]
    return [
        Group("key", k1[1], "", _OTHER),
        Group("user", k2[1], _ADA, _OTHER),
        Group("model", k2[1], "", _MODEL),
        Group("tenant", k2[1], "", _OTHER),
    ]


@dataclass(frozen=True, slots=True)
class _FirstCalls:
    """The calls that were sent at once after the restart."""

    times: list[float]
    """Seconds to each response, sorted."""
    other: list[str]
    """Responses with a status other than 200 and 429, of all calls."""


def _restart_under_load(
    environ: dict[str, str], upstream: TruthfulUpstream, groups: list[Group]
) -> tuple[float, _FirstCalls]:
    """Kill the server while callers are sending, and restart it; return the seconds
    that the start took, and the first calls afterwards."""
    port = free_port()
    with server_forker(environ) as servers:
        server = servers.start("serve", "--port", str(port))
        if not wait_until_healthy(port, seconds=120):
            raise RuntimeError("the server did not start")
        asyncio.run(_kill_under_load(upstream, server, Load(port, groups)))
        started_at = time.monotonic()
        server = servers.start("serve", "--port", str(port))
        if not wait_until_healthy(port, seconds=120):
            raise RuntimeError("the server did not start again")
        started = time.monotonic() - started_at
        load = Load(port, groups)
        asyncio.run(load.at_once())
        times = sorted(load.times)
        asyncio.run(load.until_refused(_LOAD_CALLERS * 2, 120))
        kill(server, 15)
    return started, _FirstCalls(times, load.other)


async def _kill_under_load(upstream: TruthfulUpstream, server: int, load: Load) -> None:
    """Kill the server while the callers are still sending."""
    calls = asyncio.create_task(load.until_refused(_LOAD_CALLERS, _LOAD_SECONDS))
    await asyncio.sleep(_LOAD_SECONDS * 0.8)
    await asyncio.to_thread(upstream.kill, server)
    await calls


def _report_start(proof: Proof, name: str, started: float, load: _FirstCalls) -> None:
    """Report how soon the server was ready, and how fast the first calls were."""
    times = load.times
    p99 = times[int(len(times) * 0.99) - 1] if times else 99.0
    proof.line(f"{name}: answers /health again after", f"{started:.2f} s", started < 10)
    proof.line(
        f"{name}: {len(times)} callers at once, first response, target 1 s",
        f"{times[0]:.3f} s",
        times[0] < 1,
    )
    proof.line(
        f"{name}: their p99, target 2 s",
        f"{p99:.3f} s",
        p99 < 2 and len(times) == _CALLERS,
    )
    proof.line(
        f"{name}: statuses other than 200 and 429",
        load.other[:1] or "none",
        not load.other,
    )
    proof.figures[name] = {
        "first_s": round(times[0], 3),
        "p99_s": round(p99, 3),
        "started_s": round(started, 2),
    }


# Both databases


@contextmanager
def ledger_home(rows: int) -> Iterator[Path]:
    """Yield the folder in which the ledger of this size is stored, or is to be created."""
    folder = os.environ.get("MODELYARD_SHOW_LEDGERS", "")
    if folder:
        home = Path(folder) / f"rows-{rows}"
        home.mkdir(parents=True, exist_ok=True)
        yield home
        return
    home = Path(tempfile.mkdtemp(prefix="modelyard-show-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def on_sqlite(proof: Proof, rows: int) -> None:
    """Run the check on SQLite, with a stored ledger if there is one of this month."""
    with ledger_home(rows) as home:
        note, database = home / "made.json", home / "modelyard.db"
        ledger = (
            msgspec.json.decode(note.read_bytes(), type=SeededLedger)
            if note.is_file()
            else None
        )
        # Limits are per month, so a ledger of an earlier month has to be created again.
        if ledger is None or ledger.month != current_month()[0]:
            for path in home.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            started_at = time.monotonic()
            ledger = create_ledger(home, str(database), rows)
            proof.line(
                f"SQLite: {rows:,} rows created in",
                f"{time.monotonic() - started_at:.0f} s",
            )
            seconds = asyncio.run(sum_ledger(str(database), rows))
            proof.line("SQLite: summed up, as after an upgrade, in", f"{seconds:.0f} s")
            # The note is written last: an interrupted creation leaves none and is
            # started over.
            note.write_bytes(msgspec.json.encode(ledger))
        check_restart(proof, "SQLite", home, str(database), ledger)


def on_postgres(proof: Proof, rows: int) -> None:
    """Run the check on a temporary PostgreSQL server."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        with Postgres(folder / "pg") as server:
            started_at = time.monotonic()
            ledger = create_ledger(home, server.url, rows)
            proof.line(
                f"PostgreSQL: {rows:,} rows created in",
                f"{time.monotonic() - started_at:.0f} s",
            )
            seconds = asyncio.run(sum_ledger(server.url, rows))
            proof.line(
                "PostgreSQL: summed up, as after an upgrade, in", f"{seconds:.0f} s"
            )
            check_restart(proof, "PostgreSQL", home, server.url, ledger)


def prove() -> Proof:
    """Run the check on both databases."""
    proof, rows = Proof(), int(os.environ.get("MODELYARD_SHOW_ROWS", "1000000"))
    on_sqlite(proof, rows)
    on_postgres(proof, min(rows, _MAX_POSTGRES_ROWS))
    return proof
