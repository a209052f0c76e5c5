"""Builds the plugin services: folders, resource limits, host calls and the server for
plugins in debug mode."""

import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.network import NetworkServices
from modelyard.app.provider_settings import timeouts_of
from modelyard.app.storage import StorageServices
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.private_files import private_folder
from modelyard.base.settings import PluginSettings, Settings
from modelyard.plugins.debug import DebugServer
from modelyard.plugins.environment import Environments
from modelyard.plugins.host import PluginHost
from modelyard.plugins.host_calls import HostCallHandler
from modelyard.plugins.manifest import Hosts
from modelyard.plugins.market import Market
from modelyard.plugins.process import ProcessOptions
from modelyard.plugins.requirements import normal_name
from modelyard.plugins.serverless import ServerlessRuntime, ServerlessSessions
from modelyard.plugins.shared_packages import SharedPackages
from modelyard.plugins.signature import read_keys
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.custom_models import CustomModels
from modelyard.tenant_plugins.debug_plugins import DebuggedPlugins
from modelyard.tenant_plugins.endpoints import PluginEndpoints
from modelyard.tenant_plugins.fetching import PluginFetcher
from modelyard.tenant_plugins.installations import PluginInstallations
from modelyard.tenant_plugins.models import PluginModels, ProviderNames
from modelyard.tenant_plugins.packages import PluginPackages
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.services import PluginServices
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.transport.egress_proxy import EgressProxy

logger = logging.getLogger("modelyard.plugins")

KEY = "plugin.key"
"""File in the home folder with the key of the plugin API."""


_KEY_PURPOSE = b"key of the plugin API"
"""What the master key signs to derive the key of servers that share a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginHostServices:
    """The plugin services: installed plugins, their tenants, and what they provide."""

    key: str
    """The key with which programs access the plugin API."""
    host: PluginHost
    plugins: Plugins
    models: PluginModels
    rows: SealedRows
    credentials: PluginCredentials
    custom_models: CustomModels
    endpoints: PluginEndpoints
    subscriptions: PluginSubscriptions
    packages: PluginPackages
    installations: PluginInstallations
    fetcher: PluginFetcher
    debugged: DebuggedPlugins
    market: Market
    sessions: ServerlessSessions
    """Sessions of plugins that run on another server."""
    services: PluginServices
    """What plugins may request from the host."""
    debug: "DebugListener"

    async def aclose(self) -> None:
        """Stop installations and plugin processes."""
        await self.debug.aclose()
        await self.installations.aclose()
        await self.host.aclose()


def build_plugins(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    addresses: Addresses,
    network: NetworkServices,
    storage: StorageServices,
    directory: Directory,
    providers: ProviderManager,
    models: ModelManager,
) -> PluginHostServices:
    """Build the plugin services. Raises ConfigError if the key or the public keys
    cannot be read or stored."""
    plugin_settings = live_settings.current.plugins
    # Created before anything else, so that a missing permission is reported early.
    key = _plugin_key(live_settings.current, storage)
    # The key must not appear in logs.
    redaction.add([key])
    plugin_storage = PluginStorage(storage.database)
    backwards = HostCallHandler(plugin_storage)
    sessions = ServerlessSessions(backwards, directory.is_disabled)
    host = _host(live_settings, clock, addresses, network, storage, backwards, sessions)
    debugged = DebuggedPlugins(host, directory, storage.keys)
    names = ProviderNames(directory, providers)
    plugins = Plugins(host, directory, debugged, names)
    plugins.use_serverless(plugin_settings.serverless)
    plugin_models = PluginModels(plugins, host, providers.schema)
    rows = SealedRows(storage.resources, directory, storage.keys)
    credentials = PluginCredentials(
        plugins, rows, directory, storage.keys, clock, on_secret=redaction.add
    )
    market = Market(plugin_settings.markets, network.egress)
    packages = _packages(plugin_settings, host, directory, market)
    is_shared = storage.file_storage.is_shared
    fetcher = PluginFetcher(host, directory, is_shared=is_shared)
    installations = PluginInstallations(
        plugins,
        packages,
        host,
        storage.resources,
        directory,
        plugin_storage,
        names,
        fetcher,
    )
    # Set later, because the host is needed to build the installations.
    host.neighbours = installations.identifiers
    host.permissions = installations.permissions_of
    # Providers and models from plugins appear and disappear with their plugins.
    providers.add_providers_from(plugin_models.additional_providers)
    debugged.on_change(providers.clear_cache)
    debugged.on_change(models.clear_cache)
    services = PluginServices(
        models, plugins, plugin_models, credentials, storage.files, addresses.server
    )
    # Set later: the services need the plugins, whose host needs the host calls.
    backwards.set_services(services)
    custom_models = CustomModels(plugins, storage.resources, directory)
    return PluginHostServices(
        key=key,
        custom_models=custom_models,
        host=host,
        plugins=plugins,
        models=plugin_models,
        rows=rows,
        credentials=credentials,
        endpoints=PluginEndpoints(plugins, rows, storage.resources, directory),
        subscriptions=PluginSubscriptions(plugins, rows, directory),
        packages=packages,
        installations=installations,
        fetcher=fetcher,
        debugged=debugged,
        market=market,
        sessions=sessions,
        services=services,
        debug=DebugListener(
            live_settings, DebugServer(debugged, backwards, clock.monotonic)
        ),
    )


def _packages(
    plugin_settings: PluginSettings,
    host: PluginHost,
    directory: Directory,
    market: Market,
) -> PluginPackages:
    """Return the packages. Raises ConfigError if a public key cannot be read."""
    # Keys of authors whose signatures are accepted.
    public_keys = read_keys(
        [Path(path).expanduser() for path in plugin_settings.public_keys]
    )
    return PluginPackages(
        host,
        directory,
        market,
        public_keys=public_keys,
        must_be_signed=plugin_settings.must_be_signed,
    )


def _host(
    live_settings: LiveSettings,
    clock: Clock,
    addresses: Addresses,
    network: NetworkServices,
    storage: StorageServices,
    backwards: HostCallHandler,
    sessions: ServerlessSessions,
) -> PluginHost:
    """Build the host that runs plugin processes."""
    settings, plugin_settings = live_settings.current, live_settings.current.plugins
    # Environments and instances live below one folder.
    folder = settings.home_path / "plugins"
    environments = Environments(
        folder / "environments",
        os.environ,
        offline=plugin_settings.offline,
        wheelhouse=Path(plugin_settings.wheelhouse).expanduser()
        if plugin_settings.wheelhouse
        else None,
        index_url=plugin_settings.index_url,
        substitutes={
            normal_name(name): requirement
            for name, requirement in plugin_settings.substitutes.items()
        },
        downloads_python=plugin_settings.download_python,
    )

    def egress_proxy_for(tenant: str, token: str, hosts: Hosts) -> EgressProxy:
        """Return the way to the network for a tenant's plugins."""
        egress = network.egress
        # Read at each connection: the rules may change while a plugin runs.
        return EgressProxy(
            lambda: egress.rules, addresses.server, token, tenant, hosts=hosts
        )

    host = PluginHost(
        folder,
        environments,
        backwards,
        clock,
        {**os.environ, **_vocabularies(folder, plugin_settings)},
        _options(plugin_settings),
        egress_factory=egress_proxy_for,
        needs_confinement=not plugin_settings.unconfined,
        shared_packages=_shared_packages(storage),
    )
    timeouts = timeouts_of(settings)
    # Plugins on another server use the shared HTTP client.
    host.serverless = lambda plugin, address: ServerlessRuntime(
        plugin, address, network.clients.shared, sessions, timeouts
    )
    return host


def _shared_packages(storage: StorageServices) -> SharedPackages | None:
    """Return where servers exchange packages; None for a server of its own, which has
    them all on its disk."""
    file_storage = storage.file_storage
    return SharedPackages(file_storage) if file_storage.is_shared else None


class DebugListener:
    """Accepts plugins that their authors run in debug mode, if the settings name a
    port."""

    def __init__(self, live_settings: LiveSettings, server: DebugServer) -> None:
        self._live = live_settings
        self._server = server

    async def listen(self) -> int | None:
        """Start listening and return the port; None if it is disabled or not possible."""
        settings = self._live.current
        if not settings.plugins.debug_port:
            return None
        # A plugin connects to one process, but calls arrive at all of them.
        if settings.workers > 1:
            logger.info(
                "debug plugins cannot connect: the server has more than one worker"
            )
            return None
        # A used port must not prevent the server from starting.
        try:
            return await self._server.start(
                settings.plugins.debug_host, settings.plugins.debug_port
            )
        except OSError as error:
            fields = {
                "port": settings.plugins.debug_port,
                "error": error.strerror or str(error),
            }
            logger.warning(
                "debug plugins cannot connect: the port is not available",
                extra={"fields": fields},
            )
            return None

    async def aclose(self) -> None:
        """Close the connections and stop listening."""
        await self._server.aclose()


def _plugin_key(settings: Settings, storage: StorageServices) -> str:
    """Return the key of the plugin API: the same on all servers that share a database.
    Raises ConfigError."""
    if not settings.is_shared or (settings.home_path / KEY).is_file():
        return _key(settings.home_path)
    # All of them have the same master key.
    return storage.keys.digest(_KEY_PURPOSE).partition(":")[2]


def _key(home: Path) -> str:
    """Return the key; create it at the first start, readable only by its owner. Raises
    ConfigError."""
    path = home / KEY
    try:
        if path.is_file():
            return path.read_text("ascii").strip()
        private_folder(home)
        # `O_EXCL`: of several processes that start at once only one creates the key.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    # Another process created it first.
    except FileExistsError:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Key of the plugin API cannot be read or written in {str(path)!r}: {error}"
        ) from error
    key = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as key_file:
        key_file.write(key + "\n")
    return key


_TIKTOKEN_VARIABLE = "TIKTOKEN_CACHE_DIR"
"""The variable in which the tiktoken package looks for its vocabularies."""


def _vocabularies(folder: Path, plugin_settings: PluginSettings) -> dict[str, str]:
    """Return the variable that names the folder with tiktoken's vocabularies; empty if
    the server's own variable applies, or there is none."""
    # The settings come first, then the server's variable, then the usual folder.
    configured = plugin_settings.tiktoken_cache
    if not configured and _TIKTOKEN_VARIABLE in os.environ:
        return {}
    # Resolved, because plugins see the folder under the name to which links lead.
    path = Path(configured).expanduser() if configured else folder / "tiktoken"
    return {_TIKTOKEN_VARIABLE: str(path.resolve())} if path.is_dir() else {}


def _options(plugin_settings: PluginSettings) -> ProcessOptions:
    """Return the resource limits of plugin processes."""
    return ProcessOptions(
        instances=plugin_settings.instances,
        start_seconds=plugin_settings.start_seconds,
        idle_seconds=plugin_settings.idle_seconds,
        silence_seconds=plugin_settings.silence_seconds,
        max_memory=plugin_settings.memory_mb << 20,
        max_processes=plugin_settings.processes,
        max_disk=plugin_settings.disk_mb << 20,
        call_seconds=plugin_settings.call_seconds,
        running=plugin_settings.running,
    )
