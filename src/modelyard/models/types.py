"""Types shared by all model types."""

from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders

Credentials = Mapping[str, Any]
"""A credential: the provider's form fields and their values."""

JSON = dict[str, Any]


class OperatorCredentials(dict[str, Any]):
    """A credential set by the operator, whose URL may lead into the operator's private
    network.

    Any other credential belongs to a tenant, and its URL is called through the egress
    guard (`tenancy/operators.py` decides which is which). Code that forgets the
    distinction therefore refuses too much, not too little.
    """


ZERO = Decimal(0)


class ModelType(StrEnum):
    """The six types of model calls."""

    LLM = "llm"
    TEXT_EMBEDDING = "text-embedding"
    RERANK = "rerank"
    SPEECH2TEXT = "speech2text"
    MODERATION = "moderation"
    TTS = "tts"


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage and cost of one call. Each model type adds its own counts.

    Prices are in `currency`. A unit price applies to `price_unit` units: cost = count ×
    price × unit.
    """

    total_price: Decimal | None = None
    """Cost of the call; None if the price is unknown, which does not mean free."""
    currency: str = "USD"
    price_source: str = ""
    """Origin of the cost: a price list, or `provider` if the response stated it."""
    latency: float = 0.0
    """Seconds from the start of the call to its last chunk."""
    estimated: bool = False
    """Whether the counts are estimates because the provider reported none."""

    @property
    def input_count(self) -> Decimal:
        """Return the quantity to which the input price applies: tokens, characters or
        seconds."""
        return ZERO

    @property
    def output_count(self) -> Decimal:
        """Return the quantity to which the output price applies."""
        return ZERO


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of an answer. The last chunk of a stream has the usage."""

    model: str = ""
    headers: CallHeaders = NO_HEADERS
    """Headers of the provider's response; on its first chunk."""

    @property
    def usage_or_none(self) -> ModelUsage | None:
        """Return the usage, if this chunk has it, otherwise None."""
        return None

    def with_usage(self, usage: ModelUsage) -> "Chunk":
        """Return the chunk with its usage replaced."""
        raise TypeError(f"{type(self).__name__} has no usage")


Chunks = AsyncGenerator[Any, None]
