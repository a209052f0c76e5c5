"""The same database, whichever engine: schema, resources, ledger, answers."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_table import GROUPINGS
from modelyard.storage.answers import DatabaseAnswers
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.resources import Resources
from modelyard.testing import FakeClock


def test_resources_are_one_tenants_and_every_change_is_numbered(database_url: str):
    database = Database(database_url)
    resources = Resources(database, FakeClock())
    tenant, other = new_id("t"), new_id("t")
    before = resources.revision()
    made = resources.add(tenant, "limit", "a", lambda row: f'{{"row": "{row}"}}').result(5)
    assert made.body == f'{{"row": "{made.id}"}}'
    assert resources.one(tenant, "limit", made.id) == made
    for act in (
        lambda: resources.one(other, "limit", made.id),
        lambda: resources.remove(other, "limit", made.id).result(5),
    ):
        with pytest.raises(NotFoundError, match="does not exist"):
            act()
    with pytest.raises(InvokeBadRequestError, match="named 'a' already"):
        resources.add(tenant, "limit", "a", lambda row: "{}").result(5)
    assert resources.add(other, "limit", "a", lambda row: "{}").result(5).name == "a"
    changed = resources.change(made, name="b", body='{"x": 1}').result(5)
    assert (changed.name, changed.revision > made.revision) == ("b", True)
    resources.remove(tenant, "limit", made.id).result(5)
    mine = [one for one in resources.since(before) if one.tenant == tenant]
    assert [(one.name, one.is_deleted, one.body) for one in mine] == [("b", True, "{}")]
    assert resources.all(tenant, "limit") == []
    resources.add(tenant, "limit", "b", lambda row: "{}").result(5)  # the name is free again
    database.close()


def test_a_row_that_is_written_twice_is_one_row_and_sums_are_exact(database_url: str, tmp_path: Path):
    async def work() -> None:
        database = Database(database_url)
        ledger = Ledger(database, tmp_path / "ledger")
        tenant = new_id("t")
        for number in range(120):
            one = Invocation(
                id=f"{tenant}-{number}", tenant=tenant, provider="p", model="m", model_type=ModelType.LLM,
                request=None, user=f"u{number % 2}",
            )  # fmt: skip
            opened = ledger.begin(one, attempt=1, created_at=86_400.0 * (number % 3), prompt_tokens=5)
            usage = LLMUsage.of(1, 2, total_price=Decimal("0.0000001"))
            for _ in range(2):
                ledger.settle(
                    opened, status="ok", usage=usage, counted_by="provider", price_version="", latency=0.1,
                    first_chunk=None,
                )  # fmt: skip
        await ledger.flush()
        (whole,) = await ledger.usage.summary(tenant, by=["model"])
        assert (whole.calls, whole.prompt_tokens, whole.cost) == (120, 120, Decimal("0.000012"))
        assert [line.calls for line in await ledger.usage.summary(tenant, by=["day"])] == [40, 40, 40]
        assert {line.key for line in await ledger.usage.summary(tenant, by=["user"])} == {("u0",), ("u1",)}
        for name in GROUPINGS:
            assert sum(line.calls for line in await ledger.usage.summary(tenant, by=[name])) == 120
        for size in (50, 40, 7):
            pages = [page async for page in ledger.usage.export(tenant, since=0, until=1e12, page=size)]
            assert all(len(page) == size for page in pages[:-1])
            assert len([row for page in pages for row in page]) == 120
            assert len({row.id for page in pages for row in page}) == 120
        assert await ledger.usage.summary(new_id("t"), by=["model"]) == []
        assert {line.key for line in await ledger.usage.summary(tenant, by=["hour"])} == {("0",), ("24",), ("48",)}
        page, count = await ledger.usage.page(tenant, since=0, until=1e12, most=50, skip=100, user="u0", status="ok")
        assert (len(page), count) == (0, 60)
        page, count = await ledger.usage.page(tenant, since=0, until=1e12, most=7, skip=57, user="u0")
        assert (len(page), count) == (3, 60)
        assert await ledger.usage.page(tenant, since=0, until=1e12, most=7, status="failed") == ([], 0)
        assert await ledger.usage.page(tenant, since=0, until=1e12, most=7, model="'; DROP TABLE usage") == ([], 0)
        with pytest.raises(ValueError, match="no filter"):
            await ledger.usage.page(tenant, since=0, until=1e12, most=7, tenant_="x")
        (times,) = await ledger.usage.percentiles(tenant, since=0, until=1e12)
        assert (times["model"], times["calls"], times["p50"], times["p99"]) == ("p/m", 120, 0.1, 0.1)
        database.close()
        ledger.close()
        assert list((tmp_path / "ledger").iterdir()) == []

    asyncio.run(work())


def test_cached_answers_are_a_tenants_own(database_url: str):
    async def work() -> None:
        clock, database = FakeClock(), Database(database_url)
        answers, tenant = DatabaseAnswers(database, clock), new_id("t")
        await answers.put(tenant, "q", b"\x00answer", 10)
        database.flush().result(5)
        assert await answers.get(tenant, "q") == b"\x00answer"
        assert await answers.get("other", "q") is None
        clock.advance(11)
        assert await answers.get(tenant, "q") is None
        database.close()

    asyncio.run(work())


def test_work_is_done_whole_or_not_at_all(database_url: str):
    database = Database(database_url)
    resources, tenant = Resources(database, FakeClock()), new_id("t")

    def half(connection: object) -> None:
        resources_sql = "INSERT INTO resources (tenant, kind, id, name, body, revision, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        connection.execute(resources_sql, (tenant, "k", "i", "n", "{}", 1, 0.0, 0.0))  # type: ignore[attr-defined]
        raise ValueError("half way")

    failing = database.submit(half)
    fine = resources.add(tenant, "limit", "fine", lambda row: "{}")
    with pytest.raises(ValueError, match="half way"):
        failing.result(5)
    assert fine.result(5).name == "fine"
    assert resources.all(tenant, "k") == []
    database.close()
    with pytest.raises(StorageUnavailableError, match="closed"):
        database.submit(half).result(5)
