"""End a call that takes too long: in all, until its first word, or between two of them."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeTimeoutError
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Deadline:
    """One timer a call. It interrupts only while the call waits for its next chunk, never the caller in between.

    Bytes alone do not keep a stream alive: a server that sends comments for ever says nothing.
    """

    clock: Clock
    first_token: float | None = None
    """Seconds until a stream's first chunk."""
    between_tokens: float | None = None

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        is_stream = getattr(invocation.request, "stream", False) is True
        first = (self.first_token or _NEVER) if is_stream else _NEVER
        if invocation.deadline is None and first == _NEVER:
            return call_next(invocation)
        return self._until(invocation.deadline or _NEVER, first, invocation, call_next)

    async def _until(self, deadline: float, first: float, invocation: Invocation, call_next: Call) -> Chunks:
        now = self.clock.monotonic
        timer = _Timer(now)
        gap, between = first, (self.between_tokens or _NEVER) if first != _NEVER else _NEVER
        try:
            async with aclosing(call_next(invocation)) as chunks:
                while True:
                    timer.enter(min(deadline, now() + gap))
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                    except asyncio.CancelledError:
                        if timer.is_ours():
                            raise self._late(invocation, deadline, gap, gap == first) from None
                        raise
                    finally:
                        timer.leave()
                    gap = between
                    yield chunk
        finally:
            timer.stop()

    def _late(self, invocation: Invocation, deadline: float, gap: float, is_first: bool) -> InvokeTimeoutError:
        who = f"'{invocation.provider}/{invocation.model}'"
        if self.clock.monotonic() >= deadline:
            return InvokeTimeoutError(f"{who} did not finish by the call's deadline")
        what = "said nothing" if is_first else "stopped in the middle, and said nothing more"
        return InvokeTimeoutError(f"{who} {what} within {gap:g} s")


class _Timer:
    """Like asyncio.timeout, but its scope is left and entered again around each chunk, with a new end each time.

    The loop's timer is set once and put off when it fires too early: setting one for each chunk would cost more than
    the chunk.
    """

    __slots__ = ("_due", "_fires_at", "_handle", "_has_cancelled", "_loop", "_now", "_task")

    def __init__(self, now: Any) -> None:
        self._now = now
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False
        self._due = _NEVER
        self._fires_at = _NEVER
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def enter(self, due: float) -> None:
        self._task = asyncio.current_task()
        self._due = due
        if due < self._fires_at:
            self._set(due)

    def _set(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = due
        self._handle = self._loop.call_later(max(0.0, due - self._now()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._fires_at = _NEVER
        if self._task is None:
            return  # the caller's own time: what is due is looked at when the call goes on
        if self._due > self._now() + 0.001:
            self._set(self._due)
        else:
            self._has_cancelled = True
            self._task.cancel()

    def leave(self) -> None:
        self._task = None

    def is_ours(self) -> bool:
        """Whether a cancellation is this timer's alone, and not the caller's too."""
        if not self._has_cancelled or self._task is None:
            return False
        self._has_cancelled = False
        return self._task.uncancel() == 0

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
