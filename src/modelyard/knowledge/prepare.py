"""From a parsed document to its segments and index entries. Pure functions, apart from
new ids and the given time."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from modelyard.base.ids import new_uuid
from modelyard.knowledge.analysis import encode_term_counts, keywords
from modelyard.knowledge.clean import clean
from modelyard.knowledge.entities import (
    Child,
    DatasetSettings,
    DocForm,
    Document,
    Rules,
    Segment,
    Technique,
)
from modelyard.knowledge.rows import DocumentPart, Entry, IndexContent
from modelyard.knowledge.split import TextSegment, split
from modelyard.models.tokens import estimate_tokens

_CELL_SEPARATOR = re.compile(r"(?<!\\)\|")
_QA_PAIR = re.compile(
    r"Q\d{1,6}:\s*+((?:(?![QA]\d{1,6}:)[^\n])*+)\s*+A\d{1,6}:\s*+((?:(?!Q\d{1,6}:)[\s\S])*+)"
)
_QUESTION_HEADERS = frozenset({"question", "questions", "q", "问题"})
_ANSWER_HEADERS = frozenset({"answer", "answers", "a", "答案", "回答"})


def digest_of(text: str) -> str:
    """Return the digest of a text: BLAKE2b, 128 bits, in hexadecimal."""
    # Texts from broken files may contain lone surrogates, which plain UTF-8 cannot
    # encode.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def full_text(
    parts: Sequence[DocumentPart], rules: Rules
) -> tuple[str, list[int], list[int]]:
    """Return the cleaned text of all parts, the start of each part in it, and each
    part's page."""
    if len(parts) == 1:
        return clean(parts[0].text, rules), [0], [parts[0].page]
    texts: list[str] = []
    starts: list[int] = []
    pages: list[int] = []
    position = 0
    for part in parts:
        text = clean(part.text, rules)
        starts.append(position)
        pages.append(part.page)
        texts.append(text)
        # Parts are joined by two line breaks.
        position += len(text) + 2
    return "\n\n".join(texts), starts, pages


def split_document(
    parts: Sequence[DocumentPart], document: Document
) -> tuple[list[TextSegment], list[int]]:
    """Split a document into text segments. Returns them with the page on which each
    starts."""
    text, starts, pages = full_text(parts, document.rule.effective)
    text_segments = split(text, document.rule, document.form)
    if len(starts) == 1:
        return text_segments, [pages[0]] * len(text_segments)
    return text_segments, [
        pages[bisect_right(starts, text_segment.start) - 1]
        for text_segment in text_segments
    ]


def searchable_text(heading: str, text: str) -> str:
    """Return the text that represents a segment in the index."""
    return f"{heading}\n{text}" if heading else text


def build_entry(segment: str, child: str, embedded: str, keyword_text: str) -> Entry:
    """Build an index entry without its vector: `embedded` is the text to embed,
    `keyword_text` the text for full-text search."""
    terms, length = encode_term_counts(keyword_text)
    return Entry(
        segment,
        child,
        digest_of(embedded),
        b"",
        terms,
        length,
    )


def prepare(
    document: Document,
    parts: Sequence[DocumentPart],
    settings: DatasetSettings,
    current_time: float,
) -> tuple[IndexContent, dict[str, str]]:
    """Prepare a document for indexing. Returns it without vectors, and the texts to
    embed by digest."""
    # Segments that were split elsewhere are used unchanged.
    if document.source.get("kind") == "chunks":
        return index_chunks(document, parts, settings, current_time)
    if document.form is DocForm.QA:
        return index_qa_pairs(
            document, qa_pairs_from_tables(parts), settings, current_time
        )
    text_segments, pages = split_document(parts, document)
    builder = _IndexBuilder(document, settings, current_time)
    for text_segment, page in zip(text_segments, pages, strict=True):
        builder.add(text_segment, page)
    builder.indexed.digest = document.digest
    builder.indexed.metadata = document.metadata
    return builder.indexed, builder.texts


class _IndexBuilder:
    """Collects the segments, children and entries of a document."""

    def __init__(
        self, document: Document, settings: DatasetSettings, current_time: float
    ) -> None:
        self._document = document
        self._is_economy = settings.indexing_technique is Technique.ECONOMY
        self._now = current_time
        self.indexed = IndexContent()
        self.texts: dict[str, str] = {}

    def add(self, text_segment: TextSegment, page: int) -> None:
        """Add a text segment with its children and index entries."""
        document, current_time = self._document, self._now
        segment = Segment(
            tenant=document.tenant,
            dataset=document.dataset,
            document=document.id,
            id=new_uuid(),
            position=len(self.indexed.segments) + 1,
            content=text_segment.text,
            keywords=keywords(text_segment.text) if self._is_economy else [],
            heading=text_segment.heading,
            page=page,
            start=text_segment.start,
            stop=text_segment.stop,
            words=len(text_segment.text),
            tokens=estimate_tokens(text_segment.text),
            digest=digest_of(text_segment.text),
            created_at=current_time,
            updated_at=current_time,
        )
        self.indexed.segments.append(segment)
        # If there are children, only they are searched; their parent is returned.
        if not text_segment.children:
            self._add_entry(
                segment.id, "", searchable_text(text_segment.heading, text_segment.text)
            )
            return
        for child_index, child_segment in enumerate(text_segment.children):
            child = Child(
                tenant=document.tenant,
                dataset=document.dataset,
                document=document.id,
                segment=segment.id,
                id=new_uuid(),
                position=child_index + 1,
                content=child_segment.text,
                created_at=current_time,
                updated_at=current_time,
            )
            self.indexed.children.append(child)
            self._add_entry(
                segment.id,
                child.id,
                searchable_text(child_segment.heading, child_segment.text),
            )

    def _add_entry(self, segment: str, child: str, text: str) -> None:
        """Add an index entry for a text, and note the text for embedding.

        `child` is empty if the entry stands for the segment itself. With economy
        indexing nothing is embedded.
        """
        new_entry = build_entry(segment, child, text, text)
        self.indexed.entries.append(new_entry)
        # Identical texts have the same digest and are embedded once.
        if not self._is_economy:
            self.texts[new_entry.digest] = text


def index_chunks(
    document: Document,
    parts: Sequence[DocumentPart],
    settings: DatasetSettings,
    current_time: float,
) -> tuple[IndexContent, dict[str, str]]:
    """Prepare a document that was split elsewhere: each part becomes one segment.

    Parts of a question and answer document give pairs instead. Positions are those in
    the text joined from all parts. Returns the content without vectors, and the texts
    to embed by their digest.
    """
    if document.form is DocForm.QA:
        return index_qa_pairs(
            document,
            [(part.text, part.answer) for part in parts],
            settings,
            current_time,
        )
    builder = _IndexBuilder(document, settings, current_time)
    # Positions are those in the joined text, as for other documents.
    position = 0
    for part in parts:
        text_segment = TextSegment(
            position,
            position + len(part.text),
            part.text,
        )
        text_segment.children = [
            TextSegment(
                position,
                position + len(child_text),
                child_text,
            )
            for child_text in part.children
        ]
        builder.add(text_segment, part.page)
        position += len(part.text) + 2
    builder.indexed.digest, builder.indexed.metadata = (
        document.digest,
        document.metadata,
    )
    return builder.indexed, builder.texts


def index_qa_pairs(
    document: Document,
    pairs: Sequence[tuple[str, str]],
    settings: DatasetSettings,
    current_time: float,
) -> tuple[IndexContent, dict[str, str]]:
    """Prepare question and answer pairs: the question is embedded, full-text search
    covers both."""
    indexed = IndexContent(digest=document.digest, metadata=document.metadata)
    texts: dict[str, str] = {}
    for pair_index, (question, answer) in enumerate(pairs):
        segment = Segment(
            tenant=document.tenant,
            dataset=document.dataset,
            document=document.id,
            id=new_uuid(),
            position=pair_index + 1,
            content=question,
            answer=answer,
            words=len(question) + len(answer),
            digest=digest_of(question),
            tokens=estimate_tokens(question) + estimate_tokens(answer),
            created_at=current_time,
            updated_at=current_time,
        )
        indexed.segments.append(segment)
        new_entry = build_entry(
            segment.id,
            "",
            question,
            f"{question}\n{answer}",
        )
        indexed.entries.append(new_entry)
        if settings.uses_vectors:
            texts[new_entry.digest] = question
    return indexed, texts


def qa_pairs_from_tables(parts: Sequence[DocumentPart]) -> list[tuple[str, str]]:
    """Extract question and answer pairs from Markdown tables.

    The columns are found by their headers; a table of two columns without such headers
    is used completely.
    """
    return [pair for part in parts for pair in _table_pairs(part.text)]


def _table_pairs(text: str) -> list[tuple[str, str]]:
    """Extract question and answer pairs from the table rows of one text.

    All lines that start and end with `|` are taken as one table with its header first.
    Empty if neither the headers nor a width of two columns tell which column is which;
    rows with an empty cell are left out.
    """
    rows = [
        _cells(line)
        for line in text.splitlines()
        if line.startswith("|") and line.endswith("|")
    ]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    question_column = _find_column(header, _QUESTION_HEADERS)
    answer_column = _find_column(header, _ANSWER_HEADERS)
    # The second row is the delimiter.
    body = rows[2:]
    if question_column < 0 or answer_column < 0:
        if len(header) != 2:
            return []
        # Without known headers the first row is a pair, too.
        question_column, answer_column = 0, 1
        body = [rows[0], *body]
    last_column = max(question_column, answer_column)
    return [
        (row[question_column], row[answer_column])
        for row in body
        if len(row) > last_column and row[question_column] and row[answer_column]
    ]


def _find_column(header: Sequence[str], names: frozenset[str]) -> int:
    """Return the first column with one of the names; -1 if there is none."""
    return next((column for column, cell in enumerate(header) if cell in names), -1)


def _cells(line: str) -> list[str]:
    """Return the cells of a Markdown table row, without outer spaces.

    An escaped `|` becomes a plain one, and `<br>` a line break.
    """
    return [
        cell.strip().replace("\\|", "|").replace("<br>", "\n")
        for cell in _CELL_SEPARATOR.split(line)[1:-1]
    ]


def parse_qa_pairs(text: str) -> list[tuple[str, str]]:
    """Parse the pairs that a model wrote as `Q1: … A1: …`."""
    return [
        (match[0].strip(), match[1].strip())
        for match in _QA_PAIR.findall(text)
        if match[0].strip() and match[1].strip()
    ]


def add_summary(
    indexed: IndexContent, segment: Segment, summary: str, texts: dict[str, str]
) -> None:
    """Set a segment's summary and add an index entry for it, in place.

    The summary is also added to `texts`, by its digest, so that it is embedded.
    `segment` must be one of the content's segments.
    """
    segment_index = indexed.segments.index(segment)
    # Segments are immutable: replace it in the list.
    indexed.segments[segment_index] = msgspec.structs.replace(segment, summary=summary)
    new_entry = build_entry(segment.id, "", summary, summary)
    indexed.entries.append(new_entry)
    texts[new_entry.digest] = summary
