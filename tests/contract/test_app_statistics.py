"""Contract tests for the figures of apps, on every database."""

import asyncio
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.ids import new_id
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage.database import Database
from modelyard.storage.scoped_store import ScopedStore
from modelyard.storage.usage_sums import UsageSums
from modelyard.testing import FakeClock
from modelyard.workflow.app_statistics import DAY, AppStatistics, Statistics
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.journal import DatabaseJournal, RunRecord

MONDAY = 20_000 * DAY
"""The beginning of 2024-10-04 in UTC, in Unix seconds."""


class World:
    """Messages, runs and ledger rows of apps, added as the product adds them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        clock = FakeClock()
        self.conversations = Conversations(
            database, clock.time, ScopedStore(database, clock)
        )
        self.journal = DatabaseJournal(database, clock.time)
        self.usage = UsageTable(database, UsageSums(database))
        self.statistics = AppStatistics(database)
        self.count = 0

    async def conversation(
        self, at: float, *, tenant: str = "figures", app: str = "a"
    ) -> str:
        conversation_id = new_id("c")
        await self.conversations.start(
            Conversation(
                tenant=tenant,
                id=conversation_id,
                app=app,
                user="u",
                name="c",
                created_at=at,
            )
        )
        return conversation_id

    async def message(
        self,
        at: float,
        user: str,
        conversation: str = "",
        *,
        rating: str = "",
        source: str = "service-api",
        tenant: str = "figures",
        app: str = "a",
    ) -> None:
        message_id = new_id("m")
        await self.conversations.add_message(
            Message(
                tenant=tenant, id=message_id, app=app, user=user, conversation=conversation,
                created_at=at, source=source,
            )
        )  # fmt: skip
        if rating:
            await self.conversations.set_rating(tenant, app, message_id, rating, "")

    async def run(
        self,
        at: float,
        user: str,
        *,
        source: str = "service-api",
        tenant: str = "figures",
    ) -> None:
        await self.journal.create(
            RunRecord(
                tenant=tenant, id=new_id("run"), app="a", user=user, created_at=at,
                created_from=source,
            )
        )  # fmt: skip

    async def call(self, at: float, **changes: Any) -> None:
        self.count += 1
        row = UsageRow(
            id=new_id("u"), invocation=f"call{self.count}", attempt=1, tenant="figures",
            api_key="app:a", user="u", created_at=at, day=int(at // DAY), provider="p",
            model="m", model_type="llm", credential="c", credential_id="c", status="ok",
            counted_by="provider", prompt_tokens=100, completion_tokens=40, cached_tokens=0,
            cache_write_tokens=0, reasoning_tokens=0, characters=0, seconds=0.0, searches=0,
            total_price=Decimal("0.25"), nanos=250_000_000, currency="USD",
            price_source="", price_version="", latency=2.0, first_chunk=None,
        )  # fmt: skip
        columns = msgspec.structs.astuple(msgspec.structs.replace(row, **changes))
        price = columns[23]
        stored = (*columns[:23], None if price is None else str(price), *columns[24:])
        await self.database.transact(
            lambda connection: self.usage.insert(connection, [stored])
        )

    async def figures(
        self, days: int = 3, *, tenant: str = "figures", offset: int = 0
    ) -> tuple[list[Statistics], Statistics]:
        return await self.statistics.of_app(
            tenant, "a", since=MONDAY, until=MONDAY + days * DAY, offset=offset
        )


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    database = Database(database_url)
    yield World(database)
    database.close()


async def _fill(world: World) -> None:
    """Two conversations on the first day, nothing on the second, one on the third; and
    rows that belong to others or lie outside."""
    hour = 3600.0
    first = await world.conversation(MONDAY + hour)
    second = await world.conversation(MONDAY + 2 * hour)
    third = await world.conversation(MONDAY + 2 * DAY + hour)
    await world.message(MONDAY + hour, "ada", first, rating="like")
    await world.message(MONDAY + 1.5 * hour, "ada", first, rating="dislike")
    await world.message(MONDAY + 2 * hour, "bob", second, rating="like")
    # The first conversation goes on two days later.
    await world.message(MONDAY + 2 * DAY, "ada", first)
    await world.message(MONDAY + 2 * DAY + hour, "eve", third, rating="like")
    await world.run(MONDAY + hour, "ada")
    await world.run(MONDAY + 2 * hour, "carl")
    # Tests in the console, other tenants, other apps, and other times do not count.
    await world.message(MONDAY + hour, "admin", first, source="console", rating="like")
    await world.run(MONDAY + hour, "admin", source="console")
    await world.message(MONDAY + hour, "ada", tenant="other")
    await world.message(MONDAY + hour, "ada", app="b")
    await world.message(MONDAY - 1, "ada")
    await world.message(MONDAY + 3 * DAY, "ada")
    # The app's own key, and on behalf of an API key.
    await world.call(MONDAY + hour)
    await world.call(MONDAY + hour, api_key="key_1", app="app:a", latency=6.0)
    await world.call(
        MONDAY + hour, currency="EUR", nanos=1_500_000_000, status="cancelled"
    )
    await world.call(MONDAY + hour, total_price=None, nanos=None, model_type="rerank", completion_tokens=0)  # fmt: skip
    await world.call(MONDAY + 2 * DAY, nanos=1)
    await world.call(MONDAY + hour, api_key="key_1")
    await world.call(MONDAY + hour, api_key="app:b")
    await world.call(MONDAY + hour, tenant="other")
    await world.call(MONDAY - 1)


def test_the_figures_of_known_days_are_exact(world: World):
    async def work() -> None:
        tenant_free = await world.figures(tenant="empty")
        assert tenant_free[1] == Statistics()
        await _fill(world)
        (first, second, third), total = await world.figures()
        assert first == Statistics(
            day="2024-10-04", messages=3, runs=2, end_users=3, conversations=2,
            # Three messages of one conversation until now, and one of the other.
            interactions=2.0,
            prompt_tokens=400, completion_tokens=120,
            costs={"EUR": "1.5", "USD": "0.5"}, unpriced=1,
            # Only finished calls of chat models: 80 tokens in 8 seconds.
            tokens_per_second=10.0,
            likes=2, dislikes=1, likes_per_1000=666.67,
        )  # fmt: skip
        assert second == Statistics(day="2024-10-05")
        assert third == Statistics(
            day="2024-10-06", messages=2, end_users=2, conversations=1, interactions=1.0,
            prompt_tokens=100, completion_tokens=40, costs={"USD": "0.000000001"},
            tokens_per_second=20.0, likes=1, likes_per_1000=500.0,
        )  # fmt: skip
        # Users and speed of the range are not sums of the days.
        assert total == Statistics(
            messages=5, runs=2, end_users=4, conversations=3, interactions=1.67,
            prompt_tokens=500, completion_tokens=160,
            costs={"EUR": "1.5", "USD": "0.500000001"}, unpriced=1,
            tokens_per_second=12.0, likes=3, dislikes=1, likes_per_1000=600.0,
        )  # fmt: skip

    asyncio.run(work())


def test_days_begin_where_the_caller_is(world: World):
    async def work() -> None:
        # 23:30 UTC is 08:30 of the next day in Tokyo, and 18:30 of the same in New York.
        await world.message(MONDAY + 23.5 * 3600, "ada", tenant="zones")
        for offset, expected in (
            (0, "2024-10-04"),
            (9 * 60, "2024-10-05"),
            (-5 * 60, "2024-10-04"),
        ):
            days, _ = await world.figures(tenant="zones", offset=offset)
            assert [day.day for day in days if day.messages] == [expected]
        # Five hours behind, the range begins on the evening of the day before.
        assert days[0].day == "2024-10-03"

    asyncio.run(work())


def check_equal(figures: Statistics, rows: list[tuple[int, str, str]]) -> None:
    """Check the figures against messages as (day, user, rating)."""
    ratings = [rating for _, _, rating in rows]
    assert figures.messages == len(rows)
    assert figures.end_users == len({user for _, user, _ in rows})
    assert figures.likes == ratings.count("like")
    assert figures.dislikes == ratings.count("dislike")
    assert figures.likes_per_1000 == round(1000 * figures.likes / len(rows), 2)


def test_figures_equal_those_that_are_counted_one_by_one(world: World):
    """Random messages, counted again here."""
    choose = random.Random(7)

    async def work() -> None:
        added: list[tuple[int, str, str]] = []
        for _ in range(60):
            at = MONDAY + choose.randrange(3 * DAY)
            user, rating = choose.choice("xyz"), choose.choice(["", "like", "dislike"])
            await world.message(at, user, tenant="random", rating=rating)
            added.append((int((at - MONDAY) // DAY), user, rating))
        days, total = await world.figures(tenant="random")
        for index, day in enumerate(days):
            check_equal(day, [row for row in added if row[0] == index])
        check_equal(total, added)

    asyncio.run(work())


def test_ranges_that_are_not_possible_are_refused(world: World):
    async def work() -> None:
        for since, until, offset, problem in (
            (5.0, 5.0, 0, "'since' must be a Unix time before 'until'"),
            (float("nan"), 5.0, 0, "'since' must be"),
            (-1.0, 5.0, 0, "'since' must be"),
            (0.0, 1e12, 0, "'since' must be"),
            (0.0, 367 * DAY, 0, "at most 366 days"),
            (0.0, 5.0, 900, "'offset' must be from -840 to 840"),
        ):
            with pytest.raises(InvokeBadRequestError, match=problem):
                await world.statistics.of_app(
                    "t", "a", since=since, until=until, offset=offset
                )

    asyncio.run(work())


def reads_of(database: Database, statement: str) -> list[tuple[str, str]]:
    """Return (table, step of the plan) of each read of a table."""
    values = {"tenant": "t", "app": "a", "caller": "app:a", "since": 0, "until": 1, "offset": 0}  # fmt: skip
    plan = database.read(f"EXPLAIN QUERY PLAN {statement}", values)
    steps = [str(row["detail"]) for row in plan]
    return [(step.split()[1], step) for step in steps if step[:4] in ("SCAN", "SEAR")]


@pytest.mark.parametrize(
    "name",
    ["messages", "runs", "end_users", "conversations", "usage", "speed", "ratings"],
)
def test_every_figure_uses_an_index(tmp_path: Any, name: str):
    database = Database(tmp_path / "x.db")
    sql = database.statements("app_statistics")
    reads = reads_of(database, sql[name].replace("{day}", sql["day"]))
    database.close()
    tables = ("messages", "runs", "usage", "conversations")
    of_tables = [read for read in reads if read[0] in tables]
    assert of_tables
    for table, step in of_tables:
        index = "usage_by_app" if table == "usage" else ""
        assert f"USING INDEX {index}" in step, step
