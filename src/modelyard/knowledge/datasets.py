"""Datasets and their documents as callers see them: made, filled, changed, looked into, deleted."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge import prepare
from modelyard.knowledge.edit import SegmentEditor
from modelyard.knowledge.entities import (
    Dataset,
    DatasetSettings,
    DocForm,
    Document,
    ProcessRule,
    Status,
)
from modelyard.knowledge.index.base import Index
from modelyard.knowledge.ingest import Indexer
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.reindex import Reindexer
from modelyard.knowledge.retrieve import Asking, Retrieval, Retriever
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.split import Piece
from modelyard.knowledge.stored.stored import Stored
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import current_api_key

_MOST_TEXT = 64 << 20
_AT_ONCE = 1000


class Datasets:
    def __init__(
        self,
        stored: Stored,
        indexer: Indexer,
        retriever: Retriever,
        files: FileStore,
        reader: SourceReader,
        index_of: Callable[[Dataset], Index],
        editor: SegmentEditor,
        reindexer: Reindexer,
    ) -> None:
        self.stored = stored
        self.indexer = indexer
        self.retriever = retriever
        self.reader = reader
        self.segments = editor
        self.reindexer = reindexer
        self._files = files
        self._index_of = index_of
        self._on_delete: list[Callable[[str, str], Awaitable[None]]] = []

    def on_delete(self, listener: Callable[[str, str], Awaitable[None]]) -> None:
        """Have it told of datasets that are gone, as (tenant, id)."""
        self._on_delete.append(listener)

    # datasets

    async def create(
        self, tenant: str, name: str, *, description: str = "", settings: DatasetSettings | None = None, by: str = ""
    ) -> Dataset:
        """Raises ConflictError, InvokeBadRequestError."""
        name = name.strip()
        if not 1 <= len(name) <= 40:
            raise InvokeBadRequestError("a dataset's name has 1 to 40 characters", param="name")
        if len(description) > 400:
            raise InvokeBadRequestError("a dataset's description has at most 400 characters", param="description")
        now = self.stored.now()
        one = Dataset(
            tenant=tenant, id=new_uuid(), name=name, description=description, settings=settings or DatasetSettings(),
            created_by=by, created_at=now, updated_at=now,
        )  # fmt: skip
        return await self.stored.datasets.add(one)

    async def find(self, tenant: str, name: str) -> Dataset:
        """By id or name. Raises NotFoundError."""
        try:
            return await self.stored.datasets.get(tenant, name)
        except NotFoundError:
            found = await self.stored.datasets.named(tenant, name)
            if found is None:
                raise
            return found

    async def change(self, one: Dataset) -> Dataset:
        """As it is here; where its model is another, it is indexed anew, and answers from the old index meanwhile."""
        before = await self.stored.datasets.get(one.tenant, one.id)
        needs_vectors = one.settings.uses_vectors and before.dimensions > 0
        if needs_vectors and one.settings.embedding != before.settings.embedding:
            kept = msgspec.structs.replace(
                one, settings=msgspec.structs.replace(
                    one.settings, embedding_model=before.settings.embedding_model,
                    embedding_model_provider=before.settings.embedding_model_provider,
                ),
            )  # fmt: skip
            await self.stored.datasets.change(kept)
            one = msgspec.structs.replace(one, space=before.space)
            return await self.reindexer.change_model(one)
        return await self.stored.datasets.change(one)

    async def delete(self, tenant: str, id: str) -> None:  # noqa: A002
        """All of it, its files too."""
        dataset = await self.stored.datasets.get(tenant, id)
        # First what can be made again: whoever is killed in between has the whole dataset, and indexes it once more.
        await self._index_of(dataset).drop(id)
        documents = await self.stored.library.delete(tenant, id)
        await asyncio.to_thread(self._remove_files, documents)
        for listener in self._on_delete:
            await listener(tenant, id)

    def _remove_files(self, documents: Sequence[Document]) -> None:
        for one in documents:
            if name := str(one.source.get("file") or ""):
                self._files.remove(one.tenant, name)

    # documents

    def _document(
        self, dataset: Dataset, name: str, source: Mapping[str, Any], *, id: str = "", **more: Any  # noqa: A002
    ) -> Document:  # fmt: skip
        now = self.stored.now()
        settings = dataset.settings
        values: dict[str, Any] = {
            "form": settings.doc_form, "rule": settings.process_rule, "batch": new_uuid(), "created_at": now,
            "updated_at": now, **{key: value for key, value in more.items() if value is not None},
        }  # fmt: skip
        return Document(
            tenant=dataset.tenant,
            dataset=dataset.id,
            id=id or new_uuid(),
            name=name[:255],
            source=dict(source),
            api_key=current_api_key(dataset.tenant),
            **values,
        )

    async def add_texts(
        self,
        dataset: Dataset,
        texts: Sequence[tuple[str, str]] | Sequence[tuple[str, str, Mapping[str, Any]]],
        **more: Any,
    ) -> list[Document]:
        """(name, text) or (name, text, metadata) each; they share a batch. Raises InvokeBadRequestError."""
        batch = new_uuid()
        added: list[Document] = []
        for begin in range(0, len(texts), _AT_ONCE):
            made: list[Document] = []
            kept: dict[str, str] = {}
            for name, text, *rest in texts[begin : begin + _AT_ONCE]:
                if not text.strip():
                    raise InvokeBadRequestError(f"document {name!r} has no text", param="text")
                if len(text) > _MOST_TEXT:
                    raise InvokeBadRequestError(f"document {name!r} has more than {_MOST_TEXT:,} characters")
                source = {"kind": "text", "size": len(text)}
                values = {"batch": batch, "digest": digest_of(text), **more}
                if rest:
                    values["metadata"] = dict(rest[0])
                given: Any = values.pop("source", source)
                one = self._document(dataset, name, given, **values)
                kept[one.id] = text
                made.append(one)
            stored = await self.stored.library.add(made, kept, is_ours=True)
            self.indexer.begin()
            self.indexer.take((one, 0) for one in stored)
            added += stored
        return added

    async def add_chunks(
        self, dataset: Dataset, name: str, chunks: Sequence[DocumentPart], form: DocForm, **more: Any
    ) -> Document:
        """What was split elsewhere, as a pipeline does it: each chunk is a segment, as it is."""
        kept = [one for one in chunks if one.text.strip()]
        if not kept:
            raise InvokeBadRequestError(f"document {name!r} has no chunks")
        source = {**more.pop("source", {}), "kind": "chunks", "size": sum(len(one.text) for one in kept)}
        one = self._document(dataset, name, source, form=form, **more)
        (stored,) = await self.stored.library.add([one])
        await self.stored.texts.keep(stored.id, kept)
        self.indexer.wake()
        return stored

    async def add_failed(
        self, dataset: Dataset, name: str, error: str, *, id: str, batch: str, source: Mapping[str, Any]  # noqa: A002
    ) -> Document:  # fmt: skip
        """A document that never came to be, so that whoever asked for it sees why."""
        one = self._document(dataset, name, source, id=id, batch=batch, status=Status.ERROR, error=error[:2000])
        return (await self.stored.library.add([one]))[0]

    async def add_file(self, dataset: Dataset, name: str, data: bytes, **more: Any) -> Document:
        """Raises InvokeBadRequestError."""
        self.reader.check_size(name, len(data))
        if not data:
            raise InvokeBadRequestError(f"file {name!r} is empty", param="file")
        stored = await asyncio.to_thread(self._files.add, dataset.tenant, name, data)
        source = {"kind": "file", "file": stored.id, "size": len(data), "mime_type": stored.mime_type}
        digest = digest_of(data.decode("latin-1"))
        one = self._document(dataset, name, source, digest=digest, **more)
        return await self._added(one)

    async def add_source(self, dataset: Dataset, name: str, source: Mapping[str, Any], **more: Any) -> Document:
        """Of a path or an address: read when its turn comes."""
        return await self._added(self._document(dataset, name, source, **more))

    async def _added(self, one: Document) -> Document:
        (stored,) = await self.stored.library.add([one], is_ours=True)
        self.indexer.begin()
        self.indexer.take([(stored, 0)])
        return stored

    async def update_text(
        self, dataset: Dataset, document: Document, *, name: str = "", text: str | None = None, **more: Any
    ) -> Document:
        """Say something else under the same id. What was there is found until the new is ready."""
        changed = self._changed(document, name, more)
        if text is None:
            await self.stored.library.index_again(changed)
        else:
            if not text.strip():
                raise InvokeBadRequestError(f"document {document.name!r} would have no text", param="text")
            old = str(document.source.get("file") or "")
            source = more.get("source") or {"kind": "text", "size": len(text)}
            changed = msgspec.structs.replace(changed, source=source, digest=digest_of(text))
            await self.stored.library.index_again(changed, [DocumentPart(text=text)])
            if old:
                await asyncio.to_thread(self._files.remove, document.tenant, old)
        self.indexer.wake()
        return await self.stored.documents.get(dataset.tenant, dataset.id, document.id)

    async def update_file(
        self, dataset: Dataset, document: Document, name: str, data: bytes, *, title: str = "", **more: Any
    ) -> Document:
        self.reader.check_size(name, len(data))
        if not data:
            raise InvokeBadRequestError(f"file {name!r} is empty", param="file")
        stored = await asyncio.to_thread(self._files.add, dataset.tenant, name, data)
        old = str(document.source.get("file") or "")
        source = {"kind": "file", "file": stored.id, "size": len(data), "mime_type": stored.mime_type}
        changed = self._changed(document, title or name, more)
        changed = msgspec.structs.replace(changed, source=source, digest=digest_of(data.decode("latin-1")))
        await self.stored.library.index_again(changed, reads_anew=True)
        if old:
            await asyncio.to_thread(self._files.remove, document.tenant, old)
        self.indexer.wake()
        return await self.stored.documents.get(dataset.tenant, dataset.id, document.id)

    @staticmethod
    def _changed(document: Document, name: str, more: Mapping[str, Any]) -> Document:
        values = {key: value for key, value in more.items() if value is not None}
        return msgspec.structs.replace(document, name=(name or document.name)[:255], batch=new_uuid(), **values)

    async def delete_documents(self, dataset: Dataset, ids: Sequence[str]) -> None:
        known = await self.stored.documents.of(dataset.tenant, ids)
        mine = [one for one in known.values() if one.dataset == dataset.id]
        await self.stored.library.delete_documents(dataset.tenant, dataset.id, [one.id for one in mine])
        await asyncio.to_thread(self._remove_files, mine)

    async def sync_folder(self, dataset: Dataset, folder: Path, **more: Any) -> dict[str, int]:
        """Have the dataset hold what a folder holds: new files come, changed ones are indexed anew, gone ones go."""
        known = {
            str(msgspec.json.decode(row["source"]).get("path")): row
            for row in await self.stored.documents.sources(dataset.tenant, dataset.id)
            if msgspec.json.decode(row["source"]).get("kind") == "path"
        }
        told = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
        seen: set[str] = set()
        for path, stamp, size in await asyncio.to_thread(files_below, folder):
            seen.add(path)
            source = {"kind": "path", "path": path, "size": size}
            row = known.get(path)
            if row is None:
                await self.add_source(dataset, Path(path).name, source, digest=stamp, **more)
                told["added"] += 1
            elif row["digest"] != stamp:
                document = await self.stored.documents.get(dataset.tenant, dataset.id, row["id"])
                changed = msgspec.structs.replace(
                    document, source=source, digest=stamp, batch=more.get("batch") or new_uuid()
                )
                await self.stored.library.index_again(changed, reads_anew=True)
                told["changed"] += 1
            else:
                told["same"] += 1
        base = str(await asyncio.to_thread(folder.resolve))
        gone = [row["id"] for path, row in known.items() if path not in seen and path.startswith(base)]
        if gone:
            await self.delete_documents(dataset, gone)
            told["deleted"] = len(gone)
        self.indexer.wake()
        return told

    async def wait(self, dataset: Dataset, batch: str, timeout: float | None = None) -> list[Document]:
        return await self.indexer.wait(dataset.tenant, dataset.id, batch, timeout)

    # looking

    async def search(self, tenant: str, datasets: Sequence[str], query: str, **how: Any) -> Retrieval:
        return await self.retriever.search(datasets, Asking(tenant=tenant, query=query, **how))

    async def preview(
        self, name: str, data: bytes | str, *, rule: ProcessRule, form: DocForm = DocForm.TEXT
    ) -> list[Piece]:
        """How a document would be split, and nothing kept."""
        document = Document(tenant="", dataset="", id="", name=name, rule=rule, form=form)
        parts = [DocumentPart(text=data)] if isinstance(data, str) else (await self.reader.parse(name, data)).parts
        return (await asyncio.to_thread(prepare.cut, parts, document))[0]

    async def text(self, document: Document) -> str:
        """A document's whole text as it was split: what segments' places are places of."""
        parts = await self.stored.texts.get(document.id) or []
        return prepare.whole(parts, document.rule.effective)[0]

    async def file(self, document: Document) -> tuple[str, bytes]:
        """What was handed in. Raises NotFoundError."""
        if name := str(document.source.get("file") or ""):
            stored, data = await asyncio.to_thread(self._files.get, document.tenant, name)
            return stored.name, data
        if document.source.get("kind") == "text":
            parts = await self.stored.texts.get(document.id) or []
            return f"{document.name}.txt", "\n\n".join(one.text for one in parts).encode()
        raise NotFoundError(f"document {document.id!r} has no file", code="file_not_found")


def files_below(folder: Path) -> list[tuple[str, str, int]]:
    """(path, what changes with it, size) of each file; hidden ones and links are left out."""
    found: list[tuple[str, str, int]] = []
    base = folder.resolve()
    for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
        if (
            any(part.startswith(".") for part in path.relative_to(base).parts)
            or path.is_symlink()
            or not path.is_file()
        ):
            continue
        about = path.stat()
        found.append((str(path), f"{about.st_size}-{about.st_mtime_ns}", about.st_size))
    return found
