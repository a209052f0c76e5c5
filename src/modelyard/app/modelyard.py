"""`Modelyard`, the entry point for programs."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from modelyard.app.knowledge import KnowledgeServices
from modelyard.app.providers import AddedProviders
from modelyard.app.services import Services, build, prepare
from modelyard.app.trigger_listeners import TriggerListener
from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError
from modelyard.base.files import read_file
from modelyard.base.settings import Settings, load_settings
from modelyard.base.struct_types import prepare_struct_types
from modelyard.knowledge.vectors import Embedder
from modelyard.models.embedding import (
    EmbeddingInputType,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, collect_audio
from modelyard.models.types import ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder
from modelyard.runtime.callbacks import Callback
from modelyard.runtime.model_instance import ModelInstance
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tools.manager import ToolManager
from modelyard.workflow.apps import Apps
from modelyard.workflow.runs import Runs

if TYPE_CHECKING:
    from modelyard.agents.agent import Agent

Prompt = str | Sequence[AnyPromptMessage]


class Modelyard:
    """Six kinds of calls as methods, knowledge, agents and workflows; `services` has
    the rest.

        async with Modelyard() as yard:
            print((await yard.chat("Say hello.")).text)

    `settings` default to `modelyard.yaml` and the environment. `definitions` and
    `builders` add providers in code; `embedder` embeds documents in the place of an
    embedding model.
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
        embedder: Embedder | None = None,
    ) -> None:
        # All modules with types of their own are imported by now, and no thread of ours
        # decodes yet.
        prepare_struct_types()
        # The program may pass its own environment instead of the process's.
        variables = os.environ if environ is None else environ
        self.services: Services = build(
            settings or load_settings(variables),
            clock=clock or SystemClock(),
            environ=variables,
            callbacks=callbacks,
            added=AddedProviders(
                definitions=tuple(definitions), builders=dict(builders or {})
            ),
            embedder=embedder,
        )

    # settings

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self.services.settings.current

    def reload(self, settings: Settings) -> None:
        """Apply other settings: providers, credentials, routes, limits, defaults,
        timeouts. Those that lie in the database stay as they are.

        Raises ConfigError if they are invalid; then nothing changes.
        """
        self.services.shared_settings.apply_own(settings)

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
        """Stream a chat completion. `parameters` are model parameters such as
        `temperature` and `max_tokens`.

        Close the generator to stop early.
        """
        # Parameters are passed on unchanged; the provider validates them.
        request = LLMRequest(
            messages=_messages(prompt, system),
            model_parameters=parameters,
            tools=list(tools),
            tool_choice=tool_choice,
            stop=list(stop),
            stream=True,
            user=user,
        )
        return self.model(model).stream_llm(
            request, callbacks=callbacks, timeout=timeout
        )

    async def chat(self, prompt: Prompt, **options: Any) -> LLMResult:
        """Return a complete chat completion. Takes the arguments of `stream`."""
        return await LLMResult.collect(self.stream(prompt, **options))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "default-text-embedding",
        dimensions: int | None = None,
        input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT,
    ) -> TextEmbeddingResult:
        """Return one vector for each text, in `embeddings`."""
        request = TextEmbeddingRequest(
            texts=_texts(texts), dimensions=dimensions, input_type=input_type
        )
        return await self.model(model, ModelType.TEXT_EMBEDDING).invoke_text_embedding(
            request
        )

    async def rerank(
        self,
        query: str,
        docs: Sequence[str],
        *,
        model: str = "default-rerank",
        top_n: int | None = None,
    ) -> RerankResult:
        """Return the documents with scores, best first, in `docs`."""
        request = RerankRequest(query=query, docs=list(docs), top_n=top_n)
        return await self.model(model, ModelType.RERANK).invoke_rerank(request)

    async def transcribe(
        self,
        audio: bytes | Path | str,
        *,
        model: str = "default-speech2text",
        language: str | None = None,
    ) -> Speech2TextResult:
        """Return the text of a recording, given as a path or as the bytes of a file."""
        if isinstance(audio, bytes):
            request = Speech2TextRequest(audio=audio, language=language)
        else:
            # Reading a file blocks, so it runs in a thread.
            path = Path(audio)
            request = Speech2TextRequest(
                audio=await asyncio.to_thread(read_file, path),
                filename=path.name,
                language=language,
            )
        return await self.model(model, ModelType.SPEECH2TEXT).invoke_speech2text(
            request
        )

    async def speak(
        self,
        text: str,
        *,
        model: str = "default-tts",
        voice: str = "default",
        format: str = "wav",
        speed: float = 1.0,
    ) -> bytes:
        """Return a complete audio file."""
        request = TTSRequest(
            text=text,
            voice=voice,
            format=format,
            speed=speed,
        )
        return await collect_audio(self.model(model, ModelType.TTS).invoke_tts(request))

    async def moderate(
        self, texts: str | Sequence[str], *, model: str = "default-moderation"
    ) -> ModerationResult:
        """Return a verdict for each text, in `verdicts`."""
        request = ModerationRequest(texts=_texts(texts))
        return await self.model(model, ModelType.MODERATION).invoke_moderation(request)

    def model(
        self,
        name: str,
        model_type: ModelType = ModelType.LLM,
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> ModelInstance:
        """Return a model by `provider/model`, model name or alias.

        Raises NotFoundError with similar names, and ConfigError before `open`, because
        limits and credentials in the database are not loaded yet.
        """
        # Before `open`, limits and credentials of tenants are missing.
        if not self.services.tenancy.directory.is_read:
            raise ConfigError(
                "This Modelyard instance is not open; use `async with Modelyard() as yard`"
                " or `await yard.open()`"
            )
        return self.services.calls.models.find(tenant, name, model_type)

    async def check_provider(
        self, provider: str, *, tenant: str = DEFAULT_TENANT
    ) -> dict[str, list[str]]:
        """Return the models that a provider offers for each of its credentials:
        credential name → models.

        Raises the provider's error. It is free of charge if the provider lists its
        models; otherwise it costs a token or two.
        """
        return await self.services.checks.provider(tenant, provider)

    async def provider_formats(
        self, provider: str, *, tenant: str = DEFAULT_TENANT
    ) -> dict[str, dict[str, bool]]:
        """Return which chat formats a provider's server speaks: credential name →
        format → whether it answers. Empty for providers with a single format.

        Free of charge: the requests are empty. Raises InvokeConnectionError.
        """
        return await self.services.checks.formats(tenant, provider)

    # what is built of calls

    async def agent(
        self, model: str = "default", tools: Sequence[Any] = (), **options: Any
    ) -> "Agent":
        """Return an agent. `tools` are functions, Tools, agents, or names such as
        `calculate`, `time/current_time`, `dataset:shop`.

        `options`: tenant, user, strategy, instruction, limits, schema, parameters,
        name, description, approve. Raises NotFoundError, ToolNotFoundError or
        StorageUnavailableError.
        """
        return await self.services.agents.make(model, tools, **options)

    @property
    def tools(self) -> ToolManager:
        """All tools; `yard.tools.functions.add(tool)` adds one for every agent and app."""
        return self.services.tools.manager

    @property
    def knowledge(self) -> KnowledgeServices:
        """Datasets (`yard.knowledge.datasets`), retrieval and answers."""
        return self.services.knowledge

    @property
    def apps(self) -> Apps:
        """Imported and published apps."""
        return self.services.workflows.apps

    @property
    def runs(self) -> Runs:
        """Runs of apps."""
        return self.services.workflows.runs

    def on_trigger(self, listener: TriggerListener) -> None:
        """Call a listener for events of trigger plugins: (tenant, subscription, event,
        variables)."""
        self.services.triggers.add(listener)

    # lifetime

    async def open(self) -> None:
        """Load the tenants' resources. `async with` calls it; otherwise call it before
        the first model call.

        Raises ConfigError, StorageUnavailableError, and NotFoundError for a provider in
        the settings that nothing offers.
        """
        services = self.services
        await prepare(
            services.storage,
            services.providers,
            services.settings,
            services.shared_settings,
        )

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            # `__aexit__` is not called if this method fails.
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop local models, close connections and commit pending writes."""
        await self.services.aclose()


def _messages(prompt: Prompt, system: str | None) -> list[AnyPromptMessage]:
    """Return the prompt as messages, after the system prompt."""
    head = [SystemPromptMessage(content=system)] if system else []
    if isinstance(prompt, str):
        return [*head, UserPromptMessage(content=prompt)]
    return [*head, *prompt]


def _texts(texts: str | Sequence[str]) -> list[str]:
    """Return one text or several as a list."""
    return [texts] if isinstance(texts, str) else list(texts)
