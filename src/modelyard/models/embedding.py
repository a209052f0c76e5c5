"""Text embedding: a list of texts in, one vector per text out."""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.json_types import is_array
from modelyard.models.types import ZERO, Chunk, ModelUsage


class EmbeddingInputType(StrEnum):
    """Purpose of the texts; some models embed queries and documents differently."""

    DOCUMENT = "document"
    QUERY = "query"


class TokenIds(str):
    """A text that the caller sent as the token ids of OpenAI's tokenizer.

    As a string it only identifies the ids; a provider that takes ids is sent `ids`.
    """

    __slots__ = ("ids",)
    ids: tuple[int, ...]

    def __new__(cls, ids: Sequence[int]) -> "TokenIds":
        """Make the text of some ids."""
        # The first character cannot come from JSON text of a sane client, so that the
        # name is never that of a text.
        text = super().__new__(cls, f"\0{','.join(map(str, ids))}")
        text.ids = tuple(ids)
        return text


TOKEN_ID_PROVIDERS = frozenset(("openai", "azure_openai"))
"""The providers whose models use the tokenizer of OpenAI's clients."""


class EmbeddingUsage(ModelUsage, frozen=True, kw_only=True):
    """Usage of an embedding call."""

    tokens: int = 0
    total_tokens: int = 0
    unit_price: Decimal = ZERO
    price_unit: Decimal = ZERO

    @property
    def input_count(self) -> Decimal:
        """Return the number of tokens to which the input price applies."""
        return Decimal(self.tokens)


class TextEmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to embed texts."""

    texts: list[str]
    """Texts; a `TokenIds` where the caller sent token ids."""
    dimensions: int | None = None
    """Requested vector length, for models that can shorten vectors."""
    input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT
    user: str | None = None
    unsupported: str = "drop"
    """Handling of fields that the model does not support: `drop` leaves them out,
    `refuse` fails the call."""
    extra: dict[str, Any] = {}


def to_vectors(value: Any) -> list[list[float]]:
    """Return the vectors of a server's answer.

    Raises InvokeServerUnavailableError if they are not a list of lists. The numbers are
    not checked, for they are many.
    """
    if not is_array(value) or not all(map(is_array, value)):
        raise InvokeServerUnavailableError("Upstream response has no 'embeddings'")
    return value


class TextEmbeddingResult(Chunk, frozen=True, kw_only=True):
    """The vectors: `embeddings[i]` belongs to `texts[i]`, as floats of shape (texts,
    dimensions)."""

    embeddings: list[list[float]]
    usage: EmbeddingUsage = EmbeddingUsage()

    @property
    def usage_or_none(self) -> EmbeddingUsage:
        """Return the usage."""
        return self.usage

    def with_usage(self, usage: ModelUsage) -> "TextEmbeddingResult":
        """Return the result with its usage replaced."""
        return msgspec.structs.replace(self, usage=usage)
