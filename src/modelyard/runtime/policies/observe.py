"""Tell callbacks what happens to a call, from the outside: refusals and failover included."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMResultChunk, fold
from modelyard.models.types import Chunks, ModelUsage
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

logger = logging.getLogger("modelyard.callbacks")


@dataclass(frozen=True, slots=True)
class Observe:
    clock: Clock
    callbacks: tuple[Callback, ...] = ()

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        watch = _Watch(invocation, self.clock, self.callbacks)
        watch.tell("on_before_invoke")
        try:
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    watch.see(chunk)
                    yield chunk
        except (GeneratorExit, asyncio.CancelledError) as error:
            watch.tell("on_invoke_error", error, watch.outcome("cancelled"))
            raise
        except ModelyardError as error:
            watch.tell("on_invoke_error", error, watch.outcome(error.code))
            raise
        watch.tell("on_after_invoke", watch.outcome("ok", with_result=True))


class _Watch:
    """One call as its callbacks see it."""

    def __init__(self, invocation: Invocation, clock: Clock, callbacks: tuple[Callback, ...]) -> None:
        self._invocation = invocation
        self._clock = clock
        self._callbacks = callbacks
        # Most callbacks look at the end alone: chunks are shown, and kept for the fold, only to those that ask.
        self._chunk_hooks = [one for one in callbacks if type(one).on_new_chunk is not Callback.on_new_chunk]
        self._keeps = any(one.wants_result for one in callbacks)
        self._kept: list[Any] = []
        self._begun = clock.monotonic()
        self._first: float | None = None
        self._count = 0
        self._usage: ModelUsage | None = None

    def see(self, chunk: Any) -> None:
        if self._first is None:
            self._first = self._clock.monotonic() - self._begun
        self._count += 1
        if (usage := chunk.spent) is not None:
            self._usage = usage
        if self._keeps:
            self._kept.append(chunk)
        for callback in self._chunk_hooks:
            self._run(callback, callback.on_new_chunk, chunk)

    def outcome(self, status: str, *, with_result: bool = False) -> Outcome:
        return Outcome(
            status=status,
            latency=self._clock.monotonic() - self._begun,
            first_chunk=self._first,
            chunks=self._count,
            usage=self._usage,
            result=_folded(self._kept) if with_result else None,
        )

    def tell(self, hook: str, *details: Any) -> None:
        for callback in self._callbacks:
            self._run(callback, getattr(callback, hook), *details)

    def _run(self, callback: Callback, hook: Callable[..., None], *details: Any) -> None:
        try:
            hook(self._invocation, *details)
        except Exception:  # foreign code
            if callback.raise_error:
                raise
            logger.exception("a callback failed", extra={"fields": {"callback": type(callback).__name__}})


def _folded(chunks: list[Any]) -> Any:
    if not chunks:
        return None
    return fold(chunks) if isinstance(chunks[0], LLMResultChunk) else chunks[-1] if len(chunks) == 1 else chunks
