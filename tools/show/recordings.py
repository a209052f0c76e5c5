"""Replay every recorded exchange through its provider and the gateway: the answers in
every caller's format, the requests in their own; then corrupt every answer in each way
by itself, which must not pass."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tools.show.constructed import constructed
from tools.show.corruptions import (
    CORRUPTIONS,
    REPLY_CORRUPTIONS,
    aims_at,
    corrupted,
)
from tools.show.exchanges import Exchange, exchanges
from tools.show.proof import Proof
from tools.show.reader import FORMATS
from tools.show.reader.compare import ADDED, NOT_SAYABLE
from tools.show.replay import INGRESS, OTHER_INGRESS, Outcome, Reply, compare, replay
from tools.show.sent_requests import (
    ADAPTED,
    SPELLINGS,
    Sent,
    send_recorded,
    summary,
    with_request,
)

# Of each kind of answer, corrupted per corruption; more of the same kind show nothing
# new.
_PER_CELL = 2
Cell = tuple[str, str, str, bool]
"""Corruption, recorded format, caller's format, whether it is a stream."""


@dataclass
class Corrupted:
    """What the corrupted answers showed."""

    red: Counter[str] = field(default_factory=Counter[str])
    cells: dict[Cell, int] = field(default_factory=dict[Cell, int])
    missed: list[str] = field(default_factory=list[str])
    """Corrupted answers that passed."""

    def add(
        self, exchange: Exchange, ingress: str, reply: Reply, base: Outcome
    ) -> None:
        """Corrupt one answer, which passed as it was, in every way that it can be."""
        is_stream = exchange.is_stream
        for name, kinds, spoilt in corrupted(ingress, reply, is_stream=is_stream):
            cell = (name, exchange.format, ingress, is_stream)
            count = self.cells.get(cell, 0)
            if count >= _PER_CELL or not aims_at(kinds, base.compared):
                continue
            self.cells[cell] = count + 1
            if compare(exchange, ingress, spoilt).problems:
                self.red[name] += 1
            else:
                self.missed.append(f"{name}: {exchange.id} -> {ingress}")

    @property
    def unseen(self) -> list[str]:
        """Corruptions that no answer has anything for."""
        names = [corruption.name for corruption in CORRUPTIONS]
        names += [name for name, _, _ in REPLY_CORRUPTIONS]
        return [name for name in names if not self.red[name]]


def prove() -> Proof:
    """Replay all recordings and report the passed ones per provider, format and
    caller's format; then the requests, and the corruptions."""
    proof = Proof()
    recorded_exchanges = exchanges()
    supported = [
        exchange for exchange in recorded_exchanges if exchange.format in FORMATS
    ]
    spoilt = Corrupted()
    outcomes = asyncio.run(outcomes_of(supported, spoilt))
    _report_by_provider(proof, outcomes)
    _report_differences(proof, outcomes)
    unsupported = _report_unsupported(proof, recorded_exchanges)
    proof.figures = {
        "recordings": len(recorded_exchanges),
        "spoken": len(supported),
        "not_spoken": unsupported,
    }
    _report_totals(proof, outcomes)
    built = asyncio.run(outcomes_of(constructed(), spoilt))
    _report_constructed(proof, built)
    _report_requests(proof, asyncio.run(send_recorded(with_request(supported))))
    _report_tables(proof, [*outcomes, *built])
    _report_corruptions(proof, spoilt)
    return proof


async def outcomes_of(
    supported: Sequence[Exchange], spoilt: Corrupted | None = None
) -> list[Outcome]:
    """Return the outcome of each recording in each caller's format. Answers that pass
    are corrupted, if `spoilt` is given."""
    outcomes: list[Outcome] = []
    async for exchange, ingress, reply in replay(supported):
        outcome = compare(exchange, ingress, reply)
        outcomes.append(outcome)
        if spoilt is not None and not outcome.problems:
            spoilt.add(exchange, ingress, reply, outcome)
    return outcomes


def _report_by_provider(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the passed replays of each provider and recorded format, one line with
    the caller's formats."""
    # Each cell has [passed, total] for one provider, recorded format and caller's
    # format.
    cells: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for outcome in outcomes:
        exchange = outcome.exchange
        cell = cells[exchange.provider, exchange.format, outcome.ingress]
        cell[0] += not outcome.problems
        cell[1] += 1
    for provider, name in sorted({key[:2] for key in cells}):
        row = {
            column: cells[provider, name, column]
            for column in (*INGRESS, *OTHER_INGRESS)
            if (provider, name, column) in cells
        }
        text = "  ".join(
            f"{column} {passed}/{total}" for column, (passed, total) in row.items()
        )
        is_complete = all(passed == total for passed, total in row.values())
        proof.line(f"{provider}: {name}", text, is_complete)


def _report_differences(proof: Proof, outcomes: Iterable[Outcome]) -> None:
    """Report the failed replays."""
    for outcome in outcomes:
        if outcome.problems:
            label = f"{outcome.exchange.id} -> {outcome.ingress}"
            proof.line(label, "; ".join(outcome.problems)[:400], False)


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
        passed = sum(not outcome.problems for outcome in group)
        proof.line(label, f"{passed} of {len(group)}", passed == len(group))
        proof.figures[label.replace(" ", "_")] = [passed, len(group)]


def _report_constructed(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the answers that were constructed for facts that no recording has."""
    passed = sum(not outcome.problems for outcome in outcomes)
    label = "constructed answers, for facts that no recording has"
    proof.line(label, f"{passed} of {len(outcomes)}", passed == len(outcomes))
    _report_differences(proof, outcomes)
    proof.figures["constructed"] = [passed, len(outcomes)]


def _report_requests(proof: Proof, outcomes: Sequence[Sent]) -> None:
    """Report the recorded requests that arrived as they were sent."""
    for name, total, passed, refused in summary(outcomes):
        text = f"{passed} of {total} arrived whole, {refused} of them refused"
        proof.line(f"requests: {name}", text, passed == total)
    for sent in outcomes:
        if sent.problems:
            label = f"{sent.exchange.id} -> provider"
            proof.line(label, "; ".join(sent.problems)[:400], False)
    reasons = Counter(reason for sent in outcomes for reason in set(sent.excused))
    reasons.update(f"refused: {sent.refused}" for sent in outcomes if sent.refused)
    for reason, count in reasons.most_common():
        proof.line("differs in a request", f"{count}: {reason}")
    passed = sum(not sent.problems for sent in outcomes)
    proof.figures["requests"] = [passed, len(outcomes)]


def _report_tables(proof: Proof, outcomes: Sequence[Outcome]) -> None:
    """Report the tables of accepted differences: their sizes, and how often each line
    was used."""
    sizes = {
        "not_sayable": len(NOT_SAYABLE),
        "added": len(ADDED),
        "spellings": len(SPELLINGS),
        "adapted": len(ADAPTED),
    }
    for name, size in sizes.items():
        proof.line(f"lines in the table `{name}`", size)
    proof.figures |= sizes
    reasons = Counter(reason for outcome in outcomes for reason in set(outcome.excused))
    for reason, count in reasons.most_common():
        proof.line("an accepted difference", f"{count}: {reason}")


def _report_corruptions(proof: Proof, spoilt: Corrupted) -> None:
    """Report for each corruption how many corrupted answers were noticed."""
    kinds_by_cell = Counter(name for name, _, _, _ in spoilt.cells)
    for name, count in sorted(spoilt.red.items()):
        text = f"noticed in {count} answers of {kinds_by_cell[name]} kinds"
        proof.line(f"corrupted: {name}", text, True)
    for missed in spoilt.missed:
        proof.line("corrupted and not noticed", missed, False)
    for name in spoilt.unseen:
        proof.line("nothing to corrupt", name, False)
    proof.figures["corruptions"] = len(spoilt.red)
    proof.figures["corrupted_answers"] = spoilt.red.total()
    proof.figures["unnoticed"] = len(spoilt.missed)
