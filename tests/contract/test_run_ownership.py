"""Contract tests: a run has one owner. Who has lost it writes and starts nothing more."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from modelyard.base.process_identity import has_exited, owner_name
from modelyard.storage.database import Database
from modelyard.storage.database_clock import DatabaseClock
from modelyard.testing import Answer, Handler, Upstream
from modelyard.transport.egress import EgressClient, EgressRules
from modelyard.workflow.dsl import App, loads
from modelyard.workflow.engine import Status, Step
from modelyard.workflow.events import GraphRunStarted
from modelyard.workflow.journal import DatabaseJournal, LeaseLostError, RunRecord
from modelyard.workflow.node import Services
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import new_run_id

Play = Callable[[Handler], Upstream]
_EXPIRE = "UPDATE runs SET lease_until = 1 WHERE id = ?"
_FILE = """
app: {name: effects, mode: workflow}
workflow:
  graph:
    nodes:
    - {id: start, data: {type: start, title: s, variables: []}}
    - {id: a, data: {type: http-request, title: a, method: post, url: "URL/a"}}
    - {id: b, data: {type: http-request, title: b, method: post, url: "URL/b"}}
    - {id: c, data: {type: http-request, title: c, method: post, url: "URL/c"}}
    - {id: end, data: {type: end, title: e, outputs: [{variable: it, value_selector: [c, body]}]}}
    edges: [{source: start, target: a}, {source: a, target: b}, {source: b, target: c}, {source: c, target: end}]
"""


@pytest.fixture
def databases(database_url: str) -> Iterator[list[Database]]:
    """Two connections to one database, one for each simulated process."""
    opened_databases = [Database(database_url) for _ in range(2)]
    yield opened_databases
    for database in opened_databases:
        database.close()


def journal_of(database: Database, name: str) -> DatabaseJournal:
    """Return the journal of a process on another machine."""
    journal = DatabaseJournal(database, time.time)
    journal.owner = f"{name}:other:1:1:1:{new_run_id()}"
    return journal


def new_record() -> RunRecord:
    return RunRecord(
        tenant="default",
        id=new_run_id(),
        app="a",
        digest="d",
        root="start",
        created_at=time.time(),
    )


async def expire(database: Database, run: str) -> None:
    """Let a lease end, as that of a process ends that does not renew it."""
    await database.transact(lambda connection: connection.execute(_EXPIRE, (run,)))


async def claimed(journal: DatabaseJournal, run: str) -> RunRecord:
    """Take over a run whose lease has ended."""
    (record,) = [record for record in await journal.orphans() if record.id == run]
    return record


# ------------------------------------------------------------------------------ the fence


def test_what_a_former_owner_writes_is_refused(databases: list[Database]):
    async def work() -> None:
        first, second = journal_of(databases[0], "a"), journal_of(databases[1], "b")
        run = new_record()
        await first.create(run)
        await first.append(run, [], [(1, GraphRunStarted(at=1.0))])
        await expire(databases[0], run.id)
        taken = await claimed(second, run.id)
        step = Step(key="a", node_id="a")
        ended = msgspec.structs.replace(run, status=Status.SUCCEEDED, finished_at=1.0)
        for write in (
            first.append(run, [(1, step)], [(2, GraphRunStarted(at=2.0))]),
            first.append(run, [], [], ["a"]),
            first.append(run, [], []),
            first.settle(ended, [(2, GraphRunStarted(at=2.0))]),
        ):
            with pytest.raises(LeaseLostError):
                await write
        history = await second.history(taken)
        assert (history.steps, history.begun, history.events) == ([], [], 1)
        # The same process may get it back; what it wanted to write before stays refused.
        await expire(databases[0], run.id)
        again = await claimed(first, run.id)
        assert (run.epoch, taken.epoch, again.epoch) == (0, 1, 2)
        with pytest.raises(LeaseLostError):
            await first.append(run, [(1, step)], [])
        await first.append(again, [(1, step)], [])
        assert [step.key for step in (await first.history(again)).steps] == ["a"]

    asyncio.run(work())


def test_a_settlement_that_was_not_confirmed_is_repeated(databases: list[Database]):
    async def work() -> None:
        journal = journal_of(databases[0], "a")
        run = new_record()
        await journal.create(run)
        ended = msgspec.structs.replace(run, status=Status.FAILED, finished_at=1.0)
        for _ in range(2):
            await journal.settle(ended, [(1, GraphRunStarted(at=1.0))])
        assert (await journal.history(run)).events == 1
        # It does not end in two ways.
        other = msgspec.structs.replace(ended, status=Status.SUCCEEDED)
        with pytest.raises(LeaseLostError):
            await journal.settle(other)

    asyncio.run(work())


def test_a_lease_that_is_renewed_meanwhile_is_not_taken(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
):
    async def work() -> None:
        first, second = journal_of(databases[0], "a"), journal_of(databases[1], "b")
        run = new_record()
        await first.create(run)
        await expire(databases[0], run.id)
        transact = databases[1].transact

        async def renew_before(*arguments: Any, **options: Any) -> Any:
            assert (run.id, 0) in await first.renew()
            return await transact(*arguments, **options)

        monkeypatch.setattr(databases[1], "transact", renew_before)
        orphans = await second.orphans()
        assert run.id not in [record.id for record in orphans]
        await first.append(run, [], [])

    asyncio.run(work())


def test_after_an_outage_only_the_runs_of_ended_processes_are_taken(
    databases: list[Database],
):
    async def work() -> None:
        silent, ended = journal_of(databases[0], "a"), journal_of(databases[0], "b")
        host, boot, namespace, *_ = owner_name().split(":")
        ended.owner = f"{host}:{boot}:{namespace}:{2**22}:1:token"
        runs = [new_record(), new_record()]
        await silent.create(runs[0])
        await ended.create(runs[1])
        await expire(databases[0], runs[0].id)
        own = journal_of(databases[1], "c")
        orphans = [run.id for run in await own.orphans(may_be_silent=True)]
        assert runs[1].id in orphans
        assert runs[0].id not in orphans
        assert runs[0].id in [run.id for run in await own.orphans()]

    asyncio.run(work())


# ------------------------------------------------------------------------- two processes


async def _until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is watched has no event
            await asyncio.sleep(0.01)


class Effects:
    """A server that counts what the nodes of `_FILE` do."""

    def __init__(self, upstream: Play) -> None:
        self.server = upstream(self.answer)
        self.counts = Counter[str]()
        self.may_answer = threading.Event()
        """The first node ends when this is set."""
        self._clients: list[EgressClient] = []

    async def aclose(self) -> None:
        """Close what the processes used."""
        for client in self._clients:
            await client.aclose()

    def answer(self, request: Any) -> Answer:
        name = request.path.strip("/")
        self.counts[name] += 1
        return Answer(body=b"done", held_until=self.may_answer if name == "a" else None)

    async def started(self, name: str) -> None:
        """Wait until a node's request has arrived."""
        await _until(lambda: self.counts[name] > 0)

    def app(self) -> App:
        return loads(_FILE.replace("URL", self.origin))

    @property
    def origin(self) -> str:
        """The address of the server, without a path."""
        return "/".join(self.server.url.split("/")[:3])

    def runs(self, journal: DatabaseJournal) -> Runs:
        """Return the runs of a process."""
        rules = EgressRules(private=frozenset({self.origin.removeprefix("http://")}))
        client = EgressClient(rules)
        self._clients.append(client)
        services = Services(http=client)

        async def find(record: RunRecord) -> App:
            del record
            return self.app()

        return Runs(journal, find, lambda app, record: services)


def test_an_owner_that_wakes_up_too_late_starts_no_further_node(
    databases: list[Database], upstream: Play
):
    """It was frozen, or cut off from the database, during its first node."""
    effects = Effects(upstream)

    async def work() -> None:
        first = effects.runs(journal_of(databases[0], "a"))
        second = effects.runs(journal_of(databases[1], "b"))
        run = await first.start(effects.app(), new_record())
        await effects.started("a")
        await expire(databases[0], run.id)
        assert await second.recover() >= 1
        effects.may_answer.set()
        seen = [
            await runs.wait_until_ended("default", run.id) for runs in (first, second)
        ]
        assert [record.outputs for record in seen] == [{"it": "done"}] * 2
        assert effects.counts == {"a": 2, "b": 1, "c": 1}
        assert first.count == 0
        for runs in (first, second):
            await runs.aclose()
        await effects.aclose()

    asyncio.run(work())


def test_a_process_that_leaves_lets_its_node_end_and_starts_no_other(
    databases: list[Database], upstream: Play
):
    if not databases[0].is_shared:
        pytest.skip("nobody else could go on with the run")
    effects = Effects(upstream)

    async def work() -> None:
        first = effects.runs(journal_of(databases[0], "a"))
        second = effects.runs(journal_of(databases[1], "b"))
        run = await first.start(effects.app(), new_record())
        await effects.started("a")
        first.leave()
        effects.may_answer.set()
        await _until(lambda: first.count == 0)
        assert effects.counts == {"a": 1}
        # Its lease has not to be waited for.
        assert await second.recover() >= 1
        ended = await second.wait_until_ended("default", run.id)
        assert ended.outputs == {"it": "done"}
        assert effects.counts == {"a": 1, "b": 1, "c": 1}
        for runs in (first, second):
            await runs.aclose()
        await effects.aclose()

    asyncio.run(work())


# --------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
def test_leases_are_compared_on_one_clock(databases: list[Database], ahead: float):
    if not databases[0].is_shared:
        pytest.skip("processes that share a file share a clock")

    async def work() -> None:
        owner = journal_of(databases[0], "a")
        run = new_record()
        await owner.create(run)
        await owner.renew()
        wrong = DatabaseJournal(databases[1], lambda: time.time() + ahead)
        wrong.owner = "b:other:1:1:1:token"
        assert run.id not in [record.id for record in await wrong.orphans()]
        clock = DatabaseClock(databases[1], lambda: time.time() + ahead)
        await clock.synchronise()
        assert abs(clock() - time.time()) < 60

    asyncio.run(work())


# ------------------------------------------------------------------------------ identities


def test_a_process_is_known_only_where_its_id_counts():
    host, boot, namespace, pid, started, token = owner_name().split(":")
    own = [host, boot, namespace, pid, started, token]

    def changed(field: int, value: str) -> bool | None:
        return has_exited(":".join([*own[:field], value, *own[field + 1 :]]))

    assert has_exited(owner_name()) is False
    # Host names do not tell machines apart, and a token names nobody's process.
    assert changed(0, "another") is False
    assert changed(3, str(2**22)) is True
    assert changed(4, "1") is True
    # Another machine, and a container that counts its processes by itself.
    assert changed(1, "0000aaaa") is None
    assert changed(2, "4026539999") is None
    # What an earlier release has written.
    assert has_exited(f"{host}:{boot}:{pid}:{started}") is None
