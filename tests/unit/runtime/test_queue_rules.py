"""The admission queue: how many run, who goes next, who has to make room."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.base.errors import QueueFullError
from modelyard.runtime import fair_queue
from modelyard.runtime.fair_queue import FairQueue
from modelyard.testing import FakeClock
from tests.unit.virtual_time import START, run_virtually, settle_tasks

Work = Callable[[FakeClock], Coroutine[Any, Any, None]]


def run(work: Work) -> None:
    clock = FakeClock(START)
    run_virtually(work(clock), clock)


class Waiting:
    """Calls that wait in a queue, and the order in which they are admitted."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.admitted: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, *names: str, priority: int = 0, seconds: float = 60.0) -> None:
        """Let calls wait. The first letter of a name is its tenant."""
        for name in names:
            work = self._enter(name, priority, seconds)
            self.tasks[name] = asyncio.create_task(work)
            await settle_tasks()

    async def _enter(self, name: str, priority: int, seconds: float) -> None:
        await self.queue.enter(name[0], priority=priority, seconds=seconds)
        self.admitted.append(name)

    async def leave(self, *tenants: str) -> list[str]:
        """End running calls and return which calls were admitted for them."""
        before = len(self.admitted)
        for tenant in tenants:
            self.queue.leave(tenant)
            await settle_tasks()
        return self.admitted[before:]

    async def cancel(self, *names: str) -> None:
        """Cancel some calls, or all, and wait for them."""
        tasks = [self.tasks[name] for name in names or self.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def error_of(self, name: str) -> str:
        """Return the message with which a call was refused."""
        error = self.tasks[name].exception()
        assert isinstance(error, QueueFullError)
        assert error.retry_after == 1.0
        return str(error)


def filled(capacity: int, running: str, max_waiting: int = 100) -> FairQueue:
    """A queue where one call of each letter of `running` runs."""
    queue = FairQueue(capacity, max_waiting)
    for tenant in running:
        assert queue.try_enter(tenant)
    return queue


@pytest.mark.parametrize(
    ("capacity", "alone"), [(1, 1), (7, 7), (8, 7), (15, 14), (16, 14)]
)
def test_a_single_tenant_gets_at_most_seven_eighths(capacity: int, alone: int):
    queue = FairQueue(capacity, 10)
    assert [queue.try_enter("a") for _ in range(capacity + 1)].count(True) == alone
    second_tenant = [queue.try_enter("b") for _ in range(capacity)]
    assert second_tenant.count(True) == capacity - alone
    assert queue.running == capacity


def test_a_tenant_that_waits_does_not_overtake_itself():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "a")
        waiting = Waiting(queue)
        await waiting.add("a")
        queue.capacity = 3
        assert queue.try_enter("a") is False
        assert queue.try_enter("b") is True
        await waiting.cancel()

    run(work)


def test_a_tenant_that_is_at_its_maximum_leaves_room_for_others():
    async def work(clock: FakeClock) -> None:
        queue = filled(8, "aaaaaaab")
        waiting = Waiting(queue)
        await waiting.add("a1", "a2")
        assert await waiting.leave("b") == []
        assert queue.try_enter("c")
        assert await waiting.leave("c") == []
        assert await waiting.leave("a") == ["a1"]
        assert (queue.running, queue.waiting) == (7, 1)
        await waiting.cancel("a2")
        assert await waiting.leave(*"aaaaaaa") == []
        assert queue.running == 0

    run(work)


def test_a_higher_priority_goes_first():
    async def work(clock: FakeClock) -> None:
        waiting = Waiting(filled(1, "z"))
        await waiting.add("a", "b")
        await waiting.add("c", priority=-1)
        await waiting.add("d", priority=2)
        await waiting.add("e", priority=1)
        assert await waiting.leave(*"zdeab") == ["d", "e", "a", "b", "c"]
        await waiting.leave("c")

    run(work)


def test_the_priority_of_the_first_call_of_a_tenant_counts():
    async def work(clock: FakeClock) -> None:
        waiting = Waiting(filled(1, "z"))
        await waiting.add("a1", "b")
        await waiting.add("a2", priority=5)
        assert await waiting.leave(*"zaab") == ["a1", "a2", "b"]

    run(work)


def test_a_tenant_with_fewer_running_calls_goes_first():
    async def work(clock: FakeClock) -> None:
        # The last of them was served a moment ago, but it runs nothing now.
        queue = filled(3, "an")
        queue.leave("n")
        assert queue.try_enter("z")
        assert queue.try_enter("z")
        waiting = Waiting(queue)
        await waiting.add("a1", "n1")
        assert await waiting.leave("z") == ["n1"]
        assert await waiting.leave("a") == ["a1"]

    run(work)


def test_a_call_without_a_priority_has_the_priority_zero():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "z")
        waiting = Waiting(queue)
        await waiting.add("a", priority=0)
        task = asyncio.create_task(queue.enter("b", seconds=60))
        await settle_tasks()
        await waiting.add("c", priority=1)
        assert await waiting.leave("z", "c") == ["c", "a"]
        queue.leave("a")
        await task

    run(work)


def test_of_equals_the_tenant_that_was_served_the_longest_ago_goes_first():
    async def work(clock: FakeClock) -> None:
        queue = FairQueue(1, 100)
        for tenant in "abc":
            assert queue.try_enter(tenant)
            queue.leave(tenant)
        assert queue.try_enter("z")
        waiting = Waiting(queue)
        await waiting.add("c", "b", "a", "n")
        # One was never served at all.
        assert await waiting.leave(*"znab") == ["n", "a", "b", "c"]

    run(work)


def test_a_tenant_that_was_never_served_goes_before_the_very_first():
    async def work(clock: FakeClock) -> None:
        queue = filled(2, "az")
        queue.leave("a")
        assert queue.try_enter("z")
        waiting = Waiting(queue)
        await waiting.add("a", "n")
        assert await waiting.leave("z") == ["n"]
        await waiting.cancel("a")

    run(work)


def test_the_order_of_very_many_tenants_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fair_queue, "_MAX_TENANTS", 3)

    async def work(clock: FakeClock) -> None:
        queue = FairQueue(1, 100)
        for tenant in "abcd":
            queue.try_enter(tenant)
            queue.leave(tenant)
        waiting = Waiting(queue)
        assert queue.try_enter("z")
        # Those of before are all as if they had never been served.
        await waiting.add("d", "a")
        assert await waiting.leave("z") == ["d"]
        await waiting.cancel("a")

    run(work)


def test_the_order_of_many_tenants_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fair_queue, "_MAX_TENANTS", 4)

    async def work(clock: FakeClock) -> None:
        queue = FairQueue(1, 100)
        for tenant in "abcd":
            queue.try_enter(tenant)
            queue.leave(tenant)
        waiting = Waiting(queue)
        assert queue.try_enter("z")
        await waiting.add("d", "a")
        assert await waiting.leave("z") == ["a"]
        await waiting.cancel("d")

    run(work)


def test_a_call_waits_exactly_as_long_as_it_may():
    async def work(clock: FakeClock) -> None:
        waiting = Waiting(filled(1, "a"))
        await waiting.add("a1", seconds=2.5)
        await waiting.add("a2", seconds=4.0)
        await asyncio.wait([waiting.tasks["a1"]])
        assert clock.now == START + 2.5
        expected = "The server is busy: the call waited 2.5 s in the queue"
        assert waiting.error_of("a1") == expected
        assert waiting.queue.waiting == 1
        assert await waiting.leave("a") == ["a2"]

    run(work)


def test_a_slot_that_is_granted_as_the_time_ends_is_used():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "a")
        task = asyncio.create_task(queue.enter("b", seconds=0))
        await asyncio.sleep(0)
        # The call waits now, and its timeout comes with the next step of the loop.
        queue.leave("a")
        await task
        assert (queue.running, queue.waiting) == (1, 0)
        queue.leave("b")

    run(work)


def test_a_cancelled_call_gives_its_place_up():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "a")
        waiting = Waiting(queue)
        await waiting.add("b")
        waiting.tasks["b"].cancel()
        await waiting.add("c")
        assert waiting.tasks["b"].cancelled()
        assert queue.waiting == 1
        assert await waiting.leave("a") == ["c"]
        assert (queue.running, queue.waiting) == (1, 0)

    run(work)


def test_a_slot_does_not_go_to_a_call_that_was_just_cancelled():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "a")
        waiting = Waiting(queue)
        await waiting.add("b", "c")
        # The task has not seen its cancellation yet when the slot is released.
        waiting.tasks["b"].cancel()
        assert await waiting.leave("a") == ["c"]
        assert waiting.tasks["b"].cancelled()
        assert (queue.running, queue.waiting) == (1, 0)

    run(work)


def test_only_a_running_call_can_leave():
    queue = filled(2, "a")
    with pytest.raises(KeyError):
        queue.leave("b")
    assert queue.running == 1
    queue.leave("a")
    with pytest.raises(KeyError):
        queue.leave("a")
    assert queue.running == 0


# A full queue.


def test_the_newest_call_of_the_longest_queue_makes_room():
    async def work(clock: FakeClock) -> None:
        waiting = Waiting(filled(1, "z", max_waiting=5))
        await waiting.add("a1", "b1", "a2", "b2", "b3", "c1")
        expected = (
            "The server is busy: the queue is full and other tenants have fewer"
            " waiting calls"
        )
        assert waiting.error_of("b3") == expected
        assert waiting.queue.waiting == 5
        order = await waiting.leave(*"zabcab")
        assert sorted(order) == ["a1", "a2", "b1", "b2", "c1"]

    run(work)


@pytest.mark.parametrize(
    ("names", "arrival", "is_admitted"),
    [
        (["a1", "a2", "a3"], "b1", True),
        (["a1", "a2", "b1"], "b2", False),
        (["a1", "a2", "a3", "b1"], "b2", True),
        (["a1", "a2", "a3"], "a4", False),
        (["a1"], "b1", False),
        ([], "b1", False),
    ],
)
def test_a_tenant_makes_room_if_it_has_two_waiting_calls_more(
    names: list[str], arrival: str, *, is_admitted: bool
):
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "z", max_waiting=len(names))
        waiting = Waiting(queue)
        await waiting.add(*names, arrival)
        assert queue.waiting == len(names)
        assert waiting.tasks[arrival].done() is not is_admitted
        if not is_admitted:
            assert waiting.error_of(arrival) == (
                f"The server is busy: {len(names)} calls are already waiting"
            )
        await waiting.cancel()
        assert queue.waiting == 0

    run(work)


def test_a_call_of_lower_priority_does_not_make_others_leave():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "z", max_waiting=2)
        waiting = Waiting(queue)
        await waiting.add("a1", "a2", priority=3)
        await waiting.add("b1", priority=2)
        assert waiting.error_of("b1") == (
            "The server is busy: 2 calls are already waiting"
        )
        await waiting.add("b2", priority=3)
        assert not waiting.tasks["b2"].done()
        assert "other tenants have fewer" in waiting.error_of("a2")
        await waiting.cancel()

    run(work)


def test_a_call_that_was_just_cancelled_makes_room_quietly():
    async def work(clock: FakeClock) -> None:
        queue = filled(1, "z", max_waiting=2)
        waiting = Waiting(queue)
        await waiting.add("a1", "a2")
        waiting.tasks["a2"].cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await queue.enter("b", seconds=60)
        assert waiting.tasks["a2"].cancelled()
        assert queue.waiting == 1
        await waiting.cancel()

    run(work)


async def _arrive(
    queue: FairQueue, waiting: Waiting, running: list[str], name: str, priority: int
) -> None:
    """Let a call of the tenant `name[0]` run if there is room, else wait or be
    refused."""
    tenant = name[0]
    if queue.try_enter(tenant):
        running.append(tenant)
    else:
        await waiting.add(name, priority=priority)


async def _end_oldest(waiting: Waiting, running: list[str]) -> None:
    """End the call that has run longest; those that it lets in run then."""
    admitted = await waiting.leave(running.pop(0))
    running += [name[0] for name in admitted]


@settings(max_examples=40)
@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()),
        max_size=40,
    ),
)
def test_every_call_is_admitted_refused_or_waiting(
    capacity: int, steps: list[tuple[str, int, bool]]
):
    async def work(clock: FakeClock) -> None:
        queue = FairQueue(capacity, 4)
        waiting, running = Waiting(queue), list[str]()
        for number, (tenant, priority, is_arrival) in enumerate(steps):
            if is_arrival:
                name = f"{tenant}{number}"
                await _arrive(queue, waiting, running, name, priority)
            elif running:
                await _end_oldest(waiting, running)
            pending = [task for task in waiting.tasks.values() if not task.done()]
            assert queue.waiting == len(pending) <= 4
            assert queue.running == len(running) <= capacity
        while running:
            await _end_oldest(waiting, running)
        assert (queue.running, queue.waiting) == (0, 0)
        await waiting.cancel()

    run(work)
