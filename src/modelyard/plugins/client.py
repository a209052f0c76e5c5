"""Models that plugins serve, with the interface of any other model, so that all routing
policies apply to them."""

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
)
from modelyard.base.json_types import is_object
from modelyard.base.provider_errors import error_class_for_status, exact_class
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.capabilities import DEFAULT_CAPABILITIES
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import ModelFeature, ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationUsage,
    ModerationVerdict,
)
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.thinking import ThinkStream
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType
from modelyard.plugins import conversions
from modelyard.plugins.connection import PluginCall, PluginDiedError
from modelyard.providers.adaptation.adapter import adapt, adapted_stream
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.definition import ProviderDefinition

Ask = Callable[[PluginCall], AsyncGenerator[JSON, None]]

# Plugins wrap HTTP errors in messages like "API request failed with status code 429".
_STATUS = re.compile(r"status code:? (\d{3})")
# Names of exception classes in Dify's plugin SDK.
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
    """Convert a plugin's error to a model call's error.

    Its class name decides; if that is unknown, the HTTP status that many plugins only
    mention in the message.
    """
    if isinstance(error, PluginDiedError):
        return InvokeServerUnavailableError(
            str(error), provider=provider, retry_after=error.retry_after
        )
    error_class = _BY_NAME.get(error.kind)
    if error_class is None and (match := _STATUS.search(str(error))):
        error_class = error_class_for_status(int(match[1]))
    # Plugins report the words of their provider.
    error_class = exact_class(error_class or InvokeServerUnavailableError, error.reason)
    return error_class(str(error), provider=provider)


class PluginModelClient:
    """Common part of the six clients: which plugin to call, and for which tenant."""

    __slots__ = ("_ask", "_definition", "_plugin", "_provider", "_tenant", "name")

    def __init__(
        self,
        ask: Ask,
        definition: ProviderDefinition,
        *,
        tenant: str,
        plugin: str,
        provider: str,
    ) -> None:
        self._ask = ask
        self._definition = definition
        self._tenant = tenant
        self._plugin = plugin
        self._provider = provider
        self.name = definition.name
        """The provider's name in modelyard; the plugin uses its own name."""

    async def _call_plugin(
        self,
        action: str,
        model_type: ModelType,
        model: str,
        credentials: Credentials,
        data: JSON,
        user: str | None = None,
    ) -> AsyncGenerator[JSON, None]:
        """Call the plugin and yield its answers. Raises InvokeError."""
        call = PluginCall(
            tenant=self._tenant,
            plugin=self._plugin,
            user=user or "modelyard",
            type="model",
            action=action,
            data={
                "provider": self._provider,
                "model_type": model_type.value,
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

    async def _call_once(
        self,
        action: str,
        model_type: ModelType,
        model: str,
        credentials: Credentials,
        data: JSON,
        user: str | None = None,
    ) -> JSON:
        """Return the first answer. Raises InvokeServerUnavailableError if there is
        none."""
        async with aclosing(
            self._call_plugin(action, model_type, model, credentials, data, user)
        ) as answers:
            async for answer in answers:
                return answer
        raise InvokeServerUnavailableError(
            "The plugin returned no response", provider=self.name
        )


class PluginLLM(PluginModelClient, LargeLanguageModel):
    """Language models of a plugin."""

    def unsupported(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> list[str]:
        """Return the names of the request's fields that are left out."""
        return list(adapt(request, self._target(model, request)).dropped)

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model with a request as plugins accept it, and yield the answer as
        the caller expects it. Raises InvokeError."""
        adaptation = adapt(request, self._target(model, request))
        answer = self._invoke(model, credentials, adaptation.request)
        async with aclosing(adapted_stream(adaptation, answer)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _target(self, model: str, request: LLMRequest) -> Target:
        """Return what requests are adapted to: the plugin protocol has functions, and
        passes all parameters on."""
        schema = self._definition.entity.find(model, ModelType.LLM)
        parameters = frozenset({*request.model_parameters, "stop"})
        return Target("plugin", model, DEFAULT_CAPABILITIES, schema, parameters)

    async def _invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model and yield chunks; a polled model yields a single chunk. Raises
        InvokeError."""
        schema = self._definition.entity.find(model, ModelType.LLM)
        data = conversions.dump_llm(request, schema.parameter_rules if schema else ())
        # The stream separates reasoning that is embedded in the text.
        reader, thoughts = conversions.ChunkReader(model), ThinkStream()
        if schema and ModelFeature.POLLING in schema.features:
            yield reader.read(
                await self._poll_result(model, credentials, data, request.user)
            )
            return
        async with aclosing(
            self._call_plugin(
                "invoke_llm", ModelType.LLM, model, credentials, data, request.user
            )
        ) as answers:
            async for answer in answers:
                yield thoughts.feed(reader.read(answer))
        for chunk in thoughts.finish():
            yield chunk

    async def _poll_result(
        self, model: str, credentials: Credentials, data: JSON, user: str | None
    ) -> JSON:
        """Return the result of a long-running model that must be polled, as one chunk.
        Raises InvokeError."""
        data = {
            **data,
            "stream": False,
            "json_schema": data["model_parameters"].get("json_schema"),
        }
        state = await self._call_once(
            "start_polling", ModelType.LLM, model, credentials, data, user
        )
        attempts = 0
        while state.get("status") == "running":
            # Bounded, because a plugin may report "running" forever.
            attempts += 1
            if attempts > int(state.get("max_attempts") or 10_000):
                raise InvokeTimeoutError(
                    f"Not finished after {attempts} polls", provider=self.name
                )
            await asyncio.sleep(
                # At least a short pause, since a plugin may ask for none.
                max(0.05, float(state.get("next_check_after_seconds") or 2.0))
            )
            # The plugin is stateless between polls and gets its own state back.
            poll_data: JSON = {"plugin_state": state.get("plugin_state") or {}}
            state = await self._call_once(
                "check_polling", ModelType.LLM, model, credentials, poll_data, user
            )
        result = state.get("result")
        if state.get("status") != "succeeded" or not is_object(result):
            reason = str(state.get("error") or "The job failed without a reason")
            raise InvokeServerUnavailableError(reason, provider=self.name)
        delta: JSON = {
            "message": result.get("message"),
            "usage": result.get("usage"),
            "finish_reason": "stop",
        }
        return {"model": result.get("model"), "delta": delta}

    async def count_tokens(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> TokenCount:
        """Return the plugin's token count; if it has none, the estimate of the base
        class."""
        data = {
            "prompt_messages": conversions.dump_messages(request.messages),
            "tools": conversions.dump_tools(request.tools),
        }
        answer = await self._call_once(
            "get_llm_num_tokens", ModelType.LLM, model, credentials, data, request.user
        )
        token_count = answer.get("num_tokens")
        # Zero means that the plugin does not count.
        if not isinstance(token_count, int) or not token_count:
            return await LargeLanguageModel.count_tokens(
                self, model, credentials, request
            )
        # Many plugins count with the SDK's GPT-2 tokenizer, whatever the model is.
        return TokenCount(token_count, estimated=True)


class PluginTextEmbedding(PluginModelClient, TextEmbeddingModel):
    """Embedding models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        """Embed the request's texts in one call and yield a single result.

        The vectors have the order of the texts. Raises InvokeError, in particular
        InvokeServerUnavailableError if the plugin returns no vectors or another number
        of them.
        """
        data = conversions.dump_embedding(request)
        model_type = ModelType.TEXT_EMBEDDING
        answer = await self._call_once(
            "invoke_text_embedding", model_type, model, credentials, data, request.user
        )
        yield conversions.read_embedding(answer, request, model)


class PluginRerank(PluginModelClient, RerankModel):
    """Rerank models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        """Rank the request's documents in one call and yield a single result.

        The documents are sorted by score and limited by the request's threshold and
        `top_n`, even if the plugin ignores these. Raises InvokeError, in particular
        InvokeServerUnavailableError for malformed results.
        """
        data = conversions.dump_rerank(request)
        answer = await self._call_once(
            "invoke_rerank", ModelType.RERANK, model, credentials, data, request.user
        )
        yield conversions.read_rerank(answer, request, model)


class PluginTTS(PluginModelClient, TTSModel):
    """Speech synthesis models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        """Synthesise speech and yield audio chunks, then one chunk with the usage.
        Raises InvokeError."""
        voice = request.voice
        # "default" is our name; the plugin needs the model's default voice.
        if voice == "default":
            schema = self._definition.entity.find(model, ModelType.TTS)
            voice = (
                str(schema.model_properties.get(ModelPropertyKey.DEFAULT_VOICE, ""))
                if schema
                else ""
            )
        data = {"content_text": request.text, "voice": voice, "tenant_id": self._tenant}
        async with aclosing(
            self._call_plugin(
                "invoke_tts", ModelType.TTS, model, credentials, data, request.user
            )
        ) as answers:
            async for answer in answers:
                yield TTSResultChunk(
                    model=model, audio=_decode_audio(answer, self.name)
                )
        # Plugins report no usage for speech, so characters are counted here.
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


def _decode_audio(answer: JSON, provider: str) -> bytes:
    """Return the audio bytes in one answer to `invoke_tts`.

    The plugin sends them as hexadecimal text in `result`. Raises
    InvokeServerUnavailableError if that is missing or not hexadecimal.
    """
    try:
        return bytes.fromhex(answer["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvokeServerUnavailableError(
            "The response contains no hexadecimal audio", provider=provider
        ) from error


class PluginSpeech2Text(PluginModelClient, Speech2TextModel):
    """Speech recognition models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        """Transcribe the request's audio and yield a single result.

        The audio is sent as hexadecimal text, without its file name or language. The
        text is empty if the plugin recognised nothing. Raises InvokeError.
        """
        data = {"file": request.audio.hex()}
        answer = await self._call_once(
            "invoke_speech2text",
            ModelType.SPEECH2TEXT,
            model,
            credentials,
            data,
            request.user,
        )
        yield Speech2TextResult(model=model, text=str(answer.get("result") or ""))


class PluginModeration(PluginModelClient, ModerationModel):
    """Moderation models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        """Check the request's texts with one call each and yield a single result.

        It has one verdict per text, in order. The protocol only has yes or no, so each
        verdict has the single category `flagged` with a score of 0 or 1. Raises
        InvokeError, also if only one of the calls fails.
        """
        verdicts: list[ModerationVerdict] = []
        for text in request.texts:  # the protocol has one text per call
            data = {"text": text}
            answer = await self._call_once(
                "invoke_moderation",
                ModelType.MODERATION,
                model,
                credentials,
                data,
                request.user,
            )
            flagged = bool(answer.get("result"))
            # The protocol only has a yes or no, without categories.
            verdicts.append(
                ModerationVerdict(
                    flagged=flagged,
                    categories={"flagged": flagged},
                    category_scores={"flagged": float(flagged)},
                )
            )
        usage = ModerationUsage(texts=len(request.texts))
        yield ModerationResult(model=model, verdicts=verdicts, usage=usage)


# One client for each model type that plugins can have.
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
    """Return the models of a plugin's provider by model type.

    `ask` sends a call to the plugin; every call is made for `tenant`. `plugin` is
    `author/name`, `provider` the provider's name within the plugin, which may differ
    from `definition.name`.
    """
    kinds = definition.entity.supported_model_types
    return {
        model_type: _CLIENTS[model_type](
            ask, definition, tenant=tenant, plugin=plugin, provider=provider
        )
        for model_type in kinds
    }
