"""Tests for stored responses that callers continue from.

They are in memory, in the database, or in chains across both.
"""

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
        # The fake clock starts in 1970; the store is never used that early.
        clock.advance(1000 * _DAY)
        try:
            await work(ResponseStore(database, clock), database, clock)
        finally:
            await asyncio.to_thread(database.close)

    asyncio.run(go())


def add_chain(store: ResponseStore, first: int, last: int) -> None:
    """Add responses that each continue from the previous one."""
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
def test_a_history_is_complete_wherever_it_is_stored(is_at_hand: bool):
    """The chain does not fit in memory.

    Its older half, or all of it, is read from the database.
    """

    async def work(store: ResponseStore, database: Database, clock: FakeClock) -> None:
        add_chain(store, 0, 400)
        await written(database)
        reader = store if is_at_hand else ResponseStore(database, clock)
        assert await reader.history("t", "r399") == words(400)
        assert await reader.history("t", "r3") == words(4)

    within(work)


def test_a_history_is_limited_to_a_thousand_answers():
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


def test_removed_expired_and_other_tenants_responses_are_not_found():
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
