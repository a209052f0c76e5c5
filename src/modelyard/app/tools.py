"""Tools, wired: what comes with us, plugins', and what tenants have added."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelyard.base.settings import Settings
from modelyard.jail.sandbox import Jail
from modelyard.storage.kept import Kept
from modelyard.tools.builtin import Parts, tools_of
from modelyard.tools.entities import Tool, ToolEntity
from modelyard.tools.manager import ToolManager, Tools
from modelyard.tools.plugins import PluginTools
from modelyard.tools.providers import StdioServer, ToolProviders
from modelyard.transport.egress import Egress

if TYPE_CHECKING:
    from modelyard.app import Modelyard


class ToolParts:
    def __init__(self, yard: "Modelyard", jail: Jail, egress: Egress) -> None:
        self.kept = Kept(yard.database, yard.clock)
        self.manager = ToolManager()
        parts = Parts(clock=yard.clock, jail=jail, egress=egress, kept=self.kept, models=yard.models)
        self.manager.add_source("builtin", _Lazily(parts))
        self.manager.add_source("plugin", PluginTools(yard.plugins, yard.plugin_parts.credentials))
        offered = Kept(yard.database, yard.clock, most_bytes=256 << 20)
        self.providers = ToolProviders(
            yard.resources, yard.directory, yard.plugin_parts.rows, offered, egress, _programs(yard.settings)
        )
        self.manager.add_source("api", self.providers.apis())
        self.manager.add_source("mcp", self.providers.mcps())
        yard.on_reload(lambda settings: self.providers.stdio.update(_programs(settings)))

    async def aclose(self) -> None:
        await self.providers.aclose()


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
