"""Rerank: a query and documents in, the scored documents out, best first."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.types import Chunk, ModelUsage


class RerankUsage(ModelUsage, frozen=True, kw_only=True):
    """Usage of a rerank call."""

    tokens: int = 0
    searches: int = 0

    @property
    def input_count(self) -> Decimal:
        """Return the tokens or, if they are not reported, the searches to which the
        price applies."""
        return Decimal(self.tokens or self.searches)


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to rank documents by relevance to a query."""

    query: str
    docs: list[str]
    top_n: int | None = None
    score_threshold: float | None = None
    user: str | None = None
    extra: dict[str, Any] = {}


class RerankDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A ranked document."""

    index: int
    """Index in the request's documents."""
    text: str
    score: float
    """Higher is more relevant; comparable only within one result."""


def to_ranked_documents(
    pairs: Iterable[tuple[Any, Any]], request: RerankRequest
) -> list[RerankDocument]:
    """Convert a server's (index, score) pairs to documents, best first, limited by the
    request's threshold and `top_n`.

    Raises InvokeServerUnavailableError for an index out of range or a score that is not
    a number.
    """
    docs: list[RerankDocument] = []
    for index, score in pairs:
        # `bool` is a subclass of `int`, but it is neither an index nor a score.
        if (
            not isinstance(index, int)
            or not 0 <= index < len(request.docs)
            or not isinstance(score, int | float)
            or isinstance(index, bool)
            or isinstance(score, bool)
        ):
            raise InvokeServerUnavailableError(
                "A result of the response has an invalid index or score"
            )
        if request.score_threshold is None or score >= request.score_threshold:
            docs.append(
                RerankDocument(
                    index=index, text=request.docs[index], score=float(score)
                )
            )
    # The sort is stable: equal scores keep the server's order.
    return sorted(docs, key=lambda doc: -doc.score)[: request.top_n]


class RerankResult(Chunk, frozen=True, kw_only=True):
    """The ranked documents."""

    docs: list[RerankDocument]
    usage: RerankUsage = RerankUsage()

    @property
    def usage_or_none(self) -> RerankUsage:
        """Return the usage."""
        return self.usage

    def with_usage(self, usage: ModelUsage) -> "RerankResult":
        """Return the result with its usage replaced."""
        return msgspec.structs.replace(self, usage=usage)
