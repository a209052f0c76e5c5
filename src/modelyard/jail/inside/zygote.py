"""A process that has loaded what programs need, and forks for each of them. It is started with an empty environment,
before there is any secret, and holds nothing that a program must not see.

Started as `python -I zygote.py FD NAME LIMITS [MODULE …]`. On FD it is told, one JSON message each:
{"op": "run", "id": n} with two descriptors (where the task is read, where the result goes), and
{"op": "kill", "id": n}. It says {"ready": true, "level": l} once, and {"id": n, "status": s} when a program ends.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine  # pyright: ignore[reportMissingImports]
import programs  # pyright: ignore[reportMissingImports]

_USUAL = (
    "asyncio", "base64", "bisect", "calendar", "collections", "copy", "csv", "datetime", "decimal", "difflib", "enum",
    "fractions", "functools", "hashlib", "heapq", "hmac", "html", "inspect", "io", "itertools", "json", "math",
    "operator", "pathlib", "pprint", "random", "re", "secrets", "statistics", "string", "struct", "textwrap",
    "threading", "time", "traceback", "types", "typing", "unicodedata", "urllib.parse", "uuid", "zlib", "zoneinfo",
)  # fmt: skip


def _plots(module: Any) -> Any:
    from matplotlib import font_manager, pyplot

    font_manager.findfont("sans")
    pyplot.figure().savefig(__import__("io").BytesIO())
    pyplot.close("all")


# What some libraries do when they are first used, and cannot do in the jail: write a cache, look for fonts.
_PREPARE = {
    "jieba": lambda module: (module.setLogLevel(60), module.initialize()),
    "matplotlib": _plots,
}


def load(names: Any) -> Any:
    loaded = []
    for name in names:
        try:
            module = __import__(name)
            if name in _PREPARE:
                _PREPARE[name](module)
        except Exception:
            continue
        loaded.append(name)
    return loaded


def child(rules: Any, limits: Any, taken: Any, link: Any) -> Any:
    """Shut in before it knows what it will run: it waits for the descriptors of a task. Never returns."""
    sink = None
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        null = os.open("/dev/null", os.O_RDWR)
        if rules >= 0:
            os.dup2(rules, 250)
        os.dup2(link.fileno(), 251)
        link.detach()
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(251, 3)
        if rules >= 0:
            rules = os.dup2(250, 4)
        os.closerange(4 if rules < 0 else 5, 1024)
        confine.confine(rules, limits, taken)
        trouble = None
    except BaseException as error:
        trouble = f"{type(error).__name__}: {error}"
    try:
        with socket.socket(fileno=3) as waiting:
            word, descriptors, _, _ = socket.recv_fds(waiting, 1, 2)
        if not word:
            os._exit(0)
        source, sink = descriptors
        if trouble is not None:
            answer(sink, {"jail": trouble})
            os._exit(3)
        head, data = read(source)
        told = {"result": programs.run(head, data)}
    except programs.Failed as error:
        told = {"error": str(error)}
    except MemoryError:
        told = {"error": "MemoryError: it took more memory than it may"}
    except BaseException as error:
        told = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
    if sink is not None:
        answer(sink, told)
    os._exit(0)


class Spare:
    """A child that waits for a task."""

    def __init__(self, rules: Any, limits: Any, taken: Any) -> None:
        self.link, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            child(rules, limits, taken, theirs)
        theirs.close()

    def give(self, descriptors: Any) -> Any:
        """Whether it took the task: one that was killed meanwhile does not."""
        try:
            socket.send_fds(self.link, [b"!"], descriptors)
        except OSError:
            return False
        finally:
            self.link.close()
        return True


def read(descriptor: Any) -> Any:
    """A line of JSON, and what follows it."""
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    os.close(descriptor)
    head, _, data = b"".join(pieces).partition(b"\n")
    return json.loads(head), data


def answer(descriptor: Any, document: Any) -> Any:
    try:
        data = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        data = json.dumps({"error": f"the result cannot be given back as JSON: {error}"}).encode()
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        pass


def main() -> Any:
    control = socket.socket(fileno=int(sys.argv[1]))
    name, limits, extra = sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
    has_landlock = limits["level"] != "namespaces" and confine.landlock_abi() > 0
    try:
        if not has_landlock:
            confine.set_apart()
        taken, rules = prepare(name, extra, has_landlock)
    except OSError as error:
        control.send(json.dumps({"ready": False, "error": str(error)}).encode())
        return
    level = "landlock" if has_landlock else "namespaces"
    serve(control, level, lambda: Spare(rules, limits, taken))


def prepare(name: Any, extra: Any, has_landlock: Any) -> Any:
    """Load, and shut the door: (bytes that this takes, Landlock's rules or -1)."""
    load(_USUAL)
    if name == "documents":
        load(("documents", "reading", *extra))
    else:
        load(("jinja2.sandbox", "quickjs", *extra))
    taken, folders = confine.address_space(), confine.readable_folders()
    rules = -1
    if has_landlock:
        rules = confine.ruleset([*folders, *confine.DEVICES], ("/dev/null",))
    else:
        confine.enclose(folders, confine.DEVICES)
    gc.collect()
    gc.freeze()
    gc.disable()
    return taken, rules


def serve(control: Any, level: Any, make: Any) -> Any:
    """Fork for whoever asks, until nobody does."""
    reading, waking = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(reading, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    running = {}
    spares = []
    control.send(json.dumps({"ready": True, "level": level}).encode())
    spares.append(make())
    while True:
        ready, _, _ = select.select([control, reading], [], [])
        if reading in ready:
            try:
                os.read(reading, 4096)
            except BlockingIOError:
                pass
            reap(running, spares, control)
        if control in ready and not heed(control, running, spares, make):
            for one in spares:
                os.kill(one.pid, signal.SIGKILL)
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return


def heed(control: Any, running: Any, spares: Any, make: Any) -> Any:
    """Do what is asked; False once nobody asks any more."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, 65536, 2)
    except OSError:
        return False
    if not message:
        return False
    told = json.loads(message)
    if told["op"] == "kill":
        for pid, number in running.items():
            if number == told["id"]:
                os.kill(pid, signal.SIGKILL)
        return True
    # A fork takes longer than most programs: one is always made beforehand.
    spare = spares.pop() if spares else make()
    if not spare.give(descriptors):
        spare = make()
        spare.give(descriptors)
    for one in descriptors:
        os.close(one)
    running[spare.pid] = told["id"]
    spares.append(make())
    return True


def reap(running: Any, spares: Any, control: Any) -> Any:
    while running or spares:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        spares[:] = [one for one in spares if one.pid != pid]
        number = running.pop(pid, None)
        if number is not None:
            try:
                control.send(json.dumps({"id": number, "status": status}).encode())
            except OSError:
                return


if __name__ == "__main__":
    main()
