"""Calls to models, wired: the policies around every call, and what they count, remember and write down."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from modelyard.administration.inputs import configured_limit, configured_route, cycle
from modelyard.app.live_settings import LiveSettings
from modelyard.app.money import Admission, HostedQuotas, Seeds, price_of_lost
from modelyard.app.recovery import Recovery
from modelyard.app.storage import StorageParts, answers_for, counters_for
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.settings import Settings
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.entities import AIModelEntity, ModelFeature, ModelPropertyKey, PriceConfig
from modelyard.models.types import ModelType
from modelyard.runtime.callbacks import Callback, LoggingCallback
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.metrics import Metrics
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.runtime.pipeline import Policy
from modelyard.runtime.policies.batch import Batch
from modelyard.runtime.policies.cache import Cache, Semantic
from modelyard.runtime.policies.deadline import Deadline
from modelyard.runtime.policies.dispatch import Dispatch
from modelyard.runtime.policies.limit import Limits
from modelyard.runtime.policies.meter import Meter
from modelyard.runtime.policies.observe import Observe
from modelyard.runtime.policies.structured import Structured
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.response_store import ResponseStore
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.runtime.traces import Traces
from modelyard.storage.answers import Answers
from modelyard.storage.counters import Counters
from modelyard.tenancy.caller import DEFAULT_TENANT, acting_for
from modelyard.tenancy.directory import Directory

if TYPE_CHECKING:
    from modelyard.app.telemetry import Traced

_CACHE_ON_DEMAND = 3600.0
"""Seconds that an answer is kept for whom asked for it, where the settings say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallParts:
    """What a call goes through, and what is left of it."""

    models: ModelManager
    ledger: Ledger
    responses: ResponseStore
    counters: Counters
    answers: Answers
    """Those that may be given again."""
    admission: Admission
    recovery: Recovery
    queue: FairQueue
    metrics: Metrics
    traces: Traces
    exporter: "Traced | None"
    """What sends traces to a collector; None where the settings name none."""
    schemas: "Schemas"

    def cache_seconds(self, tenant: str, route: str) -> float:
        """How long answers to a route may be given again; 0 for not at all."""
        return self.schemas.cache_seconds(tenant, route)

    async def aclose(self) -> None:
        """Give back what is reserved, and send the last traces."""
        await self.counters.aclose()
        if self.exporter is not None:
            await self.exporter.aclose()


class Schemas:
    """What policies ask about the model of a call, and about its route."""

    def __init__(self, live: LiveSettings, providers: ProviderManager) -> None:
        self._live = live
        self._providers = providers

    def pricing(self, invocation: Invocation) -> PriceConfig | None:
        """By the credential that serves the call; None where nobody knows."""
        return self._providers.pricing(
            invocation.tenant, invocation.provider, invocation.model_type, invocation.model, invocation.credential_id
        )

    def features(self, invocation: Invocation) -> Collection[ModelFeature] | None:
        """None where nothing is known of the model."""
        schema = self._schema(invocation)
        return schema.features if schema else None

    def most_texts(self, invocation: Invocation) -> int:
        """How many texts an embedding model takes at once; models on this machine join calls themselves."""
        if invocation.provider == "local":
            return 0
        schema = self._schema(invocation)
        stated = schema.model_properties.get(ModelPropertyKey.MAX_CHUNKS) if schema else None
        if stated:
            return int(stated)
        definition = self._providers.factory_of(invocation.tenant).get_definition(invocation.provider)
        return int(definition.quirks.get("max_texts", 0))

    def cache_seconds(self, tenant: str, route: str) -> float:
        """As the route has it, else as the settings."""
        configured = self._providers.route(tenant, route) if route else None
        seconds = configured.cache_seconds if configured else 0.0
        return seconds or self._live.current.cache.seconds

    def seconds_to_keep(self, invocation: Invocation) -> float:
        """How long the answer to a call may be given again; 0 for not at all."""
        seconds = self.cache_seconds(invocation.tenant, invocation.route)
        if seconds:
            return seconds
        return _CACHE_ON_DEMAND if invocation.cache in ("on", "refresh") else 0.0

    def _schema(self, invocation: Invocation) -> AIModelEntity | None:
        return self._providers.schema(invocation.tenant, invocation.provider, invocation.model_type, invocation.model)


class NamedModels:
    """Models that the settings name, for failover and routes: above the lists of what a key may call."""

    def __init__(self, live: LiveSettings, models: ModelManager) -> None:
        self._live = live
        self._models = models

    def resolve(self, tenant: str, name: str, kind: ModelType) -> tuple[str, str]:
        """A name as (provider, model). Raises NotFoundError."""
        with acting_for(None):
            model = self._models.find(tenant, name, kind)
        return model.provider, model.model

    def failover(self, tenant: str, provider: str, model: str, kind: ModelType) -> Sequence[tuple[str, str]]:
        """Where calls go that a model cannot serve. Raises ConfigError for a name that is none."""
        names = self._live.current.failover.get(f"{provider}/{model}")
        if tenant != DEFAULT_TENANT or not names:
            return ()
        try:
            return [self.resolve(tenant, name, kind) for name in names]
        except NotFoundError as error:  # the settings name it, not the caller
            raise ConfigError(f"failover of '{provider}/{model}': {error}") from error

    async def embed(self, tenant: str, text: str) -> Sequence[float]:
        """The vector by which like questions are found in the cache."""
        with acting_for(None):
            model = self._models.find(tenant, self._live.current.cache.semantic_model, ModelType.TEXT_EMBEDDING)
        request = TextEmbeddingRequest(texts=[text], input_type=EmbeddingInputType.QUERY)
        result = await model.invoke_text_embedding(request)
        return result.embeddings[0]


def build_calls(
    live: LiveSettings,
    clock: Clock,
    *,
    storage: StorageParts,
    directory: Directory,
    providers: ProviderManager,
    exporter: "Traced | None",
    callbacks: Sequence[Callback],
) -> CallParts:
    """`exporter` sends traces to a collector, where there is one. Raises ConfigError for settings that are wrong."""
    settings = live.current
    ledger = Ledger(storage.database, settings.home_path / "ledger", price=partial(price_of_lost, providers))
    counters = counters_for(settings, storage, clock, ledger.owner)
    admission = Admission(directory, providers)
    recovery = Recovery(ledger, counters)
    queue = FairQueue(settings.queue.capacity, settings.queue.waiting)
    answers = answers_for(settings, storage, clock)
    metrics = Metrics()
    traces = Traces(
        storage.database, ledger.usage, clock, keep=settings.telemetry.decisions, records=settings.telemetry.record
    )
    schemas = Schemas(live, providers)
    seen_by = (traces, *callbacks, *([exporter] if exporter is not None else ()))

    async def embed(tenant: str, text: str) -> Sequence[float]:
        # Asked while calls run: by then there are models, which the policies themselves go around.
        return await named.embed(tenant, text)

    cache = settings.cache
    semantic = Semantic(embed=embed, threshold=cache.semantic_threshold) if cache.semantic_model else None
    seeds = Seeds(counters, ledger, clock, recovery.first)
    timeouts = settings.timeouts
    policies: list[Policy] = [  # outermost first; why in this order: docs/architecture.md
        Observe(clock, (LoggingCallback(), metrics, *seen_by)),
        Limits(
            admission.applying, admission.estimate, counters, seeds.start, queue, clock, patience=settings.queue.seconds
        ),
        Cache(answers, schemas.seconds_to_keep, ledger, clock, semantic),
        Dispatch(
            providers.plan,
            clock,
            RetryBudget(clock),
            settings.retries,
            HostedQuotas(counters, admission, seeds, clock),
        ),
        Structured(schemas.features),
        Meter(ledger, schemas.pricing, clock),
        Deadline(clock, timeouts.first_token or None, timeouts.between_tokens or None),
        Batch(schemas.most_texts, settings.embedding_batch_ms / 1000),
    ]
    models = ModelManager(
        providers,
        policies,
        clock,
        defaults=default_models(settings),
        total_timeout=timeouts.total or None,
        passes_on=not any(_reads_along(callback) for callback in seen_by),
    )
    named = NamedModels(live, models)
    providers.plan_with(named.failover, named.resolve)
    directory.on_change(lambda touched: models.forget())
    _follow(live, directory, queue, models)
    _add_gauges(metrics, providers, queue, storage)
    return CallParts(
        models=models, ledger=ledger, responses=ResponseStore(storage.database, clock), counters=counters,
        answers=answers, admission=admission, recovery=recovery, queue=queue, metrics=metrics, traces=traces,
        exporter=exporter, schemas=schemas,
    )  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises ConfigError for limits, routes, defaults or failover that are wrong."""
    _check_failover(settings)
    _configured_resources(settings)
    default_models(settings)


def default_models(settings: Settings) -> dict[ModelType, str]:
    """Model type → the model that stands for it. Raises ConfigError for a type that is none."""
    kinds = {kind.value: kind for kind in ModelType} | dict(ALIASES)
    defaults: dict[ModelType, str] = {}
    for name, model in settings.defaults.items():
        if name not in kinds:
            known = ", ".join(kind.value for kind in ModelType)
            raise ConfigError(f"defaults: {name!r} is no model type; there are {known}")
        defaults[kinds[name]] = model
    return defaults


def _follow(live: LiveSettings, directory: Directory, queue: FairQueue, models: ModelManager) -> None:
    """Take up limits, routes, the queue's size and defaults now, and when they change."""

    def take_up(settings: Settings) -> None:
        _check_failover(settings)
        models.use(default_models(settings), settings.timeouts.total or None)
        directory.configure(DEFAULT_TENANT, _configured_resources(settings))
        queue.capacity, queue.most_waiting = settings.queue.capacity, settings.queue.waiting

    live.follow(take_up)


def _check_failover(settings: Settings) -> None:
    """Raises ConfigError for models that fail over to each other in a circle."""
    if path := cycle(settings.failover):
        raise ConfigError(f"failover goes round in a circle: {' → '.join(path)}")


def _configured_resources(settings: Settings) -> dict[str, dict[str, Any]]:
    """Limits and routes of the settings, as resources of the default tenant. Raises ConfigError."""
    limits = {name: configured_limit(name, limit) for name, limit in settings.limits.items()}
    routes = {name: configured_route(name, route) for name, route in settings.routes.items()}
    return {"limit": limits, "route": routes}


def _reads_along(callback: Callback) -> bool:
    """Whether a callback wants to see what is said: then it has to be read."""
    return callback.wants_result or type(callback).on_new_chunk is not Callback.on_new_chunk


def _add_gauges(metrics: Metrics, providers: ProviderManager, queue: FairQueue, storage: StorageParts) -> None:
    database = storage.database
    metrics.gauge(
        "modelyard_resting", "Deployments and credentials that rest.", (),
        lambda: {(): float(len(providers.health.resting()))},
    )  # fmt: skip
    metrics.gauge("modelyard_queue", "Calls that wait for a turn.", (), lambda: {(): float(queue.waiting)})
    metrics.gauge(
        "modelyard_ledger_backlog", "Writes that wait for the database.", (), lambda: {(): float(database.backlog)}
    )
    metrics.gauge("modelyard_tasks", "Tasks of the event loop.", (), _tasks)


def _tasks() -> Mapping[tuple[str, ...], float]:
    try:
        return {(): float(len(asyncio.all_tasks()))}
    except RuntimeError:  # asked outside the loop
        return {}
