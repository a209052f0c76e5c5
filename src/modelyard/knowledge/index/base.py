"""What every home of vectors and words offers. The rows of `index_entries` are the truth; an index follows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from modelyard.base.lazy import lazy
from modelyard.knowledge.rows import Changes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

ReadChanges = Callable[[str, int, int, int], Awaitable[Changes]]
"""(dataset, space, since which generation, until which)"""
_RRF = 60  # Cormack, Clarke, Büttcher 2009


@dataclass(frozen=True, slots=True)
class Space:
    """One index of one dataset: vectors of one model."""

    tenant: str
    dataset: str
    number: int
    dimensions: int
    """0 where there are words alone."""
    generation: int
    """How far an index must have come before it may be asked."""

    @property
    def key(self) -> tuple[str, int]:
        return self.dataset, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for: by meaning, by words, or by both."""

    vector: np.ndarray | None = None
    """float32, of length 1."""
    text: str | None = None
    meaning: float = 0.5
    """How much meaning counts where both are asked for; words count the rest."""
    fusion: Literal["weights", "ranks"] = "weights"
    most: int = 10
    candidates: int = 100
    documents: Collection[str] | None = None
    """Look in these alone."""


@dataclass(frozen=True, slots=True)
class Found:
    entry: int
    score: float
    """0 to 1: `semantic`, `words`, or the two by their shares."""
    semantic: float | None = None
    """Cosine; below 0 it is 0."""
    words: float | None = None
    """How much of the question's words is there, rare ones counting more: 1 is all, as often as is usual."""


class Index(Protocol):
    @property
    def name(self) -> str: ...

    async def follow(self, space: Space) -> None:
        """Come to the space's generation. Raises StorageUnavailableError where the store cannot be reached."""
        ...

    async def search(self, space: Space, asked: Question) -> Sequence[Found]:
        """Best first. What it gives may be gone meanwhile: look it up."""
        ...

    async def count(self, space: Space) -> int: ...

    async def drop(self, dataset: str, number: int | None = None) -> None:
        """Forget a space, or all of a dataset's."""
        ...

    async def aclose(self) -> None: ...


def fused(semantic: Mapping[int, float], words: Mapping[int, float], question: Question) -> list[Found]:
    """Both legs' scores of every candidate as one list, best first.

    By weights: the sum of both, each 0 to 1 by itself, so that a share means what it says. By ranks: reciprocal rank
    fusion; then the order comes from the ranks, and the score, which thresholds are held against, is still that sum.
    """
    share = question.meaning
    every = {*semantic, *words}

    def score(entry: int) -> float:
        return share * max(0.0, semantic.get(entry, 0.0)) + (1 - share) * min(1.0, words.get(entry, 0.0))

    order: Callable[[int], float] = score
    if question.fusion == "ranks":
        ranks = (_ranks(semantic, question.candidates), _ranks(words, question.candidates))

        def by_ranks(entry: int) -> float:
            return sum(
                part / (_RRF + places[entry])
                for part, places in zip((share, 1 - share), ranks, strict=True)
                if entry in places
            )

        order = by_ranks
    found = sorted(every, key=lambda entry: (-order(entry), entry))[: question.most]
    return [
        Found(
            entry, min(1.0, score(entry)), max(0.0, semantic.get(entry, 0.0)), min(1.0, words.get(entry, 0.0))
        )
        for entry in found
    ]  # fmt: skip


def _ranks(scores: Mapping[int, float], most: int) -> dict[int, int]:
    best = sorted((one for one in scores if scores[one] > 0), key=lambda one: (-scores[one], one))[:most]
    return {entry: place + 1 for place, entry in enumerate(best)}
