"""Runs and their events, for whoever asks: from this process where they go on here, else from the journal."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from modelyard.base.errors import NotFoundError
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.live_runs import LiveRuns
from modelyard.workflow.single_run import FINAL

POLL_SECONDS = 0.05
"""Between two looks at a run that goes on elsewhere."""


class RunReader:
    """Every method is given the tenant that it reads for, and shows nothing of another's."""

    def __init__(self, journal: DatabaseJournal, live: LiveRuns) -> None:
        self._journal = journal
        self._live = live

    async def find(self, tenant: str, run_id: str) -> RunRecord:
        """Raises NotFoundError where this tenant has no such run."""
        live = self._live.find(run_id)
        if live is not None and live.record.tenant == tenant:
            return live.record
        record = await self._journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"run {run_id[:80]!r} does not exist", code="not_found")
        return record

    async def watch(self, tenant: str, run_id: str, *, after: int = 0) -> AsyncGenerator[tuple[int, AnyEvent], None]:
        """(number, event) of all that happened after a number, and of all that happens until it ends or pauses."""
        record = await self.find(tenant, run_id)
        while True:
            live = self._live.find(run_id)
            if live is not None and after + 1 >= live.first:
                fresh = live.events[after + 1 - live.first :]
                for number, event in fresh:
                    after = number
                    yield number, event
                if fresh and isinstance(fresh[-1][1], FINAL):
                    return
                if not fresh and not live.is_over:
                    await live.changed()
                if fresh or not live.is_over:
                    continue
            found = await self._journal.events(run_id, after)
            for number, event in found:
                after = number
                yield number, event
            if found and isinstance(found[-1][1], FINAL) and not await self._goes_on(tenant, run_id):
                return
            if not found:
                record = await self.find(tenant, run_id)
                if record.status.is_over or record.status is Status.PAUSED:
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def _goes_on(self, tenant: str, run_id: str) -> bool:
        return (await self.find(tenant, run_id)).status is Status.RUNNING

    async def ended(self, tenant: str, run_id: str) -> RunRecord:
        """The run once it is over, or paused."""
        async with aclosing(self.watch(tenant, run_id)) as events:
            async for _ in events:
                pass
        record = await self._journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"run {run_id[:80]!r} does not exist", code="not_found")
        return record
