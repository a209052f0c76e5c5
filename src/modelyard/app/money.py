"""What a call can cost at most, which limits hold for it, and where their counters start."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

import msgspec

from modelyard.base.clock import Clock
from modelyard.models.entities import AIModelEntity, PriceConfig, PricePer
from modelyard.models.llm import LLMUsage
from modelyard.models.pricing import in_force, priced
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger, LedgerUnavailableError
from modelyard.runtime.limits import (
    Applied,
    Estimate,
    Started,
    Subject,
    applying,
    charge,
    days_of,
    drains_within,
    level_of,
    reserve,
    sought,
    taken,
)
from modelyard.runtime.load_balancing import Deployment
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.usage_row import Intent, Priced
from modelyard.storage.counters import Counters
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import Limit

_USUAL_ANSWER = 4096
"""Tokens reserved for an answer where neither the caller nor the model says how long it can be."""
_NANO = 1_000_000_000
_MOST_SUBJECTS = 16_384
_DAY = 86_400
_WHILE_ANOTHER_ADDS = 0.1
_PATIENCE = 10.0
"""Seconds that a call waits for the sums of a ledger from before there were any."""


class Admission:
    """What the policy `Limits` asks."""

    def __init__(self, directory: Directory, providers: ProviderManager) -> None:
        self._directory = directory
        self._providers = providers
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


class Seeds:
    """Starts counters where the ledger says that they stand: each once, for all who wait for it."""

    def __init__(self, counters: Counters, ledger: Ledger, clock: Clock, recovered: Callable[[], Awaitable[None]]):
        """`recovered` waits until what processes that are gone have left is in the ledger."""
        self._counters = counters
        self._ledger = ledger
        self._clock = clock
        self._recovered = recovered
        self._starting: dict[str, asyncio.Task[None]] = {}

    async def start(self, subject: Subject, those: Sequence[Started], credential: str = "") -> None:
        """Raises StorageUnavailableError, LedgerUnavailableError."""
        tasks = [self._begun(subject, one, credential) for one in those]
        # Whoever waits may go away; the others wait on.
        await asyncio.gather(*(asyncio.shield(task) for task in tasks))

    def _begun(self, subject: Subject, one: Started, credential: str) -> asyncio.Task[None]:
        name = one.charge.name
        task = self._starting.get(name)
        if task is None:
            task = self._starting[name] = asyncio.create_task(self._start(subject, one, credential))
            task.add_done_callback(partial(self._over, name))
        return task

    def _over(self, name: str, task: asyncio.Task[None]) -> None:
        del self._starting[name]
        if not task.cancelled():
            task.exception()  # whoever waits has it; perhaps nobody does any more

    async def _start(self, subject: Subject, one: Started, credential: str) -> None:
        level = 0.0 if one.applied.limit.unit == "concurrency" else await self._level(subject, one, credential)
        await self._counters.seed({one.charge.name: level}, [one.charge])

    async def _level(self, subject: Subject, one: Started, credential: str) -> float:
        await self._recovered()
        await self._ledger.flush()
        whose, window = sought(one.applied, subject, credential), one.applied.limit.window
        if (seconds := drains_within(window)) is not None:
            # What was there two windows ago has drained, whatever came before it.
            now = self._clock.time()
            return level_of(one.applied, await self._ledger.sums.moments(whose, now - 2 * seconds, now), now)
        first, last = days_of(window, one.now)
        await self._summed(subject.tenant, first * _DAY)
        return level_of(one.applied, await self._ledger.sums.between(whose, first, last), one.now)

    async def _summed(self, tenant: str, since: float) -> None:
        """Wait until the tenant's rows from then on are in the sums: after the first start with a ledger of before
        there were sums, these are made for whoever needs them first."""
        sums, until = self._ledger.sums, self._clock.monotonic() + _PATIENCE
        while not await sums.reaches(tenant, since):
            if self._clock.monotonic() > until:
                raise LedgerUnavailableError("what was used so far is being added up, once after the upgrade")
            if not await sums.sum_more(self._clock.time(), tenant):
                await self._clock.sleep(_WHILE_ANOTHER_ADDS)


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

    def __init__(self, counters: Counters, admission: Admission, seeds: Seeds, clock: Clock) -> None:
        self._counters = counters
        self._seeds = seeds
        self._admission = admission
        self._clock = clock
        self._held: dict[tuple[str, str], _Held] = {}

    async def reserve(self, invocation: Invocation, deployment: Deployment) -> str | None:
        """None where there is room, else why there is none."""
        credential = deployment.credential
        if credential is None:
            return None
        name = f"{deployment.provider}/{deployment.model}"
        subject = Subject(invocation.tenant, invocation.api_key, invocation.user or "", name, invocation.app)
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

        used_of = f"{deployment.provider}/{credential.name}"

        async def seed(unknown: Sequence[str]) -> None:
            those = [Started(one, each, now) for one, each in zip(applied, charges, strict=True)]
            await self._seeds.start(subject, [one for one in those if one.charge.name in unknown], used_of)

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
