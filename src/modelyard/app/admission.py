"""Admission of calls: the maximum cost of a call, the limits that apply to it, and the
initial levels of their counters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import msgspec

from modelyard.app.unpriced_calls import UnpricedCalls
from modelyard.base.clock import Clock
from modelyard.base.fields import tier_name
from modelyard.base.tuples import new_tuple
from modelyard.models.entities import AIModelEntity, PriceConfig, PricePer
from modelyard.models.llm import LLMUsage
from modelyard.models.pricing import effective_prices, with_prices
from modelyard.models.types import ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger, LedgerUnavailableError
from modelyard.runtime.limits import (
    ApplicableLimit,
    CounterStart,
    Estimate,
    Subject,
    applicable_limits,
    charge,
    drain_seconds,
    initial_level,
    reserve,
    settled_amounts,
    usage_query,
    window_days,
)
from modelyard.runtime.load_balancing import Deployment
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.usage_row import Intent, Priced
from modelyard.storage.counters import Counters
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Limit

_DEFAULT_ANSWER_TOKENS = 4096
"""Tokens reserved for an answer if neither the caller nor the model states a maximum.
"""
# Costs are counted in billionths of the currency unit, as integers.
_NANO = 1_000_000_000
# Callers come and go: without a limit, the table would grow with each new one.
_MAX_SUBJECTS = 16_384
_DAY = 86_400
_SUM_RETRY_SECONDS = 0.1
_SUM_TIMEOUT_SECONDS = 10.0
"""Seconds that a call waits for the usage sums of a ledger that is older than they are.
"""


class Admission:
    """Answers the questions of the `Limits` policy."""

    def __init__(
        self,
        directory: Directory,
        providers: ProviderManager,
        unpriced: UnpricedCalls | None = None,
    ) -> None:
        """`unpriced` states the price of calls whose model has none."""
        self._directory = directory
        self._providers = providers
        self._unpriced = unpriced
        self._known: dict[Subject, Sequence[ApplicableLimit]] = {}
        directory.on_change(lambda touched: self._known.clear())

    def applying(self, subject: Subject) -> Sequence[ApplicableLimit]:
        """Return the limits that apply to a subject."""
        if (applicable := self._known.get(subject)) is None:
            if (
                len(self._known) >= _MAX_SUBJECTS
            ):  # users that anybody may invent must not fill the memory
                self._known.clear()
            limits = [
                (resource.id, resource.name, limit)
                for resource, limit in self._directory.of(subject.tenant, Limit)
            ]
            # Computed once per subject and dropped on each change of the directory.
            applicable = self._known[subject] = applicable_limits(limits, subject)
        return applicable

    def estimate(self, invocation: Invocation, credential: str = "") -> Estimate:
        """Return the maximum tokens and cost of one attempt.

        The price is that of the credential with the given id; without one, the higher
        of the tenant's and the operator's price.
        """
        return self.estimator(invocation, credential).estimate(invocation)

    def estimator(self, invocation: Invocation, credential: str = "") -> "Estimator":
        """Return what estimates all calls to the model of this one."""
        schema = self._providers.schema(
            invocation.tenant,
            invocation.provider,
            invocation.model_type,
            invocation.model,
        )
        prices = [self.pricing(invocation, credential)]
        # The credential is not selected yet: the estimate must cover both prices.
        if not credential and schema is not None:
            prices.append(schema.pricing)
        known_prices = _distinct(prices)
        return Estimator(
            is_chat=invocation.model_type is ModelType.LLM,
            answer_tokens=_usual_answer_tokens(schema),
            prices=known_prices,
            has_service_tiers=any(pricing.service_tiers for pricing in known_prices),
        )

    def is_priced(self, invocation: Invocation) -> bool:
        """Return whether the price of a call is known or stated."""
        if self.pricing(invocation, "") is not None:
            return True
        # The tenant's own declaration has a price for its own credentials.
        schema = self._providers.schema(
            invocation.tenant,
            invocation.provider,
            invocation.model_type,
            invocation.model,
        )
        return schema is not None and schema.pricing is not None

    def pricing(self, invocation: Invocation, credential: str) -> PriceConfig | None:
        """Return the prices of a call for a credential; None if they are unknown and
        none is stated for such calls."""
        pricing = self._providers.pricing(
            invocation.tenant,
            invocation.provider,
            invocation.model_type,
            invocation.model,
            credential,
        )
        if pricing is None and self._unpriced is not None:
            choice = invocation.caller.unpriced
            return self._unpriced.price(invocation.model_type, choice)
        return pricing


class CounterInitialiser:
    """Initialises counters from the ledger. Each counter is initialised once, for all
    calls that wait for it."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        clock: Clock,
        recovered: Callable[[], Awaitable[None]],
    ):
        """`recovered` waits until the usage of dead processes is in the ledger."""
        self._counters = counters
        self._ledger = ledger
        self._clock = clock
        self._recovered = recovered
        self._starting: dict[str, asyncio.Task[None]] = {}

    async def start(
        self,
        subject: Subject,
        started_limits: Sequence[CounterStart],
        credential: str = "",
    ) -> None:
        """Initialise the counters of limits. Raises StorageUnavailableError or
        LedgerUnavailableError."""
        # Simultaneous calls share the task of a counter.
        tasks = [
            self._shared_task(subject, started_limit, credential)
            for started_limit in started_limits
        ]
        # A cancelled call must not cancel the initialisation for the others.
        await asyncio.gather(*(asyncio.shield(task) for task in tasks))

    def _shared_task(
        self, subject: Subject, started_limit: CounterStart, credential: str
    ) -> asyncio.Task[None]:
        """Return the task that initialises a counter; a running one is shared."""
        name = started_limit.charge.name
        task = self._starting.get(name)
        if task is None:
            task = self._starting[name] = asyncio.create_task(
                self._start(subject, started_limit, credential)
            )
            task.add_done_callback(partial(self._task_ended, name))
        return task

    def _task_ended(self, name: str, task: asyncio.Task[None]) -> None:
        """Remove a finished task."""
        del self._starting[name]
        if not task.cancelled():
            # Reads the exception, so that asyncio does not log it if no caller waits
            # any more. Waiting callers receive it.
            task.exception()

    async def _start(
        self, subject: Subject, started_limit: CounterStart, credential: str
    ) -> None:
        """Initialise one counter; concurrency always starts at zero."""
        # Concurrency counts running calls only, and none of them is in the ledger.
        level = (
            0.0
            if started_limit.applied.limit.unit == "concurrency"
            else await self._level(subject, started_limit, credential)
        )
        await self._counters.seed(
            {started_limit.charge.name: level}, [started_limit.charge]
        )

    async def _level(
        self, subject: Subject, started_limit: CounterStart, credential: str
    ) -> float:
        """Return the current level of a limit's counter from the recorded usage."""
        # Usage that is not in the ledger yet would be lost from the counter.
        await self._recovered()
        await self._ledger.flush()
        usage_filter, window = (
            usage_query(started_limit.applied, subject, credential),
            started_limit.applied.limit.window,
        )
        if (seconds := drain_seconds(window)) is not None:
            # Usage of more than two windows ago has drained completely.
            current_time = self._clock.time()
            return initial_level(
                started_limit.applied,
                await self._ledger.sums.moments(
                    usage_filter, current_time - 2 * seconds, current_time
                ),
                current_time,
            )
        # Calendar windows are summed by days.
        first, last = window_days(window, started_limit.now)
        await self._wait_for_sums(subject.tenant, first * _DAY)
        return initial_level(
            started_limit.applied,
            await self._ledger.sums.between(usage_filter, first, last),
            started_limit.now,
        )

    async def _wait_for_sums(self, tenant: str, since: float) -> None:
        """Wait until the sums cover the tenant's usage since a time. Raises
        LedgerUnavailableError.

        A ledger from before the sums existed is summed up after the first start, for
        waiting tenants first.
        """
        sums, until = self._ledger.sums, self._clock.monotonic() + _SUM_TIMEOUT_SECONDS
        # Older rows are added up in small batches.
        while not await sums.reaches(tenant, since):
            if self._clock.monotonic() > until:
                raise LedgerUnavailableError(
                    "earlier usage is being summed, once after the upgrade; try again later"
                )
            # Another process is adding up at the moment: try again soon.
            if not await sums.sum_next_span(self._clock.time(), tenant):
                await self._clock.sleep(_SUM_RETRY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates the maximum usage of calls to one model."""

    is_chat: bool
    answer_tokens: int
    """The tokens of an answer if the request has no maximum of its own."""
    prices: Sequence[PriceConfig]
    """The price lists that the estimate must cover."""
    has_service_tiers: bool
    """Whether the price depends on the service tier that the request asks for."""

    def estimate(self, invocation: Invocation) -> Estimate:
        """Return the maximum tokens and cost of one attempt."""
        # A rough count is enough for a reservation; the real usage replaces it.
        prompt = invocation.rough_tokens()
        answer = 0
        if self.is_chat:
            # The request's own maximum has priority.
            requested = invocation.request.model_parameters.get("max_tokens")
            answer = requested if isinstance(requested, int) else self.answer_tokens
        nanos, tier = 0, ""
        if self.has_service_tiers:
            # Only chat requests have parameters of the model.
            parameters: Mapping[str, Any] = (
                getattr(invocation.request, "model_parameters", None) or {}
            )
            tier = tier_name(parameters.get("service_tier"))
        for pricing in self.prices:
            cost = _nanos(pricing, prompt, answer, tier)
            if cost > nanos:
                nanos = cost
        return new_tuple(Estimate, (prompt + answer, nanos))


def _distinct(prices: Sequence[PriceConfig | None]) -> Sequence[PriceConfig]:
    """Return the known price lists, each once."""
    known = [pricing for pricing in prices if pricing is not None]
    return known[:1] if len(known) == 2 and known[0] is known[1] else known


def _usual_answer_tokens(schema: AIModelEntity | None) -> int:
    """Return the maximum tokens of an answer without a maximum: those of the model, up
    to a usual length."""
    rules = schema.parameter_rules if schema else ()
    model_max_tokens = next(
        (rule.max for rule in rules if rule.name == "max_tokens" and rule.max), None
    )
    return (
        min(int(model_max_tokens), _DEFAULT_ANSWER_TOKENS)
        if model_max_tokens
        else _DEFAULT_ANSWER_TOKENS
    )


_PER_TOKEN: dict[int, tuple[PriceConfig, float, float]] = {}
"""Token prices in billionths, by the identity of the price object.

The object is stored with them: a freed object's identity could be reused.
"""


def _nanos(
    pricing: PriceConfig, prompt: int, answer: int, service_tier: str = ""
) -> int:
    """Return the cost of a call in billionths, rounded up."""
    if service_tier in pricing.service_tiers:
        pricing = effective_prices(
            pricing, prompt_tokens=prompt, service_tier=service_tier
        )
        cost = prompt * pricing.input + answer * (pricing.output or 0)
        return int(cost * pricing.unit * _NANO) + 1
    # The identity check guards against a reused address.
    if (cached := _PER_TOKEN.get(id(pricing))) is not None and cached[0] is pricing:
        return int(prompt * cached[1] + answer * cached[2]) + 1
    # The fast path is valid only if the price depends on nothing but the tokens.
    if pricing.per is PricePer.TOKEN and not (
        pricing.tiers or pricing.history or pricing.rates.get("request")
    ):
        if len(_PER_TOKEN) > _MAX_SUBJECTS:
            _PER_TOKEN.clear()
        unit = pricing.unit * _NANO
        _PER_TOKEN[id(pricing)] = (
            pricing,
            float(pricing.input * unit),
            float((pricing.output or 0) * unit),
        )
    prices = effective_prices(pricing, prompt_tokens=prompt)
    # Some prices have a fixed amount per request.
    request = prices.rates.get("request", Decimal(0))
    if pricing.per is PricePer.REQUEST:
        request += prices.input * prices.unit
    if pricing.per is not PricePer.TOKEN:
        return int(request * _NANO)
    cost = (
        prompt * prices.input + answer * (prices.output or 0)
    ) * prices.unit + request
    return int(cost * _NANO)


def price_lost_attempt(
    providers: ProviderManager, unpriced: UnpricedCalls, intent: Intent, tokens: int
) -> Priced:
    """Return the price of an attempt whose process died, by its prompt and the tokens
    received."""
    model_type = ModelType(intent.model_type)
    pricing = providers.pricing(
        intent.tenant, intent.provider, model_type, intent.model, intent.credential_id
    )
    pricing = pricing or unpriced.price(model_type)
    # Only chat completions can be priced without their response.
    if pricing is None or model_type is not ModelType.LLM:
        return Priced(None, "USD", "", "")
    usage = with_prices(
        LLMUsage.of(intent.prompt_tokens, tokens, estimated=True), pricing
    )
    return Priced(
        usage.total_price,
        usage.currency,
        usage.price_source,
        pricing.as_of.isoformat() if pricing.as_of else "",
    )


class _Reservation(NamedTuple):
    """A reservation, with the call's usage before it."""

    name: str
    tokens: int
    nanos: int


class HostedQuotas:
    """Quotas of each tenant for credentials that all tenants share."""

    def __init__(
        self,
        counters: Counters,
        admission: Admission,
        seeds: CounterInitialiser,
        clock: Clock,
    ) -> None:
        self._counters = counters
        self._seeds = seeds
        self._admission = admission
        self._clock = clock
        self._held: dict[tuple[str, str], _Reservation] = {}

    async def reserve(
        self, invocation: Invocation, deployment: Deployment
    ) -> str | None:
        """Reserve an attempt's maximum usage. Returns None if it was reserved, else the
        reason for the refusal."""
        # A deployment without a credential has no quota either.
        credential = deployment.credential
        if credential is None:
            return None
        name = f"{deployment.provider}/{deployment.model}"
        subject = Subject(
            invocation.tenant,
            invocation.api_key,
            invocation.user or "",
            name,
            invocation.app,
        )
        # Quotas are limits like any other, tied to the credential.
        applied = applicable_limits(
            [(row, row, limit) for row, limit in credential.quotas], subject
        )
        if not applied:
            return None
        # A route or failover may have selected another model than the one requested.
        target_invocation = msgspec.structs.replace(
            invocation, provider=deployment.provider, model=deployment.model
        )
        if self._admission.pricing(target_invocation, credential.id) is None and any(
            applied_limit.limit.unit == "cost" for applied_limit in applied
        ):
            return "its quota is a cost, and the price of this model is unknown"
        current_time, estimate = (
            self._clock.time(),
            self._admission.estimate(target_invocation, credential.id),
        )
        charges = [
            charge(applied_limit, subject, estimate, current_time)
            for applied_limit in applied
        ]
        # The attempt's ledger row has the same id, so that recovery can settle the
        # reservation.
        attempt_id = f"{invocation.id}.{invocation.record.attempts + 1}"
        used_of = f"{deployment.provider}/{credential.name}"

        async def seed(unknown: Sequence[str]) -> None:
            """Initialise the counters that do not exist yet."""
            started_limits = [
                CounterStart(applied_limit, planned_charge, current_time)
                for applied_limit, planned_charge in zip(applied, charges, strict=True)
            ]
            await self._seeds.start(
                subject,
                [
                    started_limit
                    for started_limit in started_limits
                    if started_limit.charge.name in unknown
                ],
                used_of,
            )

        # All quotas are reserved together or none.
        refusal = await reserve(self._counters, attempt_id, charges, seed)
        if refusal is not None:
            return f"its quota of {refusal.charge.cap:g} is used up"
        record = invocation.record
        self._held[invocation.id, deployment.id] = _Reservation(
            attempt_id, record.tokens, record.cost_nanos
        )
        return None

    def settle(
        self, invocation: Invocation, deployment: Deployment, *, is_served: bool
    ) -> None:
        """Replace an attempt's reservation by its actual usage."""
        reservation = self._held.pop((invocation.id, deployment.id), None)
        if reservation is None:
            return
        record = invocation.record
        # The record counts the whole call; only this attempt's share is charged.
        tokens, nanos = (
            record.tokens - reservation.tokens,
            record.cost_nanos - reservation.nanos,
        )
        amounts = settled_amounts(tokens=tokens, nanos=nanos, is_served=is_served)
        self._counters.settle(reservation.name, amounts)
