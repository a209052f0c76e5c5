"""Vectors and words in the PostgreSQL database itself: pgvector's HNSW, and BM25 over rows of postings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy
from modelyard.knowledge.analysis import split_counted
from modelyard.knowledge.index.base import ReadChanges, Space
from modelyard.knowledge.index.bm25 import K1, B
from modelyard.knowledge.index.follower import Follower
from modelyard.knowledge.rows import Changes
from modelyard.knowledge.stored.followers import Followers
from modelyard.storage.vectors import VectorRows, VectorSpace, VectorTables, Wanted

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

_ROWS = 500


class PgVectorIndex(Follower):
    name = "pgvector"

    def __init__(self, read: ReadChanges, followers: Followers, tables: VectorTables) -> None:
        super().__init__(read, followers)
        self._tables = tables

    async def put(self, space: Space, changes: Changes) -> None:
        batches = [_rows(changes, slice(begin, begin + _ROWS)) for begin in range(0, len(changes.ids), _ROWS)]
        await self._tables.put(_place(space), changes.removed, batches, is_whole=changes.is_whole)

    async def nearest(
        self, space: Space, vector: np.ndarray, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        return await self._tables.nearest(_place(space), _literal(vector), most, documents)

    async def cosines(self, space: Space, vector: np.ndarray, entries: Sequence[int]) -> Mapping[int, float]:
        return await self._tables.cosines(_place(space), _literal(vector), entries)

    async def matching(
        self, space: Space, weights: Mapping[int, float], average: float, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        wanted = Wanted(k1=K1, b=B, average=average, weights=weights)
        return await self._tables.matching(_place(space), wanted, most, documents)

    async def sums(
        self, space: Space, weights: Mapping[int, float], average: float, entries: Sequence[int]
    ) -> Mapping[int, float]:
        wanted = Wanted(k1=K1, b=B, average=average, weights=weights)
        return await self._tables.sums(_place(space), wanted, entries)

    async def points(self, space: Space) -> int:
        return await self._tables.count(_place(space))

    async def delete(self, dataset: str, number: int | None) -> None:
        await self._tables.delete(dataset, number)

    async def aclose(self) -> None:
        await self._tables.aclose()


def _place(space: Space) -> VectorSpace:
    return VectorSpace(space.dataset, space.number, space.dimensions)


def _rows(changes: Changes, some: slice) -> VectorRows:
    ids, documents = changes.ids[some], changes.documents[some]
    terms, counts, sizes = split_counted(changes.terms[some])
    return VectorRows(
        entries=ids,
        documents=documents,
        vectors=[_literal(np.frombuffer(each, np.float32)) if each else None for each in changes.vectors[some]],
        terms=terms.tolist(),
        counts=counts.tolist(),
        posting_entries=np.repeat(ids, sizes).tolist(),
        posting_lengths=np.repeat(changes.lengths[some], sizes).tolist(),
        posting_documents=np.repeat(documents, sizes).tolist(),
    )


def _literal(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{number:.7g}" for number in vector.tolist()) + "]"
