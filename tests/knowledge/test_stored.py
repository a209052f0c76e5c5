"""Tests for the repositories of knowledge.

Which module owns which table, on which threads statements run, and consistency across
tables.
"""

import ast
import asyncio
import re
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

import modelyard.knowledge
from modelyard.base.errors import NotFoundError
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.entities import RetrievalSettings
from modelyard.knowledge.retrieve import Retriever, SearchRequest
from modelyard.knowledge.stored.repositories import KnowledgeStore, open_store
from modelyard.storage.database import Connection, Database, statements
from modelyard.storage.repository import by_name
from modelyard.storage.sqlite import SqliteEngine
from modelyard.tenancy.reader import ANYBODY, UNRESTRICTED, Reader
from tests.knowledge.conftest import Bench, Models, Run

FOLDER = Path(modelyard.knowledge.__file__).parent / "stored"
_FILE = re.compile(r'super\(\).__init__\(database, "(\w+)"\)')
_TABLE = re.compile(r"(?i)\b(?:from|into|update|join)\s+(?!json_each\b|SET\b)([a-z_]+)")


def test_each_table_is_used_by_one_file_of_statements():
    files = {
        name
        for path in FOLDER.glob("*.py")
        for name in _FILE.findall(path.read_text("utf-8"))
    }
    homes: dict[str, set[str]] = {}
    for name in files:
        for statement in statements(name).values():
            for table in _TABLE.findall(statement):
                homes.setdefault(table, set()).add(name)
    migration_sql = (
        resources.files("modelyard.storage") / "migrations" / "0007_knowledge.sql"
    ).read_text("utf-8")
    tables = set(re.findall(r"CREATE TABLE (\w+)", migration_sql))
    # Of a later migration.
    tables.add("dataset_sources")
    assert set(homes) == tables
    assert {
        table: sorted(names) for table, names in homes.items() if len(names) > 1
    } == {}


def test_repositories_contain_no_sql_and_stay_small():
    for path in FOLDER.glob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r'"(?:SELECT|INSERT|UPDATE|DELETE) ', text), path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = [
                    member
                    for member in node.body
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                assert len(methods) <= 25, node.name


class _Watched(SqliteEngine):
    """Records which threads open and use connections."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.threads: list[int] = []

    def connect(self) -> Connection:
        self.threads.append(threading.get_ident())
        inner, note = super().connect(), self.threads.append

        class Connected:
            def execute(self, *arguments: Any) -> Any:
                note(threading.get_ident())
                return inner.execute(*arguments)

            def execute_many(self, *arguments: Any) -> None:
                note(threading.get_ident())
                inner.execute_many(*arguments)

            close = inner.close

        return Connected()


def test_no_statement_runs_on_the_loop(run: Run, tmp_path: Path):
    """A search and all other repository calls leave the event loop free."""

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        (added,) = await bench.add(
            dataset, "Parcels leave before noon.", metadata={"n": 1}
        )
        engine = _Watched(str(tmp_path / "watched.db"))
        database = await asyncio.to_thread(Database, "watched", engine=engine)
        try:
            store = open_store(database, bench.parts.stored.clock)
            await _call_every_repository(bench, store, dataset, added)
        finally:
            await asyncio.to_thread(database.close)
        assert len(engine.threads) > 40
        assert threading.get_ident() not in engine.threads

    run(work)


async def _call_every_repository(
    bench: Bench, store: KnowledgeStore, dataset: Any, document: Any
) -> None:
    tenant = dataset.tenant
    await store.datasets.add(dataset)
    (placed,) = await store.library.add(
        [msgspec.structs.replace(document)], {document.id: "Parcels."}, is_ours=True
    )
    retriever = Retriever(store, bench.parts.indexes.of, bench.embedder)
    source = bench.parts.stored
    segments, _ = await source.segments.list_page(tenant, document.id)
    indexed = await bench.datasets.reindexer._reembedded(
        dataset, await source.entries.list_of_document(document.id, dataset.space)
    )
    indexed.segments.extend(segments)
    await store.publisher.write_segments(placed, indexed, is_new=True)
    await retriever.search(
        [dataset.id],
        SearchRequest(
            tenant=tenant, query="parcels", settings=RetrievalSettings(mmr=0.5)
        ),
    )
    await store.searches.load_entries(tenant, dataset.id, [1])
    await store.entries.changes(dataset.id, 0, 0, 9)
    await store.entries.vectors([1])
    await store.entries.existing_vectors(document.id, 0, "m")
    await store.entries.stage_entries([(document.id, "m", "digest", b"1234")])
    await store.followers.record_sync(
        "s", dataset.id, 0, 0, 3, {5: 2}, is_snapshot=True
    )
    assert await store.followers.synced_generation("s", dataset.id, 0) == 3
    assert await store.followers.term_counts("s", dataset.id, 0, [5, 6]) == {5: 2}
    assert await store.followers.spaces("s", dataset.id) == [0]
    await store.followers.forget_store("s", dataset.id)
    tag = await store.tags.add(tenant, "new")
    await store.tags.bind(tenant, dataset.id, [tag], is_on=True)
    assert [row["name"] for row in (await store.tags.bindings(tenant))[dataset.id]] == [
        "new"
    ]
    await store.claims.claim(5)
    await store.documents.filter_metadata(tenant, dataset.id)
    await store.documents.filter_changes(tenant, dataset.id, -1)
    with pytest.raises(NotFoundError):
        await store.documents.of_source(
            tenant, dataset.id, {"kind": "path", "path": "x"}
        )
    await store.integrity.problems(tenant, dataset.id)
    await store.queries.newest(tenant, dataset.id, 3)
    assert [
        deleted_document.id
        for deleted_document in await store.library.delete(tenant, dataset.id)
    ] == [document.id]
    left = {
        table: (await stored_rows(store, table))
        for table in (
            "documents",
            "segments",
            "index_entries",
            "staged_vectors",
            "document_texts",
            "index_followed",
        )
    }
    assert set(left.values()) == {0}


async def stored_rows(store: KnowledgeStore, table: str) -> int:
    return (
        await store.datasets._database.fetch(f"SELECT COUNT(*) AS count FROM {table}")
    )[0]["count"]


def test_readers_set_during_query_rewriting_apply_to_its_hits(
    run: Run,
):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        (added,) = await bench.add(dataset, "Parcels leave before noon.")

        class Slow(Models):
            async def complete(self, tenant: str, model: str, prompt: str) -> str:
                await bench.datasets.access.set(
                    dataset, {added.id: AccessList(users=["ann"])}
                )
                return "When do parcels leave?"

        ann, bob = Reader(users=("ann",)), Reader(users=("bob",))
        for reader, count in ((bob, 0), (ann, 1), (UNRESTRICTED, 1), (ANYBODY, 0)):
            await bench.datasets.access.set(dataset, {added.id: None})
            retriever = Retriever(
                bench.parts.stored, bench.parts.indexes.of, bench.embedder, None, Slow()
            )
            request = SearchRequest(
                tenant="default", query="parcels", transforms=["rewrite"], reader=reader
            )
            hits = (await retriever.search([dataset.id], request)).hits
            assert len(hits) == count, reader

    run(work)


def test_inconsistencies_are_reported(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        (added,) = await bench.add(dataset, "Parcels leave before noon.")
        problems = bench.parts.stored.integrity.problems
        assert await problems("default", dataset.id) == []

        def do(statement: str) -> Callable[[Connection], Any]:
            return lambda connection: connection.execute(statement)

        transact = bench.yard.services.storage.database.transact
        await transact(do("UPDATE index_entries SET segment = 'none'"))
        assert await problems("default", dataset.id) == [
            "1 index entries have no segment", "1 enabled segments have no index entry",
        ]  # fmt: skip
        await transact(do("DELETE FROM segments"))
        assert await problems("default", dataset.id) == [
            f"Document {added.id} should have 1 segments, has 0", "1 index entries have no segment",
        ]  # fmt: skip
        with pytest.raises(NotFoundError):
            await problems("other", dataset.id)

    run(work)


def test_long_id_lists_are_batched_and_rows_are_read_by_name(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        added = await bench.add(dataset, *(f"Parcel {index}." for index in range(5)))
        ids = [document.id for document in added]
        documents_by_id = await bench.parts.stored.documents.get_many(
            "default", [*ids, *(f"none{index}" for index in range(900))]
        )
        assert sorted(documents_by_id) == sorted(ids)
        assert await bench.parts.stored.documents.get_many("other", ids) == {}
        rows = await bench.yard.services.storage.database.fetch(
            "SELECT id, name FROM documents ORDER BY id"
        )
        assert by_name(rows) == [{"id": row["id"], "name": row["name"]} for row in rows]
        assert by_name([]) == []

    run(work)
