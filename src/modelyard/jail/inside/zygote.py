"""A process that has loaded what programs need, and forks for each of them. It is started with an empty environment,
before there is any secret, and holds nothing that a program must not see.

Started as `python -I zygote.py FD NAME [MODULE …]`. On FD it is told, one JSON message each:
{"op": "run", "id": n, "limits": {…}} with two descriptors (where the task is read, where the result goes), and
{"op": "kill", "id": n}. It says {"ready": true, "abi": n} once, and {"id": n, "status": s} when a program ends.
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


def child(rules: Any, limits: Any, taken: Any, source: Any, sink: Any) -> Any:
    """Never returns."""
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(rules, 250)
        os.dup2(source, 251)
        os.dup2(sink, 252)
        os.dup2(251, 3)
        os.dup2(252, 4)
        os.dup2(250, 5)
        os.closerange(6, 1024)
        confine.confine(5, limits, taken)
    except BaseException as error:
        answer(4, {"jail": f"{type(error).__name__}: {error}"})
        os._exit(3)
    try:
        head, data = read(3)
        answer(4, {"result": programs.run(head, data)})
        code = 0
    except programs.Failed as error:
        answer(4, {"error": str(error)})
        code = 0
    except MemoryError:
        answer(4, {"error": "MemoryError: it took more memory than it may"})
        code = 0
    except BaseException as error:
        answer(4, {"error": f"{type(error).__name__}: {str(error)[:1000]}"})
        code = 0
    os._exit(code)


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
    name, extra = sys.argv[2], sys.argv[3:]
    load(_USUAL)
    if name == "documents":
        load(("documents", *extra))
    else:
        load(("jinja2.sandbox", "quickjs", *extra))
    abi = confine.landlock_abi()
    try:
        rules = confine.ruleset(confine.readable_folders(), ("/dev/null",))
    except OSError as error:
        control.send(json.dumps({"ready": False, "error": str(error)}).encode())
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    taken = confine.address_space()
    reading, waking = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(reading, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    running = {}
    control.send(json.dumps({"ready": True, "abi": abi, "taken": taken}).encode())
    while True:
        ready, _, _ = select.select([control, reading], [], [])
        if reading in ready:
            try:
                os.read(reading, 4096)
            except BlockingIOError:
                pass
            reap(running, control)
        if control in ready and not heed(control, running, rules, taken):
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return


def heed(control: Any, running: Any, rules: Any, taken: Any) -> Any:
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
    source, sink = descriptors
    pid = os.fork()
    if pid == 0:
        child(rules, told["limits"], taken, source, sink)
    os.close(source)
    os.close(sink)
    running[pid] = told["id"]
    return True


def reap(running: Any, control: Any) -> Any:
    while running:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        number = running.pop(pid, None)
        if number is not None:
            try:
                control.send(json.dumps({"id": number, "status": status}).encode())
            except OSError:
                return


if __name__ == "__main__":
    main()
