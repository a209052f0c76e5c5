"""The plugins that other servers have installed: fetched from the storage that all share,
before calls look for them here."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, PackageError
from modelyard.plugins.host import PluginHost
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.resources import Resource
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Installation
from modelyard.tenant_plugins.plugins import MAX_AGE_SECONDS

logger = logging.getLogger("modelyard.plugins")

_REFRESH_SECONDS = 0.5
"""Longer than the pause after which a server looks for changes, and the look itself."""
_FETCH_SECONDS = 0.4
"""How long other changes wait for a package. A revoked key has to be refused within a
second."""
_START_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 10.0


class PluginFetcher:
    """Brings packages to this machine as soon as an installation of them is heard of,
    and builds their environments in the background."""

    def __init__(
        self, host: PluginHost, directory: Directory, *, is_shared: bool
    ) -> None:
        """`is_shared` says whether other servers have the same plugins. Without them
        nothing is ever fetched."""
        self._host = host
        self._directory = directory
        self._is_shared = is_shared
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._building: set[asyncio.Task[None]] = set()
        if is_shared:
            directory.before_change(self._fetch_new)

    async def wait_for_others(self) -> None:
        """Wait until every server uses what was just stored, so that whoever is told of
        it finds it everywhere: see `Plugins.call`."""
        if self._is_shared:
            await asyncio.sleep(MAX_AGE_SECONDS + _REFRESH_SECONDS)

    async def share_packages(self) -> None:
        """Bring the packages of installed plugins to the shared storage, for servers that
        installed them before there was one. Raises StorageUnavailableError."""
        if not self._is_shared:
            return
        installed = self._directory.list_all_tenants(Installation)
        for plugin in {installation.plugin for _, _, installation in installed}:
            # Others have what this machine lacks.
            if self._is_here(plugin):
                package = await asyncio.to_thread(self._host.packages.package, plugin)
                await self._host.packages.share(package)

    async def _fetch_new(self, changed: Sequence[Resource]) -> None:
        """Fetch the packages of new installations, before anybody sees these."""
        fetches = [
            self._fetch(resource.tenant, plugin)
            for resource in changed
            if resource.kind == Installation.kind and not resource.is_deleted
            if (plugin := _plugin_of(resource)) and not self._is_here(plugin)
        ]
        if fetches:
            # At the start calls wait for them; later a slow one is waited for by its
            # own plugin alone.
            is_start = not self._directory.is_read
            seconds = _START_SECONDS if is_start else _FETCH_SECONDS
            await asyncio.wait(fetches, timeout=seconds)

    def _is_here(self, plugin: str) -> bool:
        """Return whether this machine has a package. An identifier that cannot be read
        is not fetched."""
        try:
            return self._host.packages.is_here(plugin)
        except PackageError:
            return True

    def _fetch(self, tenant: str, plugin: str) -> asyncio.Task[None]:
        """Start to fetch a package, or return the task that does so."""
        # Several tenants may install the same package at once.
        task = self._fetching.get(plugin)
        if task is None:
            task = asyncio.ensure_future(self._fetch_until_here(tenant, plugin))
            self._fetching[plugin] = task
            task.add_done_callback(lambda _: self._fetching.pop(plugin, None))
        return task

    async def _fetch_until_here(self, tenant: str, plugin: str) -> None:
        """Fetch a package, again while the storage is away, and start to build its
        environment, so that the first call need not wait for that."""
        pause = _FETCH_SECONDS
        while True:
            try:
                await self._host.packages.fetch(plugin)
                # Unpacked in a thread: views read the declaration on the loop.
                await asyncio.to_thread(self._host.packages.declaration, plugin)
                break
            except StorageUnavailableError as error:
                _log("plugin package not fetched yet", plugin, error)
            except ModelyardError as error:
                _log("plugin package cannot be fetched", plugin, error)
                return
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, 2 * pause)
        # Views that were made meanwhile lack the plugin.
        self._directory.mark_changed(tenant, Installation.kind)
        self._start(self._build_environment(plugin))

    async def _build_environment(self, plugin: str) -> None:
        """Build a plugin's environment. If that fails, the first call tries it again and
        has the error."""
        try:
            await self._host.packages.environment(plugin)
        except ModelyardError as error:
            _log("plugin environment not built", plugin, error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and hold a reference: the loop holds tasks only weakly."""
        task = asyncio.ensure_future(work)
        self._building.add(task)
        task.add_done_callback(self._building.discard)

    async def aclose(self) -> None:
        """Cancel what is under way and wait for its end."""
        tasks = {*self._fetching.values(), *self._building}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _plugin_of(resource: Resource) -> str:
    """Return the identifier in an installation's row; empty if it cannot be read."""
    try:
        return msgspec.json.decode(resource.body, type=Installation).plugin
    except msgspec.MsgspecError:
        return ""


def _log(message: str, plugin: str, error: ModelyardError) -> None:
    fields = {"plugin": plugin, "error": str(error)}
    logger.warning(message, extra={"fields": fields})
