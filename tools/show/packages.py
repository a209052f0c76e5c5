"""Packages from the registry, unpacked for comparison. Nothing of them is run."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def downloaded_package(package: str, version: str) -> Generator[Path]:
    """Download a package's wheel and yield the folder of its sources. Raises
    CalledProcessError if the registry does not have it."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        command += ["-d", name, f"{package}=={version}"]
        subprocess.run(command, check=True, capture_output=True)
        # Exactly one wheel is expected, because dependencies are not downloaded.
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "whl")
        yield folder / "whl" / package
