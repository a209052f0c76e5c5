"""The Temporal workflow of a run. Nothing but Temporal and the standard library is
imported: this code is replayed, and must do the same each time.

A change of it needs Temporal's versioning (`workflow.patched`), because runs that wait
for a person are open for weeks.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

WORKFLOW = "modelyard.run"
ACTIVITY = "modelyard.execute"
WAKE = "wake"

HEARTBEAT_SECONDS = 8.0
"""After this long without a heartbeat Temporal offers a run to another process. The
lease in the record decides whether that one may take it."""
_LOOK_AGAIN = timedelta(seconds=15)
# A part of a run has its own limits of time; Temporal wants one, too.
_MAX_TIME = timedelta(days=30)
_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=15),
    maximum_attempts=0,
)


@workflow.defn(name=WORKFLOW)
class RunWorkflow:
    """Lets some worker execute a run, again after a resumption, until it has ended."""

    def __init__(self) -> None:
        self._is_woken = False

    @workflow.signal(name=WAKE)
    def wake(self) -> None:
        """The run is queued: after its start, a resumption or a crash."""
        self._is_woken = True

    @workflow.run
    async def run(self, ticket: dict[str, Any]) -> str:
        """Execute a run, given by its tenant and id. Returns `over`."""
        while True:
            self._is_woken = False
            segment: dict[str, Any] = await workflow.execute_activity(
                ACTIVITY,
                ticket,
                start_to_close_timeout=_MAX_TIME,
                heartbeat_timeout=timedelta(seconds=HEARTBEAT_SECONDS),
                retry_policy=_RETRIES,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            if segment["state"] == "over":
                return "over"
            # Its worker shuts down, and another one can go on at once.
            if segment["state"] != "left":
                await self._wait(segment)

    async def _wait(self, segment: dict[str, Any]) -> None:
        """Wait until the run is queued again, a form expires, or its owner may be gone."""
        due_in = segment.get("due_in")
        timeout: timedelta | None = _LOOK_AGAIN
        if segment["state"] == "paused":
            # A little later: by then the form has expired for certain.
            timeout = None
            if due_in is not None:
                timeout = timedelta(seconds=max(0.0, due_in) + 0.5)
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: self._is_woken, timeout=timeout)
