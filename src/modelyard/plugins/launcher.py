"""Prepares the start of a plugin on this machine: its environment, its work folders,
and the cell that confines it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modelyard.plugins.environment import Environment
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.installed import InstalledPackages, environment_name
from modelyard.plugins.process import Launch, LocalRuntime
from modelyard.plugins.supervisors import SandboxScope
from modelyard.plugins.tenant_folders import WorkFolders, WorkFolderStore

_PLUGIN_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "TIKTOKEN_CACHE_DIR",
)
"""The only variables that a plugin gets from the host's environment; none of them can
be a secret."""


class Launcher:
    """Creates the runtimes of installed plugins. Their processes start with the first
    call."""

    def __init__(
        self,
        packages: InstalledPackages,
        quarters: WorkFolderStore,
        neighbours: Callable[[str], Sequence[str]],
        environ: Mapping[str, str],
        make_runtime: Callable[[Launch], LocalRuntime],
    ) -> None:
        self._packages = packages
        self._quarters = quarters
        self._neighbours = neighbours
        self._environ = environ
        self._make_runtime = make_runtime

    async def runtime(self, tenant: str, identifier: str) -> LocalRuntime:
        """Prepare a tenant's plugin and return the runtime that starts it.

        `identifier` is `author/name:version@checksum`. Unpacks the package, builds its
        environment and creates its work folders if necessary; no process is started
        yet. Raises NotFoundError if the package is not stored, and PluginError if it
        cannot be prepared.
        """
        plugin = PluginIdentifier.parse(identifier).id
        declaration = self._packages.declaration(identifier)
        folder = self._packages.folder(identifier).resolve()
        environment = await self._packages.environment(identifier)
        quarter = await asyncio.to_thread(self._quarters.get, tenant, plugin)
        launch = Launch(
            plugin=plugin,
            folder=folder,
            module=declaration.manifest.meta.runner.entrypoint,
            # Evaluated at each start, because a tenant's plugins change.
            cell=lambda: self._cell(tenant, environment, folder, quarter),
            quarter=quarter,
            env=self._variables(),
        )
        return self._make_runtime(launch)

    def _variables(self) -> dict[str, str]:
        """Return the environment variables for a plugin's process.

        A fixed selection of the server's own, plus those that Dify's plugin protocol
        and the interpreter need.
        """
        env = {
            name: self._environ[name]
            for name in _PLUGIN_VARIABLES
            if name in self._environ
        }
        # These variables are part of Dify's plugin protocol, or keep the code folder
        # unchanged.
        return env | {
            "INSTALL_METHOD": "local",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _cell(
        self, tenant: str, environment: Environment, folder: Path, quarter: WorkFolders
    ) -> SandboxScope:
        """Return the cell for all plugins of a tenant that share the environment, which
        includes this one."""
        code, works = {folder}, {*quarter.folders}
        # All plugins in a cell share a zygote, so it must be able to read the code of
        # each.
        for identifier in self._neighbours(tenant):
            neighbour_folder = self._packages.folder(identifier)
            if (
                neighbour_folder.is_dir()
                and environment_name(neighbour_folder) == environment.name
            ):
                code.add(neighbour_folder.resolve())
                works |= {
                    *self._quarters.get(
                        tenant, PluginIdentifier.parse(identifier).id
                    ).folders
                }
        paths = [*code, *works]
        return SandboxScope(
            tenant=tenant,
            environment=environment,
            # Sorted, so that equal cells compare equal.
            code=tuple(sorted(code)),
            work=tuple(sorted(works)),
            tmp=quarter.shared,
            user=self._quarters.user(tenant),
            identities={path: _identity(path) for path in paths},
        )


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells a folder from a later one of the same name; zeros if it was
    removed meanwhile, as that of another plugin may be."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
