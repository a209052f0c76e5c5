"""A ledger of any size, kill -9 under load, a restart, 256 callers at once: who waits, and are limits exact?

MODELYARD_SHOW_ROWS says how many rows, 1,000,000 where nothing is said; MODELYARD_SHOW_LEDGERS names a folder in which
the ledger made for SQLite stays, so that it need not be made again (100,000,000 rows take about 40 GB while they are
made). PostgreSQL gets 1,000,000 at most. Its rows have no sums when they are made: the server's own way of adding up a
ledger of before there were sums is part of what is shown.
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

import msgspec

from modelyard.base.errors import InvokeError
from modelyard.runtime.ledger import Ledger
from modelyard.storage.database import Database
from modelyard.transport.http import HttpClient, Timeouts
from tools.show.proof import Proof, free_port, modelyard
from tools.show.servers import Postgres
from tools.show.truth_log import TruthfulUpstream, home_with, kill, ready, zygote

_CALLERS = 256
_LOAD_CALLERS = 32
_LOAD_SECONDS = 1.5
_ROOM = {"key": 260, "user": 270, "model": 280, "tenant": 1500}
"""So many calls more than its rows each limit admits."""
_CHUNK = 1_000_000
_TOKENS_IN, _TOKENS_OUT = 7, 11
_ADA, _MODEL, _OTHER = "ada", "gpt-5", "gpt-5-mini"
_MOST_POSTGRES = 1_000_000

# Each row's values by its number `i`; what limits count follows from that by arithmetic. Rows come in the order of
# every index, so that these grow at their end alone.
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
class Made:
    """A ledger that was made, and what stands in it."""

    rows: int
    month: str
    until: float
    """All its rows are older; those of calls are newer."""
    keys: dict[str, tuple[str, str]]
    """Name → (id, secret)."""

    def base(self) -> dict[str, int]:
        """What this month's rows come to for each limit."""
        first, last = self.rows // 2, self.rows
        return {
            "key": _multiples(4, first, last),
            "user": _multiples(5, first, last),
            "model": _multiples(3, first, last),
            "tenant": last - first,
        }


def _multiples(of: int, first: int, last: int) -> int:
    """How many there are from first on and below last."""
    return (last + of - 1) // of - (first + of - 1) // of


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ making a ledger


def month_now() -> tuple[str, float]:
    now = datetime.now(UTC)
    begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return now.strftime("%Y-%m"), begin.timestamp()


def spans(rows: int, begin: float, until: float) -> Iterator[tuple[int, int, float, float]]:
    """(first number, one after the last, seconds since 1970 of the first, seconds between two): half of the rows lie in
    the two months before, half in this one."""
    half = rows // 2
    yield 0, half, begin - 61 * 86_400, 60 * 86_400 / max(1, half)
    yield half, rows, begin, (until - begin) / max(1, rows - half)


def inserts(made: Made, begin: float, numbers: str, name: str, day: str) -> Iterator[tuple[int, str]]:
    """(rows so far, statement), so many rows each."""
    keys = {"key": made.keys["k1"][0], "other_key": made.keys["k2"][0]}
    for start, end, since, step in spans(made.rows, begin, made.until):
        for first in range(start, end, _CHUNK):
            last = min(end, first + _CHUNK) - 1
            chosen = numbers.format(first=first, last=last)
            yield (
                last + 1,
                _INSERT.format(numbers=chosen, name=name, day=day, since=since, begin=start, step=step, **keys),
            )


def fill_sqlite(path: Path, made: Made, begin: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-400000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("PRAGMA threads=2")
    indexes = [
        connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0] for name in _INDEXES
    ]
    for name in _INDEXES:
        connection.execute(f"DROP INDEX {name}")
    began = time.monotonic()
    connection.execute("BEGIN")
    for done, statement in inserts(made, begin, _SQLITE_NUMBERS, "'g' || (10000000000 + i)", _SQLITE_DAY):
        connection.execute(statement)
        progress("rows", done, made.rows, began)
    connection.execute("COMMIT")
    for text in indexes:
        say(f"{text[:60]}…")
        connection.execute(text)
    connection.execute("INSERT INTO usage_unsummed (tenant, until) VALUES ('default', 1e15)")
    connection.close()


def fill_postgres(url: str, made: Made, begin: float) -> None:
    import psycopg

    began = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'usage'").fetchall()
        definitions = [text for name, text in found if name in _INDEXES]
        for name in _INDEXES:
            connection.execute(f"DROP INDEX {name}")  # type: ignore[arg-type]
        for done, statement in inserts(made, begin, _POSTGRES_NUMBERS, "'g' || (10000000000 + i)", _POSTGRES_DAY):
            connection.execute(statement)  # type: ignore[arg-type]
            progress("rows", done, made.rows, began)
        for text in definitions:
            connection.execute(text)
        connection.execute("INSERT INTO usage_unsummed (tenant, until) VALUES ('default', 1e15)")
        connection.execute("ANALYZE usage")


def progress(what: str, done: int, of: int, began: float) -> None:
    seconds = time.monotonic() - began
    say(f"{what}: {done:,} of {of:,} in {seconds:,.0f} s, {done / max(0.001, seconds):,.0f} a second")


def make(home: Path, database: str, rows: int) -> Made:
    month, begin = month_now()
    environ = {"MODELYARD_HOME": str(home)} | ({"MODELYARD_DATABASE": database} if "://" in database else {})
    keys: dict[str, tuple[str, str]] = {}
    for name in ("k1", "k2"):
        told = json.loads(modelyard("keys", "create", name, "--role", "owner", "--json", environ=environ))
        keys[name] = told["id"], told["key"]
    made = Made(rows, month, time.time() - 1.0, keys)
    if "://" in database:
        fill_postgres(database, made, begin)
    else:
        fill_sqlite(Path(database), made, begin)
    return made


async def add_up(database: str, rows: int) -> float:
    """Have rows from before there were sums added up; the seconds that it took."""
    began, opened = time.monotonic(), Database(database)
    sums, turns = Ledger(opened).sums, 0
    while await sums.sum_more(time.time()):
        turns += 1
        if turns % 5 == 0:
            progress("added up", min(rows, turns * 200_000), rows, began)
    await asyncio.to_thread(opened.close)
    return time.monotonic() - began


# ------------------------------------------------------------------------------------------------ callers


@dataclass
class Group:
    """Callers whom one limit stops."""

    name: str
    key: str
    user: str
    model: str
    statuses: list[int] = field(default_factory=list[int])


@dataclass
class Load:
    port: int
    groups: Sequence[Group]
    times: list[float] = field(default_factory=list[float])
    other: list[str] = field(default_factory=list[str])

    async def one(self, client: HttpClient, group: Group, number: str) -> int:
        body = {
            "model": f"openai/{group.model}", "user": group.user or f"{group.name}-{number}",
            "messages": [{"role": "user", "content": "Say forty words."}], "max_tokens": 50,
        }  # fmt: skip
        begun = time.monotonic()
        try:
            response = await client.send(
                "POST", f"http://127.0.0.1:{self.port}/v1/chat/completions",
                headers={"content-type": "application/json", "authorization": f"Bearer {group.key}"},
                body=[msgspec.json.encode(body)], timeouts=Timeouts(connect=30, first_byte=120, between_bytes=120),
            )  # fmt: skip
            said = await response.read(most=1 << 20)
        except InvokeError:
            return 0
        self.times.append(time.monotonic() - begun)
        if response.status not in (200, 429):
            self.other.append(said.decode()[:200])
        group.statuses.append(response.status)
        return response.status

    async def at_once(self) -> None:
        """Everybody asks once, at the same moment."""
        client = HttpClient(keep_idle=_CALLERS, max_connections=_CALLERS)
        each = [(group, number) for number in range(_CALLERS // len(self.groups)) for group in self.groups]
        await asyncio.gather(*(self.one(client, group, f"once{number}") for group, number in each))
        await client.aclose()

    async def until_refused(self, callers: int, most_seconds: float) -> None:
        """Each goes on until it was refused three times, or for so long."""
        client = HttpClient(keep_idle=0)
        until = time.monotonic() + most_seconds

        async def go_on(group: Group, number: int) -> None:
            refusals = turn = 0
            while refusals < 3 and time.monotonic() < until:
                turn += 1
                status = await self.one(client, group, f"{number}-{turn}")
                refusals += status == 429
                if status != 200:
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(go_on(self.groups[place % len(self.groups)], place) for place in range(callers)))
        await client.aclose()


# ------------------------------------------------------------------------------------------------ the account


def new_rows(database: str, made: Made) -> dict[str, int]:
    """This month's calls since the ledger was made, by what each limit counts."""
    opened = Database(database)
    rows = opened.read(
        'SELECT api_key, "user", model FROM usage WHERE tenant = :tenant AND created_at > :until AND attempt = 1',
        {"tenant": "default", "until": made.until},
    )
    opened.close()
    return {
        "key": sum(row["api_key"] == made.keys["k1"][0] for row in rows),
        "user": sum(row["user"] == _ADA for row in rows),
        "model": sum(row["model"] == _MODEL for row in rows),
        "tenant": len(rows),
    }


def restarted(proof: Proof, name: str, home: Path, database: str, made: Made) -> None:
    """Load, kill -9, a restart, 256 callers at once, and on until every limit is reached."""
    before, base = new_rows(database, made), made.base()
    amounts = {each: base[each] + before[each] + room for each, room in _ROOM.items()}
    k1, k2 = made.keys["k1"], made.keys["k2"]
    limits = {
        "key": {"per": "key", "key": k1[0]}, "user": {"per": "user", "user": _ADA},
        "model": {"per": "model", "model": f"openai/{_MODEL}"}, "tenant": {},
    }  # fmt: skip
    chosen = {
        each: {"unit": "requests", "amount": amounts[each], "window": "month", **how} for each, how in limits.items()
    }
    groups = [
        Group("key", k1[1], "", _OTHER), Group("user", k2[1], _ADA, _OTHER), Group("model", k2[1], "", _MODEL),
        Group("tenant", k2[1], "", _OTHER),
    ]  # fmt: skip
    with TruthfulUpstream(latency=0.05) as upstream:
        more = {"database": database} if "://" in database else {}
        environ = home_with(home, upstream.url, limits=chosen, **more)
        port = free_port()
        with zygote(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            if not ready(port, seconds=120):
                raise RuntimeError("the server did not start")

            async def under_load() -> None:
                load = asyncio.create_task(Load(port, groups).until_refused(_LOAD_CALLERS, _LOAD_SECONDS))
                await asyncio.sleep(_LOAD_SECONDS * 0.8)
                await asyncio.to_thread(upstream.kill, server)
                await load

            asyncio.run(under_load())
            begun = time.monotonic()
            server = servers.start("serve", "--port", str(port))
            if not ready(port, seconds=120):
                raise RuntimeError("the server did not start again")
            started = time.monotonic() - begun
            load = Load(port, groups)
            asyncio.run(load.at_once())
            times = sorted(load.times)
            asyncio.run(load.until_refused(_LOAD_CALLERS * 2, 120))
            kill(server, 15)
        served = len(upstream.served)
    after = new_rows(database, made)
    p99 = times[int(len(times) * 0.99) - 1] if times else 99.0
    proof.line(f"{name}: answers /health again after", f"{started:.2f} s", started < 10)
    proof.line(f"{name}: {len(times)} callers at once, first answer, aim 1 s", f"{times[0]:.3f} s", times[0] < 1)
    proof.line(f"{name}: their p99, aim 2 s", f"{p99:.3f} s", p99 < 2 and len(times) == _CALLERS)
    proof.line(f"{name}: anything but 200 and 429", load.other[:1] or "none", not load.other)
    for each, amount in amounts.items():
        used = base[each] + after[each]
        proof.line(f"{name}: limit of the {each}, used of it", f"{amount:,}, {used:,}", used == amount)
    rows = after["tenant"] - before["tenant"]
    proof.line(
        f"{name}: the provider served, rows say", f"{served:,}, {rows:,} (some were killed on their way)",
        0 <= rows - served <= _LOAD_CALLERS,
    )  # fmt: skip
    proof.figures[name] = {
        "rows": made.rows, "first_s": round(times[0], 3), "p99_s": round(p99, 3), "started_s": round(started, 2),
        "served": served,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ both databases


@contextmanager
def ledger_home(rows: int) -> Iterator[Path]:
    """Where the ledger of so many rows lies, or is to."""
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
    with ledger_home(rows) as home:
        note, database = home / "made.json", home / "modelyard.db"
        made = msgspec.json.decode(note.read_bytes(), type=Made) if note.is_file() else None
        if made is None or made.month != month_now()[0]:
            for path in home.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            begun = time.monotonic()
            made = make(home, str(database), rows)
            proof.line(f"SQLite: {rows:,} rows made in", f"{time.monotonic() - begun:.0f} s")
            seconds = asyncio.run(add_up(str(database), rows))
            proof.line("SQLite: added up, as after an upgrade, in", f"{seconds:.0f} s")
            note.write_bytes(msgspec.json.encode(made))
        restarted(proof, "SQLite", home, str(database), made)


def on_postgres(proof: Proof, rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        with Postgres(folder / "pg") as server:
            begun = time.monotonic()
            made = make(home, server.url, rows)
            proof.line(f"PostgreSQL: {rows:,} rows made in", f"{time.monotonic() - begun:.0f} s")
            seconds = asyncio.run(add_up(server.url, rows))
            proof.line("PostgreSQL: added up, as after an upgrade, in", f"{seconds:.0f} s")
            restarted(proof, "PostgreSQL", home, server.url, made)


def prove() -> Proof:
    proof, rows = Proof(), int(os.environ.get("MODELYARD_SHOW_ROWS", "1000000"))
    on_sqlite(proof, rows)
    on_postgres(proof, min(rows, _MOST_POSTGRES))
    return proof
