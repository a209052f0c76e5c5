"""Datasets and their documents: creating, filling, changing, searching and deleting
them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.base.json_types import EMPTY_OBJECT
from modelyard.knowledge import prepare
from modelyard.knowledge.dataset_access import DatasetAccess
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
from modelyard.knowledge.retrieve import Retrieval, Retriever, SearchRequest
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.segment_edits import SegmentEditor
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.split import TextSegment
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import current_api_key

_MAX_TEXT_LENGTH = 64 << 20
_DOCUMENTS_PER_TRANSACTION = 1000


# How many files are deleted concurrently.
_REMOVED_AT_ONCE = 16


class Datasets:
    """The service behind the dataset API: stores datasets and documents and schedules
    their indexing."""

    def __init__(
        self,
        store: KnowledgeStore,
        indexer: Indexer,
        retriever: Retriever,
        files: FileStore,
        reader: SourceReader,
        index_of: Callable[[Dataset], Index],
        editor: SegmentEditor,
        reindexer: Reindexer,
    ) -> None:
        self.store = store
        self.access = DatasetAccess(store)
        self.indexer = indexer
        self.retriever = retriever
        self.reader = reader
        self.segments = editor
        self.reindexer = reindexer
        self._files = files
        self._index_of = index_of
        self._on_delete: list[Callable[[str, str], Awaitable[None]]] = []

    def on_delete(self, listener: Callable[[str, str], Awaitable[None]]) -> None:
        """Register a listener that is called with (tenant, id) after a dataset was
        deleted."""
        self._on_delete.append(listener)

    # datasets

    async def create(
        self,
        tenant: str,
        name: str,
        *,
        description: str = "",
        settings: DatasetSettings | None = None,
        by: str = "",
    ) -> Dataset:
        """Create a dataset. Raises ConflictError if the name exists,
        InvokeBadRequestError if a value is invalid."""
        name = name.strip()
        if not 1 <= len(name) <= 40:
            raise InvokeBadRequestError(
                "'name' must have 1 to 40 characters", param="name"
            )
        if len(description) > 400:
            raise InvokeBadRequestError(
                "'description' must have at most 400 characters",
                param="description",
            )
        current_time = self.store.clock()
        dataset = Dataset(
            tenant=tenant,
            id=new_uuid(),
            name=name,
            description=description,
            settings=settings or DatasetSettings(),
            created_by=by,
            created_at=current_time,
            updated_at=current_time,
        )
        return await self.store.datasets.add(dataset)

    async def get_by_id_or_name(self, tenant: str, name: str) -> Dataset:
        """Return a dataset by its id or name. Raises NotFoundError."""
        try:
            return await self.store.datasets.get(tenant, name)
        except NotFoundError:
            dataset = await self.store.datasets.find_by_name(tenant, name)
            if dataset is None:
                raise
            return dataset

    async def update(self, replacement: Dataset) -> Dataset:
        """Update a dataset. If its embedding model changes, it is reindexed and the old
        index answers meanwhile."""
        current_dataset = await self.store.datasets.get(
            replacement.tenant, replacement.id
        )
        needs_vectors = (
            replacement.settings.uses_vectors and current_dataset.dimensions > 0
        )
        if (
            needs_vectors
            and replacement.settings.embedding != current_dataset.settings.embedding
        ):
            # The other changes apply at once; the new model only when its index is
            # complete.
            with_old_model = msgspec.structs.replace(
                replacement,
                settings=msgspec.structs.replace(
                    replacement.settings,
                    embedding_model=current_dataset.settings.embedding_model,
                    embedding_model_provider=current_dataset.settings.embedding_model_provider,
                ),
            )
            await self.store.datasets.update(with_old_model)
            # The index in use may have been swapped since the caller read the dataset.
            replacement = msgspec.structs.replace(
                replacement, space=current_dataset.space
            )
            return await self.reindexer.change_model(replacement)
        return await self.store.datasets.update(replacement)

    async def delete(self, tenant: str, id: str) -> None:
        """Delete a dataset with its documents, files and index. Raises NotFoundError."""
        dataset = await self.store.datasets.get(tenant, id)
        # Delete first what can be rebuilt: if the process is killed in between, the
        # dataset still exists and is reindexed.
        await self._index_of(dataset).drop(id)
        documents = await self.store.library.delete(tenant, id)
        await self._remove_files(documents)
        for listener in self._on_delete:
            await listener(tenant, id)

    async def _remove_files(self, documents: Sequence[Document]) -> None:
        """Delete the files of documents that were uploaded."""
        names = [
            (document.tenant, name)
            for document in documents
            if (name := str(document.source.get("file") or ""))
        ]
        # Several at once: each is a request if the files lie on another server.
        for start in range(0, len(names), _REMOVED_AT_ONCE):
            batch = names[start : start + _REMOVED_AT_ONCE]
            await asyncio.gather(*(self._files.remove(*name) for name in batch))

    # Documents

    def _build_document(
        self,
        dataset: Dataset,
        name: str,
        source: Mapping[str, Any],
        *,
        id: str = "",
        **fields: Any,
    ) -> Document:
        """Return a new document of a dataset, not yet stored.

        `fields` override the document's values; those that are None take the dataset's
        default. The name is cut to 255 characters, and an empty `id` means a new one.
        The API key of the current call is recorded with the document.
        """
        current_time = self.store.clock()
        settings = dataset.settings
        # Fields that are None mean the dataset's defaults.
        values: dict[str, Any] = {
            "form": settings.doc_form,
            "rule": settings.process_rule,
            "batch": new_uuid(),
            "created_at": current_time,
            "updated_at": current_time,
            **{key: value for key, value in fields.items() if value is not None},
        }
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
        **fields: Any,
    ) -> list[Document]:
        """Add texts as documents of one batch. Each is (name, text) or (name, text,
        metadata). Raises InvokeBadRequestError."""
        batch = new_uuid()
        added: list[Document] = []
        # Large imports are split into several transactions, so that other writers are
        # not blocked.
        for batch_start in range(0, len(texts), _DOCUMENTS_PER_TRANSACTION):
            new_documents: list[Document] = []
            texts_by_id: dict[str, str] = {}
            for name, text, *metadata_part in texts[
                batch_start : batch_start + _DOCUMENTS_PER_TRANSACTION
            ]:
                document = self._text_document(
                    dataset,
                    name,
                    text,
                    metadata=metadata_part[0] if metadata_part else None,
                    fields={"batch": batch, **fields},
                )
                texts_by_id[document.id] = text
                new_documents.append(document)
            added_documents = await self.store.library.add(
                new_documents, texts_by_id, is_ours=True
            )
            self.indexer.start()
            # This process indexes what it added, without waiting for the next poll.
            self.indexer.claim((document, 0) for document in added_documents)
            added += added_documents
        return added

    def _text_document(
        self,
        dataset: Dataset,
        name: str,
        text: str,
        *,
        metadata: Mapping[str, Any] | None,
        fields: Mapping[str, Any],
    ) -> Document:
        """Return a new document for a text. Raises InvokeBadRequestError if it is empty
        or too long."""
        if not text.strip():
            raise InvokeBadRequestError(f"Document {name!r} has no text", param="text")
        if len(text) > _MAX_TEXT_LENGTH:
            raise InvokeBadRequestError(
                f"Document {name!r} has more than {_MAX_TEXT_LENGTH:,} characters"
            )
        values = {"digest": digest_of(text), **fields}
        if metadata is not None:
            values["metadata"] = dict(metadata)
        # The caller may describe the source itself, as crawled pages do.
        source: Any = values.pop("source", {"kind": "text", "size": len(text)})
        return self._build_document(dataset, name, source, **values)

    async def add_chunks(
        self,
        dataset: Dataset,
        name: str,
        chunks: Sequence[DocumentPart],
        doc_form: DocForm,
        **fields: Any,
    ) -> Document:
        """Add a document that was split elsewhere, as by a pipeline.

        Each chunk that is not empty becomes one segment unchanged; `fields` are further
        values of the document. The document is queued for indexing. Raises
        InvokeBadRequestError if no chunk has any text.
        """
        non_empty_chunks = [chunk for chunk in chunks if chunk.text.strip()]
        if not non_empty_chunks:
            raise InvokeBadRequestError(f"Document {name!r} has no chunks")
        source = {
            **fields.pop("source", {}),
            "kind": "chunks",
            "size": sum(len(chunk.text) for chunk in non_empty_chunks),
        }
        document = self._build_document(dataset, name, source, form=doc_form, **fields)
        (added_document,) = await self.store.library.add(
            [document], parts={document.id: non_empty_chunks}
        )
        self.indexer.notify()
        return added_document

    async def add_failed(
        self,
        dataset: Dataset,
        name: str,
        error: str,
        *,
        id: str,
        batch: str,
        source: Mapping[str, Any],
    ) -> Document:
        """Add a document that failed before it had a text, so that the caller can read
        the error."""
        document = self._build_document(
            dataset,
            name,
            source,
            id=id,
            batch=batch,
            status=Status.ERROR,
            error=error[:2000],
        )
        return (await self.store.library.add([document]))[0]

    async def add_file(
        self,
        dataset: Dataset,
        name: str,
        data: bytes,
        *,
        origin: Mapping[str, Any] = EMPTY_OBJECT,
        **fields: Any,
    ) -> Document:
        """Add a document from a file's bytes. `origin` says where it came from, for
        connectors. Raises InvokeBadRequestError if it is empty or too large."""
        self.reader.check_size(name, len(data))
        if not data:
            raise InvokeBadRequestError(f"File {name!r} is empty", param="file")
        stored_file = await self._files.add(dataset.tenant, name, data)
        source = {
            **origin,
            "kind": "file",
            "file": stored_file.id,
            "size": len(data),
            "mime_type": stored_file.mime_type,
        }
        # Latin-1 maps every byte to one character: the digest function expects text.
        digest = digest_of(data.decode("latin-1"))
        document = self._build_document(dataset, name, source, digest=digest, **fields)
        if added := await self._add_and_queue([document]):
            return added[0]
        # Another process follows the same source, and was faster.
        await self._remove_files([document])
        return await self.store.documents.of_source(dataset.tenant, dataset.id, source)

    async def add_source(
        self, dataset: Dataset, name: str, source: Mapping[str, Any], **fields: Any
    ) -> Document:
        """Add a document of a path or URL, which is read only when it is indexed.

        `source` describes it, with `kind` and the path or URL; a source that cannot be
        read is therefore reported by the document's status. `fields` are further values
        of the document. A path that the dataset contains already is not added again:
        its document is returned.
        """
        document = self._build_document(dataset, name, source, **fields)
        added = await self._add_and_queue([document])
        if added:
            return added[0]
        # Another process may have added the file meanwhile.
        return await self.store.documents.of_source(dataset.tenant, dataset.id, source)

    async def _add_and_queue(self, documents: Sequence[Document]) -> list[Document]:
        """Store documents of one dataset, claim them for this process and queue them
        for indexing.

        Returns the added documents as stored. Large imports are split into several
        transactions, so that other writers are not blocked.
        """
        added: list[Document] = []
        for start in range(0, len(documents), _DOCUMENTS_PER_TRANSACTION):
            batch = await self.store.library.add(
                documents[start : start + _DOCUMENTS_PER_TRANSACTION], is_ours=True
            )
            self.indexer.start()
            # Claimed documents are renewed, so that a long import loses no lease.
            self.indexer.claim((document, 0) for document in batch)
            added += batch
        return added

    async def update_text(
        self,
        dataset: Dataset,
        document: Document,
        *,
        name: str = "",
        text: str | None = None,
        **fields: Any,
    ) -> Document:
        """Replace a document's text, name or metadata. The old content is found until
        the new one is indexed."""
        changed = self._with_changes(document, name, fields)
        if text is None:
            await self.store.library.index_again(changed)
        else:
            if not text.strip():
                raise InvokeBadRequestError(
                    f"The new text of document {document.name!r} is empty",
                    param="text",
                )
            old = str(document.source.get("file") or "")
            source = fields.get("source") or {"kind": "text", "size": len(text)}
            changed = msgspec.structs.replace(
                changed, source=source, digest=digest_of(text)
            )
            await self.store.library.index_again(changed, [DocumentPart(text=text)])
            # The old file is removed only after the transaction that stops referencing
            # it.
            if old:
                await self._files.remove(document.tenant, old)
        self.indexer.notify()
        return await self.store.documents.get(dataset.tenant, dataset.id, document.id)

    async def update_file(
        self,
        dataset: Dataset,
        document: Document,
        name: str,
        data: bytes,
        *,
        title: str = "",
        origin: Mapping[str, Any] = EMPTY_OBJECT,
        **fields: Any,
    ) -> Document:
        """Replace a document's file, and where it came from. The old content is found
        until the new one is indexed. Raises InvokeBadRequestError."""
        self.reader.check_size(name, len(data))
        if not data:
            raise InvokeBadRequestError(f"File {name!r} is empty", param="file")
        stored_file = await self._files.add(dataset.tenant, name, data)
        old = str(document.source.get("file") or "")
        source = {
            **origin,
            "kind": "file",
            "file": stored_file.id,
            "size": len(data),
            "mime_type": stored_file.mime_type,
        }
        # The new file may have another format than the old one.
        if fields.get("metadata") is None:
            fields["metadata"] = _without_detected_format(document)
        changed = self._with_changes(document, title or name, fields)
        changed = msgspec.structs.replace(
            changed, source=source, digest=digest_of(data.decode("latin-1"))
        )
        await self.store.library.index_again(changed, reads_anew=True)
        if old:
            await self._files.remove(document.tenant, old)
        self.indexer.notify()
        return await self.store.documents.get(dataset.tenant, dataset.id, document.id)

    @staticmethod
    def _with_changes(
        document: Document, name: str, fields: Mapping[str, Any]
    ) -> Document:
        """Return a copy of a document with a new batch id and the given changes.

        Fields that are None, and an empty name, leave the document's value unchanged.
        """
        values = {key: value for key, value in fields.items() if value is not None}
        return msgspec.structs.replace(
            document, name=(name or document.name)[:255], batch=new_uuid(), **values
        )

    async def delete_documents(self, dataset: Dataset, ids: Sequence[str]) -> None:
        """Delete documents with their files. Ids of other datasets are ignored."""
        documents_by_id = await self.store.documents.get_many(dataset.tenant, ids)
        # The ids come from a request: only those of this dataset may be deleted.
        mine = [
            document
            for document in documents_by_id.values()
            if document.dataset == dataset.id
        ]
        await self.store.library.delete_documents(
            dataset.tenant, dataset.id, [document.id for document in mine]
        )
        await self._remove_files(mine)

    async def sync_folder(
        self, dataset: Dataset, folder: Path, **fields: Any
    ) -> dict[str, int]:
        """Synchronise a dataset with a folder: add new files, reindex changed ones,
        delete documents whose file no longer exists.

        Returns the counts of added, changed, deleted and unchanged documents.
        """
        rows_by_path = {
            str(msgspec.json.decode(row["source"]).get("path")): row
            for row in await self.store.documents.sources(dataset.tenant, dataset.id)
            if msgspec.json.decode(row["source"]).get("kind") == "path"
        }
        counts = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
        seen_paths: set[str] = set()
        new_documents: list[Document] = []
        for path, stamp, size in await asyncio.to_thread(list_files, folder):
            seen_paths.add(path)
            source = {"kind": "path", "path": path, "size": size}
            row = rows_by_path.get(path)
            if row is None:
                new_documents.append(
                    self._build_document(
                        dataset, Path(path).name, source, digest=stamp, **fields
                    )
                )
            elif row["digest"] != stamp:
                document = await self.store.documents.get(
                    dataset.tenant, dataset.id, row["id"]
                )
                changed = msgspec.structs.replace(
                    document,
                    source=source,
                    digest=stamp,
                    batch=fields.get("batch") or new_uuid(),
                )
                await self.store.library.index_again(changed, reads_anew=True)
                counts["changed"] += 1
            else:
                counts["same"] += 1
        # Another process that synchronises the same folder may have been faster.
        counts["added"] = len(await self._add_and_queue(new_documents))
        base = str(await asyncio.to_thread(folder.resolve))
        # A dataset may hold documents of several folders: only those below this one are
        # deleted.
        deleted_ids = [
            row["id"]
            for path, row in rows_by_path.items()
            if path not in seen_paths and path.startswith(base)
        ]
        for batch_start in range(0, len(deleted_ids), _DOCUMENTS_PER_TRANSACTION):
            batch_ids = deleted_ids[
                batch_start : batch_start + _DOCUMENTS_PER_TRANSACTION
            ]
            await self.delete_documents(dataset, batch_ids)
        counts["deleted"] = len(deleted_ids)
        self.indexer.notify()
        return counts

    async def wait(
        self, dataset: Dataset, batch: str, timeout: float | None = None
    ) -> list[Document]:
        """Wait until a batch is indexed and return its documents.

        Documents that failed count as finished. `timeout` is in seconds, None for no
        limit. Raises TimeoutError if the batch is not finished by then.
        """
        return await self.indexer.wait(dataset.tenant, dataset.id, batch, timeout)

    # Searching and reading

    async def search(
        self, tenant: str, datasets: Sequence[str], query: str, **options: Any
    ) -> Retrieval:
        """Search datasets for a query. The options are the fields of the search
        request."""
        return await self.retriever.search(
            datasets, SearchRequest(tenant=tenant, query=query, **options)
        )

    async def preview(
        self,
        name: str,
        data: bytes | str,
        *,
        rule: ProcessRule,
        form: DocForm = DocForm.TEXT,
    ) -> list[TextSegment]:
        """Return the segments a document would be split into, without storing anything.

        `data` is the text itself, or a file's bytes, whose format is told from `name`.
        Raises InvokeBadRequestError if the file cannot be parsed.
        """
        document = Document(
            tenant="", dataset="", id="", name=name, rule=rule, form=form
        )
        parts = (
            [DocumentPart(text=data)]
            if isinstance(data, str)
            else (await self.reader.parse(name, data)).parts
        )
        return (await asyncio.to_thread(prepare.split_document, parts, document))[0]

    async def text(self, document: Document) -> str:
        """Return a document's complete text after cleaning. Segments' positions refer
        to this text."""
        parts = await self.store.texts.get(document.id) or []
        return prepare.full_text(parts, document.rule.effective)[0]

    async def file(self, document: Document) -> tuple[str, bytes]:
        """Return the name and bytes of a document's original file. Raises
        NotFoundError."""
        if name := str(document.source.get("file") or ""):
            stored_file, data = await self._files.get(document.tenant, name)
            return stored_file.name, data
        if document.source.get("kind") == "text":
            parts = await self.store.texts.get(document.id) or []
            return f"{document.name}.txt", "\n\n".join(
                part.text for part in parts
            ).encode()
        raise NotFoundError(
            f"Document {document.id!r} has no file", code="file_not_found"
        )


def _without_detected_format(document: Document) -> dict[str, Any]:
    """Return a document's metadata without the format that was detected in its old
    file, so that it is detected in the new one."""
    metadata = dict(document.metadata)
    # Any other value is the user's own and stays.
    if metadata.get("format") == Path(document.name).suffix.lstrip(".").lower():
        metadata.pop("format", None)
    return metadata


def list_files(folder: Path) -> list[tuple[str, str, int]]:
    """Return (path, change stamp, size in bytes) of each file below a folder. Hidden
    files and symbolic links are left out."""
    files: list[tuple[str, str, int]] = []
    base = folder.resolve()
    for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
        if (
            any(part.startswith(".") for part in path.relative_to(base).parts)
            or path.is_symlink()
            or not path.is_file()
        ):
            continue
        file_stat = path.stat()
        # Size and modification time tell a changed file without reading it.
        files.append(
            (
                str(path),
                f"{file_stat.st_size}-{file_stat.st_mtime_ns}",
                file_stat.st_size,
            )
        )
    return files
