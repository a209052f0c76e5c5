"""Plugins in debug mode, which run at their authors and connect here. Each belongs to
the tenant whose debugging key it presents."""

import hmac
import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

from modelyard.plugins.debug import DebugRuntime
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.host import PluginHost
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.directory import Directory

_NAMESPACE = uuid.UUID("5e0f4f5e-3a60-4b55-9f0c-6a3c0c1f7d21")


class _Connected(NamedTuple):
    """A connected plugin with its connection."""

    declaration: Declaration
    runtime: DebugRuntime


class DebuggedPlugins:
    """The connected plugins of each tenant. Methods reach only the tenant that they are
    given."""

    def __init__(self, host: PluginHost, directory: Directory, keys: KeyRing) -> None:
        self._host = host
        self._directory = directory
        self._keys = keys
        self._connected: dict[str, dict[str, _Connected]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.changes = 0
        """Increases whenever a plugin connects or disconnects."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Register a callback for connecting and disconnecting plugins."""
        self._listeners.append(listener)

    # what there is

    def declarations(self, tenant: str) -> Mapping[str, Declaration]:
        """Return the declarations of the connected plugins, by identifier."""
        return {
            name: connected.declaration
            for name, connected in self._connected.get(tenant, {}).items()
        }

    def assets(self, tenant: str, identifier: str) -> Mapping[str, bytes]:
        """Return the asset files of a connected plugin, by name."""
        return self._connected[tenant][identifier].runtime.assets

    # keys

    def key(self, tenant: str) -> str:
        """Return the debugging key of a tenant. It never changes, since it is derived
        from the master key."""
        return str(
            uuid.uuid5(_NAMESPACE, self._keys.digest(f"debug:{tenant}".encode()))
        )

    def tenant_of_key(self, key: str) -> str | None:
        """Return the tenant of a debugging key; None if it is invalid or the tenant is
        disabled."""
        # Compared as bytes, because constant-time comparison accepts only ASCII
        # strings.
        presented_key = key.encode("utf-8", "replace")
        for tenant in (
            DEFAULT_TENANT,
            *(name for name, _ in self._directory.tenants()),
        ):
            if hmac.compare_digest(self.key(tenant).encode(), presented_key):
                return None if self._directory.is_disabled(tenant) else tenant
        return None

    # coming and going

    def add_connected(
        self,
        tenant: str,
        identifier: str,
        declaration: Declaration,
        runtime: DebugRuntime,
    ) -> None:
        """Register a plugin that has connected."""
        self._host.connect(tenant, identifier, declaration, runtime)
        self._connected.setdefault(tenant, {})[identifier] = _Connected(
            declaration, runtime
        )
        self._notify()

    def remove_disconnected(
        self, tenant: str, identifier: str, runtime: DebugRuntime
    ) -> None:
        """Remove a plugin that has disconnected. A newer connection of the same plugin
        stays."""
        self._host.disconnect(tenant, identifier, runtime)
        plugins = self._connected.get(tenant, {})
        # The author may have restarted the plugin before the old connection was closed.
        if identifier in plugins and plugins[identifier].runtime is runtime:
            del plugins[identifier]
            self._notify()

    def _notify(self) -> None:
        """Notify the listeners."""
        self.changes += 1
        for listener in self._listeners:
            listener()
