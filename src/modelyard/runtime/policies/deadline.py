"""Policy that ends a call that takes too long: in total, until the first chunk, or
between two chunks."""

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
    """The timeout policy. It interrupts the call only while it waits for its next
    chunk, never the caller in between.

    Bytes without content do not keep a stream alive: a server that sends comments
    forever still times out.
    """

    clock: Clock
    first_token: float | None = None
    """Seconds until a stream's first chunk."""
    # Seconds between two chunks of a stream; None for no limit.
    between_tokens: float | None = None

    def gaps_of(self, invocation: Invocation) -> tuple[float, float]:
        """Return the seconds until the first chunk and between two chunks; infinity for
        no limit."""
        # The chunk timeouts apply to streams only; a complete answer arrives as one
        # late chunk.
        is_stream = getattr(invocation.request, "stream", False) is True
        if not is_stream or self.first_token is None:
            return _NEVER, _NEVER
        return self.first_token, self.between_tokens or _NEVER

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        first, between = self.gaps_of(invocation)
        if invocation.deadline is None and first == _NEVER:
            return call_next(invocation)
        deadline = invocation.deadline or _NEVER
        return self._with_timeouts(deadline, first, between, invocation, call_next)

    async def _with_timeouts(
        self,
        deadline: float,
        first: float,
        between: float,
        invocation: Invocation,
        call_next: Call,
    ) -> Chunks:
        """Yield the chunks of the call; raise InvokeTimeoutError when a timeout is
        exceeded."""
        monotonic = self.clock.monotonic
        timer = _Timer(monotonic)
        gap = first
        try:
            async with aclosing(call_next(invocation)) as chunks:
                while True:
                    timer.enter(min(deadline, monotonic() + gap))
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                    # The timer interrupts by cancelling the task, so its cancellation
                    # has to be told apart from the caller's.
                    except asyncio.CancelledError:
                        if timer.is_ours():
                            is_first = gap == first
                            raise self.timeout_error(
                                invocation, deadline, gap, is_first=is_first
                            ) from None
                        raise
                    finally:
                        timer.leave()
                    gap = between
                    yield chunk
        finally:
            timer.stop()

    def timeout_error(
        self, invocation: Invocation, deadline: float, gap: float, *, is_first: bool
    ) -> InvokeTimeoutError:
        """Return the error that names the timeout which was exceeded."""
        who = f"'{invocation.provider}/{invocation.model}'"
        if self.clock.monotonic() >= deadline:
            return InvokeTimeoutError(
                f"{who} did not finish before the call's deadline"
            )
        problem = (
            "sent nothing" if is_first else "stopped streaming and sent nothing more"
        )
        return InvokeTimeoutError(f"{who} {problem} within {gap:g} s")


class _Timer:
    """Like asyncio.timeout, but entered and left around each chunk with a new deadline.

    The event loop's timer is set once and postponed if it fires too early. Setting one
    for each chunk would cost more than the chunk itself.
    """

    __slots__ = (
        "_due",
        "_fires_at",
        "_handle",
        "_has_cancelled",
        "_loop",
        "_now",
        "_task",
    )

    def __init__(self, monotonic: Any) -> None:
        """Store the monotonic clock function. Must be called on the event loop."""
        self._now = monotonic
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False
        self._due = _NEVER
        self._fires_at = _NEVER
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def enter(self, due_at: float) -> None:
        """Start watching the current task; `due_at` is in monotonic seconds."""
        self._task = asyncio.current_task()
        self._due = due_at
        # A timer that fires earlier anyway is left alone and postponed then.
        if due_at < self._fires_at:
            self._set(due_at)

    def _set(self, due_at: float) -> None:
        """Set the event loop's timer."""
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = due_at
        self._handle = self._loop.call_later(max(0.0, due_at - self._now()), self._fire)

    def _fire(self) -> None:
        """Cancel the task if its deadline has passed; otherwise set the timer again."""
        self._handle = None
        self._fires_at = _NEVER
        if self._task is None:
            # The caller is using its own time between chunks; the deadline is checked
            # when the next chunk is awaited.
            return
        # The loop may fire slightly early; a millisecond of tolerance avoids setting
        # the timer again for nothing.
        if self._due > self._now() + 0.001:
            self._set(self._due)
        else:
            self._has_cancelled = True
            self._task.cancel()

    def leave(self) -> None:
        """Stop watching: the caller is processing a chunk."""
        self._task = None

    def is_ours(self) -> bool:
        """Return whether a cancellation comes from this timer alone and not from the
        caller as well. Clears it."""
        if not self._has_cancelled or self._task is None:
            return False
        self._has_cancelled = False
        return self._task.uncancel() == 0

    def stop(self) -> None:
        """Cancel the event loop's timer."""
        if self._handle is not None:
            self._handle.cancel()
