"""Every recorded exchange, through the catalogue's provider and the gateway, in its own format and in the others."""

import asyncio
from collections import Counter, defaultdict

from tools.show.exchanges import exchanges
from tools.show.proof import Proof
from tools.show.replay import INGRESS, OWN, replay
from tools.show.truth import READERS


def prove() -> Proof:
    proof = Proof()
    every = exchanges()
    spoken = [one for one in every if one.format in READERS]
    others = Counter(one.why for one in every if not one.format)
    outcomes = asyncio.run(replay(spoken))
    passed: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for one in outcomes:
        cell = passed[one.exchange.provider, one.exchange.format, one.ingress]
        cell[0] += not one.found
        cell[1] += 1
    columns = (*INGRESS, *OWN)
    for provider, name in sorted({key[:2] for key in passed}):
        cells = [(column, passed.get((provider, name, column))) for column in columns]
        shown = "  ".join(f"{column} {good}/{all_}" for column, (good, all_) in ((c, v) for c, v in cells if v))
        proof.line(f"{provider}: {name}", shown, all(value[0] == value[1] for _, value in cells if value))
    for one in outcomes:
        if one.found:
            proof.line(f"{one.exchange.id} -> {one.ingress}", "; ".join(one.found), False)
    reasons = Counter(why for one in outcomes for why in set(one.excused))
    for why, count in reasons.most_common():
        proof.line("differs in the same format", f"{count}: {why}")
    same = [one for one in outcomes if one.ingress == one.exchange.format]
    cross = [one for one in outcomes if one.ingress != one.exchange.format]
    for why, count in others.most_common():
        proof.line("not a call that we speak", f"{count}: {why}")
    for one in every:
        if one.format.startswith(("embed:", "rerank:")):
            others["embeddings and rankings: tests/wire/test_recordings.py"] += 1
    proof.figures = {
        "recordings": len(every),
        "spoken": len(spoken),
        "same_format": [sum(not one.found for one in same), len(same)],
        "other_formats": [sum(not one.found for one in cross), len(cross)],
        "not_spoken": dict(others),
    }
    for what, those in (("same format", same), ("other formats", cross)):
        good = sum(not one.found for one in those)
        proof.line(what, f"{good} of {len(those)}", good == len(those))
    return proof
