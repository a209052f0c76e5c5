"""Mutation tests: small wrong changes to the product, each of which some test must
notice.

python -m tools.mutants [NUMBER ...]

Each change is made in a copy of the checkout, in which the tests of its area run. A
change that all tests pass shows a behaviour without a test. The numbers are stable, so
that a test may name the mutant that it kills.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "node_modules", "__pycache__", ".*_cache", "console"
)
_UNIT = ("tests/unit/runtime",)


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
    tests: tuple[str, ...] = _UNIT


_BALANCING = "runtime/load_balancing.py"
_DISPATCH = "runtime/policies/dispatch.py"
_QUEUE = "runtime/fair_queue.py"
_LIMITS, _COUNTERS = "runtime/limits.py", "storage/counters.py"
_COUNTED = ("tests/unit/storage",)
MUTANTS = (
    Mutant(1, "weighted always picks the first", _BALANCING,
           "left = share * sum(", "left = 0.0 * share * sum("),
    Mutant(2, "a cooldown may last 2,500 seconds", _BALANCING,
           "_LONGEST_REST = 25.0", "_LONGEST_REST = 2500.0"),
    Mutant(3, "six failures begin a cooldown, not three", _BALANCING, "_FAILURES_BEFORE_COOLDOWN = 3", "_FAILURES_BEFORE_COOLDOWN = 6"),
    Mutant(4, "a whole group may be in cooldown", _BALANCING,
           "(others + 1) * 2 > len(group)", "(others + 1) > len(group)"),
    Mutant(5, "an answer ends a cooldown that still runs", _BALANCING,
           "is not None and rest.until <= now:\n                    del", "is not None:\n                    del"),
    Mutant(6, "latency forgets the calls in flight", _BALANCING,
           "self.health.latency(deployment) * (1 + self.health.in_flight(deployment))",
           "self.health.latency(deployment)"),
    Mutant(7, "a percentile is the minimum", _BALANCING,
           "ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]", "ordered[0]"),
    Mutant(8, "a cooldown shifts the turns of the others", _BALANCING, "                self._turn += step\n", ""),
    Mutant(9, "a long Retry-After is waited for", _DISPATCH, "_LONGEST_WAIT = 10.0", "_LONGEST_WAIT = 1000.0"),
    Mutant(10, "a stream of blank chunks is lost", _DISPATCH,
           "                for one in held:\n                    yield one\n                if not has_begun",
           "                if not has_begun"),
    Mutant(11, "a hedged try ends twice", _DISPATCH,
           "is_hedged=delay is not None, has_failed", "is_hedged=False, has_failed"),
    Mutant(12, "a bad request goes to other models too", _DISPATCH,
           "        if not error.failover:\n            raise error\n        if isinstance", "        if isinstance"),
    Mutant(13, "only one model may wait for a cooldown", _DISPATCH,
           "        self._repeats = 0\n        self._has_waited = False\n        source",
           "        self._repeats = 0\n        source"),
    Mutant(14, "hedging ignores the retry budget", _DISPATCH,
           "return chosen if self._policy.budget.may_repeat(self._invocation.tenant, chosen.provider) else None",
           "return chosen"),
    Mutant(15, "a failed call is charged to a hosted quota", _DISPATCH,
           "is_served = deployment is self.deployment and not has_failed", "is_served = True"),
    Mutant(16, "old calls count like new ones", "runtime/retry_budget.py",
           "left = max(0.0, 1.0 - (now - moment) / self._window)", "left = 1.0"),
    Mutant(17, "repeats are not counted", "runtime/retry_budget.py",
           "(calls, repeats + 1, now))", "(calls, repeats, now))"),
    Mutant(18, "who has many running goes before who has few", _QUEUE,
           "self._by_tenant.get(one, 0), self._last_turn", "self._last_turn"),
    Mutant(19, "a caller of low priority takes another's place", _QUEUE,
           "        if last.priority > priority:\n", "        if last.priority > priority + 1000:\n"),
    Mutant(20, "a turn is lost with the caller who no longer wants it", _QUEUE,
           "                self.leave(tenant)\n            else:\n", "                pass\n            else:\n"),
    Mutant(21, "a month begins with the one before", _LIMITS,
           "            return today.replace(day=1).timestamp()",
           "            return (today.replace(day=1) - timedelta(days=1)).replace(day=1).timestamp()"),
    Mutant(22, "a month of 31 days ends before it is over", _LIMITS, "timedelta(days=32)", "timedelta(days=30)"),
    Mutant(23, "days change at the server's midnight", _LIMITS,
           "moment = datetime.fromtimestamp(day * 86_400, UTC)", "moment = datetime.fromtimestamp(day * 86_400)"),
    Mutant(24, "an amount of nothing is no limit", _LIMITS, "if limit.amount >= 0", "if limit.amount > 0"),
    Mutant(25, "a sliding counter starts with all that was used", _LIMITS,
           "level = max(0.0, level - one.refill * max(0.0, at - then)) + _used_amount",
           "level = level + _used_amount"),
    Mutant(26, "a call that is over still counts as running", _LIMITS, ', "concurrency": 0.0}', "}"),
    Mutant(27, "a limit of five lets four through", _COUNTERS,
           "if used + charge.need > charge.cap", "if used + charge.need >= charge.cap", _COUNTED),
    Mutant(28, "a clock that goes back drains twice", _COUNTERS,
           "max(now, levels[charge.name].stamp))", "now)", _COUNTED),
    Mutant(29, "a clock that goes back adds to what is used", _COUNTERS,
           "level.used - refill * max(0.0, now - level.stamp)", "level.used - refill * (now - level.stamp)", _COUNTED),
)  # fmt: skip


def survivors(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants that no test notices.

    Raises LookupError if the text to replace is missing or not unique, or if the tests
    fail without any mutant.
    """
    alive: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="modelyard-mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        areas = {mutant.tests for mutant in mutants}
        # Without this check, tests that always fail would seem to kill every mutant.
        if not all(_tests_pass(copy, tests) for tests in areas):
            raise LookupError("the tests fail without any mutant")
        for mutant in mutants:
            is_noticed = _is_noticed(copy, mutant)
            print(
                f"{'killed  ' if is_noticed else 'SURVIVES'} {mutant.number:>2} {mutant.file}: {mutant.about}"
            )
            if not is_noticed:
                alive.append(mutant)
    return alive


def _is_noticed(copy: Path, mutant: Mutant) -> bool:
    """Apply a mutant to the copy, run its tests, and return whether they fail."""
    file = copy / "src" / "modelyard" / mutant.file
    text = file.read_text("utf-8")
    # The text must be unique, otherwise the mutant would change an unintended place.
    if text.count(mutant.old) != 1:
        raise LookupError(
            f"mutant {mutant.number}: its place stands {text.count(mutant.old)} times in {mutant.file}"
        )
    file.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    try:
        return not _tests_pass(copy, mutant.tests)
    finally:
        # Restore the file, because the next mutant uses the same copy.
        file.write_text(text, "utf-8")


def _tests_pass(copy: Path, tests: Sequence[str]) -> bool:
    """Return whether the tests pass with the source of the copy."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    # PYTHONPATH puts the copy before the installed package.
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{copy / 'src'}:{copy}",
        "HOME": str(copy.parent),
    }
    completed = subprocess.run(
        command,
        cwd=copy,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return completed.returncode == 0


def main(numbers: Sequence[str]) -> int:
    """Run all mutants, or those with these numbers. Returns 0 if none survives, else 1."""
    selected = [
        mutant for mutant in MUTANTS if not numbers or str(mutant.number) in numbers
    ]
    alive = survivors(selected)
    print(f"{len(selected) - len(alive)} of {len(selected)} killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
