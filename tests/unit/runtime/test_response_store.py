"""Answers that callers go on from: those at hand, those in the database, and chains of both."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.runtime.response_store import ResponseStore
from modelyard.storage.database import Database
from modelyard.testing import FakeClock

_DAY = 86_400.0


def within(
    work: Callable[[ResponseStore, Database, FakeClock], Awaitable[None]],
) -> None:
    async def go() -> None:
        database, clock = Database(":memory:"), FakeClock()
        clock.advance(1000 * _DAY)  # as on every day since 1970 but the first
        try:
            await work(ResponseStore(database, clock), database, clock)
        finally:
            await asyncio.to_thread(database.close)

    asyncio.run(go())


def add_chain(store: ResponseStore, first: int, last: int) -> None:
    """Answers that each go on from the one before."""
    for number in range(first, last):
        response = {"id": f"r{number}", "output": [f"answer {number}"]}
        store.add(
            "t",
            response,
            [f"question {number}"],
            previous=f"r{number - 1}" if number else None,
        )


async def written(database: Database) -> None:
    await asyncio.wrap_future(database.flush())


def words(count: int) -> list[str]:
    return [
        text
        for number in range(count)
        for text in (f"question {number}", f"answer {number}")
    ]


@pytest.mark.parametrize("is_at_hand", [True, False])
def test_a_history_is_whole_wherever_its_answers_lie(is_at_hand: bool):
    """Longer than what is at hand, so that its older half is in the database alone; or all of it is."""

    async def work(store: ResponseStore, database: Database, clock: FakeClock) -> None:
        add_chain(store, 0, 400)
        await written(database)
        reader = store if is_at_hand else ResponseStore(database, clock)
        assert await reader.history("t", "r399") == words(400)
        assert await reader.history("t", "r3") == words(4)

    within(work)


def test_a_history_goes_no_further_than_a_thousand_answers():
    async def work(store: ResponseStore, database: Database, clock: FakeClock) -> None:
        add_chain(store, 0, 1001)
        await written(database)
        for reader in (store, ResponseStore(database, clock)):
            assert len(await reader.history("t", "r999")) == 2000
            with pytest.raises(
                InvokeBadRequestError, match="more than 1,000 responses"
            ):
                await reader.history("t", "r1000")

    within(work)


def test_what_is_removed_old_or_anothers_is_not_there():
    async def work(store: ResponseStore, database: Database, clock: FakeClock) -> None:
        add_chain(store, 0, 3)
        await written(database)
        fresh_store = ResponseStore(database, clock)
        for operation in (
            fresh_store.get,
            fresh_store.input_items,
            fresh_store.history,
            fresh_store.remove,
        ):
            with pytest.raises(NotFoundError):
                await operation("other", "r2")
        await store.remove("t", "r1")
        await written(database)
        for reader in (store, ResponseStore(database, clock)):
            assert (await reader.get("t", "r2"))["id"] == "r2"
            with pytest.raises(NotFoundError):
                await reader.history("t", "r2")
        clock.advance(31 * _DAY)
        with pytest.raises(NotFoundError):
            await ResponseStore(database, clock).get("t", "r2")

    within(work)
