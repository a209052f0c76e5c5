"""Looks after the plugins that run on this machine: what they take of it, and who rests."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from modelyard.base.clock import Clock
from modelyard.plugins.monitor import Monitor, taken
from modelyard.plugins.process import LocalRuntime
from modelyard.plugins.quarters import size
from modelyard.plugins.wardens import Wardens

logger = logging.getLogger("modelyard.plugins")

_LOOK_SECONDS = 0.5
_DISK_LOOKS = 4
_REST_LOOKS, _REST_SECONDS = 20, 120.0


class Watch:
    """Two looks a second at each runtime, once begun."""

    def __init__(self, runtimes: Callable[[], Sequence[LocalRuntime]], wardens: Wardens, clock: Clock) -> None:
        self._runtimes = runtimes
        self._wardens = wardens
        self._clock = clock
        self._monitor = Monitor()
        self._looks = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch from now on, where it does not yet."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._watch())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
            except Exception:  # one look that fails is not the last
                logger.exception("plugins could not be looked after")

    async def _look(self) -> None:
        runtimes = self._runtimes()
        for runtime in runtimes:
            runtime.look()
        await self._judge(runtimes)
        self._looks += 1
        if self._looks % _DISK_LOOKS == 0:
            await self._measure_disks(runtimes)
        if self._looks % _REST_LOOKS == 0:
            self._wardens.rest(self._clock.monotonic(), _REST_SECONDS)

    async def _judge(self, runtimes: Sequence[LocalRuntime]) -> None:
        pids = {one.spawned.pid: runtime.options.max_memory for runtime in runtimes for one in runtime.instances}
        if not pids:
            return
        found = await asyncio.to_thread(taken, pids, self._wardens.pids())
        now = self._clock.monotonic()
        for runtime in runtimes:
            self._monitor.judge(runtime, found, now)
        self._monitor.forget(set(pids))

    async def _measure_disks(self, runtimes: Sequence[LocalRuntime]) -> None:
        for runtime in runtimes:
            if runtime.instances:
                quarter, most = runtime.launch.quarter, runtime.options.max_disk
                taken_up = [await asyncio.to_thread(size, one, most) for one in (*quarter.folders, quarter.shared)]
                runtime.disk_bytes = sum(taken_up)
