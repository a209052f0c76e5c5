"""What a plugin needs to be started on this machine: its environment, its folders, and the cell that it runs in."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modelyard.plugins.environment import Environment
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.installed import InstalledPackages, environment_name
from modelyard.plugins.process import Launch, LocalRuntime
from modelyard.plugins.quarters import Quarter, Quarters
from modelyard.plugins.wardens import Cell

_PLUGIN_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR")
"""All that a plugin is told of the host's environment: nothing that could be a secret."""


class Launcher:
    """Makes the runtimes of installed plugins; their processes start with the first call."""

    def __init__(
        self,
        packages: InstalledPackages,
        quarters: Quarters,
        neighbours: Callable[[str], Sequence[str]],
        environ: Mapping[str, str],
        made: Callable[[Launch], LocalRuntime],
    ) -> None:
        self._packages = packages
        self._quarters = quarters
        self._neighbours = neighbours
        self._environ = environ
        self._made = made

    async def runtime(self, tenant: str, identifier: str) -> LocalRuntime:
        """A tenant's plugin, ready to be called. Raises PluginError, NotFoundError."""
        plugin = PluginIdentifier.parse(identifier).id
        declaration = self._packages.declaration(identifier)
        folder = self._packages.folder(identifier).resolve()
        environment = await self._packages.environment(identifier)
        quarter = await asyncio.to_thread(self._quarters.of, tenant, plugin)
        launch = Launch(
            plugin=plugin,
            folder=folder,
            module=declaration.manifest.meta.runner.entrypoint,
            cell=lambda: self._cell(tenant, environment, folder, quarter),
            quarter=quarter,
            env=self._variables(),
        )
        return self._made(launch)

    def _variables(self) -> dict[str, str]:
        env = {name: self._environ[name] for name in _PLUGIN_VARIABLES if name in self._environ}
        return env | {"INSTALL_METHOD": "local", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def _cell(self, tenant: str, environment: Environment, folder: Path, quarter: Quarter) -> Cell:
        """All plugins of a tenant in an environment: this one at least."""
        code, works = {folder}, {*quarter.folders}
        for identifier in self._neighbours(tenant):
            place = self._packages.folder(identifier)
            if place.is_dir() and environment_name(place) == environment.name:
                code.add(place.resolve())
                works |= {*self._quarters.of(tenant, PluginIdentifier.parse(identifier).id).folders}
        return Cell(
            tenant=tenant,
            environment=environment,
            code=tuple(sorted(code)),
            work=tuple(sorted(works)),
            tmp=quarter.shared,
            user=self._quarters.user(tenant),
        )
