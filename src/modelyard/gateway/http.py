"""Requests and replies over ASGI, without a framework, to keep the path from the socket
to the model short."""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qs

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import whole_number
from modelyard.base.json_types import JsonValue
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.keep_alive import SilenceTimer
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.attribution import (
    Attribution,
    known_name,
    read_name,
    read_tags,
)
from modelyard.runtime.invocation import ANONYMOUS_CALLER, Context
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller, set_current_caller

logger = logging.getLogger("modelyard.gateway")

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

encode = msgspec.json.Encoder().encode
_WATCH_DELAY_SECONDS = 0.05  # seconds
# x-accel-buffering tells nginx not to buffer the stream.
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


CACHE = b"x-modelyard-cache"
"""Request header: `on` allows a cached response at any temperature, `refresh` renews
the cached one, `off` bypasses the cache."""


SESSION = b"x-modelyard-session"
"""Request header: the session, such as a conversation, that the call belongs to."""
PROJECT = b"x-modelyard-project"
TAGS = b"x-modelyard-tags"
"""Request header: tags with commas between."""
CLAUDE_CODE_SESSION = b"x-claude-code-session-id"


SMALL_BODY = 1 << 16
"""Body limit for forms: what a connection buffers anyway, and more than a user types.
"""


class RefusedError(ModelyardError):
    """The server refuses a request, permanently or for now, and closes the connection."""

    status: ClassVar[int] = 400
    code = "malformed_request"


class BodyTooLargeError(RefusedError):
    """The body exceeds the limit."""

    status = 413
    code = "request_too_large"


class TargetTooLongError(RefusedError):
    """The path with its query exceeds the limit."""

    status = 414
    code = "address_too_long"


class HeadersTooLargeError(RefusedError):
    """The headers exceed the limit."""

    status = 431
    code = "headers_too_large"


class RequestTimeoutError(RefusedError):
    """The request arrived too slowly."""

    status = 408
    code = "request_timeout"


class ServerBusyError(RefusedError):
    """The server has no capacity at the moment."""

    status = 503
    code = "server_busy"
    retry_after = 1.0


class ServerStoppingError(RefusedError):
    """The server is shutting down."""

    status = 503
    code = "server_stopping"
    retry_after = 1.0


class ClientDisconnected(ModelyardError):
    """The client disconnected; no response can be sent."""

    code = "client_gone"


@dataclass(slots=True)
class Request:
    """One HTTP request. `id` identifies it in the log, in errors and in the header
    `x-request-id` of the response."""

    scope: Scope
    receive: Receive
    id: str
    caller: Caller
    max_body: int
    bodies: BodyBudget = field(default_factory=BodyBudget)
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Values of the named parts of the path."""
    payer: str = ""
    """Tenant whose share of the body memory is used; set by routes that authenticate by
    other means than API keys."""
    late_headers: Callable[[], Mapping[str, str]] | None = None
    """Returns headers that are known only when the response starts. They replace those
    of the same names; an empty one only removes them."""
    left_out: tuple[str, ...] | None = None
    """The fields that the server which has answered did not get; None as long as that is
    not known."""
    lost: tuple[str, ...] = ()
    """The names of what the answer contains and the caller's format does not have."""
    model: str = ""
    """The model, if the path names it and not the body, as Azure's paths do."""
    error_reply: "Callable[[ModelyardError, str], Reply] | None" = None
    """(error, request id) → reply, in the format of the API that the request reaches;
    None before it is routed."""
    endpoint: str = ""
    """Method and path of the route, with names in place of values; empty before the
    request is routed."""
    is_call: bool = False
    """Whether the route calls a model or runs an app, so that a refusal is recorded."""
    is_recorded: bool = False
    """Whether what the request began has a record of its own, as a run has."""
    asked_model: str = ""
    """The model that the request names, once that is known."""
    contexts: tuple[Context, ...] = ()
    """The contexts of the models that were looked up for the request."""

    @property
    def tenant(self) -> str:
        """The caller's tenant."""
        return self.caller.tenant

    @property
    def has_record(self) -> bool:
        """Whether the request is recorded elsewhere: as a run, or as a model call that
        has begun, which has taken the id of its context."""
        return self.is_recorded or not all(context.id for context in self.contexts)

    def add_late_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Add the headers that are known only now to those of a response that starts."""
        if self.late_headers is None:
            return
        for name, value in self.late_headers().items():
            line = (name.encode(), value.encode("latin-1", "replace"))
            headers[:] = [header for header in headers if header[0] != line[0]]
            if value:
                headers.append(line)

    def identify(self, caller: Caller) -> None:
        """Set the authenticated caller: everything that the server does for this
        request is on its behalf."""
        self.caller = caller
        self.payer = caller.tenant
        # Logging and model calls read the caller from a context variable.
        set_current_caller(caller)

    def find(
        self, manager: ModelManager, name: str, model_type: ModelType
    ) -> ModelInstance:
        """Return a model as this caller may use it.

        Raises NotFoundError, ModelNotAllowedError, InvokeBadRequestError.
        """
        self.asked_model = name
        cache = self.header(CACHE) or ""
        if cache not in ("", "on", "off", "refresh"):
            # An invalid header is an error of the caller; ignoring it could return a
            # cached response by mistake.
            raise InvokeBadRequestError(
                f"'{CACHE.decode()}' must be on, off or refresh, not {cache!r}",
                param=CACHE.decode(),
            )
        context = Context(
            id=self.id,
            cache=cache,
            attribution=self._attribution(),
            endpoint=self.endpoint,
        )
        self.contexts = (*self.contexts, context)
        return manager.find(self.caller, name, model_type, context=context)

    def _attribution(self) -> Attribution:
        """Return what the headers say that the call belongs to. Raises
        InvokeBadRequestError for invalid ones."""
        session = read_name(self.header(SESSION) or "", SESSION.decode())
        project = read_name(self.header(PROJECT) or "", PROJECT.decode())
        tags = read_tags(self.header(TAGS) or "", TAGS.decode())
        if not session:
            session = known_name(self.header(CLAUDE_CODE_SESSION))
        return Attribution(session, project, tags)

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.scope["method"]

    @property
    def path(self) -> str:
        """The path of the URL."""
        return self.scope["path"]

    def query(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None."""
        values = parse_qs(self.scope.get("query_string", b"").decode("latin-1")).get(
            name
        )
        return values[0] if values else None

    def queries(self, name: str) -> list[str]:
        """Return all values of a query parameter, written as `name=a&name=b`,
        `name[]=a` or `name=a,b`."""
        parameters = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        return [
            one
            for value in (*parameters.get(name, ()), *parameters.get(f"{name}[]", ()))
            for one in value.split(",")
            if one
        ]

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, or None. The name is in lower case.

        Blanks around a value are not part of it (RFC 9110, 5.5).
        """
        raw_value = next(
            (value for key, value in self.scope["headers"] if key == name), None
        )
        if raw_value is None:
            return None
        return raw_value.strip(b" \t").decode("latin-1")

    @property
    def is_https(self) -> bool:
        """Whether the client uses HTTPS, to this server or to a proxy in front of it."""
        return (
            self.scope.get("scheme") == "https"
            or self.header(b"x-forwarded-proto") == "https"
        )

    async def body(self, max_bytes: int | None = None) -> bytes:
        """Return the whole body, of at most `max_bytes`, by default the server's limit.

        Raises BodyTooLargeError as early as possible, ClientDisconnected if the client
        disconnects, another RefusedError if the body arrives too slowly or too many
        arrive at once.
        """
        max_bytes = (
            self.max_body if max_bytes is None else min(max_bytes, self.max_body)
        )
        # Check the declared length first: a large body is refused before it is read.
        length = whole_number(self.header(b"content-length") or "0")
        # The ASGI server has already refused a length that is not a number.
        if length is None or length > max_bytes:
            raise self._too_large(max_bytes)
        message = await self.receive()
        # Most bodies arrive in one message and need no budget.
        if message["type"] == "http.request" and not message.get("more_body"):
            data: bytes = message.get("body", b"")
            if len(data) > max_bytes:
                raise self._too_large(max_bytes)
            return data
        return await self._read_chunks(message, max_bytes)

    async def _read_chunks(
        self, message: MutableMapping[str, Any], max_bytes: int
    ) -> bytes:
        """Collect a body that arrives in several messages. Incomplete bodies count
        against a budget shared by all callers."""
        data = bytearray()
        with self.bodies.share(self._payer()) as share:
            while True:
                if message["type"] != "http.request":
                    raise disconnect_reason(message)
                chunk: bytes = message.get("body", b"")
                # The declared length may be missing or wrong, so the real size is
                # checked too.
                if len(data) + len(chunk) > max_bytes:
                    raise self._too_large(max_bytes)
                if not share.grow(len(chunk)):
                    raise ServerBusyError(
                        "Too many large requests at the same time; try again later"
                    )
                data += chunk
                if not message.get("more_body"):
                    return bytes(data)
                message = await self.receive()

    def _payer(self) -> tuple[str, bool]:
        """Return the budget's account, and whether it is an authenticated one.
        Anonymous callers are counted by address."""
        # Routes that authenticate by other means set the payer themselves.
        if self.payer:
            return self.payer, True
        if self.caller is not ANONYMOUS_CALLER:
            return self.caller.tenant, True
        client = self.scope.get("client")
        return str(client[0]) if client else "", False

    def _too_large(self, max_bytes: int) -> BodyTooLargeError:
        """Return the error that names the limit which was exceeded."""
        # A route with its own limit: the server's setting would not help.
        if max_bytes < self.max_body:
            return BodyTooLargeError(
                f"Request body exceeds {max_bytes:,} bytes, the limit of this endpoint"
            )
        allowed = max_bytes // (1 << 20)
        return BodyTooLargeError(
            f"Request body exceeds {allowed} MB, the server's limit (max_body_mb)"
        )

    async def cancel_on_disconnect(self, work: Awaitable[T]) -> T:
        """Await `work`, but cancel it if the client disconnects. The body must have
        been read completely."""
        with DisconnectWatcher(self.receive):
            return await work

    async def json(self, max_bytes: int | None = None) -> JSON:
        """Return the body as a JSON object.

        Raises InvokeBadRequestError if it is not one.
        """
        document = read_json(await self.body(max_bytes))
        if self.model:
            document["model"] = self.model
        return document


def disconnect_reason(message: Mapping[str, Any]) -> ModelyardError:
    """Return the error for a message that arrived instead of the next part of the body."""
    error = message.get("error")
    # The server puts its own reason into the message, for example a timeout.
    return (
        error
        if isinstance(error, ModelyardError)
        else ClientDisconnected("Client disconnected before the request was complete")
    )


# Browsers must not guess a type: an answer could then run as a script.
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
# Answers belong to one caller, so no cache on the way may keep them.
_NO_STORE = (b"cache-control", b"no-store")
LINE_BREAKS = bytes.maketrans(b"\r\n\0", b"   ")
"""For `translate`: a header's value must not contain them."""


def finish_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Apply the rules for all responses.

    Browsers must not guess another content type; responses without a caching rule are
    not cached; and a header value cannot contain a line break, which would inject
    another header.
    """
    has_cache_control = False
    for index, (name, value) in enumerate(headers):
        # Values can contain text of callers, for example a file name.
        if b"\r" in value or b"\n" in value or b"\0" in value:
            headers[index] = (name, value.translate(LINE_BREAKS))
        has_cache_control = has_cache_control or name == b"cache-control"
    if not has_cache_control:
        headers.append(_NO_STORE)
    if _NO_SNIFF not in headers:
        headers.append(_NO_SNIFF)


def read_json(body: bytes) -> JSON:
    """Parse a JSON object.

    Raises InvokeBadRequestError if it is not one.
    """
    try:
        document: JsonValue = decode_body(body)
    except BodyError as error:
        raise InvokeBadRequestError(f"The request is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvokeBadRequestError("The request must be a JSON object")
    return document


@dataclass(slots=True)
class Reply:
    """A complete response."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: Mapping[str, str] | None = None
    cookies: Sequence[str] = ()
    """Cookies in addition to one in `headers`; each becomes a header of its own."""

    def response_headers(self, request_id: bytes) -> list[tuple[bytes, bytes]]:
        """Return the headers of the response."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            request_id_line(request_id, self.headers or {}),
        ]
        headers += [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in (self.headers or {}).items()
        ]
        headers += [
            (b"set-cookie", cookie.encode("latin-1", "replace"))
            for cookie in self.cookies
        ]
        return headers

    async def send(self, send: Send, request_id: bytes) -> None:
        """Send the response."""
        headers = self.response_headers(request_id)
        await send(
            {"type": "http.response.start", "status": self.status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": self.body})


def request_id_line(request_id: bytes, names: Container[str]) -> tuple[bytes, bytes]:
    """Return the header with the id of a request.

    If `names`, the other headers of the reply, include the provider's id under the
    usual name, this server's has a name of its own.
    """
    name = b"x-modelyard-request-id" if "x-request-id" in names else b"x-request-id"
    return name, request_id


def _names_of(lines: Sequence[tuple[bytes, bytes]]) -> set[str]:
    """Return the names of header lines."""
    return {name.decode("latin-1") for name, _ in lines}


def json_reply(
    document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """Return a JSON response."""
    return Reply(encode(document), status, headers=headers)


@dataclass(slots=True)
class StreamReply:
    """A streamed response. The status is sent with the first chunk or the first
    keep-alive, so that an error before that has its own status."""

    chunks: AsyncGenerator[bytes, None]
    on_error: Callable[[ModelyardError], bytes] | None
    """Returns the last chunk of a stream that fails; None if the format has none, and
    then the connection is closed."""
    headers: list[tuple[bytes, bytes]]
    status: int = 200
    keep_alive: bytes = b""
    """Sent while no chunk comes; empty if the format has nothing that clients skip."""

    async def send(
        self,
        send: Send,
        request_id: bytes,
        receive: Receive,
        ending: "Shutdown | None" = None,
        keep_alive_seconds: float = 0.0,
    ) -> None:
        """Send the stream; cancel it if the client disconnects.

        `keep_alive_seconds`: silence after which a keep-alive is sent; 0 for none.
        """
        # `aclosing` ends the upstream request at once if anything below fails.
        async with aclosing(self.chunks) as chunks:
            with DisconnectWatcher(receive):
                sender = _StreamSender(self, send, request_id, keep_alive_seconds)
                try:
                    await sender.send_chunks()
                except asyncio.CancelledError:
                    # Only a cancellation by the shutdown is turned into an error event.
                    stopping = sender.shutdown_error(ending)
                    if stopping is None:
                        raise
                    await chunks.aclose()
                    await self._send_error(stopping, send)
                except ModelyardError as error:
                    # Nothing was sent yet: the caller gets an error response.
                    if not sender.has_started:
                        raise
                    await self._send_error(error, send)
        # Outside the watch: the end of a response would be reported as a disconnect.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_error(self, error: ModelyardError, send: Send) -> None:
        """Send the error as the last chunk.

        Raises the error if the format has none, which closes the connection.
        """
        # Without an error chunk, a closed connection is the only way to show that the
        # response is incomplete.
        if self.on_error is None:
            raise error
        log_stream_error(error)
        await send(
            {
                "type": "http.response.body",
                "body": self.on_error(error),
                "more_body": True,
            }
        )


def log_stream_error(error: ModelyardError) -> None:
    """Log that a stream has ended with an error."""
    logger.warning("stream failed", extra={"fields": {"error": str(error)}})


class _StreamSender:
    """Sends the head and the chunks of a StreamReply, and its keep-alives in between.

    A keep-alive is sent by a task of its own while the next chunk is awaited; nothing
    else is sent before that task has ended.
    """

    __slots__ = (
        "_keep_alive_task",
        "_reply",
        "_request_id",
        "_send",
        "_timer",
        "has_started",
    )

    def __init__(
        self, reply: StreamReply, send: Send, request_id: bytes, seconds: float
    ) -> None:
        self._reply = reply
        self._send = send
        self._request_id = request_id
        # The task that sends a keep-alive; None as soon as it was sent.
        self._keep_alive_task: asyncio.Task[None] | None = None
        self.has_started = False
        """Whether the head was sent."""
        self._timer = SilenceTimer(
            seconds if reply.keep_alive else 0.0, self._start_keep_alive
        )

    async def send_chunks(self) -> None:
        """Send all chunks. Afterwards no keep-alive is sent, however this ends."""
        send, timer, now = self._send, self._timer, asyncio.get_running_loop().time
        try:
            async for chunk in self._reply.chunks:
                timer.waiting_since = None
                if self._keep_alive_task is not None:
                    await self._keep_alive_task
                if not self.has_started:
                    await self._start()
                await send(
                    {"type": "http.response.body", "body": chunk, "more_body": True}
                )
                timer.waiting_since = now()
        except asyncio.CancelledError:
            if self._keep_alive_task is not None:
                self._keep_alive_task.cancel()
            raise
        finally:
            timer.stop()
            if self._keep_alive_task is not None:
                await asyncio.gather(self._keep_alive_task, return_exceptions=True)
        # A stream without chunks has a head too.
        if not self.has_started:
            await self._start()

    def shutdown_error(self, ending: "Shutdown | None") -> ServerStoppingError | None:
        """Return the error to send as the last chunk if the shutdown cancelled the
        running task in mid-response; otherwise None."""
        # Before the head, the cancellation becomes an error response.
        if ending is None or not self.has_started:
            return None
        return ending.shutdown_error()

    async def _start(self) -> None:
        """Send the head."""
        headers = self._reply.headers
        headers = [*headers, request_id_line(self._request_id, _names_of(headers))]
        await self._send(
            {
                "type": "http.response.start",
                "status": self._reply.status,
                "headers": headers,
            }
        )
        self.has_started = True

    def _start_keep_alive(self) -> None:
        """Start to send a keep-alive, unless the previous one is still being sent
        because the client does not read, or has failed."""
        if self._keep_alive_task is None:
            self._keep_alive_task = asyncio.create_task(self._send_keep_alive())

    async def _send_keep_alive(self) -> None:
        """Send a keep-alive, after the head if it is the first thing that is sent."""
        if not self.has_started:
            await self._start()
        await self._send(
            {
                "type": "http.response.body",
                "body": self._reply.keep_alive,
                "more_body": True,
            }
        )
        self._keep_alive_task = None


class Shutdown:
    """The shutdown of the server. Requests that are still running at its deadline are
    cancelled and tell their clients."""

    def __init__(self) -> None:
        self.is_over = False
        self.listeners: list[Callable[[], None]] = []
        """Called when the shutdown begins, before running requests are waited for."""
        self.work: list[Callable[[], int]] = []
        """Each returns how much is under way that no request waits for, such as runs
        whose callers have gone. It is waited for like requests."""

    def begin(self) -> None:
        """Tell the listeners that the server begins to stop."""
        for listener in self.listeners:
            listener()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way that no request waits for."""
        return not any(count() for count in self.work)

    def shutdown_error(self) -> ServerStoppingError | None:
        """Return the error for the running task if the shutdown cancelled it, otherwise
        None. The task may then continue, to send it."""
        error = self.current_error()
        if error is not None and (task := asyncio.current_task()) is not None:
            # Revoke the cancellation, so that the next await does not raise again.
            task.uncancel()
        return error

    def current_error(self) -> ServerStoppingError | None:
        """Return the error for a request that is cut off now; None while the server is
        not stopping."""
        if not self.is_over:
            return None
        return ServerStoppingError("The server is shutting down; try again in a moment")


class DisconnectWatcher:
    """Context manager that cancels its body if the client disconnects, and then raises
    ClientDisconnected.

    It must not span the end of a response, which ASGI servers report as a disconnect
    too.
    """

    __slots__ = ("_receive", "_task", "_timer", "_watch", "_why")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._why: ModelyardError | None = None
        self._watch: asyncio.Future[ModelyardError] | None = None

    def __enter__(self) -> None:
        """Start watching after a short delay."""
        self._task = asyncio.current_task()
        # Most whole answers are there before it is worth a task to watch for a caller who leaves.
        self._timer = asyncio.get_running_loop().call_later(
            _WATCH_DELAY_SECONDS, self._start_watching
        )

    def _start_watching(self) -> None:
        """Start the task that waits for a disconnect."""
        self._watch = asyncio.ensure_future(_wait_for_disconnect(self._receive))
        self._watch.add_done_callback(self._on_disconnect)

    def _on_disconnect(self, watch: asyncio.Future[ModelyardError]) -> None:
        """Cancel the body, because the client disconnected."""
        if not watch.cancelled() and self._task is not None:
            self._why = watch.result()
            self._task.cancel()

    def __exit__(
        self, exception_type: type[BaseException] | None, *details: object
    ) -> None:
        """Stop watching. Raises the reason if the body was cancelled by a disconnect."""
        self._timer.cancel()
        if self._watch is not None:
            # Remove the callback first, so that cancelling the watch does not cancel
            # the task.
            self._watch.remove_done_callback(self._on_disconnect)
            self._watch.cancel()
        # If others cancelled the task too, their CancelledError has to go on.
        if (
            self._why is not None
            and self._task is not None
            and self._task.uncancel() == 0
        ):
            raise self._why from None


async def _wait_for_disconnect(receive: Receive) -> ModelyardError:
    """Wait until the client disconnects, and return the reason."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return disconnect_reason(message)


def sse_reply(
    chunks: AsyncGenerator[bytes, None],
    on_error: Callable[[ModelyardError], bytes],
    headers: Mapping[str, str] | None = None,
    *,
    keep_alive: bytes = b"",
) -> StreamReply:
    """Return an SSE response. `on_error` returns the last chunk if the stream fails;
    `keep_alive` is sent while no chunk comes."""
    extra_headers = [
        (name.encode(), value.encode("latin-1", "replace"))
        for name, value in (headers or {}).items()
    ]
    return StreamReply(chunks, on_error, [*_SSE, *extra_headers], keep_alive=keep_alive)


def audio_reply(chunks: AsyncGenerator[bytes, None], content_type: str) -> StreamReply:
    """Return a streamed audio response. It has no error chunk."""
    return StreamReply(chunks, None, [(b"content-type", content_type.encode())])


SSE_DONE = b"data: [DONE]\n\n"
