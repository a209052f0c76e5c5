"""The limit on connections in use: fair, and exact after timeouts and cancellation."""

import asyncio

import pytest

from modelyard.transport.slots import ConnectionSlots

pytestmark = pytest.mark.anyio


async def test_only_so_many_slots_are_taken_at_once():
    slots = ConnectionSlots(2)
    assert [slots.try_take() for _ in range(3)] == [True, True, False]
    slots.release()
    assert slots.try_take()


async def test_those_who_wait_get_slots_in_their_order():
    slots = ConnectionSlots(1)
    await slots.take(1)
    order: list[int] = []

    async def wait(number: int) -> None:
        await slots.take(5)
        order.append(number)
        slots.release()

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    slots.release()
    # Nobody overtakes those who wait.
    assert not slots.try_take()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    assert slots.try_take()


async def test_one_who_waits_too_long_takes_nothing():
    slots = ConnectionSlots(1)
    await slots.take(1)
    with pytest.raises(TimeoutError):
        await slots.take(0.001)
    slots.release()
    assert slots.try_take()
    assert not slots.try_take()


async def test_a_slot_granted_to_a_cancelled_one_is_not_lost():
    slots = ConnectionSlots(1)
    await slots.take(1)
    waiting = asyncio.create_task(slots.take(5))
    await asyncio.sleep(0)
    # Granted and cancelled in the same step of the event loop.
    slots.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.try_take()
