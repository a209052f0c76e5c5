"""The packages on one machine's disk: kept, unpacked, each in an environment, and what they say of themselves."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.plugins.declaration import Declaration, load_declaration
from modelyard.plugins.environment import Environment, Environments
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.package import Package, read_package, save

Step = Callable[[str], None]
"""Is told what an installation does next, for progress bars."""


class InstalledPackages:
    """Owns the folders of packages and of their code, and remembers their declarations."""

    def __init__(self, folder: Path, environments: Environments) -> None:
        self._folder = folder
        self._environments = environments
        self._declarations: dict[str, Declaration] = {}

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
            environment = await self._environments.prepare(folder, name=package.manifest.id)
        except BaseException:
            if not was_there:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        await asyncio.to_thread(save, self._package(identifier), package.data)
        await asyncio.to_thread(_write_note, folder, environment)
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
            folder = self.folder(identifier)
            if not folder.is_dir():
                self.package(identifier).extract(folder)
            known = self._declarations[identifier] = load_declaration(folder)
        return known

    def declare(self, identifier: str, declaration: Declaration) -> None:
        """Remember what a plugin offers that runs elsewhere and has no files here."""
        self._declarations[identifier] = declaration

    def forget(self, identifier: str) -> None:
        """What a plugin said of itself."""
        self._declarations.pop(identifier, None)

    async def remove(self, identifier: str) -> None:
        """Take a plugin's files away."""
        self.forget(identifier)
        parsed = PluginIdentifier.parse(identifier)
        folder = self._code(parsed)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        _note(folder).unlink(missing_ok=True)
        self._package(parsed).unlink(missing_ok=True)

    async def environment(self, identifier: str) -> Environment:
        """As it was installed; made anew where it was collected."""
        folder = self.folder(identifier).resolve()
        name = environment_name(folder)
        known = self._environments.find(name) if name else None
        if known is not None:
            known.touch()
            return known
        environment = await self._environments.prepare(folder, name=PluginIdentifier.parse(identifier).id)
        _write_note(folder, environment)
        return environment

    def collect(self, *, older_than: float) -> list[str]:
        """Remove environments that no plugin here is in and that were not used for so many seconds."""
        notes = (self._folder / "code").glob("*/*.json")
        used = [_environment_in(note) for note in notes]
        return self._environments.collect(used, older_than=older_than)

    def _code(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "code" / identifier.folder

    def _package(self, identifier: PluginIdentifier) -> Path:
        return self._folder / "packages" / f"{identifier.folder}.difypkg"


def environment_name(folder: Path) -> str:
    """The name of the environment that a plugin was installed with; empty where that is not known."""
    note = _note(folder)
    return _environment_in(note) if note.is_file() else ""


def _note(folder: Path) -> Path:
    """Beside a plugin's folder: which environment it is in."""
    return folder.with_name(folder.name + ".json")


def _environment_in(note: Path) -> str:
    return str(msgspec.json.decode(note.read_bytes()).get("environment", ""))


def _write_note(folder: Path, environment: Environment) -> None:
    save(_note(folder), msgspec.json.encode({"environment": environment.name}))
