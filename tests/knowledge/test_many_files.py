"""Many small files: they are added, read and published in groups, and a file that
cannot be read fails alone."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.knowledge.entities import DocForm, Document, Status
from modelyard.knowledge.export import export_dataset, import_dataset
from modelyard.knowledge.ingest import ParsedDocument
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.stored.texts import StoredTexts
from modelyard.storage.database import Database
from tests.knowledge.conftest import Bench, Run


def _write_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.txt").write_text(f"Parcel {number} leaves at noon.")


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that ran as transactions."""
    names: list[str] = []
    submit = Database.submit

    def counted(self: Database, work: Any, **options: Any) -> Any:
        names.append(work.__qualname__)
        return submit(self, work, **options)

    monkeypatch.setattr(Database, "submit", counted)
    return names


def test_small_files_share_their_transactions(
    run: Run, tmp_path: Path, transactions: list[str]
):
    _write_files(tmp_path / "files", 130)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        transactions.clear()
        counts = await bench.datasets.sync_folder(
            dataset, tmp_path / "files", batch="b"
        )
        documents = await bench.datasets.wait(dataset, "b", 60)
        assert counts == {"added": 130, "changed": 0, "deleted": 0, "same": 0}
        assert {document.status for document in documents} == {Status.COMPLETED}
        # Three groups of at most 64 files, each with a few steps and one generation.
        assert len(transactions) < 30, transactions
        current = await bench.datasets.get_by_id_or_name("default", dataset.id)
        assert current.generation == 3
        assert (await bench.find(dataset, "parcel 77")).hits
        # An unchanged folder writes nothing.
        transactions.clear()
        await bench.datasets.sync_folder(dataset, tmp_path / "files")
        assert transactions == []

    run(work)


@pytest.mark.parametrize(
    ("problem", "message"),
    [("gone", "cannot be read"), ("empty", "No text"), ("bug", "Indexing failed")],
)
def test_a_file_that_cannot_be_read_fails_alone(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
    message: str,
):
    _write_files(tmp_path / "files", 5)
    read = SourceReader.read

    async def broken(self: SourceReader, document: Document) -> ParsedDocument:
        if document.name != "002.txt":
            return await read(self, document)
        if problem == "bug":
            raise KeyError(document.name)
        if problem == "empty":
            return ParsedDocument(parts=[DocumentPart(text=" ")])
        path = f"{document.source['path']}.gone"
        source = {**document.source, "path": path}
        return await read(self, msgspec.structs.replace(document, source=source))

    monkeypatch.setattr(SourceReader, "read", broken)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await bench.datasets.sync_folder(dataset, tmp_path / "files", batch="b")
        documents = await bench.datasets.wait(dataset, "b", 60)
        failed = {
            document.name: document.error
            for document in documents
            if document.status is Status.ERROR
        }
        assert list(failed) == ["002.txt"]
        assert message in failed["002.txt"]
        assert len(documents) == 5

    run(work)


def test_a_folder_that_is_added_twice_at_once_is_added_once(run: Run, tmp_path: Path):
    folder = tmp_path / "files"
    _write_files(folder, 20)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        results = await asyncio.gather(
            *(bench.datasets.sync_folder(dataset, folder) for _ in range(2))
        )
        assert sum(counts["added"] for counts in results) == 20
        documents = await bench.parts.stored.documents.list_all("default", dataset.id)
        assert len(documents) == 20
        # The same holds for a single file, whose document is returned.
        again = await bench.datasets.add_source(
            dataset, documents[0].name, documents[0].source
        )
        assert again.id == documents[0].id

    run(work)


def test_documents_of_one_path_from_older_versions_are_imported(
    run: Run, tmp_path: Path
):
    """Before paths were unique, a folder that was added twice at once had two documents
    of each file."""
    _write_files(tmp_path / "files", 1)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        await bench.datasets.sync_folder(dataset, tmp_path / "files", batch="b")
        (document,) = await bench.datasets.wait(dataset, "b", 60)
        await bench.yard.services.storage.database.transact(
            lambda connection: connection.execute(
                "UPDATE documents SET source_key = ''"
            )
        )
        await bench.datasets.add_source(
            dataset, document.name, document.source, batch="c"
        )
        await bench.datasets.wait(dataset, "c", 60)
        target = tmp_path / "x.zip"
        current = await bench.datasets.get_by_id_or_name("default", dataset.id)
        await export_dataset(bench.datasets, current, target)
        copy = await import_dataset(bench.datasets, "other", target)
        retrieval = await bench.datasets.search("other", [copy.id], "parcel")
        assert len(retrieval.hits) == 2

    run(work)


def test_chunks_are_stored_with_their_document(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    """Another process that claims the document at once finds its chunks."""

    async def fail(*arguments: Any) -> None:
        raise AssertionError("The chunks are stored after their document")

    monkeypatch.setattr(StoredTexts, "save", fail)

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        parts = [DocumentPart(text="A parcel leaves at noon.")]
        document = await bench.datasets.add_chunks(dataset, "a", parts, DocForm.TEXT)
        (indexed,) = await bench.datasets.wait(dataset, document.batch, 60)
        assert indexed.status is Status.COMPLETED

    run(work)
