"""Tests for Happy Eyeballs: which connection wins. The test ends each attempt."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.transport.connect import interleaved, race_connections


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any) -> None:
        asyncio.run(test(*arguments))

    return run


class Attempts:
    """Connection attempts that end when the test decides."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Future[Any]] = {}
        self.cancelled: list[str] = []
        self.more = asyncio.get_running_loop().create_future()

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.wait([self.more])

    async def __call__(self, address: str) -> Any:
        self.begun.append(address)
        self.more.set_result(None)
        self.more = asyncio.get_running_loop().create_future()
        end = self.ends.setdefault(address, asyncio.get_running_loop().create_future())
        try:
            return await end
        except asyncio.CancelledError:
            self.cancelled.append(address)
            raise


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@running
async def test_a_failed_attempt_starts_the_next_and_the_first_connection_wins():
    attempts = Attempts()
    race = asyncio.ensure_future(
        race_connections(["a", "b", "c"], attempts, delay=3600)
    )
    await _turns()
    assert attempts.begun == ["a"]
    attempts.ends["a"].set_exception(OSError("refused"))
    await _turns()
    assert attempts.begun == ["a", "b"]
    attempts.ends["b"].set_result("won")
    assert await race == "won"
    assert attempts.begun == ["a", "b"]


@running
async def test_attempts_run_in_parallel_and_losers_are_cancelled():
    attempts = Attempts()
    race = asyncio.ensure_future(
        race_connections(["a", "b", "c"], attempts, delay=0.001)
    )
    await attempts.until_begun(3)
    attempts.ends["b"].set_result("won")
    assert await race == "won"
    assert sorted(attempts.cancelled) == ["a", "c"]


@running
async def test_all_errors_are_reported_and_cancelling_ends_all_attempts():
    attempts = Attempts()
    race = asyncio.ensure_future(race_connections(["a", "b"], attempts, delay=3600))
    await _turns()
    attempts.ends["a"].set_exception(OSError("first"))
    await _turns()
    attempts.ends["b"].set_exception(OSError("second"))
    with pytest.raises(OSError, match="first; second"):
        await race
    cancelled_attempts = Attempts()
    race = asyncio.ensure_future(
        race_connections(["a", "b"], cancelled_attempts, delay=0.001)
    )
    await cancelled_attempts.until_begun(2)
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    assert sorted(cancelled_attempts.cancelled) == ["a", "b"]


class Late:
    """A connection that was established after it had been given up."""

    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


@running
async def test_a_loser_that_connected_at_the_same_time_is_closed():
    attempts, late_connection = Attempts(), Late()
    race = asyncio.ensure_future(race_connections(["a", "b"], attempts, delay=0.001))
    await attempts.until_begun(2)
    attempts.ends["a"].set_result("won")
    attempts.ends["b"].set_result(late_connection)
    assert await race == "won"
    assert late_connection.is_aborted


@given(st.lists(st.ip_addresses().map(str), min_size=1))
def test_address_families_alternate_and_no_address_is_lost(addresses: list[str]):
    turns = interleaved(addresses)
    assert sorted(turns) == sorted(set(addresses))
    assert turns[0] == addresses[0]
    families = [":" in address for address in turns]
    shorter = min(families.count(True), families.count(False))
    assert all(families[n] != families[n + 1] for n in range(2 * shorter - 1))
    for is_six in (True, False):
        family_addresses = [
            address
            for address in dict.fromkeys(addresses)
            if (":" in address) is is_six
        ]
        assert [
            address for address in turns if (":" in address) is is_six
        ] == family_addresses
