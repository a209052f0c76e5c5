"""When a rerank model helps, and how its scores and those of the search become one
order.

Small rerank models are wrong where the search is right as often as the other way round.
So the order is of both, and each counts as much as it separates the hits: a model that
rates all of them alike, or none of them as fitting, leaves the order of the search.
"""

from collections.abc import Sequence

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.tokens import estimate_tokens

_NOTHING_FITS = 0.1
"""The best score below which a rerank model says that it has found nothing."""
_COMPARED = 10
"""The rank whose score the best one is compared with."""
_SMALLEST = 0.01
_QUERY_SHARE = 0.5
"""The share of a rerank model's context that a query may take; the document needs the
remainder."""


class QueryTooLongError(InvokeBadRequestError):
    """A query is so long that a rerank model would not read the documents."""

    code = "query_too_long"


def check_query_length(query: str, model: str, context_size: int | None) -> None:
    """Raise QueryTooLongError if a query takes more than half of a model's context.

    The model reads query and document together, and cuts off what is too long.
    """
    if not context_size:
        return
    tokens = estimate_tokens(query)
    if tokens > context_size * _QUERY_SHARE:
        raise QueryTooLongError(
            f"The question has about {tokens:,} tokens, and rerank model {model!r}"
            f" reads {context_size:,} of question and document together"
        )


def finds_nothing(scores: Sequence[float]) -> bool:
    """Return whether a rerank model says that no document fits."""
    return max(scores, default=0.0) < _NOTHING_FITS


def combined_order(
    search_scores: Sequence[float], rerank_scores: Sequence[float]
) -> list[int]:
    """Return the indexes of hits, best first, by both of their scores.

    The scores of the rerank model are 0 to 1, and count by their own scale: how far the
    best is from the tenth. Those of the search count by the share of the best score
    that the tenth lacks.
    """
    search = _relative(search_scores)
    reranked = _relative(rerank_scores)
    spread = _spread(rerank_scores)
    # Scores of searches are small or large by the model: their share of the best counts.
    best = max(search_scores, default=0.0)
    search_spread = _spread(search_scores) / best if best > 0 else 0.0
    weight = spread / (spread + search_spread + _SMALLEST)

    def score(index: int) -> float:
        """Return the combined score of a hit."""
        return weight * reranked[index] + (1 - weight) * search[index]

    # The rerank model decides between hits that are equal otherwise.
    return sorted(
        range(len(search)),
        key=lambda index: (-score(index), -rerank_scores[index], index),
    )


def _relative(scores: Sequence[float]) -> list[float]:
    """Return scores as 0 for the lowest to 1 for the highest; all 0 if they are equal."""
    lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
    width = highest - lowest
    return [(score - lowest) / width if width > 0 else 0.0 for score in scores]


def _spread(scores: Sequence[float]) -> float:
    """Return how far the best score is from the tenth, or from the last of fewer."""
    ordered = sorted(scores, reverse=True)
    return ordered[0] - ordered[min(_COMPARED, len(ordered)) - 1] if ordered else 0.0
