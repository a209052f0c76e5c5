"""Count and price every real attempt, those that failed or were walked away from included."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.pricing import priced
from modelyard.models.tokens import count_prompt, count_texts, estimate_tokens
from modelyard.models.types import Chunks, ModelUsage
from modelyard.models.verbatim import VerbatimChunk, plain
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call
from modelyard.runtime.usage_row import tokens_of

_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Meter:
    ledger: Ledger
    pricing: Callable[[Invocation], PriceConfig | None]
    clock: Clock

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        pricing = self.pricing(invocation)
        tally = _Tally(invocation, pricing, self.clock)
        # Written down before the provider is called: whatever happens from here on, there is a row.
        opened = self.ledger.begin(
            invocation,
            attempt=invocation.record.next_attempt(),
            created_at=tally.created_at,
            prompt_tokens=invocation.rough_tokens(),
        )
        tally.on_progress = partial(self.ledger.progress, opened)
        status = "cancelled"
        try:
            async with aclosing(call_next(invocation)) as chunks:
                async for chunk in chunks:
                    yield tally.see(chunk)
            status = "ok"
            if (late := tally.missing()) is not None:
                yield late
        except ModelyardError as error:
            status = error.code
            raise
        finally:
            usage = tally.usage(is_whole=status == "ok")
            self.ledger.settle(
                opened,
                status=status,
                usage=usage,
                counted_by=tally.counted_by if usage else "",
                price_version=pricing.as_of.isoformat() if pricing and pricing.as_of and usage else "",
                latency=tally.elapsed(),
                first_chunk=tally.first,
            )
            if usage is not None:
                invocation.record.spend(tokens_of(usage), int((usage.total_price or 0) * _NANO))


class _Tally:
    """What one attempt has used so far."""

    __slots__ = (
        "_begun",
        "_clock",
        "_day",
        "_invocation",
        "_pricing",
        "_stated",
        "_text",
        "_tokens",
        "counted_by",
        "created_at",
        "first",
        "on_progress",
    )

    def __init__(self, invocation: Invocation, pricing: PriceConfig | None, clock: Clock) -> None:
        self._invocation = invocation
        self._pricing = pricing
        self._clock = clock
        self._begun = clock.monotonic()
        self._stated: ModelUsage | None = None
        self._text: list[str] = []
        self._tokens = 0
        self.on_progress: Callable[[int], None] = lambda tokens: None
        self.counted_by = "provider"
        self.created_at = clock.time()
        self._day = datetime.fromtimestamp(self.created_at, UTC).date() if pricing and pricing.history else None
        self.first: float | None = None

    def elapsed(self) -> float:
        return self._clock.monotonic() - self._begun

    def see(self, chunk: Any) -> Any:
        if self.first is None:
            self.first = self.elapsed()
        usage = chunk.spent
        if isinstance(chunk, VerbatimChunk):
            self._say(chunk.said)
            if usage is not None:  # the caller gets the provider's own words: only the ledger wants to know the price
                self._stated = self._price(usage)
                self.counted_by = "provider"
            return chunk
        if isinstance(chunk, LLMResultChunk):
            self._read(chunk)
            if usage is None:
                return chunk
            if usage.estimated and not usage.total_tokens:
                return chunk.priced(self._price(self._estimate() or usage))
        if usage is None:
            return chunk
        self._stated = self._price(usage)
        self.counted_by = "estimate" if self._stated.estimated else "provider"
        return chunk.priced(self._stated)

    def _read(self, chunk: LLMResultChunk) -> None:
        """Keep what was said: all there is to count where the provider does not come to it."""
        message = chunk.delta.message
        texts = [chunk.text, message.reasoning_content or "", *(one.function.arguments for one in message.tool_calls)]
        self._say("".join(texts))

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._tokens += max(1, (len(text) + 2) // 4)
            self.on_progress(self._tokens)

    def _price(self, usage: ModelUsage) -> ModelUsage:
        more: dict[str, Any] = {"latency": self.elapsed()}
        if isinstance(usage, LLMUsage):
            more["time_to_first_token"] = self.first
            more["time_to_generate"] = self.elapsed() - (self.first or 0.0)
        if isinstance(usage, EmbeddingUsage) and usage.estimated and not usage.tokens:
            tokens = sum(estimate_tokens(text) for text in self._invocation.request.texts)
            more |= {"tokens": tokens, "total_tokens": tokens}
            usage = msgspec.structs.replace(usage, tokens=tokens, total_tokens=tokens)
        return priced(usage, self._pricing, day=self._day, **more)

    def usage(self, *, is_whole: bool) -> ModelUsage | None:
        """What the provider counted; where it did not get to that, what came can be counted."""
        stated = self._stated
        if stated is not None and (is_whole or not isinstance(stated, LLMUsage)):
            return stated
        estimate = self._estimate() if self.first is not None else None
        if estimate is None:
            return stated
        if isinstance(stated, LLMUsage):
            # Some say at the beginning what went in, and at the end what came out. This one was cut in between.
            out = max(stated.completion_tokens, estimate.completion_tokens)
            if out == stated.completion_tokens:
                return stated
            total = stated.prompt_tokens + out
            estimate = msgspec.structs.replace(
                stated, completion_tokens=out, total_tokens=total, estimated=True, total_price=None
            )
        return self._price(estimate)

    def missing(self) -> LLMResultChunk | None:
        """A last chunk with estimated usage, where the provider never said what it counted."""
        if self._stated is not None or (estimate := self._estimate()) is None:
            return None
        self._stated = self._price(estimate)
        return LLMResultChunk(model=self._invocation.model).priced(self._stated)

    def _estimate(self) -> LLMUsage | None:
        """By the model's own vocabulary where that is at hand."""
        request = plain(self._invocation.request)
        if not isinstance(request, LLMRequest):
            return None
        model = self._invocation.model
        prompt = count_prompt(model, request.messages, request.tools)
        answer = count_texts(model, ["".join(self._text)])
        self.counted_by = "estimate" if prompt.estimated or answer.estimated else "tokenizer"
        return LLMUsage.of(prompt.tokens, answer.tokens, estimated=True)
