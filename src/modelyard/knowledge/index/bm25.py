"""BM25 over hashed terms in NumPy arrays: the full-text part of an in-memory index.

Lucene's formula with k1 = 1.2 and b = 0.75. The term-frequency share of each posting is
computed once per array, so that a query is a few sums over slices. New entries go to a
small block of their own until merging pays off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.analysis import decode_term_counts, terms

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

# Lucene's values, so that results can be compared with published ones.
K1, B = 1.2, 0.75
_SAMPLE_FROM, _STRIDE = 20_000, 16
# Longer queries are documents: their first distinct terms suffice.
_MAX_QUERY_TERMS = 512


class PostingBlock:
    """The postings, sorted by term, of the entries `first` to `first + count`."""

    def __init__(
        self, first: int, encoded_terms: Sequence[bytes], lengths: np.ndarray
    ) -> None:
        self.first = first
        self.count = len(encoded_terms)
        all_terms, counts, sizes = decode_term_counts(encoded_terms)
        slots = np.repeat(np.arange(self.count, dtype=np.int32), sizes)
        # A stable sort keeps the entries of each term in order.
        order = np.argsort(all_terms, kind="stable")
        ordered = all_terms[order]
        self.slots = slots[order]
        self.counts = counts[order]
        self.terms, starts = np.unique(ordered, return_index=True)
        self.starts = np.append(starts, len(ordered)).astype(np.int64)
        self.lengths = lengths.astype(np.float32)
        self.reset_shares()

    def reset_shares(self) -> None:
        """Discard the cached shares; the next query computes them again."""
        self._average = 0.0
        self._shares = np.zeros(0, np.float32)

    def term_frequency_shares(self, average: float) -> np.ndarray:
        """Return the term-frequency share of each posting, before its term's own
        weight."""
        # Recompute only if the mean length has moved by more than 1 %: its effect on
        # the scores is tiny.
        if abs(average - self._average) > 0.01 * average or len(self._shares) != len(
            self.slots
        ):
            counts = self.counts.astype(np.float32)
            norm = K1 * (1 - B + B * self.lengths / max(average, 1e-9))
            self._shares = counts * (K1 + 1) / (counts + norm[self.slots])
            self._average = average
        return self._shares

    def term_range(self, term: int) -> tuple[int, int]:
        """Return the range of a term's postings; (0, 0) if no entry contains it."""
        index = int(np.searchsorted(self.terms, np.uint32(term)))
        if index == len(self.terms) or self.terms[index] != term:
            return 0, 0
        return int(self.starts[index]), int(self.starts[index + 1])

    def entry_indexes(self, start: int, stop: int) -> np.ndarray:
        """Return the entries of a range of postings, as indexes over all blocks."""
        slots = self.slots[start:stop]
        # The first block, which holds most entries, needs no copy.
        return slots if self.first == 0 else slots + self.first


def query_term_counts(text: str) -> dict[int, int]:
    """Return the distinct terms of a query and how often each occurs."""
    counts = Counter(terms(text))
    return dict(islice(counts.items(), _MAX_QUERY_TERMS))


def idf(holding: int, alive: int) -> float:
    """Return the inverse document frequency of a term.

    A term that no entry contains is weighted as if one did, so that it lowers the
    scores as a missing term.
    """
    holding = max(1, min(holding, alive))
    return math.log(1 + (max(alive, 1) - holding + 0.5) / (holding + 0.5))


def score_entries(
    parts: Sequence[PostingBlock],
    query_terms: Mapping[int, int],
    total: int,
    alive: int,
    average: float,
    *,
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """Return the share of the query's terms that each of `total` entries contains: 0 to
    1, shape (total,).

    Terms are weighted by the number of entries that contain them, of the `alive` ones;
    `counted` is True for the entries that count, None for all.
    """
    max_score = 0.0
    slots: list[np.ndarray] = []
    worth: list[np.ndarray] = []
    for term, times in query_terms.items():
        postings = [(part, *part.term_range(term)) for part in parts]
        # Document frequencies are summed over all blocks.
        holding = sum(_entry_count(*posting, counted) for posting in postings)
        weight = times * idf(holding, alive)
        max_score += weight
        for part, start, stop in postings:
            if start == stop:
                continue
            slots.append(part.entry_indexes(start, stop))
            worth.append(
                part.term_frequency_shares(average)[start:stop] * np.float32(weight)
            )
    if not slots:
        return np.zeros(total, np.float32)
    # One pass over all postings: adding term by term would access the scores at random
    # once per term.
    scores = np.bincount(
        np.concatenate(slots),
        np.concatenate(worth),
        total,
    )
    # The score that an entry with all terms at normal frequency would have becomes 1.
    return (scores / max_score).astype(np.float32)


def _entry_count(
    part: PostingBlock, start: int, stop: int, counted: np.ndarray | None
) -> int:
    """Return how many entries a range of postings has, of those that count."""
    if counted is None:
        return stop - start
    return int(counted[part.entry_indexes(start, stop)].sum())


def top_indexes(
    scores: np.ndarray, limit: int, *, threshold: float = 0.0
) -> np.ndarray:
    """Return the indexes of the highest scores above `threshold`, best first; equal
    scores in index order."""
    count = len(scores)
    indexes = np.arange(count)
    if count > _SAMPLE_FROM and limit * 8 < count:
        # A sampled threshold leaves few candidates, so that only these need to be
        # sorted.
        sample = scores[::_STRIDE]
        rank = min(len(sample) - 1, limit // _STRIDE * 2 + 16)
        cut = np.partition(sample, len(sample) - 1 - rank)[len(sample) - 1 - rank]
        candidates = np.flatnonzero(scores >= cut)
        # If the sample was unrepresentative, fall back to all entries.
        indexes = candidates if len(candidates) >= limit else indexes
    if limit < len(indexes):
        indexes = indexes[
            np.argpartition(scores[indexes], len(indexes) - limit)[-limit:]
        ]
    indexes = indexes[scores[indexes] > threshold]
    return indexes[np.lexsort((indexes, -scores[indexes]))]
