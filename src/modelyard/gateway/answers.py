"""What the chat routes share: a call's answer, whole or as events, in the words of the format it was asked in."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import wrong
from modelyard.base.ids import new_id
from modelyard.gateway.errors import Shape, error_document
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, fold
from modelyard.models.streams import StreamDumper
from modelyard.models.types import JSON
from modelyard.models.verbatim import VerbatimChunk, VerbatimRequest
from modelyard.runtime.model_instance import ModelInstance

UNSUPPORTED = b"x-modelyard-unsupported"
"""`refuse` where a parameter that the model does not take is an error; else it is left out, and the answer says so."""
DROPPED = "x-modelyard-dropped"


class Answering(Protocol):
    """Whoever answers: a model, or one with tools that it is given here."""

    @property
    def model(self) -> str: ...

    async def invoke_llm(self, request: LLMRequest, /) -> LLMResult: ...

    def stream_llm(self, request: LLMRequest, /) -> AsyncGenerator[LLMResultChunk, None]: ...

    def stream_verbatim(self, request: VerbatimRequest, /) -> AsyncGenerator[LLMResultChunk, None]: ...


def named_events(event: JSON) -> bytes:
    """An event whose name stands before it: Anthropic's, OpenAI's Responses'."""
    return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"


def plain_events(event: JSON) -> bytes:
    return b"data: " + encode(event) + b"\n\n"


def prepared(request: Request, instance: ModelInstance, asked: LLMRequest) -> tuple[LLMRequest, dict[str, str]]:
    """The request as it will be sent, and headers that say what of it the model does not take."""
    choice = request.header(UNSUPPORTED) or "drop"
    if choice not in ("drop", "refuse"):
        raise wrong(UNSUPPORTED.decode(), choice, "drop or refuse")
    dropped = instance.unsupported(asked)
    if choice == "refuse":
        asked = msgspec.structs.replace(asked, unsupported="refuse")
    return asked, {DROPPED: ", ".join(dropped)} if dropped else {}


async def whole(request: Request, instance: Answering, asked: LLMRequest, clock: Clock, *, prefix: str) -> LLMResult:
    """The answer with an id, a moment and a model's name, whoever gave it."""
    return _named(await request.while_here(instance.invoke_llm(asked)), instance, clock, prefix)


def _named(result: LLMResult, instance: Answering, clock: Clock, prefix: str) -> LLMResult:
    return msgspec.structs.replace(
        result,
        id=result.id or new_id(prefix),
        created=result.created or int(clock.time()),
        model=result.model or instance.model,
    )


async def passed_on(
    request: Request, instance: ModelInstance, asked: VerbatimRequest, clock: Clock, dump: Callable[[LLMResult], JSON]
) -> Reply:
    """The answer as it came, or written anew where another server gave it."""
    chunks = await request.while_here(_gathered(instance.stream_verbatim(asked)))
    if len(chunks) == 1 and isinstance(chunks[0], VerbatimChunk):
        return Reply(chunks[0].data)
    result = fold(chunks)
    return json_reply(dump(_named(result, instance, clock, "chatcmpl")))


async def _gathered(stream: AsyncGenerator[LLMResultChunk, None]) -> list[LLMResultChunk]:
    async with aclosing(stream) as chunks:
        return [chunk async for chunk in chunks]


def streamed(
    instance: Answering,
    asked: LLMRequest | VerbatimRequest,
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
    """The answer as it comes. `make` builds the format's dumper from id, moment and model; `on_end` sees it done."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        dumper: StreamDumper | None = None
        is_verbatim = isinstance(asked, VerbatimRequest)
        has_begun = False
        source = instance.stream_verbatim(asked) if isinstance(asked, VerbatimRequest) else instance.stream_llm(asked)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                if is_verbatim and isinstance(chunk, VerbatimChunk):
                    if chunk.data:
                        has_begun = True
                        yield chunk.data
                    continue
                if dumper is None:
                    make_rest = partial(make, has_begun=True) if has_begun else make
                    dumper = make_rest(
                        response_id=chunk.id or new_id(prefix),
                        created=chunk.created or int(clock.time()),
                        model=chunk.model or instance.model,
                    )
                if events := dumper.feed(chunk):
                    yield _framed(events, frame)
        if dumper is None and is_verbatim:
            yield last
            return
        if dumper is None:
            dumper = make(response_id=new_id(prefix), created=int(clock.time()), model=instance.model)
        yield _framed(dumper.finish(), frame) + last
        if on_end is not None:
            on_end(dumper)

    def last_words(error: ModelyardError) -> bytes:
        """An error event and no end: official clients raise on it, and nobody takes a broken answer for a whole one."""
        document = error_document(error, shape)
        return frame(document) if "type" in document else plain_events(document)

    return sse_reply(pieces(), last_words, headers)


def _framed(events: Iterable[JSON], frame: Callable[[JSON], bytes]) -> bytes:
    return b"".join([frame(event) for event in events])
