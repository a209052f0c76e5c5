"""Reported cases of the gateway: every case has tests that play it, and all of them pass.

The tests are marked with the ids of the cases in `gateway_cases.yaml`.
"""

import ast
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.show.proof import ROOT, Proof

_DATA = Path(__file__).with_name("gateway_cases.yaml")
_TESTS = ROOT / "tests"
_MARK = "pytest.mark.case"
_MAX_PARTLY_BUILT = 5
"""How many cases may have parts that are not built."""


@dataclass(frozen=True, slots=True)
class Case:
    """A reported case. `reports` are public reports, as owner/name#number."""

    id: str
    title: str
    kind: str
    reports: tuple[str, ...] = ()
    not_built: str = ""
    """What of it is not built, and what comes instead; empty if all of it is."""


@dataclass(slots=True)
class Outcome:
    """The results of a case's tests."""

    passed: int = 0
    failed: list[str] = field(default_factory=list[str])


def cases() -> dict[str, Case]:
    """Return the cases by their ids. Raises TypeError for an unknown field."""
    documents: dict[str, Any] = yaml.safe_load(_DATA.read_text("utf-8"))
    return {
        case_id: Case(
            id=case_id, **{**fields, "reports": tuple(fields.get("reports", ()))}
        )
        for case_id, fields in documents.items()
    }


@cache
def marked_tests() -> Mapping[str, tuple[str, ...]]:
    """Return the ids of cases with their tests, as `path::function`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(_TESTS.rglob("test_*.py")):
        source = path.read_text("utf-8")
        if "mark.case(" not in source:
            continue
        for case_id, function in _marks_in(ast.parse(source)):
            found[case_id].append(f"{path.relative_to(ROOT)}::{function}")
    return {case_id: tuple(tests) for case_id, tests in found.items()}


def _marks_in(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (id of a case, name of the test) for each mark in a file; a mark of the
    whole file is one of each of its tests."""
    of_file = [
        case_id
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for case_id in _ids_in([node.value])
    ]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for case_id in [*of_file, *_ids_in(node.decorator_list)]:
                yield case_id, node.name


def _ids_in(expressions: Iterable[ast.expr]) -> Iterator[str]:
    """Yield the ids in the marks among some expressions."""
    nodes = (node for each in expressions for node in ast.walk(each))
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == _MARK:
            yield from (ast.literal_eval(argument) for argument in node.args)


def problems() -> list[str]:
    """Return where the cases and the marks do not fit together."""
    known, marked = cases(), marked_tests()
    missing = [f"case {each} has no test" for each in known if each not in marked]
    unknown = [
        f"{', '.join(tests)}: unknown case {case_id}"
        for case_id, tests in marked.items()
        if case_id not in known
    ]
    return [*missing, *unknown]


def prove() -> Proof:
    """Run the marked tests, and report one line for each case."""
    proof = Proof()
    for problem in problems():
        proof.line("cases and marks", problem, ok=False)
    node_ids = sorted({test for tests in marked_tests().values() for test in tests})
    outcomes = _run(node_ids)
    for case in cases().values():
        _report(proof, case, outcomes)
    partly_built = [case for case in cases().values() if case.not_built]
    for case in partly_built:
        proof.line(f"{case.id}, not built", case.not_built)
    proof.line(
        "cases of which a part is not built",
        len(partly_built),
        len(partly_built) <= _MAX_PARTLY_BUILT,
    )
    proof.figures["cases"] = len(cases())
    proof.figures["partly built"] = len(partly_built)
    proof.figures["tests"] = sum(outcome.passed for outcome in outcomes.values())
    return proof


def _report(proof: Proof, case: Case, outcomes: Mapping[str, Outcome]) -> None:
    """Add the line of a case: its title, its tests, and their results."""
    tests = marked_tests().get(case.id, ())
    results = [outcomes.get(test, Outcome()) for test in tests]
    passed = sum(result.passed for result in results)
    failed = [name for result in results for name in result.failed]
    has_run = bool(tests) and all(each.passed or each.failed for each in results)
    observed = f"{case.title}: {passed} of {passed + len(failed)} tests"
    if failed:
        observed += f"; failed: {', '.join(failed[:3])}"
    proof.line(case.id, observed, has_run and not failed)


def _run(node_ids: list[str]) -> dict[str, Outcome]:
    """Run tests, and return their results by `path::function`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "loadgroup",
        ]
        command += ["-p", "no:cacheprovider", "-p", __name__]
        completed = subprocess.run(
            [*command, f"--case-report={report}", *node_ids],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            print(completed.stdout[-4000:], completed.stderr[-2000:])
        return _read(report)


def _read(report: Path) -> dict[str, Outcome]:
    """Return the results that a run has written."""
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    lines = report.read_text("utf-8").splitlines() if report.exists() else []
    for line in lines:
        result = json.loads(line)
        name = result["test"].partition("@")[0]
        outcome = outcomes[name.partition("[")[0]]
        if result["passed"]:
            outcome.passed += 1
        else:
            outcome.failed.append(name)
    return outcomes


# ------------------------------------------------------------- the plugin of the run


def pytest_addoption(parser: Any) -> None:
    """Add the option with the file of the results."""
    parser.addoption("--case-report", default="", help="file for results as JSON lines")


class Recorder:
    """Writes the result of each test into a file: one line for each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write the result of a test that has run, or that has failed before or after
        it has."""
        if report.when != "call" and report.passed:
            return
        line = json.dumps({"test": report.nodeid, "passed": report.passed})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def pytest_configure(config: Any) -> None:
    """Record the results in the process that collects those of all workers."""
    path = config.getoption("--case-report")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)))
