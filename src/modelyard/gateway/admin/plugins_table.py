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
    Query("unsigned", "true to accept a package without a trusted signature."),
)
_DECISION = (
    Query(
        "granted",
        "Permissions to grant, separated by commas; empty for none. By default those"
        " that the plugin requests, or those of the version that is installed.",
    ),
    Query("network", "false to refuse connections to hosts other than this server."),
)
_TOOLS, _PROVIDERS = "/admin/tools", "/admin/tool-providers"
_KIND = Query(
    "kind",
    "builtin, plugin, api, mcp, workflow, dataset-retrieval, agent or function; all if omitted.",
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
        "List plugins and their resource usage.",
        plugin_shapes.PluginsView,
    )
    yield row(
        "GET", "/plugins/{id}", ADMIN, plugins.get_plugin, "Get a plugin.", plugin_view
    )
    yield row(
        "PATCH",
        "/plugins/{id}",
        ADMIN,
        plugins.grant,
        "Set a plugin's permissions.",
        plugin_view,
        request_body=inputs.GrantInput,
    )
    yield row(
        "DELETE",
        "/plugins/{id}",
        ADMIN,
        plugins.remove,
        "Remove a plugin and its data.",
        Removed,
    )
    yield row(
        "GET",
        "/plugins/{id}/logs",
        ADMIN,
        plugins.logs,
        "List a plugin's recent log lines.",
        Listed(plugin_shapes.LogLine),
    )
    yield row(
        "GET",
        "/plugins/{id}/icon",
        ADMIN,
        plugins.icon,
        "Get a plugin's icon.",
        Content("image/*"),
    )


def _installation_rows(
    installations: Installations, market: MarketListings
) -> Iterator[Row]:
    """Yield the routes that install plugins."""
    task = plugin_shapes.InstallTask
    yield row(
        "POST",
        "/plugins",
        ADMIN,
        installations.upload,
        "Install a package sent as the request body.",
        task,
        request_body=Content("application/octet-stream"),
        status=201,
        query=(*_UNSIGNED, *_DECISION),
    )
    yield row(
        "POST",
        "/plugins/inspect",
        ADMIN,
        installations.inspect,
        "Show what a package requests, without installing it.",
        plugin_shapes.PackageView,
        request_body=Content("application/octet-stream"),
        query=_UNSIGNED,
    )
    yield row(
        "POST",
        "/plugins/market",
        ADMIN,
        installations.fetch,
        "Install a plugin from a market.",
        task,
        request_body=inputs.MarketInput,
        status=201,
        query=_UNSIGNED,
    )
    yield row(
        "GET",
        "/plugins/tasks/{id}",
        ADMIN,
        installations.progress,
        "Get the progress of an installation.",
        task,
    )
    # The market lists the same plugins for all tenants, so this row has no `tenant`
    # parameter.
    yield Row(
        method="GET",
        path=f"{PREFIX}/market",
        auth=ADMIN,
        handler=market.search,
        summary="Search the plugins of markets.",
        answer=Listed(plugin_shapes.MarketPlugin),
        query=(Query("q", "Search words."),),
    )


def _node_component_rows(parts: NodeComponentsRoute) -> Iterator[Row]:
    """Yield the routes of node types and node components."""
    yield global_row(
        "GET",
        "/nodes",
        DEVELOPER,
        NodeTypes().listed,
        "List node types with the JSON schemas of their data.",
        Listed(app_shapes.NodeTypeView),
    )
    yield row(
        "GET",
        "/node-parts",
        DEVELOPER,
        parts.listed,
        "List the node components that plugins provide.",
        app_shapes.NodeComponents,
    )


def _subscription_rows(subscriptions: Subscriptions) -> Iterator[Row]:
    """Yield the routes of trigger subscriptions."""
    subscription_view = app_shapes.SubscriptionView
    yield row(
        "GET",
        "/subscriptions",
        ADMIN,
        subscriptions.listed,
        "List trigger subscriptions.",
        Listed(subscription_view),
    )
    yield row(
        "POST",
        "/subscriptions",
        ADMIN,
        subscriptions.add,
        "Subscribe to the events of a trigger provider.",
        subscription_view,
        request_body=inputs.SubscriptionInput,
        status=201,
    )
    yield row(
        "DELETE",
        "/subscriptions/{id}",
        ADMIN,
        subscriptions.remove,
        "Remove a trigger subscription.",
        Removed,
    )


def _oauth_rows(clients: OAuthSetup) -> Iterator[Row]:
    """Yield the routes that prepare OAuth connections."""
    yield row(
        "POST",
        "/oauth/clients",
        ADMIN,
        clients.set_client,
        "Store the OAuth client settings of a provider.",
        plugin_shapes.CreatedOAuthClient,
        request_body=inputs.ClientInput,
        status=201,
    )
    yield row(
        "POST",
        "/oauth/connections",
        ADMIN,
        clients.connect,
        "Get the authorization URL for connecting an account.",
        plugin_shapes.ConnectionStart,
        request_body=inputs.ConnectionInput,
        status=201,
    )


def _tool_rows(tools: ToolsRoute) -> Iterator[Row]:
    """Yield the routes of tools. Their paths have no version, unlike the rest of the
    admin API."""
    yield Row(
        method="GET",
        path=_TOOLS,
        auth=DEVELOPER,
        handler=tools.listed,
        query=(_KIND,),
        summary="List the available tools.",
        answer=Listed(ToolEntity),
    )
    yield Row(
        method="POST",
        path=f"{_TOOLS}/call",
        auth=DEVELOPER,
        handler=tools.call,
        takes=inputs.ToolCallInput,
        summary="Try a tool.",
        answer=plugin_shapes.ToolCallResult,
    )


def _tool_provider_rows(providers: ToolProvidersRoute) -> Iterator[Row]:
    """Yield the routes of tool providers."""
    path, detail = f"{_PROVIDERS}/{{id}}", plugin_shapes.ToolProviderDetail
    yield Row(
        method="GET",
        path=_PROVIDERS,
        auth=ADMIN,
        handler=providers.listed,
        summary="List the APIs, MCP servers and extensions that were added.",
        answer=Listed(plugin_shapes.ToolProviderView),
    )
    yield Row(
        method="POST",
        path=_PROVIDERS,
        auth=ADMIN,
        handler=providers.add,
        takes=inputs.ToolProviderInput,
        summary="Add an API, an MCP server or an extension.",
        answer=detail,
        status=201,
    )
    yield Row(
        method="GET",
        path=path,
        auth=ADMIN,
        handler=providers.get_provider,
        answer=detail,
        summary="Get a tool provider with its tools.",
    )
    yield Row(
        method="DELETE",
        path=path,
        auth=ADMIN,
        handler=providers.remove,
        status=204,
        summary="Remove a tool provider.",
    )
    yield Row(
        method="POST",
        path=f"{path}/refresh",
        auth=ADMIN,
        handler=providers.refresh,
        takes=inputs.RefreshInput,
        needs_body=False,
        answer=plugin_shapes.RefreshedToolProvider,
        summary="Show the changes of a tool provider, or apply them.",
    )
