"""Helpers that run complete streams through incremental parsers and dumpers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from modelyard.base.reader_errors import MALFORMED_INPUT_ERRORS, malformed_response
from modelyard.models.llm import LLMResultChunk
from modelyard.models.types import JSON


class StreamParser(Protocol):
    """Converts a wire format's events to chunks."""

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks that an event produces."""
        ...

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Return the remaining chunks at the end of the stream."""
        ...


class StreamDumper(Protocol):
    """Converts chunks to a wire format's events. Constructed with `response_id`,
    `created` and `model`."""

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the events that a chunk produces."""
        ...

    def finish(self) -> list[JSON]:
        """Return the remaining events at the end of the stream."""
        ...


def parse_events(
    parser: StreamParser, events: Iterable[JSON]
) -> Iterator[LLMResultChunk]:
    """Parse a complete stream. Raises InvokeServerUnavailableError if it is truncated
    or does not match its format."""
    try:
        for event in events:
            yield from parser.feed(event)
        # Without a marker, the parser itself must have seen the end of the answer.
        yield from parser.finish(end_marker_seen=False)
    except MALFORMED_INPUT_ERRORS as error:
        raise malformed_response(error) from error


def feed_event(parser: StreamParser, event: JSON) -> list[LLMResultChunk]:
    """Parse one event of a live stream. Raises InvokeServerUnavailableError like
    `parsed`."""
    try:
        return parser.feed(event)
    except MALFORMED_INPUT_ERRORS as error:
        raise malformed_response(error) from error


def finish_parsing(
    parser: StreamParser, *, end_marker_seen: bool
) -> list[LLMResultChunk]:
    """Finish parsing a live stream. Raises InvokeServerUnavailableError like `parsed`."""
    try:
        return parser.finish(end_marker_seen=end_marker_seen)
    except MALFORMED_INPUT_ERRORS as error:
        raise malformed_response(error) from error


def dump_chunks(
    chunks: Iterable[LLMResultChunk], make: Callable[..., StreamDumper]
) -> Iterator[JSON]:
    """Convert chunks to events. The response id, time and model come from the first
    chunk."""
    dumper: StreamDumper | None = None
    for chunk in chunks:
        dumper = dumper or make(
            response_id=chunk.id, created=chunk.created, model=chunk.model
        )
        yield from dumper.feed(chunk)
    # An empty stream produces no events at all.
    if dumper is not None:
        yield from dumper.finish()
