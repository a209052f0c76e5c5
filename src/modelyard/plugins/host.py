"""The plugin host of one machine: owns the runtimes that serve plugin calls, by tenant
and plugin."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from modelyard.base.clock import Clock
from modelyard.models.types import JSON
from modelyard.plugins.connection import HostCalls, PluginCall
from modelyard.plugins.debug import DebugRuntime
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.environment import Environments
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.installed import InstalledPackages
from modelyard.plugins.launcher import Launcher
from modelyard.plugins.manifest import Permissions
from modelyard.plugins.monitor import ResourceUsage, measure_usage
from modelyard.plugins.process import (
    LocalRuntime,
    ProcessOptions,
    Runtime,
    wait_for_start,
)
from modelyard.plugins.shared_packages import SharedPackages
from modelyard.plugins.supervisors import Confinement, ProxyFactory, Supervisors
from modelyard.plugins.tenant_folders import WorkFolderStore
from modelyard.plugins.watch import PluginMonitorTask

RuntimeKey = tuple[str, str]
"""(tenant, plugin identifier). Runtimes are not shared between tenants, since a plugin
may remember what it sees."""


class PluginHost:
    """Owns the runtimes of plugins. Which tenant has which plugin is decided by
    callers; `packages` are those on disk."""

    def __init__(
        self,
        folder: Path,
        environments: Environments,
        backwards: HostCalls,
        clock: Clock,
        environ: Mapping[str, str],
        options: ProcessOptions,
        *,
        starts_at_once: int = 0,
        forks: bool = True,
        egress_factory: ProxyFactory | None = None,
        needs_confinement: bool = True,
        shared_packages: SharedPackages | None = None,
    ) -> None:
        self.environments = environments
        self.packages = InstalledPackages(folder, environments, shared_packages)
        self._options = options
        self._supervisors = Supervisors(
            environ,
            forks=forks,
            make_proxy=egress_factory,
            needs_confinement=needs_confinement,
        )
        self._work_folders = WorkFolderStore(folder / "work")
        # The neighbours are looked up late, because the callback is set after
        # construction.
        self._launcher = Launcher(
            self.packages,
            self._work_folders,
            lambda tenant: self.neighbours(tenant),
            lambda tenant, identifier: (
                self._intended.get((tenant, identifier))
                or self.permissions(tenant, identifier)
            ),
            environ,
            partial(
                LocalRuntime,
                supervisors=self._supervisors,
                backwards=backwards,
                clock=clock,
                options=options,
                # Starting a plugin is CPU-bound, hence the limit on concurrent starts. Each
                # is a session of its own, and gets its share of a busy machine.
                starts=asyncio.Semaphore(starts_at_once or 4 * (os.cpu_count() or 2)),
                make_room=self._evict_idle,
            ),
        )
        self._watch = PluginMonitorTask(self._local_runtimes, self._supervisors, clock)
        self._runtimes: dict[RuntimeKey, Runtime] = {}
        self._making: dict[RuntimeKey, asyncio.Task[Runtime]] = {}
        self._serverless_urls: dict[str, str] = {}
        self._intended: dict[RuntimeKey, Permissions] = {}
        """The permissions of plugins that are being installed."""
        self.neighbours: Callable[[str], Sequence[str]] = lambda tenant: ()
        """Returns the identifiers of a tenant's plugins; those that share an
        environment are started by the same supervisor."""
        self.permissions: Callable[[str, str], Permissions | None] = (
            lambda tenant, identifier: None
        )
        """(tenant, identifier) → the permissions in force; None if the tenant does not
        have the plugin installed, so that its manifest decides."""
        self.serverless: Callable[[str, str], Runtime] | None = None
        """(plugin id, URL) → runtime of a plugin that is served over HTTP; None if that
        is not supported."""

    # calls

    async def call(
        self, identifier: str, call: PluginCall
    ) -> AsyncGenerator[JSON, None]:
        """Call a plugin, starting it if necessary, and yield its answers.

        Raises PluginError: the plugin's own error, or that it could not be started or
        died.
        """
        runtime_key = (call.tenant, identifier)
        runtime = self._runtimes.get(runtime_key) or await self._get_or_make_runtime(
            runtime_key
        )
        async with aclosing(runtime.call(call)) as answers:
            async for answer in answers:
                yield answer

    async def _get_or_make_runtime(self, runtime_key: RuntimeKey) -> Runtime:
        """Return a plugin's runtime from a start in progress, or start one.

        Cancelling a caller does not cancel the start. Raises what `_make_runtime`
        raises.
        """
        task = self._making.get(runtime_key)
        if task is None:
            # Concurrent first calls share one start.
            task = self._making[runtime_key] = asyncio.ensure_future(
                self._make_runtime(runtime_key)
            )
            task.add_done_callback(
                lambda finished_task: self._making.pop(runtime_key, None)
            )
        return await wait_for_start(task, runtime_key[1])

    async def _make_runtime(self, runtime_key: RuntimeKey) -> Runtime:
        """Create and register the runtime of a tenant's plugin.

        A plugin with a serverless URL is called over HTTP, any other by processes on
        this machine. Also starts the monitoring. Raises PackageError for an invalid
        identifier, and PluginError or NotFoundError if the plugin cannot be prepared.
        """
        tenant, identifier = runtime_key
        plugin = PluginIdentifier.parse(identifier).id
        address = self._serverless_urls.get(plugin)
        # A URL takes precedence over a local process.
        if address is not None and self.serverless is not None:
            runtime = self.serverless(plugin, address)
        else:
            runtime = await self._launcher.runtime(tenant, identifier)
        self._runtimes[runtime_key] = runtime
        self._watch.start()
        return runtime

    def _evict_idle(self) -> None:
        """End the least recently used idle instances if the limit of running plugins is
        reached."""
        # One more than the limit counts, since this is called before the next start.
        local = [
            (runtime, instance)
            for runtime in self._local_runtimes()
            for instance in runtime.instances
        ]
        idle = sorted(
            (pair for pair in local if pair[1].is_idle),
            key=lambda pair: pair[1].used_at,
        )
        for runtime, instance in idle[: max(0, len(local) + 1 - self._options.running)]:
            runtime.end_idle(instance)

    def _local_runtimes(self) -> list[LocalRuntime]:
        """Return the runtimes whose processes the host itself starts."""
        return [
            runtime
            for runtime in self._runtimes.values()
            if isinstance(runtime, LocalRuntime)
        ]

    # what runs

    def running(self) -> list[RuntimeKey]:
        """Return the plugins with a runtime on this machine, except debugged ones,
        which end by themselves."""
        return [
            runtime_key
            for runtime_key, runtime in self._runtimes.items()
            if not isinstance(runtime, DebugRuntime)
        ]

    def has_outdated_network(self, tenant: str, identifier: str) -> bool:
        """Return whether a running plugin may connect to other hosts than its
        permissions now say. It has to be started again then."""
        runtime = self._runtimes.get((tenant, identifier))
        return isinstance(
            runtime, LocalRuntime
        ) and runtime.launch.hosts != self._launcher.hosts(tenant, identifier)

    async def stop(self, tenant: str, identifier: str) -> None:
        """Stop a tenant's plugin and forget its runtime.

        Local processes first finish their running calls, within the drain time; other
        runtimes are closed immediately. Does nothing if the plugin is not running. The
        next call starts it again.
        """
        # Only local processes can finish their calls first.
        if isinstance(
            runtime := self._runtimes.pop((tenant, identifier), None), LocalRuntime
        ):
            await runtime.drain()
        elif runtime is not None:
            await runtime.aclose()

    async def check_start(
        self, tenant: str, identifier: str, permissions: Permissions
    ) -> None:
        """Start a plugin that is about to be installed, with the permissions that it
        will have. It stays ready for its first call.

        Raises PluginError with the plugin's own words if it does not start; it is
        stopped then. A plugin that is served elsewhere is not started.
        """
        runtime_key = (tenant, identifier)
        # Until the installation is stored, nothing else says what it may do.
        self._intended[runtime_key] = permissions
        try:
            runtime = self._runtimes.get(runtime_key)
            if runtime is None:
                runtime = await self._get_or_make_runtime(runtime_key)
            if isinstance(runtime, LocalRuntime):
                await runtime.ensure_started()
        # Also on cancellation: nobody would stop it later.
        except BaseException:
            await self.stop(tenant, identifier)
            raise
        finally:
            self._intended.pop(runtime_key, None)

    async def remove(self, identifier: str) -> None:
        """Stop a plugin that no tenant has any more and delete its files."""
        for tenant, running_identifier in self.running():
            if running_identifier == identifier:
                await self.stop(tenant, identifier)
        await self.packages.remove(identifier)

    async def clear(self, tenant: str, plugin: str) -> None:
        """Delete the files that a plugin wrote for a tenant."""
        await asyncio.to_thread(self._work_folders.remove, tenant, plugin)

    # others' runtimes

    def connect(
        self, tenant: str, identifier: str, declaration: Declaration, runtime: Runtime
    ) -> None:
        """Register the runtime of a plugin that runs elsewhere, such as a debugged one,
        until `disconnect`."""
        self.packages.declare(identifier, declaration)
        self._runtimes[tenant, identifier] = runtime

    def disconnect(self, tenant: str, identifier: str, runtime: Runtime) -> None:
        """Unregister a runtime, unless it has been replaced meanwhile."""
        if self._runtimes.get((tenant, identifier)) is runtime:
            del self._runtimes[tenant, identifier]
            self.packages.forget(identifier)

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        """Set plugin id → URL for plugins that are served over HTTP."""
        self._serverless_urls = dict(addresses)

    # what is known of what runs

    async def resource_usage(self, tenant: str, identifier: str) -> ResourceUsage:
        """Return the resources that a tenant's plugin uses on this machine now."""
        runtime = self._runtimes.get((tenant, identifier))
        if not isinstance(runtime, LocalRuntime) or not runtime.instances:
            return ResourceUsage()
        sessions = {
            instance.spawned.pid: runtime.options.max_memory
            for instance in runtime.instances
        }
        # Reading /proc is blocking I/O.
        usages = (
            await asyncio.to_thread(measure_usage, sessions, self._supervisors.pids())
        ).values()
        return ResourceUsage(
            sum(usage.bytes for usage in usages),
            [pid for usage in usages for pid in usage.processes],
            sum(usage.seconds for usage in usages),
        )

    def lines(self, tenant: str, identifier: str) -> Sequence[tuple[float, str]]:
        """Return the plugin's recent log lines, including its last output if it died,
        as (Unix time, text)."""
        runtime = self._runtimes.get((tenant, identifier))
        return list(runtime.lines) if isinstance(runtime, LocalRuntime) else []

    @property
    def confined(self) -> Confinement | None:
        """What confines plugins here; None until the first one was started."""
        return self._supervisors.confinement

    def pids(self) -> list[int]:
        """Process ids of supervisors, zygotes and plugins."""
        return [
            *self._supervisors.pids(),
            *self._supervisors.zygotes(),
            *(
                instance.spawned.pid
                for runtime in self._local_runtimes()
                for instance in runtime.instances
            ),
        ]

    async def aclose(self) -> None:
        """Stop all plugins."""
        self._watch.stop()
        # Starts in progress would otherwise add runtimes after the loop.
        for task in list(self._making.values()):
            task.cancel()
        for runtime in self._runtimes.values():
            await runtime.aclose()
        self._runtimes.clear()
        await self._supervisors.aclose()
