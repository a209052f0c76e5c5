"""Money: what a call costs by a model's prices. Decimal throughout; a float never touches a price."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec

from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig, PriceInfo, PriceType
from modelyard.models.llm import LLMUsage
from modelyard.models.types import ZERO, ModelUsage

# As Dify rounds, so that bills agree to the last digit.
_SMALLEST = Decimal("0.0000001")


def get_price(pricing: PriceConfig | None, price_type: PriceType, count: Decimal | int) -> PriceInfo:
    """What `count` tokens, characters or seconds cost; nothing where the model has no price."""
    unit_price = None
    if pricing is not None:
        unit_price = pricing.input if price_type is PriceType.INPUT else pricing.output
    if pricing is None or unit_price is None:
        return PriceInfo(unit_price=ZERO, unit=ZERO, total_amount=ZERO, currency=pricing.currency if pricing else "USD")
    amount = (Decimal(count) * unit_price * pricing.unit).quantize(_SMALLEST, ROUND_HALF_UP)
    return PriceInfo(unit_price=unit_price, unit=pricing.unit, total_amount=amount, currency=pricing.currency)


def priced(usage: ModelUsage, pricing: PriceConfig | None, **more: Any) -> ModelUsage:
    """The usage with prices filled in. `more` are further fields to set, as `latency`.

    A cost that the provider stated itself is kept where we know no price.
    """
    if pricing is None:
        return msgspec.structs.replace(usage, **more) if more else usage
    inputs = get_price(pricing, PriceType.INPUT, usage.input_count)
    outputs = get_price(pricing, PriceType.OUTPUT, usage.output_count)
    more |= {"total_price": inputs.total_amount + outputs.total_amount, "currency": pricing.currency}
    if isinstance(usage, LLMUsage):
        more |= {
            "prompt_unit_price": inputs.unit_price,
            "prompt_price_unit": inputs.unit,
            "prompt_price": inputs.total_amount,
            "completion_unit_price": outputs.unit_price,
            "completion_price_unit": outputs.unit,
            "completion_price": outputs.total_amount,
        }
    elif isinstance(usage, EmbeddingUsage):
        more |= {"unit_price": inputs.unit_price, "price_unit": inputs.unit}
    return msgspec.structs.replace(usage, **more)
