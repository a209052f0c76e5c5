"""`modelyard prices`: show model prices and compare them with another price list."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import click

from modelyard.base.errors import ConfigError, NotFoundError, closest_names
from modelyard.base.json_types import is_array
from modelyard.cli.output import json_option, print_json, print_note, print_table
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.providers.factory import catalog_definition, catalog_names

# Provider of the catalogue → its names in the package genai-prices.
_LISTS = {
    "openai": ["openai"],
    "anthropic": ["anthropic"],
    "gemini": ["google"],
    "vertex_ai": ["google"],
    "bedrock": ["aws"],
    "deepseek": ["deepseek"],
    "mistral": ["mistral"],
    "cohere": ["cohere"],
    "groq": ["groq"],
    "openrouter": ["openrouter"],
    "xai": ["x-ai"],
    "moonshot": ["moonshotai"],
    "zhipuai": ["zhipuai"],
    "minimax": ["minimax"],
    "fireworks": ["fireworks"],
    "together": ["together"],
    "perplexity": ["perplexity"],
    "cerebras": ["cerebras"],
    "voyage": ["voyageai"],
    "elevenlabs": ["elevenlabs"],
}
# (field of the catalogue, field of genai-prices).
_FIELDS = (
    ("input", "input_mtok"),
    ("output", "output_mtok"),
    ("cached", "cache_read_mtok"),
)


@click.group()
def prices() -> None:
    """Show model prices and compare price sources."""


@prices.command("show")
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show the price of MODEL at every provider of the catalogue that offers it."""
    offers = [
        (provider, entity)
        for provider, entity in _models()
        # Several providers offer the same model, so that its provider may be left out.
        if model in (entity.model, f"{provider}/{entity.model}")
    ]
    if not offers:
        names = [entity.model for _, entity in _models()]
        raise NotFoundError(
            f"No provider of the catalogue lists model {model!r}; similar names:"
            f" {', '.join(closest_names(model, names)) or 'none'}"
        )
    if as_json:
        print_json(
            [
                {"provider": provider, "model": entity.model, "pricing": entity.pricing}
                for provider, entity in offers
            ]
        )
        return
    columns = (
        "provider",
        "model",
        "input",
        "output",
        "cached",
        "per",
        "currency",
        "source",
    )
    print_table(
        "",
        columns,
        [_row(provider, entity) for provider, entity in offers],
        right_aligned=columns[2:5],
    )


def _row(provider: str, entity: AIModelEntity) -> tuple[str, ...]:
    """Return a table row with the prices of one model."""
    pricing = entity.pricing
    if pricing is None:
        return (provider, entity.model, "?", "?", "?", "", "", "unknown")
    per = (
        pricing.per.value
        if pricing.unit == 1
        else f"{1 / pricing.unit:,.0f} {pricing.per.value}s"
    )
    amounts = (pricing.input, pricing.output, pricing.rates.get("cached"))
    amount_texts = ("" if amount is None else f"{amount:f}" for amount in amounts)
    return (
        provider,
        entity.model,
        *amount_texts,
        per,
        pricing.currency,
        pricing.source,
    )


@prices.command("check")
@click.option("--provider", help="Check only this provider. Default: all.")
@json_option
def check(provider: str | None, as_json: bool) -> None:
    """Compare the catalogue with genai-prices. Also lists prices whose sources disagreed
    when they were recorded."""
    checked = differing = unpriced = 0
    rows: list[dict[str, Any]] = []
    for owner, entity in _models(provider):
        # A model without a price is counted, not compared.
        if entity.pricing is None:
            unpriced += 1
            continue
        checked += 1
        disagreements = list(_disagreements(owner, entity, entity.pricing))
        differing += bool(disagreements)
        rows += disagreements
    if as_json:
        print_json(
            {
                "checked": checked,
                "disagree": differing,
                "unpriced": unpriced,
                "rows": rows,
            }
        )
        return
    columns = ("model", "price", "catalogue", "other", "what")
    print_table(
        "",
        ("model", "price", "catalogue", "other", "difference"),
        [tuple(str(row[name]) for name in columns) for row in rows],
        right_aligned=columns[2:4],
    )
    print_note(
        f"{checked:,} prices checked, {differing:,} differ; {unpriced:,} models without"
        " a price"
    )


def _models(provider: str | None = None) -> Iterator[tuple[str, AIModelEntity]]:
    """Yield (provider, model) for one provider or the whole catalogue."""
    for name in [provider] if provider else catalog_names():
        for model in catalog_definition(name).entity.models:
            yield name, model


def _disagreements(
    owner: str, entity: AIModelEntity, pricing: PriceConfig
) -> Iterator[dict[str, Any]]:
    """Yield the differences between a model's price and other sources."""
    name = f"{owner}/{entity.model}"
    if "differs" in pricing.source:
        yield {
            "model": name,
            "price": "input",
            "catalogue": f"{pricing.input:f}",
            "other": "",
            "what": f"sources disagree: {pricing.source}",
        }
    listed = _listed(owner, entity.model)
    for catalogue_field, listed_field in _FIELDS:
        mine = (
            pricing.rates.get(catalogue_field)
            if catalogue_field == "cached"
            else getattr(pricing, catalogue_field)
        )
        listed_price = listed.get(listed_field)
        # Only token prices are comparable; genai-prices states them per million tokens.
        if mine is None or listed_price is None or pricing.per.value != "token":
            continue
        # A difference of up to 1 % is rounding.
        if abs(mine * pricing.unit * 1_000_000 - listed_price) > Decimal("0.01") * max(
            mine, listed_price
        ):
            explanation = "genai-prices lists a different price"
            yield {
                "model": name,
                "price": catalogue_field,
                "catalogue": f"{mine:f}",
                "other": f"{listed_price:f}",
                "what": explanation,
            }


def _listed(owner: str, model: str) -> dict[str, Decimal]:
    """Return the current prices in genai-prices, per million tokens. Empty if it does
    not list the model."""
    entry = _listed_entry(owner, model)
    if entry is None:
        return {}
    # Models with a price history have a list; the last entry is the current one.
    prices: Any = entry.prices
    current_prices = prices[-1].prices if is_array(prices) else prices
    amounts = {field: getattr(current_prices, field, None) for _, field in _FIELDS}
    return {
        # Tiered prices have a base price.
        field: Decimal(str(getattr(amount, "base", amount)))
        for field, amount in amounts.items()
        if amount is not None
    }


def _listed_entry(owner: str, model: str) -> Any:
    """Return the entry of genai-prices for a model of a provider, or None. Raises
    ConfigError if the package is not installed."""
    try:
        from genai_prices.data import providers
    except ImportError as error:
        raise ConfigError(
            "Comparing prices needs the package 'genai-prices': pip install"
            " 'modelyard[prices]'"
        ) from error
    names = _LISTS.get(owner, ())
    for listed_provider in providers:
        if listed_provider.id not in names:
            continue
        for entry in listed_provider.models:
            if entry.match.is_match(model):
                return entry
    return None
