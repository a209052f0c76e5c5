"""Spread calls over a provider's credentials; let one that refuses rest, and go on with the next."""

import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from msgspec import structs

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeError, NoCredentialAvailableError
from modelyard.models.types import Chunks
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import Credential, LBModelManager
from modelyard.runtime.pipeline import Call

logger = logging.getLogger("modelyard.load_balance")


@dataclass(frozen=True, slots=True)
class LoadBalance:
    balancer: Callable[[Invocation], LBModelManager | None]
    """Who balances for this provider; None where it needs no credential."""
    clock: Clock
    patience: float = 2.0
    """Seconds to wait for a credential to be rested rather than to refuse the call."""

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        balancer = self.balancer(invocation)
        return call_next(invocation) if balancer is None else self._in_turn(balancer, invocation, call_next)

    async def _in_turn(self, balancer: LBModelManager, invocation: Invocation, call_next: Call) -> Chunks:
        turns = _Turns(balancer, self.clock, self.patience, invocation)
        while True:
            credential = await turns.next()
            has_begun = False
            try:
                async with aclosing(call_next(_with(invocation, credential))) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except InvokeError as error:
                if not error.cooldown:
                    raise
                turns.refused(credential, error)
                if has_begun:
                    raise


class _Turns:
    """Which credential one call tries next, and what became of those before."""

    def __init__(self, balancer: LBModelManager, clock: Clock, patience: float, invocation: Invocation) -> None:
        self._balancer = balancer
        self._clock = clock
        self._patience = patience
        self._invocation = invocation
        self._tried: set[str] = set()
        self._last: InvokeError | None = None
        self._has_waited = False

    async def next(self) -> Credential:
        """The next credential, perhaps after one short wait. Raises the last refusal, or that all are resting."""
        if (chosen := self._balancer.fetch_next(without=self._tried)) is not None:
            return chosen
        wait = self._balancer.soonest()
        if 0 < wait <= self._patience and not self._has_waited:
            self._has_waited = True
            await self._clock.sleep(wait)
            self._tried.clear()
            if (chosen := self._balancer.fetch_next()) is not None:
                return chosen
        raise self._last or self._none_left(wait)

    def refused(self, credential: Credential, error: InvokeError) -> None:
        self._tried.add(credential.id)
        self._last = error
        # Where there is no other credential, a rest that nobody asked for would only hide the real error.
        seconds = error.rest if len(self._balancer.credentials) > 1 else error.retry_after or 0.0
        self._balancer.cooldown(credential, seconds)
        fields = {"call": self._invocation.id, "credential": credential.name, "seconds": seconds, "error": str(error)}
        logger.warning("a credential rests", extra={"fields": fields})

    def _none_left(self, wait: float) -> NoCredentialAvailableError:
        provider = self._invocation.provider
        if not self._balancer.credentials:
            return NoCredentialAvailableError(
                f"no credential is set up; add one with `modelyard providers add {provider}`", provider=provider
            )
        return NoCredentialAvailableError(
            f"all {len(self._balancer.credentials)} credentials are resting; the first is back in {wait:.0f} s",
            provider=provider,
            retry_after=wait,
        )


def _with(invocation: Invocation, credential: Credential) -> Invocation:
    return structs.replace(invocation, credentials=credential.values, credential=credential.name)
