"""Indexes that live outside of this process: brought up to the database's generation before each search, by steps that
may be done twice. What such a store holds beyond that is looked up in the database and found to be gone."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy
from modelyard.knowledge.analysis import split_counted
from modelyard.knowledge.index.base import Found, Question, ReadChanges, Space, fused
from modelyard.knowledge.index.bm25 import idf, question
from modelyard.knowledge.rows import Changes
from modelyard.knowledge.stored.followers import Followers

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

_ENTRIES, _LENGTH = 0, -1


class Follower(ABC):
    """What differs between stores is how points are put and deleted, and how each leg is asked."""

    name: str

    def __init__(self, read: ReadChanges, followers: Followers) -> None:
        self._read = read
        self._followers = followers
        self._at: dict[tuple[str, int], int] = {}
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}

    # what stores do

    @abstractmethod
    async def put(self, space: Space, changes: Changes) -> None:
        """Have all of these; where `is_whole`, these alone."""

    @abstractmethod
    async def nearest(
        self, space: Space, vector: np.ndarray, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        """Entry → cosine."""

    @abstractmethod
    async def matching(
        self, space: Space, weights: Mapping[int, float], average: float, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        """Entry → sum of the weights of the terms that it holds, each times its share (`bm25.Part.shares`)."""

    @abstractmethod
    async def cosines(self, space: Space, vector: np.ndarray, entries: Sequence[int]) -> Mapping[int, float]:
        """Of these alone."""

    @abstractmethod
    async def sums(
        self, space: Space, weights: Mapping[int, float], average: float, entries: Sequence[int]
    ) -> Mapping[int, float]:
        """Of these alone."""

    # what all do

    async def follow(self, space: Space) -> None:
        if self._at.get(space.key, -1) >= space.generation:
            return
        async with self._locks.setdefault(space.key, asyncio.Lock()):
            if self._at.get(space.key, -1) >= space.generation:
                return
            since = await self._followers.followed(self.name, space.dataset, space.number)
            if since < space.generation:
                changes = await self._read(space.dataset, space.number, since, space.generation)
                await self.put(space, changes)
                await self._followers.set_followed(
                    self.name, space.dataset, space.number, since, space.generation, _counted(changes),
                    is_whole=changes.is_whole,
                )  # fmt: skip
            self._at[space.key] = space.generation

    async def search(self, space: Space, asked: Question) -> Sequence[Found]:
        await self.follow(space)
        semantic: dict[int, float] = {}
        words: dict[int, float] = {}
        most = asked.most if asked.text is None or asked.vector is None else max(asked.most, asked.candidates)
        if asked.vector is not None:
            semantic.update(await self.nearest(space, asked.vector, most, asked.documents))
        if asked.text is None:
            return _one_leg(semantic, asked.most, is_semantic=True)
        weights, average, best = await self._weights(space, asked.text)
        if weights:
            found = await self.matching(space, weights, average, most, asked.documents)
            words.update((entry, score / best) for entry, score in found.items())
        if asked.vector is None:
            return _one_leg(words, asked.most, is_semantic=False)
        if missing := [one for one in words if one not in semantic]:
            semantic.update(await self.cosines(space, asked.vector, missing))
        if weights and (missing := [one for one in semantic if one not in words]):
            found = await self.sums(space, weights, average, missing)
            words.update((entry, score / best) for entry, score in found.items())
        return fused(semantic, words, asked)

    async def _weights(self, space: Space, text: str) -> tuple[dict[int, float], float, float]:
        """Of the question's terms; entries' mean length; what an entry with all of the terms would have."""
        wanted = question(text)
        holding = await self._followers.holding(self.name, space.dataset, space.number, [*wanted, _ENTRIES, _LENGTH])
        entries = max(1, holding.get(_ENTRIES, 0))
        weights = {term: times * idf(holding.get(term, 0), entries) for term, times in wanted.items()}
        known = {term: weight for term, weight in weights.items() if holding.get(term, 0) > 0}
        return known, max(1.0, holding.get(_LENGTH, 0) / entries), sum(weights.values()) or 1.0

    async def average(self, space: Space, changes: Changes) -> float:
        """Entries' mean length once these changes are made."""
        known = {} if changes.is_whole else await self._followers.holding(
            self.name, space.dataset, space.number, [_ENTRIES, _LENGTH]
        )  # fmt: skip
        more = _counted(changes)
        entries = known.get(_ENTRIES, 0) + more[_ENTRIES]
        return max(1.0, (known.get(_LENGTH, 0) + more[_LENGTH]) / max(1, entries))

    async def count(self, space: Space) -> int:
        await self.follow(space)
        return await self.points(space)

    @abstractmethod
    async def points(self, space: Space) -> int: ...

    async def drop(self, dataset: str, number: int | None = None) -> None:
        for key in [one for one in self._at if one[0] == dataset and number in (None, one[1])]:
            del self._at[key]
            self._locks.pop(key, None)
        await self.delete(dataset, number)
        await self._followers.unfollow(self.name, dataset)

    @abstractmethod
    async def delete(self, dataset: str, number: int | None) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...


def _counted(changes: Changes) -> dict[int, int]:
    """How many more entries hold each term."""
    found: Counter[int] = Counter()
    if changes.terms:
        every, _, _ = split_counted(changes.terms)
        unique, counts = np.unique(every, return_counts=True)
        found.update(dict(zip(unique.tolist(), counts.tolist(), strict=True)))
    found[_ENTRIES] = len(changes.ids)
    found[_LENGTH] = sum(changes.lengths)
    if changes.gone:
        every, _, _ = split_counted([terms for terms, _ in changes.gone])
        unique, counts = np.unique(every, return_counts=True)
        found.subtract(dict(zip(unique.tolist(), counts.tolist(), strict=True)))
        found[_ENTRIES] -= len(changes.gone)
        found[_LENGTH] -= sum(length for _, length in changes.gone)
    return dict(found)


def _one_leg(scores: Mapping[int, float], most: int, *, is_semantic: bool) -> list[Found]:
    kept = scores if is_semantic else {one: score for one, score in scores.items() if score > 0}
    order = sorted(kept, key=lambda one: (-kept[one], one))[:most]
    found: list[Found] = []
    for one in order:
        score = min(1.0, max(0.0, scores[one]))
        found.append(Found(one, score, score if is_semantic else None, None if is_semantic else score))
    return found
