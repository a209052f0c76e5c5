"""Compare the branch coverage of a test run with its limits.

    pytest --cov --cov-report=json:build/coverage.json
    python -m tools.coverage_limits

Prints one line for each part of the product. Exit code 1 if a part is below its limit.
The percentage counts lines and branches, as in coverage.py's own reports.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "build" / "coverage.json"
_SOURCE = "src/modelyard/"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the product with the lowest accepted coverage."""

    name: str
    percent: float
    paths: tuple[str, ...]
    """Files, or folders that end with `/`, below `src/modelyard`."""


PARTS = (
    Part("everything", 85, ("",)),
    Part("policies", 95, ("runtime/policies/", "runtime/pipeline.py")),
    Part(
        "dispatch",
        95,
        (
            "runtime/policies/dispatch.py",
            "runtime/load_balancing.py",
            "runtime/retry_budget.py",
            "runtime/routing_plans.py",
        ),
    ),
    Part(
        "ledger",
        95,
        (
            "runtime/ledger.py",
            "runtime/usage_row.py",
            "runtime/usage_table.py",
            "runtime/orphaned_journals.py",
            "storage/journal.py",
            "storage/usage_sums.py",
        ),
    ),
    Part(
        "limits",
        95,
        (
            "runtime/limits.py",
            "runtime/fair_queue.py",
            "runtime/policies/limit.py",
            "storage/counters.py",
        ),
    ),
    Part("codecs", 95, ("wire/",)),
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines and branches of some files: how many there are, and how many ran."""

    total: int
    covered: int

    @property
    def percent(self) -> float:
        """The covered share. Nothing at all counts as 0, so a misspelt path fails."""
        return 100 * self.covered / self.total if self.total else 0.0


def measure(part: Part, report: Mapping[str, Any]) -> Coverage:
    """Return the coverage of a part, from coverage.py's JSON report.

    The format: https://coverage.readthedocs.io/en/latest/commands/cmd_json.html
    """
    total = covered = 0
    for file, content in report["files"].items():
        path = file.removeprefix(_SOURCE)
        if not any(_lies_in(path, place) for place in part.paths):
            continue
        summary = content["summary"]
        total += summary["num_statements"] + summary["num_branches"]
        covered += summary["covered_lines"] + summary["covered_branches"]
    return Coverage(total, covered)


def _lies_in(path: str, place: str) -> bool:
    """Return whether a file is `place`, or lies in it if it is a folder."""
    if place == "" or place.endswith("/"):
        return path.startswith(place)
    return path == place


def main(arguments: Sequence[str]) -> int:
    """Print the table; the argument is the report's path."""
    path = Path(arguments[0]) if arguments else REPORT
    report = json.loads(path.read_text("utf-8"))
    failed = 0
    for part in PARTS:
        coverage = measure(part, report)
        is_enough = coverage.percent >= part.percent
        failed += not is_enough
        mark = "ok  " if is_enough else "FAIL"
        print(
            f"{mark} {part.name:<12} {coverage.percent:6.2f} %, at least {part.percent} "
            f"({coverage.covered:,} of {coverage.total:,} lines and branches)"
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
