"""Imports the plugin SDK and forks plugins. The supervisor (`supervisor.py`) has already
confined this process.

    python zygote.py CONTROL_FD [--fork]

It runs on the environment's own Python, whose packages may execute code at startup, so
nothing that this process does or says is trusted. It serves one tenant. Messages are
JSON, one per packet. Supervisor → zygote: `{"op": "spawn", "id", "cwd", "module",
"env", "limits", "read", "write", "port", "private"}` with three descriptors for stdin,
stdout, stderr. Zygote → supervisor: `{"event": "ready", "forks", "error"}`, `{"event":
"spawned", "id", "pid"}`, `{"event": "exited", "id", "status"}`.
"""

# Importing the SDK patches the standard library for gevent, so the original functions
# are saved here.
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if TYPE_CHECKING:
    from modelyard.plugins.inside import confine
else:
    import confine  # next to this file

# Plugins must not be able to import the modules next to this file.
sys.path[:] = [
    path
    for path in sys.path
    if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))
]

# Taken before the SDK is loaded, whose gevent replaces them.
_fork, _waitpid, _read, _getppid = os.fork, os.waitpid, os.read, os.getppid
_Socket, _poll = socket.socket, select.poll
_recv_fds = socket.recv_fds
_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE_BYTES = 1 << 20


class Zygote:
    """Forks plugins on request of the supervisor."""

    def __init__(self, control: Any, wakeup: int, *, forks: bool) -> None:
        self._control = control
        self._wakeup = wakeup
        self._forks = forks
        self._plugins: dict[int, int] = {}
        """Process id → the host's id of the plugin."""

    def run(self) -> None:
        """Handle requests and exits until the supervisor has exited."""
        watch = _poll()
        watch.register(self._control.fileno(), select.POLLIN)
        watch.register(self._wakeup, select.POLLIN)
        while True:
            ready = watch.poll()
            # Children are collected first: a packet and an exit may arrive together.
            self._reap()
            for descriptor, _ in ready:
                if descriptor == self._wakeup:
                    _read(self._wakeup, 4096)
                elif not self._handle_command():
                    return

    def _handle_command(self) -> bool:
        """Receive one spawn request and fork the plugin.

        The descriptors that come with it become the child's standard streams. Sends
        `spawned` to the supervisor. Returns False if the control socket has been
        closed.
        """
        try:
            data, descriptors, _, _ = _recv_fds(self._control, _MAX_MESSAGE_BYTES, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        pid = _fork()
        if pid == 0:
            self._run_plugin(message, descriptors)
        # The child has its own copies of the descriptors.
        for descriptor in descriptors:
            os.close(descriptor)
        self._plugins[pid] = message["id"]
        self.say({"event": "spawned", "id": message["id"], "pid": pid})
        return True

    def _run_plugin(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Run the plugin in the forked child. Never returns."""
        zygote = os.getppid()
        try:
            ctypes.CDLL(None, use_errno=True).prctl(
                _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0
            )
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wakeup)
            # Each plugin leads a session, by which the supervisor finds all its
            # descendants.
            os.setsid()
            for index, descriptor in enumerate(descriptors):
                os.dup2(descriptor, index)
                os.close(descriptor)
            if _getppid() != zygote:
                os._exit(1)  # the zygote exited before the death signal was set
            confine.limit(message["limits"])
            if message["private"]:
                confine.set_not_dumpable()
            # Of the zygote's paths, this plugin may only use its own.
            if message["read"]:
                read = [
                    *confine.system_folders(),
                    *confine.SYNTHETIC_FILES,
                    *message["read"],
                ]
                confine.enter_landlock(
                    read, message["write"], confine.DEVICES, message["port"]
                )
            os.chdir(message["cwd"])
            # Without a preloaded SDK the child executes a fresh interpreter instead.
            if not self._forks:
                os.execve(
                    sys.executable,
                    [sys.executable, "-m", message["module"]],
                    message["env"],
                )
            _run_module(message["module"], message["env"])
        except BaseException as error:
            # Any error of the plugin's module ends the process and is printed to stderr.
            # The exit code follows the interpreter's own rules for SystemExit.
            code = 1
            if not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
            elif isinstance(error.code, str):
                sys.stderr.write(error.code + "\n")
            else:
                code = error.code or 0
            _flush_outputs()
            os._exit(code)
        _flush_outputs()
        os._exit(0)

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to the supervisor."""
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            pass  # the supervisor has exited, which the next poll of the socket reports

    def _reap(self) -> None:
        """Collect exited children, and send `exited` for those that are plugins.

        Does not wait for children that still run.
        """
        while True:
            try:
                pid, status = _waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._plugins:
                self.say(
                    {
                        "event": "exited",
                        "id": self._plugins.pop(pid),
                        "pid": pid,
                        "status": status,
                    }
                )


def _run_module(module: str, env: dict[str, str]) -> None:
    """Run the plugin's module in this process, as `python -m` would."""
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, encoding="utf-8", closefd=False),
        # Line by line, so that what it prints is not lost when it is killed.
        open(1, "w", buffering=1, encoding="utf-8", closefd=False),
        # As the interpreter opens it: no error message may fail to be printed.
        open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False),
    )
    sys.argv = [module]
    sys.path.insert(0, os.getcwd())
    # gevent's event loop does not survive a fork.
    if "gevent" in sys.modules:
        import gevent  # pyright: ignore[reportMissingModuleSource]  the environment's

        gevent.reinit()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _flush_outputs() -> None:
    """Write what the plugin has printed; its process ends without doing it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the host has gone, or the plugin has closed or replaced the stream


def _preload() -> str:
    """Import the SDK, and freeze its objects. Returns an error text, or "" on success."""
    try:
        __import__("dify_plugin")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    # Collect garbage before freezing, so that only live objects become immortal.
    gc.collect()
    _freeze_objects()
    gc.freeze()
    return ""


def _freeze_objects() -> None:
    """Make all loaded objects immortal, so that reference counting after a fork does
    not copy shared memory pages.

    All of them live as long as this process anyway. Uses the immortal reference count
    of Python 3.12 and 3.13 (PEP 683); does nothing on other versions.
    """
    if (
        sys.version_info[:2] not in ((3, 12), (3, 13))
        or sys.maxsize < 1 << 32
        # The low half of the count comes first only on 64-bit little-endian machines.
        or sys.byteorder != "little"
    ):
        return
    count = ctypes.c_uint32.from_address
    # Breadth-first over everything reachable from the tracked objects.
    waiting = gc.get_objects()
    # Not the list itself, which is freed when this is done.
    visited_ids = {id(waiting)}
    while waiting:
        new_objects = [
            candidate for candidate in waiting if id(candidate) not in visited_ids
        ]
        visited_ids.update(map(id, new_objects))
        for new_object in new_objects:
            count(id(new_object)).value = 0xFFFFFFFF
        waiting = gc.get_referents(*new_objects)


def main() -> None:
    """Start the zygote on the control socket given as the first argument."""
    control = _Socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    # A pipe for signals: SIGCHLD wakes the poll in `run`.
    wake, wakeup = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # Without a handler in Python, nothing is written to the pipe for this signal.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forks = "--fork" in sys.argv
    error = _preload() if forks else ""
    # If the SDK cannot be imported, plugins are executed in fresh interpreters and
    # report the error themselves.
    zygote = Zygote(control, wake, forks=forks and not error)
    zygote.say({"event": "ready", "forks": forks and not error, "error": error})
    zygote.run()
    os._exit(0)  # nothing of what the SDK patched is to be taken down in order


if __name__ == "__main__":
    main()
