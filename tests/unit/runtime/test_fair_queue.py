"""Who goes next where calls must wait, and that no turn is lost."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from modelyard.base.errors import QueueFullError
from modelyard.runtime.fair_queue import FairQueue


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def waits(queue: FairQueue, tenant: str, priority: int = 0) -> "asyncio.Task[None]":
    """A call that waits for its turn."""
    return asyncio.create_task(queue.enter(tenant, priority=priority, seconds=60))


async def settled() -> None:
    """Until every task has gone as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_of_equals_the_one_with_the_fewest_running_goes_first():
    async def work() -> None:
        queue = FairQueue(4, 100)
        assert queue.try_enter("quiet")
        for _ in range(3):
            assert queue.try_enter("noisy")
        # The quiet one was served longest ago either way: what decides is how many each has running.
        assert queue.try_enter("other") is False
        noisy = waits(queue, "noisy")
        await settled()
        quiet = waits(queue, "quiet")
        await settled()
        queue._last_turn["quiet"] = queue._last_turn["noisy"] + 1  # pyright: ignore[reportPrivateUsage]
        queue.leave("noisy")
        await settled()
        assert (quiet.done(), noisy.done()) == (True, False)
        queue.leave("quiet")
        await settled()
        assert noisy.done()

    run(work())


def test_a_caller_of_low_priority_takes_nobodys_place():
    async def work() -> None:
        queue = FairQueue(1, 3)
        assert queue.try_enter("important")
        waiting = [waits(queue, "important", priority=5) for _ in range(3)]
        await settled()
        with pytest.raises(QueueFullError, match="3 calls are already waiting"):
            await queue.enter("someone", priority=1, seconds=60)
        assert queue.waiting == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(work())


def test_a_caller_of_the_same_priority_takes_the_last_place_of_who_holds_most():
    async def work() -> None:
        queue = FairQueue(1, 3)
        assert queue.try_enter("important")
        waiting = [waits(queue, "important", priority=1) for _ in range(3)]
        await settled()
        other_task = waits(queue, "someone", priority=1)
        await settled()
        assert [task.done() for task in waiting] == [False, False, True]
        for task in (*waiting, other_task):
            task.cancel()
        await asyncio.gather(*waiting, other_task, return_exceptions=True)

    run(work())


def test_a_turn_that_its_caller_no_longer_wants_goes_to_the_next():
    async def work() -> None:
        queue = FairQueue(1, 10)
        for _ in range(20):
            assert queue.try_enter("t")
            leaving = waits(queue, "t")
            await settled()
            queue.leave("t")  # gives the turn, which the task has not seen yet
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert (queue.running, queue.waiting) == (0, 0)

    run(work())
