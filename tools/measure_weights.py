"""Prints size and SHA-256 of the weight files that packages carry: run it when a package's version changes.

    python tools/measure_weights.py FOLDER_WITH_WHEELS

Reads the manifest for what belongs together; the printed figures go into it by hand, after a look at each licence.
"""

import hashlib
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import IO

import yaml

MANIFEST = Path(__file__).parents[1] / "src/modelyard/providers/local/weights.yaml"
BLOCK = 1 << 20


def member(archive: Path, name: str) -> IO[bytes]:
    if archive.suffix == ".tgz":
        found = tarfile.open(archive).extractfile(name)
        assert found
        return found
    return zipfile.ZipFile(archive).open(name)


def find(folder: Path, package: str, version: str) -> Path:
    stem = package.replace("-", "_")
    return next(iter([*folder.glob(f"{stem}-{version}-*.whl"), *folder.glob(f"{package}-{version}.tgz")]))


def main() -> None:
    folder = Path(sys.argv[1])
    for file in yaml.safe_load(MANIFEST.read_text("utf-8"))["files"]:
        digest, size, sizes = hashlib.sha256(), 0, []
        for part in file.get("parts", ()):
            archive = find(folder, part["package"], str(part["version"]))
            length = 0
            for name in part.get("members") or [part["member"]]:
                with member(archive, name) as stream:
                    while block := stream.read(BLOCK):
                        digest.update(block)
                        length += len(block)
            size += length
            sizes.append((part["package"], length, hashlib.sha256(archive.read_bytes()).hexdigest()))
        print(file["name"], size, digest.hexdigest())
        for line in sizes:
            print("   ", *line)


if __name__ == "__main__":
    main()
