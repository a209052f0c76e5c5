"""The composition root: settings in, wired objects out. The only place that names concrete classes."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from modelyard.app.extensions import PluginParts
from modelyard.app.knowledge import KnowledgeParts
from modelyard.app.money import Admission, HostedQuotas, Seeds, price_of_lost
from modelyard.app.network import Clients, network_of, proxies_of, proxy_names
from modelyard.app.providers import (
    ADDED_PROVIDERS,
    added_providers,
    configure_credentials,
    definitions_of,
    egress_rules,
    timeouts_of,
)
from modelyard.app.recovery import Recovery
from modelyard.app.upkeep import Upkeep
from modelyard.app.workflows import WorkflowParts
from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.log import redaction
from modelyard.base.modes import repair
from modelyard.base.settings import ProviderSettings, Settings, load_settings
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, ModelFeature, ModelPropertyKey, PriceConfig
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.messages import AnyPromptMessage, PromptMessageTool, SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, joined
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.endpoint import Endpoint
from modelyard.providers.factory import Builder, ModelProviderFactory
from modelyard.providers.http_provider import WIRES, http_models
from modelyard.providers.local.hub import hub_fetch
from modelyard.providers.local.provider import local_models
from modelyard.providers.local.runtime import LocalOptions, LocalRuntime
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.accounts import Accounts
from modelyard.runtime.administration import Administration
from modelyard.runtime.callbacks import Callback, LoggingCallback
from modelyard.runtime.caller import DEFAULT_TENANT, acting_for
from modelyard.runtime.fair_queue import FairQueue
from modelyard.runtime.inputs import configured_limit, configured_route, cycle
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.metrics import Metrics
from modelyard.runtime.model_instance import ModelInstance
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
from modelyard.runtime.tenancy import Directory
from modelyard.runtime.traces import Traces
from modelyard.storage.answers import Answers, DatabaseAnswers, MemoryAnswers, Patient
from modelyard.storage.backups import files_of
from modelyard.storage.counters import Counters, DatabaseCounters, MemoryCounters
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.files import FileStore
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing, load_key_ring
from modelyard.transport.egress import Egress, GuardedClient

if TYPE_CHECKING:
    from modelyard.agents.agent import Agent
    from modelyard.tools.manager import ToolManager

logger = logging.getLogger("modelyard.app")

MASTER_KEY = "master.key"
"""In the home folder: what encrypts credentials, where the settings hold none."""
_CACHE_ON_DEMAND = 3600.0
"""Seconds that an answer is kept for whom asked for it, where the settings say nothing."""

TriggerListener = Callable[[str, str, str, dict[str, Any]], Awaitable[None]]
Prompt = str | Sequence[AnyPromptMessage]


class Modelyard:
    """Everything, wired: six kinds of calls as methods, and the parts for those who need more.

        async with Modelyard() as yard:
            print((await yard.chat("Say hello.")).text)

    `settings` default to `modelyard.yaml` and the environment. `definitions` and `builders` add providers in code.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        definitions: Sequence[ProviderDefinition] = (),
        builders: Mapping[str, Builder] | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self.settings = settings or load_settings(self._environ)
        self.clock = clock or SystemClock()
        self.clients = Clients(self.settings, self._environ)
        self.http = self.clients.shared
        self.egress = Egress(egress_rules(self.settings), self.clients.network)
        self.guarded = GuardedClient(lambda: self.egress.rules, self.clients.network)
        self.weights = weight_store(self.settings, self._environ)
        self.local = LocalRuntime(self.weights, _local_options(self.settings))
        self._added = tuple(definitions)
        self._builders = dict(builders or {})
        redaction.add([*self.settings.api_keys, self.settings.master_key])
        repair(_private_files(self.settings))
        self.database = Database(self.settings.database_url, may_upgrade=self.settings.upgrade_database)
        self.resources = Resources(self.database, self.clock)
        self.directory = Directory(self.resources)
        self.keys = self._key_ring()
        configured = self._configured(self.settings)
        self.providers = ProviderManager(
            self._factory(self.settings, configured),
            self.clock,
            on_secret=redaction.add,
            is_present=self._is_present,
            directory=self.directory,
            unlock=self._unlock,
        )
        configure_credentials(self.providers, configured, self._environ)
        self.providers.plan_with(self._failover, self._resolve)
        self.ledger = Ledger(
            self.database, self.settings.home_path / "ledger", price=partial(price_of_lost, self.providers)
        )
        self.administration = Administration(self.resources, self.directory, self.keys, self.providers, self.clock)
        self.responses = ResponseStore(self.database, self.clock)
        self._valkey: Any = None
        self._traced: Any = None
        self._on_reload: list[Callable[[Settings], None]] = []
        self.counters = self._counters()
        self.admission = Admission(self.directory, self.providers)
        self.recovery = Recovery(self.ledger, self.counters)
        self.seeds = Seeds(self.counters, self.ledger, self.clock, self.recovery.first)
        self.queue = FairQueue(self.settings.queue.capacity, self.settings.queue.waiting)
        self.answers = self._answers()
        self.metrics = Metrics()
        telemetry = self.settings.telemetry
        self.traces = Traces(
            self.database, self.ledger.usage, self.clock, keep=telemetry.decisions, records=telemetry.record
        )
        self._gauges()
        self._traces_sent = self._telemetry()
        self.models = ModelManager(
            self.providers,
            self._policies((*callbacks, *self._traces_sent)),
            self.clock,
            defaults=_defaults(self.settings),
            total_timeout=self.settings.timeouts.total or None,
            passes_on=not any(_reads_along(one) for one in (self.traces, *callbacks, *self._traces_sent)),
        )
        self.directory.on_change(lambda touched: self.models.forget())
        self._apply(self.settings)
        self.files = FileStore(self.settings.home_path / "files", self.keys.digest, self.keys.matches)
        self.plugin_parts = PluginParts(self)
        self.plugins = self.plugin_parts.plugins
        self._trigger_listeners: list[TriggerListener] = []
        self.workflow_parts = WorkflowParts(self)
        self.accounts = Accounts(
            self.database, self.clock.time, monotonic=self.clock.monotonic, admits=self.directory.admits,
            sign=lambda text: self.keys.digest(text), is_signed=lambda text, sign: self.keys.matches(text, sign),
        )  # fmt: skip
        self.administration.use(self.accounts, lambda: bool(self.settings.api_keys))
        self.apps, self.runs = self.workflow_parts.apps, self.workflow_parts.runs
        self._knowledge: KnowledgeParts | None = None
        self.upkeep = Upkeep(self)

    # settings

    def _key_ring(self) -> KeyRing:
        return load_key_ring(self.settings.home_path / MASTER_KEY, self.settings.master_key)

    def _unlock(self, tenant: str, row: str, secret: str) -> str:
        return self.administration.unlock(tenant, row, secret)

    @staticmethod
    def _configured(settings: Settings) -> list[ProviderSettings]:
        return [*settings.providers, *added_providers(settings.home_path)]

    def _factory(self, settings: Settings, configured: Sequence[ProviderSettings]) -> ModelProviderFactory:
        proxies, timeouts = proxy_names(configured), timeouts_of(settings)

        def models(definition: ProviderDefinition) -> Mapping[ModelType, Any]:
            client = self.clients.by(proxies.get(definition.name, ""))
            return http_models(definition, client, timeouts, self.guarded)

        for proxy in proxies.values():  # what is wrong with one is found here
            self.clients.by(proxy)
        return ModelProviderFactory(
            [*definitions_of(settings, configured), *self._added],
            {
                **dict.fromkeys(WIRES, models),
                "local": lambda definition: local_models(self.local),
                **self._builders,
            },
        )

    def reload(self, settings: Settings) -> None:
        """Go on with other settings: providers, credentials, routes, limits, defaults, timeouts.

        Raises ConfigError where they are wrong, and then goes on as before. Address, database, workers and what is
        shared are those of the start.
        """
        configured = self._configured(settings)
        proxies = proxies_of(settings.network, self._environ)
        factory = self._factory(settings, configured)
        trial = ProviderManager(factory, self.clock, on_secret=redaction.add)
        configure_credentials(trial, configured, self._environ)  # all that can be wrong is found here
        _checked_failover(settings)
        _overlay(settings)
        defaults = _defaults(settings)
        redaction.add(settings.api_keys)
        self.providers.use(factory)
        configure_credentials(self.providers, configured, self._environ)
        self.settings = settings
        self.egress.rules = egress_rules(settings)
        self.clients.use(proxies)
        self.models.use(defaults, settings.timeouts.total or None)
        self._apply(settings)
        for listener in self._on_reload:
            listener(settings)

    def on_reload(self, listener: Callable[[Settings], None]) -> None:
        """Have it told of settings that were taken up."""
        self._on_reload.append(listener)

    def _apply(self, settings: Settings) -> None:
        _checked_failover(settings)
        self.directory.configure(DEFAULT_TENANT, _overlay(settings))
        self.queue.capacity, self.queue.most_waiting = settings.queue.capacity, settings.queue.waiting

    @property
    def origin(self) -> str:
        """Where the server is reached from this machine."""
        return f"http://{self.settings.host}:{self.settings.port}"

    @property
    def content_origin(self) -> str:
        """Where tenants' content is reached: plugins' addresses, webhooks, files."""
        return self.settings.content.origin.rstrip("/") or self.origin

    def on_trigger(self, listener: TriggerListener) -> None:
        """Have it told of what trigger plugins report: (tenant, subscription, event, variables)."""
        self._trigger_listeners.append(listener)

    @property
    def trigger_listener(self) -> TriggerListener | None:
        """Who is told of what trigger plugins report, beside the apps that begin with it; None where nobody is."""
        return self._triggered if self._trigger_listeners else None

    async def _triggered(self, tenant: str, subscription: str, event: str, variables: dict[str, Any]) -> None:
        fields = {"tenant": tenant, "subscription": subscription, "event": event}
        logger.info("a trigger fired", extra={"fields": fields})
        for listener in self._trigger_listeners:
            await listener(tenant, subscription, event, variables)

    # parts

    def _counters(self) -> Counters:
        shared = self.settings.shared
        if not shared and (self.settings.workers > 1 or self.database.is_shared):
            shared = "database"
        if not shared:
            return MemoryCounters(self.clock)
        if shared == "database":
            return DatabaseCounters(self.database, self.clock, owner=self.ledger.owner)
        from modelyard.storage.valkey import ValkeyCounters

        return ValkeyCounters(self._shared(), self.clock, owner=self.ledger.owner)

    def _shared(self) -> Any:
        """The connection to Valkey."""
        from modelyard.storage.valkey import Valkey

        if not self.settings.shared.startswith(("valkey://", "valkeys://", "redis://", "rediss://")):
            raise ConfigError(
                f"shared {self.settings.shared.partition('://')[0]!r} is not known; it is empty, 'database', or valkey://HOST:PORT"
            )
        if self._valkey is None:
            self._valkey = Valkey(self.settings.shared)
        return self._valkey

    def _answers(self) -> Answers:
        match self.settings.cache.store:
            case "memory":
                return MemoryAnswers(self.clock, most_bytes=self.settings.cache.megabytes << 20)
            case "database":
                return Patient(DatabaseAnswers(self.database, self.clock), _cache_trouble)
            case "shared":
                from modelyard.storage.valkey import ValkeyAnswers

                return Patient(ValkeyAnswers(self._shared()), _cache_trouble)

    def _semantic(self) -> Semantic | None:
        cache = self.settings.cache
        if not cache.semantic_model:
            return None

        async def embed(tenant: str, text: str) -> Sequence[float]:
            with acting_for(None):  # the settings name it, as above all keys
                model = self.models.find(tenant, cache.semantic_model, ModelType.TEXT_EMBEDDING)
            result = await model.invoke_text_embedding(
                TextEmbeddingRequest(texts=[text], input_type=EmbeddingInputType.QUERY)
            )
            return result.embeddings[0]

        return Semantic(embed=embed, threshold=cache.semantic_threshold)

    def _cache_seconds(self, invocation: Invocation) -> float:
        route = self.providers.route(invocation.tenant, invocation.route) if invocation.route else None
        seconds = (route.cache_seconds if route else 0.0) or self.settings.cache.seconds
        return seconds or (_CACHE_ON_DEMAND if invocation.cache in ("on", "refresh") else 0.0)

    def _telemetry(self) -> Sequence[Callback]:
        telemetry = self.settings.telemetry
        if not telemetry.endpoint:
            return ()
        from modelyard.app.telemetry import Traced

        self._traced = Traced(telemetry, self.http)
        return (self._traced,)

    def _gauges(self) -> None:
        self.metrics.gauge(
            "modelyard_resting", "Deployments and credentials that rest.", (),
            lambda: {(): float(len(self.providers.health.resting()))},
        )  # fmt: skip
        self.metrics.gauge(
            "modelyard_queue", "Calls that wait for a turn.", (), lambda: {(): float(self.queue.waiting)}
        )
        self.metrics.gauge(
            "modelyard_ledger_backlog", "Writes that wait for the database.", (),
            lambda: {(): float(self.database.backlog)},
        )  # fmt: skip
        self.metrics.gauge("modelyard_tasks", "Tasks of the event loop.", (), _tasks)

    def _policies(self, callbacks: Sequence[Callback]) -> list[Policy]:
        """The order of the pipeline, outermost first. Why this order: docs/architecture.md."""
        timeouts = self.settings.timeouts
        return [
            Observe(self.clock, (LoggingCallback(), self.metrics, self.traces, *callbacks)),
            Limits(
                self.admission.applying,
                self.admission.estimate,
                self.counters,
                self.seeds.start,
                self.queue,
                self.clock,
                patience=self.settings.queue.seconds,
            ),
            Cache(self.answers, self._cache_seconds, self.ledger, self.clock, self._semantic()),
            Dispatch(
                self.providers.plan,
                self.clock,
                RetryBudget(self.clock),
                self.settings.retries,
                HostedQuotas(self.counters, self.admission, self.seeds, self.clock),
            ),
            Structured(self._features),
            Meter(self.ledger, self._pricing, self.clock),
            Deadline(self.clock, timeouts.first_token or None, timeouts.between_tokens or None),
            Batch(self._most_texts, self.settings.embedding_batch_ms / 1000),
        ]

    def _is_present(self, provider: str, model: str) -> bool:
        return provider != "local" or self.weights.is_present(model)

    def _pricing(self, invocation: Invocation) -> PriceConfig | None:
        return self.providers.pricing(
            invocation.tenant, invocation.provider, invocation.model_type, invocation.model, invocation.credential_id
        )

    def _schema(self, invocation: Invocation) -> AIModelEntity | None:
        return self.providers.schema(invocation.tenant, invocation.provider, invocation.model_type, invocation.model)

    def _features(self, invocation: Invocation) -> Collection[ModelFeature] | None:
        schema = self._schema(invocation)
        return schema.features if schema else None

    def _most_texts(self, invocation: Invocation) -> int:
        """How many texts an embedding model takes at once; models on this machine join calls themselves."""
        if invocation.provider == "local":
            return 0
        schema = self._schema(invocation)
        stated = schema.model_properties.get(ModelPropertyKey.MAX_CHUNKS) if schema else None
        return int(
            stated
            or self.providers.factory_of(invocation.tenant)
            .get_definition(invocation.provider)
            .quirks.get("max_texts", 0)
        )

    def _failover(self, tenant: str, provider: str, model: str, kind: ModelType) -> Sequence[tuple[str, str]]:
        if tenant != DEFAULT_TENANT or not (named := self.settings.failover.get(f"{provider}/{model}")):
            return ()
        try:
            return [self._resolve(tenant, name, kind) for name in named]
        except NotFoundError as error:  # the settings name it, not the caller
            raise ConfigError(f"failover of '{provider}/{model}': {error}") from error

    def _resolve(self, tenant: str, name: str, kind: ModelType) -> tuple[str, str]:
        # The settings name it, so it may serve every key: the list of models that a key may call is not asked.
        with acting_for(None):
            found = self.models.find(tenant, name, kind)
        return found.provider, found.model

    # the six kinds of calls

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str = "default",
        system: str | None = None,
        tools: Sequence[PromptMessageTool] = (),
        tool_choice: str | dict[str, Any] | None = None,
        stop: Sequence[str] = (),
        user: str | None = None,
        callbacks: tuple[Callback, ...] = (),
        timeout: float | None = None,
        **parameters: Any,
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Chat, piece by piece. `parameters` as `temperature` and `max_tokens`; close the generator to stop early."""
        request = LLMRequest(
            messages=_messages(prompt, system),
            model_parameters=parameters,
            tools=list(tools),
            tool_choice=tool_choice,
            stop=list(stop),
            stream=True,
            user=user,
        )
        return self.model(model).stream_llm(request, callbacks=callbacks, timeout=timeout)

    async def chat(self, prompt: Prompt, **how: Any) -> LLMResult:
        """Chat, the whole answer at once. Takes what `stream` takes."""
        return await LLMResult.collect(self.stream(prompt, **how))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "default-text-embedding",
        dimensions: int | None = None,
        input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT,
    ) -> TextEmbeddingResult:
        """One vector a text, in `embeddings`."""
        request = TextEmbeddingRequest(texts=_texts(texts), dimensions=dimensions, input_type=input_type)
        return await self.model(model, ModelType.TEXT_EMBEDDING).invoke_text_embedding(request)

    async def rerank(
        self, query: str, docs: Sequence[str], *, model: str = "default-rerank", top_n: int | None = None
    ) -> RerankResult:
        """The documents with scores, best first, in `docs`."""
        request = RerankRequest(query=query, docs=list(docs), top_n=top_n)
        return await self.model(model, ModelType.RERANK).invoke_rerank(request)

    async def transcribe(
        self, audio: bytes | Path | str, *, model: str = "default-speech2text", language: str | None = None
    ) -> Speech2TextResult:
        """The words of a recording: a path or a whole file's bytes."""
        if isinstance(audio, bytes):
            request = Speech2TextRequest(audio=audio, language=language)
        else:
            path = Path(audio)
            request = Speech2TextRequest(audio=read_file(path), filename=path.name, language=language)
        return await self.model(model, ModelType.SPEECH2TEXT).invoke_speech2text(request)

    async def speak(
        self,
        text: str,
        *,
        model: str = "default-tts",
        voice: str = "default",
        format: str = "wav",  # noqa: A002  the field's word
        speed: float = 1.0,
    ) -> bytes:
        """A whole audio file."""
        request = TTSRequest(text=text, voice=voice, format=format, speed=speed)
        return await joined(self.model(model, ModelType.TTS).invoke_tts(request))

    async def moderate(self, texts: str | Sequence[str], *, model: str = "default-moderation") -> ModerationResult:
        """A verdict a text, in `verdicts`."""
        request = ModerationRequest(texts=_texts(texts))
        return await self.model(model, ModelType.MODERATION).invoke_moderation(request)

    def model(self, name: str, model_type: ModelType = ModelType.LLM, *, tenant: str = DEFAULT_TENANT) -> ModelInstance:
        """A model by `provider/model`, bare name or alias. Raises NotFoundError with near names, ConfigError before
        `open`: limits and credentials that lie in the database are not known then."""
        if not self.directory.is_read:
            raise ConfigError(
                "this Modelyard is not open: use `async with Modelyard() as yard`, or `await yard.open()`"
            )
        return self.models.find(tenant, name, model_type)

    async def check_provider(self, provider: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, list[str]]:
        """Ask a provider, with each of its credentials, what it offers: credential's name → models.

        Raises the provider's own refusal. Costs nothing where the provider lists its models, else a token or two.
        """
        definition = self.providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            models = [model.model for model in definition.entity.models if self.weights.is_present(model.model)]
            return {"weights": models}
        status = self.providers.get_provider(tenant, provider)
        if not status.is_ready:
            raise ConfigError(f"provider {provider!r} has no credential; `modelyard providers add {provider}` adds one")
        given = {one.name: one.values for one in status.credentials} or {"none needed": {}}
        return {name: await self._offered(definition, values) for name, values in given.items()}

    async def check_credentials(self, tenant: str, provider: str, values: Mapping[str, Any]) -> list[str]:
        """What a provider offers whoever shows these credentials. Raises its refusal; nothing is kept."""
        definition = self.providers.factory_of(tenant).get_definition(provider)
        if definition.wire == "local":
            return [model.model for model in definition.entity.models if self.weights.is_present(model.model)]
        owner = next((one for one in self.plugins.installed(tenant) if one.installation.provider == provider), None)
        if owner is not None and owner.declaration.model is not None:
            data = {"provider": owner.declaration.model.name, "credentials": dict(values)}
            action = "validate_provider_credentials"
            await self.plugins.one(tenant, owner.plugin_id, "model", action, data)
            return [model.model for model in definition.entity.models]
        return await self._offered(definition, values)

    async def _offered(self, definition: ProviderDefinition, credentials: Credentials) -> list[str]:
        """What a provider lists; where it has no list, one of its models after a call as small as can be."""
        if definition.paths.get("list") != "":
            endpoint = Endpoint(definition, self.http, timeouts_of(self.settings), self.guarded)
            return await endpoint.list_models(credentials)
        for model in definition.entity.models:
            if (request := _SMALLEST.get(model.model_type)) is not None:
                callee: Any = self.providers.factory.get_model(definition.name, model.model_type)
                async with aclosing(callee.invoke(model.model, credentials, request)) as chunks:
                    async for _ in chunks:
                        pass
                return [model.model]
        return []

    def workflow_services(self, app: Any) -> Any:
        """What the nodes of an app work with, for a run that nobody keeps."""
        return self.workflow_parts.services(app)

    @property
    def tools(self) -> "ToolManager":
        """Tools of all kinds; `yard.tools.functions.add(tool)` adds one of your own for every agent and app."""
        return self.workflow_parts.tools.manager

    async def agent(self, model: str = "default", tools: Sequence[Any] = (), **how: Any) -> "Agent":
        """A model with tools: functions, Tools, agents, or names as `calculate`, `time/current_time`, `dataset:shop`.

        `how`: tenant, user, strategy, instruction, limits, schema, parameters, name, description, approve.
        Raises NotFoundError, ToolNotFoundError, StorageUnavailableError.
        """
        from modelyard.app.agents import make_agent

        return await make_agent(self, model, tools, **how)

    @property
    def knowledge(self) -> KnowledgeParts:
        """Datasets. Made when first asked for: what it needs is not small."""
        if self._knowledge is None:
            self._knowledge = KnowledgeParts(self)
        return self._knowledge

    def use_knowledge(self, parts: KnowledgeParts) -> None:
        """With parts of your own, as another embedding model."""
        self._knowledge = parts

    # lifetime

    async def open(self) -> None:
        """Read what tenants have set up. `async with` does it; whoever makes one otherwise does it before the first
        call. Raises StorageUnavailableError."""
        await self.directory.refresh()

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the local models, close connections, commit what is waiting."""
        await self.upkeep.stop()
        if self._knowledge is not None:
            await self._knowledge.aclose()
        await self.workflow_parts.aclose()
        await self.plugin_parts.aclose()
        await self.local.aclose()
        await self.counters.aclose()
        if self._traced is not None:
            await self._traced.aclose()
        if self._valkey is not None:
            await self._valkey.aclose()
        await self.clients.aclose()
        await self.guarded.aclose()
        await self.egress.aclose()
        try:
            await asyncio.to_thread(self.database.close)
        except RuntimeError:  # the interpreter ends: there are no threads to be had any more
            self.database.close()
        self.ledger.close()


_SMALLEST: Mapping[ModelType, Any] = {
    ModelType.LLM: LLMRequest(messages=[UserPromptMessage(content="hi")], model_parameters={"max_tokens": 1}),
    ModelType.TEXT_EMBEDDING: TextEmbeddingRequest(texts=["hi"]),
    ModelType.RERANK: RerankRequest(query="hi", docs=["hello"]),
}


def _messages(prompt: Prompt, system: str | None) -> list[AnyPromptMessage]:
    head: list[AnyPromptMessage] = [SystemPromptMessage(content=system)] if system else []
    return [*head, UserPromptMessage(content=prompt)] if isinstance(prompt, str) else [*head, *prompt]


def _texts(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def read_file(path: Path) -> bytes:
    """Raises ConfigError that says what is wrong with the path."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"file {str(path)!r} cannot be read: {error.strerror}") from error


def weight_store(settings: Settings, environ: Mapping[str, str] = os.environ) -> WeightStore:
    named = Path(settings.local.weights).expanduser() if settings.local.weights else None
    hub = hub_fetch(settings.local.hub, network_of(settings, environ)) if settings.local.hub else None
    return WeightStore(settings.home_path / "models", named_folder=named, hub=hub)


def _local_options(settings: Settings) -> LocalOptions:
    local = settings.local
    return LocalOptions(
        threads=local.threads,
        context=local.context,
        parallel=local.parallel,
        queue=local.queue,
        idle_seconds=local.idle_seconds,
    )


def _defaults(settings: Settings) -> dict[ModelType, str]:
    defaults: dict[ModelType, str] = {}
    for name, model in settings.defaults.items():
        kind = ALIASES.get(name) or next((one for one in ModelType if one.value == name), None)
        if kind is None:
            raise ConfigError(
                f"defaults: {name!r} is no model type; there are {', '.join(one.value for one in ModelType)}"
            )
        defaults[kind] = model
    return defaults


def _private_files(settings: Settings) -> list[Path]:
    """What holds secrets, or what callers said: earlier versions left some of it to the system's usual modes."""
    home = settings.home_path
    names = ["modelyard.yaml", "files", "ledger", "backups", "run", "serve.lock", ADDED_PROVIDERS]
    if os.geteuid() != 0:  # as root, plugins may run as users of their own, who have to reach their folders
        names.append("plugins")
    database = [] if "://" in settings.database_url else files_of(Path(settings.database_url))
    return [*(home / name for name in names), *database]


def _checked_failover(settings: Settings) -> None:
    """Raises ConfigError for models that fail over to each other in a circle."""
    if path := cycle(settings.failover):
        raise ConfigError(f"failover goes round in a circle: {' → '.join(path)}")


def _overlay(settings: Settings) -> dict[str, dict[str, Any]]:
    """Limits and routes of the settings, as resources of the default tenant."""
    return {
        "limit": {name: configured_limit(name, one) for name, one in settings.limits.items()},
        "route": {name: configured_route(name, one) for name, one in settings.routes.items()},
    }


def _reads_along(callback: Callback) -> bool:
    """Whether a callback wants to see what is said: then it has to be read."""
    return callback.wants_result or type(callback).on_new_chunk is not Callback.on_new_chunk


def _tasks() -> dict[tuple[str, ...], float]:
    try:
        return {(): float(len(asyncio.all_tasks()))}
    except RuntimeError:  # asked outside the loop
        return {}


def _cache_trouble(error: StorageUnavailableError) -> None:
    logger.warning("the cache cannot be used", extra={"fields": {"error": str(error)}})
