"""The published table: what becomes of each feature between each pair of formats."""

import json
from collections.abc import Iterator
from pathlib import Path

from tools.lost_and_kept.answer_features import ANSWERS
from tools.lost_and_kept.formats import CALLERS, LABELS, TARGETS
from tools.lost_and_kept.matrix import GROUPS, answer_cells, request_cells
from tools.lost_and_kept.runner import World

PUBLISHED = Path(__file__).with_name("published.json")
Pair = dict[str, dict[str, str]]
"""Direction (`requests`, `answers`, `streams`) → feature → cell."""
Table = dict[str, dict[str, Pair]]
"""Caller's format → target → cells of the pair."""

_HEAD = """\
# What is lost and what is kept

What becomes of each feature of a call when the caller's format is not that of the model's vendor. Every cell is tested with a
real gateway and a stand-in of the vendor: `python -m tools.show lost-and-kept`. Written by `python -m tools.lost_and_kept`.

| word | |
|---|---|
| carried | it arrives in the place that the other format has for it |
| adapted | it arrives in another form, as a document that becomes a text |
| named | it is left out, and `x-modelyard-dropped` names it; with `x-modelyard-unsupported: refuse` the call is refused |
| refused | the call is refused before anything is sent, with a 400 in the caller's format |
| – | the caller's format, or the vendor's answers, do not have the feature |

A name in brackets is what the header says, also beside what is carried. For streamed answers, whose headers are sent before
anything is known, the names are in a comment of the stream (`: x-modelyard-dropped: audio`), and in Google's format in a field
of the last event with the same name.

The models are those that a vendor's format is best shown with: a model of OpenAI's that reasons, Claude Sonnet 4.5 (also on
Bedrock), Gemini 3 Pro, Command A Reasoning. What a single model refuses beyond that is named in the same way.

Not listed, because nothing depends on it: ids, times, fingerprints and names of models in answers, the name of a JSON schema.
Positions of citations are converted: characters in OpenAI's and Cohere's formats, bytes in Google's, whole blocks in
Anthropic's.
"""


def measured(world: World, caller: str, target: str) -> Pair:
    """Return the cells of a pair as they really are."""
    return {
        "requests": {
            feature.name: str(cell)
            for feature, cell in request_cells(world, caller, target)
        },
        "answers": {
            feature.name: str(cell)
            for feature, cell in answer_cells(world, caller, target, stream=False)
        },
        "streams": {
            feature.name: str(cell)
            for feature, cell in answer_cells(world, caller, target, stream=True)
        },
    }


def measured_table(world: World) -> Table:
    """Return the cells of all pairs."""
    return {
        caller: {target: measured(world, caller, target) for target in TARGETS}
        for caller in CALLERS
    }


def published() -> Table:
    """Return the table of the documentation."""
    return json.loads(PUBLISHED.read_text("utf-8"))


def page(table: Table) -> str:
    """Return the Markdown page of a table."""
    lines = [_HEAD]
    for caller in CALLERS:
        lines += [f"## Callers of {LABELS[caller]}", ""]
        for title, features in GROUPS.items():
            names = [feature.name for feature in features if caller in feature.requests]
            if names:
                lines += [f"### {title}", ""]
                lines += [*_rows(table[caller], "requests", names), ""]
        lines += ["### Answers", ""]
        lines += [*_answer_rows(table[caller], [each.name for each in ANSWERS]), ""]
    return "\n".join(lines)


def _header() -> Iterator[str]:
    yield f"| | {' | '.join(LABELS[target] for target in TARGETS)} |"
    yield "|---|" + "---|" * len(TARGETS)


def _rows(pairs: dict[str, Pair], direction: str, names: list[str]) -> Iterator[str]:
    """Yield the lines of a table with a row for each feature."""
    yield from _header()
    for name in names:
        cells = [pairs[target][direction].get(name, "–") for target in TARGETS]
        yield f"| {name} | {' | '.join(cells)} |"


def _answer_rows(pairs: dict[str, Pair], names: list[str]) -> Iterator[str]:
    """Yield the lines of the table of answers; what differs in a stream is told."""
    yield from _header()
    for name in names:
        cells: list[str] = []
        for target in TARGETS:
            whole = pairs[target]["answers"].get(name, "–")
            streamed = pairs[target]["streams"].get(name, "–")
            cells.append(
                whole if whole == streamed else f"{whole}; streamed {streamed}"
            )
        yield f"| {name} | {' | '.join(cells)} |"
