"""Try the same again where the error itself says that it may help."""

import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeError
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

_LONGEST_WAIT = 10.0


def backoff(failures: int, share: float) -> float:
    """Seconds to wait after so many failures: up to 0.25, 0.5, 1, 2 … 8; `share` of it, so that callers spread out."""
    return min(8.0, 0.25 * 2 ** (failures - 1)) * share


@dataclass(frozen=True, slots=True)
class Retry:
    clock: Clock
    most: int = 2
    """Further attempts after the first."""
    random: Callable[[], float] = random.random

    async def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        failures = 0
        while True:
            has_begun = False
            try:
                async with aclosing(call_next(invocation)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except InvokeError as error:
                failures += 1
                if has_begun or not error.retryable or failures > self.most:
                    raise
                # What the provider asks for goes before our own guess; if it asks for long, the caller hears of it.
                wait = error.retry_after if error.retry_after is not None else backoff(failures, self.random())
                if wait > _LONGEST_WAIT or self._is_too_late(invocation, wait):
                    raise
            await self.clock.sleep(wait)

    def _is_too_late(self, invocation: Invocation, wait: float) -> bool:
        return invocation.deadline is not None and self.clock.monotonic() + wait >= invocation.deadline
