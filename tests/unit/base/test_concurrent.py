"""Tests for bounded concurrency: result order, the limit, and failing calls."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.concurrent import bounded_map


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 6))
def test_results_are_in_order_and_concurrency_is_bounded(delays: list[int], limit: int):
    running = peak = 0

    async def call(delay: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        for _ in range(delay + 1):
            await asyncio.sleep(0)
        running -= 1
        return delay

    results = asyncio.run(bounded_map(call, delays, limit=limit))
    assert results == delays
    assert peak == min(limit, len(delays))


def test_a_failure_is_raised_as_it_is_and_ends_the_other_calls():
    started: list[int] = []
    cancelled: list[int] = []

    async def call(number: int) -> None:
        if number == 1:
            raise LookupError("the second fails")
        started.append(number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(LookupError, match="the second fails"):
        asyncio.run(bounded_map(call, range(5), limit=3))
    assert {0, 2} <= set(started)
    assert cancelled == started
