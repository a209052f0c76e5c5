"""How long things take to start, beside Python itself; and how large the core is."""

import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.show.proof import free_port, own_home, running, serve_command

_ROUNDS = 5
_CORE = Path(__file__).parents[1] / "requirements" / "core.txt"


def measure() -> list[dict[str, Any]]:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import modelyard": [sys.executable, "-c", "import modelyard"],
        "from modelyard import Modelyard": [sys.executable, "-c", "from modelyard import Modelyard"],
        "modelyard --help": [str(Path(sys.executable).with_name("modelyard")), "--help"],
    }
    found = [{"what": what, "seconds": round(_median(command), 3)} for what, command in commands.items()]
    return [*found, {"what": "serve until ready", "seconds": round(_serve(), 3)}]


def _median(command: list[str]) -> float:
    times: list[float] = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _serve() -> float:
    times: list[float] = []
    with own_home() as environ:
        for _ in range(3):
            with running(serve_command(), free_port(), environ=environ) as (_, seconds):
                times.append(seconds)
    return statistics.median(times)


def core_size() -> dict[str, Any]:
    """What `pip install modelyard` brings, by the installed files of the packages in its lock, without bytecode."""
    names = [
        line.partition("==")[0]
        for line in _CORE.read_text("utf-8").splitlines()
        if "==" in line and "win32" not in line
    ]
    size = 0
    for name in [*names, "modelyard"]:
        files = metadata.files(name) or []
        located = [Path(str(file.locate())) for file in files]
        size += sum(path.stat().st_size for path in located if path.is_file() and path.suffix != ".pyc")
    source = Path(__file__).parents[1] / "src" / "modelyard"
    size += sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {"packages": len(names) + 1, "megabytes": round(size / (1 << 20), 1)}
