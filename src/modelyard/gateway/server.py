"""The gateway as an ASGI application: find the route, know the caller, answer, and never show a traceback."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.gateway import admin_calls, chat_page
from modelyard.gateway.auth import Gatekeeper, UnauthorizedError
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.chat_page import PageRoute
from modelyard.gateway.dataset_calls import DatasetParts
from modelyard.gateway.errors import error_reply, shape_of
from modelyard.gateway.hosted_tools import FindTool, HostedTools
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
from modelyard.gateway.manage_parts import ManageParts
from modelyard.gateway.plugin_parts import PluginParts
from modelyard.gateway.routes import (
    a2a,
    accounts,
    admin,
    api_docs,
    app_runs,
    audio,
    calls,
    catalogue,
    chat_completions,
    cohere,
    completions,
    console,
    datasets,
    embeddings,
    evaluations,
    generate_content,
    health,
    hooks,
    installed_plugins,
    mcp,
    messages,
    metrics,
    models,
    moderations,
    node_parts,
    oauth,
    oidc,
    plugin_daemon,
    rerank,
    responses,
    server_state,
    service,
    splitting,
    tools,
    webhooks,
)
from modelyard.gateway.routes.apps import AppsRoute
from modelyard.gateway.service_parts import WEBHOOK, WEBHOOK_OF_DRAFT, ServiceParts
from modelyard.gateway.tenant_content import ContentRules
from modelyard.models.types import JSON
from modelyard.plugins.serverless import ServerlessSessions
from modelyard.runtime.accounts import Accounts
from modelyard.runtime.administration import Administration
from modelyard.runtime.caller import ForbiddenError, Role, acting_for
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

Route = Callable[[Request], Awaitable[Reply | StreamReply]]


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
    apps: AppsRoute
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
    offer: mcp.OfferOf
    """What a tenant's clients see over MCP."""


_Routes = Mapping[str, Mapping[str, tuple[Role | None, Route]]]


def build_routes(parts: Parts) -> _Routes:
    """Path → method → (the role that it takes, route). A path that ends in a slash holds for all below it: names may
    hold slashes. What takes no role may be asked without a key: it says nothing about anybody's models or use."""
    manager, clock, store = parts.models, parts.clock, parts.responses
    stored = responses.OneRoute(manager, store)
    google = generate_content.ListRoute(manager)
    of_models: dict[str, Mapping[str, Route]] = {
        "/v1/chat/completions": {"POST": chat_completions.Route(manager, clock)},
        "/v1/responses": {"POST": responses.CreateRoute(manager, clock, store, HostedTools(parts.tools, parts.tool))},
        "/v1/responses/": {"GET": stored, "DELETE": stored, "POST": stored},
        "/v1/messages": {"POST": messages.Route(manager, clock)},
        "/v1/messages/count_tokens": {"POST": messages.CountRoute(manager)},
        "/v1beta/models": {"GET": google},
        "/v1beta/models/": {"GET": google, "POST": generate_content.Route(manager, clock)},
        "/v2/chat": {"POST": cohere.ChatRoute(manager, clock)},
        "/v2/embed": {"POST": cohere.EmbedRoute(manager)},
        "/v2/rerank": {"POST": cohere.RerankRoute(manager)},
        "/v1/completions": {"POST": completions.Route(manager, clock)},
        "/v1/embeddings": {"POST": embeddings.Route(manager)},
        "/v1/rerank": {"POST": rerank.Route(manager)},
        "/v1/moderations": {"POST": moderations.Route(manager)},
        "/v1/audio/speech": {"POST": audio.SpeechRoute(manager)},
        "/v1/audio/transcriptions": {"POST": audio.TranscriptionRoute(manager)},
        "/v1/audio/translations": {"POST": audio.TranscriptionRoute(manager, task="translate")},
        "/v1/models": {"GET": models.ListRoute(manager)},
        "/v1/models/": {"GET": models.OneRoute(manager), "POST": generate_content.Route(manager, clock)},
    }
    health_of = health.Route(parts.jail)
    routes: dict[str, dict[str, tuple[Role | None, Route]]] = {
        path: {verb: (Role.DEVELOPER, one) for verb, one in verbs.items()} for path, verbs in of_models.items()
    }
    # Apps' callers show keys of their own. Some of their addresses are others' too, with other verbs.
    apps = service.Service(parts.service)
    for path in apps.routes:
        routes.setdefault(path, {}).update({verb: (None, one) for verb, one in apps.route(path).items()})
    page = PageRoute(parts.service.apps, apps, parts.keeper)
    knowledge = datasets.DatasetRoutes(parts.datasets)
    every: Mapping[str, tuple[Role | None, Route]] = dict.fromkeys(
        ("GET", "POST", "PATCH", "DELETE"), (None, knowledge)
    )
    routes |= {
        "/v1/datasets": {**every}, "/v1/datasets/": {**every}, "/retrieval": {"POST": (None, knowledge.external)},
        "/v1/workspaces/current/models/model-types/": {"GET": (None, knowledge.models)},
    }  # fmt: skip
    return {
        **routes,
        **_admin_routes(parts),
        **_plugin_routes(parts),
        **_tool_routes(parts),
        a2a.PREFIX: dict.fromkeys(("GET", "POST"), (None, a2a.A2ARoute(parts.service))),
        console.PREFIX: {"GET": (None, console.ConsoleRoute())},
        f"{console.PREFIX}/": {"GET": (None, console.ConsoleRoute())},
        accounts.PREFIX: dict.fromkeys(
            ("GET", "POST", "PATCH", "DELETE"),
            (None, accounts.AccountsRoute(parts.accounts, parts.keeper, parts.oidc.label if parts.oidc else None)),
        ),
        oidc.PREFIX: {"GET": (None, oidc.OidcRoute(parts.oidc, parts.accounts, parts.keeper))},
        f"{accounts.PREFIX}docs": {"GET": (None, api_docs.page)},
        f"{accounts.PREFIX}docs/": {"GET": (None, api_docs.page)},
        chat_page.PREFIX: dict.fromkeys(("GET", "POST", "PUT", "DELETE"), (None, page)),
        "/metrics": {"GET": (Role.VIEWER, metrics.Route(parts.metrics, parts.others))},
        "/health": {"GET": (None, health_of)},
        "/health/live": {"GET": (None, health_of)},
        "/health/ready": {"GET": (None, health.Ready(parts.problem))},
        "/": {"GET": (None, health.Welcome())},
    }


def _admin_routes(parts: Parts) -> dict[str, Mapping[str, tuple[Role | None, Route]]]:
    found: dict[str, Mapping[str, tuple[Role | None, Route]]] = {}
    for plural, kind in admin.PLURALS.items():
        one = admin.Collection(parts.administration, kind)
        changing: Role | None = Role.OWNER if kind == "tenant" else Role.ADMIN
        found[f"{admin_calls.PREFIX}{plural}"] = {"GET": (Role.ADMIN, one), "POST": (changing, one)}
        found[f"{admin_calls.PREFIX}{plural}/"] = {
            "GET": (Role.ADMIN, one), "PATCH": (changing, one), "DELETE": (changing, one), "POST": (changing, one),
        }  # fmt: skip
    found[f"{admin_calls.PREFIX}usage"] = {"GET": (Role.VIEWER, admin.Usage(parts.ledger))}
    found[f"{admin_calls.PREFIX}usage/rows"] = {"GET": (Role.VIEWER, admin.Rows(parts.ledger))}
    manage = parts.manage
    called, providers = calls.CallsRoute(manage), catalogue.ProvidersRoute(manage)
    weights, plugins = catalogue.WeightsRoute(manage), installed_plugins.PluginsRoute(parts.plugins, manage)
    subscribed = node_parts.SubscriptionsRoute(parts.plugins.subscriptions, parts.content_origin)
    runs = {verb: (Role.ADMIN, app_runs.RunsRoute(parts.service)) for verb in ("GET", "POST")}
    prefix = admin_calls.PREFIX
    found |= {
        f"{prefix}calls": {"GET": (Role.VIEWER, called)},
        f"{prefix}calls/": {"GET": (Role.VIEWER, called), "POST": (Role.DEVELOPER, called)},
        f"{prefix}latency": {"GET": (Role.VIEWER, calls.LatencyRoute(manage))},
        f"{prefix}providers": {"GET": (Role.ADMIN, providers)},
        f"{prefix}providers/": {"GET": (Role.ADMIN, providers), "POST": (Role.ADMIN, providers)},
        f"{prefix}catalogue": {"GET": (Role.DEVELOPER, catalogue.CatalogueRoute(manage))},
        f"{prefix}weights": {"GET": (Role.ADMIN, weights)},
        f"{prefix}weights/": {"POST": (Role.ADMIN, weights), "DELETE": (Role.ADMIN, weights)},
        f"{prefix}plan": {"POST": (Role.ADMIN, catalogue.PlanRoute(manage))},
        f"{prefix}plugins": {"GET": (Role.ADMIN, plugins), "POST": (Role.ADMIN, plugins)},
        f"{prefix}plugins/": dict.fromkeys(("GET", "POST", "PATCH", "DELETE"), (Role.ADMIN, plugins)),
        f"{prefix}market": {"GET": (Role.ADMIN, installed_plugins.MarketRoute(parts.plugins.market))},
        f"{prefix}node-parts": {"GET": (Role.DEVELOPER, node_parts.NodePartsRoute(parts.plugins.plugins))},
        f"{prefix}subscriptions": {"GET": (Role.ADMIN, subscribed), "POST": (Role.ADMIN, subscribed)},
        f"{prefix}subscriptions/": {"DELETE": (Role.ADMIN, subscribed)},
        f"{prefix}nodes": {"GET": (Role.DEVELOPER, app_runs.NodesRoute())},
        f"{prefix}runs/": runs,
        f"{prefix}evaluations/": dict.fromkeys(
            ("GET", "POST", "DELETE"), (Role.DEVELOPER, evaluations.EvaluationsRoute(parts.datasets))
        ),
        f"{prefix}split": {"POST": (Role.DEVELOPER, splitting.SplitRoute(parts.datasets))},
        f"{prefix}about": {"GET": (Role.VIEWER, server_state.AboutRoute(manage))},
        f"{prefix}settings": dict.fromkeys(("GET", "PUT"), (Role.OWNER, server_state.SettingsRoute(manage))),
        f"{prefix}live": {"GET": (Role.VIEWER, server_state.LiveRoute(manage))},
    }  # fmt: skip
    found[f"{admin_calls.PREFIX}resting"] = {"GET": (Role.ADMIN, admin.Resting(parts.models.providers.health))}
    found[f"{admin_calls.PREFIX}cache"] = {"DELETE": (Role.ADMIN, admin.CacheRoute(parts.answers))}
    connecting = oauth.ManageRoute(parts.plugins.credentials, parts.origin)
    found[f"{admin_calls.PREFIX}oauth/"] = {"POST": (Role.ADMIN, connecting)}
    verbs = ("GET", "POST", "PATCH", "PUT", "DELETE")
    found[f"{admin_calls.PREFIX}apps"] = dict.fromkeys(("GET", "POST"), (Role.ADMIN, parts.apps))
    found[f"{admin_calls.PREFIX}apps/"] = dict.fromkeys(verbs, (Role.ADMIN, parts.apps))
    found["/admin/openapi.json"] = {"GET": (Role.VIEWER, api_docs.description)}
    return found


def _tool_routes(parts: Parts) -> dict[str, Mapping[str, tuple[Role | None, Route]]]:
    served = mcp.Route(McpServer(parts.tools), parts.offer)
    one = tools.ProviderRoute(parts.tool_providers)
    every = tools.ProvidersRoute(parts.tool_providers)
    return {
        "/mcp": dict.fromkeys(("POST", "GET", "DELETE"), (Role.DEVELOPER, served)),
        "/admin/tools": {"GET": (Role.DEVELOPER, tools.ListRoute(parts.tools))},
        "/admin/tools/call": {"POST": (Role.DEVELOPER, tools.CallRoute(parts.tools))},
        "/admin/tool-providers": {"GET": (Role.ADMIN, every), "POST": (Role.ADMIN, every)},
        "/admin/tool-providers/": {"GET": (Role.ADMIN, one), "POST": (Role.ADMIN, one), "DELETE": (Role.ADMIN, one)},
    }


def _plugin_routes(parts: Parts) -> dict[str, Mapping[str, tuple[Role | None, Route]]]:
    """These see for themselves who is admitted: by a key of their own, or by what the address holds."""
    daemon = plugin_daemon.Route(parts.plugins, parts.plugin_key, parts.is_plugin_interface_open, parts.content_origin)
    plugins, endpoints, subscriptions = parts.plugins.plugins, parts.plugins.endpoints, parts.plugins.subscriptions
    endpoint = hooks.EndpointRoute(plugins, endpoints, parts.content_origin, parts.content)
    trigger = hooks.TriggerRoute(plugins, subscriptions, parts.triggers, parts.on_event, parts.content)
    webhook = webhooks.WebhookRoute(parts.triggers, parts.service.runs, parts.files_of, parts.content)
    file = hooks.FileRoute(parts.files, parts.keeper.shuts_out)
    browser = oauth.BrowserRoute(parts.plugins.credentials, parts.origin)
    return {
        plugin_daemon.PREFIX: {"GET": (None, daemon), "POST": (None, daemon)},
        "/e/": dict.fromkeys(hooks.VERBS, (None, endpoint)),
        "/t/": dict.fromkeys(hooks.VERBS, (None, trigger)),
        WEBHOOK: dict.fromkeys(webhooks.VERBS, (None, webhook)),
        WEBHOOK_OF_DRAFT: dict.fromkeys(webhooks.VERBS, (None, webhook)),
        "/files/": {"GET": (None, file), "POST": (None, file)},
        oauth.BEGIN: {"GET": (None, browser)},
        oauth.BACK: {"GET": (None, browser)},
        "/backwards-invocation/transaction": {"POST": (None, hooks.TransactionRoute(parts.sessions))},
    }


def admits_itself(route: Route) -> bool:
    """Whether a route makes nobody the owner: it says nothing about anybody, or what is shown to it (an app's key, a
    secret or a signature in the address) decides alone. Others' pages may call those while the server is open."""
    return getattr(getattr(route, "__self__", route), "admits_itself", False)


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
        self.routes = build_routes(parts)
        self._prepare = prepare
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._content = parts.content
        self._on_start = on_start
        below = [path for path in self.routes if path.endswith("/") and path != "/"]
        self._below = sorted(below, key=len, reverse=True)
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
            await self.refusal(request.method, request.path, stopping).send(sending, request_id.encode())
        except Exception as error:
            answer = _failure(error, request)
            if has_begun:
                raise  # nothing can be said any more: the server cuts the connection, and nobody takes half for whole
            await answer.send(sending, request_id.encode())

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
        role, route = self._route(request)
        await self._admit(request, role, route)
        reply = await route(request)
        await self._note(request, reply)
        if isinstance(reply, StreamReply):
            await reply.send(send, request.id.encode(), request.receive, self.ending)
        else:
            await reply.send(send, request.id.encode())

    async def _admit(self, request: Request, role: Role | None, route: Route) -> None:
        """Raises UnauthorizedError, OriginError, ForbiddenError, by the request's head alone."""
        if role is None:
            if not admits_itself(route):
                await self._gatekeeper.check_open(request.scope)
            return
        request.identify(await self._gatekeeper.caller_of(request.scope))
        if not request.caller.role.covers(role):
            raise ForbiddenError(f"this takes the role {role.value!r}; the key's is {request.caller.role.value!r}")

    def refusal(self, method: str, path: str, error: RefusedError) -> Reply:
        """A request that no route was asked for, refused in the words of those who ask there."""
        try:
            route: Any = self._found(method, path)[1]
        except NotFoundError:
            route = None
        in_its_words = getattr(getattr(route, "__self__", route), "refusal", None)
        return in_its_words(error) if in_its_words is not None else error_reply(error, shape_of(path), new_id("req"))

    async def _note(self, request: Request, reply: Reply | StreamReply) -> None:
        """What was changed by whom: every administration's call that is not a question."""
        path, accounts = request.path, self._gatekeeper.accounts
        if accounts is None or request.method in ("GET", "HEAD") or not path.startswith("/admin/"):
            return
        if path.endswith(admin_calls.QUESTIONS):
            return
        if reply.status < 400:
            await accounts.note(request.caller, f"{request.method.lower()} {path}", path.rpartition("/")[2])

    def _route(self, request: Request) -> tuple[Role | None, Route]:
        return self._found(request.method, request.path)

    def _found(self, method: str, path: str) -> tuple[Role | None, Route]:
        methods = self.routes.get(path if path == "/" else path.rstrip("/"))
        if methods is None:
            above = next((one for one in self._below if path.startswith(one)), None)
            methods = self.routes[above] if above else None
        if methods is None:
            known = ", ".join(sorted(one for one in self.routes if one.startswith("/v") and not one.endswith("/")))
            raise NotFoundError(f"there is nothing at {path!r}; there are {known}", code="unknown_url")
        if (route := methods.get(method)) is None:
            raise MethodError(f"{path!r} takes {', '.join(methods)}, not {method}")
        return route

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


def _failure(error: Exception, request: Request) -> Reply:
    """What a caller is told of an error; the log is told of those that are faults of ours."""
    fields = {"request": request.id, "path": request.path}
    if isinstance(error, RecursionError):
        logger.warning("a request was nested too deeply", extra={"fields": fields}, exc_info=error)
        error = InvokeBadRequestError("what was sent, or what it leads to, is nested too deeply")
    elif not isinstance(error, ModelyardError):  # the last line of defence: whatever is wrong, the caller gets words
        logger.error("a request failed", extra={"fields": fields}, exc_info=error)
        error = ModelyardError(f"something is wrong with the server; its log has the reason under {request.id}")
    elif isinstance(error, (UnauthorizedError, ForbiddenError)):
        logger.info("a request was refused", extra={"fields": {**fields, "code": error.code}})
    return error_reply(error, shape_of(request.path), request.id)


class MethodError(NotFoundError):
    """Right place, wrong verb."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="method_not_allowed")
