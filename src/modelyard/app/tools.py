"""Tools, wired: what comes with us, plugins', and what tenants have added."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkParts
from modelyard.app.plugins import PluginParts
from modelyard.app.storage import StorageParts
from modelyard.base.clock import Clock
from modelyard.base.settings import Settings
from modelyard.jail.sandbox import Jail, JailLimits
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.directory import Directory
from modelyard.tools.builtin import Parts, tools_of
from modelyard.tools.entities import Tool, ToolEntity
from modelyard.tools.manager import ToolManager, Tools
from modelyard.tools.plugins import PluginTools
from modelyard.tools.providers import StdioServer, ToolProviders


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParts:
    """Tools of every kind, and who offers them."""

    manager: ToolManager
    providers: ToolProviders
    """What tenants have added: APIs, MCP servers, extensions."""
    jail: Jail
    """Where programs run that tenants wrote."""

    async def aclose(self) -> None:
        """Hang up on servers of tools, and end what runs in the jail."""
        await self.providers.aclose()
        await self.jail.aclose()


def build_tools(
    live: LiveSettings,
    clock: Clock,
    *,
    network: NetworkParts,
    storage: StorageParts,
    directory: Directory,
    models: ModelManager,
    plugins: PluginParts,
) -> ToolParts:
    """What apps are comes later, as one more source of tools."""
    jail = _jail(live.current)
    manager = ToolManager()
    parts = Parts(clock=clock, jail=jail, egress=network.egress, kept=storage.kept, models=models)
    manager.add_source("builtin", _Lazily(parts))
    manager.add_source("plugin", PluginTools(plugins.plugins, plugins.credentials))
    providers = ToolProviders(
        storage.resources, directory, plugins.rows, storage.offered, network.egress, _programs(live.current)
    )
    manager.add_source("api", providers.apis())
    manager.add_source("mcp", providers.mcps())
    live.on_change(lambda settings: providers.stdio.update(_programs(settings)))
    return ToolParts(manager=manager, providers=providers, jail=jail)


def _jail(settings: Settings) -> Jail:
    chosen = settings.workflows
    limits = JailLimits(seconds=chosen.code_seconds, memory_mb=chosen.code_memory_mb, at_once=chosen.code_at_once)
    return Jail(limits, preload=chosen.preload, is_enabled=chosen.code)


def _programs(settings: Settings) -> dict[str, StdioServer]:
    return {
        name: StdioServer(command=one.command, arguments=one.args, environ=one.env)
        for name, one in settings.tools.mcp_stdio.items()
    }


class _Lazily(Tools):
    """What comes with us; described when somebody first asks."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts: Parts | None = parts

    def _fill(self) -> None:
        if self._parts is not None:
            for provider, some in tools_of(self._parts).items():
                for one in some:
                    self.add(one, provider)
            self._parts = None

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        self._fill()
        return await super().tools(tenant)

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        self._fill()
        return await super().find(tenant, provider, name)
