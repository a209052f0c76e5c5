"""Rerank: a query and documents in, the documents with scores, best first, out."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.types import Chunk, ModelUsage


class RerankUsage(ModelUsage, frozen=True, kw_only=True):
    tokens: int = 0
    searches: int = 0

    @property
    def input_count(self) -> Decimal:
        return Decimal(self.tokens or self.searches)


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    query: str
    docs: list[str]
    top_n: int | None = None
    score_threshold: float | None = None
    user: str | None = None
    extra: dict[str, Any] = {}


class RerankDocument(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    """Place in the request's documents."""
    text: str
    score: float
    """Higher is more relevant; comparable within one answer alone."""


def ranked(pairs: Iterable[tuple[Any, Any]], request: RerankRequest) -> list[RerankDocument]:
    """Indices and scores as a server gave them, as documents, best first, within the request's bounds.

    Raises InvokeServerUnavailableError for an index that no document has, or a score that is no number.
    """
    docs: list[RerankDocument] = []
    for index, score in pairs:
        if not isinstance(index, int) or not 0 <= index < len(request.docs) or not isinstance(score, int | float):
            raise InvokeServerUnavailableError("a result of the answer has no index and score that fit")
        if request.score_threshold is None or score >= request.score_threshold:
            docs.append(RerankDocument(index=index, text=request.docs[index], score=float(score)))
    return sorted(docs, key=lambda doc: -doc.score)[: request.top_n]


class RerankResult(Chunk, frozen=True, kw_only=True):
    docs: list[RerankDocument]
    usage: RerankUsage = RerankUsage()

    @property
    def spent(self) -> RerankUsage:
        return self.usage

    def priced(self, usage: ModelUsage) -> "RerankResult":
        return msgspec.structs.replace(self, usage=usage)
