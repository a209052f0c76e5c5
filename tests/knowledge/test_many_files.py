"""Many small files: they are added, read and published in groups, and a file that
cannot be read fails alone."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.knowledge.entities import Document, Status
from modelyard.knowledge.ingest import ParsedDocument
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.sources import SourceReader
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
