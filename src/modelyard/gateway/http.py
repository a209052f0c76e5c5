"""Requests and replies over ASGI, with no framework: the hot path has two function calls between socket and model."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.caller import Caller
from modelyard.runtime.invocation import Context
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager

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


class BodyTooLargeError(ModelyardError):
    code = "request_too_large"


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

    @property
    def tenant(self) -> str:
        return self.caller.tenant

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

    def not_offered(self) -> NotFoundError:
        """That there is nothing for this verb at this address."""
        return NotFoundError(f"{self.method} {self.path!r} is not offered here", code="unknown_url")

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLargeError as soon as it is known to be, ClientGoneError if it breaks off."""
        length = self.header(b"content-length")
        if length and length.isdigit() and int(length) > self.max_body:
            raise self._too_large()
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            return self._within(message.get("body", b""))
        data = bytearray()
        while True:
            if message["type"] != "http.request":
                raise ClientGoneError("the caller left before its request was complete")
            data += message.get("body", b"")
            self._within(data)
            if not message.get("more_body"):
                return bytes(data)
            message = await self.receive()

    def _within(self, data: Any) -> Any:
        if len(data) > self.max_body:
            raise self._too_large()
        return data

    def _too_large(self) -> BodyTooLargeError:
        most = self.max_body // (1 << 20)
        return BodyTooLargeError(f"the request is larger than {most} MB; the server's max_body_mb allows no more")

    async def while_here(self, work: Awaitable[T]) -> T:
        """The work's result; cancels it where the caller hangs up. For work that follows the whole body."""
        with Presence(self.receive):
            return await work

    async def json(self) -> JSON:
        """The body as an object. Raises InvokeBadRequestError where it is none."""
        return read_json(await self.body())


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

    async def send(self, send: Send, request_id: bytes) -> None:
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id),
        ]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in (self.headers or {}).items()]
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

    async def send(self, send: Send, request_id: bytes, receive: Receive) -> None:
        async with aclosing(self.pieces) as pieces:
            with Presence(receive):
                first = await anext(pieces, None)
                headers = [*self.headers, (b"x-request-id", request_id)]
                await send({"type": "http.response.start", "status": self.status, "headers": headers})
                if first is not None:
                    await send({"type": "http.response.body", "body": first, "more_body": True})
                    await self._rest(pieces, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _rest(self, pieces: AsyncGenerator[bytes, None], send: Send) -> None:
        try:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ModelyardError as error:
            if self.on_error is None:
                raise
            logger.warning("a stream broke", extra={"fields": {"error": str(error)}})
            await send({"type": "http.response.body", "body": self.on_error(error), "more_body": True})


class Presence:
    """While the caller is there: work inside is cancelled when it hangs up, and ClientGoneError raised.

    Not to be left open across the end of an answer: servers report that as a hang-up too.
    """

    __slots__ = ("_has_left", "_receive", "_task", "_timer", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_left = False
        self._watch: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        # Most whole answers are there before it is worth a task to watch for a caller who leaves.
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._begin)

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(_left(self._receive))
        self._watch.add_done_callback(self._on_left)

    def _on_left(self, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled() and self._task is not None:
            self._has_left = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._on_left)
            self._watch.cancel()
        if self._has_left and self._task is not None and self._task.uncancel() == 0:
            raise ClientGoneError("the caller left before the answer was complete") from None


async def _left(receive: Receive) -> None:
    """Done when the caller hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass


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
