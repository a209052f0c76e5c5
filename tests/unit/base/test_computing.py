"""While a thread computes the interpreter changes hands often, and afterwards as before."""

import asyncio
import sys
import threading

import pytest

from modelyard.base import cpu_work


def test_hands_change_often_while_a_thread_computes_and_as_before_after_it():
    usual = sys.getswitchinterval()
    started, may_end = threading.Event(), threading.Event()

    def compute() -> float:
        started.set()
        may_end.wait(10)
        return sys.getswitchinterval()

    async def two() -> list[float]:
        tasks = [asyncio.create_task(cpu_work.run_in_thread(compute)) for _ in range(2)]
        await asyncio.to_thread(started.wait, 10)
        may_end.set()
        return await asyncio.gather(*tasks)

    assert max(asyncio.run(two())) < usual
    assert sys.getswitchinterval() == usual


def test_what_it_raises_is_raised_and_the_interval_restored():
    usual = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(cpu_work.run_in_thread(lambda: 1 // 0))
    assert sys.getswitchinterval() == usual
