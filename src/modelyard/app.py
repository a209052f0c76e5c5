"""The composition root: settings in, wired objects out. The only place that names concrete classes."""

import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.log import redaction
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings, load_settings
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, ModelFeature, PriceConfig
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.messages import AnyPromptMessage, PromptMessageTool, SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, joined
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition, Wire, convert, load_definition, short_model
from modelyard.providers.endpoint import Endpoint
from modelyard.providers.factory import Builder, ModelProviderFactory, catalog_definition, catalog_names
from modelyard.providers.formats import CHAT
from modelyard.providers.http_provider import WIRES, http_models
from modelyard.providers.local.hub import hub_fetch
from modelyard.providers.local.provider import local_models
from modelyard.providers.local.runtime import LocalOptions, LocalRuntime
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.callbacks import Callback, LoggingCallback
from modelyard.runtime.invocation import DEFAULT_TENANT, Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.load_balancing import LBModelManager
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.runtime.pipeline import Policy
from modelyard.runtime.policies.deadline import Deadline
from modelyard.runtime.policies.failover import Failover, Target
from modelyard.runtime.policies.load_balance import LoadBalance
from modelyard.runtime.policies.meter import Meter
from modelyard.runtime.policies.observe import Observe
from modelyard.runtime.policies.retry import Retry
from modelyard.runtime.policies.structured import Structured
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.response_store import ResponseStore
from modelyard.storage.database import Database
from modelyard.transport.http import HttpClient, Timeouts

ADDED_PROVIDERS = "providers.yaml"
"""In the home folder: what `modelyard providers add` wrote. Holds secrets; readable by its owner alone."""

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
        environ = os.environ if environ is None else environ
        self.settings = settings or load_settings(environ)
        self.clock = clock or SystemClock()
        self.http = HttpClient()
        self.weights = weight_store(self.settings)
        self.local = LocalRuntime(self.weights, _local_options(self.settings))
        redaction.add(self.settings.api_keys)
        configured = [*self.settings.providers, *added_providers(self.settings.home_path)]
        self._timeouts = _timeouts(self.settings)
        factory = ModelProviderFactory(
            [*_definitions(self.settings, configured), *definitions],
            {
                **dict.fromkeys(WIRES, partial(http_models, client=self.http, timeouts=self._timeouts)),
                "local": lambda definition: local_models(self.local),
                **(builders or {}),
            },
        )
        self.providers = ProviderManager(factory, self.clock, on_secret=redaction.add, is_present=self._is_present)
        _configure_credentials(self.providers, configured, environ)
        self.database = Database(self.settings.database_path)
        self.ledger = Ledger(self.database)
        self.responses = ResponseStore(self.database, self.clock)
        self.models = ModelManager(
            self.providers,
            self._policies(callbacks),
            self.clock,
            defaults=_defaults(self.settings),
            total_timeout=self.settings.timeouts.total or None,
        )

    def _policies(self, callbacks: Sequence[Callback]) -> list[Policy]:
        """The order of the pipeline, outermost first. Why this order: docs/architecture.md."""
        return [
            Observe(self.clock, (LoggingCallback(), *callbacks)),
            Deadline(self.clock),
            Failover(self._failover_targets),
            Structured(self._features),
            LoadBalance(self._balancer, self.clock),
            Retry(self.clock, self.settings.retries),
            Meter(self.ledger, self._pricing, self.clock),
        ]

    def _is_present(self, provider: str, model: str) -> bool:
        return provider != "local" or self.weights.is_present(model)

    def _balancer(self, invocation: Invocation) -> LBModelManager | None:
        return self.providers.balancer(invocation.tenant, invocation.provider)

    def _pricing(self, invocation: Invocation) -> PriceConfig | None:
        schema = self._schema(invocation)
        return schema.pricing if schema else None

    def _schema(self, invocation: Invocation) -> AIModelEntity | None:
        factory = self.providers.factory
        return factory.get_model_schema(invocation.provider, invocation.model_type, invocation.model)

    def _features(self, invocation: Invocation) -> Collection[ModelFeature] | None:
        schema = self._schema(invocation)
        return schema.features if schema else None

    def _failover_targets(self, invocation: Invocation) -> Sequence[Target]:
        named = self.settings.failover.get(f"{invocation.provider}/{invocation.model}")
        if not named:
            return ()
        try:
            instances = [self.models.find(invocation.tenant, name, invocation.model_type) for name in named]
        except NotFoundError as error:  # the settings name it, not the caller
            raise ConfigError(f"failover of '{invocation.provider}/{invocation.model}': {error}") from error
        return [Target(one.provider, one.model) for one in instances]

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
        """A model by `provider/model`, bare name or alias. Raises NotFoundError with near names."""
        return self.models.find(tenant, name, model_type)

    async def check_provider(self, provider: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, list[str]]:
        """Ask a provider, with each of its credentials, what it offers: credential's name → models.

        Raises the provider's own refusal. Costs nothing where the provider lists its models, else a token or two.
        """
        definition = self.providers.factory.get_definition(provider)
        if definition.wire == "local":
            models = [model.model for model in definition.entity.models if self.weights.is_present(model.model)]
            return {"weights": models}
        status = self.providers.get_provider(tenant, provider)
        if not status.is_ready:
            raise ConfigError(f"provider {provider!r} has no credential; `modelyard providers add {provider}` adds one")
        given = {one.name: one.values for one in status.credentials} or {"none needed": {}}
        return {name: await self._offered(definition, values) for name, values in given.items()}

    async def _offered(self, definition: ProviderDefinition, credentials: Credentials) -> list[str]:
        """What a provider lists; where it has no list, one of its models after a call as small as can be."""
        if definition.paths.get("list") != "":
            return await Endpoint(definition, self.http, self._timeouts).list_models(credentials)
        for model in definition.entity.models:
            if (request := _SMALLEST.get(model.model_type)) is not None:
                callee: Any = self.providers.factory.get_model(definition.name, model.model_type)
                async with aclosing(callee.invoke(model.model, credentials, request)) as chunks:
                    async for _ in chunks:
                        pass
                return [model.model]
        return []

    # lifetime

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the local models, close connections, commit what is waiting."""
        await self.local.aclose()
        await self.http.aclose()
        self.database.close()


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


def weight_store(settings: Settings) -> WeightStore:
    named = Path(settings.local.weights).expanduser() if settings.local.weights else None
    hub = hub_fetch(settings.local.hub) if settings.local.hub else None
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


def _timeouts(settings: Settings) -> Timeouts:
    limits = settings.timeouts
    return Timeouts(connect=limits.connect, first_byte=limits.first_byte, between_bytes=limits.between_bytes)


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


# ------------------------------------------------------------------------------------------------ providers


def added_providers(home: Path) -> list[ProviderSettings]:
    """What `modelyard providers add` wrote."""
    path = home / ADDED_PROVIDERS
    if not path.is_file():
        return []
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=list[ProviderSettings], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def add_provider(home: Path, provider: ProviderSettings) -> None:
    """Write a provider down, beside the others; its credentials go behind those that it has already."""
    known = added_providers(home)
    before = next((one for one in known if one.name == provider.name), None)
    if before is not None:
        provider = msgspec.structs.replace(provider, credentials=[*before.credentials, *provider.credentials])
    home.mkdir(parents=True, exist_ok=True)
    path = home / ADDED_PROVIDERS
    partial_path = path.with_suffix(".partial")
    descriptor = os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(msgspec.yaml.encode([*(one for one in known if one.name != provider.name), provider]))
    partial_path.replace(path)


def _definitions(settings: Settings, configured: Sequence[ProviderSettings]) -> list[ProviderDefinition]:
    """The catalogue, then what the settings add or change."""
    found = {name: catalog_definition(name) for name in catalog_names() if name != "local" or settings.local.enabled}
    for one in configured:
        definition = _definition(one, found)
        found[definition.name] = _with_models(definition, one)
    return list(found.values())


def _definition(one: ProviderSettings, known: Mapping[str, ProviderDefinition]) -> ProviderDefinition:
    if one.path:
        definition = load_definition(Path(one.path).expanduser(), wire=one.wire, base_url=one.base_url)
        return _relaxed(_renamed(definition, one.name) if one.name else definition)
    if not one.name:
        raise ConfigError("a provider in the settings needs a 'name' from the catalogue, or a 'path'")
    if one.name in known:
        definition = known[one.name]
        changed = replace(definition, base_url=one.base_url or definition.base_url)
        changed = _spoken(changed, one.wire)
        return _relaxed(_moved(changed)) if one.base_url else changed
    if not one.base_url:
        catalog_definition(one.name)  # says which names there are
        raise NotFoundError(f"provider {one.name!r} is switched off; set local.enabled", code="provider_not_found")
    # A new name with an address: one more server that speaks OpenAI's API.
    template = catalog_definition("openai_api_compatible")
    return _relaxed(_spoken(replace(_renamed(template, one.name), base_url=one.base_url), one.wire))


def _spoken(definition: ProviderDefinition, wire: str) -> ProviderDefinition:
    """With another wire format for its chat models, where the settings name one; for all, where they all can."""
    if not wire:
        return definition
    if wire not in CHAT:
        return replace(definition, wire=wire, wires={}, paths={})
    others = {kind: definition.wires_of(kind) for kind in ModelType if kind is not ModelType.LLM}
    paths = {name: path for name, path in definition.paths.items() if not name.startswith("llm")}
    return replace(definition, wire=wire, wires={**others, ModelType.LLM: (Wire(wire),)}, paths=paths)


def _moved(definition: ProviderDefinition) -> ProviderDefinition:
    """With another address for the provider, that is where all its formats are spoken: a key goes nowhere else."""
    wires = {
        kind: [wire for wire in many if not wire.base_url] or [Wire(wire.name) for wire in many]
        for kind, many in definition.wires.items()
    }
    return replace(definition, wires=wires)


def _renamed(definition: ProviderDefinition, name: str) -> ProviderDefinition:
    label = msgspec.structs.replace(definition.entity.label, en_us=name)
    return replace(definition, entity=msgspec.structs.replace(definition.entity, provider=name, label=label))


def _relaxed(definition: ProviderDefinition) -> ProviderDefinition:
    """With the address known, no credential needs to say it."""
    field, schema = definition.url_field, definition.entity.provider_credential_schema
    if not definition.base_url or field is None or schema is None:
        return definition
    forms = [
        msgspec.structs.replace(form, required=False, default=None) if form.variable == field else form
        for form in schema.credential_form_schemas
    ]
    entity = msgspec.structs.replace(
        definition.entity,
        provider_credential_schema=msgspec.structs.replace(schema, credential_form_schemas=forms),
    )
    return replace(definition, entity=entity)


def _with_models(definition: ProviderDefinition, one: ProviderSettings) -> ProviderDefinition:
    if not one.models:
        return definition
    entity = definition.entity
    added = [short_model(model, f"provider {definition.name!r}") for model in one.models]
    models: list[AIModelEntity] = convert(added, list[AIModelEntity], definition.name)
    return replace(definition, entity=msgspec.structs.replace(entity, models=[*models, *entity.models]))


def _configure_credentials(
    providers: ProviderManager, configured: Sequence[ProviderSettings], environ: Mapping[str, str]
) -> None:
    """Credentials from the settings; for providers without any there, from the variables people keep keys in."""
    given: dict[str, list[CredentialSettings]] = {}
    for one in configured:
        name = one.name or load_definition(Path(one.path).expanduser()).name
        given.setdefault(name, []).extend(one.credentials)
    for entity in providers.factory.get_providers():
        credentials = [(one.name, one.values) for one in given.get(entity.provider, ())]
        if not credentials:
            found = {
                form.variable: environ[form.env] for form in entity.credential_forms if form.env and form.env in environ
            }
            required = {form.variable for form in entity.credential_forms if form.required}
            if found and required <= found.keys():
                credentials = [("environment", found)]
        if credentials:
            providers.configure(DEFAULT_TENANT, entity.provider, credentials)
