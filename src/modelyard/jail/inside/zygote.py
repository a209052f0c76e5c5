"""A process that has loaded what programs need, and forks for each of them. It is started with an empty environment,
before there is any secret, and holds nothing that a program must not see.

Started as `python -I zygote.py FD NAME LIMITS [MODULE …]`. On FD it is told, one JSON message each:
{"op": "run", "id": n} with two descriptors (where the task is read, where the result goes), and
{"op": "kill", "id": n}. It says {"ready": true, "level": l, "memory": bytes} once, and
{"id": n, "status": s, "threads": whether it had too many} when a program ends.
"""

import errno
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
        listener = confine.confine(rules, limits, taken)
        trouble = None
    except BaseException as error:
        listener, trouble = -1, f"{type(error).__name__}: {error}"
    try:
        with socket.socket(fileno=3) as waiting:
            hand_over(waiting, listener)
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


def hand_over(link: Any, listener: Any) -> Any:
    """The listener to the parent; a word alone where there is none."""
    if listener < 0:
        link.send(b"-")
        return
    socket.send_fds(link, [b"l"], [listener])
    os.close(listener)


class Child:
    """A child that waits for a task, and then does it.

    It may have so many threads and no more: it asks at `listener` for each. Where the kernel cannot do that, it is
    looked at ten times a second, and killed where it has more.
    """

    def __init__(self, rules: Any, limits: Any, taken: Any, proc: Any) -> None:
        self.most, self.proc = limits["threads"], proc
        self.number, self.listener, self.granted = None, -1, 0
        self.has_said = self.is_watched = self.has_too_many = False
        self.link, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            child(rules, limits, taken, theirs)
        theirs.close()

    def give(self, number: Any, descriptors: Any) -> Any:
        """Whether it took the task: one that was killed meanwhile does not."""
        try:
            socket.send_fds(self.link, [b"!"], descriptors)
        except OSError:
            self.close()
            return False
        self.number = number
        self.done_talking()
        return True

    def hear(self) -> Any:
        """It says once how its threads are counted."""
        try:
            word, descriptors, _, _ = socket.recv_fds(self.link, 1, 1)
        except OSError:
            word, descriptors = b"", []
        self.listener = descriptors[0] if descriptors else -1
        self.is_watched = word == b"-"
        self.has_said = True
        self.done_talking()

    def done_talking(self) -> Any:
        if self.has_said and self.number is not None:
            self.link.close()

    def decide(self) -> Any:
        """Let it have the thread that it asks for, or not."""
        try:
            confine.answer_thread(self.listener, self.may_have_another)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):
                self.stop_listening()

    def may_have_another(self) -> Any:
        known = confine.threads_of(self.pid, self.proc)
        may = (self.granted + 1 if known is None else known) < self.most
        self.granted += may
        return may

    def look(self) -> Any:
        """End it where it has more threads than it may."""
        known = confine.threads_of(self.pid, self.proc)
        if known is not None and known > self.most:
            self.has_too_many = True
            os.kill(self.pid, signal.SIGKILL)

    def stop_listening(self) -> Any:
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1

    def close(self) -> Any:
        self.has_said = True
        self.link.close()
        self.stop_listening()


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
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not has_landlock:
            confine.set_apart()
        taken, rules = prepare(name, extra, has_landlock)
    except OSError as error:
        control.send(json.dumps({"ready": False, "error": str(error)}).encode())
        return
    level = "landlock" if has_landlock else "namespaces"
    ready = {"ready": True, "level": level, "memory": resident(proc)}
    Zygote(control, lambda: Child(rules, limits, taken, proc)).serve(ready)


def resident(proc: Any) -> Any:
    """Bytes of memory that this process has for itself; 0 where that cannot be seen."""
    try:
        file = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return 0
    with os.fdopen(file, "rb") as opened:
        _, pages, shared, *_ = map(int, opened.read().split())
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE")


def prepare(name: Any, extra: Any, has_landlock: Any) -> Any:
    """Load, and shut the door: (bytes that this takes, Landlock's rules or -1)."""
    load(_USUAL)
    if name == "documents":
        load(("documents", "reading", "web", *extra))
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


class Zygote:
    """Forks for whoever asks, until nobody does. A fork takes longer than most programs: one child is always made
    beforehand."""

    def __init__(self, control: Any, make: Any) -> None:
        self.control = control
        self.make = make
        self.children = {}
        self.spare = None

    def serve(self, ready: Any) -> Any:
        reading, waking = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(reading, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self.control.send(json.dumps(ready).encode())
        self.spare = self.born()
        while self.attend(reading):
            pass
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)

    def attend(self, reading: Any) -> Any:
        """Wait for what happens next, and do it; False once nobody asks any more."""
        children = list(self.children.values())
        talking = {one.link.fileno(): one for one in children if not one.has_said}
        asking = {one.listener: one for one in children if one.listener >= 0}
        watched = [one for one in children if one.is_watched and one.number is not None]
        poll = select.poll()
        for source in (self.control.fileno(), reading, *talking, *asking):
            poll.register(source, select.POLLIN)
        ready = dict(poll.poll(100 if watched else None))
        for one in watched:
            one.look()
        for source, events in ready.items():
            if source in talking:
                talking[source].hear()
            elif source in asking:
                # Only where somebody waits: an older kernel would wait itself, for ever.
                asking[source].decide() if events & select.POLLIN else asking[source].stop_listening()
        if reading in ready:
            try:
                os.read(reading, 4096)
            except BlockingIOError:
                pass
            self.reap()
        return self.control.fileno() not in ready or self.heed()

    def born(self) -> Any:
        made = self.make()
        self.children[made.pid] = made
        return made

    def heed(self) -> Any:
        """Do what is asked; False once nobody asks any more."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self.control, 65536, 2)
        except OSError:
            return False
        if not message:
            return False
        told = json.loads(message)
        if told["op"] == "kill":
            for pid, one in self.children.items():
                if one.number == told["id"]:
                    os.kill(pid, signal.SIGKILL)
            return True
        if self.spare is None or not self.spare.give(told["id"], descriptors):
            self.born().give(told["id"], descriptors)
        for one in descriptors:
            os.close(one)
        self.spare = self.born()
        return True

    def reap(self) -> Any:
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            gone = self.children.pop(pid)
            gone.close()
            if gone is self.spare:
                self.spare = None
            if gone.number is not None:
                told = {"id": gone.number, "status": status, "threads": gone.has_too_many}
                try:
                    self.control.send(json.dumps(told).encode())
                except OSError:
                    return


if __name__ == "__main__":
    main()
