"""Requests and replies over ASGI, with no framework: the hot path has two function calls between socket and model."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qs

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.fields import whole_number
from modelyard.gateway.bodies import BodyBudget
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.invocation import ANYBODY, Context
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller, set_current_caller

logger = logging.getLogger("modelyard.gateway")

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

encode = msgspec.json.Encoder().encode
_PATIENCE = 0.05  # seconds
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


CACHE = b"x-modelyard-cache"
"""`on` to be given an answer that was given before whatever the temperature, `refresh` to have it made anew, `off`."""


SMALL_BODY = 1 << 16
"""As much as one connection buffers anyway, and more than people type into a form."""


class RefusedError(ModelyardError):
    """The server does not take a request as it comes, or not now. The connection is closed after it."""

    status: ClassVar[int] = 400
    code = "malformed_request"


class BodyTooLargeError(RefusedError):
    status = 413
    code = "request_too_large"


class TargetTooLongError(RefusedError):
    status = 414
    code = "address_too_long"


class HeadTooLargeError(RefusedError):
    status = 431
    code = "headers_too_large"


class RequestTimeoutError(RefusedError):
    """It came too slowly."""

    status = 408
    code = "request_timeout"


class ServerBusyError(RefusedError):
    status = 503
    code = "server_busy"
    retry_after = 1.0


class ServerStoppingError(RefusedError):
    status = 503
    code = "server_stopping"
    retry_after = 1.0


class ClientGoneError(ModelyardError):
    """The caller hung up: there is nobody to tell."""

    code = "client_gone"


@dataclass(slots=True)
class Request:
    """One request. `id` names it in the log, in errors and in the answer's `x-request-id`."""

    scope: Scope
    receive: Receive
    id: str
    caller: Caller
    max_body: int
    bodies: BodyBudget = field(default_factory=BodyBudget)
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the named parts of the path hold."""
    payer: str = ""
    """The tenant that what is read counts for; set by those who admit callers by other means than our keys."""

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    def identify(self, caller: Caller) -> None:
        """The caller is known now: whatever the server calls for this request is called on its behalf."""
        self.caller = caller
        self.payer = caller.tenant
        set_current_caller(caller)

    def find(self, manager: ModelManager, name: str, model_type: ModelType) -> ModelInstance:
        """A model as this caller may call it. Raises NotFoundError, ModelNotAllowedError."""
        cache = self.header(CACHE) or ""
        if cache not in ("", "on", "off", "refresh"):
            raise InvokeBadRequestError(
                f"'{CACHE.decode()}' must be on, off or refresh, not {cache!r}", param=CACHE.decode()
            )
        return manager.find(self.caller, name, model_type, context=Context(id=self.id, cache=cache))

    @property
    def method(self) -> str:
        return self.scope["method"]

    @property
    def path(self) -> str:
        return self.scope["path"]

    def query(self, name: str) -> str | None:
        """A value of the address's query."""
        found = parse_qs(self.scope.get("query_string", b"").decode("latin-1")).get(name)
        return found[0] if found else None

    def queries(self, name: str) -> list[str]:
        """All values of one name, in either way of writing several."""
        found = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        return [one for value in (*found.get(name, ()), *found.get(f"{name}[]", ())) for one in value.split(",") if one]

    def header(self, name: bytes) -> str | None:
        found = next((value for key, value in self.scope["headers"] if key == name), None)
        return found.decode("latin-1") if found is not None else None

    @property
    def is_https(self) -> bool:
        """Whether the caller's browser speaks HTTPS, to this server or to a proxy before it."""
        return self.scope.get("scheme") == "https" or self.header(b"x-forwarded-proto") == "https"

    async def body(self, most: int | None = None) -> bytes:
        """The whole body, of at most so many bytes; as many as the server takes where nothing is said.

        Raises BodyTooLargeError as soon as it is known to be, ClientGoneError if it breaks off, another RefusedError
        where it comes too slowly, or where too many come at once.
        """
        most = self.max_body if most is None else min(most, self.max_body)
        length = whole_number(self.header(b"content-length") or "0")
        if length is None or length > most:  # the server refuses a length that is no number before we see it
            raise self._too_large(most)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            data: bytes = message.get("body", b"")
            if len(data) > most:
                raise self._too_large(most)
            return data
        return await self._gathered(message, most)

    async def _gathered(self, message: MutableMapping[str, Any], most: int) -> bytes:
        """A body that comes in pieces. What is unfinished counts against what all callers together may fill."""
        data = bytearray()
        with self.bodies.share(self._payer()) as share:
            while True:
                if message["type"] != "http.request":
                    raise why_gone(message)
                piece: bytes = message.get("body", b"")
                if len(data) + len(piece) > most:
                    raise self._too_large(most)
                if not share.grow(len(piece)):
                    raise ServerBusyError("too many large requests are coming in at once; try again in a moment")
                data += piece
                if not message.get("more_body"):
                    return bytes(data)
                message = await self.receive()

    def _payer(self) -> tuple[str, bool]:
        """(who, whether we know them)."""
        if self.payer:
            return self.payer, True
        if self.caller is not ANYBODY:
            return self.caller.tenant, True
        client = self.scope.get("client")
        return str(client[0]) if client else "", False

    def _too_large(self, most: int) -> BodyTooLargeError:
        if most < self.max_body:
            return BodyTooLargeError(f"the request is larger than {most:,} bytes; this address takes no more")
        allowed = most // (1 << 20)
        return BodyTooLargeError(f"the request is larger than {allowed} MB; the server's max_body_mb allows no more")

    async def while_here(self, work: Awaitable[T]) -> T:
        """The work's result; cancels it where the caller hangs up. For work that follows the whole body."""
        with Presence(self.receive):
            return await work

    async def json(self, most: int | None = None) -> JSON:
        """The body as an object. Raises InvokeBadRequestError where it is none."""
        return read_json(await self.body(most))


def why_gone(message: Mapping[str, Any]) -> ModelyardError:
    """Why no more of a request comes, by what the server was told instead of its next piece."""
    error = message.get("error")
    return error if isinstance(error, ModelyardError) else ClientGoneError("the caller left before the end")


_UNSNIFFED = (b"x-content-type-options", b"nosniff")
_NOT_KEPT = (b"cache-control", b"no-store")
_ENDS = bytes.maketrans(b"\r\n\0", b"   ")


def finish_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """What holds for every answer: no browser guesses another type than the one that is said, nobody on the way
    keeps what does not say how long, and no header's value ends its line, since whoever wrote that would write the next
    header."""
    says_how_long = False
    for place, (name, value) in enumerate(headers):
        if b"\r" in value or b"\n" in value or b"\0" in value:
            headers[place] = (name, value.translate(_ENDS))
        says_how_long = says_how_long or name == b"cache-control"
    if not says_how_long:
        headers.append(_NOT_KEPT)
    if _UNSNIFFED not in headers:
        headers.append(_UNSNIFFED)


def read_json(body: bytes) -> JSON:
    """An object. Raises InvokeBadRequestError where it is none."""
    try:
        document = decode_body(body)
    except BodyError as error:
        raise InvokeBadRequestError(f"the request is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvokeBadRequestError("the request must be a JSON object")
    return document


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: Mapping[str, str] | None = None
    cookies: Sequence[str] = ()
    """Beside the one that `headers` may hold: each is a header of its own."""

    async def send(self, send: Send, request_id: bytes) -> None:
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id),
        ]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in (self.headers or {}).items()]
        headers += [(b"set-cookie", one.encode("latin-1", "replace")) for one in self.cookies]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(encode(document), status, headers=headers)


@dataclass(slots=True)
class StreamReply:
    """An answer in pieces. The first is awaited before anything is sent, so that an early error keeps its status."""

    pieces: AsyncGenerator[bytes, None]
    on_error: Callable[[ModelyardError], bytes] | None
    """The last piece where the stream breaks; None where the format has none: then the connection breaks too."""
    headers: list[tuple[bytes, bytes]]
    status: int = 200

    async def send(self, send: Send, request_id: bytes, receive: Receive, ending: "Ending | None" = None) -> None:
        async with aclosing(self.pieces) as pieces:
            with Presence(receive):
                first = await anext(pieces, None)
                headers = [*self.headers, (b"x-request-id", request_id)]
                await send({"type": "http.response.start", "status": self.status, "headers": headers})
                if first is not None:
                    await send({"type": "http.response.body", "body": first, "more_body": True})
                    await self._rest(pieces, send, ending)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _rest(self, pieces: AsyncGenerator[bytes, None], send: Send, ending: "Ending | None") -> None:
        try:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except asyncio.CancelledError:
            if ending is None or (error := ending.taken()) is None:
                raise
            await pieces.aclose()
            await self._last_words(error, send)
        except ModelyardError as error:
            await self._last_words(error, send)

    async def _last_words(self, error: ModelyardError, send: Send) -> None:
        """Raises the error where the format has no words for one: then the connection is cut."""
        if self.on_error is None:
            raise error
        logger.warning("a stream broke", extra={"fields": {"error": str(error)}})
        await send({"type": "http.response.body", "body": self.on_error(error), "more_body": True})


class Ending:
    """The end of the server: requests that run when their time is over are cancelled, and say so to their callers."""

    def __init__(self) -> None:
        self.is_over = False

    def taken(self) -> ServerStoppingError | None:
        """For the running task, which was just cancelled: why, where the server's end is what cancelled it. Then it
        may go on, to say so."""
        if not self.is_over:
            return None
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        return ServerStoppingError("the server is shutting down; ask again in a moment")


class Presence:
    """While the caller is there: work inside is cancelled when it hangs up, and ClientGoneError raised.

    Not to be left open across the end of an answer: servers report that as a hang-up too.
    """

    __slots__ = ("_receive", "_task", "_timer", "_watch", "_why")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._why: ModelyardError | None = None
        self._watch: asyncio.Future[ModelyardError] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        # Most whole answers are there before it is worth a task to watch for a caller who leaves.
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._begin)

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(_left(self._receive))
        self._watch.add_done_callback(self._on_left)

    def _on_left(self, watch: asyncio.Future[ModelyardError]) -> None:
        if not watch.cancelled() and self._task is not None:
            self._why = watch.result()
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._on_left)
            self._watch.cancel()
        if self._why is not None and self._task is not None and self._task.uncancel() == 0:
            raise self._why from None


async def _left(receive: Receive) -> ModelyardError:
    """Done when the caller hangs up, or is not waited for any longer."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return why_gone(message)


def sse_reply(
    pieces: AsyncGenerator[bytes, None],
    on_error: Callable[[ModelyardError], bytes],
    headers: Mapping[str, str] | None = None,
) -> StreamReply:
    more = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (headers or {}).items()]
    return StreamReply(pieces, on_error, [*_SSE, *more])


def audio_reply(pieces: AsyncGenerator[bytes, None], content_type: str) -> StreamReply:
    return StreamReply(pieces, None, [(b"content-type", content_type.encode())])


SSE_DONE = b"data: [DONE]\n\n"
