"""Commands for runs that no process executes: they have paused, or wait in a queue."""

from collections.abc import Callable

import msgspec

from modelyard.workflow.engine import Command, Status
from modelyard.workflow.events import AnyEvent, GraphRunAborted, GraphRunPaused
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.run_record import RunRecord


class IdleRuns:
    """Stops and pauses runs by their record alone. Methods may raise
    StorageUnavailableError."""

    def __init__(self, journal: DatabaseJournal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._now = clock

    async def command(
        self, tenant: str, run_id: str, command: Command, reason: str
    ) -> bool:
        """Stop or pause a tenant's run. Returns False if there is no such run, if it has
        ended, or if a process executes it."""
        record = await self._take(tenant, run_id, command)
        if record is None:
            return False
        await self._settle(record, command, reason)
        return True

    async def _take(
        self, tenant: str, run_id: str, command: Command
    ) -> RunRecord | None:
        """Take ownership of a run that no process executes and that a command ends.
        Returns None if there is none."""
        record = await self._journal.find(tenant, run_id)
        if record is None:
            return None
        # Taking ownership first prevents a simultaneous resumption.
        if record.status is Status.PAUSED and command is Command.STOP:
            return await self._journal.resume(record)
        # A run may wait in a queue for a long time, and need not start to be stopped.
        owner = self._journal.owner
        return await self._journal.queue.claim_unowned(tenant, run_id, owner)

    async def _settle(self, record: RunRecord, command: Command, reason: str) -> None:
        """Record a run as stopped, or as paused."""
        last_number = await self._journal.last_event_number(record)
        current_time = self._now()
        if command is Command.STOP:
            settled = msgspec.structs.replace(
                record, status=Status.STOPPED, error=reason, finished_at=current_time
            )
            event: AnyEvent = GraphRunAborted(at=current_time, reason=reason)
        else:
            settled = msgspec.structs.replace(record, status=Status.PAUSED)
            event = GraphRunPaused(at=current_time)
        await self._journal.settle(settled, [(last_number + 1, event)])
