"""Contract tests for every database: schema, resources, ledger, response cache."""

import asyncio
import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_table import GROUPINGS
from modelyard.storage.database import (
    Connection,
    Database,
    DuplicateError,
    StorageUnavailableError,
)
from modelyard.storage.resources import Resources
from modelyard.storage.response_cache import DatabaseResponseCache
from modelyard.testing import FakeClock


def test_resources_belong_to_one_tenant_and_changes_are_numbered(database_url: str):
    async def work() -> None:
        database = Database(database_url)
        resources = Resources(database, FakeClock())
        tenant, other_tenant = new_id("t"), new_id("t")
        start_revision = await resources.revision()
        created = await resources.add(
            tenant, "limit", "a", lambda row: f'{{"row": "{row}"}}'
        )
        assert created.body == f'{{"row": "{created.id}"}}'
        assert await resources.get(tenant, "limit", created.id) == created
        with pytest.raises(NotFoundError, match="does not exist"):
            await resources.get(other_tenant, "limit", created.id)
        with pytest.raises(NotFoundError, match="does not exist"):
            await resources.remove(other_tenant, "limit", created.id)
        with pytest.raises(InvokeBadRequestError, match="'a' already exists"):
            await resources.add(tenant, "limit", "a", lambda row: "{}")
        assert (
            await resources.add(other_tenant, "limit", "a", lambda row: "{}")
        ).name == "a"
        changed = await resources.change(created, name="b", body='{"x": 1}')
        assert (changed.name, changed.revision > created.revision) == ("b", True)
        await resources.remove(tenant, "limit", created.id)
        mine = [
            change
            for change in await resources.changed_since(start_revision)
            if change.tenant == tenant
        ]
        assert [(change.name, change.is_deleted, change.body) for change in mine] == [
            ("b", True, "{}")
        ]
        assert await resources.list(tenant, "limit") == []
        # The name is free again.
        await resources.add(tenant, "limit", "b", lambda row: "{}")
        database.close()

    asyncio.run(work())


_ROW = (
    "INSERT INTO resources (tenant, kind, id, name, body, revision, created_at, updated_at) "
    "VALUES (?, ?, ?, ?, ?, 1, 0.0, 0.0)"
)
_CONSTRAINED = """CREATE TEMPORARY TABLE constrained (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name <> ''), parent INTEGER REFERENCES constrained (id)
)"""
_INSERT = "INSERT INTO constrained (id, name, parent) VALUES (?, ?, ?)"


@pytest.mark.parametrize(
    ("row", "is_duplicate"),
    [((1, "b", None), True), ((2, "a", None), True), ((2, None, None), False), ((2, "", None), False),
     ((2, "b", 77), False)],
    ids=["key", "unique", "not null", "check", "reference"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["execute", "execute_many"])
def test_duplicates_are_distinguished_from_invalid_rows(
    database_url: str, row: tuple[Any, ...], is_duplicate: bool, method: str
):
    database = Database(database_url)
    connection = database.engine_object().connect()
    try:
        if database.engine == "sqlite":
            connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(_CONSTRAINED)
        connection.execute(_INSERT, (1, "a", None))
        expected_errors = (
            (DuplicateError,) if is_duplicate else database.engine_object().errors
        )
        with pytest.raises(expected_errors):
            if method == "execute":
                connection.execute(_INSERT, row)
            else:
                connection.execute_many(_INSERT, [row])
    finally:
        connection.close()
        database.close()


def test_a_resource_without_a_name_is_not_reported_as_a_duplicate(
    database_url: str,
):
    """Only an existing key or name is reported as a duplicate."""

    async def work() -> None:
        database = Database(database_url)
        resources, tenant = Resources(database, FakeClock()), new_id("t")
        with pytest.raises(database.engine_object().errors):
            # the mistake
            await resources.add(tenant, "limit", None, lambda row: "{}")  # type: ignore[arg-type]
        created = await resources.add(tenant, "limit", "a", lambda row: "{}")
        # By its key and by its name.
        with pytest.raises(InvokeBadRequestError, match="already"):
            await resources.add(tenant, "limit", "b", lambda row: "{}", id=created.id)
        database.close()

    asyncio.run(work())


def test_a_duplicate_row_does_not_kill_the_background_writer(
    database_url: str,
):
    """Later writes succeed: the failed row has not killed the writer thread."""

    async def work() -> None:
        database = Database(database_url)
        resources, tenant = Resources(database, FakeClock()), new_id("t")
        for _ in range(2):
            database.write(
                "INSERT INTO resources (tenant, kind, id, name, body, revision, created_at, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (tenant, "limit", "i", "a", "{}", 1, 0.0, 0.0),
            )
            async with asyncio.timeout(60):  # a dead writer would not answer
                await asyncio.wrap_future(database.flush())
        assert (await resources.add(tenant, "limit", "b", lambda row: "{}")).name == "b"
        database.close()

    asyncio.run(work())


def test_a_row_written_twice_is_stored_once_and_sums_are_exact(
    database_url: str, tmp_path: Path
):
    async def work() -> None:
        database = Database(database_url)
        ledger = Ledger(database, tmp_path / "ledger")
        tenant = new_id("t")
        await _settle_twice(ledger, tenant)
        await _check_summaries(ledger, tenant)
        await _check_exports(ledger, tenant)
        await _check_pages(ledger, tenant)
        (times,) = await ledger.usage.percentiles(tenant, since=0, until=1e12)
        assert (times["model"], times["calls"]) == ("p/m", 120)
        assert (times["p50"], times["p99"]) == (0.1, 0.1)
        database.close()
        ledger.close()
        assert list((tmp_path / "ledger").iterdir()) == []

    asyncio.run(work())


async def _settle_twice(ledger: Ledger, tenant: str) -> None:
    """Write 120 rows of two users on three days, and settle each row twice."""
    usage = LLMUsage.of(1, 2, total_price=Decimal("0.0000001"))
    for number in range(120):
        invocation = Invocation(
            id=f"{tenant}-{number}",
            tenant=tenant,
            provider="p",
            model="m",
            model_type=ModelType.LLM,
            request=None,
            user=f"u{number % 2}",
        )
        opened = ledger.begin(
            invocation,
            attempt=1,
            created_at=86_400.0 * (number % 3),
            prompt_tokens=5,
        )
        for _ in range(2):
            ledger.settle(
                opened,
                status="ok",
                usage=usage,
                counted_by="provider",
                price_version="",
                latency=0.1,
                first_chunk=None,
            )
    await ledger.flush()


async def _check_summaries(ledger: Ledger, tenant: str) -> None:
    """The sums of each grouping contain all rows once."""

    async def summary(name: str, of: str = tenant) -> list[Any]:
        return list(await ledger.usage.summary(of, by=[name]))

    (total,) = await summary("model")
    assert (total.calls, total.prompt_tokens) == (120, 120)
    assert total.cost == Decimal("0.000012")
    assert [line.calls for line in await summary("day")] == [40, 40, 40]
    assert {line.key for line in await summary("user")} == {("u0",), ("u1",)}
    assert {line.key for line in await summary("hour")} == {("0",), ("24",), ("48",)}
    for name in GROUPINGS:
        assert sum(line.calls for line in await summary(name)) == 120
    assert await summary("model", new_id("t")) == []


async def _check_exports(ledger: Ledger, tenant: str) -> None:
    """An export contains all rows once, in full pages except the last one."""
    for size in (50, 40, 7):
        pages = [
            page
            async for page in ledger.usage.export(
                tenant, since=0, until=1e12, page=size
            )
        ]
        assert all(len(page) == size for page in pages[:-1])
        rows = list(itertools.chain.from_iterable(pages))
        assert len(rows) == len({row.id for row in rows}) == 120


async def _check_pages(ledger: Ledger, tenant: str) -> None:
    """A page contains the rows that match its filters, and their number."""

    async def rows(**options: Any) -> tuple[list[Any], int]:
        return await ledger.usage.page(tenant, since=0, until=1e12, **options)

    page, count = await rows(limit=50, skip=100, user="u0", status="ok")
    assert (len(page), count) == (0, 60)
    page, count = await rows(limit=7, skip=57, user="u0")
    assert (len(page), count) == (3, 60)
    assert await rows(limit=7, status="failed") == ([], 0)
    assert await rows(limit=7, model="'; DROP TABLE usage") == ([], 0)
    with pytest.raises(ValueError, match="Unknown filter"):
        await rows(limit=7, tenant_="x")


def test_cached_answers_belong_to_one_tenant(database_url: str):
    async def work() -> None:
        clock, database = FakeClock(), Database(database_url)
        answers, tenant = DatabaseResponseCache(database, clock), new_id("t")
        await answers.put(tenant, "q", b"\x00answer", 10)
        database.flush().result(5)
        assert await answers.get(tenant, "q") == b"\x00answer"
        assert await answers.get("other", "q") is None
        clock.advance(11)
        assert await answers.get(tenant, "q") is None
        database.close()

    asyncio.run(work())


def test_transactions_are_atomic(database_url: str):
    async def work() -> None:
        database = Database(database_url)
        resources, tenant = Resources(database, FakeClock()), new_id("t")

        def half(connection: Connection) -> None:
            connection.execute(_ROW, (tenant, "k", "i", "n", "{}"))
            raise ValueError("half way")

        failing = database.submit(half)
        fine = await resources.add(tenant, "limit", "fine", lambda row: "{}")
        with pytest.raises(ValueError, match="half way"):
            await asyncio.wrap_future(failing)
        assert fine.name == "fine"
        assert await resources.list(tenant, "k") == []
        database.close()
        with pytest.raises(StorageUnavailableError, match="closed"):
            await database.transact(half)

    asyncio.run(work())
