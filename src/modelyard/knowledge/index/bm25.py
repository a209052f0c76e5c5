"""BM25 over hashed terms, as NumPy arrays: what is searched of the words of one space.

Lucene's formula with k1 = 1.2 and b = 0.75. A posting's share is worked out once, when the arrays are made: a question
is then a few sums over slices. Additions go to a small part of their own until there are enough to merge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy
from modelyard.knowledge.analysis import split_counted, terms

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

K1, B = 1.2, 0.75
_SAMPLED, _STRIDE = 20_000, 16
_MOST_TERMS = 512  # of a question: more is a document, and its rarest words say enough


class Part:
    """Postings of entries `first` to `first + count`, by term."""

    def __init__(self, first: int, stored: Sequence[bytes], lengths: np.ndarray) -> None:
        self.first = first
        self.count = len(stored)
        every, counts, sizes = split_counted(stored)
        slots = np.repeat(np.arange(self.count, dtype=np.int32), sizes)
        order = np.argsort(every, kind="stable")
        ordered = every[order]
        self.slots = slots[order]
        self.counts = counts[order]
        self.terms, starts = np.unique(ordered, return_index=True)
        self.starts = np.append(starts, len(ordered)).astype(np.int64)
        self.lengths = lengths.astype(np.float32)
        self.forget_shares()

    def forget_shares(self) -> None:
        self._average = 0.0
        self._shares = np.zeros(0, np.float32)

    def shares(self, average: float) -> np.ndarray:
        """What each posting is worth before the term's own weight."""
        if abs(average - self._average) > 0.01 * average or len(self._shares) != len(self.slots):
            counts = self.counts.astype(np.float32)
            norm = K1 * (1 - B + B * self.lengths / max(average, 1e-9))
            self._shares = counts * (K1 + 1) / (counts + norm[self.slots])
            self._average = average
        return self._shares

    def slice(self, term: int) -> tuple[int, int]:
        place = int(np.searchsorted(self.terms, np.uint32(term)))
        if place == len(self.terms) or self.terms[place] != term:
            return 0, 0
        return int(self.starts[place]), int(self.starts[place + 1])


def question(text: str) -> dict[int, int]:
    """The different terms of a question, and how often each is there."""
    counts = Counter(terms(text))
    return dict(islice(counts.items(), _MOST_TERMS))


def idf(holding: int, alive: int) -> float:
    """What a term weighs that so many entries hold. One that none holds weighs as if one did: it counts as missing."""
    holding = max(1, min(holding, alive))
    return math.log(1 + (max(alive, 1) - holding + 0.5) / (holding + 0.5))


def scored(parts: Sequence[Part], wanted: Mapping[int, int], total: int, alive: int, average: float) -> np.ndarray:
    """How much of the question's words each of `total` entries holds: 0 to 1, shape (total,)."""
    best = 0.0
    slots: list[np.ndarray] = []
    worth: list[np.ndarray] = []
    for term, times in wanted.items():
        found = [(part, *part.slice(term)) for part in parts]
        holding = sum(stop - start for _, start, stop in found)
        weight = times * idf(holding, alive)
        best += weight
        for part, start, stop in found:
            if start < stop:
                some = part.slots[start:stop]
                slots.append(some if part.first == 0 else some + part.first)
                worth.append(part.shares(average)[start:stop] * np.float32(weight))
    if not slots:
        return np.zeros(total, np.float32)
    # One pass over all postings: adding term by term reads and writes the scores at random for each.
    scores = np.bincount(np.concatenate(slots), np.concatenate(worth), total)
    return (scores / best).astype(np.float32)


def top(scores: np.ndarray, most: int, *, above: float = 0.0) -> np.ndarray:
    """Places of the highest scores, best first; of equal ones the earlier first."""
    count = len(scores)
    places = np.arange(count)
    if count > _SAMPLED and most * 8 < count:
        # What is above the best of a sample's is few; the rest need not be ordered.
        sample = scores[::_STRIDE]
        rank = min(len(sample) - 1, most // _STRIDE * 2 + 16)
        cut = np.partition(sample, len(sample) - 1 - rank)[len(sample) - 1 - rank]
        few = np.flatnonzero(scores >= cut)
        places = few if len(few) >= most else places
    if most < len(places):
        places = places[np.argpartition(scores[places], len(places) - most)[-most:]]
    places = places[scores[places] > above]
    return places[np.lexsort((places, -scores[places]))]
