"""The composition root: settings in, wired objects out. The only place that says what stands on what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.app.agents import Agents
from modelyard.app.calls import CallParts, build_calls
from modelyard.app.knowledge import KnowledgeParts, build_knowledge
from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.named_tools import NamedTools
from modelyard.app.network import NetworkParts, build_network
from modelyard.app.plugins import PluginParts, build_plugins
from modelyard.app.provider_checks import ProviderChecks
from modelyard.app.providers import Added, ProviderParts, build_providers
from modelyard.app.reload import Reload
from modelyard.app.storage import StorageParts, build_storage
from modelyard.app.tenancy import TenancyParts, build_tenancy
from modelyard.app.tools import ToolParts, build_tools
from modelyard.app.trigger_listeners import TriggerListeners
from modelyard.app.upkeep import Upkeep, build_upkeep
from modelyard.app.workflows import WorkflowParts, build_workflows
from modelyard.base.clock import Clock
from modelyard.base.settings import Settings
from modelyard.knowledge.vectors import Embedder
from modelyard.runtime.callbacks import Callback
from modelyard.tenancy.directory import Directory

if TYPE_CHECKING:
    from modelyard.app.telemetry import Traced


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that a server or a program has, room by room; each stands on those before it alone."""

    settings: LiveSettings
    clock: Clock
    addresses: Addresses
    network: NetworkParts
    storage: StorageParts
    providers: ProviderParts
    tenancy: TenancyParts
    calls: CallParts
    plugins: PluginParts
    checks: ProviderChecks
    tools: ToolParts
    knowledge: KnowledgeParts
    workflows: WorkflowParts
    named_tools: NamedTools
    agents: Agents
    triggers: TriggerListeners
    upkeep: Upkeep
    reload: Reload

    async def aclose(self) -> None:
        """Stop the upkeep and the local models, close connections, commit what is waiting; the topmost room first."""
        await self.upkeep.stop()
        await self.knowledge.aclose()
        await self.workflows.aclose()
        await self.tools.aclose()
        await self.plugins.aclose()
        await self.providers.local.aclose()
        await self.calls.aclose()
        await self.network.aclose()
        await self.storage.aclose()
        self.calls.ledger.close()


def build(
    settings: Settings,
    *,
    clock: Clock,
    environ: Mapping[str, str],
    callbacks: Sequence[Callback] = (),
    added: Added | None = None,
    embedder: Embedder | None = None,
) -> Services:
    """`added`: providers in code; `embedder`: what embeds documents in the place of the runtime's models.

    Raises ConfigError for settings that are wrong, StorageUnavailableError where the database cannot be opened.
    """
    live = LiveSettings(settings)
    addresses = Addresses(live)
    network = build_network(live, environ)
    storage = build_storage(settings, clock)
    directory = Directory(storage.resources)
    providers = build_providers(
        live, environ, clock, network=network, keys=storage.keys, directory=directory, added=added or Added()
    )
    manager = providers.manager
    tenancy = build_tenancy(live, clock, storage, directory, manager)
    calls = build_calls(
        live, clock, storage=storage, directory=directory, providers=manager, callbacks=callbacks,
        exporter=_exporter(settings, network),
    )  # fmt: skip
    models = calls.models
    plugins = build_plugins(
        live, clock, addresses=addresses, network=network, storage=storage, directory=directory, providers=manager,
        models=models,
    )  # fmt: skip
    tools = build_tools(
        live, clock, network=network, storage=storage, directory=directory, models=models, plugins=plugins
    )
    knowledge = build_knowledge(
        live, clock, network=network, storage=storage, directory=directory, models=models, local=providers.local,
        embedder=embedder,
    )  # fmt: skip
    workflows = build_workflows(
        live, clock, addresses=addresses, network=network, storage=storage, directory=directory, models=models,
        plugins=plugins, tools=tools, knowledge=knowledge,
    )  # fmt: skip
    named_tools = NamedTools(tools.manager, knowledge.datasets)
    upkeep = build_upkeep(
        live, clock, network=network, storage=storage, directory=directory, providers=manager, calls=calls,
        plugins=plugins, workflows=workflows, knowledge=knowledge,
    )  # fmt: skip
    return Services(
        settings=live, clock=clock, addresses=addresses, network=network, storage=storage, providers=providers,
        tenancy=tenancy, calls=calls, plugins=plugins, tools=tools, knowledge=knowledge, workflows=workflows,
        checks=ProviderChecks(live, network, manager, providers.weights, plugins.plugins),
        named_tools=named_tools, agents=Agents(models, tools.manager, named_tools, storage.kept),
        triggers=TriggerListeners(), upkeep=upkeep, reload=Reload(live, clock, providers),
    )  # fmt: skip


def _exporter(settings: Settings, network: NetworkParts) -> "Traced | None":
    """What sends traces to the collector that the settings name; None where they name none."""
    if not settings.telemetry.endpoint:
        return None
    from modelyard.app.telemetry import Traced  # what it imports is an extra

    return Traced(settings.telemetry, network.clients.shared)
