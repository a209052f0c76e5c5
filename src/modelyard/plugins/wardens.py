"""The wardens: one process for each environment, which starts the plugins there and ends all that they started."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import PluginError
from modelyard.plugins.conversation import PluginDiedError
from modelyard.plugins.environment import Environment
from modelyard.plugins.quarters import Quarter, hand_over
from modelyard.plugins.way_out import WayOut

logger = logging.getLogger("modelyard.plugins")

_PROGRAM = Path(__file__).with_name("warden.py")
_READY_SECONDS = 60.0
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR")
"""Variables that plugins are given, and that name what they read."""
_MOST_MESSAGE = 65_536
Died = Callable[[str], None]
"""Is told how a plugin's process ended."""


@dataclass(slots=True, eq=False)
class Spawned:
    """A plugin's process, and our ends of its pipes."""

    id: int
    pid: int
    pipes: socket.socket
    """Its stdin; what is written here it reads."""
    out: socket.socket
    err: socket.socket
    warden: "_Warden"

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.warden.kill(self, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What a tenant's plugins of one environment may reach between them. Each is given its own part of it alone."""

    tenant: str
    environment: Environment
    code: tuple[Path, ...]
    work: tuple[Path, ...]
    tmp: Path
    user: int | None
    """The number of the user that they are to be, where the server may choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A plugin that is to be started."""

    cell: Cell
    folder: Path
    """Its code."""
    quarter: Quarter
    module: str
    env: Mapping[str, str]
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Confined:
    """What holds against the plugins of a warden."""

    level: str
    """`landlock`, or `none`."""
    network: str
    """`namespace`: one of their own; `port`: the server's, of which they reach our port alone; `none`: no connections;
    `open`: nothing holds."""
    uid: int | None
    namespaces: bool = False
    port: int = 0
    own: tuple[str, ...] = ()
    """Folders of a root of their own that all of a warden's plugins may write to."""

    def words(self) -> str:
        if self.level == "none":
            return "nothing: plugins run with the server's rights"
        parts = [self.level, "a root of their own" if self.namespaces else "the server's file system, seen in part"]
        parts.append("a user for each tenant" if self.uid is not None else "the server's user")
        network = {
            "namespace": "a network of their own",
            "port": "one port of the server's network",
            "none": "no network",
        }
        return ", ".join([*parts, network.get(self.network, self.network)])


def machine() -> Confined:
    """What would hold against plugins on this machine, tried out in a process of its own. Raises PluginError."""
    program = (
        f"import json, sys; sys.path.insert(0, {str(_PROGRAM.parent / 'inside')!r}); import confine\n"
        "abi, is_apart = confine.landlock_abi(), True\n"
        "try: confine.set_apart()\n"
        "except OSError: is_apart = False\n"
        "print(json.dumps([abi, is_apart]))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=False, env={})
    if done.returncode:
        raise PluginError(f"it cannot be found out: {done.stderr.decode('utf-8', 'replace').strip()[-200:]}")
    abi, is_apart = msgspec.json.decode(done.stdout, type=tuple[int, bool])
    if not abi:
        return Confined("none", "open", None)
    network = "namespace" if is_apart else "port" if abi >= 4 else "none"
    return Confined("landlock", network, 0 if os.geteuid() == 0 else None, is_apart)


class Wardens:
    """One for each tenant and environment, started when it is first needed."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        forks: bool = True,
        way_out: Callable[[str, str], WayOut] | None = None,
        needs_confinement: bool = True,
    ) -> None:
        """`way_out` makes what lets a tenant's plugins out, given the tenant and a password. Without confinement,
        plugins run where the kernel cannot shut them in."""
        self._environ = environ
        self._forks = forks
        self._way_out = way_out
        self._needs_confinement = needs_confinement
        self._by_name: dict[tuple[str, str], _Warden] = {}
        self._leaving: list[_Warden] = []
        """Those that know too little of their tenant's plugins; they end with the last that they serve."""
        self._starting: dict[tuple[str, str], asyncio.Task[_Warden]] = {}
        self.confined: Confined | None = None
        """What held for the last that was started."""

    async def spawn(self, order: Order, on_exit: Died) -> Spawned:
        """Start a plugin. Raises PluginError where that cannot be."""
        warden = await self.warm(order.cell, order.folder)
        return await warden.spawn(order, on_exit)

    async def warm(self, cell: Cell, folder: Path) -> "_Warden":
        """The warden that may start the plugin in a folder."""
        name = (cell.tenant, cell.environment.name)
        known = self._by_name.get(name)
        if known is not None and known.is_alive:
            if folder in known.cell.code:
                return known
            self._leaving.append(self._by_name.pop(name))
        task = self._starting.get(name)
        if task is None:
            task = self._starting[name] = asyncio.ensure_future(self._start(cell))
            task.add_done_callback(lambda done: self._starting.pop(name, None))
        warden = await asyncio.shield(task)
        return warden if folder in warden.cell.code else await self.warm(cell, folder)

    async def _start(self, cell: Cell) -> "_Warden":
        warden = await _Warden.start(
            cell, self._environ, forks=self._forks, way_out=self._way_out, is_open=not self._needs_confinement
        )
        self._say(warden.confined)
        self._by_name[cell.tenant, cell.environment.name] = warden
        return warden

    def _say(self, confined: Confined) -> None:
        """Write down what holds, where that is new."""
        was, self.confined = self.confined, confined
        if was is None or was.words() != confined.words():
            is_less = confined.level == "none" or not confined.namespaces
            logger.log(
                logging.WARNING if is_less else logging.INFO,
                "plugins are shut in",
                extra={"fields": {"by": confined.words()}},
            )

    def rest(self, now: float, seconds: float) -> None:
        """End those that have watched over nothing for so long."""
        for warden in list(self._leaving):
            if not warden.plugins:
                self._leaving.remove(warden)
                warden.close()
        for name, warden in list(self._by_name.items()):
            if warden.plugins or name in self._starting:
                warden.rests_since = None
                continue
            warden.rests_since = warden.rests_since or now
            if now - warden.rests_since > seconds or not warden.is_alive:
                del self._by_name[name]
                warden.close()

    def pids(self) -> list[int]:
        return [one.process.pid for one in [*self._by_name.values(), *self._leaving] if one.is_alive]

    def zygotes(self) -> list[int]:
        return [one.zygote for one in [*self._by_name.values(), *self._leaving] if one.is_alive]

    async def aclose(self) -> None:
        """End all of them, and with them every plugin."""
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        wardens = [*self._by_name.values(), *self._leaving]
        self._by_name.clear()
        self._leaving.clear()
        for warden in wardens:
            warden.close()
        for warden in wardens:
            await warden.gone()


@dataclass(slots=True, eq=False)
class _Warden:
    process: asyncio.subprocess.Process
    control: socket.socket
    cell: Cell
    confined: Confined
    way_out: WayOut | None = None
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    plugins: dict[int, Died] = field(default_factory=dict[int, Died])
    zygote: int = 0
    """Its only child, which loaded the SDK and starts the plugins."""
    rests_since: float | None = None
    _pids: dict[int, int] = field(default_factory=dict[int, int])
    _waiting: dict[int, "asyncio.Future[int]"] = field(default_factory=dict[int, "asyncio.Future[int]"])
    _last: int = 0
    _listener: "asyncio.Task[None] | None" = None
    is_alive: bool = True

    @classmethod
    async def start(
        cls,
        cell: Cell,
        environ: Mapping[str, str],
        *,
        forks: bool,
        way_out: Callable[[str, str], WayOut] | None,
        is_open: bool,
    ) -> "_Warden":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        environment = cell.environment
        kept = {name: environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in environ}
        try:
            process = await asyncio.create_subprocess_exec(
                str(environment.base), "-I", "-S", "-X", "utf8", str(_PROGRAM), str(theirs.fileno()),
                cwd="/", env=kept, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except BaseException as error:
            ours.close()
            if not isinstance(error, OSError):
                raise
            raise PluginError(f"the environment {environment.name} cannot be used: {error}") from error
        finally:
            theirs.close()
        warden = cls(process, ours, cell, Confined("none", "open", None), environ=environ)
        listener: int | None = None
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await asyncio.get_running_loop().sock_sendall(
                    ours, msgspec.json.encode(_beginning(cell, environ, kept, forks=forks, is_open=is_open))
                )
                ready, listener = await warden._receive_ready()
        except TimeoutError:
            ready = None
        except BaseException as error:
            warden.close()
            await warden.gone()
            if isinstance(error, OSError):
                raise PluginError(f"the environment {environment.name} cannot be used: {error}") from error
            raise
        try:
            await warden._begin(ready, listener, way_out)
        except BaseException:
            warden.close()
            await warden.gone()
            raise
        return warden

    async def _begin(self, ready: Any, listener: int | None, way_out: Callable[[str, str], WayOut] | None) -> None:
        """Take what the warden said. Raises PluginError where nothing can be started."""
        opened = socket.socket(fileno=listener) if listener is not None else None
        try:
            name = self.cell.environment.name
            if ready is None:
                raise PluginError(f"the environment {name} cannot be used: its Python did not start")
            if ready.get("failed") or "confined" not in ready:
                why = ready["error"] or "it ended at once"
                raise PluginError(f"plugins cannot be shut in on this machine, so none is started: {why}")
            self.confined = msgspec.convert(
                {key: one for key, one in ready["confined"].items() if key != "abi"}, Confined
            )
            self.zygote = int(ready["zygote"])
            if ready["error"]:
                fields = {"environment": name, "error": ready["error"]}
                logger.warning("the SDK cannot be loaded beforehand; plugins start slowly", extra={"fields": fields})
            if opened is not None and way_out is not None:
                token = "" if self.confined.network == "namespace" else secrets.token_urlsafe(16)
                self.way_out = way_out(self.cell.tenant, token)
                await self.way_out.start(opened)
                opened = None
            self._listener = asyncio.ensure_future(self._listen())
        finally:
            if opened is not None:
                opened.close()

    async def _receive_ready(self) -> tuple[Any, int | None]:
        """The warden's first word, and the descriptor that came with it."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.control.fileno(), lambda: readable.done() or readable.set_result(None))
        try:
            await readable
        finally:
            loop.remove_reader(self.control.fileno())
        data, descriptors, _, _ = socket.recv_fds(self.control, _MOST_MESSAGE, 1)
        return (msgspec.json.decode(data) if data else None), (descriptors[0] if descriptors else None)

    def proxies(self) -> dict[str, str]:
        """Variables that lead a plugin's connections to the way out; those of this process where nothing holds."""
        if self.confined.level == "none":
            return {name: self.environ[name] for name in _PROXIES if name in self.environ}
        if self.way_out is None:
            return {}
        shown = f"plugin:{self.way_out.token}@" if self.way_out.token else ""
        address = f"http://{shown}127.0.0.1:{self.confined.port}"
        return {name: address for name in _PROXIES if "no_proxy" not in name.lower()}

    async def _receive(self) -> Any:
        """The warden's next word; None where it is gone."""
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self.control, _MOST_MESSAGE)
        except OSError:
            return None
        return msgspec.json.decode(data) if data else None

    async def spawn(self, order: Order, on_exit: Died) -> Spawned:
        self._last += 1
        number = self._last
        await asyncio.to_thread(self._prepare, order)
        pairs = [socket.socketpair() for _ in range(3)]
        message = {"op": "spawn", "id": number, **self._part(order)}
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.plugins[number] = on_exit
        try:
            socket.send_fds(self.control, [msgspec.json.encode(message)], [theirs.fileno() for _, theirs in pairs])
            for ours, _ in pairs:
                ours.setblocking(False)
            pid = await waiting
        except BaseException as error:
            self.plugins.pop(number, None)
            self._send({"op": "kill", "id": number, "signal": signal.SIGKILL})
            for ours, _ in pairs:
                ours.close()
            if isinstance(error, OSError):
                raise PluginDiedError("its warden is gone") from error
            raise
        finally:
            self._waiting.pop(number, None)
            for _, theirs in pairs:
                theirs.close()
        (pipes, out, err) = (ours for ours, _ in pairs)
        return Spawned(number, pid, pipes, out, err, self)

    def _prepare(self, order: Order) -> None:
        for folder in (*order.quarter.folders, self.cell.tmp):
            hand_over(folder, self.confined.uid)

    def _part(self, order: Order) -> dict[str, Any]:
        """What a plugin is started with, and of its cell what it reaches itself."""
        env = {**order.env, **self.proxies(), "HOME": str(order.quarter.work), "TMPDIR": str(order.quarter.tmp)}
        told: dict[str, Any] = {
            "cwd": str(order.folder), "module": order.module, "env": env, "limits": dict(order.limits), "read": [],
            "write": [], "port": None, "private": self.confined.uid is not None,
        }  # fmt: skip
        if self.confined.level == "none":
            return told
        told["read"] = [*_given(self.cell, self.environ), str(order.folder)]
        told["write"] = [*map(str, order.quarter.folders), *self.confined.own]
        told["port"] = self.confined.port if self.confined.network == "port" else None
        if order.limits.get("nproc") and self.confined.uid is None and not self.confined.namespaces:
            del told["limits"]["nproc"]  # it would count what the server's user runs, too
        return told

    def kill(self, spawned: Spawned, number: int) -> None:
        if spawned.id in self.plugins:
            self._send({"op": "kill", "id": spawned.id, "signal": number})

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.control.send(msgspec.json.encode(message))

    async def _listen(self) -> None:
        while (message := await self._receive()) is not None:
            number = message["id"]
            if message["event"] == "spawned":
                if message["pid"] > 0:  # else it is gone already
                    self._pids[number] = message["pid"]
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message["pid"])
            elif message["event"] == "exited":
                self._pids.pop(number, None)
                if (on_exit := self.plugins.pop(number, None)) is not None:
                    on_exit(_how(message["status"]))
        self._lost()

    def _lost(self) -> None:
        """The warden died. Its plugins die with it; what they forked is ended by their sessions."""
        if not self.is_alive:
            return
        self.is_alive = False
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        plugins, self.plugins = self.plugins, {}
        for on_exit in plugins.values():
            on_exit("its warden was killed")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PluginDiedError("its warden was killed"))

    def close(self) -> None:
        """Let go of it: it ends everything that it started, and itself."""
        self.is_alive = False
        if self._listener is not None:
            self._listener.cancel()
        if self.way_out is not None:
            self.way_out.close()
        self.control.close()

    async def gone(self) -> None:
        try:
            async with asyncio.timeout(6):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _given(cell: Cell, environ: Mapping[str, str]) -> list[str]:
    """What all plugins of a cell read beside the machine's programs."""
    named = [str(Path(environ[name]).expanduser()) for name in _FILES if environ.get(name)]
    return [str(cell.environment.folder), *named]


def _beginning(
    cell: Cell, environ: Mapping[str, str], kept: Mapping[str, str], *, forks: bool, is_open: bool
) -> dict[str, Any]:
    """The first that a warden is told."""
    return {
        "python": str(cell.environment.python), "fork": forks, "open": is_open, "uid": cell.user, "tmp": str(cell.tmp),
        "read": [*_given(cell, environ), *map(str, cell.code)], "write": [str(one) for one in cell.work],
        "env": dict(kept),
    }  # fmt: skip


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"it was killed by signal {number} ({signal.Signals(number).name})"
    return f"it ended with status {os.WEXITSTATUS(status)}"
