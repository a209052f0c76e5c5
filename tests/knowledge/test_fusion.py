"""Laws of the adaptive fusion of a hybrid search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.knowledge.entities import (
    KeywordSetting,
    RetrievalSettings,
    VectorSetting,
    Weights,
)
from modelyard.knowledge.index.base import IndexQuery, fuse_scores
from modelyard.knowledge.index.fusion import AdaptiveFusion, leg_scale

pytestmark = pytest.mark.proof("retrieval")
SCORES = st.dictionaries(
    st.integers(1, 40), st.floats(0, 1, width=32), min_size=1, max_size=30
)
QUERY = IndexQuery(fusion="adaptive", limit=50)


def order(semantic: dict[int, float], keyword: dict[int, float], background: float = 0.0) -> list[int]:  # fmt: skip
    return [hit.entry for hit in fuse_scores(semantic, keyword, QUERY, background)]


@given(SCORES, SCORES, st.floats(0, 0.5))
@settings(max_examples=200, deadline=None)
def test_scores_are_from_0_to_1_and_in_the_order_of_the_hits(
    semantic: dict[int, float], keyword: dict[int, float], background: float
):
    hits = fuse_scores(semantic, keyword, QUERY, background)
    scores = [hit.score for hit in hits]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert {hit.entry for hit in hits} == {*semantic, *keyword}


@given(SCORES, SCORES)
@settings(max_examples=200, deadline=None)
def test_what_is_better_in_both_legs_is_better(
    semantic: dict[int, float], keyword: dict[int, float]
):
    hits = {hit.entry: hit.score for hit in fuse_scores(semantic, keyword, QUERY)}
    for first in hits:
        for second in hits:
            if semantic.get(first, 0) <= semantic.get(second, 0) and keyword.get(first, 0) <= keyword.get(second, 0):  # fmt: skip
                assert hits[first] <= hits[second] + 1e-6


@given(SCORES, SCORES, st.floats(0.1, 1.0), st.floats(0, 0.5))
@settings(max_examples=200, deadline=None)
def test_the_range_of_a_models_cosines_does_not_matter(
    semantic: dict[int, float],
    keyword: dict[int, float],
    width: float,
    background: float,
):
    """One model gives unrelated texts a cosine of 0.05, another one of 0.6."""
    # Rounded, so that no difference disappears when the range becomes narrower.
    rounded = {entry: round(score, 3) for entry, score in semantic.items()}
    moved = {
        entry: background + width * (score + 0.001) for entry, score in rounded.items()
    }
    near = {entry: score + 0.001 for entry, score in rounded.items()}
    plain = AdaptiveFusion(
        leg_scale(list(near.values()), 0.0), leg_scale(list(keyword.values()), 0.0)
    )
    other = AdaptiveFusion(
        leg_scale(list(moved.values()), background),
        leg_scale(list(keyword.values()), 0.0),
    )
    assert plain.semantic_weight == pytest.approx(other.semantic_weight, abs=1e-6)
    values = np.array(list(near.values()))
    moved_values = np.array(list(moved.values()))
    np.testing.assert_allclose(
        plain.semantic.relative(values),
        other.semantic.relative(moved_values),
        atol=1e-5,
    )


def test_the_leg_that_separates_has_more_weight():
    flat = leg_scale([0.5] * 10, 0.0)
    steep = leg_scale([0.9, *[0.1] * 9], 0.0)
    assert (flat.separation, round(steep.separation, 2)) == (0.0, 0.89)
    assert AdaptiveFusion(steep, flat).semantic_weight > 0.9
    assert AdaptiveFusion(flat, steep).semantic_weight < 0.1
    assert 0.3 < AdaptiveFusion(steep, steep).semantic_weight < 0.5
    # The tenth of a few hits is as bad as what is unrelated.
    assert leg_scale([0.9, 0.8], 0.3).separation == 1.0


def test_a_leg_without_hits_has_no_weight():
    assert order({1: 0.9, 2: 0.5}, {}) == [1, 2]
    assert order({}, {2: 0.5, 1: 0.9}) == [1, 2]
    assert fuse_scores({}, {}, QUERY) == []
    # Its only entry is the background of a dataset with one.
    (hit,) = fuse_scores({1: 0.8}, {1: 0.5}, QUERY, background=0.8)
    assert hit.score == pytest.approx(0.375 * 0.8 + 0.625 * 0.5, abs=0.02)


def test_scores_stay_low_if_nothing_fits():
    """A threshold must be able to say so: the best of the bad is not good."""
    hits = fuse_scores({1: 0.1, 2: 0.05}, {1: 0.1, 2: 0.08}, QUERY)
    assert hits[0].score == pytest.approx(0.1)


def test_weights_that_somebody_sets_apply():
    weights = Weights(
        vector_setting=VectorSetting(vector_weight=0.7),
        keyword_setting=KeywordSetting(keyword_weight=0.3),
    )
    assert RetrievalSettings().effective_fusion == "adaptive"
    assert RetrievalSettings(weights=weights).effective_fusion == "weights"
    assert RetrievalSettings(weights=weights, fusion="ranks").effective_fusion == "ranks"  # fmt: skip
