"""What the tables of knowledge hold, read from rows and written as such."""

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
    """What was read of a document: all of it, or a page, slide or sheet."""

    text: str
    page: int = 0
    """From 1; 0 where the format knows no pages."""
    answer: str = ""
    children: list[str] = []
    """Of what came split already: see `Datasets.add_chunks`."""


class ConflictError(InvokeBadRequestError):
    """There is one of that name already."""

    code = "name_duplicate"


@dataclass(slots=True)
class Entry:
    """Something that will be searched."""

    segment: str
    child: str
    digest: str
    vector: bytes
    terms: bytes
    length: int


@dataclass(slots=True)
class Indexed:
    """A document, ready to be searched."""

    segments: list[Segment] = field(default_factory=list[Segment])
    children: list[Child] = field(default_factory=list[Child])
    entries: list[Entry] = field(default_factory=list[Entry])
    dimensions: int = 0
    model: str = ""
    is_staged: bool = False
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    digest: str = ""


@dataclass(slots=True)
class Ready:
    document: Document
    turn: int
    indexed: Indexed


@dataclass(frozen=True, slots=True)
class Detail:
    """What an entry stands for."""

    segment: Segment
    child: Child | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What an index needs to follow: shapes of `ids` and the others are the same."""

    is_whole: bool
    """All there is: what was known before is to be forgotten."""
    ids: list[int]
    documents: list[str]
    vectors: list[bytes]
    terms: list[bytes]
    lengths: list[int]
    removed: list[int]
    gone: list[tuple[bytes, int]]
    """Terms and lengths of those that went and were known before."""


def dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_settings = msgspec.json.Decoder(DatasetSettings)
_rule = msgspec.json.Decoder(ProcessRule)
_any = msgspec.json.Decoder()
_parts = msgspec.json.Decoder(list[DocumentPart])
# A search reads many documents: an enum that is called takes ten times as long as a look-up.
_FORMS = {form.value: form for form in DocForm}
_STATUSES = {status.value: status for status in Status}


def read_dataset(row: Row) -> Dataset:
    return Dataset(
        tenant=row["tenant"], id=row["id"], name=row["name"], description=row["description"],
        settings=_settings.decode(row["settings"]), created_by=row["created_by"], created_at=row["created_at"],
        updated_at=row["updated_at"], generation=row["generation"], space=row["space"], dimensions=row["dimensions"],
        model=row["model"],
    )  # fmt: skip


def read_document(row: Row) -> Document:
    return Document(
        tenant=row["tenant"], dataset=row["dataset"], id=row["id"], position=row["position"], name=row["name"],
        batch=row["batch"], source=_any.decode(row["source"]), form=_FORMS[row["form"]], language=row["language"],
        rule=_rule.decode(row["rule"]), status=_STATUSES[row["status"]], error=row["error"],
        is_enabled=bool(row["is_enabled"]), is_archived=bool(row["is_archived"]),
        metadata=_any.decode(row["metadata"]), readers=_any.decode(row["readers"]), words=row["words"],
        tokens=row["tokens"], segments=row["segments"], done=row["done"], hits=row["hits"], digest=row["digest"],
        times=_any.decode(row["times"]), command=row["command"], created_by=row["created_by"],
        created_at=row["created_at"], updated_at=row["updated_at"], api_key=row["api_key"],
    )  # fmt: skip


def read_parts(row: Row) -> list[DocumentPart]:
    return _parts.decode(row["body"])


def read_segment(row: Row) -> Segment:
    return Segment(
        tenant=row["tenant"], dataset=row["dataset"], document=row["document"], id=row["id"], position=row["position"],
        content=row["content"], answer=row["answer"], keywords=_any.decode(row["keywords"]), summary=row["summary"],
        heading=row["heading"], page=row["page"], start=row["start"], stop=row["stop"], words=row["words"],
        tokens=row["tokens"], digest=row["digest"], is_enabled=bool(row["is_enabled"]), hits=row["hits"],
        error=row["error"], created_at=row["created_at"], updated_at=row["updated_at"],
    )  # fmt: skip


def read_child(row: Row) -> Child:
    return Child(
        tenant=row["tenant"], dataset=row["dataset"], document=row["document"], segment=row["segment"], id=row["id"],
        position=row["position"], content=row["content"], kind=row["kind"], created_at=row["created_at"],
        updated_at=row["updated_at"],
    )  # fmt: skip


def segment_row(one: Segment) -> tuple[Any, ...]:
    return (
        one.tenant, one.dataset, one.document, one.id, one.position, one.content, one.answer, dump(one.keywords),
        one.summary, one.heading, one.page, one.start, one.stop, one.words, one.tokens, one.digest,
        int(one.is_enabled), one.hits, one.error, one.created_at, one.updated_at,
    )  # fmt: skip


def child_row(one: Child) -> tuple[Any, ...]:
    return (
        one.tenant, one.dataset, one.document, one.segment, one.id, one.position, one.content, one.kind,
        one.created_at, one.updated_at,
    )  # fmt: skip


def document_row(one: Document, owner: str, until: float) -> tuple[Any, ...]:
    return (
        one.tenant, one.dataset, one.id, one.position, one.name, one.batch, dump(one.source), one.form.value,
        one.language, dump(one.rule), one.status.value, one.error, int(one.is_enabled), int(one.is_archived),
        dump(one.metadata), dump(one.readers), one.words, one.tokens, one.segments, one.done, one.hits, one.digest,
        dump(one.times), one.command, one.created_by, one.created_at, one.updated_at, owner, until, one.api_key,
    )  # fmt: skip


def finished(one: Ready, now: float) -> tuple[Any, ...]:
    words = sum(each.words for each in one.indexed.segments)
    tokens = sum(each.tokens for each in one.indexed.segments)
    count = len(one.indexed.segments)
    return (
        words, tokens, count, count, one.indexed.digest, dump(one.indexed.metadata), dump(one.document.times), now,
        one.document.id,
    )  # fmt: skip


def like(keyword: str) -> str:
    return f"%{keyword.lower()}%" if keyword else ""
