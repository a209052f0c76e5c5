"""The same search, whichever store: what is found, what it scores, what is not found any more."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeParts
from modelyard.base.settings import EgressSettings, KnowledgeSettings, Settings
from modelyard.knowledge.entities import (
    Condition,
    Conditions,
    Dataset,
    DatasetSettings,
    DocForm,
    RetrievalSettings,
    SearchMethod,
    Status,
)
from modelyard.knowledge.index.base import Question, Space
from modelyard.testing.knowledge import HashEmbedder
from modelyard.testing.qdrant import qdrant_server

STORES = ["memory", "memory, graph", "memory on postgresql", "pgvector", "qdrant"]
ANIMALS = ["otter", "heron", "badger", "lynx", "stork", "beaver", "marten", "falcon", "hedgehog", "salamander", "adder", "curlew", "lapwing", "shrew", "vole", "kestrel", "plover", "dormouse", "weasel", "polecat"]  # fmt: skip


@dataclass
class Store:
    parts: KnowledgeParts
    embedder: HashEmbedder

    async def dataset(self, name: str, **settings: Any) -> Dataset:
        return await self.parts.datasets.create("t1", name, settings=DatasetSettings(**settings))

    async def add(
        self, dataset: Dataset, texts: list[tuple[str, str]] | list[tuple[str, str, dict[str, Any]]]
    ) -> list[str]:
        added = await self.parts.datasets.add_texts(dataset, texts)
        ended = await self.parts.datasets.wait(dataset, added[0].batch, 60)
        assert {one.status for one in ended} == {Status.COMPLETED}, [one.error for one in ended]
        return [one.id for one in added]

    async def names(self, dataset: Dataset, query: str, method: str = "hybrid_search", **how: Any) -> list[str]:
        settings = RetrievalSettings(search_method=SearchMethod(method), top_k=how.pop("top_k", 3), **how)
        found = await self.parts.datasets.search("t1", [dataset.id], query, settings=settings)
        return [one.document.name for one in found.hits]

    async def space(self, dataset: Dataset) -> Space:
        one = await self.parts.stored.datasets.get("t1", dataset.id)
        return Space("t1", one.id, one.space, one.dimensions, one.generation)


Run = Callable[[Callable[[Store], Awaitable[None]]], None]


@pytest.fixture(scope="session")
def qdrant() -> Iterator[str]:
    with qdrant_server() as url:
        yield url


@pytest.fixture(params=STORES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a test's work with a yard around the store."""
    name = request.param
    on_postgres = name in ("memory on postgresql", "pgvector")
    qdrant_url = request.getfixturevalue("qdrant") if name == "qdrant" else ""
    settings = Settings(
        home=str(tmp_path),
        database=request.getfixturevalue("postgres_url") if on_postgres else "",
        knowledge=KnowledgeSettings(
            store=name.split(",")[0].split()[0], graph_from=1 if "graph" in name else 20_000, qdrant_url=qdrant_url
        ),
        egress=EgressSettings(private=[qdrant_url.removeprefix("http://")] if qdrant_url else []),
    )

    def go(work: Callable[[Store], Awaitable[None]]) -> None:
        async def around() -> None:
            embedder = HashEmbedder()
            async with Modelyard(settings, environ={}, embedder=embedder) as yard:
                parts = yard.knowledge
                store = Store(parts, embedder)
                try:
                    await work(store)
                finally:
                    for one in await parts.stored.datasets.of("t1"):
                        await parts.datasets.delete("t1", one.id)

        asyncio.run(around())

    return go


def texts(count: int = 20) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (
            name,
            f"The {name} lives by the water. It is animal number {at}.",
            {"n": at, "kind": "even" if at % 2 == 0 else "odd"},
        )
        for at, name in enumerate(ANIMALS[:count])
    ]


def test_each_leg_finds_what_is_there_and_scores_lie_between_0_and_1(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("animals")
        await store.add(dataset, texts())
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            assert (await store.names(dataset, "lynx", method))[0] == "lynx", method
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        vector = (await store.embedder.embed("", "", ["the heron by the water"], is_query=True)).vectors[0]
        for question in (
            Question(vector=vector, most=20), Question(text="the heron by the water", most=20),
            Question(vector=vector, text="the heron by the water", most=20),
            Question(vector=vector, text="the heron by the water", most=20, fusion="ranks"),
        ):  # fmt: skip
            found = await index.search(space, question)
            assert len(found) == 20
            assert len({one.entry for one in found}) == 20
            assert all(0 <= one.score <= 1 for one in found)
            if question.fusion == "weights":
                assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert await index.count(space) == 20

    run(work)


def test_scores_mean_the_same_in_every_store(run: Run):
    """Cosines are those of the vectors; of words, 1 is all of the question, as often as usual."""

    async def work(store: Store) -> None:
        dataset = await store.dataset("scores")
        await store.add(dataset, texts())
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        embedded = await store.embedder.embed("", "", ["falcon", texts()[7][1]], is_query=True)
        found = await index.search(space, Question(vector=embedded.vectors[0], text="falcon", meaning=0.5, most=1))
        cosine = float(embedded.vectors[0] @ embedded.vectors[1])
        assert found[0].semantic == pytest.approx(cosine, abs=0.01)
        assert found[0].words == pytest.approx(1.0, abs=0.15)
        assert found[0].score == pytest.approx(0.5 * cosine + 0.5 * (found[0].words or 0), abs=0.01)
        half = await index.search(space, Question(text="falcon unheardofword", most=1))
        assert 0.3 < half[0].score < 0.7
        assert await index.search(space, Question(text="unheardofword", most=5)) == []

    run(work)


def test_what_is_changed_and_deleted_is_so_at_once(run: Run):
    async def work(store: Store) -> None:
        datasets = store.parts.datasets
        dataset = await store.dataset("changes")
        ids = await store.add(dataset, texts(8))
        document = await store.parts.stored.documents.get("t1", dataset.id, ids[0])
        changed = await datasets.update_text(dataset, document, text="A walrus now.")
        await datasets.wait(dataset, changed.batch, 60)
        assert (await store.names(dataset, "walrus"))[0] == "otter"
        assert await store.names(dataset, "walrus", "full_text_search") == ["otter"]
        await datasets.delete_documents(dataset, ids[:2])
        assert await store.names(dataset, "walrus", "full_text_search") == []
        assert "heron" not in await store.names(dataset, "heron", "semantic_search", top_k=10)
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        assert await index.count(space) == 6
        await store.add(dataset, [("heron", "The heron is back.")])
        assert (await store.names(dataset, "heron"))[0] == "heron"
        assert await store.parts.stored.integrity.problems("t1", dataset.id) == []

    run(work)


def test_filters_switched_off_documents_and_readers_hold_in_every_leg(run: Run):
    async def work(store: Store) -> None:
        datasets, rows = store.parts.datasets, store.parts.stored
        dataset = await store.dataset("filters")
        ids = await store.add(dataset, texts())
        odd = Conditions(conditions=[Condition(name="kind", comparison_operator="is", value="odd")])
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            found = await store.names(
                dataset, "animal by the water", method, top_k=20, metadata_filtering_conditions=odd
            )
            assert sorted(found) == sorted(ANIMALS[1::2]), method
        await rows.library.set_flags("t1", dataset.id, [ids[1]], enabled=False)
        await rows.library.set_flags("t1", dataset.id, [ids[3]], archived=True)
        secret = await rows.documents.get("t1", dataset.id, ids[5])
        await rows.library.describe(msgspec.structs.replace(secret, readers=["ann"]))
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            settings = RetrievalSettings(search_method=SearchMethod(method), top_k=20)
            for user, seen in (("bob", 17), ("ann", 18), (None, 18)):
                found = await datasets.search("t1", [dataset.id], "animal by the water", settings=settings, user=user)
                names = {one.document.name for one in found.hits}
                assert len(names) == seen, (method, user)
                assert not names & {ANIMALS[1], ANIMALS[3]}

    run(work)


def test_datasets_and_spaces_are_apart(run: Run):
    async def work(store: Store) -> None:
        one, other = await store.dataset("one"), await store.dataset("other")
        await store.add(one, texts(5))
        await store.add(other, [("whale", "The whale lives in the water.")])
        assert "whale" not in await store.names(one, "whale in the water", top_k=10)
        assert await store.names(other, "lives by the water", top_k=10) == ["whale"]
        # Another model beside the one in use: it answers all the while, and then from the other.
        store.embedder.dimensions = 32
        moved = await store.parts.datasets.reindexer.change_model(await store.parts.stored.datasets.get("t1", one.id))
        assert (moved.dimensions, moved.space) == (32, 1)
        assert (await store.names(moved, "lynx"))[0] == "lynx"
        index, space = store.parts.indexes.of(moved), await store.space(moved)
        assert await index.count(space) == 5
        store.embedder.dimensions = 64

    run(work)


def test_children_lead_to_their_parents_once(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("parents", doc_form=DocForm.HIERARCHICAL)
        body = "\n\n".join(f"# Part {at}\n\n" + f"The {name} eats fish. " * 30 for at, name in enumerate(ANIMALS[:6]))
        await store.add(dataset, [("book", body)])
        settings = RetrievalSettings(top_k=3)
        found = await store.parts.datasets.search("t1", [dataset.id], "lynx fish", settings=settings)
        assert "lynx" in found.hits[0].segment.content
        assert len({one.segment.id for one in found.hits}) == len(found.hits)
        assert found.hits[0].children
        assert all("lynx" in one.content for one in found.hits[0].children[:1])

    run(work)


def test_chinese_and_japanese_words_are_found_by_their_parts(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("中文")
        await store.add(dataset, [
            ("退款", "退款将在七个工作日内到账。"), ("发货", "中午之前下单，当天发货。"), ("営業", "店は九時に開きます。"),
        ])  # fmt: skip
        for query, wanted in (("什么时候到账", "退款"), ("当天能发货吗", "发货"), ("何時に開く", "営業")):
            assert (await store.names(dataset, query, "full_text_search"))[0] == wanted

    run(work)


def test_many_entries_are_found_as_exact_search_finds_them(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("many")
        await store.add(dataset, [
            (f"{at}", f"{ANIMALS[at % 20]} {ANIMALS[at * 7 % 20]} {ANIMALS[at * 3 % 17]} number{at}") for at in range(400)
        ])  # fmt: skip
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        await index.count(space)
        if hasattr(index, "ready"):
            await index.ready()  # type: ignore[attr-defined]
        changes = await store.parts.stored.entries.changes(space.dataset, space.number, 0, space.generation)
        matrix = np.stack([np.frombuffer(one, np.float32) for one in changes.vectors])
        hits = total = 0
        for at in range(0, 400, 20):
            vector = matrix[at] * 0.8 + matrix[(at + 7) % 400] * 0.2
            vector /= np.linalg.norm(vector)
            exact = np.sort(matrix @ vector)[::-1][:10]
            found = await index.search(space, Question(vector=vector, most=10))
            # By score, since equals may come in any order.
            hits += sum(one.score >= exact[-1] - 1e-3 for one in found)
            total += 10
        assert hits / total >= 0.98

    run(work)
