"""Every proof of `make show` has a short form that runs with the other tests."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tools.show.__main__ import PROOFS

# One worker reads the tests once for both.
pytestmark = pytest.mark.xdist_group("proofs")

TESTS = Path(__file__).parents[1]

_ELSEWHERE = {
    "fresh": "a clean checkout that runs `make test` is what CI does",
    "console-pictures": "pictures for a person to look at; nothing in it can fail",
}
"""Proofs without a short form, with the reason."""


@cache
def _marked() -> dict[str, list[str]]:
    """Return the test files by the name of the proof that they are a short form of."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        source = path.read_text("utf-8")
        if "mark.proof" in source:
            for name in _marks_in(ast.parse(source)):
                files[name].append(path.name)
    return files


def _marks_in(tree: ast.AST) -> Iterator[str]:
    """Yield the names in the marks of a test file that are literals."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name == "proof" and ast.unparse(call.func) == "pytest.mark.proof":
            yield from (
                argument.value
                for argument in call.args
                if isinstance(argument, ast.Constant)
            )


def _names_in_table() -> set[str]:
    """Return the proofs of the table of sizes, whose mark has a variable name."""
    from tests.proofs.test_short_forms import _SIZES

    return set(_SIZES)


def test_every_proof_has_a_short_form():
    covered = {*_marked(), *_names_in_table(), *_ELSEWHERE}
    assert sorted(set(PROOFS) - covered) == []


def test_no_mark_names_an_unknown_proof():
    assert sorted({*_marked(), *_names_in_table(), *_ELSEWHERE} - set(PROOFS)) == []
