"""Chat: the request, the chunks of a streamed answer, and the complete result folded
from them."""

from collections.abc import AsyncIterable, Iterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders
from modelyard.models.call_indexes import CallIndexes
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
    merge_extra,
)
from modelyard.models.types import ZERO, Chunk, ModelUsage

# Counts that are added when usages are combined.
# Times and prices are combined by rules of their own.
_SUMMED = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_prompt_tokens",
    "image_prompt_tokens",
    "tool_prompt_tokens",
    "reasoning_tokens",
    "audio_completion_tokens",
    "image_completion_tokens",
    "searches",
)


class LLMUsage(ModelUsage, frozen=True, kw_only=True):
    """Tokens and cost of a chat call.

    `prompt_tokens` includes everything sent: cached tokens, cache writes, audio, images
    and the provider's own tools. `completion_tokens` includes everything received, with
    reasoning. The other counts are parts of these two.
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
    """Tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Tokens written to the provider's cache, for any lifetime."""
    cache_write_1h_tokens: int = 0
    audio_prompt_tokens: int = 0
    image_prompt_tokens: int = 0
    tool_prompt_tokens: int = 0
    """Tokens added by the provider's own tools."""
    reasoning_tokens: int = 0
    audio_completion_tokens: int = 0
    image_completion_tokens: int = 0
    searches: int = 0
    """Searches that the provider ran and bills separately."""
    service_tier: str = ""
    """The tier that served the call, in the provider's words; empty if it did not say."""
    time_to_first_token: float | None = None
    time_to_generate: float | None = None
    extra: Extra = {}

    @classmethod
    def empty_usage(cls) -> "LLMUsage":
        """Return a usage with all counts at zero."""
        return cls()

    @classmethod
    def of(
        cls, prompt_tokens: int, completion_tokens: int, **fields: Any
    ) -> "LLMUsage":
        """Return a usage with these counts; the total is their sum."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            **fields,
        )

    @property
    def input_count(self) -> Decimal:
        """Return the number of tokens to which the input price applies."""
        return Decimal(self.prompt_tokens)

    @property
    def output_count(self) -> Decimal:
        """Return the number of tokens to which the output price applies."""
        return Decimal(self.completion_tokens)

    def plus(self, later_usage: "LLMUsage") -> "LLMUsage":
        """Return the sum of two calls: counts, prices and latencies are added; unit
        prices are those of the later call.

        The total is unknown if either price is. Raises ValueError if both have costs in
        different currencies.
        """
        if (
            self.total_price
            and later_usage.total_price
            and self.currency != later_usage.currency
        ):
            raise ValueError(
                f"Usage in {self.currency} and usage in {later_usage.currency} cannot be added"
            )
        # A free or unpriced later call must not overwrite the currency of the earlier
        # one.
        priced = (
            later_usage if later_usage.total_price or not self.total_price else self
        )
        counts = {
            name: getattr(self, name) + getattr(later_usage, name) for name in _SUMMED
        }
        return LLMUsage(
            **counts,
            prompt_unit_price=priced.prompt_unit_price,
            prompt_price_unit=priced.prompt_price_unit,
            prompt_price=self.prompt_price + later_usage.prompt_price,
            completion_unit_price=priced.completion_unit_price,
            completion_price_unit=priced.completion_price_unit,
            completion_price=self.completion_price + later_usage.completion_price,
            total_price=_sum_of_prices(self, later_usage),
            currency=priced.currency,
            latency=self.latency + later_usage.latency,
            estimated=self.estimated or later_usage.estimated,
            time_to_first_token=self.time_to_first_token
            if self.time_to_first_token is not None
            else later_usage.time_to_first_token,
        )

    __add__ = plus


def _sum_of_prices(left: LLMUsage, right: LLMUsage) -> Decimal | None:
    """Return the sum of two total prices; None if one of them is unknown.

    A usage without tokens and without a price counts as free. If neither counts, the
    result is None.
    """
    # A usage without tokens and without a price contributes nothing; it must not make
    # the sum unknown.
    prices = [
        usage.total_price
        for usage in (left, right)
        if usage.total_price is not None or usage.total_tokens
    ]
    return (
        None
        if None in prices
        else sum((price for price in prices if price is not None), ZERO)
        if prices
        else None
    )


class LLMRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request.

    `model_parameters` by their common names: temperature, top_p, top_k, max_tokens,
    presence_penalty, frequency_penalty, seed, n, logprobs, top_logprobs,
    response_format (OpenAI's object), parallel_tool_calls, reasoning_effort (`none` to
    `xhigh`), thinking_budget (tokens; 0 disables, -1 lets the model choose),
    include_thoughts, verbosity, modalities, service_tier, metadata.
    """

    messages: list[AnyPromptMessage]
    model_parameters: dict[str, Any] = {}
    tools: list[PromptMessageTool] = []
    tool_choice: str | dict[str, Any] | None = None
    """`auto`, `none`, `required`, or `{"name": …}` for a specific tool."""
    stop: list[str] = []
    stream: bool = False
    user: str | None = None
    unsupported: str = "drop"
    """Handling of parameters that the model does not support: `drop` ignores them,
    `refuse` fails the call."""
    format: str = ""
    """The wire format in which it was received; empty if it was created in code."""
    extra: Extra = {}
    """Fields of the caller's format without an internal name; forwarded if the provider
    uses the same format."""
    headers: CallHeaders = NO_HEADERS
    """Headers that the caller sent with the request; forwarded if the provider's API
    has them."""
    changed: tuple[str, ...] = ()
    """Names of parameters that have been changed already, which the caller is told."""


class LLMResultChunkDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a chunk. `index` distinguishes several answers to one prompt."""

    index: int = 0
    message: AssistantPromptMessage = AssistantPromptMessage()
    usage: LLMUsage | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `content_filter`, or `pause` if the provider
    wants to be called again to continue."""
    logprobs: dict[str, Any] | None = None
    extra: Extra = {}


class LLMResultChunk(Chunk, frozen=True, kw_only=True):
    """A chunk of a streamed chat answer."""

    delta: LLMResultChunkDelta = LLMResultChunkDelta()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    """Seconds since the epoch as reported by the provider, otherwise 0."""
    extra: Extra = {}

    @property
    def text(self) -> str:
        """Return the text of this chunk."""
        return self.delta.message.text

    @property
    def usage_or_none(self) -> LLMUsage | None:
        """Return the usage, if this chunk has it."""
        return self.delta.usage

    def with_usage(self, usage: ModelUsage) -> "LLMResultChunk":
        """Return the chunk with its usage replaced."""
        return msgspec.structs.replace(
            self, delta=msgspec.structs.replace(self.delta, usage=usage)
        )


class LLMChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers to a prompt."""

    index: int = 0
    message: AssistantPromptMessage = AssistantPromptMessage()
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    extra: Extra = {}


class LLMResult(Chunk, frozen=True, kw_only=True):
    """A complete answer. `choices` has one entry unless several answers were requested."""

    choices: list[LLMChoice]
    usage: LLMUsage = LLMUsage()
    id: str = ""
    system_fingerprint: str | None = None
    created: int = 0
    extra: Extra = {}

    @property
    def message(self) -> AssistantPromptMessage:
        """Return the message of the first choice."""
        return self.choices[0].message

    @property
    def text(self) -> str:
        """Return the text of the first choice."""
        return self.message.text

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Return the tool calls of the first choice."""
        return self.message.tool_calls

    @property
    def finish_reason(self) -> str | None:
        """Return the finish reason of the first choice."""
        return self.choices[0].finish_reason

    @property
    def usage_or_none(self) -> LLMUsage:
        """Return the usage."""
        return self.usage

    @classmethod
    async def collect(cls, chunks: AsyncIterable[LLMResultChunk]) -> "LLMResult":
        """Read a stream to its end and return the complete answer."""
        return fold([chunk async for chunk in chunks])

    def as_chunks(self) -> Iterable[LLMResultChunk]:
        """Yield the answer as a stream of one chunk per choice.

        Parts and tool calls get the indexes that a stream needs; the last chunk has the
        usage. `fold` is the inverse.
        """
        for position, choice in enumerate(self.choices, 1):
            delta = LLMResultChunkDelta(
                index=choice.index,
                message=_numbered(choice.message),
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs,
                usage=self.usage if position == len(self.choices) else None,
                extra=choice.extra,
            )
            yield self._chunk(delta)

    def _chunk(self, delta: LLMResultChunkDelta) -> LLMResultChunk:
        """Return a chunk with this answer's identification and the given content."""
        return LLMResultChunk(
            model=self.model,
            delta=delta,
            id=self.id,
            system_fingerprint=self.system_fingerprint,
            created=self.created,
            extra=self.extra,
            headers=self.headers,
        )


def _numbered(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return the message with numbered parts and calls, as required in a stream."""
    # In a stream, parts and calls with the same index are joined, so each one needs its
    # own.
    calls = [
        msgspec.structs.replace(call, index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    if not isinstance(message.content, list):
        return msgspec.structs.replace(message, tool_calls=calls) if calls else message
    parts = [
        msgspec.structs.replace(part, index=index)
        for index, part in enumerate(message.content)
    ]
    return msgspec.structs.replace(message, content=parts, tool_calls=calls)


class _PartBuilder:
    """Accumulates the chunks of one text or thinking part."""

    __slots__ = ("citations", "extra", "first", "id", "pieces", "signatures")

    def __init__(self, first: PromptMessageContent | None) -> None:
        self.first = first
        self.pieces: list[str] = []
        self.signatures: list[str] = []
        self.citations: list[Citation] = []
        self.extra: Extra = {}
        self.id = ""

    def add(
        self, part: TextPromptMessageContent | ThinkingPromptMessageContent
    ) -> None:
        """Append a chunk of the part."""
        if part.data:
            self.pieces.append(part.data)
        if part.extra:
            self.extra = merge_extra(self.extra, part.extra)
        # A signature may arrive separately from the text, in several fragments.
        if isinstance(part, ThinkingPromptMessageContent):
            self.id = self.id or part.id
            if part.signature:
                self.signatures.append(part.signature)
        elif part.citations:
            self.citations += part.citations

    def build(self) -> PromptMessageContent:
        """Return the complete part, without its stream index."""
        data = "".join(self.pieces)
        match self.first:
            case ThinkingPromptMessageContent():
                signature = "".join(self.signatures)
                return msgspec.structs.replace(
                    self.first,
                    data=data,
                    signature=signature,
                    id=self.id,
                    extra=self.extra,
                    index=None,
                )
            case TextPromptMessageContent():
                return msgspec.structs.replace(
                    self.first,
                    data=data,
                    citations=self.citations,
                    extra=self.extra,
                    index=None,
                )
            case None:
                # Plain text without a part object, from formats that stream strings.
                return TextPromptMessageContent(
                    data=data, citations=self.citations, extra=self.extra
                )
            case file:
                return msgspec.structs.replace(file, index=None)


class _ChoiceBuilder:
    """Accumulates the chunks of one choice."""

    def __init__(self) -> None:
        # Parts, and the indexes of calls, in the order in which they started.
        self.items: list[_PartBuilder | int] = []
        # The part to which text without an index is appended.
        self.open: _PartBuilder | None = None
        self.by_index: dict[tuple[type, int], _PartBuilder] = {}
        # Fields below hold fragments that are joined in `choice`.
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.call_indexes = CallIndexes()
        self.calls: dict[int, list[ToolCall]] = {}
        self.finish_reason: str | None = None
        self.logprobs: dict[str, list[Any]] = {}
        self.extra: Extra = {}
        self.message_extra: Extra = {}

    def add(self, delta: LLMResultChunkDelta) -> None:
        """Append the content of a chunk."""
        message = delta.message
        if isinstance(message.content, str):
            self._add_text(message.content)
            for call in message.tool_calls:
                self._add_call(call)
        elif message.content or message.tool_calls:
            # Blocks preserve the relative order of parts and calls.
            self._add_blocks(message)
        if message.reasoning_content:
            self.reasoning.append(message.reasoning_content)
        if message.refusal:
            self.refusal.append(message.refusal)
        for key, value in (delta.logprobs or {}).items():
            self.logprobs.setdefault(key, []).extend(value or [])
        if message.extra:
            self.message_extra = merge_extra(self.message_extra, message.extra)
        if delta.extra:
            self.extra = merge_extra(self.extra, delta.extra)
        self.finish_reason = delta.finish_reason or self.finish_reason

    def _add_text(self, text: str) -> None:
        """Append text to the open text part, starting one if there is none."""
        # Plain strings continue the open text part.
        if self.open is None:
            self.open = _PartBuilder(None)
            self.items.append(self.open)
        self.open.pieces.append(text)

    def _add_blocks(self, message: AssistantPromptMessage) -> None:
        """Append a message's parts and tool calls in their order.

        Reasoning in a field of its own is left out, as it is collected separately.
        """
        # Reasoning that is sent as a separate field is collected apart, so it is not
        # repeated as a block.
        blocks = (
            message.blocks
            if message.reasoning_content is None
            else [*message.parts, *message.tool_calls]
        )
        for block in blocks:
            if isinstance(block, ToolCall):
                self._add_call(block)
            else:
                self._add_part(block)

    def _add_part(self, part: PromptMessageContent) -> None:
        """Append a chunk of a part, or a complete part.

        Text and thinking parts with an index continue the part of the same type and
        index. Plain text without one continues the open text; any other part starts a
        new one and closes the open text.
        """
        is_text = isinstance(
            part, TextPromptMessageContent | ThinkingPromptMessageContent
        )
        if (
            self.open is not None
            and isinstance(part, TextPromptMessageContent)
            and part.index is None
            and not part.data
        ):
            # The sources of a text follow it.
            self.open.add(part)
            return
        # Parts with the same type and index belong together.
        if part.index is not None and is_text:
            key = (type(part), part.index)
            run = self.by_index.get(key)
            if run is None:
                run = self.by_index[key] = self._begin(part)
            run.add(part)
            self.open = None
        elif (
            isinstance(part, TextPromptMessageContent)
            and not part.extra
            and not part.citations
        ):
            # Plain text without an index continues the open text.
            self._add_text(part.data)
        else:
            run = self._begin(part)
            if is_text:
                run.add(part)
            self.open = None

    def _begin(self, part: PromptMessageContent) -> _PartBuilder:
        """Start a part; the following fragments belong to it."""
        run = _PartBuilder(part)
        self.items.append(run)
        return run

    def _add_call(self, call: ToolCall) -> None:
        """Append a fragment of a tool call; those with the same index form a call."""
        # Some servers omit the index.
        call_index = self.call_indexes.index_of(call)
        if call_index not in self.calls:
            self.calls[call_index] = []
            self.items.append(call_index)
            self.open = None
        self.calls[call_index].append(call)

    def build(self, index: int) -> LLMChoice:
        """Return the complete choice."""
        blocks = [
            _join_fragments(self.calls[item]) if isinstance(item, int) else item.build()
            for item in self.items
        ]
        # Servers send an empty text for no text; it is dropped if there is other
        # content.
        has_other_content = len(blocks) > 1 or bool(self.reasoning)
        blocks = [
            block for block in blocks if not (has_other_content and _is_empty(block))
        ]
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
    """Return whether a block is a text part with no content at all."""
    return (
        isinstance(block, TextPromptMessageContent)
        and not block.data
        and not block.extra
        and not block.citations
    )


def _join_fragments(fragments: list[ToolCall]) -> ToolCall:
    """Return the complete tool call of its fragments, in their order.

    The first id found is used; names and arguments are concatenated.
    """
    # Some providers stream the name as well, so all fragments are joined.
    return ToolCall(
        id=next((fragment.id for fragment in fragments if fragment.id), ""),
        type=fragments[0].type,
        function=ToolCallFunction(
            name="".join(fragment.function.name for fragment in fragments),
            arguments="".join(fragment.function.arguments for fragment in fragments),
        ),
        extra=fragments[0].extra,
    )


def _single_chunk_result(chunk: LLMResultChunk) -> LLMResult:
    """Return the result of a single chunk, as non-streaming calls produce it, without
    folding."""
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
        headers=chunk.headers,
    )


def _merge_latest(first: Extra, second: Extra) -> Extra:
    """Merge extra fields; on conflict the later value wins, since some are repeated in
    every chunk."""
    return {
        name: {**first.get(name, {}), **second.get(name, {})}
        for name in {**first, **second}
    }


def _unnumbered(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return a message whose parts have no stream index."""
    if not isinstance(message.content, list):
        return message
    parts = [msgspec.structs.replace(part, index=None) for part in message.content]
    return msgspec.structs.replace(message, content=parts)


def fold(chunks: Iterable[LLMResultChunk]) -> LLMResult:
    """Combine the chunks of a stream into the complete answer.

    Ids and the model name come from the first chunk that has them, the usage from the
    last one. Choices are ordered by index; choice 0 exists even if no chunk had
    content.
    """
    chunk_list = list(chunks)
    # Non-streaming providers yield a single complete chunk.
    if (
        len(chunk_list) == 1
        and chunk_list[0].delta.index == 0
        and not chunk_list[0].delta.message.tool_calls
    ):
        return _single_chunk_result(chunk_list[0])
    # Choice 0 exists even if no chunk had content.
    choices: dict[int, _ChoiceBuilder] = {0: _ChoiceBuilder()}
    usage = LLMUsage()
    model = response_id = ""
    fingerprint: str | None = None
    created = 0
    extra: Extra = {}
    # Ids and the model name come from the first chunk that has them, usage from the
    # last.
    for chunk in chunk_list:
        model = model or chunk.model
        response_id = response_id or chunk.id
        fingerprint = fingerprint or chunk.system_fingerprint
        created = created or chunk.created
        if chunk.extra:
            extra = _merge_latest(extra, chunk.extra)
        if chunk.delta.usage is not None:
            usage = chunk.delta.usage
        choices.setdefault(chunk.delta.index, _ChoiceBuilder()).add(chunk.delta)
    return LLMResult(
        model=model,
        choices=[choices[index].build(index) for index in sorted(choices)],
        usage=usage,
        id=response_id,
        system_fingerprint=fingerprint,
        created=created,
        extra=extra,
        headers=_first_headers(chunk_list),
    )


def _first_headers(chunks: Iterable[LLMResultChunk]) -> CallHeaders:
    """Return the headers of the first chunk that carries any."""
    carried = (chunk.headers for chunk in chunks if chunk.headers is not NO_HEADERS)
    return next(carried, NO_HEADERS)
