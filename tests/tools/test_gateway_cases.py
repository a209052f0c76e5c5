"""Tests for the list of reported cases: each has a test, and no mark names another."""

import ast
import re
from pathlib import Path

import pytest
from tools.show import gateway_cases
from tools.show.gateway_cases import Case, Outcome, cases, marked_tests, problems
from tools.show.proof import ROOT, Proof

pytestmark = pytest.mark.proof("gateway-cases")
REPORT = re.compile(r"[\w.-]+/[\w.-]+#\d+")


def test_cases_and_marks_fit_together():
    assert problems() == []


def test_each_case_says_what_must_hold():
    for case in cases().values():
        assert case.title
        assert case.kind
        assert all(REPORT.fullmatch(report) for report in case.reports)


def test_a_marked_test_exists():
    for tests in marked_tests().values():
        for test in tests:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text("utf-8")


def test_marks_of_files_and_functions_are_found():
    source = """
pytestmark = pytest.mark.case("1")

@pytest.mark.case("2", "3")
def test_a(): ...

def test_b(): ...

def helper(): ...
"""
    marks = list(gateway_cases._marks_in(ast.parse(source)))
    assert marks == [
        ("1", "test_a"),
        ("2", "test_a"),
        ("3", "test_a"),
        ("1", "test_b"),
    ]


def test_missing_and_unknown_cases_are_noticed(monkeypatch: pytest.MonkeyPatch):
    known = {"1": Case("1", "t", "k"), "2": Case("2", "t", "k")}
    monkeypatch.setattr(gateway_cases, "cases", lambda: known)
    monkeypatch.setattr(
        gateway_cases, "marked_tests", lambda: {"1": ("a::b",), "3": ("c::d",)}
    )
    assert problems() == ["case 2 has no test", "c::d: unknown case 3"]


@pytest.mark.parametrize(
    ("outcomes", "ok"),
    [
        ({"a::b": Outcome(passed=2)}, True),
        ({"a::b": Outcome(passed=2, failed=["a::b[x]"])}, False),
        ({}, False),
    ],
)
def test_a_case_holds_if_all_of_its_tests_have_passed(
    monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, Outcome], ok: bool
):
    monkeypatch.setattr(gateway_cases, "marked_tests", lambda: {"1": ("a::b",)})
    proof = Proof()
    gateway_cases._report(proof, Case("1", "t", "k"), outcomes)
    assert proof.ok is ok


def test_results_are_read_by_test(tmp_path: Path):
    report = tmp_path / "report.jsonl"
    report.write_text(
        '{"test": "a::b[x]@group", "passed": true}\n{"test": "a::b[y]", "passed": false}\n'
    )
    outcomes = gateway_cases._read(report)
    assert outcomes == {"a::b": Outcome(passed=1, failed=["a::b[y]"])}
    assert gateway_cases._read(tmp_path / "none") == {}
