"""Several worker processes on one address, and the exchange of their metrics."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click


class WorkerMetricsFiles:
    """Metrics of each worker, stored as files that the others read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own_path = folder / f"metrics-{os.getpid()}.json"

    def publish(self, snapshot: Mapping[str, Any]) -> None:
        """Publish this process's metrics, replacing the earlier ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary_path = self._own_path.with_suffix(".new")
        temporary_path.write_text(json.dumps(snapshot), "utf-8")
        # Renaming is atomic: readers never see a half-written file.
        temporary_path.replace(self._own_path)

    def read_others(self) -> Iterator[Mapping[str, Any]]:
        """Yield the metrics of the other running workers. Files of exited ones are
        deleted."""
        for path in self._folder.glob("metrics-*.json"):
            if path == self._own_path:
                continue
            if not _is_alive(int(path.stem.rpartition("-")[2])):
                path.unlink(missing_ok=True)
                continue
            try:
                yield json.loads(path.read_text("utf-8"))
            # The file was removed or is damaged; the next round publishes it again.
            except (OSError, ValueError):
                continue

    def remove_own(self) -> None:
        """Delete this process's metrics, when it exits."""
        self._own_path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        # Signal 0 only checks whether a signal could be sent.
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The process exists but belongs to another user.
        return True
    return True


class Supervisor:
    """Starts workers on one listening socket, replaces those that exit, and stops all
    of them."""

    def __init__(
        self,
        listening: socket.socket,
        count: int,
        arguments: Sequence[str],
        *,
        patience: float = 30.0,
    ) -> None:
        self._patience = patience
        self._listening = listening
        self._arguments = arguments
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._count = count
        self._is_stopping = False

    def run(self) -> None:
        """Run until a signal arrives. Workers get time to drain; a second signal kills
        them and exits."""
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._stop)
        # Workers inherit the socket; the kernel distributes connections among them.
        os.set_inheritable(self._listening.fileno(), True)
        for _ in range(self._count):
            self._start()
        while not self._is_stopping:
            self._replace_exited()
            time.sleep(0.1)
        # Close the socket first: otherwise new clients would wait in its queue, and no
        # process would accept them.
        self._listening.close()
        for worker in self._workers.values():
            worker.terminate()
        # One deadline for all workers: they drain at the same time.
        until = time.monotonic() + self._patience
        for worker in self._workers.values():
            try:
                worker.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _start(self) -> None:
        """Start one worker."""
        command = [
            sys.executable,
            "-m",
            "modelyard",
            *self._arguments,
            "--worker",
            str(self._listening.fileno()),
        ]
        command += ["--supervisor", str(os.getpid())]
        # An own process group: signals from the terminal reach workers only through the
        # supervisor.
        worker = subprocess.Popen(
            command, pass_fds=[self._listening.fileno()], process_group=0
        )
        self._workers[worker.pid] = worker

    def _replace_exited(self) -> None:
        """Replace workers that have exited."""
        for pid, worker in list(self._workers.items()):
            if (status := worker.poll()) is not None:
                del self._workers[pid]
                click.echo(
                    f"worker {pid} exited with status {status}; starting another",
                    err=True,
                )
                # Avoids a busy loop if workers fail at start.
                time.sleep(0.5)
                self._start()

    def _stop(self, signal_number: int, frame: object) -> None:
        """Signal handler: request the stop, or kill everything at the second signal."""
        if self._is_stopping:
            for worker in self._workers.values():
                worker.kill()
            os._exit(128 + signal_number)
        self._is_stopping = True
