"""What workflows, tools and plugins keep: read without holding up the loop, and once where several want it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from modelyard.base.errors import NotFoundError
from modelyard.base.ids import new_id
from modelyard.storage.answers import DatabaseAnswers
from modelyard.storage.counters import DatabaseCounters
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.kept import Kept
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.testing import FakeClock
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import LEASE_SECONDS, DatabaseJournal, RunRecord

_MANY = 64
"""More readers than any database has."""


async def no_vectors(tenant: str, model: str, texts: Sequence[str]) -> list[Sequence[float]]:
    del tenant, model
    return [[1.0] for _ in texts]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def journal_of(database: Database, owner: str, now: float = 0.0) -> DatabaseJournal:
    """As a process of another machine has it: whether that is gone nobody here can tell, but by its lease."""
    made = DatabaseJournal(database, lambda: now or time.time())
    made.owner = f"elsewhere:boot:1:{owner}"
    return made


def record(tenant: str, created_at: float, status: Status = Status.RUNNING) -> RunRecord:
    return RunRecord(tenant=tenant, id=new_id("run"), app="a", status=status, created_at=created_at)


Read = Callable[[], Awaitable[object]]


def reads(database: Database) -> list[Read]:
    """Everything that is asked while runs go on."""
    clock = FakeClock()
    kept, plugins = Kept(database, clock), PluginStorage(database)
    answers, counters = DatabaseAnswers(database, clock), DatabaseCounters(database, clock)
    conversations = Conversations(database, clock.time, kept)
    annotations = Annotations(database, kept, no_vectors, clock.time)
    journal, run = journal_of(database, "me"), record("t", 1.0)
    return [
        lambda: kept.get("t", "s", "n"),
        lambda: kept.list("t", "s"),
        lambda: kept.values("t", "s"),
        lambda: plugins.get("t", "p", "n"),
        lambda: answers.get("t", "n"),
        lambda: counters.held_by("nobody"),
        lambda: counters.levels(["none"]),
        lambda: conversations.newest("t", "a", "u"),
        lambda: conversations.of_app("t", "a", most=5),
        lambda: conversations.thread("t", "c"),
        lambda: conversations.rated("t", "a", most=5, skip=0),
        lambda: annotations.page("t", "a"),
        lambda: annotations.count("t", "a"),
        lambda: annotations.settings("t", "a"),
        lambda: journal.find("t", run.id),
        lambda: journal.list("t", "a"),
        lambda: journal.history(run),
        lambda: journal.events(run.id, 0),
        journal.commands,
        lambda: journal.forms.of_step(run.id, "k"),
        lambda: journal.forms.by_token("none"),
        lambda: journal.documents.find("t", "none"),
    ]


def test_the_loop_turns_while_every_reader_is_held(database: Database):
    async def work() -> None:
        gate = threading.Event()
        held = [asyncio.ensure_future(database.at_once(lambda _: gate.wait(20))) for _ in range(_MANY)]
        asked = [asyncio.ensure_future(read()) for read in reads(database)]
        await asyncio.sleep(0)  # all of them have begun
        gate.set()
        assert all(await asyncio.gather(*held)), "somebody who read on the loop kept the gate shut"
        await asyncio.gather(*asked)

    asyncio.run(work())


def test_what_is_read_at_once_is_read_on_one_connection_and_comes_back_whole(database: Database):
    async def work() -> None:
        seen: set[int] = set()

        def read(connection: Connection) -> list[int]:
            seen.add(id(connection))
            return [int(connection.execute("SELECT ? + 0 AS value", (number,))[0]["value"]) for number in range(3)]

        assert await database.at_once(read) == [0, 1, 2]
        assert len(seen) == 1

        def fail(connection: Connection) -> None:
            connection.execute("SELECT 1 AS value")
            raise KeyError("the reader's own")

        for _ in range(_MANY):  # a reader that fails gives its place back
            with pytest.raises(KeyError, match="own"):
                await database.at_once(fail)
        assert await database.at_once(read) == [0, 1, 2]

    asyncio.run(work())


def test_what_cannot_be_read_is_said_where_a_server_is_away(database: Database):
    async def work() -> None:
        tries: list[int] = []
        away = StorageUnavailableError("the server is away")

        def read(connection: Connection) -> None:
            del connection
            tries.append(1)
            raise away

        with pytest.raises(StorageUnavailableError, match="away"):
            await database.at_once(read)
        assert tries == [1]

    asyncio.run(work())


def test_an_apps_runs_and_their_count_agree(database: Database):
    async def work() -> None:
        tenant, journal = new_id("t"), journal_of(database, "me")
        for at in range(7):
            await journal.create(record(tenant, float(at + 1)))
        await journal.create(record(new_id("t"), 1.0))
        page, count = await journal.list(tenant, "a", most=3, skip=2)
        assert ([one.created_at for one in page], count) == ([5.0, 4.0, 3.0], 7)
        assert await journal.list(tenant, "a", status="paused") == ([], 0)

    asyncio.run(work())


def test_an_orphan_goes_on_with_one_of_those_who_look_for_it(database_url: str):
    async def work() -> None:
        databases = [Database(database_url) for _ in range(3)]
        now = time.time()
        gone = journal_of(databases[0], "gone", now - LEASE_SECONDS - 1)
        runs = [record(new_id("t"), now + number / 100) for number in range(20)]
        for one in runs:
            await gone.create(one)
        lookers = [journal_of(one, f"looker{number}", now) for number, one in enumerate(databases)]
        taken = await asyncio.gather(*(one.orphans() for one in lookers for _ in range(2)))
        mine = [one.id for some in taken for one in some if one.id in {each.id for each in runs}]
        assert sorted(mine) == sorted(one.id for one in runs)
        owned = [sum([await one.is_mine(run.id) for run in runs]) for one in lookers]
        assert sum(owned) == len(runs)
        for some in taken:
            assert [one.created_at for one in some] == sorted(one.created_at for one in some), "the oldest first"
        for one in databases:
            one.close()

    asyncio.run(work())


def test_a_form_is_asked_once_and_expires_once(database: Database):
    async def work() -> None:
        now = time.time()
        journal, run = journal_of(database, "me"), record(new_id("t"), now)
        await journal.create(run)
        asked = await asyncio.gather(
            *(
                journal.forms.ask(run, key, new_id("token"), {"key": key}, now - 1)
                for key in ("a", "b")
                for _ in range(3)
            )
        )
        assert len({one["token"] for one in asked}) == 2
        assert [one["key"] for one in asked] == ["a", "a", "a", "b", "b", "b"]
        assert run.id not in {one for _, one in await journal.forms.expired()}, "it does not wait yet"
        await journal.settle(RunRecord(tenant=run.tenant, id=run.id, app="a", status=Status.PAUSED, created_at=now))
        first = [one for one in await journal.forms.expired() if one[1] == run.id]
        assert first == [(run.tenant, run.id)] * 2
        assert run.id not in {one for _, one in await journal.forms.expired()}
        assert await journal.forms.fill(asked[0]["token"], {"late": True}) is None

    asyncio.run(work())


def test_an_annotation_is_changed_for_its_own_app_alone(database: Database):
    async def work() -> None:
        clock, tenant = FakeClock(), new_id("t")
        annotations = Annotations(database, Kept(database, clock), no_vectors, clock.time)
        made = await annotations.add(tenant, "a", "Where?", "Here.")
        changed = await annotations.change(tenant, "a", made.id, "Where to?", "There.")
        assert (changed.question, changed.answer, changed.created_at) == ("Where to?", "There.", made.created_at)
        with pytest.raises(NotFoundError, match="not found"):
            await annotations.change(tenant, "b", made.id, "x", "y")
        assert await annotations.page(tenant, "a") == [changed]
        assert await annotations.count(tenant, "a") == 1

    asyncio.run(work())


def test_conversations_come_back_as_they_were_said(database: Database):
    async def work() -> None:
        clock, tenant = FakeClock(), new_id("t")
        conversations = Conversations(database, clock.time, Kept(database, clock))
        talk = Conversation(tenant=tenant, id=new_id("talk"), app="a", user="u", name="n", inputs={"x": [1]})
        await conversations.start(talk)
        for at in range(3):
            await conversations.say(Message(
                tenant=tenant, id=new_id("said"), app="a", user="u", conversation=talk.id, query=str(at),
                created_at=float(at),
            ))  # fmt: skip
        assert await conversations.find(tenant, "a", "u", talk.id) == talk
        assert [one.query for one in await conversations.thread(tenant, talk.id)] == ["2", "1", "0"]

    asyncio.run(work())
