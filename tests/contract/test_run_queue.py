"""Contract tests: queued runs, and the processes that execute them, on each database."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import pytest

from modelyard.base.process_identity import owner_name
from modelyard.storage.database import Database
from modelyard.workflow.carriers.executors import Executors
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.run_queue import QUEUED_SECONDS
from modelyard.workflow.single_run import new_run_id

pytestmark = pytest.mark.proof("carriers")

OTHER = "other:machine:1:1:1:token"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def record(depth: int = 0) -> RunRecord:
    return RunRecord(
        tenant="default",
        id=new_run_id(),
        app="a",
        digest="d",
        depth=depth,
        created_at=time.time(),
    )


async def overdue(
    journal: DatabaseJournal, *, may_be_silent: bool = False, nested: bool = True
) -> list[str]:
    """Return the ids of the runs that nobody executes."""
    found = await journal.queue.overdue(
        journal.owner, may_be_silent=may_be_silent, includes_nested=nested
    )
    return [run.id for run in found]


async def expire(database: Database, run: str) -> None:
    """Let a lease end, or the time after which a queued run is looked after."""
    sql = "UPDATE runs SET lease_until = 1 WHERE id = ?"
    await database.transact(lambda connection: connection.execute(sql, (run,)))


def test_a_queued_run_is_claimed_once_by_its_tenant(database: Database):
    async def work() -> None:
        journal = DatabaseJournal(database, time.time)
        run = record()
        assert await journal.create(run, is_queued=True)
        assert not await journal.is_mine(run.id)
        assert await journal.queue.claim("another", run.id, "a") is None
        claims = await asyncio.gather(
            *(journal.queue.claim("default", run.id, f"{OTHER}{n}") for n in range(5))
        )
        (claimed,) = [claim for claim in claims if claim is not None]
        assert claimed.epoch == 1
        # It has an owner on another machine, whose lease has just begun.
        assert await journal.queue.claim("default", run.id, journal.owner) is None
        assert await journal.queue.claim_unowned("default", run.id, "a") is None
        await expire(database, run.id)
        silent = await journal.queue.claim(
            "default", run.id, journal.owner, may_be_silent=True
        )
        assert silent is None
        taken = await journal.queue.claim("default", run.id, journal.owner)
        assert taken is not None
        assert taken.epoch == 2

    asyncio.run(work())


def test_a_paused_run_is_queued_once(database: Database):
    async def work() -> None:
        journal = DatabaseJournal(database, time.time)
        run = record()
        await journal.create(run)
        assert await journal.queue.add_paused(run) is None
        paused = RunRecord(**{**_fields(run), "status": Status.PAUSED})
        await journal.settle(paused)
        queued = await journal.queue.add_paused(run)
        assert queued is not None
        assert await journal.queue.add_paused(run) is None
        claimed = await journal.queue.claim_unowned("default", run.id, journal.owner)
        assert claimed is not None
        assert claimed.epoch == queued.epoch + 1

    asyncio.run(work())


def _fields(run: RunRecord) -> dict[str, object]:
    return {name: getattr(run, name) for name in run.__struct_fields__}


def test_runs_that_nobody_executes_are_found_once(database: Database):
    async def work() -> None:
        journal = DatabaseJournal(database, time.time)
        queued, own, frozen, nested = record(), record(), record(), record(depth=1)
        await journal.create(queued, is_queued=True)
        await journal.create(own)
        journal_of_other = DatabaseJournal(database, time.time)
        journal_of_other.owner = OTHER
        for run in (frozen, nested):
            await journal_of_other.create(run)
        mine = {queued.id, own.id, frozen.id, nested.id}
        # None of them is late.
        assert not mine & set(await overdue(journal))
        for run in (queued, own, frozen, nested):
            await expire(database, run.id)
        # Owners may have had no chance to renew; a queued run has none.
        silent = await overdue(journal, may_be_silent=True)
        assert mine & set(silent) == {queued.id}
        # It was given more time, and no other epoch.
        found = set(await overdue(journal, nested=False))
        assert mine & found == {frozen.id}
        assert mine & set(await overdue(journal)) == {nested.id}
        assert not mine & set(await overdue(journal))
        claimed = await journal.queue.claim_unowned("default", queued.id, "a")
        assert claimed is not None
        assert claimed.epoch == 1
        taken = await journal.queue.claim_unowned("default", frozen.id, "a")
        assert taken is not None
        assert taken.epoch == 2
        assert journal.queue.look_again_at <= time.time() + QUEUED_SECONDS + 60

    asyncio.run(work())


def test_what_processes_had_that_are_gone_is_given_back_first(database: Database):
    async def work() -> None:
        executors = Executors(database, time.time)
        host, boot, namespace, *_ = owner_name().split(":")
        exited = f"{host}:{boot}:{namespace}:{2**22}:1:token"
        own, ended = "own:a:1:1:1:t", "ended:b:1:1:1:t"
        given: list[str] = []

        async def give_back(owners: Sequence[str]) -> None:
            given.extend(owners)

        async def fail(owners: Sequence[str]) -> None:
            raise ConnectionError(len(owners))

        for owner in (own, exited, OTHER):
            await executors.renew(owner)
        await executors.end(ended)
        await executors.recover(own, give_back, may_be_silent=True)
        assert given == [exited]
        # Who cannot be given back is not forgotten.
        with pytest.raises(ConnectionError):
            await executors.recover(own, fail, may_be_silent=False)
        await executors.recover(own, give_back, may_be_silent=False)
        await executors.recover(own, give_back, may_be_silent=False)
        assert given == [exited, ended]

    asyncio.run(work())
