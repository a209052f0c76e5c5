"""Who may read what: people × documents × ways in, compared with a model that shares no
code with the product; revocation; and what access lists cost."""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.settings import KnowledgeSettings, Settings
from modelyard.knowledge import access
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.document_filters import MetadataIndex
from modelyard.knowledge.entities import Dataset, DatasetSettings
from modelyard.knowledge.index.memory import MemoryIndex
from modelyard.knowledge.retrieve import SearchRequest
from modelyard.tenancy.reader import Reader, own_principals
from modelyard.testing.knowledge import HashEmbedder
from tools.show.permissions_world import (
    QUERY,
    ROUTES,
    TENANT,
    Outcome,
    World,
    codes_in,
    opened_world,
    set_default,
    set_lists,
    set_person,
    shuffle,
    wait_until,
)
from tools.show.proof import Proof
from tools.show.servers import Postgres

PEOPLE, DOCUMENTS, CHANGES = 12, 48, 7
"""On SQLite; on PostgreSQL a third of the changes."""
STORES = ("memory", "pgvector")
_MIN_CASES = 50_000
_SEARCHES, _COST_DOCUMENTS = 300, 2_000
_MAX_RATIO = 1.10
_MAX_SECONDS = 1.0


def prove() -> Proof:
    """Compare the product with the model on both databases, and measure."""
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        counts = asyncio.run(_compare(proof, Path(folder) / "a", "memory", CHANGES))
        if "pgvector" in STORES:
            with Postgres(Path(folder) / "pg") as postgres:
                counts += asyncio.run(
                    _compare(
                        proof, Path(folder) / "b", "pgvector", max(1, CHANGES // 3),
                        database=postgres.url,
                    )
                )  # fmt: skip
        asyncio.run(_revoke(proof, Path(folder) / "c"))
        asyncio.run(_break(proof, Path(folder) / "d"))
        asyncio.run(_measure(proof, Path(folder) / "e"))
    proof.line("cases", f"{counts['cases']:,}", counts["cases"] >= _MIN_CASES)
    proof.figures |= dict(counts)
    return proof


async def _compare(
    proof: Proof, home: Path, store: str, changes: int, *, database: str = ""
) -> Counter[str]:
    """Change everything several times, and compare each way in after each change."""
    totals: Counter[str] = Counter()
    by_route: dict[str, Counter[str]] = {name: Counter() for name in ROUTES}
    async with opened_world(
        home, PEOPLE, DOCUMENTS, database=database, store=store
    ) as world:
        for _ in range(changes):
            await shuffle(world)
            for name in ROUTES:
                by_route[name] += await _count(world, name)
    for name, counts in by_route.items():
        text = (
            f"{counts['cases']:,} cases, {counts['leaks']} leaks,"
            f" {counts['missing']} missing"
        )
        proof.line(f"{store}: {name}", text, not counts["leaks"] + counts["missing"])
        totals += counts
    return totals


async def _count(world: World, name: str) -> Counter[str]:
    """Go one way as each person and as nobody; return cases, leaks and missing ones."""
    counts: Counter[str] = Counter()
    for person in (*world.people, None):
        outcome: Outcome | None = await ROUTES[name](world, person)
        if outcome is not None:
            counts["cases"] += len(world.ids)
            counts["leaks"] += len(outcome.leaks)
            counts["missing"] += outcome.missing
    return counts


async def _revoke(proof: Proof, home: Path) -> None:
    """Take rights away in one process, and search in another one."""
    async with opened_world(home, 2, 4) as world:
        person = world.people[0]
        rule = {"users": [person.email], "groups": ["staff"], "everyone": False}
        await set_lists(world, dict.fromkeys(range(4), rule))
        settings = Settings(home=str(home), knowledge=KnowledgeSettings(store="memory"))
        async with Modelyard(
            settings, environ={}, embedder=HashEmbedder()
        ) as second_yard:
            second_yard.services.upkeep.start()
            dataset = await world.dataset()

            async def hit_count(reader: Reader) -> int:
                """Return how many documents the other process finds."""
                retrieval = await second_yard.knowledge.datasets.search(
                    TENANT, [dataset.id], QUERY, reader=reader
                )
                return len(codes_in([hit.text for hit in retrieval.hits]))

            as_user = Reader(users=(person.email,))
            as_member = Reader(users=(world.people[1].email,))
            world.people[1].directory_groups = {"staff"}
            await set_person(world, world.people[1])
            await wait_until(lambda: _is(hit_count(as_member), 4), 5)
            before = (await hit_count(as_user), await hit_count(as_member))
            proof.line("before", f"{before} of 4", before == (4, 4))
            world.people[1].directory_groups = set()
            started_at = time.perf_counter()
            await set_person(world, world.people[1])
            is_gone = await wait_until(
                lambda: _is(hit_count(as_member), 0), _MAX_SECONDS
            )
            took = time.perf_counter() - started_at
            proof.line("a group is left", f"{took:.2f} s", is_gone)
            proof.figures["group_seconds"] = round(took, 3)
            started_at = time.perf_counter()
            await set_lists(
                world, {number: {**rule, "users": []} for number in range(4)}
            )
            count, took = await hit_count(as_user), time.perf_counter() - started_at
            proof.line("a list changes", f"next search, {took:.2f} s", count == 0)
            proof.figures["list_seconds"] = round(took, 3)


async def _is(count: Any, expected: int) -> bool:
    return await count == expected


async def _break(proof: Proof, home: Path) -> None:
    """Break the filter in several ways, and see that each is noticed."""
    async with opened_world(home, 4, 12) as world:
        await shuffle(world)
        await set_default(world, "nobody")
        for name, breaking in _BROKEN.items():
            with breaking(world):
                totals: Counter[str] = Counter()
                for route in ("hybrid", "workflow node", "agent", "MCP tool"):
                    totals += await _count(world, route)
            noticed = totals["leaks"] + totals["missing"]
            proof.line(f"noticed: {name}", f"{noticed} differences", noticed > 0)
        totals = await _count(world, "hybrid")
        proof.line(
            "mended again", dict(totals), not totals["leaks"] + totals["missing"]
        )


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute within the block."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _no_filter(world: World) -> Any:
    """Searches treat every reader as one to whom lists do not apply."""
    retriever = world.yard.knowledge.retriever
    return _replaced(retriever, "_principals_of", lambda *_: None)


def _ignores_default(world: World) -> Any:
    """Documents without a list are open, whatever the dataset says."""
    del world
    allowed, read = MetadataIndex.allowed, access.may_read
    both = ExitStack()
    both.enter_context(
        _replaced(
            MetadataIndex, "allowed",
            lambda self, conditions, principals, _: allowed(
                self, conditions, principals, "everyone"
            ),
        )
    )  # fmt: skip
    both.enter_context(
        _replaced(
            access, "may_read",
            lambda principals, readers, _: read(principals, readers, "everyone"),
        )
    )  # fmt: skip
    return both


def _no_groups(world: World) -> Any:
    """Only names count, so that members of groups miss what they may read."""
    retriever = world.yard.knowledge.retriever
    return _replaced(retriever, "_principals_of", own_principals)


def _filters_afterwards(world: World) -> Any:
    """The indexes return their best entries, of which only readable ones are kept."""
    del world
    search = MemoryIndex.search

    async def unrestricted(self: MemoryIndex, space: Any, query: Any) -> Any:
        """Search all documents, as many as are asked for."""
        return (await search(self, space, replace(query, documents=None)))[:4]

    return _replaced(MemoryIndex, "search", unrestricted)


_BROKEN = {
    "no filter at all": _no_filter,
    "the default is ignored": _ignores_default,
    "groups are ignored": _no_groups,
    "hits are filtered afterwards": _filters_afterwards,
}


async def _measure(proof: Proof, home: Path) -> None:
    """Compare the latency of searches with and without access lists, alternately."""
    settings = Settings(home=str(home), knowledge=KnowledgeSettings(store="memory"))
    async with Modelyard(settings, environ={}, embedder=HashEmbedder()) as yard:
        retriever = yard.knowledge.retriever
        plain = await _dataset(yard, "plain")
        listed = await _dataset(yard, "listed", is_listed=True)
        reader = Reader(users=("ada@example.com",), groups=("staff",))
        times: dict[str, list[float]] = {plain.id: [], listed.id: []}
        for number in range(_SEARCHES + 20):
            for dataset in (plain, listed):
                # Questions differ, so that no cached vector hides the work.
                request = SearchRequest(
                    tenant=TENANT, query=f"parcel {number % 50} sample", reader=reader,
                    counts=False,
                )  # fmt: skip
                started_at = time.perf_counter()
                await retriever.search([dataset.id], request)
                # The first searches load the index.
                if number >= 20:
                    times[dataset.id].append(time.perf_counter() - started_at)
    medians = [statistics.median(times[dataset.id]) for dataset in (plain, listed)]
    ratio = medians[1] / medians[0]
    text = f"{medians[0] * 1000:.2f} ms, {medians[1] * 1000:.2f} ms with lists: {ratio:.2f}"
    proof.line("latency", text, ratio <= _MAX_RATIO)
    proof.figures["latency_ratio"] = round(ratio, 3)


async def _dataset(yard: Modelyard, name: str, *, is_listed: bool = False) -> Dataset:
    """Add a dataset of many documents; each has a list if `is_listed`, and the reader
    may read two of three."""
    datasets = yard.knowledge.datasets
    dataset = await datasets.create(TENANT, name, settings=DatasetSettings())
    texts = [
        (f"n{number}", f"A sample of parcel {number % 50}, number {number}.")
        for number in range(_COST_DOCUMENTS)
    ]
    added = await datasets.add_texts(dataset, texts)
    await datasets.wait(dataset, added[0].batch, 300)
    if is_listed:
        groups = ("staff", "board", "staff")
        lists = {
            document.id: AccessList(groups=[groups[number % 3]])
            for number, document in enumerate(added)
        }
        await datasets.access.set(dataset, lists)
    return dataset
