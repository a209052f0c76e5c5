"""Usage counters of limits: reserved before a call and settled after it, each in one
atomic step.

A counter is a leaky bucket: it drains at `refill` per second, so that a per-minute
limit holds at every moment and not per calendar minute. Counters of days, months,
concurrent calls and totals do not drain. All charges of a call are reserved, or none.
The implementations differ in who shares the counters: one process, the processes on one
database, or those on one Valkey server.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.tuples import new_tuple
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection
from modelyard.storage.statements import statements

logger = logging.getLogger("modelyard.counters")

_CLEANUP_INTERVAL = 4096
CLOCK_SKEW_SECONDS = 10.0
"""Seconds by which another machine's clock may be ahead. A later timestamp was left by
a clock jump."""

NO_USAGE: Mapping[str, float] = dict.fromkeys(
    ("requests", "tokens", "cost", "concurrency", "credits", "times"), 0.0
)
"""The usage of a call that was never made."""


class Charge(NamedTuple):
    """What a call reserves of one limit's counter.

    `amount` is what is reserved, and the counter drains at `refill` per second. `unit`
    says which of the call's actual amounts replaces the reservation.
    """

    name: str
    amount: float
    """The maximum the call can use."""
    need: float
    """The amount that must be available for admission: the full amount if known in
    advance, otherwise any remainder."""
    # The limit itself: the level never exceeds it at admission.
    cap: float
    refill: float
    """Amount that drains per second."""
    lasts: float
    """Seconds after which the counter may be deleted."""
    unit: str
    """Unit of the limit. The settlement of a call reports usage by unit, without
    knowing the counters."""


class Level(NamedTuple):
    """The state of a counter: the used amount, and the time to which it refers."""

    used: float
    stamp: float
    """Time for which `used` is valid, on the store's clock: seconds since the epoch if
    shared, monotonic seconds in memory."""


class Refusal(NamedTuple):
    """The charge that did not fit, and the level of its counter."""

    charge: Charge
    used: float


class UnseededError(Exception):
    """These counters do not exist yet and must be seeded from the ledger."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class Counters(Protocol):
    """A store of counters and reservations."""

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Reserve all charges under a call's name, or none and return the refusal.

        Raises UnseededError if a counter does not exist.
        """
        ...

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Replace a call's reservation by its actual usage (unit → amount).

        For a missing unit the reserved amount is kept. Repeating it has no effect.
        """
        ...

    async def reservations_of(self, owner: str) -> Sequence[str]:
        """Return the calls for which a process holds unsettled reservations."""
        ...

    async def settle_for(
        self, owner: str, name: str, amounts: Mapping[str, float]
    ) -> None:
        """Settle a call of an exited process; returns once it is stored."""
        ...

    def release_older(self, cutoff: float) -> None:
        """Release the reservations of calls admitted before `cutoff` that no process
        will settle."""
        ...

    async def seed(
        self, levels: Mapping[str, float], charges: Sequence[Charge]
    ) -> None:
        """Create missing counters with these levels; existing ones are unchanged."""
        ...

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return the stored levels of existing counters, without the drain since their
        last change."""
        ...

    async def reset(self, names: Sequence[str]) -> None:
        """Delete counters, so that they are rebuilt from the ledger."""
        ...

    async def aclose(self) -> None:
        """Release the store's resources."""
        ...


def reserve_all(
    levels: MutableMapping[str, Level], charges: Sequence[Charge], current_time: float
) -> Refusal | None:
    """Reserve all charges or none; return the refusal, or None.

    Raises UnseededError if a counter does not exist. Stamps left by a clock jump are
    corrected even if the call is refused; otherwise it would be refused for as long as
    the jump was.
    """
    _check_seeded(levels, charges)
    raised: dict[str, Level] = {}
    refusal: Refusal | None = None
    # Check all charges before changing any level. Every call comes through here, so the
    # loop calls nothing but what makes a level.
    for charge in charges:
        name, amount, need, cap, refill, _, _ = charge
        used, stamp = levels[name]
        # The clock has jumped back: the counter must not wait until it is there again.
        if stamp > current_time + CLOCK_SKEW_SECONDS:
            stamp = current_time
            levels[name] = Level(used, stamp)
        # A clock that went backwards drains nothing. One that is slightly behind must
        # not move the stamp back, or the counter would drain twice.
        if stamp < current_time:
            used = max(0.0, used - refill * (current_time - stamp))
            stamp = current_time
        if refusal is None and used + need > cap:
            refusal = Refusal(charge, used)
        raised[name] = new_tuple(Level, (used + amount, stamp))
    if refusal is None:
        levels.update(raised)
    return refusal


def _check_seeded(levels: Mapping[str, Level], charges: Sequence[Charge]) -> None:
    """Raise UnseededError if the counter of a charge does not exist."""
    for charge in charges:
        if charge.name not in levels:
            unknown = [each.name for each in charges if each.name not in levels]
            raise UnseededError(unknown)


def adjusted(level: Level, reserved: float, actual_amount: float) -> Level:
    """Return the level with a reserved amount replaced by the actual one."""
    used = level.used + actual_amount - reserved
    return new_tuple(Level, (used if used > 0.0 else 0.0, level.stamp))


class MemoryCounters:
    """Counters of a single process, in memory.

    Reservations and levels are lost with the process; the levels are rebuilt from the
    ledger. Times are those of the monotonic clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, Level] = {}
        self._forget_at: dict[str, float] = {}
        self._reserved: dict[str, Sequence[Charge]] = {}
        self._operation_count = 0

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Reserve all charges under a call's name, or return the refusal."""
        return self.reserve_now(name, charges)

    def reserve_now(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Do the same as `reserve`, without awaiting anything."""
        refusal = reserve_all(self._levels, charges, self._clock.monotonic())
        if refusal is None:
            self._reserved[name] = charges
        return refusal

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Replace a call's reservation by its actual usage."""
        levels = self._levels
        for charge in self._reserved.pop(name, ()):
            unit, reserved = charge.unit, charge.amount
            actual_amount = amounts.get(unit, reserved)
            # A counter that was reset meanwhile is rebuilt from the ledger, which has
            # this call.
            if actual_amount != reserved and charge.name in levels:
                levels[charge.name] = adjusted(
                    levels[charge.name], reserved, actual_amount
                )

    async def reservations_of(self, owner: str) -> Sequence[str]:
        """Return nothing: counters in memory are not shared with other processes."""
        return ()

    async def settle_for(
        self, owner: str, name: str, amounts: Mapping[str, float]
    ) -> None:
        """Do nothing: counters in memory are not shared with other processes."""

    def release_older(self, cutoff: float) -> None:
        """Do nothing: reservations in memory end with their process."""

    async def seed(
        self, levels: Mapping[str, float], charges: Sequence[Charge]
    ) -> None:
        """Create missing counters with these levels."""
        current_time = self._clock.monotonic()
        self._delete_expired(current_time)
        for charge in charges:
            if charge.name in levels:
                # Another call may have seeded and used it while this one was reading
                # the ledger.
                self._levels.setdefault(
                    charge.name, Level(levels[charge.name], current_time)
                )
                self._forget_at[charge.name] = current_time + charge.lasts

    def _delete_expired(self, current_time: float) -> None:
        """Delete counters that are past their lifetime, at every 4,096th call.

        Counters with open reservations stay.
        """
        self._operation_count += 1
        if self._operation_count % _CLEANUP_INTERVAL == 0:
            # A counter with open reservations must survive, since they will be settled
            # against it.
            reserved_names = {
                charge.name for charges in self._reserved.values() for charge in charges
            }
            for name in [
                counter_name
                for counter_name, until in self._forget_at.items()
                if until < current_time and counter_name not in reserved_names
            ]:
                del self._forget_at[name]
                self._levels.pop(name, None)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return the stored levels of existing counters."""
        return {name: self._levels[name].used for name in names if name in self._levels}

    async def reset(self, names: Sequence[str]) -> None:
        """Delete counters, so that they are rebuilt from the ledger."""
        for name in names:
            self._levels.pop(name, None)

    async def aclose(self) -> None:
        """Do nothing: there are no resources to release."""
        ...


class DatabaseCounters:
    """Counters shared by all processes on one database. Concurrent calls are batched
    into one transaction."""

    def __init__(self, database: Database, clock: Clock, *, owner: str = "") -> None:
        """`owner` identifies this process, so that another one can find its
        reservations after a crash."""
        self._database = database
        self._clock = clock
        self._owner = owner
        self._sql = statements("counters")
        # PostgreSQL needs row locks; SQLite has only one writer at a time.
        self._locking = "locked" if database.engine == "postgresql" else "level"

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Reserve all charges under a call's name, or return the refusal."""
        # All calls lock in the same order, which prevents deadlocks.
        ordered = sorted(charges)
        names = [charge.name for charge in ordered]

        def work(connection: Connection) -> Refusal | None:
            """Reserve the charges within the transaction."""
            current_time = self._clock.time()
            levels = self._locked(connection, names)
            previous_levels = dict(levels)
            refusal = reserve_all(levels, ordered, current_time)
            # Only changed levels are written. This includes corrected stamps of a
            # refused call.
            self._put(
                connection,
                levels,
                [name for name in levels if levels[name] != previous_levels[name]],
            )
            if refusal is not None:
                return refusal
            connection.execute(
                self._sql["keep"],
                (
                    name,
                    msgspec.json.encode(ordered).decode(),
                    current_time,
                    self._owner,
                ),
            )
            return None

        return await self._database.transact(work)

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Queue the settlement of a call; it is retried until the database accepts it."""
        self._database.submit(self._settling(name, amounts), is_retried=True)

    async def reservations_of(self, owner: str) -> Sequence[str]:
        """Return the calls for which a process holds unsettled reservations."""
        rows = await self._database.fetch(self._sql["held_by"], {"owner": owner})
        return [str(row["id"]) for row in rows]

    async def settle_for(
        self, owner: str, name: str, amounts: Mapping[str, float]
    ) -> None:
        """Settle a call of an exited process; returns once it is stored."""
        # Reservations of all processes are in the same table.
        del owner
        await self._database.transact(self._settling(name, amounts), is_retried=True)

    def _settling(
        self, name: str, amounts: Mapping[str, float]
    ) -> Callable[[Connection], None]:
        """Return the transaction that settles a call's reservation.

        `amounts` maps units to actual usage; a missing unit keeps the reserved amount.
        A call without a reservation, as one that was settled before, changes nothing.
        """

        def work(connection: Connection) -> None:
            """Take the reservation and correct its counters within the transaction.

            The statement deletes the reservation and returns it, so a second settlement
            finds nothing.
            """
            for row in connection.execute(self._sql["take"], (name,)):
                rows = msgspec.json.decode(row["charges"])
                charges = [Charge(*field_values) for field_values in rows]
                self._correct(connection, charges, amounts)

        return work

    def _correct(
        self,
        connection: Connection,
        charges: Sequence[Charge],
        amounts: Mapping[str, float],
    ) -> None:
        """Replace reserved amounts by actual ones in the counters of the charges."""
        levels = self._locked(connection, [charge.name for charge in charges])
        for charge in charges:
            level = levels.get(charge.name)
            # A counter that was deleted meanwhile has nothing to correct.
            if level is None:
                continue
            actual_amount = amounts.get(charge.unit, charge.amount)
            levels[charge.name] = adjusted(level, charge.amount, actual_amount)
        self._put(connection, levels, list(levels))

    def _locked(self, connection: Connection, names: Sequence[str]) -> dict[str, Level]:
        """Read the levels of counters within a transaction, locking their rows.

        Counters that do not exist are left out. On SQLite, which has a single writer,
        no rows are locked. Names must be in sorted order, so that transactions cannot
        deadlock.
        """
        levels: dict[str, Level] = {}
        for name in names:
            for row in connection.execute(self._sql[self._locking], (name,)):
                levels[name] = Level(row["used"], row["stamp"])
        return levels

    def _put(
        self, connection: Connection, levels: Mapping[str, Level], names: Iterable[str]
    ) -> None:
        """Write the levels of the named counters, as a step of a transaction."""
        for name in names:
            connection.execute(
                self._sql["put"], (levels[name].used, levels[name].stamp, name)
            )

    async def seed(
        self, levels: Mapping[str, float], charges: Sequence[Charge]
    ) -> None:
        """Create missing counters with these levels."""
        current_time = self._clock.time()
        # Sorted, so that all processes lock rows in the same order.
        rows = [(name, used, current_time) for name, used in sorted(levels.items())]

        def work(connection: Connection) -> None:
            """Insert the counters within the transaction."""
            connection.execute_many(self._sql["start"], rows)

        await self._database.transact(work)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return the stored levels of existing counters."""

        def work(connection: Connection) -> dict[str, float]:
            """Read the levels within the transaction."""
            rows = [
                row
                for name in names
                for row in connection.execute(self._sql["level"], (name,))
            ]
            return {row["name"]: row["used"] for row in rows}

        # Read through the writer, not a reader: settlements are queued, and those
        # submitted earlier must be visible.
        return await self._database.transact(work)

    async def reset(self, names: Sequence[str]) -> None:
        """Delete counters, so that they are rebuilt from the ledger."""

        def work(connection: Connection) -> None:
            """Delete the counters within the transaction."""
            for name in names:
                connection.execute(self._sql["drop"], (name,))

        await self._database.transact(work)

    def release_older(self, cutoff: float) -> None:
        """Release the reservations of calls admitted before `cutoff`. Returns
        immediately."""

        def work(connection: Connection) -> list[str]:
            """List the calls with old reservations."""
            return [
                row["id"] for row in connection.execute(self._sql["older"], (cutoff,))
            ]

        def settle_listed(future: Any) -> None:
            """Settle each listed call as unused. A failed query is ignored; a later run
            repeats it."""
            for name in future.result() if future.exception() is None else ():
                self.settle(name, NO_USAGE)

        self._database.submit(work).add_done_callback(settle_listed)

    async def aclose(self) -> None:
        """Do nothing: the database is closed by its owner."""
        ...
