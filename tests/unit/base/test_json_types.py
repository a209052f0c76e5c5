"""The guards check exactly as `isinstance` does."""

from collections import OrderedDict
from types import MappingProxyType

import pytest

from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping, is_object


@pytest.mark.parametrize(
    ("value", "object_", "array", "mapping"),
    [
        ({}, True, False, True),
        (OrderedDict(a=1), True, False, True),
        (MappingProxyType({"a": 1}), False, False, True),
        ([], False, True, False),
        ((), False, False, False),
        ("{}", False, False, False),
        (b"[]", False, False, False),
        (0, False, False, False),
        (None, False, False, False),
    ],
)
def test_values_are_told_apart(
    value: object, object_: bool, array: bool, mapping: bool
) -> None:
    assert is_object(value) is object_
    assert is_array(value) is array
    assert is_mapping(value) is mapping


def test_the_empty_object_cannot_be_filled() -> None:
    with pytest.raises(TypeError):
        EMPTY_OBJECT["a"] = 1  # type: ignore[index]
    assert not EMPTY_OBJECT
