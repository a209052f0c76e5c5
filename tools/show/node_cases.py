"""The cases of the node types and of the quirks, and the laws of the frontier: how many of each there are, and whether
all hold."""

from collections import Counter
from typing import Any

import yaml

from modelyard.workflow.nodes import node_types
from tools.show.proof import ROOT, Proof, tests

CASES = ROOT / "tests" / "workflow" / "cases"
INSIDE = {"iteration-start", "loop-start"}
"""What a container begins with. Files name them or do not; the cases of containers have both."""


def prove() -> Proof:
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
    seen, passed = tests("tests/workflow/test_cases.py")
    proof.line("all cases", seen, ok=passed and f"{count.total()} passed" in seen)
    seen_laws, laws_hold = tests("tests/workflow/test_laws.py")
    proof.line("laws on random graphs, templates, texts", seen_laws, ok=laws_hold)
    proof.figures = {
        "cases": count.total(), "node_types": len(per_type), "without_a_case": missing, "laws": seen_laws,
        "by_type": dict(sorted(per_type.items())),
    }  # fmt: skip
    return proof
