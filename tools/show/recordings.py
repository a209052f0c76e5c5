"""Replay every recorded exchange through its provider and the gateway, in its own
format and in the other formats."""

import asyncio
from collections import Counter, defaultdict

from tools.show.exchanges import exchanges
from tools.show.proof import Proof
from tools.show.replay import INGRESS, OTHER_INGRESS, replay
from tools.show.truth import READERS


def prove() -> Proof:
    """Replay all recordings and report the passed ones per provider, format and
    caller's format."""
    proof = Proof()
    recorded_exchanges = exchanges()
    supported = [
        exchange for exchange in recorded_exchanges if exchange.format in READERS
    ]
    unsupported_reasons = Counter(
        exchange.why for exchange in recorded_exchanges if not exchange.format
    )
    outcomes = asyncio.run(replay(supported))
    # Each cell counts [passed, total] for one provider, recorded format and caller's
    # format.
    passed: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for recording in outcomes:
        cell = passed[
            recording.exchange.provider, recording.exchange.format, recording.ingress
        ]
        cell[0] += not recording.found
        cell[1] += 1
    columns = (*INGRESS, *OTHER_INGRESS)
    for provider, name in sorted({key[:2] for key in passed}):
        cells = [(column, passed.get((provider, name, column))) for column in columns]
        summary = "  ".join(
            f"{column} {passed_count}/{total}"
            for column, (passed_count, total) in ((c, v) for c, v in cells if v)
        )
        proof.line(
            f"{provider}: {name}",
            summary,
            all(value[0] == value[1] for _, value in cells if value),
        )
    for recording in outcomes:
        if recording.found:
            proof.line(
                f"{recording.exchange.id} -> {recording.ingress}",
                "; ".join(recording.found),
                False,
            )
    # Accepted differences are counted by reason, so that a reason that is used too
    # often is visible.
    reasons = Counter(reason for outcome in outcomes for reason in set(outcome.excused))
    for reason, count in reasons.most_common():
        proof.line("differs in the same format", f"{count}: {reason}")
    same_format = [
        outcome for outcome in outcomes if outcome.ingress == outcome.exchange.format
    ]
    cross = [
        outcome for outcome in outcomes if outcome.ingress != outcome.exchange.format
    ]
    for reason, count in unsupported_reasons.most_common():
        proof.line("not a call that we speak", f"{count}: {reason}")
    # Embedding and rerank recordings are replayed by another test module; count them as
    # not covered here.
    for recording in recorded_exchanges:
        if recording.format.startswith(("embed:", "rerank:")):
            unsupported_reasons[
                "embeddings and rankings: tests/wire/test_recordings.py"
            ] += 1
    proof.figures = {
        "recordings": len(recorded_exchanges),
        "spoken": len(supported),
        "same_format": [
            sum(not outcome.found for outcome in same_format),
            len(same_format),
        ],
        "other_formats": [sum(not outcome.found for outcome in cross), len(cross)],
        "not_spoken": dict(unsupported_reasons),
    }
    for label, group in (("same format", same_format), ("other formats", cross)):
        passed_count = sum(not outcome.found for outcome in group)
        proof.line(label, f"{passed_count} of {len(group)}", passed_count == len(group))
    return proof
