"""Routes of the admin API that are not in a table yet."""

from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from modelyard.gateway.admin import (
    app_runs,
    catalogue,
    evaluations,
    installed_plugins,
    model_calls,
    node_parts,
    oauth,
    server_state,
    splitting,
    tools,
)
from modelyard.gateway.admin import docs as api_docs
from modelyard.gateway.admin import requests as admin_calls
from modelyard.gateway.admin import resources as admin
from modelyard.gateway.admin.app_runs import AppRuns
from modelyard.gateway.admin.apps import AppsRoute
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.http import Reply, Request, StreamReply
from modelyard.gateway.table import OWN_SECRET, SAME_SITE, Admission, Api, Auth, ErrorShape, Row
from modelyard.runtime.caller import Role

Route = Callable[[Request], Awaitable[Reply | StreamReply]]
Parts = Any


def api(manage, plugins, apps, datasets, *, administration, answers, tools, tool_providers, pipelines, addresses):
    parts = SimpleNamespace(
        manage=manage,
        plugins=plugins,
        service=apps,
        datasets=datasets,
        administration=administration,
        answers=answers,
        tools=tools,
        tool_providers=tool_providers,
        ledger=manage.ledger,
        models=manage.models,
        origin=addresses.server,
        content_origin=addresses.content,
        apps=AppsRoute(apps.apps, pipelines, addresses.server, AppRuns(apps, manage).of_app),
    )
    return _of("admin", "/admin", OPENAI, {**_admin_routes(parts), **_tool_routes(parts)})


_Routes = Mapping[str, Mapping[str, tuple[Role | None, Route]]]


def _of(name: str, prefix: str, errors: ErrorShape, routes: _Routes) -> Api:
    rows = [
        Row(method=verb, path=f"{path}{{rest:path}}" if path.endswith("/") else path, auth=_auth(role, route),
            handler=route, summary="")
        for path, verbs in routes.items() for verb, (role, route) in verbs.items()
    ]  # fmt: skip
    return Api(name=name, title=name, about="", prefixes=(prefix,), errors=errors, rows=tuple(rows))


def _auth(role: Role | None, route: Route) -> Auth:
    if role is not None:
        return Auth(Admission.API_KEY, role)
    return OWN_SECRET if getattr(getattr(route, "__self__", route), "admits_itself", False) else SAME_SITE


def _admin_routes(parts: Parts) -> dict[str, Mapping[str, tuple[Role | None, Route]]]:
    found: dict[str, Mapping[str, tuple[Role | None, Route]]] = {}
    for plural, kind in admin.PLURALS.items():
        one = admin.Collection(parts.administration, kind)
        changing: Role | None = Role.OWNER if kind == "tenant" else Role.ADMIN
        found[f"{admin_calls.PREFIX}{plural}"] = {"GET": (Role.ADMIN, one), "POST": (changing, one)}
        found[f"{admin_calls.PREFIX}{plural}/"] = {
            "GET": (Role.ADMIN, one), "PATCH": (changing, one), "DELETE": (changing, one), "POST": (changing, one),
        }  # fmt: skip
    found[f"{admin_calls.PREFIX}usage"] = {"GET": (Role.VIEWER, admin.Usage(parts.ledger.usage))}
    found[f"{admin_calls.PREFIX}usage/rows"] = {"GET": (Role.VIEWER, admin.Rows(parts.ledger.usage))}
    manage = parts.manage
    called, providers = model_calls.CallsRoute(manage), catalogue.ProvidersRoute(manage)
    weights, plugins = catalogue.WeightsRoute(manage), installed_plugins.PluginsRoute(parts.plugins, manage)
    subscribed = node_parts.SubscriptionsRoute(parts.plugins.subscriptions, parts.content_origin)
    runs = {verb: (Role.ADMIN, app_runs.RunsRoute(parts.service)) for verb in ("GET", "POST")}
    prefix = admin_calls.PREFIX
    found |= {
        f"{prefix}calls": {"GET": (Role.VIEWER, called)},
        f"{prefix}calls/": {"GET": (Role.VIEWER, called), "POST": (Role.DEVELOPER, called)},
        f"{prefix}latency": {"GET": (Role.VIEWER, model_calls.LatencyRoute(manage))},
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
    connecting = oauth.OAuthSetUp(parts.plugins.credentials, parts.origin)
    found[f"{admin_calls.PREFIX}oauth/clients"] = {"POST": (Role.ADMIN, connecting.set_client)}
    found[f"{admin_calls.PREFIX}oauth/connections"] = {"POST": (Role.ADMIN, connecting.connect)}
    for path in ("/console/api/docs", "/console/api/docs/style.css"):
        found[path] = {"GET": (None, api_docs.page)}
    verbs = ("GET", "POST", "PATCH", "PUT", "DELETE")
    found[f"{admin_calls.PREFIX}apps"] = dict.fromkeys(("GET", "POST"), (Role.ADMIN, parts.apps))
    found[f"{admin_calls.PREFIX}apps/"] = dict.fromkeys(verbs, (Role.ADMIN, parts.apps))
    found["/admin/openapi.json"] = {"GET": (Role.VIEWER, api_docs.description)}
    return found


def _tool_routes(parts: Parts) -> dict[str, Mapping[str, tuple[Role | None, Route]]]:
    one = tools.ProviderRoute(parts.tool_providers)
    every = tools.ProvidersRoute(parts.tool_providers)
    return {
        "/admin/tools": {"GET": (Role.DEVELOPER, tools.ListRoute(parts.tools))},
        "/admin/tools/call": {"POST": (Role.DEVELOPER, tools.CallRoute(parts.tools))},
        "/admin/tool-providers": {"GET": (Role.ADMIN, every), "POST": (Role.ADMIN, every)},
        "/admin/tool-providers/": {"GET": (Role.ADMIN, one), "POST": (Role.ADMIN, one), "DELETE": (Role.ADMIN, one)},
    }
