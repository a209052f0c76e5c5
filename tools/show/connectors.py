"""Run the tests of each connector: a first pass, changes, deletions, permissions, an
interruption and going on."""

import re
import subprocess
import sys

from tools.show.proof import ROOT, Proof

SOURCES = ("folder", "s3")
_FILES = (
    "tests/knowledge/test_connectors.py",
    "tests/knowledge/test_google_drive.py",
    "tests/knowledge/test_web_source.py",
    "tests/knowledge/test_dataset_sources.py",
)
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
_DRIVE_STEPS = {
    "test_a_drive_is_followed_with_its_permissions": (
        "first pass, change, deletion, permissions"
    ),
    "test_a_drive_goes_on_after_an_interruption": "interruption and going on",
    "test_documents_of_editors_are_exported_and_unreadable_ones_skipped": (
        "unreadable documents"
    ),
}
_SITE_STEPS = {
    "test_a_site_is_followed": "first pass, change, deletion, permissions",
    "test_a_site_goes_on_after_an_interruption": "interruption and going on",
    "test_a_pass_that_was_cut_deletes_only_pages_that_are_gone": "cut passes",
    "test_a_sitemap_says_what_has_changed": "sitemap",
    "test_robots_and_noindex_are_respected": "robots.txt and noindex",
}
_STORED_STEPS = {
    "test_a_source_is_synchronised_by_its_schedule": "schedule",
    "test_credentials_are_encrypted_and_never_shown": "credentials",
    "test_one_server_synchronises_a_source_at_a_time": "one server at a time",
    "test_another_server_goes_on_after_a_stop": "another server goes on",
    "test_a_source_that_is_removed_while_it_is_read_adds_nothing_more": "removal",
}


def prove() -> Proof:
    """Run the tests once, and report each step of each source."""
    proof = Proof()
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *_FILES]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    results = set(re.findall(r"::(test_\w+)\[([^\]]+)\] PASSED", completed.stdout))
    for source in SOURCES:
        # A test that did not run is missing, and fails the proof.
        for test, step in _STEPS.items():
            passed = (test, source) in results
            proof.line(f"{source}: {step}", "holds" if passed else "fails", passed)
    for source, steps in (
        ("confluence", _SPACE_STEPS),
        ("google_drive", _DRIVE_STEPS),
        ("web", _SITE_STEPS),
        ("stored sources", _STORED_STEPS),
    ):
        for test, step in steps.items():
            passed = f"::{test} PASSED" in completed.stdout
            proof.line(f"{source}: {step}", "holds" if passed else "fails", passed)
    last_line = completed.stdout.strip().splitlines()[-1:]
    proof.line("all tests", "".join(last_line), completed.returncode == 0)
    proof.figures["sources"] = len(SOURCES) + 3
    return proof
