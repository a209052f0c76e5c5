"""`modelyard prices`: what models cost, and where price lists disagree."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import click

from modelyard.base.errors import ConfigError, NotFoundError, near
from modelyard.cli.show import json_option, note, print_json, print_table
from modelyard.models.entities import AIModelEntity, PriceConfig
from modelyard.providers.factory import catalog_definition, catalog_names

# Our provider → the names that genai-prices has for it.
_LISTS = {
    "openai": ["openai"], "anthropic": ["anthropic"], "gemini": ["google"], "vertex_ai": ["google"],
    "bedrock": ["aws"], "deepseek": ["deepseek"], "mistral": ["mistral"], "cohere": ["cohere"], "groq": ["groq"],
    "openrouter": ["openrouter"], "xai": ["x-ai"], "moonshot": ["moonshotai"], "zhipuai": ["zhipuai"],
    "minimax": ["minimax"], "fireworks": ["fireworks"], "together": ["together"], "perplexity": ["perplexity"],
    "cerebras": ["cerebras"], "voyage": ["voyageai"], "elevenlabs": ["elevenlabs"],
}  # fmt: skip
_FIELDS = (("input", "input_mtok"), ("output", "output_mtok"), ("cached", "cache_read_mtok"))


@click.group()
def prices() -> None:
    """Prices: what models cost, and where price lists disagree."""


@prices.command("show")
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """What MODEL costs with every provider of the catalogue that offers it."""
    found = [(provider, one) for provider, one in _models() if model in (one.model, f"{provider}/{one.model}")]
    if not found:
        names = [one.model for _, one in _models()]
        raise NotFoundError(f"no provider lists {model!r}; near: {', '.join(near(model, names)) or 'none'}")
    if as_json:
        print_json([{"provider": provider, "model": one.model, "pricing": one.pricing} for provider, one in found])
        return
    columns = ("provider", "model", "input", "output", "cached", "per", "currency", "source")
    print_table("", columns, [_row(provider, one) for provider, one in found], right=columns[2:5])


def _row(provider: str, one: AIModelEntity) -> tuple[str, ...]:
    pricing = one.pricing
    if pricing is None:
        return (provider, one.model, "?", "?", "?", "", "", "nobody says")
    per = pricing.per.value if pricing.unit == 1 else f"{1 / pricing.unit:,.0f} {pricing.per.value}s"
    amounts = (pricing.input, pricing.output, pricing.rates.get("cached"))
    shown = ("" if amount is None else f"{amount:f}" for amount in amounts)
    return (provider, one.model, *shown, per, pricing.currency, pricing.source)


@prices.command("check")
@click.option("--provider", help="Only this provider.")
@json_option
def check(provider: str | None, as_json: bool) -> None:
    """Compare the catalogue with genai-prices, and name the rows whose sources disagreed when they were written."""
    checked = differing = unpriced = 0
    rows: list[dict[str, Any]] = []
    for owner, one in _models(provider):
        if one.pricing is None:
            unpriced += 1
            continue
        checked += 1
        found = list(_disagreements(owner, one, one.pricing))
        differing += bool(found)
        rows += found
    if as_json:
        print_json({"checked": checked, "disagree": differing, "unpriced": unpriced, "rows": rows})
        return
    columns = ("model", "price", "catalogue", "other", "what")
    print_table("", columns, [tuple(str(row[name]) for name in columns) for row in rows], right=columns[2:4])
    note(f"{checked:,} prices, {differing:,} of them disputed; {unpriced:,} models whose price nobody says")


def _models(provider: str | None = None) -> Iterator[tuple[str, AIModelEntity]]:
    for name in [provider] if provider else catalog_names():
        for model in catalog_definition(name).entity.models:
            yield name, model


def _disagreements(owner: str, one: AIModelEntity, pricing: PriceConfig) -> Iterator[dict[str, Any]]:
    name = f"{owner}/{one.model}"
    if "differs" in pricing.source:
        yield {
            "model": name, "price": "input", "catalogue": f"{pricing.input:f}", "other": "",
            "what": f"sources disagree: {pricing.source}",
        }  # fmt: skip
    listed = _listed(owner, one.model)
    for ours, theirs in _FIELDS:
        mine = pricing.rates.get(ours) if ours == "cached" else getattr(pricing, ours)
        other = listed.get(theirs)
        if mine is None or other is None or pricing.per.value != "token":
            continue
        if abs(mine * pricing.unit * 1_000_000 - other) > Decimal("0.01") * max(mine, other):
            what = "genai-prices has another price by now"
            yield {"model": name, "price": ours, "catalogue": f"{mine:f}", "other": f"{other:f}", "what": what}


def _listed(owner: str, model: str) -> dict[str, Decimal]:
    """The prices in genai-prices today, for a million tokens."""
    try:
        from genai_prices.data import providers
    except ImportError as error:
        raise ConfigError(
            "comparing prices needs the package 'genai-prices': pip install 'modelyard[prices]'"
        ) from error
    names = _LISTS.get(owner, ())
    for one in providers:
        found = next((entry for entry in one.models if entry.match.is_match(model)), None) if one.id in names else None
        if found is None:
            continue
        known: Any = found.prices if not isinstance(found.prices, list) else found.prices[-1].prices
        amounts = {field: getattr(known, field, None) for _, field in _FIELDS}
        return {
            field: Decimal(str(getattr(amount, "base", amount)))
            for field, amount in amounts.items()
            if amount is not None
        }
    return {}
