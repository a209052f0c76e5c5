"""Replay every recorded exchange through its provider and the gateway, in its own
format and in the other formats."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

from tools.show.exchanges import Exchange, exchanges
from tools.show.proof import Proof
from tools.show.replay import INGRESS, OTHER_INGRESS, Outcome, replay
from tools.show.truth import READERS


def prove() -> Proof:
    """Replay all recordings and report the passed ones per provider, format and
    caller's format."""
    proof = Proof()
    recorded_exchanges = exchanges()
    supported = [
        exchange for exchange in recorded_exchanges if exchange.format in READERS
    ]
    outcomes = asyncio.run(replay(supported))
    _report_by_provider(proof, outcomes)
    _report_differences(proof, outcomes)
    unsupported = _report_unsupported(proof, recorded_exchanges)
    proof.figures = {
        "recordings": len(recorded_exchanges),
        "spoken": len(supported),
        "not_spoken": unsupported,
    }
    _report_totals(proof, outcomes)
    return proof


def _report_by_provider(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the passed replays of each provider and recorded format, one line with
    the caller's formats."""
    # Each cell has [passed, total] for one provider, recorded format and caller's
    # format.
    cells: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for outcome in outcomes:
        exchange = outcome.exchange
        cell = cells[exchange.provider, exchange.format, outcome.ingress]
        cell[0] += not outcome.found
        cell[1] += 1
    for provider, name in sorted({key[:2] for key in cells}):
        row = {
            column: cells[provider, name, column]
            for column in (*INGRESS, *OTHER_INGRESS)
            if (provider, name, column) in cells
        }
        summary = "  ".join(
            f"{column} {passed}/{total}" for column, (passed, total) in row.items()
        )
        is_complete = all(passed == total for passed, total in row.values())
        proof.line(f"{provider}: {name}", summary, is_complete)


def _report_differences(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the failed replays, then the accepted differences by their reason."""
    for outcome in outcomes:
        if outcome.found:
            label = f"{outcome.exchange.id} -> {outcome.ingress}"
            proof.line(label, "; ".join(outcome.found), False)
    # Accepted differences are counted by reason, so that a reason that is used too
    # often is visible.
    reasons = Counter(reason for outcome in outcomes for reason in set(outcome.excused))
    for reason, count in reasons.most_common():
        proof.line("differs in the same format", f"{count}: {reason}")


def _report_unsupported(
    proof: Proof, recorded_exchanges: Sequence[Exchange]
) -> dict[str, int]:
    """Report the recordings that are not replayed; return their number by reason."""
    reasons = Counter(
        exchange.why for exchange in recorded_exchanges if not exchange.format
    )
    for reason, count in reasons.most_common():
        proof.line("not a supported call", f"{count}: {reason}")
    # Embedding and rerank recordings are replayed by another test module; count them as
    # not covered here.
    replayed_elsewhere = sum(
        exchange.format.startswith(("embed:", "rerank:"))
        for exchange in recorded_exchanges
    )
    if replayed_elsewhere:
        reasons["embeddings and rankings: tests/wire/test_recordings.py"] += (
            replayed_elsewhere
        )
    return dict(reasons)


def _report_totals(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the passed replays in the recorded format, and in the other formats."""
    groups: dict[bool, list[Outcome]] = {True: [], False: []}
    for outcome in outcomes:
        groups[outcome.ingress == outcome.exchange.format].append(outcome)
    for is_same, group in groups.items():
        label = "same format" if is_same else "other formats"
        passed = sum(not outcome.found for outcome in group)
        proof.line(label, f"{passed} of {len(group)}", passed == len(group))
        proof.figures[label.replace(" ", "_")] = [passed, len(group)]
