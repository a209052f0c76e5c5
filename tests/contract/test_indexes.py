"""Contract tests for every index: the same hits, scores and deletions."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeServices
from modelyard.base.settings import EgressSettings, KnowledgeSettings, Settings
from modelyard.knowledge.access import AccessList
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
from modelyard.knowledge.index.base import IndexHit, IndexKey, IndexQuery
from modelyard.knowledge.index.fusion import AdaptiveFusion, leg_scale
from modelyard.tenancy.reader import ANYBODY, UNRESTRICTED, Reader
from modelyard.testing.knowledge import HashEmbedder
from modelyard.testing.qdrant import qdrant_server

pytestmark = pytest.mark.proof("stores")

STORES = ["memory", "memory, graph", "memory on postgresql", "pgvector", "qdrant"]
ANIMALS = ["otter", "heron", "badger", "lynx", "stork", "beaver", "marten", "falcon", "hedgehog", "salamander", "adder", "curlew", "lapwing", "shrew", "vole", "kestrel", "plover", "dormouse", "weasel", "polecat"]  # fmt: skip


@dataclass
class Store:
    parts: KnowledgeServices
    embedder: HashEmbedder

    async def dataset(self, name: str, **settings: Any) -> Dataset:
        return await self.parts.datasets.create(
            "t1", name, settings=DatasetSettings(**settings)
        )

    async def add(
        self,
        dataset: Dataset,
        texts: list[tuple[str, str]] | list[tuple[str, str, dict[str, Any]]],
    ) -> list[str]:
        added = await self.parts.datasets.add_texts(dataset, texts)
        ended = await self.parts.datasets.wait(dataset, added[0].batch, 60)
        assert {document.status for document in ended} == {Status.COMPLETED}, [
            document.error for document in ended
        ]
        return [document.id for document in added]

    async def names(
        self,
        dataset: Dataset,
        query: str,
        method: str = "hybrid_search",
        **options: Any,
    ) -> list[str]:
        settings = RetrievalSettings(
            search_method=SearchMethod(method), top_k=options.pop("top_k", 3), **options
        )
        retrieval = await self.parts.datasets.search(
            "t1", [dataset.id], query, settings=settings
        )
        return [hit.document.name for hit in retrieval.hits]

    async def space(self, dataset: Dataset) -> IndexKey:
        stored = await self.parts.stored.datasets.get("t1", dataset.id)
        return IndexKey(
            "t1", stored.id, stored.space, stored.dimensions, stored.generation
        )


Run = Callable[[Callable[[Store], Awaitable[None]]], None]


@pytest.fixture(scope="session")
def qdrant() -> Iterator[str]:
    with qdrant_server() as url:
        yield url


@pytest.fixture(params=STORES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a test's coroutine with an application on the index."""
    name = request.param
    on_postgres = name in ("memory on postgresql", "pgvector")
    qdrant_url = request.getfixturevalue("qdrant") if name == "qdrant" else ""
    settings = Settings(
        home=str(tmp_path),
        database=request.getfixturevalue("postgres_url") if on_postgres else "",
        knowledge=KnowledgeSettings(
            store=name.split(",")[0].split()[0],
            graph_from=1 if "graph" in name else 20_000,
            qdrant_url=qdrant_url,
        ),
        egress=EgressSettings(
            private=[qdrant_url.removeprefix("http://")] if qdrant_url else []
        ),
    )

    def go(work: Callable[[Store], Awaitable[None]]) -> None:
        async def run_work() -> None:
            embedder = HashEmbedder()
            async with Modelyard(settings, environ={}, embedder=embedder) as yard:
                parts = yard.knowledge
                store = Store(parts, embedder)
                try:
                    await work(store)
                finally:
                    for dataset in await parts.stored.datasets.list("t1"):
                        await parts.datasets.delete("t1", dataset.id)

        asyncio.run(run_work())

    return go


def texts(count: int = 20) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (
            name,
            f"The {name} lives by the water. It is animal number {index}.",
            {"n": index, "kind": "even" if index % 2 == 0 else "odd"},
        )
        for index, name in enumerate(ANIMALS[:count])
    ]


def test_each_search_finds_all_entries_with_scores_from_0_to_1(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("animals")
        await store.add(dataset, texts())
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            assert (await store.names(dataset, "lynx", method))[0] == "lynx", method
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        text = "the heron by the water"
        embedded = await store.embedder.embed("", "", [text], is_query=True)
        vector = embedded.vectors[0]
        for question in (
            IndexQuery(vector=vector, limit=20),
            IndexQuery(text=text, limit=20),
            IndexQuery(vector=vector, text=text, limit=20),
            IndexQuery(vector=vector, text=text, limit=20, fusion="ranks"),
        ):
            hits = await index.search(space, question)
            _check_hits(hits, is_sorted=question.fusion == "weights")
        assert await index.count(space) == 20

    run(work)


def _check_hits(hits: Sequence[IndexHit], *, is_sorted: bool) -> None:
    """All 20 entries are returned once, with scores from 0 to 1."""
    assert len(hits) == 20
    assert len({hit.entry for hit in hits}) == 20
    scores = [hit.score for hit in hits]
    assert all(0 <= score <= 1 for score in scores)
    if is_sorted:
        assert scores == sorted(scores, reverse=True)


def test_every_store_fuses_the_same_way(run: Run):
    """The background is that of the entries, whatever the store holds of them."""

    async def work(store: Store) -> None:
        dataset = await store.dataset("fused")
        await store.add(dataset, texts())
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        contents = [text for _, text, _ in texts()]
        query = "the falcon near water"
        embedded = await store.embedder.embed("", "", [query, *contents])
        vector, matrix = embedded.vectors[0], embedded.vectors[1:]
        hits = await index.search(
            space, IndexQuery(vector=vector, text=query, fusion="adaptive", limit=20)
        )
        words = await index.search(space, IndexQuery(text=query, limit=20))
        cosines = matrix @ vector
        # Computed apart from the indexes, from the scores of each leg.
        fusion = AdaptiveFusion(
            leg_scale(cosines.tolist(), float(cosines.mean())),
            leg_scale([hit.score for hit in words], 0.0),
        )
        assert len(hits) == 20
        for hit in hits:
            legs = np.array([hit.semantic]), np.array([hit.keyword_score])
            # An approximate store may round a cosine.
            assert hit.score == pytest.approx(float(fusion.scores(*legs)[0]), abs=0.02)

    run(work)


def test_scores_mean_the_same_in_every_store(run: Run):
    """Vector scores are cosines; for text, 1 means all words, as often as usual."""

    async def work(store: Store) -> None:
        dataset = await store.dataset("scores")
        await store.add(dataset, texts())
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        embedded = await store.embedder.embed(
            "", "", ["falcon", texts()[7][1]], is_query=True
        )
        hits = await index.search(
            space,
            IndexQuery(
                vector=embedded.vectors[0], text="falcon", semantic_weight=0.5, limit=1
            ),
        )
        cosine = float(embedded.vectors[0] @ embedded.vectors[1])
        assert hits[0].semantic == pytest.approx(cosine, abs=0.01)
        assert hits[0].keyword_score == pytest.approx(1.0, abs=0.15)
        assert hits[0].score == pytest.approx(
            0.5 * cosine + 0.5 * (hits[0].keyword_score or 0), abs=0.01
        )
        half = await index.search(
            space, IndexQuery(text="falcon unheardofword", limit=1)
        )
        assert 0.3 < half[0].score < 0.7
        assert (
            await index.search(space, IndexQuery(text="unheardofword", limit=5)) == []
        )

    run(work)


def test_changes_and_deletions_apply_at_once(run: Run):
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
        assert "heron" not in await store.names(
            dataset, "heron", "semantic_search", top_k=10
        )
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        assert await index.count(space) == 6
        await store.add(dataset, [("heron", "The heron is back.")])
        assert (await store.names(dataset, "heron"))[0] == "heron"
        assert await store.parts.stored.integrity.problems("t1", dataset.id) == []

    run(work)


def test_filters_disabled_documents_and_readers_apply_to_every_search(run: Run):
    async def work(store: Store) -> None:
        datasets, rows = store.parts.datasets, store.parts.stored
        dataset = await store.dataset("filters")
        ids = await store.add(dataset, texts())
        odd = Conditions(
            conditions=[Condition(name="kind", comparison_operator="is", value="odd")]
        )
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            results = await store.names(
                dataset,
                "animal by the water",
                method,
                top_k=20,
                metadata_filtering_conditions=odd,
            )
            assert sorted(results) == sorted(ANIMALS[1::2]), method
        await rows.library.set_flags("t1", dataset.id, [ids[1]], enabled=False)
        await rows.library.set_flags("t1", dataset.id, [ids[3]], archived=True)
        await datasets.access.set(dataset, {ids[5]: AccessList(users=["ann"])})
        ann, bob = Reader(users=("ann",)), Reader(users=("bob",))
        for method in ("semantic_search", "full_text_search", "hybrid_search"):
            settings = RetrievalSettings(search_method=SearchMethod(method), top_k=20)
            for reader, expected_count in ((bob, 17), (ann, 18), (UNRESTRICTED, 18), (ANYBODY, 17)):  # fmt: skip
                results = await datasets.search(
                    "t1",
                    [dataset.id],
                    "animal by the water",
                    settings=settings,
                    reader=reader,
                )
                names = {hit.document.name for hit in results.hits}
                assert len(names) == expected_count, (method, reader)
                assert not names & {ANIMALS[1], ANIMALS[3]}

    run(work)


def test_datasets_and_spaces_are_separate(run: Run):
    async def work(store: Store) -> None:
        first_dataset, second_dataset = (
            await store.dataset("one"),
            await store.dataset("other"),
        )
        await store.add(first_dataset, texts(5))
        await store.add(second_dataset, [("whale", "The whale lives in the water.")])
        assert "whale" not in await store.names(
            first_dataset, "whale in the water", top_k=10
        )
        assert await store.names(second_dataset, "lives by the water", top_k=10) == [
            "whale"
        ]
        # Change the model: the old index is searched until the new one is complete.
        store.embedder.dimensions = 32
        moved = await store.parts.datasets.reindexer.change_model(
            await store.parts.stored.datasets.get("t1", first_dataset.id)
        )
        assert (moved.dimensions, moved.space) == (32, 1)
        assert (await store.names(moved, "lynx"))[0] == "lynx"
        index, space = store.parts.indexes.of(moved), await store.space(moved)
        assert await index.count(space) == 5
        store.embedder.dimensions = 64

    run(work)


def test_each_parent_is_found_once_through_its_children(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("parents", doc_form=DocForm.HIERARCHICAL)
        body = "\n\n".join(
            f"# Part {index}\n\n" + f"The {name} eats fish. " * 30
            for index, name in enumerate(ANIMALS[:6])
        )
        await store.add(dataset, [("book", body)])
        settings = RetrievalSettings(top_k=3)
        retrieval = await store.parts.datasets.search(
            "t1", [dataset.id], "lynx fish", settings=settings
        )
        assert "lynx" in retrieval.hits[0].segment.content
        assert len({hit.segment.id for hit in retrieval.hits}) == len(retrieval.hits)
        assert retrieval.hits[0].children
        assert all("lynx" in child.content for child in retrieval.hits[0].children[:1])

    run(work)


def test_chinese_and_japanese_words_are_found_by_substrings(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("中文")
        await store.add(dataset, [
            ("退款", "退款将在七个工作日内到账。"), ("发货", "中午之前下单，当天发货。"), ("営業", "店は九時に開きます。"),
        ])  # fmt: skip
        for query, expected_name in (
            ("什么时候到账", "退款"),
            ("当天能发货吗", "发货"),
            ("何時に開く", "営業"),
        ):
            assert (await store.names(dataset, query, "full_text_search"))[
                0
            ] == expected_name

    run(work)


def test_large_indexes_match_exact_search(run: Run):
    async def work(store: Store) -> None:
        dataset = await store.dataset("many")
        await store.add(dataset, [
            (f"{number}", f"{ANIMALS[number % 20]} {ANIMALS[number * 7 % 20]} {ANIMALS[number * 3 % 17]} number{number}") for number in range(400)
        ])  # fmt: skip
        index, space = store.parts.indexes.of(dataset), await store.space(dataset)
        await index.count(space)
        if hasattr(index, "wait_for_graphs"):
            await index.wait_for_graphs()  # type: ignore[attr-defined]
        changes = await store.parts.stored.entries.changes(
            space.dataset, space.number, 0, space.generation
        )
        matrix = np.stack(
            [
                np.frombuffer(vector_bytes, np.float32)
                for vector_bytes in changes.vectors
            ]
        )
        hits = total = 0
        for row in range(0, 400, 20):
            vector = matrix[row] * 0.8 + matrix[(row + 7) % 400] * 0.2
            vector /= np.linalg.norm(vector)
            exact = np.sort(matrix @ vector)[::-1][:10]
            found_hits = await index.search(space, IndexQuery(vector=vector, limit=10))
            # Compare scores, since entries with equal scores may come in any order.
            hits += sum(hit.score >= exact[-1] - 1e-3 for hit in found_hits)
            total += 10
        assert hits / total >= 0.98

    run(work)
