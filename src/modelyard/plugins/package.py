"""`.difypkg`: a plugin's folder as a ZIP file. Read and written, with limits; nothing in it is trusted."""

import hashlib
import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelyard.base.errors import PackageError
from modelyard.base.patterns import fits_glob
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import MANIFEST, Manifest, read_manifest, read_yaml

MAX_BYTES = 50 * 1024 * 1024
"""Of a package, and of what is in it."""
MAX_BUNDLE_BYTES = 12 * MAX_BYTES
_MAX_FILES = 10_000
_IGNORED = (".git/", ".venv/", "venv/", "__pycache__/", "*.pyc", ".env", ".DS_Store", "*.difypkg", ".idea/", ".vscode/")
"""Left out whatever the ignore file says."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was read: all within its limits, its manifest valid."""

    data: bytes
    files: Mapping[str, bytes]
    manifest: Manifest

    @property
    def checksum(self) -> str:
        return checksum(self.files)

    @property
    def identifier(self) -> PluginIdentifier:
        return self.manifest.identifier(self.checksum)

    @property
    def readme(self) -> str:
        return self.files.get("README.md", b"").decode("utf-8", "replace")

    def extract(self, folder: Path) -> None:
        """Write its files below a folder that is not there yet; all of them, or none."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            for name, data in self.files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            _open_to_all(partial)
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if folder.is_dir():  # somebody else was quicker: the content is the same, since its checksum names it
                return
            raise PackageError(f"{self.manifest.id} cannot be unpacked: {error.strerror}") from error


def _open_to_all(folder: Path) -> None:
    """Let it be read, whatever this process keeps to itself: plugins run as users of their own."""
    for path, _, files in os.walk(folder):
        os.chmod(path, 0o755)  # noqa: PTH101  strings, as `walk` gives them
        for name in files:
            os.chmod(os.path.join(path, name), 0o644)  # noqa: PTH101, PTH118


def read_package(data: bytes, *, source: str = "the package", most: int = MAX_BYTES) -> Package:
    """Raises PackageError for what is no package, is too large, or names files outside itself."""
    if len(data) > most:
        raise PackageError(f"{source} has {len(data):,} bytes; {most:,} are allowed")
    files = dict(_entries(data, source, most))
    if MANIFEST not in files:
        raise PackageError(f"{source} holds no {MANIFEST} at its root")
    return Package(data, files, read_manifest(read_yaml(files[MANIFEST], MANIFEST)))


def _entries(data: bytes, source: str, most: int) -> Iterator[tuple[str, bytes]]:
    left = most
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_FILES:
                raise PackageError(f"{source} holds {len(infos):,} files; {_MAX_FILES:,} are allowed")
            seen: set[str] = set()
            for info in infos:
                if info.is_dir():
                    continue
                name = _checked_name(info, source)
                if name in seen:
                    raise PackageError(f"{source} holds {name!r} twice")
                seen.add(name)
                # What the directory says of the size may be a lie: no more is read than may be there.
                with archive.open(info) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise PackageError(f"{source} unpacks to more than {most:,} bytes")
                yield name, content
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise PackageError(f"{source} is no sound ZIP file: {error}") from error
    except Exception as error:  # zlib's and lzma's own errors have no common base
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{source} is no sound ZIP file: {error}") from error


def _checked_name(info: zipfile.ZipInfo, source: str) -> str:
    name = info.filename
    path = PurePosixPath(name)
    mode = info.external_attr >> 16
    if "\\" in name or "\0" in name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise PackageError(f"{source} names a file outside itself: {name!r}")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise PackageError(f"{source} holds {name!r}, which is no plain file")
    if info.flag_bits & 1:
        raise PackageError(f"{source} is encrypted")
    return str(path)


# ------------------------------------------------------------------------------------------------ checksum


def checksum(files: Mapping[str, bytes]) -> str:
    """What names this content: the digests of names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(hashlib.sha256(name.encode()).digest())
        whole.update(hashlib.sha256(files[name]).digest())
    return whole.hexdigest()


# ------------------------------------------------------------------------------------------------ writing


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a plugin's folder that belong into its package, in the order of their names.

    `.difyignore` says what is left out, in git's words; where there is none, `.gitignore` does.
    """
    rules = [*_IGNORED, *_rules(folder)]
    found: dict[str, bytes] = {}
    for path in _walk(folder, folder, rules):
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes()
    return dict(sorted(found.items()))


def _rules(folder: Path) -> list[str]:
    for name in (".difyignore", ".gitignore"):
        if (folder / name).is_file():
            lines = (folder / name).read_text("utf-8").splitlines()
            return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return []


def _walk(folder: Path, root: Path, rules: Sequence[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if is_ignored(name, rules, is_folder=path.is_dir()):
            continue
        if path.is_symlink():
            raise PackageError(f"{name!r} is a link; a package holds plain files alone")
        if path.is_dir():
            yield from _walk(path, root, rules)
        elif path.is_file():
            yield path


def is_ignored(name: str, rules: Sequence[str], *, is_folder: bool) -> bool:
    """By git's rules: the last that fits decides, `!` takes back, a slash ties to the root, `**` crosses folders."""
    ignored = False
    for rule in rules:
        takes_back = rule.startswith("!")
        pattern = rule[takes_back:]
        if pattern.endswith("/"):
            if not is_folder:
                continue
            pattern = pattern.rstrip("/")
        if _fits(name, pattern):
            ignored = not takes_back
    return ignored


def _fits(name: str, pattern: str) -> bool:
    is_tied = "/" in pattern
    pattern = pattern.lstrip("/")
    if not is_tied:
        return fits_glob(pattern, name.rpartition("/")[2])
    return _parts_fit(name.split("/"), pattern.split("/"))


def _parts_fit(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Takes at most the product of both lengths, however many `**` there are."""
    reached = {0}
    for pattern in patterns:
        if pattern == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fits_glob(pattern, parts[at])}
        if not reached:
            return False
    return len(parts) in reached


def write_package(files: Mapping[str, bytes], *, most: int = MAX_BYTES, comment: bytes = b"") -> bytes:
    """A package of these files, the same bytes for the same files. Raises PackageError with the largest of them."""
    total = sum(len(data) for data in files.values())
    if total > most:
        largest = sorted(files, key=lambda name: -len(files[name]))[:5]
        named = ", ".join(f"{name} ({len(files[name]):,})" for name in largest)
        raise PackageError(f"the plugin has {total:,} bytes; {most:,} are allowed. The largest files: {named}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
        archive.comment = comment
    return out.getvalue()


def package_folder(folder: Path, *, most: int = MAX_BYTES) -> Package:
    """The plugin in a folder as a package. Raises PackageError for what would not install."""
    from modelyard.plugins.declaration import load_declaration

    if not (folder / MANIFEST).is_file():
        raise PackageError(f"{str(folder)!r} holds no {MANIFEST}: it is no plugin's folder")
    files = folder_files(folder)
    manifest = read_manifest(read_yaml(files[MANIFEST], MANIFEST))
    if manifest.type == "plugin":
        load_declaration(folder)
    return Package(write_package(files, most=most), files, manifest)


def load_package(path: Path) -> Package:
    """A package's file, or a folder packed on the spot."""
    if path.is_dir():
        return package_folder(path)
    try:
        size = path.stat().st_size
        if size > MAX_BUNDLE_BYTES:
            raise PackageError(f"{str(path)!r} has {size:,} bytes; {MAX_BUNDLE_BYTES:,} are allowed")
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"package {str(path)!r} cannot be read: {error.strerror}") from error
    most = MAX_BUNDLE_BYTES if path.suffix == ".difybndl" else MAX_BYTES
    return read_package(data, source=path.name, most=most)


def save(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
    Path(partial).replace(path)
