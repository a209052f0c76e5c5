"""Plugin packages on this machine's disk: the package files, their unpacked code,
environments and declarations."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.plugins.declaration import Declaration, load_declaration
from modelyard.plugins.environment import Environment, Environments, compile_modules
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.package import Package, read_package, save
from modelyard.plugins.shared_packages import SharedPackages

Step = Callable[[str], None]
"""Callback that receives the name of each installation step, for progress bars."""


class InstalledPackages:
    """Owns the folders of packages and of their code, and caches their declarations."""

    def __init__(
        self,
        folder: Path,
        environments: Environments,
        shared: SharedPackages | None = None,
    ) -> None:
        """`shared` are the packages of all servers; None if there is only one."""
        self._folder = folder
        self._environments = environments
        self._shared = shared
        self._declarations: dict[str, Declaration] = {}

    async def install(
        self, package: Package, step: Step = lambda description: None
    ) -> Declaration:
        """Unpack a plugin and create its environment. On PackageError or PluginError
        nothing is left behind."""
        identifier = package.identifier
        step("unpacking")
        folder = self._code_folder(identifier)
        already_existed = folder.is_dir()
        if not already_existed:
            await asyncio.to_thread(package.extract, folder)
        try:
            declaration = await asyncio.to_thread(load_declaration, folder)
            step("installing dependencies")
            environment = await self._environments.prepare(
                folder, name=package.manifest.id
            )
        except BaseException:
            # A folder that existed before belongs to an earlier installation of the
            # same package.
            if not already_existed:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        # Processes must not write into the folder, and would compile at every start.
        step("compiling")
        await compile_modules(folder, environment.base)
        # The package and the note are written last: only complete installations have
        # them.
        await asyncio.to_thread(
            save,
            self._package_path(identifier),
            package.data,
        )
        await asyncio.to_thread(_write_note, folder, environment)
        # Before anybody learns that it is installed, and other servers look for it.
        await self.share(package)
        self._declarations[str(identifier)] = declaration
        step("installed")
        return declaration

    async def save_package(self, package: Package) -> None:
        """Store a package that may be installed later, also by another server. Raises
        StorageUnavailableError."""
        path = self._package_path(package.identifier)
        await asyncio.to_thread(save, path, package.data)
        await self.share(package)

    async def share(self, package: Package) -> None:
        """Let other servers have a package. Raises StorageUnavailableError."""
        if self._shared is not None and not await self._shared.has(package.identifier):
            await self._shared.put(package)

    def is_here(self, identifier: str) -> bool:
        """Return whether this machine has a package."""
        return self._package_path(PluginIdentifier.parse(identifier)).is_file()

    async def fetch(self, identifier: str) -> None:
        """Fetch a package that another server has stored, if this machine lacks it.

        Raises NotFoundError if no server has it, PackageError and
        StorageUnavailableError.
        """
        if self._shared is None or self.is_here(identifier):
            return
        # The checksum in the identifier is compared with the content.
        parsed = PluginIdentifier.parse(identifier)
        package = await self._shared.get(parsed)
        path = self._package_path(parsed)
        await asyncio.to_thread(save, path, package.data)

    def package(self, identifier: str) -> Package:
        """Read a stored package. Raises NotFoundError."""
        path = self._package_path(PluginIdentifier.parse(identifier))
        if not path.is_file():
            raise NotFoundError(
                f"Package {identifier!r} not found", code="plugin_not_found"
            )
        return read_package(path.read_bytes(), source=identifier)

    def identifiers(self) -> list[str]:
        """Return the identifiers of all stored packages, newest first."""
        paths = (self._folder / "packages").glob("**/*.difypkg")
        # A package that was just uploaded is the one whose icon is asked for.
        newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
        names = [
            path.relative_to(self._folder / "packages").as_posix() for path in newest
        ]
        parsed_names = (
            PluginIdentifier.of_folder(name.removesuffix(".difypkg")) for name in names
        )
        return [
            str(identifier) for identifier in parsed_names if identifier is not None
        ]

    def folder(self, identifier: str) -> Path:
        """Return the folder of a plugin's code."""
        return self._code_folder(PluginIdentifier.parse(identifier))

    def declaration(self, identifier: str) -> Declaration:
        """Return a plugin's declaration, unpacking the package if necessary. Raises
        NotFoundError."""
        if (cached := self._declarations.get(identifier)) is None:
            folder = self.folder(identifier)
            # Another process of the server may have received the package without
            # unpacking it.
            if not folder.is_dir():
                self.package(identifier).extract(folder)
            cached = self._declarations[identifier] = load_declaration(folder)
        return cached

    def declare(self, identifier: str, declaration: Declaration) -> None:
        """Register the declaration of a plugin that runs elsewhere and has no files
        here."""
        self._declarations[identifier] = declaration

    def forget(self, identifier: str) -> None:
        """Drop a plugin's declaration from the cache."""
        self._declarations.pop(identifier, None)

    async def remove(self, identifier: str) -> None:
        """Delete a plugin's files."""
        self.forget(identifier)
        parsed = PluginIdentifier.parse(identifier)
        folder = self._code_folder(parsed)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        _note_path(folder).unlink(missing_ok=True)
        self._package_path(parsed).unlink(missing_ok=True)
        if self._shared is not None:
            await self._shared.remove(parsed)

    async def environment(self, identifier: str) -> Environment:
        """Return the environment a plugin was installed with; it is rebuilt if it was
        collected."""
        folder = self.folder(identifier).resolve()
        existing = self.installed_environment(identifier)
        if existing is not None:
            # Mark it as used, or the next collection could remove it.
            existing.touch()
            return existing
        environment = await self._environments.prepare(
            folder, name=PluginIdentifier.parse(identifier).id
        )
        # Another server may have installed the plugin, and compiled it there only.
        await compile_modules(folder, environment.base)
        await asyncio.to_thread(_write_note, folder, environment)
        return environment

    def installed_environment(self, identifier: str) -> Environment | None:
        """Return the environment a plugin was installed with; None if it is unknown or
        was collected."""
        name = environment_name(self.folder(identifier).resolve())
        return self.find_environment(name) if name else None

    def find_environment(self, name: str) -> Environment | None:
        """Return the environment with this name; None if there is none."""
        return self._environments.find(name)

    def collect(self, *, older_than: float) -> list[str]:
        """Remove environments that no plugin here uses and that were unused for
        `older_than` seconds. Returns their names."""
        notes = (self._folder / "code").glob("*/*.json")
        used = [_environment_in(note) for note in notes]
        return self._environments.collect(used, older_than=older_than)

    def _code_folder(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "code" / identifier.folder

    def _package_path(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "packages" / f"{identifier.folder}.difypkg"


def environment_name(folder: Path) -> str:
    """Return the name of the environment that a plugin was installed with; "" if
    unknown."""
    note = _note_path(folder)
    return _environment_in(note) if note.is_file() else ""


def _note_path(folder: Path) -> Path:
    """Return the path of the file, next to a plugin's folder, that names its
    environment."""
    return folder.with_name(folder.name + ".json")


def _environment_in(note: Path) -> str:
    return str(msgspec.json.decode(note.read_bytes()).get("environment", ""))


def _write_note(folder: Path, environment: Environment) -> None:
    save(_note_path(folder), msgspec.json.encode({"environment": environment.name}))
