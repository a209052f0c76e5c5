"""The carrier without a further server: whoever accepts a run executes it, and processes
that share a database take over from those that are gone."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.live_runs import LiveRuns, RunStart
from modelyard.workflow.run_record import RunRecord

logger = logging.getLogger("modelyard.workflow")

ContinueRun = Callable[[RunRecord], Awaitable[None]]
"""Continues a run that this process owns from its recorded steps."""

# Forms wait for hours or days, so nobody notices when one expires seconds later.
_EXPIRE_SECONDS = 10.0


class EmbeddedCarrier:
    """Executes runs in this process, by the leases of the journal."""

    has_queue = False
    problem = ""
    expire_seconds = _EXPIRE_SECONDS

    def __init__(
        self, journal: DatabaseJournal, live_runs: LiveRuns, go_on: ContinueRun
    ) -> None:
        self._journal = journal
        self._live = live_runs
        self._go_on = go_on

    def start(self) -> None:
        """Nothing to start: the maintenance of `Runs` does all that is periodic."""

    async def accept(self, start: RunStart) -> bool:
        """See Carrier.accept."""
        # False means that the id exists, for example after a repeated request.
        if not await self._journal.create(start.record):
            return False
        self._live.begin(start)
        return True

    async def resume(self, record: RunRecord) -> bool:
        """See Carrier.resume."""
        resumed = await self._journal.resume(record)
        if resumed is None:
            return False
        await self._go_on(resumed)
        return True

    async def recover(self, *, may_be_silent: bool) -> int:
        """See Carrier.recover."""
        orphans = await self._journal.orphans(may_be_silent=may_be_silent)
        await self.continue_all([*orphans, *await self.postponed()])
        return len(orphans)

    async def continue_all(self, records: Sequence[RunRecord]) -> None:
        """Continue runs that this process owns."""
        for record in records:
            logger.info("run resumed", extra={"fields": {"run": record.id}})
            try:
                await self._go_on(record)
            except StorageUnavailableError:
                # It belongs to this process already, so nobody else would resume it.
                self._live.postpone(record)

    async def postponed(self) -> list[RunRecord]:
        """Return the runs of this process that are to be tried again. Another process
        may have taken one over in the meantime."""
        return [
            record
            for record in self._live.take_postponed()
            if await self._journal.is_mine(record.id)
        ]

    def leave(self) -> None:
        """Nothing to do: a process that shuts down leaves its runs by itself."""

    async def aclose(self) -> None:
        """Nothing to close."""
