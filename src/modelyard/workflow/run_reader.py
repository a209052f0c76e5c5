"""Reads runs and their events: from memory if they are active in this process, else
from the journal."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import DatabaseJournal, RunRecord, events_topic
from modelyard.workflow.live_run import WATCHED_SECONDS, LiveRun
from modelyard.workflow.live_runs import LiveRuns
from modelyard.workflow.single_run import FINAL_EVENTS

POLL_SECONDS = 0.05
"""Interval between two reads of a run that another process executes, if the database
has no signals."""
_MIN_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 2.0
"""Intervals between two reads with signals: longer while nothing happens."""
_ASK_SECONDS = WATCHED_SECONDS / 3

_StoredEvents = tuple[list[tuple[int, AnyEvent]], RunRecord | None]


@dataclass(frozen=True, slots=True)
class _News:
    """What a watcher has just read."""

    events: Sequence[tuple[int, AnyEvent]]
    after: int
    """The number after which these events come."""
    record: RunRecord | None = None
    """The run as it is not before the last event; None while that does not matter."""
    is_stored: bool = False
    """Whether the events come from the journal."""


class RunReader:
    """Reads runs. Every method takes a tenant and returns nothing of other tenants."""

    def __init__(self, journal: DatabaseJournal, live_runs: LiveRuns) -> None:
        self._journal = journal
        self._live = live_runs
        self._reads: dict[tuple[str, str, int], asyncio.Future[_StoredEvents]] = {}
        self._asked_at: dict[str, float] = {}
        """When owners of runs were asked for signals, by run."""

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
        pause = _MIN_PAUSE_SECONDS
        with self._journal.signals.listener(events_topic(run_id)) as signal:
            while True:
                news = await self._news(tenant, run_id, after)
                after = news.after
                for number, event in news.events:
                    after = number
                    yield number, event
                if _is_complete(news):
                    return
                # Read on at once as long as there is something to read.
                if news.events or not news.is_stored:
                    pause = _MIN_PAUSE_SECONDS
                    continue
                await self._ask_for_signals(run_id)
                await signal.wait(pause, unheard_seconds=POLL_SECONDS)
                # The owner signals what happens, but the first signals may be missed.
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def _news(self, tenant: str, run_id: str, after: int) -> _News:
        """Return the events after a number, from memory or from the journal."""
        live_run = self._live.find(run_id)
        new_events = await self._events_in_memory(run_id, after)
        if new_events is not None:
            return _News(new_events, after)
        after = _stored_number(live_run, after)
        new_events, record = await self._read(tenant, run_id, after)
        return _News(new_events, after, record, is_stored=True)

    async def _ask_for_signals(self, run_id: str) -> None:
        """Let the owner of a run know that it is watched, unless it knows already."""
        now = time.monotonic()
        if not self._journal.signals.is_listening:
            return
        if now - self._asked_at.get(run_id, -_ASK_SECONDS) < _ASK_SECONDS:
            return
        # Runs that are not watched any more must not be remembered for ever.
        self._asked_at = {
            run: asked_at
            for run, asked_at in self._asked_at.items()
            if now - asked_at < _ASK_SECONDS
        }
        self._asked_at[run_id] = now
        await self._journal.note_watched(run_id)

    async def _read(self, tenant: str, run_id: str, after: int) -> _StoredEvents:
        """Read stored events. Readers that come together share one query: one signal
        wakes all watchers of a run."""
        key = (tenant, run_id, after)
        if key not in self._reads:
            self._reads[key] = asyncio.ensure_future(self._read_once(key))
        # One reader that leaves must not take the answer away from the others.
        return await asyncio.shield(self._reads[key])

    async def _read_once(self, key: tuple[str, str, int]) -> _StoredEvents:
        """Read stored events, and the record of the run as it is not before them."""
        # Who comes from here on may know of later events, and needs a query of its own.
        del self._reads[key]
        tenant, run_id, after = key
        events = await self._journal.events(run_id, after)
        # Only after a final event, or without any, it matters how the run is.
        if events and not isinstance(events[-1][1], FINAL_EVENTS):
            return events, None
        return events, await self.find(tenant, run_id)

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


def _is_complete(news: _News) -> bool:
    """Return whether no event follows those that were just read."""
    record = news.record
    is_final = bool(news.events) and isinstance(news.events[-1][1], FINAL_EVENTS)
    if not news.is_stored:
        return is_final
    if record is None:
        return False
    # A pause is a final event too; a resumed run continues after it.
    if news.events:
        return record.status is not Status.RUNNING
    return record.status.is_over or record.status is Status.PAUSED


def _stored_number(live_run: LiveRun | None, number: int) -> int:
    """Return the number of the last event up to `number` that is stored.

    Another process that has taken over the run numbers its events from there; those
    that this one has not stored do not count.
    """
    if live_run is None or not live_run.is_lost:
        return number
    return min(number, live_run.written_number)
