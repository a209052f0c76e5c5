"""Installing, upgrading and removing the plugins of a tenant, and granting their
permissions."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from modelyard.base.errors import (
    InvokeBadRequestError,
    ModelyardError,
    NotFoundError,
    PluginError,
)
from modelyard.models.types import JSON
from modelyard.plugins.host import PluginHost
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import Permissions
from modelyard.plugins.package import Package
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.storage.resources import Resource, Resources
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import (
    CustomModel,
    DefaultModel,
    Installation,
    OAuthClient,
    PluginEndpoint,
    PluginTask,
    StoredCredential,
    Subscription,
    ToolCredential,
)
from modelyard.tenant_plugins.fetching import PluginFetcher
from modelyard.tenant_plugins.grants import (
    Grant,
    check_grant,
    granted_fields,
    granted_permissions,
)
from modelyard.tenant_plugins.models import ProviderNames
from modelyard.tenant_plugins.packages import OPERATOR, Installer, PluginPackages
from modelyard.tenant_plugins.plugins import Installed, Plugins

logger = logging.getLogger("modelyard.plugins")

# A package is unpacked and checked before it is stored.
_MAX_AT_ONCE = 64
_INSTALLED = "installed"
"""The name of the last step of an installation."""
_RESOURCES: tuple[type[Any], ...] = (
    PluginEndpoint,
    Subscription,
    ToolCredential,
    OAuthClient,
    StoredCredential,
    CustomModel,
    DefaultModel,
)
"""The types of resources that tenants store for their plugins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _InstallOrder:
    """What one installation task installs."""

    tenant: str
    packages: Sequence[Package]
    source: str
    metas: Sequence[JSON]
    """The origin of each package; may be shorter than the list of packages."""
    grant: Grant | None


class PluginInstallations:
    """Installs and removes plugins. Every method except `drop_unused` and `settled`
    takes the tenant it acts for and reaches nothing else."""

    def __init__(
        self,
        plugins: Plugins,
        packages: PluginPackages,
        host: PluginHost,
        resources: Resources,
        directory: Directory,
        storage: PluginStorage,
        provider_names: ProviderNames,
        fetcher: PluginFetcher,
    ) -> None:
        self._plugins = plugins
        self._packages = packages
        self._host = host
        self._resources = resources
        self._directory = directory
        self._storage = storage
        self._provider_names = provider_names
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetcher = fetcher
        # Another process may uninstall a plugin; this one then has to stop it.
        directory.on_change(self._on_change)

    def identifiers(self, tenant: str) -> list[str]:
        """Return the installed plugins of a tenant, as `author/name:version@checksum`."""
        return [
            installation.plugin
            for _, installation in self._directory.of(tenant, Installation)
        ]

    # installing

    async def install(
        self,
        tenant: str,
        identifiers: Sequence[str],
        by: Installer = OPERATOR,
        *,
        source: str = "package",
        metas: Sequence[JSON] = (),
        grant: Grant | None = None,
    ) -> tuple[str, bool]:
        """Install uploaded packages in a background task. Returns (task id, whether
        everything was installed already). `grant` decides on their permissions.

        Raises NotFoundError, PackageError, InvokeBadRequestError or ForbiddenError.
        """
        if not identifiers or len(identifiers) > _MAX_AT_ONCE:
            raise InvokeBadRequestError(
                f"1 to {_MAX_AT_ONCE} plugins can be installed at once"
            )
        packages = await self._packages.admitted(identifiers, by)
        # Refused at once, not minutes later in the task.
        for package in packages:
            check_grant(package.manifest, grant.permissions if grant else None)
        present = {plugin.identifier for plugin in self._plugins.installed(tenant)}
        is_complete = present.issuperset(identifiers)
        steps = [
            _step(identifier, package, source)
            for identifier, package in zip(identifiers, packages, strict=True)
        ]
        task = PluginTask(status="success" if is_complete else "running", plugins=steps)
        name = f"install-{uuid.uuid4().hex}"
        # The task is a row, so that every process can report its progress.
        row = await self._resources.add(
            tenant, PluginTask.kind, name, lambda _: _dump(task)
        )
        if not is_complete:
            order = _InstallOrder(
                tenant=tenant,
                packages=packages,
                source=source,
                metas=list(metas),
                grant=grant,
            )
            self._start_task(self._install_all(order, row, steps))
        return row.id, is_complete

    async def _install_all(
        self, order: _InstallOrder, row: Resource, steps: Sequence[JSON]
    ) -> None:
        """Install the packages one after the other and record the result of the task."""
        for index in range(len(order.packages)):
            row = await self._install_one(order, index, row, steps)
        has_failed = any(step["status"] == "failed" for step in steps)
        await self._write_steps(row, steps, "failed" if has_failed else "success")

    async def _install_one(
        self, order: _InstallOrder, index: int, row: Resource, steps: Sequence[JSON]
    ) -> Resource:
        """Install one package and record its result in its step. Returns the task's
        current row."""
        package, step = order.packages[index], steps[index]
        meta = order.metas[index] if index < len(order.metas) else {}

        def tell(message: str) -> None:
            """Set the progress message of this step."""
            step["status"], step["message"] = "running", message

        try:
            tell("waiting")
            row = await self._write_steps(row, steps, "running")
            await self.add(
                order.tenant,
                package,
                source=order.source,
                meta=meta,
                grant=order.grant,
                step=tell,
                checks_start=True,
            )
            step["status"], step["message"] = "success", "installed"
        except ModelyardError as error:
            step["status"], step["message"] = "failed", str(error)
        # One package that fails in an unexpected way must not prevent the installation
        # of the others.
        except Exception:
            logger.exception(
                "plugin installation failed",
                extra={"fields": {"plugin": package.manifest.id}},
            )
            step["status"], step["message"] = (
                "failed",
                "Internal server error; see the server log",
            )
        return row

    async def _write_steps(
        self, row: Resource, steps: Sequence[JSON], status: str
    ) -> Resource:
        """Write the steps of a task to its row."""
        task = PluginTask(status=status, plugins=list(steps))
        try:
            return await self._resources.change(row, name=row.name, body=_dump(task))
        except NotFoundError:  # the task was deleted meanwhile; the work continues
            return row

    async def add(
        self,
        tenant: str,
        package: Package,
        *,
        source: str = "package",
        meta: JSON | None = None,
        grant: Grant | None = None,
        step: Callable[[str], None] = lambda message: None,
        checks_start: bool = False,
    ) -> Installed:
        """Install one package for a tenant, replacing another version of it.

        `grant` decides on its permissions; without it a first installation grants those
        that the manifest requests, and an upgrade those of the old version. `step`
        receives progress messages. With `checks_start` a plugin that does not start is
        not installed, and the old version stays. Raises PluginError with its reason,
        and InvokeBadRequestError for a permission that is not requested.
        """
        declaration = await self._host.packages.install(
            package,
            # The last step of the packages is not the last one here.
            lambda message: None if message == _INSTALLED else step(message),
        )
        identifier, plugin = str(package.identifier), package.manifest.id
        previous = self._find_installation(tenant, plugin)
        granted, has_network = granted_fields(
            package.manifest, previous[1] if previous else None, grant
        )
        installation = Installation(
            plugin=identifier,
            source=source,
            meta=meta or {},
            granted=granted,
            has_network=has_network,
            provider=self._provider_names.choose_name(tenant, declaration),
        )
        # Before anything is stored, so that an upgrade that fails leaves the old
        # version as it was.
        if checks_start:
            step("starting")
            await self._check_start(tenant, package, installation)
        if previous is None:
            row = await self._resources.add(
                tenant, Installation.kind, plugin, lambda _: _dump(installation)
            )
        else:
            old = await self._resources.get(tenant, Installation.kind, previous[0].id)
            row = await self._resources.change(
                old, name=plugin, body=_dump(installation)
            )
        await self._directory.refresh()
        await self._fetcher.wait_for_others()
        step(_INSTALLED)
        # The old version is stopped only after the new one is stored, so that a failure
        # leaves a working plugin.
        if previous is not None and previous[1].plugin != identifier:
            await self._host.stop(tenant, previous[1].plugin)
            await self.delete_unused_packages(previous[1].plugin)
        return Installed(
            id=row.id,
            identifier=identifier,
            declaration=declaration,
            installation=installation,
        )

    async def _check_start(
        self, tenant: str, package: Package, installation: Installation
    ) -> None:
        """Start a plugin before its installation is stored. Raises PluginError with the
        plugin's own words if it does not start; nothing is left behind then."""
        # A permission that was refused must not be there during the trial either.
        permissions = granted_permissions(package.manifest, installation)
        try:
            await self._host.check_start(tenant, installation.plugin, permissions)
        except BaseException as error:
            await self.delete_unused_packages(installation.plugin)
            if isinstance(error, PluginError):
                raise PluginError(
                    f"The plugin does not start: {error.reason}", plugin=error.plugin
                ) from error
            raise

    def _find_installation(
        self, tenant: str, plugin: str
    ) -> tuple[CachedResource, Installation] | None:
        """Return the installation of a plugin by `author/name`, even if its files
        cannot be read."""
        installations = self._directory.of(tenant, Installation)
        return next((pair for pair in installations if pair[0].name == plugin), None)

    async def upgrade(
        self,
        tenant: str,
        old: str,
        new: str,
        by: Installer = OPERATOR,
        *,
        source: str,
        meta: JSON | None = None,
    ) -> str:
        """Replace a version of a plugin by another, in a background task. Returns the
        task's id.

        Raises NotFoundError or InvokeBadRequestError.
        """
        installed = self._plugins.find(tenant, old)
        if PluginIdentifier.parse(new).id != installed.plugin_id:
            raise InvokeBadRequestError(
                f"{new!r} is not a version of {installed.plugin_id!r}"
            )
        task, _ = await self.install(
            tenant, [new], by, source=source, metas=[meta or {}]
        )
        return task

    async def grant(
        self,
        tenant: str,
        plugin: str,
        permissions: list[str] | None,
        *,
        has_network: bool | None = None,
    ) -> Installed:
        """Set the permissions of a plugin; None grants all that it requests.

        `has_network` says whether it may connect to other hosts; None leaves it as it
        is. A running plugin is started again if that changes. Raises
        InvokeBadRequestError for a permission that is not requested.
        """
        installed = self._plugins.find(tenant, plugin)
        check_grant(installed.declaration.manifest, permissions)
        if has_network is None:
            has_network = installed.installation.has_network
        old = await self._resources.get(tenant, Installation.kind, installed.id)
        installation = msgspec.structs.replace(
            installed.installation, granted=permissions, has_network=has_network
        )
        await self._resources.change(old, name=old.name, body=_dump(installation))
        await self._directory.refresh()
        return replace(installed, installation=installation)

    # removing

    async def uninstall(self, tenant: str, plugin: str) -> None:
        """Remove a plugin with its data. Raises NotFoundError, or InvokeBadRequestError
        for one in debug mode."""
        installed = self._plugins.find(tenant, plugin)
        if installed.runtime == "remote":
            raise InvokeBadRequestError(
                f"{installed.plugin_id!r} is a debug plugin; stop it in its own"
                " environment"
            )
        await self._resources.remove(tenant, Installation.kind, installed.id)
        await self._remove_resources(tenant, installed)
        await self._storage.clear(tenant, installed.plugin_id)
        # Refresh before stopping, so that no call starts the plugin again.
        await self._directory.refresh()
        await self._host.stop(tenant, installed.identifier)
        await self._host.clear(tenant, installed.plugin_id)
        await self.delete_unused_packages(installed.identifier)

    async def _remove_resources(self, tenant: str, installed: Installed) -> None:
        """Delete what a tenant has stored for a plugin: addresses, credentials and
        models, which would lead nowhere and keep secrets.

        Routes and apps that name a model of the plugin stay; their calls say that it
        does not exist.
        """
        prefix = f"{installed.plugin_id}/"
        provider = installed.installation.provider

        def belongs(value: Any) -> bool:
            """Return whether a resource is of no use without the plugin."""
            match value:
                case PluginEndpoint() | Subscription():
                    return value.plugin == installed.plugin_id
                case ToolCredential() | OAuthClient():
                    return value.provider.startswith(prefix)
                case StoredCredential() | CustomModel():
                    return bool(provider) and value.provider == provider
                case DefaultModel():
                    return bool(provider) and value.model.startswith(f"{provider}/")
                case _:
                    return False

        # One by one: each deletion raises the revision by which other processes learn
        # of it.
        for resource_class in _RESOURCES:
            for row, value in self._directory.of(tenant, resource_class):
                if belongs(value):
                    await self._resources.remove(tenant, resource_class.kind, row.id)

    async def delete_unused_packages(self, identifier: str) -> None:
        """Delete a plugin's files from this machine if no tenant has it installed."""
        if not self._directory.find_any_tenant(
            Installation, lambda installation: installation.plugin == identifier
        ):
            await self._host.remove(identifier)

    def _on_change(self, touched: set[tuple[str, str]]) -> None:
        """Stop running plugins that are no longer installed, or whose network has
        changed, whichever process did that."""
        if Installation.kind not in {kind for _, kind in touched}:
            return
        for tenant, identifier in self._host.running():
            is_gone = identifier not in self.identifiers(tenant)
            # The network of a process is fixed when it starts.
            if is_gone or self._host.has_outdated_network(tenant, identifier):
                self._start_task(self._host.stop(tenant, identifier))

    def permissions_of(self, tenant: str, identifier: str) -> Permissions | None:
        """Return the permissions of a tenant's plugin by its identifier with checksum;
        None if it is not installed."""
        try:
            return self._plugins.find(tenant, identifier).permissions
        except NotFoundError:
            return None

    # tasks

    async def tasks(self, tenant: str) -> list[tuple[Resource, PluginTask]]:
        """Return the installation tasks of a tenant, newest first."""
        rows = await self._resources.list(tenant, PluginTask.kind)
        rows.sort(key=lambda row: row.created_at, reverse=True)
        return [(row, msgspec.json.decode(row.body, type=PluginTask)) for row in rows]

    async def task(self, tenant: str, id: str) -> tuple[Resource, PluginTask]:
        """Return an installation task. Raises NotFoundError."""
        row = await self._resources.get(tenant, PluginTask.kind, id)
        return row, msgspec.json.decode(row.body, type=PluginTask)

    async def forget_task(self, tenant: str, id: str) -> None:
        """Delete the record of a task. Raises NotFoundError."""
        await self._resources.remove(tenant, PluginTask.kind, id)

    async def wait_until_idle(self) -> None:
        """Wait until no installation runs in this process."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a background task and hold a reference, because the event loop holds
        tasks only weakly."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel the running installations and wait for them to end."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._fetcher.aclose()


def _step(identifier: str, package: Package, source: str) -> JSON:
    """Return the initial state of one package in a task."""
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
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()
