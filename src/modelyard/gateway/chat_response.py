"""Shared code of the chat routes: complete and streamed responses in the format of the
request."""

from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders
from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import invalid_field
from modelyard.base.ids import new_id
from modelyard.gateway.answer_losses import DROPPED, AnswerLosses, with_losses
from modelyard.gateway.call_headers import call_headers_of, reply_headers
from modelyard.gateway.errors import KEEP_ALIVES, Shape, error_document
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.streams import StreamDumper
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON
from modelyard.runtime.model_instance import ModelInstance, NamedRequest

UNSUPPORTED = b"x-modelyard-unsupported"
"""Request header: with `refuse`, a parameter that the model does not support is an
error; otherwise it is dropped and the response names it."""
ADDED_FIELDS = ("stream_options",)
"""Fields of every streamed request to a provider, which the caller usually has not sent.
"""


class ChatBackend(Protocol):
    """Anything that can answer a chat: a model instance, or one with server-side tools."""

    @property
    def model(self) -> str:
        """Name of the model that answers."""
        ...

    async def invoke_llm(self, request: LLMRequest, /) -> LLMResult:
        """Return the complete response."""
        ...

    def stream_llm(
        self, request: LLMRequest, /
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the response as it is generated."""
        ...

    def stream_verbatim(
        self, request: PassthroughRequest, /
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the response to a passthrough request, unchanged if possible."""
        ...


def named_events(event: JSON) -> bytes:
    """Return an SSE event with its type as the event name, as Anthropic and OpenAI's
    Responses API send it."""
    return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"


def plain_events(event: JSON) -> bytes:
    """Return an SSE event without a name."""
    return b"data: " + encode(event) + b"\n\n"


def name_left_out(
    request: Request,
    instance: ModelInstance,
    model_request: NamedRequest,
    *,
    added_fields: Collection[str] = ADDED_FIELDS,
    other_names: Collection[str] = (),
) -> None:
    """Let the response name the fields that were left out on the way to the server that
    has answered: another one than the first perhaps, or one that has refused fields
    during this call.

    `added_fields`: fields that the caller has not sent, although the provider gets them.
    `other_names`: fields that are left out whichever server answers.
    """

    def late_headers() -> Mapping[str, str]:
        """Return the header, by what is known when the response starts."""
        names: Iterable[str] | None = request.left_out
        if names is None:
            names = _learnt_names(instance, model_request)
            if not names:
                return {}
        names = [*names, *other_names, *request.lost]
        return dropped_header(names, added_fields)

    request.late_headers = late_headers


def _learnt_names(instance: ModelInstance, model_request: NamedRequest) -> list[str]:
    """Return the fields that are left out by what is known of the first server now."""
    try:
        return instance.left_out(model_request)
    # The call itself reports what is wrong with the request.
    except ModelyardError:
        return []


def dropped_header(
    names: Iterable[str], added_fields: Collection[str]
) -> dict[str, str]:
    """Return the header that names what is left out, empty if that is nothing.

    `added_fields`: fields that the caller has not sent.
    """
    named = dict.fromkeys(name for name in names if name not in added_fields)
    return {DROPPED: ", ".join(named)}


SettledT = TypeVar("SettledT", TextEmbeddingRequest, TTSRequest, Speech2TextRequest)


def settle_left_out(
    request: Request, instance: ModelInstance, model_request: SettledT
) -> SettledT:
    """Return a request as it is sent. The response names the fields that are left out;
    if the caller refuses that, none is.

    Raises InvokeBadRequestError for a field that the caller does not want to be left
    out, or an unknown value of the request header.
    """
    name_left_out(request, instance, model_request)
    if _choice(request) == "drop":
        return model_request
    if names := instance.left_out(model_request):
        raise InvokeBadRequestError(
            f"Model {instance.name!r} does not support {names[0]!r}", param=names[0]
        )
    # What the server refuses only now is an error, too.
    return msgspec.structs.replace(model_request, unsupported="refuse")


def _choice(request: Request) -> str:
    """Return how the caller wants unsupported parameters to be handled: `drop` or
    `refuse`. Raises InvokeBadRequestError for any other value."""
    choice = request.header(UNSUPPORTED) or "drop"
    if choice not in ("drop", "refuse"):
        raise invalid_field(UNSUPPORTED.decode(), choice, "drop or refuse")
    return choice


def prepare_request(
    request: Request,
    instance: ModelInstance,
    chat_request: LLMRequest,
    *,
    added_fields: Collection[str] = ADDED_FIELDS,
    other_names: Collection[str] = (),
) -> tuple[LLMRequest, dict[str, str]]:
    """Return the request to be sent, with the caller's headers that go along, and
    response headers that name what the model does not support.

    `added_fields`: fields that the caller has not sent, although the provider gets them.
    `other_names`: fields that are left out whichever server answers.

    Raises InvokeBadRequestError for an unknown value of the request header.
    """
    choice = _choice(request)
    chat_request = with_call_headers(request, chat_request)
    names = [*instance.unsupported(chat_request), *other_names]
    name_left_out(
        request,
        instance,
        chat_request,
        added_fields=added_fields,
        other_names=other_names,
    )
    # With `refuse` the model instance itself raises, with the name of the parameter.
    if choice == "refuse":
        chat_request = msgspec.structs.replace(chat_request, unsupported="refuse")
    headers = dropped_header(names, added_fields)
    return chat_request, headers if headers[DROPPED] else {}


def with_call_headers(request: Request, chat_request: LLMRequest) -> LLMRequest:
    """Return a chat request with the caller's headers that go along."""
    headers = call_headers_of(request.scope, chat_request.format)
    if headers is NO_HEADERS:
        return chat_request
    return msgspec.structs.replace(chat_request, headers=headers)


async def complete_response(
    request: Request,
    instance: ChatBackend,
    chat_request: LLMRequest,
    clock: Clock,
    *,
    prefix: str,
) -> LLMResult:
    """Return the complete response, with an id, a time and a model name even if the
    provider sent none."""
    result = await request.cancel_on_disconnect(instance.invoke_llm(chat_request))
    request.left_out = result.headers.dropped
    return _with_identity(result, instance.model, clock, prefix)


def _with_identity(
    result: LLMResult, model: str, clock: Clock, prefix: str
) -> LLMResult:
    """Fill in the id, the creation time and the model name if they are missing."""
    return msgspec.structs.replace(
        result,
        id=result.id or new_id(prefix),
        created=result.created or int(clock.time()),
        model=result.model or model,
    )


async def passthrough_response(
    request: Request,
    instance: ModelInstance,
    verbatim_request: PassthroughRequest,
    clock: Clock,
    dump: Callable[[LLMResult], JSON],
) -> Reply:
    """Return the provider's response unchanged; if another provider answered, convert
    it."""
    chunks = await request.cancel_on_disconnect(
        collect(instance.stream_verbatim(verbatim_request))
    )
    body = complete_body(chunks, instance.model, clock, dump, "chatcmpl")
    headers = first_headers(chunks)
    request.left_out = headers.dropped
    return Reply(body, headers=reply_headers(headers, "openai"))


def complete_body(
    chunks: Sequence[LLMResultChunk],
    model: str,
    clock: Clock,
    dump: Callable[[LLMResult], JSON],
    prefix: str,
) -> bytes:
    """Return the body of a complete response: the provider's bytes if they were passed
    through, else all chunks in the caller's format."""
    # A single verbatim chunk is a complete response body of the requested format.
    if len(chunks) == 1 and isinstance(chunks[0], PassthroughChunk):
        return chunks[0].data
    # After failover the request was translated, so the chunks are in the common format.
    return encode(dump(_with_identity(fold(chunks), model, clock, prefix)))


def first_headers(chunks: Iterable[LLMResultChunk]) -> CallHeaders:
    """Return the headers of the provider's response, which its first chunk carries."""
    return next((chunk.headers for chunk in chunks), NO_HEADERS)


async def collect(
    stream: AsyncGenerator[LLMResultChunk, None],
) -> list[LLMResultChunk]:
    """Return all chunks of a stream."""
    async with aclosing(stream) as chunks:
        return [chunk async for chunk in chunks]


def stream_response(
    request: Request,
    instance: ChatBackend,
    model_request: LLMRequest | PassthroughRequest,
    clock: Clock,
    make: Callable[..., StreamDumper],
    *,
    prefix: str,
    frame: Callable[[JSON], bytes],
    shape: Shape,
    headers: Mapping[str, str],
    last: bytes = b"",
    on_end: Callable[[Any], None] | None = None,
    fail: Callable[[Any, ModelyardError], list[JSON]] | None = None,
) -> StreamReply:
    """Stream the response.

    `make` builds the dumper of the format from id, time and model; `on_end` receives it
    at the end, `fail` when the stream breaks off, and then returns the last events.
    `last` is sent after the last event.
    """

    writer = StreamWriter(
        instance.model,
        clock,
        make,
        prefix=prefix,
        frame=frame,
        last=last,
        is_verbatim=isinstance(model_request, PassthroughRequest),
        on_end=on_end,
        fail=fail,
        wire_format=model_request.format,
    )
    chunks = (
        instance.stream_verbatim(model_request)
        if isinstance(model_request, PassthroughRequest)
        else instance.stream_llm(model_request)
    )
    return stream_reply(request, writer, chunks, shape, headers)


def complete_reply(
    request: Request,
    document: JSON,
    result: LLMResult,
    shape: Shape,
    headers: Mapping[str, str],
    wire_format: str,
) -> Reply:
    """Return a complete response, with the headers of the provider's response that the
    caller's API has, and the names of what its format `wire_format` cannot hold."""
    losses = AnswerLosses(wire_format)
    losses.add_result(result)
    request.lost = losses.names
    headers = with_losses(headers, losses.names)
    return json_reply(
        document, headers={**headers, **reply_headers(result.headers, shape)}
    )


def stream_reply(
    request: Request,
    writer: "StreamWriter",
    chunks: AsyncGenerator[LLMResultChunk, None],
    shape: Shape,
    headers: Mapping[str, str],
) -> StreamReply:
    """Return the reply that streams chunks in the caller's format."""
    reply = sse_reply(
        writer.body(chunks),
        partial(writer.fail, shape),
        headers,
        keep_alive=KEEP_ALIVES[shape],
    )

    def add_headers(headers: CallHeaders) -> None:
        """Add the headers of the provider's response. After a keep-alive it is too
        late, which changes nothing."""
        request.left_out = headers.dropped
        passed = reply_headers(headers, shape)
        reply.headers.extend(
            (name.encode(), value.encode("latin-1")) for name, value in passed.items()
        )

    writer.on_headers = add_headers
    return reply


def stream_error(
    frame: Callable[[JSON], bytes], shape: Shape, error: ModelyardError
) -> bytes:
    """Return an error event without an end event, so that no client takes the partial
    response for a complete one."""
    document = error_document(error, shape)
    if shape == "cohere":
        delta = {"finish_reason": "ERROR", "error": document["message"]}
        return frame({"type": "message-end", "delta": delta})
    if shape == "gemini":
        # Google's own clients take an event for an answer, and know an error only as a
        # document outside of events; clients of event streams pass over that.
        return plain_events(document) + encode(document)
    return frame(document) if "type" in document else plain_events(document)


class StreamWriter:
    """Turns chunks into the body of a streamed response, in the caller's format."""

    __slots__ = (
        "_clock",
        "_dumper",
        "_fail",
        "_has_begun",
        "_is_verbatim",
        "_last",
        "_losses",
        "_make",
        "_model",
        "_on_end",
        "_prefix",
        "frame",
        "on_headers",
    )

    def __init__(
        self,
        model: str,
        clock: Clock,
        make: Callable[..., StreamDumper],
        *,
        prefix: str,
        frame: Callable[[JSON], bytes],
        last: bytes = b"",
        is_verbatim: bool = False,
        on_end: Callable[[Any], None] | None = None,
        fail: Callable[[Any, ModelyardError], list[JSON]] | None = None,
        wire_format: str = "",
    ) -> None:
        """`make` builds the dumper of the format from id, time and model; `on_end`
        receives it at the end. `last` is written after the last event. `fail` returns
        the last events of a stream that breaks off, if the dumper has to write them.
        `wire_format` is the caller's.

        `model` and `prefix` name the model and the id if the provider does not.
        """
        self._model = model
        self._clock = clock
        self._make = make
        self._prefix = prefix
        self._last = last
        self._is_verbatim = is_verbatim
        self._on_end = on_end
        self._fail = fail
        self._losses = AnswerLosses(wire_format)
        self._dumper: StreamDumper | None = None
        self._has_begun = False
        self.frame = frame
        """Returns an event as bytes."""
        self.on_headers: Callable[[CallHeaders], None] | None = None
        """Receives the headers of the provider's response, before its first bytes."""

    def feed(self, chunk: LLMResultChunk) -> bytes:
        """Return the bytes of a chunk: unchanged if it is passed through, otherwise
        converted."""
        if self._is_verbatim and isinstance(chunk, PassthroughChunk):
            if chunk.data:
                self._has_begun = True
            return chunk.data
        # The dumper needs id and model of the first chunk, so it is created here.
        if self._dumper is None:
            self._dumper = self._dumper_for(chunk)
        self._losses.add_chunk(chunk)
        events = self._dumper.feed(chunk)
        return _framed(events, self.frame) if events else b""

    def finish(self) -> bytes:
        """Return the end of the body, and call `on_end`."""
        # All chunks were verbatim; only the end marker has to be sent.
        if self._dumper is None and self._is_verbatim:
            return self._last
        # The model returned no chunk at all; send an empty response.
        if self._dumper is None:
            self._dumper = self._empty_dumper()
        ending = self._ending(self._dumper.finish()) + self._last
        if self._on_end is not None:
            self._on_end(self._dumper)
        return ending

    def fail(self, shape: Shape, error: ModelyardError) -> bytes:
        """Return the last event of a stream that breaks off, in the caller's format."""
        if self._fail is None:
            return stream_error(self.frame, shape, error)
        if self._dumper is None:
            self._dumper = self._empty_dumper()
        return _framed(self._fail(self._dumper, error), self.frame)

    def _empty_dumper(self) -> StreamDumper:
        """Return a dumper for a stream of which no chunk has come."""
        return self._make(
            response_id=new_id(self._prefix),
            created=int(self._clock.time()),
            model=self._model,
        )

    def _ending(self, events: Iterable[JSON]) -> bytes:
        """Return the last events, with the names of what the format cannot hold: as a
        comment, which clients skip, or in Google's format as a field."""
        names = ", ".join(self._losses.names)
        if not names:
            return _framed(events, self.frame)
        if self._losses.format != "gemini":
            comment = f": {DROPPED}: {names}\n\n".encode()
            return comment + _framed(events, self.frame)
        # Google's clients take any line for data.
        *earlier, last = events
        return _framed([*earlier, {**last, DROPPED: names}], self.frame)

    async def body(
        self, chunks: AsyncGenerator[LLMResultChunk, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the whole body of a stream of chunks."""
        async with aclosing(chunks) as stream:
            async for chunk in stream:
                if chunk.headers is not NO_HEADERS and self.on_headers is not None:
                    self.on_headers(chunk.headers)
                if data := self.feed(chunk):
                    yield data
        yield self.finish()

    def _dumper_for(self, chunk: LLMResultChunk) -> StreamDumper:
        """Return a dumper with the identity of the first chunk that is converted."""
        # If verbatim data was already sent, the dumper must not send the opening events
        # again.
        make_dumper = (
            partial(self._make, has_begun=True) if self._has_begun else self._make
        )
        return make_dumper(
            response_id=chunk.id or new_id(self._prefix),
            created=chunk.created or int(self._clock.time()),
            model=chunk.model or self._model,
        )


def _framed(events: Iterable[JSON], frame: Callable[[JSON], bytes]) -> bytes:
    """Return events as SSE."""
    return b"".join(map(frame, events))
