"""`Jail`: programs of others, run in forked children that the kernel shuts in. Text goes in and comes out by a pipe.

A zygote has loaded what programs usually import and forks for each of them: a run costs a few milliseconds. There is
one for code and templates, one more for code that imports large libraries, one for documents; each starts when it is
first needed. What the kernel must be able to do, and what happens where it cannot: docs/design/0008-jail.md.
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
from modelyard.jail.selftest import BENIGN, HOSTILE
from modelyard.jail.slots import Slots

logger = logging.getLogger("modelyard.jail")

_PROGRAM = Path(__file__).parent / "inside" / "zygote.py"
_READY_SECONDS = 60.0
_LARGE = ("numpy", "pandas", "matplotlib", "scipy", "sympy", "jieba", "sklearn", "PIL", "requests")
_IMPORTS = re.compile(r"^[^\S\n]*+(?:import|from)\s+([A-Za-z_]\w*)", re.MULTILINE)
_ENVIRON = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "MPLBACKEND": "Agg",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip


class JailError(ModelyardError):
    """A program did not end well. `reason` is one of its own faults, or a limit that it met."""

    code = "code_failed"

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason


class JailUnavailableError(JailError):
    """Nothing can be run safely on this machine: nothing is run."""

    code = "jail_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class JailLimits:
    seconds: float = 10.0
    memory_mb: int = 512
    """Beyond what the zygote has."""
    output_bytes: int = 4 << 20
    document_seconds: float = 60.0
    document_bytes: int = 96 << 20
    """Of the text of a document that a dataset takes in."""
    at_once: int = 8
    threads: int = 64
    """Of one program."""
    helpers: int = 8
    """Processes that have loaded modules and fork; those not needed for longest are ended first."""
    helpers_mb: int = 768
    """What they may hold together."""
    idle_seconds: float = 300.0
    """After which one that nobody needed is ended; the plain one for code stays."""


class _Ended(NamedTuple):
    """How a program's process ended."""

    status: int
    has_too_many_threads: bool


@dataclass(slots=True, eq=False)
class _Run:
    ended: "asyncio.Future[_Ended]"


@dataclass(slots=True, eq=False)
class _Zygote:
    """One forking process, and the runs that it has going."""

    process: asyncio.subprocess.Process
    control: socket.socket
    runs: dict[int, _Run] = field(default_factory=dict[int, _Run])
    last: int = 0
    listener: "asyncio.Task[None] | None" = None
    is_alive: bool = True
    level: str = ""
    memory: int = 0
    """Bytes that it had for itself once it had started."""
    tenant: str = ""
    """Whose program it was started for."""
    used: float = 0.0
    """When it was last asked for something."""

    @property
    def is_idle(self) -> bool:
        return not self.runs

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = msgspec.json.encode(message)
        try:
            if descriptors:
                socket.send_fds(self.control, [data], list(descriptors))
            else:
                self.control.send(data)
        except OSError as error:
            raise JailError(f"the jail's process is gone: {error}", reason="lost") from error

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self.control, 65536)
            except OSError:
                data = b""
            if not data:
                break
            told = msgspec.json.decode(data)
            run = self.runs.pop(told["id"], None)
            if run is not None and not run.ended.done():
                run.ended.set_result(_Ended(told["status"], told["threads"]))
        self.is_alive = False
        for run in self.runs.values():
            if not run.ended.done():
                run.ended.set_exception(JailError("the jail's process was killed", reason="lost"))
        self.runs.clear()

    async def close(self) -> None:
        self.is_alive = False
        self.control.close()
        if self.listener is not None:
            self.listener.cancel()
        try:
            async with asyncio.timeout(3):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Jail:
    """`preload` are modules that code may want and that take long to load, beyond the usual. `level` is what holds:
    Landlock where there is it, else namespaces; "namespaces" takes those in any case."""

    def __init__(
        self,
        limits: JailLimits | None = None,
        *,
        preload: Sequence[str] = (),
        is_enabled: bool = True,
        level: Literal["best", "namespaces"] = "best",
    ) -> None:
        self._wanted = level
        self.limits = limits or JailLimits()
        self._preload = {*_LARGE, *preload}
        self._is_enabled = is_enabled
        self._zygotes: dict[str, _Zygote] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._slots = Slots(self.limits.at_once)
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._trouble: str | None = None
        self._is_tested = False
        self._testing = asyncio.Lock()
        self.level = "unknown"
        """landlock, namespaces, or off; known once something was run."""

    # what callers use; `tenant` is whose share of the slots a program takes

    async def run_code(self, language: str, code: str, inputs: Mapping[str, Any], *, tenant: str = "") -> Any:
        """What `main` gave back. Raises JailError."""
        if language not in ("python3", "javascript"):
            raise JailError(f"code in {language!r} cannot be run; python3 and javascript can", reason="language")
        name = "code"
        if language == "python3":
            wanted = sorted(set(_IMPORTS.findall(code)) & self._preload)
            name = "+".join(["code", *wanted])
        task = {"kind": language, "code": code, "inputs": inputs}
        return await self._run(tenant, name, task, b"", self.limits.seconds)

    async def render(self, template: str, variables: Mapping[str, Any], *, most: int, tenant: str = "") -> str:
        """Raises JailError."""
        task = {"kind": "template", "template": template, "inputs": variables, "most": most}
        return str(await self._run(tenant, "code", task, b"", self.limits.seconds))

    async def extract(self, extension: str, data: bytes, *, tenant: str = "") -> str:
        """A document's text. Raises JailError."""
        task = {"kind": "document", "extension": extension}
        return str(await self._run(tenant, "documents", task, data, self.limits.document_seconds))

    async def read(self, name: str, data: bytes, *, tenant: str = "") -> dict[str, Any]:
        """A document as Markdown, recognised by its content: {kind, title, parts: [{text, page}], scanned: pages that
        are pictures}. Raises JailError."""
        task = {"kind": "document", "name": name}
        return await self._run(tenant, "documents", task, data, self.limits.document_seconds)

    async def pictures(self, data: bytes, pages: Sequence[int], *, tenant: str = "") -> list[bytes]:
        """Pages of a PDF, counted from 1, each as a grey PNG. Raises JailError."""
        task = {"kind": "document", "name": "", "pages": list(pages)}
        found = await self._run(tenant, "documents", task, data, self.limits.document_seconds)
        return [base64.b64decode(one) for one in found]

    async def web(
        self, of: str, data: bytes, *, agent: str, charset: str = "", addresses: Sequence[str] = (), tenant: str = ""
    ) -> dict[str, Any]:
        """What a `page`, a `sitemap`, a `feed` or `robots` (for these addresses) says to the crawler `agent`;
        `charset` is the codec that its header names. What comes back stands in `inside/web.py`. Raises JailError."""
        task = {"kind": "web", "of": of, "agent": agent, "charset": charset, "addresses": list(addresses)}
        return await self._run(tenant, "documents", task, data, self.limits.document_seconds)

    async def check(self) -> str:
        """Try what a prisoner would try, once; the level. Raises JailUnavailableError where any of it worked."""
        async with self._testing:
            if self._trouble is not None:
                raise JailUnavailableError(self._trouble)
            if not self._is_tested:
                try:
                    await self._self_test()
                except JailError as error:
                    self._trouble = f"code and templates cannot be run safely on this machine, so they are off: {error}"
                    self.level = "off"
                    logger.error("the jail is off", extra={"fields": {"reason": str(error)}})
                    raise JailUnavailableError(self._trouble) from error
                self._is_tested = True
                self.level = self._zygotes["code"].level
        return self.level

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        zygotes = list(self._zygotes.values())
        self._zygotes.clear()
        for one in zygotes:
            await one.close()
        await asyncio.gather(*self._ending)

    # inside

    async def _self_test(self) -> None:
        if not self._is_enabled:
            raise JailError("it is switched off in the settings")
        if sys.platform != "linux":
            raise JailError(f"it needs Linux; this is {sys.platform}")
        for name, code in HOSTILE.items():
            task = {"kind": "probe", "code": code}
            result = await self._attempt("code", task, b"", 10.0)
            if result != "blocked":
                raise JailError(f"a program could {name} ({result})")
        for code, expected in BENIGN:
            result = await self._attempt("code", {"kind": "python3", "code": code, "inputs": {}}, b"", 10.0)
            if result != expected:
                raise JailError("a harmless program did not run")

    async def _run(self, tenant: str, name: str, task: Mapping[str, Any], data: bytes, seconds: float) -> Any:
        if not self._is_tested:
            await self.check()
        async with self._slots.of(tenant):
            return await self._attempt(name, task, data, seconds, tenant)

    async def _attempt(self, name: str, task: Mapping[str, Any], data: bytes, seconds: float, tenant: str = "") -> Any:
        zygote = await self._zygote(name, tenant)
        try:
            head = json.dumps(
                {**task, "limits": {"memory": self.limits.memory_mb << 20}}, ensure_ascii=False, allow_nan=False
            ).encode("utf-8", "surrogatepass")
        except (ValueError, TypeError, RecursionError) as error:
            raise JailError(f"what it is given cannot be handed over: {error}") from error
        zygote.last += 1
        number = zygote.last
        source, feed = os.pipe()
        drain, sink = os.pipe()
        run = zygote.runs[number] = _Run(asyncio.get_running_loop().create_future())
        zygote.used = time.monotonic()
        try:
            zygote.send({"op": "run", "id": number}, (source, sink))
        except JailError:
            zygote.runs.pop(number, None)
            os.close(feed)
            os.close(drain)
            raise
        finally:
            os.close(source)
            os.close(sink)
        try:
            async with asyncio.timeout(seconds):
                is_large = "name" in task or task["kind"] == "web"
                most = self.limits.document_bytes if is_large else self.limits.output_bytes
                answer = await self._exchange(feed, drain, head + b"\n" + data, most)
                ended = await run.ended
        except TimeoutError:
            raise JailError(f"it ran longer than {seconds:g} s", reason="time") from None
        finally:
            if not run.ended.done():
                with suppress(JailError):
                    zygote.send({"op": "kill", "id": number})
                run.ended.cancel()
            zygote.used = time.monotonic()
        if ended.has_too_many_threads:
            raise JailError(f"it started more than {self.limits.threads} threads", reason="threads")
        return _read(answer, ended.status)

    async def _exchange(self, feed: int, drain: int, task: bytes, most: int) -> bytes:
        """Hand the task over and take what comes back."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(drain, "rb", 0)
        )
        try:
            await _written(feed, task)
            answer = bytearray()
            while piece := await reader.read(1 << 18):
                answer += piece
                if len(answer) > most:
                    raise JailError(f"its result is larger than {most:,} bytes", reason="output")
            return bytes(answer)
        finally:
            reading.close()

    async def _zygote(self, name: str, tenant: str) -> _Zygote:
        known = self._zygotes.get(name)
        if known is not None and known.is_alive:
            return known
        async with self._starting.setdefault(name, asyncio.Lock()):
            known = self._zygotes.get(name)
            if known is None or not known.is_alive:
                if known is not None:
                    await known.close()
                known = await _start(name, self._limits_of(name))
                known.tenant, known.used = tenant, time.monotonic()
                self._zygotes[name] = known
                self._make_room()
                self._sweep_later()
        return known

    def _limits_of(self, name: str) -> Mapping[str, Any]:
        seconds = self.limits.document_seconds if name == "documents" else self.limits.seconds
        return {
            "memory": self.limits.memory_mb << 20, "seconds": seconds, "level": self._wanted,
            "threads": self.limits.threads,
        }  # fmt: skip

    # helpers that nobody needs

    def _make_room(self) -> None:
        """End helpers until there are no more of them, and no larger ones, than there may be. They are taken from the
        tenant for whom most were started, so that nobody's imports push out everybody else's."""
        while self._is_crowded() and (free := self._idle(but_newest=True)):
            number = Counter(one.tenant for one in self._zygotes.values())
            name, _ = min(free, key=lambda each: (-number[each[1].tenant], each[1].used))
            self._end(name)

    def _is_crowded(self) -> bool:
        memory = sum(one.memory for one in self._zygotes.values())
        return len(self._zygotes) > self.limits.helpers or memory > self.limits.helpers_mb << 20

    def _idle(self, *, but_newest: bool = False) -> list[tuple[str, _Zygote]]:
        """Those that do nothing now. The newest is about to be used by whoever asked for it."""
        newest = max(self._zygotes.values(), key=lambda one: one.used, default=None) if but_newest else None
        return [
            (name, one) for name, one in self._zygotes.items() if one.is_idle and name != "code" and one is not newest
        ]

    def _end(self, name: str) -> None:
        task = asyncio.ensure_future(self._zygotes.pop(name).close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self.limits.idle_seconds / 2, self._sweep)

    def _sweep(self) -> None:
        """End those that nobody needed for a while; look again while there are any."""
        self._sweeper = None
        self._make_room()
        since = time.monotonic() - self.limits.idle_seconds
        for name, one in self._idle():
            if one.used < since:
                self._end(name)
        if self._zygotes.keys() - {"code"}:
            self._sweep_later()


async def _written(feed: int, task: bytes) -> None:
    """Into the pipe; at once where it fits, which it nearly always does."""
    loop = asyncio.get_running_loop()
    os.set_blocking(feed, False)
    view = memoryview(task)
    try:
        while view:
            try:
                view = view[os.write(feed, view) :]
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_writer(feed, lambda ready=ready: ready.done() or ready.set_result(None))
                try:
                    await ready
                finally:
                    loop.remove_writer(feed)
            except BrokenPipeError:
                return  # it is over already; its status says how
    finally:
        os.close(feed)


async def _start(name: str, limits: Mapping[str, Any]) -> _Zygote:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    kind, *modules = name.split("+")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-X", "utf8", str(_PROGRAM), str(theirs.fileno()), kind,
            json.dumps(limits), *modules,
            cwd="/", env=_ENVIRON, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise JailError(f"its process did not start: {error}") from error
        raise
    finally:
        theirs.close()
    zygote = _Zygote(process, ours)
    try:
        async with asyncio.timeout(_READY_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(ours, 65536)
    except (TimeoutError, OSError):
        data = b""
    except BaseException:
        await zygote.close()
        raise
    told: dict[str, Any] = msgspec.json.decode(data) if data else {"error": "its process ended while it started"}
    if not told.get("ready"):
        await zygote.close()
        raise JailError(str(told.get("error")))
    zygote.level, zygote.memory = told["level"], told["memory"]
    zygote.listener = asyncio.ensure_future(zygote.listen())
    return zygote


def _read(answer: bytes, status: int) -> Any:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            raise JailError("it took more processor time than it may", reason="time")
        raise JailError(f"it crashed ({signal.Signals(number).name})", reason="crash")
    try:
        told: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise JailError("it ended without a result", reason="crash") from None
    if "jail" in told:
        raise JailError(f"it could not be shut in: {told['jail']}", reason="jail")
    if "error" in told:
        raise JailError(str(told["error"]))
    return told.get("result")
