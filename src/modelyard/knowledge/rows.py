"""Conversion between the database rows of the knowledge tables and their records."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.entities import (
    Child,
    Dataset,
    DatasetSettings,
    DocForm,
    Document,
    ProcessRule,
    Segment,
    Status,
)
from modelyard.storage.database import Row


class DocumentPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a parsed document: the complete text, or one page, slide or sheet."""

    text: str
    page: int = 0
    """Page number from 1; 0 if the format has no pages."""
    answer: str = ""
    children: list[str] = []
    """Child texts, if the document was split elsewhere: see `Datasets.add_chunks`."""


class ConflictError(InvokeBadRequestError):
    """A record with this name already exists."""

    code = "name_duplicate"


@dataclass(slots=True)
class Entry:
    """A searchable entry of a segment or child."""

    segment: str
    child: str
    digest: str
    vector: bytes
    terms: bytes
    length: int


@dataclass(slots=True)
class IndexContent:
    """A document's segments, children and index entries, ready to be stored."""

    segments: list[Segment] = field(default_factory=list[Segment])
    children: list[Child] = field(default_factory=list[Child])
    entries: list[Entry] = field(default_factory=list[Entry])
    dimensions: int = 0
    model: str = ""
    is_staged: bool = False
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    digest: str = ""


@dataclass(slots=True)
class PreparedDocument:
    """A document that is ready to be published, with the revision that was indexed."""

    document: Document
    attempt: int
    indexed: IndexContent


class FilterRow(msgspec.Struct, frozen=True, gc=False):
    """The properties of a document that decide whether a search may return it.

    Large datasets have many of them, so the garbage collector does not track them.
    """

    id: str
    values: dict[str, Any]
    """Metadata by field name, with the built-in fields."""
    readers: list[str]
    """Principals of its access list; empty if it has none."""
    is_searchable: bool
    """Whether the document is enabled and not archived."""


@dataclass(frozen=True, slots=True)
class EntryContent:
    """The segment, and the child if there is one, that an index entry represents."""

    segment: Segment
    child: Child | None


@dataclass(frozen=True, slots=True)
class IndexDelta:
    """The changes that bring an index up to date. `ids` and the lists up to `lengths`
    are parallel."""

    is_snapshot: bool
    """The lists are complete: the index must discard all earlier entries."""
    ids: list[int]
    documents: list[str]
    vectors: list[bytes]
    terms: list[bytes]
    lengths: list[int]
    removed: list[int]
    removed_terms: list[tuple[bytes, int]]
    """Terms and lengths of removed entries that the index already contained, to correct
    its statistics."""


def to_json(value: Any) -> str:
    """Encode a value as JSON text."""
    return msgspec.json.encode(value).decode()


_settings = msgspec.json.Decoder(DatasetSettings)
_rule = msgspec.json.Decoder(ProcessRule)
_any = msgspec.json.Decoder()
_parts = msgspec.json.Decoder(list[DocumentPart])
# A search reads many documents: calling an enum takes ten times as long as a dictionary
# look-up.
_FORMS = {form.value: form for form in DocForm}
_STATUSES = {status.value: status for status in Status}


def read_dataset(row: Row) -> Dataset:
    """Return the dataset of a row."""
    return Dataset(
        tenant=row["tenant"],
        id=row["id"],
        name=row["name"],
        description=row["description"],
        settings=_settings.decode(row["settings"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        generation=row["generation"],
        space=row["space"],
        dimensions=row["dimensions"],
        model=row["model"],
    )


def read_document(row: Row) -> Document:
    """Return the document of a row."""
    return Document(
        tenant=row["tenant"],
        dataset=row["dataset"],
        id=row["id"],
        position=row["position"],
        name=row["name"],
        batch=row["batch"],
        source=_any.decode(row["source"]),
        form=_FORMS[row["form"]],
        language=row["language"],
        rule=_rule.decode(row["rule"]),
        status=_STATUSES[row["status"]],
        error=row["error"],
        is_enabled=bool(row["is_enabled"]),
        is_archived=bool(row["is_archived"]),
        metadata=_any.decode(row["metadata"]),
        readers=_any.decode(row["readers"]),
        words=row["words"],
        tokens=row["tokens"],
        segments=row["segments"],
        done=row["done"],
        hits=row["hits"],
        digest=row["digest"],
        times=_any.decode(row["times"]),
        command=row["command"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        api_key=row["api_key"],
    )


def read_filter_row(row: Row) -> FilterRow:
    """Return the filterable properties of a row."""
    return FilterRow(
        id=row["id"],
        values={
            "document_name": row["name"],
            "uploader": row["created_by"],
            "upload_date": row["created_at"],
            "last_update_date": row["updated_at"],
            "source": _any.decode(row["source"]).get("kind", ""),
            # Metadata fields with a built-in name take precedence.
            **_any.decode(row["metadata"]),
        },
        readers=_any.decode(row["readers"]),
        is_searchable=bool(row["is_enabled"]) and not row["is_archived"],
    )


def read_parts(row: Row) -> list[DocumentPart]:
    """Return the parsed parts of a document_texts row."""
    return _parts.decode(row["body"])


def read_segment(row: Row) -> Segment:
    """Return the segment of a row."""
    return Segment(
        tenant=row["tenant"],
        dataset=row["dataset"],
        document=row["document"],
        id=row["id"],
        position=row["position"],
        content=row["content"],
        answer=row["answer"],
        keywords=_any.decode(row["keywords"]),
        summary=row["summary"],
        heading=row["heading"],
        page=row["page"],
        start=row["start"],
        stop=row["stop"],
        words=row["words"],
        tokens=row["tokens"],
        digest=row["digest"],
        is_enabled=bool(row["is_enabled"]),
        hits=row["hits"],
        error=row["error"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def read_child(row: Row) -> Child:
    """Return the child of a row."""
    return Child(
        tenant=row["tenant"],
        dataset=row["dataset"],
        document=row["document"],
        segment=row["segment"],
        id=row["id"],
        position=row["position"],
        content=row["content"],
        kind=row["kind"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def segment_row(segment: Segment) -> tuple[Any, ...]:
    """Return a segment's column values, in the order of the INSERT statement."""
    return (
        segment.tenant,
        segment.dataset,
        segment.document,
        segment.id,
        segment.position,
        segment.content,
        segment.answer,
        to_json(segment.keywords),
        segment.summary,
        segment.heading,
        segment.page,
        segment.start,
        segment.stop,
        segment.words,
        segment.tokens,
        segment.digest,
        int(segment.is_enabled),
        segment.hits,
        segment.error,
        segment.created_at,
        segment.updated_at,
    )


def child_row(child: Child) -> tuple[Any, ...]:
    """Return a child's column values, in the order of the INSERT statement."""
    return (
        child.tenant,
        child.dataset,
        child.document,
        child.segment,
        child.id,
        child.position,
        child.content,
        child.kind,
        child.created_at,
        child.updated_at,
    )


def document_row(document: Document, owner: str, until: float) -> tuple[Any, ...]:
    """Return a document's column values, in the order of the INSERT statement, with the
    owner of its lease."""
    return (
        document.tenant,
        document.dataset,
        document.id,
        document.position,
        document.name,
        document.batch,
        to_json(document.source),
        document.form.value,
        document.language,
        to_json(document.rule),
        document.status.value,
        document.error,
        int(document.is_enabled),
        int(document.is_archived),
        to_json(document.metadata),
        to_json(document.readers),
        document.words,
        document.tokens,
        document.segments,
        document.done,
        document.hits,
        document.digest,
        to_json(document.times),
        document.command,
        document.created_by,
        document.created_at,
        document.updated_at,
        owner,
        until,
        document.api_key,
        source_key(document.source),
    )


def source_key(source: Mapping[str, Any]) -> str:
    """Return what identifies a source of which a dataset has only one document: the
    path of a file, or a document of a connector. Empty for all other sources."""
    if connector := source.get("connector"):
        # Addresses and keys are longer than an index may hold.
        identity = f"{connector}\n{source.get('key')}"
        return hashlib.sha256(identity.encode()).hexdigest()
    return str(source.get("path") or "") if source.get("kind") == "path" else ""


def finished_row(
    prepared: PreparedDocument, current_time: float, generation: int
) -> tuple[Any, ...]:
    """Return the column values of a document whose indexing is complete, in the given
    generation of its dataset."""
    char_count = sum(segment.words for segment in prepared.indexed.segments)
    tokens = sum(segment.tokens for segment in prepared.indexed.segments)
    # The counts of all segments and of searchable segments are equal at the end.
    count = len(prepared.indexed.segments)
    return (
        char_count,
        tokens,
        count,
        count,
        prepared.indexed.digest,
        to_json(prepared.indexed.metadata),
        to_json(prepared.document.times),
        current_time,
        generation,
        prepared.document.id,
    )


def like_pattern(keyword: str) -> str:
    """Return a LIKE pattern that matches a keyword anywhere, in lower case; empty for
    no filter."""
    return f"%{keyword.lower()}%" if keyword else ""
