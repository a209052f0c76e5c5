"""What the admin API answers about plugins and tools."""

from typing import Any

import msgspec

from modelyard.models.entities import I18nObject
from modelyard.tools.changes import Changes


class PluginShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    plugin_id: str
    identifier: str
    version: str
    author: str
    label: I18nObject
    description: I18nObject | None
    kinds: list[str]
    """models, tools, endpoints, agent_strategies, datasources, triggers."""
    runtime: str
    source: str
    asked: list[str]
    granted: list[str]
    has_icon: bool
    processes: int
    memory_bytes: int
    cpu_seconds: float
    tools: list[str]
    created_at: float


class PluginsShown(msgspec.Struct, frozen=True, kw_only=True):
    data: list[PluginShown]
    debug_address: str
    """Where plugins that their authors run connect to; empty where that is off."""
    debug_key: str


class InstallStep(msgspec.Struct, frozen=True, kw_only=True):
    plugin_id: str
    status: str
    message: str


class InstallTask(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: str
    plugins: list[InstallStep]


class MarketPlugin(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    version: str
    label: str
    description: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    text: str


class ClientMade(msgspec.Struct, frozen=True, kw_only=True):
    """This server as a provider's client."""

    id: str
    redirect_uri: str
    """What the provider has to be told of where people come back to."""


class ConnectionBegun(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """What a person opens in a browser to connect an account."""


class BlobShown(msgspec.Struct, frozen=True, kw_only=True):
    mime_type: str
    bytes: int


class ToolTried(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """What a model would be told."""
    error: str | None
    """In which way it failed; null where it did not."""
    values: list[Any]
    variables: dict[str, Any]
    seconds: float
    files: list[BlobShown]


class ToolProviderShown(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    type: str
    """`api`, `mcp` or `extension`."""
    title: str
    url: str
    chosen_server: str | None
    """Where an API's calls go, where that was chosen by hand."""
    stdio: str | None
    """Under which name an administrator registered its program."""
    count: int
    """Of its tools."""


class ToolProviderDetail(ToolProviderShown, frozen=True, kw_only=True, omit_defaults=True):
    """An API has `server`, `left_out` and `schemes`; an MCP server that was just added, `version`."""

    version: str = ""
    tools: list[str] = []
    server: str = ""
    left_out: list[str] = []
    """Operations that are no tools, and why."""
    schemes: dict[str, str] = {}
    """How callers are known → its type."""


class ToolProviderRefreshed(ToolProviderDetail, frozen=True, kw_only=True):
    changes: Changes
    accepted: bool
