"""One model of one tenant, its policies around it: six ways to call, each a stream or its fold."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypedDict, Unpack

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.models.base import AnyModel, LargeLanguageModel
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, PriceInfo, PriceType
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.parameters import validated
from modelyard.models.pricing import get_price
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk
from modelyard.models.types import Chunks, ModelType
from modelyard.models.verbatim import VerbatimRequest
from modelyard.runtime.callbacks import Callback
from modelyard.runtime.invocation import Context, Invocation
from modelyard.runtime.pipeline import Call, compose
from modelyard.runtime.policies.observe import Observe
from modelyard.tenancy.caller import Caller


class How(TypedDict, total=False):
    """What may be said of any call."""

    callbacks: tuple[Callback, ...]
    timeout: float | None
    """Seconds for the whole call; the settings' total where nothing is said."""


class ModelInstance(msgspec.Struct, frozen=True, kw_only=True):
    """Call it with the method of its type; a method of another type raises NotFoundError."""

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
    may_pass_on: bool = False
    """Whether calls may be passed on as they came: nobody wants to read along."""
    passing: dict[tuple[str, ...], bool] = {}
    """What was found of that, by format and parameters."""
    route: str = ""
    """The route that was named in the place of a model."""
    context: Context | None = None

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    def stream_llm(
        self, request: LLMRequest, *, callbacks: tuple[Callback, ...] = (), timeout: float | None = None
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Chunks as they come. Closing the generator ends the call upstream."""
        return self._stream(ModelType.LLM, self._checked(request), request.user, callbacks, timeout)

    def stream_verbatim(self, request: VerbatimRequest) -> AsyncGenerator[LLMResultChunk, None]:
        """The answer to a call that `passes_on`: its bytes, or chunks where another server answered in the end."""
        return self._stream(ModelType.LLM, request, request.user, (), None)

    async def invoke_llm(
        self, request: LLMRequest, *, callbacks: tuple[Callback, ...] = (), timeout: float | None = None
    ) -> LLMResult:
        async with aclosing(self.stream_llm(request, callbacks=callbacks, timeout=timeout)) as chunks:
            return await LLMResult.collect(chunks)

    async def invoke_text_embedding(self, request: TextEmbeddingRequest, **how: Unpack[How]) -> TextEmbeddingResult:
        return await self._only(ModelType.TEXT_EMBEDDING, request, **how)

    async def invoke_rerank(self, request: RerankRequest, **how: Unpack[How]) -> RerankResult:
        return await self._only(ModelType.RERANK, request, **how)

    async def invoke_moderation(self, request: ModerationRequest, **how: Unpack[How]) -> ModerationResult:
        return await self._only(ModelType.MODERATION, request, **how)

    async def invoke_speech2text(self, request: Speech2TextRequest, **how: Unpack[How]) -> Speech2TextResult:
        return await self._only(ModelType.SPEECH2TEXT, request, **how)

    def invoke_tts(
        self, request: TTSRequest, *, callbacks: tuple[Callback, ...] = (), timeout: float | None = None
    ) -> AsyncGenerator[TTSResultChunk, None]:
        return self._stream(ModelType.TTS, request, request.user, callbacks, timeout)

    async def count_tokens(self, request: LLMRequest) -> TokenCount:
        """Prompt tokens before the call; says whether they were counted or estimated."""
        if not isinstance(self.callee, LargeLanguageModel):
            raise self._mismatch(ModelType.LLM)
        return await self.callee.count_tokens(self.model, self.credentials(), request)

    def passes_on(self, request: VerbatimRequest) -> bool:
        """Whether a call may be passed on as it came."""
        if not self.may_pass_on:
            return False
        key = (request.format, *request.model_parameters)
        if (known := self.passing.get(key)) is None:
            known = isinstance(self.callee, LargeLanguageModel) and self.callee.passes_on(
                self.model, self.credentials(), request
            )
            self.passing[key] = known
        if not known or not request.model_parameters or self.schema is None:
            return known
        accepted = validated(self.schema.parameter_rules, request.model_parameters, model=self.model)
        return all(accepted.get(name, value) == value for name, value in request.model_parameters.items())

    def get_price(self, price_type: PriceType, count: int) -> PriceInfo:
        return get_price(self.schema.pricing if self.schema else None, price_type, count)

    def speaks(self, format: str) -> bool:  # noqa: A002  the field's word
        """Whether a request that came in this wire format is sent on in it."""
        if not isinstance(self.callee, LargeLanguageModel):
            return False
        return self.callee.speaks(self.model, self.credentials(), format)

    def unsupported(self, request: LLMRequest) -> list[str]:
        """The request's parameters that the model does not take, by their names."""
        if not isinstance(self.callee, LargeLanguageModel):
            raise self._mismatch(ModelType.LLM)
        if not (request.model_parameters or request.stop):
            return []
        return self.callee.unsupported(self.model, self.credentials(), request)

    def _checked(self, request: LLMRequest) -> LLMRequest:
        """The request with its parameters held to the model's rules, where it has any.

        Raises InvokeBadRequestError for a parameter that breaks its rule, or, where the caller wants that, for one
        that the model does not take.
        """
        if request.unsupported == "refuse" and (names := self.unsupported(request)):
            many = ", ".join(repr(name) for name in names)
            raise InvokeBadRequestError(f"model {self.name!r} does not take {many}", param=names[0])
        if self.schema is None or not self.schema.parameter_rules:
            return request
        rules = self.schema.parameter_rules
        accepted = validated(rules, request.model_parameters, model=self.model)
        templates = {rule.use_template for rule in rules}
        others = {key: value for key, value in request.model_parameters.items() if key not in templates}
        return msgspec.structs.replace(request, model_parameters={**others, **accepted})

    def _stream(
        self, kind: ModelType, request: Any, user: str | None, callbacks: tuple[Callback, ...], timeout: float | None
    ) -> Chunks:
        if kind is not self.model_type:
            raise self._mismatch(kind)
        seconds = timeout if timeout is not None else self.total_timeout
        caller, context = self.caller, self.context
        invocation = Invocation(
            id=context.take_id() if context else new_id("call"),
            tenant=caller.tenant,
            caller=caller,
            provider=self.provider,
            model=self.model,
            model_type=kind,
            request=request,
            user=user or caller.user,
            deadline=self.clock.monotonic() + seconds if seconds is not None else None,
            route=self.route,
            cache=context.cache if context else "",
        )
        call = compose([Observe(self.clock, callbacks)], self.call) if callbacks else self.call
        return call(invocation)

    async def _only(self, kind: ModelType, request: Any, **how: Unpack[How]) -> Any:
        stream = self._stream(kind, request, request.user, how.get("callbacks", ()), how.get("timeout"))
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                # Run to the end, so that whatever stands behind the answer is seen and booked.
                result = chunk
                async for _ in chunks:
                    pass
                return result
        raise InvokeServerUnavailableError("the model ended without an answer", provider=self.provider)

    def _mismatch(self, kind: ModelType) -> NotFoundError:
        return NotFoundError(
            f"model {self.name!r} is of type {self.model_type.value}, not {kind.value}", code="model_type_mismatch"
        )
