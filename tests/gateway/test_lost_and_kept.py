"""What becomes of each feature of a call between each pair of formats: as published, and
never lost silently."""

from collections.abc import Iterator

import pytest
from tools.lost_and_kept.formats import CALLERS, TARGETS
from tools.lost_and_kept.page import measured, published
from tools.lost_and_kept.runner import LOST, World, world

pytestmark = pytest.mark.proof("lost-and-kept")
TABLE = published()


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with world() as gateway:
        yield gateway


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("caller", CALLERS)
def test_every_cell_is_as_published(running: World, caller: str, target: str):
    assert measured(running, caller, target) == TABLE[caller][target]


def test_nothing_is_lost_silently():
    lost = [
        (caller, target, direction, name)
        for caller, targets in TABLE.items()
        for target, pair in targets.items()
        for direction, cells in pair.items()
        for name, cell in cells.items()
        if cell.startswith(LOST)
    ]
    assert not lost
