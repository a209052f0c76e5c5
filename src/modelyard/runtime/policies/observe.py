"""Tell callbacks what happens to a call, from the outside: refusals and failover included."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
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
    _hooks: "_Hooks" = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hooks", _Hooks(self.callbacks))

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        hooks = self._hooks
        watch = _Watch(invocation, self.clock, hooks)
        for callback in hooks.before:
            _run(callback, callback.on_before_invoke, invocation)
        try:
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    watch.see(chunk)
                    yield chunk
        except (GeneratorExit, asyncio.CancelledError) as error:
            watch.failed(error, "cancelled")
            raise
        except ModelyardError as error:
            watch.failed(error, error.code)
            raise
        outcome = watch.outcome("ok", with_result=True)
        for callback in hooks.after:
            _run(callback, callback.on_after_invoke, invocation, outcome)


class _Hooks:
    """Which callbacks want to hear of what: most look at the end alone."""

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self.before = [one for one in callbacks if type(one).on_before_invoke is not Callback.on_before_invoke]
        self.chunk = [one for one in callbacks if type(one).on_new_chunk is not Callback.on_new_chunk]
        self.after = [one for one in callbacks if type(one).on_after_invoke is not Callback.on_after_invoke]
        self.error = [one for one in callbacks if type(one).on_invoke_error is not Callback.on_invoke_error]
        self.keeps = any(one.wants_result for one in callbacks)


def _run(callback: Callback, hook: Callable[..., None], *details: Any) -> None:
    try:
        hook(*details)
    except Exception:  # foreign code
        if callback.raise_error:
            raise
        logger.exception("a callback failed", extra={"fields": {"callback": type(callback).__name__}})


class _Watch:
    """One call as its callbacks see it."""

    __slots__ = ("_begun", "_clock", "_count", "_first", "_hooks", "_invocation", "_kept", "_usage")

    def __init__(self, invocation: Invocation, clock: Clock, hooks: _Hooks) -> None:
        self._invocation = invocation
        self._clock = clock
        self._hooks = hooks
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
        hooks = self._hooks
        if hooks.keeps:
            self._kept.append(chunk)
        for callback in hooks.chunk:
            if callback.sees_chunks():
                _run(callback, callback.on_new_chunk, self._invocation, chunk)

    def failed(self, error: BaseException, status: str) -> None:
        outcome = self.outcome(status)
        for callback in self._hooks.error:
            _run(callback, callback.on_invoke_error, self._invocation, error, outcome)

    def outcome(self, status: str, *, with_result: bool = False) -> Outcome:
        return Outcome(
            status=status,
            latency=self._clock.monotonic() - self._begun,
            first_chunk=self._first,
            chunks=self._count,
            usage=self._usage,
            result=_folded(self._kept) if with_result else None,
        )


def _folded(chunks: list[Any]) -> Any:
    if not chunks:
        return None
    return fold(chunks) if isinstance(chunks[0], LLMResultChunk) else chunks[-1] if len(chunks) == 1 else chunks
