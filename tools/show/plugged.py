"""A real server with plugins, for the proofs: its home, its processes, its callers."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from modelyard.plugins.package import package_folder
from tools.show.proof import ROOT, free_port, ready_home, running, serve_command

EXAMPLES = ROOT / "examples" / "plugins"


class Served:
    """A server that answers at `origin`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, home: Path) -> None:
        self.process = process
        self.origin = f"http://127.0.0.1:{port}"
        self.home = home

    def client(self, seconds: float = 60.0) -> httpx.Client:
        return httpx.Client(base_url=f"{self.origin}/v1", timeout=seconds)

    def plugins(self) -> dict[int, str]:
        """Processes of plugins, and the plugin of each."""
        found: dict[int, str] = {}
        for pid in _processes():
            try:
                where = str(Path(f"/proc/{pid}/cwd").readlink())
            except OSError:
                continue
            if where.startswith(str(self.home / "plugins" / "code")):
                found[pid] = where.rpartition("/")[2].partition("-0.")[0]
        return found

    def wardens(self) -> list[int]:
        return [pid for pid in _processes() if "warden.py" in _command(pid) and _parent(pid) == self.process.pid]


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _is_alive(int(path.name))]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def share_mb(pids: Sequence[int]) -> float:
    """Of what several share, each one's part."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total / 1024


def install(home: Path, folders: Sequence[Path]) -> None:
    """Put plugins into a home that no server uses yet."""

    async def work() -> None:
        settings = load_settings({**os.environ, "MODELYARD_HOME": str(home)})
        async with Modelyard(settings) as yard:
            for folder in folders:
                await yard.services.plugins.installations.add("default", package_folder(folder))

    asyncio.run(work())


@contextmanager
def plugged(*folders: Path, settings: str = "", make: Any = None) -> Generator[Served]:
    """A server with these plugins; `make` may write more of them into a folder first."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        home = Path(name) / "home"
        ready_home(home)
        (home / "modelyard.yaml").write_text(settings or "plugins: {debug_port: 0}\n", "utf-8")
        more: Sequence[Path] = make(Path(name) / "made") if make else ()
        install(home, [*folders, *more])
        port = free_port()
        environ = {"MODELYARD_HOME": str(home), "MODELYARD_LOCAL__ENABLED": "false"}
        with running(serve_command(), port, environ=environ) as (process, _):
            yield Served(process, port, home)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def eventually(condition: Any, seconds: float) -> float | None:
    """Seconds until it held; None where it never did."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if condition():
            return time.monotonic() - begun
        time.sleep(0.02)
    return None
