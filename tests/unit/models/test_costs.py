"""Costs to the last digit: rates, tiers, periods, units, and reported prices."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import (
    PriceConfig,
    PriceInfo,
    PricePer,
    PricePeriod,
    PriceTier,
    PriceType,
    ServicePrices,
)
from modelyard.models.llm import LLMUsage
from modelyard.models.moderation import ModerationUsage
from modelyard.models.pricing import (
    effective_prices,
    get_price,
    round_amount,
    with_prices,
    with_total_price,
)
from modelyard.models.rerank import RerankUsage
from modelyard.models.speech2text import Speech2TextUsage
from modelyard.models.tts import TTSUsage
from modelyard.models.types import ModelUsage

D = Decimal
UNIT = D("0.01")
TIER = PriceTier(above=100, input=D(5), output=D(9), rates={"cached": D(2)})
HIGH_TIER = PriceTier(above=200, input=D(6))
PRICES = PriceConfig(
    input=D(3),
    output=D(7),
    unit=UNIT,
    currency="EUR",
    source="list",
    rates={"cached": D(1)},
    tiers=[TIER, HIGH_TIER],
)


def priced(per: PricePer, **fields: Any) -> PriceConfig:
    options: dict[str, Any] = {"output": D(7), "unit": UNIT, "currency": "EUR"}
    return PriceConfig(input=D(3), per=per, **options | fields)


def cost(usage: ModelUsage, prices: PriceConfig | None = PRICES, **options: Any) -> Any:
    return with_prices(usage, prices, **options).total_price


# Single prices.


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [
        ("0.00000004", "0E-7"),
        ("0.00000005", "1E-7"),
        ("0.00000015", "2E-7"),
        ("0.00000025", "3E-7"),
        ("1", "1.0000000"),
    ],
)
def test_amounts_are_rounded_half_up_to_seven_places(amount: str, rounded: str):
    assert str(round_amount(D(amount))) == rounded


def test_a_single_price_has_its_parts():
    assert get_price(PRICES, PriceType.INPUT, 2) == PriceInfo(
        unit_price=D(3), unit=UNIT, total_amount=D("0.06"), currency="EUR"
    )
    assert get_price(PRICES, PriceType.OUTPUT, D("1.5")) == PriceInfo(
        unit_price=D(7), unit=UNIT, total_amount=D("0.105"), currency="EUR"
    )


@pytest.mark.parametrize(
    ("prices", "currency"),
    [(None, "USD"), (PriceConfig(input=D(3), unit=UNIT, currency="EUR"), "EUR")],
)
def test_a_price_that_does_not_exist_is_zero(prices: PriceConfig | None, currency: str):
    assert get_price(prices, PriceType.OUTPUT, 5) == PriceInfo(
        unit_price=D(0), unit=D(0), total_amount=D(0), currency=currency
    )


# Tiers and periods.


@pytest.mark.parametrize(
    ("prompt_tokens", "expected"),
    [
        (0, (D(3), D(7), {"cached": D(1)})),
        (100, (D(3), D(7), {"cached": D(1)})),
        (101, (D(5), D(9), {"cached": D(2)})),
        (201, (D(6), None, {})),
    ],
)
def test_the_highest_tier_that_is_exceeded_applies(
    prompt_tokens: int, expected: tuple[Any, ...]
):
    for tiers in ([TIER, HIGH_TIER], [HIGH_TIER, TIER]):
        prices = PriceConfig(
            input=D(3), output=D(7), unit=UNIT, currency="EUR", source="list",
            rates={"cached": D(1)}, tiers=tiers,
        )  # fmt: skip
        effective = effective_prices(prices, prompt_tokens=prompt_tokens)
        assert (effective.input, effective.output, effective.rates) == expected
        assert (effective.unit, effective.currency) == (UNIT, "EUR")
        assert effective.source == "list"


def test_prices_that_do_not_change_are_the_same_object():
    assert effective_prices(PRICES) is PRICES
    assert effective_prices(PRICES, day=date(2026, 1, 1)) is PRICES


@pytest.mark.parametrize(
    ("day", "prompt_tokens", "expected"),
    [
        (None, 0, 3),
        (date(2025, 12, 31), 0, 20),
        (date(2024, 12, 31), 0, 10),
        (date(2025, 1, 1), 0, 20),
        (date(2026, 1, 1), 0, 3),
        (date(2025, 6, 1), 101, 30),
        (date(2024, 6, 1), 101, 10),
        (date(2026, 6, 1), 101, 5),
    ],
)
def test_the_period_of_the_day_applies_with_its_tiers(
    day: date | None, prompt_tokens: int, expected: int
):
    old_tier = PriceTier(above=100, input=D(30))
    prices = PriceConfig(
        input=D(3),
        unit=UNIT,
        currency="EUR",
        tiers=[TIER],
        history=[
            PricePeriod(until=date(2025, 1, 1), input=D(10)),
            PricePeriod(until=date(2026, 1, 1), input=D(20), tiers=[old_tier]),
        ],
    )
    effective = effective_prices(prices, day=day, prompt_tokens=prompt_tokens)
    assert effective.input == expected


# Service tiers.

FLEX = ServicePrices(
    input=D(2), output=D(4), rates={"cached": D(1)}, tiers=[PriceTier(above=100, input=D(8))]
)  # fmt: skip
WITH_TIERS = PriceConfig(
    input=D(3),
    output=D(7),
    unit=UNIT,
    currency="EUR",
    source="list",
    tiers=[TIER],
    history=[PricePeriod(until=date(2026, 1, 1), input=D(20), output=D(30))],
    service_tiers={"flex": FLEX},
)


@pytest.mark.parametrize(
    ("service_tier", "prompt_tokens", "expected"),
    [
        ("flex", 0, (D(2), D(4), {"cached": D(1)})),
        # Service tiers have prices for long prompts of their own.
        ("flex", 101, (D(8), None, {})),
        ("", 0, (D(3), D(7), {})),
        # A tier without prices of its own costs as much as the normal one.
        ("batch", 0, (D(3), D(7), {})),
        ("batch", 101, (D(5), D(9), {"cached": D(2)})),
    ],
)
def test_a_service_tier_has_its_prices(
    service_tier: str, prompt_tokens: int, expected: tuple[Any, ...]
):
    effective = effective_prices(
        WITH_TIERS, service_tier=service_tier, prompt_tokens=prompt_tokens
    )
    assert (effective.input, effective.output, effective.rates) == expected
    usage = LLMUsage.of(prompt_tokens, 0, service_tier=service_tier)
    assert cost(usage, WITH_TIERS) == prompt_tokens * expected[0] * UNIT


def test_service_tiers_apply_without_tiers_and_history():
    prices = priced(PricePer.TOKEN, service_tiers={"flex": FLEX})
    assert cost(LLMUsage.of(10, 0, service_tier="flex"), prices) == D("0.2")
    assert effective_prices(prices, service_tier="batch") is prices


def test_service_tiers_have_no_history():
    """An earlier period has only the normal prices."""
    past = date(2025, 6, 1)
    usage = LLMUsage.of(10, 0, service_tier="flex")
    assert cost(usage, WITH_TIERS, day=past) == D("0.2")
    assert cost(LLMUsage.of(10, 0), WITH_TIERS, day=past) == D("2")


# The total only, for the ledger.

chat_usages = st.builds(
    LLMUsage.of,
    st.integers(0, 300),
    st.integers(0, 300),
    cached_tokens=st.integers(0, 300),
    reasoning_tokens=st.integers(0, 300),
    searches=st.integers(0, 3),
    service_tier=st.sampled_from(["", "flex", "batch"]),
    total_price=st.sampled_from([None, None, D("0.5"), D(-1)]),
)


@given(
    chat_usages,
    st.sampled_from([PRICES, WITH_TIERS, None]),
    st.sampled_from([None, date(2025, 6, 1), date(2026, 6, 1)]),
)
def test_a_total_price_is_that_of_all_prices(
    usage: LLMUsage, prices: PriceConfig | None, day: date | None
):
    complete = with_prices(usage, prices, day=day)
    total = with_total_price(usage, prices, day=day)
    assert isinstance(complete, LLMUsage)
    for name in ("total_price", "currency", "price_source", "service_tier"):
        assert getattr(total, name) == getattr(complete, name), name
    # The counts stay as they are.
    assert (total.prompt_tokens, total.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


def test_the_ledger_needs_no_single_prices():
    usage = with_total_price(LLMUsage.of(10, 20), PRICES)
    assert usage == LLMUsage.of(
        10, 20, total_price=D("1.7"), currency="EUR", price_source="list"
    )


# Chat.


def test_a_chat_has_the_prices_of_its_parts():
    usage = with_prices(LLMUsage.of(10, 20), PRICES, latency=1.5)
    assert isinstance(usage, LLMUsage)
    assert usage == LLMUsage.of(
        10, 20, prompt_unit_price=D(3), prompt_price_unit=UNIT, prompt_price=D("0.3"),
        completion_unit_price=D(7), completion_price_unit=UNIT,
        completion_price=D("1.4"), total_price=D("1.7"), currency="EUR",
        price_source="list", latency=1.5,
    )  # fmt: skip


def test_a_missing_output_price_costs_nothing():
    prices = PriceConfig(input=D(3), unit=UNIT, currency="EUR")
    usage = with_prices(LLMUsage.of(10, 20, reasoning_tokens=5), prices)
    assert isinstance(usage, LLMUsage)
    assert (usage.completion_price, usage.completion_unit_price) == (0, 0)
    assert usage.total_price == D("0.3")
    assert cost(LLMUsage.of(10, 20), prices) == D("0.3")


@pytest.mark.parametrize(
    ("rates", "counts", "expected"),
    [
        # Of 100 prompt tokens at 3 each and 50 completion tokens at 7 each.
        ({}, {"cached_tokens": 40}, "6.5"),
        ({"cached": 1}, {"cached_tokens": 40}, "5.7"),
        ({"cached": 1}, {}, "6.5"),
        ({"cache_write": 4}, {"cache_write_tokens": 40}, "6.9"),
        (
            {"cache_write": 4},
            {"cache_write_tokens": 40, "cache_write_1h_tokens": 10},
            "6.9",
        ),
        (
            {"cache_write": 4, "cache_write_1h": 6},
            {"cache_write_tokens": 40, "cache_write_1h_tokens": 10},
            "7.1",
        ),
        ({"audio_input": 5}, {"audio_prompt_tokens": 40}, "7.3"),
        ({"image_input": 5}, {"image_prompt_tokens": 40}, "7.3"),
        ({"reasoning": 9}, {"reasoning_tokens": 20}, "6.9"),
        ({"audio_output": 9}, {"audio_completion_tokens": 20}, "6.9"),
        ({"image_output": 9}, {"image_completion_tokens": 20}, "6.9"),
        # More of a kind than there are tokens at all.
        ({"cached": 1}, {"cached_tokens": 140}, "4.5"),
        (
            {"cached": 1, "audio_input": 5},
            {"cached_tokens": 90, "audio_prompt_tokens": 40},
            "4.9",
        ),
        # Per request and per search, which have no unit.
        ({"request": 2}, {}, "8.5"),
        ({"search": 2}, {"searches": 3}, "12.5"),
        ({"search": 2}, {}, "6.5"),
        ({}, {"searches": 3}, "6.5"),
    ],
)
def test_tokens_with_a_rate_of_their_own_cost_that(
    rates: dict[str, int], counts: dict[str, int], expected: str
):
    prices = PriceConfig(
        input=D(3), output=D(7), unit=UNIT, currency="EUR",
        rates={name: D(rate) for name, rate in rates.items()},
    )  # fmt: skip
    assert cost(LLMUsage.of(100, 50, **counts), prices) == D(expected)


def test_the_parts_are_rounded_before_they_are_added():
    prices = PriceConfig(
        input=D("0.00000005"), output=D("0.00000005"), unit=D(1), currency="EUR"
    )
    assert str(cost(LLMUsage.of(1, 1), prices)) == "2E-7"


# Other types.


@pytest.mark.parametrize(
    ("usage", "per", "expected"),
    [
        (EmbeddingUsage(tokens=10), PricePer.TOKEN, "0.3"),
        (EmbeddingUsage(), PricePer.TOKEN, None),
        (EmbeddingUsage(tokens=10), PricePer.SECOND, None),
        (EmbeddingUsage(tokens=10), PricePer.REQUEST, "0.03"),
        (RerankUsage(tokens=10, searches=2), PricePer.TOKEN, "0.3"),
        (RerankUsage(tokens=10, searches=2), PricePer.SEARCH, "0.06"),
        (RerankUsage(), PricePer.SEARCH, "0.03"),
        (RerankUsage(searches=2), PricePer.TOKEN, None),
        (TTSUsage(characters=10), PricePer.CHARACTER, "0.3"),
        (TTSUsage(), PricePer.CHARACTER, "0"),
        (TTSUsage(characters=10), PricePer.SECOND, None),
        (Speech2TextUsage(seconds=2.5), PricePer.SECOND, "0.075"),
        (Speech2TextUsage(prompt_tokens=4), PricePer.SECOND, None),
        (
            Speech2TextUsage(prompt_tokens=4, completion_tokens=2),
            PricePer.TOKEN,
            "0.26",
        ),
        (Speech2TextUsage(seconds=2.5), PricePer.TOKEN, None),
        (ModerationUsage(texts=3), PricePer.TOKEN, "0.09"),
        (ModerationUsage(texts=3), PricePer.REQUEST, "0.03"),
    ],
)
def test_each_type_is_priced_in_its_unit(
    usage: ModelUsage, per: PricePer, expected: str | None
):
    total_price = cost(usage, priced(per))
    assert total_price == (None if expected is None else D(expected))


def test_an_embedding_has_its_unit_price():
    prices = priced(PricePer.TOKEN, source="list")
    usage = with_prices(EmbeddingUsage(tokens=10), prices, latency=2.0)
    assert usage == EmbeddingUsage(
        tokens=10, unit_price=D(3), price_unit=UNIT, total_price=D("0.3"),
        currency="EUR", price_source="list", latency=2.0,
    )  # fmt: skip


def test_other_types_may_have_a_price_per_request():
    prices = priced(PricePer.CHARACTER, rates={"request": D(2)})
    assert cost(TTSUsage(characters=10), prices) == D("2.3")


def test_other_costs_are_rounded():
    prices = PriceConfig(
        input=D("0.00000005"), unit=D(1), currency="EUR", per=PricePer.CHARACTER
    )
    assert str(cost(TTSUsage(characters=1), prices)) == "1E-7"


@pytest.mark.parametrize(
    ("per", "expected"), [(PricePer.TOKEN, "0.32"), (PricePer.REQUEST, "0.03")]
)
def test_recorded_audio_has_its_rate_where_tokens_are_priced(
    per: PricePer, expected: str
):
    usage = Speech2TextUsage(
        prompt_tokens=4, audio_prompt_tokens=3, completion_tokens=2
    )
    assert cost(usage, priced(per, rates={"audio_input": D(5)})) == D(expected)


def test_tiers_of_other_types_depend_on_their_prompt():
    prices = priced(PricePer.TOKEN, tiers=[PriceTier(above=3, input=D(9))])
    assert cost(Speech2TextUsage(prompt_tokens=3), prices) == D("0.09")
    assert cost(Speech2TextUsage(prompt_tokens=4), prices) == D("0.36")
    assert cost(EmbeddingUsage(tokens=4), prices) == D("0.12")


def test_periods_of_other_types_depend_on_the_day():
    history = [PricePeriod(until=date(2026, 1, 1), input=D(9))]
    prices = priced(PricePer.CHARACTER, history=history)
    usage = TTSUsage(characters=1)
    assert cost(usage, prices, day=date(2025, 12, 31)) == D("0.09")
    assert cost(usage, prices, day=date(2026, 1, 1)) == D("0.03")


# Costs that the provider reports, and unknown ones.


@pytest.mark.parametrize("prices", [PRICES, None])
def test_a_reported_cost_is_kept(prices: PriceConfig | None):
    usage = LLMUsage.of(10, 20, total_price=D("0.5"), currency="GBP")
    expected = LLMUsage.of(
        10, 20, total_price=D("0.5"), currency="GBP", price_source="provider",
        latency=1.5,
    )  # fmt: skip
    assert with_prices(usage, prices, latency=1.5) == expected
    free = LLMUsage.of(10, 20, total_price=D(0), price_source="cache")
    assert with_prices(free, prices) == free


@pytest.mark.parametrize("amount", ["-0.01", "1000000.01", "NaN", "Infinity"])
def test_an_implausible_cost_is_computed_instead(amount: str):
    usage = LLMUsage.of(10, 20, total_price=D(amount), price_source="provider")
    computed = with_prices(usage, PRICES)
    assert (computed.total_price, computed.price_source) == (D("1.7"), "list")
    unknown = with_prices(usage, None)
    assert (unknown.total_price, unknown.price_source) == (None, "")


def test_a_high_cost_may_be_plausible():
    assert cost(LLMUsage.of(1, 1, total_price=D(1_000_000))) == 1_000_000


def test_without_a_price_the_cost_is_unknown():
    usage = LLMUsage.of(10, 20)
    assert with_prices(usage, None) is usage
    assert with_prices(usage, None, latency=1.5) == LLMUsage.of(10, 20, latency=1.5)
