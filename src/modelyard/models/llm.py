"""Chat: the request, the pieces it is answered in, and the whole answer as their fold."""

from collections.abc import AsyncIterable, Iterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Citation,
    Extra,
    PromptMessageContent,
    PromptMessageTool,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    assistant_of,
    joined_extra,
)
from modelyard.models.types import ZERO, Chunk, ModelUsage

_SUMMED = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cache_write_tokens",
    "cache_write_1h_tokens", "audio_prompt_tokens", "image_prompt_tokens", "tool_prompt_tokens", "reasoning_tokens",
    "audio_completion_tokens", "image_completion_tokens", "searches",
)  # fmt: skip


class LLMUsage(ModelUsage, frozen=True, kw_only=True):
    """Tokens and what they cost.

    `prompt_tokens` counts all that went in, cached, written to the cache, audio, images and a provider's own tools'
    included; `completion_tokens` all that came out, reasoning included. The others say how much of them is which.
    """

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
    """Read from the provider's cache."""
    cache_write_tokens: int = 0
    """Written to it, for five minutes or an hour."""
    cache_write_1h_tokens: int = 0
    audio_prompt_tokens: int = 0
    image_prompt_tokens: int = 0
    tool_prompt_tokens: int = 0
    """What the provider's own tools put in."""
    reasoning_tokens: int = 0
    audio_completion_tokens: int = 0
    image_completion_tokens: int = 0
    searches: int = 0
    """Searches that the provider ran and bills apart."""
    time_to_first_token: float | None = None
    time_to_generate: float | None = None
    extra: Extra = {}

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

        The sum's price is unknown where either's is. Raises ValueError where both cost something in different
        currencies: those do not add up.
        """
        if self.total_price and other.total_price and self.currency != other.currency:
            raise ValueError(f"usage in {self.currency} and usage in {other.currency} do not add up")
        priced = other if other.total_price or not self.total_price else self
        counts = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return LLMUsage(
            **counts,
            prompt_unit_price=priced.prompt_unit_price,
            prompt_price_unit=priced.prompt_price_unit,
            prompt_price=self.prompt_price + other.prompt_price,
            completion_unit_price=priced.completion_unit_price,
            completion_price_unit=priced.completion_price_unit,
            completion_price=self.completion_price + other.completion_price,
            total_price=_sum_of_prices(self, other),
            currency=priced.currency,
            latency=self.latency + other.latency,
            estimated=self.estimated or other.estimated,
            time_to_first_token=self.time_to_first_token
            if self.time_to_first_token is not None
            else other.time_to_first_token,
        )

    __add__ = plus


def _sum_of_prices(one: LLMUsage, other: LLMUsage) -> Decimal | None:
    known = [usage.total_price for usage in (one, other) if usage.total_price is not None or usage.total_tokens]
    return None if None in known else sum((price for price in known if price is not None), ZERO) if known else None


class LLMRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One chat call.

    `model_parameters` by their usual names: temperature, top_p, top_k, max_tokens, presence_penalty,
    frequency_penalty, seed, n, logprobs, top_logprobs, response_format (an object as OpenAI's),
    parallel_tool_calls, reasoning_effort (`none` to `xhigh`), thinking_budget (tokens; 0 is none, -1 the model's
    choice), include_thoughts, verbosity, modalities, service_tier, metadata.
    """

    messages: list[AnyPromptMessage]
    model_parameters: dict[str, Any] = {}
    tools: list[PromptMessageTool] = []
    tool_choice: str | dict[str, Any] | None = None
    """`auto`, `none`, `required`, or `{"name": …}` for one tool."""
    stop: list[str] = []
    stream: bool = False
    user: str | None = None
    unsupported: str = "drop"
    """Parameters that the model does not take: `drop` leaves them out, `refuse` refuses the call."""
    format: str = ""
    """The wire format that it came in; empty where it was made in code."""
    extra: Extra = {}
    """What the caller's format has and we have no name for; sent on where the same format is spoken."""


class LLMResultChunkDelta(msgspec.Struct, frozen=True, kw_only=True):
    """`index` tells several answers to one prompt apart."""

    index: int = 0
    message: AssistantPromptMessage = AssistantPromptMessage()
    usage: LLMUsage | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `content_filter` or `pause`: the provider wants to be called again to go on."""
    logprobs: dict[str, Any] | None = None
    extra: Extra = {}


class LLMResultChunk(Chunk, frozen=True, kw_only=True):
    delta: LLMResultChunkDelta = LLMResultChunkDelta()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    """Seconds since 1970 as the provider says, 0 where it does not."""
    extra: Extra = {}

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
    extra: Extra = {}


class LLMResult(Chunk, frozen=True, kw_only=True):
    """A whole answer. `choices` has one entry unless several answers were asked for."""

    choices: list[LLMChoice]
    usage: LLMUsage = LLMUsage()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    extra: Extra = {}

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
                message=_numbered(choice.message),
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs,
                usage=self.usage if place == len(self.choices) else None,
                extra=choice.extra,
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


def _numbered(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """The message with its parts and calls told apart, as a stream needs them."""
    calls = [msgspec.structs.replace(call, index=place) for place, call in enumerate(message.tool_calls)]
    if not isinstance(message.content, list):
        return msgspec.structs.replace(message, tool_calls=calls) if calls else message
    parts = [msgspec.structs.replace(part, index=place) for place, part in enumerate(message.content)]
    return msgspec.structs.replace(message, content=parts, tool_calls=calls)


class _Run:
    """A text or a thought while its pieces come in."""

    __slots__ = ("citations", "extra", "first", "id", "pieces", "signatures")

    def __init__(self, first: PromptMessageContent | None) -> None:
        self.first = first
        self.pieces: list[str] = []
        self.signatures: list[str] = []
        self.citations: list[Citation] = []
        self.extra: Extra = {}
        self.id = ""

    def add(self, part: TextPromptMessageContent | ThinkingPromptMessageContent) -> None:
        if part.data:
            self.pieces.append(part.data)
        if part.extra:
            self.extra = joined_extra(self.extra, part.extra)
        if isinstance(part, ThinkingPromptMessageContent):
            self.id = self.id or part.id
            if part.signature:
                self.signatures.append(part.signature)
        elif part.citations:
            self.citations += part.citations

    def whole(self) -> PromptMessageContent:
        data = "".join(self.pieces)
        match self.first:
            case ThinkingPromptMessageContent():
                signature = "".join(self.signatures)
                return msgspec.structs.replace(
                    self.first, data=data, signature=signature, id=self.id, extra=self.extra, index=None
                )
            case TextPromptMessageContent():
                return msgspec.structs.replace(
                    self.first, data=data, citations=self.citations, extra=self.extra, index=None
                )
            case None:
                return TextPromptMessageContent(data=data, citations=self.citations, extra=self.extra)
            case file:
                return msgspec.structs.replace(file, index=None)


class _Gathering:
    """One answer while its pieces come in."""

    def __init__(self) -> None:
        self.items: list[_Run | int] = []  # runs, and the numbers of calls, in the order in which they began
        self.open: _Run | None = None  # the run that text without an index goes on with
        self.by_index: dict[tuple[type, int], _Run] = {}
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, list[ToolCall]] = {}
        self.finish_reason: str | None = None
        self.logprobs: dict[str, list[Any]] = {}
        self.extra: Extra = {}
        self.message_extra: Extra = {}

    def add(self, delta: LLMResultChunkDelta) -> None:
        message = delta.message
        if isinstance(message.content, str):
            self._add_text(message.content)
            for call in message.tool_calls:
                self._add_call(call)
        elif message.content or message.tool_calls:
            self._add_blocks(message)
        if message.reasoning_content:
            self.reasoning.append(message.reasoning_content)
        if message.refusal:
            self.refusal.append(message.refusal)
        for key, value in (delta.logprobs or {}).items():
            self.logprobs.setdefault(key, []).extend(value or [])
        if message.extra:
            self.message_extra = joined_extra(self.message_extra, message.extra)
        if delta.extra:
            self.extra = joined_extra(self.extra, delta.extra)
        self.finish_reason = delta.finish_reason or self.finish_reason

    def _add_text(self, text: str) -> None:
        if self.open is None:
            self.open = _Run(None)
            self.items.append(self.open)
        self.open.pieces.append(text)

    def _add_blocks(self, message: AssistantPromptMessage) -> None:
        blocks = message.blocks if message.reasoning_content is None else [*message.parts, *message.tool_calls]
        for block in blocks:
            if isinstance(block, ToolCall):
                self._add_call(block)
            else:
                self._add_part(block)

    def _add_part(self, part: PromptMessageContent) -> None:
        is_text = isinstance(part, TextPromptMessageContent | ThinkingPromptMessageContent)
        if (
            self.open is not None
            and isinstance(part, TextPromptMessageContent)
            and part.index is None
            and not part.data
        ):
            self.open.add(part)  # the sources of a text come behind it
            return
        if part.index is not None and is_text:
            key = (type(part), part.index)
            run = self.by_index.get(key)
            if run is None:
                run = self.by_index[key] = self._begin(part)
            run.add(part)
            self.open = None
        elif isinstance(part, TextPromptMessageContent) and not part.extra and not part.citations:
            self._add_text(part.data)
        else:
            run = self._begin(part)
            if is_text:
                run.add(part)
            self.open = None

    def _begin(self, part: PromptMessageContent) -> _Run:
        run = _Run(part)
        self.items.append(run)
        return run

    def _add_call(self, call: ToolCall) -> None:
        # Some servers leave the index out; there a piece with an id starts a call and one without continues it.
        place = call.index
        if place is None:
            place = len(self.calls) if call.id or not self.calls else max(self.calls)
        if place not in self.calls:
            self.calls[place] = []
            self.items.append(place)
            self.open = None
        self.calls[place].append(call)

    def choice(self, index: int) -> LLMChoice:
        blocks = [_joined(self.calls[item]) if isinstance(item, int) else item.whole() for item in self.items]
        # An empty text is how servers spell none, where something else is said.
        is_more = len(blocks) > 1 or bool(self.reasoning)
        blocks = [one for one in blocks if not (is_more and _is_empty(one))]
        message = assistant_of(
            blocks,
            reasoning_content="".join(self.reasoning) or None,
            refusal="".join(self.refusal) or None,
            extra=self.message_extra,
        )
        return LLMChoice(
            index=index,
            message=message,
            finish_reason=self.finish_reason,
            logprobs=self.logprobs or None,
            extra=self.extra,
        )


def _is_empty(block: PromptMessageContent | ToolCall) -> bool:
    return isinstance(block, TextPromptMessageContent) and not block.data and not block.extra and not block.citations


def _joined(pieces: list[ToolCall]) -> ToolCall:
    return ToolCall(
        id=next((piece.id for piece in pieces if piece.id), ""),
        type=pieces[0].type,
        function=ToolCallFunction(
            name="".join(piece.function.name for piece in pieces),
            arguments="".join(piece.function.arguments for piece in pieces),
        ),
        extra=pieces[0].extra,
    )


def _whole(chunk: LLMResultChunk) -> LLMResult:
    """An answer that came in one piece, as those do that were not streamed: there is nothing to put together."""
    delta = chunk.delta
    choice = LLMChoice(
        index=0,
        message=_unnumbered(delta.message),
        finish_reason=delta.finish_reason,
        logprobs=delta.logprobs or None,
        extra=delta.extra,
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


def _later(first: Extra, second: Extra) -> Extra:
    """Both; where both speak, the later word: what stands beside every chunk is said again and again."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}


def _unnumbered(message: AssistantPromptMessage) -> AssistantPromptMessage:
    if not isinstance(message.content, list):
        return message
    parts = [msgspec.structs.replace(part, index=None) for part in message.content]
    return msgspec.structs.replace(message, content=parts)


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
    extra: Extra = {}
    for chunk in pieces:
        model = model or chunk.model
        response_id = response_id or chunk.id
        fingerprint = fingerprint or chunk.system_fingerprint
        created = created or chunk.created
        if chunk.extra:
            extra = _later(extra, chunk.extra)
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
