"""Spans of calls for OpenTelemetry: made when a call is over, for the share that is sampled and for all that failed."""

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.runtime import conventions as name
from modelyard.runtime.callbacks import Callback, Outcome
from modelyard.runtime.invocation import Invocation

try:
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
except ImportError as missing:
    raise ConfigError("traces need OpenTelemetry: pip install 'modelyard[otel]'") from missing

_MOST_CONTENT = 32_000


class OpenTelemetryCallback(Callback):
    """`content` puts prompts and answers on the spans, secrets struck out; off unless somebody wants it."""

    def __init__(
        self, tracer: Tracer, *, sample: float = 1.0, content: bool = False, rng: Callable[[], float] = random.random
    ) -> None:
        self._tracer = tracer
        self._sample = sample
        self._content = content
        self._rng = rng
        self.wants_result = content

    def on_after_invoke(self, invocation: Invocation, outcome: Outcome) -> None:
        if self._rng() < self._sample:
            self._span(invocation, outcome, None)

    def on_invoke_error(self, invocation: Invocation, error: BaseException, outcome: Outcome) -> None:
        if outcome.status != "cancelled" or self._rng() < self._sample:
            self._span(invocation, outcome, error)

    def _span(self, invocation: Invocation, outcome: Outcome, error: BaseException | None) -> None:
        end = time.time_ns()
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
            began = invocation.record.notes[0].at
            for note in invocation.record.notes:
                details = {key: redaction.strike(str(value)) for key, value in note.details.items()}
                span.add_event(note.what, details, timestamp=start + int((note.at - began) * 1e9))
        if error is not None:
            span.set_attribute(name.ERROR_TYPE, outcome.status)
            span.set_status(Status(StatusCode.ERROR, redaction.strike(str(error))[:500]))
        span.end(end_time=end)


def _attributes(invocation: Invocation, outcome: Outcome) -> dict[str, Any]:
    operation, kind = name.OPERATIONS[invocation.model_type.value]
    usage: Any = outcome.usage
    found: dict[str, Any] = {
        name.OPERATION: operation,
        name.KIND: kind,
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
        found[name.USER] = invocation.user
    if usage is not None:
        prompt = getattr(usage, "prompt_tokens", 0) or getattr(usage, "tokens", 0)
        completion = getattr(usage, "completion_tokens", 0)
        found |= {
            name.INPUT_TOKENS: prompt, name.OUTPUT_TOKENS: completion, name.PROMPT_TOKENS: prompt,
            name.COMPLETION_TOKENS: completion, name.TOTAL_TOKENS: prompt + completion,
        }  # fmt: skip
        if usage.total_price is not None:
            found |= {name.COST: float(usage.total_price), name.CURRENCY: usage.currency}
    return found


def _content(invocation: Invocation, outcome: Outcome) -> dict[str, str]:
    asked = _said(getattr(invocation.request, "messages", None) or getattr(invocation.request, "texts", ""))
    found = {name.INPUT_VALUE: asked, name.INPUT_MESSAGES: asked}
    if outcome.result is not None and hasattr(outcome.result, "text"):
        answer = redaction.strike(outcome.result.text)[:_MOST_CONTENT]
        found |= {name.OUTPUT_VALUE: answer, name.OUTPUT_MESSAGES: answer}
    return found


def _said(value: Any) -> str:
    return redaction.strike(msgspec.json.encode(value).decode())[:_MOST_CONTENT]
