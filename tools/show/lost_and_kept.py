"""Every feature of requests and answers between every pair of formats: carried, adapted,
named or refused, and never lost silently; as the documentation says."""

from collections import Counter

from tools.lost_and_kept.formats import CALLERS, LABELS, TARGETS
from tools.lost_and_kept.page import Pair, measured, page, published
from tools.lost_and_kept.runner import LOST, world
from tools.reference import REFERENCE
from tools.show.proof import Proof


def _differences(pair: Pair, expected: Pair) -> list[str]:
    """Return the cells that are not as published."""
    return [
        f"{direction} {name}: {cell}, published {expected[direction].get(name)}"
        for direction, cells in pair.items()
        for name, cell in cells.items()
        if cell != expected[direction].get(name)
    ]


def _words(pair: Pair) -> Counter[str]:
    """Return how many cells of a pair say what."""
    return Counter(
        cell.split(" ")[0] for cells in pair.values() for cell in cells.values()
    )


def prove() -> Proof:
    """Measure every cell, and compare it with the published table."""
    proof = Proof()
    table = published()
    totals: Counter[str] = Counter()
    with world() as running:
        for caller in CALLERS:
            for target in TARGETS:
                pair = measured(running, caller, target)
                words = _words(pair)
                totals += words
                wrong = _differences(pair, table[caller][target])
                label = f"{LABELS[caller]} → {LABELS[target]}"
                told = ", ".join(f"{count} {word}" for word, count in words.items())
                is_good = not wrong and not words[LOST]
                proof.line(label, "; ".join([told, *wrong[:3]]), ok=is_good)
    stored = (REFERENCE / "lost-and-kept.md").read_text("utf-8")
    is_current = stored.rstrip() == page(table).rstrip()
    proof.line("page", "docs/reference/lost-and-kept.md is current", ok=is_current)
    proof.figures |= {"cells": totals.total(), **totals}
    return proof
