"""Shuts in the process that starts a tenant's plugins of one environment, watches over it and ends all that came of it.

    python -I -S warden.py CONTROL_FD

A program of its own. It runs on the Python that the environment was made from, without site packages, and imports
nothing but the standard library: what an environment brings is loaded by the zygote (`inside/zygote.py`), which the
warden starts once all that shuts it in holds.

Why a process between host and plugins: a plugin's orphans fall to it, the nearest subreaper, so nothing that a plugin
forks can get away; and when the host is gone, however it went, the control socket ends here and everything is killed.

Messages are JSON, one a packet. The host's first is what to start: `{"python", "fork", "read", "write", "tmp", "uid",
"open"}`. Then host → warden: `{"op": "spawn", "id", …}` with three descriptors, handed on to the zygote; `{"op":
"kill", "id", "signal"}`. Warden → host: `{"event": "ready", "forks", "error", "confined", "zygote"}`, with a descriptor
on which plugins' connections arrive; `{"event": "spawned", "id", "pid"}`, `{"event": "exited", "id", "status"}` with
the wait status as `os.waitpid` gives it.
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
from typing import Any, NoReturn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside"))
import confine  # pyright: ignore[reportMissingImports]  it lies there, which is no package here

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SWEEP_SECONDS = 2.0
_MOST_MESSAGE = 1 << 20
_BEGAN = 19
"""Where /proc/PID/stat says when a process began, counted from its state."""
PROXY_PORT = 3128
"""Where plugins find their way out, in a network of their own."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Warden:
    def __init__(self, control: socket.socket, zygote: socket.socket, zygote_pid: int) -> None:
        self._control = control
        self._zygote = zygote
        self._zygote_pid = zygote_pid
        self._plugins: dict[int, tuple[int, str]] = {}
        """Process → the host's number for it, and when it began. Each leads a session of its own."""

    def run(self) -> None:
        """Until the host is gone, or the zygote; then nothing that was started here is left."""
        watch = select.poll()
        watch.register(self._control.fileno(), select.POLLIN)
        watch.register(self._zygote.fileno(), select.POLLIN)
        while True:
            ready = watch.poll(_SWEEP_SECONDS * 1000)
            for descriptor, _ in ready:
                heed = self._heed if descriptor == self._control.fileno() else self._heed_zygote
                if not heed():
                    self._end_all()
                    return
            if not ready:
                self._sweep()

    def _heed(self) -> bool:
        """Do what the host says next; False where it is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _MOST_MESSAGE, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "spawn":
            try:
                socket.send_fds(self._zygote, [data], descriptors)
            except OSError:
                return False
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        elif message["op"] == "kill":
            for pid, (number, began) in list(self._plugins.items()):
                if number == message["id"]:
                    _signal_all(pid, began, message["signal"])
        return True

    def _heed_zygote(self) -> bool:
        """Take what the zygote says, as far as it can be believed: it may be a plugin's by now. What it calls a plugin
        is a child of its, and what is signalled later is that process and no other that has its number."""
        try:
            message = json.loads(self._zygote.recv(_MOST_MESSAGE))
            event, number, pid = message["event"], int(message["id"]), int(message["pid"])
            status = int(message.get("status", 0)) & 0xFFFF
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        if event == "spawned":
            stat = _stat(str(pid))
            if stat and stat[1] != str(self._zygote_pid):
                return False
            if stat:
                self._plugins[pid] = (number, stat[_BEGAN])
                _step_back(pid, 19)
            self.say({"event": "spawned", "id": number, "pid": pid if stat else 0})
        elif event == "exited" and (known := self._plugins.pop(pid, (number, ""))) and known[0] == number:
            if known[1]:
                _signal_all(pid, known[1], signal.SIGKILL)  # what it started goes with it
            self._sweep()
            self.say({"event": "exited", "id": number, "status": status})
        return True

    def say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            pass  # the host is gone: the next look at the socket finds that out

    def _sweep(self) -> None:
        """Kill what has lost its parent and belongs to no living plugin's session: it fell to us."""
        for pid in _children(os.getpid()):
            if pid != self._zygote_pid and pid not in self._plugins and _session(pid) not in self._plugins:
                _quietly(os.kill, pid, signal.SIGKILL)
        _reap()

    def _end_all(self) -> None:
        for pid, (_, began) in list(self._plugins.items()):
            _signal_all(pid, began, signal.SIGKILL)
        self._plugins.clear()
        _quietly(os.kill, self._zygote_pid, signal.SIGKILL)
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            for pid in _children(os.getpid()):
                _quietly(os.kill, pid, signal.SIGKILL)
            if not _reap():
                return
            time.sleep(0.01)


def _reap() -> bool:
    """Whether there are children still."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_all(pid: int, began: str, number: int) -> None:
    """To a plugin and, where it is the end, to its whole session; to nobody where its number is another's by now."""
    stat = _stat(str(pid))
    if stat and stat[_BEGAN] != began:
        return
    if number == signal.SIGKILL:
        _quietly(os.killpg, pid, number)
        for one in _of_session(pid):
            _quietly(os.kill, one, number)
    _quietly(os.kill, pid, number)


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


def _step_back(pid: int | str, nice: int) -> None:
    """Let others go first. A plugin does until the host has seen that it is ready: many that start disturb nobody."""
    try:
        with open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        pass  # this kernel does not share processors out by sessions


# ------------------------------------------------------------------------------------------------ the zygote


def _begin(control: socket.socket, order: dict[str, Any]) -> tuple[Warden, int | None, dict[str, Any]]:
    """Start the zygote: its warden, the descriptor that connections arrive on, and what the host is told."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        control.close()
        ours.close()
        _become(theirs, order)
    theirs.close()
    # The first word is said before anything foreign runs. What holds is told there, and nowhere else.
    first, descriptors = _heard(ours)
    told: dict[str, Any] = {"event": "ready", "forks": False, "error": str(first.get("error", "")), "failed": True}
    if "confined" in first:
        second, _ = _heard(ours)
        error, forks = str(second.get("error", ""))[:2000], second.get("forks") is True
        is_there = second.get("event") == "ready"
        told |= {"confined": first["confined"], "forks": forks, "error": error, "failed": not is_there, "zygote": pid}
    listener = descriptors[0] if descriptors else None
    return Warden(control, ours, pid), listener, told


def _heard(zygote: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A word of the zygote's, and what came with it; empty where it is gone or says nothing that can be read."""
    data, descriptors, _, _ = socket.recv_fds(zygote, _MOST_MESSAGE, 1)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = {}
    return (found if isinstance(found, dict) else {}), descriptors


def _become(control: socket.socket, order: dict[str, Any]) -> NoReturn:
    """In the child: shut this process in, and be the zygote."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _last_to_live()
        null = os.open("/dev/null", os.O_RDWR)
        for place in (0, 1, 2):
            os.dup2(null, place)
        os.dup2(control.fileno(), 3)
        os.closerange(4, 4096)
        kept = socket.socket(fileno=3)
        os.set_inheritable(3, True)
        _shut_in(kept, order)
        python, program = order["python"], os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside/zygote.py")
        options = ["--fork"] if order["fork"] else []
        os.execve(python, [python, "-X", "utf8", program, "3", *options], order["env"])
    except BaseException as error:  # the host is told, and starts nothing
        told = {"event": "ready", "forks": False, "error": f"{type(error).__name__}: {error}", "failed": True}
        try:
            socket.socket(fileno=os.dup(3)).send(json.dumps(told).encode())
        finally:
            os._exit(1)
    os._exit(1)


def _shut_in(control: socket.socket, order: dict[str, Any]) -> None:
    """All that is held against a plugin, before anything of its is loaded; what holds is told to the host.

    Raises OSError where a part that must hold does not.
    """
    if order["open"] or not confine.landlock_abi():
        if not order["open"]:
            raise OSError("this kernel has no Landlock")
        control.send(json.dumps({"confined": {"level": "none", "network": "open", "uid": None}}).encode())
        return
    abi = confine.landlock_abi()
    read = [
        *confine.system_folders(),
        *order["read"],
        os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside"),
    ]
    write = order["write"]
    is_apart, listener = _apart(order, read)
    port: int | None = None
    own = confine.own_folders(read + write) if is_apart else []
    if is_apart:
        read, write = [*read, *confine.FILLED_IN], [*write, *own]
    else:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    listener.listen(128)
    has_network = is_apart or abi >= 4
    confine.limit({"core": 0})
    can_move = is_apart or all(_is_open_to_all(one) for one in (order["python"], *order["read"], *order["write"]))
    is_other = confine.drop_rights(order["uid"] if can_move else None)
    confined = {
        "level": "landlock", "abi": abi, "namespaces": is_apart, "uid": order["uid"] if is_other else None,
        "network": "namespace" if is_apart else "port" if has_network else "none", "port": port or PROXY_PORT,
        "own": own,
    }  # fmt: skip
    message = [json.dumps({"confined": confined}).encode()]
    control.sendmsg(message, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
    listener.close()
    confine.enter_landlock(read, write, confine.DEVICES, port)
    confine.enter_seccomp(is_apart=is_apart, has_network=has_network, has_scopes=abi >= 6 or is_other)


def _apart(order: dict[str, Any], read: list[str]) -> tuple[bool, socket.socket]:
    """A root and a network of its own, where they may be had, and a socket in that network."""
    try:
        confine.set_apart()
    except OSError:
        if order.get("needs_namespaces"):
            raise
        return False, socket.socket()
    confine.raise_loopback()
    listener = socket.socket()
    listener.bind(("127.0.0.1", PROXY_PORT))
    confine.enclose(read, order["write"], confine.DEVICES, order["tmp"])
    return True, listener


def _is_open_to_all(path: str) -> bool:
    """Whether another user gets as far as this folder or file."""
    while True:
        path = os.path.dirname(os.path.realpath(path))
        if not os.stat(path).st_mode & 1:
            return False
        if path == "/":
            return True


def _last_to_live() -> None:
    """Where memory runs out, plugins are ended before the server is."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # not ours to set here: then it is killed in its turn


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the host, which ends us in its own way
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _step_back("self", 5)
    warden, listener, told = _begin(control, json.loads(control.recv(_MOST_MESSAGE)))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))] if listener is not None else []
    control.sendmsg([json.dumps(told).encode()], rights)
    if listener is not None:
        os.close(listener)
    if not told.get("failed"):
        warden.run()
    os._exit(0)


if __name__ == "__main__":
    main()
