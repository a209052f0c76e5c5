"""End a call at its deadline, whatever it is doing."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeTimeoutError
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call


@dataclass(frozen=True, slots=True)
class Deadline:
    """One timer a call. It interrupts only while the call waits for its next chunk, never the caller in between."""

    clock: Clock

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        if invocation.deadline is None:
            return call_next(invocation)
        return self._until(invocation.deadline, invocation, call_next)

    async def _until(self, deadline: float, invocation: Invocation, call_next: Call) -> Chunks:
        timer = _Timer(deadline - self.clock.monotonic())
        try:
            async with aclosing(call_next(invocation)) as chunks:
                while True:
                    timer.enter()
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                    except asyncio.CancelledError:
                        if timer.is_ours():
                            raise InvokeTimeoutError(
                                f"'{invocation.provider}/{invocation.model}' did not finish by the call's deadline"
                            ) from None
                        raise
                    finally:
                        timer.leave()
                    yield chunk
        finally:
            timer.stop()


class _Timer:
    """Like asyncio.timeout, but its scope may be left and entered again around each chunk."""

    def __init__(self, seconds: float) -> None:
        self._task: asyncio.Task[object] | None = None
        self._is_over = False
        self._has_cancelled = False
        self._handle = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._has_cancelled = True
            self._task.cancel()

    def enter(self) -> None:
        self._task = asyncio.current_task()
        if self._is_over and self._task is not None:
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
        self._handle.cancel()
