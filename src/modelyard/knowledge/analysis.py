"""Words as full-text search sees them: the same for documents, questions, and every store.

Latin script: words, lower-case, stemmed by Snowball's English rules, without the most common ones. Chinese, Japanese,
Korean, Thai and their like: single characters and pairs of neighbours, since nothing stands between their words. On
four Chinese collections that finds more than dictionaries do, and needs none.

A term is its CRC-32: four bytes, the same everywhere, no vocabulary to keep. Of 200,000 different words about five
pairs meet in one number.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

from modelyard.base.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
_WIDE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_PIECE = re.compile(rf"[{_WIDE}]+|[^\W_{_WIDE}]+")
_FIRST_WIDE = re.compile(rf"[{_WIDE}]")
_MOST_REMEMBERED = 500_000
_MOST_WORD = 64


@cache
def _stemmer() -> Any:
    return lazy("Stemmer", extra="knowledge").Stemmer("english")


class _Terms(dict[str, int]):
    """Word → term; 0 for those that are left out. What was seen is remembered: stemming costs ten times a look-up."""

    def __missing__(self, word: str) -> int:
        if word in STOP_WORDS:
            term = 0
        else:
            stem: str = _stemmer().stemWord(word[:_MOST_WORD])
            term = crc32(stem.encode("utf-8", "surrogatepass")) or 1
        if len(self) > _MOST_REMEMBERED:
            self.clear()
        self[word] = term
        return term


class _Characters(dict[str, int]):
    def __missing__(self, sign: str) -> int:
        term = crc32(sign.encode("utf-8", "surrogatepass")) or 1
        if len(self) > _MOST_REMEMBERED:
            self.clear()
        self[sign] = term
        return term


_words = _Terms()
_characters = _Characters()


def terms(text: str) -> list[int]:
    """The terms of a text in order, doubles and all."""
    if text.isascii():
        found = [_words[word] for word in _ASCII_WORD.findall(text.lower())]
        return [term for term in found if term]
    found = []
    for piece in _PIECE.findall(unicodedata.normalize("NFKC", text).lower()):
        if _FIRST_WIDE.match(piece):
            found += [_characters[sign] for sign in piece]
            found += [_characters[piece[at : at + 2]] for at in range(len(piece) - 1)]
        elif term := _words[piece]:
            found.append(term)
    return found


def counted(text: str) -> tuple[bytes, int]:
    """A text's terms as they are stored, and how many there are: sorted terms (uint32), then how often (uint8)."""
    found = terms(text)
    if not found:
        return b"", 0
    counts = Counter(found)
    unique = sorted(counts)
    # Four bytes each in the machine's order, as NumPy reads them; of so few, NumPy itself takes ten times as long.
    return array("I", unique).tobytes() + bytes([min(counts[one], 255) for one in unique]), len(found)


def split_counted(stored: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Many texts' terms, counts, and how many different ones each has: shapes (sum,), (sum,), (texts,)."""
    sizes = np.array([len(one) // 5 for one in stored], np.int64)
    every = np.frombuffer(b"".join([one[: len(one) // 5 * 4] for one in stored]), np.uint32)
    counts = np.frombuffer(b"".join([one[len(one) // 5 * 4 :] for one in stored]), np.uint8)
    return every, counts, sizes


_KEYWORD = re.compile(rf"[{_WIDE}]{{2,}}|[^\W\d_{_WIDE}][^\W_{_WIDE}]{{2,}}")


def keywords(text: str, most: int = 10) -> list[str]:
    """What a text speaks of most, as words to show; long words count a little more."""
    counts: dict[str, int] = {}
    for piece in _KEYWORD.findall(text[:100_000]):
        word = piece.lower()
        if word in STOP_WORDS:
            continue
        for one in [word] if not _FIRST_WIDE.match(word) else [word[at : at + 2] for at in range(len(word) - 1)]:
            counts[one] = counts.get(one, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word] * (1 + min(len(word), 12) / 12), word))[:most]
