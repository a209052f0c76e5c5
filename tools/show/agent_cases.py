"""Test cases of agent behaviour: strategies, ways of splitting replies into chunks, and
failures.

The parser of ReAct replies is also fed a corpus of valid and broken replies, split at
every position.
"""

from collections import Counter

from tests.agents.running import CUTS, case_mismatches, cases
from tests.agents.test_react import CORPUS, read

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run all cases and splits and report the results."""
    proof = Proof()
    _check_cases(proof)
    _check_splits(proof)
    summary, ok = tests("tests/agents")
    proof.line("laws, approvals, restarts, agents that call agents", summary, ok)
    return proof


def _check_cases(proof: Proof) -> None:
    """Run every case with every way to split its stream, and report the failures and
    the passed ones by strategy."""
    outcomes: Counter[tuple[str, bool]] = Counter()
    for name, case in cases():
        strategy = case.get("strategy", "function_calling")
        for cut in CUTS:
            problems = case_mismatches(case, cut)
            outcomes[strategy, not problems] += 1
            if problems:
                proof.line(f"  {name} ({cut})", problems[0][:160], ok=False)
    for strategy in sorted({strategy for strategy, _ in outcomes}):
        passed, failed = outcomes[strategy, True], outcomes[strategy, False]
        proof.line(
            f"{strategy}: cases × {len(CUTS)} ways to split the stream",
            f"{passed} of {passed + failed}",
            failed == 0,
        )
    passed = sum(count for (_, has_passed), count in outcomes.items() if has_passed)
    proof.figures |= {"cases": outcomes.total(), "held": passed}


def _check_splits(proof: Proof) -> None:
    """Parse each ReAct reply with each split: it has to be parsed alike no matter at
    which position the stream splits it."""
    splits = different = 0
    for text, action, answer in CORPUS:
        # The last split is into single characters.
        for indexes in [*([index] for index in range(len(text))), [*range(len(text))]]:
            splits += 1
            different += read(text, indexes)[:2] != (action, answer)
    proof.line(
        "ReAct replies, each split at every position",
        f"{len(CORPUS)} replies, {splits:,} splits, {different} parsed differently",
        not different,
    )
    proof.figures |= {
        "replies": len(CORPUS),
        "cuts": splits,
        "read_otherwise": different,
    }
