"""The interface of all indexes. The rows of `index_entries` are the source of truth; an
index is derived from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.index.fusion import AdaptiveFusion, leg_scale
from modelyard.knowledge.rows import IndexDelta

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

ReadChanges = Callable[[str, int, int, int], Awaitable[IndexDelta]]
"""Reads index changes: (dataset, space, after which generation, up to which
generation)."""
Fusion = Literal["adaptive", "weights", "ranks"]
"""How the scores of both legs become one: by how far each leg separates its entries, by
fixed weights, or by reciprocal ranks."""
# Cormack, Clarke, Büttcher 2009
_RRF_CONSTANT = 60


@dataclass(frozen=True, slots=True)
class IndexKey:
    """One index of a dataset: the vectors of one embedding model."""

    tenant: str
    dataset: str
    number: int
    dimensions: int
    """Length of the vectors; 0 if the index has full-text terms only."""
    generation: int
    """The generation that an index must have reached before it is searched."""

    @property
    def key(self) -> tuple[str, int]:
        """The dataset and the number of the index, which together identify it."""
        return self.dataset, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexQuery:
    """A query for an index: by vector, by text, or both."""

    vector: np.ndarray | None = None
    """float32, normalised to length 1."""
    text: str | None = None
    semantic_weight: float = 0.5
    """Weight of the vector search if both are used, 0 to 1; the full-text search has
    the remainder. The adaptive fusion chooses its own."""
    fusion: Fusion = "weights"
    limit: int = 10
    candidates: int = 100
    documents: Collection[str] | None = None
    """Restrict the search to these documents; None for all."""
    hides_others: bool = False
    """Whether scores must not depend on other documents: then an index weights terms by
    the documents to which the search is restricted, if it can."""


@dataclass(frozen=True, slots=True)
class IndexHit:
    """An index entry that matches a query."""

    entry: int
    score: float
    """0 to 1: the semantic score, the full-text score, or what both are fused to."""
    semantic: float | None = None
    """Cosine similarity; negative values become 0."""
    keyword_score: float | None = None
    """Share of the query's terms that the entry contains, weighted by rarity: 1 means
    all terms, at normal frequency."""


class Index(Protocol):
    """A search index that is derived from the database's rows."""

    @property
    def name(self) -> str:
        """The index's name in the settings."""
        ...

    async def sync_to_generation(self, space: IndexKey) -> None:
        """Bring the index up to the required generation. Raises StorageUnavailableError
        if the store cannot be reached."""
        ...

    async def search(
        self, space: IndexKey, search_request: IndexQuery
    ) -> Sequence[IndexHit]:
        """Return the hits, best first. An entry may have been deleted meanwhile, so
        callers must look it up."""
        ...

    async def count(self, space: IndexKey) -> int:
        """Return the number of entries in the index."""
        ...

    async def drop(self, dataset: str, number: int | None = None) -> None:
        """Delete one index of a dataset, or all of them if `number` is None."""
        ...

    async def aclose(self) -> None:
        """Release the index's connections and memory."""
        ...


def fuse_scores(
    semantic: Mapping[int, float],
    keyword_scores: Mapping[int, float],
    question: IndexQuery,
    background: float = 0.0,
) -> list[IndexHit]:
    """Combine the scores of both legs into one list, best first.

    By weights: the weighted sum of both scores, each 0 to 1. By ranks: reciprocal rank
    fusion determines the order, while the score, to which thresholds apply, is still
    the weighted sum. Adaptive: see the module `fusion`; `background` is the mean cosine
    of the dataset's entries and the query.
    """
    if question.fusion == "adaptive":
        return _fuse_adaptively(semantic, keyword_scores, question, background)
    semantic_weight = question.semantic_weight
    candidates = {*semantic, *keyword_scores}

    def score(entry: int) -> float:
        """Return the weighted sum of an entry's scores."""
        return semantic_weight * max(0.0, semantic.get(entry, 0.0)) + (
            1 - semantic_weight
        ) * min(1.0, keyword_scores.get(entry, 0.0))

    order: Callable[[int], float] = score
    if question.fusion == "ranks":
        ranks = (
            _ranks(semantic, question.candidates),
            _ranks(keyword_scores, question.candidates),
        )

        def by_ranks(entry: int) -> float:
            """Return the reciprocal rank fusion value of an entry."""
            return sum(
                part / (_RRF_CONSTANT + rank_by_entry[entry])
                for part, rank_by_entry in zip(
                    (semantic_weight, 1 - semantic_weight), ranks, strict=True
                )
                if entry in rank_by_entry
            )

        order = by_ranks
    # Ties are broken by the entry id, so that the order is deterministic.
    best_entries = sorted(candidates, key=lambda entry: (-order(entry), entry))[
        : question.limit
    ]
    return [
        IndexHit(
            entry,
            min(1.0, score(entry)),
            max(0.0, semantic.get(entry, 0.0)),
            min(1.0, keyword_scores.get(entry, 0.0)),
        )
        for entry in best_entries
    ]


def _fuse_adaptively(
    semantic: Mapping[int, float],
    keyword_scores: Mapping[int, float],
    question: IndexQuery,
    background: float,
) -> list[IndexHit]:
    """Fuse candidates by the separation of both legs. The first ten of each leg must be
    among them."""
    entries = sorted({*semantic, *keyword_scores})
    fusion = AdaptiveFusion(
        leg_scale(list(semantic.values()), background),
        leg_scale([score for score in keyword_scores.values() if score > 0], 0.0),
    )
    cosines = np.array([semantic.get(entry, 0.0) for entry in entries])
    keywords = np.array([keyword_scores.get(entry, 0.0) for entry in entries])
    fused = fusion.scores(cosines, keywords)
    # A stable sort keeps the order of the ids where scores are equal.
    order: list[int] = np.argsort(-fused, kind="stable")[: question.limit].tolist()
    return [
        IndexHit(
            entries[index],
            float(fused[index]),
            max(0.0, float(cosines[index])),
            min(1.0, float(keywords[index])),
        )
        for index in order
    ]


def _ranks(scores: Mapping[int, float], limit: int) -> dict[int, int]:
    """Return the ranks of the best `limit` entries with a positive score, from 1."""
    best_entries = sorted(
        (entry for entry in scores if scores[entry] > 0),
        key=lambda entry: (-scores[entry], entry),
    )[:limit]
    return {entry: index + 1 for index, entry in enumerate(best_entries)}
