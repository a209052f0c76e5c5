"""The plugin host of one machine: the runtimes that serve the calls of its plugins, by tenant and plugin."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from modelyard.base.clock import Clock
from modelyard.models.types import JSON
from modelyard.plugins.conversation import Backwards, PluginCall
from modelyard.plugins.debug import DebugRuntime
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.environment import Environments
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.installed import InstalledPackages
from modelyard.plugins.launcher import Launcher
from modelyard.plugins.monitor import Taken, taken
from modelyard.plugins.process import LocalRuntime, ProcessOptions, Runtime
from modelyard.plugins.quarters import Quarters
from modelyard.plugins.wardens import Confined, Wardens
from modelyard.plugins.watch import Watch
from modelyard.plugins.way_out import WayOut

Place = tuple[str, str]
"""A tenant, and the identifier of a plugin that it has: what one knows of the plugin is no other's."""


class PluginHost:
    """Owns plugins' runtimes. Which tenant has which plugin is decided above; `packages` are those on the disk."""

    def __init__(
        self,
        folder: Path,
        environments: Environments,
        backwards: Backwards,
        clock: Clock,
        environ: Mapping[str, str],
        options: ProcessOptions,
        *,
        starts_at_once: int = 0,
        forks: bool = True,
        way_out: Callable[[str, str], WayOut] | None = None,
        needs_confinement: bool = True,
    ) -> None:
        self.environments = environments
        self.packages = InstalledPackages(folder, environments)
        self._options = options
        self._wardens = Wardens(environ, forks=forks, way_out=way_out, needs_confinement=needs_confinement)
        self._quarters = Quarters(folder / "work")
        self._launcher = Launcher(
            self.packages, self._quarters, lambda tenant: self.neighbours(tenant), environ,
            partial(
                LocalRuntime, wardens=self._wardens, backwards=backwards, clock=clock, options=options,
                starts=asyncio.Semaphore(starts_at_once or os.cpu_count() or 2), make_room=self._make_room,
            ),
        )  # fmt: skip
        self._watch = Watch(self._local_runtimes, self._wardens, clock)
        self._runtimes: dict[Place, Runtime] = {}
        self._making: dict[Place, asyncio.Task[Runtime]] = {}
        self._away: dict[str, str] = {}
        self.neighbours: Callable[[str], Sequence[str]] = lambda tenant: ()
        """Identifiers of the plugins that a tenant has: those of one environment are started by the same warden."""
        self.serverless: Callable[[str, str], Runtime] | None = None
        """(plugin id, address) → a runtime for a plugin that is served by HTTP."""

    # calls

    async def call(self, identifier: str, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Raises PluginError: the plugin's own, or that it cannot be started or died."""
        place = (call.tenant, identifier)
        runtime = self._runtimes.get(place) or await self._made(place)
        async with aclosing(runtime.call(call)) as answers:
            async for answer in answers:
                yield answer

    async def _made(self, place: Place) -> Runtime:
        task = self._making.get(place)
        if task is None:
            task = self._making[place] = asyncio.ensure_future(self._make(place))
            task.add_done_callback(lambda done: self._making.pop(place, None))
        return await asyncio.shield(task)

    async def _make(self, place: Place) -> Runtime:
        tenant, identifier = place
        plugin = PluginIdentifier.parse(identifier).id
        address = self._away.get(plugin)
        if address is not None and self.serverless is not None:
            runtime = self.serverless(plugin, address)
        else:
            runtime = await self._launcher.runtime(tenant, identifier)
        self._runtimes[place] = runtime
        self._watch.begin()
        return runtime

    def _make_room(self) -> None:
        """End what was not used for longest, where as many plugins run as may."""
        local = [(runtime, one) for runtime in self._local_runtimes() for one in runtime.instances]
        idle = sorted((pair for pair in local if pair[1].is_idle), key=lambda pair: pair[1].used_at)
        for runtime, one in idle[: max(0, len(local) + 1 - self._options.running)]:
            runtime.give_way(one)

    def _local_runtimes(self) -> list[LocalRuntime]:
        return [one for one in self._runtimes.values() if isinstance(one, LocalRuntime)]

    # what runs

    def running(self) -> list[Place]:
        """Plugins that were called here, but for those in debug, which come and go by themselves."""
        return [one for one, runtime in self._runtimes.items() if not isinstance(runtime, DebugRuntime)]

    async def stop(self, tenant: str, identifier: str) -> None:
        """End a tenant's plugin here, once its calls are answered."""
        if isinstance(runtime := self._runtimes.pop((tenant, identifier), None), LocalRuntime):
            await runtime.drain()
        elif runtime is not None:
            await runtime.aclose()

    async def remove(self, identifier: str) -> None:
        """End a plugin that no tenant has any more, and take its files away."""
        for tenant, known in self.running():
            if known == identifier:
                await self.stop(tenant, identifier)
        await self.packages.remove(identifier)

    async def clear(self, tenant: str, plugin: str) -> None:
        """Take away what a plugin wrote for a tenant that has it no more."""
        await asyncio.to_thread(self._quarters.remove, tenant, plugin)

    # others' runtimes

    def connect(self, tenant: str, identifier: str, declaration: Declaration, runtime: Runtime) -> None:
        """A plugin that runs elsewhere, as one in debug does, is here until `disconnect`."""
        self.packages.declare(identifier, declaration)
        self._runtimes[tenant, identifier] = runtime

    def disconnect(self, tenant: str, identifier: str, runtime: Runtime) -> None:
        if self._runtimes.get((tenant, identifier)) is runtime:
            del self._runtimes[tenant, identifier]
            self.packages.forget(identifier)

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        """Plugin id → address, for plugins that are served by HTTP."""
        self._away = dict(addresses)

    # what is known of what runs

    async def taken(self, tenant: str, identifier: str) -> Taken:
        """What a tenant's plugin takes on this machine now."""
        runtime = self._runtimes.get((tenant, identifier))
        if not isinstance(runtime, LocalRuntime) or not runtime.instances:
            return Taken()
        sessions = {one.spawned.pid: runtime.options.max_memory for one in runtime.instances}
        found = (await asyncio.to_thread(taken, sessions, self._wardens.pids())).values()
        return Taken(
            sum(one.bytes for one in found), [pid for one in found for pid in one.processes],
            sum(one.seconds for one in found),
        )  # fmt: skip

    def lines(self, tenant: str, identifier: str) -> Sequence[tuple[float, str]]:
        """What a tenant's plugin said lately, and its last words where it died: (seconds since 1970, text)."""
        runtime = self._runtimes.get((tenant, identifier))
        return list(runtime.lines) if isinstance(runtime, LocalRuntime) else []

    @property
    def confined(self) -> Confined | None:
        """What holds against plugins here; known once one was started."""
        return self._wardens.confined

    def pids(self) -> list[int]:
        """Of wardens, zygotes and plugins."""
        return [
            *self._wardens.pids(),
            *self._wardens.zygotes(),
            *(one.spawned.pid for runtime in self._local_runtimes() for one in runtime.instances),
        ]

    async def aclose(self) -> None:
        """End every plugin."""
        self._watch.end()
        for task in list(self._making.values()):
            task.cancel()
        for runtime in self._runtimes.values():
            await runtime.aclose()
        self._runtimes.clear()
        await self._wardens.aclose()
