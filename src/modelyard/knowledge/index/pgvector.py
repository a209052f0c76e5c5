"""Index in the PostgreSQL database itself: pgvector's HNSW for vectors, and BM25 over
posting rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.analysis import decode_term_counts
from modelyard.knowledge.index.base import IndexKey, ReadChanges
from modelyard.knowledge.index.bm25 import K1, B
from modelyard.knowledge.index.follower import ExternalIndex
from modelyard.knowledge.rows import IndexDelta
from modelyard.knowledge.stored.followers import IndexProgress
from modelyard.storage.vectors import (
    KeywordQuery,
    VectorRows,
    VectorSpace,
    VectorTables,
)

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

_BATCH_ROWS = 500


class PgVectorIndex(ExternalIndex):
    """Vector and full-text index in PostgreSQL with pgvector."""

    name = "pgvector"

    def __init__(
        self, read: ReadChanges, followers: IndexProgress, tables: VectorTables
    ) -> None:
        super().__init__(read, followers)
        self._tables = tables

    async def apply_changes(self, space: IndexKey, changes: IndexDelta) -> None:
        """Write the changed entries in batches and delete removed ones."""
        batches = [
            _batch_rows(changes, slice(start, start + _BATCH_ROWS))
            for start in range(0, len(changes.ids), _BATCH_ROWS)
        ]
        await self._tables.put(
            _vector_space(space),
            changes.removed,
            batches,
            replace_all=changes.is_snapshot,
        )

    async def nearest(
        self,
        space: IndexKey,
        vector: np.ndarray,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the nearest entries with their cosine similarity."""
        return await self._tables.nearest(
            _vector_space(space), _vector_literal(vector), limit, documents
        )

    async def cosines(
        self, space: IndexKey, vector: np.ndarray, entries: Sequence[int]
    ) -> Mapping[int, float]:
        """Return the cosine similarity of the given entries."""
        return await self._tables.cosines(
            _vector_space(space), _vector_literal(vector), entries
        )

    async def matching(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the entries with the highest BM25 sums, by entry id.

        `weights` maps terms to their weights, `average` is the mean number of terms of
        an entry. `documents` restricts the search; None means all. Raises
        StorageUnavailableError.
        """
        # The formula is evaluated in SQL with the dataset's current mean length.
        keyword_query = KeywordQuery(k1=K1, b=B, average=average, weights=weights)
        return await self._tables.keyword_search(
            _vector_space(space), keyword_query, limit, documents
        )

    async def sums(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        entries: Sequence[int],
    ) -> Mapping[int, float]:
        """Return the BM25 sums of the given entries."""
        keyword_query = KeywordQuery(k1=K1, b=B, average=average, weights=weights)
        return await self._tables.sums(_vector_space(space), keyword_query, entries)

    async def count_points(self, space: IndexKey) -> int:
        """Return the number of entries in the space."""
        return await self._tables.count(_vector_space(space))

    async def delete(self, dataset: str, number: int | None) -> None:
        """Delete the rows of one space, or of all spaces of the dataset if `number` is
        None."""
        await self._tables.delete(dataset, number)

    async def aclose(self) -> None:
        """Close the connections to the vector database."""
        await self._tables.aclose()


def _vector_space(space: IndexKey) -> VectorSpace:
    return VectorSpace(space.dataset, space.number, space.dimensions)


def _batch_rows(changes: IndexDelta, batch: slice) -> VectorRows:
    """Return one batch of changed entries as rows for the vector and posting tables.

    Encoded terms are expanded to one posting per entry and term. An entry without a
    vector gets None.
    """
    ids, documents = changes.ids[batch], changes.documents[batch]
    terms, counts, sizes = decode_term_counts(changes.terms[batch])
    # Postings are one row per entry and term, hence the repeated entry columns.
    return VectorRows(
        entries=ids,
        documents=documents,
        vectors=[
            _vector_literal(np.frombuffer(vector, np.float32)) if vector else None
            for vector in changes.vectors[batch]
        ],
        terms=terms.tolist(),
        counts=counts.tolist(),
        posting_entries=np.repeat(ids, sizes).tolist(),
        posting_lengths=np.repeat(changes.lengths[batch], sizes).tolist(),
        posting_documents=np.repeat(documents, sizes).tolist(),
    )


def _vector_literal(vector: np.ndarray) -> str:
    """Return a vector as pgvector's text format. Nine digits preserve a float32."""
    return "[" + ",".join(f"{number:.9g}" for number in vector.tolist()) + "]"
