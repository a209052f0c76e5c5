"""The composition root: builds all services from the settings, in the order of their
dependencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.app.agents import Agents
from modelyard.app.calls import CallServices, build_calls
from modelyard.app.knowledge import KnowledgeServices, build_knowledge
from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.maintenance import MaintenanceTasks, build_maintenance
from modelyard.app.named_tools import NamedTools
from modelyard.app.network import NetworkServices, build_network
from modelyard.app.plugins import PluginHostServices, build_plugins
from modelyard.app.provider_checks import ProviderChecks
from modelyard.app.providers import AddedProviders, ProviderServices, build_providers
from modelyard.app.reload import Reload
from modelyard.app.shared_settings import SharedSettings
from modelyard.app.storage import StorageServices, build_storage
from modelyard.app.tenancy import TenancyServices, build_tenancy
from modelyard.app.tools import ToolServices, build_tools
from modelyard.app.trigger_listeners import TriggerListeners
from modelyard.app.workflows import WorkflowParts, build_workflows
from modelyard.base.clock import Clock
from modelyard.base.settings import Settings
from modelyard.knowledge.vectors import Embedder
from modelyard.runtime.callbacks import Callback
from modelyard.storage.server_settings import ServerSettingsStore
from modelyard.tenancy.directory import Directory

if TYPE_CHECKING:
    from modelyard.app.telemetry import TracingCallback


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All services of a server or a program. Each depends only on those before it."""

    settings: LiveSettings
    clock: Clock
    addresses: Addresses
    network: NetworkServices
    storage: StorageServices
    providers: ProviderServices
    tenancy: TenancyServices
    calls: CallServices
    plugins: PluginHostServices
    checks: ProviderChecks
    tools: ToolServices
    knowledge: KnowledgeServices
    workflows: WorkflowParts
    named_tools: NamedTools
    agents: Agents
    triggers: TriggerListeners
    upkeep: MaintenanceTasks
    reload: Reload
    shared_settings: SharedSettings

    async def aclose(self) -> None:
        """Stop background tasks and local models, close connections and commit pending
        writes, in reverse order."""
        await self.upkeep.stop()
        await self.knowledge.aclose()
        await self.workflows.aclose()
        await self.tools.aclose()
        await self.plugins.aclose()
        await self.providers.local.aclose()
        await self.calls.aclose()
        await self.network.aclose()
        await self.storage.aclose()
        # The ledger is closed after the storage, which still commits pending writes.
        self.calls.ledger.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Foundation:
    """What all other services depend on: connections, storage, tenants, providers."""

    settings: LiveSettings
    clock: Clock
    addresses: Addresses
    network: NetworkServices
    storage: StorageServices
    directory: Directory
    providers: ProviderServices
    tenancy: TenancyServices
    reload: Reload
    shared_settings: SharedSettings


def _build_foundation(
    settings: Settings,
    clock: Clock,
    environ: Mapping[str, str],
    added: AddedProviders,
) -> _Foundation:
    """Build the services that do not call models."""
    live_settings = LiveSettings(settings)
    addresses = Addresses(live_settings)
    # Services that follow changes get the live settings; the others take their part of
    # `settings` once.
    network = build_network(live_settings, environ)
    storage = build_storage(settings, clock, network.clients.separate)
    # Empty until `refresh` reads it, which `Modelyard.open` does.
    directory = Directory(storage.resources)
    providers = build_providers(
        live_settings,
        environ,
        clock,
        network=network,
        keys=storage.keys,
        directory=directory,
        added=added,
    )
    reload = Reload(live_settings, clock, providers)
    return _Foundation(
        settings=live_settings,
        clock=clock,
        addresses=addresses,
        network=network,
        storage=storage,
        directory=directory,
        providers=providers,
        tenancy=build_tenancy(
            live_settings, clock, storage, directory, providers.manager
        ),
        reload=reload,
        shared_settings=SharedSettings(
            settings,
            ServerSettingsStore(storage.database, storage.keys, clock),
            reload,
            environ,
        ),
    )


def build(
    settings: Settings,
    *,
    clock: Clock,
    environ: Mapping[str, str],
    callbacks: Sequence[Callback] = (),
    added: AddedProviders | None = None,
    embedder: Embedder | None = None,
) -> Services:
    """Build all services. `added` are providers in code; `embedder` replaces the
    embedding models.

    Raises ConfigError for invalid settings, StorageUnavailableError if the database
    cannot be opened.
    """
    base = _build_foundation(settings, clock, environ, added or AddedProviders())
    calls = build_calls(
        base.settings,
        clock,
        storage=base.storage,
        directory=base.directory,
        providers=base.providers.manager,
        callbacks=callbacks,
        exporter=_exporter(settings, base.network),
    )
    # From here on every service may call models.
    models = calls.models
    # Plugins provide models and tools, so both follow them.
    plugins = build_plugins(
        base.settings,
        clock,
        addresses=base.addresses,
        network=base.network,
        storage=base.storage,
        directory=base.directory,
        providers=base.providers.manager,
        models=models,
    )
    # Set later: the plugins need the providers, whose credentials administrators set.
    base.tenancy.administration.configure_custom_models(plugins.custom_models)
    tools = build_tools(
        base.settings,
        clock,
        network=base.network,
        storage=base.storage,
        directory=base.directory,
        models=models,
        plugins=plugins,
    )
    knowledge = build_knowledge(
        base.settings,
        clock,
        network=base.network,
        storage=base.storage,
        directory=base.directory,
        memberships=base.tenancy.memberships,
        models=models,
        local=base.providers.local,
        embedder=embedder,
    )
    return _assemble(base, calls, plugins, tools, knowledge)


def _assemble(
    base: _Foundation,
    calls: CallServices,
    plugins: PluginHostServices,
    tools: ToolServices,
    knowledge: KnowledgeServices,
) -> Services:
    """Build the services that combine models, tools and knowledge, and return all."""
    workflows = build_workflows(
        base.settings,
        base.clock,
        addresses=base.addresses,
        network=base.network,
        storage=base.storage,
        directory=base.directory,
        models=calls.models,
        plugins=plugins,
        tools=tools,
        knowledge=knowledge,
    )
    # Names of tools may lead to datasets, which need the knowledge services.
    named_tools = NamedTools(tools.manager, knowledge.datasets)
    manager = base.providers.manager
    upkeep = build_maintenance(
        base.settings,
        base.clock,
        network=base.network,
        storage=base.storage,
        directory=base.directory,
        providers=manager,
        calls=calls,
        plugins=plugins,
        workflows=workflows,
        knowledge=knowledge,
        shared_settings=base.shared_settings,
    )
    return Services(
        settings=base.settings,
        clock=base.clock,
        addresses=base.addresses,
        network=base.network,
        storage=base.storage,
        providers=base.providers,
        tenancy=base.tenancy,
        calls=calls,
        plugins=plugins,
        tools=tools,
        knowledge=knowledge,
        workflows=workflows,
        checks=ProviderChecks(
            base.settings,
            base.network,
            manager,
            base.providers.weights,
            plugins.custom_models,
        ),
        named_tools=named_tools,
        agents=Agents(
            calls.models, tools.manager, named_tools, base.storage.scoped_store
        ),
        triggers=TriggerListeners(),
        upkeep=upkeep,
        reload=base.reload,
        shared_settings=base.shared_settings,
    )


async def prepare(
    storage: StorageServices,
    providers: ProviderServices,
    settings: LiveSettings,
    shared_settings: SharedSettings,
) -> None:
    """Check the file storage, and load what the tenants have set up and the settings that
    all servers share.

    Raises ConfigError, StorageUnavailableError, and NotFoundError for a provider in the
    settings that nothing offers.
    """
    await storage.check_files()
    await providers.load(settings)
    # After the tenants' resources: the settings may name providers of plugins.
    await shared_settings.refresh()


def _exporter(settings: Settings, network: NetworkServices) -> "TracingCallback | None":
    """Return the trace exporter; None if the settings name no collector."""
    if not settings.telemetry.endpoint:
        return None
    # Its dependencies are an optional extra.
    from modelyard.app.telemetry import TracingCallback

    return TracingCallback(settings.telemetry, network.clients.shared)
