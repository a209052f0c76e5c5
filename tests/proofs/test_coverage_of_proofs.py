"""Every proof of `make show` has a short form that runs with the other tests."""

import ast
from collections import defaultdict
from pathlib import Path

from tools.show.__main__ import PROOFS

TESTS = Path(__file__).parents[1]

_ELSEWHERE = {
    "fresh": "a clean checkout that runs `make test` is what CI does",
    "console-pictures": "pictures for a person to look at; nothing in it can fail",
}
"""Proofs without a short form, with the reason."""


def _marked() -> dict[str, list[str]]:
    """Return the test files by the name of the proof that they are a short form of."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == (
                "pytest.mark.proof"
            ):
                for argument in node.args:
                    if isinstance(argument, ast.Constant):
                        files[argument.value].append(path.name)
    return files


def _names_in_table() -> set[str]:
    """Return the proofs of the table of sizes, whose mark has a variable name."""
    from tests.proofs.test_short_forms import _SIZES

    return set(_SIZES)


def test_every_proof_has_a_short_form():
    covered = {*_marked(), *_names_in_table(), *_ELSEWHERE}
    assert sorted(set(PROOFS) - covered) == []


def test_no_mark_names_an_unknown_proof():
    assert sorted({*_marked(), *_names_in_table(), *_ELSEWHERE} - set(PROOFS)) == []
