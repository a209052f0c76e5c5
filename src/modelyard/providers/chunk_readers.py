"""Readers that turn the bytes of a chat response into chunks, without waiting.

Both ways of making a call use them: the one that awaits the next bytes, and the one that
is called back with them. They yield chunk by chunk, so that those before a broken event
still reach the caller.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from modelyard.models.llm import LLMResultChunk
from modelyard.models.passthrough import StreamInspector
from modelyard.models.streams import StreamParser, feed_event, finish_parsing
from modelyard.models.thinking import ThinkStream
from modelyard.models.types import JSON
from modelyard.providers.adaptation.draft import Restorer


class ChunkReader(Protocol):
    """Reads one response."""

    def feed(self, data: bytes) -> Iterable[LLMResultChunk]:
        """Return the chunks that these bytes complete. Raises InvokeError."""
        ...

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return the last chunks, at the end of the body. Raises InvokeError if the
        response is not complete."""
        ...


class EventSource(Protocol):
    """Splits a body into the documents of its events."""

    def feed(self, data: bytes) -> Iterable[JSON | None]:
        """Return the events that these bytes complete; None is the end marker."""
        ...

    def finish(self) -> Iterable[JSON | None]:
        """Return the events that are left at the end of the body."""
        ...


class EventReader:
    """Reads a stream of events by the parser of its wire format."""

    __slots__ = (
        "_events",
        "_has_begun",
        "_has_end_marker",
        "_is_finished_elsewhere",
        "_parser",
    )

    def __init__(
        self, events: EventSource, parser: StreamParser, *, has_finished: bool = False
    ) -> None:
        """`has_finished`: whether a finish reason came before these events."""
        self._events = events
        self._parser = parser
        self._has_begun = False
        self._has_end_marker = False
        self._is_finished_elsewhere = has_finished

    def feed(self, data: bytes) -> Iterator[LLMResultChunk]:
        """Yield the chunks of the events that these bytes complete."""
        yield from self._parse(self._events.feed(data))

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield the last chunks."""
        yield from self._parse(self._events.finish())
        # The end of a stream in another format, of which nothing was read, ends no
        # answer: some servers answer every path.
        is_ended = self._has_end_marker and self._has_begun
        yield from finish_parsing(
            self._parser, end_marker_seen=is_ended or self._is_finished_elsewhere
        )

    def _parse(self, events: Iterable[JSON | None]) -> Iterator[LLMResultChunk]:
        """Yield the chunks of events, up to the end marker; later ones are ignored."""
        for event in events:
            if event is None:
                self._has_end_marker = True
            elif not self._has_end_marker:
                chunks = feed_event(self._parser, event)
                self._has_begun = self._has_begun or bool(chunks)
                yield from chunks


class RawStreamReader:
    """Passes the events of a stream on as they are; from the first one that it does not
    understand on, the full parser reads."""

    __slots__ = ("_inspector", "_make_parsed", "_parsed")

    def __init__(
        self, inspector: StreamInspector, make_parsed: Callable[..., EventReader]
    ) -> None:
        """`make_parsed` builds the full reader, with `has_finished`."""
        self._inspector = inspector
        self._make_parsed = make_parsed
        self._parsed: EventReader | None = None

    def feed(self, data: bytes) -> Iterable[LLMResultChunk]:
        """Return the unchanged events of these bytes."""
        if self._parsed is not None:
            return self._parsed.feed(data)
        inspector = self._inspector
        passed = inspector.feed(data)
        if inspector.unread is None:
            return () if passed is None else (passed,)
        return self._switch(passed)

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield the last chunks. Raises InvokeServerUnavailableError if the stream was
        cut off."""
        if self._parsed is None:
            self._inspector.finish()
            # The last event may lack its end.
            if self._inspector.unread is not None:
                yield from self._switch(None)
        if self._parsed is not None:
            yield from self._parsed.finish()

    def _switch(self, passed: LLMResultChunk | None) -> Iterator[LLMResultChunk]:
        """Yield what was passed, then go on with the full parser from the first byte
        that was left to it."""
        inspector = self._inspector
        unread = inspector.unread or b""
        self._parsed = self._make_parsed(has_finished=inspector.has_finished)
        # Their chunks are dropped, since the caller has got these events.
        for _ in self._parsed.feed(inspector.openings):
            pass
        if passed is not None:
            yield passed
        yield from self._parsed.feed(unread)


class CompleteReader:
    """Collects a response that is not a stream and reads it at its end."""

    __slots__ = ("_body", "_read")

    def __init__(self, read: Callable[[bytes], Iterable[LLMResultChunk]]) -> None:
        """`read` turns the whole body into chunks."""
        self._read = read
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> Iterable[LLMResultChunk]:
        """Keep the bytes."""
        self._body.append(data)
        return ()

    @property
    def body(self) -> bytes:
        """The whole body."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return the chunks of the whole response."""
        return self._read(self.body)


class ThoughtReader:
    """Moves reasoning that a model writes between tags out of the text of another
    reader's chunks."""

    __slots__ = ("_reader", "_thoughts")

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._thoughts = ThinkStream()

    def feed(self, data: bytes) -> Iterator[LLMResultChunk]:
        """Yield the chunks that these bytes complete."""
        for chunk in self._reader.feed(data):
            yield self._thoughts.feed(chunk)

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield the last chunks, with the text that may have been a tag."""
        for chunk in self._reader.finish():
            yield self._thoughts.feed(chunk)
        yield from self._thoughts.finish()


class RestoringReader:
    """Changes another reader's chunks back to what the caller expects."""

    __slots__ = ("_reader", "_restorer")

    def __init__(self, reader: ChunkReader, restorer: Restorer) -> None:
        self._reader = reader
        self._restorer = restorer

    def feed(self, data: bytes) -> Iterator[LLMResultChunk]:
        """Yield the chunks that these bytes complete."""
        for chunk in self._reader.feed(data):
            yield self._restorer.feed(chunk)

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield the last chunks, with what was held back."""
        for chunk in self._reader.finish():
            yield self._restorer.feed(chunk)
        yield from self._restorer.finish()
