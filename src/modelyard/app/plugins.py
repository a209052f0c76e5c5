"""Plugins, wired: where they lie, what they may take, what they may ask for, and who listens for those in debug."""

import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.network import NetworkParts
from modelyard.app.provider_settings import timeouts_of
from modelyard.app.storage import StorageParts
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.modes import private_folder
from modelyard.base.settings import PluginSettings
from modelyard.plugins.backwards import BackwardsCalls
from modelyard.plugins.debug import DebugServer
from modelyard.plugins.environment import Environments
from modelyard.plugins.host import PluginHost
from modelyard.plugins.market import Market
from modelyard.plugins.process import ProcessOptions
from modelyard.plugins.serverless import ServerlessRuntime, ServerlessSessions
from modelyard.plugins.signature import read_keys
from modelyard.plugins.way_out import WayOut
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.debugged import DebuggedPlugins
from modelyard.tenant_plugins.endpoints import PluginEndpoints
from modelyard.tenant_plugins.installations import PluginInstallations
from modelyard.tenant_plugins.models import PluginModels, ProviderNames
from modelyard.tenant_plugins.packages import PluginPackages
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.services import PluginServices
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions

logger = logging.getLogger("modelyard.plugins")

KEY = "plugin.key"
"""In the home folder: what programs show to use the plugins' interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginParts:
    """Plugins: which there are, whose they are, and what they serve."""

    key: str
    """What programs show to use the plugins' interface."""
    host: PluginHost
    plugins: Plugins
    models: PluginModels
    rows: SealedRows
    credentials: PluginCredentials
    endpoints: PluginEndpoints
    subscriptions: PluginSubscriptions
    packages: PluginPackages
    installations: PluginInstallations
    debugged: DebuggedPlugins
    market: Market
    sessions: ServerlessSessions
    """Of plugins that are served elsewhere."""
    services: PluginServices
    """What plugins may ask for."""
    debug: "DebugListener"

    async def aclose(self) -> None:
        """Stop installations and processes."""
        await self.debug.aclose()
        await self.installations.aclose()
        await self.host.aclose()


def build_plugins(
    live: LiveSettings,
    clock: Clock,
    *,
    addresses: Addresses,
    network: NetworkParts,
    storage: StorageParts,
    directory: Directory,
    providers: ProviderManager,
    models: ModelManager,
) -> PluginParts:
    """Raises ConfigError where a key cannot be read or kept."""
    chosen = live.current.plugins
    key = _key(live.current.home_path)
    redaction.add([key])
    kept = PluginStorage(storage.database)
    backwards = BackwardsCalls(kept)
    sessions = ServerlessSessions(backwards, directory.shuts_out)
    host = _host(live, clock, addresses, network, backwards, sessions)
    debugged = DebuggedPlugins(host, directory, storage.keys)
    names = ProviderNames(directory, providers)
    plugins = Plugins(host, directory, debugged, names)
    plugins.use_serverless(chosen.serverless)
    plugin_models = PluginModels(plugins, host)
    rows = SealedRows(storage.resources, directory, storage.keys)
    credentials = PluginCredentials(plugins, rows, directory, storage.keys, clock)
    market = Market(chosen.markets, network.egress)
    public_keys = read_keys([Path(path).expanduser() for path in chosen.public_keys])
    packages = PluginPackages(
        host, directory, market, public_keys=public_keys, must_be_signed=chosen.must_be_signed
    )  # fmt: skip
    installations = PluginInstallations(plugins, packages, host, storage.resources, directory, kept, names)
    host.neighbours = installations.identifiers
    providers.add_from(plugin_models.added)
    debugged.on_change(providers.forget)
    debugged.on_change(models.forget)
    services = PluginServices(models, plugins, plugin_models, credentials, storage.files, addresses.server)
    backwards.serve_with(services)
    return PluginParts(
        key=key, host=host, plugins=plugins, models=plugin_models, rows=rows, credentials=credentials,
        endpoints=PluginEndpoints(plugins, rows, storage.resources, directory),
        subscriptions=PluginSubscriptions(plugins, rows, directory),
        packages=packages, installations=installations, debugged=debugged, market=market, sessions=sessions,
        services=services, debug=DebugListener(live, DebugServer(debugged, backwards, clock.monotonic)),
    )  # fmt: skip


def _host(
    live: LiveSettings,
    clock: Clock,
    addresses: Addresses,
    network: NetworkParts,
    backwards: BackwardsCalls,
    sessions: ServerlessSessions,
) -> PluginHost:
    settings, chosen = live.current, live.current.plugins
    folder = settings.home_path / "plugins"
    environments = Environments(
        folder / "environments",
        os.environ,
        offline=chosen.offline,
        wheelhouse=Path(chosen.wheelhouse).expanduser() if chosen.wheelhouse else None,
        index_url=chosen.index_url,
    )

    def way_out(tenant: str, token: str) -> WayOut:
        # By the rules for all that tenants name.
        return WayOut(lambda: network.egress.rules, addresses.server, token, tenant)

    host = PluginHost(
        folder, environments, backwards, clock, os.environ, _options(chosen), way_out=way_out,
        needs_confinement=not chosen.unconfined,
    )  # fmt: skip
    timeouts = timeouts_of(settings)
    host.serverless = lambda plugin, address: ServerlessRuntime(
        plugin, address, network.clients.shared, sessions, timeouts
    )
    return host


class DebugListener:
    """Takes in plugins that their authors run, where the settings give them a port."""

    def __init__(self, live: LiveSettings, server: DebugServer) -> None:
        self._live = live
        self._server = server

    async def listen(self) -> int | None:
        """From now on: the port. None where that is switched off, or not possible."""
        settings = self._live.current
        if not settings.plugins.debug_port:
            return None
        if settings.workers > 1:
            logger.info("plugins in debug need a server with one worker; none can connect")
            return None
        try:
            return await self._server.start(settings.host, settings.plugins.debug_port)
        except OSError as error:
            fields = {"port": settings.plugins.debug_port, "error": error.strerror or str(error)}
            logger.warning("plugins in debug cannot connect", extra={"fields": fields})
            return None

    async def aclose(self) -> None:
        """Hang up."""
        await self._server.aclose()


def _key(home: Path) -> str:
    """Made at the first start; readable by its owner alone. Raises ConfigError where it cannot be kept."""
    path = home / KEY
    try:
        if path.is_file():
            return path.read_text("ascii").strip()
        private_folder(home)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was quicker
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key of the plugins' interface cannot be kept in {str(path)!r}: {error}") from error
    key = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as out:
        out.write(key + "\n")
    return key


def _options(chosen: PluginSettings) -> ProcessOptions:
    return ProcessOptions(
        instances=chosen.instances,
        start_seconds=chosen.start_seconds,
        idle_seconds=chosen.idle_seconds,
        silence_seconds=chosen.silence_seconds,
        max_memory=chosen.memory_mb << 20,
        max_processes=chosen.processes,
        max_disk=chosen.disk_mb << 20,
        call_seconds=chosen.call_seconds,
        running=chosen.running,
    )
