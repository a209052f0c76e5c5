"""Response types of the admin API for plugins and tools."""

from typing import Any

import msgspec

from modelyard.models.entities import I18nObject
from modelyard.tools.definition_changes import Changes


class PluginView(msgspec.Struct, frozen=True, kw_only=True):
    """An installed plugin with its permissions and resource usage."""

    id: str
    plugin_id: str
    identifier: str
    version: str
    author: str
    label: I18nObject
    description: I18nObject | None
    kinds: list[str]
    """Any of models, tools, endpoints, agent_strategies, datasources, triggers."""
    runtime: str
    source: str
    asked: list[str]
    granted: list[str]
    network: bool
    """Whether it may connect to hosts other than this server."""
    hosts: list[str] | None
    """The only hosts that it may connect to; null for any."""
    has_icon: bool
    processes: int
    memory_bytes: int
    cpu_seconds: float
    tools: list[str]
    created_at: float


class PluginsView(msgspec.Struct, frozen=True, kw_only=True):
    """All plugins of a tenant, with the connection data for debugging."""

    data: list[PluginView]
    debug_address: str
    """Address at which plugins being debugged connect; empty if it is off."""
    debug_key: str


class PackageView(msgspec.Struct, frozen=True, kw_only=True):
    """A package that could be installed, with what it requests."""

    plugin_id: str
    identifier: str
    version: str
    requests: dict[str, str]
    """Permission, or `network` → what the plugin can do with it."""
    signed_by: str | None
    """The trusted key with which it is signed; null if there is none."""
    installed_version: str | None
    """The version that the tenant has now."""


class InstallStep(msgspec.Struct, frozen=True, kw_only=True):
    """The installation state of one plugin."""

    plugin_id: str
    status: str
    message: str


class InstallTask(msgspec.Struct, frozen=True, kw_only=True):
    """An installation with its steps."""

    id: str
    status: str
    plugins: list[InstallStep]


class MarketPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin in a marketplace."""

    id: str
    version: str
    label: str
    description: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A log line of a plugin; `at` is in seconds since 1970."""

    at: float
    text: str


class CreatedOAuthClient(msgspec.Struct, frozen=True, kw_only=True):
    """This server's OAuth client at a provider."""

    id: str
    redirect_uri: str
    """Redirect URI to be registered with the provider."""


class ConnectionStart(msgspec.Struct, frozen=True, kw_only=True):
    """Start of an OAuth connection."""

    url: str
    """URL that the user opens in a browser to connect an account."""


class BlobView(msgspec.Struct, frozen=True, kw_only=True):
    """Type and size of a file that a tool returned."""

    mime_type: str
    bytes: int


class ToolCallResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a tool call."""

    text: str
    """The text that a model would receive."""
    error: str | None
    """The kind of failure; null if the call succeeded."""
    values: list[Any]
    variables: dict[str, Any]
    seconds: float
    files: list[BlobView]


class ToolProviderView(msgspec.Struct, frozen=True, kw_only=True):
    """A tool provider that a tenant added."""

    id: str
    name: str
    type: str
    """`api`, `mcp` or `extension`."""
    title: str
    url: str
    chosen_server: str | None
    """Base URL for an API's calls, if it was set by hand."""
    stdio: str | None
    """Name under which an administrator registered the program of an MCP server."""
    count: int
    """Number of its tools."""


class ToolProviderDetail(
    ToolProviderView, frozen=True, kw_only=True, omit_defaults=True
):
    """A tool provider with its tools.

    An API has `server`, `left_out` and `schemes`; an MCP server that was just added has
    `version`.
    """

    version: str = ""
    tools: list[str] = []
    server: str = ""
    left_out: list[str] = []
    """Operations that cannot be used as tools, with the reason."""
    schemes: dict[str, str] = {}
    """Authentication scheme → its type."""


class RefreshedToolProvider(ToolProviderDetail, frozen=True, kw_only=True):
    """A tool provider after a refresh, with the changes of its description."""

    changes: Changes
    accepted: bool
