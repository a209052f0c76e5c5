"""Go on with another model when one cannot answer, as long as nothing has reached the caller."""

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from msgspec import structs

from modelyard.base.errors import InvokeError
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call

logger = logging.getLogger("modelyard.failover")


@dataclass(frozen=True, slots=True)
class Target:
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class Failover:
    targets: Callable[[Invocation], Sequence[Target]]
    """What to try after the call's own model, in order."""

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        others = self.targets(invocation)
        # With nothing to fail over to, the call goes on as it is: a layer less for each of its chunks.
        return self._one_by_one(invocation, others, call_next) if others else call_next(invocation)

    async def _one_by_one(self, invocation: Invocation, others: Sequence[Target], call_next: Call) -> Chunks:
        targets = [Target(invocation.provider, invocation.model), *others]
        for place, target in enumerate(targets, 1):
            has_begun = False
            this = invocation
            if place > 1:
                this = structs.replace(invocation, provider=target.provider, model=target.model)
            try:
                async with aclosing(call_next(this)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except InvokeError as error:
                if has_begun or not error.failover or place == len(targets):
                    raise
                fields = {"call": invocation.id, "from": this.model, "to": targets[place].model, "error": str(error)}
                logger.warning("failing over", extra={"fields": fields})
