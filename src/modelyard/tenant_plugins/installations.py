"""Plugins that come to a tenant and go from it: installed in tasks, upgraded, granted what they ask for, removed."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.host import PluginHost
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.package import Package
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.storage.resources import Resource, Resources
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import Installation, PluginEndpoint, PluginTask, Subscription
from modelyard.tenant_plugins.models import ProviderNames
from modelyard.tenant_plugins.packages import OPERATOR, Installer, PluginPackages
from modelyard.tenant_plugins.plugins import Installed, Plugins

logger = logging.getLogger("modelyard.plugins")

_MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What one task installs."""

    tenant: str
    packages: Sequence[Package]
    source: str
    metas: Sequence[JSON]
    """What is known of each package's origin; may be fewer than the packages."""
    granted: list[str] | None


class PluginInstallations:
    """Every method but `drop_unused` and `settled` is given the tenant that it acts for, and reaches nothing else."""

    def __init__(
        self,
        plugins: Plugins,
        packages: PluginPackages,
        host: PluginHost,
        resources: Resources,
        directory: Directory,
        storage: PluginStorage,
        provider_names: ProviderNames,
    ) -> None:
        self._plugins = plugins
        self._packages = packages
        self._host = host
        self._resources = resources
        self._directory = directory
        self._storage = storage
        self._provider_names = provider_names
        self._tasks: set[asyncio.Task[None]] = set()
        directory.on_change(self._changed)

    def identifiers(self, tenant: str) -> list[str]:
        """What is installed for a tenant, as `author/name:version@checksum`."""
        return [installation.plugin for _, installation in self._directory.of(tenant, Installation)]

    # installing

    async def install(
        self,
        tenant: str,
        identifiers: Sequence[str],
        by: Installer = OPERATOR,
        *,
        source: str = "package",
        metas: Sequence[JSON] = (),
        granted: list[str] | None = None,
    ) -> tuple[str, bool]:
        """Install packages that were uploaded, in a task of their own: (task, whether there was nothing to do).

        Raises NotFoundError, PackageError, InvokeBadRequestError, ForbiddenError.
        """
        if not identifiers or len(identifiers) > _MOST_AT_ONCE:
            raise InvokeBadRequestError(f"1 to {_MOST_AT_ONCE} plugins can be installed at once")
        packages = await self._packages.admitted(identifiers, by)
        present = {plugin.identifier for plugin in self._plugins.installed(tenant)}
        is_done = present.issuperset(identifiers)
        steps = [_step(identifier, one, source) for identifier, one in zip(identifiers, packages, strict=True)]
        task = PluginTask(status="success" if is_done else "running", plugins=steps)
        name = f"install-{uuid.uuid4().hex}"
        row = await self._resources.add(tenant, PluginTask.kind, name, lambda _: _dump(task))
        if not is_done:
            order = _Order(tenant=tenant, packages=packages, source=source, metas=list(metas), granted=granted)
            self._begin(self._install_all(order, row, steps))
        return row.id, is_done

    async def _install_all(self, order: _Order, row: Resource, steps: Sequence[JSON]) -> None:
        for place in range(len(order.packages)):
            row = await self._install_one(order, place, row, steps)
        has_failed = any(step["status"] == "failed" for step in steps)
        await self._say(row, steps, "failed" if has_failed else "success")

    async def _install_one(self, order: _Order, place: int, row: Resource, steps: Sequence[JSON]) -> Resource:
        """Install the package at this place, and say in its step what came of it. The task's row as it is by then."""
        package, step = order.packages[place], steps[place]
        meta = order.metas[place] if place < len(order.metas) else {}

        def tell(what: str) -> None:
            step["status"], step["message"] = "running", what

        try:
            tell("waiting")
            row = await self._say(row, steps, "running")
            await self.add(order.tenant, package, source=order.source, meta=meta, granted=order.granted, step=tell)
            step["status"], step["message"] = "success", "installed"
        except ModelyardError as error:
            step["status"], step["message"] = "failed", str(error)
        except Exception:
            logger.exception("an installation failed", extra={"fields": {"plugin": package.manifest.id}})
            step["status"], step["message"] = "failed", "something is wrong with the server; its log has it"
        return row

    async def _say(self, row: Resource, steps: Sequence[JSON], status: str) -> Resource:
        task = PluginTask(status=status, plugins=list(steps))
        try:
            return await self._resources.change(row, name=row.name, body=_dump(task))
        except NotFoundError:  # somebody took the task away; the work goes on
            return row

    async def add(
        self,
        tenant: str,
        package: Package,
        *,
        source: str = "package",
        meta: JSON | None = None,
        granted: list[str] | None = None,
        step: Callable[[str], None] = lambda what: None,
    ) -> Installed:
        """Install one package for a tenant, in the place of another version that it has."""
        declaration = await self._host.packages.install(package, step)
        identifier, plugin = str(package.identifier), package.manifest.id
        before = self._known(tenant, plugin)
        if granted is None and before is not None:
            granted = before[1].granted
        installation = Installation(
            plugin=identifier, source=source, meta=meta or {}, granted=granted,
            provider=self._provider_names.free(tenant, declaration),
        )  # fmt: skip
        if before is None:
            row = await self._resources.add(tenant, Installation.kind, plugin, lambda _: _dump(installation))
        else:
            old = await self._resources.one(tenant, Installation.kind, before[0].id)
            row = await self._resources.change(old, name=plugin, body=_dump(installation))
        await self._directory.refresh()
        if before is not None and before[1].plugin != identifier:
            await self._host.stop(tenant, before[1].plugin)
            await self.drop_unused(before[1].plugin)
        return Installed(id=row.id, identifier=identifier, declaration=declaration, installation=installation)

    def _known(self, tenant: str, plugin: str) -> tuple[Known, Installation] | None:
        """The installation of a plugin, by `author/name`, whether its files can be read or not."""
        here = self._directory.of(tenant, Installation)
        return next((pair for pair in here if pair[0].name == plugin), None)

    async def upgrade(
        self, tenant: str, old: str, new: str, by: Installer = OPERATOR, *, source: str, meta: JSON | None = None
    ) -> str:
        """Another version in the place of one. The task's id. Raises NotFoundError, InvokeBadRequestError."""
        installed = self._plugins.find(tenant, old)
        if PluginIdentifier.parse(new).id != installed.plugin_id:
            raise InvokeBadRequestError(f"{new!r} is no version of {installed.plugin_id!r}")
        task, _ = await self.install(tenant, [new], by, source=source, metas=[meta or {}])
        return task

    async def grant(self, tenant: str, plugin: str, words: list[str] | None) -> Installed:
        """What a plugin may ask its host for from now on. Raises InvokeBadRequestError for what it does not ask."""
        installed = self._plugins.find(tenant, plugin)
        asked = installed.declaration.manifest.permissions.words()
        unknown = [word for word in words or () if word not in asked]
        if unknown:
            raise InvokeBadRequestError(
                f"{installed.plugin_id!r} does not ask for {unknown[0]!r}; it asks for {', '.join(asked) or 'nothing'}"
            )
        old = await self._resources.one(tenant, Installation.kind, installed.id)
        installation = msgspec.structs.replace(installed.installation, granted=words)
        await self._resources.change(old, name=old.name, body=_dump(installation))
        await self._directory.refresh()
        return replace(installed, installation=installation)

    # removing

    async def uninstall(self, tenant: str, plugin: str) -> None:
        """Remove a plugin and what it kept. Raises NotFoundError, InvokeBadRequestError for one in debug."""
        installed = self._plugins.find(tenant, plugin)
        if installed.runtime == "remote":
            raise InvokeBadRequestError(f"{installed.plugin_id!r} is in debug: stop it where it runs")
        await self._resources.remove(tenant, Installation.kind, installed.id)
        for kind in (PluginEndpoint, Subscription):
            for known, value in self._directory.of(tenant, kind):
                if value.plugin == installed.plugin_id:
                    await self._resources.remove(tenant, kind.kind, known.id)
        await self._storage.clear(tenant, installed.plugin_id)
        await self._directory.refresh()
        await self._host.stop(tenant, installed.identifier)
        await self._host.clear(tenant, installed.plugin_id)
        await self.drop_unused(installed.identifier)

    async def drop_unused(self, identifier: str) -> None:
        """Take a plugin's files off this machine where no tenant has it."""
        if not self._directory.anybody(Installation, lambda installation: installation.plugin == identifier):
            await self._host.remove(identifier)

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        """End what no tenant has any more, whoever removed it."""
        if Installation.kind not in {kind for _, kind in touched}:
            return
        for tenant, identifier in self._host.running():
            if identifier not in self.identifiers(tenant):
                self._begin(self._host.stop(tenant, identifier))

    # tasks

    async def tasks(self, tenant: str) -> list[tuple[Resource, PluginTask]]:
        """Newest first."""
        rows = await self._resources.all(tenant, PluginTask.kind)
        rows.sort(key=lambda row: row.created_at, reverse=True)
        return [(row, msgspec.json.decode(row.body, type=PluginTask)) for row in rows]

    async def task(self, tenant: str, id: str) -> tuple[Resource, PluginTask]:  # noqa: A002  the field's word
        """Raises NotFoundError."""
        row = await self._resources.one(tenant, PluginTask.kind, id)
        return row, msgspec.json.decode(row.body, type=PluginTask)

    async def forget_task(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        await self._resources.remove(tenant, PluginTask.kind, id)

    async def settled(self) -> None:
        """Until no installation runs here."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Break off what is being installed."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


def _step(identifier: str, package: Package, source: str) -> JSON:
    """What a task says of one of its packages before it begins."""
    return {
        "plugin_unique_identifier": identifier,
        "plugin_id": package.manifest.id,
        "labels": package.manifest.label,
        "icon": package.manifest.icon,
        "source": source,
        "status": "pending",
        "message": "",
    }


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()
