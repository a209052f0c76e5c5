"""Several processes that answer on one address, and what they tell each other."""

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


class Peers:
    """What each process counted, as files that the others read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"metrics-{os.getpid()}.json"

    def tell(self, snapshot: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        unseen = self._own.with_suffix(".new")
        unseen.write_text(json.dumps(snapshot), "utf-8")
        unseen.replace(self._own)

    def others(self) -> Iterator[Mapping[str, Any]]:
        for path in self._folder.glob("metrics-*.json"):
            if path == self._own:
                continue
            if not _is_alive(int(path.stem.rpartition("-")[2])):
                path.unlink(missing_ok=True)
                continue
            try:
                yield json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue

    def leave(self) -> None:
        self._own.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Supervisor:
    """Starts workers on one listening socket, starts those anew that die, and stops them all."""

    def __init__(
        self, listening: socket.socket, count: int, arguments: Sequence[str], *, patience: float = 30.0
    ) -> None:
        self._patience = patience
        self._listening = listening
        self._arguments = arguments
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._count = count
        self._is_stopping = False

    def run(self) -> None:
        """Until a signal ends it. Workers get what time they need to drain; a second signal ends them and this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        os.set_inheritable(self._listening.fileno(), True)
        for _ in range(self._count):
            self._start()
        while not self._is_stopping:
            self._look()
            time.sleep(0.1)
        # Else whoever connects now would wait in the queue of a socket that nobody takes callers from.
        self._listening.close()
        for worker in self._workers.values():
            worker.terminate()
        until = time.monotonic() + self._patience
        for worker in self._workers.values():
            try:
                worker.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", "modelyard", *self._arguments, "--worker", str(self._listening.fileno())]
        command += ["--supervisor", str(os.getpid())]
        # In a group of its own: what a terminal sends to all of its group reaches workers through this process alone.
        worker = subprocess.Popen(command, pass_fds=[self._listening.fileno()], process_group=0)
        self._workers[worker.pid] = worker

    def _look(self) -> None:
        for pid, worker in list(self._workers.items()):
            if (status := worker.poll()) is not None:
                del self._workers[pid]
                click.echo(f"worker {pid} ended with status {status}; starting another", err=True)
                time.sleep(0.5)
                self._start()

    def _stop(self, number: int, frame: object) -> None:
        if self._is_stopping:
            for worker in self._workers.values():
                worker.kill()
            os._exit(128 + number)
        self._is_stopping = True
