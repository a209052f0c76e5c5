"""Knowledge's repositories: whose tables are whose, where statements run, and what several tables say together."""

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
from modelyard.knowledge.entities import RetrievalSettings
from modelyard.knowledge.retrieve import Asking, Retriever
from modelyard.knowledge.stored.stored import Stored, stored_in
from modelyard.storage.database import Connection, Database, statements
from modelyard.storage.repository import by_name
from modelyard.storage.sqlite import SqliteEngine
from tests.knowledge.conftest import Bench, Models, Run

FOLDER = Path(modelyard.knowledge.__file__).parent / "stored"
_FILE = re.compile(r'super\(\).__init__\(database, "(\w+)"\)')
_TABLE = re.compile(r"(?i)\b(?:from|into|update|join)\s+(?!json_each\b|SET\b)([a-z_]+)")


def test_each_table_is_known_to_one_file_of_statements():
    files = {name for path in FOLDER.glob("*.py") for name in _FILE.findall(path.read_text("utf-8"))}
    homes: dict[str, set[str]] = {}
    for name in files:
        for statement in statements(name).values():
            for table in _TABLE.findall(statement):
                homes.setdefault(table, set()).add(name)
    made = (resources.files("modelyard.storage") / "migrations" / "0007_knowledge.sql").read_text("utf-8")
    tables = set(re.findall(r"CREATE TABLE (\w+)", made))
    assert set(homes) == tables
    assert {table: sorted(names) for table, names in homes.items() if len(names) > 1} == {}


def test_repositories_hold_no_statement_and_stay_small():
    for path in FOLDER.glob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r'"(?:SELECT|INSERT|UPDATE|DELETE) ', text), path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
                assert len(methods) <= 25, node.name


class _Watched(SqliteEngine):
    """Notes which threads make and use connections."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.threads: list[int] = []

    def connect(self) -> Connection:
        self.threads.append(threading.get_ident())
        inner, note = super().connect(), self.threads.append

        class Connected:
            def execute(self, *words: Any) -> Any:
                note(threading.get_ident())
                return inner.execute(*words)

            def execute_many(self, *words: Any) -> None:
                note(threading.get_ident())
                inner.execute_many(*words)

            close = inner.close

        return Connected()


def test_no_statement_runs_on_the_loop(run: Run, tmp_path: Path):
    """A search, and whatever else is asked of the repositories, leaves the loop to others meanwhile."""

    async def work(bench: Bench) -> None:
        one = await bench.dataset()
        (added,) = await bench.add(one, "Parcels leave before noon.", metadata={"n": 1})
        engine = _Watched(str(tmp_path / "watched.db"))
        database = await asyncio.to_thread(Database, "watched", engine=engine)
        try:
            stored = stored_in(database, bench.parts.stored.now)
            await _everything(bench, stored, one, added)
        finally:
            await asyncio.to_thread(database.close)
        assert len(engine.threads) > 40
        assert threading.get_ident() not in engine.threads

    run(work)


async def _everything(bench: Bench, stored: Stored, one: Any, document: Any) -> None:
    tenant = one.tenant
    await stored.datasets.add(one)
    (placed,) = await stored.library.add([msgspec.structs.replace(document)], {document.id: "Parcels."}, is_ours=True)
    retriever = Retriever(stored, bench.parts.indexes.of, bench.embedder)
    source = bench.parts.stored
    segments, _ = await source.segments.listed(tenant, document.id)
    indexed = await bench.datasets.reindexer._moved(one, await source.entries.of(document.id, one.space))
    indexed.segments.extend(segments)
    await stored.publisher.put_segments(placed, indexed, is_new=True)
    await retriever.search([one.id], Asking(tenant=tenant, query="parcels", settings=RetrievalSettings(mmr=0.5)))
    await stored.searches.details(tenant, one.id, [1])
    await stored.entries.changes(one.id, 0, 0, 9)
    await stored.entries.vectors([1])
    await stored.entries.known_vectors(document.id, 0, "m")
    await stored.entries.stage([(document.id, "m", "digest", b"1234")])
    await stored.followers.set_followed("s", one.id, 0, 0, 3, {5: 2}, is_whole=True)
    assert await stored.followers.followed("s", one.id, 0) == 3
    assert await stored.followers.holding("s", one.id, 0, [5, 6]) == {5: 2}
    assert await stored.followers.spaces("s", one.id) == [0]
    await stored.followers.unfollow("s", one.id)
    tag = await stored.tags.add(tenant, "new")
    await stored.tags.bind(tenant, one.id, [tag], is_on=True)
    assert [row["name"] for row in (await stored.tags.bindings(tenant))[one.id]] == ["new"]
    await stored.claims.claim(5)
    await stored.documents.about(tenant, one.id)
    await stored.integrity.problems(tenant, one.id)
    await stored.queries.newest(tenant, one.id, 3)
    assert [each.id for each in await stored.library.delete(tenant, one.id)] == [document.id]
    left = {
        table: (await stored_rows(stored, table))
        for table in ("documents", "segments", "index_entries", "staged_vectors", "document_texts", "index_followed")
    }
    assert set(left.values()) == {0}


async def stored_rows(stored: Stored, table: str) -> int:
    return (await stored.datasets._database.fetch(f"SELECT COUNT(*) AS count FROM {table}"))[0]["count"]


def test_readers_who_are_named_while_a_question_is_rewritten_hold_for_its_hits(run: Run):
    async def work(bench: Bench) -> None:
        one = await bench.dataset()
        (added,) = await bench.add(one, "Parcels leave before noon.")

        class Slow(Models):
            async def write(self, tenant: str, model: str, prompt: str) -> str:
                await bench.parts.stored.library.describe(msgspec.structs.replace(added, readers=["ann"]))
                return "When do parcels leave?"

        for user, count in (("bob", 0), ("ann", 1), (None, 1)):
            await bench.parts.stored.library.describe(added)
            retriever = Retriever(bench.parts.stored, bench.parts.indexes.of, bench.embedder, None, Slow())
            asked = Asking(tenant="default", query="parcels", transforms=["rewrite"], user=user)
            assert len((await retriever.search([one.id], asked)).hits) == count, user

    run(work)


def test_what_does_not_fit_together_is_said(run: Run):
    async def work(bench: Bench) -> None:
        one = await bench.dataset()
        (added,) = await bench.add(one, "Parcels leave before noon.")
        problems = bench.parts.stored.integrity.problems
        assert await problems("default", one.id) == []

        def do(statement: str) -> Callable[[Connection], Any]:
            return lambda it: it.execute(statement)

        transact = bench.yard.services.storage.database.transact
        await transact(do("UPDATE index_entries SET segment = 'none'"))
        assert await problems("default", one.id) == [
            "1 index entries stand for no segment", "1 segments cannot be found",
        ]  # fmt: skip
        await transact(do("DELETE FROM segments"))
        assert await problems("default", one.id) == [
            f"document {added.id} has other segments than it says", "1 index entries stand for no segment",
        ]  # fmt: skip
        with pytest.raises(NotFoundError):
            await problems("other", one.id)

    run(work)


def test_long_lists_are_asked_for_in_parts_and_rows_are_read_by_name(run: Run):
    async def work(bench: Bench) -> None:
        one = await bench.dataset()
        added = await bench.add(one, *(f"Parcel {at}." for at in range(5)))
        ids = [each.id for each in added]
        known = await bench.parts.stored.documents.of("default", [*ids, *(f"none{at}" for at in range(900))])
        assert sorted(known) == sorted(ids)
        assert await bench.parts.stored.documents.of("other", ids) == {}
        rows = await bench.yard.services.storage.database.fetch("SELECT id, name FROM documents ORDER BY id")
        assert by_name(rows) == [{"id": row["id"], "name": row["name"]} for row in rows]
        assert by_name([]) == []

    run(work)
