"""Mutation tests with generated changes: how many of them the unit tests notice.

    python -m tools.generated_mutants [AREA ...] [--sample N] [--survivors]

mutmut (https://mutmut.readthedocs.io) makes the changes, in a copy of the checkout, and
runs the tests that reach each changed function. Prints one line for each file. Exit
code 1 if less than 90 % are noticed in an area. `--sample N` tries every N-th change;
`--survivors` prints the difference of each change that no test noticed.

`tools/mutants.py` has the changes that were thought of by hand.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.mutants import copy_checkout

_MIN_PERCENT = 90
_SOURCE = "src/modelyard"
_COPIED = ("src", "tests", "tools", "bench", "docs", "examples", "README.md")
_RESULT = re.compile(r"^\s+(\S+): (.+)$", re.MULTILINE)
_NOTICED = ("killed", "timeout", "segfault")
"""A change that lets a test run without end is noticed as well."""


@dataclass(frozen=True, slots=True)
class Area:
    """Files to change, and the tests that have to notice it."""

    files: tuple[str, ...]
    """Below `src/modelyard`; may have wildcards."""
    tests: tuple[str, ...]
    sample: int = 1
    """Every how many changes one is tried."""


_RUNTIME, _STORAGE = "tests/unit/runtime", "tests/unit/storage"
_WIRE = "tests/wire"
AREAS: Mapping[str, Area] = {
    "balancing": Area(
        ("runtime/load_balancing.py", "runtime/retry_budget.py"),
        (
            f"{_RUNTIME}/test_load_balancing.py",
            f"{_RUNTIME}/test_balancing_choices.py",
            f"{_RUNTIME}/test_cooldowns.py",
            f"{_RUNTIME}/test_latency.py",
            f"{_RUNTIME}/test_retry_budget.py",
            f"{_RUNTIME}/test_retry_budget_limits.py",
            f"{_RUNTIME}/test_dispatch.py",
        ),
    ),
    "dispatch": Area(
        ("runtime/policies/dispatch.py", "runtime/routing_plans.py"),
        (
            f"{_RUNTIME}/test_dispatch.py",
            f"{_RUNTIME}/test_dispatch_attempts.py",
            f"{_RUNTIME}/test_dispatch_order.py",
            f"{_RUNTIME}/test_dispatch_states.py",
            f"{_RUNTIME}/test_dispatch_trace.py",
            f"{_RUNTIME}/test_hedging.py",
            f"{_RUNTIME}/test_routing_plans.py",
        ),
    ),
    "policies": Area(
        (
            "runtime/policies/batch.py",
            "runtime/policies/cache.py",
            "runtime/policies/deadline.py",
            "runtime/policies/meter.py",
            "runtime/policies/observe.py",
            "runtime/policies/structured.py",
            "runtime/pipeline.py",
        ),
        (
            f"{_RUNTIME}/test_batch_policy.py",
            f"{_RUNTIME}/test_cache_policy.py",
            f"{_RUNTIME}/test_deadline_policy.py",
            f"{_RUNTIME}/test_meter_plans.py",
            f"{_RUNTIME}/test_meter_policy.py",
            f"{_RUNTIME}/test_observe_policy.py",
            f"{_RUNTIME}/test_policies.py",
            f"{_RUNTIME}/test_structured.py",
            f"{_RUNTIME}/test_structured_policy.py",
        ),
    ),
    "limits": Area(
        (
            "runtime/limits.py",
            "runtime/fair_queue.py",
            "runtime/policies/limit.py",
            "storage/counters.py",
        ),
        (
            f"{_RUNTIME}/test_admission_plans.py",
            f"{_RUNTIME}/test_fair_queue.py",
            f"{_RUNTIME}/test_limit_policy.py",
            f"{_RUNTIME}/test_limit_rules.py",
            f"{_RUNTIME}/test_limit_windows.py",
            f"{_RUNTIME}/test_limits.py",
            f"{_RUNTIME}/test_queue_rules.py",
            f"{_STORAGE}/test_counter_stores.py",
            f"{_STORAGE}/test_counters.py",
        ),
    ),
    "ledger": Area(
        (
            "runtime/ledger.py",
            "runtime/usage_row.py",
            "runtime/usage_table.py",
            "models/pricing.py",
            "storage/journal.py",
            "storage/usage_sums.py",
        ),
        (
            f"{_RUNTIME}/test_ledger.py",
            f"{_RUNTIME}/test_usage_rows.py",
            f"{_RUNTIME}/test_usage_table.py",
            f"{_STORAGE}/test_journal.py",
            f"{_STORAGE}/test_journal_files.py",
            f"{_STORAGE}/test_usage_sums.py",
            f"{_STORAGE}/test_usage_totals.py",
            "tests/unit/models/test_costs.py",
            "tests/unit/models/test_prices.py",
        ),
    ),
    "codecs": Area(
        ("wire/*",),
        (
            f"{_WIRE}/test_any_shape.py",
            f"{_WIRE}/test_cohere.py",
            f"{_WIRE}/test_dashscope.py",
            f"{_WIRE}/test_documents.py",
            f"{_WIRE}/test_laws.py",
            f"{_WIRE}/test_ollama.py",
            f"{_WIRE}/test_openai_chat.py",
            f"{_WIRE}/test_openai_chat_answers.py",
            f"{_WIRE}/test_openai_chat_requests.py",
            f"{_WIRE}/test_openai_responses_requests.py",
            f"{_WIRE}/test_openai_types.py",
            f"{_WIRE}/test_other_formats.py",
            f"{_WIRE}/test_read_types.py",
            f"{_WIRE}/test_readings.py",
            f"{_WIRE}/test_recordings.py",
            f"{_WIRE}/test_retrieval_formats.py",
            f"{_WIRE}/test_sameness.py",
            f"{_WIRE}/test_sources.py",
            f"{_WIRE}/test_speech_formats.py",
            f"{_WIRE}/test_verbatim.py",
        ),
        sample=60,
    ),
}


def run_area(area: Area, sample: int) -> Iterator[tuple[str, str, str]]:
    """Run mutmut on an area; yield (file, name of the change, outcome)."""
    with tempfile.TemporaryDirectory(prefix="modelyard-mutants-") as name:
        folder = Path(name)
        _copy_checkout(folder, area)
        names = _names(folder)[::sample]
        _mutmut(folder, "run", *names)
        outcomes = _outcomes(folder)
        for mutant in names:
            yield _file_of(mutant), mutant, outcomes.get(mutant, "not checked")


def _copy_checkout(folder: Path, area: Area) -> None:
    """Copy what the tests read, with mutmut's settings for this area."""
    copy_checkout(folder)
    settings = {
        "source_paths": [_SOURCE],
        "only_mutate": [f"{_SOURCE}/{file}" for file in area.files],
        "pytest_add_cli_args_test_selection": list(area.tests),
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist"],
        "also_copy": [*_COPIED, "pyproject.toml"],
        "use_git_change_detection": False,
    }
    # What JSON writes for these values is TOML too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    text = (folder / "pyproject.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text(
        f"{text}\n[tool.mutmut]\n" + "\n".join(lines) + "\n", "utf-8"
    )


def _mutmut(folder: Path, command: str, *arguments: str) -> str:
    """Run a command of mutmut in the copy and return what it prints."""
    completed = subprocess.run(
        [sys.executable, "-m", "mutmut", command, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode and command != "run":
        raise RuntimeError(completed.stdout[-1000:] + completed.stderr[-2000:])
    return completed.stdout


def _names(folder: Path) -> list[str]:
    """Return the names of all changes that mutmut can make, in the order of the
    source."""
    # A run of a change that does not exist generates all of them and tries none.
    _mutmut(folder, "run", "generate-only")
    return list(_outcomes(folder))


def _outcomes(folder: Path) -> dict[str, str]:
    """Return the outcome of each change by its name."""
    return dict(_RESULT.findall(_mutmut(folder, "results", "--all", "true")))


def _file_of(mutant: str) -> str:
    """Return the file of a change; names look like `modelyard.base.ids.x_make__mutmut_3`."""
    module = re.sub(r"\.x[_ǁ].*$", "", mutant)
    return module.removeprefix("modelyard.").replace(".", "/") + ".py"


def main(arguments: Sequence[str]) -> int:
    """Try the areas named in the arguments, or all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("areas", nargs="*", choices=[*AREAS, []], metavar="AREA")
    parser.add_argument("--sample", type=int, help="try every N-th change")
    parser.add_argument("--survivors", action="store_true")
    options = parser.parse_args(arguments)
    failed = False
    for name in options.areas or AREAS:
        area = AREAS[name]
        results = list(run_area(area, options.sample or area.sample))
        failed |= not _report(name, results)
        if options.survivors:
            for _, mutant, outcome in results:
                if outcome not in _NOTICED:
                    print(f"    {mutant}: {outcome}")
    return int(failed)


def _report(name: str, results: Sequence[tuple[str, str, str]]) -> bool:
    """Print the table of an area; return whether enough changes were noticed."""
    made = Counter(file for file, _, _ in results)
    noticed = Counter(file for file, _, outcome in results if outcome in _NOTICED)
    for file in sorted(made):
        print(f"     {file:<34} {noticed[file]:>5} of {made[file]:>5}")
    percent = 100 * noticed.total() / max(1, made.total())
    is_enough = percent >= _MIN_PERCENT
    mark = "ok  " if is_enough else "FAIL"
    print(
        f"{mark} {name:<34} {noticed.total():>5} of {made.total():>5}  {percent:.1f} %"
    )
    return is_enough


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
