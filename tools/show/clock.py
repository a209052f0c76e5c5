"""The system clock jumps a day ahead for two seconds and back: who is refused, and for
how long?

Tested on every counter store, and for stored times: keys, sessions and leases.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app import Modelyard
from modelyard.base.clock import SteadyTime
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.testing import FakeClock, echo_models, echo_provider
from tools.show.proof import Proof
from tools.show.servers import Postgres, Valkey

_DAY = 86_400.0
_AMOUNT = 3


class JumpingClock(FakeClock):
    """A clock that advances on demand, and whose wall time may be ahead by `ahead`
    seconds."""

    ahead = 0.0

    def time(self) -> float:
        """Return the wall time in seconds."""
        return self.now + self.ahead


class SteadyClock(JumpingClock):
    """The same wall clock, read through SteadyTime as the server reads it."""

    def __init__(self, start_seconds: float) -> None:
        super().__init__(start_seconds)
        self._steady = SteadyTime(lambda: self.now + self.ahead, lambda: self.now)

    def time(self) -> float:
        """Return the corrected wall time in seconds."""
        return self._steady()


def yard_of(folder: Path, clock: JumpingClock, **store_settings: Any) -> Modelyard:
    """Create a Modelyard with a limit of three requests per minute and user."""
    limit = {"unit": "requests", "amount": _AMOUNT, "window": "minute", "per": "user"}
    document = {
        "home": str(folder),
        "local": {"enabled": False},
        "plugins": {"debug_port": 0},
        "limits": {"few": limit},
        **store_settings,
    }
    return Modelyard(
        msgspec.convert(document, Settings),
        definitions=[echo_provider()],
        builders={"echo": echo_models},
        environ={},
        clock=clock,
    )


async def admitted(yard: Modelyard) -> int:
    """Return how many calls are admitted out of two more than a minute allows."""
    count = 0
    for _ in range(_AMOUNT + 2):
        try:
            await yard.chat("hi", model="echo/echo", user="ada")
            count += 1
        except ModelyardError:
            continue
    # Counters are settled in the background after the call.
    await asyncio.sleep(0.05)  # what is settled beside the call
    return count


async def locked_out(yard: Modelyard, clock: JumpingClock) -> tuple[float, int]:
    """Return (seconds after the jump until a call is admitted again, calls admitted
    during the jump)."""
    # Use the limit up first, so that any call admitted during the jump is an error of
    # the clock.
    await admitted(yard)
    clock.ahead = _DAY
    clock.advance(1)
    extra = await admitted(yard)
    clock.advance(1)
    clock.ahead = 0.0
    # At most ten minutes, in steps of five seconds.
    for second in range(0, 600, 5):
        if await admitted(yard):
            return float(second), extra
        clock.advance(5)
    return 600.0, extra


async def sessions_during_jump(folder: Path) -> dict[str, bool]:
    """Return whether sessions are valid while the wall clock is 400 days ahead, and
    after it.

    Uses the steady clock, as the server does.
    """
    clock = SteadyClock(time.time())
    async with yard_of(folder, clock) as yard:
        await yard.services.tenancy.accounts.set_up(
            "ada@example.com", "Ada", "correct horse battery"
        )
        token, _ = await yard.services.tenancy.accounts.sign_in(
            "ada@example.com", "correct horse battery"
        )
        clock.ahead = 400 * _DAY
        clock.advance(1)
        during = await is_signed_in(yard, token)
        clock.advance(1)
        clock.ahead = 0.0
        # Signing in deletes expired sessions; the first one must survive that.
        second_token, _ = await yard.services.tenancy.accounts.sign_in(
            "ada@example.com", "correct horse battery"
        )  # sweeps what is over
        after = await is_signed_in(yard, token) and await is_signed_in(
            yard, second_token
        )
        return {"during": during, "after": after}


async def is_signed_in(yard: Modelyard, token: str) -> bool:
    """Return whether the session token is valid."""
    return await yard.services.tenancy.accounts.sessions.of_token(token) is not None


def prove() -> Proof:
    """Run the jump on each store with the plain and the steady clock, and report the
    results."""
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        with Postgres(folder / "pg") as postgres, Valkey(folder / "valkey") as valkey:
            for store, store_settings in (
                ("memory", {}),
                ("SQLite", {"shared": "database"}),
                ("PostgreSQL", {"database": postgres.url}),
                ("Valkey", {"shared": valkey.url}),
            ):
                for clock_class in (JumpingClock, SteadyClock):
                    # Each run starts at its own time, so that counters in a shared
                    # store do not collide.
                    clock = clock_class(1_790_000_000.0 + len(proof.lines) * 1_000_000)
                    seconds, extra = asyncio.run(
                        _measure_store(
                            folder / f"{store}-{clock_class.__name__}",
                            clock,
                            store_settings,
                        )
                    )
                    description = (
                        "as the wall shows it"
                        if clock_class is JumpingClock
                        else "as the server reads it"
                    )
                    proof.line(
                        f"{store}, {description}: refused after the jump for",
                        f"{seconds:.0f} s; {extra} additional calls during it",
                        # Even with the plain clock, nobody may be refused for longer
                        # than a minute.
                        seconds <= 60 and (extra == 0 or clock_class is JumpingClock),
                    )
                    proof.figures[f"{store}, {clock_class.__name__}"] = {
                        "refused_s": seconds,
                        "extra": extra,
                    }
        session_states = asyncio.run(sessions_during_jump(folder / "kept"))
        proof.line(
            "a session while the wall clock is 400 days ahead, and afterwards",
            session_states,
            all(session_states.values()),
        )
    return proof


async def _measure_store(
    folder: Path, clock: JumpingClock, store_settings: dict[str, Any]
) -> tuple[float, int]:
    """Run the jump on one store."""
    async with yard_of(folder, clock, **store_settings) as yard:
        return await locked_out(yard, clock)
