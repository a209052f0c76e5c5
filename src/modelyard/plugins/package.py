"""`.difypkg` packages: a plugin's folder as a ZIP file. Reading and writing enforce
limits; the content is not trusted."""

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
from modelyard.base.patterns import matches_glob
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import MANIFEST, Manifest, read_manifest, read_yaml

MAX_BYTES = 50 * 1024 * 1024
"""Limit for a package file and also for its unpacked content."""
# Dify's limit, too: the packages of a dozen plugins.
MAX_BUNDLE_BYTES = 12 * MAX_BYTES
_MAX_FILES = 10_000
_IGNORE_FILES = (".difyignore", ".gitignore")
_IGNORED = (
    ".git/",
    ".venv/",
    "venv/",
    "__pycache__/",
    "*.pyc",
    ".env",
    ".DS_Store",
    "*.difypkg",
    ".idea/",
    ".vscode/",
)
"""Files that are always left out, whatever the ignore file says."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was read: within the limits and with a valid manifest."""

    data: bytes
    files: Mapping[str, bytes]
    manifest: Manifest

    @property
    def checksum(self) -> str:
        """The checksum of the content."""
        return checksum(self.files)

    @property
    def identifier(self) -> PluginIdentifier:
        """The identifier, which includes the checksum."""
        return self.manifest.identifier(self.checksum)

    @property
    def readme(self) -> str:
        """The text of README.md; "" if there is none."""
        return self.files.get("README.md", b"").decode("utf-8", "replace")

    def extract(self, folder: Path) -> None:
        """Write the files to a folder that does not exist yet, atomically. Raises
        PackageError."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            for name, data in self.files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            _make_readable(partial)
            # The rename makes the complete folder visible in one step.
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            # Another process has unpacked it already. The content is the same, since the
            # folder is named by its checksum.
            if folder.is_dir():
                return
            raise PackageError(
                f"{self.manifest.id} cannot be unpacked: {error.strerror}"
            ) from error


def _make_readable(folder: Path) -> None:
    """Make the files readable for all users, whatever the umask: plugins run as
    separate users."""
    for path, _, files in os.walk(folder):
        os.chmod(path, 0o755)  # noqa: PTH101
        for name in files:
            os.chmod(os.path.join(path, name), 0o644)  # noqa: PTH101, PTH118


def read_package(
    data: bytes, *, source: str = "The package", max_bytes: int = MAX_BYTES
) -> Package:
    """Read a package. Raises PackageError if it is invalid, too large, or has paths
    that lead out of it."""
    if len(data) > max_bytes:
        raise PackageError(
            f"{source} has {len(data):,} bytes; the limit is {max_bytes:,}"
        )
    files = dict(_entries(data, source, max_bytes))
    if MANIFEST not in files:
        raise PackageError(f"{source} contains no {MANIFEST} at its root")
    return Package(data, files, read_manifest(read_yaml(files[MANIFEST], MANIFEST)))


def _entries(data: bytes, source: str, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of each file in a ZIP archive.

    `max_bytes` limits the unpacked size of all files together; folders are skipped.
    Raises PackageError if the archive is damaged, exceeds a limit, or has a repeated or
    unsafe name.
    """
    left = max_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_FILES:
                raise PackageError(
                    f"{source} contains {len(infos):,} files; the limit is"
                    f" {_MAX_FILES:,}"
                )
            names: set[str] = set()
            for info in infos:
                if info.is_dir():
                    continue
                name = _checked_name(info, source)
                # Two entries of one name could pass a check with one content and be
                # installed with the other.
                if name in names:
                    raise PackageError(f"{source} contains {name!r} twice")
                names.add(name)
                # The size in the directory may be wrong, so no more than the remaining
                # limit is read.
                with archive.open(info) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise PackageError(
                        f"{source} unpacks to more than {max_bytes:,} bytes"
                    )
                yield name, content
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        raise PackageError(f"{source}: invalid ZIP file: {error}") from error
    except Exception as error:  # zlib's and lzma's own errors have no common base
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{source}: invalid ZIP file: {error}") from error


def _checked_name(info: zipfile.ZipInfo, source: str) -> str:
    """Return the normalised path of a ZIP entry.

    Raises PackageError if it could lead out of the package, is not a regular file, or
    is encrypted.
    """
    name = info.filename
    path = PurePosixPath(name)
    mode = info.external_attr >> 16
    # Reject absolute paths, parent references, drive letters and Windows separators.
    if (
        "\\" in name
        or "\0" in name
        or path.is_absolute()
        or ".." in path.parts
        or ":" in path.parts[0]
    ):
        raise PackageError(f"{source} contains a path outside the package: {name!r}")
    # Links and devices are refused; 0 means that no mode was stored.
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise PackageError(f"{source} contains {name!r}, which is not a regular file")
    if info.flag_bits & 1:
        raise PackageError(f"{source} is encrypted")
    return str(path)


# ----------------------------------------------------------------------------- checksum


def checksum(files: Mapping[str, bytes]) -> str:
    """Return the checksum of files: over the digests of names and contents, sorted by
    name."""
    digest = hashlib.sha256()
    # Digests have a fixed length, so names and contents cannot be confused.
    for name in sorted(files):
        digest.update(hashlib.sha256(name.encode()).digest())
        digest.update(hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


# ------------------------------------------------------------------------------ writing


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a plugin's folder that belong into its package, sorted by
    name.

    `.difyignore`, or else `.gitignore`, lists what is left out, in git's syntax.
    """
    rules = [*_IGNORED, *_ignore_rules(folder)]
    files: dict[str, bytes] = {}
    for path in _walk(folder, folder, rules):
        name = path.relative_to(folder).as_posix()
        files[name] = path.read_bytes()
    return dict(sorted(files.items()))


def _ignore_rules(folder: Path) -> list[str]:
    """Return the rules in `.difyignore`, or else in `.gitignore`.

    Blank lines and comments are left out. Empty if neither file exists.
    """
    for name in _IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text("utf-8").splitlines()
            return [
                line.strip()
                for line in lines
                if line.strip() and not line.startswith("#")
            ]
    return []


def _walk(folder: Path, root: Path, rules: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder that no rule ignores, sorted in each folder.

    Rules refer to paths relative to `root`; ignored folders are not entered. Raises
    PackageError for a link.
    """
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if is_ignored(name, rules, is_folder=path.is_dir()):
            continue
        # Repositories link the rules that all their plugins share. They have been read,
        # and are of no use in a package.
        if path.is_symlink() and name in _IGNORE_FILES:
            continue
        # A link could include files from outside the folder.
        if path.is_symlink():
            raise PackageError(
                f"{name!r} is a link; a package may contain regular files only"
            )
        if path.is_dir():
            yield from _walk(path, root, rules)
        elif path.is_file():
            yield path


def is_ignored(name: str, rules: Sequence[str], *, is_folder: bool) -> bool:
    """Return whether a file is ignored by git's rules.

    The last matching rule decides, `!` negates, a slash anchors to the root, `**` spans
    folders.
    """
    ignored = False
    for rule in rules:
        takes_back = rule.startswith("!")
        pattern = rule[takes_back:]
        # A pattern with a final slash matches folders only.
        if pattern.endswith("/"):
            if not is_folder:
                continue
            pattern = pattern.rstrip("/")
        if _matches(name, pattern):
            ignored = not takes_back
    return ignored


def _matches(name: str, pattern: str) -> bool:
    """Return whether a path matches one pattern in git's ignore syntax.

    The pattern has no `!` and no final slash. Without a slash it is compared with the
    last part of the path only.
    """
    is_tied = "/" in pattern
    pattern = pattern.lstrip("/")
    if not is_tied:
        return matches_glob(pattern, name.rpartition("/")[2])
    return _match_parts(name.split("/"), pattern.split("/"))


def _match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Match path parts against patterns. Takes at most the product of both lengths,
    however many `**` there are."""
    # The set of part positions that the patterns so far can have consumed.
    reached = {0}
    for pattern in patterns:
        if pattern == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {
                index + 1
                for index in reached
                if index < len(parts) and matches_glob(pattern, parts[index])
            }
        if not reached:
            return False
    return len(parts) in reached


def write_package(
    files: Mapping[str, bytes], *, max_bytes: int = MAX_BYTES, comment: bytes = b""
) -> bytes:
    """Build a package; equal files give equal bytes. Raises PackageError naming the
    largest files if they are too large."""
    total = sum(len(data) for data in files.values())
    if total > max_bytes:
        largest = sorted(files, key=lambda name: -len(files[name]))[:5]
        largest_names = ", ".join(f"{name} ({len(files[name]):,})" for name in largest)
        raise PackageError(
            f"The plugin has {total:,} bytes; the limit is {max_bytes:,}. The"
            f" largest files: {largest_names}"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # A fixed date makes the result reproducible.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
        archive.comment = comment
    return buffer.getvalue()


def package_folder(folder: Path, *, max_bytes: int = MAX_BYTES) -> Package:
    """Build a package from a plugin's folder. Raises PackageError if it could not be
    installed."""
    from modelyard.plugins.declaration import load_declaration

    if not (folder / MANIFEST).is_file():
        raise PackageError(
            f"{str(folder)!r} is not a plugin folder: {MANIFEST} is missing"
        )
    files = folder_files(folder)
    manifest = read_manifest(read_yaml(files[MANIFEST], MANIFEST))
    if manifest.type == "plugin":
        # Loading the declaration validates the files that it refers to.
        load_declaration(folder)
    return Package(write_package(files, max_bytes=max_bytes), files, manifest)


def load_package(path: Path) -> Package:
    """Read a package or bundle file, or build a package from a folder.

    Files may have MAX_BYTES, bundles (`.difybndl`) MAX_BUNDLE_BYTES. Raises
    PackageError if the path cannot be read, or the package is invalid, too large or
    could not be installed.
    """
    if path.is_dir():
        return package_folder(path)
    try:
        size = path.stat().st_size
        # The size is checked before the file is read into memory.
        if size > MAX_BUNDLE_BYTES:
            raise PackageError(
                f"{str(path)!r} has {size:,} bytes; the limit is {MAX_BUNDLE_BYTES:,}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(
            f"Package {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    max_bytes = MAX_BUNDLE_BYTES if path.suffix == ".difybndl" else MAX_BYTES
    return read_package(data, source=path.name, max_bytes=max_bytes)


def save(path: Path, data: bytes) -> None:
    """Write a file atomically, creating its folder if necessary.

    A reader sees the old content or the complete new one. The file is only accessible
    to its owner. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Temporary file in the same folder, so that the rename is atomic.
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(partial).replace(path)
