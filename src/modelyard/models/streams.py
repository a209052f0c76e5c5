"""Whole streams through what takes one event or one chunk at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from modelyard.models.llm import LLMResultChunk
from modelyard.models.types import JSON


class StreamParser(Protocol):
    """A format's events into chunks."""

    def feed(self, event: JSON) -> list[LLMResultChunk]: ...
    def finish(self, *, done: bool) -> list[LLMResultChunk]: ...


class StreamDumper(Protocol):
    """Chunks into a format's events; made from `response_id`, `created` and `model`."""

    def feed(self, chunk: LLMResultChunk) -> list[JSON]: ...
    def finish(self) -> list[JSON]: ...


def parsed(parser: StreamParser, events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Raises InvokeServerUnavailableError where the events break off."""
    for event in events:
        yield from parser.feed(event)
    yield from parser.finish(done=False)


def dumped(chunks: Iterable[LLMResultChunk], make: Callable[..., StreamDumper]) -> Iterator[JSON]:
    """Head fields come from the first chunk."""
    dumper: StreamDumper | None = None
    for chunk in chunks:
        dumper = dumper or make(response_id=chunk.id, created=chunk.created, model=chunk.model)
        yield from dumper.feed(chunk)
    if dumper is not None:
        yield from dumper.finish()
