"""Policy that counts and prices every attempt at a provider, including failed and
cancelled ones."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import tier_name
from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.passthrough import PassthroughChunk, to_parsed_request
from modelyard.models.pricing import with_prices, with_total_price
from modelyard.models.tokens import count_prompt, count_texts, estimate_tokens
from modelyard.models.types import Chunks, ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call
from modelyard.runtime.usage_row import Intent, intent_of, tokens_of

_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Meter:
    """The metering policy. It writes one ledger row for each attempt."""

    ledger: Ledger
    pricing: Callable[[Invocation], PriceConfig | None]
    clock: Clock

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        attempt = self.begin(invocation)
        # Stays if the caller disconnects: neither of the branches below is reached
        # then.
        status = "cancelled"
        try:
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    yield attempt.record_chunk(chunk)
            status = "ok"
            if (usage_chunk := attempt.missing_usage_chunk()) is not None:
                yield usage_chunk
        except ModelyardError as error:
            status = error.code
            raise
        # The row is settled in every case, since a failed or cancelled attempt may have
        # cost something.
        finally:
            attempt.settle(status)

    def begin(self, invocation: Invocation) -> "MeteredAttempt":
        """Record that a provider is about to be called, so that there is a row whatever
        happens from here on. Raises LedgerUnavailableError."""
        return MeteredAttempt(
            self.ledger, invocation, self.pricing(invocation), self.clock
        )

    def plan_for(self, invocation: Invocation) -> "MeterPlan":
        """Return how attempts like this one are metered: those of the same caller at
        the same deployment. It is valid until prices change."""
        return MeterPlan(
            self,
            self.pricing(invocation),
            intent_of(invocation, attempt=1, created_at=0.0),
        )


class MeterPlan(msgspec.Struct, frozen=True):
    """How the attempts of a caller at a deployment are metered, with everything looked
    up."""

    meter: Meter
    pricing: PriceConfig | None
    template: Intent

    def begin(self, invocation: Invocation) -> "MeteredAttempt":
        """Record that the provider is about to be called. Raises
        LedgerUnavailableError."""
        meter = self.meter
        return MeteredAttempt(
            meter.ledger, invocation, self.pricing, meter.clock, self.template
        )


class MeteredAttempt:
    """One attempt with its row in the ledger: collects the usage and settles it."""

    __slots__ = (
        "_begun",
        "_clock",
        "_day",
        "_invocation",
        "_ledger",
        "_opened",
        "_pricing",
        "_reported_usage",
        "_text",
        "_tokens",
        "counted_by",
        "created_at",
        "first",
    )

    def __init__(
        self,
        ledger: Ledger,
        invocation: Invocation,
        pricing: PriceConfig | None,
        clock: Clock,
        template: Intent | None = None,
    ) -> None:
        """Record the intent. `template` is that of an earlier call of the same kind.
        Raises LedgerUnavailableError."""
        self._ledger = ledger
        self._invocation = invocation
        self._pricing = pricing
        self._clock = clock
        self._begun = clock.monotonic()
        self._reported_usage: ModelUsage | None = None
        self._text: list[str] | None = None
        self._tokens = 0
        self.counted_by = "provider"
        self.created_at = clock.time()
        # The date is needed only if the price has changed over time.
        self._day = (
            datetime.fromtimestamp(self.created_at, UTC).date()
            if pricing and pricing.history
            else None
        )
        self.first: float | None = None
        self._opened = ledger.begin(
            invocation,
            attempt=invocation.record.next_attempt(),
            created_at=self.created_at,
            prompt_tokens=invocation.rough_tokens(),
            template=template,
        )

    def settle(self, status: str) -> None:
        """Write how the attempt has ended, and add its usage to the call's."""
        pricing = self._pricing
        # The usual case, before all the others.
        usage = self._reported_usage if status == "ok" else None
        if usage is None:
            usage = self.usage(is_complete=status == "ok")
        price_version = ""
        if usage is not None and pricing is not None and pricing.as_of:
            price_version = pricing.as_of.isoformat()
        self._ledger.settle(
            self._opened,
            status=status,
            usage=usage,
            counted_by=self.counted_by if usage else "",
            price_version=price_version,
            latency=self._clock.monotonic() - self._begun,
            first_chunk=self.first,
        )
        if usage is not None:
            self._invocation.record.spend(
                tokens_of(usage), int((usage.total_price or 0) * _NANO)
            )
            if usage.total_price is None:
                self._invocation.record.has_unknown_cost = True

    def elapsed(self) -> float:
        """Return the seconds since the attempt started."""
        return self._clock.monotonic() - self._begun

    def record_chunk(self, chunk: Any) -> Any:
        """Record a chunk and return it for the caller, with the price filled in if it
        has usage."""
        if self.first is None:
            self.first = self._clock.monotonic() - self._begun
        if isinstance(chunk, PassthroughChunk):
            if chunk.said:
                self._append_text(chunk.said)
            # The caller gets the provider's bytes unchanged, so the price goes to the
            # ledger only.
            if (passed_usage := chunk.delta.usage) is not None:
                self._reported_usage = with_total_price(
                    self._with_service_tier(passed_usage), self._pricing, day=self._day
                )
                self.counted_by = "provider"
            return chunk
        usage = chunk.usage_or_none
        if isinstance(chunk, LLMResultChunk):
            self._record_text(chunk)
        return chunk if usage is None else self._record_usage(chunk, usage)

    def _record_usage(self, chunk: Any, usage: ModelUsage) -> Any:
        """Record the usage of a chunk and return the chunk with the price filled in."""
        # The provider answered without usage, so an estimate takes its place.
        if isinstance(usage, LLMUsage) and usage.estimated and not usage.total_tokens:
            return chunk.with_usage(self._price(self._estimate() or usage))
        self._reported_usage = self._price(usage)
        self.counted_by = "estimate" if self._reported_usage.estimated else "provider"
        return chunk.with_usage(self._reported_usage)

    def _record_text(self, chunk: LLMResultChunk) -> None:
        """Record the text, reasoning and tool arguments of a chunk, in case the
        provider never reports usage."""
        message = chunk.delta.message
        # Thoughts are billed wherever a format has them: beside the text or as parts.
        text = message.text + message.thinking
        # Most chunks have nothing but a piece of text.
        if message.tool_calls:
            calls = message.tool_calls
            text += "".join([tool_call.function.arguments for tool_call in calls])
        self._append_text(text)

    def _append_text(self, text: str) -> None:
        """Append received text and report a rough token count to the journal, in case
        the process is killed."""
        if text:
            if self._text is None:
                self._text = []
            self._text.append(text)
            # About four characters per token; a real tokenizer would be too slow for
            # each chunk.
            self._tokens += (len(text) + 2) // 4 or 1
            self._ledger.progress(self._opened, self._tokens)

    def _price(self, usage: ModelUsage) -> ModelUsage:
        """Add price and timing to a usage."""
        extra: dict[str, Any] = {"latency": self.elapsed()}
        if isinstance(usage, LLMUsage):
            extra["time_to_first_token"] = self.first
            extra["time_to_generate"] = self.elapsed() - (self.first or 0.0)
        # Some embedding APIs report no tokens, so they are estimated from the texts.
        if isinstance(usage, EmbeddingUsage) and usage.estimated and not usage.tokens:
            tokens = sum(
                estimate_tokens(text) for text in self._invocation.request.texts
            )
            extra |= {"tokens": tokens, "total_tokens": tokens}
            usage = msgspec.structs.replace(usage, tokens=tokens, total_tokens=tokens)
        if isinstance(usage, LLMUsage):
            usage = self._with_service_tier(usage)
        return with_prices(usage, self._pricing, day=self._day, **extra)

    def _with_service_tier(self, usage: LLMUsage) -> LLMUsage:
        """Return the usage with the service tier that the request asks for, unless the
        provider reports which one served it, or no tier has a price."""
        pricing = self._pricing
        if pricing is None or not pricing.service_tiers or usage.service_tier:
            return usage
        requested = self._invocation.request.model_parameters.get("service_tier")
        return msgspec.structs.replace(usage, service_tier=tier_name(requested))

    def usage(self, *, is_complete: bool) -> ModelUsage | None:
        """Return the usage that the provider reported; if the attempt was cut off, an
        estimate of what was received.

        None if nothing was received, since then nothing is owed.
        """
        stated = self._reported_usage
        # Only chat usage is reported in parts; any other is final as soon as it
        # arrives.
        if stated is not None and (is_complete or not isinstance(stated, LLMUsage)):
            return stated
        reported_by = self.counted_by
        estimate = self._estimate() if self.first is not None else None
        if estimate is None:
            return stated
        if isinstance(stated, LLMUsage):
            # Some providers report the prompt tokens at the start and the completion
            # tokens at the end. This stream was cut off in between.
            completion_tokens = max(
                stated.completion_tokens, estimate.completion_tokens
            )
            # If the provider counted as much as was received, its own count is the
            # better one.
            if completion_tokens == stated.completion_tokens:
                self.counted_by = reported_by
                return stated
            total = stated.prompt_tokens + completion_tokens
            estimate = msgspec.structs.replace(
                stated,
                completion_tokens=completion_tokens,
                total_tokens=total,
                estimated=True,
                total_price=None,
            )
        return self._price(estimate)

    def missing_usage_chunk(self) -> LLMResultChunk | None:
        """Return a final chunk with estimated usage if the provider reported none; None
        otherwise."""
        if self._reported_usage is not None or (estimate := self._estimate()) is None:
            return None
        self._reported_usage = self._price(estimate)
        return LLMResultChunk(model=self._invocation.model).with_usage(
            self._reported_usage
        )

    def _estimate(self) -> LLMUsage | None:
        """Estimate the usage, with the model's own tokenizer if it is available. None
        for requests other than chat."""
        request = to_parsed_request(self._invocation.request)
        if not isinstance(request, LLMRequest):
            return None
        model = self._invocation.model
        prompt = count_prompt(model, request.messages, request.tools)
        answer = count_texts(model, ["".join(self._text or ())])
        self.counted_by = (
            "estimate" if prompt.estimated or answer.estimated else "tokenizer"
        )
        return LLMUsage.of(prompt.tokens, answer.tokens, estimated=True)
