"""What a call can cost at most, which limits hold for it, and where their counters start."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from modelyard.base.clock import Clock
from modelyard.models.entities import AIModelEntity, PriceConfig, PricePer
from modelyard.models.llm import LLMUsage
from modelyard.models.pricing import in_force, priced
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Intent, Ledger, Priced
from modelyard.runtime.limits import Applied, Estimate, Subject, applying, began, charge, reserve, seed_of, taken
from modelyard.runtime.load_balancing import Deployment
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.tenancy import Directory, Limit
from modelyard.storage.counters import Counters

_USUAL_ANSWER = 4096
"""Tokens reserved for an answer where neither the caller nor the model says how long it can be."""
_NANO = 1_000_000_000
_MOST_SUBJECTS = 16_384


class Admission:
    """What the policy `Limits` asks."""

    def __init__(self, directory: Directory, providers: ProviderManager, ledger: Ledger, clock: Clock) -> None:
        self._directory = directory
        self._providers = providers
        self._ledger = ledger
        self._clock = clock
        self._known: dict[Subject, Sequence[Applied]] = {}
        directory.on_change(lambda touched: self._known.clear())

    def applying(self, subject: Subject) -> Sequence[Applied]:
        if (known := self._known.get(subject)) is None:
            if len(self._known) >= _MOST_SUBJECTS:  # users that anybody may invent must not fill the memory
                self._known.clear()
            limits = [(one.id, one.name, limit) for one, limit in self._directory.of(subject.tenant, Limit)]
            known = self._known[subject] = applying(limits, subject)
        return known

    def estimate(self, invocation: Invocation, credential: str = "") -> Estimate:
        """The most that one attempt can take, by the price that holds for a credential (its id); before one is chosen,
        by the dearer of the tenant's price and the operator's."""
        schema = self._providers.schema(invocation.tenant, invocation.provider, invocation.model_type, invocation.model)
        prompt = invocation.rough_tokens()
        answer = _longest_answer(invocation, schema) if invocation.model_type is ModelType.LLM else 0
        nanos = _nanos(self.pricing(invocation, credential), prompt, answer)
        if not credential and schema is not None:
            nanos = max(nanos, _nanos(schema.pricing, prompt, answer))
        return Estimate(prompt + answer, nanos)

    def pricing(self, invocation: Invocation, credential: str) -> PriceConfig | None:
        return self._providers.pricing(
            invocation.tenant, invocation.provider, invocation.model_type, invocation.model, credential
        )

    async def seeds(self, subject: Subject, applied: Sequence[Applied]) -> Sequence[float]:
        """By the ledger, which is brought up to date first."""
        now = self._clock.time()
        await self._ledger.flush()
        sums: dict[float, list[Any]] = {}
        levels: list[float] = []
        for one in applied:
            since = began(one.limit.window, now)
            if since not in sums:
                sums[since] = await asyncio.to_thread(self._ledger.used_since, since)
            levels.append(seed_of(one, subject, sums[since], now))
        return levels


def _longest_answer(invocation: Invocation, schema: AIModelEntity | None) -> int:
    asked = invocation.request.model_parameters.get("max_tokens")
    if isinstance(asked, int):
        return asked
    rules = schema.parameter_rules if schema else ()
    most = next((rule.max for rule in rules if rule.name == "max_tokens" and rule.max), None)
    return min(int(most), _USUAL_ANSWER) if most else _USUAL_ANSWER


_PER_TOKEN: dict[int, tuple[PriceConfig, float, float]] = {}
"""Plain prices in billionths a token, by the price's identity, which is held so that it stays its own."""


def _nanos(pricing: PriceConfig | None, prompt: int, answer: int) -> int:
    if pricing is None:
        return 0
    if (known := _PER_TOKEN.get(id(pricing))) is not None and known[0] is pricing:
        return int(prompt * known[1] + answer * known[2]) + 1
    if pricing.per is PricePer.TOKEN and not (pricing.tiers or pricing.history or pricing.rates.get("request")):
        if len(_PER_TOKEN) > _MOST_SUBJECTS:
            _PER_TOKEN.clear()
        unit = pricing.unit * _NANO
        _PER_TOKEN[id(pricing)] = pricing, float(pricing.input * unit), float((pricing.output or 0) * unit)
    prices = in_force(pricing, prompt_tokens=prompt)
    request = prices.rates.get("request", Decimal(0))
    if pricing.per is not PricePer.TOKEN:
        return int(request * _NANO)
    cost = (prompt * prices.input + answer * (prices.output or 0)) * prices.unit + request
    return int(cost * _NANO)


def price_of_lost(providers: ProviderManager, intent: Intent, tokens: int) -> Priced:
    """What an attempt cost whose process was killed: by what went in and what had come."""
    kind = ModelType(intent.model_type)
    pricing = providers.pricing(intent.tenant, intent.provider, kind, intent.model, intent.credential_id)
    if pricing is None or kind is not ModelType.LLM:
        return Priced(None, "USD", "", "")
    usage = priced(LLMUsage.of(intent.prompt_tokens, tokens, estimated=True), pricing)
    return Priced(
        usage.total_price, usage.currency, usage.price_source, pricing.as_of.isoformat() if pricing.as_of else ""
    )


class _Held(NamedTuple):
    name: str
    tokens: int
    nanos: int


class HostedQuotas:
    """What each tenant may use of credentials that all share."""

    def __init__(self, counters: Counters, admission: Admission, clock: Clock) -> None:
        self._counters = counters
        self._admission = admission
        self._clock = clock
        self._held: dict[tuple[str, str], _Held] = {}

    async def reserve(self, invocation: Invocation, deployment: Deployment) -> str | None:
        """None where there is room, else why there is none."""
        credential = deployment.credential
        if credential is None:
            return None
        name = f"{deployment.provider}/{deployment.model}"
        subject = Subject(invocation.tenant, invocation.api_key, invocation.user or "", name)
        applied = applying([(row, row, limit) for row, limit in credential.quotas], subject)
        if not applied:
            return None
        # A route or a failover may have led to another model than the call named.
        asked = msgspec.structs.replace(invocation, provider=deployment.provider, model=deployment.model)
        if self._admission.pricing(asked, credential.id) is None and any(one.limit.unit == "cost" for one in applied):
            return "its quota is an amount of money, and nobody knows what this model costs"
        now, estimate = self._clock.time(), self._admission.estimate(asked, credential.id)
        charges = [charge(one, subject, estimate, now) for one in applied]
        held = (
            f"{invocation.id}.{invocation.record.attempts + 1}"  # the attempt's row: whoever finds it can settle this
        )

        async def seed(unknown: Sequence[str]) -> None:
            pairs = [(one, each) for one, each in zip(applied, charges, strict=True) if each.name in unknown]
            levels = await self._admission.seeds(subject, [one for one, _ in pairs])
            found = {each.name: level for (_, each), level in zip(pairs, levels, strict=True)}
            await self._counters.seed(found, [each for _, each in pairs])

        refusal = await reserve(self._counters, held, charges, seed)
        if refusal is not None:
            return f"its quota of {refusal.charge.cap:g} is used up"
        record = invocation.record
        self._held[invocation.id, deployment.id] = _Held(held, record.tokens, record.cost_nanos)
        return None

    def settle(self, invocation: Invocation, deployment: Deployment, *, is_served: bool) -> None:
        held = self._held.pop((invocation.id, deployment.id), None)
        if held is None:
            return
        record = invocation.record
        tokens, nanos = record.tokens - held.tokens, record.cost_nanos - held.nanos
        amounts = taken(tokens=tokens, nanos=nanos, is_served=is_served)
        self._counters.settle(held.name, amounts)
