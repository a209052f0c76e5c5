"""Looks at what a run says while it says it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from modelyard.base.errors import ModelyardError
from modelyard.workflow.engine import Command
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.live_run import LiveRun

logger = logging.getLogger("modelyard.workflow")

_CHECK_EVERY = 300
"""Characters of an answer between two looks at it."""

CheckOutput = Callable[[str], Awaitable[str | None]]
"""What stands in the place of a text; None where that may be said."""


class OutputGuard:
    """Looks at what is said while it is said; puts another text in its place where it must not be."""

    def __init__(self, live: LiveRun, check: CheckOutput) -> None:
        self._live = live
        self._check = check
        self._said = ""
        self._seen = 0
        self._has_more = asyncio.Event()
        self._task = asyncio.ensure_future(self._watch())
        self.replaced: str | None = None

    def hear(self, event: AnyEvent) -> bool:
        """Whether the event may go on."""
        if self.replaced is not None:
            return not isinstance(event, NodeRunStreamChunk)
        if isinstance(event, NodeRunStreamChunk):
            self._said += event.chunk
        elif isinstance(event, TextReplaced):
            self._said, self._seen = event.text, 0
        if len(self._said) - self._seen >= _CHECK_EVERY:
            self._has_more.set()
        return True

    async def _watch(self) -> None:
        while self.replaced is None:
            await self._has_more.wait()
            self._has_more.clear()
            await self._look()

    async def _look(self) -> None:
        text = self._said
        if self._seen >= len(text) or self.replaced is not None:
            return
        self._seen = len(text)
        try:
            instead = await self._check(text)
        except ModelyardError as error:
            logger.warning("an answer could not be checked", extra={"fields": {"error": str(error)}})
            instead = None
        if instead is not None:
            self.replaced = instead
            self._live.push(TextReplaced(at=time.time(), text=instead, reason="output_moderation"))
            self._live.command(Command.STOP, "output moderation")

    async def finish(self) -> str | None:
        """The last look; what stands in the answer's place, if anything."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._look()
        return self.replaced
