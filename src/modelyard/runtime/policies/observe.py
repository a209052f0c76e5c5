"""Policy that reports a call to the callbacks. It is outermost, so refusals and
failovers are included."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMResultChunk, fold
from modelyard.models.types import Chunks, ModelUsage
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

logger = logging.getLogger("modelyard.callbacks")


@dataclass(frozen=True, slots=True)
class Observe:
    """The callback policy."""

    clock: Clock
    callbacks: tuple[Callback, ...] = ()
    _hooks: "_Hooks" = field(init=False)
    _fewer_hooks: "_Hooks" = field(init=False)
    """The hooks while those are silent that can be."""
    _may_be_silent: Sequence[Callback] = field(init=False)

    def __post_init__(self) -> None:
        may_be_silent = [
            callback
            for callback in self.callbacks
            if type(callback).is_silent is not Callback.is_silent
        ]
        # The class is frozen, so derived fields have to be set through `object`.
        object.__setattr__(self, "_hooks", _Hooks(self.callbacks))
        object.__setattr__(self, "_fewer_hooks", _Hooks(self.callbacks, may_be_silent))
        object.__setattr__(self, "_may_be_silent", may_be_silent)

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        return self.observe(invocation).watch(call_next, invocation)

    def observe(self, invocation: Invocation) -> "Observation":
        """Return what reports a call to the callbacks."""
        hooks = self._fewer_hooks
        for callback in self._may_be_silent:
            if not callback.is_silent():
                hooks = self._hooks
        return Observation(invocation, self.clock, hooks)


class _Hooks:
    """The callbacks grouped by the hooks that they implement. Most implement only the
    last ones, so chunks cost nothing."""

    def __init__(
        self, callbacks: Sequence[Callback], silent: Sequence[Callback] = ()
    ) -> None:
        """`silent` are those that hear of failures only."""
        audible = [callback for callback in callbacks if callback not in silent]
        # A hook that is inherited unchanged does nothing, so its callback is left out.
        self.before = [
            callback
            for callback in audible
            if type(callback).on_before_invoke is not Callback.on_before_invoke
        ]
        self.chunk = [
            callback
            for callback in audible
            if type(callback).on_new_chunk is not Callback.on_new_chunk
        ]
        self.after = [
            callback
            for callback in audible
            if type(callback).on_after_invoke is not Callback.on_after_invoke
        ]
        self.error = [
            callback
            for callback in callbacks
            if type(callback).on_invoke_error is not Callback.on_invoke_error
        ]
        self.wants_result = any(callback.wants_result for callback in callbacks)


def _log_failure(callback: Callback) -> None:
    """Log the exception of a hook that is being handled."""
    logger.exception(
        "callback failed", extra={"fields": {"callback": type(callback).__name__}}
    )


class Observation:
    """Collects what the callbacks need to know about one call, and reports to them."""

    __slots__ = (
        "_begun",
        "_chunks",
        "_clock",
        "_count",
        "_first",
        "_has_started",
        "_hooks",
        "_invocation",
        "_usage",
    )

    def __init__(self, invocation: Invocation, clock: Clock, hooks: _Hooks) -> None:
        self._invocation = invocation
        self._clock = clock
        self._hooks = hooks
        self._chunks: list[Any] = []
        self._has_started = False
        self._begun = clock.monotonic()
        self._first: float | None = None
        self._count = 0
        self._usage: ModelUsage | None = None

    def start(self) -> None:
        """Report the start of the call, once."""
        if self._has_started:
            return
        self._has_started = True
        for callback in self._hooks.before:
            try:
                callback.on_before_invoke(self._invocation)
            except Exception:  # foreign code
                if callback.raise_error:
                    raise
                _log_failure(callback)

    async def watch(self, call: Call, invocation: Invocation) -> Chunks:
        """Yield the chunks of a call and report them, and how it ends.

        The start is reported with the first one, unless it has been already.
        """
        self.start()
        try:
            async with aclosing(call(invocation)) as chunks:
                async for chunk in chunks:
                    self.on_chunk(chunk)
                    yield chunk
        # A caller that disconnects closes the generator or cancels the task; both count
        # as cancelled.
        except (GeneratorExit, asyncio.CancelledError) as error:
            self.failed(error, "cancelled")
            raise
        except ModelyardError as error:
            self.failed(error, error.code)
            raise
        # Runs after the last chunk was consumed, so the outcome covers the complete
        # call.
        self.finished()

    def on_chunk(self, chunk: Any) -> None:
        """Record a chunk and report it to the callbacks that want chunks."""
        if self._first is None:
            self._first = self._clock.monotonic() - self._begun
        self._count += 1
        if (usage := chunk.usage_or_none) is not None:
            self._usage = usage
        hooks = self._hooks
        # Chunks are collected only if a callback wants the complete result.
        if hooks.wants_result:
            self._chunks.append(chunk)
        for callback in hooks.chunk:
            try:
                if callback.sees_chunks():
                    callback.on_new_chunk(self._invocation, chunk)
            except Exception:  # foreign code
                if callback.raise_error:
                    raise
                _log_failure(callback)

    def failed(self, error: BaseException, status: str) -> None:
        """Report an error to the callbacks."""
        outcome = self.outcome(status)
        for callback in self._hooks.error:
            try:
                callback.on_invoke_error(self._invocation, error, outcome)
            except Exception:  # foreign code
                if callback.raise_error:
                    raise
                _log_failure(callback)

    def finished(self) -> None:
        """Report that the call has succeeded."""
        outcome = self.outcome("ok", with_result=True)
        for callback in self._hooks.after:
            try:
                callback.on_after_invoke(self._invocation, outcome)
            except Exception:  # foreign code
                if callback.raise_error:
                    raise
                _log_failure(callback)

    def outcome(self, status: str, *, with_result: bool = False) -> CallResult:
        """Return the result of the call so far, with the complete answer if asked for."""
        return CallResult(
            status=status,
            latency=self._clock.monotonic() - self._begun,
            first_chunk=self._first,
            chunks=self._count,
            usage=self._usage,
            result=_joined_result(self._chunks)
            if with_result and self._chunks
            else None,
        )


def _joined_result(chunks: list[Any]) -> Any:
    """Join the chunks of a chat answer; other types return their single chunk or the
    list."""
    if not chunks:
        return None
    return (
        fold(chunks)
        if isinstance(chunks[0], LLMResultChunk)
        else chunks[-1]
        if len(chunks) == 1
        else chunks
    )
