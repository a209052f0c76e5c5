"""Start a real server with plugins for the proofs, and inspect its processes and
memory."""

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
import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import Settings, load_settings
from modelyard.plugins.package import package_folder
from tools.show.proof import ROOT, free_port, ready_home, running, serve_command

EXAMPLES = ROOT / "examples" / "plugins"


def plugin_settings(home: Path, **changes: Any) -> Settings:
    """Return the settings for a home folder; `changes` are those of plugins."""
    settings = load_settings(
        {"MODELYARD_HOME": str(home), "MODELYARD_LOG_LEVEL": "error"}
    )
    # Port 0 turns the debug listener off, so that parallel runs do not conflict.
    plugins = msgspec.structs.replace(settings.plugins, debug_port=0, **changes)
    return msgspec.structs.replace(settings, plugins=plugins)


class PluginServer:
    """A running server that listens at `origin`."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", port: int, home: Path
    ) -> None:
        self.process = process
        self.origin = f"http://127.0.0.1:{port}"
        self.home = home

    def client(self, seconds: float = 60.0) -> httpx.Client:
        """Return an HTTP client for the `/v1` API of this server; `seconds` is the
        timeout of a request."""
        return httpx.Client(base_url=f"{self.origin}/v1", timeout=seconds)

    def plugins(self) -> dict[int, str]:
        """Return the process id of each running plugin process with the name of its
        plugin."""
        plugin_by_pid: dict[int, str] = {}
        for pid in _processes():
            try:
                where = str(Path(f"/proc/{pid}/cwd").readlink())
            except OSError:
                continue
            # A plugin runs in the folder of its unpacked package, named
            # `<plugin>-<version>`; that is how its processes are recognised.
            if where.startswith(str(self.home / "plugins" / "code")):
                plugin_by_pid[pid] = where.rpartition("/")[2].partition("-0.")[0]
        return plugin_by_pid

    def supervisor_pids(self) -> list[int]:
        """Return the process ids of the plugin supervisors that this server started."""
        return [
            pid
            for pid in _processes()
            if "supervisor.py" in _command(pid) and _parent(pid) == self.process.pid
        ]


def _processes() -> list[int]:
    """Return the ids of all processes of the machine that are not zombies."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _is_alive(int(path.name))
    ]


def _stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` after the command name; empty if the
    process does not exist."""
    try:
        # The command name may contain spaces and parentheses, so split after the last
        # one.
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
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
    except OSError:
        return ""


def proportional_memory_mb(pids: Sequence[int]) -> float:
    """Return the proportional memory of processes in MB: a page shared by n processes
    counts one n-th in each."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(
            (int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0
        )
    return total / 1024


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time of processes, without their children."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = [stat for pid in pids if (stat := _stat(pid))]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / ticks


def install(home: Path, folders: Sequence[Path]) -> None:
    """Install plugins into a home folder that no server uses yet."""

    async def work() -> None:
        """Add every folder as a package, through the application itself."""
        settings = load_settings({**os.environ, "MODELYARD_HOME": str(home)})
        async with Modelyard(settings) as yard:
            for folder in folders:
                await yard.services.plugins.installations.add(
                    "default", package_folder(folder)
                )

    asyncio.run(work())


@contextmanager
def server_with_plugins(
    *folders: Path, settings: str = "", make: Any = None
) -> Generator[PluginServer]:
    """Run a server with these plugins.

    `make` is called with an empty path and may write more plugins there; it returns
    their folders.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        home = Path(name) / "home"
        ready_home(home)
        (home / "modelyard.yaml").write_text(
            settings or "plugins: {debug_port: 0}\n", "utf-8"
        )
        generated_folders: Sequence[Path] = make(Path(name) / "made") if make else ()
        # Install before the server starts, so that it finds every plugin at its start.
        install(home, [*folders, *generated_folders])
        port = free_port()
        environ = {"MODELYARD_HOME": str(home), "MODELYARD_LOCAL__ENABLED": "false"}
        with running(serve_command(), port, environ=environ) as (process, _):
            yield PluginServer(process, port, home)


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which this fraction of `values` lies; 0.99 is p99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def eventually(condition: Any, seconds: float) -> float | None:
    """Poll until `condition` holds; return the seconds it took, or None if it did not
    hold within `seconds`."""
    started_at = time.monotonic()
    while time.monotonic() - started_at < seconds:
        if condition():
            return time.monotonic() - started_at
        time.sleep(0.02)
    return None
