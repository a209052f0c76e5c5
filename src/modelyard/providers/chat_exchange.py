"""One chat call to a provider over HTTP: what is sent, and how the response is read.

Two drivers use it. `HttpLargeLanguageModel.invoke` awaits the response; a
`DirectExchange` is called back with it, which costs neither a task nor a future.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders, HeaderLines
from modelyard.base.errors import (
    EndpointNotFoundError,
    InvokeError,
    InvokeTimeoutError,
)
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.passthrough import PassthroughFormat, PassthroughRequest
from modelyard.models.thinking import split_thoughts
from modelyard.models.types import JSON
from modelyard.providers.adaptation.adapter import RestorerChain, restore
from modelyard.providers.adaptation.draft import Restorer
from modelyard.providers.chunk_readers import (
    ChunkReader,
    CompleteReader,
    EventReader,
    RawStreamReader,
    RestoringReader,
    ThoughtReader,
)
from modelyard.providers.endpoint import (
    MAX_ANSWER,
    MAX_ERROR,
    OFFLOAD_BYTES,
    Endpoint,
)
from modelyard.providers.formats import ChatFormat
from modelyard.providers.http_errors import error_of
from modelyard.transport.connection import Connection
from modelyard.transport.http import (
    MAX_BODY,
    HttpClient,
    RequestHead,
    ResponseTooLargeError,
    decompression_error,
)
from modelyard.transport.unpacking import (
    BombError,
    Decompressor,
    UnpackError,
    is_plain,
)


def _learn_nothing(error: InvokeError) -> bool:
    """Return that a call would be repeated unchanged."""
    del error
    return False


def with_headers(chunk: LLMResultChunk, headers: CallHeaders) -> LLMResultChunk:
    """Return a chunk that carries headers of the response, if there are any."""
    if headers is NO_HEADERS:
        return chunk
    return msgspec.structs.replace(chunk, headers=headers)


class _HeldHeaders:
    """The headers of a response for the caller, until its first chunk carries them."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = NO_HEADERS

    def onto(self, chunks: Iterable[LLMResultChunk]) -> Iterable[LLMResultChunk]:
        """Return chunks; the first one of the response carries the headers."""
        if not isinstance(chunks, tuple):
            return self._onto_first(chunks)
        if not chunks:
            return chunks
        headers, self.held = self.held, NO_HEADERS
        return with_headers(chunks[0], headers), *chunks[1:]

    def _onto_first(self, chunks: Iterable[LLMResultChunk]) -> Iterable[LLMResultChunk]:
        """Yield chunks; the first one of the response carries the headers."""
        for chunk in chunks:
            headers, self.held = self.held, NO_HEADERS
            yield with_headers(chunk, headers)


class ChatExchange(msgspec.Struct, frozen=True):
    """A chat request in the wire format of its provider."""

    endpoint: Endpoint
    chat_format: ChatFormat
    capabilities: Capabilities
    request: LLMRequest | PassthroughRequest
    passing: PassthroughFormat | None
    """Passes the response through as it is; None if it is parsed."""
    url: str
    headers: Mapping[str, str]
    """Headers of the format, without those of the provider."""
    call_headers: Mapping[str, str]
    """Headers of the caller that go along."""
    body: bytes
    restorers: tuple[Callable[[], Restorer], ...] = ()
    """Each builds what changes the answer back to what the caller expects."""
    learn: Callable[[InvokeError], bool] = _learn_nothing
    """Remembers what an error shows about the server. Returns whether the same call
    would now be made in another way."""
    dropped: tuple[str, ...] | None = None
    """The caller's fields that are left out; None if the request is passed through."""

    def answer_headers(self, lines: HeaderLines) -> CallHeaders:
        """Return the headers of the response that the caller may get, with the names of
        what the server did not get."""
        headers = self.chat_format.header_rules.of_answer(lines)
        if self.dropped is None:
            return headers
        return msgspec.structs.replace(headers, dropped=self.dropped)

    def reader(self, content_type: str) -> ChunkReader:
        """Return the reader of the response.

        A server may answer a request for a stream with a complete response, as JSON.
        """
        is_stream = bool(self.request.stream)
        if not is_stream or content_type.startswith("application/json"):
            return CompleteReader(self.read_complete)
        if self.passing is not None and isinstance(self.request, PassthroughRequest):
            inspector = self.passing.inspect_stream(self.request)
            return RawStreamReader(inspector, self._event_reader)
        reader: ChunkReader = self._event_reader()
        if self._has_think_tags:
            reader = ThoughtReader(reader)
        if self.restorers:
            reader = RestoringReader(reader, RestorerChain(self.restorers))
        return reader

    @staticmethod
    def reads_whole_body(reader: ChunkReader) -> bool:
        """Return whether a reader needs the whole body, because it is not a stream."""
        return isinstance(reader, CompleteReader)

    def read_complete(self, body: bytes) -> Iterable[LLMResultChunk]:
        """Return the chunks of a response that is not a stream, at once."""
        if (chunk := self._unchanged(body)) is not None:
            return (chunk,)
        return self._parsed(self.endpoint.decode_object(body))

    async def read_large(self, body: bytes) -> Iterable[LLMResultChunk]:
        """Return the same as `read_complete`; a large body is decoded outside of the
        event loop."""
        if (chunk := self._unchanged(body)) is not None:
            return (chunk,)
        return self._parsed(await self.endpoint.read_object(body))

    def _parsed(self, document: JSON) -> Iterable[LLMResultChunk]:
        """Return the chunks of a complete response."""
        chunks = self.chat_format.parse_result(document).as_chunks()
        if self._has_think_tags:
            chunks = split_thoughts(chunks)
        # The usual answer is one chunk, which needs no generator.
        return restore(chunks, self.restorers) if self.restorers else chunks

    def _unchanged(self, body: bytes) -> LLMResultChunk | None:
        """Return one chunk with the unchanged body; None if it has to be parsed."""
        if self.passing is None or self.request.stream:
            return None
        return self.passing.result(body)

    def _event_reader(self, *, has_finished: bool = False) -> EventReader:
        """Return the full reader of a stream."""
        return EventReader(
            self.endpoint.event_source(self.chat_format.framing),
            self.chat_format.parser(),
            has_finished=has_finished,
        )

    @property
    def _has_think_tags(self) -> bool:
        """Whether the server writes thoughts into the text, between tags."""
        return self.passing is None and self.capabilities.think_tags


def _with_named_errors(
    chunks: Iterable[LLMResultChunk], named: Callable[[Exception], InvokeError]
) -> Iterable[LLMResultChunk]:
    """Yield chunks; an error of reading them becomes what `named` returns for it."""
    try:
        yield from chunks
    except InvokeError as error:
        raise named(error) from error


class DirectExchange:
    """A chat exchange that is driven by callbacks.

    `send` names a listener, which then takes the new chunks from `receive` each time it
    is called, until `is_complete`. Implements `modelyard.models.exchange.Exchange`.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_error_body",
        "_exchange",
        "_head",
        "_headers",
        "_reader",
        "_size",
        "_unpacking",
        "has_head",
    )

    def __init__(
        self, exchange: ChatExchange, client: HttpClient, head: RequestHead
    ) -> None:
        self._exchange = exchange
        self._client = client
        self._head = head
        self._connection: Connection | None = None
        self._reader: ChunkReader | None = None
        # Headers of the response for the caller, until its first chunk carries them.
        self._headers = _HeldHeaders()
        # The body of a response with an error status.
        self._error_body: list[bytes] | None = None
        self._size = 0
        # Compression is never asked for, but some servers compress all the same.
        self._unpacking: Decompressor | None = None
        self.has_head = False
        """Whether the head of the response has arrived."""

    def connect(self) -> bool:
        """Take a connection if one is free at once; return whether it was.

        After that the exchange must be closed.
        """
        self._connection = self._client.take_now(self._head)
        return self._connection is not None

    async def open(self) -> None:
        """Take a connection, and wait for it if none is free. Raises InvokeError, and
        ConfigError for an address that must not be called."""
        limits = self._exchange.endpoint.timeouts
        try:
            self._connection = await self._client.take(self._head, limits)
        except InvokeError as error:
            raise self._named(error) from error

    def send(self, listener: Callable[[], None]) -> None:
        """Send the request. `listener` is called whenever something has arrived."""
        if self._connection is not None:
            body = self._exchange.body
            self._client.start(self._connection, self._head, body, listener)

    @property
    def byte_gap(self) -> float:
        """The seconds within which the next bytes have to arrive."""
        timeouts = self._exchange.endpoint.timeouts
        return timeouts.between_bytes if self.has_head else timeouts.first_byte

    def receive_whole(self) -> Iterable[LLMResultChunk] | None:
        """Return all chunks of a plain response that has arrived at once and is not a
        stream; None for any other, which has to be received step by step. Raises
        InvokeError.

        The usual answer needs neither a reader nor the questions of the steps.
        """
        connection, exchange = self._connection, self._exchange
        if connection is None or self.has_head or exchange.request.stream:
            return None
        answer = connection.answer
        body = answer.take_plain(OFFLOAD_BYTES)
        if body is None:
            return None
        self.has_head = True
        held = exchange.answer_headers(answer.first_lines.items())
        self._headers.held = held
        if exchange.passing is not None:
            chunk = exchange.passing.result(body)
            if chunk is not None:
                return (with_headers(chunk, held),)
        return self._naming(exchange.read_complete(body))

    def receive(self) -> Iterable[LLMResultChunk]:
        """Return the chunks that have arrived. Raises InvokeError.

        They are read while they are iterated, so those before an error are there.
        """
        connection = self._connection
        if connection is None:
            return ()
        answer = connection.answer
        if not self.has_head:
            if not answer.is_head_complete:
                if answer.error is not None:
                    raise self._named(answer.error)
                return ()
            self._begin(connection)
        if answer.has_chunks:
            return self._read(answer.take(), connection)
        # Bytes that arrived before the end are read first.
        if answer.error is not None:
            raise self._broken_off(answer.error)
        return ()

    def _broken_off(self, error: Exception) -> InvokeError:
        """Return the error for a response that has ended too early."""
        # The status alone is enough for an error, without its body.
        if self._error_body is not None:
            self._error_body.clear()
            return self._refusal()
        return self._named(error)

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has arrived and been read."""
        connection = self._connection
        return (
            connection is not None
            and self.has_head
            and connection.answer.is_complete
            and not connection.answer.has_chunks
        )

    @property
    def error(self) -> Exception | None:
        """Why the response will not be completed; None if it may be."""
        return self._connection.answer.error if self._connection is not None else None

    @property
    def large_body(self) -> bytes | None:
        """The complete body if it is too large to be read on the event loop."""
        reader = self._reader
        if self._size < OFFLOAD_BYTES or self._error_body is not None:
            return None
        return reader.body if isinstance(reader, CompleteReader) else None

    async def read_large(self, body: bytes) -> Iterable[LLMResultChunk]:
        """Return the chunks of a large complete body. Raises InvokeError."""
        try:
            return self._headers.onto(await self._exchange.read_large(body))
        except InvokeError as error:
            raise self._named(error) from error

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return the last chunks of a response that has arrived completely.

        Raises InvokeError if it is an error, or not complete in itself.
        """
        if self._error_body is not None:
            raise self._refusal()
        reader, connection = self._reader, self._connection
        if reader is None or connection is None:
            return ()
        if self._unpacking is not None:
            self._check_unpacked(self._unpacking, connection)
        return self._naming(reader.finish())

    def timeout_error(self) -> InvokeError:
        """Return the error for a server that has sent nothing within `byte_gap`."""
        if self._error_body is not None:
            self._error_body.clear()
            return self._refusal()
        failure = "sent nothing more" if self.has_head else "sent no response"
        server = self._head.way.description
        problem = f"{server} {failure} within {self.byte_gap:g} s"
        return self._named(InvokeTimeoutError(problem))

    def pause(self) -> None:
        """Stop reading, because the caller does not keep up."""
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.resume_reading()

    def close(self) -> None:
        """End the exchange: keep the connection if the response was read, else drop it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.finish(connection)

    def _begin(self, connection: Connection) -> None:
        """Choose how the response is read, by its head."""
        self.has_head = True
        answer = connection.answer
        held = self._exchange.answer_headers(answer.first_lines.items())
        self._headers.held = held
        if not 200 <= answer.status < 300:
            self._error_body = []
            return
        if answer.has_header(b"content-encoding"):
            coding = answer.headers["content-encoding"]
            self._unpacking = None if is_plain(coding) else Decompressor(coding)
        content_type = answer.first_line(b"content-type").decode("latin-1")
        self._reader = self._exchange.reader(content_type)

    def _read(self, data: bytes, connection: Connection) -> Iterable[LLMResultChunk]:
        """Return the chunks of some bytes of the body."""
        if self._error_body is not None:
            return self._keep_error_body(data)
        reader = self._reader
        if reader is None:
            return ()
        if self._unpacking is not None:
            data = self._unpacked(data, self._unpacking, connection)
        self._size += len(data)
        limit = MAX_ANSWER if isinstance(reader, CompleteReader) else MAX_BODY
        if self._size > limit:
            raise self._named(
                ResponseTooLargeError(
                    f"{connection.way.description} sent a response larger than"
                    f" {limit:,} bytes"
                )
            )
        return self._naming(reader.feed(data))

    def _keep_error_body(self, data: bytes) -> Iterable[LLMResultChunk]:
        """Keep a part of an error response. Raises the error if the rest is not worth
        reading."""
        self._size += len(data)
        if self._error_body is None:
            return ()
        self._error_body.append(data)
        if self._size > MAX_ERROR:
            self._error_body.clear()
            raise self._refusal()
        return ()

    def _unpacked(
        self, data: bytes, unpacking: Decompressor, connection: Connection
    ) -> bytes:
        """Return decompressed bytes. Raises InvokeError if they cannot be unpacked."""
        try:
            return b"".join(unpacking.feed(data))
        except (BombError, UnpackError) as error:
            server = connection.way.description
            raise self._named(decompression_error(server, error)) from error

    def _check_unpacked(self, unpacking: Decompressor, connection: Connection) -> None:
        """Raise InvokeError if a compressed body is not complete."""
        try:
            unpacking.finish()
        except UnpackError as error:
            raise self._named(
                decompression_error(connection.way.description, error)
            ) from error

    def _naming(self, chunks: Iterable[LLMResultChunk]) -> Iterable[LLMResultChunk]:
        """Return chunks; an error of reading them gets the provider's name."""
        if self._headers.held is not NO_HEADERS:
            chunks = self._headers.onto(chunks)
        # The usual case, one chunk that is there already, needs no generator.
        if isinstance(chunks, tuple):
            return chunks
        return _with_named_errors(chunks, self._named)

    def _refusal(self) -> InvokeError:
        """Return the error that the response's status stands for."""
        headers: Mapping[str, str] = {}
        status = 0
        if self._connection is not None:
            answer = self._connection.answer
            headers, status = answer.headers, answer.status
        body = b"".join(self._error_body or ())
        provider = self._exchange.endpoint.definition.name
        error = error_of(status, headers, body, provider=provider)
        error.answer_headers = self._headers.held
        error.is_adaptable = self._exchange.learn(error)
        return error

    def _named(self, error: Exception) -> InvokeError:
        """Return an error of a call with the provider's name."""
        if not isinstance(error, InvokeError):
            raise error
        named = self._exchange.endpoint.with_provider_name(error)
        if isinstance(named, EndpointNotFoundError):
            named.is_adaptable = self._exchange.learn(named)
        return named
