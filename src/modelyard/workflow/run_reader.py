"""Reads runs and their events: from memory if they are active in this process, else
from the journal."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from modelyard.base.errors import NotFoundError
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.live_run import LiveRun
from modelyard.workflow.live_runs import LiveRuns
from modelyard.workflow.single_run import FINAL_EVENTS

POLL_SECONDS = 0.05
"""Interval between two reads of a run that another process executes."""


class RunReader:
    """Reads runs. Every method takes a tenant and returns nothing of other tenants."""

    def __init__(self, journal: DatabaseJournal, live_runs: LiveRuns) -> None:
        self._journal = journal
        self._live = live_runs

    async def find(self, tenant: str, run_id: str) -> RunRecord:
        """Return a run. Raises NotFoundError if the tenant has no run with this id."""
        live_run = self._live.find(run_id)
        # Ids can be guessed: the tenant is checked for active runs too.
        if live_run is not None and live_run.record.tenant == tenant:
            return live_run.record
        record = await self._journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"Run {run_id[:80]!r} does not exist", code="not_found")
        return record

    async def watch(
        self, tenant: str, run_id: str, *, after: int = 0
    ) -> AsyncGenerator[tuple[int, AnyEvent], None]:
        """Yield (number, event) of all events after a number, until the run ends or
        pauses."""
        await self.find(tenant, run_id)
        while True:
            live_run = self._live.find(run_id)
            new_events = await self._events_in_memory(run_id, after)
            is_stored = new_events is None
            if new_events is None:
                after = _stored_number(live_run, after)
                new_events = await self._journal.events(run_id, after)
            for number, event in new_events:
                after = number
                yield number, event
            if await self._is_complete(tenant, run_id, new_events, is_stored=is_stored):
                return
            if is_stored and not new_events:
                await asyncio.sleep(POLL_SECONDS)

    async def _events_in_memory(
        self, run_id: str, after: int
    ) -> Sequence[tuple[int, AnyEvent]] | None:
        """Return the events after a number if they are in memory. Waits if there are no
        new ones; the result is then empty.

        None means that the journal must be read: the run is not active here, or the
        reader is behind the events in memory.
        """
        live_run = self._live.find(run_id)
        # Memory holds only the newest events.
        if live_run is None or after + 1 < live_run.first_event_number:
            return None
        new_events = live_run.events[after + 1 - live_run.first_event_number :]
        if new_events:
            return new_events
        if not live_run.is_over:
            await live_run.changed()
        # The run may have ended while this method waited.
        return None if live_run.is_over else new_events

    async def _is_complete(
        self,
        tenant: str,
        run_id: str,
        events: Sequence[tuple[int, AnyEvent]],
        *,
        is_stored: bool,
    ) -> bool:
        """Return whether no event follows the events that were just read. `is_stored`
        means that they came from the journal."""
        is_final = bool(events) and isinstance(events[-1][1], FINAL_EVENTS)
        if not is_stored:
            return is_final
        if events:
            # A pause is a final event too; a resumed run continues after it.
            return is_final and not await self._is_running(tenant, run_id)
        record = await self.find(tenant, run_id)
        return record.status.is_over or record.status is Status.PAUSED

    async def _is_running(self, tenant: str, run_id: str) -> bool:
        """Return whether the run is running in some process."""
        return (await self.find(tenant, run_id)).status is Status.RUNNING

    async def wait_until_ended(self, tenant: str, run_id: str) -> RunRecord:
        """Wait until the run has ended or paused, and return it."""
        async with aclosing(self.watch(tenant, run_id)) as events:
            async for _ in events:
                pass
        # The final event follows the stored record, so the journal is up to date.
        record = await self._journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"Run {run_id[:80]!r} does not exist", code="not_found")
        return record


def _stored_number(live_run: LiveRun | None, number: int) -> int:
    """Return the number of the last event up to `number` that is stored.

    Another process that has taken over the run numbers its events from there; those
    that this one has not stored do not count.
    """
    if live_run is None or not live_run.is_lost:
        return number
    return min(number, live_run.written_number)
