"""What was used of limits: reserved before a call, settled after it, as one step each.

A counter leaks: what it holds drains at `refill` a second, so that a limit a minute is met at every moment and not by
the clock's minutes. Counters of days, months, calls at once and totals do not drain. All of a call's charges are taken
or none. The stores differ in who shares them: one process, those on one database, those on one Valkey.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

logger = logging.getLogger("modelyard.counters")

_TIDY_EVERY = 4096
SKEW = 10.0
"""Seconds that another machine's clock may be ahead. A stamp later than that is a clock's jump that is over."""

NOTHING: Mapping[str, float] = dict.fromkeys(("requests", "tokens", "cost", "concurrency", "credits", "times"), 0.0)
"""What a call took that never was made."""


class Charge(NamedTuple):
    """What a call takes of one limit."""

    name: str
    amount: float
    """The most it can take."""
    need: float
    """What must be left for it to be admitted: all of it where it is known beforehand, else anything at all."""
    cap: float
    refill: float
    """So much drains away in a second."""
    lasts: float
    """Seconds after which the counter may be forgotten."""
    unit: str
    """What is counted: whoever settles the call says what it took of this, without knowing the counter."""


class Level(NamedTuple):
    used: float
    stamp: float
    """When `used` was right, on the store's clock: seconds since 1970 where it is shared, monotonic ones in memory."""


class Refusal(NamedTuple):
    charge: Charge
    used: float


class UnseededError(Exception):
    """These counters are not known: what the ledger says of them is to be put in."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class Counters(Protocol):
    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Take all charges under the name of a call, or none and say why. Raises UnseededError."""
        ...

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Put in the place of what a call reserved what it took: unit → amount; of a unit that is not there it took
        what it reserved. Doing it twice does nothing."""
        ...

    async def held_by(self, owner: str) -> Sequence[str]:
        """The calls that a process has reserved for and not settled."""
        ...

    async def settle_for(self, owner: str, name: str, amounts: Mapping[str, float]) -> None:
        """Settle a call of a process that is gone; done when the store has it."""
        ...

    def release_older(self, before: float) -> None:
        """Give back what calls hold that were admitted before a moment and that nobody is left to settle."""
        ...

    async def seed(self, levels: Mapping[str, float], charges: Sequence[Charge]) -> None:
        """Start counters that are not there; those that are stay as they are."""
        ...

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        """What is used of those that are there, without what has drained since."""
        ...

    async def reset(self, names: Sequence[str]) -> None:
        """Forget counters, so that they are rebuilt from the ledger."""
        ...

    async def aclose(self) -> None: ...


def drained(level: Level, refill: float, now: float) -> float:
    """What is left in a counter; a clock that went back drains nothing."""
    return max(0.0, level.used - refill * max(0.0, now - level.stamp))


def clamped(stamp: float, now: float) -> float:
    """From when on a counter drains: never from a moment that is far ahead."""
    return now if stamp > now + SKEW else stamp


def admit(levels: MutableMapping[str, Level], charges: Sequence[Charge], now: float) -> Refusal | None:
    """Take all charges or none. Raises UnseededError where a counter is not there. What a clock's jump left in the
    levels is put right even where the call is refused: it would be so for as long as the jump was, else."""
    if unknown := [one.name for one in charges if one.name not in levels]:
        raise UnseededError(unknown)
    _without_jumps(levels, charges, now)
    left = [drained(levels[one.name], one.refill, now) for one in charges]
    for charge, used in zip(charges, left, strict=True):
        if used + charge.need > charge.cap:
            return Refusal(charge, used)
    for charge, used in zip(charges, left, strict=True):
        levels[charge.name] = Level(used + charge.amount, max(now, levels[charge.name].stamp))
    return None


def _without_jumps(levels: MutableMapping[str, Level], charges: Sequence[Charge], now: float) -> None:
    for name in {charge.name for charge in charges}:
        level = levels[name]
        levels[name] = Level(level.used, clamped(level.stamp, now))


def corrected(level: Level, reserved: float, taken: float) -> Level:
    return Level(max(0.0, level.used + taken - reserved), level.stamp)


class MemoryCounters:
    """For one process, and as fast as that allows."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, Level] = {}
        self._forget_at: dict[str, float] = {}
        self._reserved: dict[str, Sequence[Charge]] = {}
        self._turns = 0

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        refusal = admit(self._levels, charges, self._clock.monotonic())
        if refusal is None:
            self._reserved[name] = charges
        return refusal

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        for charge in self._reserved.pop(name, ()):
            taken = amounts.get(charge.unit, charge.amount)
            if taken != charge.amount and (level := self._levels.get(charge.name)) is not None:
                self._levels[charge.name] = corrected(level, charge.amount, taken)

    async def held_by(self, owner: str) -> Sequence[str]:
        return ()  # nobody else's calls are counted here

    async def settle_for(self, owner: str, name: str, amounts: Mapping[str, float]) -> None:
        """Nobody else's calls are counted here."""

    def release_older(self, before: float) -> None:
        """Nobody else's calls are counted here."""

    async def seed(self, levels: Mapping[str, float], charges: Sequence[Charge]) -> None:
        now = self._clock.monotonic()
        self._tidy(now)
        for charge in charges:
            if charge.name in levels:
                self._levels.setdefault(charge.name, Level(levels[charge.name], now))
                self._forget_at[charge.name] = now + charge.lasts

    def _tidy(self, now: float) -> None:
        self._turns += 1
        if self._turns % _TIDY_EVERY == 0:
            held = {charge.name for charges in self._reserved.values() for charge in charges}
            for name in [one for one, until in self._forget_at.items() if until < now and one not in held]:
                del self._forget_at[name]
                self._levels.pop(name, None)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        return {name: self._levels[name].used for name in names if name in self._levels}

    async def reset(self, names: Sequence[str]) -> None:
        for name in names:
            self._levels.pop(name, None)

    async def aclose(self) -> None: ...


class DatabaseCounters:
    """For all processes on one database. Calls that come while a transaction runs share the next."""

    def __init__(self, database: Database, clock: Clock, *, owner: str = "") -> None:
        """`owner` is this process's name: whoever takes over what it left finds by it what it held."""
        self._database = database
        self._clock = clock
        self._owner = owner
        self._sql = statements("counters")
        self._locking = "locked" if database.engine == "postgresql" else "level"

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        ordered = sorted(charges)  # everybody locks in the same order
        names = [one.name for one in ordered]

        def work(connection: Connection) -> Refusal | None:
            now = self._clock.time()
            levels = self._locked(connection, names)
            before = dict(levels)
            refusal = admit(levels, ordered, now)
            self._put(connection, levels, [name for name in levels if levels[name] != before[name]])
            if refusal is not None:
                return refusal
            connection.execute(self._sql["keep"], (name, msgspec.json.encode(ordered).decode(), now, self._owner))
            return None

        return await self._database.transact(work)

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        self._database.submit(self._settling(name, amounts), is_kept=True)

    async def held_by(self, owner: str) -> Sequence[str]:
        rows = await self._database.fetch(self._sql["held_by"], {"owner": owner})
        return [str(row["id"]) for row in rows]

    async def settle_for(self, owner: str, name: str, amounts: Mapping[str, float]) -> None:
        del owner  # a reservation has one place, whoever made it
        await self._database.transact(self._settling(name, amounts), is_kept=True)

    def _settling(self, name: str, amounts: Mapping[str, float]) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            for row in connection.execute(self._sql["take"], (name,)):
                charges = [Charge(*one) for one in msgspec.json.decode(row["charges"])]
                names = [one.name for one in charges]
                levels = self._locked(connection, names)
                for charge in charges:
                    if (level := levels.get(charge.name)) is not None:
                        taken = amounts.get(charge.unit, charge.amount)
                        levels[charge.name] = corrected(level, charge.amount, taken)
                self._put(connection, levels, list(levels))

        return work

    def _locked(self, connection: Connection, names: Sequence[str]) -> dict[str, Level]:
        found: dict[str, Level] = {}
        for name in names:
            for row in connection.execute(self._sql[self._locking], (name,)):
                found[name] = Level(row["used"], row["stamp"])
        return found

    def _put(self, connection: Connection, levels: Mapping[str, Level], names: Iterable[str]) -> None:
        for name in names:
            connection.execute(self._sql["put"], (levels[name].used, levels[name].stamp, name))

    async def seed(self, levels: Mapping[str, float], charges: Sequence[Charge]) -> None:
        now = self._clock.time()
        rows = [(name, used, now) for name, used in sorted(levels.items())]

        def work(connection: Connection) -> None:
            connection.execute_many(self._sql["start"], rows)

        await self._database.transact(work)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        def work(connection: Connection) -> dict[str, float]:
            rows = [row for name in names for row in connection.execute(self._sql["level"], (name,))]
            return {row["name"]: row["used"] for row in rows}

        # Not by a reader: calls settle without waiting for it, and what they settled before is to be seen.
        return await self._database.transact(work)

    async def reset(self, names: Sequence[str]) -> None:
        def work(connection: Connection) -> None:
            for name in names:
                connection.execute(self._sql["drop"], (name,))

        await self._database.transact(work)

    def release_older(self, before: float) -> None:
        def work(connection: Connection) -> list[str]:
            return [row["id"] for row in connection.execute(self._sql["older"], (before,))]

        def then(done: Any) -> None:
            for name in done.result() if done.exception() is None else ():
                self.settle(name, NOTHING)

        self._database.submit(work).add_done_callback(then)

    async def aclose(self) -> None: ...
