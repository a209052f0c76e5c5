"""Tests for datasets: adding, changing, searching and damaging them."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    InvokeServerUnavailableError,
    NotFoundError,
)
from modelyard.cli.knowledge import _print_answer_details
from modelyard.knowledge import external
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.answer import Answerer, AnswerOptions, ContextBuilder
from modelyard.knowledge.crawl import sync_sources
from modelyard.knowledge.entities import (
    Condition,
    Conditions,
    Dataset,
    DocForm,
    Document,
    ExternalRetrieval,
    ProcessRule,
    RetrievalSettings,
    Rules,
    SearchMethod,
    Segmentation,
    Status,
    SummaryIndex,
    Technique,
)
from modelyard.knowledge.evaluate import (
    PRESETS,
    SHARE_PRESETS,
    Collection,
    CorpusText,
    add_collection,
    best_share,
    evaluate,
    load_collection,
    ndcg,
    save_collection,
)
from modelyard.knowledge.export import export_dataset, import_dataset
from modelyard.knowledge.ingest import Indexer
from modelyard.knowledge.retrieve import Retriever, SearchRequest
from modelyard.knowledge.rows import ConflictError, DocumentPart
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.stored.repositories import open_store
from modelyard.tenancy.reader import ANYBODY, UNRESTRICTED, Reader
from modelyard.testing import Answer, UpstreamRequest
from tests.knowledge.conftest import Bench, Models, Run
from tests.knowledge.formats import (
    CASES,
    HARM,
    SCANNED,
    TYPED,
    missing_content,
    picture,
    scan,
)

GUIDE = "Goods can be sent back within 30 days.\n\nThe shop opens at nine.\n\nGifts are wrapped for two euros."
LINES = ProcessRule(
    mode="custom",
    rules=Rules(segmentation=Segmentation(separator="\n\n", max_tokens=200)),
)


# --------------------------------------------------------------------- adding documents


def test_invalid_names_and_texts_are_refused(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset("shop")
        with pytest.raises(ConflictError, match="Dataset 'shop' already exists"):
            await bench.dataset("shop")
        with pytest.raises(InvokeBadRequestError, match="1 to 40 characters"):
            await bench.dataset("x" * 41)
        with pytest.raises(InvokeBadRequestError, match="'a' has no text"):
            await bench.datasets.add_texts(dataset, [("a", "  \n")])
        with pytest.raises(InvokeBadRequestError, match="'a.pdf' is empty"):
            await bench.datasets.add_file(dataset, "a.pdf", b"")
        with pytest.raises(InvokeBadRequestError, match="the maximum is 256 "):
            bench.datasets.reader.check_size("a.bin", 2 << 30)
        with pytest.raises(NotFoundError, match="Dataset 'nothing' does not exist"):
            await bench.datasets.get_by_id_or_name("default", "nothing")
        with pytest.raises(InvokeBadRequestError, match="'query' must not be empty"):
            await bench.find(dataset, " ")
        with pytest.raises(
            InvokeBadRequestError, match="top_k must be between 1 and 1000, got 0"
        ):
            await bench.find(dataset, "x", settings=RetrievalSettings(top_k=0))

    run(work)


def test_every_format_is_found_by_its_content(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        batches: dict[str, str] = {}
        for name, make in CASES.items():
            case = make()
            added = await bench.datasets.add_file(
                dataset, f"{len(batches)}-{case.name}", case.data
            )
            batches[added.id] = name
            (ended,) = await bench.datasets.wait(dataset, added.batch, 60)
            assert ended.status is Status.COMPLETED, (name, ended.error)
            parts = await bench.parts.stored.texts.get(added.id) or []
            assert (
                missing_content(
                    case,
                    [msgspec.to_builtins(part) | {"page": part.page} for part in parts],
                )
                == []
            ), name
        retrieval = await bench.find(
            dataset, "sent back within 30 days", settings=RetrievalSettings(top_k=40)
        )
        assert {batches[hit.document.id] for hit in retrieval.hits} >= set(CASES) - {
            "XLS",
            "XLSX",
        }
        pdf = next(
            hit
            for hit in retrieval.hits
            if batches[hit.document.id] == "PDF" and "30 days" in hit.segment.content
        )
        assert pdf.segment.page == 1

    run(work)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in HARM
        if name
        not in (
            "10⁶ tables",
            "DOCX bomb",
            "zip bomb",
            "gzip bomb",
            "xz bomb",
            "tar.gz bomb",
        )
    ],
)
def test_unreadable_documents_get_a_reason_and_leave_nothing(run: Run, name: str):
    file, make, _ = HARM[name]

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        data = make()
        added = await bench.datasets.add_file(dataset, file, data)
        (ended,) = await bench.datasets.wait(dataset, added.batch, 60)
        assert ended.status is Status.ERROR
        assert ended.error
        assert await bench.parts.stored.integrity.problems("default", dataset.id) == []
        assert (await bench.parts.stored.segments.list_page("default", ended.id))[
            1
        ] == 0
        # The next document is not affected.
        (fine,) = await bench.add(dataset, GUIDE)
        assert fine.status is Status.COMPLETED

    run(work)


def test_scans_and_images_are_read_by_ocr(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        for name, data, pages in (
            ("scan.pdf", scan(), {1: SCANNED[0], 2: TYPED, 3: SCANNED[1]}),
            ("photo.png", picture(SCANNED[0]), {1: SCANNED[0]}),
        ):
            added = await bench.datasets.add_file(dataset, name, data)
            (ended,) = await bench.datasets.wait(dataset, added.batch, 120)
            assert ended.status is Status.COMPLETED, ended.error
            parts = await bench.parts.stored.texts.get(added.id) or []
            assert {part.page: " ".join(part.text.split()) for part in parts} == pages

    run(work)


def test_without_ocr_text_is_read_and_images_get_a_reason(run: Run):
    async def work(bench: Bench) -> None:
        reader = SourceReader(
            bench.yard.services.storage.files,
            bench.parts.sandbox,
            bench.yard.services.network.egress,
        )
        read = await reader.parse("scan.pdf", scan())
        assert [(part.page, part.text.strip()) for part in read.parts] == [(2, TYPED)]
        with pytest.raises(
            InvokeBadRequestError,
            match="The text of the image cannot be read: OCR is not available",
        ):
            await reader.parse("photo.png", picture(SCANNED[0]))
        with pytest.raises(InvokeBadRequestError, match="contains only scanned pages"):
            await reader.parse("a.pdf", HARM["PDF of nothing but lines"][1]())

    run(work)


def test_a_folder_is_synchronized(run: Run, tmp_path: Path):
    folder = tmp_path / "documents"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Returns\n\nGoods can be sent back.")
    (folder / "deep" / "b.txt").write_text("The shop opens at nine.")
    (folder / ".hidden").write_text("no")

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()

        async def synced() -> dict[str, int]:
            counts = await bench.datasets.sync_folder(dataset, folder, batch="b")
            await bench.datasets.wait(dataset, "b", 30)
            return counts

        assert await synced() == {"added": 2, "changed": 0, "deleted": 0, "same": 0}
        assert await synced() == {"added": 0, "changed": 0, "deleted": 0, "same": 2}
        (folder / "a.md").write_text("# Returns\n\nGoods cannot be sent back at all.")
        (folder / "deep" / "b.txt").unlink()
        assert await synced() == {"added": 0, "changed": 1, "deleted": 1, "same": 0}
        retrieval = await bench.find(
            dataset, "sent back", settings=RetrievalSettings(top_k=9)
        )
        assert ["cannot" in hit.segment.content for hit in retrieval.hits] == [True]

    run(work)


# ----------------------------------------------------------------------------- indexing


def test_pause_resume_cancel_and_retry(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        store = bench.parts.stored
        bench.embedder._seconds = 0.3
        long_text = "\n\n".join(
            f"Part {index} " + "word " * 300 for index in range(400)
        )
        (added,) = await bench.datasets.add_texts(dataset, [("long", long_text)])
        await asyncio.sleep(0.5)
        assert await store.documents.command("default", dataset.id, added.id, "pause")
        (paused,) = await bench.datasets.wait(dataset, added.batch, 30)
        assert paused.status is Status.PAUSED
        assert 0 < paused.done < paused.segments
        embedded_before = bench.embedder.texts
        assert await store.documents.retry("default", dataset.id, added.id)
        bench.datasets.indexer.notify()
        (ended,) = await bench.datasets.wait(dataset, added.batch, 60)
        assert ended.status is Status.COMPLETED
        # No text was embedded twice.
        assert bench.embedder.texts == ended.segments >= embedded_before > 0
        (second_document,) = await bench.datasets.add_texts(
            dataset, [("other", long_text + " more")]
        )
        await asyncio.sleep(0.5)
        await store.documents.command(
            "default", dataset.id, second_document.id, "cancel"
        )
        (stopped,) = await bench.datasets.wait(dataset, second_document.batch, 30)
        assert (stopped.status, stopped.error) == (Status.ERROR, "cancelled")
        # It is already completed.
        assert not await store.documents.command(
            "default", dataset.id, added.id, "pause"
        )

    run(work)


def test_a_failing_model_fails_its_documents_until_a_retry(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        bench.embedder.error = InvokeServerUnavailableError("the model is away")
        ended = await bench.add(dataset, "a", "b", "c")
        assert {(document.status, document.error) for document in ended} == {
            (Status.ERROR, "the model is away")
        }
        bench.embedder.error = None
        for document in ended:
            await bench.parts.stored.documents.retry("default", dataset.id, document.id)
        bench.datasets.indexer.notify()
        retried = await bench.datasets.wait(dataset, ended[0].batch, 30)
        assert {document.status for document in retried} == {Status.COMPLETED}

    run(work)


def test_a_model_with_changed_dimensions_is_detected(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await bench.add(dataset, GUIDE)
        bench.embedder.dimensions = 32
        (second_document,) = await bench.add(dataset, "Another document.")
        assert second_document.status is Status.ERROR
        assert (
            "vectors of 32 dimensions, but the dataset was indexed by 'double/hash-64'"
            in second_document.error
        )
        with pytest.raises(InvokeBadRequestError, match="reindex the dataset"):
            await bench.find(dataset, "another")
        moved = await bench.datasets.reindexer.change_model(
            await bench.parts.stored.datasets.get("default", dataset.id)
        )
        assert moved.dimensions == 32
        assert (await bench.find(dataset, "shop opens at nine")).hits[
            0
        ].document.name == "n0"

    run(work)


def test_two_writers_on_one_dataset(run: Run):
    """Two processes share a database.

    The documents of both are complete, and each is indexed once.
    """

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        store = bench.parts.stored
        texts = [f"Document {index} of one writer." for index in range(60)]
        first, _ = await asyncio.gather(
            bench.add(dataset, *texts), _add_by_second_writer(bench, dataset)
        )
        documents, total = await store.documents.list_page(
            "default", dataset.id, state="completed", limit=1000
        )
        assert total == 120 == len({document.name for document in documents})
        assert len({document.position for document in documents}) >= 60
        assert await store.integrity.problems("default", dataset.id) == []
        assert len(first) == 60

    run(work)


async def _add_by_second_writer(bench: Bench, dataset: Dataset) -> None:
    """Add 60 documents in batches of ten, as another process does."""
    database, clock = bench.yard.services.storage.database, bench.parts.stored.clock
    store = open_store(database, clock, owner="elsewhere:boot:1:1")
    indexer = Indexer(store, bench.embedder, bench.datasets.reader)
    for start in range(0, 60, 10):
        documents = [
            bench.datasets._build_document(
                dataset, f"o{index}", {"kind": "text", "size": 9}, batch="two"
            )
            for index in range(start, start + 10)
        ]
        texts_by_id = {
            document.id: f"Document {document.name} of the other."
            for document in documents
        }
        placed = await store.library.add(documents, texts_by_id, is_ours=True)
        indexer.claim((document, 0) for document in placed)
        await asyncio.sleep(0.01)
    await indexer.wait("default", dataset.id, "two", 30)
    await indexer.aclose()


def test_documents_of_a_dead_process_are_indexed(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        store = bench.parts.stored
        # A process of this machine and boot that does not exist.
        owner = store.claims.owner.rsplit(":", 2)[0] + ":999999:1"
        dead = open_store(
            bench.yard.services.storage.database, store.clock, owner=owner
        )
        document = bench.datasets._build_document(
            dataset, "left", {"kind": "text", "size": 9}, batch="left"
        )
        await dead.library.add([document], {document.id: GUIDE}, is_ours=True)
        bench.parts.start()
        (ended,) = await bench.datasets.wait(dataset, "left", 30)
        assert ended.status is Status.COMPLETED

    run(work)


def test_questions_and_answers_from_tables_and_from_a_model(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(doc_form=DocForm.QA)
        data = 'question,answer\nWhen do you open?,At nine.\nDo you wrap gifts?,"Yes, for two euros."\n'
        added = await bench.datasets.add_file(dataset, "faq.csv", data.encode())
        await bench.datasets.wait(dataset, added.batch, 30)
        retrieval = await bench.find(
            dataset, "open", settings=RetrievalSettings(top_k=1)
        )
        assert retrieval.hits[0].text == "question:When do you open? \nanswer:At nine."
        (failed,) = await bench.add(dataset, GUIDE)
        assert failed.status is Status.ERROR  # no model to write questions
        models = Models(
            answers={
                "sent back": "Q1: How long?\nA1: 30 days.\nQ2: When open?\nA2: At nine."
            }
        )
        bench.datasets.indexer._writer = models
        (qa_document,) = await bench.add(dataset, GUIDE)
        assert (qa_document.status, qa_document.segments) == (Status.COMPLETED, 2)

    run(work)


@dataclass
class PausingWriter:
    """A writer during whose first call the document is paused."""

    bench: Bench
    dataset: Dataset
    prompts: list[str] = field(default_factory=list[str])

    async def complete(self, tenant: str, model: str, prompt: str) -> str:
        self.prompts.append(prompt)
        if len(self.prompts) == 1:
            documents = self.bench.parts.stored.documents
            (row,) = await documents.sources(tenant, self.dataset.id)
            assert await documents.command(tenant, self.dataset.id, row["id"], "pause")
            await self.bench.datasets.indexer._poll()
        return "Q1: How long?\nA1: 30 days."


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"doc_form": DocForm.QA}, id="questions and answers"),
        pytest.param(
            {"summary_index_setting": SummaryIndex(enable=True)}, id="summaries"
        ),
    ],
)
def test_a_pause_while_a_model_writes_is_a_pause_and_no_failure(
    run: Run, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES, **settings)
        writer = PausingWriter(bench, dataset)
        bench.datasets.indexer._writer = writer
        text = "\n\n".join(f"Part {index} " + "word " * 150 for index in range(3))
        with caplog.at_level("INFO", "modelyard.knowledge"):
            (paused,) = await bench.add(dataset, text)
        assert (paused.status, paused.error) == (Status.PAUSED, "")
        assert len(writer.prompts) == 1
        assert "document cannot be indexed" not in caplog.text
        assert await bench.parts.stored.documents.retry(
            "default", dataset.id, paused.id
        )
        bench.datasets.indexer.notify()
        (ended,) = await bench.datasets.wait(dataset, paused.batch, 60)
        assert ended.status is Status.COMPLETED, ended.error

    run(work)


def test_the_format_is_detected_unless_the_metadata_name_one(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()

        async def format_of(document: Document) -> str:
            (ended,) = await bench.datasets.wait(dataset, document.batch, 60)
            assert ended.status is Status.COMPLETED, ended.error
            return ended.metadata["format"]

        page = b"<!doctype html><p>Goods can be sent back."
        detected = await bench.datasets.add_file(dataset, "a.txt", b"Gifts.")
        named = await bench.datasets.add_file(
            dataset, "b.txt", b"Parcels.", metadata={"format": "letter", "kind": "x"}
        )
        assert await format_of(detected) == "txt"
        assert await format_of(named) == "letter"
        documents = bench.parts.stored.documents
        for document, expected in ((detected, "html"), (named, "letter")):
            current = await documents.get("default", dataset.id, document.id)
            changed = await bench.datasets.update_file(dataset, current, "c.html", page)
            assert await format_of(changed) == expected

    run(work)


def test_segments_are_found_by_their_summaries(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(
            summary_index_setting=SummaryIndex(enable=True), process_rule=LINES
        )
        bench.datasets.indexer._writer = Models(
            answers={"opens at nine": "About zanzibar hours."}
        )
        await bench.add(dataset, GUIDE)
        retrieval = await bench.find(
            dataset, "zanzibar", settings=RetrievalSettings(top_k=1)
        )
        assert "opens at nine" in retrieval.hits[0].segment.content
        assert retrieval.hits[0].segment.summary == "About zanzibar hours."

    run(work)


def test_manual_segments_and_pipeline_chunks(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        (document,) = await bench.add(dataset, GUIDE)
        (segment,) = await bench.datasets.segments.add(
            dataset, document, [{"content": "We speak Dutch.", "keywords": ["x"]}]
        )
        assert segment.position == 4
        changed = await bench.datasets.segments.change(
            dataset,
            document,
            msgspec.structs.replace(segment, content="We speak Danish."),
        )
        assert (await bench.find(dataset, "Danish")).hits[0].segment.id == changed.id
        off = await bench.datasets.segments.change(
            dataset, document, msgspec.structs.replace(changed, is_enabled=False)
        )
        assert all(
            hit.segment.id != off.id
            for hit in (await bench.find(dataset, "Danish")).hits
        )
        with pytest.raises(InvokeBadRequestError, match="Content is empty"):
            await bench.datasets.segments.add(dataset, document, [{"content": " "}])
        parts = [
            DocumentPart(
                text="A parent about cranes.", children=["cranes fly", "cranes dance"]
            )
        ]
        chunked = await bench.datasets.add_chunks(
            dataset, "chunks", parts, DocForm.HIERARCHICAL
        )
        await bench.datasets.wait(dataset, chunked.batch, 30)
        hit = (await bench.find(dataset, "dance")).hits[0]
        assert hit.segment.content == "A parent about cranes."
        assert next(child.content for child in hit.children) == "cranes dance"
        assert await bench.parts.stored.integrity.problems("default", dataset.id) == []

    run(work)


# ---------------------------------------------------------------------------- retrieval


def test_thresholds_rerankers_and_their_failures(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        await bench.add(dataset, GUIDE)
        models = Models()
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, models, models
        )

        async def search(query: str, **settings: Any) -> Any:
            request = SearchRequest(
                tenant="default", query=query, settings=RetrievalSettings(**settings)
            )
            return await retriever.search([dataset.id], request)

        plain = await search("gifts wrapped")
        assert len(plain.hits) >= 2
        strict = await search(
            "gifts wrapped", score_threshold_enabled=True, score_threshold=0.5
        )
        assert ["Gifts" in hit.segment.content for hit in strict.hits] == [True]
        ranked = await search("gifts are wrapped", reranking_enable=True)
        assert ranked.hits[0].scores["rerank"] == ranked.hits[0].score == 1.0
        models.error = InvokeServerUnavailableError("away")
        failed = await search("gifts wrapped", reranking_enable=True)
        assert [hit.segment.id for hit in failed.hits] == [
            hit.segment.id for hit in plain.hits
        ]
        assert (
            "'default-rerank' failed; hits are in search order: away" in failed.notes[0]
        )
        models.error = None
        ranks = await search("gifts wrapped", fusion="ranks")
        assert "Gifts" in ranks.hits[0].segment.content
        mixed = await search("gifts wrapped", mmr=0.5, top_k=2)
        assert len(mixed.hits) == 2
        old = await search("gifts wrapped", recency_days=1.0)
        assert old.hits[0].score == pytest.approx(plain.hits[0].score, abs=0.01)

    run(work)


def test_the_threshold_applies_to_what_the_rerank_model_says(run: Run):
    """The threshold applies to the score of the rerank model, not of the search.

    A hit that the search rated low is returned if the rerank model rates it high, and
    the other way round.
    """

    class Contrary(Models):
        async def rerank(self, tenant: str, model: str, query: str, docs: Any) -> Any:
            scores = [(n, 0.9 if "shop" in doc else 0.1) for n, doc in enumerate(docs)]
            return sorted(scores, key=lambda pair: -pair[1])

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        await bench.add(dataset, GUIDE)
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, Contrary()
        )

        async def search(**settings: Any) -> list[tuple[str, float]]:
            request = SearchRequest(
                tenant="default",
                query="gifts wrapped",
                settings=RetrievalSettings(
                    score_threshold_enabled=True, score_threshold=0.5, **settings
                ),
            )
            hits = (await retriever.search([dataset.id], request)).hits
            return [(hit.segment.content.split()[1], hit.score) for hit in hits]

        assert [word for word, _ in await search()] == ["are"]
        assert await search(reranking_enable=True) == [("shop", 0.9)]

    run(work)


def test_what_a_user_may_read_is_decided_for_each_user(run: Run):
    """Whoever searched before, and however often."""

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        (added,) = await bench.add(dataset, "Parcels leave before noon.")
        await bench.datasets.access.set(dataset, {added.id: AccessList(users=["ann"])})
        ann, bob = Reader(users=("ann",)), Reader(users=("bob",))
        for reader, count in [(bob, 0), (ann, 1), (bob, 0), (UNRESTRICTED, 1), (ann, 1), (ANYBODY, 0)]:  # fmt: skip
            retrieval = await bench.find(dataset, "parcels", reader=reader)
            assert len(retrieval.hits) == count, reader

    run(work)


def test_documents_are_found_by_the_metadata_that_they_have_now(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        added = await bench.datasets.add_texts(
            dataset, [("parcels", "Parcels leave before noon.", {"team": "red"})]
        )
        (document,) = await bench.datasets.wait(dataset, added[0].batch, 60)
        library = bench.parts.stored.library

        async def find_teams() -> list[str]:
            return [
                team
                for team in ("red", "blue")
                if (
                    await bench.find(
                        dataset, "parcels", conditions=_where_team_is(team)
                    )
                ).hits
            ]

        assert await find_teams() == ["red"]
        blue = msgspec.structs.replace(document, metadata={"team": "blue"})
        await library.update_description(blue)
        assert await find_teams() == ["blue"]
        await library.set_flags("default", dataset.id, [document.id], enabled=False)
        assert await find_teams() == []
        await library.set_flags("default", dataset.id, [document.id], enabled=True)
        assert await find_teams() == ["blue"]

    run(work)


def _where_team_is(team: str) -> Conditions:
    return Conditions(
        conditions=[Condition(name="team", comparison_operator="is", value=team)]
    )


def test_questions_are_transformed_and_datasets_chosen(run: Run):
    async def work(bench: Bench) -> None:
        shop, zoo = (
            await bench.dataset("shop", process_rule=LINES),
            await bench.dataset("zoo", process_rule=LINES),
        )
        await bench.add(shop, GUIDE)
        await bench.add(zoo, "The lynx sleeps at noon.\n\nThe otter eats fish.")
        models = Models(
            answers={
                "Give three other ways": "opening hours\nshop opens",
                "Which one of these": "2",
            }
        )
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, models, models
        )
        all_results = await retriever.search(
            [shop.id, zoo.id], SearchRequest(tenant="default", query="otter fish")
        )
        assert all_results.hits[0].dataset.name == "zoo"
        wide = await retriever.search(
            [shop.id],
            SearchRequest(tenant="default", query="When?", transforms=["expand"]),
        )
        assert wide.queries == ["When?", "opening hours", "shop opens"]
        assert "opens at nine" in wide.hits[0].segment.content
        single = await retriever.search(
            [shop.id, zoo.id],
            SearchRequest(tenant="default", query="animals", mode="single"),
        )
        assert {hit.dataset.name for hit in single.hits} == {"zoo"}
        models.error = InvokeServerUnavailableError("away")
        fallback = await retriever.search(
            [shop.id, zoo.id],
            SearchRequest(
                tenant="default", query="opens", mode="single", transforms=["rewrite"]
            ),
        )
        assert fallback.hits
        assert any("model request failed" in note for note in fallback.notes)

    run(work)


def test_economy_indexing_calls_no_model(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(
            indexing_technique=Technique.ECONOMY, process_rule=LINES
        )
        bench.embedder.error = InvokeServerUnavailableError("must not be asked")
        await bench.add(dataset, GUIDE)
        retrieval = await bench.find(
            dataset,
            "gifts",
            settings=RetrievalSettings(search_method=SearchMethod.SEMANTIC),
        )
        assert "Gifts" in retrieval.hits[0].segment.content
        assert "gifts" in retrieval.hits[0].segment.keywords

    run(work)


# ------------------------------------------------------------------------------ answers


@pytest.mark.proof("answers")
def test_answers_have_citations_or_say_that_nothing_was_found(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        await bench.add(dataset, GUIDE)
        models = Models(
            answers={"When does the shop": "The shop opens at nine [1]. It has a pool."}
        )
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, models, models
        )
        answerer = Answerer(retriever, models, models, models)
        request = SearchRequest(tenant="default", query="When does the shop open?")
        answer = await answerer.answer([dataset.id], request)
        assert answer.is_found
        (cited,) = answer.citations[:1]
        assert cited.text == "The shop opens at nine."
        document = await bench.parts.stored.documents.get(
            "default", dataset.id, cited.document
        )
        assert (await bench.datasets.text(document))[
            cited.start : cited.stop
        ] == cited.text
        assert [claim.is_supported for claim in answer.claims] == [True, False]
        supported_answer = await answerer.answer(
            [dataset.id], request, AnswerOptions(drops_unsupported=True)
        )
        assert supported_answer.text == "The shop opens at nine [1]."
        nothing = await answerer.answer(
            [dataset.id], SearchRequest(tenant="default", query="Zebra xylophone?")
        )
        assert (nothing.is_found, nothing.text) == (False, "The documents do not say.")
        assert (
            await answerer.answer(
                [dataset.id], SearchRequest(tenant="default", query="斑马？")
            )
        ).text == "文档中没有相关内容。"
        kinds = [
            event_type async for event_type, _ in answerer.stream([dataset.id], request)
        ]
        assert kinds[0] == "sources"
        assert kinds[-1] == "answer"
        safe = await answerer.answer(
            [dataset.id],
            request,
            AnswerOptions(safety=lambda text: "secret" if "nine" in text else ""),
        )
        assert any("omitted: secret" in note for note in safe.notes)

    run(work)


def test_a_quoted_sentence_is_marked_as_such_and_printed_behind_the_answer(
    run: Run, capsys: pytest.CaptureFixture[str]
):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        await bench.add(dataset, GUIDE)
        models = Models(answers={"": "The documents do not say."})
        retriever = Retriever(
            bench.parts.stored, bench.parts.indexes.of, bench.embedder, models, models
        )
        answerer = Answerer(retriever, models, models, models)
        request = SearchRequest(tenant="default", query="The shop opens at nine.")
        quoted = await answerer.answer([dataset.id], request)
        assert (quoted.text, quoted.is_found) == ("The shop opens at nine.", True)
        assert quoted.is_quotation
        models.answers = {"": "The shop opens at nine [1]."}
        written = await answerer.answer([dataset.id], request)
        assert not written.is_quotation
        # A note of any text, in any place, does not make it a quotation.
        written.notes.append("the sentence is a quotation")
        for answer in (quoted, written):
            _print_answer_details(answer)
        printed = capsys.readouterr().out
        assert printed.count("→") == printed.count("→ The shop opens at nine.") == 1

    run(work)


def test_contexts_stay_within_their_budget(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(process_rule=LINES)
        await bench.add(
            dataset,
            "\n\n".join(
                f"Sentence number {index} speaks of lamps. " * 4 for index in range(20)
            ),
        )
        hits = (
            await bench.find(dataset, "lamps", settings=RetrievalSettings(top_k=10))
        ).hits
        built = ContextBuilder(max_tokens=150, min_tokens=10).build(hits)
        assert built.tokens <= 150
        assert 0 < len(built.citations) < 10
        assert built.omitted_count == 10 - len(built.citations)
        assert "[1] n0" in built.text
        ends = ContextBuilder(order="ends").build(hits)
        assert ends.citations[0].segment == hits[0].segment.id
        assert ends.citations[-1].segment == hits[1].segment.id
        placed = ContextBuilder(order="document").build(hits)
        assert [citation.start for citation in placed.citations] == sorted(
            citation.start for citation in placed.citations
        )

    run(work)


# -------------------------------------------------------------------- export and import


def test_datasets_are_exported_and_imported_with_vectors(run: Run, tmp_path: Path):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(doc_form=DocForm.HIERARCHICAL)
        await bench.add(dataset, GUIDE)
        export_counts = await export_dataset(
            bench.datasets,
            await bench.parts.stored.datasets.get("default", dataset.id),
            tmp_path / "x.zip",
        )
        assert export_counts["documents"] == 1
        embedded_before = bench.embedder.texts
        copy = await import_dataset(bench.datasets, "other", tmp_path / "x.zip")
        assert bench.embedder.texts == embedded_before
        retrieval = await bench.datasets.search("other", [copy.id], "gifts")
        assert retrieval.hits[0].children
        assert await bench.parts.stored.integrity.problems("other", copy.id) == []
        with pytest.raises(Exception, match="is not an exported dataset"):
            (tmp_path / "bad.zip").write_bytes(b"no")
            await import_dataset(bench.datasets, "other", tmp_path / "bad.zip")

    run(work)


def test_sites_feeds_apis_and_database_rows_are_synchronized(
    run: Run, tmp_path: Path, upstream: Any
):
    base = upstream(_site_answer).url.removesuffix("/v1")
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as rows:
        rows.execute("CREATE TABLE lamps (id INTEGER, name TEXT)")
        rows.executemany("INSERT INTO lamps VALUES (?, ?)", [(1, "Heron"), (2, "Lynx")])

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await _check_site(bench, dataset, base)
        await _check_single_documents(bench, dataset, base)
        await _check_rows(bench, dataset, str(file))
        with pytest.raises(InvokeBadRequestError, match="Not an RSS or Atom feed"):
            await _loaded(bench.parts.gatherer.feed(f"{base}/a"))

    run(
        work,
        egress={"private": [base.removeprefix("http://")]},
        knowledge={"crawl_delay_seconds": 0.0},
    )


_SITE = {
    "/": (
        "text/html",
        b"<html><title>Home</title><body><p>Welcome home.</p><a href='/a'>a</a>"
        b"<a href='http://elsewhere.example/'>x</a></body></html>",
    ),
    "/a": (
        "text/html",
        b"<html><title>A</title><body><p>Page about lamps.</p><a href='/'>home</a>"
        b"<a href='/trap/1'>t</a></body></html>",
    ),
    "/sitemap.xml": ("text/xml", b"<urlset><url><loc>/a</loc></url></urlset>"),
    "/feed": (
        "text/xml",
        b"<rss><channel><item><link>/a</link></item></channel></rss>",
    ),
    "/api": (
        "application/json",
        b'{"items": [{"id": 1, "title": "One", "body": "Lamps cost ten."}]}',
    ),
}
"""Path → (content type, body)"""


def _site_answer(request: UpstreamRequest) -> Answer:
    """Answer as a site with pages, a feed and an API.

    Below `/trap` there are endless pages.
    """
    path = request.path.partition("?")[0]
    if path == "/robots.txt":
        return Answer(status=404)
    content_type, body = "text/html", b""
    if path.startswith("/trap/"):
        number = int(path.rpartition("/")[2])
        link = f"<a href='/trap/{number + 1}'>on</a>"
        body = f"<html><body>Trap {number} {link}</body></html>".encode()
    else:
        content_type, body = _SITE[path]
    return Answer(body=body, headers={"content-type": content_type})


async def _check_site(bench: Bench, dataset: Dataset, base: str) -> None:
    """A crawl stops at its maximum of pages; a second one finds them unchanged."""
    counts = [
        await sync_sources(
            bench.datasets,
            dataset,
            "site",
            bench.parts.gatherer.pages(f"{base}/", max_pages=6, depth=9),
            deletes=deletes,
        )
        for deletes in (False, True)
    ]
    assert counts[0]["added"] == 6
    assert counts[1] == {"added": 0, "changed": 0, "deleted": 0, "same": 6}


async def _check_single_documents(bench: Bench, dataset: Dataset, base: str) -> None:
    """A sitemap, a feed and an API contain one document each."""
    gatherer = bench.parts.gatherer
    for name, documents in (
        ("sitemap", gatherer.sitemap(f"{base}/sitemap.xml")),
        ("feed", gatherer.feed(f"{base}/feed")),
        ("api", gatherer.values(f"{base}/api", "$.items[*]", text="body")),
    ):
        counts = await sync_sources(bench.datasets, dataset, name, documents)
        assert counts["added"] == 1, name


async def _check_rows(bench: Bench, dataset: Dataset, file: str) -> None:
    """Rows of a database become documents.

    Only a SELECT of existing tables is allowed.
    """
    gatherer = bench.parts.gatherer
    lamps = gatherer.rows(file, "SELECT * FROM lamps", key="id", name="name")
    counts = await sync_sources(bench.datasets, dataset, "sql", lamps)
    assert counts["added"] == 2
    query = "SELECT * FROM lamps WHERE id > :after"
    later_rows = await _loaded(gatherer.rows(file, query, key="id", after_key=1))
    assert [row.key for row in later_rows] == ["2"]
    with pytest.raises(InvokeBadRequestError, match="must be a SELECT"):
        await _loaded(gatherer.rows(file, "DELETE FROM lamps", key="id"))
    with pytest.raises(InvokeBadRequestError, match="no such table"):
        await _loaded(gatherer.rows(file, "SELECT * FROM lanterns", key="id"))


async def _loaded(documents: AsyncIterator[Any]) -> list[Any]:
    """Return all documents of a source."""
    return [document async for document in documents]


def test_a_page_at_an_internal_address_is_not_fetched(run: Run, upstream: Any):
    from modelyard.testing import Answer

    server = upstream(
        lambda request: Answer(
            body=b"<html><body>secret inside</body></html>",
            headers={"content-type": "text/html"},
        )
    )

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        added = await bench.datasets.add_source(
            dataset, "page", {"kind": "url", "url": f"{server.url}"}
        )
        (ended,) = await bench.datasets.wait(dataset, added.batch, 30)
        assert ended.status is Status.ERROR
        assert "is blocked" in ended.error or "Address blocked" in ended.error

    run(work)


@pytest.mark.parametrize("code", [[2001], {"a": 1}, "unknown", 3.5])
def test_an_error_of_external_knowledge_may_have_any_code(code: Any):
    fields = {"error_code": code, "error_msg": "try later"}
    assert external.error_text(fields) == "try later"


def test_external_knowledge_is_queried(run: Run, upstream: Any):
    from modelyard.testing import json_answer

    received_requests: list[Any] = []

    def answer(request: Any) -> Any:
        received_requests.append((request.headers.get("authorization"), request.json))
        if request.json["query"] == "bad":
            return json_answer({"error_code": 2001, "error_msg": "no"}, status=404)
        count = 9 if request.json["query"] == "many" else 1
        return json_answer(
            {
                "records": [
                    {
                        "content": "From afar\ud83d.",
                        "score": 0.8,
                        "title": "Far",
                        "metadata": {"page": 3},
                    }
                ]
                * count
            }
        )

    server = upstream(answer)

    async def work(bench: Bench) -> None:
        api = await bench.parts.external.add(
            "default", "far", f"{server.url}/k", "sk-far-key"
        )
        dataset = await bench.dataset(
            provider="external",
            external_knowledge_api_id=api,
            external_knowledge_id="k1",
        )
        retrieval = await bench.find(dataset, "anything")
        assert [(hit.text, hit.score, hit.title) for hit in retrieval.hits] == [
            ("From afar\N{REPLACEMENT CHARACTER}.", 0.8, "Far")
        ]
        assert received_requests[0][0] == "Bearer sk-far-key"
        assert received_requests[0][1]["knowledge_id"] == "k1"
        # The request's settings take precedence, and all records are returned.
        wide = ExternalRetrieval(top_k=9, score_threshold=0.3, score_threshold_enabled=True)  # fmt: skip
        assert len((await bench.find(dataset, "many", external=wide)).hits) == 9
        assert received_requests[1][1]["retrieval_setting"] == {
            "top_k": 9,
            "score_threshold": 0.3,
        }
        with pytest.raises(
            InvokeServerUnavailableError, match="status 404: knowledge not found"
        ):
            await bench.find(dataset, "bad")
        assert "sk-far-key" not in str(await bench.parts.external.list("default"))
        rows = await bench.yard.services.storage.database.fetch(
            "SELECT secret FROM external_knowledge"
        )
        assert "sk-far-key" not in rows[0]["secret"]

    run(
        work,
        egress={"private": [server.url.removeprefix("http://").removesuffix("/v1")]},
    )


# --------------------------------------------------------------------------- evaluation


@pytest.mark.proof("retrieval")
def test_collections_are_saved_loaded_and_evaluated(run: Run, tmp_path: Path):
    assert ndcg(["a", "b"], {"b": 1.0}) == pytest.approx(0.6309, abs=1e-4)
    collection = Collection(
        "tiny", [CorpusText(str(index), "", f"{name} lives here") for index, name in enumerate(("otter", "lynx", "heron"))],
        {"q1": "lynx", "q2": "otter"}, {"q1": {"1": 1.0}, "q2": {"0": 1.0}},
    )  # fmt: skip
    save_collection(collection, tmp_path / "tiny")
    assert load_collection(tmp_path / "tiny") == collection

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await add_collection(bench.datasets, dataset, collection)
        scores = await evaluate(
            bench.datasets, dataset, collection, RetrievalSettings()
        )
        assert (
            scores.questions,
            scores.ndcg,
            scores.recall,
            scores.mrr,
            scores.hit_1,
        ) == (2, 1.0, 1.0, 1.0, 1.0)
        with pytest.raises(Exception, match="not in BEIR's layout"):
            load_collection(tmp_path)

    run(work)


_CHINESE = (
    "退款将在七个工作日内到账",
    "包裹每天中午之前发出",
    "会员可以免费更换尺码",
    "发票随订单一起寄送",
    "客服电话周末不开通",
    "礼品卡不能兑换现金",
    "退货需要保留原包装",
    "国际订单需要缴纳关税",
)


def test_the_chosen_share_is_not_worse_than_full_text(run: Run):
    """On a small Chinese set, with an embedding model that knows no Chinese."""
    corpus = [CorpusText(str(index), "", text) for index, text in enumerate(_CHINESE)]
    queries = {str(index): f"{text[2:7]}吗" for index, text in enumerate(_CHINESE)}
    qrels = {name: {name: 1.0} for name in queries}
    collection = Collection("zh", corpus, queries, qrels)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await add_collection(bench.datasets, dataset, collection)
        scores = [
            await evaluate(bench.datasets, dataset, collection, preset, name=name)
            for name, preset in SHARE_PRESETS.items()
        ]
        full_text = await evaluate(
            bench.datasets, dataset, collection, PRESETS["full_text"]
        )
        best = best_share(scores)
        assert best is not None
        assert best[1] >= full_text.ndcg - 0.01
        assert best[1] == max(score.ndcg for score in scores)
        assert full_text.ndcg > 0.9
        assert best_share([full_text]) is None

    run(work)


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("corpus.jsonl", '{"_id": "9"}', "corpus.jsonl, line 2: KeyError: 'text'"),
        ("queries.jsonl", "[1]", "queries.jsonl, line 2: TypeError"),
        ("queries.jsonl", "{", "queries.jsonl, line 2: JSONDecodeError"),
        ("qrels.tsv", "q1\t1", "qrels.tsv, line 3: ValueError: not enough values"),
        ("qrels.tsv", "q1\t7\t1", "line 3: ValueError: The collection has no document '7'"),
        ("qrels.tsv", "q7\t1\t1", "line 3: ValueError: The collection has no query 'q7'"),
        ("qrels.tsv", "q1\t1\tmuch", "line 3: ValueError: could not convert"),
    ],
)  # fmt: skip
def test_a_line_of_a_collection_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, line: str, problem: str
):
    text = CorpusText("1", "", "lynx lives here")
    collection = Collection("tiny", [text], {"q1": "lynx"}, {"q1": {"1": 1.0}})
    save_collection(collection, tmp_path)
    with (tmp_path / name).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_collection(tmp_path)
