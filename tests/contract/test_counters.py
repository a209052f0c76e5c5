"""Contract tests for every counter store: memory, SQLite, PostgreSQL, Valkey and a
cluster of Valkeys."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.show.servers import ValkeyCluster

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_id
from modelyard.storage.counters import (
    Charge,
    Counters,
    DatabaseCounters,
    Level,
    MemoryCounters,
    UnseededError,
    reserve_all,
)
from modelyard.storage.database import Database
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.valkey import ValkeyCounters, ValkeyResponseCache
from modelyard.storage.valkey_client import connect
from modelyard.testing import FakeClock

Make = Callable[[], Any]
LOCK = "SELECT name FROM counters WHERE name = %s FOR UPDATE"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%counters%'"


@pytest.fixture(params=["memory", "sqlite", "postgresql", "valkey", "cluster"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens counter stores: several, for processes that share counters."""
    backend = request.param

    @asynccontextmanager
    async def opened(clock: FakeClock, owner: str = "") -> AsyncGenerator[Counters]:
        if backend == "memory":
            yield MemoryCounters(clock)
        elif backend in ("valkey", "cluster"):
            server = connect(request.getfixturevalue(f"{backend}_url"))
            counters: Counters = ValkeyCounters(server, clock, owner=owner)
            yield counters
            await counters.aclose()
            await server.aclose()
        else:
            where = (
                str(tmp_path / "x.db")
                if backend == "sqlite"
                else request.getfixturevalue("postgres_url")
            )
            database = Database(where)
            yield DatabaseCounters(database, clock, owner=owner)
            await asyncio.to_thread(database.close)

    opened.kind = backend  # type: ignore[attr-defined]
    return opened


def charge(
    name: str,
    amount: float = 1,
    cap: float = 10,
    refill: float = 0.0,
    unit: str = "tokens",
) -> Charge:
    return Charge(name, amount, amount, cap, refill, 100_000, unit)


async def seeded(counters: Counters, *names: str, level: float = 0.0) -> None:
    await counters.seed(dict.fromkeys(names, level), [charge(name) for name in names])


async def settled(counters: Counters, name: str, amounts: dict[str, float]) -> None:
    """Settle a call, and wait until that is done."""
    counters.settle(name, amounts)
    if isinstance(counters, DatabaseCounters):
        # Transactions of a process are committed in their order.
        await counters._database.transact(lambda connection: None)
    elif isinstance(counters, ValkeyCounters):
        await asyncio.wait(counters._settling)


def test_all_charges_of_a_call_are_reserved_or_none(make: Make):
    async def work() -> None:
        async with make(FakeClock()) as counters:
            a, b = new_id("a"), new_id("b")
            await seeded(counters, a, b)
            assert (
                await counters.reserve(new_id("x"), [charge(a, 4), charge(b, 8)])
                is None
            )
            refusal = await counters.reserve(new_id("x"), [charge(a, 4), charge(b, 8)])
            assert refusal is not None
            assert (refusal.charge.name, refusal.used) == (b, 8)
            assert await counters.levels([a, b]) == {a: 4, b: 8}

    asyncio.run(work())


def test_unused_reservations_are_released_once(make: Make):
    async def work() -> None:
        async with make(FakeClock()) as counters:
            a, call = new_id("a"), new_id("x")
            await seeded(counters, a)
            await counters.reserve(call, [charge(a, 9)])
            await settled(counters, call, {"tokens": 2})
            await settled(counters, call, {"tokens": 2})
            assert await counters.levels([a]) == {a: 2}
            assert await counters.reserve(new_id("x"), [charge(a, 8)]) is None

    asyncio.run(work())


def test_a_draining_counter_admits_more_over_time(make: Make):
    async def work() -> None:
        clock = FakeClock(2_000_000_000.0)
        async with make(clock) as counters:
            a = new_id("a")
            await seeded(counters, a)
            assert (
                await counters.reserve(new_id("x"), [charge(a, 10, refill=1)]) is None
            )
            assert (
                await counters.reserve(new_id("x"), [charge(a, 5, refill=1)])
                is not None
            )
            clock.advance(5)
            assert await counters.reserve(new_id("x"), [charge(a, 5, refill=1)]) is None
            # A clock that jumps back drains nothing and does not free capacity.
            clock.advance(-1000)
            assert (
                await counters.reserve(new_id("x"), [charge(a, 1, refill=1)])
                is not None
            )

    asyncio.run(work())


def test_missing_counters_are_reported_and_seeds_never_overwrite(
    make: Make,
):
    async def work() -> None:
        async with make(FakeClock()) as counters:
            a = new_id("a")
            with pytest.raises(UnseededError) as caught:
                await counters.reserve(new_id("x"), [charge(a)])
            assert list(caught.value.names) == [a]
            await seeded(counters, a, level=7)
            await seeded(counters, a, level=0)
            assert await counters.levels([a]) == {a: 7}
            await counters.reset([a])
            assert await counters.levels([a]) == {}

    asyncio.run(work())


def test_concurrent_callers_never_exceed_the_cap(make: Make):
    async def work() -> None:
        clock = FakeClock()
        async with make(clock) as first_store, make(clock) as second_store:
            stores = (
                [first_store] if make.kind == "memory" else [first_store, second_store]
            )  # type: ignore[attr-defined]
            a = new_id("a")
            await seeded(first_store, a)
            tries = [
                stores[n % len(stores)].reserve(new_id("x"), [charge(a, 1, cap=50)])
                for n in range(200)
            ]
            refusals = await asyncio.gather(*tries)
            assert sum(refusal is None for refusal in refusals) == 50

    asyncio.run(work())


def test_reservations_of_a_dead_process_can_be_settled_by_another(make: Make):
    async def work() -> None:
        clock = FakeClock()
        async with make(clock) as first_store, make(clock) as second_store:
            if make.kind == "memory":  # type: ignore[attr-defined]
                return
            a, b, slots, call = new_id("a"), new_id("b"), new_id("slots"), new_id("x")
            await seeded(first_store, a, b, slots)
            await first_store.reserve(
                call,
                [
                    charge(a, 9),
                    charge(b, unit="requests"),
                    charge(slots, unit="concurrency"),
                ],
            )
            await settled(
                second_store, call, {"tokens": 1, "cost": 5, "concurrency": 0}
            )
            assert await first_store.levels([a, b, slots]) == {a: 1, b: 1, slots: 0}

    asyncio.run(work())


def test_reservations_are_listed_by_owner_and_settled_once(make: Make):
    async def work() -> None:
        clock = FakeClock()
        async with (
            make(clock, "dead") as first_store,
            make(clock, "alive") as second_store,
        ):
            if make.kind == "memory":  # type: ignore[attr-defined]
                return
            a, first, second, mine = new_id("a"), new_id("x"), new_id("x"), new_id("x")
            await seeded(first_store, a)
            for name in (first, second):
                await first_store.reserve(name, [charge(a, 3)])
            await second_store.reserve(mine, [charge(a, 2)])
            assert {first, second} <= {*await second_store.reservations_of("dead")}
            assert mine not in await second_store.reservations_of("dead")
            await second_store.settle_for("dead", first, {"tokens": 1})
            await second_store.settle_for("dead", first, {"tokens": 1})
            await settled(first_store, second, {"tokens": 0})
            assert not {first, second} & {*await second_store.reservations_of("dead")}
            assert await first_store.levels([a]) == {a: 1 + 2}

    asyncio.run(work())


def test_stale_reservations_are_released(make: Make):
    async def work() -> None:
        clock = FakeClock(2_000_000_000.0)
        async with make(clock) as first_store, make(clock) as second_store:
            if make.kind == "memory":  # type: ignore[attr-defined]
                return
            a, old, new = new_id("a"), new_id("x"), new_id("x")
            await seeded(first_store, a)
            await first_store.reserve(old, [charge(a, 4)])
            clock.advance(100)
            await first_store.reserve(new, [charge(a, 2)])
            second_store.release_older(clock.time() - 50)
            for _ in range(100):
                if await first_store.levels([a]) == {a: 2}:
                    break
                await asyncio.sleep(0.02)
            assert await first_store.levels([a]) == {a: 2}
            # The process was alive after all, but this settlement is too late.
            await settled(first_store, old, {"tokens": 4})
            assert await first_store.levels([a]) == {a: 2}

    asyncio.run(work())


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5), st.booleans()), max_size=40),
    st.floats(1, 20),
    st.floats(0, 2),
)
def test_a_counter_never_holds_more_than_its_cap(
    steps: list[tuple[float, float, bool]], cap: float, refill: float
):
    levels = {"a": Level(0.0, 0.0)}
    current_time = 0.0
    for amount, passes, is_amount_known in steps:
        current_time += passes
        needed_amount = amount if is_amount_known else min(amount, 1e-6)
        previous_level = levels["a"].used
        refusal = reserve_all(
            levels,
            [Charge("a", amount, needed_amount, cap, refill, 1.0, "tokens")],
            current_time,
        )
        if refusal is not None:
            assert levels["a"].used == previous_level
        # Usage exceeds the cap by at most one call's estimate, or not at all if the
        # amount is known in advance.
        assert (
            levels["a"].used
            <= cap + max(step_amount for step_amount, _, _ in steps) + 1e-9
        )
        if all(is_step_known for _, _, is_step_known in steps):
            assert levels["a"].used <= cap + 1e-9


def test_calls_with_the_same_limits_lock_their_counters_in_one_order(postgres_url: str):
    """Calls lock their counters in one order, whatever the order of their charges.

    A call that waits for its first counter holds no later one; otherwise two calls
    could deadlock.
    """

    async def work() -> None:
        database = Database(postgres_url)
        counters = DatabaseCounters(database, FakeClock())
        first, second = sorted((new_id("a"), new_id("a")))
        await seeded(counters, first, second)
        with psycopg.connect(postgres_url) as blocker:
            blocker.execute(LOCK, (first,))
            reservation = asyncio.create_task(
                counters.reserve(new_id("x"), [charge(second), charge(first)])
            )
            await until_a_call_waits(postgres_url)
            assert blocker.execute(LOCK + " SKIP LOCKED", (second,)).fetchall() == [
                (second,)
            ]
            blocker.rollback()
            assert await reservation is None
        await asyncio.to_thread(database.close)

    asyncio.run(work())


async def until_a_call_waits(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as watcher:
        for _ in range(1000):
            if watcher.execute(WAITING).fetchall():
                return
            await asyncio.sleep(0.01)
    raise AssertionError("no call waits for a counter")


# ------------------------------------------------------------------------ on a cluster

_TENANTS = [f"tenant-{number}" for number in range(12)]


def counter_of(tenant: str) -> str:
    """Return a new counter, named as limits name theirs."""
    return f"{new_id('limit')}|{tenant}|-|day"


def test_tenants_are_counted_on_different_servers_and_found_on_all(cluster_url: str):
    async def work() -> None:
        server, clock = connect(cluster_url), FakeClock(2_000_000_000.0)
        dead = ValkeyCounters(server, clock, owner=new_id("dead"))
        alive = ValkeyCounters(server, clock, owner=new_id("alive"))
        names = [counter_of(tenant) for tenant in _TENANTS]
        calls = dict(zip((new_id("x") for _ in names), names, strict=True))
        for call, name in calls.items():
            with pytest.raises(UnseededError):
                await dead.reserve(call, [charge(name, 3)])
            await seeded(dead, name)
            assert await dead.reserve(call, [charge(name, 3)]) is None
        keys = map(dead._counter_key, names)
        slots = [await server.call("CLUSTER KEYSLOT", key) for key in keys]
        assert len(set(slots)) == len(_TENANTS)
        # Another process finds all of them, and settles each once.
        found = await alive.reservations_of(dead._owner)
        assert sorted(found) == sorted(calls)
        first = calls[found[0]]
        await alive.settle_for(dead._owner, found[0], {"tokens": 1})
        assert await alive.levels(names) == dict.fromkeys(names, 3.0) | {first: 1.0}
        alive.release_older(clock.time() + 1)
        await alive.aclose()
        assert await alive.levels(names) == dict.fromkeys(names, 0.0) | {first: 1.0}
        await alive.reset(names)
        assert await alive.levels(names) == {}
        await server.aclose()

    asyncio.run(work())


def test_the_limits_of_a_call_belong_to_one_tenant(cluster_url: str):
    async def work() -> None:
        server = connect(cluster_url)
        counters = ValkeyCounters(server, FakeClock())
        charges = [charge(counter_of(tenant)) for tenant in ("a", "b")]
        with pytest.raises(ValueError, match="belong to one tenant"):
            await counters.reserve(new_id("x"), charges)
        await server.aclose()

    asyncio.run(work())


@pytest.mark.parametrize("url", ["valkey_url", "cluster_url"])
def test_a_reservation_whose_answer_was_lost_counts_once(
    url: str, request: pytest.FixtureRequest
):
    async def work() -> None:
        server = connect(request.getfixturevalue(url))
        counters = ValkeyCounters(server, FakeClock())
        one, call = charge(counter_of("a"), 4), new_id("x")
        await counters.seed({one.name: 0.0}, [one])
        for _ in range(2):
            assert await counters.reserve(call, [one]) is None
        assert await counters.levels([one.name]) == {one.name: 4}
        await server.aclose()

    asyncio.run(work())


def test_cached_answers_on_all_servers_are_cleared(cluster_url: str):
    async def work() -> None:
        server = connect(cluster_url)
        cache, tenant = ValkeyResponseCache(server), new_id("tenant")
        names = [new_id("answer") for _ in range(40)]
        for name in names:
            await cache.put(tenant, name, b"fine", 600)
        assert [await cache.get(tenant, name) for name in names] == [b"fine"] * 40
        await cache.clear(tenant)
        assert [await cache.get(tenant, name) for name in names] == [None] * 40
        await server.aclose()

    asyncio.run(work())


def test_a_server_of_a_cluster_is_not_taken_for_a_single_one(cluster_url: str):
    async def work() -> None:
        first = cluster_url.partition("://")[2].split(",")[0]
        server = connect(f"valkey://{first}")
        with pytest.raises(StorageUnavailableError, match=r"valkey\+cluster://"):
            for number in range(100):
                await server.call("SET", f"key-{number}", "1")
        assert server.trouble is not None
        await server.aclose()

    asyncio.run(work())


@pytest.mark.parametrize(
    "address", ["", "host:x", "host:70000", "host/0", "a:1,,b:2", "[::1", "h?db=1"]
)
def test_an_invalid_server_of_a_cluster_is_named(address: str):
    with pytest.raises(ConfigError, match="shared: invalid server .* HOST:PORT"):
        connect(f"valkey+cluster://{address}")


async def admitted(counters: ValkeyCounters, of_tenant: Charge) -> int:
    """Reserve until the limit refuses, and return how often it was possible; what
    cannot be counted is tried again."""
    count = 0
    while True:
        try:
            if await counters.reserve(new_id("x"), [of_tenant]) is not None:
                return count
            count += 1
        except StorageUnavailableError:
            await asyncio.sleep(0.05)


async def reserve_half(counters: ValkeyCounters, charges: list[Charge]) -> None:
    """Use half of each limit."""
    for of_tenant in charges:
        await counters.seed({of_tenant.name: 0.0}, [of_tenant])
        for _ in range(_CAP // 2):
            await counters.reserve(new_id("x"), [of_tenant])


_CAP = 20


def test_limits_stay_exact_when_a_primary_is_killed(tmp_path: Path):
    async def work(cluster: ValkeyCluster) -> None:
        server = connect(cluster.url)
        counters = ValkeyCounters(server, FakeClock(2_000_000_000.0))
        charges = [charge(counter_of(tenant), cap=_CAP) for tenant in _TENANTS]
        await reserve_half(counters, charges)
        # What a replica has not got yet would be lost.
        cluster.wait_for_replicas()
        cluster.kill_primary(0)
        # One after the other: the driver forgets connections that others open while it
        # looks for the servers again, and they are closed as garbage.
        counts = [await admitted(counters, of_tenant) for of_tenant in charges]
        assert counts == [_CAP - _CAP // 2] * len(charges)
        await server.ping()
        assert server.trouble is None
        await server.aclose()

    with ValkeyCluster(tmp_path / "cluster") as cluster:
        asyncio.run(work(cluster))


def test_a_cluster_that_is_away_is_trouble():
    async def work() -> None:
        server = connect("valkey+cluster://127.0.0.1:1,127.0.0.1:2")
        for _ in range(3):
            await server.ping()
            assert server.trouble is not None
        await server.aclose()

    asyncio.run(work())
