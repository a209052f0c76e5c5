"""Supervisor process: confines and watches the process that starts a tenant's plugins.

    python -I -S supervisor.py CONTROL_FD

A standalone program. It runs on the Python that the environment was created from,
without site packages, and imports only the standard library: the environment's packages
are loaded by the zygote (`inside/zygote.py`), which is started once all confinement is
in place.

A process between host and plugins is needed for two reasons. As the nearest subreaper
it becomes the parent of plugins' orphans, so that no forked process escapes; and when
the host exits for whatever reason, the control socket closes and everything is killed.

Messages are JSON, one per packet. The host first sends what to start, in a file whose
descriptor comes with the packet: `{"python", "fork", "read", "write", "tmp", "uid",
"open", "env"}`. Then host → supervisor: `{"op":
"spawn", "id", …}` with three descriptors, passed on to the zygote; `{"op": "kill",
"id", "signal"}`. Supervisor → host: `{"event": "ready", "error", "confined",
"zygote"}`, with a descriptor on which plugins' connections arrive; `{"event":
"spawned", "id", "pid"}`, `{"event": "exited", "id", "status"}` with the wait status as
returned by `os.waitpid`; `{"event": "not_found", "error"}` if the zygote reported the
exit of a plugin that it does not have; `{"event": "not_loaded", "error"}` if the SDK
could not be loaded beforehand.
"""

import array
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

# `-I` leaves out even the folder of the program itself.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside"))

if TYPE_CHECKING:
    from modelyard.plugins.inside import confine
else:
    import confine  # found through sys.path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MAX_ERROR_CHARS = 2000
_SWEEP_SECONDS = 2.0
_MAX_MESSAGE_BYTES = 1 << 20
_START_TIME_INDEX = 19
"""Index of the start time in /proc/PID/stat, counted from the state field."""
PROXY_PORT = 3128
"""Port of the egress proxy inside a plugin's own network namespace."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Supervisor:
    """Passes commands to the zygote, reports its events, and ends everything it
    started."""

    def __init__(
        self, control: socket.socket, zygote: socket.socket, zygote_pid: int
    ) -> None:
        self._control = control
        self._zygote = zygote
        self._zygote_pid = zygote_pid
        self._plugins: dict[int, tuple[int, str]] = {}
        """Process id → (the host's id, start time). Each plugin leads a session of its
        own."""

    def run(self) -> None:
        """Handle events until the host or the zygote exits; then kill everything that
        was started here."""
        watch = select.poll()
        watch.register(self._control.fileno(), select.POLLIN)
        watch.register(self._zygote.fileno(), select.POLLIN)
        while True:
            # The timeout leads to a sweep in quiet times.
            ready = watch.poll(_SWEEP_SECONDS * 1000)
            for descriptor, _ in ready:
                heed = (
                    self._handle_command
                    if descriptor == self._control.fileno()
                    else self._handle_zygote_event
                )
                if not heed():
                    self._kill_all()
                    return
            if not ready:
                self._kill_orphans()

    def _handle_command(self) -> bool:
        """Handle one command of the host. Returns False if the host has exited."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, _MAX_MESSAGE_BYTES, 3
            )
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "spawn":
            return self._forward_spawn(data, descriptors)
        if message["op"] == "kill":
            for pid, (number, started_at) in list(self._plugins.items()):
                if number == message["id"]:
                    _signal_session(pid, started_at, message["signal"])
        return True

    def _forward_spawn(self, data: bytes, descriptors: list[int]) -> bool:
        """Pass a command with its descriptors on to the zygote. Returns False if the
        zygote has exited."""
        try:
            socket.send_fds(self._zygote, [data], descriptors)
        except OSError:
            return False
        # The zygote has its own copies of the descriptors.
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _handle_zygote_event(self) -> bool:
        """Handle one event of the zygote, which may be under a plugin's control and is
        not trusted.

        Returns False if the zygote has exited or sends invalid messages.
        """
        try:
            message = json.loads(self._zygote.recv(_MAX_MESSAGE_BYTES))
            event, number, pid = (
                message["event"],
                int(message["id"]),
                int(message["pid"]),
            )
            # Mask the status, because the value comes from an untrusted process.
            status = int(message.get("status", 0)) & 0xFFFF
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            return False
        if event == "spawned":
            return self._register_plugin(number, pid)
        if event == "exited":
            self._remove_plugin(number, pid, status)
        if event == "not_loaded":
            error = str(message.get("error", ""))[:_MAX_ERROR_CHARS]
            self.say({"event": "not_loaded", "error": error})
        return True

    def _register_plugin(self, number: int, pid: int) -> bool:
        """Register a plugin that the zygote reports as started, and report it to the
        host.

        It must be a child of the zygote and no plugin yet, otherwise False is returned;
        its start time is stored, so that a reused process id is never signalled.
        """
        # Another id for a running plugin would take it away from its own.
        if pid in self._plugins:
            return False
        stat = _stat(str(pid))
        # The parent must be the zygote: otherwise it could make us kill any process.
        if stat and stat[1] != str(self._zygote_pid):
            return False
        if stat:
            self._plugins[pid] = (number, stat[_START_TIME_INDEX])
        self.say({"event": "spawned", "id": number, "pid": pid if stat else 0})
        return True

    def _remove_plugin(self, number: int, pid: int, status: int) -> None:
        """Unregister a plugin that has exited, kill the processes that it started, and
        report its wait status to the host.

        If the plugin runs in another process, or the process is another plugin's,
        nothing changes and the host gets `not_found`.
        """
        if not self._may_have_process(number, pid):
            error = f"plugin {number} has no process {pid}"
            self.say({"event": "not_found", "error": error})
            return
        # One that exited before it could be registered has no start time.
        _, started_at = self._plugins.pop(pid, (number, ""))
        if started_at:
            _signal_session(pid, started_at, signal.SIGKILL)
        self._kill_orphans()
        self.say({"event": "exited", "id": number, "status": status})

    def _may_have_process(self, number: int, pid: int) -> bool:
        """Return whether a process is registered for a plugin, or neither of the two is
        registered."""
        if pid in self._plugins:
            return self._plugins[pid][0] == number
        # One that exited at once is reported without having been registered.
        return all(registered != number for registered, _ in self._plugins.values())

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to the host."""
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            pass  # the host has exited, which the next poll of the socket reports

    def _kill_orphans(self) -> None:
        """Kill orphans that do not belong to the session of a running plugin. They are
        children of this process."""
        for pid in _children(os.getpid()):
            # A process whose session leader is a running plugin is still wanted.
            if (
                pid != self._zygote_pid
                and pid not in self._plugins
                and _session(pid) not in self._plugins
            ):
                _ignore_missing(os.kill, pid, signal.SIGKILL)
        _reap()

    def _kill_all(self) -> None:
        """Kill all plugins, the zygote and every process that they left behind.

        Repeats until there are no children, for at most 5 seconds.
        """
        for pid, (_, started_at) in list(self._plugins.items()):
            _signal_session(pid, started_at, signal.SIGKILL)
        self._plugins.clear()
        _ignore_missing(os.kill, self._zygote_pid, signal.SIGKILL)
        # New orphans may appear while processes are being killed, so repeat until there
        # are none.
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            for pid in _children(os.getpid()):
                _ignore_missing(os.kill, pid, signal.SIGKILL)
            if not _reap():
                return
            time.sleep(0.01)


def _reap() -> bool:
    """Collect exited children. Returns whether there are children left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_session(pid: int, started_at: str, number: int) -> None:
    """Send a signal to a plugin; SIGKILL goes to its whole session. Does nothing if the
    process id was reused."""
    # The start time identifies the process; the id alone may have been reused.
    stat = _stat(str(pid))
    if stat and stat[_START_TIME_INDEX] != started_at:
        return
    if number == signal.SIGKILL:
        _ignore_missing(os.killpg, pid, number)
        # A member can leave the process group with setpgid without leaving the session.
        for member_pid in _session_members(pid):
            _ignore_missing(os.kill, member_pid, number)
    _ignore_missing(os.kill, pid, number)


def _ignore_missing(act: Any, *details: int) -> None:
    """Call a function that signals a process, and ignore that it has exited.

    A lack of permission is ignored too.
    """
    try:
        act(*details)
    except (ProcessLookupError, PermissionError):
        pass  # it has exited already


def _stat(pid: str) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; an empty list if the
    process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the command, in parentheses, may itself contain blanks and
            # parentheses.
            return file.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _children(parent: int) -> list[int]:
    """Return the ids of a process's children, without zombies."""
    parent_text = str(parent)
    return [
        int(pid)
        for pid in _processes()
        if (stat := _stat(pid)) and stat[1] == parent_text and stat[0] != "Z"
    ]


def _session_members(session: int) -> list[int]:
    """Return the ids of all processes in a session."""
    session_text = str(session)
    return [
        int(pid)
        for pid in _processes()
        if (stat := _stat(pid)) and stat[3] == session_text
    ]


def _session(pid: int) -> int:
    stat = _stat(str(pid))
    return int(stat[3]) if stat else 0


# --------------------------------------------------------------------------- the zygote


def _start_zygote(
    control: socket.socket, order: dict[str, Any]
) -> tuple[Supervisor, int | None, dict[str, Any]]:
    """Start the zygote. Returns (supervisor, descriptor for plugins' connections or
    None, message for the host)."""
    # Keeps messages apart like datagrams, and reports the end of the other side like a
    # stream.
    zygote_socket, child_socket = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    pid = os.fork()
    # In the child.
    if pid == 0:
        control.close()
        zygote_socket.close()
        _exec_zygote(child_socket, order)
    child_socket.close()
    # The first message is sent before foreign code runs, so only it is trusted on the
    # confinement.
    first, descriptors = _receive(zygote_socket)
    ready_message: dict[str, Any] = {
        "event": "ready",
        "error": str(first.get("error", "")),
        "failed": True,
    }
    if "confined" in first:
        second, _ = _receive(zygote_socket)
        is_ready = second.get("event") == "ready"
        ready_message |= {
            "confined": first["confined"],
            "error": str(second.get("error", ""))[:_MAX_ERROR_CHARS],
            "failed": not is_ready,
            "zygote": pid,
        }
    listener = descriptors[0] if descriptors else None
    return Supervisor(control, zygote_socket, pid), listener, ready_message


def _receive(zygote: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a message of the zygote with its descriptors; an empty dict if it is gone
    or sends invalid data."""
    data, descriptors, _, _ = socket.recv_fds(zygote, _MAX_MESSAGE_BYTES, 1)
    message: dict[str, Any] | list[Any] | None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    return (message if isinstance(message, dict) else {}), descriptors


def _exec_zygote(control: socket.socket, order: dict[str, Any]) -> NoReturn:
    """Confine this forked child and execute the zygote in it. Never returns."""
    try:
        # Holds over `execve`, and is what ends the zygote if this supervisor is killed
        # itself.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _prefer_oom_kill()
        null = os.open("/dev/null", os.O_RDWR)
        for standard_fd in (0, 1, 2):
            os.dup2(null, standard_fd)
        # Descriptor 3 is what the zygote expects; all others are closed.
        os.dup2(control.fileno(), 3)
        os.closerange(4, 4096)
        control_socket = socket.socket(fileno=3)
        os.set_inheritable(3, True)
        _apply_confinement(control_socket, order)
        python, program = (
            order["python"],
            os.path.join(
                os.path.dirname(os.path.abspath(__file__)), "inside/zygote.py"
            ),
        )
        # Without an SDK to load, nothing that is installed is to run.
        options, arguments = ([], ["--fork"]) if order["fork"] else (["-I", "-S"], [])
        os.execve(
            python,
            [python, *options, "-X", "utf8", program, "3", *arguments],
            order["env"],
        )
    except BaseException as error:  # reported to the host, which starts nothing
        failure = {
            "event": "ready",
            "error": f"{type(error).__name__}: {error}",
            "failed": True,
        }
        try:
            socket.socket(fileno=os.dup(3)).send(json.dumps(failure).encode())
        finally:
            os._exit(1)
    os._exit(1)


def _apply_confinement(control: socket.socket, order: dict[str, Any]) -> None:
    """Apply the complete confinement and report to the host what is in effect.

    Runs before anything of the plugin is loaded. Raises OSError if a required part is
    not available.
    """
    # `open` means that the operator disabled confinement.
    if order["open"]:
        confined = {"level": "none", "network": "open", "uid": None}
        control.send(json.dumps({"confined": confined}).encode())
        return
    abi = confine.landlock_abi()
    if not abi:
        raise OSError("This kernel does not support Landlock")
    read = [
        *confine.system_folders(),
        *order["read"],
        os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside"),
    ]
    write = order["write"]
    is_apart, listener = _unshare(order, read)
    port: int | None = None
    extra_folders: list[str] = []
    if is_apart:
        extra_folders = confine.extra_writable_folders(read + write)
        read, write = [*read, *confine.SYNTHETIC_FILES], [*write, *extra_folders]
    # Without a network namespace, Landlock allows connections to this one port.
    else:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    listener.listen(128)
    has_network = is_apart or abi >= 4
    confine.limit({"core": 0})
    has_changed_user = confine.drop_rights(_target_user(order, is_apart))
    confined = {
        "level": "landlock",
        "abi": abi,
        "namespaces": is_apart,
        "uid": order["uid"] if has_changed_user else None,
        "network": "namespace" if is_apart else "port" if has_network else "none",
        "port": port or PROXY_PORT,
        "writable_paths": extra_folders,
    }
    # The listener is passed to the host, which accepts the plugins' connections.
    control.sendmsg(
        [json.dumps({"confined": confined}).encode()],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))],
    )
    listener.close()
    # From here on restrictions apply to this process too, so they come last.
    confine.enter_landlock(read, write, confine.DEVICES, port)
    confine.enter_seccomp(
        is_apart=is_apart,
        has_network=has_network,
        has_scopes=abi >= 6 or has_changed_user,
    )


def _target_user(order: dict[str, Any], is_apart: bool) -> int | None:
    """Return the user to change to; None if that user could not read the interpreter
    and the code."""
    if is_apart:
        return order["uid"]
    paths = (order["python"], *order["read"], *order["write"])
    return order["uid"] if all(_is_accessible_to_all(path) for path in paths) else None


def _unshare(order: dict[str, Any], read: list[str]) -> tuple[bool, socket.socket]:
    """Return (whether a private root and network are in effect, a socket in that
    network)."""
    try:
        confine.unshare_namespaces()
    except OSError:
        if order.get("needs_namespaces"):
            raise
        return False, socket.socket()
    confine.raise_loopback()
    listener = socket.socket()
    # Bound inside the new network namespace; the socket stays in it.
    listener.bind(("127.0.0.1", PROXY_PORT))
    confine.build_root_filesystem(read, order["write"], confine.DEVICES, order["tmp"])
    return True, listener


def _is_accessible_to_all(path: str) -> bool:
    """Return whether another user can traverse the path to this file or folder."""
    while True:
        path = os.path.dirname(os.path.realpath(path))
        if not os.stat(path).st_mode & 1:
            return False
        if path == "/":
            return True


def _prefer_oom_kill() -> None:
    """Let the kernel end plugins before the server if memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # not ours to set here: then it is killed in its turn


def main() -> None:
    """Start the supervisor on the control socket given as the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    # Ctrl-C in a terminal reaches the whole group; the host ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Subreaper: orphans of plugins become children of this process instead of init.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 1)
    with open(descriptors[0], "rb") as file:
        # The host has written it, and its position is at the end.
        file.seek(0)
        order = json.load(file)
    supervisor, listener, ready_message = _start_zygote(control, order)
    rights = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
        if listener is not None
        else []
    )
    control.sendmsg([json.dumps(ready_message).encode()], rights)
    if listener is not None:
        os.close(listener)
    if not ready_message.get("failed"):
        supervisor.run()
    os._exit(0)


if __name__ == "__main__":
    main()
