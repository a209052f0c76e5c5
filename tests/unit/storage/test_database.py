import asyncio
import sqlite3
from decimal import Decimal
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.errors import ConfigError
from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_row import Priced
from modelyard.storage.database import Database, migrations, statements
from modelyard.storage.sqlite import SqliteEngine

_TURN = count(1)


def add(
    ledger: Ledger, tenant: str, model: str, price: str, status: str = "ok"
) -> None:
    invocation = Invocation(
        tenant=tenant, provider="p", model=model, model_type=ModelType.LLM, request=None
    )
    usage = LLMUsage.of(1, 2, total_price=Decimal(price))
    ledger.add(
        invocation,
        attempt=next(_TURN),
        created_at=1.0,
        status=status,
        usage=usage,
        latency=0.1,
        first_chunk=None,
    )


def test_rows_survive_closing_and_sum_exactly(tmp_path: Path):
    database = Database(tmp_path / "a" / "x.db")
    ledger = Ledger(database)
    for _ in range(100):
        add(ledger, "t", "m", "0.1")
    add(ledger, "t", "n", "5", status="upstream_unavailable")
    add(ledger, "other", "m", "7")
    database.close()
    reopened = Database(tmp_path / "a" / "x.db")
    lines = asyncio.run(Ledger(reopened).usage.summary("t", by=["model"]))
    assert [
        (line.key, line.calls, line.failed, f"{line.cost:f}") for line in lines
    ] == [
        (("m",), 100, 0, "10"),
        (("n",), 1, 1, "5"),
    ]
    reopened.close()


def test_flush_waits_for_the_disk(tmp_path: Path):
    database = Database(tmp_path / "x.db")
    ledger = Ledger(database)
    add(ledger, "t", "m", "1")
    asyncio.run(ledger.flush())
    with sqlite3.connect(tmp_path / "x.db") as raw_connection:
        assert raw_connection.execute("SELECT count(*) FROM usage").fetchone() == (1,)
    raw_connection.close()
    database.close()


def test_a_cancelled_flush_does_not_stop_the_writer(tmp_path: Path):
    database = Database(tmp_path / "x.db")
    for _ in range(20):
        database.flush().cancel()
    ledger = Ledger(database)
    add(ledger, "t", "m", "1")
    database.flush().result(5)
    assert len(asyncio.run(ledger.usage.recent("t"))) == 1
    database.close()


def test_rows_are_written_after_earlier_ones_have_been():
    """Each flush starts a batch of its own, and any number of flushes may follow."""
    database = Database(":memory:")
    ledger = Ledger(database)
    for row_count in (1, 2, 3):
        add(ledger, "t", "m", "1")
        asyncio.run(ledger.flush())
        assert len(asyncio.run(ledger.usage.recent("t"))) == row_count
    database.close()


def test_rows_that_the_database_refuses_stay_in_the_journal(tmp_path: Path):
    """After a crash, the next process finds them there and writes them."""
    database = Database(tmp_path / "x.db")
    ledger = Ledger(database, tmp_path / "ledger")
    execute(
        database,
        "CREATE TRIGGER refuse BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    add(ledger, "t", "m", "1")
    asyncio.run(ledger.flush())
    assert asyncio.run(ledger.usage.recent("t")) == []
    execute(database, "DROP TRIGGER refuse")
    ledger.close()
    next_ledger = Ledger(database, tmp_path / "ledger")
    assert asyncio.run(next_ledger.recover())
    assert len(asyncio.run(next_ledger.usage.recent("t"))) == 1
    next_ledger.close()
    database.close()


def execute(database: Database, statement: str) -> None:
    database.submit(lambda connection: connection.execute(statement)).result(5)


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8])
def test_rows_of_one_moment_are_exported_once_whatever_the_pages(page_size: int):
    database = Database(":memory:")
    ledger = Ledger(database)
    for _ in range(7):
        add(ledger, "t", "m", "1")

    async def exported_ids() -> list[str]:
        await ledger.flush()
        pages = ledger.usage.export("t", since=0.0, until=2.0, page=page_size)
        return [row.id async for page in pages for row in page]

    ids = asyncio.run(exported_ids())
    assert ids == sorted(set(ids))
    assert len(ids) == 7
    database.close()


def test_the_streamed_part_of_a_killed_process_is_billed(tmp_path: Path):
    """It is billed for the completion tokens that the journal had counted."""
    database = Database(tmp_path / "x.db")
    killed = Ledger(database, tmp_path / "ledger")
    invocation = Invocation(
        tenant="t", provider="p", model="m", model_type=ModelType.LLM, request=None
    )
    opened = killed.begin(invocation, attempt=1, created_at=1.0, prompt_tokens=10)
    killed.progress(opened, 7)
    killed.close()
    ledger = Ledger(
        database,
        tmp_path / "ledger",
        price=lambda intent, tokens: Priced(
            Decimal(intent.prompt_tokens + 2 * tokens), "USD", "test", "1"
        ),
    )
    assert asyncio.run(ledger.recover())
    (row,) = asyncio.run(ledger.usage.recent("t"))
    assert (row.status, row.prompt_tokens, row.completion_tokens) == ("lost", 10, 7)
    assert row.total_price == Decimal(24)
    ledger.close()
    database.close()


def test_a_newer_schema_is_refused(tmp_path: Path):
    Database(tmp_path / "x.db").close()
    with sqlite3.connect(tmp_path / "x.db") as raw_connection:
        raw_connection.execute("PRAGMA user_version=999")
    raw_connection.close()
    with pytest.raises(ConfigError, match="newer Modelyard"):
        Database(tmp_path / "x.db")


def test_a_file_that_is_not_a_database_is_named(tmp_path: Path):
    (tmp_path / "x.db").write_text(
        "this is a letter, and rather a long one, so that it is no empty file" * 20
    )
    with pytest.raises(ConfigError, match=r"x\.db"):
        Database(tmp_path / "x.db")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database(Path("/proc/nowhere/x.db"))


def test_a_failed_write_is_reported_by_the_next_one():
    database = Database(":memory:")
    database.write("INSERT INTO nonsense (a) VALUES (?)", (1,))
    database.flush().result(5)
    with pytest.raises(ConfigError, match="cannot be written"):
        database.write("SELECT 1", ())
    database.close()


def test_rows_survive_a_lock(tmp_path: Path):
    database = Database(
        "", engine=SqliteEngine(str(tmp_path / "x.db"), busy_seconds=0.01)
    )
    ledger = Ledger(database)
    with sqlite3.connect(tmp_path / "x.db", isolation_level=None) as raw_connection:
        raw_connection.execute("BEGIN IMMEDIATE")
        add(ledger, "t", "m", "1")
        database.flush().result(30)
        assert asyncio.run(ledger.usage.recent("t")) == []
        raw_connection.execute("COMMIT")
    raw_connection.close()
    database.close()
    reopened = Database(tmp_path / "x.db")
    assert len(asyncio.run(Ledger(reopened).usage.recent("t"))) == 1
    reopened.close()


def test_statements_are_named_and_migrations_are_numbered():
    assert set(statements("usage")) == {
        "add", "recent", "page", "invocation", "forget", "sums_sqlite", "sums_postgresql", "attempts", "count_attempts", "latencies",
        "first_chunks", "tenants", "oldest", "of_call", "attempts_of", "requests", "count_requests", "superseded",
    }  # fmt: skip
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


SQL = [
    path.stem
    for path in Path(str(resources.files("modelyard.storage") / "sql")).glob("*.sql")
]


@pytest.mark.parametrize("name", SQL)
def test_statements_have_variants_for_both_databases(name: str):
    """Each SQLite variant has a PostgreSQL variant, found by the plain name."""
    named_statements = statements(name)
    differing = {
        key.removesuffix("_sqlite")
        for key in named_statements
        if key.endswith("_sqlite")
    }
    assert differing == {
        key.removesuffix("_postgresql")
        for key in named_statements
        if key.endswith("_postgresql")
    }
    assert not differing & named_statements.keys()
    database = Database(":memory:")
    sqlite_statements = database.statements(name)
    assert {key: sqlite_statements[key] for key in differing} == {
        key: named_statements[f"{key}_sqlite"] for key in differing
    }
    database.close()


class _Away(sqlite3.OperationalError):
    """The error after a server restart: old connections are dead, new ones work."""


def test_after_a_server_restart_no_old_connection_is_tried_twice(tmp_path: Path):
    class Engine(SqliteEngine):
        name = "server"
        generation = 0

        def is_transient(self, error: Exception) -> bool:
            return isinstance(error, _Away)

        def connect(self) -> Any:
            engine, generation, inner = self, self.generation, super().connect()

            class Connected:
                def execute(self, *arguments: Any) -> Any:
                    if generation != engine.generation:
                        raise _Away("server closed the connection unexpectedly")
                    return inner.execute(*arguments)

                execute_many, close = inner.execute_many, inner.close

            return Connected()

    async def work() -> None:
        engine = Engine(str(tmp_path / "x.db"))
        database = Database(tmp_path / "x.db", engine=engine)
        slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT max(i) FROM n"
        # Open several connections.
        await asyncio.gather(*(database.fetch(slow) for _ in range(8)))
        engine.generation += 1
        assert (await database.fetch("SELECT 1 AS x"))[0]["x"] == 1
        await asyncio.to_thread(database.close)

    asyncio.run(work())


def test_a_blocking_read_is_refused_in_an_event_loop(tmp_path: Path):
    """Code that would block the event loop fails in the first test that runs it."""
    database = Database(tmp_path / "x.db")

    async def work() -> None:
        with pytest.raises(RuntimeError, match="await `fetch`"):
            database.read("SELECT 1 AS x")
        assert (await database.fetch("SELECT 1 AS x"))[0]["x"] == 1

    asyncio.run(work())
    assert database.read("SELECT 1 AS x")[0]["x"] == 1
    database.close()
