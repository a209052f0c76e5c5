"""One model of one tenant with its policies. Each type of model has its call method;
streams and complete results share one path."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypedDict, Unpack

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeServerUnavailableError,
    NotFoundError,
)
from modelyard.base.ids import new_id
from modelyard.models.answer_formats import AnswerFormats
from modelyard.models.base import AnyModel, LargeLanguageModel
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, PriceInfo, PriceType
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.parameters import validate_parameters
from modelyard.models.passthrough import PassthroughRequest, to_parsed_request
from modelyard.models.pricing import get_price
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.attribution import Attribution, split_user, with_request
from modelyard.runtime.callbacks import Callback
from modelyard.runtime.invocation import Context, Invocation
from modelyard.runtime.pipeline import Call, compose
from modelyard.runtime.policies.observe import Observe
from modelyard.tenancy.caller import Caller


class CallOptions(TypedDict, total=False):
    """Options that every call accepts."""

    callbacks: tuple[Callback, ...]
    timeout: float | None
    """The timeout of the whole call in seconds. The configured total applies if it is
    absent."""


# Requests choose their parameters: every new combination would be stored.
_MAX_COMBINATIONS = 500
NamedRequest = (
    LLMRequest
    | PassthroughRequest
    | TextEmbeddingRequest
    | TTSRequest
    | Speech2TextRequest
)
"""Requests whose fields may be left out, which the response then names."""


class ModelInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be called. Call the method of its type; another type's method
    raises NotFoundError."""

    caller: Caller
    provider: str
    model: str
    model_type: ModelType
    schema: AIModelEntity | None
    callee: AnyModel
    call: Call
    clock: Clock
    credentials: Callable[[], Mapping[str, Any]]
    total_timeout: float | None = None
    allows_passthrough: bool = False
    """Whether requests may be passed through unchanged, because nothing in this server
    needs to read them."""
    passthrough_cache: dict[tuple[str | int, ...], bool] = {}
    """A cache of `can_pass_through`, by wire format, version of what is known of the
    servers, and model parameters."""
    call_plans: dict[str, Any] = {}
    """A cache of what direct calls look up, of this caller."""
    route: str = ""
    """The name of the route if one was named instead of a model; empty otherwise."""
    context: Context | None = None

    @property
    def tenant(self) -> str:
        """The tenant that the calls are made for."""
        return self.caller.tenant

    @property
    def name(self) -> str:
        """The full name, `provider/model`."""
        return f"{self.provider}/{self.model}"

    def stream_llm(
        self,
        request: LLMRequest,
        *,
        callbacks: tuple[Callback, ...] = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Stream a chat completion. Closing the generator cancels the call upstream."""
        return self._stream(
            ModelType.LLM, self._checked(request), request.user, callbacks, timeout
        )

    def stream_verbatim(
        self, request: PassthroughRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Stream the response of a passthrough call: raw bytes, or chunks if a
        different server answered after a failover.

        Use it only if `passes_on` returns True for the request.
        """
        return self._stream(ModelType.LLM, request, request.user, (), None)

    async def invoke_llm(
        self,
        request: LLMRequest,
        *,
        callbacks: tuple[Callback, ...] = (),
        timeout: float | None = None,
    ) -> LLMResult:
        """Return the complete result of a chat completion."""
        async with aclosing(
            self.stream_llm(request, callbacks=callbacks, timeout=timeout)
        ) as chunks:
            return await LLMResult.collect(chunks)

    async def invoke_text_embedding(
        self, request: TextEmbeddingRequest, **call_options: Unpack[CallOptions]
    ) -> TextEmbeddingResult:
        """Return the embeddings of the texts."""
        return await self._single_result(
            ModelType.TEXT_EMBEDDING, request, **call_options
        )

    async def invoke_rerank(
        self, request: RerankRequest, **call_options: Unpack[CallOptions]
    ) -> RerankResult:
        """Return the documents ranked by relevance to the query."""
        return await self._single_result(ModelType.RERANK, request, **call_options)

    async def invoke_moderation(
        self, request: ModerationRequest, **call_options: Unpack[CallOptions]
    ) -> ModerationResult:
        """Return the moderation result of the text."""
        return await self._single_result(ModelType.MODERATION, request, **call_options)

    async def invoke_speech2text(
        self, request: Speech2TextRequest, **call_options: Unpack[CallOptions]
    ) -> Speech2TextResult:
        """Return the transcript of the audio."""
        return await self._single_result(ModelType.SPEECH2TEXT, request, **call_options)

    def invoke_tts(
        self,
        request: TTSRequest,
        *,
        callbacks: tuple[Callback, ...] = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[TTSResultChunk, None]:
        """Stream synthesised speech as audio chunks."""
        return self._stream(ModelType.TTS, request, request.user, callbacks, timeout)

    async def count_tokens(self, request: LLMRequest) -> TokenCount:
        """Count the prompt tokens of a request without calling the model. The result
        says whether it is an estimate."""
        if not isinstance(self.callee, LargeLanguageModel):
            raise self._mismatch(ModelType.LLM)
        return await self.callee.count_tokens(self.model, self.credentials(), request)

    def can_pass_through(self, request: PassthroughRequest) -> bool:
        """Return whether a request can be passed through unchanged."""
        if not self.allows_passthrough or _names_format(request):
            return False
        # The answer depends on the format and the parameters only, so it is computed
        # once for each combination.
        key = (request.format, self.knowledge_version, *request.model_parameters)
        if (is_passthrough := self.passthrough_cache.get(key)) is None:
            is_passthrough = isinstance(
                self.callee, LargeLanguageModel
            ) and self.callee.can_pass_through(self.model, self.credentials(), request)
            # What was known before is of no use any more.
            if len(self.passthrough_cache) >= _MAX_COMBINATIONS:
                self.passthrough_cache.clear()
            self.passthrough_cache[key] = is_passthrough
        schema = self.schema
        if not is_passthrough or schema is None:
            return is_passthrough
        # A limit that is too high is lowered, which the full parser's way reports.
        if self._within_limit(request.model_parameters) is not request.model_parameters:
            return False
        if not schema.parameter_rules:
            return True
        # If a parameter rule would change a value, the request cannot be sent
        # unchanged. Raises for a value that breaks its rule.
        accepted = validate_parameters(
            schema.parameter_rules, request.model_parameters, model=self.model
        )
        return all(
            accepted.get(name, value) == value
            for name, value in request.model_parameters.items()
        )

    def get_price(self, price_type: PriceType, count: int) -> PriceInfo:
        """Return the price of `count` units; unknown if the model has no price."""
        return get_price(
            self.schema.pricing if self.schema else None, price_type, count
        )

    def supports_wire_format(self, format: str) -> bool:
        """Return whether a request in this wire format is sent to the provider in the
        same format."""
        if not isinstance(self.callee, LargeLanguageModel):
            return False
        return self.callee.supports_format(self.model, self.credentials(), format)

    def unsupported(self, request: LLMRequest) -> list[str]:
        """Return the names of the request's fields, and of its headers that choose an
        account, that the model's provider does not accept."""
        if not isinstance(self.callee, LargeLanguageModel):
            raise self._mismatch(ModelType.LLM)
        return self.callee.unsupported(self.model, self.credentials(), request)

    @property
    def knowledge_version(self) -> int:
        """Changes whenever something was learnt about what the model's servers accept;
        0 as long as nothing was."""
        callee = self.callee
        return callee.knowledge_version if isinstance(callee, LargeLanguageModel) else 0

    def left_out(self, request: NamedRequest) -> list[str]:
        """Return the names of the request's fields that are left out, by what is known
        of the servers now."""
        if isinstance(request, LLMRequest | PassthroughRequest):
            if not self.knowledge_version:
                return []
            return self.unsupported(to_parsed_request(request))
        callee: Any = self.callee
        return callee.unsupported(self.model, self.credentials(), request)

    def _checked(self, request: LLMRequest) -> LLMRequest:
        """Return the request with its parameters validated against the model's rules,
        if it has any.

        Raises InvokeBadRequestError for a parameter that breaks its rule, or, if the
        caller asked for that, for one that the model does not accept.
        """
        if request.unsupported == "refuse" and (names := self.unsupported(request)):
            quoted_names = ", ".join(repr(name) for name in names)
            raise InvokeBadRequestError(
                f"Model {self.name!r} does not support {quoted_names}", param=names[0]
            )
        rules = self.schema.parameter_rules if self.schema else ()
        stated = AnswerFormats.of(rules).normalize(request.model_parameters)
        if not rules:
            if stated is request.model_parameters:
                return request
            return msgspec.structs.replace(request, model_parameters=dict(stated))
        parameters = self._within_limit(stated)
        accepted = validate_parameters(rules, parameters, model=self.model)
        # A parameter without a rule is passed to the provider as it is.
        templates = {rule.use_template for rule in rules}
        unruled_parameters = {
            key: value for key, value in parameters.items() if key not in templates
        }
        is_lowered = parameters is not stated
        return msgspec.structs.replace(
            request,
            model_parameters={**unruled_parameters, **accepted},
            changed=("max_tokens",) if is_lowered else (),
        )

    def _within_limit(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return parameters with the output limit lowered to what the model can write.

        The same is done and reported where a request is adapted to its target, but a
        rule of the model would refuse the value before.
        """
        limit = self.schema.max_output if self.schema else None
        max_tokens = parameters.get("max_tokens")
        if limit is None or not isinstance(max_tokens, int) or max_tokens <= limit:
            return parameters
        return {**parameters, "max_tokens": limit}

    def _stream(
        self,
        model_type: ModelType,
        request: Any,
        user: str | None,
        callbacks: tuple[Callback, ...],
        timeout: float | None,
    ) -> Chunks:
        """Build the invocation and start the pipeline; raise NotFoundError for the
        wrong model type."""
        if model_type is not self.model_type:
            raise self._mismatch(model_type)
        invocation = self._invocation(model_type, request, user, timeout)
        # The caller's callbacks observe the whole call, so they wrap all other
        # policies.
        call = (
            compose([Observe(self.clock, callbacks)], self.call)
            if callbacks
            else self.call
        )
        return call(invocation)

    def invocation_of(
        self, request: LLMRequest | PassthroughRequest, *, id: str = ""
    ) -> Invocation:
        """Return the invocation of a chat call, for those who make it by other means
        than the methods above. Raises InvokeBadRequestError for invalid parameters."""
        if isinstance(request, LLMRequest):
            request = self._checked(request)
        return self._invocation(ModelType.LLM, request, request.user, None, id)

    def _invocation(
        self,
        model_type: ModelType,
        request: Any,
        user: str | None,
        timeout: float | None,
        id: str = "",
    ) -> Invocation:
        """Return a new invocation. `timeout` is in seconds; the configured total applies
        without it."""
        seconds = timeout if timeout is not None else self.total_timeout
        caller, context = self.caller, self.context
        user, session = split_user(user)
        stated = context.attribution if context else Attribution()
        return Invocation(
            id=id or (context.take_id() if context else new_id("call")),
            tenant=caller.tenant,
            caller=caller,
            provider=self.provider,
            model=self.model,
            model_type=model_type,
            request=request,
            user=user or caller.user,
            # Monotonic: setting the machine's clock must not end calls.
            deadline=self.clock.monotonic() + seconds if seconds is not None else None,
            route=self.route,
            cache=context.cache if context else "",
            attribution=with_request(stated, request, session),
            endpoint=context.endpoint if context else "",
        )

    async def _single_result(
        self, model_type: ModelType, request: Any, **call_options: Unpack[CallOptions]
    ) -> Any:
        """Return the single result of a call that does not stream."""
        stream = self._stream(
            model_type,
            request,
            request.user,
            call_options.get("callbacks", ()),
            call_options.get("timeout"),
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                # Read to the end of the generator, so that the policies that run after
                # the last chunk record the usage.
                result = chunk
                async for _ in chunks:
                    pass
                return result
        raise InvokeServerUnavailableError(
            "The model returned no response", provider=self.provider
        )

    def _mismatch(self, model_type: ModelType) -> NotFoundError:
        """Return the error for a call of the wrong type."""
        return NotFoundError(
            f"Model {self.name!r} is of type {self.model_type.value}, not {model_type.value}",
            code="model_type_mismatch",
        )


def _names_format(request: PassthroughRequest) -> bool:
    """Return whether a request has the name of a format. It becomes OpenAI's object,
    which needs the full parser."""
    response_format = request.model_parameters.get("response_format")
    return isinstance(response_format, str)
