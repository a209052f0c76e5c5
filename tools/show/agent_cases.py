"""A case a behaviour of agents: strategy, the way in which replies are cut, and what goes wrong; and the reader of ReAct
replies, fed a corpus of good and broken ones at every cut."""

from collections import Counter

from tests.agents.running import CUTS, cases, wrong
from tests.agents.test_react import CORPUS, read

from tools.show.proof import Proof, tests


def prove() -> Proof:
    proof = Proof()
    seen: Counter[str] = Counter()
    failed = 0
    for name, case in cases():
        strategy = case.get("strategy", "function_calling")
        for cut in CUTS:
            problems = wrong(case, cut)
            seen[strategy, not problems] += 1  # type: ignore[index]
            if problems:
                failed += 1
                proof.line(f"  {name} ({cut})", problems[0][:160], ok=False)
    for strategy in sorted({one for one, _ in seen}):  # type: ignore[misc]
        good, bad = seen[strategy, True], seen[strategy, False]  # type: ignore[index]
        proof.line(f"{strategy}: cases × {len(CUTS)} ways of cutting", f"{good} of {good + bad}", bad == 0)
    splits = different = 0
    for text, action, answer in CORPUS:
        for at in range(len(text) + 1):
            splits += 1
            got = read(text, [at] if at < len(text) else list(range(len(text))))
            different += got[:2] != (action, answer)
    proof.line(
        "ReAct replies, each cut at every place",
        f"{len(CORPUS)} replies, {splits:,} cuts, {different} read otherwise",
        not different,
    )
    said, ok = tests("tests/agents")
    proof.line("laws, approvals, restarts, agents that call agents", said, ok)
    total = sum(seen.values())
    proof.figures = {
        "cases": total,
        "held": total - failed,
        "replies": len(CORPUS),
        "cuts": splits,
        "read_otherwise": different,
    }
    return proof
