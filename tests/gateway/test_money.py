"""Tests for the price of every call: cached and thinking tokens, service tiers, and
models whose price is unknown under a limit of money."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from modelyard.base.errors import ConfigError
from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    UnpricedSettings,
    load_settings,
)
from modelyard.models.types import ModelType
from modelyard.providers.factory import catalog_definition
from modelyard.testing import (
    Upstream,
    chat_answer,
    chat_events,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running
from tests.gateway.test_traffic import ask

Start = Callable[..., Running]
MILLION = Decimal(1_000_000)
GEMINI_USAGE = {
    "promptTokenCount": 10000,
    "cachedContentTokenCount": 6000,
    "candidatesTokenCount": 100,
    "thoughtsTokenCount": 50,
    "toolUsePromptTokenCount": 500,
    "totalTokenCount": 10650,
}


def provider_at(url: str, name: str, **more: Any) -> ProviderSettings:
    """Return the settings of a provider whose server is at `url`."""
    credential = CredentialSettings(values={"api_key": "sk-test"})
    return ProviderSettings(name=name, base_url=url, credentials=[credential], **more)


def chat(running: Running, model: str, key: str = "", **more: Any) -> Any:
    """Return the answer to a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    return ask(running, "POST", "/v1/chat/completions", body, key=key)


def usage_by(running: Running, by: str) -> list[dict[str, Any]]:
    """Return the sums of the ledger by a grouping."""
    running.flush()
    return ask(running, "GET", f"/admin/v1/usage?by={by}").json["data"]


def gemini_answer(usage: dict[str, Any]) -> Any:
    """Return an answer of Google's API with this usage."""
    content = {"role": "model", "parts": [{"text": "hello"}]}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    body = {"candidates": [candidate], "usageMetadata": usage}
    return json_answer({**body, "modelVersion": "gemini-2.5-flash"})


@pytest.mark.case("8.1")
def test_cached_thought_and_tool_tokens_of_gemini_are_priced(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: gemini_answer(GEMINI_USAGE))
    running = start_gateway(providers=[provider_at(server.url, "gemini")])
    assert chat(running, "gemini/gemini-2.5-flash").status == 200
    (row,) = running.flush()
    assert (row.prompt_tokens, row.cached_tokens) == (10500, 6000)
    assert (row.completion_tokens, row.reasoning_tokens) == (150, 50)
    prices = price_of("gemini", "gemini-2.5-flash")
    uncached, cached, answer = 10000 - 6000 + 500, 6000, 100 + 50
    amounts = (uncached * prices.input, cached * prices.rates["cached"])
    expected = (sum(amounts) + answer * prices.output) / MILLION
    assert row.total_price == expected.quantize(Decimal("0.0000001"))
    (by_model,) = usage_by(running, "model")
    assert by_model["unpriced"] == 0
    assert Decimal(by_model["cost"]) == row.total_price


def price_of(provider: str, model: str) -> Any:
    """Return the catalogue's price of a chat model."""
    entities = catalog_definition(provider).entity.models
    chat_models = [item for item in entities if item.model_type is ModelType.LLM]
    pricing = {entity.model: entity.pricing for entity in chat_models}
    assert pricing[model] is not None
    return pricing[model]


@pytest.mark.parametrize("tier", ["flex", "priority"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_tier_that_served_a_call_decides_its_price(
    start_gateway: Start,
    upstream: Callable[..., Upstream],
    tier: str,
    is_streamed: bool,
):
    def answer(request: Any) -> Any:
        if request.json.get("stream"):
            events = chat_events(["fine"] * 100, prompt=1000)
            stated = b'"service_tier": "%b", "object"' % tier.encode()
            return stream_answer([sent.replace(b'"object"', stated) for sent in events])
        reply = chat_answer("fine", prompt=1000, completion=100)
        return json_answer({**json.loads(reply.body), "service_tier": tier})

    running = start_gateway(upstream(answer))
    reply = chat(running, "openai/gpt-5-mini", stream=is_streamed, service_tier=tier)
    assert reply.status == 200
    (row,) = running.flush()
    prices = price_of("openai", "gpt-5-mini").service_tiers[tier]
    expected = (1000 * prices.input + 100 * prices.output) / MILLION
    assert row.total_price == expected.quantize(Decimal("0.0000001"))


def test_the_tier_of_the_request_counts_if_the_provider_states_none(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine", prompt=1000, completion=100))
    running = start_gateway(server)
    assert chat(running, "openai/gpt-5-mini", service_tier="priority").status == 200
    (row,) = running.flush()
    prices = price_of("openai", "gpt-5-mini").service_tiers["priority"]
    assert row.total_price == (1000 * prices.input + 100 * prices.output) / MILLION


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_tier_that_a_passed_on_answer_states_decides_its_price(
    start_gateway: Start, upstream: Callable[..., Upstream], is_streamed: bool
):
    """A request without a tier is passed through unparsed; a server may have its own."""
    stated = b'"service_tier": "flex", "object"'

    def answer(request: Any) -> Any:
        if request.json.get("stream"):
            events = chat_events(["fine"] * 100, prompt=1000)
            return stream_answer(
                [event.replace(b'"object"', stated) for event in events]
            )
        reply = chat_answer("fine", prompt=1000, completion=100)
        return json_answer({**json.loads(reply.body), "service_tier": "flex"})

    running = start_gateway(upstream(answer))
    assert chat(running, "openai/gpt-5-mini", stream=is_streamed).status == 200
    (row,) = running.flush()
    prices = price_of("openai", "gpt-5-mini").service_tiers["flex"]
    expected = (1000 * prices.input + 100 * prices.output) / MILLION
    assert row.total_price == expected.quantize(Decimal("0.0000001"))


def test_a_long_prompt_of_a_service_tier_has_its_own_price(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    usage = {**GEMINI_USAGE, "promptTokenCount": 300_000, "serviceTier": "PRIORITY"}
    server = upstream(lambda request: gemini_answer(usage))
    running = start_gateway(providers=[provider_at(server.url, "gemini")])
    assert chat(running, "gemini/gemini-2.5-pro").status == 200
    (row,) = running.flush()
    (step,) = price_of("gemini", "gemini-2.5-pro").service_tiers["priority"].tiers
    amounts = 294_500 * step.input + 6000 * step.rates["cached"] + 150 * step.output
    assert row.total_price == (amounts / MILLION).quantize(Decimal("0.0000001"))


@pytest.mark.case("8.1")
def test_a_budget_refuses_a_model_without_a_price_and_says_what_to_do(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine"))
    limits = {"budget": {"unit": "cost", "amount": 100, "window": "month"}}
    running = start_gateway(server, limits=limits)
    refused = chat(running, "openai/brand-new")
    assert refused.status == 403
    error = refused.json["error"]
    assert error["code"] == "model_price_unknown"
    assert "'openai/brand-new'" in error["message"]
    assert "'budget'" in error["message"]
    assert "unpriced.calls" in error["message"]
    assert not server.requests
    # Streams and other types of model are no way around it.
    assert chat(running, "openai/brand-new", stream=True).status == 403
    body = {"model": "openai/new-embedding", "input": "hi"}
    assert ask(running, "POST", "/v1/embeddings", body).status == 403
    # A model with a price goes on.
    assert chat(running, "openai/gpt-5-mini").status == 200


@pytest.mark.case("8.1")
def test_a_stated_price_counts_calls_without_a_price(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine", prompt=10, completion=5))
    running = start_gateway(
        server,
        limits={"budget": {"unit": "cost", "amount": 0.04, "window": "day"}},
        unpriced=UnpricedSettings(calls="count", input_price=1000, output_price=1000),
    )
    # 0.015 each: the third call exceeds the limit and is the last.
    statuses = [chat(running, "openai/brand-new").status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    row = running.flush()[0]
    assert row.total_price == Decimal("0.015")
    assert row.price_source == "stated for unpriced calls"


def test_an_api_key_chooses_for_itself(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine"))
    running = start_gateway(
        server,
        limits={"budget": {"unit": "cost", "amount": 100, "window": "month"}},
        unpriced=UnpricedSettings(input_price=5, output_price=10),
        api_keys=["sk-operator-key-0123456789"],
    )
    created = {
        choice: ask(
            running,
            "POST",
            "/admin/v1/keys",
            {"name": choice or "plain", "unpriced": choice},
            key="sk-operator-key-0123456789",
        ).json
        for choice in ("count", "refuse", "")
    }
    assert created["count"]["unpriced"] == "count"
    statuses = {
        choice: chat(running, "openai/brand-new", key=row["key"]).status
        for choice, row in created.items()
    }
    assert statuses == {"count": 200, "refuse": 403, "": 403}
    bad = ask(
        running,
        "POST",
        "/admin/v1/keys",
        {"name": "x", "unpriced": "free"},
        key="sk-operator-key-0123456789",
    )
    assert bad.status == 400


def test_without_a_limit_of_money_a_model_needs_no_price(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine"))
    running = start_gateway(server, limits={"rpm": {"unit": "requests", "amount": 9}})
    assert chat(running, "openai/brand-new").status == 200
    (by_model,) = usage_by(running, "model")
    assert by_model["unpriced"] == 1


def test_an_unknown_cost_after_a_failover_keeps_what_was_reserved(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    def answer(request: Any) -> Any:
        if request.json["model"] == "priced":
            return json_answer({"error": {"message": "down"}}, status=503)
        return chat_answer("fine")

    priced = {"name": "priced", "input_price": 0, "output_price": 1000}
    server = upstream(answer)
    running = start_gateway(
        providers=[provider_at(server.url, "own", models=[priced, {"name": "new"}])],
        limits={"budget": {"unit": "cost", "amount": 1, "window": "day"}},
        failover={"own/priced": ["own/new"]},
    )
    # The reservation, 1.5 dollars, is more than the budget; it stays because nobody
    # knows what the second model cost.
    assert chat(running, "own/priced", max_tokens=1500).status == 200
    assert chat(running, "own/priced", max_tokens=1500).status == 429


@pytest.mark.parametrize(
    "text",
    [
        "unpriced: {calls: free}",
        "unpriced: {calls: count}",
        "unpriced: {input_price: -1}",
        "unpriced: {input_price: 1e9}",
    ],
)
def test_invalid_settings_for_unpriced_calls_are_refused(tmp_path: Any, text: str):
    path = tmp_path / "modelyard.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="unpriced"):
        load_settings({}, config=str(path))


@pytest.mark.case("7.5")
def test_each_gemini_model_of_the_catalogue_is_googles_own():
    names = [entity.model for entity in catalog_definition("gemini").entity.models]
    assert not [name for name in names if not name.startswith(("gemini", "gemma"))]
    for name in (
        "gemini-2.0-flash",
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
        "gemini-3-flash-preview",
    ):
        assert price_of("gemini", name).output


@pytest.mark.case("7.5")
def test_the_catalogue_prices_the_names_that_clients_use():
    assert price_of("mistral", "mistral-large-latest").input
    assert price_of("openai", "gpt-4o-2024-08-06").input
    assert price_of("perplexity", "sonar-pro").input
