"""Tests for the table of mutants: each change applies and gives valid code."""

import ast

import pytest
from tools.mutants import MUTANTS, ROOT, Mutant, mutated, table_by_file

_EACH = pytest.mark.parametrize(
    "mutant", MUTANTS, ids=[f"mutant_{mutant.number}" for mutant in MUTANTS]
)


def test_mutants_are_numbered_from_one_without_gaps():
    assert [mutant.number for mutant in MUTANTS] == list(range(1, len(MUTANTS) + 1))


@_EACH
def test_a_mutant_changes_one_part_of_its_file_and_leaves_valid_code(mutant: Mutant):
    """Its old text occurs exactly once, and the new source parses to another tree."""
    text = (ROOT / "src" / "modelyard" / mutant.file).read_text("utf-8")
    changed_text = mutated(mutant, text)
    assert ast.dump(ast.parse(changed_text)) != ast.dump(ast.parse(text))


@_EACH
def test_the_tests_of_a_mutant_exist(mutant: Mutant):
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        function_name = name.partition("[")[0]
        assert f"def {function_name}" in (ROOT / file).read_text("utf-8"), test


def test_a_mutant_whose_text_is_missing_or_repeated_is_refused():
    mutant = Mutant(1, "about", "file.py", "a", "b", ())
    assert mutated(mutant, "cat") == "cbt"
    for text in ("dog", "banana"):
        with pytest.raises(LookupError, match="mutant 1: its text occurs [03] times"):
            mutated(mutant, text)


def test_the_table_counts_killed_mutants_by_file():
    mutants = [
        Mutant(number, "about", file, "a", "b", ())
        for number, file in enumerate(("x.py", "y.py", "x.py"), 1)
    ]
    assert table_by_file(mutants, mutants[:1]).splitlines() == [
        "  1 of  2  x.py",
        "  1 of  1  y.py",
        "  2 of  3  killed in all files",
    ]
