"""Contract tests for what workflows, tools and plugins store.

Reads do not block the event loop, and concurrent changes are made once.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from modelyard.base.errors import NotFoundError
from modelyard.base.ids import new_id
from modelyard.storage.counters import DatabaseCounters
from modelyard.storage.database import Connection, Database, StorageUnavailableError
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.storage.response_cache import DatabaseResponseCache
from modelyard.storage.scoped_store import ScopedStore
from modelyard.testing import FakeClock
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import LEASE_SECONDS, DatabaseJournal, RunRecord

_MANY = 64
"""More concurrent reads than any database has readers."""


async def no_vectors(
    tenant: str, model: str, texts: Sequence[str]
) -> list[Sequence[float]]:
    del tenant, model
    return [[1.0] for _ in texts]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened_database = Database(database_url)
    yield opened_database
    opened_database.close()


def journal_of(
    database: Database, owner: str, fixed_time: float = 0.0
) -> DatabaseJournal:
    """Return the journal of a process on another machine.

    Only its lease can show that such a process is gone.
    """
    journal = DatabaseJournal(database, lambda: fixed_time or time.time())
    journal.owner = f"elsewhere:boot:1:{owner}"
    return journal


def record(
    tenant: str, created_at: float, status: Status = Status.RUNNING
) -> RunRecord:
    return RunRecord(
        tenant=tenant, id=new_id("run"), app="a", status=status, created_at=created_at
    )


Read = Callable[[], Awaitable[object]]


def reads(database: Database) -> list[Read]:
    """Return every read that happens while runs are active."""
    clock = FakeClock()
    scoped_store, plugins = ScopedStore(database, clock), PluginStorage(database)
    answers, counters = (
        DatabaseResponseCache(database, clock),
        DatabaseCounters(database, clock),
    )
    conversations = Conversations(database, clock.time, scoped_store)
    annotations = Annotations(database, scoped_store, no_vectors, clock.time)
    journal, run = journal_of(database, "me"), record("t", 1.0)
    return [
        lambda: scoped_store.get("t", "s", "n"),
        lambda: scoped_store.list("t", "s"),
        lambda: scoped_store.values("t", "s"),
        lambda: plugins.get("t", "p", "n"),
        lambda: answers.get("t", "n"),
        lambda: counters.reservations_of("nobody"),
        lambda: counters.levels(["none"]),
        lambda: conversations.newest("t", "a", "u"),
        lambda: conversations.of_app("t", "a", limit=5),
        lambda: conversations.list_messages("t", "c"),
        lambda: conversations.list_rated("t", "a", limit=5, skip=0),
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


def test_the_loop_runs_while_every_reader_is_blocked(database: Database):
    async def work() -> None:
        gate = threading.Event()
        blocked_reads = [
            asyncio.ensure_future(database.read_together(lambda _: gate.wait(20)))
            for _ in range(_MANY)
        ]
        pending_reads = [asyncio.ensure_future(read()) for read in reads(database)]
        await asyncio.sleep(0)  # let all of them start
        gate.set()
        assert all(await asyncio.gather(*blocked_reads)), (
            "somebody who read on the loop kept the gate shut"
        )
        await asyncio.gather(*pending_reads)

    asyncio.run(work())


def test_a_grouped_read_uses_one_connection(
    database: Database,
):
    async def work() -> None:
        connection_ids: set[int] = set()

        def read(connection: Connection) -> list[int]:
            connection_ids.add(id(connection))
            return [
                int(connection.execute("SELECT ? + 0 AS value", (number,))[0]["value"])
                for number in range(3)
            ]

        assert await database.read_together(read) == [0, 1, 2]
        assert len(connection_ids) == 1

        def fail(connection: Connection) -> None:
            connection.execute("SELECT 1 AS value")
            raise KeyError("the reader's own")

        for _ in range(_MANY):  # a failed read frees its reader
            with pytest.raises(KeyError, match="own"):
                await database.read_together(fail)
        assert await database.read_together(read) == [0, 1, 2]

    asyncio.run(work())


def test_reads_fail_clearly_if_the_server_is_unavailable(database: Database):
    async def work() -> None:
        tries: list[int] = []
        away = StorageUnavailableError("the server is away")

        def read(connection: Connection) -> None:
            del connection
            tries.append(1)
            raise away

        with pytest.raises(StorageUnavailableError, match="away"):
            await database.read_together(read)
        assert tries == [1]

    asyncio.run(work())


def test_an_apps_runs_match_their_count(database: Database):
    async def work() -> None:
        tenant, journal = new_id("t"), journal_of(database, "me")
        for index in range(7):
            await journal.create(record(tenant, float(index + 1)))
        await journal.create(record(new_id("t"), 1.0))
        page, count = await journal.list(tenant, "a", limit=3, skip=2)
        assert ([run.created_at for run in page], count) == ([5.0, 4.0, 3.0], 7)
        assert await journal.list(tenant, "a", status="paused") == ([], 0)

    asyncio.run(work())


def test_an_orphaned_run_is_claimed_by_one_process(database_url: str):
    async def work() -> None:
        databases = [Database(database_url) for _ in range(3)]
        current_time = time.time()
        runs = await _orphaned_runs(databases[0], current_time)
        lookers = [
            journal_of(database, f"looker{number}", current_time)
            for number, database in enumerate(databases)
        ]
        claimed_batches = await asyncio.gather(
            *(looker.orphans() for looker in lookers * 2)
        )
        _check_claims(claimed_batches, runs)
        owners = [
            (looker, run.id)
            for looker, run in itertools.product(lookers, runs)
            if await looker.is_mine(run.id)
        ]
        assert len(owners) == len(runs)
        for database in databases:
            database.close()

    asyncio.run(work())


async def _orphaned_runs(database: Database, current_time: float) -> list[RunRecord]:
    """Create 20 runs of a process whose lease has expired."""
    dead_journal = journal_of(database, "gone", current_time - LEASE_SECONDS - 1)
    runs = [record(new_id("t"), current_time + number / 100) for number in range(20)]
    for run in runs:
        await dead_journal.create(run)
    return runs


def _check_claims(
    claimed_batches: list[list[RunRecord]], runs: list[RunRecord]
) -> None:
    """Each run was claimed by exactly one look-up, oldest first."""
    created_ids = sorted(run.id for run in runs)
    claimed = list(itertools.chain.from_iterable(claimed_batches))
    assert sorted(run.id for run in claimed if run.id in created_ids) == created_ids
    for batch in claimed_batches:
        times = [run.created_at for run in batch]
        assert times == sorted(times), "the oldest first"


def test_a_form_is_created_once_and_expires_once(database: Database):
    async def work() -> None:
        current_time = time.time()
        journal, run = journal_of(database, "me"), record(new_id("t"), current_time)
        await journal.create(run)
        pending_forms = await asyncio.gather(
            *(
                journal.forms.publish(
                    run, key, new_id("token"), {"key": key}, current_time - 1
                )
                for key in ("a", "b")
                for _ in range(3)
            )
        )
        assert len({form["token"] for form in pending_forms}) == 2
        assert [form["key"] for form in pending_forms] == ["a", "a", "a", "b", "b", "b"]
        assert run.id not in {run_id for _, run_id in await journal.forms.expired()}, (
            "it does not wait yet"
        )
        await journal.settle(
            RunRecord(
                tenant=run.tenant,
                id=run.id,
                app="a",
                status=Status.PAUSED,
                created_at=current_time,
            )
        )
        first = [
            expired_pair
            for expired_pair in await journal.forms.expired()
            if expired_pair[1] == run.id
        ]
        assert first == [(run.tenant, run.id)] * 2
        assert run.id not in {run_id for _, run_id in await journal.forms.expired()}
        assert (
            await journal.forms.fill(pending_forms[0]["token"], {"late": True}) is None
        )

    asyncio.run(work())


def test_an_annotation_is_changed_only_by_its_own_app(database: Database):
    async def work() -> None:
        clock, tenant = FakeClock(), new_id("t")
        annotations = Annotations(
            database, ScopedStore(database, clock), no_vectors, clock.time
        )
        annotation = await annotations.add(tenant, "a", "Where?", "Here.")
        changed = await annotations.update(
            tenant, "a", annotation.id, "Where to?", "There."
        )
        assert (changed.question, changed.answer, changed.created_at) == (
            "Where to?",
            "There.",
            annotation.created_at,
        )
        with pytest.raises(NotFoundError, match="not found"):
            await annotations.update(tenant, "b", annotation.id, "x", "y")
        assert await annotations.page(tenant, "a") == [changed]
        assert await annotations.count(tenant, "a") == 1

    asyncio.run(work())


def test_conversations_are_read_as_they_were_stored(database: Database):
    async def work() -> None:
        clock, tenant = FakeClock(), new_id("t")
        conversations = Conversations(
            database, clock.time, ScopedStore(database, clock)
        )
        talk = Conversation(
            tenant=tenant,
            id=new_id("talk"),
            app="a",
            user="u",
            name="n",
            inputs={"x": [1]},
        )
        await conversations.start(talk)
        for index in range(3):
            await conversations.add_message(Message(
                tenant=tenant, id=new_id("said"), app="a", user="u", conversation=talk.id, query=str(index),
                created_at=float(index),
            ))  # fmt: skip
        assert await conversations.find(tenant, "a", "u", talk.id) == talk
        assert [
            message.query
            for message in await conversations.list_messages(tenant, talk.id)
        ] == ["2", "1", "0"]

    asyncio.run(work())
