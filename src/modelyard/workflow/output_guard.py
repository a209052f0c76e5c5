"""Output moderation: checks the text of a run while it is streamed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from modelyard.base.errors import ModelyardError
from modelyard.workflow.engine import Command
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.live_run import LiveRun

logger = logging.getLogger("modelyard.workflow")

_CHECK_INTERVAL_CHARS = 300
"""New characters of an answer after which it is checked again."""

CheckOutput = Callable[[str], Awaitable[str | None]]
"""Returns the text to show instead of the given text; None if the text may be shown."""


class OutputGuard:
    """Checks the response text of a run and replaces it if it must not be shown."""

    def __init__(self, live_run: LiveRun, check: CheckOutput) -> None:
        self._live = live_run
        self._check = check
        self._text = ""
        self._checked_length = 0
        self._has_more = asyncio.Event()
        self._task = asyncio.ensure_future(self._watch())
        self.replaced: str | None = None

    def should_publish(self, event: AnyEvent) -> bool:
        """Register an event. Returns False if it must not be published because the text
        was replaced."""
        # After a replacement no text passes, but other events do.
        if self.replaced is not None:
            return not isinstance(event, NodeRunStreamChunk | TextReplaced)
        if isinstance(event, NodeRunStreamChunk):
            self._text += event.chunk
        elif isinstance(event, TextReplaced):
            # The new text has not been checked at all.
            self._text, self._checked_length = event.text, 0
        # Checked in intervals: a check costs a call.
        if len(self._text) - self._checked_length >= _CHECK_INTERVAL_CHARS:
            self._has_more.set()
        return True

    async def _watch(self) -> None:
        """Check the text whenever enough of it is new."""
        while self.replaced is None:
            await self._has_more.wait()
            self._has_more.clear()
            await self._check_text()

    async def _check_text(self) -> None:
        """Check the text so far. If it must not be shown, replace it and stop the run."""
        text = self._text
        if self._checked_length >= len(text) or self.replaced is not None:
            return
        # Text that arrives during the check counts as new.
        self._checked_length = len(text)
        try:
            instead = await self._check(text)
        except asyncio.CancelledError:
            # `finish` interrupts a check that is running: nothing was found out about
            # this text, so it has to be checked again.
            self._checked_length = 0
            raise
        except ModelyardError as error:
            # If the check fails, the answer is not withheld.
            logger.warning(
                "output moderation failed",
                extra={"fields": {"error": str(error)}},
            )
            instead = None
        if instead is not None:
            # Set before the event is pushed: `should_publish` drops further chunks.
            self.replaced = instead
            self._live.push(
                TextReplaced(at=time.time(), text=instead, reason="output_moderation")
            )
            # Further text would be discarded anyway, so the run is stopped.
            self._live.command(Command.STOP, "output moderation")

    async def finish(self) -> str | None:
        """Check the remaining text and return the replacement; None if the text may
        be shown."""
        self._task.cancel()
        # The watcher ends first, so that no two checks run at the same time.
        await asyncio.gather(self._task, return_exceptions=True)
        await self._check_text()
        return self.replaced
