"""/admin/v1/plugins and /market: installed plugins with their resource usage, and
installation from a file or a marketplace."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.dependencies import ServerState
from modelyard.gateway.admin.plugin_shapes import (
    InstallStep,
    InstallTask,
    LogLine,
    MarketPlugin,
    PackageView,
    PluginsView,
    PluginView,
)
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.plugins.dependencies import PluginDependencies
from modelyard.models.entities import I18nObject
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import Hosts, Manifest
from modelyard.plugins.market import Market
from modelyard.plugins.monitor import ResourceUsage
from modelyard.plugins.package import Package, read_package
from modelyard.tenant_plugins.grants import Grant, describe_requests
from modelyard.tenant_plugins.packages import Installer
from modelyard.tenant_plugins.plugins import Installed

# Content types by the first bytes of the file.
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": b"image/png",
    b"\xff\xd8\xff": b"image/jpeg",
    b"GIF8": b"image/gif",
    b"RIFF": b"image/webp",
}
# An icon may be an SVG with scripts, so the browser must treat it as inert.
_INERT_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "x-content-type-options": "nosniff",
    "cache-control": "private, max-age=3600",
}


@dataclass(frozen=True, slots=True)
class InstalledPlugins:
    """Routes for the plugins of a tenant."""

    parts: PluginDependencies
    server: Callable[[], ServerState]

    async def listed(self, request: Request) -> Reply:
        """List the plugins of a tenant, with the address for plugins that are being
        debugged.

        Raises NotFoundError.
        """
        tenant, address = tenant_of(request), self.server().debug_address
        response = PluginsView(
            data=[
                await self._view(tenant, plugin)
                for plugin in self.parts.plugins.installed(tenant)
            ],
            debug_address=address,
            # The debug key is of use only if the debug server listens.
            debug_key=self.parts.debugged.key(tenant) if address else "",
        )
        return json_reply(response)

    async def get_plugin(self, request: Request) -> Reply:
        """Return one plugin.

        Raises NotFoundError.
        """
        return json_reply(
            await self._view(tenant_of(request), self._requested_plugin(request))
        )

    async def logs(self, request: Request) -> Reply:
        """Return the latest log lines of a plugin.

        Raises NotFoundError.
        """
        lines = self.parts.host.lines(
            tenant_of(request), self._requested_plugin(request).identifier
        )
        return json_reply(
            {"data": [LogLine(at=timestamp, text=text) for timestamp, text in lines]}
        )

    async def icon(self, request: Request) -> Reply:
        """Return the icon of a plugin.

        Raises NotFoundError also if the icon is not a picture.
        """
        return self._icon(tenant_of(request), self._requested_plugin(request))

    async def grant(self, request: Request) -> Reply:
        """Set the permissions of a plugin.

        Raises NotFoundError, InvokeBadRequestError.
        """
        tenant = tenant_of(request)
        body = await request.json()
        granted = required_field(body, "granted", list)
        plugin = self._requested_plugin(request)
        await self.parts.installations.grant(
            tenant,
            plugin.plugin_id,
            [str(permission) for permission in granted],
            has_network=optional_field(body, "network", bool),
        )
        # Look the plugin up again: the grant replaced the installation record.
        return json_reply(await self._view(tenant, self._requested_plugin(request)))

    async def remove(self, request: Request) -> Reply:
        """Uninstall a plugin.

        Raises NotFoundError.
        """
        await self.parts.installations.uninstall(
            tenant_of(request), self._requested_plugin(request).plugin_id
        )
        return json_reply(Removed(id=request.names["id"], deleted=True))

    def _requested_plugin(self, request: Request) -> Installed:
        """Return the plugin of the request's path.

        Raises NotFoundError.
        """
        tenant, name = tenant_of(request), request.names["id"]
        for plugin in self.parts.plugins.installed(tenant):
            # A plugin id contains a slash, which the path writes as a colon.
            if name in (plugin.id, plugin.plugin_id.replace("/", ":")):
                return plugin
        raise NotFoundError(
            f"Plugin {name!r} is not installed", code="plugin_not_found"
        )

    async def _view(self, tenant: str, record: Installed) -> PluginView:
        """Return the view of a plugin, with the resource usage of its processes."""
        manifest = record.declaration.manifest
        # Only local plugins run on this machine; others have no measurable usage.
        took = (
            await self.parts.host.resource_usage(tenant, record.identifier)
            if record.runtime == "local"
            else ResourceUsage()
        )
        tool = record.declaration.tool
        return PluginView(
            id=record.id,
            plugin_id=record.plugin_id,
            identifier=record.identifier,
            version=manifest.version,
            author=manifest.author,
            label=_translated(manifest.label, manifest.name)
            or I18nObject(en_us=manifest.name),
            description=_translated(manifest.description, ""),
            kinds=manifest.plugins.kinds(),
            runtime=record.runtime,
            source=record.installation.source,
            asked=manifest.permissions.allowed_names(),
            granted=record.permissions.allowed_names(),
            network=record.permissions.network.enabled,
            hosts=_host_list(record.permissions.hosts),
            has_icon=bool(manifest.icon),
            processes=len(took.processes),
            memory_bytes=took.bytes,
            cpu_seconds=round(took.seconds, 2),
            created_at=record.created_at,
            tools=[
                f"{tool.identity.name}/{declared_tool.identity.name}"
                for declared_tool in tool.tools
            ]
            if tool
            else [],
        )

    def _icon(self, tenant: str, plugin: Installed) -> Reply:
        """Return the icon as an image reply; anything that is not a picture is refused.

        Raises NotFoundError.
        """
        data = self.parts.plugins.asset(
            tenant, plugin.plugin_id, plugin.declaration.manifest.icon
        )
        content_type = next(
            (
                picture_type
                for begins, picture_type in _PICTURES.items()
                if data.startswith(begins)
            ),
            None,
        )
        # SVG has no magic number, so the element is searched near the start.
        if content_type is None and b"<svg" in data[:1000]:
            content_type = b"image/svg+xml"
        # Icons over 1 MiB are refused too.
        if content_type is None or len(data) > 1 << 20:
            raise NotFoundError(
                f"The icon of {plugin.plugin_id!r} is not an image",
                code="asset_not_found",
            )
        return Reply(data, content_type=content_type, headers=_INERT_HEADERS)


@dataclass(frozen=True, slots=True)
class Installations:
    """Routes that install plugins, from an uploaded package or from a marketplace.

    With `unsigned=true` in the query, an operator accepts a package without a
    signature. `granted` and `network` decide on the permissions that it requests.
    """

    parts: PluginDependencies

    async def upload(self, request: Request) -> Reply:
        """Install an uploaded package; the body is the package itself.

        Raises InvokeBadRequestError, PackageError.
        """
        tenant, data = tenant_of(request), await _package_in(request)
        by = _installer(request)
        packed, _ = await self.parts.packages.upload(data, by)
        return await self._start_installation(
            tenant, packed, by, "package", _grant_in_query(request, packed.manifest)
        )

    async def inspect(self, request: Request) -> Reply:
        """Return what a package requests, without installing it; the body is the
        package itself.

        Raises InvokeBadRequestError, PackageError, and ForbiddenError for a package
        that the caller may not install.
        """
        tenant, data = tenant_of(request), await _package_in(request)
        # Read, but not stored: it may never be installed.
        package = await asyncio.to_thread(read_package, data)
        verification = await self.parts.packages.admit(package, _installer(request))
        installed = next(
            (
                plugin
                for plugin in self.parts.plugins.installed(tenant)
                if plugin.plugin_id == package.manifest.id
            ),
            None,
        )
        return json_reply(
            PackageView(
                plugin_id=package.manifest.id,
                identifier=str(package.identifier),
                version=package.manifest.version,
                requests=describe_requests(package.manifest),
                signed_by=verification.key if verification else None,
                installed_version=(
                    installed.declaration.manifest.version if installed else None
                ),
            )
        )

    async def fetch(self, request: Request) -> Reply:
        """Install a plugin from a marketplace.

        Raises InvokeBadRequestError, NotFoundError, PackageError.
        """
        tenant, body = tenant_of(request), await request.json()
        data = await self.parts.market.fetch(
            required_field(body, "id", str), optional_field(body, "version", str) or ""
        )
        by = _installer(request)
        packed, _ = await self.parts.packages.upload(data, by)
        granted = optional_field(body, "granted", list)
        grant = _grant(
            packed.manifest,
            None if granted is None else [str(name) for name in granted],
            network=optional_field(body, "network", bool),
        )
        return await self._start_installation(tenant, packed, by, "marketplace", grant)

    async def progress(self, request: Request) -> Reply:
        """Return the progress of an installation.

        Raises NotFoundError.
        """
        return json_reply(await self._task(tenant_of(request), request.names["id"]))

    async def _start_installation(
        self,
        tenant: str,
        package: Package,
        by: Installer,
        source: str,
        grant: Grant | None,
    ) -> Reply:
        """Start an installation and return its task."""
        task, _ = await self.parts.installations.install(
            tenant, [str(package.identifier)], by, source=source, grant=grant
        )
        return json_reply(await self._task(tenant, task), status=201)

    async def _task(self, tenant: str, name: str) -> InstallTask:
        """Return the view of an installation task.

        Raises NotFoundError.
        """
        row, task = await self.parts.installations.task(tenant, name)
        steps = [
            InstallStep(
                plugin_id=PluginIdentifier.parse(
                    str(step["plugin_unique_identifier"])
                ).id,
                status=str(step["status"]),
                message=str(step["message"]),
            )
            for step in task.plugins
        ]
        return InstallTask(id=row.id, status=task.status, plugins=steps)


def _installer(request: Request) -> Installer:
    """Return who installs, and whether an unsigned package is accepted."""
    return Installer(
        is_operator=request.caller.is_operator,
        allows_unsigned=request.query("unsigned") == "true",
    )


async def _package_in(request: Request) -> bytes:
    """Return the package that is a request's body. Raises InvokeBadRequestError."""
    data = await request.body()
    if not data:
        raise InvokeBadRequestError(
            "The request body must be a .difypkg or .difybndl file"
        )
    # Packages are ZIP archives, so a brace means that a client sent JSON.
    if data.startswith(b"{"):
        raise InvokeBadRequestError("The request body must be the package, not JSON")
    return data


def _grant_in_query(request: Request, manifest: Manifest) -> Grant | None:
    """Return the decision in a request's query: `granted` names permissions, separated
    by commas, and `network` is true or false."""
    names, network = request.query("granted"), request.query("network")
    if network not in (None, "true", "false"):
        raise InvokeBadRequestError(
            f"'network' must be true or false, got {network[:20]!r}", param="network"
        )
    granted = None
    if names is not None:
        granted = [name.strip() for name in names.split(",") if name.strip()]
    return _grant(
        manifest, granted, network=None if network is None else network == "true"
    )


def _grant(
    manifest: Manifest, granted: list[str] | None, *, network: bool | None
) -> Grant | None:
    """Return a decision on the permissions of a package; None if there is none."""
    # Nobody was asked, so the installation decides.
    if granted is None and network is None:
        return None
    # Only what the manifest requests now: nobody has seen what later versions request.
    if granted is None:
        granted = manifest.permissions.allowed_names()
    return Grant(permissions=granted, has_network=network is not False)


def _host_list(hosts: Hosts) -> list[str] | None:
    """Return hosts for JSON; None if all are allowed."""
    return None if hosts is None else list(hosts)


def _translated(translations: dict[str, str], otherwise: str) -> I18nObject | None:
    """Return a translated text with a fallback, or None if there is no text at all."""
    # Without English, use the fallback, then any language.
    text = (
        translations.get("en_US") or otherwise or next(iter(translations.values()), "")
    )
    return I18nObject(en_us=text, zh_hans=translations.get("zh_Hans")) if text else None


@dataclass(frozen=True, slots=True)
class MarketListings:
    """Routes that search the configured marketplaces."""

    market: Market

    async def search(self, request: Request) -> Reply:
        """Search the marketplaces for `q`.

        Raises PluginError if a marketplace cannot be reached.
        """
        matches = await self.market.search(request.query("q") or "")
        return json_reply(
            {
                "data": [
                    MarketPlugin(
                        id=listing.plugin,
                        version=listing.version,
                        label=listing.label,
                        description=listing.description,
                    )
                    # The response is limited to 500 plugins.
                    for _, listing in matches[:500]
                ]
            }
        )
