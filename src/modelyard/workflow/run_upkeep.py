"""What a process does beside running runs: hears of commands, says that it is there, takes up what was left."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.workflow.engine import Command
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.live_runs import LiveRuns

logger = logging.getLogger("modelyard.workflow")

_HEAR_SECONDS = 0.05
_RENEW_SECONDS = 4.0

GoOn = Callable[[RunRecord], Awaitable[None]]
"""Takes up a run that is running by its record, and in no process."""
Resume = Callable[[str, str], Awaitable[bool]]
"""(tenant, run): takes up one that is paused."""


class RunUpkeep:
    """Tasks that come round again and again, from `begin` to `aclose`."""

    def __init__(self, journal: DatabaseJournal, live: LiveRuns, go_on: GoOn, resume: Resume) -> None:
        self._journal = journal
        self._live = live
        self._go_on = go_on
        self._resume = resume
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """On the running loop."""
        for seconds, act in (
            (_HEAR_SECONDS, self._hear), (_RENEW_SECONDS, self._renew), (_RENEW_SECONDS, self.recover),
            (_RENEW_SECONDS, self._expire),
        ):  # fmt: skip
            self._tasks.append(asyncio.ensure_future(_again(seconds, act)))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _hear(self) -> None:
        if not self._live:
            return
        for run_id, command in await self._journal.commands():
            live = self._live.find(run_id)
            if live is not None:
                live.command(Command(command), "User requested stop" if command == "stop" else "")

    async def _renew(self) -> None:
        if self._live:
            await self._journal.renew()

    async def recover(self) -> int:
        """Take up runs whose process is gone; how many."""
        orphans = await self._journal.orphans()
        for record in orphans:
            logger.info("a run goes on", extra={"fields": {"run": record.id}})
            await self._go_on(record)
        return len(orphans)

    async def _expire(self) -> None:
        for tenant, run_id in await self._journal.forms.expired():
            await self._resume(tenant, run_id)


async def _again(seconds: float, act: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await act()
        except ModelyardError as error:
            logger.warning("runs' upkeep failed", extra={"fields": {"error": str(error)}})
        await asyncio.sleep(seconds)
