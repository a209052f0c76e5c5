"""Stored sources: credentials, schedules, one server at a time, interruption, removal."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.knowledge.connectors.dataset_sources import (
    MASK,
    DatasetSources,
    SourceChange,
    SourceDefinition,
)
from modelyard.knowledge.connectors.scheduler import SourceScheduler
from modelyard.knowledge.entities import Dataset, Technique
from modelyard.knowledge.rows import ConflictError
from modelyard.knowledge.stored.dataset_sources import StoredSource, StoredSources
from modelyard.storage.secrets import SecretError
from modelyard.testing import Answer, Upstream, UpstreamRequest
from modelyard.testing.s3 import ACCESS_KEY, SECRET_KEY, PlayedS3
from tests.knowledge.conftest import Bench, Run

pytestmark = pytest.mark.proof("connectors")


@dataclass
class SlowBucket:
    """A bucket that can hold back the answer for one object."""

    server: PlayedS3 = field(default_factory=lambda: PlayedS3("company"))
    held_key: str = ""
    is_reached: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: UpstreamRequest) -> Answer:
        if self.held_key and self.held_key in request.path:
            self.is_reached.set()
            self.may_go_on.wait(20)
        return self.server(request)


@dataclass
class World:
    bucket: SlowBucket
    url: str

    def definition(self, **changes: Any) -> SourceDefinition:
        values: dict[str, Any] = {
            "name": "bucket",
            "connector": "s3",
            "settings": {"bucket": "company", "prefix": "docs/", "endpoint": self.url},
            "credentials": {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY},
            "schedule": "*/5 * * * *",
        }
        return SourceDefinition(**{**values, **changes})

    async def add(self, bench: Bench, dataset: Dataset, **changes: Any) -> StoredSource:
        # The played server has a private address, which only the operator may name.
        return await bench.parts.sources.add(
            dataset, self.definition(**changes), is_operators=True
        )


@pytest.fixture
def world() -> Iterator[World]:
    bucket = SlowBucket()
    bucket.server.objects |= {
        f"docs/n{number}.txt": f"Number {number}.".encode() for number in range(4)
    }
    with Upstream(bucket) as upstream:
        yield World(bucket, upstream.url.removesuffix("/v1"))


def scheduler_of(bench: Bench, owner: str) -> SourceScheduler:
    """Return the scheduler of another server with the same database."""
    storage = bench.yard.services.storage
    store = StoredSources(storage.database, bench.yard.services.clock.time, owner=owner)
    parts = bench.parts
    return SourceScheduler(
        store, parts.sources, parts.source_sync, bench.datasets, renew_seconds=0.05
    )


async def synchronise(bench: Bench) -> int:
    """Run what is due to its end; return how many sources were."""
    count = await bench.parts.source_scheduler.tick()
    await bench.parts.source_scheduler.wait()
    return count


async def keys_of(bench: Bench, dataset: Dataset) -> list[str]:
    documents = await bench.parts.stored.documents.list_all("default", dataset.id)
    return sorted(document.source["key"] for document in documents)


async def reached(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 20), "the bucket was not asked"


def test_a_source_is_synchronised_by_its_schedule(run: Run, world: World):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        added = await world.add(bench, dataset)
        assert await synchronise(bench) == 1
        stored = await bench.parts.sources.get(dataset, "bucket")
        assert (stored.error, stored.is_running) == ("", False)
        assert stored.report is not None
        assert stored.report["added"] == 4
        assert len(await keys_of(bench, dataset)) == 4
        # The next time is that of the schedule: within five minutes.
        assert stored.due_at is not None
        assert 0 < stored.due_at - added.created_at <= 300
        assert stored.due_at % 300 == 0
        assert await synchronise(bench) == 0
        # On request it is due at once; unchanged documents are not read.
        await bench.parts.sources.request(dataset, added.id)
        assert await synchronise(bench) == 1
        stored = await bench.parts.sources.get(dataset, "bucket")
        assert stored.report is not None
        assert stored.report["same"] == 4

    run(work)


def test_credentials_are_encrypted_and_never_shown(run: Run, world: World):
    async def work(bench: Bench) -> None:
        sources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        added = await world.add(bench, dataset)
        assert SECRET_KEY not in repr(added)
        assert sources.masked_credentials(added) == {"access_key": MASK, "secret_key": MASK}  # fmt: skip
        # A mask that is sent back keeps the value, other values replace it.
        change = SourceChange(credentials={"access_key": MASK, "secret_key": "wrong"})
        changed = await sources.change(dataset, added.id, change)
        assert changed.secret != added.secret
        assert await synchronise(bench) == 1
        failed = await sources.get(dataset, added.id)
        assert "SignatureDoesNotMatch" in failed.error
        assert failed.due_at is not None, "the next time may succeed"
        await sources.change(
            dataset, added.id, SourceChange(credentials={"secret_key": SECRET_KEY})
        )
        await sources.request(dataset, added.id)
        await synchronise(bench)
        assert (await sources.get(dataset, added.id)).error == ""
        # A new master key takes the credentials along; a lost one is noticed.
        keys = bench.yard.services.storage.keys
        ring = keys.rotated()
        assert await sources.reencrypt_all("default", ring) == 1
        assert await sources.reencrypt_all("default", ring) == 0
        with pytest.raises(SecretError):
            await sources.reencrypt_all("default", keys)

    run(work)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector": "ftp"}, "Unknown connector 'ftp'; expected one of"),
        ({"settings": {"bucket": "b", "prefx": "x"}}, "unknown field `prefx`; the fields are bucket"),
        ({"credentials": {"access_key": "x"}}, "missing required field `secret_key`"),
        ({"schedule": "each day"}, "must have five fields"),
        ({"schedule": "0 0 30 2 *"}, "bad day-of-month"),
        ({"timezone": "Mars/Olympus"}, "Unknown timezone"),
        ({"access": ["hr"]}, "Invalid access rule"),
        ({"name": "  "}, "'name' must have 1 to 100 characters"),
    ],
)  # fmt: skip
def test_a_wrong_definition_is_refused(run: Run, world: World, changes: dict[str, Any], message: str):  # fmt: skip
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        with pytest.raises(InvokeBadRequestError, match=message):
            await world.add(bench, dataset, **changes)

    run(work)


def test_only_the_operator_names_folders_and_private_addresses(run: Run, world: World):
    async def work(bench: Bench) -> None:
        sources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        folder = SourceDefinition(name="f", connector="folder", settings={"path": "/etc"})  # fmt: skip
        with pytest.raises(InvokeBadRequestError, match="command line only"):
            await sources.add(dataset, folder)
        await sources.add(dataset, world.definition())
        await synchronise(bench)
        stored = await sources.get(dataset, "bucket")
        assert "blocked" in stored.error
        await sources.remove(dataset, "bucket", "keep")
        # The settings of the operator's source stay out of others' reach.
        await world.add(bench, dataset)
        settings = {"bucket": "company", "prefix": "docs/", "endpoint": "http://10.0.0.1"}  # fmt: skip
        with pytest.raises(InvokeBadRequestError, match="can be changed there only"):
            await sources.change(dataset, "bucket", SourceChange(settings=settings))

    run(work)


def test_names_and_addresses_are_unique_and_addresses_stay(run: Run, world: World):
    async def work(bench: Bench) -> None:
        sources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        with pytest.raises(ConflictError, match="already"):
            await world.add(bench, dataset)
        with pytest.raises(ConflictError, match="already"):
            await world.add(bench, dataset, name="other")
        settings = {"bucket": "company", "prefix": "hr/", "endpoint": world.url}
        await world.add(bench, dataset, name="hr", settings=settings)
        with pytest.raises(ConflictError, match="already"):
            await sources.change(dataset, "hr", SourceChange(name="bucket"))
        with pytest.raises(InvokeBadRequestError, match="add another source"):
            await sources.change(
                dataset, "hr", SourceChange(settings={**settings, "prefix": "x/"}),
                is_operators=True,
            )  # fmt: skip
        # Another dataset, and another tenant, know nothing of them.
        other = await bench.dataset("e", indexing_technique=Technique.ECONOMY)
        with pytest.raises(NotFoundError, match="does not exist in dataset 'e'"):
            await sources.get(other, "hr")
        foreign = msgspec.structs.replace(dataset, tenant="acme")
        assert await sources.list_all(foreign) == []

    run(work)


def test_one_server_synchronises_a_source_at_a_time(run: Run, world: World):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        schedulers = [scheduler_of(bench, f"server-{number}") for number in range(3)]
        started = await asyncio.gather(*(scheduler.tick() for scheduler in schedulers))
        assert sorted(started) == [0, 0, 1]
        for scheduler in schedulers:
            await scheduler.wait()
        assert len(await keys_of(bench, dataset)) == 4

    run(work)


def test_another_server_goes_on_after_a_stop(run: Run, world: World):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        world.bucket.held_key = "n2.txt"
        first, second = scheduler_of(bench, "first"), scheduler_of(bench, "second")
        assert await first.tick() == 1
        await reached(world.bucket.is_reached)
        assert await second.tick() == 0, "the claim of the first is renewed"
        closing = asyncio.create_task(first.aclose())
        world.bucket.may_go_on.set()
        await closing
        world.bucket.held_key = ""
        assert await second.tick() == 1
        await second.wait()
        stored = await bench.parts.sources.get(dataset, "bucket")
        assert stored.report is not None
        # What the first has added is there once.
        assert (stored.report["added"], stored.report["same"]) == (2, 2)
        assert await keys_of(bench, dataset) == [f"docs/n{n}.txt" for n in range(4)]

    run(work)


def test_the_sources_of_a_process_that_died_are_taken_over(run: Run, world: World):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        # The identity of this machine with a process that does not exist.
        alive = StoredSources(bench.yard.services.storage.database, bench.yard.services.clock.time)  # fmt: skip
        fields = alive.owner.rsplit(":", 3)
        dead = StoredSources(
            bench.yard.services.storage.database, bench.yard.services.clock.time,
            owner=":".join([fields[0], "999999999", *fields[2:]]),
        )  # fmt: skip
        assert await dead.claim() is not None
        assert await synchronise(bench) == 1
        assert (await bench.parts.sources.get(dataset, "bucket")).error == ""

    run(work)


@pytest.mark.parametrize("documents", ["keep", "delete"])
def test_a_removed_source_keeps_or_deletes_its_documents(run: Run, world: World, documents: Any):  # fmt: skip
    async def work(bench: Bench) -> None:
        sources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await bench.add(dataset, "Of other origin.", source={"kind": "text", "key": "x"})  # fmt: skip
        await world.add(bench, dataset)
        await synchronise(bench)
        assert await sources.remove(dataset, "bucket", documents) == 4
        assert await sources.list_all(dataset) == []
        left = 5 if documents == "keep" else 1
        assert len(await keys_of(bench, dataset)) == left
        # A source of the same address takes kept documents over.
        await world.add(bench, dataset)
        await synchronise(bench)
        stored = await sources.get(dataset, "bucket")
        assert stored.report is not None
        assert stored.report["same"] == (4 if documents == "keep" else 0)

    run(work)


def test_a_source_that_is_removed_while_it_is_read_adds_nothing_more(run: Run, world: World):  # fmt: skip
    async def work(bench: Bench) -> None:
        sources: DatasetSources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        world.bucket.held_key = "n2.txt"
        scheduler = scheduler_of(bench, "other")
        await scheduler.tick()
        await reached(world.bucket.is_reached)
        removing = asyncio.create_task(sources.remove(dataset, "bucket", "delete"))
        # The other server notices that its claim is lost, and lets go of the source.
        await removing
        world.bucket.may_go_on.set()
        await scheduler.wait()
        assert await keys_of(bench, dataset) == []

    run(work)


def test_a_change_starts_a_running_synchronisation_again(run: Run, world: World):
    async def work(bench: Bench) -> None:
        sources = bench.parts.sources
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        world.bucket.held_key = "n2.txt"
        scheduler = scheduler_of(bench, "other")
        await scheduler.tick()
        await reached(world.bucket.is_reached)
        await sources.change(dataset, "bucket", SourceChange(access=["n=group:hr"]))
        world.bucket.held_key = ""
        world.bucket.may_go_on.set()
        await scheduler.wait()
        assert await synchronise(bench) == 1
        documents = await bench.parts.stored.documents.list_all("default", dataset.id)
        assert [document.readers for document in documents] == [["group:hr"]] * 4
        # Disabled: nothing is due, but a request is followed.
        await sources.change(dataset, "bucket", SourceChange(enabled=False))
        assert await synchronise(bench) == 0
        await sources.request(dataset, "bucket")
        assert await synchronise(bench) == 1
        assert (await sources.get(dataset, "bucket")).due_at is None

    run(work)


def test_the_sources_of_a_deleted_dataset_are_gone(run: Run, world: World):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await world.add(bench, dataset)
        await bench.datasets.delete("default", dataset.id)
        assert await bench.parts.sources.list_all(dataset) == []
        assert await synchronise(bench) == 0

    run(work)
