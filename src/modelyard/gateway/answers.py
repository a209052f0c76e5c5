"""What the chat routes share: a call's answer, whole or as events, in the words of the format it was asked in."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import wrong
from modelyard.base.ids import new_id
from modelyard.gateway.errors import Shape, error_document
from modelyard.gateway.http import Request, StreamReply, encode, sse_reply
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.streams import StreamDumper
from modelyard.models.types import JSON
from modelyard.runtime.model_instance import ModelInstance

UNSUPPORTED = b"x-modelyard-unsupported"
"""`refuse` where a parameter that the model does not take is an error; else it is left out, and the answer says so."""
DROPPED = "x-modelyard-dropped"


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


async def whole(
    request: Request, instance: ModelInstance, asked: LLMRequest, clock: Clock, *, prefix: str
) -> LLMResult:
    """The answer with an id, a moment and a model's name, whoever gave it."""
    result = await request.while_here(instance.invoke_llm(asked))
    return msgspec.structs.replace(
        result,
        id=result.id or new_id(prefix),
        created=result.created or int(clock.time()),
        model=result.model or instance.model,
    )


def streamed(
    instance: ModelInstance,
    asked: LLMRequest,
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
        async with aclosing(instance.stream_llm(asked)) as chunks:
            async for chunk in chunks:
                if dumper is None:
                    dumper = make(
                        response_id=chunk.id or new_id(prefix),
                        created=chunk.created or int(clock.time()),
                        model=chunk.model or instance.model,
                    )
                if events := dumper.feed(chunk):
                    yield _framed(events, frame)
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
