"""The carrier on a durable engine: runs wait in the engine's queue until one of the
processes that execute runs is given them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from modelyard.base.outage_log import OutageLog
from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.carrier import (
    Engine,
    EngineUnavailableError,
    RunTicket,
    Segment,
    SegmentState,
)
from modelyard.workflow.carriers.embedded import ContinueRun, EmbeddedCarrier
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.live_runs import LiveRuns, RunStart
from modelyard.workflow.run_record import RunRecord

logger = logging.getLogger("modelyard.workflow")

# The engine's timers wake runs whose forms expire. This is for timers that were lost.
_EXPIRE_SECONDS = 60.0
_STORAGE_PAUSE_SECONDS = 1.0
_DISPATCHES_AT_ONCE = 8
"""More at once would only wait for each other in the engine, until their time is up."""


class QueuedCarrier:
    """Hands runs to an engine, and executes those that the engine gives to this process.

    The record says that a run is queued before the engine is asked, so a run that an
    engine has never received, or has lost, is found and handed to it again.
    """

    has_queue = True
    expire_seconds = _EXPIRE_SECONDS

    def __init__(
        self,
        journal: DatabaseJournal,
        live_runs: LiveRuns,
        go_on: ContinueRun,
        *,
        engine: Engine,
        expire: Callable[[], Awaitable[None]],
        may_be_silent: Callable[[], bool],
    ) -> None:
        """`expire` resumes the runs whose forms have expired."""
        self._journal = journal
        self._queue = journal.queue
        self._live = live_runs
        self._go_on = go_on
        self._engine = engine
        self._expire = expire
        self._may_be_silent = may_be_silent
        self._is_leaving = False
        self._waiting: dict[str, RunRecord] = {}
        """Queued runs that the engine could not be given, by id."""
        self._dispatches = asyncio.Semaphore(_DISPATCHES_AT_ONCE)
        self._local = EmbeddedCarrier(journal, live_runs, go_on)
        self._outages = OutageLog(
            logger, "runs wait for the workflow engine", "runs are handed over again"
        )

    @property
    def problem(self) -> str:
        """See Carrier.problem."""
        return self._engine.problem

    def start(self) -> None:
        """See Carrier.start."""
        self._engine.start(self.execute)

    async def accept(self, start: RunStart) -> bool:
        """See Carrier.accept."""
        # Its caller is a run that waits for it. If both needed a place in the queue, runs
        # that wait could take all the places.
        if start.record.depth:
            return await self._local.accept(start)
        if not await self._journal.create(start.record, is_queued=True):
            return False
        await self._dispatch(start.record)
        return True

    async def resume(self, record: RunRecord) -> bool:
        """See Carrier.resume."""
        queued = await self._queue.add_paused(record)
        if queued is None:
            return False
        await self._dispatch(queued)
        return True

    async def recover(self, *, may_be_silent: bool) -> int:
        """See Carrier.recover."""
        await self._engine.maintain(may_be_silent=may_be_silent)
        await self._local.continue_all(await self._local.postponed())
        overdue = await self._queue.overdue(
            self._journal.owner,
            may_be_silent=may_be_silent,
            includes_nested=self._engine.executes and not self._is_leaving,
        )
        waiting, self._waiting = self._waiting, {}
        records = {record.id: record for record in (*waiting.values(), *overdue)}
        await asyncio.gather(*map(self._dispatch_again, records.values()))
        return len(overdue)

    async def _dispatch_again(self, record: RunRecord) -> None:
        """Let a run go on that nobody executes: here if it is nested."""
        if not record.depth:
            await self._dispatch(record)
            return
        claimed = await self._queue.claim_unowned(
            record.tenant, record.id, self._journal.owner
        )
        if claimed is not None:
            await self._local.continue_all([claimed])

    async def _dispatch(self, record: RunRecord) -> None:
        """Hand a queued run to the engine; if it is away, later."""
        try:
            async with self._dispatches:
                await self._dispatch_now(record)
            self._outages.worked()
        except EngineUnavailableError as error:
            # It is recorded as queued: if this process ends, others hand it over.
            self._waiting[record.id] = record
            self._outages.failed(error)

    async def _dispatch_now(self, record: RunRecord) -> None:
        """Hand a queued run to the engine. Raises EngineUnavailableError."""
        # Callers must not wait in turn for an engine that is known to be away. Its
        # maintenance notices when it is back.
        if self._engine.problem:
            raise EngineUnavailableError(self._engine.problem)
        await self._engine.dispatch(
            RunTicket(tenant=record.tenant, run=record.id, epoch=record.epoch)
        )

    async def execute(self, ticket: RunTicket) -> Segment:
        """Execute a run that the engine gives to this process; see `carrier.Execute`."""
        while True:
            try:
                return await self._execute(ticket)
            except StorageUnavailableError:
                # Neither the run's end nor its owner can be known before that.
                await asyncio.sleep(_STORAGE_PAUSE_SECONDS)
            # The engine must not learn from an error what the run is about.
            except Exception:
                logger.exception(
                    "run cannot be carried", extra={"fields": {"run": ticket.run}}
                )
                return Segment(state=SegmentState.ELSEWHERE)

    async def _execute(self, ticket: RunTicket) -> Segment:
        """Claim a run and wait until its task has ended."""
        live_run = self._live.find(ticket.run)
        # An engine that has lost sight of this process may give it the run again.
        if live_run is None and not self._is_leaving:
            record = await self._claim(ticket)
            if record is not None:
                await self._go_on(record)
                live_run = self._live.find(ticket.run)
        if live_run is not None and live_run.task is not None:
            await asyncio.wait([live_run.task])
        return await self._segment(ticket)

    async def _claim(self, ticket: RunTicket) -> RunRecord | None:
        """Take ownership of a queued or abandoned run; None if it has an owner."""
        owner, is_silent = self._journal.owner, self._may_be_silent()
        claimed = await self._queue.claim(
            ticket.tenant, ticket.run, owner, may_be_silent=is_silent
        )
        if claimed is not None:
            return claimed
        # The engine's timer may have woken a paused run, because a form has expired.
        seconds = await self._journal.forms.seconds_until_due(ticket.run)
        if seconds is None or seconds > 0:
            return None
        await self._expire()
        return await self._queue.claim_unowned(ticket.tenant, ticket.run, owner)

    async def _segment(self, ticket: RunTicket) -> Segment:
        """Return how a run is, now that it is not active here."""
        record = await self._journal.find(ticket.tenant, ticket.run)
        if record is None or record.status.is_over:
            return Segment(state=SegmentState.OVER)
        if record.status is Status.PAUSED:
            due_in = await self._journal.forms.seconds_until_due(ticket.run)
            return Segment(state=SegmentState.PAUSED, due_in=due_in)
        state = SegmentState.LEFT if self._is_leaving else SegmentState.ELSEWHERE
        return Segment(state=state)

    def leave(self) -> None:
        """See Carrier.leave."""
        self._is_leaving = True
        self._engine.leave()

    async def aclose(self) -> None:
        """See Carrier.aclose."""
        await self._engine.aclose()
