"""Monitors the plugins that run on this machine: measures their resource usage,
enforces limits and stops idle processes."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from modelyard.base.clock import Clock
from modelyard.plugins.monitor import Monitor, measure_usage
from modelyard.plugins.process import LocalRuntime
from modelyard.plugins.supervisors import Supervisors
from modelyard.plugins.tenant_folders import folder_size

logger = logging.getLogger("modelyard.plugins")

_CHECK_INTERVAL_SECONDS = 0.5
_CHECKS_PER_DISK_MEASUREMENT = 4
_CHECKS_PER_IDLE_SWEEP = 20
_IDLE_SECONDS = 10.0
"""How long a supervisor without plugins is kept. It holds loaded modules."""


class PluginMonitorTask:
    """A background task that checks each runtime twice a second once it is started."""

    def __init__(
        self,
        runtimes: Callable[[], Sequence[LocalRuntime]],
        supervisors: Supervisors,
        clock: Clock,
    ) -> None:
        self._runtimes = runtimes
        self._supervisors = supervisors
        self._clock = clock
        self._monitor = Monitor()
        self._check_count = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start monitoring. Does nothing if it is already running."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        """Stop monitoring. The task is cancelled, but not awaited."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        """Check all runtimes twice per second until the task is cancelled.

        An error of one check is logged and does not end the monitoring.
        """
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_SECONDS)
            try:
                await self._check_once()
            # One failed check must not end the monitoring of all plugins.
            except Exception:
                logger.exception("plugin monitoring failed")

    async def _check_once(self) -> None:
        """Check all runtimes once.

        Instances and limits are checked each time, disk usage every fourth and idle
        supervisors every twentieth time.
        """
        runtimes = self._runtimes()
        for runtime in runtimes:
            runtime.check_instances()
        await self._enforce_limits(runtimes)
        self._check_count += 1
        # Measuring folders and looking for idle processes is slower: this is not done
        # with every check.
        if self._check_count % _CHECKS_PER_DISK_MEASUREMENT == 0:
            await self._measure_disks(runtimes)
        if self._check_count % _CHECKS_PER_IDLE_SWEEP == 0:
            self._supervisors.stop_idle(self._clock.monotonic(), _IDLE_SECONDS)

    async def _enforce_limits(self, runtimes: Sequence[LocalRuntime]) -> None:
        """Measure the resources of all instances and enforce their limits.

        Does nothing if no plugin is running.
        """
        pids = {
            instance.spawned.pid: runtime.options.max_memory
            for runtime in runtimes
            for instance in runtime.instances
        }
        if not pids:
            return
        # Reading /proc blocks, so it runs in a thread.
        usage = await asyncio.to_thread(measure_usage, pids, self._supervisors.pids())
        current_time = self._clock.monotonic()
        for runtime in runtimes:
            self._monitor.enforce_limits(runtime, usage, current_time)
        # Forget the history of processes that have exited: the system reuses process
        # ids.
        self._monitor.forget(set(pids))

    async def _measure_disks(self, runtimes: Sequence[LocalRuntime]) -> None:
        """Measure the folders of running plugins and store their size.

        Sets `disk_bytes`, on which the next check acts. The shared folder counts for
        each plugin of the tenant.
        """
        for runtime in runtimes:
            if runtime.instances:
                quarter, max_bytes = runtime.launch.quarter, runtime.options.max_disk
                # Folders are measured up to the limit only: beyond it the exact size
                # does not matter.
                folder_sizes = [
                    await asyncio.to_thread(folder_size, folder, max_bytes)
                    for folder in (*quarter.folders, quarter.shared)
                ]
                runtime.disk_bytes = sum(folder_sizes)
