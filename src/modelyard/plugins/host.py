"""The plugin host of one machine: packages on its disk, their environments, and the runtimes that serve calls."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.conversation import Backwards, PluginCall
from modelyard.plugins.debug import DebugRuntime
from modelyard.plugins.declaration import Declaration, load_declaration
from modelyard.plugins.environment import Environment, Environments
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.monitor import Monitor, Taken, taken
from modelyard.plugins.package import Package, read_package, save
from modelyard.plugins.process import Launch, LocalRuntime, ProcessOptions, Runtime
from modelyard.plugins.quarters import Quarter, Quarters, size
from modelyard.plugins.wardens import Cell, Confined, Wardens
from modelyard.plugins.way_out import WayOut

logger = logging.getLogger("modelyard.plugins")

Place = tuple[str, str]
"""A tenant, and the identifier of a plugin that it has: what one knows of the plugin is no other's."""
Step = Callable[[str], None]
"""Is told what an installation does next, for progress bars."""
_LOOK_SECONDS = 0.5
_DISK_LOOKS = 4
_REST_LOOKS, _REST_SECONDS = 20, 120.0
_PLUGIN_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR")
"""All that a plugin is told of the host's environment: nothing that could be a secret."""


class PluginHost:
    """Owns plugins' processes. Which tenant has which plugin is decided above."""

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
        self._folder = folder
        self.environments = environments
        self._backwards = backwards
        self._clock = clock
        self._environ = environ
        self._options = options
        self._wardens = Wardens(environ, forks=forks, way_out=way_out, needs_confinement=needs_confinement)
        self._quarters = Quarters(folder / "work")
        self.neighbours: Callable[[str], Sequence[str]] = lambda tenant: ()
        """Identifiers of the plugins that a tenant has: those of one environment are started by the same warden."""
        self._starts = asyncio.Semaphore(starts_at_once or os.cpu_count() or 2)
        self._runtimes: dict[Place, Runtime] = {}
        self._making: dict[Place, asyncio.Task[Runtime]] = {}
        self._declarations: dict[str, Declaration] = {}
        self._away: dict[str, str] = {}
        self._watching: asyncio.Task[None] | None = None
        self._monitor = Monitor()
        self._looks = 0
        self.serverless: Callable[[str, str], Runtime] | None = None
        """(plugin id, address) → a runtime for a plugin that is served by HTTP."""

    # packages

    async def install(self, package: Package, step: Step = lambda what: None) -> Declaration:
        """Unpack a plugin and make its environment. Raises PackageError, PluginError; leaves nothing behind then."""
        identifier = package.identifier
        step("unpacking")
        folder = self._code(identifier)
        was_there = folder.is_dir()
        if not was_there:
            await asyncio.to_thread(package.extract, folder)
        try:
            declaration = await asyncio.to_thread(load_declaration, folder)
            step("installing dependencies")
            environment = await self.environments.prepare(folder, name=package.manifest.id)
        except BaseException:
            if not was_there:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        await asyncio.to_thread(save, self._package(identifier), package.data)
        await asyncio.to_thread(save, _note(folder), msgspec.json.encode({"environment": environment.name}))
        self._declarations[str(identifier)] = declaration
        step("installed")
        return declaration

    def keep(self, package: Package) -> None:
        """Store a package that may be installed later."""
        save(self._package(package.identifier), package.data)

    def package(self, identifier: str) -> Package:
        """Raises NotFoundError where it was never here."""
        path = self._package(PluginIdentifier.parse(identifier))
        if not path.is_file():
            raise NotFoundError(f"package {identifier!r} is not here", code="plugin_not_found")
        return read_package(path.read_bytes(), source=identifier)

    def folder(self, identifier: str) -> Path:
        """Where a plugin's files lie."""
        return self._code(PluginIdentifier.parse(identifier))

    def declaration(self, identifier: str) -> Declaration:
        """What a plugin offers. Raises NotFoundError where it is not on this machine."""
        if (known := self._declarations.get(identifier)) is None:
            folder = self._code(PluginIdentifier.parse(identifier))
            if not folder.is_dir():
                self.package(identifier).extract(folder)
            known = self._declarations[identifier] = load_declaration(folder)
        return known

    async def remove(self, identifier: str) -> None:
        """End a plugin that no tenant has any more, and take its files away."""
        parsed = PluginIdentifier.parse(identifier)
        for tenant, known in self.running():
            if known == identifier:
                await self.stop(tenant, identifier)
        self._declarations.pop(identifier, None)
        folder = self._code(parsed)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        _note(folder).unlink(missing_ok=True)
        self._package(parsed).unlink(missing_ok=True)

    async def clear(self, tenant: str, plugin: str) -> None:
        """Take away what a plugin wrote for a tenant that has it no more."""
        await asyncio.to_thread(self._quarters.remove, tenant, plugin)

    def running(self) -> list[Place]:
        """Plugins that were called here, but for those in debug, which come and go by themselves."""
        return [one for one, runtime in self._runtimes.items() if not isinstance(runtime, DebugRuntime)]

    async def stop(self, tenant: str, identifier: str) -> None:
        """End a tenant's plugin here, once its calls are answered."""
        if isinstance(runtime := self._runtimes.pop((tenant, identifier), None), LocalRuntime):
            await runtime.drain()
        elif runtime is not None:
            await runtime.aclose()

    def collect(self, *, older_than: float) -> list[str]:
        """Remove environments that no plugin here is in and that were not used for so many seconds."""
        notes = (self._folder / "code").glob("*/*.json")
        used = [str(msgspec.json.decode(one.read_bytes()).get("environment", "")) for one in notes]
        return self.environments.collect(used, older_than=older_than)

    def _code(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "code" / identifier.folder

    def _package(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "packages" / f"{identifier.folder}.difypkg"

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
        parsed = PluginIdentifier.parse(identifier)
        address = self._away.get(parsed.id)
        if address is not None and self.serverless is not None:
            runtime = self.serverless(parsed.id, address)
        else:
            runtime = await self._local(parsed, tenant, identifier)
        self._runtimes[place] = runtime
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        return runtime

    async def _local(self, parsed: PluginIdentifier, tenant: str, identifier: str) -> LocalRuntime:
        declaration = self.declaration(identifier)
        folder = self._code(parsed).resolve()
        env = {name: self._environ[name] for name in _PLUGIN_VARIABLES if name in self._environ}
        env |= {"INSTALL_METHOD": "local", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment = await self._environment(folder, parsed.id)
        quarter = await asyncio.to_thread(self._quarters.of, tenant, parsed.id)
        launch = Launch(
            plugin=parsed.id,
            folder=folder,
            module=declaration.manifest.meta.runner.entrypoint,
            cell=lambda: self._cell(tenant, environment, folder, quarter),
            quarter=quarter,
            env=env,
        )
        return LocalRuntime(
            launch, self._wardens, self._backwards, self._clock, self._starts, self._options, self._make_room
        )

    def _cell(self, tenant: str, environment: Environment, folder: Path, quarter: Quarter) -> Cell:
        """All plugins of a tenant in an environment: one of them at least."""
        code, works = {folder}, {*quarter.folders}
        for identifier in self.neighbours(tenant):
            parsed = PluginIdentifier.parse(identifier)
            place = self._code(parsed)
            if place.is_dir() and _environment_of(place) == environment.name:
                code.add(place.resolve())
                works |= {*self._quarters.of(tenant, parsed.id).folders}
        return Cell(
            tenant=tenant,
            environment=environment,
            code=tuple(sorted(code)),
            work=tuple(sorted(works)),
            tmp=quarter.shared,
            user=self._quarters.user(tenant),
        )

    def _make_room(self) -> None:
        """End what was not used for longest, where as many plugins run as may."""
        local = [(runtime, one) for runtime in self._local_runtimes() for one in runtime.instances]
        idle = sorted((pair for pair in local if pair[1].is_idle), key=lambda pair: pair[1].used_at)
        for runtime, one in idle[: max(0, len(local) + 1 - self._options.running)]:
            runtime.give_way(one)

    def _local_runtimes(self) -> list[LocalRuntime]:
        return [one for one in self._runtimes.values() if isinstance(one, LocalRuntime)]

    async def _environment(self, folder: Path, name: str) -> Environment:
        """As it was installed; made anew where it was collected."""
        known = self.environments.find(name_of) if (name_of := _environment_of(folder)) else None
        if known is not None:
            known.touch()
            return known
        environment = await self.environments.prepare(folder, name=name)
        save(_note(folder), msgspec.json.encode({"environment": environment.name}))
        return environment

    # others' runtimes

    def connect(self, tenant: str, identifier: str, declaration: Declaration, runtime: Runtime) -> None:
        """A plugin that runs elsewhere, as one in debug does, is here until `disconnect`."""
        self._declarations[identifier] = declaration
        self._runtimes[tenant, identifier] = runtime

    def disconnect(self, tenant: str, identifier: str, runtime: Runtime) -> None:
        if self._runtimes.get((tenant, identifier)) is runtime:
            del self._runtimes[tenant, identifier]
            self._declarations.pop(identifier, None)

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        """Plugin id → address, for plugins that are served by HTTP."""
        self._away = dict(addresses)

    # watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
            except Exception:  # one look that fails is not the last
                logger.exception("plugins could not be looked after")

    async def _look(self) -> None:
        local = self._local_runtimes()
        for runtime in local:
            runtime.look()
        pids = {one.spawned.pid: runtime.options.max_memory for runtime in local for one in runtime.instances}
        if pids:
            found = await asyncio.to_thread(taken, pids, self._wardens.pids())
            now = self._clock.monotonic()
            for runtime in local:
                self._monitor.judge(runtime, found, now)
            self._monitor.forget(set(pids))
        self._looks += 1
        if self._looks % _DISK_LOOKS == 0:
            for runtime in local:
                if runtime.instances:
                    quarter, most = runtime.launch.quarter, runtime.options.max_disk
                    taken_up = [await asyncio.to_thread(size, one, most) for one in (*quarter.folders, quarter.shared)]
                    runtime.disk_bytes = sum(taken_up)
        if self._looks % _REST_LOOKS == 0:
            self._wardens.rest(self._clock.monotonic(), _REST_SECONDS)

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
        if self._watching is not None:
            self._watching.cancel()
        for task in list(self._making.values()):
            task.cancel()
        for runtime in self._runtimes.values():
            await runtime.aclose()
        self._runtimes.clear()
        await self._wardens.aclose()


def _environment_of(folder: Path) -> str:
    """The name of the environment that a plugin was installed with; empty where that is not known."""
    note = _note(folder)
    return str(msgspec.json.decode(note.read_bytes()).get("environment", "")) if note.is_file() else ""


def _note(folder: Path) -> Path:
    """Beside a plugin's folder: which environment it is in."""
    return folder.with_name(folder.name + ".json")
