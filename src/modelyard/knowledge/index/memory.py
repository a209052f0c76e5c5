"""The index without a server: arrays in memory, loaded from the database's rows and
kept up to date with them.

Up to 20,000 entries vectors are compared exactly, by one product of a matrix and a
vector. Above that a graph (HNSW) is built in the background, with exact search
meanwhile. Full-text search is BM25 over arrays. Each process has its own index and
reads what it lacks when the dataset's generation has changed. Nothing is stored here,
so a crash cannot corrupt anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.index.base import (
    IndexHit,
    IndexKey,
    IndexQuery,
    ReadChanges,
    fuse_scores,
)
from modelyard.knowledge.index.bm25 import (
    PostingBlock,
    query_term_counts,
    score_entries,
    top_indexes,
)
from modelyard.knowledge.index.fusion import COMPARED, AdaptiveFusion, leg_scale
from modelyard.knowledge.rows import IndexDelta

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

logger = logging.getLogger("modelyard.knowledge")

GRAPH_FROM = 20_000
# Multiplications per query; below this, starting a thread costs more than the product.
_MIN_THREAD_SIZE = 4_000_000
# Likewise for a filter: it costs about 0.1 microseconds per document.
_MIN_THREAD_DOCUMENTS = 5_000
# New entries are merged once they are an eighth of all entries.
_MERGE_SHARE = 8
_TUNING_QUERIES, _TARGET_RECALL, _EXPANSION_STEPS = (
    100,
    0.995,
    (64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 768),
)
# Score of excluded entries: lower than any cosine.
_EXCLUDED_SCORE = -4.0
_MAX_MASKS = 64
_BACKGROUND_SAMPLE = 1000
# If at most one entry in 16 is allowed, the allowed ones are compared exactly.
_EXACT_SEARCH_RATIO = 16


class SpaceIndex:
    """The arrays of one space. Many threads read them; changes are applied one at a
    time."""

    def __init__(self, dimensions: int, *, graph_from: int = GRAPH_FROM) -> None:
        self.generation = 0
        self.dimensions = dimensions
        self.size = 0
        self.alive_count = 0
        self._graph_from = graph_from
        self._ids = np.zeros(0, np.int64)
        self._documents = np.zeros(0, np.int32)
        self._is_alive = np.zeros(0, np.bool_)
        self._lengths = np.zeros(0, np.int64)
        self._matrix = np.zeros((0, dimensions), np.float32)
        self._vector_sum = np.zeros(dimensions, np.float64)
        """Of all entries, deleted ones included: its share of a query is the mean
        cosine."""
        self._document_numbers: dict[str, int] = {}
        self._parts: list[PostingBlock] = []
        self._terms: list[bytes] = []
        """Encoded terms of the entries that are not yet part of a merged block."""
        self._merged = 0
        self._mean_length = 0.0
        """Mean number of terms of an entry."""
        self._graph: Any = None
        self._graph_size = 0
        self._is_building = False
        self._lock = threading.Lock()
        self._masks: OrderedDict[int, tuple[frozenset[str], np.ndarray]] = OrderedDict()
        """The entries of sets of documents, by the identity of the set, which is held."""

    @property
    def bytes(self) -> int:
        """The approximate memory use in bytes, without the graph."""
        return self._matrix.nbytes + sum(
            part.slots.nbytes * 2 + part.counts.nbytes for part in self._parts
        )

    @property
    def has_graph(self) -> bool:
        """Whether the approximate search graph is available."""
        return self._graph is not None

    # Changes

    def apply(self, changes: IndexDelta, generation: int) -> None:
        """Apply changes from the database and move to their generation.

        Removals come before additions, since a replaced entry appears as both. Runs
        under the lock, so changes are applied one at a time; searches go on meanwhile.
        """
        with self._lock:
            # A replaced entry appears twice: as a removal, and as an addition with a
            # new id.
            if changes.removed and self.size:
                self._remove(changes.removed)
            if changes.ids:
                self._add(changes)
            self.generation = generation

    def _remove(self, entries: Sequence[int]) -> None:
        """Mark entries as deleted; ids that are not in the index are ignored.

        Their rows in the arrays stay until the index is rebuilt. The caller holds the
        lock.
        """
        ids = self._ids[: self.size]
        removed_ids = np.array(entries, np.int64)
        # Entry ids ascend, so that a binary search finds them.
        positions = np.searchsorted(ids, removed_ids)
        positions = positions[(positions < self.size)]
        ids_at_positions = ids[positions]
        hit = positions[np.isin(ids_at_positions, removed_ids)]
        # Removed entries stay as gaps until the index is rebuilt.
        self._is_alive[hit] = False
        self.alive_count = int(self._is_alive[: self.size].sum())

    def _add(self, changes: IndexDelta) -> None:
        """Append new entries to the arrays, while searches may be running.

        Ids must be higher than all present ones. An entry whose vector has another
        length gets zeros. Term lists are merged into one block once enough of them have
        accumulated. The new size is set last; the caller holds the lock.
        """
        count = len(changes.ids)
        start, end = self.size, self.size + count
        # Writing beyond `size` is safe while others search: they only read up to the
        # old size.
        self._grow(end)
        self._ids[start:end] = changes.ids
        numbers = self._document_numbers
        self._documents[start:end] = [
            numbers.setdefault(document, len(numbers)) for document in changes.documents
        ]
        self._is_alive[start:end] = True
        self._lengths[start:end] = changes.lengths
        if self.dimensions:
            width = self.dimensions * 4
            # An entry without a vector gets zeros, which are similar to nothing.
            data = b"".join(
                [
                    vector_bytes if len(vector_bytes) == width else bytes(width)
                    for vector_bytes in changes.vectors
                ]
            )
            self._matrix[start:end] = np.frombuffer(data, np.float32).reshape(
                count, self.dimensions
            )
            # A new array: searches read the old one meanwhile.
            self._vector_sum = self._vector_sum + self._matrix[start:end].sum(
                0, dtype=np.float64
            )
        self._terms += changes.terms
        waiting = end - self._merged
        if waiting * _MERGE_SHARE >= end or waiting > 4096:
            # Merge everything into one block; the terms need not be decoded again.
            self._parts = [
                _merge_parts([*self._merged_parts(), self._pending_part(end)])
            ]
            self._terms, self._merged = [], end
        else:
            self._parts = [*self._merged_parts(), self._pending_part(end)]
        # Publish the new size only after the arrays are complete.
        self.size = end
        self._mean_length = float(self._lengths[:end].sum()) / end
        self.alive_count = int(self._is_alive[:end].sum())

    def _merged_parts(self) -> list[PostingBlock]:
        return [part for part in self._parts if part.first + part.count <= self._merged]

    def _pending_part(self, end: int) -> PostingBlock:
        return PostingBlock(
            self._merged, self._terms, self._lengths[self._merged : end]
        )

    def _grow(self, size: int) -> None:
        """Make room for `size` entries, replacing the arrays by larger copies.

        The capacity grows by at least a half. Searches that still use the old arrays
        are not affected.
        """
        room = len(self._ids)
        if size <= room:
            return
        # Grow by half, so that repeated additions copy each entry only a few times.
        room = size if not room else max(size, room + room // 2)
        for name in ("_ids", "_documents", "_is_alive", "_lengths", "_matrix"):
            old: np.ndarray = getattr(self, name)
            # New arrays instead of resizing: concurrent searches keep using the old
            # ones.
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: self.size] = old[: self.size]
            setattr(self, name, new)

    # The graph

    @property
    def needs_graph(self) -> bool:
        """Whether the graph should be built or extended. It is extended when it lacks a
        tenth of the entries."""
        return (
            self.dimensions > 0
            and self.size >= self._graph_from
            and not self._is_building
            and (self._graph is None or self.size - self._graph_size > self.size // 10)
        )

    def build_graph(self) -> None:
        """Build or extend the graph, which takes seconds; searches continue meanwhile.

        Without the usearch package the search stays exact.
        """
        self._is_building = True
        try:
            graph_class = import_module("usearch.index").Index
        except ImportError:
            # `_is_building` stays set: the package will not appear while the process
            # runs.
            return
        size, matrix = self.size, self._matrix
        graph, start = (
            (self._graph, self._graph_size) if self._graph is not None else (None, 0)
        )
        if graph is None:
            graph = graph_class(
                ndim=self.dimensions,
                metric="cos",
                # Half the memory: the graph only chooses, and scores come from the
                # matrix.
                dtype="bf16",
                connectivity=24,
                expansion_add=128,
                expansion_search=64,
            )
        graph.add(
            np.arange(start, size, dtype=np.uint64), matrix[start:size], threads=0
        )
        _tune(graph, matrix[:size])
        # Publish the finished graph in one assignment.
        self._graph, self._graph_size = graph, size
        self._is_building = False

    # Search

    def search(self, search_request: IndexQuery) -> list[IndexHit]:
        """Return the hits for a query, best first."""
        # Take a consistent snapshot; the search itself runs without the lock.
        with self._lock:
            size, parts, graph, graphed = (
                self.size,
                self._parts,
                self._graph,
                self._graph_size,
            )
        if not size:
            return []
        mask = self._mask(search_request.documents, size)
        keyword_scores = (
            self._keyword_scores(search_request, parts, size, mask)
            if search_request.text is not None
            else None
        )
        if search_request.vector is None:
            return (
                []
                if keyword_scores is None
                else self._keyword_hits(keyword_scores, search_request.limit)
            )
        slots, cosines = self._vector_search(search_request, size, mask, graph, graphed)
        ids = self._ids
        if keyword_scores is None:
            order = top_indexes(
                cosines, search_request.limit, threshold=_EXCLUDED_SCORE / 2
            )
            return [
                _semantic_hit(int(ids[slots[index]]), float(cosines[index]))
                for index in order
            ]
        background = self._background(search_request, slots, cosines, mask)
        return self._hybrid_hits(
            search_request, slots, cosines, keyword_scores, background
        )

    def _background(
        self,
        search_request: IndexQuery,
        slots: np.ndarray,
        cosines: np.ndarray,
        mask: np.ndarray | None,
    ) -> float:
        """Return the mean cosine of the query and the entries."""
        vector: Any = search_request.vector
        if mask is None or not search_request.hides_others:
            return float(self._vector_sum @ vector) / max(1, self.size)
        # Scores must tell nothing of entries that the reader may not find.
        allowed = np.flatnonzero(mask)
        if not len(allowed):
            return 0.0
        # A regular sample: the mean of a thousand cosines is exact enough.
        step = max(1, len(allowed) // _BACKGROUND_SAMPLE)
        return float((self._matrix[allowed[::step]] @ vector).mean())

    def _mask(self, documents: Collection[str] | None, size: int) -> np.ndarray | None:
        """Return a mask of the entries that may be found; None if all may."""
        alive = self._is_alive[:size]
        if documents is None:
            return None if self.alive_count >= size else alive
        # What a reader may read is the same set in search after search.
        with self._lock:
            held_set, mask = self._masks.get(id(documents), (None, alive))
        if held_set is not documents or len(mask) != size:
            mask = self._entries_of(documents, size)
            if isinstance(documents, frozenset):
                self._hold_mask(documents, mask)
        return mask & alive

    def _entries_of(self, documents: Collection[str], size: int) -> np.ndarray:
        """Return a mask of the entries of documents, deleted ones included."""
        # Map the allowed documents to a table by number, then look up all entries at
        # once.
        is_allowed = np.zeros(len(self._document_numbers) + 1, np.bool_)
        numbers = self._document_numbers
        is_allowed[
            [numbers[document] for document in documents if document in numbers]
        ] = True
        return is_allowed[self._documents[:size]]

    def _hold_mask(self, documents: frozenset[str], mask: np.ndarray) -> None:
        """Store the mask of a set of documents, and drop the oldest beyond the limit."""
        with self._lock:
            self._masks[id(documents)] = documents, mask
            while len(self._masks) > _MAX_MASKS:
                self._masks.popitem(last=False)

    def _keyword_scores(
        self,
        search_request: IndexQuery,
        parts: Sequence[PostingBlock],
        size: int,
        mask: np.ndarray | None,
    ) -> np.ndarray:
        """Return the full-text (BM25) score of every entry, 0 where masked out.

        The array has `size` elements. `mask` is True for the entries that may be found,
        or None for all.
        """
        counted = mask if search_request.hides_others else None
        alive = self.alive_count if counted is None else int(counted.sum())
        query_terms = query_term_counts(search_request.text or "")
        scores = score_entries(
            parts, query_terms, size, max(1, alive), self._mean_length, counted=counted
        )
        if mask is not None:
            scores[~mask] = 0
        return scores

    def _keyword_hits(self, keyword_scores: np.ndarray, limit: int) -> list[IndexHit]:
        """Return the entries with the highest full-text scores as hits, best first.

        Scores are capped at 1; the hits have no vector score.
        """
        hits: list[IndexHit] = []
        for slot in top_indexes(keyword_scores, limit):
            score = min(1.0, float(keyword_scores[slot]))
            hits.append(
                IndexHit(
                    int(self._ids[slot]),
                    score,
                    None,
                    score,
                )
            )
        return hits

    def _vector_search(
        self,
        search_request: IndexQuery,
        size: int,
        mask: np.ndarray | None,
        graph: Any,
        graphed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return slots and cosines of all allowed entries, or of the nearest ones if
        there is a graph."""
        vector: Any = search_request.vector
        if mask is not None:
            allowed = int(mask.sum())
            # A selective filter: comparing the few allowed entries is exact and faster
            # than the graph.
            if allowed * _EXACT_SEARCH_RATIO <= size or (
                graph is None and allowed * 2 < size
            ):
                slots = np.flatnonzero(mask)
                return slots, self._matrix[slots] @ vector
        if graph is not None:
            slots = self._graph_slots(search_request, size, mask, graph, graphed)
            # The graph is approximate only in its choice; the cosines themselves are
            # exact.
            if slots is not None:
                return slots, self._matrix[slots] @ vector
        cosines = self._matrix[:size] @ vector
        if mask is not None:
            cosines[~mask] = _EXCLUDED_SCORE
        return np.arange(size), cosines

    def _graph_slots(
        self,
        search_request: IndexQuery,
        size: int,
        mask: np.ndarray | None,
        graph: Any,
        graphed: int,
    ) -> np.ndarray | None:
        """Return the nearest slots by the graph, and all slots the graph does not
        contain yet.

        None if the filter leaves too few of them; the caller then searches exactly.
        """
        required_count = max(
            search_request.limit,
            search_request.candidates if search_request.text is not None else 0,
        )
        slots = graph.search(
            search_request.vector, max(required_count, 40)
        ).keys.astype(np.int64)
        if mask is not None:
            slots = slots[mask[slots]]
            if len(slots) < required_count and len(slots) < mask.sum():
                return None
        if graphed < size:
            unindexed_slots = np.arange(graphed, size)
            slots = np.concatenate(
                [
                    slots,
                    unindexed_slots
                    if mask is None
                    else unindexed_slots[mask[graphed:size]],
                ]
            )
        return slots

    def _hybrid_hits(
        self,
        search_request: IndexQuery,
        slots: np.ndarray,
        cosines: np.ndarray,
        keyword_scores: np.ndarray,
        background: float,
    ) -> list[IndexHit]:
        """Return the best entries by vector and full-text score combined.

        If every entry has a cosine and the fusion is not by ranks, the fused score is
        taken over all entries. Otherwise the best candidates of each search are fused,
        their cosines being computed exactly.
        """
        # All entries have both scores: they can be fused as whole arrays.
        if len(slots) == len(keyword_scores) and search_request.fusion != "ranks":
            sums = _fused_arrays(search_request, cosines, keyword_scores, background)
            sums[cosines < _EXCLUDED_SCORE / 2] = _EXCLUDED_SCORE
            return [
                IndexHit(
                    int(self._ids[slot]),
                    min(1.0, float(sums[slot])),
                    max(0.0, float(cosines[slot])),
                    min(1.0, float(keyword_scores[slot])),
                )
                for slot in top_indexes(
                    sums, search_request.limit, threshold=_EXCLUDED_SCORE / 2
                )
            ]
        # Otherwise fuse the best candidates of each leg.
        nearest_order = top_indexes(
            cosines, search_request.candidates, threshold=_EXCLUDED_SCORE / 2
        )
        candidate_slots = np.union1d(
            slots[nearest_order], top_indexes(keyword_scores, search_request.candidates)
        )
        vector: Any = search_request.vector
        # Candidates of the full-text leg may lack a cosine, so all are computed
        # exactly.
        exact = self._matrix[candidate_slots] @ vector
        ids = [int(entry) for entry in self._ids[candidate_slots]]
        return fuse_scores(
            dict(zip(ids, exact.tolist(), strict=True)),
            dict(
                zip(
                    ids,
                    keyword_scores[candidate_slots].tolist(),
                    strict=True,
                )
            ),
            search_request,
            background,
        )


def _fused_arrays(
    search_request: IndexQuery,
    cosines: np.ndarray,
    keyword_scores: np.ndarray,
    background: float,
) -> np.ndarray:
    """Return the fused scores of all entries, by weights or adaptively."""
    if search_request.fusion == "adaptive":
        return AdaptiveFusion(
            leg_scale(_highest(cosines, _EXCLUDED_SCORE / 2), background),
            leg_scale(_highest(keyword_scores, 0.0), 0.0),
        ).scores(cosines, keyword_scores)
    semantic_weight = search_request.semantic_weight
    return semantic_weight * np.maximum(cosines, 0) + (
        1 - semantic_weight
    ) * np.minimum(keyword_scores, 1)


def _highest(scores: np.ndarray, threshold: float) -> list[float]:
    """Return the ten highest scores above a threshold."""
    indexes = top_indexes(scores, COMPARED, threshold=threshold)
    return scores[indexes].tolist()


def _tune(graph: Any, matrix: np.ndarray) -> None:
    """Set the graph's search expansion so that it finds what exact search finds.

    It is measured on queries that are mixtures of two vectors, which are harder than
    the vectors themselves.
    """
    # A fixed seed keeps the result reproducible.
    chance = np.random.default_rng(7)
    pairs = chance.integers(
        0,
        len(matrix),
        (_TUNING_QUERIES, 2),
    )
    queries = 0.6 * matrix[pairs[:, 0]] + 0.4 * matrix[pairs[:, 1]]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    exact = [
        np.partition(matrix @ query, len(matrix) - 10)[-10:].min() for query in queries
    ]
    for index, expansion in enumerate(_EXPANSION_STEPS):
        graph.expansion_search = expansion
        hits = 0
        for query, min_cosine in zip(queries, exact, strict=True):
            neighbor_slots = graph.search(query, 40).keys.astype(np.int64)
            # The tolerance allows for the graph's lower precision.
            hits += min(
                10, int((matrix[neighbor_slots] @ query >= min_cosine - 1e-6).sum())
            )
        if hits >= _TARGET_RECALL * 10 * _TUNING_QUERIES:
            # Go one step further than measured, since the sample is small.
            graph.expansion_search = _EXPANSION_STEPS[
                min(index + 1, len(_EXPANSION_STEPS) - 1)
            ]
            return


def _semantic_hit(entry: int, cosine: float) -> IndexHit:
    score = min(1.0, max(0.0, cosine))
    return IndexHit(entry, score, score)


def _merge_parts(parts: Sequence[PostingBlock]) -> PostingBlock:
    """Merge adjacent posting blocks into one."""
    if len(parts) == 1:
        return parts[0]
    # Bypass the constructor, which would decode terms; the arrays are already
    # available.
    merged = PostingBlock.__new__(PostingBlock)
    merged.first = parts[0].first
    merged.count = sum(part.count for part in parts)
    all_terms = np.concatenate(
        [np.repeat(part.terms, np.diff(part.starts)) for part in parts]
    )
    slots = np.concatenate(
        [part.slots + (part.first - merged.first) for part in parts]
    ).astype(np.int32)
    order = np.argsort(all_terms, kind="stable")
    ordered = all_terms[order]
    merged.slots = slots[order]
    merged.counts = np.concatenate([part.counts for part in parts])[order]
    merged.terms, starts = np.unique(ordered, return_index=True)
    merged.starts = np.append(starts, len(ordered)).astype(np.int64)
    merged.lengths = np.concatenate([part.lengths for part in parts])
    merged.reset_shares()
    return merged


class MemoryIndex:
    """The in-memory index of all datasets, bounded in size."""

    name = "memory"

    def __init__(
        self, read: ReadChanges, *, megabytes: int = 2048, graph_from: int = GRAPH_FROM
    ) -> None:
        self._read = read
        self._max_bytes = megabytes << 20
        self._graph_from = graph_from
        self._spaces: OrderedDict[tuple[str, int], SpaceIndex] = OrderedDict()
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._building: set[asyncio.Future[None]] = set()

    async def sync_to_generation(self, space: IndexKey) -> None:
        """Load or update a space's arrays, and start to build its graph if necessary.

        Only one load per space runs at a time. The least recently used spaces are
        evicted if the memory limit is exceeded. Returns without waiting for the graph.
        """
        space_index = self._spaces.get(space.key)
        if (
            space_index is not None
            and space_index.generation >= space.generation
            and space_index.dimensions == space.dimensions
        ):
            self._spaces.move_to_end(space.key)
            return
        # One load per space at a time; the second check is for those that waited.
        async with self._locks.setdefault(space.key, asyncio.Lock()):
            space_index = self._spaces.get(space.key)
            if (
                space_index is not None
                and space_index.generation >= space.generation
                and space_index.dimensions == space.dimensions
            ):
                return
            space_index = await self._synchronised(space_index, space)
            self._spaces[space.key] = space_index
            self._spaces.move_to_end(space.key)
            self._evict()
        if space_index.needs_graph:
            # The graph is built in a thread, and the search stays exact until it is
            # finished.
            task = asyncio.ensure_future(asyncio.to_thread(space_index.build_graph))
            self._building.add(task)
            task.add_done_callback(self._graph_built)

    def _graph_built(self, task: asyncio.Future[None]) -> None:
        """Forget a finished graph construction, and log an error that it raised."""
        self._building.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "vector graph could not be built",
                extra={"fields": {"error": str(error)}},
            )

    async def _synchronised(
        self, space_index: SpaceIndex | None, space: IndexKey
    ) -> SpaceIndex:
        """Return the arrays of a space, brought to its current generation.

        Changes are read from the database since the arrays' generation. The arrays are
        rebuilt from scratch if the vector length changed, if the database sends a full
        snapshot, or if more than half of their entries are deleted.
        """
        if space_index is None or space_index.dimensions != space.dimensions:
            space_index = SpaceIndex(space.dimensions, graph_from=self._graph_from)
        changes = await self._read(
            space.dataset, space.number, space_index.generation, space.generation
        )
        # A full snapshot replaces everything.
        if changes.is_snapshot and space_index.size:
            space_index = SpaceIndex(space.dimensions, graph_from=self._graph_from)
        if (
            space_index.size > 1000
            and space_index.alive_count - len(changes.removed) < space_index.size // 2
        ):
            # Mostly gaps: rebuild the index from scratch.
            space_index = SpaceIndex(space.dimensions, graph_from=self._graph_from)
            changes = await self._read(
                space.dataset,
                space.number,
                0,
                space.generation,
            )
        # Building the arrays takes long for large changes.
        await asyncio.to_thread(space_index.apply, changes, space.generation)
        return space_index

    def _evict(self) -> None:
        """Evict the least recently used spaces until the limit is met; the newest one
        stays, however large it is."""
        used = sum(space_index.bytes for space_index in self._spaces.values())
        while used > self._max_bytes and len(self._spaces) > 1:
            key, evicted = self._spaces.popitem(last=False)
            self._locks.pop(key, None)
            used -= evicted.bytes

    async def search(
        self, space: IndexKey, search_request: IndexQuery
    ) -> Sequence[IndexHit]:
        """Return the hits for a query, best first, after updating the arrays."""
        await self.sync_to_generation(space)
        space_index = self._spaces[space.key]
        # Large products run in a thread, so that they do not block the event loop.
        is_large_product = (
            space_index.size * max(space_index.dimensions, 32) > _MIN_THREAD_SIZE
            and not space_index.has_graph
        )
        filtered_count = len(search_request.documents or ())
        if is_large_product or filtered_count > _MIN_THREAD_DOCUMENTS:
            return await asyncio.to_thread(space_index.search, search_request)
        return space_index.search(search_request)

    async def count(self, space: IndexKey) -> int:
        """Return the number of entries that are not deleted."""
        await self.sync_to_generation(space)
        return self._spaces[space.key].alive_count

    async def wait_for_graphs(self) -> None:
        """Wait until all graphs under construction are finished."""
        while self._building:
            await asyncio.wait(set(self._building))

    async def drop(self, dataset: str, number: int | None = None) -> None:
        """Discard one space of a dataset, or all of them if `number` is None."""
        for key in [
            space_key
            for space_key in self._spaces
            if space_key[0] == dataset and number in (None, space_key[1])
        ]:
            del self._spaces[key]
            self._locks.pop(key, None)

    async def aclose(self) -> None:
        """Wait for graphs under construction and release all arrays."""
        await self.wait_for_graphs()
        self._spaces.clear()
