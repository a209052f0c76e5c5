"""One of three credentials is dead. On a clock that is told what time it is, with the real pipeline and a real server
in the provider's place: callers do not notice, the provider is not burdened, and the credential is back when it lives.
"""

import asyncio
import tempfile
from collections.abc import Callable

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.testing import Answer, FakeClock, Upstream, UpstreamRequest, chat_answer, error_answer
from tools.show.proof import Proof

_CALLS = 3000
_EVERY = 0.02
"""Seconds between two calls, on the virtual clock."""


async def _run(upstream: Upstream, revive: Callable[[], None]) -> dict[str, float]:
    clock = FakeClock()
    credentials = [CredentialSettings(name=name, values={"api_key": f"sk-{name}-key"}) for name in "abc"]
    provider = ProviderSettings(name="openai", base_url=upstream.url, credentials=credentials)
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        settings = Settings(home=home, providers=[provider], timeouts=_no_total())
        async with Modelyard(settings, clock=clock, environ={}) as yard:

            async def ask() -> bool:
                clock.advance(_EVERY)
                try:
                    await yard.chat("hi", model="openai/gpt-5-mini")
                except ModelyardError:
                    return False
                return True

            served = 0
            ejected_after = 0
            for number in range(1, _CALLS + 1):
                served += await ask()
                if not ejected_after and yard.services.providers.manager.health.resting():
                    ejected_after = number
            load = len(upstream.requests) / _CALLS
            dead = sum(request.key == "sk-a-key" for request in upstream.requests)
            before = len(upstream.requests)
            while not any(request.key == "sk-a-key" for request in upstream.requests[before:]):
                await ask()
            revive()  # just after it was found dead once more: the longest that it can stay away
            began, before = clock.now, len(upstream.requests)
            while clock.now < began + 120:
                await ask()
                if any(request.key == "sk-a-key" for request in upstream.requests[before:]):
                    break
            back = clock.now - began
            keys = []
            before = len(upstream.requests)
            for _ in range(30):
                await ask()
            keys = [request.key for request in upstream.requests[before:]]
    return {
        "success": served / _CALLS, "ejected_after": ejected_after, "load": load, "asked_dead": dead, "back_s": back,
        "share": keys.count("sk-a-key") / len(keys),
    }  # fmt: skip


def _no_total() -> object:
    from modelyard.base.settings import TimeoutSettings

    return TimeoutSettings(total=0.0, first_token=0.0, between_tokens=0.0)


class _Provider:
    """One of its keys is dead until it is revived."""

    def __init__(self, fate: Callable[[], Answer]) -> None:
        self._fate = fate
        self._is_dead = True

    def answer(self, request: UpstreamRequest) -> Answer:
        return self._fate() if self._is_dead and request.key == "sk-a-key" else chat_answer("fine")

    def revive(self) -> None:
        self._is_dead = False


def prove() -> Proof:
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
            found = asyncio.run(_run(upstream, provider.revive))
        proof.line(f"{name}: calls answered", f"{found['success']:.2%}", found["success"] >= 0.999)
        proof.line(f"{name}: ejected after calls", found["ejected_after"], 0 < found["ejected_after"] <= 5)
        proof.line(f"{name}: requests at the provider for a call", f"{found['load']:.3f}", found["load"] <= 1.2)
        proof.line(f"{name}: asked while dead, in {_CALLS * _EVERY:.0f} s", found["asked_dead"])
        proof.line(f"{name}: back after", f"{found['back_s']:.1f} s", found["back_s"] <= 30)
        proof.line(f"{name}: its share then", f"{found['share']:.0%}", found["share"] >= 0.2)
        proof.figures[name] = {key: round(value, 4) for key, value in found.items()}
    return proof
