"""Whole streams through what takes one event or one chunk at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from modelyard.base.shapes import STUMBLES, other_shape
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
    """Raises InvokeServerUnavailableError where the events break off, or have another shape than their format."""
    try:
        for event in events:
            yield from parser.feed(event)
        yield from parser.finish(done=False)
    except STUMBLES as error:
        raise other_shape(error) from error


def fed(parser: StreamParser, event: JSON) -> list[LLMResultChunk]:
    """One event of a stream that is still coming. Raises InvokeServerUnavailableError as `parsed` does."""
    try:
        return parser.feed(event)
    except STUMBLES as error:
        raise other_shape(error) from error


def finished(parser: StreamParser, *, done: bool) -> list[LLMResultChunk]:
    """As `fed`, of what is left at the end."""
    try:
        return parser.finish(done=done)
    except STUMBLES as error:
        raise other_shape(error) from error


def dumped(chunks: Iterable[LLMResultChunk], make: Callable[..., StreamDumper]) -> Iterator[JSON]:
    """Head fields come from the first chunk."""
    dumper: StreamDumper | None = None
    for chunk in chunks:
        dumper = dumper or make(response_id=chunk.id, created=chunk.created, model=chunk.model)
        yield from dumper.feed(chunk)
    if dumper is not None:
        yield from dumper.finish()
