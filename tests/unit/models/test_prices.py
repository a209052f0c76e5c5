"""Tests for the cost of calls: token types, tiers, dates and unknown prices."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig, PricePer, PricePeriod, PriceTier
from modelyard.models.llm import LLMUsage
from modelyard.models.pricing import with_prices
from modelyard.models.rerank import RerankUsage
from modelyard.models.speech2text import Speech2TextUsage
from modelyard.models.tts import TTSUsage

D = Decimal
MILLION = D("0.000001")
CLAUDE = PriceConfig(
    input=D(3), output=D(15), unit=MILLION, currency="USD", source="list",
    rates={"cached": D("0.3"), "cache_write": D("3.75"), "cache_write_1h": D(6), "search": D("0.01")},
    tiers=[PriceTier(above=200_000, input=D(6), output=D("22.5"), rates={"cached": D("0.6")})],
    history=[PricePeriod(until=date(2026, 1, 1), input=D(5), output=D(25))],
)  # fmt: skip


def cost(
    usage: Any, pricing: PriceConfig | None = CLAUDE, **options: Any
) -> str | None:
    total_price = with_prices(usage, pricing, **options).total_price
    return None if total_price is None else str(total_price)


def test_each_kind_of_token_has_its_price():
    usage = LLMUsage.of(
        1_000_000,
        100_000,
        cached_tokens=600_000,
        cache_write_tokens=200_000,
        cache_write_1h_tokens=50_000,
        searches=2,
    )
    # Above 200,000 tokens the tier price applies to all of them: 600,000 cached tokens
    # at 0.60, the others at 6, and output at 22.50.
    assert cost(usage) == "5.0100000"
    small_usage = LLMUsage.of(
        100_000,
        1_000,
        cached_tokens=60_000,
        cache_write_tokens=20_000,
        cache_write_1h_tokens=5_000,
    )
    # Per million: 60,000 × 0.30 + 15,000 × 3.75 + 5,000 × 6 + 20,000 × 3 for the
    # prompt, and 1,000 × 15 for the completion.
    assert cost(small_usage) == "0.1792500"
    assert cost(LLMUsage.of(0, 0, searches=3)) == "0.0300000"


@pytest.mark.parametrize(
    ("prompt_tokens", "expected"),
    [(199_999, "0.5999970"), (200_000, "0.6000000"), (200_001, "1.2000060")],
)
def test_a_tier_applies_above_its_threshold(prompt_tokens: int, expected: str):
    """At the threshold itself, the normal price applies."""
    assert cost(LLMUsage.of(prompt_tokens, 0)) == expected


def test_prices_of_the_day_apply():
    usage = LLMUsage.of(1_000_000, 0)
    assert cost(LLMUsage.of(100_000, 0), day=date(2025, 12, 31)) == "0.5000000"
    assert cost(LLMUsage.of(100_000, 0), day=date(2026, 1, 1)) == "0.3000000"
    assert cost(usage, day=date(2025, 12, 31)) == "5.0000000"  # No tiers on that day.


def test_audio_and_images_use_their_own_price_if_set():
    audio = PriceConfig(
        input=D(2),
        output=D(8),
        unit=MILLION,
        currency="USD",
        rates={"audio_input": D(40), "audio_output": D(80)},
    )
    usage = LLMUsage.of(
        1000, 1000, audio_prompt_tokens=400, audio_completion_tokens=900
    )
    # Per million: 600 × 2 + 400 × 40 for the prompt, and 100 × 8 + 900 × 80 for the
    # completion.
    assert cost(usage, audio) == "0.0900000"
    assert (
        cost(usage, PriceConfig(input=D(2), output=D(8), unit=MILLION, currency="USD"))
        == "0.0100000"
    )


@pytest.mark.parametrize(
    ("usage", "per", "unit", "price", "expected"),
    [
        (Speech2TextUsage(seconds=60.0), PricePer.SECOND, "1", "0.0001", "0.0060000"),
        (Speech2TextUsage(seconds=60.0), PricePer.TOKEN, "0.000001", "2.5", None),
        (
            Speech2TextUsage(prompt_tokens=1000, audio_prompt_tokens=900),
            PricePer.TOKEN,
            "0.000001",
            "2.5",
            "0.0025000",
        ),
        (Speech2TextUsage(), PricePer.SECOND, "1", "0.0001", None),
        (TTSUsage(characters=1000), PricePer.CHARACTER, "0.000001", "15", "0.0150000"),
        (TTSUsage(characters=1000), PricePer.TOKEN, "0.000001", "15", None),
        (RerankUsage(searches=2), PricePer.SEARCH, "1", "0.002", "0.0040000"),
        (RerankUsage(tokens=100), PricePer.TOKEN, "0.000001", "0.05", "0.0000050"),
        (RerankUsage(searches=1), PricePer.TOKEN, "0.000001", "0.05", None),
        (EmbeddingUsage(tokens=1000), PricePer.TOKEN, "0.000001", "0.02", "0.0000200"),
        (EmbeddingUsage(tokens=1000), PricePer.REQUEST, "1", "0.5", "0.5000000"),
    ],
)
def test_other_units(
    usage: Any, per: PricePer, unit: str, price: str, expected: str | None
):
    assert (
        cost(usage, PriceConfig(input=D(price), unit=D(unit), currency="USD", per=per))
        == expected
    )


def test_a_reported_cost_is_kept_and_an_unknown_price_stays_unknown():
    stated = with_prices(LLMUsage.of(1, 1, total_price=D("0.5")), CLAUDE)
    assert (stated.total_price, stated.price_source) == (D("0.5"), "provider")
    unknown = with_prices(LLMUsage.of(1, 1), None)
    assert unknown.total_price is None
    assert (
        LLMUsage.of(1, 1).plus(LLMUsage.of(1, 1, total_price=D(1))).total_price is None
    )
    assert LLMUsage.empty_usage().plus(
        LLMUsage.of(1, 1, total_price=D(1))
    ).total_price == D(1)


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_every_token_is_charged_exactly_once(
    prompt: int, cached: int, write: int, audio: int, completion: int
):
    flat = PriceConfig(
        input=D(1), output=D(1), unit=MILLION, currency="USD",
        rates=dict.fromkeys(("cached", "cache_write", "audio_input", "reasoning"), D(1)),
    )  # fmt: skip
    usage = LLMUsage.of(
        prompt,
        completion,
        cached_tokens=cached,
        cache_write_tokens=write,
        audio_prompt_tokens=audio,
        reasoning_tokens=cached,
    )
    assert with_prices(usage, flat).total_price == (
        D(prompt + completion) * MILLION
    ).quantize(D("0.0000001"))
