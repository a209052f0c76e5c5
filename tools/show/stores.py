"""The contract suite on every store of vectors and words: memory (exact, by graph, on PostgreSQL), pgvector, Qdrant."""

import re
import subprocess
import sys

from tools.show.proof import ROOT, Proof

STORES = ("memory", "memory, graph", "memory on postgresql", "pgvector", "qdrant")


def prove() -> Proof:
    proof = Proof()
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/contract/test_indexes.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(r"::(test_\w+)\[([^\]]+)\] (\w+)", done.stdout)
    names = sorted({test for test, _, _ in found})
    for store in STORES:
        passed = [test for test, one, outcome in found if one == store and outcome == "PASSED"]
        proof.line(store, f"{len(passed)} of {len(names)}", len(passed) == len(names) > 0)
        proof.figures[store] = f"{len(passed)} of {len(names)}"
    if done.returncode:
        proof.line("", done.stdout[-800:], ok=False)
    return proof
