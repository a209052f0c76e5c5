"""Which plugins a tenant has, and calls of them. How they come and go: `plugin_installations`."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.conversation import PluginCall
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.host import PluginHost
from modelyard.plugins.manifest import Permissions
from modelyard.storage.resources import missing
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import Installation
from modelyard.tenant_plugins.debugged import DebuggedPlugins
from modelyard.tenant_plugins.models import ProviderNames

logger = logging.getLogger("modelyard.plugins")

_MOST_VIEWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A plugin as a tenant has it."""

    id: str
    """The installation's."""
    identifier: str
    declaration: Declaration
    installation: Installation
    runtime: str = "local"
    """`local`, `remote` for one in debug, or `serverless`."""
    created_at: float = 0.0

    @property
    def plugin_id(self) -> str:
        return self.declaration.manifest.id

    @property
    def permissions(self) -> Permissions:
        """What it may ask for: what its manifest asks, as far as the tenant grants it."""
        asked, granted = self.declaration.manifest.permissions, self.installation.granted
        return asked if granted is None else asked.within(granted)


class _View(NamedTuple):
    stamp: tuple[int, int]
    listed: Sequence[Installed]
    by_name: Mapping[str, Installed]
    """By `author/name`, by identifier and by the installation's id."""


class Plugins:
    """Every method is given the tenant that it acts for, and reaches nothing else."""

    def __init__(
        self, host: PluginHost, directory: Directory, debugged: DebuggedPlugins, provider_names: ProviderNames
    ) -> None:
        self.host = host
        self._directory = directory
        self._debugged = debugged
        self._provider_names = provider_names
        self._views: dict[str, _View] = {}
        self._serverless: frozenset[str] = frozenset()

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        """Have those that are served elsewhere called there: `author/name` → address."""
        self._serverless = frozenset(addresses)
        self.host.use_serverless(addresses)

    # what there is

    def installed(self, tenant: str) -> Sequence[Installed]:
        """Those in debug first: an author wants to see the version at hand."""
        return self._view(tenant).listed

    def find(self, tenant: str, plugin: str) -> Installed:
        """By `author/name`, or with version and checksum behind it. Raises NotFoundError."""
        installed = self._view(tenant).by_name.get(plugin)
        if installed is None:
            raise NotFoundError(f"plugin {plugin!r} is not installed", code="plugin_not_found")
        return installed

    def provider(self, tenant: str, name: str) -> tuple[Installed, str]:
        """Whose provider `author/plugin/provider` or `provider` is, with the plugin's own word for it.

        Raises NotFoundError.
        """
        owner, _, bare = name.rpartition("/")
        for plugin in self.installed(tenant):
            if bare in plugin.declaration.providers and owner in ("", plugin.plugin_id):
                return plugin, bare
        raise NotFoundError(f"no plugin with the provider {name!r} is installed", code="provider_not_found")

    def asset(self, tenant: str, plugin: str, name: str) -> bytes:
        """A file of a plugin's `_assets`. Raises NotFoundError."""
        installed = self.find(tenant, plugin)
        if installed.runtime == "remote":
            asset = self._debugged.assets(tenant, installed.identifier).get(name)
        else:
            asset = self.host.packages.package(installed.identifier).files.get(f"_assets/{name}")
        if asset is None:
            raise NotFoundError(f"{installed.plugin_id!r} has no asset {name!r}", code="asset_not_found")
        return asset

    def check_tenant(self, tenant: str) -> None:
        """Raises NotFoundError for a tenant that was removed or switched off."""
        if self._directory.shuts_out(tenant):
            raise missing("tenant", tenant)

    def _view(self, tenant: str) -> _View:
        """What a tenant has, as it was last worked out: every call looks here."""
        stamp = (self._directory.changes, self._debugged.changes)
        view = self._views.get(tenant)
        if view is None or view.stamp != stamp:
            listed = self._listed(tenant)
            by_name: dict[str, Installed] = {}
            for plugin in reversed(listed):
                by_name |= dict.fromkeys((plugin.plugin_id, plugin.identifier, plugin.id), plugin)
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            view = self._views[tenant] = _View(stamp, listed, by_name)
        return view

    def _listed(self, tenant: str) -> list[Installed]:
        listed = [
            self._in_debug(tenant, identifier, declaration)
            for identifier, declaration in self._debugged.declarations(tenant).items()
        ]
        in_debug = {plugin.plugin_id for plugin in listed}
        for known, installation in self._directory.of(tenant, Installation):
            if known.name in in_debug:
                continue
            plugin = self._readable(tenant, known, installation)
            if plugin is not None:
                listed.append(plugin)
        return listed

    def _in_debug(self, tenant: str, identifier: str, declaration: Declaration) -> Installed:
        provider = self._provider_names.free(tenant, declaration, is_in_debug=True)
        return Installed(
            id=f"debug:{identifier}",
            identifier=identifier,
            declaration=declaration,
            installation=Installation(plugin=identifier, source="remote", provider=provider),
            runtime="remote",
        )

    def _readable(self, tenant: str, known: Known, installation: Installation) -> Installed | None:
        """None, and a line in the log, where its files are on another machine, or gone: the others still serve."""
        try:
            declaration = self.host.packages.declaration(installation.plugin)
        except ModelyardError as error:
            fields = {"tenant": tenant, "plugin": installation.plugin, "error": str(error)}
            logger.error("an installed plugin cannot be read", extra={"fields": fields})
            return None
        return Installed(
            id=known.id,
            identifier=installation.plugin,
            declaration=declaration,
            installation=installation,
            runtime="serverless" if known.name in self._serverless else "local",
        )

    # calls

    async def call(
        self,
        tenant: str,
        plugin: str,
        kind: str,
        action: str,
        data: Mapping[str, Any],
        *,
        user: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[JSON, None]:
        """`more` are ids that go with the request. Raises NotFoundError, PluginError."""
        installed = self.find(tenant, plugin)
        call = PluginCall(
            tenant=tenant,
            plugin=installed.plugin_id,
            permissions=installed.permissions,
            user=user or "modelyard",
            type=kind,
            action=action,
            data=dict(data),
            **(more or {}),
        )
        async with aclosing(self.host.call(installed.identifier, call)) as answers:
            async for answer in answers:
                yield answer

    async def one(
        self, tenant: str, plugin: str, kind: str, action: str, data: Mapping[str, Any], *, user: str = ""
    ) -> JSON:
        """The first answer; empty where none came."""
        async with aclosing(self.call(tenant, plugin, kind, action, data, user=user)) as answers:
            async for answer in answers:
                return answer
        return {}
