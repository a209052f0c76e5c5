"""OpenTelemetry spans of calls. A span is created when the call has ended, for the
sampled fraction and for all failures."""

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.runtime import trace_attributes as name
from modelyard.runtime.callbacks import Callback, CallResult
from modelyard.runtime.invocation import Invocation

try:
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
except ImportError as missing:
    raise ConfigError(
        "Traces require OpenTelemetry: pip install 'modelyard[otel]'"
    ) from missing

# Collectors refuse messages beyond a few megabytes, and one has many spans.
_MAX_CONTENT = 32_000


class OpenTelemetryCallback(Callback):
    """Exports a span for each call. With `content`, spans contain prompts and answers
    with secrets redacted; off by default."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        sample: float = 1.0,
        content: bool = False,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._tracer = tracer
        self._sample = sample
        self._content = content
        self._rng = rng
        self.wants_result = content

    def on_after_invoke(self, invocation: Invocation, outcome: CallResult) -> None:
        """Export a span for the sampled fraction of the successful calls."""
        if self._rng() < self._sample:
            self._span(invocation, outcome, None)

    def on_invoke_error(
        self, invocation: Invocation, error: BaseException, outcome: CallResult
    ) -> None:
        """Export a span for a failed call. Cancelled calls are sampled like successful
        ones."""
        if outcome.status != "cancelled" or self._rng() < self._sample:
            self._span(invocation, outcome, error)

    def _span(
        self, invocation: Invocation, outcome: CallResult, error: BaseException | None
    ) -> None:
        """Create and end the span of a finished call."""
        end = time.time_ns()
        # The call has ended already, so the start is computed from its duration.
        start = end - int(outcome.latency * 1e9)
        operation, _ = name.OPERATIONS[invocation.model_type.value]
        span = self._tracer.start_span(
            f"{operation} {invocation.model}",
            kind=SpanKind.CLIENT,
            start_time=start,
            attributes=_attributes(invocation, outcome),
        )
        if self._content:
            span.set_attributes(_content(invocation, outcome))
        if invocation.record.notes:
            # Decisions have monotonic times; the first one is taken as the start of the
            # span.
            first_note_at = invocation.record.notes[0].timestamp
            for note in invocation.record.notes:
                details = {
                    key: redaction.redact(str(value))
                    for key, value in note.details.items()
                }
                span.add_event(
                    note.action,
                    details,
                    timestamp=start + int((note.timestamp - first_note_at) * 1e9),
                )
        if error is not None:
            span.set_attribute(name.ERROR_TYPE, outcome.status)
            span.set_status(
                Status(StatusCode.ERROR, redaction.redact(str(error))[:500])
            )
        span.end(end_time=end)


def _attributes(invocation: Invocation, outcome: CallResult) -> dict[str, Any]:
    """Return the attributes of a span, under the OpenTelemetry and OpenInference names."""
    operation, span_kind = name.OPERATIONS[invocation.model_type.value]
    usage: Any = outcome.usage
    attributes: dict[str, Any] = {
        name.OPERATION: operation,
        name.KIND: span_kind,
        name.PROVIDER: invocation.provider,
        name.LLM_PROVIDER: invocation.provider,
        name.REQUEST_MODEL: invocation.route or invocation.model,
        name.RESPONSE_MODEL: invocation.model,
        name.MODEL_NAME: invocation.model,
        name.TENANT: invocation.tenant,
        name.CALL: invocation.id,
        name.ATTEMPTS: invocation.record.attempts,
    }
    if invocation.user:
        attributes[name.USER] = invocation.user
    if usage is not None:
        prompt = getattr(usage, "prompt_tokens", 0) or getattr(usage, "tokens", 0)
        completion = getattr(usage, "completion_tokens", 0)
        attributes |= {
            # Both conventions are filled in, because backends read one or the other.
            name.INPUT_TOKENS: prompt,
            name.OUTPUT_TOKENS: completion,
            name.PROMPT_TOKENS: prompt,
            name.COMPLETION_TOKENS: completion,
            name.TOTAL_TOKENS: prompt + completion,
        }
        if usage.total_price is not None:
            attributes |= {
                name.COST: float(usage.total_price),
                name.CURRENCY: usage.currency,
            }
    return attributes


def _content(invocation: Invocation, outcome: CallResult) -> dict[str, str]:
    """Return the prompt and the answer as attributes, redacted and truncated."""
    prompt_json = _redacted_json(
        getattr(invocation.request, "messages", None)
        or getattr(invocation.request, "texts", "")
    )
    attributes = {name.INPUT_VALUE: prompt_json, name.INPUT_MESSAGES: prompt_json}
    if outcome.result is not None and hasattr(outcome.result, "text"):
        answer = redaction.redact(outcome.result.text)[:_MAX_CONTENT]
        attributes |= {name.OUTPUT_VALUE: answer, name.OUTPUT_MESSAGES: answer}
    return attributes


def _redacted_json(value: Any) -> str:
    """Encode a value as redacted JSON, truncated to the maximum length."""
    return redaction.redact(msgspec.json.encode(value).decode())[:_MAX_CONTENT]
