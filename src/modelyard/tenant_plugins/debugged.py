"""Plugins that their authors run and have connected: each becomes the tenant's whose debugging key it shows."""

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
    declaration: Declaration
    runtime: DebugRuntime


class DebuggedPlugins:
    """Every method is given the tenant that it acts for, and reaches nothing else."""

    def __init__(self, host: PluginHost, directory: Directory, keys: KeyRing) -> None:
        self._host = host
        self._directory = directory
        self._keys = keys
        self._connected: dict[str, dict[str, _Connected]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.changes = 0
        """Grows whenever one comes or goes."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have it told that plugins in debug came or went."""
        self._listeners.append(listener)

    # what there is

    def declarations(self, tenant: str) -> Mapping[str, Declaration]:
        """Identifier → what a plugin says of itself."""
        return {name: connected.declaration for name, connected in self._connected.get(tenant, {}).items()}

    def assets(self, tenant: str, identifier: str) -> Mapping[str, bytes]:
        """Name → file, of one that is connected."""
        return self._connected[tenant][identifier].runtime.assets

    # keys

    def key(self, tenant: str) -> str:
        """What a plugin in debug shows to become this tenant's. It stays the same."""
        return str(uuid.uuid5(_NAMESPACE, self._keys.digest(f"debug:{tenant}".encode())))

    def tenant_of_key(self, key: str) -> str | None:
        """Whose key it is; None where it is nobody's, or its tenant was switched off."""
        # As bytes: a key that is not ASCII cannot be compared in constant time, and is none.
        shown = key.encode("utf-8", "replace")
        for tenant in (DEFAULT_TENANT, *(name for name, _ in self._directory.tenants())):
            if hmac.compare_digest(self.key(tenant).encode(), shown):
                return None if self._directory.shuts_out(tenant) else tenant
        return None

    # coming and going

    def connected(self, tenant: str, identifier: str, declaration: Declaration, runtime: DebugRuntime) -> None:
        """One has come."""
        self._host.connect(tenant, identifier, declaration, runtime)
        self._connected.setdefault(tenant, {})[identifier] = _Connected(declaration, runtime)
        self._tell()

    def disconnected(self, tenant: str, identifier: str, runtime: DebugRuntime) -> None:
        """One has gone; another of its name that came meanwhile stays."""
        self._host.disconnect(tenant, identifier, runtime)
        here = self._connected.get(tenant, {})
        if identifier in here and here[identifier].runtime is runtime:
            del here[identifier]
            self._tell()

    def _tell(self) -> None:
        self.changes += 1
        for listener in self._listeners:
            listener()
