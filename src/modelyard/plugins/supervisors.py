"""Supervisors: one process per tenant and environment that starts plugins and kills
every process they leave behind."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import PluginError
from modelyard.plugins.connection import PluginDiedError
from modelyard.plugins.environment import Environment
from modelyard.plugins.manifest import Hosts
from modelyard.plugins.tenant_folders import WorkFolders, change_owner
from modelyard.transport.egress_proxy import EgressProxy

logger = logging.getLogger("modelyard.plugins")

_SUPERVISOR_SCRIPT = Path(__file__).with_name("supervisor.py")
_READY_SECONDS = 60.0
_PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
_FILE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR")
"""Environment variables passed on to plugins whose values name files; those files are
made readable for them."""
_MAX_MESSAGE_BYTES = 65_536
CellKey = tuple[str, str, Hosts]
"""A cell's tenant, its interpreter, and the hosts that its plugins reach."""
ProxyFactory = Callable[[str, str, Hosts], EgressProxy]
"""Builds the egress proxy of a tenant's plugins from the tenant's name, a password, and
the hosts that they may connect to."""
ExitListener = Callable[[str], None]
"""Callback that receives a description of how the plugin's process ended."""


@dataclass(slots=True, eq=False)
class Spawned:
    """A running plugin process and the host's ends of its three pipes."""

    id: int
    pid: int
    stdin: socket.socket
    """The plugin's standard input: bytes written to this socket are read by the plugin.
    """
    stdout: socket.socket
    stderr: socket.socket
    supervisor: "_Supervisor"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the plugin's process through its supervisor. Does nothing if
        the process has already exited."""
        self.supervisor.kill(self, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxScope:
    """The paths and identity shared by a tenant's plugins that have the same interpreter
    and reach the same hosts.

    Each plugin is granted access only to its own share of these paths.
    """

    tenant: str
    base: Path
    """The interpreter that the plugins' environments were created from."""
    environments: tuple[Path, ...]
    """The folders of the plugins' environments."""
    sdk: Environment | None
    """The environment whose SDK is loaded beforehand; plugins with the same SDK are
    forked. None if no two plugins share one."""
    code: tuple[Path, ...]
    work: tuple[Path, ...]
    tmp: Path
    user: int | None
    """The user id to run as; None if the server may not change users."""
    hosts: Hosts = None
    """The hosts that its plugins may connect to. Plugins with other hosts run in a cell
    of their own, because a cell shares one network."""

    identities: Mapping[Path, tuple[int, int]] = field(
        default_factory=dict[Path, tuple[int, int]]
    )
    """Device and inode of each path."""

    def includes(self, order: "LaunchRequest") -> bool:
        """Return whether a plugin's code and packages are among the paths."""
        return (
            order.folder in self.code and order.environment.folder in self.environments
        )

    def has_same_folders(self, other: "SandboxScope") -> bool:
        """Return whether the paths that both have are the same folders. One that was
        deleted and created again is another, which a mount of the first does not show.
        """
        return all(
            other.identities.get(path, identity) == identity
            for path, identity in self.identities.items()
        )

    @property
    def key(self) -> CellKey:
        """What distinguishes the cell from all others at one time."""
        return self.tenant, str(self.base), self.hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """A request to start one plugin."""

    cell: SandboxScope
    folder: Path
    """The folder with the plugin's code."""
    environment: Environment
    quarter: WorkFolders
    module: str
    env: Mapping[str, str]
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Confinement:
    """The confinement that is in force for a supervisor's plugins."""

    level: str
    """`landlock`, or `none`."""
    network: str
    """`namespace`: a network namespace without other hosts. `port`: the server's
    network, but only the proxy's port. `none`: no connections. `open`: not restricted.
    """
    uid: int | None
    namespaces: bool = False
    port: int = 0
    writable_paths: tuple[str, ...] = ()
    """Writable folders inside the private root that all plugins of the supervisor
    share."""

    def describe(self) -> str:
        """Return a one-line description of the confinement for logs and for the
        console."""
        if self.level == "none":
            return "no confinement: plugins have the server's rights"
        parts = [
            self.level,
            (
                "private root file system"
                if self.namespaces
                else "restricted view of the server's file system"
            ),
        ]
        parts.append(
            "separate user per tenant" if self.uid is not None else "server's user"
        )
        network = {
            "namespace": "private network",
            "port": "server's network, proxy port only",
            "none": "no network",
        }
        return ", ".join([*parts, network.get(self.network, self.network)])


def probe_confinement() -> Confinement:
    """Return the confinement that this machine supports, tested in a child process.

    Raises PluginError if the test itself fails.
    """
    # The test unshares namespaces, which cannot be undone: it runs in a child so that
    # the server keeps its own.
    program = (
        "import json, sys; sys.path.insert(0,"
        f" {str(_SUPERVISOR_SCRIPT.parent / 'inside')!r}); import confine\nabi,"
        " is_apart = confine.landlock_abi(), True\ntry: confine.unshare_namespaces()\nexcept"
        " OSError: is_apart = False\nprint(json.dumps([abi, is_apart]))"
    )
    completed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        check=False,
        env={},
    )
    if completed.returncode:
        raise PluginError(
            "The confinement test failed:"
            f" {completed.stderr.decode('utf-8', 'replace').strip()[-200:]}"
        )
    abi, is_apart = msgspec.json.decode(completed.stdout, type=tuple[int, bool])
    if not abi:
        return Confinement("none", "open", None)
    # Landlock restricts TCP ports since ABI 4. Older kernels can only deny all
    # connections.
    network = "namespace" if is_apart else "port" if abi >= 4 else "none"
    return Confinement("landlock", network, 0 if os.geteuid() == 0 else None, is_apart)


class Supervisors:
    """All supervisors of this server: one for each tenant, interpreter and set of hosts,
    started on first use."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        forks: bool = True,
        make_proxy: ProxyFactory | None = None,
        needs_confinement: bool = True,
    ) -> None:
        """`make_proxy` builds the egress proxies of cells. Unless `needs_confinement`,
        plugins also run on kernels that cannot confine them."""
        self._environ = environ
        self._forks = forks
        self._way_out = make_proxy
        self._needs_confinement = needs_confinement
        self._by_name: dict[CellKey, _Supervisor] = {}
        self._draining: list[_Supervisor] = []
        """Supervisors whose code folders are outdated. They take no new plugins and end
        with their last one."""
        self._starting: dict[CellKey, asyncio.Task[_Supervisor]] = {}
        self.confinement: Confinement | None = None
        """The confinement of the supervisor that was started last; None before the
        first."""

    async def spawn(self, order: LaunchRequest, on_exit: ExitListener) -> Spawned:
        """Start a plugin and return its process. Raises PluginError if it cannot be
        started."""
        supervisor = await self.ensure_started(order)
        return await supervisor.spawn(order, on_exit)

    async def ensure_started(self, order: LaunchRequest) -> "_Supervisor":
        """Return a running supervisor that may read the plugin's folders, starting one
        if necessary."""
        cell = order.cell
        name = cell.key
        running_supervisor = self._by_name.get(name)
        # Confinement is fixed at start: a folder that was added later, or created again,
        # can only be reached from a new supervisor.
        if running_supervisor is not None and running_supervisor.is_alive:
            running_cell = running_supervisor.cell
            if running_cell.includes(order) and running_cell.has_same_folders(cell):
                return running_supervisor
            self._draining.append(self._by_name.pop(name))
        task = self._starting.get(name)
        if task is None:
            # Concurrent callers share one start: the task is stored before anything is
            # awaited.
            task = self._starting[name] = asyncio.ensure_future(self._start(cell))
            task.add_done_callback(lambda finished_task: self._starting.pop(name, None))
        # A caller that is cancelled must not cancel the start for the others.
        supervisor = await asyncio.shield(task)
        # The shared start may have been made for an older set of folders; then start
        # again.
        return (
            supervisor
            if supervisor.cell.includes(order)
            else await self.ensure_started(order)
        )

    async def _start(self, cell: SandboxScope) -> "_Supervisor":
        """Start and register the supervisor of a cell.

        Logs its confinement if that differs from the last one. Raises PluginError.
        """
        supervisor = await _Supervisor.start(
            cell,
            self._environ,
            forks=self._forks and cell.sdk is not None,
            make_proxy=self._way_out,
            is_open=not self._needs_confinement,
        )
        self._log_confinement(supervisor.confined)
        self._by_name[cell.key] = supervisor
        return supervisor

    def _log_confinement(self, confined: Confinement) -> None:
        """Log the confinement if it differs from the last one that was logged."""
        was, self.confinement = self.confinement, confined
        if was is None or was.describe() != confined.describe():
            # Anything less than a private root and namespaces deserves a warning.
            is_less = confined.level == "none" or not confined.namespaces
            logger.log(
                logging.WARNING if is_less else logging.INFO,
                "plugin confinement",
                extra={"fields": {"by": confined.describe()}},
            )

    def stop_idle(self, current_time: float, seconds: float) -> None:
        """Close supervisors that have had no plugin for `seconds`, and outdated ones as
        soon as they have none."""
        for supervisor in list(self._draining):
            if not supervisor.exit_listeners:
                self._draining.remove(supervisor)
                supervisor.close()
        for name, supervisor in list(self._by_name.items()):
            # A supervisor that is being started, or that has plugins, restarts its idle
            # period.
            if supervisor.exit_listeners or name in self._starting:
                supervisor.idle_since = None
                continue
            supervisor.idle_since = supervisor.idle_since or current_time
            if (
                current_time - supervisor.idle_since > seconds
                or not supervisor.is_alive
            ):
                del self._by_name[name]
                supervisor.close()

    def pids(self) -> list[int]:
        """Return the process ids of all live supervisors."""
        return [
            supervisor.process.pid
            for supervisor in [*self._by_name.values(), *self._draining]
            if supervisor.is_alive
        ]

    def zygotes(self) -> list[int]:
        """Return the process ids of all live zygotes, the processes that fork the
        plugins."""
        return [
            supervisor.zygote
            for supervisor in [*self._by_name.values(), *self._draining]
            if supervisor.is_alive
        ]

    async def aclose(self) -> None:
        """Close all supervisors, and with them every plugin, and wait for their exit."""
        # Starts in progress are cancelled first; otherwise one could register after the
        # lists were cleared.
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        supervisors = [*self._by_name.values(), *self._draining]
        self._by_name.clear()
        self._draining.clear()
        # Close all before waiting for any, so that the shutdown times do not add up.
        for supervisor in supervisors:
            supervisor.close()
        for supervisor in supervisors:
            await supervisor.wait_closed()


@dataclass(slots=True, eq=False)
class _Supervisor:
    """One supervisor process, its control socket, and the plugins it runs."""

    process: asyncio.subprocess.Process
    control: socket.socket
    cell: SandboxScope
    confined: Confinement
    egress_proxy: EgressProxy | None = None
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    exit_listeners: dict[int, ExitListener] = field(
        default_factory=dict[int, ExitListener]
    )
    zygote: int = 0
    """The process id of its only child, which forks the plugins."""
    idle_since: float | None = None
    _pids: dict[int, int] = field(default_factory=dict[int, int])
    _waiting: dict[int, "asyncio.Future[int]"] = field(
        default_factory=dict[int, "asyncio.Future[int]"]
    )
    _last_plugin_id: int = 0
    _listener: "asyncio.Task[None] | None" = None
    _has_warned: bool = False
    is_alive: bool = True

    @classmethod
    async def start(
        cls,
        cell: SandboxScope,
        environ: Mapping[str, str],
        *,
        forks: bool,
        make_proxy: ProxyFactory | None,
        is_open: bool,
    ) -> "_Supervisor":
        """Start the supervisor process and wait until it is ready.

        Raises PluginError if the environment's Python does not start or the plugins
        cannot be confined.
        """
        # SOCK_SEQPACKET keeps message boundaries, so that each JSON message is one
        # packet.
        control_socket, child_socket = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        control_socket.setblocking(False)
        # The supervisor gets a minimal environment: the server's own variables may hold
        # secrets.
        child_environ = {
            name: environ[name]
            for name in ("PATH", "LANG", "LC_ALL", "TZ")
            if name in environ
        }
        process = await _launch(cell.base, control_socket, child_socket, child_environ)
        # Nothing is known about the confinement until the supervisor reports it.
        supervisor = cls(
            process,
            control_socket,
            cell,
            Confinement("none", "open", None),
            environ=environ,
        )
        try:
            message = _startup_message(
                cell, environ, child_environ, forks=forks, is_open=is_open
            )
            ready, listener = await supervisor._configure(message)
            await supervisor._finish_start(ready, listener, make_proxy)
        except BaseException:
            supervisor.close()
            await supervisor.wait_closed()
            raise
        return supervisor

    async def _configure(self, message: Mapping[str, Any]) -> tuple[Any, int | None]:
        """Send the startup message and return what `_receive_ready` returns. Raises
        PluginError."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                _send_file(self.control, msgspec.json.encode(message))
                return await self._receive_ready()
        # A supervisor that does not report in time is treated like one that exited at
        # once.
        except TimeoutError:
            return None, None
        except OSError as error:
            raise _interpreter_error(self.cell.base, error) from error

    async def _finish_start(
        self,
        ready: Any,
        listener: int | None,
        make_proxy: ProxyFactory | None,
    ) -> None:
        """Evaluate the supervisor's first message and start the egress proxy.

        Raises PluginError if plugins cannot be started. The listener's descriptor is
        closed unless the proxy took it over.
        """
        opened = socket.socket(fileno=listener) if listener is not None else None
        try:
            self._read_ready(ready)
            if opened is not None and make_proxy is not None:
                await self._start_proxy(opened, make_proxy)
                opened = None
            self._listener = asyncio.ensure_future(self._listen())
        finally:
            if opened is not None:
                opened.close()

    def _read_ready(self, ready: Any) -> None:
        """Take the confinement and the zygote from the supervisor's first message.
        Raises PluginError if plugins cannot be started."""
        if ready is None:
            raise _interpreter_error(self.cell.base, "it did not start")
        if ready.get("failed") or "confined" not in ready:
            reason = ready["error"] or "the supervisor exited at once"
            raise PluginError(
                "Plugins cannot be confined on this machine, so none is started:"
                f" {reason}"
            )
        confined = {
            key: field_value
            for key, field_value in ready["confined"].items()
            if key != "abi"
        }
        self.confined = msgspec.convert(confined, Confinement)
        self.zygote = int(ready["zygote"])

    async def _start_proxy(
        self, listener: socket.socket, make_proxy: ProxyFactory
    ) -> None:
        """Start the egress proxy of this supervisor's plugins on a listening socket."""
        # In a network namespace only the plugins reach the proxy. On the server's
        # network other local processes do, too.
        is_private = self.confined.network == "namespace"
        token = "" if is_private else secrets.token_urlsafe(16)
        self.egress_proxy = make_proxy(self.cell.tenant, token, self.cell.hosts)
        await self.egress_proxy.start(listener)

    async def _receive_ready(self) -> tuple[Any, int | None]:
        """Return the supervisor's first message and the listening socket's descriptor
        that came with it.

        Both are None if the supervisor ended before it sent anything.
        """
        loop = asyncio.get_running_loop()
        # asyncio has no call that receives file descriptors: wait for the socket to
        # become readable, then call recv_fds.
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(
            self.control.fileno(), lambda: readable.done() or readable.set_result(None)
        )
        try:
            await readable
        finally:
            loop.remove_reader(self.control.fileno())
        data, descriptors, _, _ = socket.recv_fds(self.control, _MAX_MESSAGE_BYTES, 1)
        return (msgspec.json.decode(data) if data else None), (
            descriptors[0] if descriptors else None
        )

    def proxies(self) -> dict[str, str]:
        """Return the variables that route a plugin's connections through the egress
        proxy.

        Without confinement these are the proxy variables of the server process.
        """
        if self.confined.level == "none":
            return {
                name: self.environ[name]
                for name in _PROXY_VARIABLES
                if name in self.environ
            }
        if self.egress_proxy is None:
            return {}
        userinfo = (
            f"plugin:{self.egress_proxy.token}@" if self.egress_proxy.token else ""
        )
        address = f"http://{userinfo}127.0.0.1:{self.confined.port}"
        return {
            name: address for name in _PROXY_VARIABLES if "no_proxy" not in name.lower()
        }

    async def _receive(self) -> Any:
        """Return the supervisor's next message, or None if the supervisor has exited."""
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self.control, _MAX_MESSAGE_BYTES)
        except OSError:
            return None
        return msgspec.json.decode(data) if data else None

    async def spawn(self, order: LaunchRequest, on_exit: ExitListener) -> Spawned:
        """Start a plugin in this supervisor. Raises PluginDiedError if the supervisor
        exits meanwhile."""
        self._last_plugin_id += 1
        number = self._last_plugin_id
        await asyncio.to_thread(self._prepare, order)
        # One socket pair each for stdin, stdout and stderr.
        pairs = [socket.socketpair() for _ in range(3)]
        message = {"op": "spawn", "id": number, **self._spawn_fields(order)}
        # Register before sending: the answer may arrive before the next statement runs.
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.exit_listeners[number] = on_exit
        try:
            socket.send_fds(
                self.control,
                [msgspec.json.encode(message)],
                [plugin_end.fileno() for _, plugin_end in pairs],
            )
            for host_end, _ in pairs:
                host_end.setblocking(False)
            pid = await waiting
        except BaseException as error:
            self.exit_listeners.pop(number, None)
            # The plugin may have been started although the caller gave up; the
            # supervisor ignores an unknown id.
            self._send({"op": "kill", "id": number, "signal": signal.SIGKILL})
            for host_end, _ in pairs:
                host_end.close()
            if isinstance(error, OSError):
                raise PluginDiedError("Supervisor process has exited") from error
            raise
        finally:
            self._waiting.pop(number, None)
            # The plugin's ends were duplicated when they were sent; these copies would
            # delay the end of file.
            for _, plugin_end in pairs:
                plugin_end.close()
        pipes, stdout, err = (host_end for host_end, _ in pairs)
        return Spawned(number, pid, pipes, stdout, err, self)

    def _prepare(self, order: LaunchRequest) -> None:
        for folder in (*order.quarter.folders, self.cell.tmp):
            change_owner(folder, self.confined.uid)

    def _spawn_fields(self, order: LaunchRequest) -> dict[str, Any]:
        """Return the launch parameters of a plugin, limited to the paths of the cell
        that this plugin itself may use."""
        env = {
            **order.env,
            **self.proxies(),
            "HOME": str(order.quarter.work),
            "TMPDIR": str(order.quarter.tmp),
        }
        sdk = self.cell.sdk
        is_forked = sdk is not None and order.environment.sdk == sdk.name
        request: dict[str, Any] = {
            "cwd": str(order.folder),
            "module": order.module,
            "env": env,
            "python": str(order.environment.python),
            "packages": str(order.environment.packages),
            "fork": is_forked,
            "limits": dict(order.limits),
            "read": [],
            "write": [],
            "port": None,
            "private": self.confined.uid is not None,
        }
        # Without confinement the path and port lists have no effect, so they stay
        # empty.
        if self.confined.level == "none":
            return request
        request["read"] = [
            *_configured_paths(self.environ),
            str(order.environment.folder),
            # Modules that the SDK loads later come from where it was loaded.
            *([str(sdk.folder)] if sdk is not None and is_forked else []),
            str(order.folder),
        ]
        request["write"] = [
            *map(str, order.quarter.folders),
            *self.confined.writable_paths,
        ]
        request["port"] = (
            self.confined.port if self.confined.network == "port" else None
        )
        if (
            order.limits.get("nproc")
            and self.confined.uid is None
            and not self.confined.namespaces
        ):
            # RLIMIT_NPROC counts all processes of the user: without a separate user
            # that includes the server's.
            del request["limits"]["nproc"]
        return request

    def kill(self, spawned: Spawned, number: int) -> None:
        """Send a signal to a plugin of this supervisor. Does nothing if the plugin has
        already exited."""
        if spawned.id in self.exit_listeners:
            self._send({"op": "kill", "id": spawned.id, "signal": number})

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.control.send(msgspec.json.encode(message))

    async def _listen(self) -> None:
        """Process the supervisor's messages until it exits.

        `spawned` completes a start, and `exited` is passed to the plugin's exit
        listener. At the end all remaining plugins are reported as ended.
        """
        while (message := await self._receive()) is not None:
            if message["event"] == "spawned":
                self._handle_spawned(message["id"], message["pid"])
            elif message["event"] == "exited":
                self._handle_exited(message["id"], message["status"])
            elif message["event"] == "not_found":
                self._warn("wrong message of the zygote", message["error"])
            # That is no failure: each plugin then imports the SDK itself.
            elif message["event"] == "not_loaded":
                self._warn("plugin SDK not loaded beforehand", message["error"])
        self._handle_supervisor_exit()

    def _handle_spawned(self, plugin_id: int, pid: int) -> None:
        """Complete the start of a plugin. The process id is 0 if it exited already."""
        # Whoever waited for it has given up meanwhile.
        if plugin_id not in self.exit_listeners:
            self._send({"op": "kill", "id": plugin_id, "signal": signal.SIGKILL})
            return
        if pid > 0:
            self._pids[plugin_id] = pid
        waiting = self._waiting.get(plugin_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(pid)

    def _handle_exited(self, plugin_id: int, status: int) -> None:
        """Report the exit of a plugin to its listener."""
        self._pids.pop(plugin_id, None)
        if (on_exit := self.exit_listeners.pop(plugin_id, None)) is not None:
            on_exit(_exit_description(status))

    def _warn(self, problem: str, error: str) -> None:
        """Log what the zygote reports; once, because plugins' code could fill the log."""
        if not self._has_warned:
            self._has_warned = True
            fields = {"tenant": self.cell.tenant, "error": error}
            logger.warning(problem, extra={"fields": fields})

    def _handle_supervisor_exit(self) -> None:
        """Handle the supervisor's exit: kill its plugins' process groups and report
        every plugin as ended."""
        if not self.is_alive:
            return
        self.is_alive = False
        # The kernel kills the plugins with their parent; processes that they forked
        # share the plugin's process group.
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        # Exchange the map first: a listener may start a plugin again, which must not be
        # reported as ended here.
        plugins, self.exit_listeners = self.exit_listeners, {}
        for on_exit in plugins.values():
            on_exit("Supervisor process was killed")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PluginDiedError("Supervisor process was killed"))

    def close(self) -> None:
        """Close the control socket. The supervisor then kills all its processes and
        exits."""
        self.is_alive = False
        if self._listener is not None:
            self._listener.cancel()
        if self.egress_proxy is not None:
            self.egress_proxy.close()
        self.control.close()

    async def wait_closed(self) -> None:
        """Wait until the supervisor's process has exited; kill it after 6 seconds."""
        try:
            async with asyncio.timeout(6):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _send_file(control: socket.socket, data: bytes) -> None:
    """Send data as a file in memory: the paths of many plugins exceed a packet."""
    descriptor = os.memfd_create("order")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        socket.send_fds(control, [b"order"], [descriptor])
    finally:
        os.close(descriptor)


async def _launch(
    base: Path,
    control_socket: socket.socket,
    child_socket: socket.socket,
    child_environ: Mapping[str, str],
) -> asyncio.subprocess.Process:
    """Start the supervisor process with its end of the control socket. Raises
    PluginError if the interpreter cannot be executed."""
    try:
        return await asyncio.create_subprocess_exec(
            str(base),
            "-I",
            "-S",
            "-X",
            "utf8",
            str(_SUPERVISOR_SCRIPT),
            str(child_socket.fileno()),
            cwd="/",
            env=child_environ,
            pass_fds=[child_socket.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException as error:
        control_socket.close()
        if not isinstance(error, OSError):
            raise
        raise _interpreter_error(base, error) from error
    finally:
        # The child has inherited its end; this copy would keep the socket open after
        # the child's death.
        child_socket.close()


def _interpreter_error(base: Path, reason: object) -> PluginError:
    return PluginError(f"Interpreter {str(base)!r} cannot be used: {reason}")


def _configured_paths(environ: Mapping[str, str]) -> list[str]:
    """Return the files and folders that variables of the server name, and that all
    plugins may read."""
    return [
        str(Path(environ[name]).expanduser())
        for name in _FILE_VARIABLES
        if environ.get(name)
    ]


def _startup_message(
    cell: SandboxScope,
    environ: Mapping[str, str],
    child_environ: Mapping[str, str],
    *,
    forks: bool,
    is_open: bool,
) -> dict[str, Any]:
    """Return the first message to a new supervisor, which configures its confinement."""
    sdk = cell.sdk if forks else None
    environments = {*cell.environments, *([sdk.folder] if sdk else [])}
    read_paths = [*sorted(environments), *cell.code]
    return {
        # What is not to load anything runs on the bare interpreter.
        "python": str(sdk.python if sdk else cell.base),
        "fork": forks,
        "open": is_open,
        "uid": cell.user,
        "tmp": str(cell.tmp),
        "read": [*_configured_paths(environ), *map(str, read_paths)],
        "write": [str(work_folder) for work_folder in cell.work],
        "env": dict(child_environ),
    }


def _exit_description(status: int) -> str:
    """Describe a wait status, as returned by `os.waitpid`, in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"Killed by signal {number} ({signal.Signals(number).name})"
    return f"Exited with status {os.WEXITSTATUS(status)}"
