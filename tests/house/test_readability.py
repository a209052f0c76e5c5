"""Names, sizes and complexity stay within limits, and no retired word comes back."""

import ast
from functools import cache
from pathlib import Path

import pytest
from tools.readability import (
    VAGUE_NAMES,
    Figures,
    measure,
    total,
    vague_names,
    worst,
)
from tools.show.proof import Proof
from tools.show.readable import (
    FOLDERS,
    MAX_COMPLEXITY,
    MAX_LENGTHS,
    MAX_NODES_PER_LINE,
    MAX_VAGUE_PER_KLOC,
    MIN_COMMENTS_PER_100,
    MIN_DOCUMENTED_PERCENT,
    ROOT,
    check_everything,
    check_source,
)

from tools import retired_words

# One worker measures each folder once for all of these tests.
pytestmark = [pytest.mark.proof("readable"), pytest.mark.xdist_group("house")]

_REACHED = {50: 9}
"""The median length, which is one line above its aim, must not grow."""


@cache
def figures_of(folder: str) -> Figures:
    """Return the figures of one of the folders, which take a while to measure."""
    return measure([ROOT / folder])


@cache
def all_figures() -> Figures:
    """Return the figures of all four folders together."""
    return total(figures_of(folder) for folder in FOLDERS)


def test_the_package_is_readable():
    figures = figures_of("src")
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
    counts = vague_names(ast.walk(ast.parse(source)))
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


_DOUBLE = """# The caller adds the unit.
def double_{0}(number):
    \"\"\"Return twice the number.\"\"\"
    return number + number


"""
"""A function that keeps all limits, with a place for its number."""


def _doubles(count: int) -> str:
    """Return a module with so many functions that keep all limits."""
    return "".join(_DOUBLE.format(number) for number in range(count))


def _counting(line_count: int) -> str:
    """Return a private function of so many lines that keeps all other limits."""
    steps = "    number += 1\n" * (line_count - 2)
    return f"def _count(number):\n{steps}    return number\n"


def _failing_labels(folder: Path, source: str) -> list[str]:
    """Return the labels of the limits that a folder with this module breaks."""
    (folder / "module.py").write_text(source, "utf-8")
    figures = measure([folder])
    proof = Proof()
    check_source(proof, figures)
    check_everything(proof, figures)
    assert len(proof.lines) == 8
    return [label for label, _, ok in proof.lines if not ok]


_NESTED = "".join(f"{'    ' * depth}if number:\n" for depth in range(1, 6))
_BROKEN = {
    "syntax nodes a line": f"{_doubles(1)}NUMBERS = {[*range(40)]}\n",
    "public docstrings, %": f"{_doubles(8)}def triple(number):\n    return number\n",
    "comments in 100 lines": _doubles(1).partition("\n")[2],
    "lines of a function, p50": f"{_doubles(1)}{_counting(9)}",
    "lines of a function, p90": f"{_doubles(9)}{_counting(29)}",
    "lines of a function, p100": f"{_doubles(20)}{_counting(81)}",
    "vague names in 1,000 lines": f"{_doubles(1)}found = 1\n",
    "cognitive complexity, largest": (
        f"{_doubles(1)}def _nested(number):\n{_NESTED}{'    ' * 6}return number\n"
    ),
}
"""A module for each limit of the proof that breaks it, and no other."""


def test_a_readable_module_keeps_all_limits(tmp_path: Path):
    assert _failing_labels(tmp_path, _doubles(3)) == []


@pytest.mark.parametrize("label", _BROKEN)
def test_each_limit_is_noticed_when_it_is_broken(tmp_path: Path, label: str):
    failing_labels = _failing_labels(tmp_path, _BROKEN[label])
    assert len(failing_labels) == 1
    assert failing_labels[0].startswith(label)


_RETIRED = {
    "module ": ("src/modelyard/agents/react_reader.py", ""),
    "definition ": ("src/modelyard/agents/loop.py", "class Entry: ..."),
    "message: ": ("src/modelyard/base/a.py", "TEXT = 'there is nothing at'"),
    "docstring: ": ("src/modelyard/a.py", '"""The edge between done and not yet."""'),
    "document: ": ("docs/a.md", "Forty real providers are added with one line each."),
    "console: ": ("console-ui/src/messages.ts", 'actFor: ["Whose things are shown",'),
}
"""A file for each kind of retired word, with one that came back."""


@pytest.mark.parametrize("kind", _RETIRED)
def test_a_retired_word_is_noticed_when_it_comes_back(tmp_path: Path, kind: str):
    for name in retired_words.MESSAGE_FILES:
        (tmp_path / "console-ui" / "src" / name).parent.mkdir(
            parents=True, exist_ok=True
        )
        (tmp_path / "console-ui" / "src" / name).write_text("")
    assert retired_words.remaining(tmp_path) == []
    name, text = _RETIRED[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text, "utf-8")
    (word,) = retired_words.remaining(tmp_path)
    assert word.startswith(kind)
