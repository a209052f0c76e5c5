"""Names, sizes and complexity stay within limits, and no retired word comes back."""

import ast
from functools import cache
from pathlib import Path

import pytest
from tools.readability import VAGUE_NAMES, Figures, measure, vague_names, worst
from tools.show.readable import (
    FOLDERS,
    MAX_COMPLEXITY,
    MAX_LENGTHS,
    MAX_NODES_PER_LINE,
    MAX_VAGUE_PER_KLOC,
    MIN_COMMENTS_PER_100,
    MIN_DOCUMENTED_PERCENT,
    ROOT,
)

from tools import retired_words

pytestmark = pytest.mark.proof("readable")

_REACHED = {50: 9}
"""The median length, which is one line above its aim, must not grow."""


@cache
def all_figures() -> Figures:
    """Return the figures of all four folders, which take a while to measure."""
    return measure([ROOT / folder for folder in FOLDERS])


def test_the_package_is_readable():
    figures = measure([ROOT / "src"], with_complexity=False)
    assert round(figures.nodes_per_line, 2) <= MAX_NODES_PER_LINE
    assert figures.documented_percent >= MIN_DOCUMENTED_PERCENT
    assert figures.comments_per_100_lines >= MIN_COMMENTS_PER_100
    for percentile, limit in (MAX_LENGTHS | _REACHED).items():
        assert figures.length_percentile(percentile) <= limit, percentile


def test_names_say_what_they_hold():
    figures = all_figures()
    assert figures.vague_per_kloc <= MAX_VAGUE_PER_KLOC, figures.vague_names


def test_no_function_is_hard_to_follow():
    figures = all_figures()
    assert worst(figures, MAX_COMPLEXITY) == []


def test_no_retired_word_is_in_use():
    assert retired_words.remaining() == []


def test_vague_names_are_counted_wherever_they_are_defined():
    source = "def found(one, *, _kept=1):\n    for each in one: said = each\n"
    counts = vague_names(ast.parse(source))
    assert counts == {"found": 1, "one": 2, "kept": 1, "each": 2, "said": 1}
    assert set(counts) <= VAGUE_NAMES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """Do it.\n\n    At once.\n    """\n    return 1\n', 2),
    ],
)
def test_docstrings_do_not_make_functions_long(
    tmp_path: Path, body: str, expected: int
):
    file = tmp_path / "a.py"
    file.write_text(body)
    assert measure([file]).function_lengths == [expected]


def test_nested_branches_count_more_than_flat_ones(tmp_path: Path):
    file = tmp_path / "a.py"
    nested = "def f(a):\n" + "".join(
        f"{'    ' * depth}if a > {depth}:\n" for depth in range(1, 6)
    )
    file.write_text(f"{nested}{'    ' * 6}return 1\n")
    ((_, complexity),) = worst(measure([file]), MAX_COMPLEXITY)
    assert complexity == 1 + 2 + 3 + 4 + 5
