"""Indexes in external stores. Each is brought up to the database's generation before a
search, by idempotent steps.

Surplus entries in such a store do no harm: they are looked up in the database and found
to be deleted.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.analysis import decode_term_counts
from modelyard.knowledge.index.base import (
    IndexHit,
    IndexKey,
    IndexQuery,
    ReadChanges,
    fuse_scores,
)
from modelyard.knowledge.index.bm25 import idf, query_term_counts
from modelyard.knowledge.rows import IndexDelta
from modelyard.knowledge.stored.followers import IndexProgress

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

# Pseudo-terms under which the number of entries and their total length are stored.
_ENTRY_COUNT_TERM, _TOTAL_LENGTH_TERM = 0, -1
_SAMPLE_SIZE, _CENTROID_SECONDS = 256, 60.0


class _Centroid(NamedTuple):
    """The mean of a sample of the vectors of a space."""

    vector: np.ndarray
    size: int
    generation: int
    """The generation of the dataset in which it was read."""
    read_at: float

    def is_valid_for(self, space: IndexKey) -> bool:
        """Return whether it still stands for the entries of a space."""
        # Of many entries some may come and go: what is unrelated stays the same.
        is_large = self.size == _SAMPLE_SIZE
        return self.generation == space.generation or (
            is_large and time.monotonic() - self.read_at < _CENTROID_SECONDS
        )


class ExternalIndex(ABC):
    """Common part of external indexes; stores differ in how they write points and run
    each leg of a search."""

    name: str

    def __init__(self, read: ReadChanges, followers: IndexProgress) -> None:
        self._read = read
        self._index_progress = followers
        self._generations: dict[tuple[str, int], int] = {}
        self._centroids: dict[tuple[str, int], _Centroid] = {}
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}

    # Implemented by each store

    @abstractmethod
    async def apply_changes(self, space: IndexKey, changes: IndexDelta) -> None:
        """Write the changed entries and delete removed ones. A full snapshot replaces
        all entries of the space."""

    @abstractmethod
    async def nearest(
        self,
        space: IndexKey,
        vector: np.ndarray,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the nearest entries with their cosine similarity."""

    @abstractmethod
    async def matching(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the entries with the highest sum of term weights, each multiplied by
        its share (`bm25.Part.shares`)."""

    @abstractmethod
    async def cosines(
        self, space: IndexKey, vector: np.ndarray, entries: Sequence[int]
    ) -> Mapping[int, float]:
        """Return the cosine similarity of the given entries."""

    @abstractmethod
    async def sums(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        entries: Sequence[int],
    ) -> Mapping[int, float]:
        """Return the weighted term sums of the given entries."""

    # Common to all stores

    async def sync_to_generation(self, space: IndexKey) -> None:
        """Bring the store up to the required generation. Does nothing if it is already
        there."""
        if self._generations.get(space.key, -1) >= space.generation:
            return
        # One synchronisation per space at a time; the second check is for those that
        # waited.
        async with self._locks.setdefault(space.key, asyncio.Lock()):
            if self._generations.get(space.key, -1) >= space.generation:
                return
            # Other processes share the store, so its recorded generation counts, not
            # this process's memory.
            since = await self._index_progress.synced_generation(
                self.name, space.dataset, space.number
            )
            if since < space.generation:
                changes = await self._read(
                    space.dataset, space.number, since, space.generation
                )
                # Write the points before recording the generation: after a crash the
                # same changes are applied again.
                await self.apply_changes(space, changes)
                await self._index_progress.record_sync(
                    self.name,
                    space.dataset,
                    space.number,
                    since,
                    space.generation,
                    _term_count_changes(changes),
                    is_snapshot=changes.is_snapshot,
                )
            self._generations[space.key] = space.generation

    async def search(
        self, space: IndexKey, search_request: IndexQuery
    ) -> Sequence[IndexHit]:
        """Return the hits for a query, best first, after synchronising the store."""
        await self.sync_to_generation(space)
        semantic: dict[int, float] = {}
        keyword_scores: dict[int, float] = {}
        leg_limit = _leg_limit(search_request)
        if search_request.vector is not None:
            semantic.update(
                await self.nearest(
                    space, search_request.vector, leg_limit, search_request.documents
                )
            )
        if search_request.text is None:
            return _single_leg_hits(semantic, search_request.limit, is_semantic=True)
        weights, average, max_score = await self._weights(space, search_request.text)
        if weights:
            matched_scores = await self.matching(
                space, weights, average, leg_limit, search_request.documents
            )
            keyword_scores.update(
                (entry, score / max_score) for entry, score in matched_scores.items()
            )
        if search_request.vector is None:
            return _single_leg_hits(
                keyword_scores, search_request.limit, is_semantic=False
            )
        # Complete the scores: an entry found by one leg may simply be below the other
        # leg's limit.
        if missing := [entry for entry in keyword_scores if entry not in semantic]:
            semantic.update(await self.cosines(space, search_request.vector, missing))
        if weights and (
            missing := [entry for entry in semantic if entry not in keyword_scores]
        ):
            matched_scores = await self.sums(space, weights, average, missing)
            keyword_scores.update(
                (entry, score / max_score) for entry, score in matched_scores.items()
            )
        background = await self._background(space, search_request.vector)
        return fuse_scores(semantic, keyword_scores, search_request, background)

    async def _background(self, space: IndexKey, vector: np.ndarray) -> float:
        """Return the mean cosine of a query and the entries of a space, by a sample."""
        centroid = self._centroids.get(space.key)
        if centroid is None or not centroid.is_valid_for(space):
            centroid = await self._read_centroid(space)
            self._centroids[space.key] = centroid
        return float(centroid.vector @ vector)

    async def _read_centroid(self, space: IndexKey) -> _Centroid:
        """Return the mean of the oldest vectors of a space."""
        sample = await self._index_progress.sample_vectors(
            space.dataset, space.number, _SAMPLE_SIZE
        )
        width = space.dimensions * 4
        rows = [
            np.frombuffer(vector_bytes, np.float32)
            for vector_bytes in sample
            if len(vector_bytes) == width
        ]
        # Without vectors there is nothing that a query could be near to.
        mean = np.mean(rows, axis=0) if rows else np.zeros(space.dimensions)
        return _Centroid(mean, len(rows), space.generation, time.monotonic())

    async def _weights(
        self, space: IndexKey, text: str
    ) -> tuple[dict[int, float], float, float]:
        """Return the weights of the query's terms, the entries' mean length, and the
        score of an entry with all terms."""
        query_terms = query_term_counts(text)
        holding = await self._index_progress.term_counts(
            self.name,
            space.dataset,
            space.number,
            [*query_terms, _ENTRY_COUNT_TERM, _TOTAL_LENGTH_TERM],
        )
        entries = max(1, holding.get(_ENTRY_COUNT_TERM, 0))
        weights = {
            term: times * idf(holding.get(term, 0), entries)
            for term, times in query_terms.items()
        }
        # Terms that no entry contains need not be queried, but they count for the
        # maximum.
        present_weights = {
            term: weight for term, weight in weights.items() if holding.get(term, 0) > 0
        }
        return (
            present_weights,
            max(1.0, holding.get(_TOTAL_LENGTH_TERM, 0) / entries),
            sum(weights.values()) or 1.0,
        )

    async def mean_length_after(self, space: IndexKey, changes: IndexDelta) -> float:
        """Return the entries' mean length after the changes are applied."""
        stored_counts = (
            {}
            if changes.is_snapshot
            else await self._index_progress.term_counts(
                self.name,
                space.dataset,
                space.number,
                [_ENTRY_COUNT_TERM, _TOTAL_LENGTH_TERM],
            )
        )
        added_counts = _term_count_changes(changes)
        entries = (
            stored_counts.get(_ENTRY_COUNT_TERM, 0) + added_counts[_ENTRY_COUNT_TERM]
        )
        return max(
            1.0,
            (
                stored_counts.get(_TOTAL_LENGTH_TERM, 0)
                + added_counts[_TOTAL_LENGTH_TERM]
            )
            / max(1, entries),
        )

    async def count(self, space: IndexKey) -> int:
        """Return the number of entries in the store after synchronising it."""
        await self.sync_to_generation(space)
        return await self.count_points(space)

    @abstractmethod
    async def count_points(self, space: IndexKey) -> int:
        """Return the number of entries that the store holds for the space."""
        ...

    async def drop(self, dataset: str, number: int | None = None) -> None:
        """Delete one index of a dataset, or all of them if `number` is None."""
        for key in [
            space_key
            for space_key in self._generations
            if space_key[0] == dataset and number in (None, space_key[1])
        ]:
            del self._generations[key]
            self._locks.pop(key, None)
            self._centroids.pop(key, None)
        await self.delete(dataset, number)
        await self._index_progress.forget_store(self.name, dataset)

    @abstractmethod
    async def delete(self, dataset: str, number: int | None) -> None:
        """Delete the entries of one space from the store, or of all spaces if `number`
        is None."""
        ...

    @abstractmethod
    async def aclose(self) -> None:
        """Close the store's connections."""
        ...


def _leg_limit(search_request: IndexQuery) -> int:
    """Return the number of hits of each search leg. Fusion needs more candidates than
    the final result has hits."""
    if search_request.text is None or search_request.vector is None:
        return search_request.limit
    return max(search_request.limit, search_request.candidates)


def _term_count_changes(changes: IndexDelta) -> dict[int, int]:
    """Return how the changes alter the number of entries per term, including the
    pseudo-terms."""
    term_counts: Counter[int] = Counter()
    if changes.terms:
        all_terms, _, _ = decode_term_counts(changes.terms)
        unique, counts = np.unique(all_terms, return_counts=True)
        term_counts.update(dict(zip(unique.tolist(), counts.tolist(), strict=True)))
    term_counts[_ENTRY_COUNT_TERM] = len(changes.ids)
    term_counts[_TOTAL_LENGTH_TERM] = sum(changes.lengths)
    if changes.removed_terms:
        all_terms, _, _ = decode_term_counts(
            [terms for terms, _ in changes.removed_terms]
        )
        unique, counts = np.unique(all_terms, return_counts=True)
        term_counts.subtract(dict(zip(unique.tolist(), counts.tolist(), strict=True)))
        term_counts[_ENTRY_COUNT_TERM] -= len(changes.removed_terms)
        term_counts[_TOTAL_LENGTH_TERM] -= sum(
            length for _, length in changes.removed_terms
        )
    return dict(term_counts)


def _single_leg_hits(
    scores: Mapping[int, float], limit: int, *, is_semantic: bool
) -> list[IndexHit]:
    """Return the hits of a search with one leg only, best first."""
    # An entry without a matching term is not a full-text hit, but a cosine of 0 still is
    # a result.
    eligible_scores = (
        scores
        if is_semantic
        else {entry: score for entry, score in scores.items() if score > 0}
    )
    order = sorted(eligible_scores, key=lambda entry: (-eligible_scores[entry], entry))[
        :limit
    ]
    hits: list[IndexHit] = []
    for entry in order:
        score = min(1.0, max(0.0, scores[entry]))
        hits.append(
            IndexHit(
                entry,
                score,
                score if is_semantic else None,
                None if is_semantic else score,
            )
        )
    return hits
