"""Passthrough of OpenAI Chat Completions: plain text requests go upstream unparsed, and
the response's bytes go back. Pure functions.

Only what the structs here describe is passed through. They refuse unknown fields, so
that everything else is left to the full parser in `openai_chat`.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from modelyard.base.bounded_json import decode_body
from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.capabilities import DEFAULT_CAPABILITIES, Capabilities
from modelyard.models.llm import LLMRequest, LLMResultChunkDelta, LLMUsage
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest

FORMAT = "openai_chat"
"""The same name as that of the full parser."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
_UNSET = msgspec.UNSET
_Unset = msgspec.UnsetType
APPLIED_CAPABILITIES = frozenset(
    {
        "drop",
        "max_tokens_field",
        "no_stream_options",
        "sampling",
        "temperature_or_top_p",
        "prefill",
    }
)
"""The capabilities that this module applies."""
IRRELEVANT_CAPABILITIES = frozenset(
    {
        "reasoning_field",
        "reasoning_with_calls",
        "reasoning",
        "thinking",
        "developer_role",
        "system_first",
        "system_between",
        "cache_marks",
        "checks_signatures",
        "signature_family",
        "unsigned_thoughts",
        "max_stop_sequences",
        "plain_transcripts",
        "default_voice",
        "max_texts",
        "required_tool_choice",
        "custom_tools",
        "max_tools",
        "input_type",
        "max_tokens",
        "adaptive_thinking",
        "structured",
    }
)
"""Those that do not affect plain text requests, or their responses."""
# Any other, and so each new one, must have its default value.
_other_capabilities = attrgetter(
    *(
        name
        for name in Capabilities.__struct_fields__
        if name not in APPLIED_CAPABILITIES | IRRELEVANT_CAPABILITIES
    )
)
_OTHER_DEFAULTS = _other_capabilities(DEFAULT_CAPABILITIES)
_SAMPLING = frozenset({"temperature", "top_p"})
_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    # Only some servers have the role `developer`.
    role: Literal["system", "user", "assistant"]
    # Servers refuse answers without content, which the full parser removes.
    content: Annotated[str, msgspec.Meta(min_length=1)]


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class _PlainRequest(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=10_000)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    # Longer ones are replaced by a hash.
    user: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


_decode_request = msgspec.json.Decoder(_PlainRequest).decode
# Shared encoder and decoder: they are built once, since this module runs for every
# plain request.
_encode = msgspec.json.Encoder().encode
# Fields that `dump` cannot omit. The others are parameters of the request, which are
# compared with `drop` one by one.
_UNDROPPED_FIELDS = frozenset(_PlainRequest.__struct_fields__) - {
    "max_tokens",
    "temperature",
    "top_p",
}
_INCLUDE_USAGE = _StreamOptions(True)


def peek_request(
    body: bytes, parse: Callable[[Any], LLMRequest]
) -> tuple[str, PassthroughRequest] | None:
    """Return (model, request) for a plain text request, or None if it needs the full
    parser.

    `parse` is the full parser; it runs later if the request cannot be passed through
    after all.
    """
    try:
        plain_request = _decode_request(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    parameters: dict[str, Any] = {}
    # OpenAI's newer name takes precedence over the deprecated `max_tokens`.
    if (
        max_tokens := plain_request.max_completion_tokens or plain_request.max_tokens
    ) is not None:
        parameters["max_tokens"] = max_tokens
    if plain_request.temperature is not None:
        parameters["temperature"] = plain_request.temperature
    if plain_request.top_p is not None:
        parameters["top_p"] = plain_request.top_p
    signs = 0
    for message in plain_request.messages:
        signs += len(message.content)
    request = PassthroughRequest(
        format=FORMAT,
        asked=plain_request,
        model_parameters=parameters,
        stream=plain_request.stream,
        user=plain_request.user,
        wants_usage=plain_request.stream_options is not None
        and plain_request.stream_options.include_usage,
        signs=signs,
        parse=partial(_parsed, body, parse),
    )
    return plain_request.model, request


def _parsed(body: bytes, parse: Callable[[Any], LLMRequest]) -> LLMRequest:
    """Return the parsed request of a body."""
    return parse(decode_body(body))


class OpenAIPassthrough:
    """Passes requests through to servers of this format."""

    def can_pass_through(
        self, request: PassthroughRequest, capabilities: Capabilities
    ) -> bool:
        """Return whether a server with these capabilities can take the request as it
        is.

        It cannot if it deviates in a way that is not applied here, or if `drop` lists a
        parameter that the request has; the caller then uses the full parser.
        """
        if _other_capabilities(capabilities) != _OTHER_DEFAULTS:
            return False
        if capabilities.max_tokens_field not in _LIMIT_FIELDS:
            return False
        refused = capabilities.drop
        if not _UNDROPPED_FIELDS.isdisjoint(refused):
            return False
        parameters = request.model_parameters
        if any(name in refused for name in parameters):
            return False
        if capabilities.prefill != "accepted":
            return False
        if capabilities.sampling != "any" and not _SAMPLING.isdisjoint(parameters):
            return False
        return not capabilities.temperature_or_top_p or not set(parameters) >= _SAMPLING

    def dump(
        self, request: PassthroughRequest, model: str, capabilities: Capabilities
    ) -> bytes:
        """Encode the request as JSON for the server.

        `model` replaces the client's model name. The token limit is written as
        `max_completion_tokens` if `capabilities.max_tokens_field` has that value,
        otherwise as `max_tokens`. A stream always requests usage, unless
        `capabilities.no_stream_options` is set.
        """
        plain_request: _PlainRequest = request.asked
        max_tokens = request.model_parameters.get("max_tokens")
        is_renamed = capabilities.max_tokens_field == "max_completion_tokens"
        # Usage is always requested, since accounting needs it; the client gets it only
        # if it requested it.
        options = (
            _INCLUDE_USAGE
            if plain_request.stream and not capabilities.no_stream_options
            else None
        )
        return _encode(
            _PlainRequest(
                model,
                plain_request.messages,
                plain_request.stream,
                options,
                plain_request.user,
                None if is_renamed else max_tokens,
                max_tokens if is_renamed else None,
                plain_request.temperature,
                plain_request.top_p,
            )
        )

    def result(self, body: bytes) -> PassthroughChunk | None:
        """Decode a complete response for passthrough, without changing its bytes.

        Returns None if it needs the full parser: an error, an unusual finish reason, a
        missing id, or usage that must be converted.
        """
        try:
            plain_result = _decode_result(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        usage = _usage(plain_result.usage, plain_result.service_tier)
        # Without usage or an id the full parser fills in the gaps.
        if usage is None or not plain_result.choices or not plain_result.id:
            return None
        delta = LLMResultChunkDelta(
            usage=usage, finish_reason=plain_result.choices[0].finish_reason
        )
        return PassthroughChunk(
            data=body,
            is_whole=True,
            model=plain_result.model,
            id=plain_result.id,
            created=plain_result.created,
            delta=delta,
        )

    def inspect_stream(self, request: PassthroughRequest) -> "StreamInspector":
        """Return the inspector for the stream of a request."""
        return StreamInspector(wants_usage=request.wants_usage)


class _PromptDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: _Count | None = 0
    cache_write_tokens: _Count | None = 0
    # Prices of audio and image tokens differ, so any other count than 0 needs the full
    # parser.
    audio_tokens: Literal[0] | None = 0
    image_tokens: Literal[0] | None = 0


class _CompletionDetails(msgspec.Struct, frozen=True, gc=False):
    reasoning_tokens: _Count | None = 0
    audio_tokens: Literal[0] | None = 0
    image_tokens: Literal[0] | None = 0


class _Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts in OpenAI's own form. Other field names, and costs stated by the
    server, are left to the full parser."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    # These fields must be absent: they belong to vendors that count differently.
    cost: _Unset = _UNSET
    prompt_cache_hit_tokens: _Unset = _UNSET
    reasoning_tokens: _Unset = _UNSET
    num_search_queries: _Unset = _UNSET


class _Choice(msgspec.Struct, frozen=True, gc=False):
    message: msgspec.Raw
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    error: _Unset = _UNSET


class _Result(msgspec.Struct, frozen=True, gc=False):
    choices: list[_Choice]
    id: str
    created: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    model: str
    usage: _Usage
    service_tier: str | None = None
    error: _Unset | None = None


class _FragmentFunction(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class _CallFragment(msgspec.Struct, frozen=True, gc=False):
    """A fragment of a tool call, as OpenAI sends it. Calls of other types, and servers
    that leave out the index, are left to the full parser."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    function: _FragmentFunction
    id: str | None = None
    type: Literal["function"] | None = None


class _Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    # Groq's and OpenRouter's name for it.
    reasoning: str | None = None
    tool_calls: list[_CallFragment] | None = None
    # The deprecated form of a call is converted by the full parser.
    function_call: Literal[None] = None


class _StreamChoice(msgspec.Struct, frozen=True, gc=False):
    delta: _Delta
    index: int = 0
    # The others, of which some report a failure, are left to the full parser.
    finish_reason: (
        Literal["", "stop", "length", "tool_calls", "content_filter", "function_call"]
        | None
    ) = None
    error: _Unset = _UNSET


class _Groq(msgspec.Struct, frozen=True, gc=False):
    """Groq's own field with the usage, in the last event of a stream.

    Such an event is left to the full parser, which turns it into OpenAI's event with
    the usage.
    """

    usage: _Unset = _UNSET


class _Event(msgspec.Struct, frozen=True, gc=False):
    choices: list[_StreamChoice]
    usage: _Usage | None = None
    service_tier: str | None = None
    x_groq: _Groq | None = None
    error: _Unset = _UNSET


_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()
_decode_result = msgspec.json.Decoder(_Result).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def _usage(
    wire_usage: _Usage | None, service_tier: str | None = None
) -> LLMUsage | None:
    """Return the usage, or None if it needs the full parser."""
    if wire_usage is None:
        return None
    prompt_details = wire_usage.prompt_tokens_details or _NO_PROMPT_DETAILS
    completion_details = wire_usage.completion_tokens_details or _NO_COMPLETION_DETAILS
    reasoning = completion_details.reasoning_tokens or 0
    total = wire_usage.prompt_tokens + wire_usage.completion_tokens
    # xAI does not include reasoning tokens in the completion; the full parser handles
    # it.
    if reasoning and wire_usage.total_tokens == total + reasoning:
        return None
    return LLMUsage(
        prompt_tokens=wire_usage.prompt_tokens,
        completion_tokens=wire_usage.completion_tokens,
        total_tokens=wire_usage.total_tokens or total,
        cached_tokens=prompt_details.cached_tokens or 0,
        cache_write_tokens=prompt_details.cache_write_tokens or 0,
        reasoning_tokens=reasoning,
        service_tier=service_tier or "",
    )


_DONE_EVENT = b"data: [DONE]"
_EMPTY_DELTA = LLMResultChunkDelta()


class StreamInspector:
    """Inspects the events of a stream and passes each through unchanged.

    `unread` has the rest of the stream, starting with the first event that needs the
    full parser.
    """

    __slots__ = (
        "_buffered",
        "_call_ids",
        "_is_done",
        "_openings",
        "_wants_usage",
        "has_finished",
        "unread",
    )

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._buffered = b""
        # The id of each tool call, in the order of their indexes.
        self._call_ids: list[str] = []
        self._openings: list[bytes] = []
        self._is_done = False
        self.has_finished = False
        self.unread: bytes | None = None

    def feed(self, body_chunk: bytes) -> PassthroughChunk | None:
        """Return the events of this body chunk that are passed through, or None if
        there are none."""
        # Anything after [DONE] is ignored.
        if self._is_done:
            return None
        # Adding to empty bytes does not copy.
        buffer = self._buffered + body_chunk
        # Events with CRLF line ends, and very long ones, are left to the full parser.
        if b"\r" in body_chunk or len(buffer) > _MAX_BUFFERED_BYTES:
            self.unread, self._buffered = buffer, b""
            return None
        blocks = buffer.split(b"\n\n")
        # The last block is incomplete; it waits for the next body chunk.
        self._buffered = blocks.pop()
        passed = _InspectedChunk(self._wants_usage)
        for block_index, block in enumerate(blocks):
            if block[:12] == _DONE_EVENT:
                self._is_done, self._buffered = True, b""
                break
            # A comment only keeps the connection open.
            if block[:1] in (b":", b""):
                continue
            event = _event(block)
            if event is None or not self._can_follow_calls(block, event):
                # Everything from this event on goes to the full parser; the events
                # before it are complete.
                unread_blocks = [*blocks[block_index:], self._buffered]
                self.unread, self._buffered = b"\n\n".join(unread_blocks), b""
                break
            passed.add_event(block, event)
        self.has_finished |= passed.reason is not None
        return passed.chunk()

    @property
    def openings(self) -> bytes:
        """The passed events that began a tool call, so that a parser of the rest knows
        the calls that it continues."""
        return b"".join(block + b"\n\n" for block in self._openings)

    def _can_follow_calls(self, block: bytes, event: _Event) -> bool:
        """Return whether all fragments of tool calls in an event are in the common
        form, which clients join by index.

        Calls without an id, repeated names and the like are changed by the full parser.
        """
        for choice in event.choices:
            fragments = choice.delta.tool_calls
            if not fragments:
                continue
            # Indexes count separately for each choice; more than one is rare.
            is_common = choice.index == 0 and len(event.choices) == 1
            if not is_common or not self._follow_calls(block, fragments):
                return False
        return True

    def _follow_calls(self, block: bytes, fragments: list[_CallFragment]) -> bool:
        """Return whether fragments begin or continue calls in the common form; record
        those that begin one."""
        call_ids = [*self._call_ids]
        for fragment in fragments:
            if fragment.index >= len(call_ids):
                if not _begins_next_call(fragment, call_ids):
                    return False
                call_ids.append(fragment.id or "")
            # Only the first fragment of a call has its id and name.
            elif fragment.id or fragment.function.name:
                return False
        # Nothing is recorded of an event that the full parser reads.
        if len(call_ids) > len(self._call_ids):
            self._call_ids = call_ids
            self._openings.append(block)
        return True

    def finish(self) -> None:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off."""
        # An incomplete last event is left to the full parser.
        if self._buffered.strip():
            self.unread = self._buffered
        elif not self._is_done and not self.has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without a finish reason or [DONE]"
            )


def _begins_next_call(fragment: _CallFragment, call_ids: list[str]) -> bool:
    """Return whether a fragment begins the call after those with these ids: with the
    next index, an id of its own and a name."""
    is_named = bool(fragment.id and fragment.function.name)
    return is_named and fragment.index == len(call_ids) and fragment.id not in call_ids


class _InspectedChunk:
    """Collects the events of one body chunk that are passed through."""

    __slots__ = ("_wants_usage", "events", "reason", "texts", "usage")

    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self.events: list[bytes] = []
        self.texts: list[str] = []
        self.usage: LLMUsage | None = None
        self.reason: str | None = None

    def add_event(self, block: bytes, event: _Event) -> None:
        """Add an event with its bytes, and record its text, usage and finish reason."""
        # An event that only has usage answers our own request for it; it is not passed
        # through unless the client requested it too.
        if event.choices or self._wants_usage:
            self.events.append(block)
        if event.usage is not None:
            self.usage = _usage(event.usage, event.service_tier)
        for choice in event.choices:
            delta = choice.delta
            # Nearly every event has only one of them.
            if delta.content:
                self.texts.append(delta.content)
            if thought := delta.reasoning_content or delta.reasoning:
                self.texts.append(thought)
            if delta.tool_calls:
                self._add_arguments(delta.tool_calls)
            # Some servers send an empty finish reason in every event.
            if choice.finish_reason:
                self.reason = choice.finish_reason

    def _add_arguments(self, fragments: list[_CallFragment]) -> None:
        """Record the arguments of calls, which count as output for token estimates."""
        for fragment in fragments:
            self.texts.append(fragment.function.arguments or "")

    def chunk(self) -> PassthroughChunk | None:
        """Return the collected events as one chunk, or None if there is nothing to pass
        through."""
        if not self.events and self.usage is None:
            return None
        # Most chunks have neither usage nor a reason and share one delta object.
        is_plain = self.usage is None and self.reason is None
        delta = (
            _EMPTY_DELTA
            if is_plain
            else LLMResultChunkDelta(usage=self.usage, finish_reason=self.reason)
        )
        data = b"\n\n".join((*self.events, b"")) if self.events else b""
        return PassthroughChunk(data=data, said="".join(self.texts), delta=delta)


def _event(block: bytes) -> _Event | None:
    """Decode one server-sent event, or return None if it needs the full parser.

    `block` has the lines of the event without the final blank line. None means that it
    does not start with `data: `, is not plain JSON of a known shape, or has usage that
    must be converted.
    """
    if block[:6] != b"data: ":
        return None
    try:
        event = _decode_event(block[6:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    # Usage that needs the full parser makes the whole event unreadable here.
    return None if event.usage is not None and _usage(event.usage) is None else event


_MAX_BUFFERED_BYTES = 1024 * 1024
"""Longest event that is buffered, in bytes. Longer ones are left to the full parser,
which has its own limit."""
PASSING = OpenAIPassthrough()
