"""Costs of calls, from a model's prices. Decimal throughout; prices are never floats."""

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

# Dify's rounding, so that costs agree to the last digit.
_ROUNDING_STEP = Decimal("0.0000001")


_MAX_REPORTED_COST = Decimal(10) ** 6
"""Upper bound of a plausible cost reported by a provider for one call."""


def _finite_or_negative(amount: Decimal) -> Decimal:
    """Return the amount, or -1 for NaN and infinity, which cannot be compared."""
    return amount if amount.is_finite() else Decimal(-1)


def round_amount(amount: Decimal) -> Decimal:
    """Return an amount rounded half up to seven decimal places."""
    return amount.quantize(_ROUNDING_STEP, ROUND_HALF_UP)


def get_price(
    pricing: PriceConfig | None, price_type: PriceType, count: Decimal | int
) -> PriceInfo:
    """Return the cost of a number of tokens, characters or seconds.

    `price_type` selects the input or the output price. Special rates, tiers and periods
    are not applied. The cost is zero if the model has no such price.
    """
    unit_price = None
    if pricing is not None:
        unit_price = pricing.input if price_type is PriceType.INPUT else pricing.output
    if pricing is None or unit_price is None:
        return PriceInfo(
            unit_price=ZERO,
            unit=ZERO,
            total_amount=ZERO,
            currency=pricing.currency if pricing else "USD",
        )
    amount = round_amount(Decimal(count) * unit_price * pricing.unit)
    return PriceInfo(
        unit_price=unit_price,
        unit=pricing.unit,
        total_amount=amount,
        currency=pricing.currency,
    )


def effective_prices(
    pricing: PriceConfig,
    *,
    day: date | None = None,
    prompt_tokens: int = 0,
    service_tier: str = "",
) -> PriceConfig:
    """Return the prices that apply on a day to a prompt of this length. Without a day,
    the current prices.

    `service_tier` is the provider's name of the tier that served the call; one without
    prices of its own has the normal ones.
    """
    is_tier_priced = service_tier in pricing.service_tiers
    if day is None and not pricing.tiers and not is_tier_priced:
        return pricing
    prices: Any = pricing
    if (of_tier := pricing.service_tiers.get(service_tier)) is not None:
        # Price lists have no history of service tiers.
        prices = of_tier
    elif day is not None:
        # History is ordered by end date, so the first period that has not ended
        # applies.
        prices = next(
            (period for period in pricing.history if day < period.until), pricing
        )
    applicable_tiers = [tier for tier in prices.tiers if prompt_tokens > tier.above]
    # The highest tier that the prompt exceeds applies to all of its tokens.
    base_prices: Any = (
        max(applicable_tiers, key=lambda tier: tier.above)
        if applicable_tiers
        else prices
    )
    if base_prices is pricing:
        return pricing
    return msgspec.structs.replace(
        pricing,
        input=base_prices.input,
        output=base_prices.output,
        rates=base_prices.rates,
    )


def _prompt_cost(usage: LLMUsage, prices: PriceConfig) -> Decimal:
    """Charge token types with their own rate at that rate, the rest at the normal
    price."""
    # Most calls have no special tokens.
    if not (
        usage.cached_tokens
        or usage.cache_write_tokens
        or usage.audio_prompt_tokens
        or usage.image_prompt_tokens
    ):
        return usage.prompt_tokens * prices.input
    # Without a rate for one-hour cache writes, they cost as much as the shorter ones.
    long_write = usage.cache_write_1h_tokens if "cache_write_1h" in prices.rates else 0
    kinds = (
        ("cached", usage.cached_tokens),
        ("cache_write", usage.cache_write_tokens - long_write),
        ("cache_write_1h", long_write),
        ("audio_input", usage.audio_prompt_tokens),
        ("image_input", usage.image_prompt_tokens),
    )
    return _sum_by_rate(usage.prompt_tokens, prices.input, kinds, prices.rates)


def _completion_cost(usage: LLMUsage, prices: PriceConfig) -> Decimal:
    """Return the cost of the completion tokens before the price unit is applied.

    Reasoning, audio and image tokens are charged at their own rates where there are
    any, the rest at the output price.
    """
    if not (
        usage.reasoning_tokens
        or usage.audio_completion_tokens
        or usage.image_completion_tokens
    ):
        return usage.completion_tokens * (prices.output or ZERO)
    kinds = (
        ("reasoning", usage.reasoning_tokens),
        ("audio_output", usage.audio_completion_tokens),
        ("image_output", usage.image_completion_tokens),
    )
    return _sum_by_rate(
        usage.completion_tokens, prices.output or ZERO, kinds, prices.rates
    )


def _sum_by_rate(
    total: int,
    plain: Decimal,
    kinds: tuple[tuple[str, int], ...],
    rates: Mapping[str, Decimal],
) -> Decimal:
    """Return the cost of `total` tokens, some of which have a rate of their own.

    `kinds` are (name of the rate, tokens); tokens without a rate, and all others, cost
    `plain` each.
    """
    remaining_tokens, cost = total, ZERO
    for name, tokens in kinds:
        if (rate := rates.get(name)) is not None:
            # A provider may report more tokens of a type than there are in total; the
            # remainder must not become negative.
            billed_tokens = min(tokens, remaining_tokens)
            cost += billed_tokens * rate
            remaining_tokens -= billed_tokens
    return cost + remaining_tokens * plain


def with_prices(
    usage: ModelUsage,
    pricing: PriceConfig | None,
    *,
    day: date | None = None,
    **extra_fields: Any,
) -> ModelUsage:
    """Return the usage with prices filled in. `extra_fields` are set as well, for
    example `latency`.

    A cost reported by the provider is kept. Without a price the cost is None: unknown,
    not free.
    """
    # A negative or absurd cost would corrupt limits and the ledger.
    if (
        usage.total_price is not None
        and not 0 <= _finite_or_negative(usage.total_price) <= _MAX_REPORTED_COST
    ):
        usage = msgspec.structs.replace(usage, total_price=None, price_source="")
    if usage.total_price is not None:
        return msgspec.structs.replace(
            usage, price_source=usage.price_source or "provider", **extra_fields
        )
    if pricing is None:
        return msgspec.structs.replace(usage, **extra_fields) if extra_fields else usage
    prices = effective_prices(
        pricing,
        day=day,
        prompt_tokens=getattr(usage, "prompt_tokens", 0),
        service_tier=getattr(usage, "service_tier", ""),
    )
    extra_fields |= {"currency": prices.currency, "price_source": prices.source}
    if isinstance(usage, LLMUsage):
        return msgspec.structs.replace(
            usage, **extra_fields, **_llm_prices(usage, prices)
        )
    if isinstance(usage, EmbeddingUsage):
        extra_fields |= {"unit_price": prices.input, "price_unit": prices.unit}
    return msgspec.structs.replace(
        usage, total_price=_plain_cost(usage, prices), **extra_fields
    )


def _llm_prices(usage: LLMUsage, prices: PriceConfig) -> dict[str, Any]:
    """Return the price fields of a chat call's usage, each rounded to seven places.

    The total also has the rates per request and per search.
    """
    prompt, completion, total = _llm_costs(usage, prices)
    return {
        "prompt_unit_price": prices.input,
        "prompt_price_unit": prices.unit,
        "prompt_price": prompt,
        "completion_unit_price": prices.output or ZERO,
        "completion_price_unit": prices.unit,
        "completion_price": completion,
        "total_price": total,
    }


def _llm_costs(
    usage: LLMUsage, prices: PriceConfig
) -> tuple[Decimal, Decimal, Decimal]:
    """Return the costs of a chat call, each rounded to seven places: of the prompt, of
    the completion, and in total."""
    unit, rates = prices.unit, prices.rates
    prompt = round_amount(_prompt_cost(usage, prices) * unit)
    completion = round_amount(_completion_cost(usage, prices) * unit)
    # A sum of rounded amounts is rounded.
    total = prompt + completion
    # Rates per request and per search are not multiplied by the unit.
    if rates:
        total += rates.get("request", ZERO) + rates.get("search", ZERO) * usage.searches
        total = round_amount(total)
    return prompt, completion, total


def with_total_price(
    usage: LLMUsage, pricing: PriceConfig | None, *, day: date | None = None
) -> LLMUsage:
    """Return the usage of a chat call with its total price as `with_prices` computes
    it, but without the prices that it consists of. The ledger needs no more."""
    if usage.total_price is not None or pricing is None:
        return with_prices(usage, pricing, day=day)  # pyright: ignore[reportReturnType]
    prices = effective_prices(
        pricing,
        day=day,
        prompt_tokens=usage.prompt_tokens,
        service_tier=usage.service_tier,
    )
    return msgspec.structs.replace(
        usage,
        total_price=_llm_costs(usage, prices)[2],
        currency=prices.currency,
        price_source=prices.source,
    )


def _plain_cost(usage: ModelUsage, prices: PriceConfig) -> Decimal | None:
    """Return the cost of a call other than chat, or None if the usage has no count in
    the priced unit."""
    counts = _counts(usage, prices.per)
    if counts is None:
        return None
    inputs, outputs = counts
    # Audio input has a separate rate only where tokens are priced.
    audio_tokens = (
        getattr(usage, "audio_prompt_tokens", 0) if prices.per is PricePer.TOKEN else 0
    )
    audio = prices.rates.get("audio_input", prices.input)
    amount = (
        (inputs - audio_tokens) * prices.input
        + audio_tokens * audio
        + outputs * (prices.output or ZERO)
    )
    return round_amount(amount * prices.unit + prices.rates.get("request", ZERO))


def _counts(usage: ModelUsage, per: PricePer) -> tuple[Decimal, Decimal] | None:
    """Return the (input, output) amounts of a usage in the unit that is priced.

    None if the usage lacks that unit, as an audio call without its duration.
    """
    if per is PricePer.REQUEST:
        return Decimal(1), ZERO
    match usage, per:
        case Speech2TextUsage(), PricePer.SECOND:
            return (Decimal(str(usage.seconds)), ZERO) if usage.seconds else None
        case Speech2TextUsage(), PricePer.TOKEN:
            return (
                (Decimal(usage.prompt_tokens), Decimal(usage.completion_tokens))
                if usage.prompt_tokens
                else None
            )
        case TTSUsage(), PricePer.CHARACTER:
            return Decimal(usage.characters), ZERO
        case RerankUsage(), PricePer.SEARCH:
            # A rerank call is at least one search, even if the provider reports none.
            return Decimal(usage.searches or 1), ZERO
        case RerankUsage() | EmbeddingUsage(), PricePer.TOKEN:
            return (Decimal(usage.tokens), ZERO) if usage.tokens else None
        case ModerationUsage(), _:
            # Moderation is priced per text, whatever the unit.
            return Decimal(usage.texts), ZERO
        case _:
            return None
