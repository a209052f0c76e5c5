"""Run the tests of each connector: a first pass, changes, deletions, permissions, an
interruption and going on."""

import re
import subprocess
import sys

from tools.show.proof import ROOT, Proof

SOURCES = ("folder", "s3")
_FILE = "tests/knowledge/test_connectors.py"
_STEPS = {
    "test_a_source_is_followed": "first pass, change, deletion, permissions",
    "test_an_interrupted_pass_goes_on_where_it_was": "interruption and going on",
    "test_what_cannot_be_read_is_skipped_and_named": "unreadable documents",
}
_SPACE_STEPS = {
    "test_a_space_of_confluence_is_followed_with_its_restrictions": (
        "first pass, change, deletion, permissions"
    ),
    "test_a_space_goes_on_after_an_interruption": "interruption and going on",
    "test_a_page_without_known_restrictions_stops_the_pass": "unknown restrictions",
}


def prove() -> Proof:
    """Run the tests once, and report each step of each source."""
    proof = Proof()
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", _FILE]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    results = set(re.findall(r"::(test_\w+)\[([^\]]+)\] PASSED", completed.stdout))
    for source in SOURCES:
        # A test that did not run is missing, and fails the proof.
        for test, step in _STEPS.items():
            passed = (test, source) in results
            proof.line(f"{source}: {step}", "holds" if passed else "fails", passed)
    for test, step in _SPACE_STEPS.items():
        passed = f"::{test} PASSED" in completed.stdout
        proof.line(f"confluence: {step}", "holds" if passed else "fails", passed)
    last_line = completed.stdout.strip().splitlines()[-1:]
    proof.line("all tests", "".join(last_line), completed.returncode == 0)
    proof.figures["sources"] = len(SOURCES) + 1
    return proof
