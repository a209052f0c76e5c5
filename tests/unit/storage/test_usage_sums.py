"""Tests for the parts of usage sums that need no database."""

from hypothesis import given
from hypothesis import strategies as st

from modelyard.storage import usage_sums

_names = st.text(alphabet="ab", max_size=2)
_keys = st.tuples(
    _names, _names, _names, st.integers(0, 2), st.integers(0, 2), _names, _names
)
_lines = st.lists(st.tuples(_keys, st.tuples(st.integers(0, 3))), max_size=60)


@given(_lines, st.integers(1, 9))
def test_sorting_in_batches_sorts(lines: list[usage_sums._Line], batch_size: int):  # pyright: ignore[reportPrivateUsage]
    usual = usage_sums._SORTED_AT_ONCE  # pyright: ignore[reportPrivateUsage]
    usage_sums._SORTED_AT_ONCE = batch_size  # pyright: ignore[reportPrivateUsage, reportConstantRedefinition]
    try:
        assert usage_sums._in_order(lines) == sorted(lines)  # pyright: ignore[reportPrivateUsage]
    finally:
        usage_sums._SORTED_AT_ONCE = usual  # pyright: ignore[reportPrivateUsage, reportConstantRedefinition]
