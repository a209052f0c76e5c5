"""The gateway as an ASGI application: find the route, know the caller, answer, and never show a traceback."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_id
from modelyard.gateway.auth import Gatekeeper, UnauthorizedError
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.http import (
    ClientGoneError,
    Ending,
    Receive,
    RefusedError,
    Reply,
    Request,
    Scope,
    Send,
    StreamReply,
    finish_headers,
)
from modelyard.gateway.router import Found, Router
from modelyard.gateway.table import Api, Auth, ErrorShape
from modelyard.gateway.tenant_content import ContentRules, Headers
from modelyard.runtime.invocation import ANYBODY
from modelyard.tenancy.caller import ForbiddenError, acting_for

logger = logging.getLogger("modelyard.gateway")

_HEAD_SECONDS = 1.0
"""For the first piece of a stream that is asked for by HEAD."""

Route = Callable[[Request], Awaitable[Reply | StreamReply]]


class Gateway:
    """Give it to any ASGI server; `modelyard serve` runs it on uvicorn."""

    def __init__(
        self,
        apis: Sequence[Api],
        gatekeeper: Gatekeeper,
        content: ContentRules,
        *,
        max_body: int,
        bodies: BodyBudget | None = None,
        prepare: Callable[[], Awaitable[None]],
        on_start: Callable[[], None] = lambda: None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`apis`: the first one's words refuse what lies below nobody's prefix; `content`: what stands between tenants'
        content and this server. `prepare` is awaited before anything is answered: who may call is not known before."""
        self.router = Router(apis)
        self._prepare = prepare
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._content = content
        self._on_start = on_start
        self._gatekeeper = gatekeeper
        self._max_body = max_body
        self._bodies = bodies or BodyBudget()
        self._on_close = on_close
        self.ending = Ending()
        """Once it is over, a request whose task is cancelled tells its caller that the server stops."""

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the server may call."""
        return self._gatekeeper.is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            with acting_for(None):  # a caller of before, on the same task, is not this one's
                await self._answer(scope, receive, send)
        else:  # a websocket: the server closes it when nobody accepts
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id("req")
        request = Request(scope, receive, request_id, ANYBODY, self._max_body, self._bodies)
        has_begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                finish_headers(message["headers"])
            has_begun = True
            await send(message)

        try:
            await self._serve(request, sending)
        except ClientGoneError:
            logger.debug("the caller left", extra={"fields": {"request": request_id}})
        except asyncio.CancelledError:
            if has_begun or (stopping := self.ending.taken()) is None:
                raise
            answer = self.refusal(request.method, request.path, stopping, scope["headers"])
            await answer.send(sending, request_id.encode())
        except Exception as error:
            answer = self._failure(error, request)
            if has_begun:
                raise  # nothing can be said any more: the server cuts the connection, and nobody takes half for whole
            await answer.send(_headers_alone(sending) if scope["method"] == "HEAD" else sending, request_id.encode())

    async def _prepared(self) -> None:
        """Once: as the server starts, or by the first request where the server says nothing of its start."""
        async with self._preparing:
            if not self._is_prepared:
                await self._prepare()
                self._is_prepared = True

    async def _serve(self, request: Request, send: Send) -> None:
        if not self._is_prepared:
            await self._prepared()
        self._content.check_host(request.method, request.path, request.header(b"host"))
        self._check_upgrade(request)
        found = self.router.find(request.method, request.path)
        await self._admit(request, found.row.auth)
        request.names = found.names
        is_head = request.method == "HEAD" and found.row.method == "GET"
        if is_head:  # nobody below answers otherwise than to GET
            request.scope = {**request.scope, "method": "GET"}
        reply = await found.api.enter(request, found.row)
        await self._note(request, found, reply)
        if is_head or request.method == "HEAD":
            await _send_head(reply, send, request)
        elif isinstance(reply, StreamReply):
            await reply.send(send, request.id.encode(), request.receive, self.ending)
        else:
            await reply.send(send, request.id.encode())

    def _check_upgrade(self, request: Request) -> None:
        """Raises UpgradeError for a WebSocket where a plain request would be none that is taken: clients that are told
        so use HTTP at once. Elsewhere the plain request is answered, as RFC 9110, 7.8 lets a server do."""
        if (request.header(b"upgrade") or "").lower() != "websocket":
            return
        allowed = self.router.allowed(request.path)
        if allowed and request.method not in allowed:
            raise UpgradeError("WebSocket is not offered here: send the same as an ordinary HTTP request")

    async def _admit(self, request: Request, auth: Auth) -> None:
        """Raises UnauthorizedError, OriginError, ForbiddenError, by the request's head alone."""
        if auth.role is None:
            if auth.checks_origin:
                await self._gatekeeper.check_open(request.scope)
            return
        request.identify(await self._gatekeeper.caller_of(request.scope))
        if not request.caller.role.covers(auth.role):
            role = request.caller.role.value
            raise ForbiddenError(f"this takes the role {auth.role.value!r}; the key's is {role!r}")

    def errors_for(self, method: str, path: str, headers: Headers = ()) -> ErrorShape:
        """In whose words a request is refused: those of the API that it reaches, else of the one it seems to mean."""
        try:
            return self.router.find(method, path).api.errors
        except ModelyardError:
            return self.router.errors_for(path, headers)

    def refusal(self, method: str, path: str, error: RefusedError, headers: Headers = ()) -> Reply:
        """A request that no handler was asked for, refused in the words of those who ask there."""
        return self.errors_for(method, path, headers).reply(error, new_id("req"))

    async def _note(self, request: Request, found: Found, reply: Reply | StreamReply) -> None:
        """What was changed by whom: every administration's call that is not a question."""
        accounts = self._gatekeeper.accounts
        if accounts is None or request.method in ("GET", "HEAD", "OPTIONS") or found.api.name != "admin":
            return
        if found.row.changes_nothing or reply.status >= 400:
            return
        path = request.path
        await accounts.audit.note(request.caller, f"{request.method.lower()} {path}", path.rpartition("/")[2])

    def _failure(self, error: Exception, request: Request) -> Reply:
        """What a caller is told of an error; the log is told of those that are faults of ours."""
        fields = {"request": request.id, "path": request.path}
        if isinstance(error, RecursionError):
            logger.warning("a request was nested too deeply", extra={"fields": fields}, exc_info=error)
            error = InvokeBadRequestError("what was sent, or what it leads to, is nested too deeply")
        elif not isinstance(error, ModelyardError):
            # The last line of defence: whatever is wrong, the caller gets words.
            logger.error("a request failed", extra={"fields": fields}, exc_info=error)
            error = ModelyardError(f"something is wrong with the server; its log has the reason under {request.id}")
        elif isinstance(error, (UnauthorizedError, ForbiddenError)):
            logger.info("a request was refused", extra={"fields": {**fields, "code": error.code}})
        shape = self.errors_for(request.method, request.path, request.scope["headers"])
        return shape.reply(error, request.id)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._prepared()
                self._on_start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._on_close is not None:
                    await asyncio.shield(self._on_close())
                await send({"type": "lifespan.shutdown.complete"})
                return


class UpgradeError(RefusedError):
    """The caller asks for a protocol that is not spoken (RFC 9110, 15.5.22)."""

    status = 426
    code = "upgrade_required"
    headers: ClassVar[Mapping[str, str]] = {"upgrade": "HTTP/1.1"}


def _headers_alone(send: Send) -> Send:
    """As `send`, with no content after the headers: they stay what they would be for GET (RFC 9110, 9.3.2)."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return sending


async def _send_head(reply: Reply | StreamReply, send: Send, request: Request) -> None:
    """Answer HEAD with what GET would answer, without its content."""
    if isinstance(reply, Reply):
        await reply.send(_headers_alone(send), request.id.encode())
        return
    with suppress(TimeoutError):  # an early error keeps its status; what takes long to begin is not waited for
        await asyncio.wait_for(anext(reply.pieces, None), _HEAD_SECONDS)
    await reply.pieces.aclose()
    headers = [*reply.headers, (b"x-request-id", request.id.encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
