"""Writes that are made together at the end of a turn of the event loop."""

import asyncio

import pytest

from modelyard.transport.turn_writes import TurnWrites

pytestmark = pytest.mark.anyio


class _Transport:
    """Notes what is written, in the order of all transports."""

    def __init__(self, name: str, log: list[tuple[str, bytes]]) -> None:
        self._name = name
        self._log = log
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self._log.append((self._name, data))

    def is_closing(self) -> bool:
        return self.is_closed


class _World:
    """A writer and some transports."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.writes = TurnWrites()
        self.transports = [_Transport(name, self.log) for name in "abcd"]

    def write_to_all(self) -> None:
        for transport in self.transports:
            self.writes.write(transport, b"1")


_ALL = [(name, b"1") for name in "abcd"]


async def test_writes_are_made_at_the_end_of_the_turn_in_their_order():
    world = _World()
    world.write_to_all()
    assert world.log == []
    await asyncio.sleep(0)
    assert world.log == _ALL


async def test_several_writes_to_a_transport_are_joined():
    world = _World()
    world.write_to_all()
    world.writes.write(world.transports[1], b"2")
    await asyncio.sleep(0)
    assert world.log == [("a", b"1"), ("b", b"12"), ("c", b"1"), ("d", b"1")]


async def test_what_waits_for_a_transport_can_be_written_at_once():
    world = _World()
    world.write_to_all()
    world.writes.flush_for(_Transport("e", world.log))
    assert world.log == []
    world.writes.flush_for(world.transports[3])
    assert world.log == _ALL
    # The end of the turn has nothing left to do.
    await asyncio.sleep(0)
    assert world.log == _ALL


async def test_a_transport_that_closes_does_not_stop_the_others():
    world = _World()
    world.write_to_all()
    world.transports[0].is_closed = True
    await asyncio.sleep(0)
    assert world.log == _ALL[1:]


async def test_where_a_turn_has_few_writes_the_next_ones_do_not_wait():
    world = _World()
    first, second, *_ = world.transports
    world.writes.write(first, b"1")
    await asyncio.sleep(0)
    for _ in range(100):
        world.log.clear()
        world.writes.write(second, b"2")
        assert world.log == [("b", b"2")]
    # Then it is tried again.
    world.log.clear()
    world.writes.write(second, b"3")
    assert world.log == []
    await asyncio.sleep(0)
    assert world.log == [("b", b"3")]
