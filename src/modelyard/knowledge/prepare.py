"""From what was read of a document to what will be kept and searched of it. Pure, but for ids and the clock."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from modelyard.base.ids import new_uuid
from modelyard.knowledge.analysis import counted, keywords
from modelyard.knowledge.clean import clean
from modelyard.knowledge.entities import Child, DatasetSettings, DocForm, Document, Rules, Segment, Technique
from modelyard.knowledge.rows import DocumentPart, Entry, Indexed
from modelyard.knowledge.split import Piece, split
from modelyard.models.tokens import estimate_tokens

_ROW = re.compile(r"(?<!\\)\|")
_PAIR = re.compile(r"Q\d{1,6}:\s*+((?:(?![QA]\d{1,6}:)[^\n])*+)\s*+A\d{1,6}:\s*+((?:(?!Q\d{1,6}:)[\s\S])*+)")
_QUESTIONS = frozenset({"question", "questions", "q", "问题"})
_ANSWERS = frozenset({"answer", "answers", "a", "答案", "回答"})


def digest_of(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def whole(parts: Sequence[DocumentPart], rules: Rules) -> tuple[str, list[int], list[int]]:
    """The cleaned text, where each part begins in it, and those parts' pages."""
    if len(parts) == 1:
        return clean(parts[0].text, rules), [0], [parts[0].page]
    texts: list[str] = []
    starts: list[int] = []
    pages: list[int] = []
    at = 0
    for part in parts:
        text = clean(part.text, rules)
        starts.append(at)
        pages.append(part.page)
        texts.append(text)
        at += len(text) + 2
    return "\n\n".join(texts), starts, pages


def cut(parts: Sequence[DocumentPart], document: Document) -> tuple[list[Piece], list[int]]:
    """Pieces, and the page that each begins on."""
    text, starts, pages = whole(parts, document.rule.effective)
    pieces = split(text, document.rule, document.form)
    if len(starts) == 1:
        return pieces, [pages[0]] * len(pieces)
    return pieces, [pages[bisect_right(starts, one.start) - 1] for one in pieces]


def searched(heading: str, text: str) -> str:
    """What stands for a piece when it is looked for."""
    return f"{heading}\n{text}" if heading else text


def entry(segment: str, child: str, embedded: str, words: str) -> Entry:
    terms, length = counted(words)
    return Entry(segment, child, digest_of(embedded), b"", terms, length)


def prepare(
    document: Document, parts: Sequence[DocumentPart], settings: DatasetSettings, now: float
) -> tuple[Indexed, dict[str, str]]:
    """Ready but for its vectors, and what is to be embedded: digest → text."""
    if document.source.get("kind") == "chunks":
        return of_chunks(document, parts, settings, now)
    if document.form is DocForm.QA:
        return of_pairs(document, pairs_of_tables(parts), settings, now)
    pieces, pages = cut(parts, document)
    made = _Made(document, settings, now)
    for piece, page in zip(pieces, pages, strict=True):
        made.add(piece, page)
    made.indexed.digest = document.digest
    made.indexed.metadata = document.metadata
    return made.indexed, made.texts


class _Made:
    def __init__(self, document: Document, settings: DatasetSettings, now: float) -> None:
        self._document = document
        self._is_economy = settings.indexing_technique is Technique.ECONOMY
        self._now = now
        self.indexed = Indexed()
        self.texts: dict[str, str] = {}

    def add(self, piece: Piece, page: int) -> None:
        document, now = self._document, self._now
        segment = Segment(
            tenant=document.tenant, dataset=document.dataset, document=document.id, id=new_uuid(),
            position=len(self.indexed.segments) + 1, content=piece.text,
            keywords=keywords(piece.text) if self._is_economy else [], heading=piece.heading, page=page,
            start=piece.start, stop=piece.stop, words=len(piece.text), tokens=estimate_tokens(piece.text),
            digest=digest_of(piece.text), created_at=now, updated_at=now,
        )  # fmt: skip
        self.indexed.segments.append(segment)
        if not piece.children:
            self._enter(segment.id, "", searched(piece.heading, piece.text))
            return
        for place, one in enumerate(piece.children):
            child = Child(
                tenant=document.tenant, dataset=document.dataset, document=document.id, segment=segment.id,
                id=new_uuid(), position=place + 1, content=one.text, created_at=now, updated_at=now,
            )  # fmt: skip
            self.indexed.children.append(child)
            self._enter(segment.id, child.id, searched(one.heading, one.text))

    def _enter(self, segment: str, child: str, text: str) -> None:
        made = entry(segment, child, text, text)
        self.indexed.entries.append(made)
        if not self._is_economy:
            self.texts[made.digest] = text


def of_chunks(
    document: Document, parts: Sequence[DocumentPart], settings: DatasetSettings, now: float
) -> tuple[Indexed, dict[str, str]]:
    """What came split already: a segment a part."""
    if document.form is DocForm.QA:
        return of_pairs(document, [(one.text, one.answer) for one in parts], settings, now)
    made = _Made(document, settings, now)
    at = 0
    for part in parts:
        piece = Piece(at, at + len(part.text), part.text)
        piece.children = [Piece(at, at + len(one), one) for one in part.children]
        made.add(piece, part.page)
        at += len(part.text) + 2
    made.indexed.digest, made.indexed.metadata = document.digest, document.metadata
    return made.indexed, made.texts


def of_pairs(
    document: Document, pairs: Sequence[tuple[str, str]], settings: DatasetSettings, now: float
) -> tuple[Indexed, dict[str, str]]:
    """Questions with their answers: the question is what vectors stand for, words are looked for in both."""
    indexed, texts = Indexed(digest=document.digest, metadata=document.metadata), {}
    for place, (question, answer) in enumerate(pairs):
        segment = Segment(
            tenant=document.tenant, dataset=document.dataset, document=document.id, id=new_uuid(), position=place + 1,
            content=question, answer=answer, words=len(question) + len(answer), digest=digest_of(question),
            tokens=estimate_tokens(question) + estimate_tokens(answer), created_at=now, updated_at=now,
        )  # fmt: skip
        indexed.segments.append(segment)
        made = entry(segment.id, "", question, f"{question}\n{answer}")
        indexed.entries.append(made)
        if settings.uses_vectors:
            texts[made.digest] = question
    return indexed, texts


def pairs_of_tables(parts: Sequence[DocumentPart]) -> list[tuple[str, str]]:
    """Rows of tables whose head names a question and an answer; of tables of two columns, all rows."""
    found: list[tuple[str, str]] = []
    for part in parts:
        rows = [_cells(line) for line in part.text.splitlines() if line.startswith("|") and line.endswith("|")]
        if not rows:
            continue
        head = [one.strip().lower() for one in rows[0]]
        asked = next((at for at, one in enumerate(head) if one in _QUESTIONS), -1)
        answered = next((at for at, one in enumerate(head) if one in _ANSWERS), -1)
        if asked < 0 or answered < 0:
            if len(head) != 2:
                continue
            asked, answered = 0, 1
            body = [rows[0], *rows[2:]]
        else:
            body = rows[2:]
        found += [
            (row[asked], row[answered])
            for row in body
            if len(row) > max(asked, answered) and row[asked] and row[answered]
        ]
    return found


def _cells(line: str) -> list[str]:
    return [one.strip().replace("\\|", "|").replace("<br>", "\n") for one in _ROW.split(line)[1:-1]]


def pairs_of_answer(text: str) -> list[tuple[str, str]]:
    """What a model wrote as `Q1: … A1: …`."""
    return [
        (match[0].strip(), match[1].strip()) for match in _PAIR.findall(text) if match[0].strip() and match[1].strip()
    ]


def with_summary(indexed: Indexed, segment: Segment, summary: str, texts: dict[str, str]) -> None:
    """A summary is looked for too, and leads to its segment."""
    at = indexed.segments.index(segment)
    indexed.segments[at] = msgspec.structs.replace(segment, summary=summary)
    made = entry(segment.id, "", summary, summary)
    indexed.entries.append(made)
    texts[made.digest] = summary
