"""Builds the model call pipeline: its policies, and the ledger, caches, metrics and
traces that they use."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from modelyard.administration.inputs import (
    configured_limit,
    configured_route,
    find_cycle,
)
from modelyard.app.admission import (
    Admission,
    CounterInitialiser,
    HostedQuotas,
    price_lost_attempt,
)
from modelyard.app.live_settings import LiveSettings
from modelyard.app.recovery import Recovery
from modelyard.app.storage import StorageServices, counters_for, response_cache_for
from modelyard.app.unpriced_calls import UnpricedCalls
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, ModelyardError, NotFoundError
from modelyard.base.settings import Settings
from modelyard.models.answer_formats import AnswerModes
from modelyard.models.base import LargeLanguageModel
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.entities import (
    AIModelEntity,
    ModelFeature,
    ModelPropertyKey,
    PriceConfig,
)
from modelyard.models.types import ModelType
from modelyard.runtime.callbacks import Callback, LoggingCallback
from modelyard.runtime.direct_call import DirectCalls
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.limits import CounterStart, Subject
from modelyard.runtime.metrics import Metrics
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.runtime.overload import LoadController
from modelyard.runtime.pipeline import Policy, compose
from modelyard.runtime.policies.batch import Batch
from modelyard.runtime.policies.cache import Cache, Semantic
from modelyard.runtime.policies.deadline import Deadline
from modelyard.runtime.policies.dispatch import Dispatch
from modelyard.runtime.policies.limit import Limits
from modelyard.runtime.policies.meter import Meter
from modelyard.runtime.policies.observe import Observe
from modelyard.runtime.policies.structured import Structured
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.request_table import RequestTable
from modelyard.runtime.response_store import ResponseStore
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.runtime.traces import Traces
from modelyard.runtime.unserved_callback import UnservedCallback
from modelyard.runtime.unserved_calls import UnservedCalls
from modelyard.storage.counters import Counters
from modelyard.storage.response_cache import ResponseCache
from modelyard.tenancy.caller import DEFAULT_TENANT, acting_for
from modelyard.tenancy.directory import Directory

if TYPE_CHECKING:
    from modelyard.app.telemetry import TracingCallback

_CACHE_ON_DEMAND = 3600.0
"""Seconds for which a response is cached if the request asks for caching and the
settings do not set a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallServices:
    """The parts of the model call pipeline."""

    models: ModelManager
    direct: DirectCalls
    """Makes chat calls by callbacks, for the server."""
    ledger: Ledger
    responses: ResponseStore
    counters: Counters
    start_counters: Callable[[Subject, Sequence[CounterStart]], Awaitable[None]]
    """Initialises the counters of limits from the ledger."""
    answers: ResponseCache
    """The response cache."""
    admission: Admission
    recovery: Recovery
    queue: FairQueue
    load: LoadController
    metrics: Metrics
    traces: Traces
    unserved: UnservedCalls
    """Records calls that end before any attempt is made."""
    requests: RequestTable
    exporter: "TracingCallback | None"
    """Sends traces to a collector; None if the settings name none."""
    schemas: "Schemas"

    def cache_seconds(self, tenant: str, route: str) -> float:
        """Return for how many seconds responses of a route are cached; 0 if they are
        not."""
        return self.schemas.cache_seconds(tenant, route)

    async def aclose(self) -> None:
        """Release reservations and send the remaining traces."""
        await self.counters.aclose()
        if self.exporter is not None:
            await self.exporter.aclose()


class Schemas:
    """Answers the policies' questions about a call's model and route."""

    def __init__(
        self,
        live_settings: LiveSettings,
        providers: ProviderManager,
        unpriced: UnpricedCalls,
    ) -> None:
        self._live = live_settings
        self._providers = providers
        self._unpriced = unpriced

    def pricing(self, invocation: Invocation) -> PriceConfig | None:
        """Return the prices for the credential that serves the call; None if they are
        unknown and none is stated for such calls."""
        pricing = self._providers.pricing(
            invocation.tenant,
            invocation.provider,
            invocation.model_type,
            invocation.model,
            invocation.credential_id,
        )
        if pricing is None:
            choice = invocation.caller.unpriced
            return self._unpriced.price(invocation.model_type, choice)
        return pricing

    def features(self, invocation: Invocation) -> Collection[ModelFeature] | None:
        """Return the features of the model; None if they are unknown."""
        schema = self._schema(invocation)
        return schema.features if schema else None

    def answer_modes(self, invocation: Invocation) -> AnswerModes:
        """Return what the model's server offers for answers of a given form."""
        factory = self._providers.factory_of(invocation.tenant)
        model = factory.get_model(invocation.provider, ModelType.LLM)
        if not isinstance(model, LargeLanguageModel):
            return AnswerModes()
        return model.answer_modes(
            invocation.model, invocation.credentials, invocation.request
        )

    def max_batch_size(self, invocation: Invocation) -> int:
        """Return the maximum texts per embedding request; 0 for no limit."""
        # The local runtime batches its calls itself.
        if invocation.provider == "local":
            return 0
        schema = self._schema(invocation)
        stated = (
            schema.model_properties.get(ModelPropertyKey.MAX_CHUNKS) if schema else None
        )
        if stated:
            # Catalogue entries without a limit fall back to the provider's definition.
            return int(stated)
        definition = self._providers.factory_of(invocation.tenant).get_definition(
            invocation.provider
        )
        return definition.capabilities.max_texts

    def cache_seconds(self, tenant: str, route: str) -> float:
        """Return the cache time of the route, or else of the settings, in seconds."""
        configured = self._providers.route(tenant, route) if route else None
        seconds = configured.cache_seconds if configured else 0.0
        return seconds or self._live.current.cache.seconds

    def seconds_to_keep(self, invocation: Invocation) -> float:
        """Return for how many seconds the response of a call is cached; 0 if it is not."""
        seconds = self.cache_seconds(invocation.tenant, invocation.route)
        # A request may ask for caching although nothing is configured.
        if seconds:
            return seconds
        return _CACHE_ON_DEMAND if invocation.cache in ("on", "refresh") else 0.0

    def _schema(self, invocation: Invocation) -> AIModelEntity | None:
        """Return the catalogue entry of the call's model; None if it is unknown."""
        return self._providers.schema(
            invocation.tenant,
            invocation.provider,
            invocation.model_type,
            invocation.model,
        )


class NamedModels:
    """Models that the settings name for failover, routes and the cache. Model
    permissions of API keys do not apply to them."""

    def __init__(self, live_settings: LiveSettings, models: ModelManager) -> None:
        self._live = live_settings
        self._models = models

    def resolve(self, tenant: str, name: str, model_type: ModelType) -> tuple[str, str]:
        """Return (provider, model) of a model name. Raises NotFoundError."""
        # Without a caller, because its key need not have access to the operator's
        # targets.
        with acting_for(None):
            # Names resolve to a provider and a model of the operator.
            model = self._models.find(tenant, name, model_type)
        return model.provider, model.model

    def failover(
        self, tenant: str, provider: str, model: str, model_type: ModelType
    ) -> Sequence[tuple[str, str]]:
        """Return the failover targets of a model. Raises ConfigError if a configured
        name is unknown."""
        names = self._live.current.failover.get(f"{provider}/{model}")
        # The settings are those of the default tenant.
        if tenant != DEFAULT_TENANT or not names:
            return ()
        try:
            return [self.resolve(tenant, name, model_type) for name in names]
        # The settings contain the name, not the request: not the caller's error.
        except NotFoundError as error:
            raise ConfigError(f"Failover of '{provider}/{model}': {error}") from error

    async def embed(self, tenant: str, text: str) -> Sequence[float]:
        """Return the embedding with which similar questions are found in the cache."""
        with acting_for(None):
            model = self._models.find(
                tenant,
                self._live.current.cache.semantic_model,
                ModelType.TEXT_EMBEDDING,
            )
        request = TextEmbeddingRequest(
            texts=[text], input_type=EmbeddingInputType.QUERY
        )
        result = await model.invoke_text_embedding(request)
        return result.embeddings[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accounting:
    """What limits calls and records their usage."""

    ledger: Ledger
    counters: Counters
    admission: Admission
    recovery: Recovery
    queue: FairQueue
    unpriced: UnpricedCalls


def _build_accounting(
    live_settings: LiveSettings,
    clock: Clock,
    storage: StorageServices,
    directory: Directory,
    providers: ProviderManager,
) -> _Accounting:
    """Open the ledger and the counters, and build what uses them."""
    settings, unpriced = live_settings.current, UnpricedCalls(live_settings)
    # The ledger needs prices to settle attempts of dead processes.
    ledger = Ledger(
        storage.database,
        settings.home_path / "ledger",
        price=partial(price_lost_attempt, providers, unpriced),
    )
    counters = counters_for(settings, storage, clock, ledger.owner)
    return _Accounting(
        ledger=ledger,
        counters=counters,
        admission=Admission(directory, providers, unpriced),
        recovery=Recovery(ledger, counters),
        queue=FairQueue(settings.queue.capacity, settings.queue.waiting),
        unpriced=unpriced,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PolicyBuilder:
    """Builds the policies of the pipeline."""

    settings: Settings
    clock: Clock
    providers: ProviderManager
    accounting: _Accounting
    schemas: Schemas

    def build(
        self, observers: Sequence[Callback], metrics: Metrics, cache: Cache
    ) -> "_Policies":
        """Return the policies; docs/architecture.md explains their order."""
        settings, clock, accounting = self.settings, self.clock, self.accounting
        admission, counters = accounting.admission, accounting.counters
        seeds = CounterInitialiser(
            counters,
            accounting.ledger,
            clock,
            accounting.recovery.wait_until_recovered,
        )
        timeouts = settings.timeouts
        return _Policies(
            observe=Observe(clock, (LoggingCallback(), metrics, *observers)),
            limits=Limits(
                admission.applying,
                admission.estimate,
                counters,
                seeds.start,
                accounting.queue,
                clock,
                patience=settings.queue.seconds,
                is_priced=admission.is_priced,
                estimator=admission.estimator,
            ),
            cache=cache,
            dispatch=Dispatch(
                self.providers.plan,
                clock,
                RetryBudget(clock),
                settings.retries,
                HostedQuotas(counters, admission, seeds, clock),
            ),
            structured=Structured(self.schemas.features, self.schemas.answer_modes),
            meter=Meter(accounting.ledger, self.schemas.pricing, clock),
            deadline=Deadline(
                clock, timeouts.first_token or None, timeouts.between_tokens or None
            ),
            batch=Batch(
                self.schemas.max_batch_size, settings.embedding_batch_ms / 1000
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policies:
    """The policies of a call, the outermost first."""

    observe: Observe
    limits: Limits
    cache: Cache
    dispatch: Dispatch
    structured: Structured
    meter: Meter
    deadline: Deadline
    batch: Batch

    @property
    def around_call(self) -> list[Policy]:
        """All policies, in their order."""
        return [
            self.observe,
            self.limits,
            self.cache,
            self.dispatch,
            *self.around_attempt,
        ]

    @property
    def around_attempt(self) -> list[Policy]:
        """The policies of each attempt."""
        return [self.structured, self.meter, self.deadline, self.batch]

    def direct_calls(self, models: ModelManager, clock: Clock) -> DirectCalls:
        """Return what makes calls by callbacks, with these policies."""
        return DirectCalls(
            observe=self.observe,
            limits=self.limits,
            dispatch=self.dispatch,
            meter=self.meter,
            deadline=self.deadline,
            attempt=compose(self.around_attempt, models.invoke),
            model_of=models.model_of,
            is_cached=self.cache.applies_to,
            is_structured=self.structured.applies_to,
            source=models.providers,
            clock=clock,
        )


def build_calls(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    storage: StorageServices,
    directory: Directory,
    providers: ProviderManager,
    exporter: "TracingCallback | None",
    callbacks: Sequence[Callback],
) -> CallServices:
    """Build the pipeline. `exporter` sends traces to a collector. Raises ConfigError
    for invalid settings."""
    settings = live_settings.current
    accounting = _build_accounting(live_settings, clock, storage, directory, providers)
    ledger = accounting.ledger
    answers = response_cache_for(settings, storage, clock)
    metrics = Metrics()
    unserved = UnservedCalls(storage.database, clock)
    traces = _build_traces(settings, storage, ledger, clock, unserved)
    schemas = Schemas(live_settings, providers, accounting.unpriced)
    refusals = UnservedCallback(unserved, _status_of)
    # Built-in ones first, then callbacks of the program, then the exporter.
    exporters = [exporter] if exporter is not None else []
    observers = (traces, refusals, *callbacks, *exporters)

    async def embed(tenant: str, text: str) -> Sequence[float]:
        """Return an embedding for the semantic cache."""
        # `named_models` is set further below: it needs the models, which need the
        # policies.
        return await named_models.embed(tenant, text)

    semantic = _semantic_cache(settings, embed)
    cache = Cache(answers, schemas.seconds_to_keep, ledger, clock, semantic)
    builder = _PolicyBuilder(
        settings=settings,
        clock=clock,
        providers=providers,
        accounting=accounting,
        schemas=schemas,
    )
    policies = builder.build(observers, metrics, cache)
    models = ModelManager(
        providers,
        policies.around_call,
        clock,
        defaults=default_models(settings),
        total_timeout=settings.timeouts.total or None,
        passes_on=not any(_needs_content(callback) for callback in observers),
    )
    named_models = NamedModels(live_settings, models)
    # Set afterwards, because resolving names needs the models.
    providers.configure_plans(named_models.failover, named_models.resolve)
    # Any change of a tenant's resources may change what a model name leads to.
    directory.on_change(lambda touched: models.clear_cache())
    load = LoadController(settings.queue.target_ms / 1000)
    _follow(live_settings, directory, accounting.queue, load, models)
    _add_gauges(metrics, providers, accounting.queue, storage)
    _add_refusals(metrics, load)
    return CallServices(
        models=models,
        direct=policies.direct_calls(models, clock),
        ledger=ledger,
        responses=ResponseStore(storage.database, clock),
        counters=accounting.counters,
        start_counters=policies.limits.start,
        answers=answers,
        admission=accounting.admission,
        recovery=accounting.recovery,
        queue=accounting.queue,
        load=load,
        metrics=metrics,
        traces=traces,
        unserved=unserved,
        requests=RequestTable(storage.database, ledger.usage, unserved),
        exporter=exporter,
        schemas=schemas,
    )


def _semantic_cache(
    settings: Settings, embed: Callable[[str, str], Awaitable[Sequence[float]]]
) -> Semantic | None:
    """Return the cache for similar questions; None without an embedding model."""
    if not settings.cache.semantic_model:
        return None
    return Semantic(embed=embed, threshold=settings.cache.semantic_threshold)


def _build_traces(
    settings: Settings,
    storage: StorageServices,
    ledger: Ledger,
    clock: Clock,
    unserved: UnservedCalls,
) -> Traces:
    """Build what stores the decisions of calls."""
    return Traces(
        storage.database,
        ledger.usage,
        clock,
        unserved,
        keep=settings.telemetry.decisions,
        records=settings.telemetry.record,
    )


def _status_of(error: ModelyardError) -> int:
    """Return the HTTP status with which an error is answered."""
    # A program without a server need not load the gateway.
    from modelyard.gateway.errors import status_of

    return status_of(error)[0]


def check_settings(settings: Settings) -> None:
    """Raise ConfigError if limits, routes, defaults or failover are invalid."""
    _check_failover(settings)
    _configured_resources(settings)
    default_models(settings)


def default_models(settings: Settings) -> dict[ModelType, str]:
    """Return model type → default model. Raises ConfigError for an unknown type."""
    # Aliases are accepted besides the official type names.
    kinds = {model_type.value: model_type for model_type in ModelType} | dict(ALIASES)
    defaults: dict[ModelType, str] = {}
    for name, model in settings.defaults.items():
        if name not in kinds:
            known_types = ", ".join(model_type.value for model_type in ModelType)
            raise ConfigError(
                f"defaults.{name}: unknown model type; expected one of {known_types}"
            )
        defaults[kinds[name]] = model
    return defaults


def _follow(
    live_settings: LiveSettings,
    directory: Directory,
    queue: FairQueue,
    load: LoadController,
    models: ModelManager,
) -> None:
    """Apply limits, routes, queue settings and defaults now and whenever the settings
    change."""

    def apply(settings: Settings) -> None:
        """Apply the settings. Raises ConfigError before anything is changed if the
        failover is invalid."""
        # Validated before anything is changed.
        _check_failover(settings)
        models.apply_settings(default_models(settings), settings.timeouts.total or None)
        directory.configure(DEFAULT_TENANT, _configured_resources(settings))
        queue.capacity, queue.max_waiting = (
            settings.queue.capacity,
            settings.queue.waiting,
        )
        load.target_seconds = settings.queue.target_ms / 1000

    live_settings.follow(apply)


def _check_failover(settings: Settings) -> None:
    """Raise ConfigError if failover targets form a cycle."""
    if path := find_cycle(settings.failover):
        raise ConfigError(f"failover: cycle {' → '.join(path)}")


def _configured_resources(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the limits and routes of the settings as resources of the default tenant.
    Raises ConfigError."""
    # Both are validated by converting them.
    items = settings.limits.items()
    limits = {name: configured_limit(name, limit) for name, limit in items}
    routes: dict[str, Any] = {}
    for name, route in settings.routes.items():
        routes[name] = configured_route(name, route)
    return {"limit": limits, "route": routes}


def _needs_content(callback: Callback) -> bool:
    """Return whether a callback needs the content of responses, which then must be
    parsed."""
    return (
        callback.wants_result
        or type(callback).on_new_chunk is not Callback.on_new_chunk
    )


def _add_gauges(
    metrics: Metrics,
    providers: ProviderManager,
    queue: FairQueue,
    storage: StorageServices,
) -> None:
    """Register the gauges of cooldowns, queue, database backlog and tasks."""
    database = storage.database
    # Gauges are read when the metrics are requested.
    metrics.gauge(
        "modelyard_resting",
        "Deployments and credentials in cooldown.",
        (),
        lambda: {(): float(len(providers.health.in_cooldown()))},
    )
    metrics.gauge(
        "modelyard_queue",
        "Calls that wait in the queue.",
        (),
        lambda: {(): float(queue.waiting)},
    )
    metrics.gauge(
        "modelyard_ledger_backlog",
        "Writes that wait for the database.",
        (),
        lambda: {(): float(database.backlog)},
    )
    metrics.gauge("modelyard_tasks", "Tasks of the event loop.", (), _tasks)


def _add_refusals(metrics: Metrics, load: LoadController) -> None:
    """Register the counter of refused calls."""
    metrics.counter(
        "modelyard_overload_refusals_total",
        "Calls refused because the process is overloaded.",
        (),
        lambda: {(): float(load.refused_calls)},
    )


def _tasks() -> Mapping[tuple[str, ...], float]:
    """Return the number of tasks on the event loop; nothing outside the loop."""
    try:
        return {(): float(len(asyncio.all_tasks()))}
    # Called outside an event loop.
    except RuntimeError:
        return {}
