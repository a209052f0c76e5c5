"""Sources of an answer of Google's API: parsed to citations with positions, and written.

Google counts bytes of UTF-8, our types count characters of a part.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from modelyard.base.fields import count, without_empty
from modelyard.base.json_types import is_array, is_object
from modelyard.models.citations import WholeText, placed_citations
from modelyard.models.messages import Citation, PromptMessageContent
from modelyard.models.types import JSON

Placed = tuple[int, Citation]
"""Number of a text, and a citation with positions in it."""


def parse_sources(candidate: JSON, texts: Sequence[str]) -> list[Placed]:
    """Return the sources of a candidate, each with the number of the text that it is
    for.

    They come from `groundingMetadata` (web pages and retrieved documents) and from
    `citationMetadata` (recited sources). Those that support no segment are for the last
    text, without a position. `texts` are the answer's texts in order; without any,
    there are no sources.
    """
    if not texts:
        return []
    grounding = candidate.get("groundingMetadata")
    placed = _grounded(grounding, candidate, texts) if is_object(grounding) else []
    metadata = candidate.get("citationMetadata")
    if is_object(metadata):
        # Google's two APIs name this list differently.
        for cited in metadata.get("citations") or metadata.get("citationSources") or ():
            if is_object(cited) and (source := _source(cited)) is not None:
                placed.append(_located(source, cited, texts))
    return placed


def _grounded(grounding: JSON, candidate: JSON, texts: Sequence[str]) -> list[Placed]:
    """Return the sources of the supported segments, then those without a segment."""
    chunks = grounding.get("groundingChunks") or ()
    sources: dict[int, Citation] = {}
    for index, chunk in enumerate(chunks):
        source = _source(_inner(chunk))
        if source is not None:
            sources[index] = source
    supported = list(_supported(grounding))
    placed = [
        _located(
            sources[index],
            segment,
            texts,
            _bytes_before(candidate, segment),
        )
        for index, segment in supported
        if index in sources
    ]
    last = len(texts) - 1
    # A source without a segment is still one: it belongs to the whole answer.
    used = {index for index, _ in supported}
    unsupported = [index for index in sources if index not in used]
    return placed + [(last, sources[index]) for index in unsupported]


def _supported(grounding: JSON) -> Iterator[tuple[int, JSON]]:
    """Yield (number of a source, segment that it supports)."""
    for support in grounding.get("groundingSupports") or ():
        segment: JSON = support.get("segment") or {}
        for index in support.get("groundingChunkIndices") or ():
            yield index, segment


def _inner(chunk: Any) -> JSON:
    """Return the source inside a chunk, which is in a field named for its kind."""
    if not is_object(chunk):
        return {}
    inner = chunk.get("web") or chunk.get("retrievedContext") or chunk.get("maps")
    return inner if is_object(inner) else {}


def _source(body: JSON) -> Citation | None:
    """Return a source as a citation; None if it has neither an address nor a title, as
    a document of the vendor's own store."""
    url, title = body.get("uri") or "", body.get("title") or ""
    if not url and not title:
        return None
    return Citation(url=url, title=title, quote=body.get("text") or "")


def _bytes_before(candidate: JSON, segment: JSON) -> int:
    """Return the number of bytes of the answer before the part in which a segment
    counts."""
    content = candidate.get("content")
    parts = content.get("parts") if is_object(content) else None
    if not is_array(parts):
        return 0
    earlier = parts[: count(segment.get("partIndex")) or 0]
    return sum(_text_bytes(part) for part in earlier if is_object(part))


def _text_bytes(part: JSON) -> int:
    """Return the size of a part's text in UTF-8, in which Google counts positions."""
    # A thought is a part, too, and none of the texts.
    if part.get("thought"):
        return 0
    return len((part.get("text") or "").encode())


def _located(
    source: Citation, segment: JSON, texts: Sequence[str], offset: int = 0
) -> Placed:
    """Return a source with the position of a segment; it has none if the segment is not
    in the texts. `offset` is the number of bytes before the part of the segment."""
    start, end = count(segment.get("startIndex")) or 0, count(segment.get("endIndex"))
    words = segment.get("text") or ""
    # Words are looked for in the texts; without any, only the bytes help.
    if end and not words:
        start, end = start + offset, end + offset
    number, first, last = _position(start, end or 0, words, texts)
    if last is None:
        return number, source
    return number, Citation(
        url=source.url, title=source.title, quote=source.quote, start=first, end=last
    )


def _position(
    start: int, end: int, words: str, texts: Sequence[str]
) -> tuple[int, int | None, int | None]:
    """Return (number of a text, start, end) in characters for a segment in bytes."""
    for number, text in enumerate(texts):
        encoded = text.encode()
        if encoded[start:end] == words.encode() and words:
            return number, _characters(encoded, start), _characters(encoded, end)
    # The segment may be counted within another part than ours.
    for number, text in enumerate(texts):
        if words and words in text:
            found = text.index(words)
            return number, found, found + len(words)
    # Without its words, it counts in the whole text.
    for number, text in enumerate(texts):
        encoded = text.encode()
        if end and not words and start < len(encoded):
            return number, _characters(encoded, start), _characters(encoded, end)
        start, end = max(start - len(encoded), 0), max(end - len(encoded), 0)
    return len(texts) - 1, None, None


def _characters(encoded: bytes, position: int) -> int:
    """Return a position in bytes as one in characters."""
    # A position in the middle of a character counts as that of its start.
    return len(encoded[:position].decode(errors="ignore"))


def dump_sources(parts: Iterable[PromptMessageContent]) -> JSON:
    """Build `citationMetadata` from the citations of all texts of an answer."""
    parts = list(parts)
    return citation_metadata(placed_citations(parts), WholeText(parts).text)


def citation_metadata(citations: Iterable[Citation], text: str) -> JSON:
    """Build `citationMetadata` from citations with positions in the whole text.

    Citations without an address and a title are left out. Returns an empty object if
    none is left.
    """
    sources = [
        without_empty(
            uri=citation.url,
            title=citation.title,
            startIndex=_bytes(text, citation.start),
            endIndex=_bytes(text, citation.end),
        )
        for citation in citations
        if citation.url or citation.title
    ]
    return {"citationMetadata": {"citations": sources}} if sources else {}


def _bytes(text: str, position: int | None) -> int | None:
    """Return a position in characters as one in bytes."""
    return None if position is None else len(text[:position].encode())
