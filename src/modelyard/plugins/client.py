"""Models that a plugin serves, as models like any other: every policy works on them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
    PluginError,
    kind_of_error,
)
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import ModelFeature, ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult, ModerationUsage, ModerationVerdict
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.thinking import ThinkStream
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType
from modelyard.plugins import shapes
from modelyard.plugins.conversation import PluginCall, PluginDiedError
from modelyard.providers.definition import ProviderDefinition

Ask = Callable[[PluginCall], AsyncGenerator[JSON, None]]

_STATUS = re.compile(r"status code:? (\d{3})")
_BY_NAME: Mapping[str, type[InvokeError]] = {
    "InvokeConnectionError": InvokeConnectionError,
    "InvokeServerUnavailableError": InvokeServerUnavailableError,
    "InvokeRateLimitError": InvokeRateLimitError,
    "InvokeAuthorizationError": InvokeAuthorizationError,
    "InvokeBadRequestError": InvokeBadRequestError,
    "CredentialsValidateFailedError": InvokeAuthorizationError,
    "ValidationError": InvokeBadRequestError,
    "ValueError": InvokeBadRequestError,
    "KeyError": InvokeBadRequestError,
}


def as_invoke_error(error: PluginError, provider: str) -> InvokeError:
    """A plugin's error as a model call's. By its class's name; where that says nothing, by the HTTP status that many
    plugins put into the text and nowhere else."""
    if isinstance(error, PluginDiedError):
        return InvokeServerUnavailableError(str(error), provider=provider, retry_after=error.retry_after)
    kind = _BY_NAME.get(error.kind)
    if kind is None and (found := _STATUS.search(str(error))):
        kind = kind_of_error(int(found[1]))
    return (kind or InvokeServerUnavailableError)(str(error), provider=provider)


class PluginModelClient:
    """What the six clients share: who is asked, and for whom."""

    __slots__ = ("_ask", "_definition", "_plugin", "_provider", "_tenant", "name")

    def __init__(self, ask: Ask, definition: ProviderDefinition, *, tenant: str, plugin: str, provider: str) -> None:
        self._ask = ask
        self._definition = definition
        self._tenant = tenant
        self._plugin = plugin
        self._provider = provider
        self.name = definition.name
        """The provider's name here; the plugin knows it by its own."""

    async def _asked(
        self, action: str, kind: ModelType, model: str, credentials: Credentials, data: JSON, user: str | None = None
    ) -> AsyncGenerator[JSON, None]:
        """Raises InvokeError."""
        call = PluginCall(
            tenant=self._tenant,
            plugin=self._plugin,
            user=user or "modelyard",
            type="model",
            action=action,
            data={
                "provider": self._provider,
                "model_type": kind.value,
                "model": model,
                "credentials": dict(credentials),
                **data,
            },
        )
        try:
            async with aclosing(self._ask(call)) as answers:
                async for answer in answers:
                    yield answer
        except PluginError as error:
            raise as_invoke_error(error, self.name) from error

    async def _one(
        self, action: str, kind: ModelType, model: str, credentials: Credentials, data: JSON, user: str | None = None
    ) -> JSON:
        """The first answer. Raises InvokeServerUnavailableError where none comes."""
        async with aclosing(self._asked(action, kind, model, credentials, data, user)) as answers:
            async for answer in answers:
                return answer
        raise InvokeServerUnavailableError("the plugin ended without an answer", provider=self.name)


class PluginLLM(PluginModelClient, LargeLanguageModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        schema = self._definition.entity.find(model, ModelType.LLM)
        data = shapes.dump_llm(request, schema.parameter_rules if schema else ())
        reader, thoughts = shapes.ChunkReader(model), ThinkStream()
        if schema and ModelFeature.POLLING in schema.features:
            yield reader.read(await self._polled(model, credentials, data, request.user))
            return
        async with aclosing(
            self._asked("invoke_llm", ModelType.LLM, model, credentials, data, request.user)
        ) as answers:
            async for answer in answers:
                yield thoughts.feed(reader.read(answer))
        for chunk in thoughts.finish():
            yield chunk

    async def _polled(self, model: str, credentials: Credentials, data: JSON, user: str | None) -> JSON:
        """The answer of a model that works for minutes and is asked again and again, as the one chunk that it is."""
        data = {**data, "stream": False, "json_schema": data["model_parameters"].get("json_schema")}
        state = await self._one("start_polling", ModelType.LLM, model, credentials, data, user)
        attempts = 0
        while state.get("status") == "running":
            attempts += 1
            if attempts > int(state.get("max_attempts") or 10_000):
                raise InvokeTimeoutError(f"not done after {attempts} looks", provider=self.name)
            await asyncio.sleep(max(0.05, float(state.get("next_check_after_seconds") or 2.0)))
            again = {"plugin_state": state.get("plugin_state") or {}}
            state = await self._one("check_polling", ModelType.LLM, model, credentials, again, user)
        result = state.get("result")
        if state.get("status") != "succeeded" or not isinstance(result, dict):
            reason = str(state.get("error") or "it failed and gave no reason")
            raise InvokeServerUnavailableError(reason, provider=self.name)
        delta = {"message": result.get("message"), "usage": result.get("usage"), "finish_reason": "stop"}
        return {"model": result.get("model"), "delta": delta}

    async def count_tokens(self, model: str, credentials: Credentials, request: LLMRequest) -> TokenCount:
        """As the plugin counts; as we do, where it says nothing."""
        data = {
            "prompt_messages": shapes.dump_messages(request.messages),
            "tools": shapes.dump_tools(request.tools),
        }
        answer = await self._one("get_llm_num_tokens", ModelType.LLM, model, credentials, data, request.user)
        counted = answer.get("num_tokens")
        if not isinstance(counted, int) or not counted:
            return await LargeLanguageModel.count_tokens(self, model, credentials, request)
        return TokenCount(counted, estimated=True)


class PluginTextEmbedding(PluginModelClient, TextEmbeddingModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        data = shapes.dump_embedding(request)
        kind = ModelType.TEXT_EMBEDDING
        answer = await self._one("invoke_text_embedding", kind, model, credentials, data, request.user)
        yield shapes.read_embedding(answer, request, model)


class PluginRerank(PluginModelClient, RerankModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        data = shapes.dump_rerank(request)
        answer = await self._one("invoke_rerank", ModelType.RERANK, model, credentials, data, request.user)
        yield shapes.read_rerank(answer, request, model)


class PluginTTS(PluginModelClient, TTSModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        voice = request.voice
        if voice == "default":
            schema = self._definition.entity.find(model, ModelType.TTS)
            voice = str(schema.model_properties.get(ModelPropertyKey.DEFAULT_VOICE, "")) if schema else ""
        data = {"content_text": request.text, "voice": voice, "tenant_id": self._tenant}
        async with aclosing(
            self._asked("invoke_tts", ModelType.TTS, model, credentials, data, request.user)
        ) as answers:
            async for answer in answers:
                yield TTSResultChunk(model=model, audio=_unhexed(answer, self.name))
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


def _unhexed(answer: JSON, provider: str) -> bytes:
    try:
        return bytes.fromhex(answer["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvokeServerUnavailableError("the answer holds no audio in hexadecimal", provider=provider) from error


class PluginSpeech2Text(PluginModelClient, Speech2TextModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        data = {"file": request.audio.hex()}
        answer = await self._one("invoke_speech2text", ModelType.SPEECH2TEXT, model, credentials, data, request.user)
        yield Speech2TextResult(model=model, text=str(answer.get("result") or ""))


class PluginModeration(PluginModelClient, ModerationModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        verdicts: list[ModerationVerdict] = []
        for text in request.texts:  # a plugin is asked one text at a time
            data = {"text": text}
            answer = await self._one("invoke_moderation", ModelType.MODERATION, model, credentials, data, request.user)
            flagged = bool(answer.get("result"))
            verdicts.append(
                ModerationVerdict(
                    flagged=flagged, categories={"flagged": flagged}, category_scores={"flagged": float(flagged)}
                )
            )
        usage = ModerationUsage(texts=len(request.texts))
        yield ModerationResult(model=model, verdicts=verdicts, usage=usage)


_CLIENTS: Mapping[ModelType, type[Any]] = {
    ModelType.LLM: PluginLLM,
    ModelType.TEXT_EMBEDDING: PluginTextEmbedding,
    ModelType.RERANK: PluginRerank,
    ModelType.TTS: PluginTTS,
    ModelType.SPEECH2TEXT: PluginSpeech2Text,
    ModelType.MODERATION: PluginModeration,
}


def plugin_models(
    ask: Ask, definition: ProviderDefinition, *, tenant: str, plugin: str, provider: str
) -> Mapping[ModelType, AnyModel]:
    """The callable models of a plugin's provider, for one tenant."""
    kinds = definition.entity.supported_model_types
    return {kind: _CLIENTS[kind](ask, definition, tenant=tenant, plugin=plugin, provider=provider) for kind in kinds}
