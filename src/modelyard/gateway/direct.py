"""Chat calls that are answered straight from the server's protocol class.

The usual way of a request (an ASGI application, a task, generators) costs more than the
call itself. A request whose head, body, caller and model are plain takes this way: the
bytes of the response go from the provider's connection to the caller's by callbacks.
Everything else, and everything that goes wrong before the first byte, takes the usual
way. Rationale: docs/design/0019-data-path.md.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from msgspec import structs

from modelyard.base.call_headers import NO_HEADERS, CallHeaders
from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import whole_number
from modelyard.base.ids import new_id
from modelyard.gateway.answer_losses import DROPPED, AnswerLosses, with_losses
from modelyard.gateway.auth import ACTING_HEADERS, Authenticator
from modelyard.gateway.call_headers import call_headers_of, reply_headers
from modelyard.gateway.chat_response import (
    ADDED_FIELDS,
    UNSUPPORTED,
    StreamWriter,
    collect,
    complete_body,
    dropped_header,
    first_headers,
    name_left_out,
    stream_reply,
)
from modelyard.gateway.errors import KEEP_ALIVES, Shape
from modelyard.gateway.http import (
    CACHE,
    CLAUDE_CODE_SESSION,
    LINE_BREAKS,
    PROJECT,
    SESSION,
    SMALL_BODY,
    TAGS,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    StreamReply,
    log_stream_error,
    request_id_line,
)
from modelyard.gateway.keep_alive import SilenceTimer
from modelyard.gateway.known_heads import KnownHeads
from modelyard.gateway.table import Row
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk
from modelyard.models.passthrough import (
    PassthroughChunk,
    PassthroughRequest,
    to_parsed_request,
)
from modelyard.models.streams import StreamDumper
from modelyard.models.types import JSON, Chunks, ModelType
from modelyard.runtime.direct_call import DirectCall, DirectCalls
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.overload import LoadController
from modelyard.tenancy.caller import Caller, set_current_caller

# Written out, because building it from lines would cost more than the rest of the
# response.
_COMPLETE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"%b\r\n%bcache-control: no-store\r\n"
    b"x-content-type-options: nosniff\r\n\r\n"
)
# x-accel-buffering tells nginx not to buffer the stream.
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\n%b\r\n%b"
    b"x-content-type-options: nosniff\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NEVER = float("inf")
_MAX_INSTANCES = 256
"""Names of models that are stored with a head."""
_LAST_FRAME = b"0\r\n\r\n"
_SPECIAL_HEADERS = frozenset(
    (
        b"upgrade",
        b"expect",
        b"content-encoding",
        CACHE,
        UNSUPPORTED,
        *ACTING_HEADERS,
        SESSION,
        PROJECT,
        TAGS,
        CLAUDE_CODE_SESSION,
    )
)
"""Headers of requests that take the usual way."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an API writes the answers of chats."""

    prefix: str
    """Prefix of an id if the provider sends none."""
    shape: Shape
    """Format of the errors."""
    frame: Callable[[JSON], bytes]
    """Returns an event of a stream as bytes."""
    dump: Callable[[LLMResult], JSON]
    last: bytes = b""
    """What follows the last event of a stream."""


class DirectChat(msgspec.Struct, frozen=True):
    """A chat request as its API reads it."""

    model: str
    """The name that the caller has given."""
    request: LLMRequest | PassthroughRequest
    format: AnswerFormat
    make: Callable[..., StreamDumper]
    """Builds the dumper of a stream with the request's own options."""
    added_fields: Collection[str] = ADDED_FIELDS
    """Fields that the provider gets although the caller has not sent them."""


class AdmittedHead(msgspec.Struct, frozen=True):
    """What the head of a request means that may be answered directly."""

    row: Row
    caller: Caller
    version: tuple[int, int]
    """The version of the authentication that has identified the caller."""
    call_headers: CallHeaders
    """The headers that go along with the call. The others are not kept: they contain
    credentials."""
    instances: dict[str, tuple[ModelInstance, int]] = {}
    """The models that were called with this head, by the name as written, each with the
    number of changes of the models until then."""


class DirectHandler(Protocol):
    """A handler of a chat API that can read a request without awaiting anything."""

    @property
    def wire_format(self) -> str:
        """The wire format of the requests."""
        ...

    def read_direct(self, body: bytes) -> DirectChat | None:
        """Return the request; None if it has to be read in the usual way. Raises
        ModelyardError for an invalid one."""
        ...


class ClientConnection(Protocol):
    """The connection of a caller whose request has arrived completely."""

    def write(self, data: bytes) -> None:
        """Write a part of the response."""
        ...

    def end_response(self) -> None:
        """The response is complete."""
        ...

    def abort(self) -> None:
        """Close at once, so that the caller sees a truncated response."""
        ...

    def run(self, app: "Callable[[Scope, Receive, Send], Awaitable[None]]") -> None:
        """Answer the request by an ASGI application instead."""
        ...


class DirectAnswer:
    """The response to one direct call: receives its chunks and writes them to the
    caller. Implements `modelyard.runtime.direct_call.Receiver`."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_has_begun",
        "_task",
        "_writer",
        "call",
        "chat",
        "client",
        "gateway",
        "headers",
        "instance",
        "is_over",
        "request_id",
    )

    def __init__(
        self,
        client: ClientConnection,
        chat: DirectChat,
        instance: ModelInstance,
        gateway: "DirectGateway",
        request_id: str,
        headers: Mapping[str, str],
    ) -> None:
        self.client = client
        self.chat = chat
        self.instance = instance
        self.gateway = gateway
        self.request_id = request_id
        self.headers = headers
        self.call: DirectCall | None = None
        self.is_over = False
        """Whether nothing more is written directly."""
        self._writer = self.writer() if chat.request.stream else None
        self._chunks: list[LLMResultChunk] = []
        self._buffer: list[bytes] = []
        self._has_begun = False
        self._task: asyncio.Task[None] | None = None

    @property
    def caller(self) -> Caller:
        """Who makes the call."""
        return self.instance.caller

    def writer(self) -> StreamWriter:
        """Return a new writer of the stream."""
        chat = self.chat
        return StreamWriter(
            self.instance.model,
            self.gateway.clock,
            chat.make,
            prefix=chat.format.prefix,
            frame=chat.format.frame,
            last=chat.format.last,
            is_verbatim=isinstance(chat.request, PassthroughRequest),
            wire_format=chat.request.format,
        )

    # what the call reports

    def take_chunk(self, chunk: Any) -> None:
        """Take the next chunk."""
        # The first chunk carries the headers of the provider's response.
        if chunk.headers is not NO_HEADERS and not self._has_begun:
            self._add_headers(chunk.headers)
        if self._writer is None:
            self._chunks.append(chunk)
        elif data := self._writer.feed(chunk):
            self._buffer.append(data)

    def _add_headers(self, headers: CallHeaders) -> None:
        """Add headers of the provider's response, and name what its server did not
        get."""
        passed = reply_headers(headers, self.chat.format.shape)
        if headers.dropped is not None:
            passed = {
                **passed,
                **dropped_header(headers.dropped, self.chat.added_fields),
            }
        merged = {**self.headers, **passed}
        self.headers = {name: value for name, value in merged.items() if value}

    def flush(self) -> None:
        """Send what was taken."""
        if self._buffer and not self.is_over:
            buffer = self._buffer
            data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
            buffer.clear()
            self._write_frame(data)

    def finish(self) -> None:
        """Send the rest of the response."""
        if self.is_over:
            return
        if self._writer is None:
            try:
                body = self.complete_body(self._chunks)
            except ModelyardError as error:
                # An answer that cannot be written must not leave the caller waiting.
                self.fail(error)
                return
            if lost := self.losses_of(self._chunks):
                self.headers = with_losses(self.headers, lost)
            request_id, lines = self._header_lines()
            head = _COMPLETE_HEAD % (len(body), request_id, lines)
            self.client.write(head + body)
        else:
            self._buffer.append(self._writer.finish())
            self.flush()
            self.client.write(_LAST_FRAME)
        self._end()

    def fail(self, error: BaseException) -> None:
        """Send an error: as a response of its own before the first byte, as the last
        event after it."""
        if self.is_over:
            return
        # What was taken counts as sent, even if it has come together with the error.
        if not self._has_begun and not self._buffer:
            self.is_over = True
            self.gateway.answer_error(self, error)
        elif isinstance(error, ModelyardError):
            event = self._error_event(error)
            log_stream_error(error)
            self._buffer.append(event)
            self.flush()
            self.client.write(_LAST_FRAME)
            self._end()
        else:
            self.is_over = True
            self.client.abort()

    def take_over(self, chunks: Chunks) -> None:
        """Let the usual way send the response; after a keep-alive, go on with the one
        that has begun."""
        if self._has_begun:
            self._task = asyncio.ensure_future(self._go_on(chunks))
        else:
            self.is_over = True
            self.gateway.answer_rest(self, chunks)

    async def _go_on(self, chunks: Chunks) -> None:
        """Write the rest of a stream whose first attempt has failed after a keep-alive."""
        timer = SilenceTimer(self.gateway.keep_alive_seconds(), self.keep_alive)
        now = asyncio.get_running_loop().time
        # The task has the context of the provider's connection, which another request
        # may have opened.
        set_current_caller(self.caller)
        try:
            async with aclosing(chunks) as stream:
                async for chunk in stream:
                    self.take_chunk(chunk)
                    self.flush()
                    timer.waiting_since = now()
        except ModelyardError as error:
            self.fail(error)
        except Exception as error:
            self.fail(error)
            raise
        else:
            self.finish()
        finally:
            timer.stop()

    def keep_alive(self) -> None:
        """Write a sign of life, because nothing was written for a while."""
        if self._writer is not None and not self.is_over:
            self._write_frame(KEEP_ALIVES[self.chat.format.shape])

    # what the server does

    def cancel(self) -> None:
        """End the response because the server stops."""
        if self.is_over or self.call is None:
            return
        self._stop()
        error = self.gateway.shutdown_error()
        if error is None:
            self.is_over = True
            self.client.abort()
        else:
            self.fail(error)

    def leave(self) -> None:
        """End the call because the caller has left."""
        self.is_over = True
        self._stop()

    def _stop(self) -> None:
        """End the call."""
        if self._task is not None:
            self._task.cancel()
        if self.call is not None:
            self.call.cancel()

    def pause(self) -> None:
        """Read no more for now: the caller does not keep up."""
        if self.call is not None:
            self.call.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self.call is not None:
            self.call.resume()

    def complete_body(self, chunks: Sequence[LLMResultChunk]) -> bytes:
        """Return the body of a response that is not a stream."""
        chat_format = self.chat.format
        return complete_body(
            chunks,
            self.instance.model,
            self.gateway.clock,
            chat_format.dump,
            chat_format.prefix,
        )

    def losses_of(self, chunks: Sequence[LLMResultChunk]) -> tuple[str, ...]:
        """Return the names of what a complete answer loses in the caller's format."""
        # What passes through unchanged loses nothing; most answers are of that kind.
        parsed = [chunk for chunk in chunks if not isinstance(chunk, PassthroughChunk)]
        if not parsed:
            return ()
        losses = AnswerLosses(self.chat.request.format)
        for chunk in parsed:
            losses.add_chunk(chunk)
        return losses.names

    def _error_event(self, error: ModelyardError) -> bytes:
        """Return the last event of a stream that fails."""
        writer = self._writer or self.writer()
        return writer.fail(self.chat.format.shape, error)

    def _write_frame(self, data: bytes) -> None:
        """Write a part of the stream, after the head if it is the first one."""
        frame = b"%x\r\n%b\r\n" % (len(data), data)
        if not self._has_begun:
            self._has_begun = True
            frame = _STREAM_HEAD % self._header_lines() + frame
        self.client.write(frame)

    def _header_lines(self) -> tuple[bytes, bytes]:
        """Return the line of the request id, and the lines of further headers."""
        request_id = self.request_id.encode()
        if not self.headers:
            return b"x-request-id: " + request_id, b""
        lines = [
            b"%b: %b\r\n"
            % (name.encode(), value.encode("latin-1", "replace").translate(LINE_BREAKS))
            for name, value in self.headers.items()
        ]
        own_id = request_id_line(request_id, self.headers)
        return b": ".join(own_id), b"".join(lines)

    def _end(self) -> None:
        self.is_over = True
        # The two refer to each other. Cut apart, they are freed at once and not by the
        # garbage collector, which would have to look at all objects for it.
        self.call = None
        self.client.end_response()


@dataclass(slots=True, kw_only=True)
class DirectGateway:
    """Decides which requests are answered directly, and starts their calls."""

    authenticator: Authenticator
    manager: ModelManager
    calls: DirectCalls
    clock: Clock
    load: LoadController
    rows: Mapping[tuple[str, str], Row]
    """The rows whose handler is a `DirectHandler`, by method and path."""
    check_host: Callable[[str, str, str | None], None]
    shutdown_error: Callable[[], ModelyardError | None]
    keep_alive_seconds: Callable[[], float]
    """Returns after how many seconds of silence a stream gets a sign of life; 0 for
    never."""
    serve: Callable[..., Awaitable[None]]
    """(scope, receive, send, answer, reply) → sends a reply in the usual way."""
    heads: KnownHeads[AdmittedHead] = field(default_factory=KnownHeads[AdmittedHead])
    """Heads that were admitted before."""

    def admit(self, scope: Scope) -> AdmittedHead | None:
        """Judge a request by its head: None if it has to take the usual way."""
        row = self.rows.get((scope["method"], scope["path"]))
        if row is None or not self.calls.is_possible:
            return None
        handler: Any = row.handler
        call_headers = call_headers_of(scope, handler.wire_format)
        # Those that choose an account may have to be refused.
        if call_headers.account:
            return None
        version = self.authenticator.version
        caller = self._caller_of(row, scope)
        if caller is None:
            return None
        return AdmittedHead(row, caller, version, call_headers)

    def store(self, data: bytes, scope: Scope, head: AdmittedHead) -> None:
        """Store the head of a complete request that was admitted, so that the next one
        like it need not be parsed."""
        # Without a key, it depends on more than the head who the caller is.
        if self.authenticator.has_keys:
            self.heads.store(data, scope["headers"], head)

    def recognise(self, data: bytes) -> tuple[AdmittedHead, bytes] | None:
        """Return what the head of a request means, and its body, if `data` is a
        complete request whose head was admitted before and would be admitted now."""
        known = self.heads.find(data)
        if known is None:
            return None
        head = known[0]
        if not self.authenticator.is_still_valid(head.caller, head.version):
            return None
        return known if self._admits(head.caller) else None

    def _admits(self, caller: Caller) -> bool:
        """Return whether a call may start although the server may be overloaded. The
        usual way refuses those that may not."""
        load = self.load
        if load.is_refusing:
            return load.pre_check(caller.tenant, caller.priority)
        # Such a call is only counted.
        return load.refusal(caller.tenant, caller.priority) is None

    def start(
        self, head: AdmittedHead, body: bytes, client: ClientConnection
    ) -> DirectAnswer | None:
        """Start answering a request; None if it has to take the usual way. Nothing has
        happened then."""
        try:
            answer = self._start(head, body, client)
        # Errors are reported by the usual way, which meets them again. This runs inside
        # a parser's callback, which must not raise.
        except Exception:  # noqa: BLE001
            return None
        if answer is not None and self.load.is_refusing:
            self.load.use_pass(head.caller.tenant)
        return answer

    def _caller_of(self, row: Row, scope: Scope) -> Caller | None:
        """Return the caller if the head of the request is plain and permits the call."""
        lines = scope["headers"]
        headers: dict[bytes, bytes] = dict(lines)
        # A header that occurs twice is for the usual way to judge.
        if len(headers) != len(lines) or not _SPECIAL_HEADERS.isdisjoint(headers):
            return None
        host, length = headers.get(b"host"), headers.get(b"content-length")
        # A larger body counts against a budget, and does not fit into the buffer of its
        # connection.
        text = length.decode("latin-1") if length else ""
        if whole_number(text, maximum=SMALL_BODY) is None:
            return None
        caller = self.authenticator.known_caller(scope)
        role = row.auth.role
        if caller is None or role is None or not caller.role.covers(role):
            return None
        if not self._admits(caller):
            return None
        try:
            self.check_host(
                scope["method"], scope["path"], host.decode("latin-1") if host else None
            )
        except ModelyardError:
            return None
        return caller

    def _instance(self, head: AdmittedHead, name: str) -> ModelInstance:
        """Return a model for a caller. Raises ModelyardError if there is none of this
        name, or the caller may not call it."""
        manager, instances = self.manager, head.instances
        if name in instances:
            instance, changes = instances[name]
            if changes == manager.changes:
                return instance
        instance = manager.find(head.caller, name, ModelType.LLM)
        # Clients can invent names, which must not fill the memory.
        if instance.schema is not None:
            if len(instances) >= _MAX_INSTANCES:
                instances.clear()
            instances[name] = instance, manager.changes
        return instance

    def _start(
        self, head: AdmittedHead, body: bytes, client: ClientConnection
    ) -> DirectAnswer | None:
        """Read the request and start its call. Raises ModelyardError for one that is
        refused."""
        handler: Any = head.row.handler
        chat: DirectChat | None = handler.read_direct(body)
        if chat is None:
            return None
        request_id = new_id("req")
        instance = self._instance(head, chat.model)
        request = chat.request
        if head.call_headers is not NO_HEADERS:
            request = structs.replace(request, headers=head.call_headers)
            chat = structs.replace(chat, request=request)
        # Another format at the provider, or a parameter that has to be changed.
        if isinstance(request, PassthroughRequest) and not instance.can_pass_through(
            request
        ):
            request = to_parsed_request(request)
            chat = structs.replace(chat, request=request)
        headers: Mapping[str, str] = {}
        if isinstance(request, LLMRequest):
            names = instance.unsupported(request)
            headers = dropped_header(names, chat.added_fields)
            headers = headers if headers[DROPPED] else {}
        answer = DirectAnswer(client, chat, instance, self, request_id, headers)
        seconds = self.keep_alive_seconds() if request.stream else 0.0
        call = self.calls.start(
            instance, request, answer, id=request_id, silence_seconds=seconds or _NEVER
        )
        if call is None:
            return None
        if not answer.is_over:
            answer.call = call
        return answer

    def answer_error(self, answer: DirectAnswer, error: BaseException) -> None:
        """Send an error as a response of its own."""

        async def reply(request: Request) -> Reply | StreamReply:
            """Raise the error, which the usual way turns into its response."""
            raise error

        self._run(answer, reply)

    def answer_rest(self, answer: DirectAnswer, chunks: Chunks) -> None:
        """Send the chunks of a call that goes on in the usual way."""

        async def reply(request: Request) -> Reply | StreamReply:
            """Return the response, complete or streamed."""
            return await rest_reply(answer, request, chunks)

        self._run(answer, reply)

    def _run(
        self,
        answer: DirectAnswer,
        reply: Callable[[Request], Awaitable[Reply | StreamReply]],
    ) -> None:
        """Run the usual way for a response that was begun directly."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            """Serve this one response."""
            await self.serve(scope, receive, send, answer, reply)

        answer.client.run(app)


async def rest_reply(
    answer: DirectAnswer, request: Request, chunks: AsyncGenerator[Any, None]
) -> Reply | StreamReply:
    """Return the response of a call that goes on in the usual way."""
    chat = answer.chat
    name_left_out(
        request, answer.instance, chat.request, added_fields=chat.added_fields
    )
    if chat.request.stream:
        return stream_reply(
            request, answer.writer(), chunks, chat.format.shape, answer.headers
        )
    collected = await request.cancel_on_disconnect(collect(chunks))
    request.left_out = first_headers(collected).dropped
    request.lost = answer.losses_of(collected)
    headers = with_losses(answer.headers, request.lost)
    return Reply(answer.complete_body(collected), headers=headers)
