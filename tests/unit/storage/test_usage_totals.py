"""The running totals of usage: what counts for whom, and how old rows are added."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from modelyard.models.llm import LLMUsage
from modelyard.runtime.usage_row import Columns, Intent, row_of
from modelyard.runtime.usage_table import UsageTable
from modelyard.storage import usage_sums
from modelyard.storage.database import Database
from modelyard.storage.usage_sums import (
    DAY,
    Scope,
    UsageQuery,
    UsageSums,
    UsageTotal,
    indexable,
    is_answer,
)

NOON = 20_000 * DAY + DAY / 2
TODAY = 20_000
MOMENT = TODAY * 8640 + 4320
"""The bucket of ten seconds that starts at noon."""
TENANT = UsageQuery("t", "tenant")


def row(
    call: str = "call",
    attempt: int = 1,
    *,
    at: float = NOON,
    status: str = "ok",
    first_chunk: float | None = None,
    requested: str = "p/asked",
    **fields: Any,
) -> Columns:
    """A ledger row with 30 tokens for 0.5, of Alice's key unless `fields` differ."""
    intent = {
        "invocation": call, "attempt": attempt, "tenant": "t", "api_key": "k1",
        "user": "alice", "created_at": at, "provider": "p", "model": "big",
        "model_type": "llm", "credential": "main", "credential_id": "c1",
        "prompt_tokens": 0, "asked": requested, "app": "",
    } | fields  # fmt: skip
    usage = LLMUsage.of(10, 20, total_price=Decimal("0.5"))
    return row_of(Intent(**intent), status, usage, "provider", "", 1.0, first_chunk)


class Totals:
    """A database with totals."""

    def __init__(self, writer: str = "here", database: Database | None = None) -> None:
        self.database = database or Database(":memory:")
        self.sums = UsageSums(self.database, writer=writer)
        self.table = UsageTable(self.database, self.sums)

    async def add(self, *rows: Columns) -> None:
        """Insert rows in one transaction."""
        await self.database.transact(lambda it: self.table.insert(it, rows))

    async def add_old(self, *rows: Columns) -> None:
        """Insert rows as an older version did, which had no totals."""
        await self.add(*rows)
        tenants = sorted({columns[3] for columns in rows})

        def work(connection: Any) -> None:
            connection.execute("UPDATE usage SET asked = NULL")
            connection.execute("DELETE FROM usage_sums")
            for tenant in tenants:
                connection.execute(
                    "INSERT INTO usage_unsummed (tenant, until) VALUES (?, 1e15)",
                    (tenant,),
                )

        await self.database.transact(work)

    async def days(
        self, query: UsageQuery = TENANT, first: int = 0, last: int = 1 << 40
    ) -> list[UsageTotal]:
        return sorted(await self.sums.between(query, first, last))

    async def amounts(self, scope: Scope, name: str = "", **options: Any) -> list[Any]:
        """The totals (calls, served, tokens, nanos) of a subject, by model."""
        query = UsageQuery("t", scope, name, **options)
        return [(total.model, *total[2:]) for total in await self.days(query)]

    async def progress(self) -> list[dict[str, Any]]:
        """What is left to be summed."""
        rows = await self.database.fetch("SELECT * FROM usage_unsummed ORDER BY tenant")
        return [dict(item) for item in rows]

    async def sum_all(self, current_time: float = NOON) -> int:
        """Add all old rows and return the number of steps."""
        steps = 0
        while await self.sums.sum_next_span(current_time):
            steps += 1
        return steps


def run(work: Callable[[Totals], Awaitable[None]]) -> None:
    totals = Totals()

    async def awaited() -> None:
        await work(totals)

    try:
        asyncio.run(awaited())
    finally:
        totals.database.close()


ONE_CALL = (1, 1, 30, 500_000_000)
TWO_CALLS = (2, 2, 60, 1_000_000_000)


# What counts for whom.


def test_a_row_counts_for_its_tenant_key_user_and_credential():
    async def work(totals: Totals) -> None:
        await totals.add(row())
        assert await totals.days() == [UsageTotal("p/asked", TODAY, *ONE_CALL)]
        assert await totals.amounts("key", "k1") == [("p/asked", *ONE_CALL)]
        assert await totals.amounts("user", "alice") == [("p/asked", *ONE_CALL)]
        # A credential is charged for the model that was called.
        assert await totals.amounts("credential", "p/main") == [("p/big", *ONE_CALL)]
        for scope, name in (
            ("key", "k2"), ("key", ""), ("user", "bob"), ("credential", "p/other"),
        ):  # fmt: skip
            assert await totals.amounts(scope, name) == []  # type: ignore[arg-type]
        assert await totals.days(UsageQuery("other", "tenant")) == []

    run(work)


def test_rows_add_up_in_one_transaction_and_in_several():
    async def work(totals: Totals) -> None:
        await totals.add(row("a"), row("b"), row("c", requested="p/other"))
        await totals.add(row("d"))
        both = [("p/asked", 3, 3, 90, 1_500_000_000), ("p/other", *ONE_CALL)]
        assert await totals.amounts("tenant") == both
        assert await totals.amounts("key", "k1") == both
        assert await totals.amounts("user", "alice") == both
        expected = [("p/big", 4, 4, 120, 2_000_000_000)]
        assert await totals.amounts("credential", "p/main") == expected

    run(work)


def test_the_users_of_a_key_are_counted_separately():
    async def work(totals: Totals) -> None:
        await totals.add(row("a"), row("b", api_key="k2"), row("c", user="bob"))
        assert await totals.amounts("user", "alice") == [("p/asked", *TWO_CALLS)]
        only = await totals.amounts("user", "alice", api_key="k1")
        assert only == [("p/asked", *ONE_CALL)]
        assert await totals.amounts("key", "k1") == [("p/asked", *TWO_CALLS)]

    run(work)


def test_calls_without_a_key_or_a_user_are_found_by_a_dash():
    async def work(totals: Totals) -> None:
        await totals.add(row("a", user=None), row("b", api_key="", user="bob"))
        assert await totals.amounts("user", "-") == [("p/asked", *ONE_CALL)]
        assert await totals.amounts("key", "-") == [("p/asked", *ONE_CALL)]

    run(work)


def test_an_app_counts_what_it_did_for_keys():
    async def work(totals: Totals) -> None:
        await totals.add(
            row("a", app="app:7"), row("b", api_key="app:7"), row("c", app="app:8")
        )
        expected = [("p/asked", *ONE_CALL)]
        assert await totals.amounts("key", "app:7") == expected
        of_app = await totals.amounts("key", "app:7", is_apps=True)
        assert of_app == [("p/asked", *TWO_CALLS)]
        of_user = await totals.amounts("user", "alice", api_key="app:7", is_apps=True)
        assert of_user == [("p/asked", *TWO_CALLS)]
        assert await totals.amounts("user", "alice", api_key="app:7") == expected
        # Of the key, it is usage like any other.
        assert await totals.amounts("key", "k1") == [("p/asked", *TWO_CALLS)]
        assert await totals.amounts("tenant", is_apps=False) == [
            ("p/asked", 3, 3, 90, 1_500_000_000)
        ]

    run(work)


# Attempts.


@pytest.mark.parametrize("is_together", [True, False])
def test_a_retry_is_an_attempt_of_the_same_call(*, is_together: bool):
    async def work(totals: Totals) -> None:
        rows = [row(attempt=1, status="upstream_error"), row(attempt=2)]
        if is_together:
            await totals.add(*rows)
        else:
            for single_row in rows:
                await totals.add(single_row)
        expected = [("p/asked", 1, 1, 60, 1_000_000_000)]
        assert await totals.amounts("tenant") == expected
        of_credential = [("p/big", 2, 1, 60, 1_000_000_000)]
        assert await totals.amounts("credential", "p/main") == of_credential

    run(work)


def test_a_call_is_served_once():
    async def work(totals: Totals) -> None:
        await totals.add(row(attempt=1, status="upstream_error", first_chunk=0.5))
        await totals.add(row(attempt=2))
        assert await totals.amounts("tenant") == [("p/asked", 1, 1, 60, 10**9)]
        of_credential = await totals.amounts("credential", "p/main")
        assert of_credential == [("p/big", 2, 2, 60, 10**9)]

    run(work)


@pytest.mark.parametrize(
    "changed", [{"call": "other"}, {"tenant": "other"}, {"attempt": 3}]
)
def test_only_earlier_attempts_of_the_same_call_count_as_its_answer(
    changed: dict[str, Any],
):
    async def work(totals: Totals) -> None:
        earlier = {"call": "call", "attempt": 1} | changed
        await totals.add(row(**earlier, user="bob"))
        await totals.add(row(attempt=2))
        assert (await totals.amounts("user", "alice"))[0][2] == 1

    run(work)


def test_the_answer_of_the_cache_is_a_call():
    async def work(totals: Totals) -> None:
        await totals.add(row(attempt=0, status="cached"))
        assert await totals.amounts("tenant") == [("p/asked", 1, 1, 0, 0)]

    run(work)


def test_a_failed_call_is_a_call_but_not_served():
    async def work(totals: Totals) -> None:
        await totals.add(row(status="upstream_error"))
        expected = [("p/asked", 1, 0, 30, 500_000_000)]
        assert await totals.amounts("tenant") == expected

    run(work)


def test_a_row_that_is_inserted_again_does_not_count_again():
    async def work(totals: Totals) -> None:
        await totals.add(row(), row())
        await totals.add(row())
        assert await totals.amounts("tenant") == [("p/asked", *ONE_CALL)]

    run(work)


@pytest.mark.parametrize(
    ("status", "first_chunk", "expected"),
    [
        ("ok", None, True),
        ("cached", None, True),
        ("lost", None, True),
        ("cancelled", None, False),
        ("cancelled", 0.0, True),
    ],
)
def test_an_answer_has_at_least_started(
    status: str, first_chunk: float | None, *, expected: bool
):
    assert is_answer(status, first_chunk) is expected


# Times.


def test_the_usage_between_two_days_includes_both():
    async def work(totals: Totals) -> None:
        await totals.add(*(row(f"c{n}", at=NOON + n * DAY) for n in range(4)))
        expected = [UsageTotal("p/asked", TODAY + 2, *TWO_CALLS)]
        assert await totals.days(TENANT, TODAY + 1, TODAY + 2) == expected
        assert await totals.days(TENANT, TODAY + 4, TODAY + 9) == []

    run(work)


def test_a_day_starts_at_midnight():
    async def work(totals: Totals) -> None:
        midnight = TODAY * DAY
        await totals.add(row("a", at=midnight - 0.5), row("b", at=midnight))
        totals_of_day = await totals.days(TENANT, TODAY, TODAY)
        assert totals_of_day == [UsageTotal("p/asked", TODAY, *ONE_CALL)]

    run(work)


def test_recent_usage_is_in_buckets_of_ten_seconds():
    async def work(totals: Totals) -> None:
        await totals.add(
            row("a", at=NOON + 25),
            row("b", at=NOON + 9.9),
            row("c", at=NOON),
            row("d", at=NOON + 9, requested="p/other"),
            row("e", at=NOON + 30),
        )
        recent = await totals.sums.moments(TENANT, NOON + 5, NOON + 29)
        assert sorted(recent[:2]) == [
            UsageTotal("p/asked", MOMENT, *TWO_CALLS),
            UsageTotal("p/other", MOMENT, *ONE_CALL),
        ]
        assert recent[2:] == [UsageTotal("p/asked", MOMENT + 2, *ONE_CALL)]
        later = await totals.sums.moments(TENANT, NOON + 30, NOON + 30)
        assert later == [UsageTotal("p/asked", MOMENT + 3, *ONE_CALL)]

    run(work)


def test_recent_usage_is_sorted_by_time_for_all_models():
    async def work(totals: Totals) -> None:
        names = ("p/a", "p/b")
        for number in range(4):
            at, requested = NOON + 10 * (3 - number), names[number % 2]
            await totals.add(row(f"c{number}", at=at, requested=requested))
        recent = await totals.sums.moments(TENANT, NOON, NOON + 60)
        assert [total.bucket - MOMENT for total in recent] == [0, 1, 2, 3]

    run(work)


def test_short_buckets_are_deleted_after_three_hours():
    async def work(totals: Totals) -> None:
        await totals.add(*(row(f"c{n}", at=NOON + 10 * n) for n in range(4)))
        await totals.sums.forget_moments(NOON + 3 * 3600 + 25)
        recent = await totals.sums.moments(TENANT, 0, NOON + DAY)
        assert [total.bucket - MOMENT for total in recent] == [2, 3]
        # Days stay, and a second time there is nothing to do.
        assert (await totals.days())[0].calls == 4
        await totals.sums.forget_moments(NOON + 3 * 3600 + 25)
        await totals.sums.forget_moments(NOON + DAY)
        assert await totals.sums.moments(TENANT, 0, NOON + DAY) == []
        await totals.sums.forget_moments(NOON + DAY)

    run(work)


# Names.


def test_long_names_are_shortened_but_stay_apart():
    assert indexable("x" * 256) == "x" * 256
    assert indexable("ä" * 128) == "ä" * 128
    for text in ("x" * 257, "ä" * 129, "漢" * 86, "\N{GRINNING FACE}" * 65):
        short = indexable(text)
        assert len(short.encode()) <= 256
        beginning, _, digest = short.rpartition("~")
        assert text.startswith(beginning)
        assert len(beginning.encode()) >= 256 - 65 - 3
        assert len(digest) == 64
        assert indexable(text + "!") != short
    assert indexable("x" * 257)[:191] == "x" * 191
    assert indexable("\ud800" * 300).count("~") == 1


def test_usage_of_long_names_is_found():
    async def work(totals: Totals) -> None:
        name, longer = "x" * 300, "x" * 301
        await totals.add(row("a", user=name, api_key=name), row("b", user=longer))
        assert await totals.amounts("user", name) == [("p/asked", *ONE_CALL)]
        assert await totals.amounts("key", name) == [("p/asked", *ONE_CALL)]
        restricted = await totals.amounts("user", name, api_key=name)
        assert restricted == [("p/asked", *ONE_CALL)]

    run(work)


# Rows that are older than the totals.

_OLD_ROWS = [
    row(
        f"c{number}",
        at=NOON + DAY * (number % 3) + number,
        requested="p/big",
        user=("alice", "bob", None)[number % 3],
        api_key=("k1", "k2")[number % 2],
        status=("ok", "upstream_error", "cached")[number % 3],
        first_chunk=0.5 if number % 4 == 0 else None,
    )
    for number in range(12)
]
_OLD_RETRIES = [
    row(f"c{number}", 2, at=NOON + DAY * (number % 3) + number, requested="p/big")
    for number in (0, 1, 4)
]
_QUERIES = [
    TENANT,
    UsageQuery("t", "key", "k1"),
    UsageQuery("t", "key", "k2"),
    UsageQuery("t", "user", "alice"),
    UsageQuery("t", "user", "alice", "k1"),
    UsageQuery("t", "user", "-"),
    UsageQuery("t", "credential", "p/main"),
]


async def all_days(totals: Totals) -> list[list[UsageTotal]]:
    return [
        await totals.days(query, day, day)
        for query in _QUERIES
        for day in range(TODAY, TODAY + 3)
    ]


@pytest.mark.parametrize("span", [1, 4, 200_000])
@pytest.mark.parametrize("batch", [1, 3, 2_000])
def test_old_rows_count_as_if_they_were_new(
    span: int, batch: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(usage_sums, "_ROWS_OF_SPAN", span)
    monkeypatch.setattr(usage_sums, "_LINES_AT_ONCE", batch)
    expected: list[list[list[UsageTotal]]] = []

    async def as_new(totals: Totals) -> None:
        await totals.add(*_OLD_ROWS)
        await totals.add(*_OLD_RETRIES)
        expected.append(await all_days(totals))

    async def as_old(totals: Totals) -> None:
        await totals.add_old(*_OLD_ROWS, *_OLD_RETRIES)
        await totals.sum_all()
        assert await all_days(totals) == expected[0]
        # Nothing reaches back far enough to need their short buckets.
        assert await totals.sums.moments(TENANT, 0, NOON + 9 * DAY) == []
        assert totals.sums.is_complete
        assert await totals.sum_all() == 0

    run(as_new)
    run(as_old)


def test_old_rows_are_added_newest_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage_sums, "_ROWS_OF_SPAN", 2)

    async def work(totals: Totals) -> None:
        await totals.add_old(*(row(f"c{n}", at=NOON + n) for n in range(5)))
        assert not totals.sums.is_complete
        assert not await totals.sums.reaches("t", NOON + 9)
        assert await totals.sums.reaches("other", 0.0)
        for since, calls in ((3, 2), (1, 4), (0, 5)):
            assert await totals.sums.sum_next_span(NOON)
            assert (await totals.days())[0].calls == calls
            assert await totals.sums.reaches("t", NOON + since)
            assert not await totals.sums.reaches("t", NOON + since - 0.5)
        assert await totals.progress() != []
        # The next step finds nothing left.
        assert await totals.sums.sum_next_span(NOON)
        assert await totals.progress() == []
        assert not await totals.sums.sum_next_span(NOON)
        assert await totals.sums.reaches("t", 0.0)

    run(work)


def test_a_database_without_old_rows_is_complete():
    async def work(totals: Totals) -> None:
        assert not totals.sums.is_complete
        assert not await totals.sums.sum_next_span(NOON)
        assert totals.sums.is_complete
        assert await totals.sums.reaches("t", 0.0)

    run(work)


def test_the_old_rows_of_a_tenant_may_come_first():
    async def work(totals: Totals) -> None:
        await totals.add_old(row("a", tenant="a"), row("t"))
        assert await totals.sums.sum_next_span(NOON, "t")
        assert (await totals.amounts("tenant"))[0][1] == 1
        assert await totals.days(UsageQuery("a", "tenant")) == []
        assert not await totals.sums.sum_next_span(NOON, "other")
        assert await totals.sums.sum_next_span(NOON, "t")
        assert not await totals.sums.sum_next_span(NOON, "t")
        assert await totals.sum_all() == 2
        assert len(await totals.days(UsageQuery("a", "tenant"))) == 1

    run(work)


def test_new_rows_do_not_wait_for_the_old_ones():
    async def work(totals: Totals) -> None:
        await totals.add_old(row("old"))
        await totals.add(row("new", requested="p/big"))
        assert await totals.amounts("tenant") == [("p/big", *ONE_CALL)]
        await totals.sum_all()
        assert await totals.amounts("tenant") == [("p/big", *TWO_CALLS)]

    run(work)


# Several processes.


def test_a_tenant_is_summed_by_one_process_at_a_time():
    async def work(first: Totals) -> None:
        second = Totals("there", first.database)
        await first.add_old(row("a"))
        await hold(first, "there", NOON + 60)
        assert not await first.sums.sum_next_span(NOON)
        assert not await first.sums.sum_next_span(NOON + 60)
        assert await first.days() == []
        # The claim has expired, or comes from a clock that jumped.
        assert await first.sums.sum_next_span(NOON + 60.5)
        assert await first.days() != []
        await hold(first, "here", NOON + 120)
        assert not await second.sums.sum_next_span(NOON)
        assert await second.sums.sum_next_span(NOON - 1)
        assert await first.progress() == []

    run(work)


async def hold(totals: Totals, holder: str, until: float) -> None:
    """Claim all that is left for a process."""
    await totals.database.transact(
        lambda it: it.execute(
            "UPDATE usage_unsummed SET holder = ?, held_until = ?", (holder, until)
        )
    )


def test_a_process_holds_its_claim_for_a_minute():
    async def work(totals: Totals) -> None:
        await totals.add_old(row("a"))
        assert await totals.sums.sum_next_span(NOON)
        (left,) = await totals.progress()
        assert (left["holder"], left["held_until"]) == ("here", NOON + 60)
        assert (left["since"], left["done"], left["until"]) == (None, 0, NOON)

    run(work)


def test_the_claims_of_an_exited_process_are_released():
    async def work(totals: Totals) -> None:
        await totals.add_old(row("a"), row("b", tenant="u"))
        await hold(totals, "gone", NOON + 60)
        await totals.database.transact(lambda it: totals.sums.release(it, "other"))
        assert not await totals.sums.sum_next_span(NOON)
        await totals.database.transact(lambda it: totals.sums.release(it, "gone"))
        assert await totals.sums.sum_next_span(NOON)

    run(work)


def test_what_a_killed_process_added_is_not_added_again(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(usage_sums, "_LINES_AT_ONCE", 3)

    async def work(totals: Totals) -> None:
        await totals.add_old(*_OLD_ROWS, *_OLD_RETRIES)
        expected = await summed_alone(*_OLD_ROWS, *_OLD_RETRIES)
        await stop_after(totals, 2)
        (left,) = await totals.progress()
        assert (left["since"], left["done"]) == (NOON, 6)
        second_process = Totals("there", totals.database)
        assert await second_process.sums.sum_next_span(NOON + 1000)
        assert await all_days(totals) == expected

    run(work)


async def summed_alone(*rows: Columns) -> list[list[UsageTotal]]:
    totals = Totals()
    await totals.add_old(*rows)
    await totals.sum_all()
    result = await all_days(totals)
    await asyncio.to_thread(totals.database.close)
    return result


async def stop_after(totals: Totals, batches: int) -> None:
    """Add old rows, and fail before a batch."""
    put = totals.sums._put  # pyright: ignore[reportPrivateUsage]
    count = 0

    def failing(connection: Any, lines: Sequence[Any]) -> None:
        nonlocal count
        count += 1
        if count > batches:
            raise ZeroDivisionError
        put(connection, lines)

    totals.sums._put = failing  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await totals.sums.sum_next_span(NOON)
    totals.sums._put = put  # type: ignore[method-assign]


def test_a_process_that_lost_its_claim_adds_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(usage_sums, "_LINES_AT_ONCE", 3)

    async def work(totals: Totals) -> None:
        await totals.add_old(*_OLD_ROWS)
        expected = await summed_alone(*_OLD_ROWS)
        second_process = Totals("there", totals.database)
        put = totals.sums._put  # pyright: ignore[reportPrivateUsage]

        def losing(connection: Any, lines: Sequence[Any]) -> None:
            put(connection, lines)
            connection.execute(
                "UPDATE usage_unsummed SET holder = 'there', held_until = ?", (NOON,)
            )

        totals.sums._put = losing  # type: ignore[method-assign]
        assert await totals.sums.sum_next_span(NOON)
        (left,) = await totals.progress()
        assert (left["holder"], left["done"]) == ("there", 3)
        assert await second_process.sum_all() == 2
        assert await all_days(totals) == expected

    run(work)
