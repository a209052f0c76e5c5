"""Positions of sources. Our types count characters within a part; some formats count
them in the whole text of an answer, or count bytes."""

from collections.abc import Iterable

import msgspec

from modelyard.models.messages import (
    Citation,
    PromptMessageContent,
    TextPromptMessageContent,
)


def covering(citations: Iterable[Citation], length: int) -> list[Citation]:
    """Return citations of a format in which a source stands for its whole text, of
    `length` characters."""
    return [
        msgspec.structs.replace(citation, start=0, end=length) for citation in citations
    ]


def moved(citation: Citation, offset: int) -> Citation:
    """Return a citation moved by a number of characters; one without a position is
    unchanged."""
    if citation.start is None or citation.end is None or not offset:
        return citation
    return msgspec.structs.replace(
        citation, start=citation.start + offset, end=citation.end + offset
    )


class WholeText:
    """The whole text of an answer that comes in parts, whole or as a stream."""

    __slots__ = ("_length", "_pieces", "_starts")

    def __init__(self, parts: Iterable[PromptMessageContent] = ()) -> None:
        self._pieces: list[str] = []
        self._length = 0
        # Index of a part → number of characters before it.
        self._starts: dict[int, int] = {}
        for part in parts:
            if isinstance(part, TextPromptMessageContent):
                self.add(part.data)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def add(self, text: str) -> None:
        """Append a text."""
        if text:
            self._pieces.append(text)
            self._length += len(text)

    def place(self, part: TextPromptMessageContent) -> list[Citation]:
        """Append a part, or a fragment of one; return its citations with positions in
        the whole text."""
        # Fragments without an index belong to one text.
        start = 0 if part.index is None else self._length
        start = self._starts.setdefault(-1 if part.index is None else part.index, start)
        self.add(part.data)
        return [moved(citation, start) for citation in part.citations]


def placed_citations(parts: Iterable[PromptMessageContent]) -> list[Citation]:
    """Return the citations of complete parts, with positions in the whole text."""
    citations: list[Citation] = []
    offset = 0
    for part in parts:
        if isinstance(part, TextPromptMessageContent):
            citations += [moved(citation, offset) for citation in part.citations]
            offset += len(part.data)
    return citations
