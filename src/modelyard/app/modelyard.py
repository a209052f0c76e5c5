"""`Modelyard`: everything, wired, as a program uses it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from modelyard.app.knowledge import KnowledgeParts
from modelyard.app.providers import Added
from modelyard.app.services import Services, build
from modelyard.app.trigger_listeners import TriggerListener
from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError
from modelyard.base.files import read_file
from modelyard.base.settings import Settings, load_settings
from modelyard.knowledge.vectors import Embedder
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.messages import AnyPromptMessage, PromptMessageTool, SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, joined
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
    """Six kinds of calls as methods, knowledge, agents and workflows; `services` has the rest.

        async with Modelyard() as yard:
            print((await yard.chat("Say hello.")).text)

    `settings` default to `modelyard.yaml` and the environment. `definitions` and `builders` add providers in code;
    `embedder` embeds documents in the place of an embedding model.
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
        variables = os.environ if environ is None else environ
        self.services: Services = build(
            settings or load_settings(variables),
            clock=clock or SystemClock(),
            environ=variables,
            callbacks=callbacks,
            added=Added(definitions=tuple(definitions), builders=dict(builders or {})),
            embedder=embedder,
        )

    # settings

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return self.services.settings.current

    def reload(self, settings: Settings) -> None:
        """Go on with other settings: providers, credentials, routes, limits, defaults, timeouts.

        Raises ConfigError where they are wrong, and then goes on as before.
        """
        self.services.reload.take_up(settings)

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
            request = Speech2TextRequest(
                audio=await asyncio.to_thread(read_file, path), filename=path.name, language=language
            )
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
        if not self.services.tenancy.directory.is_read:
            raise ConfigError(
                "this Modelyard is not open: use `async with Modelyard() as yard`, or `await yard.open()`"
            )
        return self.services.calls.models.find(tenant, name, model_type)

    async def check_provider(self, provider: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, list[str]]:
        """Ask a provider, with each of its credentials, what it offers: credential's name → models.

        Raises the provider's own refusal. Costs nothing where the provider lists its models, else a token or two.
        """
        return await self.services.checks.provider(tenant, provider)

    # what is built of calls

    async def agent(self, model: str = "default", tools: Sequence[Any] = (), **how: Any) -> "Agent":
        """A model with tools: functions, Tools, agents, or names as `calculate`, `time/current_time`, `dataset:shop`.

        `how`: tenant, user, strategy, instruction, limits, schema, parameters, name, description, approve.
        Raises NotFoundError, ToolNotFoundError, StorageUnavailableError.
        """
        return await self.services.agents.make(model, tools, **how)

    @property
    def tools(self) -> ToolManager:
        """Tools of all kinds; `yard.tools.functions.add(tool)` adds one of your own for every agent and app."""
        return self.services.tools.manager

    @property
    def knowledge(self) -> KnowledgeParts:
        """Datasets: `yard.knowledge.datasets`, and what finds and answers from them."""
        return self.services.knowledge

    @property
    def apps(self) -> Apps:
        """Workflows as they were imported and published."""
        return self.services.workflows.apps

    @property
    def runs(self) -> Runs:
        """Apps that run, and what they said."""
        return self.services.workflows.runs

    def on_trigger(self, listener: TriggerListener) -> None:
        """Have it told of what trigger plugins report: (tenant, subscription, event, variables)."""
        self.services.triggers.add(listener)

    # lifetime

    async def open(self) -> None:
        """Read what tenants have set up. `async with` does it; whoever makes one otherwise does it before the first
        call. Raises StorageUnavailableError."""
        await self.services.tenancy.directory.refresh()

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
        await self.services.aclose()


def _messages(prompt: Prompt, system: str | None) -> list[AnyPromptMessage]:
    head: list[AnyPromptMessage] = [SystemPromptMessage(content=system)] if system else []
    return [*head, UserPromptMessage(content=prompt)] if isinstance(prompt, str) else [*head, *prompt]


def _texts(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
