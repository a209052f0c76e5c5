"""The gateway as an ASGI application: route, authenticate, call the handler, and turn
every error into a response."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_id
from modelyard.gateway.auth import Authenticator, UnauthorizedError
from modelyard.gateway.azure_paths import DEPLOYMENT
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.direct import DirectAnswer, DirectGateway
from modelyard.gateway.early_refusals import EarlyRefusals
from modelyard.gateway.http import (
    ClientDisconnected,
    Receive,
    RefusedError,
    Reply,
    Request,
    Scope,
    Send,
    Shutdown,
    StreamReply,
    finish_headers,
)
from modelyard.gateway.router import RouteMatch, Router
from modelyard.gateway.table import (
    Api,
    Auth,
    ErrorShape,
    MethodNotAllowedError,
    NoSuchPathError,
)
from modelyard.gateway.tenant_content import ContentRules, Headers
from modelyard.gateway.unserved_requests import UnservedRequests
from modelyard.gateway.vendor_paths import (
    MISSING_ENDPOINTS,
    VENDORS,
    api_named_by,
    is_meant_for_another,
)
from modelyard.runtime.direct_call import DirectCalls
from modelyard.runtime.invocation import ANONYMOUS_CALLER
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.overload import LoadController, OverloadedError
from modelyard.runtime.unserved_calls import UnservedCall
from modelyard.tenancy.caller import ForbiddenError, acting_for

logger = logging.getLogger("modelyard.gateway")

_HEAD_TIMEOUT_SECONDS = 1.0
"""Seconds to wait for the first chunk of a stream that is requested with HEAD."""

Route = Callable[[Request], Awaitable[Reply | StreamReply]]


class Gateway:
    """The ASGI application. Any ASGI server can run it; `modelyard serve` uses uvicorn."""

    def __init__(
        self,
        apis: Sequence[Api],
        gatekeeper: Authenticator,
        content: ContentRules,
        *,
        max_body: int,
        bodies: BodyBudget | None = None,
        prepare: Callable[[], Awaitable[None]],
        on_start: Callable[[], None] = lambda: None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        keep_alive_seconds: Callable[[], float] = lambda: 0.0,
        load: LoadController | None = None,
        unserved: UnservedRequests | None = None,
    ) -> None:
        """Build the application.

        `apis`: the first one's error format is used for paths below no prefix.
        `content`: rules that separate tenants' content from this server. `prepare` is
        awaited before the first answer, because it loads who may call.
        `keep_alive_seconds` returns the silence after which a stream sends a
        keep-alive; 0 for none.
        `load` decides which calls are refused during overload; without it none are.
        `unserved` records refused calls; without it none are.
        """
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
        self._keep_alive_seconds = keep_alive_seconds
        self.direct: DirectGateway | None = None
        """Answers plain chat calls straight from the server's protocol class; None
        without a server of ours."""
        self._load = load or LoadController(0.0)
        self._unserved = unserved
        self.early_refusals = (
            EarlyRefusals(self._load)
            if unserved is None
            else EarlyRefusals(self._load, unserved.repeat)
        )
        """Answers further requests of callers whose calls are being refused."""
        self.ending = Shutdown()
        """State of the shutdown. Once it is over, a cancelled request tells its client
        that the server is stopping."""

    def answer_directly(
        self, manager: ModelManager, calls: DirectCalls, clock: Clock
    ) -> DirectGateway:
        """Let the server's protocol class answer plain chat calls, and return what does
        that."""
        # Only handlers that can read a request from its bytes take the direct path.
        rows = {
            (row.method, row.path): row
            for api in self.router.apis
            for row in api.rows
            if hasattr(row.handler, "read_direct")
        }
        self.direct = direct = DirectGateway(
            authenticator=self._gatekeeper,
            manager=manager,
            calls=calls,
            clock=clock,
            load=self._load,
            rows=rows,
            check_host=self._content.check_host,
            shutdown_error=self.ending.current_error,
            keep_alive_seconds=self._keep_alive_seconds,
            serve=self.finish_direct,
        )
        return direct

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the server may call it without a key."""
        return self._gatekeeper.is_open

    def limit_bodies(self, max_bytes: int) -> None:
        """Set the largest size of a request body, for requests from now on."""
        self._max_body = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request, as ASGI specifies it."""
        if scope["type"] == "lifespan":
            await self._handle_lifespan(receive, send)
        elif scope["type"] == "http":
            # Servers may reuse a task for several requests: clear the caller of the
            # previous one.
            with acting_for(None):
                request = self._request(scope, receive, new_id("req"))
                await self._answer(request, send, self._serve)
        # A WebSocket is closed without being accepted.
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _request(self, scope: Scope, receive: Receive, request_id: str) -> Request:
        """Return a request whose caller is not known yet."""
        return Request(
            scope, receive, request_id, ANONYMOUS_CALLER, self._max_body, self._bodies
        )

    async def finish_direct(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        answer: DirectAnswer,
        reply: Callable[[Request], Awaitable[Reply | StreamReply]],
    ) -> None:
        """Send the response to a request that was begun directly, as any other."""
        request = self._request(scope, receive, answer.request_id)
        request.error_reply = self.errors_for(request.method, request.path).reply
        # The model call has begun.
        request.is_recorded = True

        async def serve(request: Request, send: Send) -> None:
            """Send the reply."""
            await self._send(await reply(request), request, send)

        with acting_for(None):
            request.identify(answer.caller)
            await self._answer(request, send, serve)

    async def _answer(
        self,
        request: Request,
        send: Send,
        serve: Callable[[Request, Send], Awaitable[None]],
    ) -> None:
        """Serve one HTTP request and turn every error into a response.

        An error after the response has started is raised again, so that the server cuts
        the connection and the client sees a truncated answer. A client's disconnect is
        not an error. A request that is cancelled by a shutdown before that gets the
        shutdown's error.
        """
        request_id = request.id
        has_begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            """Forward a message to the server and remember that the response has
            started."""
            nonlocal has_begun
            if message["type"] == "http.response.start":
                request.add_late_headers(message["headers"])
                finish_headers(message["headers"])
            has_begun = True
            await send(message)

        try:
            await serve(request, sending)
        # Nobody is left to answer; this is not an error of the server.
        except ClientDisconnected:
            logger.debug(
                "client disconnected", extra={"fields": {"request": request_id}}
            )
        except asyncio.CancelledError:
            # A cancellation that is not a shutdown, or comes in mid-response, belongs
            # to the server.
            if has_begun or (stopping := self.ending.shutdown_error()) is None:
                raise
            answer = self._error_reply(stopping, request)
            self._record(request, stopping, answer.status)
            await answer.send(sending, request_id.encode())
        except Exception as error:
            answer = self._failure(error, request)
            # After the start no error can be sent: re-raising makes the server cut the
            # connection, so the client sees a truncated response.
            if has_begun:
                raise
            await answer.send(
                _without_body(sending) if request.method == "HEAD" else sending,
                request_id.encode(),
            )

    async def _ensure_prepared(self) -> None:
        """Run `prepare` once, at the lifespan's start, or with the first request if the
        server sends no lifespan events."""
        # Concurrent first requests wait here for the one that prepares.
        async with self._preparing:
            if not self._is_prepared:
                await self._prepare()
                self._is_prepared = True

    async def _serve(self, request: Request, send: Send) -> None:
        """Check, route, authenticate and handle a request, and send its reply.

        All checks by the head come before the body is read. HEAD runs GET's handler and
        sends no content. Raises ModelyardError for a refused or failed request.
        """
        if not self._is_prepared:
            await self._ensure_prepared()
        # Cheap checks by the request's head come first: the body is not read for a
        # request that is refused.
        self._content.check_host(request.method, request.path, request.header(b"host"))
        self._check_upgrade(request)
        route_match = self._route(request)
        await self._admit(request, route_match.row.auth)
        if route_match.row.calls_model:
            self._check_load(request)
        request.names = route_match.names
        request.model = route_match.names.get(DEPLOYMENT, "")
        is_head = request.method == "HEAD" and route_match.row.method == "GET"
        # Handlers see HEAD as GET; only the sending differs.
        if is_head:
            request.scope = {**request.scope, "method": "GET"}
        reply = await route_match.api.enter(request, route_match.row)
        # Before sending, so that a change that was made is in the audit log even if the
        # client disconnects.
        await self._audit(request, route_match, reply)
        if is_head or request.method == "HEAD":
            await _send_head(reply, send, request)
        else:
            await self._send(reply, request, send)

    async def _send(
        self, reply: Reply | StreamReply, request: Request, send: Send
    ) -> None:
        """Send a reply."""
        if isinstance(reply, StreamReply):
            await reply.send(
                send,
                request.id.encode(),
                request.receive,
                self.ending,
                self._keep_alive_seconds(),
            )
        else:
            await reply.send(send, request.id.encode())

    def _check_upgrade(self, request: Request) -> None:
        """Raise UpgradeError for a WebSocket request if the path does not accept its
        method as plain HTTP.

        Clients that get 426 fall back to HTTP at once. Elsewhere the upgrade is
        ignored, as RFC 9110, 7.8 permits.
        """
        if (request.header(b"upgrade") or "").lower() != "websocket":
            return
        allowed = self.router.allowed(request.path)
        if allowed and request.method not in allowed:
            raise UpgradeError(
                "WebSocket is not supported here; send a plain HTTP request"
            )

    async def _admit(self, request: Request, auth: Auth) -> None:
        """Authenticate and check the role, by the request's head alone. Raises
        UnauthorizedError, OriginError or ForbiddenError."""
        # Routes without a role identify their caller themselves, in the API's `enter`
        # or the handler.
        if auth.role is None:
            if auth.checks_origin:
                await self._gatekeeper.check_open(request.scope)
            return
        request.identify(await self._gatekeeper.caller_of(request.scope))
        if not request.caller.role.covers(auth.role):
            role = request.caller.role.value
            raise ForbiddenError(
                f"Role {auth.role.value!r} required; this key has role {role!r}"
            )

    def _check_load(self, request: Request) -> None:
        """Raise OverloadedError if the server is overloaded and this call is one of
        those to refuse. The body has not been read yet."""
        caller = request.caller
        refusal = self._load.refusal(caller.tenant, caller.priority)
        if refusal is not None:
            raise refusal

    def _route(self, request: Request) -> RouteMatch:
        """Return the row that a request reaches, and note its format of errors: routing
        is not repeated for an error. Raises like `Router.find`."""
        headers = request.scope["headers"]
        try:
            route_match = self.router.find(request.method, request.path)
            if is_meant_for_another(route_match.api.name, headers):
                raise self._missing_endpoint(request)
        # No row: the path and the headers tell which API the client means.
        except ModelyardError as error:
            shape = self._errors_of_unserved(request.method, request.path, headers)
            request.error_reply = shape.reply
            raise self._better_error(request, error) from None
        errors = route_match.api.errors
        if route_match.row.is_of_several_vendors:
            errors = self.router.errors_for(request.path, headers)
        request.error_reply = errors.reply
        row = route_match.row
        request.endpoint = f"{row.method} {row.path}"
        request.is_call = row.calls_model or row.starts_run
        return route_match

    def _better_error(self, request: Request, error: ModelyardError) -> ModelyardError:
        """Return what to say about a path or a method that is not served.

        A client of a vendor gets to know that this server lacks the vendor's endpoint,
        and one that leaves out the version where it belongs.
        """
        if not isinstance(error, (NoSuchPathError, MethodNotAllowedError)):
            return error
        headers, path = request.scope["headers"], request.path
        if request.method in self.router.allowed(f"/v1{path}"):
            return NoSuchPathError(path, f"/v1{path}")
        is_vendors = api_named_by(headers) in VENDORS
        is_missing = (
            self.router.is_for_apps_only(path, headers)
            or (request.method, path) in MISSING_ENDPOINTS
        )
        if is_missing or (is_vendors and isinstance(error, NoSuchPathError)):
            return self._missing_endpoint(request)
        return error

    def _missing_endpoint(self, request: Request) -> NoSuchPathError:
        """Return the error for an endpoint that a vendor has and this server lacks."""
        api = self.router.api_meant(request.path, request.scope["headers"])
        return NoSuchPathError(request.path, None, VENDORS.get(api.name, ""))

    def errors_for(self, method: str, path: str, headers: Headers = ()) -> ErrorShape:
        """Return the error format for a request: that of the API that it reaches, or of
        the one it most likely means."""
        try:
            route_match = self.router.find(method, path)
        except ModelyardError:
            return self._errors_of_unserved(method, path, headers)
        if is_meant_for_another(route_match.api.name, headers):
            return self.router.errors_for(path, headers)
        if route_match.row.is_of_several_vendors:
            return self.router.errors_for(path, headers)
        return route_match.api.errors

    def _errors_of_unserved(
        self, method: str, path: str, headers: Headers
    ) -> ErrorShape:
        """Return the error format for a request that reaches no row."""
        # A path without the version that belongs in front of it.
        if method in self.router.allowed(f"/v1{path}"):
            return self.router.find(method, f"/v1{path}").api.errors
        return self.router.errors_for(path, headers)

    def refusal(
        self, method: str, path: str, error: RefusedError, headers: Headers = ()
    ) -> Reply:
        """Return the reply for a request that is refused before any handler runs."""
        request_id = new_id("req")
        reply = self.errors_for(method, path, headers).reply(error, request_id)
        if self._unserved is not None and self.router.is_meant_as_call(
            method, path, headers
        ):
            self._unserved.record_unread(request_id, error, reply.status)
        return reply

    def _record(
        self, request: Request, error: ModelyardError, status: int
    ) -> UnservedCall | None:
        """Record a call that ended with an error before it became a call of a model or
        a run, and return the record."""
        if self._unserved is None:
            return None
        is_call = request.is_call
        if not request.endpoint:
            headers = request.scope["headers"]
            is_call = self.router.is_meant_as_call(
                request.method, request.path, headers
            )
        return self._unserved.record(request, error, status) if is_call else None

    async def _audit(
        self, request: Request, route_match: RouteMatch, reply: Reply | StreamReply
    ) -> None:
        """Write successful changes through the admin API to the audit log. Read-only
        calls are skipped."""
        accounts = self._gatekeeper.accounts
        if (
            accounts is None
            or request.method in ("GET", "HEAD", "OPTIONS")
            or route_match.api.name != "admin"
        ):
            return
        if route_match.row.changes_nothing or reply.status >= 400:
            return
        path = request.path
        await accounts.audit.audit(
            request.caller, f"{request.method.lower()} {path}", path.rpartition("/")[2]
        )

    def _failure(self, error: Exception, request: Request) -> Reply:
        """Return the error reply for an exception, and log it if it is a fault of the
        server."""
        fields = {"request": request.id, "path": request.path}
        # Deeply nested JSON exhausts the interpreter's stack: the request is to blame,
        # not the server.
        if isinstance(error, RecursionError):
            logger.warning(
                "request nested too deeply",
                extra={"fields": fields},
                exc_info=error,
            )
            error = InvokeBadRequestError(
                "The request, or the data that it refers to, is nested too deeply"
            )
        elif not isinstance(error, ModelyardError):
            # Last resort: an unexpected exception must not reach the client as a
            # traceback.
            logger.error("request failed", extra={"fields": fields}, exc_info=error)
            error = ModelyardError(f"Internal server error (request {request.id})")
        elif isinstance(error, (UnauthorizedError, ForbiddenError)):
            # Refused credentials are normal operation, but worth a line when someone
            # investigates.
            logger.info(
                "request refused",
                extra={"fields": {**fields, "code": error.code}},
            )
        reply = self._error_reply(error, request)
        call = self._record(request, error, reply.status)
        if isinstance(error, OverloadedError):
            self.early_refusals.store(
                request.scope, request.caller, reply, request.id, call
            )
        return reply

    def _error_reply(self, error: ModelyardError, request: Request) -> Reply:
        """Return the reply for an error, in the format of the API that the request
        reaches."""
        reply = request.error_reply
        if reply is None:
            # The request was refused before it was routed.
            headers = request.scope["headers"]
            reply = self.errors_for(request.method, request.path, headers).reply
        return reply(error, request.id)

    async def _handle_lifespan(self, receive: Receive, send: Send) -> None:
        """Handle the ASGI lifespan: prepare on startup, close on shutdown."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._ensure_prepared()
                self._on_start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._on_close is not None:
                    # Shielded: a server that cancels the lifespan task must not cut the
                    # closing short.
                    await asyncio.shield(self._on_close())
                await send({"type": "lifespan.shutdown.complete"})
                return


class UpgradeError(RefusedError):
    """The client asks for a protocol that this server does not speak (RFC 9110,
    15.5.22)."""

    status = 426
    code = "upgrade_required"
    headers: ClassVar[Mapping[str, str]] = {"upgrade": "HTTP/1.1"}


def _without_body(send: Send) -> Send:
    """Return a `send` that suppresses the body and leaves the headers as they are for
    GET (RFC 9110, 9.3.2)."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        """Replace the body's content by nothing."""
        if message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return sending


async def _send_head(reply: Reply | StreamReply, send: Send, request: Request) -> None:
    """Answer HEAD with the status and headers of GET, without content."""
    if isinstance(reply, Reply):
        await reply.send(_without_body(send), request.id.encode())
        return
    # Starting the stream lets an early error determine the status; a slow start is not
    # waited for.
    with suppress(TimeoutError):
        await asyncio.wait_for(anext(reply.chunks, None), _HEAD_TIMEOUT_SECONDS)
    # Closing the generator cancels the model call or the run behind the stream.
    await reply.chunks.aclose()
    headers = [*reply.headers, (b"x-request-id", request.id.encode())]
    await send(
        {"type": "http.response.start", "status": reply.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": b"", "more_body": False})
