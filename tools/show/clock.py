"""The clock jumps a day ahead for two seconds, and back: who is refused, and for how long? On every store of counters,
and in what a server keeps of times: keys, sessions, leases."""

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
    """Seconds pass as they are told to; the wall may be ahead of them."""

    ahead = 0.0

    def time(self) -> float:
        return self.now + self.ahead


class SteadyClock(JumpingClock):
    """The same wall, read as the server reads it."""

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self._steady = SteadyTime(lambda: self.now + self.ahead, lambda: self.now)

    def time(self) -> float:
        return self._steady()


def yard_of(folder: Path, clock: JumpingClock, **stored: Any) -> Modelyard:
    limit = {"unit": "requests", "amount": _AMOUNT, "window": "minute", "per": "user"}
    document = {
        "home": str(folder), "local": {"enabled": False}, "plugins": {"debug_port": 0}, "limits": {"few": limit},
        **stored,
    }  # fmt: skip
    return Modelyard(
        msgspec.convert(document, Settings), definitions=[echo_provider()], builders={"echo": echo_models}, environ={},
        clock=clock,
    )  # fmt: skip


async def admitted(yard: Modelyard) -> int:
    """Of two more calls than a minute allows."""
    count = 0
    for _ in range(_AMOUNT + 2):
        try:
            await yard.chat("hi", model="echo/echo", user="ada")
            count += 1
        except ModelyardError:
            continue
    await asyncio.sleep(0.05)  # what is settled beside the call
    return count


async def locked_out(yard: Modelyard, clock: JumpingClock) -> tuple[float, int]:
    """(seconds after the jump until a call is admitted again, calls admitted from the jump until then)."""
    await admitted(yard)
    clock.ahead = _DAY
    clock.advance(1)
    extra = await admitted(yard)
    clock.advance(1)
    clock.ahead = 0.0
    for second in range(0, 600, 5):
        if await admitted(yard):
            return float(second), extra
        clock.advance(5)
    return 600.0, extra


async def kept_times(folder: Path) -> dict[str, bool]:
    """What a server with the steady clock says of a session and a key while the wall is 400 days ahead."""
    clock = SteadyClock(time.time())
    async with yard_of(folder, clock) as yard:
        await yard.services.tenancy.accounts.set_up("ada@example.com", "Ada", "correct horse battery")
        token, _ = await yard.services.tenancy.accounts.sign_in("ada@example.com", "correct horse battery")
        clock.ahead = 400 * _DAY
        clock.advance(1)
        during = await is_signed_in(yard, token)
        clock.advance(1)
        clock.ahead = 0.0
        again, _ = await yard.services.tenancy.accounts.sign_in(
            "ada@example.com", "correct horse battery"
        )  # sweeps what is over
        after = await is_signed_in(yard, token) and await is_signed_in(yard, again)
        return {"during": during, "after": after}


async def is_signed_in(yard: Modelyard, token: str) -> bool:
    return await yard.services.tenancy.accounts.sessions.of_token(token) is not None


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        with Postgres(folder / "pg") as postgres, Valkey(folder / "valkey") as valkey:
            for store, stored in (
                ("memory", {}), ("SQLite", {"shared": "database"}), ("PostgreSQL", {"database": postgres.url}),
                ("Valkey", {"shared": valkey.url}),
            ):  # fmt: skip
                for kind in (JumpingClock, SteadyClock):
                    clock = kind(1_790_000_000.0 + len(proof.lines) * 1_000_000)
                    seconds, extra = asyncio.run(_seen(folder / f"{store}-{kind.__name__}", clock, stored))
                    how = "as the wall shows it" if kind is JumpingClock else "as the server reads it"
                    proof.line(
                        f"{store}, {how}: refused after the jump for", f"{seconds:.0f} s; {extra} calls more during it",
                        seconds <= 60 and (extra == 0 or kind is JumpingClock),
                    )  # fmt: skip
                    proof.figures[f"{store}, {kind.__name__}"] = {"refused_s": seconds, "extra": extra}
        kept = asyncio.run(kept_times(folder / "kept"))
        proof.line("a session while the wall is 400 days ahead, and after", kept, all(kept.values()))
    return proof


async def _seen(folder: Path, clock: JumpingClock, stored: dict[str, Any]) -> tuple[float, int]:
    async with yard_of(folder, clock, **stored) as yard:
        return await locked_out(yard, clock)
