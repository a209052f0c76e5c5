"""A process that preloads modules and forks for each program. It starts with an empty
environment and holds no secrets.

Started as `python -I zygote.py FD NAME LIMITS [MODULE …]`. On FD it receives JSON
messages: {"op": "run", "id": n} with two descriptors (task input, result output) or three
(the socket by which the program asks for connections), and {"op": "kill", "id": n}. It
sends {"ready": true, "level": l, "memory": bytes} once, and
{"id": n, "status": s, "threads": whether it had too many} when a program exits.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

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

# Modules that programs often import; loading them once makes each run cheap.
_COMMON_MODULES = (
    "asyncio",
    "base64",
    "bisect",
    "calendar",
    "collections",
    "copy",
    "csv",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "inspect",
    "io",
    "itertools",
    "json",
    "math",
    "operator",
    "pathlib",
    "pprint",
    "random",
    "re",
    "secrets",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "urllib.parse",
    "uuid",
    "zlib",
    "zoneinfo",
)


# What JavaScript programs find besides QuickJS itself.
_JAVASCRIPT_MODULES = (
    "javascript_globals",
    "javascript_modules",
    "javascript_dates",
    "javascript_fetch",
)


def _prepare_matplotlib(module: Any) -> Any:
    """Look up a font and render an empty figure with matplotlib.

    That loads the font list, which programs in the sandbox could not build.
    """
    from matplotlib import font_manager, pyplot

    font_manager.findfont("sans")
    pyplot.figure().savefig(__import__("io").BytesIO())
    pyplot.close("all")


# First-use work of some libraries that is impossible in the sandbox, such as writing a
# cache or finding fonts.
_PREPARE = {
    "jieba": lambda module: (module.setLogLevel(60), module.initialize()),
    "matplotlib": _prepare_matplotlib,
}


def load(names: Any) -> Any:
    """Import the modules that are installed, and do their first-use work.

    Modules that are missing or fail to load are skipped. Returns the names of the
    others.
    """
    loaded = []
    for name in names:
        try:
            module = __import__(name)
            if name in _PREPARE:
                _PREPARE[name](module)
        # Optional modules may be missing or broken.
        except Exception:
            continue
        loaded.append(name)
    return loaded


def child(rules: Any, limits: Any, base_memory: Any, link: Any) -> Any:
    """Run in the forked child: confine the process, wait for a task, execute it, and
    exit. Never returns.

    The confinement happens before the task is known.
    """
    sink = None
    try:
        # Undo the parent's signal handling.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        # Descriptors are moved to fixed low numbers, so that all others can be closed
        # in one call.
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
        listener = confine.confine(rules, limits, base_memory)
        trouble = None
    except BaseException as error:
        listener, trouble = -1, f"{type(error).__name__}: {error}"
    # Even if confinement failed, the parent waits for this message.
    try:
        with socket.socket(fileno=3) as waiting:
            hand_over(waiting, listener)
            message, descriptors, _, _ = socket.recv_fds(waiting, 1, 3)
        if not message:
            os._exit(0)
        source, sink, *channel = descriptors
        # Never run a task in a process that is not confined.
        if trouble is not None:
            answer(sink, {"sandbox": trouble})
            os._exit(3)
        head, data = read(source)
        head["channel"] = next(iter(channel), None)
        response = {"result": programs.run(head, data)}
    except programs.ProgramError as error:
        response = {"error": str(error)}
    except MemoryError:
        response = {"error": "MemoryError: the memory limit was exceeded"}
    except BaseException as error:
        response = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
    if sink is not None:
        answer(sink, response)
    os._exit(0)


def hand_over(link: Any, listener: Any) -> Any:
    """Send the seccomp listener to the parent, or a message without descriptor if there
    is none."""
    if listener < 0:
        link.send(b"-")
        return
    socket.send_fds(link, [b"l"], [listener])
    os.close(listener)


class Child:
    """A forked child that waits for a task and then runs it.

    The number of threads is limited: the child asks at `listener` for each one. If the
    kernel does not support that, the number is polled ten times per second and the
    child is killed if it has too many.
    """

    def __init__(self, rules: Any, limits: Any, base_memory: Any, proc: Any) -> None:
        self.max_threads, self.proc = limits["threads"], proc
        self.number, self.listener, self.granted = None, -1, 0
        self.has_said = self.is_watched = self.has_too_many = False
        self.link, child_socket = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            child(rules, limits, base_memory, child_socket)
        child_socket.close()

    def assign(self, number: Any, descriptors: Any) -> Any:
        """Send the task to the child. Returns False if the child has exited."""
        try:
            socket.send_fds(self.link, [b"!"], descriptors)
        except OSError:
            self.close()
            return False
        self.number = number
        self.close_if_done()
        return True

    def receive_status(self) -> Any:
        """Receive the child's message about how its threads are counted."""
        try:
            # The child died before it could send its message.
            message, descriptors, _, _ = socket.recv_fds(self.link, 1, 1)
        except OSError:
            message, descriptors = b"", []
        self.listener = descriptors[0] if descriptors else -1
        self.is_watched = message == b"-"
        self.has_said = True
        self.close_if_done()

    def close_if_done(self) -> Any:
        """Close the connection once both sides have sent their only message."""
        if self.has_said and self.number is not None:
            self.link.close()

    def answer_thread_request(self) -> Any:
        """Answer the child's request for another thread."""
        try:
            confine.answer_thread_request(self.listener, self.may_have_another)
        except OSError as error:
            # The child was killed or the call was interrupted meanwhile; anything else
            # makes the listener useless.
            if error.errno not in (errno.ENOENT, errno.EINTR):
                self.stop_listening()

    def may_have_another(self) -> Any:
        """Return whether the child may start another thread, and count it if so."""
        thread_count = confine.thread_count(self.pid, self.proc)
        # Without access to /proc, count the grants; threads that ended are not
        # subtracted then.
        if thread_count is None:
            thread_count = self.granted + 1
        is_allowed = thread_count < self.max_threads
        self.granted += is_allowed
        return is_allowed

    def check_threads(self) -> Any:
        """Kill the child if it has more threads than allowed."""
        thread_count = confine.thread_count(self.pid, self.proc)
        if thread_count is not None and thread_count > self.max_threads:
            self.has_too_many = True
            os.kill(self.pid, signal.SIGKILL)

    def stop_listening(self) -> Any:
        """Close the seccomp listener."""
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1

    def close(self) -> Any:
        """Close the connection and the listener."""
        self.has_said = True
        self.link.close()
        self.stop_listening()


def read(descriptor: Any) -> Any:
    """Read a descriptor to its end. Returns (decoded JSON of the first line, the
    remaining bytes)."""
    chunks = []
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
    os.close(descriptor)
    head, _, data = b"".join(chunks).partition(b"\n")
    return json.loads(head), data


def answer(descriptor: Any, document: Any) -> Any:
    """Write a document as JSON to a descriptor; a result that is not JSON becomes an
    error."""
    try:
        data = json.dumps(document, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        data = json.dumps(
            {"error": f"The result cannot be encoded as JSON: {error}"}
        ).encode()
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        pass


def main() -> Any:
    """Prepare the process as its arguments say, then serve requests until the control
    socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    name, limits, extra = sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
    # Namespaces can be forced, for tests and as a fallback.
    has_landlock = limits["level"] != "namespaces" and confine.landlock_abi() > 0
    try:
        # Opened before /proc disappears from the new root.
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not has_landlock:
            confine.unshare_namespaces()
        base_memory, rules = prepare(name, extra, has_landlock)
    except OSError as error:
        control.send(json.dumps({"ready": False, "error": str(error)}).encode())
        return
    level = "landlock" if has_landlock else "namespaces"
    ready = {"ready": True, "level": level, "memory": resident(proc)}
    ForkServer(control, lambda: Child(rules, limits, base_memory, proc)).serve(ready)


def resident(proc: Any) -> Any:
    """Return the bytes of private memory of this process; 0 if they cannot be read."""
    try:
        file = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return 0
    with os.fdopen(file, "rb") as opened:
        _, pages, shared, *_ = map(int, opened.read().split())
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE")


def prepare(name: Any, extra: Any, has_landlock: Any) -> Any:
    """Load modules, then restrict the file system. Returns (address space in bytes,
    Landlock ruleset or -1)."""
    load(_COMMON_MODULES)
    if name == "documents":
        load(("document_formats", "document_reader", "web_pages", *extra))
    else:
        load(("jinja2.sandbox", "quickjs", *_JAVASCRIPT_MODULES, *extra))
    base_memory, folders = confine.address_space(), confine.readable_folders()
    rules = -1
    if has_landlock:
        rules = confine.ruleset([*folders, *confine.DEVICES], ("/dev/null",))
    else:
        confine.build_root_filesystem(folders, confine.DEVICES)
    # Freezing moves objects out of the collector, so that forked children keep sharing
    # their pages.
    gc.collect()
    gc.freeze()
    gc.disable()
    return base_memory, rules


def handle_thread_request(child: Any, events: Any) -> Any:
    """Answer a child's request for a thread, or stop listening if it has closed."""
    # Read only if a request is pending: on older kernels the ioctl would block forever.
    if events & select.POLLIN:
        child.answer_thread_request()
    else:
        child.stop_listening()


def drain(pipe: Any) -> Any:
    """Empty the wake-up pipe; it holds one byte per signal."""
    try:
        os.read(pipe, 4096)
    except BlockingIOError:
        pass


class ForkServer:
    """Forks children on request until the control socket closes.

    A fork takes longer than most programs run, so one spare child is always prepared.
    """

    def __init__(self, control: Any, make: Any) -> None:
        self.control = control
        self.make = make
        self.children = {}
        self.spare = None

    def serve(self, ready: Any) -> Any:
        """Announce that the process is ready and handle events until the control socket
        closes."""
        reading, waking = os.pipe()
        # A pipe for signals: SIGCHLD wakes the poll below.
        os.set_blocking(waking, False)
        os.set_blocking(reading, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self.control.send(json.dumps(ready).encode())
        self.spare = self.fork_child()
        while self.handle_events(reading):
            pass
        # The control socket is closed, so results cannot be delivered any more.
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)

    def handle_events(self, reading: Any) -> Any:
        """Wait for the next events and handle them. Returns False once the control
        socket is closed."""
        talking, asking = self.children_talking(), self.children_asking()
        watched = [
            process
            for process in self.children.values()
            if process.is_watched and process.number is not None
        ]
        poll = select.poll()
        for source in (self.control.fileno(), reading, *talking, *asking):
            poll.register(source, select.POLLIN)
        # A timeout only if children must be polled; otherwise sleep until an event.
        ready = dict(poll.poll(100 if watched else None))
        for process in watched:
            process.check_threads()
        for source, events in ready.items():
            if source in talking:
                talking[source].receive_status()
            elif source in asking:
                handle_thread_request(asking[source], events)
        if reading in ready:
            drain(reading)
            self.reap_children()
        return self.control.fileno() not in ready or self.handle_command()

    def children_talking(self) -> Any:
        """Return the children that have not sent their status, by file descriptor."""
        return {
            process.link.fileno(): process
            for process in self.children.values()
            if not process.has_said
        }

    def children_asking(self) -> Any:
        """Return the children that may ask for threads, by file descriptor."""
        return {
            process.listener: process
            for process in self.children.values()
            if process.listener >= 0
        }

    def fork_child(self) -> Any:
        """Fork a child and register it."""
        new_child = self.make()
        self.children[new_child.pid] = new_child
        return new_child

    def handle_command(self) -> Any:
        """Handle one command from the control socket. Returns False once it is closed."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self.control, 65536, 3)
        except OSError:
            return False
        if not message:
            return False
        command = json.loads(message)
        if command["op"] == "kill":
            for pid, target in self.children.items():
                if target.number == command["id"]:
                    os.kill(pid, signal.SIGKILL)
            return True
        # The spare may have been killed; then fork another one.
        if self.spare is None or not self.spare.assign(command["id"], descriptors):
            self.fork_child().assign(command["id"], descriptors)
        for target in descriptors:
            os.close(target)
        # Prepare the next spare after the task has started.
        self.spare = self.fork_child()
        return True

    def reap_children(self) -> Any:
        """Collect exited children and report those that had a task."""
        while self.children:
            # Signals are merged, so several children may have exited.
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exited_child = self.children.pop(pid)
            exited_child.close()
            if exited_child is self.spare:
                self.spare = None
            if exited_child.number is not None:
                report = {
                    "id": exited_child.number,
                    "status": status,
                    "threads": exited_child.has_too_many,
                }
                try:
                    self.control.send(json.dumps(report).encode())
                except OSError:
                    return


if __name__ == "__main__":
    main()
