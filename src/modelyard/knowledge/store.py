"""Datasets, documents, segments and what is searched of them, as rows.

What is searched changes in the same transaction as the segments it stands for, so the two never disagree, whatever is
killed when. Every statement names the tenant; what is reached through a document was found through its tenant before.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.base.owners import is_gone, owner_name
from modelyard.knowledge.entities import Child, Dataset, Document, Segment, Status
from modelyard.knowledge.rows import (
    Changes,
    ConflictError,
    Detail,
    DocumentPart,
    Entry,
    Indexed,
    Ready,
    child_row,
    document_row,
    dump,
    finished,
    like,
    read_child,
    read_dataset,
    read_document,
    read_parts,
    read_segment,
    segment_row,
)
from modelyard.storage.database import Connection, Database, DuplicateError, Row, statements

LEASE_SECONDS = 15.0
_MOST_TOLD = 200_000  # gone entries that are kept for indexes which have not heard of them
_AT_ONCE = 400  # values in one list of a statement

T = TypeVar("T")


class KnowledgeStore:
    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self.database = database
        self.now = now
        self.owner = owner_name()
        self._sql = statements("knowledge")

    # ways in

    async def _transact(self, work: Callable[[Connection], T], *, may_gather: bool = False) -> T:
        return await self.database.transact(work, may_gather=may_gather)

    async def _rows(self, statement: str, /, **values: Any) -> list[Row]:
        return await asyncio.to_thread(self.database.read, self._sql[statement], values)

    async def _do(self, name: str, *values: Any) -> list[Row]:
        return await self._transact(lambda it: it.execute(self._sql[name], values))

    def _in(self, statement: str, before: Sequence[Any], listed: Sequence[Any]) -> list[Row]:
        """Read with a list of values in the place of `(*)`, some at a time. Other conditions are written as expressions
        (`tenant || ''`), or SQLite takes an index on them and reads all that a tenant has."""
        found: list[Row] = []
        for at in range(0, len(listed), _AT_ONCE):
            some = listed[at : at + _AT_ONCE]
            places = ",".join("?" * len(some))
            found += self.database.read(statement.replace("(*)", f"({places})"), [*before, *some])
        return found

    # datasets

    async def create(self, one: Dataset) -> Dataset:
        """Raises ConflictError."""
        values = (
            one.tenant, one.id, one.name, one.description, dump(one.settings), one.created_by, one.created_at,
            one.updated_at,
        )  # fmt: skip
        try:
            await self._do("create", *values)
        except DuplicateError as error:
            raise ConflictError(f"there is a dataset named {one.name!r} already", param="name") from error
        return one

    def dataset_now(self, tenant: str, id: str) -> Dataset:  # noqa: A002
        """The same without a thread. Raises NotFoundError."""
        rows = self.database.read(self._sql["dataset"], {"tenant": tenant, "id": id})
        if not rows:
            raise NotFoundError(f"dataset {id[:80]!r} does not exist", code="dataset_not_found")
        return read_dataset(rows[0])

    async def dataset(self, tenant: str, id: str) -> Dataset:  # noqa: A002
        """Raises NotFoundError."""
        return await asyncio.to_thread(self.dataset_now, tenant, id)

    async def named(self, tenant: str, name: str) -> Dataset | None:
        rows = await self._rows("named", tenant=tenant, name=name)
        return read_dataset(rows[0]) if rows else None

    async def datasets(self, tenant: str) -> list[Dataset]:
        return [read_dataset(row) for row in await self._rows("datasets", tenant=tenant)]

    async def counts(self, tenant: str, dataset: str = "") -> dict[str, Row]:
        """Dataset → {documents, words, available}."""
        return {row["dataset"]: row for row in await self._rows("counts", tenant=tenant, dataset=dataset)}

    async def change(self, one: Dataset) -> Dataset:
        """Name, description and settings as they are here. Raises ConflictError, NotFoundError."""
        now = self.now()
        values = (one.name, one.description, dump(one.settings), now, one.tenant, one.id)
        try:
            found = await self._do("change", *values)
        except DuplicateError as error:
            raise ConflictError(f"there is a dataset named {one.name!r} already", param="name") from error
        if not found:
            raise NotFoundError(f"dataset {one.id!r} does not exist", code="dataset_not_found")
        return msgspec.structs.replace(one, updated_at=now)

    async def delete(self, tenant: str, id: str) -> list[Document]:  # noqa: A002
        """All of it. Gives the documents that it had; raises NotFoundError."""
        await self.dataset(tenant, id)
        documents, _ = await self.documents(tenant, id, most=10_000_000)

        def work(it: Connection) -> None:
            it.execute("DELETE FROM datasets WHERE tenant = ? AND id = ?", (tenant, id))
            inner = "SELECT id FROM documents WHERE tenant = ? AND dataset = ?"
            for table in ("document_texts", "staged_vectors"):
                it.execute(f"DELETE FROM {table} WHERE document IN ({inner})", (tenant, id))
            for table in (
                "index_entries", "index_removed", "index_followed", "index_terms", "segments", "children", "documents",
                "dataset_tag_bindings", "dataset_queries",
            ):  # fmt: skip
                it.execute(f"DELETE FROM {table} WHERE dataset = ?", (id,))

        await self._transact(work)
        return documents

    # documents

    async def add_documents(
        self, documents: Sequence[Document], texts: Mapping[str, str] | None = None, *, is_ours: bool = False
    ) -> list[Document]:
        """Put into the database, in order, with their texts where they are known; with `is_ours` for this process to
        index. Raises NotFoundError."""
        first = documents[0]
        until = self.now() + LEASE_SECONDS if is_ours else 0.0

        def work(it: Connection) -> list[Document]:
            if not it.execute(
                "SELECT 1 AS found FROM datasets WHERE tenant = ? AND id = ?", (first.tenant, first.dataset)
            ):
                raise NotFoundError(f"dataset {first.dataset[:80]!r} does not exist", code="dataset_not_found")
            last = int(it.execute(self._sql["last_position"], (first.tenant, first.dataset))[0]["position"])
            placed = [msgspec.structs.replace(one, position=last + at + 1) for at, one in enumerate(documents)]
            owner = self.owner if is_ours else ""
            Database.insert(it, self._sql["add_document"], [document_row(one, owner, until) for one in placed])
            if texts:
                kept = [(one, dump([DocumentPart(text=text)])) for one, text in texts.items()]
                Database.insert(it, "INSERT INTO document_texts (document, body) VALUES (?, ?)", kept)
            return placed

        return await self._transact(work)

    async def document(self, tenant: str, dataset: str, id: str) -> Document:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("document", tenant=tenant, dataset=dataset, id=id)
        if not rows:
            raise NotFoundError(f"document {id[:80]!r} does not exist", code="document_not_found")
        return read_document(rows[0])

    async def documents(
        self, tenant: str, dataset: str, *, keyword: str = "", state: str = "", batch: str = "", most: int = 100,
        skip: int = 0,
    ) -> tuple[list[Document], int]:  # fmt: skip
        """Newest first, and how many there are in all."""
        where = {"tenant": tenant, "dataset": dataset, "keyword": like(keyword), "state": state, "batch": batch}
        rows = await self._rows("documents", **where, most=most, skip=skip)
        if skip == 0 and len(rows) < most:
            return [read_document(row) for row in rows], len(rows)
        count = await self._rows("count_documents", **where)
        return [read_document(row) for row in rows], int(count[0]["count"])

    async def unfinished(self, tenant: str, dataset: str, batch: str) -> int:
        rows = await self._rows("unfinished", tenant=tenant, dataset=dataset, batch=batch)
        return int(rows[0]["count"])

    async def about_documents(self, tenant: str, dataset: str) -> list[Row]:
        return await self._rows("about_documents", tenant=tenant, dataset=dataset)

    def has_exceptions_now(self, dataset: str) -> bool:
        """Whether there is a document that not everybody finds."""
        return bool(self.database.read(self._sql["has_exceptions"], {"dataset": dataset}))

    async def sources(self, tenant: str, dataset: str) -> list[Row]:
        return await self._rows("sources", tenant=tenant, dataset=dataset)

    async def describe(self, one: Document) -> None:
        """Name, metadata and readers as they are here. Raises NotFoundError."""
        values = (one.name, dump(one.metadata), dump(one.readers), self.now(), one.tenant, one.dataset, one.id)

        def work(it: Connection) -> None:
            self._bumped(it, one.tenant, one.dataset)  # what filters remember of it is old now
            if not it.execute(self._sql["describe"], values):
                raise NotFoundError(f"document {one.id[:80]!r} does not exist", code="document_not_found")

        await self._transact(work)

    async def index_again(
        self, one: Document, parts: Sequence[DocumentPart] | None = None, *, reads_anew: bool = False
    ) -> None:
        """From its source, rule and form as they are here, and from `parts`, where its text is another. What is found
        of it stays until the new is ready."""
        values = (
            one.name, dump(one.source), one.form.value, one.language, dump(one.rule), dump(one.metadata), one.digest,
            one.batch, self.now(), one.tenant, one.dataset, one.id,
        )  # fmt: skip

        def work(it: Connection) -> None:
            if not it.execute(self._sql["again"], values):
                raise NotFoundError(f"document {one.id[:80]!r} does not exist", code="document_not_found")
            if parts is not None:
                it.execute(self._sql["keep_text"], (one.id, dump(parts)))
            elif reads_anew:
                it.execute("DELETE FROM document_texts WHERE document = ?", (one.id,))

        await self._transact(work)

    async def retry(self, tenant: str, dataset: str, id: str) -> bool:  # noqa: A002
        return bool(await self._do("retry", self.now(), tenant, dataset, id))

    async def command(self, tenant: str, dataset: str, id: str, command: str) -> bool:  # noqa: A002
        """Have it pause or stop, whichever process has it; False where it is not being worked on."""

        def work(it: Connection) -> bool:
            now = self.now()
            found = it.execute(self._sql["command"], (command, now, tenant, dataset, id))
            it.execute(  # nobody has it yet: at once
                "UPDATE documents SET status = ?, command = '', error = ? WHERE id = ? AND tenant = ? AND owner = '' "
                "AND status = 'waiting' AND command <> ''",
                ("paused" if command == "pause" else "error", "" if command == "pause" else "cancelled", id, tenant),
            )
            return bool(found)

        return await self._transact(work)

    async def commands(self) -> dict[str, str]:
        """What is wanted of documents that this process has."""
        return {row["id"]: row["command"] for row in await self._rows("commands", owner=self.owner)}

    async def claim(self, most: int) -> list[tuple[Document, int]]:
        """Documents that nobody has, as this process's own, each with its turn."""
        now = self.now()
        for row in await self._rows("owned"):
            if row["owner"] != self.owner and is_gone(row["owner"]):
                await self._do("release", row["owner"])
        rows = await self._rows("to_do", now=now, most=most)
        if not rows:
            return []

        def work(it: Connection) -> list[Row]:
            found: list[Row] = []
            for row in rows:
                found += it.execute(self._sql["claim"], (self.owner, now + LEASE_SECONDS, row["id"], now))
            return found

        return [(read_document(row), row["turn"]) for row in await self._transact(work)]

    async def renew(self) -> None:
        await self._do("renew", self.now() + LEASE_SECONDS, self.owner)

    async def give_back(self, ids: Sequence[str]) -> None:
        """Somebody else may have these; told until the database takes it."""
        statement = "UPDATE documents SET owner = '', lease_until = 0 WHERE id = ? AND owner = ?"
        rows = [(one, self.owner) for one in ids]
        await self.database.transact(lambda it: it.execute_many(statement, rows), is_kept=True, may_gather=True)

    async def progress(self, documents: Iterable[tuple[Document, int]]) -> None:
        """How far documents are, each in its turn."""
        rows = [
            (one.status.value, one.segments, one.done, dump(one.times), one.id, self.owner, turn)
            for one, turn in documents
        ]
        await self._transact(lambda it: it.execute_many(self._sql["progress"], rows))

    async def failed(self, one: Document, turn: int, status: Status, error: str) -> None:
        await self._do("failed", status.value, error, dump(one.times), self.now(), one.id, self.owner, turn)

    async def keep_text(self, document: str, parts: Sequence[DocumentPart]) -> None:
        await self._do("keep_text", document, dump(parts))

    async def text(self, document: str) -> list[DocumentPart] | None:
        rows = await self._rows("text", document=document)
        return read_parts(rows[0]) if rows else None

    async def texts(self, documents: Sequence[str]) -> dict[str, list[DocumentPart]]:
        """The same of many."""
        statement = "SELECT document, body FROM document_texts WHERE document IN (*)"
        rows = await asyncio.to_thread(self._in, statement, (), documents)
        return {row["document"]: read_parts(row) for row in rows}

    async def publish(self, ready: Sequence["Ready"]) -> list[Document]:
        """Have documents of one dataset found from now on, each in the place of what was there of it.

        Gives those that are; not those that somebody else has now, or that are gone.
        """
        first = ready[0].document

        def work(it: Connection) -> list[Document]:
            found = it.execute(self._sql["bump"], (first.tenant, first.dataset))
            if not found:
                return []
            row = found[0]
            generation, space = row["generation"], row["space"]
            ours = self._ours(it, first.dataset, ready)
            for one in ours:
                self._measured(it, row, first.dataset, one.indexed)
                if one.indexed.dimensions:
                    row = {**row, "dimensions": one.indexed.dimensions, "model": one.indexed.model}
                if one.turn:  # the first time there is nothing to take away
                    self._unindex(it, one.document.id, generation)
                    it.execute("DELETE FROM segments WHERE document = ?", (one.document.id,))
                    it.execute("DELETE FROM children WHERE document = ?", (one.document.id,))
                if one.indexed.is_staged:
                    it.execute("DELETE FROM staged_vectors WHERE document = ?", (one.document.id,))
            Database.insert(
                it, self._sql["add_segment"], [segment_row(each) for one in ours for each in one.indexed.segments]
            )
            Database.insert(
                it, self._sql["add_child"], [child_row(each) for one in ours for each in one.indexed.children]
            )
            entries = [
                (first.dataset, space, generation, one.document.id, each.segment, each.child, each.digest, each.vector,
                 each.terms, each.length)
                for one in ours for each in one.indexed.entries
            ]  # fmt: skip
            Database.insert(it, self._sql["add_entry"], entries)
            now = self.now()
            it.execute_many(self._sql["finished"], [finished(one, now) for one in ours])
            return [one.document for one in ours]

        return await self._transact(work, may_gather=True)

    def _ours(self, it: Connection, dataset: str, ready: Sequence["Ready"]) -> list["Ready"]:
        """Those that this process still has, in the turn that it worked on."""
        turns: dict[str, int] = {}
        for at in range(0, len(ready), _AT_ONCE):
            some = [one.document.id for one in ready[at : at + _AT_ONCE]]
            places = ",".join("?" * len(some))
            statement = f"SELECT id, turn FROM documents WHERE dataset = ? AND owner = ? AND id IN ({places})"
            turns.update((row["id"], row["turn"]) for row in it.execute(statement, [dataset, self.owner, *some]))
        return [one for one in ready if turns.get(one.document.id) == one.turn]

    def _measured(self, it: Connection, row: Row, dataset: str, ready: Indexed) -> None:
        """All vectors of a space are of one model and one length. Raises InvokeBadRequestError."""
        if not ready.dimensions:
            return
        if not row["dimensions"]:
            it.execute(self._sql["measure"], (ready.dimensions, ready.model, dataset))
        elif row["dimensions"] != ready.dimensions or (row["model"] and ready.model != row["model"]):
            raise InvokeBadRequestError(
                f"embedding model {ready.model!r} gives vectors of {ready.dimensions} numbers; this dataset's are of "
                f"{row['model']!r}, {row['dimensions']} numbers each: index it anew with the other model"
            )

    def _enter(
        self, it: Connection, dataset: str, space: int, generation: int, document: str, entries: Iterable[Entry]
    ) -> None:
        rows = [
            (dataset, space, generation, document, each.segment, each.child, each.digest, each.vector, each.terms,
             each.length)
            for each in entries
        ]  # fmt: skip
        Database.insert(it, self._sql["add_entry"], rows)

    def _unindex(self, it: Connection, document: str, generation: int) -> None:
        it.execute(self._sql["remove_document_entries"], (generation, document))
        it.execute(self._sql["delete_document_entries"], (document,))

    def _forget(self, it: Connection, dataset: str, space: int, generation: int) -> None:
        """What is gone is not told of for ever: whoever is too far behind begins anew."""
        if int(it.execute(self._sql["many_removed"], (dataset,))[0]["count"]) > _MOST_TOLD:
            it.execute("DELETE FROM index_removed WHERE dataset = ?", (dataset,))
            it.execute(self._sql["set_followed"], ("", dataset, space, generation))

    def _bumped(self, it: Connection, tenant: str, dataset: str) -> Row:
        found = it.execute(self._sql["bump"], (tenant, dataset))
        if not found:
            raise NotFoundError(f"dataset {dataset[:80]!r} does not exist", code="dataset_not_found")
        return found[0]

    async def delete_documents(self, tenant: str, dataset: str, ids: Sequence[str]) -> None:
        """Those that are there; all that they had goes with them."""

        def work(it: Connection) -> None:
            row = self._bumped(it, tenant, dataset)
            for one in ids:
                gone = it.execute(
                    "DELETE FROM documents WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id",
                    (tenant, dataset, one),
                )
                if not gone:
                    continue
                self._unindex(it, one, row["generation"])
                for table in ("segments", "children", "document_texts", "staged_vectors"):
                    it.execute(f"DELETE FROM {table} WHERE document = ?", (one,))
            self._forget(it, dataset, row["space"], row["generation"])

        await self._transact(work)

    async def set_flags(
        self,
        tenant: str,
        dataset: str,
        ids: Sequence[str],
        *,
        enabled: bool | None = None,
        archived: bool | None = None,
    ) -> None:
        """What is off or put away is not found. Raises NotFoundError for a document that is not there."""
        known = [await self.document(tenant, dataset, one) for one in ids]

        def work(it: Connection) -> None:
            self._bumped(it, tenant, dataset)
            for one in known:
                on = one.is_enabled if enabled is None else enabled
                away = one.is_archived if archived is None else archived
                it.execute(self._sql["flags"], (int(on), int(away), self.now(), tenant, dataset, one.id))

        await self._transact(work)

    # segments

    async def segments(
        self, tenant: str, document: str, *, keyword: str = "", enabled: int = -1, most: int = 100, skip: int = 0
    ) -> tuple[list[Segment], int]:
        where = {"tenant": tenant, "document": document, "keyword": like(keyword), "enabled": enabled}
        rows = await self._rows("segments", **where, most=most, skip=skip)
        count = await self._rows("count_segments", **where)
        return [read_segment(row) for row in rows], int(count[0]["count"])

    async def segment(self, tenant: str, document: str, id: str) -> Segment:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("segment", tenant=tenant, document=document, id=id)
        if not rows:
            raise NotFoundError(f"segment {id[:80]!r} does not exist", code="segment_not_found")
        return read_segment(rows[0])

    async def put_segments(self, document: Document, ready: Indexed, *, is_new: bool) -> list[Segment]:
        """Add segments to a document, or have some of it say something else; their entries with them."""

        def work(it: Connection) -> list[Segment]:
            row = self._bumped(it, document.tenant, document.dataset)
            if not it.execute(
                "SELECT 1 AS found FROM documents WHERE id = ? AND tenant = ?", (document.id, document.tenant)
            ):
                raise NotFoundError(f"document {document.id!r} does not exist", code="document_not_found")
            self._measured(it, row, document.dataset, ready)
            kept: list[Segment] = []
            last = int(it.execute(self._sql["last_segment"], (document.id,))[0]["position"])
            for at, one in enumerate(ready.segments):
                if is_new:
                    placed = msgspec.structs.replace(one, position=last + at + 1)
                    it.execute(self._sql["add_segment"], segment_row(placed))
                else:
                    placed = one
                    values = (
                        one.content, one.answer, dump(one.keywords), one.summary, one.words, one.tokens, one.digest,
                        int(one.is_enabled), one.updated_at, one.tenant, one.document, one.id,
                    )  # fmt: skip
                    if not it.execute(self._sql["change_segment"], values):
                        raise NotFoundError(f"segment {one.id!r} does not exist", code="segment_not_found")
                    it.execute(self._sql["remove_segment_entries"], (row["generation"], document.id, one.id))
                    it.execute(self._sql["delete_segment_entries"], (document.id, one.id))
                    it.execute(self._sql["delete_children_of"], (one.tenant, one.id))
                kept.append(placed)
            Database.insert(it, self._sql["add_child"], [child_row(each) for each in ready.children])
            self._enter(it, document.dataset, row["space"], row["generation"], document.id, ready.entries)
            it.execute(self._sql["recount"], (self.now(), document.id))
            return kept

        return await self._transact(work)

    async def delete_segment(self, one: Segment) -> None:
        def work(it: Connection) -> None:
            row = self._bumped(it, one.tenant, one.dataset)
            it.execute(self._sql["delete_segment"], (one.tenant, one.document, one.id))
            it.execute(self._sql["delete_children_of"], (one.tenant, one.id))
            it.execute(self._sql["remove_segment_entries"], (row["generation"], one.document, one.id))
            it.execute(self._sql["delete_segment_entries"], (one.document, one.id))
            it.execute(self._sql["recount"], (self.now(), one.document))

        await self._transact(work)

    # children

    async def children(
        self, tenant: str, segment: str, *, keyword: str = "", most: int = 10_000, skip: int = 0
    ) -> tuple[list[Child], int]:
        where = {"tenant": tenant, "segment": segment, "keyword": like(keyword)}
        rows = await self._rows("children", **where, most=most, skip=skip)
        count = await self._rows("count_children", **where)
        return [read_child(row) for row in rows], int(count[0]["count"])

    async def child(self, tenant: str, segment: str, id: str) -> Child:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("child", tenant=tenant, segment=segment, id=id)
        if not rows:
            raise NotFoundError(f"child chunk {id[:80]!r} does not exist", code="child_not_found")
        return read_child(rows[0])

    # what is searched

    def changes(self, dataset: str, space: int, since: int, until: int) -> Changes:
        """What an index at a generation has not heard of until another. Reads on a connection of its own: it may be
        much."""
        names = {"dataset": dataset, "space": space}
        with self.database.connection() as it:
            if since:
                told = it.execute(self._sql["forgotten"], names)
                if told and told[0]["generation"] > since:
                    since = 0
            between = {**names, "since": since, "until": until}
            removed = it.execute(self._sql["removed_since"], between) if since else []
            rows = it.execute(self._sql["entries_since"], between)
        return Changes(
            not since,
            [row["id"] for row in rows],
            [row["document"] for row in rows],
            [row["vector"] for row in rows],
            [row["terms"] for row in rows],
            [row["length"] for row in rows],
            [row["entry"] for row in removed],
            [(row["terms"], row["length"]) for row in removed if row["born"] <= since],
        )

    def followed(self, store: str, dataset: str, space: int) -> int:
        """How far another store has come."""
        rows = self.database.read(self._sql["followed"], {"store": store, "dataset": dataset, "space": space})
        return int(rows[0]["generation"]) if rows else 0

    async def set_followed(
        self, store: str, dataset: str, space: int, since: int, until: int, terms: Mapping[int, int], *, is_whole: bool
    ) -> None:
        """It has come so far, and so many more entries hold these terms; unless another process was there first."""

        def work(it: Connection) -> None:
            names = {"store": store, "dataset": dataset, "space": space}
            known = it.execute(self._sql["followed"], names)
            if (int(known[0]["generation"]) if known else 0) != since:
                return
            if is_whole:
                it.execute(
                    "DELETE FROM index_terms WHERE store = ? AND dataset = ? AND space = ?", (store, dataset, space)
                )
            rows = [(store, dataset, space, term, count) for term, count in terms.items() if count]
            Database.insert(it, self._sql["add_term"], rows)
            it.execute(self._sql["set_followed"], (store, dataset, space, until))

        await self._transact(work)

    def holding(self, store: str, dataset: str, space: int, terms: Sequence[int]) -> dict[int, int]:
        """How many entries hold each of these terms."""
        statement = (
            "SELECT term, holding FROM index_terms WHERE store = ? AND dataset = ? AND space = ? AND term IN (*)"
        )
        return {row["term"]: row["holding"] for row in self._in(statement, (store, dataset, space), terms)}

    def spaces(self, store: str, dataset: str) -> list[int]:
        """Those that another store has followed."""
        statement = "SELECT space FROM index_followed WHERE store = ? AND dataset = ?"
        return [row["space"] for row in self.database.read(statement, (store, dataset))]

    async def unfollow(self, store: str, dataset: str) -> None:
        def work(it: Connection) -> None:
            for table in ("index_followed", "index_terms"):
                it.execute(f"DELETE FROM {table} WHERE store = ? AND dataset = ?", (store, dataset))

        await self._transact(work)

    async def count_entries(self, dataset: str, space: int) -> int:
        return int((await self._rows("count_entries", dataset=dataset, space=space))[0]["count"])

    def details_now(self, tenant: str, dataset: str, entries: Sequence[int]) -> dict[int, Detail]:
        """What entries stand for, of those that may be found."""
        statement = (
            "SELECT index_entries.id AS entry, index_entries.child AS entry_child, segments.* FROM index_entries "
            "JOIN segments ON segments.id = index_entries.segment "
            "WHERE segments.tenant || '' = ? AND segments.is_enabled = 1 AND index_entries.dataset || '' = ? "
            "AND index_entries.id IN (*)"
        )
        rows = self._in(statement, (tenant, dataset), entries)
        wanted = [row["entry_child"] for row in rows if row["entry_child"]]
        children: dict[str, Child] = {}
        if wanted:
            found = self._in("SELECT * FROM children WHERE tenant || '' = ? AND id IN (*)", (tenant,), wanted)
            children = {row["id"]: read_child(row) for row in found}
        read: dict[str, Segment] = {}  # children of one segment share it
        details: dict[int, Detail] = {}
        for row in rows:
            segment = read.get(row["id"]) or read.setdefault(row["id"], read_segment(row))
            details[row["entry"]] = Detail(segment, children.get(row["entry_child"]))
        return details

    def documents_now(self, tenant: str, ids: Sequence[str]) -> dict[str, Document]:
        rows = self._in("SELECT * FROM documents WHERE tenant || '' = ? AND id IN (*)", (tenant,), ids)
        return {row["id"]: read_document(row) for row in rows}

    def vectors_now(self, entries: Sequence[int]) -> dict[int, bytes]:
        rows = self._in("SELECT id, vector FROM index_entries WHERE id IN (*)", (), entries)
        return {row["id"]: row["vector"] for row in rows}

    async def known_vectors(self, document: str, space: int, model: str) -> dict[str, bytes]:
        """By digest of what they were made of: those it has, and those that were made before it was finished."""
        found = {row["digest"]: row["vector"] for row in await self._rows("staged", document=document, model=model)}
        for row in await self._rows("vectors_of", document=document, space=space):
            if row["vector"]:
                found[row["digest"]] = row["vector"]
        return found

    async def stage(self, rows: Sequence[tuple[str, str, str, bytes]]) -> None:
        """(document, model, digest, vector) each."""
        await self._transact(lambda it: Database.insert(it, self._sql["stage"], rows))

    async def entries_of(self, document: str, space: int) -> list[Row]:
        return await self._rows("entries_of", document=document, space=space)

    def bump_hits(self, hits: Mapping[str, str]) -> None:
        """Segment → document: each was found once more. Soon, and not waited for."""
        if not hits:
            return
        documents = sorted(set(hits.values()))

        def work(it: Connection) -> None:
            for table, ids in (("segments", sorted(hits)), ("documents", documents)):
                for at in range(0, len(ids), _AT_ONCE):
                    some = ids[at : at + _AT_ONCE]
                    places = ",".join("?" * len(some))
                    it.execute(f"UPDATE {table} SET hits = hits + 1 WHERE id IN ({places})", some)

        self.database.submit(work, may_gather=True)

    def remember_query(self, tenant: str, dataset: str, content: str, source: str) -> None:
        self.database.write(self._sql["asked"], (tenant, dataset, content[:2000], source, self.now()))

    async def queries(self, tenant: str, dataset: str, most: int) -> list[Row]:
        return await self._rows("queries", tenant=tenant, dataset=dataset, most=most)

    # another model's index, beside the one in use

    async def put_beside(self, dataset: str, space: int, document: str, entries: Sequence[Entry]) -> None:
        """Entries of a space that is not in use yet."""

        def work(it: Connection) -> None:
            it.execute("DELETE FROM index_entries WHERE document = ? AND space = ?", (document, space))
            self._enter(it, dataset, space, 1, document, entries)

        await self._transact(work)

    async def switch(self, one: Dataset, space: int, dimensions: int, model: str) -> bool:
        """Use another space from now on, and delete the one that was; False where documents changed meanwhile."""

        def work(it: Connection) -> bool:
            row = self._bumped(it, one.tenant, one.id)
            old = row["space"]
            behind = it.execute(
                "SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ? EXCEPT "
                "SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ?",
                (one.id, old, one.id, space),
            )
            if behind:
                return False
            # What was taken out of the old one meanwhile must not come back.
            it.execute(
                "DELETE FROM index_entries WHERE dataset = ? AND space = ? AND NOT EXISTS (SELECT 1 FROM index_entries "
                "AS old WHERE old.dataset = ? AND old.space = ? AND old.segment = index_entries.segment "
                "AND old.child = index_entries.child)",
                (one.id, space, one.id, old),
            )
            it.execute("DELETE FROM index_entries WHERE dataset = ? AND space <> ?", (one.id, space))
            it.execute("DELETE FROM index_removed WHERE dataset = ?", (one.id,))
            it.execute(
                "UPDATE index_entries SET generation = ? WHERE dataset = ? AND space = ?",
                (row["generation"], one.id, space),
            )
            it.execute(self._sql["switch"], (space, dimensions, model, dump(one.settings), one.id))
            return True

        return await self._transact(work)

    async def check(self, tenant: str, dataset: str) -> list[str]:
        """What does not fit together; nothing, unless something is wrong."""
        await self.dataset(tenant, dataset)
        with self.database.connection() as it:
            partial = [row["id"] for row in it.execute(self._sql["in_part"], {"dataset": dataset})]
            stray = it.execute(
                "SELECT COUNT(*) AS count FROM index_entries WHERE dataset = ? AND segment NOT IN "
                "(SELECT id FROM segments WHERE dataset = ?)",
                (dataset, dataset),
            )
            silent = it.execute(
                "SELECT COUNT(*) AS count FROM segments WHERE dataset = ? AND is_enabled = 1 AND id NOT IN "
                "(SELECT segment FROM index_entries WHERE dataset = ?)",
                (dataset, dataset),
            )
        found = [f"document {one} has other segments than it says" for one in partial]
        if stray[0]["count"]:
            found.append(f"{stray[0]['count']} index entries stand for no segment")
        if silent[0]["count"]:
            found.append(f"{silent[0]['count']} segments cannot be found")
        return found

    # tags

    async def add_tag(self, tenant: str, name: str) -> str:
        name_id = new_uuid()
        await self._name_tag(name, "add_tag", tenant, name_id, name)
        return name_id

    async def _name_tag(self, name: str, statement: str, *values: Any) -> list[Row]:
        try:
            return await self._do(statement, *values)
        except DuplicateError as error:
            raise ConflictError(f"there is a tag named {name!r} already", param="name") from error

    async def tags(self, tenant: str) -> list[Row]:
        return await self._rows("tags", tenant=tenant)

    async def rename_tag(self, tenant: str, id: str, name: str) -> None:  # noqa: A002
        """Raises NotFoundError, and ConflictError where another tag has the name."""
        if not await self._name_tag(name, "rename_tag", name, tenant, id):
            raise NotFoundError(f"tag {id[:80]!r} does not exist", code="tag_not_found")

    async def delete_tag(self, tenant: str, id: str) -> None:  # noqa: A002
        def work(it: Connection) -> None:
            if not it.execute(self._sql["delete_tag"], (tenant, id)):
                raise NotFoundError(f"tag {id[:80]!r} does not exist", code="tag_not_found")
            it.execute(self._sql["unbind_tag"], (tenant, id))

        await self._transact(work)

    async def bind(self, tenant: str, dataset: str, tags: Sequence[str], *, is_on: bool) -> None:
        """Raises NotFoundError for a dataset or a tag that is not there."""
        await self.dataset(tenant, dataset)
        known = {row["id"] for row in await self.tags(tenant)}
        for one in tags:
            if one not in known:
                raise NotFoundError(f"tag {one[:80]!r} does not exist", code="tag_not_found")
        name = "bind" if is_on else "unbind"
        await self._transact(
            lambda it: [it.execute(self._sql[name], (tenant, one, dataset)) for one in tags],
        )

    async def bindings(self, tenant: str) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in await self._rows("bindings", tenant=tenant):
            found.setdefault(row["dataset"], []).append(row)
        return found

    # other people's servers

    async def add_external(self, tenant: str, id: str, name: str, endpoint: str, secret: str) -> None:  # noqa: A002
        await self._do("add_external", tenant, id, name, endpoint, secret)

    async def externals(self, tenant: str) -> list[Row]:
        return await self._rows("externals", tenant=tenant)

    async def reseal_external(self, tenant: str, id: str, secret: str, before: str) -> bool:  # noqa: A002
        """False where somebody else changed it meanwhile."""
        return bool(await self._do("reseal_external", secret, tenant, id, before))

    async def delete_external(self, tenant: str, id: str) -> bool:  # noqa: A002
        return bool(await self._do("delete_external", tenant, id))
