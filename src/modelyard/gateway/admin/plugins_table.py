"""The rows of plugins and tools: what is installed, what it gives, what was added by hand."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs, plugin_shapes
from modelyard.gateway.admin.installed_plugins import Installations, InstalledPlugins, MarketListings
from modelyard.gateway.admin.node_parts import NodeKinds, PartsOfNodes, Subscriptions
from modelyard.gateway.admin.oauth import OAuthSetUp
from modelyard.gateway.admin.parts import AdminParts
from modelyard.gateway.admin.rows import PREFIX, row, row_for_all
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.admin.tools import AddedProviders, OfferedTools
from modelyard.gateway.table import ADMIN, DEVELOPER, Content, Listed, Query, Row
from modelyard.tools.entities import ToolEntity

_UNSIGNED = (Query("unsigned", "true where the operator says that the package need not be signed."),)
_TOOLS, _PROVIDERS = "/admin/tools", "/admin/tool-providers"
_KIND = Query("kind", "builtin, plugin, api, mcp, workflow, dataset-retrieval, agent or function; all without it.")


def rows(parts: AdminParts) -> Iterator[Row]:
    """Plugins first."""
    plugins = parts.plugins
    yield from _installed(InstalledPlugins(plugins, parts.manage.server))
    yield from _installing(Installations(plugins), MarketListings(plugins.market))
    yield from _parts_of_nodes(PartsOfNodes(plugins.plugins))
    yield from _subscriptions(Subscriptions(plugins.subscriptions, parts.content_origin))
    yield from _oauth(OAuthSetUp(plugins.credentials, parts.origin))
    yield from _tools(OfferedTools(parts.tools))
    yield from _tool_providers(AddedProviders(parts.tool_providers))


def _installed(plugins: InstalledPlugins) -> Iterator[Row]:
    shown = plugin_shapes.PluginShown
    yield row("GET", "/plugins", ADMIN, plugins.listed, "List plugins, and what they take.", plugin_shapes.PluginsShown)
    yield row("GET", "/plugins/{id}", ADMIN, plugins.one, "Get a plugin.", shown)
    yield row("PATCH", "/plugins/{id}", ADMIN, plugins.grant, "Say what a plugin may ask its host for.", shown,
              takes=inputs.GrantInput)  # fmt: skip
    yield row("DELETE", "/plugins/{id}", ADMIN, plugins.remove, "Remove a plugin and what it kept.", Removed)
    yield row("GET", "/plugins/{id}/logs", ADMIN, plugins.logs, "List what a plugin said lately.",
              Listed(plugin_shapes.LogLine))  # fmt: skip
    yield row("GET", "/plugins/{id}/icon", ADMIN, plugins.icon, "Get a plugin's picture.", Content("image/*"))


def _installing(installations: Installations, market: MarketListings) -> Iterator[Row]:
    task = plugin_shapes.InstallTask
    yield row("POST", "/plugins", ADMIN, installations.upload, "Install a package, sent as it is.", task,
              takes=Content("application/octet-stream"), status=201, query=_UNSIGNED)  # fmt: skip
    yield row("POST", "/plugins/market", ADMIN, installations.fetch, "Install a plugin from a market.", task,
              takes=inputs.MarketInput, status=201, query=_UNSIGNED)  # fmt: skip
    yield row("GET", "/plugins/tasks/{id}", ADMIN, installations.progress, "Say how far an installation is.", task)
    yield Row(
        method="GET", path=f"{PREFIX}/market", auth=ADMIN, handler=market.search, summary="List what markets offer.",
        answer=Listed(plugin_shapes.MarketPlugin), query=(Query("q", "Words to find."),),
    )  # fmt: skip


def _parts_of_nodes(parts: PartsOfNodes) -> Iterator[Row]:
    yield row_for_all("GET", "/nodes", DEVELOPER, NodeKinds().listed,
                      "List node types, with a schema of what each is told.",
                      Listed(app_shapes.NodeKindShown))  # fmt: skip
    yield row("GET", "/node-parts", DEVELOPER, parts.listed, "List what plugins give nodes to work with.",
              app_shapes.NodeParts)  # fmt: skip


def _subscriptions(subscriptions: Subscriptions) -> Iterator[Row]:
    shown = app_shapes.SubscriptionShown
    yield row("GET", "/subscriptions", ADMIN, subscriptions.listed, "List what trigger plugins listen to.",
              Listed(shown))  # fmt: skip
    yield row("POST", "/subscriptions", ADMIN, subscriptions.add,
              "Have a trigger plugin's provider tell what happens there.", shown, takes=inputs.SubscriptionInput,
              status=201)  # fmt: skip
    yield row("DELETE", "/subscriptions/{id}", ADMIN, subscriptions.remove, "Listen to it no longer.", Removed)


def _oauth(clients: OAuthSetUp) -> Iterator[Row]:
    yield row("POST", "/oauth/clients", ADMIN, clients.set_client, "Set this server up as a provider's client.",
              plugin_shapes.ClientMade, takes=inputs.ClientInput, status=201)  # fmt: skip
    yield row("POST", "/oauth/connections", ADMIN, clients.connect, "Get where a person connects an account.",
              plugin_shapes.ConnectionBegun, takes=inputs.ConnectionInput, status=201)  # fmt: skip


def _tools(tools: OfferedTools) -> Iterator[Row]:
    yield Row(method="GET", path=_TOOLS, auth=DEVELOPER, handler=tools.listed, query=(_KIND,),
              summary="List the tools that models may be given.", answer=Listed(ToolEntity))  # fmt: skip
    yield Row(method="POST", path=f"{_TOOLS}/call", auth=DEVELOPER, handler=tools.call, takes=inputs.ToolCallInput,
              summary="Try a tool.", answer=plugin_shapes.ToolTried)  # fmt: skip


def _tool_providers(providers: AddedProviders) -> Iterator[Row]:
    path, detail = f"{_PROVIDERS}/{{id}}", plugin_shapes.ToolProviderDetail
    yield Row(method="GET", path=_PROVIDERS, auth=ADMIN, handler=providers.listed,
              summary="List the APIs, MCP servers and extensions that were added.",
              answer=Listed(plugin_shapes.ToolProviderShown))  # fmt: skip
    yield Row(method="POST", path=_PROVIDERS, auth=ADMIN, handler=providers.add, takes=inputs.ToolProviderInput,
              summary="Add an API, an MCP server or an extension.", answer=detail, status=201)  # fmt: skip
    yield Row(method="GET", path=path, auth=ADMIN, handler=providers.one, answer=detail,
              summary="Get a tool provider, with what it offers.")  # fmt: skip
    yield Row(method="DELETE", path=path, auth=ADMIN, handler=providers.remove, status=204,
              summary="Remove a tool provider.")  # fmt: skip
    yield Row(method="POST", path=f"{path}/refresh", auth=ADMIN, handler=providers.refresh, takes=inputs.RefreshInput,
              needs_body=False, answer=plugin_shapes.ToolProviderRefreshed,
              summary="Show what changed at a tool provider, or take it.")  # fmt: skip
