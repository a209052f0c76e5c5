"""Text embedding: texts in, one vector each out."""

from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from modelyard.models.types import ZERO, Chunk, ModelUsage


class EmbeddingInputType(StrEnum):
    DOCUMENT = "document"
    QUERY = "query"


class EmbeddingUsage(ModelUsage, frozen=True, kw_only=True):
    tokens: int = 0
    total_tokens: int = 0
    unit_price: Decimal = ZERO
    price_unit: Decimal = ZERO

    @property
    def input_count(self) -> Decimal:
        return Decimal(self.tokens)


class TextEmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    texts: list[str]
    dimensions: int | None = None
    """How long the vectors should be, where the model can shorten them."""
    input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT
    user: str | None = None
    extra: dict[str, Any] = {}


class TextEmbeddingResult(Chunk, frozen=True, kw_only=True):
    """`embeddings[i]` belongs to `texts[i]`: floats, shape (texts, dimensions)."""

    embeddings: list[list[float]]
    usage: EmbeddingUsage = EmbeddingUsage()

    @property
    def spent(self) -> EmbeddingUsage:
        return self.usage

    def priced(self, usage: ModelUsage) -> "TextEmbeddingResult":
        return msgspec.structs.replace(self, usage=usage)
