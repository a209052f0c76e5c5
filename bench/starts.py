"""Start times, compared with Python's own, and the core package's installed size."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.show.proof import free_port, running, serve_command, temporary_home

_ROUNDS = 5
_CORE = Path(__file__).parents[1] / "requirements" / "core.txt"

MAX_CORE_PACKAGES = 21
"""Twenty dependencies and Modelyard itself."""
MAX_CORE_MEGABYTES = 60
"""Three packages are half of it: jsonschema-rs and cryptography, which are compiled,
and pygments, which rich needs."""


def measure() -> list[dict[str, Any]]:
    """Return the median start time in seconds of each command and of the server."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import modelyard": [sys.executable, "-c", "import modelyard"],
        "from modelyard import Modelyard": [
            sys.executable,
            "-c",
            "from modelyard import Modelyard",
        ],
        "modelyard --help": [
            str(Path(sys.executable).with_name("modelyard")),
            "--help",
        ],
    }
    rows = [
        {"what": label, "seconds": round(_median(command), 3)}
        for label, command in commands.items()
    ]
    return [*rows, {"what": "serve until ready", "seconds": round(_serve(), 3)}]


def _median(command: list[str]) -> float:
    """Return the median seconds of a command over five runs."""
    times: list[float] = []
    for _ in range(_ROUNDS):
        started_at = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started_at)
    return statistics.median(times)


def _serve() -> float:
    """Return the median seconds until `modelyard serve` is ready, over three starts."""
    times: list[float] = []
    with temporary_home() as environ:
        for _ in range(3):
            with running(serve_command(), free_port(), environ=environ) as (_, seconds):
                times.append(seconds)
    return statistics.median(times)


def core_size() -> dict[str, Any]:
    """Return the number of packages and the megabytes that `pip install modelyard`
    installs.

    Counts the installed files of the packages in the lock file, without bytecode.
    """
    # Packages for Windows only are not part of an installation on Linux.
    names = [
        line.partition("==")[0]
        for line in _CORE.read_text("utf-8").splitlines()
        if "==" in line and "win32" not in line
    ]
    # In a development checkout the package is installed in editable mode, so its
    # sources are counted from the tree.
    source = Path(__file__).parents[1] / "src" / "modelyard"
    size = _size_bytes(source.rglob("*"))
    for name in [*names, "modelyard"]:
        files = metadata.files(name) or []
        size += _size_bytes(Path(str(file.locate())) for file in files)
    return {"packages": len(names) + 1, "megabytes": round(size / (1 << 20), 1)}


def _size_bytes(paths: Iterable[Path]) -> int:
    """Return the size of the files among the paths, without bytecode."""
    return sum(
        path.stat().st_size
        for path in paths
        if path.is_file() and path.suffix != ".pyc"
    )
