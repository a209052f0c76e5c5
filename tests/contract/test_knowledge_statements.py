"""Laws over the statements of the knowledge tables, on both engines.

No statement reads a table from end to end, and what a deletion reads depends on what it
deletes alone.
"""

import asyncio
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

import modelyard.knowledge.stored
from modelyard.knowledge.entities import Dataset, Document, Segment
from modelyard.knowledge.rows import Entry, IndexContent
from modelyard.knowledge.stored import entries as stored_entries
from modelyard.knowledge.stored.repositories import KnowledgeStore, open_store
from modelyard.storage.database import Connection, Database, statements
from modelyard.storage.sqlite import SqliteEngine

_REPOSITORIES = Path(modelyard.knowledge.stored.__file__).parent
_FILE = re.compile(r'super\(\).__init__\(database, "(\w+)"\)')
_SCANNED_INDEXES = ("documents_waiting", "documents_claimed")
"""Indexes that contain only documents that are being indexed; these may be read from
end to end."""


def _statements() -> Iterator[tuple[str, str]]:
    """Yield the name and text of each statement of the knowledge repositories."""
    files = {
        name
        for path in _REPOSITORIES.glob("*.py")
        for name in _FILE.findall(path.read_text("utf-8"))
    }
    for file in sorted(files):
        for name, text in statements(file).items():
            yield f"{file}.{name}", text.replace("IN (*)", "IN (?, ?)")


def _numbered(text: str) -> str:
    """Return a statement with the placeholders of PostgreSQL."""
    names = list(dict.fromkeys(re.findall(r":(\w+)", text)))
    for index, name in enumerate(names, 1):
        text = re.sub(rf":{name}\b", f"${index}", text)
    pieces = text.split("?")
    return "".join(
        f"{piece}${index}" if index < len(pieces) else piece
        for index, piece in enumerate(pieces, 1)
    )


def _plan_nodes(plan: Any) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _plan_nodes(child)


def _is_scan(node: dict[str, Any], first_columns: dict[str, str]) -> bool:
    """Return whether a node of a PostgreSQL plan reads a complete table or index.

    `first_columns` has the first column of each index. PostgreSQL applies conditions on
    the other columns to an index, too, but without one on the first it reads all of it.
    """
    if node["Node Type"] == "Seq Scan":
        return True
    index = node.get("Index Name")
    if index is None or index in _SCANNED_INDEXES:
        return False
    return f"({first_columns[index]} = " not in node.get("Index Cond", "")


_FIRST_COLUMNS = """
SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"""


def test_no_statement_scans_a_table_on_sqlite(tmp_path: Path):
    Database(tmp_path / "x.db").close()
    connection = sqlite3.connect(tmp_path / "x.db")
    scans: dict[str, str] = {}
    for name, text in _statements():
        values: Any = dict.fromkeys(re.findall(r":(\w+)", text), "")
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN {text}", values or [""] * text.count("?")
        )
        for *_, step in plan:
            # A search without a condition in brackets reads its complete index.
            is_search = step.startswith("SEARCH") and "=?" in step
            if step.startswith(("SCAN", "SEARCH")) and not is_search:
                scans[name] = step
    connection.close()
    assert scans == {
        # A range of the index: what is due.
        "dataset_sources.due": "SEARCH dataset_sources USING INDEX dataset_sources_due"
        " (due_at>? AND due_at<?)",
        "documents.owned": "SCAN documents USING COVERING INDEX documents_claimed",
        "documents.to_do": "SCAN documents USING INDEX documents_waiting",
    }


def test_no_statement_scans_a_table_on_postgresql(postgres_url: str):
    # A database of its own: what other tests leave in theirs would change the plans.
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE plans")
    url = urlsplit(postgres_url)._replace(path="/plans").geturl()
    Database(url).close()
    scans: dict[str, Any] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        # Small tables are read sequentially unless that is the only way.
        connection.execute("SET enable_seqscan = off")
        first_columns = dict(connection.execute(_FIRST_COLUMNS).fetchall())
        for name, text in _statements():
            query: Any = f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {_numbered(text)}"
            row = connection.execute(query).fetchone()
            assert row is not None
            for node in _plan_nodes(row[0][0]["Plan"]):
                if _is_scan(node, first_columns):
                    scans[name] = node.get("Index Name"), node.get("Index Cond")
    assert scans == {"dataset_sources.due": ("dataset_sources_due", "(due_at <= $1)")}


class _CountingEngine(SqliteEngine):
    """Counts the instructions of SQLite's virtual machine: its work, without the
    time."""

    instructions = 0

    def connect(self) -> Connection:
        connection = super().connect()

        def count() -> int:
            self.instructions += 1
            return 0

        engine_connection: Any = connection
        engine_connection._connection.set_progress_handler(count, 1)
        return connection


def _content(document: Document, count: int = 1) -> IndexContent:
    """Return `count` segments of a document with their entries."""
    segments = [
        Segment(
            tenant="t", dataset="d", document=document.id, id=f"{document.id}-{index}"
        )
        for index in range(count)
    ]
    return IndexContent(
        segments=segments,
        entries=[Entry(segment.id, "", "", b"", b"", 1) for segment in segments],
    )


async def _fill(store: KnowledgeStore, count: int) -> list[Document]:
    """Add a dataset with `count` documents of one segment."""
    await store.datasets.add(Dataset(tenant="t", id="d", name="d"))
    documents = await store.library.add(
        [
            Document(tenant="t", dataset="d", id=f"x{index:05}", name=f"n{index}")
            for index in range(count)
        ]
    )
    for document in documents:
        await store.publisher.write_segments(document, _content(document), is_new=True)
    return documents


def _work_of_deleting(path: Path, document_count: int) -> tuple[int, int]:
    """Return the instructions of deleting ten documents, and of adding a segment by
    hand, in a dataset with `document_count` documents."""

    async def work(store: KnowledgeStore, engine: _CountingEngine) -> tuple[int, int]:
        documents = await _fill(store, document_count)
        engine.instructions = 0
        await store.library.delete_documents("t", "d", _ids(documents[5:15]))
        deletion = engine.instructions
        content = _content(documents[0], 2)
        added = IndexContent(segments=content.segments[1:], entries=content.entries[1:])
        engine.instructions = 0
        await store.publisher.write_segments(documents[0], added, is_new=True)
        return deletion, engine.instructions

    engine = _CountingEngine(str(path))
    database = Database("counted", engine=engine)
    try:
        return asyncio.run(work(open_store(database, lambda: 1.0), engine))
    finally:
        database.close()


def _ids(documents: Sequence[Document]) -> list[str]:
    return [document.id for document in documents]


def test_the_work_of_a_change_is_independent_of_the_size_of_the_dataset(
    tmp_path: Path,
):
    small = _work_of_deleting(tmp_path / "small.db", 30)
    large = _work_of_deleting(tmp_path / "large.db", 600)
    for of_small, of_large in zip(small, large, strict=True):
        assert of_large < of_small * 1.5, (small, large)


def test_the_removal_log_is_bounded_by_every_change(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A dataset whose documents are changed again and again keeps a short log."""
    monkeypatch.setattr(stored_entries, "_MAX_REMOVAL_LOG", 20)
    database = Database(database_url)

    async def work() -> None:
        store = open_store(database, lambda: 1.0)
        (document,) = await _fill(store, 1)
        for _ in range(130):
            await store.publisher.write_segments(
                document, _content(document), is_new=False
            )

    asyncio.run(work())
    sql = "SELECT COUNT(*) AS count FROM index_removed WHERE dataset = 'd'"
    assert database.read(sql)[0]["count"] < 100
    asyncio.run(open_store(database, lambda: 1.0).library.delete("t", "d"))
    database.close()
