"""Plugins, wired: where they lie, what they may take, what they may ask for, and who listens for those in debug."""

import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.app.providers import egress_rules, timeouts_of
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
from modelyard.runtime.debugged_plugins import DebuggedPlugins
from modelyard.runtime.plugin_credentials import PluginCredentials
from modelyard.runtime.plugin_endpoints import PluginEndpoints
from modelyard.runtime.plugin_installations import PluginInstallations
from modelyard.runtime.plugin_models import PluginModels, ProviderNames
from modelyard.runtime.plugin_packages import PluginPackages
from modelyard.runtime.plugin_services import CallApp, CallTool, PluginServices
from modelyard.runtime.plugin_subscriptions import PluginSubscriptions
from modelyard.runtime.plugins import Plugins
from modelyard.runtime.sealed_rows import SealedRows
from modelyard.storage.plugin_storage import PluginStorage

if TYPE_CHECKING:
    from modelyard.app import Modelyard

logger = logging.getLogger("modelyard.plugins")

KEY = "plugin.key"
"""In the home folder: what programs show to use the plugins' interface."""


class PluginParts:
    def __init__(self, yard: "Modelyard") -> None:
        settings, chosen = yard.settings, yard.settings.plugins
        self._yard = yard
        self.services: PluginServices | None = None
        self.key = _key(settings.home_path)
        redaction.add([self.key])
        storage = PluginStorage(yard.database)
        backwards = BackwardsCalls(storage, lambda: self.services)
        self.sessions = ServerlessSessions(backwards, yard.directory.shuts_out)
        self.host = self._host(backwards)
        self.market = Market(chosen.markets, yard.egress)
        self.debugged = DebuggedPlugins(self.host, yard.directory, yard.keys)
        names = ProviderNames(yard.directory, yard.providers)
        self.plugins = Plugins(self.host, yard.directory, self.debugged, names)
        self.plugins.use_serverless(chosen.serverless)
        self.models = PluginModels(self.plugins, self.host)
        self.rows = SealedRows(yard.resources, yard.directory, yard.keys)
        self.credentials = PluginCredentials(self.plugins, self.rows, yard.directory, yard.keys, yard.clock)
        self.endpoints = PluginEndpoints(self.plugins, self.rows, yard.resources, yard.directory)
        self.subscriptions = PluginSubscriptions(self.plugins, self.rows, yard.directory)
        self.packages = PluginPackages(
            self.host, yard.directory, self.market,
            public_keys=read_keys([Path(one).expanduser() for one in chosen.public_keys]),
            must_be_signed=chosen.must_be_signed,
        )  # fmt: skip
        self.installations = PluginInstallations(
            self.plugins, self.packages, self.host, yard.resources, yard.directory, storage, names
        )
        self.host.neighbours = self.installations.identifiers
        yard.providers.add_from(self.models.added)
        self.debugged.on_change(yard.providers.forget)
        self.debugged.on_change(yard.models.forget)
        self.services = PluginServices(
            yard.models, self.plugins, self.models, self.credentials, yard.files, lambda: yard.origin
        )
        self._debug = DebugServer(self.debugged, backwards, yard.clock.monotonic)

    def _host(self, backwards: BackwardsCalls) -> PluginHost:
        yard, settings, chosen = self._yard, self._yard.settings, self._yard.settings.plugins
        folder = settings.home_path / "plugins"
        environments = Environments(
            folder / "environments",
            os.environ,
            offline=chosen.offline,
            wheelhouse=Path(chosen.wheelhouse).expanduser() if chosen.wheelhouse else None,
            index_url=chosen.index_url,
        )
        host = PluginHost(
            folder, environments, backwards, yard.clock, os.environ, _options(chosen), way_out=self._way_out,
            needs_confinement=not chosen.unconfined,
        )  # fmt: skip
        host.serverless = lambda plugin, address: ServerlessRuntime(
            plugin, address, yard.http, self.sessions, timeouts_of(settings)
        )
        return host

    def _way_out(self, tenant: str, token: str) -> WayOut:
        """What lets a tenant's plugins out: by the rules for all that tenants name."""
        yard = self._yard
        return WayOut(lambda: egress_rules(yard.settings), lambda: yard.origin, token, tenant)

    def use(self, tools: CallTool, apps: CallApp) -> None:
        """What plugins may ask for that is made after them."""
        if self.services is not None:
            self.services.use(tools, apps)

    async def listen(self) -> int | None:
        """Take plugins in debug from now on: the port. None where that is switched off, or not possible."""
        settings = self._yard.settings
        if not settings.plugins.debug_port:
            return None
        if settings.workers > 1:
            logger.info("plugins in debug need a server with one worker; none can connect")
            return None
        try:
            return await self._debug.start(settings.host, settings.plugins.debug_port)
        except OSError as error:
            fields = {"port": settings.plugins.debug_port, "error": error.strerror or str(error)}
            logger.warning("plugins in debug cannot connect", extra={"fields": fields})
            return None

    async def aclose(self) -> None:
        await self._debug.aclose()
        await self.installations.aclose()
        await self.host.aclose()


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
