"""What the codecs read and write does not change unnoticed.

Each feature of requests, answers and streams, written as its vendor's clients and servers
write it, is read and written in every format, and read with one value after another replaced
by an odd one. If a change is meant, `python -m tools.readings` stores it and prints it.
"""

from functools import cache

import pytest
from tools.readings import all_inputs, difference, measured, stored

INPUTS = all_inputs()
before = cache(stored)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_input_is_read_and_written_as_before(name: str):
    changes = difference(before()[name], measured(INPUTS[name]))
    assert not changes, "\n".join(changes)


def test_the_stored_readings_are_those_of_the_inputs():
    assert sorted(before()) == sorted(INPUTS)


def test_a_difference_shows_both_readings():
    assert difference({"a": [1]}, {"a": [1]}) == []
    changes = difference({"a": [1]}, {"a": [2]})
    assert {"-  1", "+  2"} <= set(changes)
