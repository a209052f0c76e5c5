"""Chat: the request, the pieces it is answered in, and the whole answer as their fold."""

from collections.abc import AsyncIterable, Iterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolCallFunction,
)
from modelyard.models.types import ZERO, Chunk, ModelUsage


class LLMUsage(ModelUsage, frozen=True, kw_only=True):
    """Tokens and what they cost. `prompt_tokens` counts cached ones too; `completion_tokens` counts reasoning too."""

    prompt_tokens: int = 0
    prompt_unit_price: Decimal = ZERO
    prompt_price_unit: Decimal = ZERO
    prompt_price: Decimal = ZERO
    completion_tokens: int = 0
    completion_unit_price: Decimal = ZERO
    completion_price_unit: Decimal = ZERO
    completion_price: Decimal = ZERO
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    time_to_first_token: float | None = None
    time_to_generate: float | None = None

    @classmethod
    def empty_usage(cls) -> "LLMUsage":
        return cls()

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, **more: Any) -> "LLMUsage":
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            **more,
        )

    @property
    def input_count(self) -> Decimal:
        return Decimal(self.prompt_tokens)

    @property
    def output_count(self) -> Decimal:
        return Decimal(self.completion_tokens)

    def plus(self, other: "LLMUsage") -> "LLMUsage":
        """Both calls as one: counts, prices and latencies add up; unit prices are the later call's.

        Raises ValueError where both cost something in different currencies: those do not add up.
        """
        if self.total_price and other.total_price and self.currency != other.currency:
            raise ValueError(f"usage in {self.currency} and usage in {other.currency} do not add up")
        priced = other if other.total_price or not self.total_price else self
        return LLMUsage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            prompt_unit_price=priced.prompt_unit_price,
            prompt_price_unit=priced.prompt_price_unit,
            prompt_price=self.prompt_price + other.prompt_price,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            completion_unit_price=priced.completion_unit_price,
            completion_price_unit=priced.completion_price_unit,
            completion_price=self.completion_price + other.completion_price,
            total_tokens=self.total_tokens + other.total_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            total_price=self.total_price + other.total_price,
            currency=priced.currency,
            latency=self.latency + other.latency,
            estimated=self.estimated or other.estimated,
            time_to_first_token=self.time_to_first_token
            if self.time_to_first_token is not None
            else other.time_to_first_token,
        )

    __add__ = plus


class LLMRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One chat call.

    `model_parameters` by their usual names: temperature, top_p, top_k, max_tokens, presence_penalty,
    frequency_penalty, seed, n, logprobs, top_logprobs, response_format (an object as OpenAI's).
    """

    messages: list[AnyPromptMessage]
    model_parameters: dict[str, Any] = {}
    tools: list[PromptMessageTool] = []
    tool_choice: str | dict[str, Any] | None = None
    """`auto`, `none`, `required`, or `{"name": …}` for one tool."""
    stop: list[str] = []
    stream: bool = False
    user: str | None = None
    extra: dict[str, Any] = {}
    """Fields of the wire format that we have no name for; sent on where the same format is spoken."""


class LLMResultChunkDelta(msgspec.Struct, frozen=True, kw_only=True):
    """`index` tells several answers to one prompt apart."""

    index: int = 0
    message: AssistantPromptMessage = AssistantPromptMessage()
    usage: LLMUsage | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls` or `content_filter`."""
    logprobs: dict[str, Any] | None = None


class LLMResultChunk(Chunk, frozen=True, kw_only=True):
    delta: LLMResultChunkDelta = LLMResultChunkDelta()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    """Seconds since 1970 as the provider says, 0 where it does not."""
    extra: dict[str, Any] = {}

    @property
    def text(self) -> str:
        return self.delta.message.text

    @property
    def spent(self) -> LLMUsage | None:
        return self.delta.usage

    def priced(self, usage: ModelUsage) -> "LLMResultChunk":
        return msgspec.structs.replace(self, delta=msgspec.structs.replace(self.delta, usage=usage))


class LLMChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: AssistantPromptMessage = AssistantPromptMessage()
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class LLMResult(Chunk, frozen=True, kw_only=True):
    """A whole answer. `choices` has one entry unless several answers were asked for."""

    choices: list[LLMChoice]
    usage: LLMUsage = LLMUsage()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    extra: dict[str, Any] = {}

    @property
    def message(self) -> AssistantPromptMessage:
        return self.choices[0].message

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self.message.tool_calls

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason

    @property
    def spent(self) -> LLMUsage:
        return self.usage

    @classmethod
    async def collect(cls, chunks: AsyncIterable[LLMResultChunk]) -> "LLMResult":
        return fold([chunk async for chunk in chunks])

    def as_chunks(self) -> Iterable[LLMResultChunk]:
        """The answer as a stream of one chunk a choice, the last of them with usage."""
        for place, choice in enumerate(self.choices, 1):
            delta = LLMResultChunkDelta(
                index=choice.index,
                message=choice.message,
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs,
                usage=self.usage if place == len(self.choices) else None,
            )
            yield self._chunk(delta)

    def _chunk(self, delta: LLMResultChunkDelta) -> LLMResultChunk:
        return LLMResultChunk(
            model=self.model,
            delta=delta,
            id=self.id,
            system_fingerprint=self.system_fingerprint,
            created=self.created,
            extra=self.extra,
        )


class _Gathering:
    """One answer while its pieces come in."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.parts: list[Any] = []
        self.calls: dict[int, list[ToolCall]] = {}
        self.finish_reason: str | None = None
        self.logprobs: dict[str, list[Any]] = {}
        self.extra: dict[str, Any] = {}

    def add(self, delta: LLMResultChunkDelta) -> None:
        message = delta.message
        if isinstance(message.content, str):
            self.text.append(message.content)
        elif message.content:
            self.parts.extend(message.content)
        if message.reasoning_content:
            self.reasoning.append(message.reasoning_content)
        if message.refusal:
            self.refusal.append(message.refusal)
        for call in message.tool_calls:
            self._add_call(call)
        for key, value in (delta.logprobs or {}).items():
            self.logprobs.setdefault(key, []).extend(value or [])
        self.extra.update(message.extra)
        self.finish_reason = delta.finish_reason or self.finish_reason

    def _add_call(self, call: ToolCall) -> None:
        # Some servers leave the index out; there a piece with an id starts a call and one without continues it.
        place = call.index
        if place is None:
            place = len(self.calls) if call.id or not self.calls else max(self.calls)
        self.calls.setdefault(place, []).append(call)

    def choice(self, index: int) -> LLMChoice:
        content: Any = "".join(self.text) if self.text else self.parts or None
        if content == "" and self.calls:
            content = None  # an empty text beside calls is how servers spell none
        message = AssistantPromptMessage(
            content=content,
            tool_calls=[_joined(self.calls[place]) for place in sorted(self.calls)],
            reasoning_content="".join(self.reasoning) or None,
            refusal="".join(self.refusal) or None,
            extra=self.extra,
        )
        return LLMChoice(index=index, message=message, finish_reason=self.finish_reason, logprobs=self.logprobs or None)


def _joined(pieces: list[ToolCall]) -> ToolCall:
    return ToolCall(
        id=next((piece.id for piece in pieces if piece.id), ""),
        type=pieces[0].type,
        function=ToolCallFunction(
            name="".join(piece.function.name for piece in pieces),
            arguments="".join(piece.function.arguments for piece in pieces),
        ),
    )


def _whole(chunk: LLMResultChunk) -> LLMResult:
    """An answer that came in one piece, as those do that were not streamed: there is nothing to put together."""
    delta = chunk.delta
    choice = LLMChoice(
        index=0, message=delta.message, finish_reason=delta.finish_reason, logprobs=delta.logprobs or None
    )
    return LLMResult(
        model=chunk.model,
        choices=[choice],
        usage=delta.usage or LLMUsage(),
        id=chunk.id,
        system_fingerprint=chunk.system_fingerprint,
        created=chunk.created,
        extra=chunk.extra,
    )


def fold(chunks: Iterable[LLMResultChunk]) -> LLMResult:
    """The whole answer that these pieces make."""
    pieces = list(chunks)
    if len(pieces) == 1 and pieces[0].delta.index == 0 and not pieces[0].delta.message.tool_calls:
        return _whole(pieces[0])
    choices: dict[int, _Gathering] = {0: _Gathering()}
    usage = LLMUsage()
    model = response_id = ""
    fingerprint: str | None = None
    created = 0
    extra: dict[str, Any] = {}
    for chunk in pieces:
        model = model or chunk.model
        response_id = response_id or chunk.id
        fingerprint = fingerprint or chunk.system_fingerprint
        created = created or chunk.created
        if chunk.extra:
            extra.update(chunk.extra)
        if chunk.delta.usage is not None:
            usage = chunk.delta.usage
        choices.setdefault(chunk.delta.index, _Gathering()).add(chunk.delta)
    return LLMResult(
        model=model,
        choices=[choices[index].choice(index) for index in sorted(choices)],
        usage=usage,
        id=response_id,
        system_fingerprint=fingerprint,
        created=created,
        extra=extra,
    )
