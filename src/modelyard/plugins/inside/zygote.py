"""Loads the SDK and forks plugins, shut in already by the warden that started it.

    python zygote.py CONTROL_FD [--fork]

It runs on the environment's own Python, whose packages may run code as soon as it starts: so nothing that this process
does or says is trusted. It serves one tenant. Messages are JSON, one a packet. Warden → zygote: `{"op": "spawn", "id",
"cwd", "module", "env", "limits", "read", "write", "port", "private"}` with three descriptors for stdin, stdout, stderr.
Zygote → warden: `{"event": "ready", "forks", "error"}`, `{"event": "spawned", "id", "pid"}`, `{"event": "exited", "id",
"status"}`.
"""

# The SDK patches the standard library for gevent when it is imported. Everything that is used afterwards is taken here.
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine  # pyright: ignore[reportMissingImports]  beside this file, which is no package here

sys.path[:] = [one for one in sys.path if os.path.abspath(one) != os.path.dirname(os.path.abspath(__file__))]

_fork, _waitpid, _read, _getppid = os.fork, os.waitpid, os.read, os.getppid
_Socket, _poll = socket.socket, select.poll
_recv_fds = socket.recv_fds
_PR_SET_PDEATHSIG = 1
_MOST_MESSAGE = 1 << 20


class Zygote:
    def __init__(self, control: Any, wakeup: int, *, forks: bool) -> None:
        self._control = control
        self._wakeup = wakeup
        self._forks = forks
        self._plugins: dict[int, int] = {}
        """Process → the host's number for it."""

    def run(self) -> None:
        """Until the warden is gone."""
        watch = _poll()
        watch.register(self._control.fileno(), select.POLLIN)
        watch.register(self._wakeup, select.POLLIN)
        while True:
            ready = watch.poll()
            self._reap()
            for descriptor, _ in ready:
                if descriptor == self._wakeup:
                    _read(self._wakeup, 4096)
                elif not self._heed():
                    return

    def _heed(self) -> bool:
        try:
            data, descriptors, _, _ = _recv_fds(self._control, _MOST_MESSAGE, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        pid = _fork()
        if pid == 0:
            self._become(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._plugins[pid] = message["id"]
        self.say({"event": "spawned", "id": message["id"], "pid": pid})
        return True

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """In the child: be the plugin."""
        zygote = os.getppid()
        try:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wakeup)
            os.setsid()
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
                os.close(descriptor)
            if _getppid() != zygote:
                os._exit(1)  # it went before its death could be heard of
            confine.limit(message["limits"])
            if message["private"]:
                confine.not_dumpable()
            if message["read"]:  # of what the zygote may reach, this plugin's part
                read = [*confine.system_folders(), *confine.FILLED_IN, *message["read"]]
                confine.enter_landlock(read, message["write"], confine.DEVICES, message["port"])
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
            pass  # the warden is gone: the next look at the socket finds that out

    def _reap(self) -> None:
        while True:
            try:
                pid, status = _waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._plugins:
                self.say({"event": "exited", "id": self._plugins.pop(pid), "pid": pid, "status": status})


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forks = "--fork" in sys.argv
    error = _load() if forks else ""
    zygote = Zygote(control, wake, forks=forks and not error)
    zygote.say({"event": "ready", "forks": forks and not error, "error": error})
    zygote.run()
    os._exit(0)  # nothing of what the SDK patched is to be taken down in order


if __name__ == "__main__":
    main()
