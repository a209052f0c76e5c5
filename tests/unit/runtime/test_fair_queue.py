"""Tests for the fair queue: which waiting call is next, and that no slot is lost."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from modelyard.base.errors import QueueFullError
from modelyard.runtime.fair_queue import FairQueue


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def waits(queue: FairQueue, tenant: str, priority: int = 0) -> "asyncio.Task[None]":
    """Start a task that waits for its slot."""
    return asyncio.create_task(queue.enter(tenant, priority=priority, seconds=60))


async def settled() -> None:
    """Let every task run until it blocks."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_among_equals_the_tenant_with_the_fewest_running_is_next():
    async def work() -> None:
        queue = FairQueue(4, 100)
        assert queue.try_enter("quiet")
        for _ in range(3):
            assert queue.try_enter("noisy")
        # 'quiet' was served longest ago either way, so its last turn is changed below:
        # only the number of running calls may decide.
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


def test_a_low_priority_call_displaces_nobody():
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


def test_an_equal_priority_call_displaces_the_largest_tenants_last():
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


def test_a_slot_of_a_cancelled_call_is_released():
    async def work() -> None:
        queue = FairQueue(1, 10)
        for _ in range(20):
            assert queue.try_enter("t")
            leaving = waits(queue, "t")
            await settled()
            # This grants the slot, but the task has not run yet.
            queue.leave("t")
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert (queue.running, queue.waiting) == (0, 0)

    run(work())
