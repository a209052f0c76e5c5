"""The index that needs no server: arrays in memory, read from the database's rows and kept up with them.

Vectors are compared exactly up to 20,000 entries, one product of a matrix and a vector; above, by a graph (HNSW) that
is built beside, with exact search meanwhile. Words are BM25 over arrays. Each process has its own, and reads what it
has not seen when the dataset's generation says so; nothing here is stored, so nothing here can be wrong after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelyard.base.lazy import lazy
from modelyard.knowledge.index.base import Found, Question, ReadChanges, Space, fused
from modelyard.knowledge.index.bm25 import Part, question, scored, top
from modelyard.knowledge.rows import Changes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

logger = logging.getLogger("modelyard.knowledge")

GRAPH_FROM = 20_000
_THREAD_FROM = 4_000_000  # numbers to multiply: below, a thread costs more than the product
_MERGE_SHARE = 8  # additions are merged when they are an eighth of the whole
_TRIALS, _RECALL, _FAR = 100, 0.995, (64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 768)
_NEVER = -4.0  # the score of what must not be found: lower than any cosine
_FEW = 16  # where one in so many is asked for, they are compared exactly


class SpaceIndex:
    """One space. Read by many threads, changed by one at a time."""

    def __init__(self, dimensions: int, *, graph_from: int = GRAPH_FROM) -> None:
        self.generation = 0
        self.dimensions = dimensions
        self.size = 0
        self.alive = 0
        self._graph_from = graph_from
        self._ids = np.zeros(0, np.int64)
        self._documents = np.zeros(0, np.int32)
        self._is_alive = np.zeros(0, np.bool_)
        self._lengths = np.zeros(0, np.int64)
        self._matrix = np.zeros((0, dimensions), np.float32)
        self._numbers: dict[str, int] = {}
        self._parts: list[Part] = []
        self._terms: list[bytes] = []
        """Of entries that are in no large part yet."""
        self._merged = 0
        self._average = 0.0
        """Terms of an entry, in the mean."""
        self._graph: Any = None
        self._graphed = 0
        self._is_building = False
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._matrix.nbytes + sum(part.slots.nbytes * 2 + part.counts.nbytes for part in self._parts)

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    # changes

    def apply(self, changes: Changes, generation: int) -> None:
        with self._lock:
            if changes.removed and self.size:
                self._remove(changes.removed)
            if changes.ids:
                self._add(changes)
            self.generation = generation

    def _remove(self, entries: Sequence[int]) -> None:
        ids = self._ids[: self.size]
        wanted = np.array(entries, np.int64)
        places = np.searchsorted(ids, wanted)
        places = places[(places < self.size)]
        wanted_there = ids[places]
        hit = places[np.isin(wanted_there, wanted)]
        self._is_alive[hit] = False
        self.alive = int(self._is_alive[: self.size].sum())

    def _add(self, changes: Changes) -> None:
        count = len(changes.ids)
        begin, end = self.size, self.size + count
        self._grow(end)
        self._ids[begin:end] = changes.ids
        numbers = self._numbers
        self._documents[begin:end] = [numbers.setdefault(one, len(numbers)) for one in changes.documents]
        self._is_alive[begin:end] = True
        self._lengths[begin:end] = changes.lengths
        if self.dimensions:
            width = self.dimensions * 4
            data = b"".join([one if len(one) == width else bytes(width) for one in changes.vectors])
            self._matrix[begin:end] = np.frombuffer(data, np.float32).reshape(count, self.dimensions)
        self._terms += changes.terms
        waiting = end - self._merged
        if waiting * _MERGE_SHARE >= end or waiting > 4096:
            # All of it anew: the terms of what was merged are taken out of the parts again.
            self._parts = [_joined([*self._large(), self._small(end)])]
            self._terms, self._merged = [], end
        else:
            self._parts = [*self._large(), self._small(end)]
        self.size = end
        self._average = float(self._lengths[:end].sum()) / end
        self.alive = int(self._is_alive[:end].sum())

    def _large(self) -> list[Part]:
        return [part for part in self._parts if part.first + part.count <= self._merged]

    def _small(self, end: int) -> Part:
        return Part(self._merged, self._terms, self._lengths[self._merged : end])

    def _grow(self, size: int) -> None:
        room = len(self._ids)
        if size <= room:
            return
        room = size if not room else max(size, room + room // 2)
        for name in ("_ids", "_documents", "_is_alive", "_lengths", "_matrix"):
            old: np.ndarray = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: self.size] = old[: self.size]
            setattr(self, name, new)

    # the graph

    @property
    def wants_graph(self) -> bool:
        return (
            self.dimensions > 0
            and self.size >= self._graph_from
            and not self._is_building
            and (self._graph is None or self.size - self._graphed > self.size // 10)
        )

    def build_graph(self) -> None:
        """Takes seconds; others go on searching meanwhile. Without its package, search stays exact."""
        self._is_building = True
        try:
            made = import_module("usearch.index").Index
        except ImportError:
            return  # for good: it will not come while we run
        size, matrix = self.size, self._matrix
        graph, begin = (self._graph, self._graphed) if self._graph is not None else (None, 0)
        if graph is None:
            graph = made(
                ndim=self.dimensions,
                metric="cos",
                dtype="bf16",
                connectivity=24,
                expansion_add=128,
                expansion_search=64,
            )
        graph.add(np.arange(begin, size, dtype=np.uint64), matrix[begin:size], threads=0)
        _tune(graph, matrix[:size])
        self._graph, self._graphed = graph, size
        self._is_building = False

    # search

    def search(self, asked: Question) -> list[Found]:
        with self._lock:
            size, parts, graph, graphed = self.size, self._parts, self._graph, self._graphed
        if not size:
            return []
        mask = self._mask(asked.documents, size)
        words = self._words(asked.text, parts, size, mask) if asked.text is not None else None
        if asked.vector is None:
            return [] if words is None else self._by_words(words, asked.most)
        slots, cosines = self._near(asked, size, mask, graph, graphed)
        ids = self._ids
        if words is None:
            order = top(cosines, asked.most, above=_NEVER / 2)
            return [
                _semantic(int(ids[slots[at]]), float(cosines[at]))
                for at in order
            ]  # fmt: skip
        return self._both(asked, slots, cosines, words)

    def _mask(self, documents: Collection[str] | None, size: int) -> np.ndarray | None:
        """Which entries may be found; None for all."""
        alive = self._is_alive[:size]
        if documents is None:
            return None if self.alive >= size else alive
        wanted = np.zeros(len(self._numbers) + 1, np.bool_)
        numbers = self._numbers
        wanted[[numbers[one] for one in documents if one in numbers]] = True
        return wanted[self._documents[:size]] & alive

    def _words(self, text: str, parts: Sequence[Part], size: int, mask: np.ndarray | None) -> np.ndarray:
        total = max(1, self.alive)
        scores = scored(parts, question(text), size, total, self._average)
        if mask is not None:
            scores[~mask] = 0
        return scores

    def _by_words(self, words: np.ndarray, most: int) -> list[Found]:
        found: list[Found] = []
        for at in top(words, most):
            score = min(1.0, float(words[at]))
            found.append(Found(int(self._ids[at]), score, None, score))
        return found

    def _near(
        self, asked: Question, size: int, mask: np.ndarray | None, graph: Any, graphed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places and cosines: of all that may be found, or of the nearest where there is a graph."""
        vector: Any = asked.vector
        if mask is not None:
            allowed = int(mask.sum())
            if allowed * _FEW <= size or (graph is None and allowed * 2 < size):
                slots = np.flatnonzero(mask)
                return slots, self._matrix[slots] @ vector
        if graph is not None:
            slots = self._graph_slots(asked, size, mask, graph, graphed)
            if slots is not None:
                return slots, self._matrix[slots] @ vector
        cosines = self._matrix[:size] @ vector
        if mask is not None:
            cosines[~mask] = _NEVER
        return np.arange(size), cosines

    def _graph_slots(
        self, asked: Question, size: int, mask: np.ndarray | None, graph: Any, graphed: int
    ) -> np.ndarray | None:
        """The nearest by the graph, and all that it does not have yet; None where too few of them may be found."""
        wanted = max(asked.most, asked.candidates if asked.text is not None else 0)
        slots = graph.search(asked.vector, max(wanted, 40)).keys.astype(np.int64)
        if mask is not None:
            slots = slots[mask[slots]]
            if len(slots) < wanted and len(slots) < mask.sum():
                return None
        if graphed < size:
            rest = np.arange(graphed, size)
            slots = np.concatenate([slots, rest if mask is None else rest[mask[graphed:size]]])
        return slots

    def _both(self, asked: Question, slots: np.ndarray, cosines: np.ndarray, words: np.ndarray) -> list[Found]:
        if len(slots) == len(words) and asked.fusion == "weights":
            share = asked.meaning
            sums = share * np.maximum(cosines, 0) + (1 - share) * np.minimum(words, 1)
            sums[cosines < _NEVER / 2] = _NEVER
            return [
                Found(
                    int(self._ids[at]), min(1.0, float(sums[at])), max(0.0, float(cosines[at])),
                    min(1.0, float(words[at])),
                )
                for at in top(sums, asked.most, above=_NEVER / 2)
            ]  # fmt: skip
        near = top(cosines, asked.candidates, above=_NEVER / 2)
        places = np.union1d(slots[near], top(words, asked.candidates))
        vector: Any = asked.vector
        exact = self._matrix[places] @ vector
        ids = [int(one) for one in self._ids[places]]
        return fused(
            dict(zip(ids, exact.tolist(), strict=True)), dict(zip(ids, words[places].tolist(), strict=True)), asked
        )


def _tune(graph: Any, matrix: np.ndarray) -> None:
    """Have the graph look as far as it must to find what exact search finds: measured on questions made of two vectors
    each, which are harder than the vectors themselves."""
    chance = np.random.default_rng(7)
    pairs = chance.integers(0, len(matrix), (_TRIALS, 2))
    asked = 0.6 * matrix[pairs[:, 0]] + 0.4 * matrix[pairs[:, 1]]
    asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-9)
    exact = [np.partition(matrix @ one, len(matrix) - 10)[-10:].min() for one in asked]
    for at, far in enumerate(_FAR):
        graph.expansion_search = far
        hits = 0
        for one, least in zip(asked, exact, strict=True):
            near = graph.search(one, 40).keys.astype(np.int64)
            hits += min(10, int((matrix[near] @ one >= least - 1e-6).sum()))
        if hits >= _RECALL * 10 * _TRIALS:
            # One step beyond what sufficed: the questions that were tried are few.
            graph.expansion_search = _FAR[min(at + 1, len(_FAR) - 1)]
            return


def _semantic(entry: int, cosine: float) -> Found:
    score = min(1.0, max(0.0, cosine))
    return Found(entry, score, score)


def _joined(parts: Sequence[Part]) -> Part:
    """Neighbouring parts as one."""
    if len(parts) == 1:
        return parts[0]
    one = Part.__new__(Part)
    one.first = parts[0].first
    one.count = sum(part.count for part in parts)
    every = np.concatenate([np.repeat(part.terms, np.diff(part.starts)) for part in parts])
    slots = np.concatenate([part.slots + (part.first - one.first) for part in parts]).astype(np.int32)
    order = np.argsort(every, kind="stable")
    ordered = every[order]
    one.slots = slots[order]
    one.counts = np.concatenate([part.counts for part in parts])[order]
    one.terms, starts = np.unique(ordered, return_index=True)
    one.starts = np.append(starts, len(ordered)).astype(np.int64)
    one.lengths = np.concatenate([part.lengths for part in parts])
    one.forget_shares()
    return one


class MemoryIndex:
    name = "memory"

    def __init__(self, read: ReadChanges, *, megabytes: int = 2048, graph_from: int = GRAPH_FROM) -> None:
        self._read = read
        self._most_bytes = megabytes << 20
        self._graph_from = graph_from
        self._spaces: OrderedDict[tuple[str, int], SpaceIndex] = OrderedDict()
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._building: set[asyncio.Future[None]] = set()

    async def follow(self, space: Space) -> None:
        known = self._spaces.get(space.key)
        if known is not None and known.generation >= space.generation and known.dimensions == space.dimensions:
            self._spaces.move_to_end(space.key)
            return
        async with self._locks.setdefault(space.key, asyncio.Lock()):
            known = self._spaces.get(space.key)
            if known is not None and known.generation >= space.generation and known.dimensions == space.dimensions:
                return
            known = await self._followed(known, space)
            self._spaces[space.key] = known
            self._spaces.move_to_end(space.key)
            self._make_room()
        if known.wants_graph:
            task = asyncio.ensure_future(asyncio.to_thread(known.build_graph))
            self._building.add(task)
            task.add_done_callback(self._built)

    def _built(self, task: asyncio.Future[None]) -> None:
        self._building.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a graph could not be built", extra={"fields": {"error": str(error)}})

    async def _followed(self, known: SpaceIndex | None, space: Space) -> SpaceIndex:
        if known is None or known.dimensions != space.dimensions:
            known = SpaceIndex(space.dimensions, graph_from=self._graph_from)
        changes = await self._read(space.dataset, space.number, known.generation, space.generation)
        if changes.is_whole and known.size:
            known = SpaceIndex(space.dimensions, graph_from=self._graph_from)
        if known.size > 1000 and known.alive - len(changes.removed) < known.size // 2:
            known = SpaceIndex(space.dimensions, graph_from=self._graph_from)  # mostly gaps: anew
            changes = await self._read(space.dataset, space.number, 0, space.generation)
        await asyncio.to_thread(known.apply, changes, space.generation)
        return known

    def _make_room(self) -> None:
        """Spaces that were not asked for longest go first; the newest stays, however large."""
        used = sum(one.bytes for one in self._spaces.values())
        while used > self._most_bytes and len(self._spaces) > 1:
            key, gone = self._spaces.popitem(last=False)
            self._locks.pop(key, None)
            used -= gone.bytes

    async def search(self, space: Space, asked: Question) -> Sequence[Found]:
        await self.follow(space)
        known = self._spaces[space.key]
        if known.size * max(known.dimensions, 32) > _THREAD_FROM and not known.has_graph:
            return await asyncio.to_thread(known.search, asked)
        return known.search(asked)

    async def count(self, space: Space) -> int:
        await self.follow(space)
        return self._spaces[space.key].alive

    async def ready(self) -> None:
        """Once graphs that are being built are there."""
        while self._building:
            await asyncio.wait(set(self._building))

    async def drop(self, dataset: str, number: int | None = None) -> None:
        for key in [one for one in self._spaces if one[0] == dataset and number in (None, one[1])]:
            del self._spaces[key]
            self._locks.pop(key, None)

    async def aclose(self) -> None:
        await self.ready()
        self._spaces.clear()
