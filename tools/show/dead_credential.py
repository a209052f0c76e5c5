"""One of three credentials stops working. On a virtual clock, with the real pipeline
and a local HTTP server as provider: callers see no errors, the provider gets few extra
requests, and the credential returns to rotation after it recovers."""

import asyncio
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.testing import (
    Answer,
    FakeClock,
    Upstream,
    UpstreamRequest,
    chat_answer,
    error_answer,
)
from tools.show.proof import Proof

_CALLS = 3000
_CALL_INTERVAL_SECONDS = 0.02
"""Seconds between two calls, on the virtual clock."""


async def _run(upstream: Upstream, revive: Callable[[], None]) -> dict[str, float]:
    """Send calls while one credential is dead, revive it, and return the measured rates
    and times."""
    clock = FakeClock()
    credentials = [
        CredentialSettings(name=name, values={"api_key": f"sk-{name}-key"})
        for name in "abc"
    ]
    provider = ProviderSettings(
        name="openai", base_url=upstream.url, credentials=credentials
    )
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        settings = Settings(
            home=home, providers=[provider], timeouts=_disabled_timeouts()
        )
        async with Modelyard(settings, clock=clock, environ={}) as yard:
            traffic = _Traffic(yard, clock, upstream)
            figures = await traffic.measure_outage()
            await traffic.wait_for_probe()
            # Revive it just after a failed probe: the longest time that it can stay
            # out of rotation.
            revive()
            figures["back_s"] = await traffic.measure_recovery()
            figures["share"] = await traffic.measure_share()
    return figures


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Calls to the provider, and what its upstream receives of them."""

    yard: Modelyard
    clock: FakeClock
    upstream: Upstream

    async def ask(self) -> bool:
        """Advance the clock, send one call and return whether it succeeded."""
        self.clock.advance(_CALL_INTERVAL_SECONDS)
        try:
            await self.yard.chat("hi", model="openai/gpt-5-mini")
        except ModelyardError:
            return False
        return True

    def dead_key_uses(self, start: int = 0) -> int:
        """Return how often the dead credential was used since request `start`."""
        return sum(
            request.key == "sk-a-key" for request in self.upstream.requests[start:]
        )

    async def measure_outage(self) -> dict[str, float]:
        """Phase 1: the credential is dead. Count how soon it goes into cooldown."""
        served = ejected_after = 0
        health = self.yard.services.providers.manager.health
        for number in range(1, _CALLS + 1):
            served += await self.ask()
            if not ejected_after and health.in_cooldown():
                ejected_after = number
        return {
            "success": served / _CALLS,
            "ejected_after": ejected_after,
            # Requests per call; 1.0 would mean no retry at all.
            "load": len(self.upstream.requests) / _CALLS,
            "asked_dead": self.dead_key_uses(),
        }

    async def wait_for_probe(self) -> None:
        """Phase 2: send calls until the dead credential has been probed again."""
        await self._ask_until_probe(math.inf)

    async def measure_recovery(self) -> float:
        """Phase 3: return for how many seconds the revived credential stays out of
        rotation, at most 120."""
        revived_at = self.clock.now
        await self._ask_until_probe(revived_at + 120)
        return self.clock.now - revived_at

    async def _ask_until_probe(self, deadline: float) -> None:
        """Send calls until one of them uses the dead credential, at most until the
        deadline on the virtual clock."""
        is_probed = False
        while not is_probed and self.clock.now < deadline:
            start = len(self.upstream.requests)
            await self.ask()
            is_probed = self.dead_key_uses(start) > 0

    async def measure_share(self) -> float:
        """Phase 4: return the credential's share of the traffic after recovery."""
        start = len(self.upstream.requests)
        for _ in range(30):
            await self.ask()
        return self.dead_key_uses(start) / (len(self.upstream.requests) - start)


def _disabled_timeouts() -> object:
    """Return timeouts that are all disabled: the virtual clock would trigger them."""
    from modelyard.base.settings import TimeoutSettings

    return TimeoutSettings(total=0.0, first_token=0.0, between_tokens=0.0)


class _Provider:
    """A simulated provider that fails for one key until `revive` is called."""

    def __init__(self, fate: Callable[[], Answer]) -> None:
        self._fate = fate
        self._is_dead = True

    def answer(self, request: UpstreamRequest) -> Answer:
        """Return the failure for the dead key, else a chat response."""
        return (
            self._fate()
            if self._is_dead and request.key == "sk-a-key"
            else chat_answer("fine")
        )

    def revive(self) -> None:
        """Let the failing key work again."""
        self._is_dead = False


def prove() -> Proof:
    """Measure ejection, load and recovery for four kinds of failure."""
    proof = Proof()
    fates: dict[str, Callable[[], Answer]] = {
        "refused (401)": lambda: error_answer(401, "this key was revoked"),
        "out of order (500)": lambda: error_answer(500, "internal error"),
        "overloaded (529)": lambda: error_answer(529, "overloaded"),
        "limited (429)": lambda: error_answer(429, "slow down", retry_after="5"),
    }
    for name, fate in fates.items():
        provider = _Provider(fate)
        with Upstream(provider.answer) as upstream:
            metrics = asyncio.run(_run(upstream, provider.revive))
        proof.line(
            f"{name}: calls answered",
            f"{metrics['success']:.2%}",
            metrics["success"] >= 0.999,
        )
        proof.line(
            f"{name}: ejected after calls",
            metrics["ejected_after"],
            0 < metrics["ejected_after"] <= 5,
        )
        proof.line(
            f"{name}: provider requests per call",
            f"{metrics['load']:.3f}",
            metrics["load"] <= 1.2,
        )
        proof.line(
            f"{name}: requests to the dead credential, in {_CALLS * _CALL_INTERVAL_SECONDS:.0f} s",
            metrics["asked_dead"],
        )
        proof.line(
            f"{name}: back in rotation after",
            f"{metrics['back_s']:.1f} s",
            metrics["back_s"] <= 30,
        )
        proof.line(
            f"{name}: its share of the traffic afterwards",
            f"{metrics['share']:.0%}",
            metrics["share"] >= 0.2,
        )
        proof.figures[name] = {key: round(value, 4) for key, value in metrics.items()}
    return proof
