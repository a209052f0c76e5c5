"""Callbacks that observe calls without changing them."""

import logging
from typing import Any

import msgspec

from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation

logger = logging.getLogger("modelyard.calls")


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended."""

    status: str
    """`ok`, `cancelled`, or the code of the error."""
    latency: float
    first_chunk: float | None
    chunks: int
    usage: ModelUsage | None
    result: Any = None
    """The chunks, merged into one result for a chat; None unless requested and the call
    succeeded."""


class Callback:
    """Base class of callbacks; override the methods that you need.

    With `raise_error` an exception in the callback fails the call; otherwise it is
    logged.
    """

    raise_error: bool = False
    wants_result: bool = False
    """Set this to receive the merged result in `CallResult.result`. All chunks are then
    held in memory."""

    def sees_chunks(self) -> bool:
        """Return whether `on_new_chunk` should be called at the moment."""
        return True

    def is_silent(self) -> bool:
        """Return whether nothing is to be reported to this callback about a call that
        starts now, unless it fails."""
        return False

    def on_before_invoke(self, invocation: Invocation) -> None:
        """Called before the call starts."""
        ...

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None:
        """Called for every chunk."""
        ...

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Called after a call that succeeded or was cancelled."""
        ...

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Called after a call that failed."""
        ...


class LoggingCallback(Callback):
    """Logs calls: one line at the end, and at debug level also the start and every
    chunk.

    Prompts and results are logged at debug level only.
    """

    def is_silent(self) -> bool:
        """Return whether successful calls are not logged."""
        return not logger.isEnabledFor(logging.INFO)

    def sees_chunks(self) -> bool:
        """Return whether chunks would be logged."""
        return logger.isEnabledFor(logging.DEBUG)

    def on_before_invoke(self, invocation: Invocation) -> None:
        """Log the request at debug level."""
        if logger.isEnabledFor(logging.DEBUG):
            # Shortened: a request may contain whole files.
            fields = {
                **_call_fields(invocation),
                "request": repr(invocation.request)[:2000],
            }
            logger.debug("call started", extra={"fields": fields})

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None:
        """Log the chunk at debug level."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "chunk",
                extra={"fields": {"call": invocation.id, "chunk": repr(chunk)[:500]}},
            )

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Log the successful call."""
        # Building the fields costs more than the check.
        if logger.isEnabledFor(logging.INFO):
            fields = {**_call_fields(invocation), **_result_fields(outcome)}
            logger.info("call", extra={"fields": fields})

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Log the failed call as a warning."""
        logger.warning(
            "call failed",
            extra={
                "fields": {
                    **_call_fields(invocation),
                    **_result_fields(outcome),
                    "error": str(error),
                }
            },
        )


def _call_fields(invocation: Invocation) -> dict[str, Any]:
    """Return the log fields that identify a call."""
    return {
        "call": invocation.id,
        "tenant": invocation.tenant,
        "model": f"{invocation.provider}/{invocation.model}",
        "type": invocation.model_type.value,
        "user": invocation.user,
    }


def _result_fields(outcome: CallResult) -> dict[str, Any]:
    """Return the log fields of how a call ended.

    Times are in milliseconds; fields that are unknown are None.
    """
    usage = outcome.usage
    return {
        "status": outcome.status,
        "latency_ms": round(outcome.latency * 1000, 1),
        "first_chunk_ms": round(outcome.first_chunk * 1000, 1)
        if outcome.first_chunk is not None
        else None,
        "chunks": outcome.chunks,
        "prompt_tokens": getattr(usage, "prompt_tokens", None),
        "completion_tokens": getattr(usage, "completion_tokens", None),
        # The currency is part of the value, since providers bill in different ones.
        "cost": f"{usage.total_price} {usage.currency}"
        if usage and usage.total_price
        else None,
    }
