"""Mutation tests: small wrong changes to the product, each of which some test must
notice.

python -m tools.mutants [NUMBER ...]

Each change is made in a copy of the checkout, in which the tests of its area run. A
change that all tests pass shows a behaviour without a test. The numbers are stable, so
that a test may name the mutant that it kills. At the end, a table lists how many
changes were noticed in each file.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "node_modules", "__pycache__", ".*_cache", "console", "console-ui"
)
_RUN_SECONDS = 600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One wrong change: the text to replace in a file, and the tests that must notice
    it."""

    number: int
    about: str
    """Description of the fault."""
    file: str
    """Path below `src/modelyard`."""
    old: str
    new: str
    tests: tuple[str, ...]
    """Test files, or single tests as `file::name`."""


_RUNTIME, _STORAGE = "tests/unit/runtime", "tests/unit/storage"
_BALANCING, _BALANCING_TESTS = (
    "runtime/load_balancing.py",
    (f"{_RUNTIME}/test_load_balancing.py",),
)
_DISPATCH, _DISPATCH_TESTS = (
    "runtime/policies/dispatch.py",
    (f"{_RUNTIME}/test_dispatch.py",),
)
_BUDGET, _BUDGET_TESTS = (
    "runtime/retry_budget.py",
    (f"{_RUNTIME}/test_retry_budget.py",),
)
_QUEUE, _QUEUE_TESTS = "runtime/fair_queue.py", (f"{_RUNTIME}/test_fair_queue.py",)
_LIMITS, _WINDOW_TESTS = "runtime/limits.py", (f"{_RUNTIME}/test_limit_windows.py",)
_LIMIT_TESTS = (f"{_RUNTIME}/test_limits.py",)
_COUNTERS, _COUNTER_TESTS = "storage/counters.py", (f"{_STORAGE}/test_counters.py",)
_LOCK_ORDER_TEST = "test_calls_with_the_same_limits_lock_their_counters_in_one_order"
_LOCK_TESTS = (f"tests/contract/test_counters.py::{_LOCK_ORDER_TEST}",)
_LEDGER, _LEDGER_TESTS = "runtime/ledger.py", (f"{_STORAGE}/test_database.py",)
_USAGE_TABLE, _ORPHANED = "runtime/usage_table.py", "runtime/orphaned_journals.py"
_GRAPH, _ENGINE = "workflow/graph.py", "workflow/engine.py"
_LAWS = "tests/workflow/test_laws.py"
_GRAPH_TESTS = (
    f"{_LAWS}::test_a_node_is_ready_once_all_its_edges_are_decided_and_one_is_taken",
)
_FILTERS = "knowledge/document_filters.py"
_RETRIEVE, _DATASET_TESTS = "knowledge/retrieve.py", "tests/knowledge/test_datasets.py"
_FUSION_TESTS = ("tests/knowledge/test_pure.py",)
_FORMAT_TESTS = ("tests/wire/test_other_formats.py",)
_CHAT_TESTS = ("tests/wire/test_openai_chat.py",)
_ANTHROPIC, _GEMINI = "wire/anthropic.py", "wire/gemini.py"
MUTANTS = (
    Mutant(1, "weighted always picks the first", _BALANCING,
           "remaining = fraction * sum(", "remaining = 0.0 * fraction * sum(",
           _BALANCING_TESTS),
    Mutant(2, "a cooldown may last 2,500 seconds", _BALANCING,
           "_MAX_FAILURE_COOLDOWN = 25.0", "_MAX_FAILURE_COOLDOWN = 2500.0",
           _BALANCING_TESTS),
    Mutant(3, "six failures start a cooldown, not three", _BALANCING,
           "_FAILURES_BEFORE_COOLDOWN = 3", "_FAILURES_BEFORE_COOLDOWN = 6",
           _BALANCING_TESTS),
    Mutant(4, "a whole group may be in cooldown", _BALANCING,
           "(peers_cooling_down + 1) * 2 > len(group)",
           "peers_cooling_down + 1 > len(group)", _BALANCING_TESTS),
    Mutant(5, "a success ends a cooldown that has not run out", _BALANCING,
           ") is not None and cooldown.until <= current_time:", ") is not None:",
           _BALANCING_TESTS),
    Mutant(6, "the latency score ignores the calls in flight", _BALANCING,
           "self.health.latency(deployment) * (1 + self.health.in_flight(deployment))",
           "self.health.latency(deployment)", _BALANCING_TESTS),
    Mutant(7, "a percentile is the minimum", _BALANCING,
           "ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]",
           "ordered[0]", _BALANCING_TESTS),
    Mutant(8, "a cooldown shifts the turns of the others", _BALANCING,
           "return self._next_free(free)", "return round_robin(free, self._turn - 1)",
           (f"{_RUNTIME}/test_balancing_choices.py",)),
    Mutant(9, "a long Retry-After is waited for", _DISPATCH,
           "_MAX_WAIT = 10.0", "_MAX_WAIT = 1000.0", _DISPATCH_TESTS),
    Mutant(10, "a stream of blank chunks is lost", _DISPATCH,
           "                for chunk in attempt.held_back:\n"
           "                    yield chunk\n", "", _DISPATCH_TESTS),
    Mutant(11, "a hedged attempt ends twice", _DISPATCH,
           "        # A hedged pair counts its attempts itself.\n"
           "        if not is_hedged:\n"
           "            self.group.health.end(deployment)\n",
           "        self.group.health.end(deployment)\n", _DISPATCH_TESTS),
    Mutant(12, "a bad request goes to other models too", _DISPATCH,
           "        if not error.failover:\n            raise error\n", "",
           _DISPATCH_TESTS),
    Mutant(13, "only one model may wait for a cooldown", _DISPATCH,
           "        self._has_waited = False\n        source = (", "        source = (",
           _DISPATCH_TESTS),
    Mutant(14, "hedging ignores the retry budget", _DISPATCH,
           "        return (\n"
           "            target\n"
           "            if self._policy.budget.try_retry("
           "self._invocation.tenant, target.provider)\n"
           "            else None\n"
           "        )\n", "        return target\n", _DISPATCH_TESTS),
    Mutant(15, "a failed call is charged to a hosted quota", _DISPATCH,
           "is_served = deployment is self.deployment and not has_failed",
           "is_served = True", _DISPATCH_TESTS),
    Mutant(16, "old calls count like new ones", _BUDGET,
           "left = 1.0 - (current_time - moment) / self._window", "left = 1.0",
           _BUDGET_TESTS),
    Mutant(17, "retries are not counted", _BUDGET,
           "(calls, repeats + 1, current_time)", "(calls, repeats, current_time)",
           _BUDGET_TESTS),
    Mutant(18, "a tenant with many running calls goes before one with few", _QUEUE,
           "                self._by_tenant.get(tenant, 0),\n"
           "                self._last_turn",
           "                self._last_turn", _QUEUE_TESTS),
    Mutant(19, "a low priority evicts a high one", _QUEUE,
           "        if last.priority > priority:\n"
           '            raise _queue_full_error(f"{self.waiting} calls are already waiting")\n',
           "", _QUEUE_TESTS),
    Mutant(20, "a slot is lost with the caller who was cancelled", _QUEUE,
           "                self.leave(tenant)\n            else:\n",
           "                pass\n            else:\n", _QUEUE_TESTS),
    Mutant(21, "a month starts with the one before", _LIMITS,
           "            return today.replace(day=1).timestamp()",
           "            last_month = today.replace(day=1) - timedelta(days=1)\n"
           "            return last_month.replace(day=1).timestamp()", _WINDOW_TESTS),
    Mutant(22, "a month of 31 days ends before it is over", _LIMITS,
           "timedelta(days=32)", "timedelta(days=30)", _WINDOW_TESTS),
    Mutant(23, "days change at the server's midnight", _LIMITS,
           "datetime.fromtimestamp(day * 86_400, UTC)",
           "datetime.fromtimestamp(day * 86_400)", _WINDOW_TESTS),
    Mutant(24, "an amount of 0 means unlimited", _LIMITS,
           "if limit.amount >= 0", "if limit.amount > 0", _WINDOW_TESTS),
    # The level was halved once; now recorded usage drains from bucket to bucket.
    Mutant(25, "a sliding counter starts with all recorded usage", _LIMITS,
           "        level = max(\n"
           "            0.0, level - applicable_limit.refill"
           " * max(0.0, timestamp - previous_time)\n"
           "        ) + _used_amount(", "        level = level + _used_amount(", _WINDOW_TESTS),
    Mutant(26, "a finished call still counts as running", _LIMITS,
           ', "concurrency": 0.0}', "}", _LIMIT_TESTS),
    Mutant(27, "a limit of five admits four", _COUNTERS,
           "used + need > cap", "used + need >= cap",
           _COUNTER_TESTS),
    Mutant(28, "a clock that moves back drains twice", _COUNTERS,
           "(used + amount, stamp)", "(used + amount, current_time)", _COUNTER_TESTS),
    Mutant(29, "a clock that moves back adds usage", _COUNTERS,
           "if stamp < current_time:", "if stamp != current_time:", _COUNTER_TESTS),
    Mutant(30, "a call on a database settles as often as it is told to", _COUNTERS,
           'connection.execute(self._sql["take"], (name,))',
           'connection.execute("SELECT charges FROM reservations WHERE id = ?", (name,))',
           _COUNTER_TESTS),
    Mutant(31, "calls lock their counters in any order", _COUNTERS,
           "ordered = sorted(charges)", "ordered = list(charges)", _LOCK_TESTS),
    Mutant(32, "only the first batch of rows is written", _LEDGER,
           "self._settled, self._segments, self._is_folding = [], [], False",
           "self._settled, self._segments = [], []", _LEDGER_TESTS),
    Mutant(33, "the journal forgets rows that the database refused", _LEDGER,
           "            elif self._journal is not None:\n",
           "            if self._journal is not None:\n", _LEDGER_TESTS),
    Mutant(34, "a page starts after all rows of the last row's time", _USAGE_TABLE,
           '"after_id": after_id,', '"after_id": "~",', _LEDGER_TESTS),
    Mutant(35, "the tokens of a killed process are free", _ORPHANED,
           "price = self._price(intent, tokens or 0)", "price = self._price(intent, 0)",
           _LEDGER_TESTS),
    Mutant(36, "a node with a taken edge is skipped", _GRAPH,
           "                and not self._taken_in[target]\n", "", _GRAPH_TESTS),
    Mutant(37, "a skipped node leaves its edges undecided", _GRAPH,
           "                todo += self._graph.outgoing[target]\n", "", _GRAPH_TESTS),
    Mutant(38, "a node waits for unreachable ones", _GRAPH,
           "if edge.source not in graph.reachable:", "if edge.source not in graph.nodes:",
           _GRAPH_TESTS),
    # The check is in the replay today; before, `_settle` of the engine did both.
    Mutant(39, "a resumed run loses the tokens of finished containers",
           "workflow/graph_state.py",
           "        self._count(result)\n        if result.error:\n",
           "        if self._graph.nodes[step.node_id].kind is not NodeKind.CONTAINER:\n"
           "            self._count(result)\n        if result.error:\n",
           (f"{_LAWS}::test_a_resumed_run_has_the_tokens_of_all_that_ran",)),
    Mutant(40, "a node that must not be repeated runs again", _ENGINE,
           'node.data.on_resume == "fail" and', 'node.data.on_resume == "" and',
           (f"{_LAWS}::test_a_node_that_may_have_acted_is_repeated_only_where_it_may_be",)),
    # `_end_tasks` of the engine is `aclose` of the running nodes today.
    Mutant(41, "a stopped run does not wait for its nodes", "workflow/running.py",
           "        if tasks:\n            _, unfinished", "        if False:\n            _, unfinished",
           ("tests/workflow/test_runs.py",)),
    Mutant(42, "users share the documents they may read", _FILTERS,
           "dataset.generation, default, principals, condition_key",
           "dataset.generation, default, condition_key",
           (f"{_DATASET_TESTS}::test_what_a_user_may_read_is_decided_for_each_user",)),
    Mutant(43, "documents are found by their old metadata", _FILTERS,
           "key = (dataset.id, dataset.generation, default,",
           "key = (dataset.id, default,",
           (f"{_DATASET_TESTS}::test_documents_are_found_by_the_metadata_that_they_have_now",)),
    Mutant(44, "the threshold comes before the reranker", _RETRIEVE,
           "        hits = await self._rerank(hits, settings, search_request, retrieval)\n"
           "        return await self._post_process(hits, settings, retrieval)\n",
           "        hits = await self._post_process(hits, settings, retrieval)\n"
           "        return await self._rerank(hits, settings, search_request, retrieval)\n",
           (f"{_DATASET_TESTS}::test_the_threshold_applies_to_what_the_rerank_model_says",)),
    Mutant(45, "the weight of meaning is that of words", "knowledge/index/base.py",
           "        return semantic_weight * max(0.0, semantic.get(entry, 0.0)) + (\n"
           "            1 - semantic_weight\n        ) * min(",
           "        return (1 - semantic_weight) * max(0.0, semantic.get(entry, 0.0)) + (\n"
           "            semantic_weight\n        ) * min(", _FUSION_TESTS),
    Mutant(46, "cache reads are missing from the prompt", _ANTHROPIC,
           'nested_count(body, "input_tokens") + read + write',
           'nested_count(body, "input_tokens") + write', _FORMAT_TESTS),
    Mutant(47, "thoughts are free of charge", _GEMINI,
           'nested_count(body, "candidatesTokenCount") + thoughts',
           'nested_count(body, "candidatesTokenCount")', _FORMAT_TESTS),
    Mutant(48, "two user turns follow each other", _ANTHROPIC,
           'if turns and turns[-1]["role"] == role:', 'if turns and turns[-1]["role"] == "":',
           _FORMAT_TESTS),
    Mutant(49, "a cut stream looks like a complete answer", "wire/openai_chat.py",
           "        if not end_marker_seen and not self._has_finished:\n"
           "            raise InvokeServerUnavailableError(\n"
           '                "Upstream stream ended without a finish reason or [DONE]"\n'
           "            )\n", "", _CHAT_TESTS),
    Mutant(50, "a CR at the end of a chunk ends a line", "transport/sse.py",
           'tail = b"\\r" if buffer.endswith(b"\\r") else b""', 'tail = b""',
           ("tests/unit/transport/test_sse.py",)),
    Mutant(51, "a date in Retry-After is ignored", "base/provider_waits.py",
           "        moment = email.utils.parsedate_to_datetime(value).timestamp()\n",
           "        raise ValueError(value)\n", ("tests/unit/providers/test_http_errors.py",)),
    Mutant(52, "a price tier starts at its border", "models/pricing.py",
           "if prompt_tokens > tier.above]", "if prompt_tokens >= tier.above]",
           ("tests/unit/models/test_prices.py",)),
    Mutant(53, "a list that changes during a search is not seen", _RETRIEVE,
           "if document is None or not _is_readable(dataset, document, principals):",
           "if document is None:",
           ("tests/knowledge/test_stored.py::test_readers_set_during_query_rewriting_apply_to_its_hits",)),
    Mutant(54, "documents without a list are open", _FILTERS,
           "        if default in principals:\n", "        if principals:\n",
           ("tests/knowledge/test_document_filters.py::test_the_index_agrees_with_each_document_on_its_own",)),
    Mutant(55, "every key may name a user", "tenancy/caller.py",
           "        if not self.speaks_for_users:\n", "        if self.is_acting:\n",
           ("tests/gateway/test_access.py::test_only_trusted_keys_name_a_user",)),
    Mutant(56, "a run reads as its key after it was stored", "workflow/run_record.py",
           '    "reader",\n', "",
           ("tests/gateway/test_access.py::test_a_run_reads_as_whoever_started_it",)),
    Mutant(57, "an interrupted pass forgets what it has not listed", "knowledge/connectors/sync.py",
           "if key not in listed and key > start and (end is None or key <= end)",
           "if key not in listed",
           ("tests/knowledge/test_connectors.py::test_pages_that_cover_all_keys_delete_exactly_what_is_gone",)),
)  # fmt: skip


def copy_checkout(folder: Path) -> None:
    """Copy the sources, tests and pages of this checkout, in which changes can be
    tried."""
    shutil.copytree(ROOT, folder, ignore=_LEFT_OUT, dirs_exist_ok=True)


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the change of a mutant.

    Raises LookupError unless the text to replace occurs exactly once; otherwise the
    mutant would change an unintended part.
    """
    count = text.count(mutant.old)
    if count != 1:
        raise LookupError(
            f"mutant {mutant.number}: its text occurs {count} times in {mutant.file}"
        )
    return text.replace(mutant.old, mutant.new)


def survivors(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants that no test notices.

    Raises LookupError if the text to replace is missing or not unique, or if the tests
    fail without any mutant.
    """
    alive: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="modelyard-mutants-") as folder:
        copy = Path(folder) / "copy"
        copy_checkout(copy)
        # Without this check, tests that always fail would seem to kill every mutant.
        if failed_test := _first_failed_test(copy, _all_tests(mutants)):
            raise LookupError(f"{failed_test} fails without any mutant")
        for mutant in mutants:
            killer = _killer(copy, mutant)
            print(_report_line(mutant, killer), flush=True)
            if not killer:
                alive.append(mutant)
    return alive


def _report_line(mutant: Mutant, killer: str) -> str:
    """Return the line that says which test noticed a mutant, if any did."""
    verdict = "killed  " if killer else "SURVIVES"
    line = f"{verdict} {mutant.number:>2} {mutant.file}: {mutant.about}"
    return f"{line} ({killer.rpartition('::')[2]})" if killer else line


def _all_tests(mutants: Sequence[Mutant]) -> list[str]:
    """Return the tests of all mutants, each once."""
    return list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))


def _killer(copy: Path, mutant: Mutant) -> str:
    """Apply a mutant to the copy, run its tests, and return the first that fails; the
    empty string if none does."""
    file = copy / "src" / "modelyard" / mutant.file
    text = file.read_text("utf-8")
    _write_source(file, mutated(mutant, text))
    try:
        return _first_failed_test(copy, mutant.tests)
    finally:
        # Restore the file, because the next mutant uses the same copy.
        _write_source(file, text)


def _write_source(file: Path, text: str) -> None:
    """Write a source file and remove its bytecode: Python would take that for current
    if a change has the same size and second."""
    file.write_text(text, "utf-8")
    for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        bytecode.unlink()


def _first_failed_test(copy: Path, tests: Sequence[str]) -> str:
    """Run tests with the source of the copy and return the first that fails; the empty
    string if all pass. Tests that do not end count as failed.

    Raises LookupError if the tests cannot be collected: that is no test's merit.
    """
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    # PYTHONPATH puts the copy before the installed package.
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{copy / 'src'}:{copy}",
        "HOME": str(copy.parent),
    }
    try:
        completed = subprocess.run(
            command,
            cwd=copy,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "the tests did not end"
    if completed.returncode not in (0, pytest.ExitCode.TESTS_FAILED):
        raise LookupError(f"the tests cannot run:\n{completed.stdout[-2000:]}")
    failed = _FAILED.search(completed.stdout)
    return "" if completed.returncode == 0 else failed[1] if failed else "a test"


def table_by_file(mutants: Sequence[Mutant], alive: Sequence[Mutant]) -> str:
    """Return a table with the killed and all mutants of each file, and of all files."""
    totals = Counter(mutant.file for mutant in mutants)
    survived = Counter(mutant.file for mutant in alive)
    lines: list[str] = []
    for file, total in sorted(totals.items()):
        lines.append(f"{total - survived[file]:>3} of {total:>2}  {file}")
    killed = len(mutants) - len(alive)
    return "\n".join([*lines, f"{killed:>3} of {len(mutants):>2}  killed in all files"])


def main(numbers: Sequence[str]) -> int:
    """Run all mutants, or those with these numbers. Returns 0 if none survives, else 1."""
    selected = [
        mutant for mutant in MUTANTS if not numbers or str(mutant.number) in numbers
    ]
    alive = survivors(selected)
    print(table_by_file(selected, alive))
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
