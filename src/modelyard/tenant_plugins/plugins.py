"""The plugins that a tenant has, and calls of them. Installing and removing them is in
`installations`."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.connection import PluginCall, PluginStoppedError
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.host import PluginHost
from modelyard.plugins.manifest import Permissions
from modelyard.storage.resources import not_found
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import Installation
from modelyard.tenant_plugins.debug_plugins import DebuggedPlugins
from modelyard.tenant_plugins.grants import granted_permissions
from modelyard.tenant_plugins.models import ProviderNames

logger = logging.getLogger("modelyard.plugins")

MAX_AGE_SECONDS = 1.0
"""How old the list of installed plugins may be for a call."""
# Bounds the memory that the cached views of many tenants take.
_MAX_VIEWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A plugin as a tenant has it."""

    id: str
    """The id of the installation."""
    identifier: str
    declaration: Declaration
    installation: Installation
    runtime: str = "local"
    """`local`, `remote` for one in debug mode, or `serverless`."""
    created_at: float = 0.0
    """When it was installed, in seconds since 1970; 0 for one in debug mode."""
    updated_at: float = 0.0

    @property
    def plugin_id(self) -> str:
        """The plugin's `author/name`."""
        return self.declaration.manifest.id

    @property
    def permissions(self) -> Permissions:
        """The permissions in force: those its manifest requests and the tenant grants."""
        return granted_permissions(self.declaration.manifest, self.installation)


class _TenantPlugins(NamedTuple):
    """The plugins of a tenant at one state of the directory."""

    stamp: tuple[int, int]
    listed: Sequence[Installed]
    by_name: Mapping[str, Installed]
    """By `author/name`, by identifier and by the installation's id."""


class Plugins:
    """Finds and calls plugins. Every method takes the tenant it acts for and reaches
    nothing else."""

    def __init__(
        self,
        host: PluginHost,
        directory: Directory,
        debugged: DebuggedPlugins,
        provider_names: ProviderNames,
    ) -> None:
        self.host = host
        self._directory = directory
        self._debugged = debugged
        self._provider_names = provider_names
        self._views: dict[str, _TenantPlugins] = {}
        self._serverless: frozenset[str] = frozenset()

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        """Call the given plugins at another server: `author/name` to its address."""
        self._serverless = frozenset(addresses)
        self.host.use_serverless(addresses)

    # what there is

    def installed(self, tenant: str) -> Sequence[Installed]:
        """Return the plugins of a tenant. Those in debug mode come first and hide the
        installed versions."""
        return self._view(tenant).listed

    def find(self, tenant: str, plugin: str) -> Installed:
        """Return a plugin by `author/name`, with or without version and checksum.
        Raises NotFoundError."""
        installed = self._view(tenant).by_name.get(plugin)
        if installed is None:
            raise NotFoundError(
                f"Plugin {plugin!r} is not installed", code="plugin_not_found"
            )
        return installed

    def provider(self, tenant: str, name: str) -> tuple[Installed, str]:
        """Return the plugin of a provider, named `author/plugin/provider` or
        `provider`, and the name within the plugin.

        Raises NotFoundError.
        """
        owner, _, provider_name = name.rpartition("/")
        for plugin in self.installed(tenant):
            if provider_name in plugin.declaration.providers and owner in (
                "",
                plugin.plugin_id,
            ):
                return plugin, provider_name
        raise NotFoundError(
            f"No plugin with the provider {name!r} is installed",
            code="provider_not_found",
        )

    def model_provider(self, tenant: str, provider: str) -> Installed | None:
        """Return the plugin behind a model provider, by the provider's name in this
        tenant; None if no plugin serves it."""
        for plugin in self.installed(tenant):
            model = plugin.declaration.model
            if model is not None and provider == (
                plugin.installation.provider or model.name
            ):
                return plugin
        return None

    def asset(self, tenant: str, plugin: str, name: str) -> bytes:
        """Return a file of a plugin's `_assets` folder. Raises NotFoundError."""
        installed = self.find(tenant, plugin)
        # A plugin in debug mode has no package here; it sent its assets on connecting.
        if installed.runtime == "remote":
            asset = self._debugged.assets(tenant, installed.identifier).get(name)
        else:
            asset = self.host.packages.package(installed.identifier).files.get(
                f"_assets/{name}"
            )
        if asset is None:
            raise NotFoundError(
                f"{installed.plugin_id!r} has no asset {name!r}", code="asset_not_found"
            )
        return asset

    def check_tenant(self, tenant: str) -> None:
        """Raise NotFoundError if a tenant was deleted or disabled."""
        if self._directory.is_disabled(tenant):
            raise not_found("tenant", tenant)

    def _view(self, tenant: str) -> _TenantPlugins:
        """Return the plugins of a tenant, cached until the directory changes. Every
        call uses this."""
        # Both are needed: debugged plugins come and go without a directory change.
        stamp = (self._directory.changes, self._debugged.changes)
        view = self._views.get(tenant)
        if view is None or view.stamp != stamp:
            listed = self._list_plugins(tenant)
            by_name: dict[str, Installed] = {}
            # Reversed, so that the first plugin of a name, one in debug mode, wins.
            for plugin in reversed(listed):
                by_name |= dict.fromkeys(
                    (plugin.plugin_id, plugin.identifier, plugin.id), plugin
                )
            if len(self._views) >= _MAX_VIEWS:
                # Views can be rebuilt at any time, so no order of eviction is kept.
                self._views.clear()
            view = self._views[tenant] = _TenantPlugins(stamp, listed, by_name)
        return view

    def _list_plugins(self, tenant: str) -> list[Installed]:
        """List the plugins in debug mode, then the installed ones that they do not
        hide."""
        listed = [
            self._debug_plugin(tenant, identifier, declaration)
            for identifier, declaration in self._debugged.declarations(tenant).items()
        ]
        in_debug = {plugin.plugin_id for plugin in listed}
        for row, installation in self._directory.of(tenant, Installation):
            if row.name in in_debug:
                continue
            plugin = self._load_plugin(tenant, row, installation)
            if plugin is not None:
                listed.append(plugin)
        return listed

    def _debug_plugin(
        self, tenant: str, identifier: str, declaration: Declaration
    ) -> Installed:
        """Return a connected plugin as an installed one."""
        provider = self._provider_names.choose_name(
            tenant, declaration, is_in_debug=True
        )
        return Installed(
            id=f"debug:{identifier}",
            identifier=identifier,
            declaration=declaration,
            installation=Installation(
                plugin=identifier, source="remote", provider=provider
            ),
            runtime="remote",
        )

    def _load_plugin(
        self, tenant: str, row: CachedResource, installation: Installation
    ) -> Installed | None:
        """Return an installed plugin; None, with an error in the log, if its files
        cannot be read.

        The files may be on another machine or deleted. The other plugins must still
        work.
        """
        try:
            declaration = self.host.packages.declaration(installation.plugin)
        except ModelyardError as error:
            fields = {
                "tenant": tenant,
                "plugin": installation.plugin,
                "error": str(error),
            }
            logger.error("installed plugin not readable", extra={"fields": fields})
            return None
        return Installed(
            id=row.id,
            identifier=installation.plugin,
            declaration=declaration,
            installation=installation,
            runtime="serverless" if row.name in self._serverless else "local",
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    # calls

    async def call(
        self,
        tenant: str,
        plugin: str,
        call_type: str,
        action: str,
        data: Mapping[str, Any],
        *,
        user: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[JSON, None]:
        """Call a plugin and stream its answers. `extra` contains ids to send with the
        request.

        Raises NotFoundError or PluginError.
        """
        # An upgrade is answered only after this time, so no call that follows it gets
        # the old version, not even from a server that has not heard of it.
        await self._directory.ensure_fresh(MAX_AGE_SECONDS)
        installed = self.find(tenant, plugin)
        # Refused before the plugin is started, and with the names of its tools.
        if (call_type, action) == ("tool", "invoke_tool"):
            require_tool(installed.declaration, str(data.get("tool")))
        call = PluginCall(
            tenant=tenant,
            plugin=installed.plugin_id,
            permissions=installed.permissions,
            user=user or "modelyard",
            type=call_type,
            action=action,
            data=dict(data),
            **(extra or {}),
        )
        # Answers that were passed on cannot be taken back, which rules out a retry.
        has_answered = False
        try:
            # Closing this generator ends the call in the plugin.
            async with aclosing(self.host.call(installed.identifier, call)) as answers:
                async for answer in answers:
                    has_answered = True
                    yield answer
            return
        except PluginStoppedError:
            # An upgrade stops the old version, which may still have been starting.
            successor = self.find(tenant, plugin)
            if has_answered or successor.identifier == installed.identifier:
                raise
        async with aclosing(self.host.call(successor.identifier, call)) as answers:
            async for answer in answers:
                yield answer

    async def call_once(
        self,
        tenant: str,
        plugin: str,
        kind: str,
        action: str,
        data: Mapping[str, Any],
        *,
        user: str = "",
    ) -> JSON:
        """Call a plugin and return its first answer; empty if there is none."""
        # Leaving the loop after the first answer must also end the call in the plugin.
        async with aclosing(
            self.call(tenant, plugin, kind, action, data, user=user)
        ) as answers:
            async for answer in answers:
                return answer
        return {}


def require_tool(declaration: Declaration, name: str) -> None:
    """Raise NotFoundError if a plugin does not declare a tool."""
    provider = declaration.tool
    names = [part.identity.name for part in provider.tools] if provider else []
    if name in names:
        return
    existing = ", ".join(names) or "none"
    problem = f"Plugin {declaration.manifest.id!r} has no tool {name[:80]!r}; it has"
    raise NotFoundError(f"{problem} {existing}", code="tool_not_found")
