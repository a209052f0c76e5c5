"""The local runtime: a plugin as processes on this machine. Started when it is first called, ended when it idles,
started anew when it dies, each time after a longer rest."""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelyard.base.clock import Clock
from modelyard.base.errors import PluginError
from modelyard.models.types import JSON
from modelyard.plugins.conversation import Backwards, Conversation, PluginCall, PluginDiedError
from modelyard.plugins.quarters import Quarter, emptied
from modelyard.plugins.wardens import Cell, Order, Spawned, Wardens

logger = logging.getLogger("modelyard.plugins")

_LONGEST_REST = 300.0
_STEADY_SECONDS = 60.0
"""A process that lived so long died of something new."""
_ERR_KEPT = 8192
_PIECE = 65_536


BEHIND = 19
"""The priority of a session that lets all others go first."""


def step_back(pid: int, nice: int) -> None:
    """Set the priority of a session. Where the kernel shares processors out by sessions, that is the session's own;
    elsewhere it is its processes', and only ever goes down. 0 is one that ended before it could be looked at."""
    if pid <= 0:
        return
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
    except OSError:
        if nice:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PGRP, pid, nice)


class Runtime(Protocol):
    """Something that serves a plugin's requests, wherever it runs."""

    def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How plugins' processes are treated. Seconds and bytes."""

    instances: int = 1
    """Processes of one plugin, the second started while the first is busy."""
    start_seconds: float = 60.0
    silence_seconds: float = 120.0
    """A process that says nothing for so long, not even a heartbeat, is ended."""
    idle_seconds: float = 600.0
    recycle_seconds: float = 2.0
    """A process that works for so long on requests that everybody has given up is ended."""
    drain_seconds: float = 30.0
    max_memory: int = 1024 * 1024 * 1024
    """Of a process and all that it started."""
    max_processes: int = 64
    max_files: int = 1024
    max_disk: int = 1024 * 1024 * 1024
    """Of what a plugin keeps on the disk for one tenant."""
    call_seconds: float = 1200.0
    """A call that takes longer is given up, and its process ended and replaced."""
    running: int = 64
    """Plugins that run at once; the one that was not used for longest is ended where another is to start."""

    def limits(self) -> dict[str, int]:
        """What the kernel holds of it, for one process. The monitor holds the rest, twice a second."""
        return {
            "nofile": self.max_files, "core": 0, "fsize": self.max_disk, "nproc": max(1024, 16 * self.max_processes),
            "data": 2 * self.max_memory + (1 << 30), "memlock": 8 << 20,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is started, and how."""

    plugin: str
    folder: Path
    module: str
    cell: Callable[[], Cell]
    """Where it is shut in: worked out at each start, as a tenant's plugins come and go."""
    quarter: Quarter
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class Instance:
    """One process of a plugin."""

    spawned: Spawned
    conversation: Conversation
    started_at: float
    writer: asyncio.WriteTransport
    readers: tuple[asyncio.BaseTransport, ...]
    errors: deque[bytes]
    """The end of what it wrote to stderr."""
    used_at: float
    is_draining: bool = False
    abandoned_since: float | None = None
    is_behind: bool = False
    """Whether it has to let others go first; the monitor's."""
    spins_since: float | None = None
    """Since when it takes a processor with nothing to do; the monitor's."""

    @property
    def is_idle(self) -> bool:
        """Whether it was started and has nothing to do."""
        conversation = self.conversation
        return conversation.ready.done() and not conversation.open and not conversation.abandoned

    @property
    def is_usable(self) -> bool:
        return self.conversation.error is None and not self.is_draining

    def last_words(self) -> str:
        lines = b"".join(self.errors)[-_ERR_KEPT:].decode("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-6:])

    def kill(self) -> None:
        self.spawned.kill()

    def close(self) -> None:
        self.writer.close()
        for one in self.readers:
            one.close()


class LocalRuntime:
    """All processes of one plugin for one tenant: what a plugin remembers of a tenant, no other one ever sees."""

    def __init__(
        self,
        launch: Launch,
        wardens: Wardens,
        backwards: Backwards,
        clock: Clock,
        starts: asyncio.Semaphore,
        options: ProcessOptions,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.launch = launch
        self._make_room = make_room
        self.options = options
        self.instances: list[Instance] = []
        self._wardens = wardens
        self._backwards = backwards
        self._clock = clock
        self._starts = starts
        self._starting: asyncio.Task[Instance] | None = None
        self._failures = 0
        self.lines: deque[tuple[float, str]] = deque(maxlen=500)
        """What it said lately: (seconds since 1970, text)."""
        self._rests_until = 0.0
        self._why = ""
        self._is_closed = False
        self.disk_bytes = 0
        """What it keeps on the disk, as of the last look."""
        self.behind_until = 0.0
        """Until when its processes let others go first, whatever they do: it kept a processor busy. The monitor's."""

    # calls

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Raises PluginDiedError where the plugin cannot be started, or dies meanwhile."""
        instance = await self._chosen()
        instance.used_at = self._clock.monotonic()
        why = f"a call took longer than {self.options.call_seconds:g} s"
        timer = asyncio.get_running_loop().call_later(self.options.call_seconds, self.evict, instance, why)
        try:
            async with aclosing(instance.conversation.call(call)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            timer.cancel()
            instance.used_at = self._clock.monotonic()

    async def _chosen(self) -> Instance:
        """The least busy; another one is started beside it while all are busy and more may be."""
        usable = [one for one in self.instances if one.is_usable]
        if not usable:
            return await asyncio.shield(self._start())
        best = min(usable, key=lambda one: one.conversation.open)
        may_grow = len(usable) < self.options.instances and self._clock.monotonic() >= self._rests_until
        if best.conversation.open and may_grow:
            self._start()
        return best

    def _start(self) -> "asyncio.Task[Instance]":
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._started())
            self._starting.add_done_callback(self._on_started)
        return self._starting

    def _on_started(self, task: "asyncio.Task[Instance]") -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # who waited for it was told

    # starting

    async def _started(self) -> Instance:
        rest = self._rests_until - self._clock.monotonic()
        if rest > 0:
            message = f"it is not started again for {rest:.1f} s: {self._why}"
            raise PluginDiedError(message, plugin=self.launch.plugin, retry_after=rest)
        async with self._starts:
            if self._is_closed:
                raise PluginDiedError("it is being removed", plugin=self.launch.plugin)
            try:
                return await self._spawned()
            except PluginError as error:
                self._failed(str(error), never_ready=True)
                raise

    async def _spawned(self) -> Instance:
        launch, options = self.launch, self.options
        ended: list[str] = []
        made: list[Instance] = []

        def on_exit(how: str) -> None:
            ended.append(how)
            if made:
                asyncio.ensure_future(self._exited(made[0], how))  # noqa: RUF006  it ends by itself in a moment

        self._make_room()
        if not self.instances:
            await asyncio.to_thread(self._clean)
        order = Order(
            cell=await asyncio.to_thread(launch.cell),
            folder=launch.folder,
            quarter=launch.quarter,
            module=launch.module,
            env=launch.env,
            limits=options.limits(),
        )
        spawned = await self._wardens.spawn(order, on_exit)
        instance = await self._connected(spawned)
        made.append(instance)
        self.instances.append(instance)
        if ended:  # before we came to listen
            asyncio.ensure_future(self._exited(instance, ended[0]))  # noqa: RUF006  as above
        try:
            async with asyncio.timeout(options.start_seconds):
                await instance.conversation.ready
        except TimeoutError:
            message = f"it was not ready within {options.start_seconds:g} s{_quoted(instance.last_words())}"
            self._end(instance, PluginDiedError(message, plugin=launch.plugin))
            raise PluginDiedError(message, plugin=launch.plugin) from None
        except BaseException as error:
            if not isinstance(error, PluginError):
                self._end(instance, PluginDiedError("its start was given up", plugin=launch.plugin))
            raise
        instance.is_behind = self._clock.monotonic() < self.behind_until
        step_back(spawned.pid, BEHIND if instance.is_behind else 0)
        fields = {"plugin": launch.plugin, "pid": spawned.pid, "seconds": round(self._age(instance), 3)}
        logger.info("a plugin is ready", extra={"fields": fields})
        return instance

    def _clean(self) -> None:
        """Leave nothing of the temporary files of the last process; nothing at all of one that filled the disk."""
        quarter = self.launch.quarter
        emptied(quarter.tmp)
        if self.disk_bytes > self.options.max_disk:
            emptied(quarter.work)
            emptied(quarter.shared)
        self.disk_bytes = 0

    async def _connected(self, spawned: Spawned) -> Instance:
        loop, now = asyncio.get_running_loop(), self._clock.monotonic
        errors: deque[bytes] = deque(maxlen=64)
        writer, _ = await loop.create_connection(lambda: _Sink(lambda data: None), sock=spawned.pipes)
        conversation = Conversation(self.launch.plugin, writer.write, self._backwards, now, self._say)
        out, _ = await loop.create_connection(lambda: _Sink(conversation.feed), sock=spawned.out)
        err, _ = await loop.create_connection(lambda: _Sink(errors.append), sock=spawned.err)
        return Instance(spawned, conversation, now(), writer, (out, err), errors, now())

    def _say(self, text: str) -> None:
        self.lines.append((self._clock.time(), text))
        logger.info(text, extra={"fields": {"plugin": self.launch.plugin}})

    # ending

    async def _exited(self, instance: Instance, how: str) -> None:
        """A process is gone: whoever waited for it is told, with its last words."""
        await asyncio.sleep(0.02)  # what it still said is on its way
        words = instance.last_words()
        error = PluginDiedError(f"{how}{_quoted(words)}", plugin=self.launch.plugin)
        was_expected = instance.conversation.error is not None
        if self._age(instance) > _STEADY_SECONDS:
            self._failures = 0
        self._remove(instance, error)
        if not was_expected:
            if instance.conversation.ready.done() and not instance.conversation.ready.exception():
                self._failed(how)  # one that never got ready is counted by who started it
            fields = {"plugin": self.launch.plugin, "how": how, "stderr": words}
            logger.warning("a plugin died", extra={"fields": fields})
            self.lines.append((self._clock.time(), f"{how}\n{words}".strip()))

    def _failed(self, why: str, *, never_ready: bool = False) -> None:
        """One that served is started again at once, the first time. One that never got ready will hardly do better."""
        self._failures += 1
        step = 2 ** min(self._failures - 1, 20)
        rest = min(_LONGEST_REST, step * 1.0 if never_ready else step * 0.25 * (self._failures > 1))
        self._rests_until = self._clock.monotonic() + rest
        self._why = why.removeprefix(f"plugin {self.launch.plugin!r}: ")

    def _end(self, instance: Instance, error: PluginDiedError) -> None:
        self._remove(instance, error)
        instance.kill()

    def _remove(self, instance: Instance, error: PluginDiedError) -> None:
        with contextlib.suppress(ValueError):
            self.instances.remove(instance)
        instance.conversation.end(error)
        instance.close()

    def look(self) -> None:
        """What has to be done from time to time: end what is silent, idle, or busy for nobody."""
        now = self._clock.monotonic()
        for one in list(self.instances):
            conversation, options = one.conversation, self.options
            if not conversation.ready.done():
                continue
            if now - conversation.heard_at > options.silence_seconds:
                self.evict(one, f"it said nothing for {options.silence_seconds:g} s")
            elif conversation.open:
                one.abandoned_since = None
            elif conversation.abandoned:
                one.abandoned_since = one.abandoned_since or now
                if now - one.abandoned_since > options.recycle_seconds:
                    if one.is_behind:  # and kept a processor busy: the next start has to wait
                        self._failed("it kept a processor busy for nobody")
                    self._end(one, PluginDiedError("it worked on for nobody", plugin=self.launch.plugin))
            elif now - one.used_at > options.idle_seconds:
                self._end(one, PluginDiedError("it was not used", plugin=self.launch.plugin))

    def give_way(self, instance: Instance) -> None:
        """End an idle process, so that another plugin's can start."""
        self._end(instance, PluginDiedError("it was not used", plugin=self.launch.plugin))

    def evict(self, instance: Instance, why: str) -> None:
        """End a process that does what it must not."""
        if instance not in self.instances:
            return
        logger.warning("a plugin is ended", extra={"fields": {"plugin": self.launch.plugin, "why": why}})
        self._failed(why)
        self._end(instance, PluginDiedError(why, plugin=self.launch.plugin))

    def _age(self, instance: Instance) -> float:
        return self._clock.monotonic() - instance.started_at

    async def drain(self) -> None:
        """Take no more calls, and end when those that run are answered."""
        self._is_closed = True
        for one in self.instances:
            one.is_draining = True
        until = self._clock.monotonic() + self.options.drain_seconds
        while any(one.conversation.open for one in self.instances) and self._clock.monotonic() < until:
            await self._clock.sleep(0.05)
        await self.aclose()

    async def aclose(self) -> None:
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
        for one in list(self.instances):
            self._end(one, PluginDiedError("it was stopped", plugin=self.launch.plugin))


class _Sink(asyncio.Protocol):
    """Hands on what comes."""

    def __init__(self, take: Callable[[bytes], Any]) -> None:
        self._take = take

    def data_received(self, data: bytes) -> None:
        self._take(data)


def _quoted(words: str) -> str:
    return f"; its last words: {words}" if words else ""
