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
    outcomes: Counter[str] = Counter()
    failed = 0
    for name, case in cases():
        strategy = case.get("strategy", "function_calling")
        for cut in CUTS:
            problems = case_mismatches(case, cut)
            outcomes[strategy, not problems] += 1  # type: ignore[index]
            if problems:
                failed += 1
                proof.line(f"  {name} ({cut})", problems[0][:160], ok=False)
    for strategy in sorted({strategy_name for strategy_name, _ in outcomes}):  # type: ignore[misc]
        passed, failed_cases = outcomes[strategy, True], outcomes[strategy, False]  # type: ignore[index]
        proof.line(
            f"{strategy}: cases × {len(CUTS)} ways of cutting",
            f"{passed} of {passed + failed_cases}",
            failed_cases == 0,
        )
    # A reply has to be parsed alike no matter at which position the stream splits it.
    splits = different = 0
    for text, action, answer in CORPUS:
        for index in range(len(text) + 1):
            splits += 1
            # The last round splits the reply into single characters.
            parsed = read(
                text, [index] if index < len(text) else list(range(len(text)))
            )
            different += parsed[:2] != (action, answer)
    proof.line(
        "ReAct replies, each cut at every place",
        f"{len(CORPUS)} replies, {splits:,} cuts, {different} read otherwise",
        not different,
    )
    summary, ok = tests("tests/agents")
    proof.line("laws, approvals, restarts, agents that call agents", summary, ok)
    total = sum(outcomes.values())
    proof.figures = {
        "cases": total,
        "held": total - failed,
        "replies": len(CORPUS),
        "cuts": splits,
        "read_otherwise": different,
    }
    return proof
