"""/admin/v1/plugins and /market: what is installed and what it takes, installing from a file or a market."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.parts import ServerState
from modelyard.gateway.admin.plugin_shapes import (
    InstallStep,
    InstallTask,
    LogLine,
    MarketPlugin,
    PluginShown,
    PluginsShown,
)
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.models.entities import I18nObject
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.market import Market
from modelyard.plugins.monitor import Taken
from modelyard.tenant_plugins.packages import Installer
from modelyard.tenant_plugins.plugins import Installed

_PICTURES = {
    b"\x89PNG\r\n\x1a\n": b"image/png", b"\xff\xd8\xff": b"image/jpeg", b"GIF8": b"image/gif", b"RIFF": b"image/webp",
}  # fmt: skip
_BY_ITSELF = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
              "x-content-type-options": "nosniff", "cache-control": "private, max-age=3600"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InstalledPlugins:
    """A tenant's plugins."""

    parts: PluginParts
    server: Callable[[], ServerState]

    async def listed(self, request: Request) -> Reply:
        """And where plugins that their authors run connect to. Raises NotFoundError."""
        tenant, address = tenant_of(request), self.server().debug_address
        shown = PluginsShown(
            data=[await self._shown(tenant, plugin) for plugin in self.parts.plugins.installed(tenant)],
            debug_address=address,
            debug_key=self.parts.debugged.key(tenant) if address else "",
        )
        return json_reply(shown)

    async def one(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        return json_reply(await self._shown(tenant_of(request), self._named(request)))

    async def logs(self, request: Request) -> Reply:
        """What it said lately. Raises NotFoundError."""
        lines = self.parts.host.lines(tenant_of(request), self._named(request).identifier)
        return json_reply({"data": [LogLine(at=at, text=text) for at, text in lines]})

    async def icon(self, request: Request) -> Reply:
        """Raises NotFoundError, also where its icon is no picture."""
        return self._icon(tenant_of(request), self._named(request))

    async def grant(self, request: Request) -> Reply:
        """What it may ask its host for. Raises NotFoundError, InvokeBadRequestError."""
        tenant = tenant_of(request)
        granted = need(await request.json(), "granted", list)
        plugin = self._named(request)
        await self.parts.installations.grant(tenant, plugin.plugin_id, [str(word) for word in granted])
        return json_reply(await self._shown(tenant, self._named(request)))

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        await self.parts.installations.uninstall(tenant_of(request), self._named(request).plugin_id)
        return json_reply(Removed(id=request.names["id"], deleted=True))

    def _named(self, request: Request) -> Installed:
        tenant, name = tenant_of(request), request.names["id"]
        for plugin in self.parts.plugins.installed(tenant):
            if name in (plugin.id, plugin.plugin_id.replace("/", ":")):
                return plugin
        raise NotFoundError(f"plugin {name!r} is not installed", code="plugin_not_found")

    async def _shown(self, tenant: str, one: Installed) -> PluginShown:
        manifest = one.declaration.manifest
        took = await self.parts.host.taken(tenant, one.identifier) if one.runtime == "local" else Taken()
        tool = one.declaration.tool
        return PluginShown(
            id=one.id, plugin_id=one.plugin_id, identifier=one.identifier, version=manifest.version,
            author=manifest.author, label=_words(manifest.label, manifest.name) or I18nObject(en_us=manifest.name),
            description=_words(manifest.description, ""), kinds=manifest.plugins.kinds(), runtime=one.runtime,
            source=one.installation.source, asked=manifest.permissions.words(), granted=one.permissions.words(),
            has_icon=bool(manifest.icon), processes=len(took.processes), memory_bytes=took.bytes,
            cpu_seconds=round(took.seconds, 2), created_at=one.created_at,
            tools=[f"{tool.identity.name}/{each.identity.name}" for each in tool.tools] if tool else [],
        )  # fmt: skip

    def _icon(self, tenant: str, one: Installed) -> Reply:
        """A picture, or nothing: whatever else a plugin calls its icon is not sent."""
        data = self.parts.plugins.asset(tenant, one.plugin_id, one.declaration.manifest.icon)
        kind = next((kind for begins, kind in _PICTURES.items() if data.startswith(begins)), None)
        if kind is None and b"<svg" in data[:1000]:
            kind = b"image/svg+xml"
        if kind is None or len(data) > 1 << 20:
            raise NotFoundError(f"the icon of {one.plugin_id!r} is no picture", code="asset_not_found")
        return Reply(data, content_type=kind, headers=_BY_ITSELF)


@dataclass(frozen=True, slots=True)
class Installations:
    """How plugins get here: as packages, or from a market.

    `unsigned=true` in the address is the operator's word that a package need not be signed.
    """

    parts: PluginParts

    async def upload(self, request: Request) -> Reply:
        """A package as it is. Raises InvokeBadRequestError, PackageError."""
        tenant, data = tenant_of(request), await request.body()
        if not data:
            raise InvokeBadRequestError("send the package itself: a .difypkg or .difybndl file")
        if data.startswith(b"{"):
            raise InvokeBadRequestError("send the package itself, not JSON")
        by = _installer(request)
        packed, _ = await self.parts.packages.upload(data, by)
        return await self._begun(tenant, str(packed.identifier), by, "package")

    async def fetch(self, request: Request) -> Reply:
        """From a market. Raises InvokeBadRequestError, NotFoundError, PackageError."""
        tenant, body = tenant_of(request), await request.json()
        data = await self.parts.market.fetch(need(body, "id", str), may(body, "version", str) or "")
        by = _installer(request)
        packed, _ = await self.parts.packages.upload(data, by)
        return await self._begun(tenant, str(packed.identifier), by, "marketplace")

    async def progress(self, request: Request) -> Reply:
        """How far an installation is. Raises NotFoundError."""
        return json_reply(await self._task(tenant_of(request), request.names["id"]))

    async def _begun(self, tenant: str, identifier: str, by: Installer, source: str) -> Reply:
        task, _ = await self.parts.installations.install(tenant, [identifier], by, source=source)
        return json_reply(await self._task(tenant, task), status=201)

    async def _task(self, tenant: str, name: str) -> InstallTask:
        row, task = await self.parts.installations.task(tenant, name)
        steps = [
            InstallStep(
                plugin_id=PluginIdentifier.parse(str(one["plugin_unique_identifier"])).id, status=str(one["status"]),
                message=str(one["message"]),
            )
            for one in task.plugins
        ]  # fmt: skip
        return InstallTask(id=row.id, status=task.status, plugins=steps)


def _installer(request: Request) -> Installer:
    return Installer(is_operator=request.caller.is_operator, allows_unsigned=request.query("unsigned") == "true")


def _words(given: dict[str, str], otherwise: str) -> I18nObject | None:
    text = given.get("en_US") or otherwise or next(iter(given.values()), "")
    return I18nObject(en_us=text, zh_hans=given.get("zh_Hans")) if text else None


@dataclass(frozen=True, slots=True)
class MarketListings:
    """What the markets of the settings list."""

    market: Market

    async def search(self, request: Request) -> Reply:
        """Those that `q` finds. Raises PluginError where a market cannot be asked."""
        found = await self.market.search(request.query("q") or "")
        return json_reply({
            "data": [
                MarketPlugin(id=one.plugin, version=one.version, label=one.label, description=one.description)
                for _, one in found[:500]
            ]
        })  # fmt: skip
