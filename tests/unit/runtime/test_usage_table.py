"""The ledger's table: what is read back of its rows, in which order, and what is deleted."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest

from modelyard.models.llm import LLMUsage
from modelyard.runtime import usage_table
from modelyard.runtime.usage_row import Columns, Intent, UsageRow, row_of
from modelyard.runtime.usage_table import (
    GROUPINGS,
    CallUsage,
    UsageSummary,
    UsageTable,
)
from modelyard.storage import database as database_module
from modelyard.storage.database import Database
from modelyard.storage.usage_sums import UsageQuery, UsageSums

_LONG_READERS: int = database_module._LONG_READERS  # pyright: ignore[reportPrivateUsage]
D = Decimal
USAGE = LLMUsage.of(
    10, 20, cached_tokens=4, reasoning_tokens=5, searches=2, total_price=D("0.5")
)


def row(
    call: str,
    attempt: int = 1,
    *,
    at: float = 0.0,
    status: str = "ok",
    usage: LLMUsage | None = USAGE,
    latency: float = 1.0,
    first_chunk: float | None = None,
    **fields: Any,
) -> Columns:
    intent = {
        "invocation": call, "attempt": attempt, "tenant": "t", "api_key": "k1",
        "user": "alice", "created_at": at, "provider": "p", "model": "big",
        "model_type": "llm", "credential": "main", "credential_id": "c1",
        "prompt_tokens": 0,
    } | fields  # fmt: skip
    return row_of(Intent(**intent), status, usage, "provider", "", latency, first_chunk)


class Setup:
    """A table in a database."""

    def __init__(self) -> None:
        self.database = Database(":memory:")
        self.sums = UsageSums(self.database)
        self.table = UsageTable(self.database, self.sums)

    async def add(self, *rows: Columns) -> None:
        await self.database.transact(lambda it: self.table.insert(it, rows))

    async def page(self, **options: Any) -> tuple[list[str], int]:
        bounds: dict[str, Any] = {"since": 0.0, "until": 1e12, "limit": 50}
        rows, count = await self.table.page("t", **bounds | options)
        return ids(rows), count

    async def summary(self, *by: str, **options: Any) -> list[UsageSummary]:
        return await self.table.summary("t", by=by, **options)


def run(work: Callable[[Setup], Awaitable[None]]) -> None:
    setup = Setup()

    async def awaited() -> None:
        await work(setup)

    try:
        asyncio.run(awaited())
    finally:
        setup.database.close()


def ids(rows: list[UsageRow]) -> list[str]:
    return [usage_row.id for usage_row in rows]


# Rows.


def test_the_latest_rows_come_first():
    async def work(setup: Setup) -> None:
        await setup.add(*(row(f"c{n}", at=n) for n in range(60)), row("x", tenant="u"))
        latest = ids(await setup.table.recent("t"))
        assert latest == [f"c{n}.1" for n in range(59, 9, -1)]
        assert ids(await setup.table.recent("t", limit=2)) == ["c59.1", "c58.1"]
        assert ids(await setup.table.recent("t", since=58)) == ["c59.1", "c58.1"]
        assert ids(await setup.table.recent("u")) == ["x.1"]

    run(work)


def test_the_attempts_of_a_call_are_in_their_order():
    async def work(setup: Setup) -> None:
        await setup.add(row("a", 2), row("a", 1), row("b"), row("a", 3, tenant="u"))
        assert ids(await setup.table.of_invocation("t", "a")) == ["a.1", "a.2"]
        assert await setup.table.of_invocation("t", "unknown") == []

    run(work)


def test_a_row_that_exists_stays_as_it_is():
    async def work(setup: Setup) -> None:
        await setup.add(row("a"), row("a", status="cancelled"))
        await setup.add(row("a", status="lost"), row("b"))
        rows = await setup.table.recent("t")
        assert [(item.id, item.status) for item in rows] == [
            ("b.1", "ok"),
            ("a.1", "ok"),
        ]
        (total,) = await setup.sums.between(UsageQuery("t", "tenant"), 0, 1)
        assert (total.calls, total.tokens) == (2, 60)

    run(work)


@pytest.mark.parametrize(("page", "sizes"), [(2, [2, 2, 1]), (5, [5, 0]), (9, [5])])
def test_an_export_has_all_rows_of_its_time_in_pages(page: int, sizes: list[int]):
    async def work(setup: Setup) -> None:
        # Two have the same time, and two are outside of the range.
        times = [1, 2, 2, 3, 4, 5, 0.5]
        await setup.add(*(row(f"c{n}", at=at) for n, at in enumerate(times)))
        pages = [
            ids(rows)
            async for rows in setup.table.export("t", since=1, until=5, page=page)
        ]
        assert [len(rows) for rows in pages] == sizes
        assert list(chain.from_iterable(pages)) == [
            "c0.1",
            "c1.1",
            "c2.1",
            "c3.1",
            "c4.1",
        ]

    run(work)


def test_an_export_has_pages_of_a_thousand():
    async def work(setup: Setup) -> None:
        await setup.add(*(row(f"c{n}", at=n) for n in range(1001)))
        exported = setup.table.export("t", since=0, until=1e6)
        assert [len(rows) async for rows in exported] == [1000, 1]

    run(work)


# Long reads.


@asynccontextmanager
async def long_readers_are_busy(database: Database) -> AsyncGenerator[None]:
    """Occupy the threads for reads of many rows."""
    may_go_on = threading.Event()
    busy = [
        asyncio.ensure_future(
            database.read_together(lambda _: may_go_on.wait(), is_long=True)
        )
        for _ in range(_LONG_READERS)
    ]
    # Their threads are taken in the order of the calls.
    await asyncio.sleep(0)
    try:
        yield
    finally:
        may_go_on.set()
        await asyncio.gather(*busy)


@pytest.mark.parametrize(
    ("name", "options", "is_long"),
    [
        ("recent", {}, False),
        ("of_invocation", {"invocation": "a"}, False),
        ("summary", {"by": ["model"]}, True),
        ("page", {"since": 0.0, "until": 9.0, "limit": 5}, True),
        ("percentiles", {"since": 0.0, "until": 9.0}, True),
        ("export", {"since": 0.0, "until": 9.0}, True),
    ],
)
def test_only_reads_of_many_rows_wait_for_each_other(
    name: str, options: dict[str, Any], *, is_long: bool
):
    """A report must not keep the pages of others waiting."""

    async def work(setup: Setup) -> None:
        await setup.add(row("a"))

        async def read() -> Any:
            result = getattr(setup.table, name)("t", **options)
            return await (anext(result) if name == "export" else result)

        async with long_readers_are_busy(setup.database):
            reading = asyncio.create_task(read())
            # Many short reads come after it, and do not wait.
            for _ in range(20):
                assert len(await setup.table.recent("t")) == 1
            if is_long:
                assert not reading.done()
            else:
                assert len(await reading) == 1
        assert await reading

    run(work)


# Pages.


def test_a_page_has_its_rows_and_the_number_of_all():
    async def work(setup: Setup) -> None:
        await setup.add(*(row(f"c{n}", at=n) for n in range(5)))
        assert await setup.page(limit=2) == (["c4.1", "c3.1"], 5)
        assert await setup.page(limit=2, skip=4) == (["c0.1"], 5)
        assert await setup.page(limit=2, skip=5) == ([], 5)
        assert await setup.page(since=1, until=3) == (["c2.1", "c1.1"], 2)

    run(work)


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        ("provider", "q", {"provider": "q"}),
        ("model", "small", {"model": "small"}),
        ("type", "tts", {"model_type": "tts"}),
        ("credential", "spare", {"credential": "spare"}),
        ("key", "k2", {"api_key": "k2"}),
        ("user", "bob", {"user": "bob"}),
        ("status", "cancelled", {"status": "cancelled"}),
        ("status", "failed", {"status": "upstream_error"}),
        ("call", "b", {}),
        ("session", "s1", {"session": "s1"}),
        ("project", "blue", {"project": "blue"}),
    ],
)
def test_a_filter_selects_rows(name: str, value: str, changed: dict[str, Any]):
    async def work(setup: Setup) -> None:
        await setup.add(row("a"), row("b", **changed), row("c", status="cached"))
        assert await setup.page(**{name: value}) == (["b.1"], 1)
        other_filter = "user" if name == "key" else "key"
        both = {name: value, other_filter: "unknown"}
        assert await setup.page(**both) == ([], 0)

    run(work)


def test_an_unknown_filter_is_refused():
    async def work(setup: Setup) -> None:
        with pytest.raises(ValueError, match="^Unknown filter: {'tenant_'}$"):
            await setup.page(tenant_="x")

    run(work)


# Sums.


def test_a_summary_has_the_sums_of_its_rows():
    async def work(setup: Setup) -> None:
        await setup.add(
            row("a", 1, status="upstream_error", usage=None),
            row("a", 2),
            row("b", usage=LLMUsage.of(1, 2)),
            row("c", usage=LLMUsage.of(1, 2, total_price=D("0.25"))),
        )
        assert await setup.summary("model") == [
            UsageSummary(
                key=("big",), calls=3, attempts=4, failed=0, failed_attempts=1,
                prompt_tokens=12,
                completion_tokens=24, cached_tokens=4, reasoning_tokens=5,
                characters=0, seconds=0.0, searches=2, cost=D("0.75"), currency="USD",
                unpriced=1,
            )
        ]  # fmt: skip

    run(work)


def test_a_summary_has_the_most_expensive_group_first():
    async def work(setup: Setup) -> None:
        free = LLMUsage.of(1, 2, total_price=D(0))
        await setup.add(
            row("a", user="bob", usage=free),
            row("b", user="carol"),
            row("c", user=None, usage=free),
            row("d", user="dave", usage=free),
            row("e", user="dave", usage=free),
        )
        keys = [line.key for line in await setup.summary("user")]
        assert keys == [("carol",), ("dave",), ("-",), ("bob",)]

    run(work)


def test_currencies_are_not_added():
    async def work(setup: Setup) -> None:
        euros = LLMUsage.of(1, 2, total_price=D("0.25"), currency="EUR")
        await setup.add(row("a"), row("b", usage=euros))
        costs = [(line.cost, line.currency) for line in await setup.summary("model")]
        assert costs == [(D("0.5"), "USD"), (D("0.25"), "EUR")]

    run(work)


def test_rows_are_grouped_by_several_columns_and_by_their_time():
    async def work(setup: Setup) -> None:
        await setup.add(
            row("a", at=3600.0), row("b", at=86_399.0), row("c", at=86_400.0)
        )
        hours = {line.key for line in await setup.summary("key", "hour")}
        assert hours == {("k1", "1"), ("k1", "23"), ("k1", "24")}
        days = {line.key: line.calls for line in await setup.summary("day")}
        assert days == {("0",): 2, ("1",): 1}
        assert (await setup.summary("model", since=86_399.0))[0].calls == 2
        assert (await setup.summary("model", until=86_399.0))[0].calls == 1
        for name in GROUPINGS:
            assert sum(line.calls for line in await setup.summary(name)) == 3
        assert await setup.table.summary("u", by=["model"]) == []

    run(work)


@pytest.mark.parametrize("name", ["session", "project"])
def test_rows_are_grouped_by_what_the_calls_belong_to(name: str):
    async def work(setup: Setup) -> None:
        await setup.add(
            row("a", **{name: "blue"}), row("b", **{name: "blue"}), row("c")
        )
        calls = {line.key: line.calls for line in await setup.summary(name)}
        assert calls == {("blue",): 2, ("-",): 1}

    run(work)


def test_a_call_with_several_tags_counts_for_each():
    async def work(setup: Setup) -> None:
        small = LLMUsage.of(
            1, 2, cached_tokens=1, reasoning_tokens=1, searches=1, total_price=D("0.25")
        )
        await setup.add(
            row("a", tags="batch,eval"),
            row("b", tags="eval", usage=small),
            row("c", status="upstream_error", usage=None, tags="eval"),
            row("d", usage=LLMUsage.of(1, 2), tags="eval"),
            row("e"),
        )
        lines = {line.key: line for line in await setup.summary("tag")}
        assert set(lines) == {("batch",), ("eval",), ("-",)}
        assert lines[("batch",)].calls == lines[("-",)].calls == 1
        assert lines[("eval",)] == UsageSummary(
            key=("eval",), calls=4, attempts=4, failed=1, failed_attempts=1,
            prompt_tokens=12,
            completion_tokens=24, cached_tokens=5, reasoning_tokens=6,
            characters=0, seconds=0.0, searches=3, cost=D("0.75"), currency="USD",
            unpriced=1,
        )  # fmt: skip

    run(work)


def test_tags_may_be_one_of_several_groupings():
    async def work(setup: Setup) -> None:
        euros = LLMUsage.of(1, 2, total_price=D("0.25"), currency="EUR")
        await setup.add(
            row("a", tags="x,y"),
            row("b", tags="x", provider="q"),
            # Currencies are not added, whatever the tag.
            row("c", tags="x", usage=euros),
            row("d", tags="x", user="bob"),
        )
        lines = await setup.summary("provider", "tag", "user")
        assert {(*line.key, line.currency): line.calls for line in lines} == {
            ("p", "x", "alice", "USD"): 1,
            ("p", "y", "alice", "USD"): 1,
            ("q", "x", "alice", "USD"): 1,
            ("p", "x", "alice", "EUR"): 1,
            ("p", "x", "bob", "USD"): 1,
        }
        by_tag = await setup.summary("tag", "key")
        assert [(line.key, line.calls, line.cost) for line in by_tag] == [
            (("x", "k1"), 3, D("1.5")),
            (("y", "k1"), 1, D("0.5")),
            (("x", "k1"), 1, D("0.25")),
        ]

    run(work)


def test_percentiles_are_those_of_successful_attempts():
    async def work(setup: Setup) -> None:
        rows = [
            row(f"c{n}", latency=float(n), first_chunk=n / 2 if n > 50 else None)
            for n in range(1, 101)
        ]
        await setup.add(*rows, row("x", latency=900.0, status="cancelled"))
        await setup.add(row("y", model="small", latency=7.0))
        assert await setup.table.percentiles("t", since=0, until=1e12) == [
            {
                "model": "p/big", "calls": 100, "p50": 50.0, "p90": 90.0, "p99": 99.0,
                "first_p50": 37.5, "first_p90": 47.5, "first_p99": 50.0,
            },
            {"model": "p/small", "calls": 1, "p50": 7.0, "p90": 7.0, "p99": 7.0},
        ]  # fmt: skip
        assert await setup.table.percentiles("t", since=1, until=1e12) == []

    run(work)


# Calls that counted for limits.


def test_what_a_call_used_is_the_sum_of_its_attempts():
    async def work(setup: Setup) -> None:
        await setup.add(
            row("a", 0, status="upstream_error"),
            row("a", 2, usage=LLMUsage.of(1, 2)),
            row("a", 63),
            row("a", 64),
            row("b", status="upstream_error", usage=None),
            row("c", status="cancelled", first_chunk=0.5),
        )
        assert await setup.table.call_usage("a") == CallUsage(63, 10**9, is_served=True)
        assert await setup.table.call_usage("a.2") == CallUsage(3, 0, is_served=True)
        assert await setup.table.call_usage("b") == CallUsage(0, 0, is_served=False)
        used = await setup.table.call_usage("c.1")
        assert used == CallUsage(30, 500_000_000, is_served=True)
        assert await setup.table.call_usage("unknown") is None

    run(work)


# Deleting.


def test_old_rows_are_deleted_in_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage_table, "_DELETE_BATCH_SIZE", 2)

    async def work(setup: Setup) -> None:
        await setup.add(*(row(f"c{n}", at=n) for n in range(7)))
        await setup.add(*(row(f"u{n}", at=n, tenant="u") for n in range(7)))
        # The rows may not be in the sums yet.
        await setup.table.delete_before(5)
        assert len(await setup.table.recent("t")) == 7
        assert not await setup.sums.sum_next_span(0.0)
        await setup.table.delete_before(5)
        assert ids(await setup.table.recent("t")) == ["c6.1", "c5.1"]
        assert ids(await setup.table.recent("u")) == ["u6.1", "u5.1"]
        # What the limits count stays.
        (total,) = await setup.sums.between(UsageQuery("t", "tenant"), 0, 1)
        assert total.calls == 7

    run(work)
