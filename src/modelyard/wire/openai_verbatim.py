"""OpenAI Chat Completions passed on as they came: plain texts in, and the answer's bytes back. Pure.

Only what is glimpsed here is passed on: structs that refuse what they do not know leave everything else to the full
reader.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from modelyard.base.bodies import decode_body
from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.llm import LLMRequest, LLMResultChunkDelta, LLMUsage
from modelyard.models.verbatim import VerbatimChunk, VerbatimRequest

FORMAT = "openai_chat"
"""As the full reader calls itself."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
_UNSET = msgspec.UNSET
_Unset = msgspec.UnsetType
_FINE = frozenset({
    "max_tokens_field", "no_stream_options", "drop", "reasoning_field", "reasoning", "plain_transcripts",
    "default_voice", "max_texts", "required_tool_choice",
})  # fmt: skip
"""Quirks that are heeded here, or that have no say in plain texts."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant", "developer"]
    content: str


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=10_000)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    user: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode
_USAGE_ASKED = _StreamOptions(True)


def glance_request(body: bytes, parse: Callable[[Any], LLMRequest]) -> tuple[str, VerbatimRequest] | None:
    """(model, request) where it is plain; None where it has to be read in full."""
    try:
        asked = _decode_asked(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    parameters: dict[str, Any] = {}
    if (most := asked.max_completion_tokens or asked.max_tokens) is not None:
        parameters["max_tokens"] = most
    if asked.temperature is not None:
        parameters["temperature"] = asked.temperature
    if asked.top_p is not None:
        parameters["top_p"] = asked.top_p
    request = VerbatimRequest(
        format=FORMAT,
        asked=asked,
        model_parameters=parameters,
        stream=asked.stream,
        user=asked.user,
        wants_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        signs=sum([len(message.content) for message in asked.messages]),
        parse=partial(_parsed, body, parse),
    )
    return asked.model, request


def _parsed(body: bytes, parse: Callable[[Any], LLMRequest]) -> LLMRequest:
    return parse(decode_body(body))


class Passing:
    """Hands requests on to servers of this format."""

    def passes(self, request: VerbatimRequest, quirks: Mapping[str, Any]) -> bool:
        if not _FINE.issuperset(quirks):
            return False
        refused = quirks.get("drop", ())
        return not any(name in refused for name in request.model_parameters)

    def dump(self, request: VerbatimRequest, model: str, quirks: Mapping[str, Any]) -> bytes:
        asked: _Asked = request.asked
        most = request.model_parameters.get("max_tokens")
        is_renamed = quirks.get("max_tokens_field") == "max_completion_tokens"
        options = _USAGE_ASKED if asked.stream and not quirks.get("no_stream_options") else None
        return _encode(
            _Asked(
                model,
                asked.messages,
                asked.stream,
                options,
                asked.user,
                None if is_renamed else most,
                most if is_renamed else None,
                asked.temperature,
                asked.top_p,
            )
        )

    def result(self, body: bytes) -> VerbatimChunk | None:
        """A whole answer; None where it has to be read to be understood."""
        try:
            said = _decode_result(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        usage = _usage(said.usage)
        if usage is None or not said.choices or not said.id:
            return None
        delta = LLMResultChunkDelta(usage=usage, finish_reason=said.choices[0].finish_reason)
        return VerbatimChunk(data=body, model=said.model, id=said.id, created=said.created, delta=delta)

    def glance(self, request: VerbatimRequest) -> "Glance":
        return Glance(wants_usage=request.wants_usage)


class _Cached(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: _Count | None = 0
    cache_write_tokens: _Count | None = 0
    audio_tokens: Literal[0] | None = 0
    image_tokens: Literal[0] | None = 0


class _Thought(msgspec.Struct, frozen=True, gc=False):
    reasoning_tokens: _Count | None = 0
    audio_tokens: Literal[0] | None = 0
    image_tokens: Literal[0] | None = 0


class _Usage(msgspec.Struct, frozen=True, gc=False):
    """Other words for the same, and costs that the server states, are for the full reader."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count = 0
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Thought | None = None
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
    error: _Unset | None = None


class _Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw | None = None


class _Piece(msgspec.Struct, frozen=True, gc=False):
    delta: _Delta
    finish_reason: str | None = None
    error: _Unset = _UNSET


class _Groq(msgspec.Struct, frozen=True, gc=False):
    """Groq states usage here, in the event that ends a stream: whoever asked for OpenAI's event with usage gets that
    from the full reader."""

    usage: _Unset = _UNSET


class _Event(msgspec.Struct, frozen=True, gc=False):
    choices: list[_Piece]
    usage: _Usage | None = None
    x_groq: _Groq | None = None
    error: _Unset = _UNSET


_decode_result = msgspec.json.Decoder(_Result).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def _usage(said: _Usage | None) -> LLMUsage | None:
    """None where it cannot be believed without a second look."""
    if said is None:
        return None
    into, out = said.prompt_tokens_details, said.completion_tokens_details
    cached = into.cached_tokens or 0 if into else 0
    thought = out.reasoning_tokens or 0 if out else 0
    total = said.prompt_tokens + said.completion_tokens
    if thought and said.total_tokens == total + thought:
        return None  # xAI leaves thoughts out of the completion: the full reader knows
    return LLMUsage(
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        total_tokens=said.total_tokens or total,
        cached_tokens=cached,
        cache_write_tokens=into.cache_write_tokens or 0 if into else 0,
        reasoning_tokens=thought,
    )


_DONE = b"[DONE]"
_BLANK = LLMResultChunkDelta()


class Glance:
    """Events as they come, each passed on. `unread` holds the rest of a stream from the first event on that has to be
    read in full: to be understood, or to be refused in the right words."""

    __slots__ = ("_is_done", "_rest", "_wants_usage", "has_finished", "unread")

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._rest = b""
        self._is_done = False
        self.has_finished = False
        self.unread: bytes | None = None

    def feed(self, piece: bytes) -> VerbatimChunk | None:
        """What of the piece is passed on."""
        if self._is_done:
            return None  # what comes after [DONE] is nobody's
        buffer = self._rest + piece if self._rest else piece
        if b"\r" in piece or len(buffer) > _MOST_HELD:
            self.unread, self._rest = buffer, b""
            return None
        blocks = buffer.split(b"\n\n")
        self._rest = blocks.pop()
        passed = _Passed()
        for place, block in enumerate(blocks):
            if block[:6] == b"data: " and block[6:12] == _DONE:
                self._is_done, self._rest = True, b""
                break
            if block[:1] in (b":", b""):
                continue  # a comment keeps a connection open, and says nothing
            if (event := _event(block)) is None:
                self.unread, self._rest = b"\n\n".join([*blocks[place:], self._rest]), b""
                break
            passed.take(event)
            if event.choices or self._wants_usage:
                passed.kept.append(block)
        self.has_finished |= passed.reason is not None
        return passed.chunk()

    def finish(self) -> None:
        """Raises InvokeServerUnavailableError where the stream broke off."""
        if self._rest.strip():
            self.unread = self._rest
        elif not self._is_done and not self.has_finished:
            raise InvokeServerUnavailableError("the stream broke off: neither a finish reason nor [DONE] came")


class _Passed:
    """What one piece of a stream holds."""

    __slots__ = ("kept", "reason", "said", "usage")

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.said: list[str] = []
        self.usage: LLMUsage | None = None
        self.reason: str | None = None

    def take(self, event: _Event) -> None:
        if event.usage is not None:
            self.usage = _usage(event.usage)
        for choice in event.choices:
            delta = choice.delta
            if text := delta.content or delta.reasoning_content:
                self.said.append(text)
            elif delta.tool_calls is not None:
                self.said.append(bytes(delta.tool_calls).decode())
            if choice.finish_reason:  # some servers have an empty one in every event
                self.reason = choice.finish_reason

    def chunk(self) -> VerbatimChunk | None:
        if not self.kept and self.usage is None:
            return None
        is_plain = self.usage is None and self.reason is None
        delta = _BLANK if is_plain else LLMResultChunkDelta(usage=self.usage, finish_reason=self.reason)
        data = b"\n\n".join(self.kept) + b"\n\n" if self.kept else b""
        return VerbatimChunk(data=data, said="".join(self.said), delta=delta)


def _event(block: bytes) -> _Event | None:
    if block[:6] != b"data: ":
        return None
    try:
        event = _decode_event(block[6:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if event.usage is not None and _usage(event.usage) is None else event


_MOST_HELD = 1024 * 1024
"""An event beyond that is for the reader that knows how large one may be."""
PASSING = Passing()
