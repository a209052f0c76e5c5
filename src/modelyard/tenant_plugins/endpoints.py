"""Addresses that plugins serve (`/e/ID/`): set up with a form whose values lie encrypted."""

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import JSON
from modelyard.storage.resources import Resources, missing
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import PluginEndpoint
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.credentials import checked_form
from modelyard.tenant_plugins.plugins import Plugins


class PluginEndpoints:
    """Every method but `endpoint` is given the tenant that it acts for, and reaches nothing else."""

    def __init__(self, plugins: Plugins, rows: SealedRows, resources: Resources, directory: Directory) -> None:
        self._plugins = plugins
        self._rows = rows
        self._resources = resources
        self._directory = directory

    async def set_up(
        self, tenant: str, plugin: str, name: str, settings: JSON, *, user: str = "", id: str = ""  # noqa: A002  the field's word
    ) -> str:  # fmt: skip
        """Serve a plugin's endpoints under an address of their own: its id. Raises InvokeBadRequestError."""
        installed = self._plugins.find(tenant, plugin)
        group = installed.declaration.endpoint
        if group is None:
            raise InvokeBadRequestError(f"{installed.plugin_id!r} has no endpoints")
        if not installed.permissions.endpoint.enabled:
            raise InvokeBadRequestError(
                f"{installed.plugin_id!r} may serve no endpoints: its manifest does not ask for it"
            )
        filled = checked_form(group.settings, settings, what=f"the settings of {installed.plugin_id!r}")
        endpoint = PluginEndpoint(plugin=installed.plugin_id, user=user)
        return await self._rows.keep(tenant, PluginEndpoint.kind, name, filled, endpoint, id=id)

    async def enable(self, tenant: str, id: str, *, is_on: bool) -> None:  # noqa: A002
        """Let callers in, or keep them out. Raises NotFoundError."""
        endpoint = self._directory.one(tenant, PluginEndpoint, id)
        if endpoint is None:
            raise missing(PluginEndpoint.kind, id)
        old = await self._resources.one(tenant, PluginEndpoint.kind, id)
        body = msgspec.json.encode(msgspec.structs.replace(endpoint, is_enabled=is_on)).decode()
        await self._resources.change(old, name=old.name, body=body)
        await self._directory.refresh()

    async def remove(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        await self._rows.remove(tenant, PluginEndpoint.kind, id)

    def all(self, tenant: str) -> list[tuple[str, str, PluginEndpoint]]:
        """(id, name, endpoint) of all that a tenant has."""
        return [(known.id, known.name, value) for known, value in self._directory.of(tenant, PluginEndpoint)]

    def endpoint(self, id: str) -> tuple[str, PluginEndpoint, JSON]:  # noqa: A002
        """(tenant, endpoint, settings) by the id in its address. Raises NotFoundError."""
        known = self._directory.wherever(PluginEndpoint, id)
        if known is None or not known[1].is_enabled or self._directory.shuts_out(known[0], known[1].user):
            raise NotFoundError("there is no such endpoint", code="endpoint_not_found")
        tenant, endpoint = known
        return tenant, endpoint, self._rows.read(tenant, PluginEndpoint.kind, id, endpoint.secret)
