"""Shared code of the chat routes: complete and streamed responses in the format of the
request."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import invalid_field
from modelyard.base.ids import new_id
from modelyard.gateway.errors import Shape, error_document
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.passthrough import PassthroughChunk, PassthroughRequest
from modelyard.models.streams import StreamDumper
from modelyard.models.types import JSON
from modelyard.runtime.model_instance import ModelInstance

UNSUPPORTED = b"x-modelyard-unsupported"
"""Request header: with `refuse`, a parameter that the model does not support is an
error; otherwise it is dropped and the response names it."""
# Response header that lists the dropped parameters.
DROPPED = "x-modelyard-dropped"


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


def prepare_request(
    request: Request, instance: ModelInstance, chat_request: LLMRequest
) -> tuple[LLMRequest, dict[str, str]]:
    """Return the request to be sent, and response headers that name the parameters the
    model does not support.

    Raises InvokeBadRequestError for an unknown value of the request header.
    """
    choice = request.header(UNSUPPORTED) or "drop"
    if choice not in ("drop", "refuse"):
        raise invalid_field(UNSUPPORTED.decode(), choice, "drop or refuse")
    dropped_parameters = instance.unsupported(chat_request)
    # With `refuse` the model instance itself raises, with the name of the parameter.
    if choice == "refuse":
        chat_request = msgspec.structs.replace(chat_request, unsupported="refuse")
    return chat_request, {
        DROPPED: ", ".join(dropped_parameters)
    } if dropped_parameters else {}


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
    return _with_identity(
        await request.cancel_on_disconnect(instance.invoke_llm(chat_request)),
        instance,
        clock,
        prefix,
    )


def _with_identity(
    result: LLMResult, instance: ChatBackend, clock: Clock, prefix: str
) -> LLMResult:
    """Fill in the id, the creation time and the model name if they are missing."""
    return msgspec.structs.replace(
        result,
        id=result.id or new_id(prefix),
        created=result.created or int(clock.time()),
        model=result.model or instance.model,
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
        _collect(instance.stream_verbatim(verbatim_request))
    )
    # A single verbatim chunk is a complete response body of the requested format.
    if len(chunks) == 1 and isinstance(chunks[0], PassthroughChunk):
        return Reply(chunks[0].data)
    # After failover the request was translated, so the chunks are in the common format.
    result = fold(chunks)
    return json_reply(dump(_with_identity(result, instance, clock, "chatcmpl")))


async def _collect(
    stream: AsyncGenerator[LLMResultChunk, None],
) -> list[LLMResultChunk]:
    """Return all chunks of a stream."""
    async with aclosing(stream) as chunks:
        return [chunk async for chunk in chunks]


def stream_response(
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
) -> StreamReply:
    """Stream the response.

    `make` builds the dumper of the format from id, time and model; `on_end` receives it
    at the end. `last` is sent after the last event.
    """

    body = _StreamBody(
        instance, model_request, clock, make, prefix, frame, last, on_end
    )

    def error_event(error: ModelyardError) -> bytes:
        """Return an error event without an end event, so that no client takes the
        partial response for a complete one."""
        document = error_document(error, shape)
        return frame(document) if "type" in document else plain_events(document)

    return sse_reply(body.chunks(), error_event, headers)


@dataclass(frozen=True, slots=True)
class _StreamBody:
    """The body of one streamed response; the fields are the parameters of
    `stream_response`."""

    instance: ChatBackend
    model_request: LLMRequest | PassthroughRequest
    clock: Clock
    make: Callable[..., StreamDumper]
    prefix: str
    frame: Callable[[JSON], bytes]
    last: bytes
    on_end: Callable[[Any], None] | None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the response body: verbatim chunks unchanged, others converted to the
        format."""
        dumper: StreamDumper | None = None
        is_verbatim = isinstance(self.model_request, PassthroughRequest)
        has_begun = False
        frame = self.frame
        async with aclosing(self._model_chunks()) as chunks:
            async for chunk in chunks:
                if is_verbatim and isinstance(chunk, PassthroughChunk):
                    if chunk.data:
                        has_begun = True
                        yield chunk.data
                    continue
                # The dumper needs id and model of the first chunk, so it is created
                # here.
                if dumper is None:
                    dumper = self._dumper_for(chunk, has_begun=has_begun)
                if events := dumper.feed(chunk):
                    yield _framed(events, frame)
        for data in self._ending(dumper, is_verbatim=is_verbatim):
            yield data

    def _model_chunks(self) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model and return its chunks."""
        if isinstance(self.model_request, PassthroughRequest):
            return self.instance.stream_verbatim(self.model_request)
        return self.instance.stream_llm(self.model_request)

    def _dumper_for(self, chunk: LLMResultChunk, *, has_begun: bool) -> StreamDumper:
        """Return a dumper with the identity of the first chunk that is converted."""
        # If verbatim data was already sent, the dumper must not send the opening events
        # again.
        make_dumper = partial(self.make, has_begun=True) if has_begun else self.make
        return make_dumper(
            response_id=chunk.id or new_id(self.prefix),
            created=chunk.created or int(self.clock.time()),
            model=chunk.model or self.instance.model,
        )

    def _ending(
        self, dumper: StreamDumper | None, *, is_verbatim: bool
    ) -> Iterator[bytes]:
        """Yield the end of the body, then call `on_end`."""
        # All chunks were verbatim; only the end marker has to be sent.
        if dumper is None and is_verbatim:
            yield self.last
            return
        # The model returned no chunk at all; send an empty response.
        if dumper is None:
            dumper = self.make(
                response_id=new_id(self.prefix),
                created=int(self.clock.time()),
                model=self.instance.model,
            )
        yield _framed(dumper.finish(), self.frame) + self.last
        if self.on_end is not None:
            self.on_end(dumper)


def _framed(events: Iterable[JSON], frame: Callable[[JSON], bytes]) -> bytes:
    """Return events as SSE."""
    return b"".join([frame(event) for event in events])
