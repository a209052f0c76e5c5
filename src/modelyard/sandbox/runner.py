"""`Sandbox`: runs untrusted programs in forked child processes that the kernel confines.
Text goes in and out through pipes.

A zygote process preloads common modules and forks for each program, so that a run costs
a few milliseconds. There is one for code and templates, one more per set of large
libraries, and one for documents; each starts on first use. Kernel requirements and
fallbacks: docs/design/0008-sandbox.md.
"""

import asyncio
import base64
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.sandbox.program_network import (
    NO_NETWORK,
    NetworkAccess,
    program_channel,
)
from modelyard.sandbox.selftest import BENIGN, HOSTILE
from modelyard.sandbox.slots import Slots

logger = logging.getLogger("modelyard.sandbox")

_ZYGOTE_PROGRAM = Path(__file__).parent / "inside" / "zygote.py"
_READY_SECONDS = 60.0
_LARGE_MODULES = (
    "numpy",
    "pandas",
    "matplotlib",
    "scipy",
    "sympy",
    "jieba",
    "sklearn",
    "PIL",
    "requests",
)
_IMPORTS = re.compile(r"^[^\S\n]*+(?:import|from)\s+([A-Za-z_]\w*)", re.MULTILINE)
# The complete environment of sandboxed processes: no variable of ours reaches them.
_ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "MPLBACKEND": "Agg",
    # Each further arena reserves 64 MB of the addresses that a program may use.
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class SandboxError(ModelyardError):
    """A sandboxed program failed. `reason` is the type of the failure, or the limit that
    was exceeded."""

    code = "code_failed"

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason


class SandboxUnavailableError(SandboxError):
    """Programs cannot be run safely on this machine, so none is run."""

    code = "sandbox_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Limits of sandboxed programs and of the zygotes."""

    seconds: float = 10.0
    memory_mb: int = 512
    """In addition to the memory that the zygote uses itself."""
    output_bytes: int = 4 << 20
    document_seconds: float = 60.0
    document_bytes: int = 96 << 20
    """Maximum size of the text of a document for a dataset."""
    at_once: int = 8
    threads: int = 64
    """Maximum number of threads of one program."""
    helpers: int = 8
    """Maximum number of zygotes; the least recently used ones are ended first."""
    helpers_mb: int = 768
    """Maximum private memory of all zygotes together."""
    idle_seconds: float = 300.0
    """An unused zygote is ended after this time, except the basic one for code."""


class ExtractedText(NamedTuple):
    """The text of a document."""

    text: str
    guessed_codec: str = ""
    """The encoding that was guessed, because nothing states it; empty if it is stated."""
    is_certain: bool = True
    """Whether the guess is much more likely than all others."""
    notes: tuple[str, ...] = ()
    """What the document has that the text leaves out, a sentence each."""


class _ExitReport(NamedTuple):
    """How a program's process exited."""

    status: int
    has_too_many_threads: bool


@dataclass(slots=True, eq=False)
class _Run:
    """A running program. `feed` and `drain` are the descriptors of the pipes to its
    input and from its output."""

    number: int
    feed: int
    drain: int
    ended: "asyncio.Future[_ExitReport]"


@dataclass(slots=True, eq=False)
class _Zygote:
    """A zygote process and the runs that it has in progress."""

    process: asyncio.subprocess.Process
    control: socket.socket
    runs: dict[int, _Run] = field(default_factory=dict[int, _Run])
    last: int = 0
    listener: "asyncio.Task[None] | None" = None
    is_alive: bool = True
    level: str = ""
    memory: int = 0
    """Bytes of private memory after its start."""
    tenant: str = ""
    """The tenant whose program it was started for."""
    used: float = 0.0
    """Monotonic time of its last use."""

    @property
    def is_idle(self) -> bool:
        """True if no program is running."""
        return not self.runs

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message, with file descriptors if given. Raises SandboxError if the
        process has exited."""
        data = msgspec.json.encode(message)
        try:
            if descriptors:
                socket.send_fds(self.control, [data], list(descriptors))
            else:
                self.control.send(data)
        except OSError as error:
            raise SandboxError(
                f"Sandbox process has exited: {error}", reason="lost"
            ) from error

    def start_run(self, channel: Sequence[int] = ()) -> _Run:
        """Assign a child process to a new run. `channel` holds the descriptor by which
        it asks for connections, if it may. Raises SandboxError."""
        self.last += 1
        number = self.last
        # From here on the pipes must be closed on every path.
        source, feed = os.pipe()
        drain, sink = os.pipe()
        future = asyncio.get_running_loop().create_future()
        run = self.runs[number] = _Run(number, feed, drain, future)
        self.used = time.monotonic()
        try:
            self.send({"op": "run", "id": number}, (source, sink, *channel))
        except SandboxError:
            self.runs.pop(number, None)
            os.close(feed)
            os.close(drain)
            raise
        finally:
            # The child has its own copies of these ends; ours must close for it to see
            # end-of-file.
            os.close(source)
            os.close(sink)
        return run

    async def listen(self) -> None:
        """Receive exit reports and complete the runs; fail all runs if the process
        exits."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self.control, 65536)
            except OSError:
                data = b""
            if not data:
                break
            report = msgspec.json.decode(data)
            # The run may have been abandoned by its caller.
            run = self.runs.pop(report["id"], None)
            if run is not None and not run.ended.done():
                run.ended.set_result(_ExitReport(report["status"], report["threads"]))
        self.is_alive = False
        for run in self.runs.values():
            if not run.ended.done():
                run.ended.set_exception(
                    SandboxError("Sandbox process was killed", reason="lost")
                )
        self.runs.clear()

    async def close(self) -> None:
        """Close the control socket and wait for the process to exit; kill it after 3 s."""
        self.is_alive = False
        self.control.close()
        # Closing the control socket makes the process exit by itself.
        if self.listener is not None:
            self.listener.cancel()
        try:
            async with asyncio.timeout(3):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Sandbox:
    """Runs untrusted programs in confined child processes.

    `preload` names further modules that take long to import. `level` "best" uses
    Landlock if available and otherwise namespaces; "namespaces" always uses those.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        preload: Sequence[str] = (),
        is_enabled: bool = True,
        level: Literal["best", "namespaces"] = "best",
    ) -> None:
        self._requested_level = level
        self.limits = limits or SandboxLimits()
        self._preload = {*_LARGE_MODULES, *preload}
        self._is_enabled = is_enabled
        self._zygotes: dict[str, _Zygote] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._slots = Slots(self.limits.at_once)
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._failure: str | None = None
        self._is_tested = False
        self._testing = asyncio.Lock()
        self.level = "unknown"
        """`landlock`, `namespaces`, `off`, or `unknown` before the first run."""

    # public methods; `tenant` is the tenant whose share of the slots a program uses

    async def run_code(
        self,
        language: str,
        code: str,
        inputs: Mapping[str, Any],
        *,
        tenant: str = "",
        network: NetworkAccess = NO_NETWORK,
    ) -> Any:
        """Run Python or JavaScript code and return the result of its `main`.

        `language` is `python3` or `javascript`, `inputs` are the arguments as JSON
        types. The tenant's slots limit how many programs run at once. Connections end
        with the program. Raises SandboxError if the code fails or exceeds a limit, and
        SandboxUnavailableError if the self-test failed.
        """
        if language not in ("python3", "javascript"):
            raise SandboxError(
                f"Unknown code language {language!r}; expected python3 or javascript",
                reason="language",
            )
        name = "code"
        if language == "python3":
            # Programs that import the same large libraries share a zygote that has
            # loaded them.
            modules = sorted(set(_IMPORTS.findall(code)) & self._preload)
            name = "+".join(["code", *modules])
        task = {
            "kind": language,
            "code": code,
            "inputs": inputs,
            "refusal": network.refusal,
            "authorities": network.authorities,
        }
        return await self._run(
            tenant, name, task, b"", self.limits.seconds, network=network
        )

    async def render(
        self,
        template: str,
        variables: Mapping[str, Any],
        *,
        max_chars: int,
        tenant: str = "",
    ) -> str:
        """Render a Jinja2 template to at most `max_chars` characters.

        Raises SandboxError if the template is invalid, fails or exceeds a limit, and
        SandboxUnavailableError if the self-test failed.
        """
        task = {
            "kind": "template",
            "template": template,
            "inputs": variables,
            "most": max_chars,
        }
        return str(await self._run(tenant, "code", task, b"", self.limits.seconds))

    async def extract(
        self, extension: str, data: bytes, *, tenant: str = ""
    ) -> "ExtractedText":
        """Return a document's plain text.

        `extension` is the lower-case file extension with its dot, or a media type, and
        decides about the format. Raises SandboxError if the document cannot be read or
        exceeds a limit, and SandboxUnavailableError if the self-test failed.
        """
        task = {"kind": "document", "extension": extension}
        result = await self._run(
            tenant, "documents", task, data, self.limits.document_seconds
        )
        # A document of several texts, such as a book, has one encoding as a rule.
        codec, is_certain = next(iter(result["guesses"]), ("", True))
        notes = tuple(str(note)[:500] for note in result["notes"])
        return ExtractedText(str(result["text"]), codec, is_certain, notes)

    async def read(self, name: str, data: bytes, *, tenant: str = "") -> dict[str, Any]:
        """Read a document as Markdown; the format is recognised by content.

        Returns {kind, title, parts: [{text, page}], scanned: pages that are images,
        notes: what the text leaves out}. Raises SandboxError.
        """
        task = {"kind": "document", "name": name}
        return await self._run(
            tenant, "documents", task, data, self.limits.document_seconds
        )

    async def render_pages(
        self, data: bytes, pages: Sequence[int], *, tenant: str = ""
    ) -> list[bytes]:
        """Render pages of a PDF, counted from 1, as greyscale PNG images. Raises
        SandboxError."""
        task = {"kind": "document", "name": "", "pages": list(pages)}
        images = await self._run(
            tenant, "documents", task, data, self.limits.document_seconds
        )
        return [base64.b64decode(encoded) for encoded in images]

    async def web(
        self,
        of: str,
        data: bytes,
        *,
        agent: str,
        charset: str = "",
        addresses: Sequence[str] = (),
        tenant: str = "",
    ) -> dict[str, Any]:
        """Parse a `page`, `sitemap`, `feed` or `robots` file for the crawler `agent`.

        `charset` is the codec from the HTTP header; `addresses` are those to check
        against robots.txt. For the result see `inside/web.py`. Raises SandboxError.
        """
        task = {
            "kind": "web",
            "of": of,
            "agent": agent,
            "charset": charset,
            "addresses": list(addresses),
        }
        return await self._run(
            tenant, "documents", task, data, self.limits.document_seconds
        )

    async def check(self) -> str:
        """Run the self-test once and return the confinement level. Raises
        SandboxUnavailableError if any attack succeeded."""
        async with self._testing:
            if self._failure is not None:
                # A failed test is remembered: the machine will not change.
                raise SandboxUnavailableError(self._failure)
            if not self._is_tested:
                try:
                    await self._self_test()
                except SandboxError as error:
                    self._failure = (
                        "Code and templates are disabled, since they cannot be run"
                        f" safely on this machine: {error}"
                    )
                    self.level = "off"
                    logger.error(
                        "sandbox disabled", extra={"fields": {"reason": str(error)}}
                    )
                    raise SandboxUnavailableError(self._failure) from error
                self._is_tested = True
                self.level = self._zygotes["code"].level
        return self.level

    async def aclose(self) -> None:
        """End all zygotes."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        zygotes = list(self._zygotes.values())
        self._zygotes.clear()
        for zygote in zygotes:
            await zygote.close()
        await asyncio.gather(*self._ending)

    # inside

    async def _self_test(self) -> None:
        """Run the attacks and the harmless programs of the self-test.

        Raises SandboxError if an attack was not blocked, a harmless program failed, the
        sandbox is disabled, or the system is not Linux.
        """
        if not self._is_enabled:
            raise SandboxError("The sandbox is disabled in the settings")
        if sys.platform != "linux":
            raise SandboxError(f"The sandbox requires Linux, not {sys.platform}")
        # Every attack must be blocked.
        for name, code in HOSTILE.items():
            task = {"kind": "probe", "code": code}
            result = await self._attempt("code", task, b"", 10.0)
            if result != "blocked":
                raise SandboxError(
                    f"Sandbox self-test failed: '{name}' was not blocked ({result})"
                )
        # And harmless programs must still work, or the limits are too tight.
        for code, expected in BENIGN:
            result = await self._attempt(
                "code", {"kind": "python3", "code": code, "inputs": {}}, b"", 10.0
            )
            if result != expected:
                raise SandboxError(
                    "Sandbox self-test failed: a harmless program did not run"
                )

    async def _run(
        self,
        tenant: str,
        name: str,
        task: Mapping[str, Any],
        data: bytes,
        seconds: float,
        *,
        network: NetworkAccess = NO_NETWORK,
    ) -> Any:
        """Run a task in one of the tenant's slots, after the self-test has passed.

        `name` selects the zygote, `data` is the binary input, and `seconds` the time
        limit without the wait for a slot. Raises SandboxError.
        """
        if not self._is_tested:
            await self.check()
        async with self._slots.acquire(tenant):
            if network.connector is None:
                return await self._attempt(name, task, data, seconds, tenant)
            async with program_channel(network.connector) as channel:
                return await self._attempt(name, task, data, seconds, tenant, [channel])

    async def _attempt(
        self,
        name: str,
        task: Mapping[str, Any],
        data: bytes,
        seconds: float,
        tenant: str = "",
        channel: Sequence[int] = (),
    ) -> Any:
        """Run a task in a child of the zygote `name` and return its result.

        Needs neither a slot nor the self-test. The child is killed on a timeout, on too
        much output, and if the caller is cancelled. Raises SandboxError, whose `reason`
        names the limit that was exceeded.
        """
        zygote = await self._zygote(name, tenant)
        # Encoded before a process is assigned, so that invalid input costs nothing.
        head = _encode_task(task, self.limits)
        run = zygote.start_run(channel)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(
                    run.feed, run.drain, head + b"\n" + data, self._max_bytes(task)
                )
                ended = await run.ended
        except TimeoutError:
            raise SandboxError(
                f"Sandbox: time limit of {seconds:g} s exceeded", reason="time"
            ) from None
        finally:
            # Timed out, too large or cancelled: the child is still running.
            if not run.ended.done():
                with suppress(SandboxError):
                    zygote.send({"op": "kill", "id": run.number})
                run.ended.cancel()
            zygote.used = time.monotonic()
        if ended.has_too_many_threads:
            raise SandboxError(
                f"Sandbox: limit of {self.limits.threads} threads exceeded",
                reason="threads",
            )
        return _parse_response(answer, ended.status)

    def _max_bytes(self, task: Mapping[str, Any]) -> int:
        """Return the output limit; it is larger for documents for datasets."""
        is_large = "name" in task or task["kind"] == "web"
        return self.limits.document_bytes if is_large else self.limits.output_bytes

    async def _exchange(
        self, feed: int, drain: int, task: bytes, max_bytes: int
    ) -> bytes:
        """Write the task to the child and return its output. Raises SandboxError if that
        is larger than `max_bytes`."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        # The pipe transport owns the descriptor and closes it with `reading.close()`.
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(drain, "rb", 0)
        )
        try:
            await _write_task(feed, task)
            answer = bytearray()
            while chunk := await reader.read(1 << 18):
                answer += chunk
                if len(answer) > max_bytes:
                    raise SandboxError(
                        f"Sandbox: output limit of {max_bytes:,} bytes exceeded",
                        reason="output",
                    )
            return bytes(answer)
        finally:
            reading.close()

    async def _zygote(self, name: str, tenant: str) -> _Zygote:
        """Return the live zygote with that name, starting it if necessary.

        Concurrent callers share one start. A start may end idle zygotes and is
        attributed to `tenant`. Raises SandboxError if it fails.
        """
        # Checked without the lock first, which is the normal case.
        zygote = self._zygotes.get(name)
        if zygote is not None and zygote.is_alive:
            return zygote
        async with self._starting.setdefault(name, asyncio.Lock()):
            # Another task may have started it while this one waited for the lock.
            zygote = self._zygotes.get(name)
            if zygote is None or not zygote.is_alive:
                if zygote is not None:
                    await zygote.close()
                zygote = await _start(name, self._limits_of(name))
                zygote.tenant, zygote.used = tenant, time.monotonic()
                self._zygotes[name] = zygote
                self._evict_idle()
                self._schedule_sweep()
        return zygote

    def _limits_of(self, name: str) -> Mapping[str, Any]:
        """Return the limits that a zygote gets as an argument.

        `memory` is in bytes and `seconds` is the CPU time of one program.
        """
        seconds = (
            self.limits.document_seconds if name == "documents" else self.limits.seconds
        )
        return {
            "memory": self.limits.memory_mb << 20,
            "seconds": seconds,
            "level": self._requested_level,
            "threads": self.limits.threads,
        }

    # idle zygotes

    def _evict_idle(self) -> None:
        """End idle zygotes until their number and memory are within the limits.

        The tenant with the most zygotes loses one first, so that one tenant's imports
        cannot displace all others.
        """
        while self._exceeds_limits() and (free := self._idle(but_newest=True)):
            self._end(self._first_to_evict(free))

    def _first_to_evict(self, free: list[tuple[str, _Zygote]]) -> str:
        """Return the name of the idle zygote that ends first."""
        counts = Counter(zygote.tenant for zygote in self._zygotes.values())
        # The tenant with the most zygotes first, then the least recently used one.
        name, _ = min(free, key=lambda idle: (-counts[idle[1].tenant], idle[1].used))
        return name

    def _exceeds_limits(self) -> bool:
        """Return whether the zygotes exceed their maximum number or memory."""
        memory = sum(zygote.memory for zygote in self._zygotes.values())
        return (
            len(self._zygotes) > self.limits.helpers
            or memory > self.limits.helpers_mb << 20
        )

    def _idle(self, *, but_newest: bool = False) -> list[tuple[str, _Zygote]]:
        """Return (name, zygote) of those without a running program, except the basic
        one for code.

        With `but_newest` the most recently used one is left out, because its requester
        is about to use it.
        """
        newest = (
            max(
                self._zygotes.values(),
                key=lambda zygote: zygote.used,
                default=None,
            )
            if but_newest
            else None
        )
        return [
            (name, zygote)
            for name, zygote in self._zygotes.items()
            if zygote.is_idle and name != "code" and zygote is not newest
        ]

    def _end(self, name: str) -> None:
        """Remove a zygote and close it in the background."""
        # The task set keeps a reference, or the task could be garbage collected.
        task = asyncio.ensure_future(self._zygotes.pop(name).close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _schedule_sweep(self) -> None:
        """Schedule a search for idle zygotes, unless one is scheduled already."""
        if self._sweeper is None:
            # Half the idle time as the interval: a zygote lives at most one and a half
            # times as long.
            self._sweeper = asyncio.get_running_loop().call_later(
                self.limits.idle_seconds / 2, self._sweep
            )

    def _sweep(self) -> None:
        """End zygotes that have been idle too long, and schedule the next sweep while
        there are any."""
        self._sweeper = None
        self._evict_idle()
        since = time.monotonic() - self.limits.idle_seconds
        for name, zygote in self._idle():
            if zygote.used < since:
                self._end(name)
        if self._zygotes.keys() - {"code"}:
            self._schedule_sweep()


def _encode_task(task: Mapping[str, Any], limits: SandboxLimits) -> bytes:
    """Return a task as JSON, with its memory limit. Raises SandboxError if a value
    cannot be encoded."""
    document = {**task, "limits": {"memory": limits.memory_mb << 20}}
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        # Lone surrogates are legal in JSON's strings, and reach the program as such.
        return text.encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError) as error:
        raise SandboxError(f"Sandbox: invalid input: {error}") from error


async def _write_task(feed: int, task: bytes) -> None:
    """Write the task to the pipe; usually it fits into the pipe's buffer and this does
    not wait."""
    loop = asyncio.get_running_loop()
    os.set_blocking(feed, False)
    view = memoryview(task)
    try:
        while view:
            try:
                view = view[os.write(feed, view) :]
            # The pipe is full: wait until the child has read some of it.
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_writer(
                    feed, lambda ready=ready: ready.done() or ready.set_result(None)
                )
                try:
                    await ready
                finally:
                    loop.remove_writer(feed)
            except BrokenPipeError:
                return  # the program has exited already; its status has the reason
    finally:
        os.close(feed)


async def _start(name: str, limits: Mapping[str, Any]) -> _Zygote:
    """Start a zygote process and wait until it is ready.

    `name` is its kind, `code` or `documents`, and the modules to preload, joined by
    `+`. Raises SandboxError if the process does not start, exits, or cannot prepare the
    confinement.
    """
    # SEQPACKET preserves message boundaries and passes descriptors.
    control, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setblocking(False)
    zygote_kind, *modules = name.split("+")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-X",
            "utf8",
            str(_ZYGOTE_PROGRAM),
            str(child_socket.fileno()),
            zygote_kind,
            json.dumps(limits),
            *modules,
            cwd="/",
            env=_ENVIRON,
            pass_fds=[child_socket.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            # A new session: a Ctrl+C in the terminal must not reach it.
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException as error:
        control.close()
        if isinstance(error, OSError):
            raise SandboxError(
                f"Sandbox: the process did not start: {error}"
            ) from error
        raise
    finally:
        child_socket.close()
    zygote = _Zygote(process, control)
    try:
        async with asyncio.timeout(_READY_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(control, 65536)
    except (TimeoutError, OSError):
        data = b""
    except BaseException:
        await zygote.close()
        raise
    report: dict[str, Any] = (
        msgspec.json.decode(data)
        if data
        else {"error": "Sandbox: the process exited during startup"}
    )
    if not report.get("ready"):
        await zygote.close()
        raise SandboxError(str(report.get("error")))
    zygote.level, zygote.memory = report["level"], report["memory"]
    zygote.listener = asyncio.ensure_future(zygote.listen())
    return zygote


def _parse_response(answer: bytes, status: int) -> Any:
    """Return a program's result from its output and its wait status.

    Raises SandboxError, with the reason `time` after SIGXCPU or SIGKILL, `crash` after
    another signal or without JSON output, `sandbox` if the child could not confine
    itself, and `error` with the message of the program.
    """
    # The CPU limit kills with SIGXCPU, then SIGKILL.
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            raise SandboxError("Sandbox: CPU time limit exceeded", reason="time")
        raise SandboxError(
            f"Sandbox: the program crashed ({signal.Signals(number).name})",
            reason="crash",
        )
    try:
        response: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise SandboxError(
            "Sandbox: the program exited without a result", reason="crash"
        ) from None
    except RecursionError:
        raise SandboxError("Sandbox: the result is nested too deeply") from None
    # The child could not confine itself and refused to run the task.
    if "sandbox" in response:
        raise SandboxError(
            f"Sandbox: confinement failed: {response['sandbox']}", reason="sandbox"
        )
    if "error" in response:
        raise SandboxError(str(response["error"]))
    return response.get("result")
