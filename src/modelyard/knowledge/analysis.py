"""Text analysis for full-text search: the same for documents, queries and every index.

Latin script: words in lower case, stemmed by Snowball's English rules, without stop
words. Chinese, Japanese, Korean, Thai and similar scripts: single characters and pairs
of adjacent characters, since they put no spaces between words. On four Chinese
collections this finds more than dictionary-based segmentation, and needs no dictionary.

A term is represented by its CRC-32: four bytes, the same on every machine, without a
stored vocabulary. Of 200,000 distinct words about five pairs collide.
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

from modelyard.base.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

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
_UNSPACED_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"  # noqa: E501
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_TOKEN_RUN = re.compile(rf"[{_UNSPACED_SCRIPTS}]+|[^\W_{_UNSPACED_SCRIPTS}]+")
_UNSPACED_CHARACTER = re.compile(rf"[{_UNSPACED_SCRIPTS}]")
_MAX_CACHED_TERMS = 500_000
_MAX_WORD_LENGTH = 64


@cache
def _stemmer() -> Any:
    return lazy_module("Stemmer", extra="knowledge").Stemmer("english")


class _WordTermCache(dict[str, int]):
    """A cache from word to term; 0 for stop words. Stemming costs ten times a look-up."""

    def __missing__(self, token: str) -> int:
        if token in STOP_WORDS:
            term = 0
        else:
            stem: str = _stemmer().stemWord(token[:_MAX_WORD_LENGTH])
            # 0 marks a stop word, so a checksum of 0 becomes 1.
            term = crc32(stem.encode("utf-8", "surrogatepass")) or 1
        # Clearing everything is cheaper than tracking which entries were used last.
        if len(self) > _MAX_CACHED_TERMS:
            self.clear()
        self[token] = term
        return term


class _CharacterTermCache(dict[str, int]):
    """A cache from a character, or a pair of characters, to its term."""

    def __missing__(self, characters: str) -> int:
        term = crc32(characters.encode("utf-8", "surrogatepass")) or 1
        if len(self) > _MAX_CACHED_TERMS:
            self.clear()
        self[characters] = term
        return term


_word_terms = _WordTermCache()
_character_terms = _CharacterTermCache()


def terms(text: str) -> list[int]:
    """Return the terms of a text in order, with repetitions."""
    # ASCII text needs no Unicode normalisation; this shorter path is the common one.
    if text.isascii():
        term_ids = [_word_terms[token] for token in _ASCII_WORD.findall(text.lower())]
        return [term for term in term_ids if term]
    return _unicode_terms(text)


def _unicode_terms(text: str) -> list[int]:
    """Return the terms of a text that is not pure ASCII, in order, with repetitions.

    The text is normalised (NFKC) and lower-cased. A run of a script without spaces
    gives its characters and then the pairs of adjacent ones; any other word gives its
    stem, unless it is a stop word.
    """
    term_ids: list[int] = []
    for run in _TOKEN_RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if _UNSPACED_CHARACTER.match(run):
            # Runs of scripts without word breaks give unigrams and bigrams.
            term_ids += [_character_terms[char] for char in run]
            term_ids += [
                _character_terms[run[index : index + 2]]
                for index in range(len(run) - 1)
            ]
        elif term := _word_terms[run]:
            term_ids.append(term)
    return term_ids


def encode_term_counts(text: str) -> tuple[bytes, int]:
    """Encode a text's terms for storage, as (bytes, number of terms).

    The bytes are the sorted distinct terms (uint32 each), followed by their counts
    (uint8 each, at most 255). The number includes repetitions. `decode_term_counts` is
    the inverse.
    """
    term_ids = terms(text)
    if not term_ids:
        return b"", 0
    counts = Counter(term_ids)
    unique = sorted(counts)
    # Native byte order, as NumPy reads it. For so few values, NumPy itself would take
    # ten times as long.
    return array("I", unique).tobytes() + bytes(
        [min(counts[term], 255) for term in unique]
    ), len(term_ids)


def decode_term_counts(
    encoded_texts: Sequence[bytes],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode the terms of many texts, as `encode_term_counts` wrote them.

    Returns three flat arrays: the terms of all texts one after another, their counts in
    the same order, and the number of distinct terms of each text, by which the first
    two can be split.
    """
    # Each term takes five bytes: four of the term, one of its count.
    sizes = np.array([len(encoded) // 5 for encoded in encoded_texts], np.int64)
    all_terms = np.frombuffer(
        b"".join([encoded[: len(encoded) // 5 * 4] for encoded in encoded_texts]),
        np.uint32,
    )
    counts = np.frombuffer(
        b"".join([encoded[len(encoded) // 5 * 4 :] for encoded in encoded_texts]),
        np.uint8,
    )
    return all_terms, counts, sizes


_KEYWORD = re.compile(
    rf"[{_UNSPACED_SCRIPTS}]{{2,}}|[^\W\d_{_UNSPACED_SCRIPTS}][^\W_{_UNSPACED_SCRIPTS}]{{2,}}"
)


def keywords(text: str, limit: int = 10) -> list[str]:
    """Return a text's most frequent keywords for display, best first.

    Long words count slightly more. At most `limit` are returned, in lower case, from
    the first 100,000 characters. For scripts without spaces they are pairs of
    characters.
    """
    counts: dict[str, int] = {}
    for match_text in _KEYWORD.findall(text[:100_000]):
        keyword_text = match_text.lower()
        if keyword_text in STOP_WORDS:
            continue
        # Scripts without word breaks have no words to show: pairs of characters stand
        # in for them.
        for keyword in (
            [keyword_text]
            if not _UNSPACED_CHARACTER.match(keyword_text)
            else [
                keyword_text[index : index + 2]
                for index in range(len(keyword_text) - 1)
            ]
        ):
            counts[keyword] = counts.get(keyword, 0) + 1
    # Ties are ordered alphabetically, so that the result is deterministic.
    return sorted(
        counts,
        key=lambda keyword: (
            -counts[keyword] * (1 + min(len(keyword), 12) / 12),
            keyword,
        ),
    )[:limit]
