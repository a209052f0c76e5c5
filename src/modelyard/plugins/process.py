"""Local runtime: a plugin as processes on this machine. They start with the first call,
stop when idle, and are restarted after a crash with a growing cooldown."""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelyard.base.clock import Clock
from modelyard.base.errors import PluginError
from modelyard.models.types import JSON
from modelyard.plugins.connection import (
    HostCalls,
    PluginCall,
    PluginConnection,
    PluginDiedError,
    PluginStoppedError,
)
from modelyard.plugins.environment import Environment
from modelyard.plugins.manifest import Hosts
from modelyard.plugins.supervisors import (
    LaunchRequest,
    SandboxScope,
    Spawned,
    Supervisors,
)
from modelyard.plugins.tenant_folders import WorkFolders, empty_folder

_T = TypeVar("_T")

logger = logging.getLogger("modelyard.plugins")

_MAX_COOLDOWN = 300.0
_STEADY_SECONDS = 60.0
"""A process that lived this long did not die of the previous problem, so the failure
count is reset."""
_MAX_STDERR_BYTES = 8192
_CHUNK_BYTES = 65_536


LOW_PRIORITY = 19
"""Niceness of a session that yields to all others."""
_MAX_START_FACTOR = 10.0
"""A start ends after this many times its limit, however busy the machine is."""


def set_niceness(pid: int, nice: int) -> None:
    """Set the niceness of a session. A `pid` of 0 means that the process has already
    exited.

    With autogroup scheduling it applies to the session; otherwise to its processes, and
    can only be raised.
    """
    if pid <= 0:
        return
    try:
        # Linux groups sessions for scheduling; writing here changes the whole session's
        # share.
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
    except OSError:
        if nice:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PGRP, pid, nice)


class Runtime(Protocol):
    """Serves the requests of a plugin, wherever it runs."""

    def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a call to the plugin and yield its answers. Raises PluginError."""
        ...

    async def aclose(self) -> None:
        """Stop serving and release all resources."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """Limits and timeouts of plugin processes, in seconds and bytes."""

    instances: int = 1
    """Maximum number of processes per plugin; another one starts when all are busy."""
    start_seconds: float = 60.0
    # As in Dify's daemon. The SDK sends a heartbeat every ten seconds.
    silence_seconds: float = 120.0
    """A process that sends nothing for this long, not even a heartbeat, is ended."""
    idle_seconds: float = 600.0
    recycle_seconds: float = 2.0
    """A process that works this long on abandoned requests only is ended."""
    drain_seconds: float = 30.0
    max_memory: int = 1024 * 1024 * 1024
    """For a process and its descendants together."""
    max_processes: int = 64
    max_files: int = 1024
    max_disk: int = 1024 * 1024 * 1024
    """Maximum size of a plugin's files for one tenant."""
    call_seconds: float = 1200.0
    """A call that takes longer fails, and its process is replaced."""
    running: int = 64
    """Maximum number of running plugins; the least recently used one is ended to make
    room."""

    def limits(self) -> dict[str, int]:
        """Return the resource limits that the kernel enforces per process. The monitor
        enforces the others."""
        return {
            "nofile": self.max_files,
            "core": 0,
            "fsize": self.max_disk,
            # The kernel counts all processes of the user, so those of other plugins as
            # well.
            "nproc": max(1024, 16 * self.max_processes),
            # For a burst between two looks of the monitor, which enforces `max_memory`
            # itself.
            "data": 2 * self.max_memory + (1 << 30),
            "memlock": 8 << 20,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything needed to start a plugin's process."""

    plugin: str
    folder: Path
    module: str
    cell: Callable[[], SandboxScope]
    """Returns the cell that confines the process; evaluated at each start, because a
    tenant's plugins change."""
    environment: Environment
    quarter: WorkFolders
    hosts: Hosts = None
    """The hosts that the plugin may connect to; None for any."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class Instance:
    """One process of a plugin."""

    spawned: Spawned
    conversation: PluginConnection
    started_at: float
    writer: asyncio.WriteTransport
    readers: tuple[asyncio.BaseTransport, ...]
    errors: deque[bytes]
    """The last data that it wrote to stderr."""
    used_at: float
    printed: deque[str] = field(default_factory=lambda: deque[str](maxlen=6))
    """The last lines of its standard output that are no messages of the protocol, and
    its log."""
    is_draining: bool = False
    abandoned_since: float | None = None
    is_behind: bool = False
    """Set by the monitor: the process has the lowest priority."""
    spins_since: float | None = None
    """Set by the monitor: the time since when it uses a processor although it is idle.
    """

    @property
    def is_idle(self) -> bool:
        """True if it has started and has no running or abandoned requests."""
        conversation = self.conversation
        return (
            conversation.ready.done()
            and not conversation.open_count
            and not conversation.abandoned_count
        )

    @property
    def is_usable(self) -> bool:
        """True if new calls may be sent to it."""
        return self.conversation.error is None and not self.is_draining

    def recent_stderr(self) -> str:
        """Return the last lines of stderr, for error messages."""
        lines = (
            b"".join(self.errors)[-_MAX_STDERR_BYTES:]
            .decode("utf-8", "replace")
            .strip()
            .splitlines()
        )
        return "\n".join(lines[-6:])

    def last_output(self) -> str:
        """Return the end of both outputs, for the error of a start that failed. Plugins
        give their reasons on either."""
        parts = (
            ("standard error", self.recent_stderr()),
            ("standard output", "\n".join(self.printed)[-_MAX_STDERR_BYTES:]),
        )
        return "".join(f"; {name}: {text}" for name, text in parts if text)

    def kill(self) -> None:
        """Kill the process and its descendants."""
        self.spawned.kill()

    def close(self) -> None:
        """Close the pipes."""
        self.writer.close()
        for reader in self.readers:
            reader.close()


class LocalRuntime:
    """All processes of one plugin for one tenant. Tenants never share a process,
    because a plugin may remember data."""

    def __init__(
        self,
        launch: Launch,
        supervisors: Supervisors,
        backwards: HostCalls,
        clock: Clock,
        starts: asyncio.Semaphore,
        options: ProcessOptions,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.launch = launch
        self._make_room = make_room
        self.options = options
        self.instances: list[Instance] = []
        self._supervisors = supervisors
        self._backwards = backwards
        self._clock = clock
        self._starts = starts
        self._starting: asyncio.Task[Instance] | None = None
        self._exits: set[asyncio.Task[None]] = set()
        self._failures = 0
        self.lines: deque[tuple[float, str]] = deque(maxlen=500)
        """Recent log lines: (Unix time, text)."""
        self._cooldown_until = 0.0
        self._last_failure = ""
        self._is_closed = False
        self.disk_bytes = 0
        """Size of its files at the last measurement."""
        self.behind_until = 0.0
        """Set by the monitor: until then its processes have the lowest priority,
        because one kept a processor busy."""

    # calls

    async def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a call to a usable process, starting one if there is none.

        Yields the answers. A call that exceeds `call_seconds` fails, and its process is
        ended. Raises PluginError: the plugin's own error, or PluginDiedError if it
        cannot be started or dies.
        """
        instance = await self._select_instance()
        instance.used_at = self._clock.monotonic()
        reason = f"Call exceeded {self.options.call_seconds:g} s"
        # The timer also covers a plugin that keeps sending and never ends.
        timer = asyncio.get_running_loop().call_later(
            self.options.call_seconds, self.evict, instance, reason
        )
        try:
            async with aclosing(instance.conversation.call(call)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            timer.cancel()
            instance.used_at = self._clock.monotonic()

    async def ensure_started(self) -> None:
        """Start a process unless there is one. Raises PluginError with its last output
        if it cannot be started."""
        await self._select_instance()

    async def _select_instance(self) -> Instance:
        """Return the least busy instance; start another one in the background if all
        are busy."""
        usable = [instance for instance in self.instances if instance.is_usable]
        if not usable:
            return await wait_for_start(self._start(), self.launch.plugin)
        least_busy = min(usable, key=lambda instance: instance.conversation.open_count)
        may_grow = (
            len(usable) < self.options.instances
            and self._clock.monotonic() >= self._cooldown_until
        )
        if least_busy.conversation.open_count and may_grow:
            self._start()
        return least_busy

    def _start(self) -> "asyncio.Task[Instance]":
        """Return the task of the start in progress, or begin a start.

        Its result is the instance that is ready; it fails with PluginError.
        """
        # Concurrent calls share one start.
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start_instance())
            self._starting.add_done_callback(self._on_started)
        return self._starting

    def _on_started(self, task: "asyncio.Task[Instance]") -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved; the callers get it from the task

    # starting

    async def _start_instance(self) -> Instance:
        """Start a process once the machine has capacity, and wait until it is ready.

        Raises PluginDiedError during the cooldown, with `retry_after`, or if the
        runtime is closed. A failed start is counted and raised as PluginError.
        """
        # During the cooldown, calls fail immediately instead of starting the process
        # again.
        cooldown = self._cooldown_until - self._clock.monotonic()
        if cooldown > 0:
            message = f"Not restarted for {cooldown:.1f} s after a failure: {self._last_failure}"
            raise PluginDiedError(
                message, plugin=self.launch.plugin, retry_after=cooldown
            )
        # The semaphore limits concurrent starts on the machine.
        async with self._starts:
            if self._is_closed:
                raise PluginStoppedError(
                    "The plugin is being removed", plugin=self.launch.plugin
                )
            try:
                return await self._spawn()
            except PluginError as error:
                self._record_failure(error.reason, never_ready=True)
                raise

    async def _spawn(self) -> Instance:
        """Start a process and wait for its first heartbeat.

        First ends an idle plugin if too many run, and empties the temporary folder if
        this is the only instance. Raises PluginError if the process cannot be started,
        exits, or is not ready within `start_seconds`. An instance that did not get
        ready is removed.
        """
        launch, options = self.launch, self.options
        ended: list[str] = []
        created_instances: list[Instance] = []

        def on_exit(ending: str) -> None:
            """Handle the exit of the process, which may happen before the instance
            exists."""
            ended.append(ending)
            if created_instances:
                self._begin_exit(created_instances[0], ending)

        # May end an idle plugin to stay within the limit of running ones.
        self._make_room()
        if not self.instances:
            await asyncio.to_thread(self._clean)
        order = LaunchRequest(
            cell=await asyncio.to_thread(launch.cell),
            folder=launch.folder,
            environment=launch.environment,
            quarter=launch.quarter,
            module=launch.module,
            env=launch.env,
            limits=options.limits(),
        )
        spawned = await self._supervisors.spawn(order, on_exit)
        instance = await self._connect(spawned)
        created_instances.append(instance)
        self.instances.append(instance)
        if ended:  # before the instance existed
            self._begin_exit(instance, ended[0])
        try:
            await wait_until_ready(
                instance.conversation.ready,
                options.start_seconds,
                lambda: queued_seconds(spawned.pid),
            )
        except TimeoutError:
            message = (
                f"Not ready within {options.start_seconds:g} s{instance.last_output()}"
            )
            self._end(instance, PluginDiedError(message, plugin=launch.plugin))
            raise PluginDiedError(message, plugin=launch.plugin) from None
        # The caller gave up, or the process died: an instance that is not ready must
        # not remain.
        except BaseException as error:
            if not isinstance(error, PluginError):
                self._end(
                    instance,
                    PluginDiedError("Start cancelled", plugin=launch.plugin),
                )
            raise
        instance.is_behind = self._clock.monotonic() < self.behind_until
        set_niceness(spawned.pid, LOW_PRIORITY if instance.is_behind else 0)
        fields = {
            "plugin": launch.plugin,
            "pid": spawned.pid,
            "seconds": round(self._age(instance), 3),
        }
        logger.info("plugin ready", extra={"fields": fields})
        return instance

    def _clean(self) -> None:
        """Empty the temporary folder; empty all folders if the plugin exceeded its disk
        limit."""
        quarter = self.launch.quarter
        empty_folder(quarter.tmp)
        if self.disk_bytes > self.options.max_disk:
            empty_folder(quarter.work)
            empty_folder(quarter.shared)
        self.disk_bytes = 0

    async def _connect(self, spawned: Spawned) -> Instance:
        """Attach to the pipes of a spawned process and return its instance.

        Its output goes to the protocol connection; the last 64 chunks of stderr are
        kept.
        """
        loop, clock = asyncio.get_running_loop(), self._clock.monotonic
        errors: deque[bytes] = deque(maxlen=64)
        printed: deque[str] = deque(maxlen=6)

        def take_line(text: str) -> None:
            """Keep a line that is no message of the protocol, and log it."""
            printed.append(text)
            self._log_line(text)

        # One connection per pipe: the writer for stdin, then stdout and stderr.
        writer, _ = await loop.create_connection(
            lambda: _Sink(lambda data: None), sock=spawned.stdin
        )
        conversation = PluginConnection(
            self.launch.plugin, writer.write, self._backwards, clock, take_line
        )
        stdout, _ = await loop.create_connection(
            lambda: _Sink(conversation.feed), sock=spawned.stdout
        )
        err, _ = await loop.create_connection(
            lambda: _Sink(errors.append), sock=spawned.stderr
        )
        pipes = (stdout, err)
        return Instance(
            spawned, conversation, clock(), writer, pipes, errors, clock(), printed
        )

    def _log_line(self, text: str) -> None:
        self.lines.append((self._clock.time(), text))
        logger.info(text, extra={"fields": {"plugin": self.launch.plugin}})

    # ending

    def _begin_exit(self, instance: Instance, ending: str) -> None:
        """Handle the exit of a process in a task."""
        task = asyncio.ensure_future(self._handle_exit(instance, ending))
        # The event loop holds tasks only weakly, and the calls of the exited process
        # wait for this one.
        self._exits.add(task)
        task.add_done_callback(self._exits.discard)

    async def _handle_exit(self, instance: Instance, ending: str) -> None:
        """Fail the calls of an exited process, with its last output in the error."""
        await asyncio.sleep(0.02)  # its last output may not have arrived yet
        stderr_text = instance.recent_stderr()
        # One that had started may have printed anything since.
        was_ready = instance.conversation.ready.done()
        reason = _stderr_suffix(stderr_text) if was_ready else instance.last_output()
        error = PluginDiedError(f"{ending}{reason}", plugin=self.launch.plugin)
        was_expected = instance.conversation.error is not None
        if self._age(instance) > _STEADY_SECONDS:
            self._failures = 0
        self._remove(instance, error)
        if not was_expected:
            if (
                instance.conversation.ready.done()
                and not instance.conversation.ready.exception()
            ):
                # An instance that never got ready is counted by `_start_instance`.
                self._record_failure(ending)
            fields = {
                "plugin": self.launch.plugin,
                "how": ending,
                "stderr": stderr_text,
            }
            logger.warning("plugin died", extra={"fields": fields})
            self.lines.append((self._clock.time(), f"{ending}\n{stderr_text}".strip()))

    def _record_failure(self, reason: str, *, never_ready: bool = False) -> None:
        """Count a failure and set the cooldown.

        A process that had become ready is restarted immediately the first time; one
        that never did has to wait.
        """
        self._failures += 1
        # The exponent is capped, since the cooldown is limited anyway.
        step = 2 ** min(self._failures - 1, 20)
        cooldown = min(
            _MAX_COOLDOWN,
            step * 1.0 if never_ready else step * 0.25 * (self._failures > 1),
        )
        self._cooldown_until = self._clock.monotonic() + cooldown
        self._last_failure = reason

    def _end(self, instance: Instance, error: PluginDiedError) -> None:
        self._remove(instance, error)
        instance.kill()

    def _remove(self, instance: Instance, error: PluginDiedError) -> None:
        """Unregister an instance, fail its calls with `error`, and close its pipes.

        The process is not killed. May be called again for the same instance.
        """
        # It may have been removed by `evict` already.
        with contextlib.suppress(ValueError):
            self.instances.remove(instance)
        instance.conversation.end(error)
        instance.close()

    def check_instances(self) -> None:
        """Periodic check: end processes that are silent, idle, or busy with abandoned
        requests only."""
        current_time = self._clock.monotonic()
        for instance in list(self.instances):
            if instance.conversation.ready.done():
                self._check_instance(instance, current_time)

    def _check_instance(self, instance: Instance, current_time: float) -> None:
        """End an instance that is silent, idle, or busy with abandoned requests only."""
        conversation, options = instance.conversation, self.options
        if current_time - conversation.last_message_at > options.silence_seconds:
            self.evict(instance, f"No heartbeat for {options.silence_seconds:g} s")
        elif conversation.open_count:
            instance.abandoned_since = None
        elif conversation.abandoned_count:
            self._check_abandoned(instance, current_time)
        elif current_time - instance.used_at > options.idle_seconds:
            self.end_idle(instance)

    def _check_abandoned(self, instance: Instance, current_time: float) -> None:
        """End an instance that has worked on abandoned requests only for too long."""
        # The time counts from the first check that found only abandoned requests.
        instance.abandoned_since = instance.abandoned_since or current_time
        if current_time - instance.abandoned_since <= self.options.recycle_seconds:
            return
        # If it also kept a processor busy, the next start has to wait.
        if instance.is_behind:
            self._record_failure("Busy with abandoned requests")
        self._end(
            instance,
            PluginDiedError(
                "Stopped: no caller was waiting", plugin=self.launch.plugin
            ),
        )

    def end_idle(self, instance: Instance) -> None:
        """End an idle process, for example to make room for another plugin."""
        self._end(instance, PluginDiedError("Stopped: idle", plugin=self.launch.plugin))

    def evict(self, instance: Instance, reason: str) -> None:
        """End a process that exceeded a limit.

        Its calls fail with `reason`, which is logged and counts as a failure, so that
        the next start may have to wait. Does nothing if the instance is no longer
        registered.
        """
        if instance not in self.instances:
            return
        logger.warning(
            "plugin evicted",
            extra={"fields": {"plugin": self.launch.plugin, "why": reason}},
        )
        self._record_failure(reason)
        self._end(instance, PluginDiedError(reason, plugin=self.launch.plugin))

    def _age(self, instance: Instance) -> float:
        return self._clock.monotonic() - instance.started_at

    async def drain(self) -> None:
        """Refuse new calls and stop when the running ones are answered, or after
        `drain_seconds`."""
        self._is_closed = True
        for instance in self.instances:
            instance.is_draining = True
        # Running calls get a grace period; then they are cut off.
        until = self._clock.monotonic() + self.options.drain_seconds
        while (
            any(instance.conversation.open_count for instance in self.instances)
            and self._clock.monotonic() < until
        ):
            await self._clock.sleep(0.05)
        await self.aclose()

    async def aclose(self) -> None:
        """End all processes."""
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
        for instance in list(self.instances):
            self._end(instance, PluginDiedError("Stopped", plugin=self.launch.plugin))


async def wait_until_ready(
    ready: "asyncio.Future[None]", seconds: float, queued: Callable[[], float]
) -> None:
    """Wait for the first heartbeat. Raises TimeoutError after `seconds` of the process's
    own time: what it spends waiting for a processor, as `queued` says in seconds, does
    not count, up to a limit."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while not ready.done():
        elapsed = loop.time() - started_at
        own_time = elapsed - queued()
        if own_time >= seconds or elapsed >= seconds * _MAX_START_FACTOR:
            raise TimeoutError
        # Looked at again after what is left, since the machine may have been busy.
        await asyncio.wait([ready], timeout=min(seconds, max(0.05, seconds - own_time)))
    ready.result()


def queued_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """Return how long a process was ready to run, but had no processor.

    In seconds since it started, of its first thread, which runs the imports. 0 if the
    kernel does not say.
    """
    try:
        fields = (proc / str(pid) / "schedstat").read_text("ascii").split()
        return int(fields[1]) / 1e9
    except (IndexError, OSError, ValueError):
        return 0.0


async def wait_for_start(start: "asyncio.Future[_T]", plugin: str) -> _T:
    """Return the result of a start that several calls wait for; a caller that gives up
    does not abort it. Raises PluginStoppedError if somebody else ends it."""
    try:
        return await asyncio.shield(start)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        # The caller itself was cancelled, and has to end.
        if not start.cancelled() or (task is not None and task.cancelling()):
            raise
        raise PluginStoppedError(
            "Stopped while it was starting; call it again",
            plugin=plugin,
            retry_after=1.0,
        ) from None


class _Sink(asyncio.Protocol):
    """Passes received data to a callback."""

    def __init__(self, take: Callable[[bytes], Any]) -> None:
        self._take = take

    def data_received(self, data: bytes) -> None:
        """Pass the data on."""
        self._take(data)


def _stderr_suffix(stderr_text: str) -> str:
    return f"; standard error: {stderr_text}" if stderr_text else ""
