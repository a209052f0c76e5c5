"""All cells: each feature between each pair of formats."""

from collections.abc import Iterator

from tools.lost_and_kept.answer_features import ANSWERS, AnswerFeature
from tools.lost_and_kept.features import Feature
from tools.lost_and_kept.formats import CALLERS, TARGETS
from tools.lost_and_kept.parameter_features import (
    ACCOUNT,
    CACHE,
    OUTPUT,
    SAMPLING,
    THINKING,
    TOOLS,
)
from tools.lost_and_kept.request_features import CONTENT, HISTORY
from tools.lost_and_kept.runner import Cell, World, answer_cell, request_cell

GROUPS: dict[str, tuple[Feature, ...]] = {
    "Content": CONTENT,
    "Earlier answers": HISTORY,
    "Sampling": SAMPLING,
    "Output": OUTPUT,
    "Thinking": THINKING,
    "Account and service": ACCOUNT,
    "Tools": TOOLS,
    "Cache marks": CACHE,
}
FEATURES = [feature for group in GROUPS.values() for feature in group]


def request_cells(
    world: World, caller: str, target: str
) -> Iterator[tuple[Feature, Cell]]:
    """Yield the cells of all features of requests between two formats."""
    for feature in FEATURES:
        if caller in feature.requests:
            yield feature, request_cell(world, feature, caller, target)


def all_request_cells(world: World) -> Iterator[tuple[Feature, str, str, Cell]]:
    """Yield all cells of requests: feature, caller, target and cell."""
    for caller in CALLERS:
        for target in TARGETS:
            for feature, cell in request_cells(world, caller, target):
                yield feature, caller, target, cell


def answer_cells(
    world: World, caller: str, target: str, *, stream: bool
) -> Iterator[tuple[AnswerFeature, Cell]]:
    """Yield the cells of all features of a target's answers to a caller."""
    for feature in ANSWERS:
        if target in feature.answers:
            yield feature, answer_cell(world, feature, caller, target, stream=stream)
