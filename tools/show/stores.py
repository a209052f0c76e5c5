"""Run the contract tests on every vector and keyword store: memory (exact, with a graph
index, on PostgreSQL), pgvector and Qdrant."""

import re
import subprocess
import sys

from tools.show.proof import ROOT, Proof

STORES = ("memory", "memory, graph", "memory on postgresql", "pgvector", "qdrant")


def prove() -> Proof:
    """Run the tests once and report the passed ones for each store."""
    proof = Proof()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "tests/contract/test_indexes.py",
    ]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    results = re.findall(r"::(test_\w+)\[([^\]]+)\] (\w+)", completed.stdout)
    names = sorted({test for test, _, _ in results})
    for store in STORES:
        # A store without results has zero passed tests and fails, so a missing store is
        # noticed.
        passed = [
            test
            for test, store_name, outcome in results
            if store_name == store and outcome == "PASSED"
        ]
        proof.line(
            store, f"{len(passed)} of {len(names)}", len(passed) == len(names) > 0
        )
        proof.figures[store] = f"{len(passed)} of {len(names)}"
    if completed.returncode:
        proof.line("", completed.stdout[-800:], ok=False)
    return proof
