"""Rerank: a query and documents in, the documents with scores, best first, out."""

from decimal import Decimal
from typing import Any

import msgspec

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


class RerankResult(Chunk, frozen=True, kw_only=True):
    docs: list[RerankDocument]
    usage: RerankUsage = RerankUsage()

    @property
    def spent(self) -> RerankUsage:
        return self.usage

    def priced(self, usage: ModelUsage) -> "RerankResult":
        return msgspec.structs.replace(self, usage=usage)
