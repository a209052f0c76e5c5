"""Fusion of the two legs of a hybrid search by how far each one separates its entries.

The scores of the legs cannot be compared: one embedding model gives unrelated texts a
cosine of 0.05, another one of 0.6. So cosines are measured from the model's own
background in this dataset, the mean over its entries, and both legs relative to their
best entry. The weight of a leg follows from its separation: how far its best entry
stands out from its tenth. A leg that finds ten entries equally good knows little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.base.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

COMPARED = 10
"""The rank whose score the best one is compared with: a page of results."""
_SEMANTIC_TRUST = 0.6
"""How much the separation of the semantic leg counts, relative to that of the full
text. Models place related topics near a question; words that match are seldom chance.
From 0.5 to 0.7 the results on ten collections differ little."""
_SMALLEST = 0.01
"""Added to each separation, so that two legs that separate nothing share the weight."""


@dataclass(frozen=True, slots=True)
class LegScale:
    """The range of one leg's scores for one query."""

    background: float
    """The score of an unrelated entry."""
    best: float
    separation: float
    """0 to 1: 0 if the first ten entries are equally good, 1 if the tenth is as bad as
    the background."""

    def relative(self, scores: np.ndarray) -> np.ndarray:
        """Return scores as 0 for the background to 1 for the best entry."""
        width = self.best - self.background
        if width <= 0:
            # A single entry is its own background.
            return (scores >= self.best).astype(np.float32)
        return np.clip((scores - self.background) / width, 0, 1)


def leg_scale(top_scores: Sequence[float], background: float) -> LegScale:
    """Return the scale of a leg by its best scores, in any order.

    If there are less than ten, the tenth is as bad as the background.
    """
    ordered = sorted(top_scores, reverse=True)
    best = ordered[0] if ordered else background
    tenth = ordered[COMPARED - 1] if len(ordered) >= COMPARED else background
    # An entry alone, or nothing but background, counts as separated.
    width = best - background
    separation = (best - max(tenth, background)) / width if width > 0 else 1.0
    return LegScale(background, best, min(1.0, max(0.0, separation)))


@dataclass(frozen=True, slots=True)
class AdaptiveFusion:
    """The scales of both legs for one query, and the weights that follow from them."""

    semantic: LegScale
    keyword: LegScale

    @property
    def semantic_weight(self) -> float:
        """The weight of the semantic leg, 0 to 1."""
        # A leg without a hit has nothing to say.
        if self.keyword.best <= 0:
            return 1.0
        if self.semantic.best <= 0:
            return 0.0
        semantic = _SEMANTIC_TRUST * (self.semantic.separation + _SMALLEST)
        return semantic / (semantic + self.keyword.separation + _SMALLEST)

    @property
    def level(self) -> float:
        """The score of an entry that is best in both legs: the weighted sum of its two
        scores, 0 to 1."""
        weight = self.semantic_weight
        cosine = min(1.0, max(0.0, self.semantic.best))
        return weight * cosine + (1 - weight) * min(1.0, max(0.0, self.keyword.best))

    def scores(self, cosines: np.ndarray, keyword_scores: np.ndarray) -> np.ndarray:
        """Return the fused scores of entries, 0 to 1.

        `level` keeps their meaning absolute: if nothing fits, all of them are low, and
        thresholds and other datasets can be compared with them.
        """
        # Relative to each leg's best, so that neither range of scores dominates.
        weight = self.semantic_weight
        relative = weight * self.semantic.relative(cosines) + (
            1 - weight
        ) * self.keyword.relative(keyword_scores)
        return self.level * relative
