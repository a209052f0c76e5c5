"""Words that every model type shares."""

from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

Credentials = Mapping[str, Any]
"""One set of secrets for one provider: its form's fields and their values."""

JSON = dict[str, Any]


class OperatorCredentials(dict[str, Any]):
    """A credential that the operator filled in: the address in it may lead into the operator's own network.

    Any other credential was filled in by a tenant. What it names is called through the egress guard
    (`tenancy/operators.py` says who is which), so that a place which forgets the difference refuses too much.
    """


ZERO = Decimal(0)


class ModelType(StrEnum):
    """Six kinds of call."""

    LLM = "llm"
    TEXT_EMBEDDING = "text-embedding"
    RERANK = "rerank"
    SPEECH2TEXT = "speech2text"
    MODERATION = "moderation"
    TTS = "tts"


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one call cost. Each model type counts in its own unit and adds it here.

    Prices are in `currency`; a unit price holds for `price_unit` of the unit, so cost = count × price × unit.
    """

    total_price: Decimal | None = None
    """What the call came to; None where nobody knows the price, which is not the same as free."""
    currency: str = "USD"
    price_source: str = ""
    """Who said what it costs: a price list, or `provider` where the answer itself did."""
    latency: float = 0.0
    """Seconds from the call to its last chunk."""
    estimated: bool = False
    """True where the provider did not say and we counted."""

    @property
    def input_count(self) -> Decimal:
        """What the input price is multiplied with: tokens, characters or seconds."""
        return ZERO

    @property
    def output_count(self) -> Decimal:
        """What the output price is multiplied with."""
        return ZERO


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer. The last one of a stream carries usage."""

    model: str = ""

    @property
    def spent(self) -> ModelUsage | None:
        """The usage in this chunk, if it is the one that carries it."""
        return None

    def priced(self, usage: ModelUsage) -> "Chunk":
        """The same chunk with its usage replaced."""
        raise TypeError(f"{type(self).__name__} carries no usage")


Chunks = AsyncGenerator[Any, None]
