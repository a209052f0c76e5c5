"""Count the test cases of node types and compatibility quirks and the property tests of
the workflow engine, and run them.

The events of every case have to be in an order that `event_order.py` allows; cases with an
`order` say it exactly.
"""

from collections import Counter
from typing import Any

import yaml

from modelyard.workflow.nodes import node_types
from tools.show.proof import ROOT, Proof, tests

CASES = ROOT / "tests" / "workflow" / "cases"
INSIDE = {"iteration-start", "loop-start"}
"""Start nodes inside containers. App files may omit them; the cases of the containers
cover both forms."""


def prove() -> Proof:
    """Count the cases, find node types without a case, and run all tests."""
    proof = Proof()
    count: Counter[str] = Counter()
    per_type: Counter[str] = Counter()
    for path in sorted(CASES.glob("*.yml")):
        cases: list[Any] = yaml.safe_load(path.read_text("utf-8"))
        count[path.stem] += len(cases)
        for case in cases:
            per_type.update({str(node["type"]) for node in case["nodes"].values()})
    for name, cases_of in count.items():
        proof.line(f"cases/{name}.yml", f"{cases_of} cases")
    missing = sorted({*node_types()} - {*per_type} - INSIDE)
    proof.line(
        "node types with a case", f"{len(per_type)}; without: {', '.join(missing) or 'none'}", ok=not missing
    )  # fmt: skip
    summary, passed = tests("tests/workflow/test_cases.py")
    # The count must match, or a case file might have been skipped.
    proof.line("all cases", summary, ok=passed and f"{count.total()} passed" in summary)
    order_summary, order_holds = tests("tests/workflow/test_event_order.py")
    proof.line("a wrong order of events is noticed", order_summary, ok=order_holds)
    laws_summary, laws_hold = tests("tests/workflow/test_laws.py")
    proof.line("laws on random graphs, templates, texts", laws_summary, ok=laws_hold)
    proof.figures = {
        "cases": count.total(), "node_types": len(per_type), "without_a_case": missing, "laws": laws_summary,
        "by_type": dict(sorted(per_type.items())),
    }  # fmt: skip
    return proof
