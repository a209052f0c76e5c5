"""Contract test: messages of one conversation on several servers lose no variable."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from modelyard.base.ids import new_id
from modelyard.storage.database import Database
from modelyard.storage.scoped_store import ScopedStore
from modelyard.testing import FakeClock
from modelyard.workflow.conversation_variables import RunValues, merge_run
from modelyard.workflow.conversations import Conversation, Conversations


@pytest.fixture
def databases(database_url: str) -> Iterator[list[Database]]:
    """Two connections to one database, one for each simulated server."""
    opened_databases = [Database(database_url) for _ in range(2)]
    yield opened_databases
    for database in opened_databases:
        database.close()


def test_what_concurrent_messages_append_is_kept(databases: list[Database]):
    async def work() -> None:
        servers = [
            Conversations(database, time.time, ScopedStore(database, FakeClock()))
            for database in databases
        ]
        conversation = Conversation(
            tenant="default", id=new_id("c"), app="a", user="u", name="n"
        )
        await servers[0].start(conversation)

        def change(number: int) -> Any:
            run = RunValues(
                run=f"run {number}",
                is_paused=False,
                start={"list": []},
                values={"list": [number]},
                types={"list": "array[number]"},
            )
            return lambda stored: merge_run(stored, run, time.time())  # type: ignore[misc]

        await asyncio.gather(
            *(
                servers[number % 2].change_variables(
                    "default", conversation.id, change(number)
                )
                for number in range(20)
            )
        )
        found = await servers[1].find("default", "a", "u", conversation.id)
        assert sorted(found.variables["list"]["value"]) == list(range(20))

    asyncio.run(work())
