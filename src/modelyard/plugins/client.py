"""Models that plugins serve, with the interface of any other model, so that all routing
policies apply to them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import (
    InvokeServerUnavailableError,
    InvokeTimeoutError,
    PluginError,
)
from modelyard.base.json_types import EMPTY_OBJECT, is_object
from modelyard.models.answer_formats import AnswerFormats, AnswerModes
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
from modelyard.models.entities import AIModelEntity, ModelFeature, ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationUsage,
    ModerationVerdict,
)
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType
from modelyard.plugins import conversions
from modelyard.plugins.answers import AnswerReader
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.model_errors import as_invoke_error
from modelyard.plugins.thoughts import FORMAT
from modelyard.providers.adaptation.adapter import adapt, adapted_stream
from modelyard.providers.adaptation.draft import Target, fields_of
from modelyard.providers.definition import ProviderDefinition

Ask = Callable[[PluginCall], AsyncGenerator[JSON, None]]
SchemaOf = Callable[[ModelType, str], AIModelEntity | None]
"""(type, model) to its declaration: the plugin's, or one that a tenant has added."""


class PluginModelClient:
    """Common part of the six clients: which plugin to call, and for which tenant."""

    __slots__ = ("_ask", "_plugin", "_provider", "_schema", "_tenant", "name")

    def __init__(
        self,
        ask: Ask,
        definition: ProviderDefinition,
        schema: SchemaOf,
        *,
        tenant: str,
        plugin: str,
        provider: str,
    ) -> None:
        self._ask = ask
        self._schema = schema
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
        request = self._with_own_parameters(model, request)
        return list(adapt(request, self._target(model, request)).dropped)

    def _with_own_parameters(self, model: str, request: LLMRequest) -> LLMRequest:
        """Return the request with the fields of its format that are parameters of the
        model: plugins have many that no format knows, such as `enable_thinking`."""
        own_fields = fields_of(request.extra, request.format)
        schema = self._schema(ModelType.LLM, model) if own_fields else None
        names = {rule.name for rule in schema.parameter_rules} if schema else set[str]()
        moved = {name: own_fields[name] for name in own_fields if name in names}
        if not moved:
            return request
        kept = {name: own_fields[name] for name in own_fields if name not in names}
        return msgspec.structs.replace(
            request,
            model_parameters={**moved, **request.model_parameters},
            extra={**request.extra, request.format: kept},
        )

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model with a request as plugins accept it, and yield the answer as
        the caller expects it. Raises InvokeError."""
        request = self._with_own_parameters(model, request)
        adaptation = adapt(request, self._target(model, request))
        answer = self._invoke(model, credentials, adaptation.request)
        async with aclosing(adapted_stream(adaptation, answer)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _target(self, model: str, request: LLMRequest) -> Target:
        """Return what requests are adapted to: the plugin protocol has functions, and
        passes all parameters on."""
        schema = self._schema(ModelType.LLM, model)
        parameters = frozenset({*request.model_parameters, "stop"})
        return Target(
            FORMAT, model, DEFAULT_CAPABILITIES, schema, parameters, self.name
        )

    def answer_modes(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AnswerModes:
        """Return what the parameter rules of the model offer. The plugin protocol has
        no way to force the call of a tool."""
        del credentials, request
        formats = self._formats(model)
        return AnswerModes(
            json_object=formats.json_option is not None,
            json_schema=formats.has_schema_mode,
            forced_tool=False,
        )

    def _formats(self, model: str) -> AnswerFormats:
        """Return the formats of answers that a model offers."""
        schema = self._schema(ModelType.LLM, model)
        return AnswerFormats.of(schema.parameter_rules if schema else ())

    async def _invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model and yield chunks; a polled model yields a single chunk. Raises
        InvokeError."""
        schema = self._schema(ModelType.LLM, model)
        data = conversions.dump_llm(
            request, self._formats(model), f"{self._provider}/{model}"
        )
        reader = AnswerReader(model, self._provider)
        if schema and ModelFeature.POLLING in schema.features:
            yield reader.read(
                await self._poll_result(model, credentials, data, request)
            )
            for chunk in reader.finish():
                yield chunk
            return
        async with aclosing(
            self._call_plugin(
                "invoke_llm", ModelType.LLM, model, credentials, data, request.user
            )
        ) as answers:
            async for answer in answers:
                yield reader.read(answer)
        for chunk in reader.finish():
            yield chunk

    async def _poll_result(
        self, model: str, credentials: Credentials, data: JSON, request: LLMRequest
    ) -> JSON:
        """Return the result of a long-running model that must be polled, as one chunk.
        Raises InvokeError."""
        data = {**data, "stream": False, "json_schema": _schema_of(request)}
        user = request.user
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
            "prompt_messages": conversions.dump_messages(
                request.messages, self._provider
            ),
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


def _schema_of(request: LLMRequest) -> JSON | None:
    """Return the JSON schema that a request asks for; None if it asks for none."""
    response_format: Any = request.model_parameters.get("response_format")
    if not is_object(response_format):
        return None
    schema: Any = (response_format.get("json_schema") or EMPTY_OBJECT).get("schema")
    return schema if is_object(schema) else None


class PluginTextEmbedding(PluginModelClient, TextEmbeddingModel):
    """Embedding models of a plugin."""

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        """Embed the request's texts, in calls of as many texts as the model takes, and
        yield a single result.

        The vectors have the order of the texts. Raises InvokeError, in particular
        InvokeServerUnavailableError if the plugin returns no vectors or another number
        of them.
        """
        schema = self._schema(ModelType.TEXT_EMBEDDING, model)
        size = int(
            (schema.model_properties.get(ModelPropertyKey.MAX_CHUNKS) or 0)
            if schema
            else 0
        )
        texts = request.texts
        results: list[TextEmbeddingResult] = []
        for start in range(0, len(texts), size or len(texts)):
            batch = msgspec.structs.replace(
                request, texts=texts[start : start + (size or len(texts))]
            )
            results.append(await self._embed(model, credentials, batch))
        yield conversions.join_embeddings(results)

    async def _embed(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> TextEmbeddingResult:
        """Embed texts in one call. Raises InvokeError."""
        answer = await self._call_once(
            "invoke_text_embedding",
            ModelType.TEXT_EMBEDDING,
            model,
            credentials,
            conversions.dump_embedding(request),
            request.user,
        )
        return conversions.read_embedding(answer, request, model)


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
            schema = self._schema(ModelType.TTS, model)
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

        It has one verdict per text, in order. The protocol only has yes or no, so the
        verdicts have no categories. Raises
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
            verdicts.append(_yes_or_no(answer))
        usage = ModerationUsage(texts=len(request.texts))
        yield ModerationResult(model=model, verdicts=verdicts, usage=usage)


def _yes_or_no(answer: JSON) -> ModerationVerdict:
    """Return the verdict of an answer to `invoke_moderation`."""
    flagged = bool(answer.get("result"))
    return ModerationVerdict(flagged=flagged, categories={}, category_scores={})


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
    ask: Ask,
    definition: ProviderDefinition,
    schema: SchemaOf,
    *,
    tenant: str,
    plugin: str,
    provider: str,
) -> Mapping[ModelType, AnyModel]:
    """Return the models of a plugin's provider by model type.

    `ask` sends a call to the plugin; `schema` returns the declaration of a model; every
    call is made for `tenant`. `plugin` is `author/name`, `provider` the provider's name
    within the plugin, which may differ from `definition.name`.
    """
    kinds = definition.entity.supported_model_types
    return {
        model_type: _CLIENTS[model_type](
            ask,
            definition,
            schema,
            tenant=tenant,
            plugin=plugin,
            provider=provider,
        )
        for model_type in kinds
    }
