"""HTTP endpoints that plugins serve under `/e/ID/`, with encrypted settings."""

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.storage.resources import Resources, not_found
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import PluginEndpoint, StoredApp
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.forms import checked_form
from modelyard.tenant_plugins.plugins import Plugins

MASK = "********"
"""Stands for a secret in what is shown. Sent back, it leaves the secret as it is."""


class PluginEndpoints:
    """Sets up and finds endpoints. Every method except `endpoint` takes the tenant it
    acts for and reaches nothing else."""

    def __init__(
        self,
        plugins: Plugins,
        rows: SealedRows,
        resources: Resources,
        directory: Directory,
    ) -> None:
        self._plugins = plugins
        self._rows = rows
        self._resources = resources
        self._directory = directory

    async def set_up(
        self,
        tenant: str,
        plugin: str,
        name: str,
        settings: JSON,
        *,
        user: str = "",
        id: str = "",
    ) -> str:
        """Serve a plugin's endpoints under a new address and return its id; with `id`,
        change an existing one.

        Raises InvokeBadRequestError.
        """
        installed = self._plugins.find(tenant, plugin)
        group = installed.declaration.endpoint
        if group is None:
            raise InvokeBadRequestError(f"{installed.plugin_id!r} has no endpoints")
        # The tenant may have withheld the permission that the manifest requests.
        if not installed.permissions.endpoint.enabled:
            raise InvokeBadRequestError(
                f"{installed.plugin_id!r} cannot serve endpoints: its manifest"
                " does not request the permission"
            )
        endpoint = PluginEndpoint(plugin=installed.plugin_id, user=user)
        if id:
            _, old = self.stored(tenant, id)
            settings = self._unmasked(tenant, id, old, settings)
            endpoint = msgspec.structs.replace(
                endpoint, user=old.user, is_enabled=old.is_enabled
            )
        filled = checked_form(
            group.settings,
            settings,
            description=f"The settings of {installed.plugin_id!r}",
            has_app=lambda app: self._directory.one(tenant, StoredApp, app) is not None,
        )
        return await self._rows.save(
            tenant, PluginEndpoint.kind, name, filled, endpoint, id=id
        )

    def _unmasked(
        self, tenant: str, id: str, old: PluginEndpoint, settings: JSON
    ) -> JSON:
        """Return settings with the stored values in place of masks: a client sends back
        the whole form as it was shown."""
        # Only what was shown as a mask can come back as one.
        masked = [name for name, value in settings.items() if value == MASK]
        if not masked:
            return settings
        stored_values = self._rows.read(tenant, PluginEndpoint.kind, id, old.secret)
        return {**settings, **{name: stored_values.get(name) for name in masked}}

    async def enable(self, tenant: str, id: str, *, is_on: bool) -> None:
        """Enable or disable an endpoint. Raises NotFoundError."""
        endpoint = self._directory.one(tenant, PluginEndpoint, id)
        if endpoint is None:
            raise not_found(PluginEndpoint.kind, id)
        old = await self._resources.get(tenant, PluginEndpoint.kind, id)
        body = msgspec.json.encode(
            msgspec.structs.replace(endpoint, is_enabled=is_on)
        ).decode()
        await self._resources.change(old, name=old.name, body=body)
        await self._directory.refresh()

    async def remove(self, tenant: str, id: str) -> None:
        """Delete an endpoint. Raises NotFoundError."""
        await self._rows.remove(tenant, PluginEndpoint.kind, id)

    def all(self, tenant: str) -> list[tuple[str, str, PluginEndpoint]]:
        """Return (id, name, endpoint) for all endpoints of a tenant."""
        return [
            (row.id, row.name, value)
            for row, value in self._directory.of(tenant, PluginEndpoint)
        ]

    def stored(self, tenant: str, id: str) -> tuple[CachedResource, PluginEndpoint]:
        """Return an endpoint's row and value. Raises NotFoundError."""
        for row, value in self._directory.of(tenant, PluginEndpoint):
            if row.id == id:
                return row, value
        raise not_found(PluginEndpoint.kind, id)

    def masked_settings(self, tenant: str, id: str) -> JSON:
        """Return the settings of an endpoint, with asterisks in place of its secrets;
        empty if its plugin is not installed. Raises NotFoundError."""
        _, endpoint = self.stored(tenant, id)
        try:
            group = self._plugins.find(tenant, endpoint.plugin).declaration.endpoint
        except NotFoundError:
            return {}
        values = self._rows.read(tenant, PluginEndpoint.kind, id, endpoint.secret)
        secret = (
            {field.name for field in group.settings if field.is_secret}
            if group
            else set[str]()
        )
        return {
            name: MASK if name in secret else value for name, value in values.items()
        }

    def endpoint(self, id: str) -> tuple[str, PluginEndpoint, JSON]:
        """Return (tenant, endpoint, settings) by the id in an address. Raises
        NotFoundError."""
        owned_endpoint = self._directory.get_any_tenant(PluginEndpoint, id)
        # Disabled endpoints look like missing ones to the caller.
        if (
            owned_endpoint is None
            or not owned_endpoint[1].is_enabled
            or self._directory.is_disabled(owned_endpoint[0], owned_endpoint[1].user)
        ):
            raise NotFoundError("Endpoint not found", code="endpoint_not_found")
        tenant, endpoint = owned_endpoint
        return (
            tenant,
            endpoint,
            self._rows.read(tenant, PluginEndpoint.kind, id, endpoint.secret),
        )
