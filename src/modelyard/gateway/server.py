"""The gateway as an ASGI application: find the route, know the caller, answer, and never show a traceback."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.ids import new_id
from modelyard.gateway.a2a import table as a2a_table
from modelyard.gateway.admin import table as admin_table
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.parts import AdminParts, ManageParts
from modelyard.gateway.anthropic import table as anthropic_table
from modelyard.gateway.auth import Gatekeeper, UnauthorizedError
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.chat_page import table as chat_page_table
from modelyard.gateway.cohere import table as cohere_table
from modelyard.gateway.console_api import table as console_table
from modelyard.gateway.docs import table as docs_table
from modelyard.gateway.google import table as google_table
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
from modelyard.gateway.knowledge import table as knowledge_table
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.mcp import table as mcp_table
from modelyard.gateway.mcp.streamable_http import OfferOf
from modelyard.gateway.openai import table as openai_table
from modelyard.gateway.openai.hosted_tools import FindTool, HostedTools
from modelyard.gateway.operations import table as operations_table
from modelyard.gateway.plugins import content_table, daemon_table
from modelyard.gateway.plugins.content_table import ContentParts
from modelyard.gateway.plugins.daemon_calls import DaemonEntrance
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.router import Found, Router
from modelyard.gateway.service import table as service_table
from modelyard.gateway.service.entrance import Entrance
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.table import Api, Auth, ErrorShape
from modelyard.gateway.tenant_content import ContentRules, Headers
from modelyard.models.types import JSON
from modelyard.plugins.serverless import ServerlessSessions
from modelyard.runtime.accounts import Accounts
from modelyard.runtime.administration import Administration
from modelyard.runtime.caller import ForbiddenError, acting_for
from modelyard.runtime.invocation import ANYBODY
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.metrics import Metrics
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.oidc import Oidc
from modelyard.runtime.response_store import ResponseStore
from modelyard.runtime.traces import Traces
from modelyard.storage.answers import Answers
from modelyard.storage.files import FileStore
from modelyard.tools.manager import ToolManager
from modelyard.tools.mcp.server import McpServer
from modelyard.tools.providers import ToolProviders
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.triggers import Triggers

logger = logging.getLogger("modelyard.gateway")

_HEAD_SECONDS = 1.0
"""For the first piece of a stream that is asked for by HEAD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes are handed."""

    models: ModelManager
    responses: ResponseStore
    administration: Administration
    ledger: Ledger
    traces: Traces
    metrics: Metrics
    answers: Answers
    clock: Clock
    problem: Callable[[], str | None]
    """Why calls should not be sent here at the moment; None where they may."""
    plugins: PluginParts
    """What plugins' routes reach."""
    files: FileStore
    service: ServiceParts
    """What apps' callers reach."""
    manage: ManageParts
    """What administrators reach."""
    datasets: DatasetParts
    apps: ImportedApps
    accounts: Accounts
    keeper: Gatekeeper
    jail: Callable[[], str]
    """How programs of workflows are held."""
    oidc: Oidc | None
    """Where people sign in elsewhere; None where nowhere."""
    sessions: ServerlessSessions
    """Of plugins that are served elsewhere."""
    plugin_key: str
    """What programs show to use the plugins' interface."""
    is_plugin_interface_open: bool = False
    origin: Callable[[], str] = lambda: ""
    """Where this server is reached, as `http://127.0.0.1:8790`."""
    content: ContentRules
    """What stands between tenants' content and this server."""
    content_origin: Callable[[], str]
    """Where that is reached: `origin`, where it has none of its own."""
    triggers: Triggers
    """What begins runs without a caller."""
    files_of: Callable[[str, str], TenantFiles]
    """(tenant, user) → the files that runs of theirs work with."""
    on_event: Callable[[], Callable[[str, str, str, JSON], Awaitable[None]] | None]
    """Who else is told of a trigger plugin's events, as (tenant, subscription, event, variables)."""
    others: Callable[[], Iterable[Mapping[str, Any]]] = lambda: ()
    """What the server's other processes counted."""
    tools: ToolManager
    tool_providers: ToolProviders
    tool: FindTool
    offer: OfferOf
    """What a tenant's clients see over MCP."""


def build_apis(parts: Parts) -> tuple[Api, ...]:
    """All APIs, each with its table. The first one's words refuse what lies below nobody's prefix."""
    entrance, app_rows = Entrance(parts.service.apps), service_table.rows(parts.service)
    apis = (
        openai_table.api(parts.models, parts.responses, parts.clock, HostedTools(parts.tools, parts.tool)),
        anthropic_table.api(parts.models, parts.clock),
        google_table.api(parts.models, parts.clock),
        cohere_table.api(parts.models, parts.clock),
        cohere_table.jina_api(parts.models),
        service_table.api(app_rows, entrance),
        knowledge_table.api(parts.datasets),
        knowledge_table.external_api(parts.datasets),
        admin_table.api(_admin_parts(parts)),
        daemon_table.api(_daemon_entrance(parts)),
        content_table.api(_content_parts(parts)),
        mcp_table.api(McpServer(parts.tools), parts.offer),
        a2a_table.api(parts.service),
        chat_page_table.api(parts.service.apps, parts.keeper, entrance, app_rows.for_visitors),
        console_table.api(parts.accounts, parts.keeper, parts.oidc),
        operations_table.api(parts.jail, parts.problem, parts.metrics, parts.others),
    )  # fmt: skip
    return (*apis, docs_table.api(apis))


def _daemon_entrance(parts: Parts) -> DaemonEntrance:
    return DaemonEntrance(parts.plugins, parts.plugin_key, parts.is_plugin_interface_open, parts.content_origin)


def _content_parts(parts: Parts) -> ContentParts:
    return ContentParts(
        plugins=parts.plugins, triggers=parts.triggers, runs=parts.service.runs, files=parts.files,
        files_of=parts.files_of, sessions=parts.sessions, on_event=parts.on_event, origin=parts.origin,
        content_origin=parts.content_origin, rules=parts.content, shuts_out=parts.keeper.shuts_out,
    )  # fmt: skip


def _admin_parts(parts: Parts) -> AdminParts:
    return AdminParts(
        administration=parts.administration, answers=parts.answers, manage=parts.manage, plugins=parts.plugins,
        service=parts.service, datasets=parts.datasets, apps=parts.apps, tools=parts.tools,
        tool_providers=parts.tool_providers, origin=parts.origin, content_origin=parts.content_origin,
    )  # fmt: skip


class Gateway:
    """Give it to any ASGI server; `modelyard serve` runs it on uvicorn."""

    def __init__(
        self,
        parts: Parts,
        gatekeeper: Gatekeeper,
        *,
        max_body: int,
        bodies: BodyBudget | None = None,
        prepare: Callable[[], Awaitable[None]],
        on_start: Callable[[], None] = lambda: None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`prepare` is awaited before anything is answered: who may call is not known before."""
        self.router = Router(build_apis(parts))
        self._prepare = prepare
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._content = parts.content
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
