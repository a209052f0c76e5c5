"""The ledger: what is recorded before a call and after it, and when calls are refused."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.models.llm import LLMUsage
from modelyard.models.types import ModelType
from modelyard.runtime import ledger as ledger_module
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger, LedgerUnavailableError, OpenAttempt
from modelyard.runtime.orphaned_journals import OPENED, SETTLED
from modelyard.runtime.usage_row import Priced
from modelyard.storage import writer
from modelyard.storage.database import Database
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.journal import OrphanedJournal, Slot
from modelyard.storage.sqlite import SqliteEngine

USAGE = LLMUsage.of(10, 20, total_price=Decimal("0.5"))
TOO_LONG = "x" * (5 << 20)
"""Longer than a segment of the journal."""


class Troubled(Database):
    """A database whose state can be set."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.state: dict[str, Any] = {"damage": None, "trouble": None, "shared": False}

    @property
    def damage(self) -> str | None:
        return self.state["damage"]

    @property
    def trouble(self) -> str | None:
        return self.state["trouble"]

    @property
    def is_shared(self) -> bool:
        return self.state["shared"]


def new_call(name: str = "call", **fields: Any) -> Invocation:
    defaults: dict[str, Any] = {
        "id": name, "tenant": "t", "provider": "p", "model": "big",
        "model_type": ModelType.LLM, "request": None, "user": "alice",
    }  # fmt: skip
    return Invocation(**defaults | fields)


def settle(ledger: Ledger, opened: OpenAttempt, **fields: Any) -> None:
    defaults: dict[str, Any] = {
        "status": "ok", "usage": USAGE, "counted_by": "provider",
        "price_version": "v1", "latency": 2.5, "first_chunk": 0.5,
    }  # fmt: skip
    ledger.settle(opened, **defaults | fields)


def journal_of(ledger: Ledger, folder: Path) -> OrphanedJournal:
    """The journal of a ledger as another process would read it."""
    return OrphanedJournal(folder, ledger.owner, -1)


def records_of(ledger: Ledger, folder: Path) -> list[Any]:
    return [
        msgspec.json.decode(record) for record in journal_of(ledger, folder).records()
    ]


def run(database: Database, work: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await work()

    try:
        asyncio.run(awaited())
    finally:
        database.close()


def test_an_attempt_is_in_the_journal_before_and_after_the_call(tmp_path: Path):
    database = Troubled()
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        opened = ledger.begin(new_call(), attempt=2, created_at=7.5, prompt_tokens=40)
        intent = opened.intent
        assert (intent.invocation, intent.attempt, intent.created_at) == (
            "call",
            2,
            7.5,
        )
        assert (intent.prompt_tokens, opened.slot) == (40, Slot(0, 1))
        encoded = msgspec.to_builtins(intent)
        assert records_of(ledger, tmp_path) == [[OPENED, 0, 1, list(encoded)]]
        assert journal_of(ledger, tmp_path).progress(Slot(0, 1)) == 0
        ledger.progress(opened, 12)
        assert journal_of(ledger, tmp_path).progress(Slot(0, 1)) == 12
        settle(ledger, opened)
        (_, (kind, row)) = records_of(ledger, tmp_path)
        assert (kind, row[0], row[13], row[14]) == (SETTLED, "call.2", "ok", "provider")
        await ledger.flush()
        (stored,) = await ledger.usage.recent("t")
        assert (stored.id, stored.latency, stored.first_chunk) == ("call.2", 2.5, 0.5)
        assert (stored.price_version, stored.total_price) == ("v1", Decimal("0.5"))
        # The slot is free again.
        again = ledger.begin(new_call("next"), attempt=1, created_at=8.0)
        assert again.slot == Slot(0, 2)
        assert again.intent.prompt_tokens == 0

    run(database, work)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [
        ".journal",
        ".lock",
        ".progress",
    ]
    ledger.close()
    # An attempt is still open, so that its journal stays.
    assert len(list(tmp_path.iterdir())) == 3


def test_a_journal_whose_rows_are_stored_goes(tmp_path: Path):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        for number in range(3):
            opened = ledger.begin(new_call(f"c{number}"), attempt=1, created_at=1.0)
            settle(ledger, opened)
        await ledger.flush()
        # The records are released in the thread that wrote the rows.
        await ledger.flush()
        assert len(await ledger.usage.recent("t")) == 3
        assert ledger.settled == {"t": 3}

    run(database, work)
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_answers_without_a_provider_leave_nothing_in_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        ledger.add(
            new_call(), attempt=0, created_at=7.0, status="cached", usage=USAGE,
            latency=0.25,
        )  # fmt: skip
        await ledger.flush()
        # The records are released in the thread that wrote the rows.
        await ledger.flush()
        assert len(await ledger.usage.recent("t")) == 1

    # Errors in such a callback would be logged.
    with caplog.at_level(logging.ERROR):
        run(database, work)
    ledger.close()
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def test_without_a_journal_rows_are_recorded_all_the_same():
    database = Database(":memory:")
    ledger = Ledger(database)

    async def work() -> None:
        opened = ledger.begin(new_call(), attempt=1, created_at=1.0)
        assert (opened.segment, opened.slot) == (None, None)
        ledger.progress(opened, 5)
        settle(ledger, opened)
        settle(ledger, ledger.begin(new_call(tenant="u"), attempt=2, created_at=1.0))
        await ledger.flush()
        assert len(await ledger.usage.recent("t")) == 1
        assert ledger.settled == {"t": 1, "u": 1}
        assert await ledger.recover() is True
        assert ledger.count_rejected() == 0

    run(database, work)
    assert ledger.owner.startswith("by_")
    ledger.close()


def test_a_template_replaces_what_is_the_same_for_all_calls():
    database = Database(":memory:")
    ledger = Ledger(database)

    async def work() -> None:
        first = ledger.begin(new_call(), attempt=1, created_at=1.0)
        opened = ledger.begin(
            new_call("next", user="bob"),
            attempt=2,
            created_at=7.5,
            prompt_tokens=40,
            template=first.intent,
        )
        assert (
            opened.intent
            == ledger.begin(
                new_call("next", user="bob"),
                attempt=2,
                created_at=7.5,
                prompt_tokens=40,
            ).intent
        )

    run(database, work)


class CountedJobs(Database):
    """A database that counts its jobs of the ledger."""

    jobs = 0

    def submit(self, work: Any, **options: Any) -> Any:
        self.jobs += bool(options.get("may_gather"))
        return super().submit(work, **options)


def test_rows_that_come_while_the_writer_is_busy_need_one_job():
    database = CountedJobs(":memory:")
    ledger = Ledger(database)
    is_free = threading.Event()

    async def work() -> None:
        blocker = database.submit(lambda _: is_free.wait())
        for number in range(50):
            opened = ledger.begin(new_call(f"c{number}"), attempt=1, created_at=1.0)
            settle(ledger, opened)
        is_free.set()
        await asyncio.wrap_future(blocker)
        await ledger.flush()
        assert len(await ledger.usage.recent("t", limit=99)) == 50
        assert database.jobs == 1

    run(database, work)


class Interrupted(SqliteEngine):
    """A database that cannot be written a number of times."""

    failures = 0

    def begin(self) -> str:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailableError("the disk is full")
        return super().begin()


def test_rows_wait_until_the_database_can_be_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.001)
    engine = Interrupted(":memory:")
    database = Database(":memory:", engine=engine)
    ledger = Ledger(database)

    async def work() -> None:
        engine.failures = 2
        settle(ledger, ledger.begin(new_call(), attempt=1, created_at=1.0))
        while database.backlog:
            await ledger.flush()
        assert [row.id for row in await ledger.usage.recent("t")] == ["call.1"]
        assert engine.failures == 0

    run(database, work)


def test_rows_that_gather_are_written_together():
    database = Database(":memory:")
    ledger = Ledger(database)

    async def work() -> None:
        for number in range(50):
            opened = ledger.begin(new_call(f"c{number}"), attempt=1, created_at=1.0)
            settle(ledger, opened)
        await ledger.flush()
        for number in range(50, 60):
            opened = ledger.begin(new_call(f"c{number}"), attempt=1, created_at=1.0)
            settle(ledger, opened)
        await ledger.flush()
        assert len(await ledger.usage.recent("t", limit=99)) == 60

    run(database, work)


@pytest.mark.parametrize(
    ("usage", "counted_by"),
    [
        (USAGE, "provider"),
        (LLMUsage.of(1, 2, estimated=True), "estimate"),
        (None, ""),
    ],
)
def test_an_answer_without_a_provider_has_a_row(
    usage: LLMUsage | None, counted_by: str
):
    database = Database(":memory:")
    ledger = Ledger(database)

    async def work() -> None:
        ledger.add(
            new_call(),
            attempt=0,
            created_at=7.0,
            status="cached",
            usage=usage,
            latency=0.25,
        )
        await ledger.flush()
        (row,) = await ledger.usage.recent("t")
        assert (row.id, row.status, row.counted_by) == ("call.0", "cached", counted_by)
        assert (row.created_at, row.latency, row.first_chunk) == (7.0, 0.25, None)
        tokens = (
            (0, 0) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
        )
        assert (row.prompt_tokens, row.completion_tokens) == tokens
        assert (row.price_version, row.user) == ("", "alice")
        ledger.add(
            new_call("b"),
            attempt=0,
            created_at=8.0,
            status="cached",
            usage=usage,
            latency=0.0,
            first_chunk=0.125,
        )
        await ledger.flush()
        assert (await ledger.usage.recent("t"))[0].first_chunk == 0.125

    run(database, work)


# Refusals.


def refusal(ledger: Ledger) -> str:
    with pytest.raises(LedgerUnavailableError) as caught:
        ledger.begin(new_call(), attempt=1, created_at=1.0)
    assert caught.value.retry_after == 1.0
    prefix = "Calls are refused because usage cannot be recorded: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


def test_calls_are_refused_while_the_database_is_damaged(tmp_path: Path):
    database = Troubled()
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        database.state["damage"] = "page 7"
        assert refusal(ledger) == "the database is damaged"

    run(database, work)
    ledger.close()


@pytest.mark.parametrize(
    ("is_shared", "has_journal", "is_refused"),
    [(True, True, False), (False, True, True), (True, False, True)],
)
def test_only_a_journal_helps_over_an_unreachable_server(
    tmp_path: Path, *, is_shared: bool, has_journal: bool, is_refused: bool
):
    database = Troubled()
    ledger = Ledger(database, tmp_path if has_journal else None)

    async def work() -> None:
        database.state |= {"trouble": "unreachable", "shared": is_shared}
        if is_refused:
            assert refusal(ledger) == "unreachable"
        else:
            ledger.begin(new_call(), attempt=1, created_at=1.0)

    run(database, work)
    ledger.close()


def test_the_journal_holds_a_limited_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger_module, "_MAX_UNCOMMITTED_ROWS", 2)
    database = Troubled()
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        attempts = [
            ledger.begin(new_call(f"c{n}"), attempt=1, created_at=1.0) for n in range(3)
        ]
        # The rows stay in memory while the writer is busy.
        is_free = asyncio.Event()
        loop = asyncio.get_running_loop()
        blocker = database.submit(
            lambda _: asyncio.run_coroutine_threadsafe(is_free.wait(), loop).result()
        )
        database.state |= {"trouble": "unreachable", "shared": True}
        for number, opened in enumerate(attempts):
            ledger.begin(new_call(f"x{number}"), attempt=1, created_at=1.0)
            settle(ledger, opened)
        assert refusal(ledger) == "unreachable"
        is_free.set()
        await asyncio.wrap_future(blocker)
        await ledger.flush()
        ledger.begin(new_call("y"), attempt=1, created_at=1.0)

    run(database, work)
    ledger.close()


def test_an_intent_that_does_not_fit_is_refused(tmp_path: Path):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        with pytest.raises(LedgerUnavailableError, match="exceeds the record limit"):
            ledger.begin(new_call(user=TOO_LONG), attempt=1, created_at=1.0)
        # Its slot is free again.
        opened = ledger.begin(new_call(), attempt=1, created_at=1.0)
        assert opened.slot == Slot(0, 2)

    run(database, work)
    ledger.close()


def test_a_row_that_does_not_fit_still_goes_to_the_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        opened = ledger.begin(new_call(), attempt=1, created_at=1.0)
        settle(ledger, opened, status=TOO_LONG)
        await ledger.flush()
        (row,) = await ledger.usage.recent("t")
        assert row.status == TOO_LONG
        assert ledger.begin(new_call("b"), attempt=1, created_at=1.0).slot == Slot(0, 2)

    with caplog.at_level(logging.ERROR, "modelyard.ledger"):
        run(database, work)
    (record,) = caplog.records
    assert record.getMessage() == "the journal is not writable"
    assert "exceeds the record limit" in record.__dict__["fields"]["error"]
    ledger.close()


def test_more_attempts_than_slots_have_no_progress(tmp_path: Path):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        journal: Any = ledger._journal  # pyright: ignore[reportPrivateUsage]
        while journal.take_slot() is not None:
            pass
        opened = ledger.begin(new_call(), attempt=1, created_at=1.0)
        assert opened.slot is None
        assert records_of(ledger, tmp_path)[0][:3] == [OPENED, -1, 0]
        ledger.progress(opened, 5)
        settle(ledger, opened)
        await ledger.flush()
        assert len(await ledger.usage.recent("t")) == 1

    run(database, work)
    ledger.close()


def test_rows_that_cannot_be_committed_stay_in_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    database = Database(":memory:")
    ledger = Ledger(database, tmp_path)

    async def work() -> None:
        opened = ledger.begin(new_call(), attempt=1, created_at=1.0)
        # A table that is missing is no trouble that passes.
        ledger.usage._sql["add"] = "INSERT INTO nothing VALUES (?) RETURNING id"  # pyright: ignore[reportPrivateUsage]
        settle(ledger, opened)
        await asyncio.to_thread(database.close)

    with caplog.at_level(logging.ERROR, "modelyard.ledger"):
        run(database, work)
    ledger.close()
    (record,) = caplog.records
    assert record.getMessage() == "ledger rows not committed, kept in journal"
    assert record.__dict__["fields"]["rows"] == 1
    assert record.__dict__["fields"]["error"]
    assert len(list(tmp_path.glob("*.journal"))) == 1


# Taking over.


def test_what_a_killed_process_left_open_is_closed(tmp_path: Path):
    database = Database(":memory:")
    first = Ledger(database, tmp_path)
    settled: list[str] = []

    async def settle_reservations(owner: str) -> None:
        settled.append(owner)

    def price(intent: Any, tokens: int) -> Priced:
        return Priced(Decimal(tokens), "EUR", "list", "v2")

    async def work() -> None:
        opened = first.begin(new_call(), attempt=1, created_at=1.0, prompt_tokens=40)
        first.progress(opened, 12)
        first.close()
        second = Ledger(database, tmp_path, price=price)
        assert await second.recover(settle_reservations) is True
        (row,) = await second.usage.recent("t")
        assert (row.id, row.status) == ("call.1", "lost")
        assert (row.prompt_tokens, row.completion_tokens) == (40, 12)
        assert (row.total_price, row.currency) == (Decimal(12), "EUR")
        assert settled == [first.owner]
        assert second.count_rejected() == 0
        second.close()

    run(database, work)
    assert list(tmp_path.glob("*.journal")) == []


def test_without_prices_what_was_lost_has_an_unknown_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    database = Database(":memory:")
    first = Ledger(database, tmp_path)

    async def work() -> None:
        first.begin(new_call(), attempt=1, created_at=1.0, prompt_tokens=40)
        first.close()
        second = Ledger(database, tmp_path)
        assert await second.recover() is True
        (row,) = await second.usage.recent("t")
        assert (row.total_price, row.currency, row.price_source) == (None, "USD", "")
        assert row.price_version == ""
        second.close()

    # That is no failure of the look-up.
    with caplog.at_level(logging.WARNING):
        run(database, work)
    assert [record for record in caplog.records if record.exc_info] == []


def test_old_rows_that_a_killed_process_was_adding_are_free_for_others(tmp_path: Path):
    database = Database(":memory:")
    first = Ledger(database, tmp_path)
    claim = "INSERT INTO usage_unsummed (tenant, until, holder, held_until) VALUES"

    async def work() -> None:
        first.begin(new_call(), attempt=1, created_at=1.0)
        first.close()
        await database.transact(
            lambda it: it.execute(f"{claim} ('t', 9.0, ?, 60.0)", (first.owner,))
        )
        second = Ledger(database, tmp_path)
        assert not await second.sums.sum_next_span(1.0)
        assert await second.recover() is True
        assert await second.sums.sum_next_span(1.0)
        second.close()

    run(database, work)


def test_records_that_cannot_be_taken_over_are_counted(tmp_path: Path):
    database = Database(":memory:")
    first = Ledger(database, tmp_path)

    async def work() -> None:
        journal: Any = first._journal  # pyright: ignore[reportPrivateUsage]
        journal.append(msgspec.json.encode((SETTLED, ["too", "short"])))
        first.close()
        second = Ledger(database, tmp_path)
        await second.recover()
        assert second.count_rejected() == 1
        second.close()

    run(database, work)
