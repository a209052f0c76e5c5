"""Tool setup: built-in tools, tools of plugins, and tools that tenants added."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkServices
from modelyard.app.plugins import PluginHostServices
from modelyard.app.storage import StorageServices
from modelyard.base.clock import Clock
from modelyard.base.settings import Settings
from modelyard.runtime.model_manager import ModelManager
from modelyard.sandbox.runner import Sandbox, SandboxLimits
from modelyard.tenancy.directory import Directory
from modelyard.tools.builtin import BuiltinDependencies, tools_of
from modelyard.tools.entities import Tool, ToolEntity
from modelyard.tools.manager import ToolManager, Tools
from modelyard.tools.plugins import PluginTools
from modelyard.tools.providers import StdioServer, ToolProviders
from modelyard.workflow.code_network import CodeNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServices:
    """Tools of all kinds and their providers."""

    manager: ToolManager
    providers: ToolProviders
    """Providers that tenants added: APIs, MCP servers and extensions."""
    sandbox: Sandbox
    """Sandbox in which programs written by tenants run."""
    code_network: CodeNetwork
    """The way of code nodes to the network."""

    async def aclose(self) -> None:
        """Close the connections to tool servers and stop all sandboxed programs."""
        await self.providers.aclose()
        await self.sandbox.aclose()


def build_tools(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    network: NetworkServices,
    storage: StorageServices,
    directory: Directory,
    models: ModelManager,
    plugins: PluginHostServices,
) -> ToolServices:
    """Build the tool services. Apps are registered later as one more source of tools."""
    sandbox = _build_sandbox(live_settings.current)
    manager = ToolManager()
    parts = BuiltinDependencies(
        clock=clock,
        sandbox=sandbox,
        egress=network.egress,
        kept=storage.scoped_store,
        models=models,
    )
    # The built-in tools are described lazily, because importing all of them slows the
    # start.
    manager.add_source("builtin", _LazyToolSource(parts))
    manager.add_source("plugin", PluginTools(plugins.plugins, plugins.credentials))
    providers = ToolProviders(
        storage.resources,
        directory,
        plugins.rows,
        storage.tool_catalogs,
        network.egress,
        _programs(live_settings.current),
    )
    manager.add_source("api", providers.apis())
    manager.add_source("mcp", providers.mcps())
    # Registered MCP programs can change with the settings file; new calls use the new
    # list.
    live_settings.on_change(
        lambda settings: providers.stdio.update(_programs(settings))
    )
    return ToolServices(
        manager=manager,
        providers=providers,
        sandbox=sandbox,
        code_network=_build_code_network(live_settings, network, directory),
    )


def _build_code_network(
    live_settings: LiveSettings, network: NetworkServices, directory: Directory
) -> CodeNetwork:
    """Return the way of code nodes to the network, by the rules for all addresses of
    tenants."""
    ca_file = network.clients.network.ca_file
    return CodeNetwork(
        rules=lambda: network.egress.rules,
        mode=lambda: live_settings.current.workflows.code_network,
        directory=directory,
        # Read once, like the certificates of all other clients.
        authorities=Path(ca_file).read_text(encoding="ascii") if ca_file else "",
    )


def _build_sandbox(settings: Settings) -> Sandbox:
    """Return the sandbox with the limits of the workflow settings."""
    workflow_settings = settings.workflows
    limits = SandboxLimits(
        seconds=workflow_settings.code_seconds,
        memory_mb=workflow_settings.code_memory_mb,
        at_once=workflow_settings.code_at_once,
    )
    return Sandbox(
        limits, preload=workflow_settings.preload, is_enabled=workflow_settings.code
    )


def _programs(settings: Settings) -> dict[str, StdioServer]:
    """Return the MCP servers that run as local programs, by registered name."""
    return {
        name: StdioServer(
            command=server.command, arguments=server.args, environ=server.env
        )
        for name, server in settings.tools.mcp_stdio.items()
    }


class _LazyToolSource(Tools):
    """Built-in tools; they are loaded at the first request for them."""

    def __init__(self, parts: BuiltinDependencies) -> None:
        super().__init__()
        self._parts: BuiltinDependencies | None = parts

    def _load_once(self) -> None:
        """Register the built-in tools. Does nothing after the first call."""
        if self._parts is not None:
            for provider, provider_tools in tools_of(self._parts).items():
                for tool in provider_tools:
                    self.add(tool, provider)
            # Drop the parts: None marks that the tools are loaded.
            self._parts = None

    async def tools(self, tenant: str) -> Sequence[ToolEntity]:
        """Return the descriptions of all built-in tools."""
        self._load_once()
        return await super().tools(tenant)

    async def find(self, tenant: str, provider: str, name: str) -> Tool:
        """Return one built-in tool; raises the error of the base class if there is
        none."""
        self._load_once()
        return await super().find(tenant, provider, name)
