"""Money: what a call costs by a model's prices. Decimal throughout; a float never touches a price."""

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec

from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig, PriceInfo, PricePer, PriceType
from modelyard.models.llm import LLMUsage
from modelyard.models.moderation import ModerationUsage
from modelyard.models.rerank import RerankUsage
from modelyard.models.speech2text import Speech2TextUsage
from modelyard.models.tts import TTSUsage
from modelyard.models.types import ZERO, ModelUsage

# As Dify rounds, so that bills agree to the last digit.
_SMALLEST = Decimal("0.0000001")


_MOST_STATED = Decimal(10) ** 6
"""What one call can cost by its provider's own word."""


def _plain(amount: Decimal) -> Decimal:
    """-1 for what cannot be compared."""
    return amount if amount.is_finite() else Decimal(-1)


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(_SMALLEST, ROUND_HALF_UP)


def get_price(pricing: PriceConfig | None, price_type: PriceType, count: Decimal | int) -> PriceInfo:
    """What `count` plain tokens, characters or seconds cost; nothing where the model has no such price."""
    unit_price = None
    if pricing is not None:
        unit_price = pricing.input if price_type is PriceType.INPUT else pricing.output
    if pricing is None or unit_price is None:
        return PriceInfo(unit_price=ZERO, unit=ZERO, total_amount=ZERO, currency=pricing.currency if pricing else "USD")
    amount = rounded(Decimal(count) * unit_price * pricing.unit)
    return PriceInfo(unit_price=unit_price, unit=pricing.unit, total_amount=amount, currency=pricing.currency)


def in_force(pricing: PriceConfig, *, day: date | None = None, prompt_tokens: int = 0) -> PriceConfig:
    """The prices of that day, for a prompt of that length."""
    prices: Any = pricing
    if day is not None:
        prices = next((one for one in pricing.history if day < one.until), pricing)
    fitting = [tier for tier in prices.tiers if prompt_tokens > tier.above]
    chosen: Any = max(fitting, key=lambda tier: tier.above) if fitting else prices
    if chosen is pricing:
        return pricing
    return msgspec.structs.replace(pricing, input=chosen.input, output=chosen.output, rates=chosen.rates)


def _prompt_cost(usage: LLMUsage, prices: PriceConfig) -> Decimal:
    """Kinds of tokens with a rate of their own at that, the rest at the plain price."""
    if not (usage.cached_tokens or usage.cache_write_tokens or usage.audio_prompt_tokens or usage.image_prompt_tokens):
        return usage.prompt_tokens * prices.input
    long_write = usage.cache_write_1h_tokens if "cache_write_1h" in prices.rates else 0
    kinds = (
        ("cached", usage.cached_tokens),
        ("cache_write", usage.cache_write_tokens - long_write),
        ("cache_write_1h", long_write),
        ("audio_input", usage.audio_prompt_tokens),
        ("image_input", usage.image_prompt_tokens),
    )
    return _sum_of_kinds(usage.prompt_tokens, prices.input, kinds, prices.rates)


def _completion_cost(usage: LLMUsage, prices: PriceConfig) -> Decimal:
    if not (usage.reasoning_tokens or usage.audio_completion_tokens or usage.image_completion_tokens):
        return usage.completion_tokens * (prices.output or ZERO)
    kinds = (
        ("reasoning", usage.reasoning_tokens),
        ("audio_output", usage.audio_completion_tokens),
        ("image_output", usage.image_completion_tokens),
    )
    return _sum_of_kinds(usage.completion_tokens, prices.output or ZERO, kinds, prices.rates)


def _sum_of_kinds(
    total: int, plain: Decimal, kinds: tuple[tuple[str, int], ...], rates: Mapping[str, Decimal]
) -> Decimal:
    rest, cost = total, ZERO
    for name, tokens in kinds:
        if (rate := rates.get(name)) is not None:
            # A provider that counts more of a kind than there are tokens gets no negative rest.
            counted = min(tokens, rest)
            cost += counted * rate
            rest -= counted
    return cost + rest * plain


def priced(usage: ModelUsage, pricing: PriceConfig | None, *, day: date | None = None, **more: Any) -> ModelUsage:
    """The usage with prices filled in. `more` are further fields to set, as `latency`.

    What the provider said itself that the call cost is kept. Without a price the cost is None: unknown, not free.
    """
    if usage.total_price is not None and not 0 <= _plain(usage.total_price) <= _MOST_STATED:
        usage = msgspec.structs.replace(usage, total_price=None, price_source="")  # nobody is paid for being called
    if usage.total_price is not None:
        return msgspec.structs.replace(usage, price_source=usage.price_source or "provider", **more)
    if pricing is None:
        return msgspec.structs.replace(usage, **more) if more else usage
    prices = in_force(pricing, day=day, prompt_tokens=getattr(usage, "prompt_tokens", 0))
    more |= {"currency": prices.currency, "price_source": prices.source}
    if isinstance(usage, LLMUsage):
        return msgspec.structs.replace(usage, **more, **_llm_prices(usage, prices))
    if isinstance(usage, EmbeddingUsage):
        more |= {"unit_price": prices.input, "price_unit": prices.unit}
    return msgspec.structs.replace(usage, total_price=_plain_cost(usage, prices), **more)


def _llm_prices(usage: LLMUsage, prices: PriceConfig) -> dict[str, Any]:
    prompt = rounded(_prompt_cost(usage, prices) * prices.unit)
    completion = rounded(_completion_cost(usage, prices) * prices.unit)
    apart = prices.rates.get("request", ZERO) + prices.rates.get("search", ZERO) * usage.searches
    return {
        "prompt_unit_price": prices.input,
        "prompt_price_unit": prices.unit,
        "prompt_price": prompt,
        "completion_unit_price": prices.output or ZERO,
        "completion_price_unit": prices.unit,
        "completion_price": completion,
        "total_price": rounded(prompt + completion + apart),
    }


def _plain_cost(usage: ModelUsage, prices: PriceConfig) -> Decimal | None:
    """None where the usage was not counted in what the price is for."""
    counts = _counts(usage, prices.per)
    if counts is None:
        return None
    inputs, outputs = counts
    heard = getattr(usage, "audio_prompt_tokens", 0) if prices.per is PricePer.TOKEN else 0
    audio = prices.rates.get("audio_input", prices.input)
    amount = (inputs - heard) * prices.input + heard * audio + outputs * (prices.output or ZERO)
    return rounded(amount * prices.unit + prices.rates.get("request", ZERO))


def _counts(usage: ModelUsage, per: PricePer) -> tuple[Decimal, Decimal] | None:
    if per is PricePer.REQUEST:
        return Decimal(1), ZERO
    match usage, per:
        case Speech2TextUsage(), PricePer.SECOND:
            return (Decimal(str(usage.seconds)), ZERO) if usage.seconds else None
        case Speech2TextUsage(), PricePer.TOKEN:
            return (Decimal(usage.prompt_tokens), Decimal(usage.completion_tokens)) if usage.prompt_tokens else None
        case TTSUsage(), PricePer.CHARACTER:
            return Decimal(usage.characters), ZERO
        case RerankUsage(), PricePer.SEARCH:
            return Decimal(usage.searches or 1), ZERO
        case RerankUsage() | EmbeddingUsage(), PricePer.TOKEN:
            return (Decimal(usage.tokens), ZERO) if usage.tokens else None
        case ModerationUsage(), _:
            return Decimal(usage.texts), ZERO
        case _:
            return None
