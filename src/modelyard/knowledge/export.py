"""Export and import of a dataset: a ZIP file of JSON lines with documents, segments,
children and vectors, which can be imported elsewhere without any model call."""

import asyncio
import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import (
    Child,
    Dataset,
    DatasetSettings,
    Document,
    Segment,
    Status,
)
from modelyard.knowledge.rows import DocumentPart, Entry, IndexContent, PreparedDocument
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.tenancy.caller import current_api_key

_FORMAT = 1
_MAX_LINE_BYTES = 256 << 20


async def export_dataset(
    datasets: Datasets, dataset: Dataset, path: Path
) -> dict[str, int]:
    """Export a dataset's completed documents to a file. Returns the counts of what was
    written.

    Raises ConfigError if the file cannot be written.
    """
    store = datasets.store
    documents, _ = await store.documents.list_page(
        dataset.tenant, dataset.id, state="completed", limit=10_000_000
    )
    counts = {"documents": 0, "segments": 0, "vectors": 0}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        head = {
            "format": _FORMAT,
            "name": dataset.name,
            "description": dataset.description,
            "settings": dataset.settings,
            "model": dataset.model,
            "dimensions": dataset.dimensions,
        }
        archive.writestr("dataset.json", msgspec.json.encode(head))
        with archive.open("documents.jsonl", "w", force_zip64=True) as lines:
            # The listing is newest first: write the oldest first, so that an import
            # keeps the order.
            for document in reversed(documents):
                line = await _document_line(store, dataset, document)
                lines.write(msgspec.json.encode(line) + b"\n")
                counts["documents"] += 1
                counts["segments"] += len(line["segments"])
                counts["vectors"] += sum(bool(row["vector"]) for row in line["entries"])
    # The archive is built in memory and written last, so that a failed export leaves no
    # partial file.
    try:
        await asyncio.to_thread(path.write_bytes, target.getvalue())
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error.strerror}"
        ) from error
    return counts


async def _document_line(
    store: KnowledgeStore, dataset: Dataset, document: Document
) -> dict[str, Any]:
    """Return a document with its text, segments, children and entries, as the file
    contains it."""
    segments, _ = await store.segments.list_page(
        dataset.tenant, document.id, limit=10_000_000
    )
    children: list[Child] = []
    for segment in segments:
        segment_children, _ = await store.segments.list_children(
            dataset.tenant, segment.id
        )
        children += segment_children
    entries = await store.entries.list_of_document(document.id, dataset.space)
    return {
        "document": document,
        "text": await store.texts.get(document.id),
        "segments": segments,
        "children": children,
        # Vectors and terms are binary, hence base64.
        "entries": [
            {
                "segment": row["segment"],
                "child": row["child"],
                "digest": row["digest"],
                "length": row["length"],
                "vector": base64.b64encode(row["vector"]).decode(),
                "terms": base64.b64encode(row["terms"]).decode(),
            }
            for row in entries
        ],
    }


async def import_dataset(
    datasets: Datasets, tenant: str, path: Path, *, name: str = ""
) -> Dataset:
    """Import a file as a new dataset. Raises ConfigError if the file is invalid,
    ConflictError if the name exists."""
    try:
        archive = zipfile.ZipFile(path)
        head: dict[str, Any] = msgspec.json.decode(archive.read("dataset.json"))
        if head.get("format") != _FORMAT:
            raise ConfigError(
                f"{str(path)!r}: unsupported format {head.get('format')!r}; expected"
                f" {_FORMAT}"
            )
        settings = msgspec.convert(head["settings"], DatasetSettings)
    except (OSError, zipfile.BadZipFile, KeyError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{str(path)!r} is not an exported dataset: {error}"
        ) from error
    dataset = await datasets.create(
        tenant,
        name or head["name"],
        description=head.get("description", ""),
        settings=settings,
    )
    with archive, archive.open("documents.jsonl") as lines:
        # The line limit bounds the memory that a damaged file can use.
        while line := lines.readline(_MAX_LINE_BYTES):
            await _import_document(
                datasets,
                dataset,
                msgspec.json.decode(line),
                head,
            )
    return await datasets.store.datasets.get(tenant, dataset.id)


async def _import_document(
    datasets: Datasets, dataset: Dataset, line: dict[str, Any], head: dict[str, Any]
) -> None:
    """Import one document under new ids, so that the same file can be imported several
    times."""
    home = {"tenant": dataset.tenant, "dataset": dataset.id}
    document = msgspec.structs.replace(
        msgspec.convert(line["document"], Document),
        **home,
        id=new_uuid(),
        batch="import",
        status=Status.WAITING,
        api_key=current_api_key(dataset.tenant),
    )
    # The original file is not exported: the imported document has only its text.
    if document.source.get("kind") == "file":
        document = msgspec.structs.replace(document, source={"kind": "text", "size": 0})
    indexed = _imported_content(document, line, head)
    parts = msgspec.convert(line["text"] or [], list[DocumentPart])
    # The lease keeps the indexer from processing the document before it is published.
    texts = {document.id: parts} if parts else {}
    add = datasets.store.library.add
    placed = await add([document], parts=texts, is_ours=True)
    if not placed:
        # The dataset has a document of this path already: this one is only its text.
        as_text = msgspec.structs.replace(document, source={"kind": "text", "size": 0})
        placed = await add([as_text], parts=texts, is_ours=True)
    await datasets.store.publisher.publish([PreparedDocument(placed[0], 0, indexed)])


def _imported_content(
    document: Document, line: dict[str, Any], head: dict[str, Any]
) -> IndexContent:
    """Return the segments, children and entries of a line of the file under new ids."""
    # Old id to new id; the empty id stands for an entry without a child.
    new_ids: dict[str, str] = {"": ""}
    home = {
        "tenant": document.tenant,
        "dataset": document.dataset,
        "document": document.id,
    }
    indexed = IndexContent(
        metadata=document.metadata,
        digest=document.digest,
        dimensions=int(head["dimensions"]),
        model=head["model"],
    )
    for segment in msgspec.convert(line["segments"], list[Segment]):
        new_ids[segment.id] = new_uuid()
        indexed.segments.append(
            msgspec.structs.replace(
                segment,
                **home,
                id=new_ids[segment.id],
            )
        )
    for child in msgspec.convert(line["children"], list[Child]):
        new_ids[child.id] = new_uuid()
        indexed.children.append(
            msgspec.structs.replace(
                child, **home, segment=new_ids[child.segment], id=new_ids[child.id]
            )
        )
    indexed.entries = [
        Entry(
            new_ids[entry["segment"]],
            new_ids[entry["child"]],
            entry["digest"],
            base64.b64decode(entry["vector"]),
            base64.b64decode(entry["terms"]),
            entry["length"],
        )
        for entry in line["entries"]
    ]
    # A dataset without vectors must not fix the vector length of the index.
    if not any(entry.vector for entry in indexed.entries):
        indexed.dimensions = 0
    return indexed
