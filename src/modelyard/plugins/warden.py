"""Starts the plugins of one environment, watches over them and ends all that they started. A program of its own.

    python warden.py CONTROL_FD [--fork]

It runs on the environment's own Python and imports nothing of Modelyard. With `--fork` it loads the SDK once and forks:
a plugin then starts in a fraction of the time and shares most of the memory. Without, each plugin is a new interpreter.

Why a process between host and plugins: a plugin's orphans fall to it, the nearest subreaper, so nothing that a plugin
forks can get away; and when the host is gone, however it went, the control socket ends here and everything is killed.

Messages are JSON, one a packet. Host → warden: `{"op": "spawn", "id", "cwd", "module", "env", "limits"}` with three
descriptors for the plugin's stdin, stdout and stderr; `{"op": "kill", "id", "signal"}`. Warden → host:
`{"event": "ready", "forks", "error"}`, `{"event": "spawned", "id", "pid"}`, `{"event": "exited", "id", "status"}` with
the wait status as `os.waitpid` gives it.
"""

# The SDK patches the standard library for gevent when it is imported. Everything that is used afterwards is taken here.
import ctypes
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

_fork, _waitpid, _read, _kill, _killpg = os.fork, os.waitpid, os.read, os.kill, os.killpg
_Socket, _poll, _monotonic = socket.socket, select.poll, time.monotonic
_recv_fds = socket.recv_fds
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SWEEP_SECONDS = 2.0
_MOST_MESSAGE = 1 << 20


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Warden:
    def __init__(self, control: Any, wakeup: int, *, forks: bool) -> None:
        self._control = control
        self._wakeup = wakeup
        self._forks = forks
        self._plugins: dict[int, int] = {}
        """Process → the host's number for it. Each leads a session of its own."""

    def run(self) -> None:
        """Until the host is gone; then nothing that was started here is left."""
        watch = _poll()
        watch.register(self._control.fileno(), select.POLLIN)
        watch.register(self._wakeup, select.POLLIN)
        while True:
            ready = watch.poll(_SWEEP_SECONDS * 1000)
            self._reap()
            for descriptor, _ in ready:
                if descriptor == self._wakeup:
                    _read(self._wakeup, 4096)
                elif not self._heed():
                    self._end_all()
                    return
            self._sweep()

    def _heed(self) -> bool:
        """Do what the host says next; False where it is gone."""
        try:
            data, descriptors, _, _ = _recv_fds(self._control, _MOST_MESSAGE, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "spawn":
            self._spawn(message, descriptors)
        elif message["op"] == "kill":
            for pid in [pid for pid, number in self._plugins.items() if number == message["id"]]:
                _signal_all(pid, message["signal"])
        return True

    def _spawn(self, message: dict[str, Any], descriptors: list[int]) -> None:
        pid = _fork()
        if pid == 0:
            self._become(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._plugins[pid] = message["id"]
        self.say({"event": "spawned", "id": message["id"], "pid": pid})

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """In the child: be the plugin."""
        warden = os.getppid()
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wakeup)
            os.setsid()
            _step_back(19)
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
                os.close(descriptor)
            if os.getppid() != warden:
                os._exit(1)  # it went before its death could be heard of
            _limit(message["limits"])
            os.chdir(message["cwd"])
            if not self._forks:
                os.execve(sys.executable, [sys.executable, "-m", message["module"]], message["env"])
            _run_here(message["module"], message["env"])
        except BaseException as error:  # whatever a plugin's module raises is its end, and is told on stderr
            code = 1
            if not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
            elif isinstance(error.code, str):
                sys.stderr.write(error.code + "\n")
            else:
                code = error.code or 0
            sys.stderr.flush()
            os._exit(code)
        os._exit(0)

    def say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            pass  # the host is gone: the next look at the socket finds that out

    def _reap(self) -> None:
        while True:
            try:
                pid, status = _waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._plugins:
                number = self._plugins.pop(pid)
                _signal_all(pid, signal.SIGKILL)  # what it started goes with it
                self.say({"event": "exited", "id": number, "status": status})

    def _sweep(self) -> None:
        """Kill what has lost its parent and belongs to no living plugin's session: it fell to us."""
        for pid in _children(os.getpid()):
            if pid not in self._plugins and _session(pid) not in self._plugins:
                _quietly(_kill, pid, signal.SIGKILL)

    def _end_all(self) -> None:
        for pid in list(self._plugins):
            _signal_all(pid, signal.SIGKILL)
        self._plugins.clear()
        until = _monotonic() + 5.0
        while _monotonic() < until:
            for pid in _children(os.getpid()):
                _quietly(_kill, pid, signal.SIGKILL)
            try:
                while _waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            select.select([], [], [], 0.01)


def _signal_all(pid: int, number: int) -> None:
    """To a plugin and, where it is the end, to its whole session."""
    if number == signal.SIGKILL:
        _quietly(_killpg, pid, number)
        for one in _of_session(pid):
            _quietly(_kill, one, number)
    _quietly(_kill, pid, number)


def _quietly(act: Any, *details: int) -> None:
    try:
        act(*details)
    except (ProcessLookupError, PermissionError):
        pass  # it was quicker


def _stat(pid: str) -> list[str]:
    """State, parent, group, session and the rest of /proc/PID/stat; nothing where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _children(parent: int) -> list[int]:
    wanted = str(parent)
    return [int(pid) for pid in _processes() if (stat := _stat(pid)) and stat[1] == wanted and stat[0] != "Z"]


def _of_session(session: int) -> list[int]:
    wanted = str(session)
    return [int(pid) for pid in _processes() if (stat := _stat(pid)) and stat[3] == wanted]


def _session(pid: int) -> int:
    stat = _stat(str(pid))
    return int(stat[3]) if stat else 0


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        if name == "nice":
            os.nice(value)
        elif name == "oom_score":
            try:
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write(str(value))
            except OSError:
                pass  # not ours to set here: then it is killed in its turn
        else:
            kind = getattr(resource, f"RLIMIT_{name.upper()}")
            hard = resource.getrlimit(kind)[1]
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (most, most))


def _step_back(nice: int) -> None:
    """Let others go first. A plugin does until the host has seen that it is ready: many that start disturb nobody."""
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        pass  # this kernel does not share processors out by sessions


def _run_here(module: str, env: dict[str, str]) -> None:
    """The plugin's module in this process, as `python -m` would run it."""
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, encoding="utf-8", closefd=False),
        open(1, "w", encoding="utf-8", closefd=False),
        open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False),
    )
    sys.argv = [module]
    sys.path.insert(0, os.getcwd())
    if "gevent" in sys.modules:
        import gevent  # pyright: ignore[reportMissingModuleSource]  the environment's

        gevent.reinit()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _load() -> str:
    """Import what every plugin imports; why that cannot be, or nothing."""
    try:
        __import__("dify_plugin")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    gc.collect()
    _immortalise()
    gc.freeze()
    return ""


def _immortalise() -> None:
    """Have Python leave the reference counts of all that is loaded alone: each that is written to after a fork takes a
    page of memory from what the plugins share. All of it lives as long as this process anyway.

    A count whose lower half is all ones is immortal in 3.12 and 3.13 (PEP 683); elsewhere nothing is done.
    """
    if sys.version_info[:2] not in ((3, 12), (3, 13)) or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return
    count = ctypes.c_uint32.from_address
    waiting = gc.get_objects()
    seen = {id(waiting)}
    while waiting:
        found = [one for one in waiting if id(one) not in seen]
        seen.update(map(id, found))
        for one in found:
            count(id(one)).value = 0xFFFFFFFF
        waiting = gc.get_referents(*found)


def main() -> None:
    control = _Socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    wake, wakeup = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *details: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the host, which ends us in its own way
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _step_back(5)
    forks = "--fork" in sys.argv
    error = _load() if forks else ""
    warden = Warden(control, wake, forks=forks and not error)
    warden.say({"event": "ready", "forks": forks and not error, "error": error})
    warden.run()
    os._exit(0)  # nothing of what the SDK patched is to be taken down in order


if __name__ == "__main__":
    main()
