"""Watch calls without changing them."""

import logging
from dataclasses import dataclass
from typing import Any

from modelyard.models.types import ModelUsage
from modelyard.runtime.invocation import Invocation

logger = logging.getLogger("modelyard.calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended."""

    status: str
    """`ok`, `cancelled`, or the code of the error."""
    latency: float
    first_chunk: float | None
    chunks: int
    usage: ModelUsage | None
    result: Any = None
    """The chunks, folded where they are a chat's; None unless asked for and the call ended well."""


class Callback:
    """Override what you need. With `raise_error` a mistake in a callback fails the call; otherwise it is logged."""

    raise_error: bool = False
    wants_result: bool = False
    """Set to be given the folded answer in `Outcome.result`; costs the memory of all chunks."""

    def sees_chunks(self) -> bool:
        """Whether `on_new_chunk` is to be called at the moment."""
        return True

    def on_before_invoke(self, invocation: Invocation) -> None: ...

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None: ...

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None: ...

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None: ...


class LoggingCallback(Callback):
    """A line before, a line after, and at debug level every chunk. Prompts and answers only at debug level."""

    def sees_chunks(self) -> bool:
        return logger.isEnabledFor(logging.DEBUG)

    def on_before_invoke(self, invocation: Invocation) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            fields = {**_who(invocation), "request": repr(invocation.request)[:2000]}
            logger.debug("call begins", extra={"fields": fields})

    def on_new_chunk(self, invocation: Invocation, chunk: Any) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("chunk", extra={"fields": {"call": invocation.id, "chunk": repr(chunk)[:500]}})

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("call", extra={"fields": {**_who(invocation), **_how(outcome)}})

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        logger.warning("call failed", extra={"fields": {**_who(invocation), **_how(outcome), "error": str(error)}})


def _who(invocation: Invocation) -> dict[str, Any]:
    return {
        "call": invocation.id,
        "tenant": invocation.tenant,
        "model": f"{invocation.provider}/{invocation.model}",
        "type": invocation.model_type.value,
        "user": invocation.user,
    }


def _how(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "status": outcome.status,
        "latency_ms": round(outcome.latency * 1000, 1),
        "first_chunk_ms": round(outcome.first_chunk * 1000, 1) if outcome.first_chunk is not None else None,
        "chunks": outcome.chunks,
        "prompt_tokens": getattr(usage, "prompt_tokens", None),
        "completion_tokens": getattr(usage, "completion_tokens", None),
        "cost": f"{usage.total_price} {usage.currency}" if usage and usage.total_price else None,
    }
