"""Imports the plugin SDK and forks plugins. The supervisor (`supervisor.py`) has already
confined this process.

    python zygote.py CONTROL_FD [--fork]

With `--fork` it runs on the Python of an environment that has only the SDK and what it
needs; packages may execute code at startup, so nothing that this process does or says
is trusted. Otherwise it loads nothing. It serves one tenant. A plugin whose environment
has the same SDK is forked, and goes on with its own packages; another one is executed
by its environment's Python. Messages are JSON, one per packet. Supervisor → zygote:
`{"op": "spawn", "id", "cwd", "module", "env", "python", "packages", "fork", "limits",
"read", "write", "port", "private"}` with three descriptors for stdin, stdout, stderr.
Zygote → supervisor: `{"event": "ready"}`, `{"event": "spawned", "id", "pid"}`,
`{"event": "exited", "id", "status"}`, `{"event": "not_loaded", "error"}`.
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
        """With `forks`, the SDK is loaded for the first plugin that shares it."""
        self._control = control
        self._wakeup = wakeup
        self._forks = forks
        self._has_loaded = False
        self._waiting: list[tuple[dict[str, Any], list[int]]] = []
        """Spawn requests, with their descriptors, that wait for the SDK."""
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
            # Plugins that do not need the SDK from here are not to wait for it.
            if self._waiting and not watch.poll(0):
                self._load()

    def _load(self) -> None:
        """Load the SDK, and fork the plugins that wait for it. If it cannot be loaded,
        they are executed in fresh interpreters and report the error themselves."""
        self._has_loaded = True
        if error := _preload():
            self._forks = False
            self.say({"event": "not_loaded", "id": 0, "pid": 0, "error": error})
        for message, descriptors in self._waiting:
            self._spawn(message, descriptors)
        self._waiting.clear()

    def _handle_command(self) -> bool:
        """Receive one spawn request, and fork the plugin unless it has to wait for the
        SDK. Returns False if the control socket has been closed."""
        try:
            data, descriptors, _, _ = _recv_fds(self._control, _MAX_MESSAGE_BYTES, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["fork"] and self._forks and not self._has_loaded:
            self._waiting.append((message, descriptors))
        else:
            self._spawn(message, descriptors)
        return True

    def _spawn(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Fork a plugin and send `spawned` to the supervisor. The descriptors become
        the child's standard streams."""
        pid = _fork()
        if pid == 0:
            self._run_plugin(message, descriptors)
        # The child has its own copies of the descriptors.
        for descriptor in descriptors:
            os.close(descriptor)
        self._plugins[pid] = message["id"]
        self.say({"event": "spawned", "id": message["id"], "pid": pid})

    def _run_plugin(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Run the plugin in the forked child. Never returns."""
        zygote = os.getppid()
        try:
            self._leave_zygote(descriptors)
            if _getppid() != zygote:
                os._exit(1)  # the zygote exited before the death signal was set
            _apply_limits(message)
            os.chdir(message["cwd"])
            python, packages = message["python"], message["packages"]
            # Without the same SDK the child executes a fresh interpreter instead.
            is_forked = message["fork"] and self._forks
            if not is_forked or _MISSED.are_in(packages):
                arguments = [python, "-m", message["module"]]
                os.execve(python, arguments, message["env"])
            _adopt_environment(python, packages)
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

    def _leave_zygote(self, descriptors: list[int]) -> None:
        """Make a forked child end with the zygote, give up what belongs to the zygote,
        and take the descriptors as standard streams."""
        ctypes.CDLL(None, use_errno=True).prctl(
            _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0
        )
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        os.close(self._wakeup)
        # Others that wait with this one keep their streams to themselves.
        for _, others in self._waiting:
            for descriptor in set(others) - set(descriptors):
                _close(descriptor)
        # Each plugin leads a session, by which the supervisor finds all its
        # descendants.
        os.setsid()
        for index, descriptor in enumerate(descriptors):
            os.dup2(descriptor, index)
            os.close(descriptor)

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


def _apply_limits(message: dict[str, Any]) -> None:
    """Restrict this process to what a spawn request allows, irrevocably."""
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
        confine.enter_landlock(read, message["write"], confine.DEVICES, message["port"])


class _MissedModules:
    """Records the modules that the SDK looks for and that are not installed: packages
    adapt to what they find."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Record a module that no other finder has found."""
        del path, target
        self._names.add(name)

    def are_in(self, packages: str) -> bool:
        """Return whether a folder of packages has one of the modules."""
        for name in self._names:
            parent, _, module = name.replace(".", "/").rpartition("/")
            try:
                files = os.listdir(os.path.join(packages, parent))
            except OSError:
                continue  # without the parent there is no module
            # A folder, a Python file, or a library such as `x.cpython-312-….so`.
            if any(file.partition(".")[0] == module for file in files):
                return True
        return False


_MISSED = _MissedModules()


def _adopt_environment(python: str, packages: str) -> None:
    """Replace the packages that this process imports from by those of the plugin's own
    environment. What is loaded stays, and is equal there."""
    import site

    folder = os.path.dirname(os.path.dirname(python))
    shared = set(site.getsitepackages())
    sys.meta_path.remove(_MISSED)  # pyright: ignore[reportArgumentType]  a duck-typed finder
    sys.path[:] = [path for path in sys.path if path not in shared]
    sys.prefix = sys.exec_prefix = folder
    sys.executable = python
    site.PREFIXES[:] = [folder, folder]
    # With the folders that path files name, as at the start of an interpreter.
    site.addsitedir(packages)
    # It remembers the prefix; whoever needs it loads it again.
    sys.modules.pop("sysconfig", None)


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


def _close(descriptor: int) -> None:
    """Close a descriptor, which may be closed already."""
    try:
        os.close(descriptor)
    except OSError:
        pass


def _flush_outputs() -> None:
    """Write what the plugin has printed; its process ends without doing it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the host has gone, or the plugin has closed or replaced the stream


def _preload() -> str:
    """Import the SDK, and freeze its objects. Returns an error text, or "" on success."""
    # The last finder is asked for what no other one has.
    sys.meta_path.append(_MISSED)  # pyright: ignore[reportArgumentType]  a duck-typed finder
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
    zygote = Zygote(control, wake, forks=forks)
    zygote.say({"event": "ready"})
    zygote.run()
    os._exit(0)  # nothing of what the SDK patched is to be taken down in order


if __name__ == "__main__":
    main()
