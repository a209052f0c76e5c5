"""Count and price every real attempt, those that failed or were walked away from included."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import PriceConfig
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.pricing import priced
from modelyard.models.tokens import estimate_prompt_tokens, estimate_tokens
from modelyard.models.types import Chunks, ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call


@dataclass(frozen=True, slots=True)
class Meter:
    ledger: Ledger
    pricing: Callable[[Invocation], PriceConfig | None]
    clock: Clock

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        attempt = next(invocation.attempts)
        tally = _Tally(invocation, self.pricing(invocation), self.clock)
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
        except (GeneratorExit, asyncio.CancelledError):
            raise
        finally:
            self.ledger.add(
                invocation,
                attempt=attempt,
                created_at=tally.created_at,
                status=status,
                usage=tally.usage(),
                latency=tally.elapsed(),
                first_chunk=tally.first,
            )


class _Tally:
    """What one attempt has used so far."""

    def __init__(self, invocation: Invocation, pricing: PriceConfig | None, clock: Clock) -> None:
        self._invocation = invocation
        self._pricing = pricing
        self._clock = clock
        self._begun = clock.monotonic()
        self._stated: ModelUsage | None = None
        self._text: list[str] = []
        self.created_at = clock.time()
        self._day = datetime.fromtimestamp(self.created_at, UTC).date() if pricing and pricing.history else None
        self.first: float | None = None

    def elapsed(self) -> float:
        return self._clock.monotonic() - self._begun

    def see(self, chunk: Any) -> Any:
        if self.first is None:
            self.first = self.elapsed()
        usage = chunk.spent
        if isinstance(chunk, LLMResultChunk):
            self._text.append(chunk.text)
            if chunk.delta.message.tool_calls:
                self._text.extend(call.function.arguments for call in chunk.delta.message.tool_calls)
            if usage is None:
                return chunk
            if usage.estimated and not usage.total_tokens:
                return chunk.priced(self._price(self._estimate() or usage))
        if usage is None:
            return chunk
        self._stated = self._price(usage)
        return chunk.priced(self._stated)

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

    def usage(self) -> ModelUsage | None:
        """What the provider counted; where it did not get to that, what came can be counted."""
        if self._stated is not None:
            return self._stated
        estimate = self._estimate() if self.first is not None else None
        return self._price(estimate) if estimate else None

    def missing(self) -> LLMResultChunk | None:
        """A last chunk with estimated usage, where the provider never said what it counted."""
        if self._stated is not None or (estimate := self._estimate()) is None:
            return None
        self._stated = self._price(estimate)
        return LLMResultChunk(model=self._invocation.model).priced(self._stated)

    def _estimate(self) -> LLMUsage | None:
        request = self._invocation.request
        if not isinstance(request, LLMRequest):
            return None
        prompt = estimate_prompt_tokens(request.messages, request.tools)
        return LLMUsage.of(prompt, estimate_tokens("".join(self._text)), estimated=True)
