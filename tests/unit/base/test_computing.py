"""Tests for `cpu_work`: a shorter thread switch interval while a thread computes."""

import asyncio
import sys
import threading

import pytest

from modelyard.base import cpu_work


def test_the_switch_interval_is_short_while_a_thread_computes():
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


def test_exceptions_are_raised_and_the_interval_is_restored():
    usual = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(cpu_work.run_in_thread(lambda: 1 // 0))
    assert sys.getswitchinterval() == usual
