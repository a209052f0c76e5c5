"""Background tasks of a process that executes runs: commands, lease renewal, recovery
and form expiry."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.base.outage_log import OutageLog
from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.carrier import Carrier
from modelyard.workflow.engine import Command
from modelyard.workflow.journal import (
    COMMANDS_TOPIC,
    LEASE_SECONDS,
    RELEASED_TOPIC,
    DatabaseJournal,
)
from modelyard.workflow.live_runs import LiveRuns

logger = logging.getLogger("modelyard.workflow")

# The user who presses "stop" may be served by another process than the run.
_COMMAND_POLL_SECONDS = 0.05
# A signal tells of a command. Without one they are looked for all the same.
_COMMAND_LOOK_SECONDS = 2.0
# Leases last 15 s, so two renewals in a row may fail.
_RENEW_SECONDS = 4.0

Resume = Callable[[str, str], Awaitable[bool]]
"""(tenant, run) → whether the paused run was resumed."""


class RunMaintenance:
    """Periodic tasks, from `begin` to `aclose`."""

    def __init__(
        self,
        journal: DatabaseJournal,
        live_runs: LiveRuns,
        carrier: Carrier,
        resume: Resume,
    ) -> None:
        self._journal = journal
        self._live = live_runs
        self._carrier = carrier
        self._resume = resume
        self._tasks: list[asyncio.Task[None]] = []
        self._silent_until = 0.0
        """Until when, by `time.monotonic`, other processes may have had no chance to
        renew their leases."""

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        # The database may just have become reachable again.
        if self._journal.is_shared:
            self._excuse_silence()
        # Users wait for a stop to take effect, so commands are looked for often.
        self._look_for(
            COMMANDS_TOPIC,
            self._poll_commands,
            _COMMAND_LOOK_SECONDS,
            unheard_seconds=_COMMAND_POLL_SECONDS,
        )
        # A run that its owner has left need not wait for the next look.
        self._look_for(RELEASED_TOPIC, self.recover, _RENEW_SECONDS)
        self._look_for("", self._renew, _RENEW_SECONDS)
        self._look_for("", self.expire, self._carrier.expire_seconds)
        self._carrier.start()

    def _look_for(
        self,
        topic: str,
        act: Callable[[], Awaitable[Any]],
        seconds: float,
        *,
        unheard_seconds: float = 0.0,
    ) -> None:
        """Call an action whenever the topic is signalled, and every `seconds`; every
        `unheard_seconds`, if given, while signals cannot be received."""
        outages = OutageLog(
            logger, "run maintenance failed", "run maintenance works again"
        )
        work = self._journal.signals.call_at(
            topic,
            partial(_try, act, outages),
            seconds,
            unheard_seconds=unheard_seconds or seconds,
        )
        self._tasks.append(asyncio.ensure_future(work))

    async def aclose(self) -> None:
        """Cancel the tasks and wait for their end."""
        # Cancelled first and awaited together.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _poll_commands(self) -> None:
        """Pass commands that other processes left in the journal to the active runs."""
        if not self._live:
            return
        for run_id, command in await self._journal.commands():
            live_run = self._live.find(run_id)
            if live_run is not None:
                reason = "User requested stop" if command == "stop" else ""
                live_run.command(Command(command), reason)

    async def _renew(self) -> None:
        """Renew the leases of the active runs."""
        # Without active runs there is no lease to renew.
        if not self._live:
            return
        asked_at = time.monotonic()
        try:
            held = await self._journal.renew()
        except StorageUnavailableError:
            self._excuse_silence()
            raise
        self._live.note_renewed(held, asked_at)

    @property
    def may_be_silent(self) -> bool:
        """Whether other processes may have had no chance to renew their leases."""
        return time.monotonic() < self._silent_until

    def _excuse_silence(self) -> None:
        """Take over no run for a whole lease, except from processes that have exited."""
        self._silent_until = time.monotonic() + LEASE_SECONDS

    async def recover(self) -> int:
        """Resume the runs of dead processes; return their number."""
        try:
            return await self._carrier.recover(may_be_silent=self.may_be_silent)
        except StorageUnavailableError:
            self._excuse_silence()
            raise

    async def expire(self) -> None:
        """Resume runs whose forms have expired."""
        for tenant, run_id in await self._journal.forms.expired():
            await self._resume(tenant, run_id)


async def _try(act: Callable[[], Awaitable[Any]], outages: OutageLog) -> None:
    """Call an action and log its errors."""
    try:
        # Storage may be unavailable for a while; the action is then tried again.
        await act()
        outages.worked()
    except ModelyardError as error:
        outages.failed(error)
    # A fault with one run must not keep all the others from being resumed.
    except Exception:
        logger.exception("run maintenance failed")
