"""Route table of plugins, node components, subscriptions and tool providers."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs, plugin_shapes
from modelyard.gateway.admin.dependencies import AdminParts
from modelyard.gateway.admin.installed_plugins import (
    Installations,
    InstalledPlugins,
    MarketListings,
)
from modelyard.gateway.admin.node_types import (
    NodeComponentsRoute,
    NodeTypes,
    Subscriptions,
)
from modelyard.gateway.admin.oauth import OAuthSetup
from modelyard.gateway.admin.rows import PREFIX, global_row, row
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.admin.tools import ToolProvidersRoute, ToolsRoute
from modelyard.gateway.table import ADMIN, DEVELOPER, Content, Listed, Query, Row
from modelyard.tools.entities import ToolEntity

_UNSIGNED = (
    Query(
        "unsigned", "true where the operator says that the package need not be signed."
    ),
)
_TOOLS, _PROVIDERS = "/admin/tools", "/admin/tool-providers"
_KIND = Query(
    "kind",
    "builtin, plugin, api, mcp, workflow, dataset-retrieval, agent or function; all without it.",
)


def rows(parts: AdminParts) -> Iterator[Row]:
    """Yield the routes, in the order of the documentation."""
    plugins = parts.plugins
    yield from _plugin_rows(InstalledPlugins(plugins, parts.manage.server))
    yield from _installation_rows(
        Installations(plugins), MarketListings(plugins.market)
    )
    yield from _node_component_rows(NodeComponentsRoute(plugins.plugins))
    yield from _subscription_rows(
        Subscriptions(plugins.subscriptions, parts.content_origin)
    )
    yield from _oauth_rows(OAuthSetup(plugins.credentials, parts.origin))
    yield from _tool_rows(ToolsRoute(parts.tools))
    yield from _tool_provider_rows(ToolProvidersRoute(parts.tool_providers))


def _plugin_rows(plugins: InstalledPlugins) -> Iterator[Row]:
    """Yield the routes of installed plugins."""
    plugin_view = plugin_shapes.PluginView
    yield row(
        "GET",
        "/plugins",
        ADMIN,
        plugins.listed,
        "List plugins, and what they take.",
        plugin_shapes.PluginsView,
    )
    yield row(
        "GET", "/plugins/{id}", ADMIN, plugins.get_plugin, "Get a plugin.", plugin_view
    )
    yield row("PATCH", "/plugins/{id}", ADMIN, plugins.grant,
              "Say what a plugin may ask its host for.", plugin_view,
              request_body=inputs.GrantInput)  # fmt: skip
    yield row(
        "DELETE",
        "/plugins/{id}",
        ADMIN,
        plugins.remove,
        "Remove a plugin and what it kept.",
        Removed,
    )
    yield row("GET", "/plugins/{id}/logs", ADMIN, plugins.logs, "List what a plugin said lately.",
              Listed(plugin_shapes.LogLine))  # fmt: skip
    yield row(
        "GET",
        "/plugins/{id}/icon",
        ADMIN,
        plugins.icon,
        "Get a plugin's picture.",
        Content("image/*"),
    )


def _installation_rows(
    installations: Installations, market: MarketListings
) -> Iterator[Row]:
    """Yield the routes that install plugins."""
    task = plugin_shapes.InstallTask
    yield row("POST", "/plugins", ADMIN, installations.upload,
              "Install a package, sent as it is.", task,
              request_body=Content("application/octet-stream"), status=201,
              query=_UNSIGNED)  # fmt: skip
    yield row("POST", "/plugins/market", ADMIN, installations.fetch,
              "Install a plugin from a market.", task, request_body=inputs.MarketInput,
              status=201, query=_UNSIGNED)  # fmt: skip
    yield row(
        "GET",
        "/plugins/tasks/{id}",
        ADMIN,
        installations.progress,
        "Say how far an installation is.",
        task,
    )
    # The market lists the same plugins for all tenants, so this row has no `tenant`
    # parameter.
    yield Row(method="GET", path=f"{PREFIX}/market", auth=ADMIN, handler=market.search,
              summary="List what markets offer.", answer=Listed(plugin_shapes.MarketPlugin),
              query=(Query("q", "Words to find."),))  # fmt: skip


def _node_component_rows(parts: NodeComponentsRoute) -> Iterator[Row]:
    """Yield the routes of node types and node components."""
    yield global_row("GET", "/nodes", DEVELOPER, NodeTypes().listed,
                      "List node types, with a schema of what each is told.",
                      Listed(app_shapes.NodeTypeView))  # fmt: skip
    yield row("GET", "/node-parts", DEVELOPER, parts.listed,
              "List what plugins give nodes to work with.",
              app_shapes.NodeComponents)  # fmt: skip


def _subscription_rows(subscriptions: Subscriptions) -> Iterator[Row]:
    """Yield the routes of trigger subscriptions."""
    subscription_view = app_shapes.SubscriptionView
    yield row("GET", "/subscriptions", ADMIN, subscriptions.listed,
              "List what trigger plugins listen to.", Listed(subscription_view))  # fmt: skip
    yield row("POST", "/subscriptions", ADMIN, subscriptions.add,
              "Have a trigger plugin's provider tell what happens there.", subscription_view,
              request_body=inputs.SubscriptionInput, status=201)  # fmt: skip
    yield row(
        "DELETE",
        "/subscriptions/{id}",
        ADMIN,
        subscriptions.remove,
        "Listen to it no longer.",
        Removed,
    )


def _oauth_rows(clients: OAuthSetup) -> Iterator[Row]:
    """Yield the routes that prepare OAuth connections."""
    yield row("POST", "/oauth/clients", ADMIN, clients.set_client,
              "Set this server up as a provider's client.", plugin_shapes.CreatedOAuthClient,
              request_body=inputs.ClientInput, status=201)  # fmt: skip
    yield row("POST", "/oauth/connections", ADMIN, clients.connect,
              "Get where a person connects an account.", plugin_shapes.ConnectionStart,
              request_body=inputs.ConnectionInput, status=201)  # fmt: skip


def _tool_rows(tools: ToolsRoute) -> Iterator[Row]:
    """Yield the routes of tools. Their paths have no version, unlike the rest of the
    admin API."""
    yield Row(method="GET", path=_TOOLS, auth=DEVELOPER, handler=tools.listed, query=(_KIND,),
              summary="List the tools that models may be given.",
              answer=Listed(ToolEntity))  # fmt: skip
    yield Row(method="POST", path=f"{_TOOLS}/call", auth=DEVELOPER, handler=tools.call,
              takes=inputs.ToolCallInput, summary="Try a tool.",
              answer=plugin_shapes.ToolCallResult)  # fmt: skip


def _tool_provider_rows(providers: ToolProvidersRoute) -> Iterator[Row]:
    """Yield the routes of tool providers."""
    path, detail = f"{_PROVIDERS}/{{id}}", plugin_shapes.ToolProviderDetail
    yield Row(method="GET", path=_PROVIDERS, auth=ADMIN, handler=providers.listed,
              summary="List the APIs, MCP servers and extensions that were added.",
              answer=Listed(plugin_shapes.ToolProviderView))  # fmt: skip
    yield Row(method="POST", path=_PROVIDERS, auth=ADMIN, handler=providers.add,
              takes=inputs.ToolProviderInput,
              summary="Add an API, an MCP server or an extension.", answer=detail,
              status=201)  # fmt: skip
    yield Row(method="GET", path=path, auth=ADMIN, handler=providers.get_provider, answer=detail,
              summary="Get a tool provider, with what it offers.")  # fmt: skip
    yield Row(method="DELETE", path=path, auth=ADMIN, handler=providers.remove, status=204,
              summary="Remove a tool provider.")  # fmt: skip
    yield Row(method="POST", path=f"{path}/refresh", auth=ADMIN, handler=providers.refresh,
              takes=inputs.RefreshInput, needs_body=False,
              answer=plugin_shapes.RefreshedToolProvider,
              summary="Show what changed at a tool provider, or take it.")  # fmt: skip
