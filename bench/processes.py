"""Processes under measurement: starting and stopping them, and what /proc says about
their processor time and memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# ------------------------------------------------------------------ time and memory


def process_tree(pid: int) -> list[int]:
    """Return the pid of a process and the pids of all its descendants."""
    pids = [pid]
    # A process may exit while /proc is read.
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            for child in children:
                pids += process_tree(int(child))
    return pids


def cpu_nanoseconds(pid: int) -> int:
    """Return the processor time of a process and its descendants.

    The kernel counts it per thread in nanoseconds (`schedstat`); the counters of
    /proc/PID/stat are a hundred times too coarse for the cost of one call.
    """
    total = 0
    for member in process_tree(pid):
        with suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total


def memory_mb(pid: int) -> float:
    """Return the resident memory of a single process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def tree_memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants in MiB. Memory that processes
    share is counted once (`Pss`)."""
    kilobytes = 0
    for member in process_tree(pid):
        with suppress(OSError):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            line = next(row for row in text.splitlines() if row.startswith("Pss:"))
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


# -------------------------------------------------------------------------- processors


def available_cores() -> list[int]:
    """Return the numbers of the processors that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def on_cores(cores: Iterable[int]) -> Generator[None]:
    """Bind this thread, and what it starts inside the block, to these processors."""
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)


# ----------------------------------------------------------------------------- servers


def is_listening(port: int) -> bool:
    """Return whether a server on this machine accepts connections on this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False


@contextmanager
def running_server(
    command: list[str],
    port: int | Path,
    *,
    cores: Iterable[int],
    environ: Mapping[str, str] | None = None,
    seconds: float = 90,
) -> Generator[tuple[int, int, float]]:
    """Run a server on these processors until the block ends. Yields its (pid, port,
    seconds until it accepted connections).

    `port` may be a file into which the server writes the port that it chose. Raises
    RuntimeError if the port is in use before the start, or if the server exits or does
    not listen within `seconds`; the message has the end of its log.
    """
    if isinstance(port, int) and is_listening(port):
        raise RuntimeError(f"Port {port} is in use: another server would be measured")
    started_at = time.monotonic()
    with tempfile.TemporaryFile() as log:
        # In a session of its own, so that signals reach its worker processes too.
        with on_cores(cores):
            server = subprocess.Popen(
                command,
                env={**_clean_environment(), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            while (listening := _listening_port(port)) is None:
                if server.poll() is not None or time.monotonic() - started_at > seconds:
                    log.seek(0)
                    text = log.read()[-800:].decode(errors="replace")
                    raise RuntimeError(f"{command[0]} did not start: {text}")
                time.sleep(0.02)
            yield server.pid, listening, time.monotonic() - started_at
        finally:
            _stop(server)


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without what would change a measurement."""
    return {
        name: value
        for name, value in os.environ.items()
        # A developer's own settings; and without compiled code every start is slow.
        if not name.startswith("MODELYARD_") and name != "PYTHONDONTWRITEBYTECODE"
    }


def _listening_port(port: int | Path) -> int | None:
    """Return the port if a server accepts connections on it."""
    if isinstance(port, Path):
        text = port.read_text() if port.exists() else ""
        if not text:
            return None
        port = int(text)
    return port if is_listening(port) else None


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop a server and all processes of its session."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(15)
    # Whatever did not follow the first signal.
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def start_process(
    module: str, *arguments: str, environ: dict[str, str] | None = None
) -> Generator[tuple[int, int]]:
    """Run a Python module in a process and yield its (pid, port).

    The module writes its port into the file named by its last argument. Raises
    RuntimeError if the process exits before that.
    """
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(port_file)],
            env={**os.environ, **(environ or {})},
        )
        try:
            # The file exists shortly before its content is written, so wait for both.
            while not (port_file.exists() and port_file.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{module} ended with status {process.returncode}"
                    )
                time.sleep(0.02)
            # The port is written before the server accepts connections.
            time.sleep(0.2)
            yield process.pid, int(port_file.read_text())
        finally:
            process.terminate()
            process.wait(15)


def load(port: int, connections: int, requests: int, model: str, stream: bool) -> float:
    """Send requests from a Python process and return the seconds that they took."""
    command = [
        sys.executable,
        "-m",
        "bench.load",
        "127.0.0.1",
        str(port),
        str(connections),
        str(requests),
        model,
    ]
    completed = subprocess.run(
        [*command, "stream" if stream else "whole"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(completed.stdout)["seconds"]
