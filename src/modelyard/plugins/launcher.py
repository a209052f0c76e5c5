"""Prepares the start of a plugin on this machine: its environment, its work folders,
and the cell that confines it."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from modelyard.plugins.environment import Environment
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.installed import InstalledPackages
from modelyard.plugins.manifest import Hosts, Permissions
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
)
"""The only variables that a plugin gets from the host's environment; none of them can
be a secret."""


_VOCABULARIES = "TIKTOKEN_CACHE_DIR"
"""Variable that names the folder in which tiktoken keeps vocabularies that it has
downloaded."""
_VOCABULARY_FOLDER = ".tiktoken"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Launcher:
    """Creates the runtimes of installed plugins. Their processes start with the first
    call."""

    def __init__(
        self,
        packages: InstalledPackages,
        quarters: WorkFolderStore,
        neighbours: Callable[[str], Sequence[str]],
        permissions: Callable[[str, str], Permissions | None],
        environ: Mapping[str, str],
        make_runtime: Callable[[Launch], LocalRuntime],
    ) -> None:
        self._packages = packages
        self._quarters = quarters
        self._neighbours = neighbours
        self._permissions = permissions
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
        await self._packages.fetch(identifier)
        declaration = self._packages.declaration(identifier)
        folder = self._packages.folder(identifier).resolve()
        environment = await self._packages.environment(identifier)
        quarter = await asyncio.to_thread(self._quarters.get, tenant, plugin)
        hosts = self.hosts(tenant, identifier)
        launch = Launch(
            plugin=plugin,
            folder=folder,
            module=declaration.manifest.meta.runner.entrypoint,
            # Evaluated at each start, because a tenant's plugins change.
            cell=lambda: self._prepare_cell(
                tenant, environment, folder, quarter, hosts
            ),
            environment=environment,
            quarter=quarter,
            hosts=hosts,
            env=self._variables()
            | {_VOCABULARIES: str(quarter.work / _VOCABULARY_FOLDER)},
        )
        return self._make_runtime(launch)

    def hosts(self, tenant: str, identifier: str) -> Hosts:
        """Return the hosts that a tenant's plugin may connect to; None for any.

        Raises NotFoundError if its package is not stored.
        """
        permissions = self._permissions(tenant, identifier)
        # A plugin under test is not installed: then its manifest decides.
        if permissions is None:
            permissions = self._packages.declaration(identifier).manifest.permissions
        return permissions.hosts

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

    def _prepare_cell(
        self,
        tenant: str,
        environment: Environment,
        folder: Path,
        quarter: WorkFolders,
        hosts: Hosts,
    ) -> SandboxScope:
        """Return the cell for a start of the plugin, after linking the machine's
        vocabularies into the plugin's folder."""
        source = self._environ.get(_VOCABULARIES, "")
        link_files(Path(source).expanduser() if source else None, quarter.work)
        return self._cell(tenant, environment, folder, quarter, hosts)

    def _cell(
        self,
        tenant: str,
        environment: Environment,
        folder: Path,
        quarter: WorkFolders,
        hosts: Hosts,
    ) -> SandboxScope:
        """Return the cell for all plugins of a tenant that have the same interpreter and
        may connect to the same hosts, which includes this one."""
        environment_by_code, works = {folder: environment}, {*quarter.folders}
        # All plugins in a cell share a zygote, so it must be able to read the code of
        # each.
        for identifier in self._neighbours(tenant):
            code_folder = self._packages.folder(identifier)
            installed_environment = self._packages.installed_environment(identifier)
            if (
                code_folder.is_dir()
                and installed_environment is not None
                and installed_environment.base == environment.base
                and self.hosts(tenant, identifier) == hosts
            ):
                environment_by_code[code_folder.resolve()] = installed_environment
                plugin = PluginIdentifier.parse(identifier).id
                works |= {*self._quarters.get(tenant, plugin).folders}
        environments = environment_by_code.values()
        folders = {installed.folder for installed in environments}
        paths = [*environment_by_code, *works, *folders]
        return SandboxScope(
            tenant=tenant,
            base=environment.base,
            # Sorted, so that equal cells compare equal.
            environments=tuple(sorted(folders)),
            sdk=self._shared_sdk(environments),
            code=tuple(sorted(environment_by_code)),
            work=tuple(sorted(works)),
            tmp=quarter.shared,
            user=self._quarters.user(tenant),
            hosts=hosts,
            identities={path: _identity(path) for path in paths},
        )

    def _shared_sdk(self, environments: Iterable[Environment]) -> Environment | None:
        """Return the environment of the SDK that most of a cell's plugins share; None if
        no two do. Loading it beforehand takes as long as a start, and its memory stays.
        """
        counts = Counter(environment.sdk for environment in environments)
        # The name decides between equals, so that equal cells compare equal.
        shared = [(count, name) for name, count in counts.items() if name and count > 1]
        return self._packages.find_environment(max(shared)[1]) if shared else None


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells a folder from a later one of the same name; zeros if it was
    removed meanwhile, as that of another plugin may be."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def link_files(source: Path | None, work: Path) -> None:
    """Link the files of a folder of vocabularies into a plugin's own.

    The plugin keeps there what it downloads itself: in a folder that it cannot write,
    tiktoken would fail instead of going on without. Missing folders are no error.
    """
    # By descriptors, since the plugin may run and replace names by links meanwhile.
    work_fd = os.open(work, _FOLDER)
    try:
        with suppress(FileExistsError):
            os.mkdir(_VOCABULARY_FOLDER, 0o700, dir_fd=work_fd)
        # If the plugin has made a file or a link of it, it goes without.
        with suppress(OSError):
            folder_fd = os.open(_VOCABULARY_FOLDER, _FOLDER, dir_fd=work_fd)
            try:
                _adopt(folder_fd, work_fd)
                _link_into(folder_fd, source)
            finally:
                os.close(folder_fd)
    finally:
        os.close(work_fd)


def _adopt(folder_fd: int, work_fd: int) -> None:
    """Give a new folder to the owner of the folder that it lies in."""
    owner = os.fstat(work_fd)
    if os.geteuid() == 0:
        os.fchown(folder_fd, owner.st_uid, owner.st_gid)


def _link_into(folder_fd: int, source: Path | None) -> None:
    """Create links to the files of `source` in an open folder; those that exist stay."""
    if source is None or not source.is_dir():
        return
    for path in source.iterdir():
        if path.is_file():
            with suppress(FileExistsError):
                os.symlink(path.resolve(), path.name, dir_fd=folder_fd)
