"""The wardens: one process for each environment, which starts the plugins there and ends all that they started."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import PluginError
from modelyard.plugins.conversation import PluginDiedError
from modelyard.plugins.environment import Environment

logger = logging.getLogger("modelyard.plugins")

_PROGRAM = Path(__file__).with_name("warden.py")
_READY_SECONDS = 60.0
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


class Wardens:
    """One for each environment, started when it is first needed."""

    def __init__(self, environ: Mapping[str, str], *, forks: bool = True) -> None:
        self._environ = environ
        self._forks = forks
        self._by_name: dict[str, _Warden] = {}
        self._starting: dict[str, asyncio.Task[_Warden]] = {}

    async def spawn(
        self,
        environment: Environment,
        *,
        folder: Path,
        module: str,
        env: Mapping[str, str],
        limits: Mapping[str, int],
        on_exit: Died,
    ) -> Spawned:
        """Start a plugin. Raises PluginError where that cannot be."""
        warden = await self.warm(environment)
        return await warden.spawn(folder, module, env, limits, on_exit)

    async def warm(self, environment: Environment) -> "_Warden":
        """The environment's warden, ready to start plugins."""
        known = self._by_name.get(environment.name)
        if known is not None and known.is_alive:
            return known
        task = self._starting.get(environment.name)
        if task is None:
            task = self._starting[environment.name] = asyncio.ensure_future(self._start(environment))
            task.add_done_callback(lambda done: self._starting.pop(environment.name, None))
        return await asyncio.shield(task)

    async def _start(self, environment: Environment) -> "_Warden":
        warden = await _Warden.start(environment, self._environ, forks=self._forks)
        self._by_name[environment.name] = warden
        return warden

    def rest(self) -> None:
        """End those that watch over nothing."""
        for name, warden in list(self._by_name.items()):
            if not warden.plugins and name not in self._starting:
                del self._by_name[name]
                warden.close()

    def pids(self) -> list[int]:
        return [one.process.pid for one in self._by_name.values() if one.is_alive]

    async def aclose(self) -> None:
        """End all of them, and with them every plugin."""
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        wardens = list(self._by_name.values())
        self._by_name.clear()
        for warden in wardens:
            warden.close()
        for warden in wardens:
            await warden.gone()


@dataclass(slots=True, eq=False)
class _Warden:
    process: asyncio.subprocess.Process
    control: socket.socket
    name: str
    plugins: dict[int, Died] = field(default_factory=dict[int, Died])
    _pids: dict[int, int] = field(default_factory=dict[int, int])
    _waiting: dict[int, "asyncio.Future[int]"] = field(default_factory=dict[int, "asyncio.Future[int]"])
    _last: int = 0
    _listener: "asyncio.Task[None] | None" = None
    is_alive: bool = True

    @classmethod
    async def start(cls, environment: Environment, environ: Mapping[str, str], *, forks: bool) -> "_Warden":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        kept = {name: environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in environ}
        options = ["--fork"] if forks else []
        try:
            process = await asyncio.create_subprocess_exec(
                str(environment.python), "-X", "utf8", str(_PROGRAM), str(theirs.fileno()), *options,
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
        warden = cls(process, ours, environment.name)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                ready = await warden._receive()
        except TimeoutError:
            ready = None
        except BaseException:
            warden.close()
            await warden.gone()
            raise
        if ready is None:
            warden.close()
            await warden.gone()
            raise PluginError(f"the environment {environment.name} cannot be used: its Python did not start")
        if ready["error"]:
            fields = {"environment": environment.name, "error": ready["error"]}
            logger.warning("the SDK cannot be loaded beforehand; plugins start slowly", extra={"fields": fields})
        warden._listener = asyncio.ensure_future(warden._listen())
        return warden

    async def _receive(self) -> Any:
        """The warden's next word; None where it is gone."""
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self.control, _MOST_MESSAGE)
        except OSError:
            return None
        return msgspec.json.decode(data) if data else None

    async def spawn(
        self, folder: Path, module: str, env: Mapping[str, str], limits: Mapping[str, int], on_exit: Died
    ) -> Spawned:
        self._last += 1
        number = self._last
        pairs = [socket.socketpair() for _ in range(3)]
        message = {
            "op": "spawn", "id": number, "cwd": str(folder), "module": module, "env": dict(env), "limits": dict(limits),
        }  # fmt: skip
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
        self.control.close()

    async def gone(self) -> None:
        try:
            async with asyncio.timeout(6):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"it was killed by signal {number} ({signal.Signals(number).name})"
    return f"it ended with status {os.WEXITSTATUS(status)}"
